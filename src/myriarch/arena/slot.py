"""One snapshot shard in shared memory: a file that a reader can trust or refuse, and never half-trust.

    offset 0        header page, 4 KiB
                      0     magic, format version, length of the header
                      16    header, MessagePack, zero-padded
                      4080  xxh3-64 of bytes 0 to 4080
                      4088  state word
    4096            index: what lies where in the payload (MessagePack, written by the checkpoint adapter)
    page boundary   block table: xxh3-64 of each 256 KiB block of the payload, little-endian
    page boundary   payload

State machine, one aligned 8-byte word that is written last:

    EMPTY -> FILLING -> SEALED -> REPLICATED -> COMMITTED
      ^         ^__________|__________|            |
      |____________________________________________|  release()

*Seal, then publish.* `begin` writes FILLING before it touches anything else, so a process killed anywhere in the copy
leaves a slot that nobody reads. The words of SEALED and above are hashes over the header's checksum; the header holds
the root of the block table and the hash of the index. So the state word vouches for every byte of the slot: a flipped
bit, a header of another seal or a stale word match no state at all.

The order of the stores is what x86 (total store order) gives plain stores. Elsewhere a reader on another core might
see the word early; it then reads bytes that do not match their hashes and refuses them: late, never wrong.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np
import xxhash

from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.base import Value
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.units import format_bytes

MAGIC: Final = b"MYRISLOT"
FORMAT_VERSION: Final = 1
PAGE_BYTES: Final = 4096
BLOCK_BYTES: Final = 256 * 1024
"""Small enough to be hashed while still in the L2 cache, large enough that Python's cost per block is noise."""

_PREFIX: Final = struct.Struct("<8sII")
_HEADER_END: Final = 4080
_CHECKSUM: Final = slice(4080, 4088)
_STATE_INDEX: Final = 511
"""The state word, counted in 8-byte words."""

# Linux 5.14, <linux/mman.h>; Python 3.11's mmap does not name them.
_MADV_POPULATE_READ: Final = 22
_MADV_POPULATE_WRITE: Final = 23
_madvise: Final = ctypes.CDLL(None).madvise
"""Not `mmap.madvise`, which would hold the GIL, and with it the agent, for a second per GiB."""
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_SPACE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.ENOMEM})
_HEADER_READ_TRIES: Final = 1000
"""A header is rewritten in well under a microsecond; a reader that met it half-written looks again."""


class SlotState(IntEnum):
    """How far a slot's content can be trusted. Only SEALED and above may be read."""

    EMPTY = 1
    FILLING = 2
    SEALED = 3
    REPLICATED = 4
    COMMITTED = 5


_UNBOUND_WORDS: Final = {
    int.from_bytes(b"MYRempty", "little"): SlotState.EMPTY,
    int.from_bytes(b"MYRfilln", "little"): SlotState.FILLING,
}
_WORD_OF_UNBOUND: Final = {state: word for word, state in _UNBOUND_WORDS.items()}
_BOUND_STATES: Final = (SlotState.SEALED, SlotState.REPLICATED, SlotState.COMMITTED)
_NEXT: Final = {
    SlotState.SEALED: (SlotState.REPLICATED, SlotState.COMMITTED),
    SlotState.REPLICATED: (SlotState.COMMITTED,),
}
"""What `mark` may do. SEALED goes straight to COMMITTED where no copy was asked for, and on the node that holds one."""


