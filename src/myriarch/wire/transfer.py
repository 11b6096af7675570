"""How a shard's bytes cross a connection: an offer in a frame, then the bare payload, straight from memory to memory.

The receiver verifies each block as it arrives, while it is in the cache, against the hashes of the offer. What "verify"
and "memory" mean is the host's: this package knows neither slots nor hashes, only these protocols, which
`arena.NodeMemory` fulfils.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from myriarch.errors import WireError
from myriarch.event.events import HeldShard
from myriarch.wire.frames import FrameSocket
from myriarch.wire.worker import Message

STALL_LIMIT_S: Final = 10.0
"""A peer that moves nothing for so long is cut off."""
BLOCK_LIMIT_S: Final = 30.0
"""A block that takes longer than this: below some 9 kB/s a peer holds a slot and helps nobody."""
SEND_CHUNK_BYTES: Final = 4 * 1024 * 1024


class ReadableShard(Protocol):
    """A sealed shard that stays as it is while it is read."""

    @property
    def layout_hash(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def index(self) -> bytes: ...
    @property
    def index_room_bytes(self) -> int: ...
    @property
    def block_hashes(self) -> Sequence[int]: ...
    @property
    def payload(self) -> memoryview: ...


class WritableShard(Protocol):
    """A place for a shard that is on its way. Nothing is visible before `publish`."""

    @property
    def payload(self) -> memoryview: ...
    @property
    def block_bytes(self) -> int: ...

    def check_block(self, number: int) -> None:
        """Raises IntegrityError when the block that lies there now is not the promised one."""

    def publish(self) -> HeldShard: ...


class ShardHost(Protocol):
    """What the byte server needs from a node's memory. Called from several threads."""

    def holds(self, shard: HeldShard) -> bool:
        """Whether these very bytes are here already."""
        ...

    def reading(self, shard: HeldShard) -> AbstractContextManager[ReadableShard]:
        """Raises UsageError if it is not here."""
        ...

    def receiving(
        self,
        shard: HeldShard,
        *,
        layout_hash: str,
        digest: str,
        index: bytes,
        index_room_bytes: int,
        block_hashes: Sequence[int],
    ) -> AbstractContextManager[WritableShard]:
        """Raises IntegrityError, EnvironmentFault, UsageError: see `NodeMemory.receiving`."""
        ...


class ShardOffer(Message, frozen=True, kw_only=True):
    """A shard and all that is needed to check its bytes, which follow when the other side wants them."""

    shard: HeldShard
    layout_hash: str
    digest: str
    index: bytes
    index_room_bytes: int
    """As in the slot that it comes from: what is fetched for a worker is a slot of that worker's own layout."""
    block_hashes: tuple[int, ...]


class PushShard(Message, frozen=True, kw_only=True):
    """Take a copy of this shard. Answered with `Send` and, after the payload, `Stored`; or with `Stored` at once."""

    offer: ShardOffer


class FetchShard(Message, frozen=True, kw_only=True):
    """Give me this shard. Answered with `ShardOffer` and the payload."""

    shard: HeldShard


class Send(Message, frozen=True, kw_only=True):
    """Go on with the payload."""


class Stored(Message, frozen=True, kw_only=True):
    """Complete, verified, published."""

    shard: HeldShard


class Refused(Message, frozen=True, kw_only=True):
    """Not done, and why. The connection ends after it when payload bytes may be under way."""

    error: str
    integrity: bool = False


def make_offer(shard: HeldShard, source: ReadableShard) -> ShardOffer:
    """Raises IntegrityError if the source's index or block table is damaged."""
    return ShardOffer(
        shard=shard,
        layout_hash=source.layout_hash,
        digest=source.digest,
        index=source.index,
        index_room_bytes=source.index_room_bytes,
        block_hashes=tuple(source.block_hashes),
    )


# Views of shared memory are released at once, also when an error passes through: an error that somebody keeps would
# otherwise keep the mapping.


def send_payload(frames: FrameSocket, payload: memoryview) -> None:
    """All bytes, straight from where they lie. Raises WireError when the peer is gone or stalls."""
    sent = 0
    while sent < len(payload):
        with payload[sent : sent + SEND_CHUNK_BYTES] as part:
            sent += _send_part(frames, part)


def _send_part(frames: FrameSocket, part: memoryview) -> int:
    while True:
        try:
            return frames.sock.send(part, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            if not _ready(frames.sock, select.POLLOUT):
                raise WireError(f"{frames.peer} took no bytes for {STALL_LIMIT_S:g} s") from None
        except OSError as error:
            raise WireError(f"{frames.peer} broke off the transfer: {error.strerror or error}") from error


def receive_payload(frames: FrameSocket, target: WritableShard) -> None:
    """All bytes, straight to where they shall lie, each block checked on arrival.

    Raises WireError when the peer is gone, stalls or is too slow; IntegrityError for a block that is not as promised.
    """
    payload = target.payload
    for number, start in enumerate(range(0, len(payload), target.block_bytes)):
        end = min(start + target.block_bytes, len(payload))
        until = time.monotonic() + BLOCK_LIMIT_S
        while start < end:
            with payload[start:end] as rest:
                start += _receive_part(frames, rest)
            if start < end and time.monotonic() > until:
                raise WireError(f"{frames.peer} needs more than {BLOCK_LIMIT_S:g} s for one block")
        target.check_block(number)


def _receive_part(frames: FrameSocket, rest: memoryview) -> int:
    while True:
        try:
            count = frames.sock.recv_into(rest, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not _ready(frames.sock, select.POLLIN):
                raise WireError(f"{frames.peer} sent no bytes for {STALL_LIMIT_S:g} s") from None
        except OSError as error:
            raise WireError(f"{frames.peer} broke off the transfer: {error.strerror or error}") from error
        else:
            if count == 0:
                raise WireError(f"{frames.peer} closed the connection in the middle of a shard")
            return count


def _ready(sock: socket.socket, events: int) -> bool:
    poller = select.poll()
    poller.register(sock, events)
    return bool(poller.poll(STALL_LIMIT_S * 1000))
