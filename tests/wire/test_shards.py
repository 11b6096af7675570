"""The byte server: shards go across whole and verified or not at all, and no stranger stops it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from myriarch.arena.copier import SpanCopier
from myriarch.arena.memory import NodeMemory
from myriarch.arena.slot import BLOCK_BYTES, Slot
from myriarch.errors import (
    AuthenticationError,
    EnvironmentFault,
    IntegrityError,
    MyriarchError,
    UsageError,
    WireError,
)
from myriarch.event.events import HeldShard
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.wire import transfer
from myriarch.wire.frames import Channel, FrameSocket
from myriarch.wire.shards import ByteServer, fetch_shard, push_shard
from myriarch.wire.store import KeyValueStore, StoreClient, connect
from myriarch.wire.transfer import PushShard, Refused, Send, ShardOffer, Stored, make_offer

TOKEN = "token"
HOST = "127.0.0.1"
SIZES = [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 17, 9 << 20]
Eventually = Callable[[Callable[[], bool]], None]


class Node:
    """One node's memory and byte server."""

    def __init__(self, directory: Path) -> None:
        self.memory = NodeMemory(directory, "run")
        self.received: list[HeldShard] = []
        self.errors: list[MyriarchError] = []
        self.server = ByteServer(
            HOST,
            TOKEN,
            KeyValueStore(),
            self.memory,
            on_received=self.received.append,
            on_error=lambda peer, error: self.errors.append(error),
        )

    @property
    def port(self) -> int:
        return self.server.port

    def snapshot(self, content: bytes, *, step: int = 1, committed: bool = False) -> HeldShard:
        """A shard of this node's own worker."""
        pair = self.memory.ensure(
            GroupId("g"), Rank(0), world_size=1, role="own", layout_hash="l", payload_bytes=len(content), index_bytes=64
        )
        source = np.frombuffer(content, dtype=np.uint8)
        with Slot.open(pair.paths[0 if pair.committed != 0 else 1], writable=True) as slot:
            slot.begin(step=Step(step), incarnation=Incarnation(1), index=b"the index")
            copier = SpanCopier([(0, int(source.ctypes.data), len(content))], len(content))
            slot.seal(copier.copy_into(slot), digest="d1gest")
        if committed:
            self.memory.commit(Step(step))
        return next(shard for shard in self.memory.held() if shard.step == step)

    def content_of(self, shard: HeldShard) -> bytes:
        with self.memory.reading(shard) as slot:
            slot.verify()
            assert slot.index == b"the index"
            assert slot.digest == "d1gest"
            assert slot.layout_hash == "l"
            return bytes(slot.payload)


@pytest.fixture
def nodes(folder: Path, no_leaks: None) -> Iterator[tuple[Node, Node]]:
    a, b = Node(folder / "a"), Node(folder / "b")
    with a.server, b.server:
        yield a, b
    for node in (a, b):
        node.memory.check()
        node.memory.close()
    assert list(folder.iterdir()) == []


def push(a: Node, shard: HeldShard, b: Node) -> HeldShard:
    with a.memory.reading(shard) as slot:
        return push_shard(HOST, b.port, TOKEN, shard, slot)


# --- pushing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_pushed_shard_arrives_whole(nodes: tuple[Node, Node], size_bytes: int) -> None:
    a, b = nodes
    content = np.random.default_rng(1).bytes(size_bytes)
    shard = a.snapshot(content)
    copy = push(a, shard, b)
    assert copy == msgspec.structs.replace(shard, role="copy")
    assert b.received == [copy]
    assert b.memory.held() == (copy,)
    assert b.content_of(copy) == content
    b.memory.commit(Step(1), Incarnation(1))
    assert b.memory.held()[0].committed


