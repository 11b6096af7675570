"""The rendezvous store: TCPStore's semantics, waits that end, and incarnations that are over for good."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from myriarch.errors import UsageError, WireError
from myriarch.event.events import HeldShard
from myriarch.wire import store as store_module
from myriarch.wire.frames import Channel
from myriarch.wire.shards import ByteServer
from myriarch.wire.store import KeyValueStore, StoreClient, connect
from myriarch.wire.transfer import ShardHost

TOKEN = "token"
Eventually = Callable[[Callable[[], bool]], None]


class NoShards:
    """A host that has none and takes none."""

    def holds(self, shard: HeldShard) -> bool:
        return False

    def reading(self, shard: HeldShard) -> None:
        raise UsageError("there are no shards here")

    receiving = reading


def no_shards() -> ShardHost:
    host: ShardHost = NoShards()  # type: ignore[assignment]
    return host


@pytest.fixture
def store() -> KeyValueStore:
    return KeyValueStore()


@pytest.fixture
def server(store: KeyValueStore) -> Iterator[ByteServer]:
    with ByteServer("127.0.0.1", TOKEN, store, no_shards()) as server:
        yield server


@pytest.fixture
def client(server: ByteServer) -> Iterator[StoreClient]:
    client = StoreClient("127.0.0.1", server.port, TOKEN, "g/1/", timeout_s=20)
    yield client
    client.close()


class Waiter:
    """Runs something in a thread and keeps what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.result: object = None
        self.error: Exception | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except (WireError, TimeoutError) as error:
            self.error = error

    def join(self) -> Waiter:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self

    @property
    def waiting(self) -> bool:
        return self._thread.is_alive()


# --- the store itself ------------------------------------------------------------------------------------------------


def test_a_get_waits_for_its_key(store: KeyValueStore) -> None:
    waiter = Waiter(lambda: store.get("a", timeout_s=20))
    store.set("b", b"other")
    store.set("a", b"value")
    assert waiter.join().result == b"value"


def test_a_wait_has_an_end(store: KeyValueStore) -> None:
    store.set("a", b"")
    with pytest.raises(TimeoutError, match=r"key `b` did not come within 0.01 s"):
        store.wait(["a", "b"], timeout_s=0.01)


def test_a_dropped_prefix_wakes_those_who_wait_and_is_over_for_good(store: KeyValueStore) -> None:
    waiters = [
        Waiter(lambda: store.get("g/1/x", timeout_s=20)),
        Waiter(lambda: store.wait(["g/1/a", "g/1/sub/y"], timeout_s=20)),
    ]
    store.set("g/1/a", b"1")
    store.set("g/11/a", b"2")
    assert store.drop_prefix("g/1/") == 1
    for waiter in waiters:
        assert "belongs to an older incarnation" in str(waiter.join().error)
    operations: list[Callable[[], object]] = [
        lambda: store.set("g/1/a", b""),
        lambda: store.get("g/1/a", timeout_s=0),
        lambda: store.add("g/1/n", 1),
        lambda: store.append("g/1/a", b""),
        lambda: store.check(["g/1/a"]),
        lambda: store.delete("g/1/a"),
        lambda: store.compare_set("g/1/a", b"", b"x"),
        lambda: store.multi_set(["g/2/ok", "g/1/a"], [b"", b""]),
    ]
    for operation in operations:
        with pytest.raises(WireError, match="`g/1/` was ended"):
            operation()
    assert store.num_keys("g/1/") == 0
    assert store.num_keys() == 1, "g/11/ is another incarnation, and a refused multi_set sets nothing"


def test_a_prefix_without_its_end_is_refused(store: KeyValueStore) -> None:
    for prefix in ("g/1", ""):
        with pytest.raises(UsageError, match="does not end with `/`"):
            store.drop_prefix(prefix)


def test_closing_wakes_everybody(store: KeyValueStore) -> None:
    waiter = Waiter(lambda: store.get("a", timeout_s=20))
    store.close()
    assert "is shutting down" in str(waiter.join().error)
    with pytest.raises(WireError, match="is closed"):
        store.set("a", b"")


def test_limits_are_named(store: KeyValueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "VALUE_LIMIT_BYTES", 10)
    monkeypatch.setattr(store_module, "KEYS_LIMIT", 2)
    with pytest.raises(WireError, match="a value of 11 bytes"):
        store.set("a", bytes(11))
    with pytest.raises(WireError, match="a key may have 4096 bytes"):
        store.set("k" * 4097, b"")
    store.set("a", bytes(6))
    with pytest.raises(WireError, match="a value of 12 bytes"):
        store.append("a", bytes(6))
    store.set("b", b"")
    with pytest.raises(WireError, match="the store is full: 2 keys"):
        store.set("c", b"")
    store.set("b", b"again")


def test_numbers(store: KeyValueStore) -> None:
    assert [store.add("n", 3), store.add("n", -5), store.add("m", 0)] == [3, -2, 0]
    assert store.get("n", timeout_s=0) == b"-2"
    store.set("text", b"abc")
    with pytest.raises(WireError, match="holds b'abc', which is no number"):
        store.add("text", 1)


def test_many_adders_lose_nothing(store: KeyValueStore) -> None:
    adders = [Waiter(lambda: [store.add("n", 1) for _ in range(200)]) for _ in range(5)]
    for adder in adders:
        adder.join()
    assert store.add("n", 0) == 1000


# --- against a model -------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c", "d/e"])
VALUES = st.binary(max_size=4) | st.integers(-9, 99).map(lambda number: b"%d" % number)