class SlotHeader(Value, frozen=True, kw_only=True):
    """What a slot says of itself. The state is not in here: it is the word that vouches for this."""

    run_id: str
    group: GroupId
    rank: Rank
    world_size: int
    role: Role
    layout_hash: str
    payload_bytes: int
    index_bytes: int
    """Room for the index."""
    step: Step = Step(0)
    incarnation: Incarnation = Incarnation(0)
    index_used_bytes: int = 0
    index_hash: str = ""
    """Hex xxh3-128 of the index."""
    root: str = ""
    """Hex xxh3-128 over the block table; empty until sealed."""
    digest: str = ""
    """What the worker says of its state, as in `ShardSealed`."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(SlotHeader)


def block_count(payload_bytes: int) -> int:
    """Number of blocks of a payload; the last one may be short."""
    return -(-payload_bytes // BLOCK_BYTES)


def slot_bytes(*, payload_bytes: int, index_bytes: int) -> int:
    """Size of the file of a slot with this payload and this room for the index."""
    return _Geometry(payload_bytes, index_bytes).total_bytes


def root_of(block_hashes: Sequence[int]) -> str:
    """Hex xxh3-128 over the block table: equal roots mean equal payloads."""
    return xxhash.xxh3_128_hexdigest(_table_bytes(block_hashes))


def _table_bytes(block_hashes: Sequence[int]) -> bytes:
    return np.asarray(block_hashes, dtype="<u8").tobytes()


class _Geometry:
    """Where the regions of a slot lie."""

    def __init__(self, payload_bytes: int, index_bytes: int) -> None:
        if payload_bytes < 0 or index_bytes < 0:
            raise UsageError(f"a slot of {payload_bytes} payload and {index_bytes} index bytes: sizes are not negative")
        self.blocks = block_count(payload_bytes)
        self.index_start = PAGE_BYTES
        self.table_start = self.index_start + _whole_pages(index_bytes)
        self.payload_start = self.table_start + _whole_pages(8 * self.blocks)
        self.total_bytes = self.payload_start + _whole_pages(payload_bytes)


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


class Slot:
    """A mapped slot file. Made by `create` (its owner, the agent) or `open` (a worker, a drain)."""

    def __init__(self, path: Path, mapping: mmap.mmap, *, writable: bool) -> None:
        """Internal: use `create` or `open`."""
        self.path = path
        self.writable = writable
        self._map = mapping
        self._view = memoryview(mapping)
        self._address = int(np.frombuffer(self._view, dtype=np.uint8).ctypes.data)
        self._words = self._view[:PAGE_BYTES].cast("Q")
        self._filling: tuple[Step, Incarnation] | None = None
        self._proven: set[int] = set()
        """Blocks that this object has verified, of the content that `_proven_of` names."""
        self._proven_of = b""
        self._hashes: list[int] = []
        """The block table of that content."""

    # --- making and opening ---

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        run_id: str,
        group: GroupId,
        rank: Rank,
        world_size: int,
        role: Role,
        layout_hash: str,
        payload_bytes: int,
        index_bytes: int,
    ) -> Slot:
        """Allocate the file, map it and fault it in, so that the first snapshot costs what the others do.

        Raises EnvironmentFault when the filesystem has no room; nothing is left behind then.
        """
        path = Path(path)
        header = SlotHeader(
            run_id=run_id,
            group=group,
            rank=rank,
            world_size=world_size,
            role=role,
            layout_hash=layout_hash,
            payload_bytes=payload_bytes,
            index_bytes=index_bytes,
        )
        geometry = _Geometry(payload_bytes, index_bytes)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                os.posix_fallocate(descriptor, 0, geometry.total_bytes)
                mapping = mmap.mmap(descriptor, geometry.total_bytes)
            finally:
                os.close(descriptor)
            slot = cls(path, mapping, writable=True)
            try:
                slot._attach(geometry)
                slot._fault_in()
                slot._write_header(header)
                slot._words[_STATE_INDEX] = _WORD_OF_UNBOUND[SlotState.EMPTY]
            except BaseException:
                slot.close()
                raise
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _SPACE_ERRNOS:
                raise _no_room(path, geometry.total_bytes, error) from error
            raise
        return slot

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False, populate: bool = True) -> Slot:
        """Map an existing slot. `populate` maps all its pages at once instead of one fault per page while copying.

        Raises IntegrityError for a file that is no slot, of another format version, cut short or damaged in its
        header; UsageError if there is no such file.
        """
        path = Path(path)
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError as error:
            raise UsageError(f"slot {path} does not exist; its agent may have replaced or removed it") from error
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes < PAGE_BYTES:
                raise IntegrityError(f"{path} is no slot: {size_bytes} bytes, a header alone has {PAGE_BYTES}")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            mapping = mmap.mmap(descriptor, size_bytes, access=access)
        finally:
            os.close(descriptor)
        slot = cls(path, mapping, writable=writable)
        try:
            header = slot.header
            slot._attach(_Geometry(header.payload_bytes, header.index_bytes))
            slot._check_size()
            if populate:
                slot._fault_in()
        except BaseException:
            slot.close()
            raise
        return slot

    def _attach(self, geometry: _Geometry) -> None:
        self._geometry = geometry

    def _fault_in(self) -> None:
        advice = _MADV_POPULATE_WRITE if self.writable else _MADV_POPULATE_READ
        if _madvise(self._address, len(self._view), advice) != 0:
            # A kernel before 5.14. One read per page maps it; reading never disturbs another process's bytes.
            bytes(self._view[::PAGE_BYTES])

    # --- what it says ---

    @property
    def header(self) -> SlotHeader:
        """Decoded anew each time: another process may have sealed the slot since. Raises IntegrityError."""
        for _ in range(_HEADER_READ_TRIES):
            page = bytes(self._view[:PAGE_BYTES])
            if page[_CHECKSUM] == _checksum(page[:_HEADER_END]):
                break
        else:
            raise IntegrityError(f"{self.path}: the header does not match its checksum; this slot cannot be trusted")
        magic, version, length = _PREFIX.unpack_from(page)
        if magic != MAGIC:
            raise IntegrityError(f"{self.path} is no slot: it begins with {magic!r}, not {MAGIC!r}")
        if version != FORMAT_VERSION:
            raise IntegrityError(
                f"{self.path} has slot format {version}, this version reads {FORMAT_VERSION}",
                hint="run the same version of Myriarch in all processes of a run",
            )
        try:
            return _decoder.decode(page[_PREFIX.size : _PREFIX.size + length])
        except msgspec.MsgspecError as error:
            raise IntegrityError(f"{self.path}: the header is intact but cannot be read: {error}") from error

    @property
    def state(self) -> SlotState:
        """Raises IntegrityError when the state word belongs to no state of the present header."""
        for _ in range(_HEADER_READ_TRIES):
            word = self._words[_STATE_INDEX]
            if word in _UNBOUND_WORDS:
                return _UNBOUND_WORDS[word]
            checksum = bytes(self._view[_CHECKSUM])
            for state in _BOUND_STATES:
                if word == _bound_word(checksum, state):
                    return state
            if self._words[_STATE_INDEX] == word:
                break
        raise IntegrityError(
            f"{self.path}: the state word {word:#018x} does not belong to the header; a torn or damaged slot"
        )

    @property
    def sealed(self) -> bool:
        """Whether the content may be read."""
        return self.state >= SlotState.SEALED

    @property
    def layout_hash(self) -> str:
        return self.header.layout_hash

    @property
    def digest(self) -> str:
        return self.header.digest

    @property
    def index(self) -> bytes:
        """The index, verified."""
        header = self.header
        if header.index_used_bytes > header.index_bytes:
            raise IntegrityError(f"{self.path}: the index is larger than its room")
        start = self._geometry.index_start
        index = bytes(self._view[start : start + header.index_used_bytes])
        if xxhash.xxh3_128_hexdigest(index) != header.index_hash:
            raise IntegrityError(f"{self.path}: the index does not match its hash")
        return index

    @property
    def block_hashes(self) -> list[int]:
        """The block table, verified against the root."""
        self._require_sealed()
        start = self._geometry.table_start
        table = bytes(self._view[start : start + 8 * self._geometry.blocks])
        if xxhash.xxh3_128_hexdigest(table) != self.header.root:
            raise IntegrityError(f"{self.path}: the block table does not match its root")
        hashes: list[int] = np.frombuffer(table, dtype="<u8").tolist()
        return hashes

    @property
    def payload(self) -> memoryview:
        """The payload itself; read-only where the slot was opened so."""
        start = self._geometry.payload_start
        return self._view[start : start + self.payload_bytes]

    @property
    def payload_bytes(self) -> int:
        return self.header.payload_bytes

    @property
    def payload_address(self) -> int:
        """Where the payload is mapped in this process."""
        return self._address + self._geometry.payload_start

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self._geometry.total_bytes

    def held(self) -> HeldShard:
        """This slot as control knows it. Raises IntegrityError when it is not sealed."""
        self._require_sealed()
        header = self.header
        return HeldShard(
            group=header.group,
            rank=header.rank,
            world_size=header.world_size,
            step=header.step,
            incarnation=header.incarnation,
            role=header.role,
            size_bytes=header.payload_bytes,
            root=header.root,
            committed=self.state is SlotState.COMMITTED,
        )

    # --- the state machine ---

    def begin(self, *, step: Step, incarnation: Incarnation, index: bytes) -> None:
        """Start to fill: whatever was in the slot is gone from this moment on.

        Raises UsageError for a committed slot (release it first) and for an index that has no room.
        """
        header = self.header
        if self.state is SlotState.COMMITTED:
            raise UsageError(
                f"{self.path} holds the committed step {header.step}; fill the other slot, or release this one first"
            )
        if len(index) > header.index_bytes:
            raise UsageError(
                f"{self.path} has room for an index of {header.index_bytes} bytes, not {len(index)}; ask for new slots"
            )
        self._words[_STATE_INDEX] = _WORD_OF_UNBOUND[SlotState.FILLING]
        self._proven.clear()
        start = self._geometry.index_start
        self._view[start : start + len(index)] = index
        self._write_header(
            msgspec.structs.replace(
                header,
                step=step,
                incarnation=incarnation,
                index_used_bytes=len(index),
                index_hash=xxhash.xxh3_128_hexdigest(index),
                root="",
                digest="",
            )
        )
        self._filling = (step, incarnation)

    def seal(self, block_hashes: Sequence[int], *, digest: str = "") -> str:
        """Publish what was filled: block table and header first, the state word last. Returns the root.

        Only the object that began may seal, and only while the slot is still its own.
        """
        header = self.header
        if self.state is not SlotState.FILLING or self._filling != (header.step, header.incarnation):
            raise UsageError(
                f"{self.path} is {self.state.name} with step {header.step} of incarnation {header.incarnation}; "
                f"only a fill that this process began can be sealed"
            )
        if len(block_hashes) != self._geometry.blocks:
            raise UsageError(f"{self.path} has {self._geometry.blocks} blocks, {len(block_hashes)} hashes were given")
        table = _table_bytes(block_hashes)
        start = self._geometry.table_start
        self._view[start : start + len(table)] = table
        root = xxhash.xxh3_128_hexdigest(table)
        self._write_header(msgspec.structs.replace(header, root=root, digest=digest))
        self._words[_STATE_INDEX] = _bound_word(bytes(self._view[_CHECKSUM]), SlotState.SEALED)
        self._filling = None
        return root

    def mark(self, state: SlotState) -> None:
        """SEALED to REPLICATED or COMMITTED, REPLICATED to COMMITTED. Raises UsageError for anything else."""
        now = self.state
        if state not in _NEXT.get(now, ()):
            raise UsageError(f"{self.path} is {now.name} and cannot become {state.name}")
        self._words[_STATE_INDEX] = _bound_word(bytes(self._view[_CHECKSUM]), state)

    def release(self) -> None:
        """Give up the content, whatever it is: EMPTY."""
        self._words[_STATE_INDEX] = _WORD_OF_UNBOUND[SlotState.EMPTY]
        self._filling = None
        self._proven.clear()

    # --- reading ---

    def verify(self) -> None:
        """Recompute every hash. Raises IntegrityError that names the first region or block that is wrong."""
        self._check_size()
        self._require_sealed()
        _ = self.index
        payload = self.payload
        for number, (block, expected) in enumerate(zip(self.blocks(), self.block_hashes, strict=True)):
            if xxhash.xxh3_64_intdigest(payload[block]) != expected:
                raise self._bad_block(number)

    def blocks(self) -> Iterator[slice]:
        """The payload's blocks, in order."""
        size_bytes = self.payload_bytes
        for start in range(0, size_bytes, BLOCK_BYTES):
            yield slice(start, min(start + BLOCK_BYTES, size_bytes))

    def read_into(self, target: memoryview, *, offset: int = 0) -> None:
        """Copy `len(target)` bytes from `offset` on, every block of them verified before it counts.

        Whole blocks are copied first and hashed in the target while in cache; the target's content is undefined when
        IntegrityError is raised.
        """
        target = target.cast("B")
        with memoryview(target) as view:
            address = int(np.frombuffer(view, dtype=np.uint8).ctypes.data) if len(view) else 0
            self._read(offset, len(view), address, view)

    def read(self, offset: int, size_bytes: int) -> bytearray:
        """`size_bytes` verified bytes from `offset` on."""
        data = bytearray(size_bytes)
        self.read_into(memoryview(data), offset=offset)
        return data

    def _read(self, offset: int, size_bytes: int, address: int, target: memoryview) -> None:
        payload = self.payload
        if offset < 0 or offset + size_bytes > len(payload):
            raise UsageError(
                f"{self.path}: bytes {offset} to {offset + size_bytes} of a payload of {len(payload)} were asked for"
            )
        self._check_size()
        hashes = self._renew_proven()
        done = 0
        while done < size_bytes:
            number, inside = divmod(offset + done, BLOCK_BYTES)
            start = number * BLOCK_BYTES
            block_bytes = min(BLOCK_BYTES, len(payload) - start)
            count = min(block_bytes - inside, size_bytes - done)
            whole = count == block_bytes
            if not whole and number not in self._proven:
                self._prove(number, payload[start : start + block_bytes], hashes[number])
            ctypes.memmove(address + done, self.payload_address + start + inside, count)
            if whole:
                self._prove(number, target[done : done + count], hashes[number])
            done += count

    def _prove(self, number: int, data: memoryview, expected: int) -> None:
        if xxhash.xxh3_64_intdigest(data) != expected:
            raise self._bad_block(number)
        self._proven.add(number)

    def _renew_proven(self) -> list[int]:
        """The block table. What was proven of another content counts no more."""
        self._require_sealed()
        checksum = bytes(self._view[_CHECKSUM])
        if checksum != self._proven_of:
            self._hashes = self.block_hashes
            self._proven.clear()
            self._proven_of = checksum
        return self._hashes

    def _bad_block(self, number: int) -> IntegrityError:
        header = self.header
        return IntegrityError(
            f"{self.path}: block {number} of {self._geometry.blocks} does not match its hash "
            f"(shard {header.group}/{header.rank}, step {header.step})",
            hint="take this shard from another holder",
        )

    def _require_sealed(self) -> None:
        if not self.sealed:
            raise IntegrityError(f"{self.path} is {self.state.name}: it holds no snapshot")

    def _check_size(self) -> None:
        """A mapping of a file that was cut short would end the process with SIGBUS: look before touching."""
        size_bytes = self._map.size()
        if size_bytes != self._geometry.total_bytes:
            raise IntegrityError(
                f"{self.path} has {size_bytes} bytes, its header speaks of {self._geometry.total_bytes}"
            )

    def _write_header(self, header: SlotHeader) -> None:
        body = _encoder.encode(header)
        page = (_PREFIX.pack(MAGIC, FORMAT_VERSION, len(body)) + body).ljust(_HEADER_END, b"\0")
        if len(page) > _HEADER_END:
            raise UsageError(f"{self.path}: a header of {len(body)} bytes does not fit; use shorter names")
        self._view[:_HEADER_END] = page
        self._view[_CHECKSUM] = _checksum(page)

    # --- the end ---

    def close(self) -> None:
        """Unmap. Views that others still hold keep the mapping until they let go."""
        self._words.release()
        self._view.release()
        with suppress(BufferError):  # somebody holds a view of the payload: the mapping goes with it
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checksum(page: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(page).to_bytes(8, "little")


def _bound_word(checksum: bytes, state: SlotState) -> int:
    return xxhash.xxh3_64_intdigest(checksum, seed=state)


def _no_room(path: Path, wanted_bytes: int, error: OSError) -> EnvironmentFault:
    stat = os.statvfs(path.parent)
    return EnvironmentFault(
        f"{path.parent} has no room for a snapshot slot: {format_bytes(wanted_bytes)} wanted, "
        f"{format_bytes(stat.f_bavail * stat.f_frsize)} free ({error.strerror})",
        hint="enlarge shared memory (mount -o remount,size=... /dev/shm), remove what old runs left there, "
        "or lower checkpoint.copies",
    )
