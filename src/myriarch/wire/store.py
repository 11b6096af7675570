"""The rendezvous store: a small key-value store in an agent, so that it outlives any worker.

Keys are `<group>/<incarnation>/...`. `drop_prefix` ends an incarnation: its keys are gone, whoever waits for one is
woken with an error, and nothing can be written under it again: a fenced worker publishes nothing. The semantics of the
operations are those of PyTorch's `TCPStore`, so that a worker can put a `torch.distributed.Store` over `StoreClient`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from myriarch.errors import UsageError, WireError
from myriarch.wire.auth import authenticate_client
from myriarch.wire.frames import Channel, FrameSocket
from myriarch.wire.worker import Message

KEY_LIMIT_BYTES: Final = 4096
VALUE_LIMIT_BYTES: Final = 16 * 1024 * 1024
KEYS_LIMIT: Final = 1_000_000
DROPPED_PREFIXES_LIMIT: Final = 10_000
"""Remembered for refusing late writers; the oldest are forgotten first."""
WAIT_LIMIT_S: Final = 3600.0
"""No wait is longer, whatever the client asks."""
CONNECT_TIMEOUT_S: Final = 10.0
REPLY_GRACE_S: Final = 10.0
"""How much later than a wait's own end its answer may come before the server counts as gone."""


class KeyValueStore:
    """Thread-safe. Waits end with TimeoutError when their time is up, with WireError when their prefix is dropped."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self._put(key, value)
            self._changed.notify_all()

    def multi_set(self, keys: Sequence[str], values: Sequence[bytes]) -> None:
        """All at once, or, if one is refused, none."""
        if len(keys) != len(values):
            raise WireError(f"{len(keys)} keys and {len(values)} values: the numbers must be equal")
        with self._changed:
            for key, value in zip(keys, values, strict=True):
                self._check_put(key, value)
            for key, value in zip(keys, values, strict=True):
                self._put(key, value)
            self._changed.notify_all()

    def append(self, key: str, value: bytes) -> None:
        """Add to the end of the value; an absent key counts as empty."""
        with self._changed:
            self._put(key, self._values.get(key, b"") + value)
            self._changed.notify_all()

    def add(self, key: str, amount: int) -> int:
        """Add to a decimal number; an absent key counts as 0. Returns the sum."""
        with self._changed:
            self._check_open(key)
            old = self._values.get(key, b"0")
            try:
                total = int(old) + amount
            except ValueError as error:
                raise WireError(f"key `{key}` holds {old[:40]!r}, which is no number to add to") from error
            self._put(key, b"%d" % total)
            self._changed.notify_all()
            return total

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        """Set to `desired` if the value is `expected`, or if there is none and `expected` is empty.

        Returns what the key holds afterwards; `expected` for an absent key that was not set.
        """
        with self._changed:
            self._check_open(key)
            now = self._values.get(key)
            if now == expected or (now is None and not expected):
                self._put(key, desired)
                self._changed.notify_all()
                return desired
            return expected if now is None else now

    def get(self, key: str, *, timeout_s: float, gone: Callable[[], bool] | None = None) -> bytes:
        """The value, waiting for it."""
        return self.multi_get([key], timeout_s=timeout_s, gone=gone)[0]

    def multi_get(
        self, keys: Sequence[str], *, timeout_s: float, gone: Callable[[], bool] | None = None
    ) -> list[bytes]:
        """The values at one instant, waiting until all are there."""
        with self._changed:
            self._await(keys, timeout_s, gone)
            return [self._values[key] for key in keys]

    def wait(self, keys: Sequence[str], *, timeout_s: float, gone: Callable[[], bool] | None = None) -> None:
        """Until all keys are there. `gone` is asked now and then whether anybody still waits."""
        with self._changed:
            self._await(keys, timeout_s, gone)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys are there now."""
        with self._changed:
            for key in keys:
                self._check_open(key)
            return all(key in self._values for key in keys)

    def delete(self, key: str) -> bool:
        """Whether there was one."""
        with self._changed:
            self._check_open(key)
            return self._values.pop(key, None) is not None

    def num_keys(self, prefix: str = "") -> int:
        with self._changed:
            return sum(key.startswith(prefix) for key in self._values)

    def drop_prefix(self, prefix: str) -> int:
        """End everything under `prefix`, which ends with `/`, for good. Returns how many keys there were."""
        if not prefix.endswith("/"):
            raise UsageError(f"prefix `{prefix}` does not end with `/`; it would drop its neighbours too")
        with self._changed:
            keys = [key for key in self._values if key.startswith(prefix)]
            for key in keys:
                del self._values[key]
            self._dropped[prefix] = None
            while len(self._dropped) > DROPPED_PREFIXES_LIMIT:
                self._dropped.popitem(last=False)
            self._changed.notify_all()
            return len(keys)

    def close(self) -> None:
        """Wake all who wait; refuse everything from now on."""
        with self._changed:
            self._closed = True
            self._values.clear()
            self._changed.notify_all()

    def _await(self, keys: Sequence[str], timeout_s: float, gone: Callable[[], bool] | None) -> None:
        until = time.monotonic() + min(timeout_s, WAIT_LIMIT_S)
        while True:
            for key in keys:
                self._check_open(key)
            missing = next((key for key in keys if key not in self._values), None)
            if missing is None:
                return
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"key `{missing}` did not come within {timeout_s:g} s")
            self._changed.wait(left_s if gone is None else min(left_s, _GONE_CHECK_S))
            if gone is not None and gone():
                raise WireError("the client that waited is gone")

    def _check_open(self, key: str) -> None:
        if self._closed:
            raise WireError("the store is closed: its agent is shutting down")
        end = key.find("/")
        while end >= 0:
            if key[: end + 1] in self._dropped:
                raise WireError(f"`{key[: end + 1]}` was ended: this worker belongs to an older incarnation")
            end = key.find("/", end + 1)

    def _check_put(self, key: str, value: bytes) -> None:
        self._check_open(key)
        if len(key.encode()) > KEY_LIMIT_BYTES or len(value) > VALUE_LIMIT_BYTES:
            raise WireError(
                f"key `{key[:80]}` with a value of {len(value)} bytes; a key may have {KEY_LIMIT_BYTES} bytes, "
                f"a value {VALUE_LIMIT_BYTES}"
            )
        if key not in self._values and len(self._values) >= KEYS_LIMIT:
            raise WireError(f"the store is full: {KEYS_LIMIT} keys")

    def _put(self, key: str, value: bytes) -> None:
        self._check_put(key, value)
        self._values[key] = value