class StoreMachine(RuleBasedStateMachine):
    """The store over the wire, and a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ByteServer("127.0.0.1", TOKEN, KeyValueStore(), no_shards())
        self.server.start()
        self.clients = [StoreClient("127.0.0.1", self.server.port, TOKEN, "g/1/") for _ in range(2)]
        self.clients.append(self.clients[0].clone())
        self.model: dict[str, bytes] = {}
        self.turn = 0

    @property
    def client(self) -> StoreClient:
        self.turn += 1
        return self.clients[self.turn % len(self.clients)]

    @rule(key=KEYS, value=VALUES)
    def set(self, key: str, value: bytes) -> None:
        self.client.set(key, value)
        self.model[key] = value

    @rule(keys=st.lists(KEYS, max_size=3), value=VALUES)
    def multi_set(self, keys: list[str], value: bytes) -> None:
        self.client.multi_set(keys, [value] * len(keys))
        self.model.update(dict.fromkeys(keys, value))

    @rule(key=KEYS, value=VALUES)
    def append(self, key: str, value: bytes) -> None:
        self.client.append(key, value)
        self.model[key] = self.model.get(key, b"") + value

    @rule(keys=st.lists(KEYS, max_size=3))
    def get(self, keys: list[str]) -> None:
        if all(key in self.model for key in keys):
            assert self.client.multi_get(keys) == [self.model[key] for key in keys]
        else:
            with pytest.raises(TimeoutError):
                self.client.multi_get(keys, timeout_s=0)

    @rule(keys=st.lists(KEYS, max_size=3))
    def check(self, keys: list[str]) -> None:
        assert self.client.check(keys) == all(key in self.model for key in keys)

    @rule(key=KEYS, amount=st.integers(-50, 50))
    def add(self, key: str, amount: int) -> None:
        try:
            total = int(self.model.get(key, b"0")) + amount
        except ValueError:
            with pytest.raises(WireError, match="no number"):
                self.client.add(key, amount)
        else:
            assert self.client.add(key, amount) == total
            self.model[key] = b"%d" % total

    @rule(key=KEYS, expected=VALUES, desired=VALUES)
    def compare_set(self, key: str, expected: bytes, desired: bytes) -> None:
        now = self.model.get(key)
        if now == expected or (now is None and not expected):
            self.model[key] = desired
            assert self.client.compare_set(key, expected, desired) == desired
        else:
            assert self.client.compare_set(key, expected, desired) == (expected if now is None else now)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.client.delete(key) == (self.model.pop(key, None) is not None)

    @rule()
    def count(self) -> None:
        assert self.client.num_keys() == len(self.model)

    def teardown(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


# --- over the wire ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_leaks")
def test_clients_meet(server: ByteServer, client: StoreClient) -> None:
    other = client.clone()
    waiter = Waiter(lambda: other.get("rank-0"))
    client.set("rank-0", b"here")
    assert waiter.join().result == b"here"
    other.close()


def test_prefixes_keep_incarnations_apart(server: ByteServer, client: StoreClient, store: KeyValueStore) -> None:
    client.set("a", b"1")
    later = StoreClient("127.0.0.1", server.port, TOKEN, "g/2/")
    assert not later.check(["a"])
    assert store.get("g/1/a", timeout_s=0) == b"1"
    later.close()


def test_a_waiting_client_learns_that_its_incarnation_is_over(
    server: ByteServer, client: StoreClient, store: KeyValueStore
) -> None:
    waiter = Waiter(lambda: client.get("never"))
    store.set("g/1/other", b"")
    store.drop_prefix("g/1/")
    assert "older incarnation" in str(waiter.join().error)
    with pytest.raises(WireError, match="older incarnation"):
        client.set("a", b"")


def test_a_waiting_client_learns_that_the_server_closed(server: ByteServer, client: StoreClient) -> None:
    client.set("a", b"")
    waiter = Waiter(lambda: client.get("never"))
    server.close()
    assert isinstance(waiter.join().error, WireError)
    with pytest.raises(WireError):
        client.set("a", b"")


def test_closing_a_client_ends_its_wait(server: ByteServer, client: StoreClient) -> None:
    client.set("a", b"")
    waiter = Waiter(lambda: client.get("never"))
    client.close()
    assert isinstance(waiter.join().error, WireError)
    with pytest.raises(WireError, match="is closed"):
        client.set("a", b"")


def test_a_client_that_dies_while_it_waits_gives_its_place_back(
    server: ByteServer, store: KeyValueStore, eventually: Eventually
) -> None:
    threads = threading.active_count()
    channel: Channel[store_module.StoreReply] = Channel(
        connect("127.0.0.1", server.port, TOKEN), decode_type=store_module.StoreReply
    )
    channel.send(store_module.Get(keys=("never",), timeout_s=3000.0))
    eventually(lambda: threading.active_count() == threads + 1)
    channel.close()
    eventually(lambda: threading.active_count() == threads)


def test_a_refused_operation_leaves_the_client_usable(client: StoreClient) -> None:
    client.set("text", b"abc")
    with pytest.raises(WireError, match="no number"):
        client.add("text", 1)
    with pytest.raises(TimeoutError):
        client.wait(["never"], timeout_s=0.01)
    assert client.get("text") == b"abc"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    client = StoreClient("127.0.0.1", port, TOKEN, "g/1/")
    with pytest.raises(WireError, match=f"cannot connect to 127.0.0.1:{port}: Connection refused"):
        client.set("a", b"")
