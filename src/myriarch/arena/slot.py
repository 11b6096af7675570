"""One snapshot shard in shared memory: a file that a reader can trust or refuse, and never half-trust.

State machine, one aligned 8-byte word (`arena.format` says what else is in the file):

    EMPTY -> FILLING -> SEALED -> REPLICATED -> COMMITTED
      ^         ^__________|__________|            |
      |____________________________________________|  release()

*Seal, then publish.* `begin` writes FILLING before it touches anything else, and `seal` writes SEALED after everything
else, so a process killed anywhere in between leaves a slot that nobody reads and that can be filled again.

The order of the stores is what x86 (total store order) gives plain stores. Elsewhere a reader on another core might
see the word early; it then reads bytes that do not match their hashes and refuses them: late, never wrong.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np
import xxhash

from myriarch.arena.format import (
    BLOCK_BYTES,
    PAGE_BYTES,
    STATE_WORD,
    UNBOUND_WORD_OF,
    Geometry,
    SlotContent,
    SlotHeader,
    SlotIdentity,
    SlotState,
    block_count,
    bound_word,
    checksums,
    read_content,
    read_identity,
    root_of,
    slot_bytes,
    state_of_word,
    table_bytes,
    write_content,
    write_identity,
)
from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.units import format_bytes

__all__ = ["BLOCK_BYTES", "PAGE_BYTES", "Slot", "SlotHeader", "SlotState", "block_count", "root_of", "slot_bytes"]

# Linux 5.14, <linux/mman.h>; Python 3.11's mmap does not name them.
_MADV_POPULATE_READ: Final = 22
_MADV_POPULATE_WRITE: Final = 23
_madvise: Final = ctypes.CDLL(None).madvise
"""Not `mmap.madvise`, which would hold the GIL, and with it the agent, for a second per GiB."""
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_SPACE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.ENOMEM})
_READ_TRIES: Final = 100
"""A header is rewritten in well under a microsecond; a reader that met it half-written looks again."""

_NEXT: Final = {
    SlotState.SEALED: (SlotState.REPLICATED, SlotState.COMMITTED),
    SlotState.REPLICATED: (SlotState.COMMITTED,),
}
"""What `mark` may do. SEALED goes straight to COMMITTED where no copy was asked for, and on the node that holds one."""


class Slot:
    """A mapped slot file. Made by `create` (its owner, the agent) or `open` (a worker, a drain)."""

    def __init__(self, path: Path, mapping: mmap.mmap, *, writable: bool) -> None:
        """Internal: use `create` or `open`."""
        self.path = path
        self.writable = writable
        self._map = mapping
        self._view = memoryview(mapping)
        self._address = int(np.frombuffer(self._view, dtype=np.uint8).ctypes.data)
        self._page = self._view[:PAGE_BYTES]
        self._words = self._page.cast("Q")
        self._filling: SlotContent | None = None
        """What this object began and has not sealed."""
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
        identity = SlotIdentity(
            run_id=run_id,
            group=group,
            rank=rank,
            world_size=world_size,
            role=role,
            layout_hash=layout_hash,
            payload_bytes=payload_bytes,
            index_bytes=index_bytes,
        )
        total_bytes = slot_bytes(payload_bytes=payload_bytes, index_bytes=index_bytes)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                os.posix_fallocate(descriptor, 0, total_bytes)
                mapping = mmap.mmap(descriptor, total_bytes)
            finally:
                os.close(descriptor)
            slot = cls(path, mapping, writable=True)
            try:
                slot._fault_in()
                write_identity(slot._page, identity)
                write_content(slot._page, SlotContent())
                slot._words[STATE_WORD] = UNBOUND_WORD_OF[SlotState.EMPTY]
                slot._recognise()
            except BaseException:
                slot.close()
                raise
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _SPACE_ERRNOS:
                raise _no_room(path, total_bytes, error) from error
            raise
        return slot

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False, populate: bool = True) -> Slot:
        """Map an existing slot. `populate` maps all its pages at once instead of one fault per page while copying.

        Raises IntegrityError for a file that is no slot, of another format version, cut short or damaged in its
        header; EnvironmentFault if there is no such file.
        """
        path = Path(path)
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError as error:
            raise EnvironmentFault(f"slot {path} does not exist; its agent may have replaced or removed it") from error
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
            slot._recognise()
            slot._check_size()
            if populate:
                slot._fault_in()
        except BaseException:
            slot.close()
            raise
        return slot

    def _recognise(self) -> None:
        self.identity = read_identity(bytes(self._page), self.path)
        self._geometry = Geometry.of(payload_bytes=self.identity.payload_bytes, index_bytes=self.identity.index_bytes)

    def _fault_in(self) -> None:
        advice = _MADV_POPULATE_WRITE if self.writable else _MADV_POPULATE_READ
        if _madvise(self._address, len(self._view), advice) != 0:
            # A kernel before 5.14. One read per page maps it; reading never disturbs another process's bytes.
            bytes(self._view[::PAGE_BYTES])

    # --- what it says ---

    @property
    def content(self) -> SlotContent:
        """Decoded anew each time: another process may have sealed the slot since. Raises IntegrityError.

        Of a slot that is not sealed it says what was begun, if that was said completely.
        """
        for _ in range(_READ_TRIES - 1):
            with suppress(IntegrityError):
                return read_content(bytes(self._page), self.path)
        return read_content(bytes(self._page), self.path)

    @property
    def header(self) -> SlotHeader:
        """Identity and content in one."""
        return SlotHeader(**msgspec.structs.asdict(self.identity), **msgspec.structs.asdict(self.content))

    @property
    def state(self) -> SlotState:
        """Raises IntegrityError when the state word belongs to no state of the present header."""
        for _ in range(_READ_TRIES):
            word = self._words[STATE_WORD]
            state = state_of_word(word, checksums(self._page))
            if state is not None:
                return state
            if self._words[STATE_WORD] == word:
                break
        raise IntegrityError(f"{self.path}: the state word does not belong to the header; a torn or damaged slot")

    @property
    def sealed(self) -> bool:
        """Whether the content may be read."""
        return self.state >= SlotState.SEALED

    @property
    def layout_hash(self) -> str:
        return self.identity.layout_hash

    @property
    def digest(self) -> str:
        return self.content.digest

    @property
    def index(self) -> bytes:
        """The index, verified."""
        content = self.content
        if content.index_used_bytes > self.identity.index_bytes:
            raise IntegrityError(f"{self.path}: the index is larger than its room")
        index = bytes(self._view[PAGE_BYTES : PAGE_BYTES + content.index_used_bytes])
        if xxhash.xxh3_128_hexdigest(index) != content.index_hash:
            raise IntegrityError(f"{self.path}: the index does not match its hash")
        return index

    @property
    def index_room_bytes(self) -> int:
        """How large an index may be."""
        return self.identity.index_bytes

    @property
    def block_hashes(self) -> list[int]:
        """The block table, verified against the root."""
        self._require_sealed()
        start = self._geometry.table_start
        table = bytes(self._view[start : start + 8 * self._geometry.blocks])
        if xxhash.xxh3_128_hexdigest(table) != self.content.root:
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
        return self.identity.payload_bytes

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
        identity, content = self.identity, self.content
        return HeldShard(
            group=identity.group,
            rank=identity.rank,
            world_size=identity.world_size,
            step=content.step,
            incarnation=content.incarnation,
            role=identity.role,
            size_bytes=identity.payload_bytes,
            root=content.root,
            committed=self.state is SlotState.COMMITTED,
        )

    # --- the state machine ---

    def begin(self, *, step: Step, incarnation: Incarnation, index: bytes) -> None:
        """Start to fill: whatever was in the slot is gone from this moment on.

        Raises UsageError for a committed slot (release it first) and for an index that has no room.
        """
        if self.state is SlotState.COMMITTED:
            raise UsageError(
                f"{self.path} holds the committed step {self.content.step}; "
                "fill the other slot, or release this one first"
            )
        if len(index) > self.identity.index_bytes:
            raise UsageError(
                f"{self.path} has room for an index of {self.identity.index_bytes} bytes, not {len(index)}; "
                "ask for new slots"
            )
        self._words[STATE_WORD] = UNBOUND_WORD_OF[SlotState.FILLING]
        self._view[PAGE_BYTES : PAGE_BYTES + len(index)] = index
        self._filling = SlotContent(
            step=step,
            incarnation=incarnation,
            index_used_bytes=len(index),
            index_hash=xxhash.xxh3_128_hexdigest(index),
        )
        write_content(self._page, self._filling)

    def seal(self, block_hashes: Sequence[int], *, digest: str = "") -> str:
        """Publish what was filled: block table and header first, the state word last. Returns the root.

        Only the object that began may seal, and only while the slot is still its own.
        """
        filling = self._filling
        if filling is None or self.state is not SlotState.FILLING or self.content != filling:
            raise UsageError(
                f"{self.path} is {self.state.name} with step {self.content.step} of incarnation "
                f"{self.content.incarnation}; only a fill that this process began can be sealed"
            )
        if len(block_hashes) != self._geometry.blocks:
            raise UsageError(f"{self.path} has {self._geometry.blocks} blocks, {len(block_hashes)} hashes were given")
        table = table_bytes(block_hashes)
        start = self._geometry.table_start
        self._view[start : start + len(table)] = table
        root = xxhash.xxh3_128_hexdigest(table)
        write_content(self._page, msgspec.structs.replace(filling, root=root, digest=digest))
        self._words[STATE_WORD] = bound_word(checksums(self._page), SlotState.SEALED)
        self._filling = None
        return root

    def mark(self, state: SlotState) -> None:
        """SEALED to REPLICATED or COMMITTED, REPLICATED to COMMITTED. Raises UsageError for anything else."""
        now = self.state
        if state not in _NEXT.get(now, ()):
            raise UsageError(f"{self.path} is {now.name} and cannot become {state.name}")
        self._words[STATE_WORD] = bound_word(checksums(self._page), state)

    def release(self) -> None:
        """Give up the content, whatever it is: EMPTY."""
        self._words[STATE_WORD] = UNBOUND_WORD_OF[SlotState.EMPTY]
        self._filling = None

    # --- reading ---

    def verify(self) -> None:
        """Recompute every hash. Raises IntegrityError that names the first region or block that is wrong."""
        self._check_size()
        self._require_sealed()
        _ = self.index
        with self.payload as payload:
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
        with target.cast("B") as view:
            address = int(np.frombuffer(view, dtype=np.uint8).ctypes.data) if len(view) else 0
            with self.payload as payload:
                self._read(payload, offset, address, view)

    def read(self, offset: int, size_bytes: int) -> bytearray:
        """`size_bytes` verified bytes from `offset` on."""
        data = bytearray(size_bytes)
        self.read_into(memoryview(data), offset=offset)
        return data

    def _read(self, payload: memoryview, offset: int, address: int, target: memoryview) -> None:
        end = offset + len(target)
        if offset < 0 or end > len(payload):
            raise UsageError(f"{self.path}: bytes {offset} to {end} of a payload of {len(payload)} were asked for")
        self._check_size()
        hashes = self._renew_proven()
        done = 0
        while offset + done < end:
            number, inside = divmod(offset + done, BLOCK_BYTES)
            start = number * BLOCK_BYTES
            block_bytes = min(BLOCK_BYTES, len(payload) - start)
            count = min(block_bytes - inside, len(target) - done)
            whole = count == block_bytes
            if not whole and number not in self._proven:
                self._prove(number, xxhash.xxh3_64_intdigest(payload[start : start + block_bytes]), hashes[number])
            ctypes.memmove(address + done, self.payload_address + start + inside, count)
            if whole:
                self._prove(number, xxhash.xxh3_64_intdigest(target[done : done + count]), hashes[number])
            done += count

    def _prove(self, number: int, found: int, expected: int) -> None:
        if found != expected:
            raise self._bad_block(number)
        self._proven.add(number)

    def _renew_proven(self) -> list[int]:
        """The block table. What was proven of another content counts no more."""
        self._require_sealed()
        sums = checksums(self._page)
        if sums != self._proven_of:
            self._hashes = self.block_hashes
            self._proven.clear()
            self._proven_of = sums
        return self._hashes

    def _bad_block(self, number: int) -> IntegrityError:
        return IntegrityError(
            f"{self.path}: block {number} of {self._geometry.blocks} does not match its hash "
            f"(shard {self.identity.group}/{self.identity.rank}, step {self.content.step})",
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

    # --- the end ---

    def close(self) -> None:
        """Unmap. Views that others still hold keep the mapping until they let go."""
        self._words.release()
        self._page.release()
        self._view.release()
        with suppress(BufferError):  # somebody holds a view of the payload: the mapping goes with it
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _no_room(path: Path, wanted_bytes: int, error: OSError) -> EnvironmentFault:
    stat = os.statvfs(path.parent)
    return EnvironmentFault(
        f"{path.parent} has no room for a snapshot slot: {format_bytes(wanted_bytes)} wanted, "
        f"{format_bytes(stat.f_bavail * stat.f_frsize)} free ({error.strerror})",
        hint="enlarge shared memory (mount -o remount,size=... /dev/shm), remove what old runs left there, "
        "or lower checkpoint.copies",
    )