_GONE_CHECK_S: Final = 0.5


# --- requests --------------------------------------------------------------------------------------------------------


class Set(Message, frozen=True, kw_only=True):
    keys: tuple[str, ...]
    values: tuple[bytes, ...]


class Get(Message, frozen=True, kw_only=True):
    keys: tuple[str, ...]
    timeout_s: float


class Wait(Message, frozen=True, kw_only=True):
    keys: tuple[str, ...]
    timeout_s: float


class Check(Message, frozen=True, kw_only=True):
    keys: tuple[str, ...]


class Add(Message, frozen=True, kw_only=True):
    key: str
    amount: int


class Append(Message, frozen=True, kw_only=True):
    key: str
    value: bytes


class CompareSet(Message, frozen=True, kw_only=True):
    key: str
    expected: bytes
    desired: bytes


class Delete(Message, frozen=True, kw_only=True):
    key: str


class CountKeys(Message, frozen=True, kw_only=True):
    prefix: str


class StoreReply(Message, frozen=True, kw_only=True):
    """The answer to every store request; what it means is the request's."""

    values: tuple[bytes, ...] = ()
    number: int = 0


class StoreRefusal(Message, frozen=True, kw_only=True):
    error: str
    timed_out: bool = False


StoreRequest = Set | Get | Wait | Check | Add | Append | CompareSet | Delete | CountKeys


def answer(
    store: KeyValueStore, request: StoreRequest, *, gone: Callable[[], bool] | None = None
) -> StoreReply | StoreRefusal:
    """Do what a request asks. `gone` says whether the client has left, which ends a wait."""
    try:
        return _answer(store, request, gone)
    except TimeoutError as error:
        return StoreRefusal(error=str(error), timed_out=True)
    except WireError as error:
        return StoreRefusal(error=str(error))


def _answer(store: KeyValueStore, request: StoreRequest, gone: Callable[[], bool] | None) -> StoreReply:
    match request:
        case Set(keys=keys, values=values):
            store.multi_set(keys, values)
            return StoreReply()
        case Get(keys=keys, timeout_s=timeout_s):
            return StoreReply(values=tuple(store.multi_get(keys, timeout_s=timeout_s, gone=gone)))
        case Wait(keys=keys, timeout_s=timeout_s):
            store.wait(keys, timeout_s=timeout_s, gone=gone)
            return StoreReply()
        case Check(keys=keys):
            return StoreReply(number=int(store.check(keys)))
        case Add(key=key, amount=amount):
            return StoreReply(number=store.add(key, amount))
        case Append(key=key, value=value):
            store.append(key, value)
            return StoreReply()
        case CompareSet(key=key, expected=expected, desired=desired):
            return StoreReply(values=(store.compare_set(key, expected, desired),))
        case Delete(key=key):
            return StoreReply(number=int(store.delete(key)))
        case CountKeys(prefix=prefix):
            return StoreReply(number=store.num_keys(prefix))