def test_pushing_again_is_harmless_and_moves_nothing(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    shard = a.snapshot(b"x" * 1000)
    first = push(a, shard, b)
    assert push(a, shard, b) == first
    assert b.received == [first]
    assert b.errors == []


def test_snapshot_after_snapshot(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    for step in range(1, 5):
        content = bytes([step]) * (BLOCK_BYTES + step)
        content = content[: BLOCK_BYTES + 1]
        copy = push(a, a.snapshot(content, step=step), b)
        for node in nodes:
            node.memory.commit(Step(step), Incarnation(1))
        assert b.content_of(copy) == content
    assert [shard.step for shard in b.memory.held()] == [4]


def test_a_receiver_without_room_says_why(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    b.memory.limit_bytes = 100_000
    shard = a.snapshot(b"x" * 100_000)
    with pytest.raises(WireError, match=r"refused: two slots for g/0 \(copy\) take"):
        push(a, shard, b)
    assert b.memory.held() == ()
    assert b.received == []
    assert b.errors == [], "no room is no offence of the peer"


@pytest.mark.parametrize("blocks", [3, 150])
def test_a_source_that_went_bad_is_found_by_the_receiver(
    nodes: tuple[Node, Node], eventually: Eventually, blocks: int
) -> None:
    """With many blocks the sender is still sending when it is told why it should not."""
    a, b = nodes
    shard = a.snapshot(b"x" * (blocks * BLOCK_BYTES))
    with a.memory.reading(shard) as slot:
        slot.payload[BLOCK_BYTES + 7] ^= 4
    with pytest.raises(IntegrityError, match=f"block 1 of {blocks} of shard g/0 at step 1 arrived with"):
        push(a, shard, b)
    assert b.memory.held() == ()
    assert b.received == []
    eventually(lambda: [type(error) for error in b.errors] == [IntegrityError])


def test_a_source_with_a_bad_index_or_table_is_not_sent(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    shard = a.snapshot(b"x" * 100)
    with a.memory.reading(shard) as slot, slot.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"!")
    with pytest.raises(IntegrityError, match="the index does not match its hash"):
        push(a, shard, b)
    assert b.memory.held() == ()


class LyingSource:
    """Offers one thing, sends another."""

    def __init__(self, slot: Slot, *, payload: bytes, hashes: Sequence[int] | None = None) -> None:
        self.layout_hash = slot.layout_hash
        self.digest = slot.digest
        self.index = slot.index
        self.index_room_bytes = slot.index_room_bytes
        self.block_hashes = slot.block_hashes if hashes is None else hashes
        self._payload = payload

    @property
    def payload(self) -> memoryview:
        return memoryview(self._payload)


def test_hashes_that_are_not_the_shards_are_refused(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    shard = a.snapshot(b"x" * 100)
    with (
        a.memory.reading(shard) as slot,
        pytest.raises(IntegrityError, match="the block table of shard g/0 at step 1 does not match its root"),
    ):
        push_shard(HOST, b.port, TOKEN, shard, LyingSource(slot, payload=b"x" * 100, hashes=[1]))
    assert b.memory.used_bytes == 0


def test_a_sender_that_stops_half_way_leaves_nothing(nodes: tuple[Node, Node], eventually: Eventually) -> None:
    a, b = nodes
    content = b"x" * (2 * BLOCK_BYTES)
    shard = a.snapshot(content)
    for part in (0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES - 1):
        b.errors.clear()
        with a.memory.reading(shard) as slot, connect(HOST, b.port, TOKEN) as frames:
            channel: Channel[Send] = Channel(frames, decode_type=Send)
            channel.send(PushShard(offer=make_offer(shard, slot)))
            assert channel.receive(timeout_s=20) == Send()
            frames.sock.sendall(content[:part])
        eventually(lambda: len(b.errors) == 1)
        assert "closed the connection in the middle of a shard" in b.errors[0].message
        assert b.memory.held() == ()
    copy = push(a, shard, b)
    assert b.content_of(copy) == content


def test_a_stalled_sender_is_cut_off(
    nodes: tuple[Node, Node], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STALL_LIMIT_S", 0.05)
    a, b = nodes
    shard = a.snapshot(b"x" * 100)
    with a.memory.reading(shard) as slot, connect(HOST, b.port, TOKEN) as frames:
        Channel[Send](frames, decode_type=Send).send(PushShard(offer=make_offer(shard, slot)))
        eventually(lambda: len(b.errors) == 1)
    assert "sent no bytes for 0.05 s" in b.errors[0].message


def test_a_trickling_sender_is_cut_off(
    nodes: tuple[Node, Node], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BLOCK_LIMIT_S", 0.0)
    a, b = nodes
    shard = a.snapshot(b"x" * 100)
    with a.memory.reading(shard) as slot, connect(HOST, b.port, TOKEN) as frames:
        channel: Channel[Send] = Channel(frames, decode_type=Send)
        channel.send(PushShard(offer=make_offer(shard, slot)))
        assert channel.receive(timeout_s=20) == Send()
        frames.sock.sendall(b"x")
        eventually(lambda: len(b.errors) == 1)
    assert "needs more than 0 s for one block" in b.errors[0].message


def test_a_receiver_that_dies_half_way_is_an_error(nodes: tuple[Node, Node]) -> None:
    a, _ = nodes
    shard = a.snapshot(b"x" * (64 << 20))
    with socket.create_server((HOST, 0)) as listener:

        def die() -> None:
            from myriarch.wire.auth import authenticate_server

            sock, _ = listener.accept()
            with FrameSocket(sock) as frames:
                authenticate_server(frames, TOKEN)
                channel: Channel[PushShard] = Channel(frames, decode_type=PushShard)
                channel.receive(timeout_s=20)
                channel.send(Send())
                sock.recv(1000)

        thread = threading.Thread(target=die)
        thread.start()
        with a.memory.reading(shard) as slot, pytest.raises(WireError, match="broke off the transfer"):
            push_shard(HOST, listener.getsockname()[1], TOKEN, shard, slot)
        thread.join(20)


def test_many_pushes_at_once(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    shards = []
    for rank in range(6):
        content = np.random.default_rng(rank).bytes(BLOCK_BYTES + rank)
        pair = a.memory.ensure(
            GroupId("g"),
            Rank(rank),
            world_size=6,
            role="own",
            layout_hash="l",
            payload_bytes=len(content),
            index_bytes=64,
        )
        with Slot.open(pair.paths[0], writable=True) as slot:
            slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"the index")
            source = np.frombuffer(content, dtype=np.uint8)
            copier = SpanCopier([(0, int(source.ctypes.data), len(content))], len(content))
            slot.seal(copier.copy_into(slot), digest="d1gest")
            shards.append((slot.held(), content))
    threads = [threading.Thread(target=push, args=(a, shard, b)) for shard, _ in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(b.received) == 6
    for shard, content in shards:
        assert b.content_of(msgspec.structs.replace(shard, role="copy")) == content


# --- fetching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("committed", [False, True])
def test_a_fetched_shard_arrives_whole(nodes: tuple[Node, Node], size_bytes: int, committed: bool) -> None:
    a, b = nodes
    content = np.random.default_rng(1).bytes(size_bytes)
    shard = a.snapshot(content, committed=committed)
    held = fetch_shard(HOST, a.port, TOKEN, shard, b.memory)
    assert held == shard
    assert b.memory.held() == (shard,)
    assert b.content_of(held) == content
    assert b.received == [], "who fetches knows"


def test_a_restore_from_a_copy_becomes_the_workers_own(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    copy = push(a, a.snapshot(b"x" * 100, committed=True), b)
    b.memory.commit(Step(1))
    a.memory.forget()
    (copy,) = b.memory.held()
    fetched = fetch_shard(HOST, b.port, TOKEN, copy, a.memory, role="own")
    assert (fetched.role, fetched.committed) == ("own", True)
    pair = a.memory.ensure(
        GroupId("g"), Rank(0), world_size=1, role="own", layout_hash="l", payload_bytes=100, index_bytes=64
    )
    assert pair.committed == 0


def test_fetching_what_is_not_there(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    shard = a.snapshot(b"x" * 100)
    for missing in (
        msgspec.structs.replace(shard, step=Step(2)),
        msgspec.structs.replace(shard, root="0" * 32),
        msgspec.structs.replace(shard, incarnation=Incarnation(9)),
    ):
        with pytest.raises(WireError, match="is not in this node's memory"):
            fetch_shard(HOST, a.port, TOKEN, missing, b.memory)
    assert b.memory.used_bytes == 0
    assert a.errors == []


def test_fetching_from_a_damaged_source(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    shard = a.snapshot(b"x" * (2 * BLOCK_BYTES))
    with a.memory.reading(shard) as slot:
        slot.payload[5] ^= 1
    with pytest.raises(IntegrityError, match="block 0 of 2"):
        fetch_shard(HOST, a.port, TOKEN, shard, b.memory)
    assert b.memory.held() == ()


def test_many_fetches_of_one_shard(nodes: tuple[Node, Node], folder: Path) -> None:
    a, _ = nodes
    content = np.random.default_rng(1).bytes(2 * BLOCK_BYTES + 1)
    shard = a.snapshot(content, committed=True)
    memories = [NodeMemory(folder / f"reader-{number}", "run") for number in range(5)]
    threads = [threading.Thread(target=fetch_shard, args=(HOST, a.port, TOKEN, shard, memory)) for memory in memories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for memory in memories:
        with memory.reading(shard) as slot:
            slot.verify()
            assert bytes(slot.payload) == content
        memory.close()


def test_a_slot_that_is_served_is_not_released_under_its_reader(nodes: tuple[Node, Node]) -> None:
    """The payload is larger than the socket buffers: the server is in the middle of it when the commit comes."""
    a, _ = nodes
    content = np.random.default_rng(1).bytes(32 << 20)
    shard = a.snapshot(content, committed=True)
    with connect(HOST, a.port, TOKEN) as frames:
        channel: Channel[ShardOffer] = Channel(frames, decode_type=ShardOffer)
        channel.send(transfer.FetchShard(shard=shard))
        offer = channel.receive(timeout_s=20)
        assert offer is not None
        a.snapshot(b"y" * len(content), step=2, committed=True)
        assert [held.step for held in a.memory.held()] == [2]
        received = bytearray(len(content))
        view = memoryview(received)
        while view:
            view = view[frames.sock.recv_into(view) :]
        assert received == content


# --- strangers and limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 300, b"\x10\0\0\0\0\0\0\0" + bytes(16), b"\x05\0\0\0"],
    ids=["nothing", "http", "oversized", "wrong checksum", "cut"],
)
def test_garbage_is_disconnected_and_named(nodes: tuple[Node, Node], eventually: Eventually, garbage: bytes) -> None:
    a, b = nodes
    with socket.create_connection((HOST, b.port)) as stranger:
        stranger.sendall(garbage)
        stranger.settimeout(10)
        with suppress(ConnectionError, OSError):  # it may have hung up already
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    eventually(lambda: len(b.errors) == 1)
    assert isinstance(b.errors[0], AuthenticationError)
    assert push(a, a.snapshot(b"x" * 100), b), "the server goes on"


def test_a_wrong_token_is_named_on_both_sides(nodes: tuple[Node, Node], eventually: Eventually) -> None:
    a, b = nodes
    shard = a.snapshot(b"x" * 100)
    with a.memory.reading(shard) as slot, pytest.raises(AuthenticationError, match="its token differs"):
        push_shard(HOST, b.port, "another run's", shard, slot)
    eventually(lambda: len(b.errors) == 1)
    assert "does not hold this run's token" in b.errors[0].message
    assert b.memory.used_bytes == 0


def test_garbage_after_the_handshake(nodes: tuple[Node, Node], eventually: Eventually) -> None:
    _, b = nodes
    for body in (b"", b"\xc1", msgspec.msgpack.encode({"message": "Unknown"})):
        b.errors.clear()
        with connect(HOST, b.port, TOKEN) as frames:
            frames.send(body)
            assert frames.recv(timeout_s=10) is None
        eventually(lambda: len(b.errors) == 1)
        assert "not of this protocol" in b.errors[0].message


def test_a_half_open_connection_holds_nobody_up(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    with socket.create_connection((HOST, b.port)), connect(HOST, b.port, TOKEN):
        assert push(a, a.snapshot(b"x" * 100), b)


def test_places_are_limited_and_come_back(folder: Path, eventually: Eventually, no_leaks: None) -> None:
    errors: list[MyriarchError] = []
    memory = NodeMemory(folder / "n", "run")
    server = ByteServer(
        HOST, TOKEN, KeyValueStore(), memory, connections_limit=2, on_error=lambda peer, error: errors.append(error)
    )
    with server, memory:
        first, second = connect(HOST, server.port, TOKEN), connect(HOST, server.port, TOKEN)
        with pytest.raises(AuthenticationError, match="it has no place left, or is shutting down"):
            connect(HOST, server.port, TOKEN)
        assert [error.message for error in errors] == ["all places of the byte server are taken"]
        first.close()
        second.close()

        def again() -> bool:
            try:
                connect(HOST, server.port, TOKEN).close()
            except AuthenticationError:
                return False
            return True

        eventually(again)


def test_an_error_inside_the_host_ends_one_connection_only(
    folder: Path, eventually: Eventually, no_leaks: None
) -> None:
    class BrokenHost:
        def holds(self, shard: HeldShard) -> bool:
            raise ZeroDivisionError("a defect")

        def reading(self, shard: HeldShard) -> AbstractContextManager[Slot]:
            raise ZeroDivisionError("a defect")

        def receiving(self, shard: HeldShard, **_: object) -> AbstractContextManager[transfer.WritableShard]:
            raise ZeroDivisionError("a defect")

    errors: list[MyriarchError] = []
    node = Node(folder / "n")
    shard = node.snapshot(b"x" * 10)
    server = ByteServer(HOST, TOKEN, KeyValueStore(), BrokenHost(), on_error=lambda peer, error: errors.append(error))
    with server:
        with pytest.raises(WireError), node.memory.reading(shard) as slot:
            push_shard(HOST, server.port, TOKEN, shard, slot)
        with pytest.raises(WireError):
            fetch_shard(HOST, server.port, TOKEN, shard, node.memory)
        eventually(lambda: len(errors) == 2)
        assert "the request failed on this side: ZeroDivisionError: a defect" in errors[0].message
        client = StoreClient(HOST, server.port, TOKEN, "g/1/")
        assert client.add("n", 1) == 1
        client.close()
    node.memory.close()


def test_closing_ends_transfers_under_way(folder: Path, no_leaks: None) -> None:
    node = Node(folder / "n")
    shard = node.snapshot(bytes(32 << 20))
    node.server.start()
    frames = connect(HOST, node.port, TOKEN)
    channel: Channel[ShardOffer] = Channel(frames, decode_type=ShardOffer)
    channel.send(transfer.FetchShard(shard=shard))
    assert channel.receive(timeout_s=20) is not None
    node.server.close()
    node.server.close()
    node.memory.close()
    frames.close()
    assert node.errors == []


def test_only_loopback_unless_it_is_meant(folder: Path) -> None:
    memory = NodeMemory(folder / "n", "run")
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
        with pytest.raises(UsageError, match="pass allow_remote"):
            ByteServer(host, TOKEN, KeyValueStore(), memory)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        ByteServer(host, TOKEN, KeyValueStore(), memory)
    ByteServer("0.0.0.0", TOKEN, KeyValueStore(), memory, allow_remote=True)


def test_a_port_in_use_is_named(folder: Path, no_leaks: None) -> None:
    memory = NodeMemory(folder / "n", "run")
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        server = ByteServer(HOST, TOKEN, KeyValueStore(), memory, port=port)
        with pytest.raises(EnvironmentFault, match=f"cannot listen on {HOST}:{port}: Address already in use"):
            server.start()
    with pytest.raises(UsageError, match="was not started"):
        _ = server.port


def test_two_nodes_of_one_machine_have_addresses_of_their_own(folder: Path, no_leaks: None) -> None:
    memory = NodeMemory(folder / "n", "run")
    first = ByteServer("127.0.0.2", TOKEN, KeyValueStore(), memory)
    with first, ByteServer("127.0.0.3", TOKEN, KeyValueStore(), memory, port=first.port) as second:
        assert first.port == second.port
        connect("127.0.0.3", second.port, TOKEN).close()


def test_it_all_works_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import myriarch.wire.shards, myriarch.wire.store, myriarch.arena.memory, myriarch.arena.copier, "
        "myriarch.arena.beacon; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_refusal_is_typed() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Refused(error="x")), type=Refused | Stored) == Refused(
        error="x"
    )