# --- the client ------------------------------------------------------------------------------------------------------


class StoreClient:
    """The same operations from another process, under a prefix of its own.

    One connection, made by the first operation; operations of several threads take turns on it, so a thread that waits
    long should have a `clone`. After a WireError the client is closed.
    """

    def __init__(self, address: str, port: int, token: str, prefix: str, *, timeout_s: float = 60.0) -> None:
        self.address = address
        self.port = port
        self.prefix = prefix
        self.timeout_s = timeout_s
        """For waits that do not name their own."""
        self._token = token
        self._lock = threading.Lock()
        self._channel: Channel[StoreReply | StoreRefusal] | None = None
        self._closed = False

    def clone(self) -> StoreClient:
        """Another client of the same store with a connection of its own."""
        return StoreClient(self.address, self.port, self._token, self.prefix, timeout_s=self.timeout_s)

    def set(self, key: str, value: bytes) -> None:
        self.multi_set([key], [value])

    def multi_set(self, keys: Sequence[str], values: Sequence[bytes]) -> None:
        self._ask(Set(keys=self._names(keys), values=tuple(values)))

    def get(self, key: str, *, timeout_s: float | None = None) -> bytes:
        """The value, waiting for it. Raises TimeoutError."""
        return self.multi_get([key], timeout_s=timeout_s)[0]

    def multi_get(self, keys: Sequence[str], *, timeout_s: float | None = None) -> list[bytes]:
        wait_s = self._wait_s(timeout_s)
        return list(self._ask(Get(keys=self._names(keys), timeout_s=wait_s), wait_s).values)

    def wait(self, keys: Sequence[str], *, timeout_s: float | None = None) -> None:
        """Until all keys are there. Raises TimeoutError."""
        wait_s = self._wait_s(timeout_s)
        self._ask(Wait(keys=self._names(keys), timeout_s=wait_s), wait_s)

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self._ask(Check(keys=self._names(keys))).number)

    def add(self, key: str, amount: int) -> int:
        return self._ask(Add(key=self.prefix + key, amount=amount)).number

    def append(self, key: str, value: bytes) -> None:
        self._ask(Append(key=self.prefix + key, value=value))

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        return self._ask(CompareSet(key=self.prefix + key, expected=expected, desired=desired)).values[0]

    def delete(self, key: str) -> bool:
        return bool(self._ask(Delete(key=self.prefix + key)).number)

    def num_keys(self) -> int:
        return self._ask(CountKeys(prefix=self.prefix)).number

    def close(self) -> None:
        """Ends an operation that another thread waits in, with WireError."""
        self._closed = True
        channel = self._channel
        if channel is not None:
            channel.frames.shutdown()
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def _names(self, keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.prefix + key for key in keys)

    def _wait_s(self, timeout_s: float | None) -> float:
        return min(self.timeout_s if timeout_s is None else timeout_s, WAIT_LIMIT_S)

    def _ask(self, request: StoreRequest, wait_s: float = 0.0) -> StoreReply:
        with self._lock:
            try:
                if self._closed:
                    raise WireError(f"the store client of {self.address}:{self.port} is closed")
                if self._channel is None:
                    self._channel = Channel(
                        connect(self.address, self.port, self._token), decode_type=StoreReply | StoreRefusal
                    )
                self._channel.send(request)
                reply = self._channel.receive(timeout_s=wait_s + REPLY_GRACE_S)
            except WireError:
                self._closed = True
                if self._channel is not None:
                    self._channel.close()
                    self._channel = None
                raise
        if reply is None:
            raise WireError(f"the store at {self.address}:{self.port} closed the connection")
        if isinstance(reply, StoreRefusal):
            raise TimeoutError(reply.error) if reply.timed_out else WireError(reply.error)
        return reply


def connect(address: str, port: int, token: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> FrameSocket:
    """A connection to an agent's byte server, both sides proven. Raises WireError, AuthenticationError."""
    try:
        sock: Any = socket.create_connection((address, port), timeout=timeout_s)
    except OSError as error:
        raise WireError(f"cannot connect to {address}:{port}: {error.strerror or error}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    frames = FrameSocket(sock, peer=f"{address}:{port}")
    try:
        authenticate_client(frames, token)
    except BaseException:
        frames.close()
        raise
    return frames
