"""A node's memory tier, as its agent owns it: two slots per (group, rank, role), of which the committed one is sacred.

    own   what a worker of this node fills              copy   what other nodes push here, and what restores fetch

A *pair* is the two slots of one key and layout. The worker, or a receiving connection, fills the slot that is not
committed; `commit` flips. A worker with another layout (its group shrank) gets a new pair, and the old one stays until
the first commit of the new one: it may be all that the next restore has.

A slot that is being drained or served is *pinned*: it is never released under its reader, only after.

Safe for several threads: the byte server's and the agent's.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from myriarch.arena.pairs import PENDING, Cell, Key, Layout, Pair, choose, is_snapshot, state_of, step_of
from myriarch.arena.slot import BLOCK_BYTES, Slot, SlotState, root_of, slot_bytes
from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.units import format_bytes

SHARED_MEMORY_ROOT: Final = Path("/dev/shm")
FREE_SLOT_WAIT_S: Final = 5.0
"""How long a received shard waits for the commit that frees its slot: the sender may have heard of it first."""
MAKE_LIMIT_S: Final = 300.0
"""For another thread's allocation of the same slots."""
_LOG: Final = logging.getLogger("myriarch.arena")


def node_directory(run_id: str, node: str, boot: str, *, root: Path = SHARED_MEMORY_ROOT) -> Path:
    """Where the memory tier of one agent lies."""
    return root / f"myriarch-{os.getuid()}" / run_id / f"{node}-{boot}"


class SlotPair(NamedTuple):
    """Paths of a key's two slots, and the index of the committed one or -1."""

    paths: tuple[str, str]
    committed: int


class Flip(NamedTuple):
    """A pair whose slots changed their roles: the slot that is not `committed` may be filled again."""

    group: GroupId
    rank: Rank
    role: Role
    committed: int


class Receiving:
    """A slot that is being filled with somebody else's bytes. Nothing is visible before `publish`."""

    def __init__(
        self, memory: NodeMemory, cell: Cell, shard: HeldShard, block_hashes: Sequence[int], digest: str
    ) -> None:
        self.payload = cell.slot.payload
        self.block_bytes = BLOCK_BYTES
        self._memory = memory
        self._cell = cell
        self._shard = shard
        self._hashes = block_hashes
        self._digest = digest

    def check_block(self, number: int) -> None:
        """Raises IntegrityError if block `number`, as it lies in the slot now, is not what was promised."""
        start = number * BLOCK_BYTES
        if xxhash.xxh3_64_intdigest(self.payload[start : start + BLOCK_BYTES]) != self._hashes[number]:
            shard = self._shard
            raise IntegrityError(
                f"block {number} of {len(self._hashes)} of shard {shard.group}/{shard.rank} at step {shard.step} "
                "arrived with another content than its hash promises",
                hint="the sender's memory or the way from it is damaged; take the shard from another holder",
            )

    def publish(self) -> HeldShard:
        """Every block was checked: seal; what was committed where it came from is committed here too."""
        return self._memory._publish(self._cell, self._hashes, self._digest, committed=self._shard.committed)


class NodeMemory:
    """All slots of one node. A context manager; leaving it removes everything from shared memory."""

    def __init__(self, directory: str | Path, run_id: str, *, limit_bytes: int | None = None) -> None:
        """Constructing is free: the directory is made with the first slots.

        `limit_bytes` bounds the sum of all slot files; None leaves it to the filesystem.
        """
        self.directory = Path(directory)
        self.run_id = run_id
        self.limit_bytes = limit_bytes
        self._pairs: dict[Key, list[Pair]] = {}
        """Newest last; those before it are retired."""
        self._changed = threading.Condition()
        self._made = 0
        self._making: dict[Key, int] = {}
        """Bytes of pairs that are being made. Faulting in takes a second per GiB: not under the lock."""
        self._closed = False

    # --- slots of this node's workers ---

    def ensure(
        self,
        group: GroupId,
        rank: Rank,
        *,
        world_size: int,
        role: Role,
        layout_hash: str,
        payload_bytes: int,
        index_bytes: int,
    ) -> SlotPair:
        """The two slots of this key and layout: the ones there are, else new ones, faulted in.

        Raises EnvironmentFault when there is no room for them.
        """
        layout = Layout(world_size, layout_hash, payload_bytes, index_bytes)
        with self._changed:
            pair = self._pair((group, rank, role), layout)
            for cell in pair.cells:
                if state_of(cell.slot) is None and not cell.in_use:
                    cell.slot.release()  # damaged: of no use to anybody but the next snapshot
            first, second = (str(cell.slot.path) for cell in pair.cells)
            return SlotPair((first, second), pair.committed())

    def replicated(self, group: GroupId, rank: Rank, *, step: Step, incarnation: Incarnation) -> None:
        """All copies of this node's own shard are made."""
        with self._changed:
            for pair in self._pairs.get((group, rank, "own"), ()):
                for cell in pair.cells:
                    if state_of(cell.slot) is SlotState.SEALED and is_snapshot(cell.slot, step, incarnation):
                        cell.slot.mark(SlotState.REPLICATED)

    # --- the life of a snapshot ---

    def commit(self, step: Step, incarnation: Incarnation | None = None) -> tuple[Flip, ...]:
        """This step's slots replace the committed ones before them. Returns the pairs that flipped.

        Copies of older steps in pairs that did not get this step are removed: their placement has moved on.
        """
        flips: list[Flip] = []
        with self._changed:
            for key, pairs in list(self._pairs.items()):
                current = pairs[-1]
                index = -1 if current.retired else self._find_in(current, step, incarnation)
                if index < 0:
                    if key[2] == "copy":
                        self._expire(pairs, step)
                    continue
                self._flip(current, index, step)
                for old in pairs[:-1]:
                    self._retire(old, keep_committed=False)
                flips.append(Flip(*key, committed=index))
            self._sweep()
            self._changed.notify_all()
        return tuple(flips)

    def drop(self, step: Step, incarnation: Incarnation | None = None) -> tuple[Flip, ...]:
        """This step will never be committed: free its slots. A committed slot stays. Returns the pairs concerned."""
        return self._free(lambda slot: is_snapshot(slot, step, incarnation))

    def discard_stale(self, incarnation: Incarnation) -> tuple[Flip, ...]:
        """Free what older incarnations than this left uncommitted."""
        return self._free(lambda slot: slot.content.incarnation < incarnation)

    def forget(self, group: GroupId | None = None, rank: Rank | None = None, role: Role | None = None) -> None:
        """Remove the pairs of this group, rank and role; None means any. Without arguments: everything."""
        with self._changed:
            for key, pairs in self._pairs.items():
                if all(want is None or want == have for want, have in zip((group, rank, role), key, strict=True)):
                    for pair in pairs:
                        self._retire(pair, keep_committed=False)
            self._sweep()
            self._changed.notify_all()

    # --- what there is ---

    def held(self) -> tuple[HeldShard, ...]:
        """All shards that can be restored from, for `NodeJoined`. Damaged slots are left out, and said in the log."""
        found: list[HeldShard] = []
        with self._changed:
            for cell in self._cells():
                try:
                    if not cell.obsolete and cell.slot.sealed:
                        found.append(cell.slot.held())
                except IntegrityError as error:
                    _LOG.warning("%s", error)
        return tuple(found)

    def find(
        self,
        group: GroupId,
        rank: Rank,
        step: Step,
        incarnation: Incarnation | None = None,
        *,
        role: Role | None = None,
    ) -> Slot | None:
        """The sealed slot of this shard, own before copy. It may be released any time unless it is pinned: whoever does
        not hold everything else still wants `shard`, `path` or `pin_shard`."""
        with self._changed:
            cell = self._find(group, rank, step, incarnation, role)
            return None if cell is None else cell.slot

    def shard(
        self,
        group: GroupId,
        rank: Rank,
        step: Step,
        incarnation: Incarnation | None = None,
        *,
        role: Role | None = None,
    ) -> HeldShard | None:
        """What the sealed slot of this shard holds, as of one instant."""
        with self._changed:
            cell = self._find(group, rank, step, incarnation, role)
            return None if cell is None else cell.slot.held()

    def path(self, shard: HeldShard) -> Path | None:
        """Where these very bytes (by root) are, if they are here."""
        with self._changed:
            cell = self._find(shard.group, shard.rank, shard.step, shard.incarnation, None)
            return cell.slot.path if cell is not None and cell.slot.content.root == shard.root else None

    def holds(self, shard: HeldShard, *, role: Role | None = None) -> bool:
        """Whether these very bytes (by root) are here, sealed, in whatever role or in this one."""
        with self._changed:
            return self._holds(shard, role)

    @property
    def used_bytes(self) -> int:
        """Of all slot files."""
        with self._changed:
            return sum(cell.slot.size_bytes for cell in self._cells())

    # --- reading ---

    def pin(self, path: str | Path) -> None:
        """Keep the slot with this path until `unpin`: somebody reads it. Pins count."""
        with self._changed:
            self._cell(Path(path)).pins += 1

    def pin_shard(self, group: GroupId, rank: Rank, step: Step, incarnation: Incarnation | None = None) -> Path | None:
        """Pin the sealed slot of this shard, own before copy; its path is for `unpin`. None: it is not here."""
        with self._changed:
            cell = self._find(group, rank, step, incarnation, None)
            if cell is None:
                return None
            cell.pins += 1
            return cell.slot.path

    def unpin(self, path: str | Path) -> None:
        with self._changed:
            cell = self._cell(Path(path))
            if cell.pins == 0:
                raise UsageError(f"{path} is not pinned")
            cell.pins -= 1
            self._sweep()
            self._changed.notify_all()

    @contextmanager
    def reading(self, shard: HeldShard) -> Iterator[Slot]:
        """The slot that holds these bytes, pinned. Raises UsageError if this node does not have them (any more)."""
        with self._changed:
            cell = self._find(shard.group, shard.rank, shard.step, shard.incarnation, None)
            if cell is None or cell.slot.content.root != shard.root:
                raise UsageError(
                    f"shard {shard.group}/{shard.rank} of step {shard.step}, incarnation {shard.incarnation} "
                    "is not in this node's memory"
                )
            cell.pins += 1
        try:
            yield cell.slot
        finally:
            with self._changed:
                cell.pins -= 1
                self._sweep()
                self._changed.notify_all()

    # --- receiving ---

    @contextmanager
    def receiving(
        self,
        shard: HeldShard,
        *,
        layout_hash: str,
        digest: str,
        index: bytes,
        index_room_bytes: int,
        block_hashes: Sequence[int],
        wait_s: float = FREE_SLOT_WAIT_S,
    ) -> Iterator[Receiving]:
        """A slot for somebody else's shard, under `shard.role`; made on demand, filled through what is yielded.

        Left without `publish`, the slot stays FILLING: unreadable, and the next to be filled.
        Raises IntegrityError when the hashes do not add up to the shard's root, EnvironmentFault when there is no
        room, UsageError when no slot got free within `wait_s`.
        """
        if root_of(block_hashes) != shard.root:
            raise IntegrityError(
                f"the block table of shard {shard.group}/{shard.rank} at step {shard.step} does not match its root"
            )
        layout = Layout(shard.world_size, layout_hash, shard.size_bytes, index_room_bytes)
        with self._changed:
            cell = self._free_cell((shard.group, shard.rank, shard.role), layout, shard, wait_s)
            cell.slot.begin(step=shard.step, incarnation=shard.incarnation, index=index)
            cell.filling = True
        receiving = Receiving(self, cell, shard, block_hashes, digest)
        try:
            yield receiving
        finally:
            receiving.payload.release()
            with self._changed:
                cell.filling = False
                self._sweep()
                self._changed.notify_all()

    def _publish(self, cell: Cell, block_hashes: Sequence[int], digest: str, *, committed: bool) -> HeldShard:
        with self._changed:
            self._check_open()
            cell.slot.seal(block_hashes, digest=digest)
            if committed:
                cell.slot.mark(SlotState.COMMITTED)
                self._supersede(cell)
            return cell.slot.held()

    # --- the end ---

    def close(self, *, remove: bool = True) -> None:
        """Unmap everything; with `remove`, delete the files, the directory, and those of its parents that are empty."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            for cell in self._cells():
                cell.slot.close()
            self._pairs.clear()
            self._changed.notify_all()
        if remove and self.directory.is_dir():
            for path in self.directory.iterdir():
                path.unlink(missing_ok=True)
            _remove_empty(self.directory)

    def __enter__(self) -> NodeMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Invariants; for tests."""
        with self._changed:
            for key, pairs in self._pairs.items():
                assert pairs, key
                for pair in pairs:
                    assert pair.retired or len(pair.cells) == 2, key
                    states = [state_of(cell.slot) for cell in pair.cells if not cell.obsolete]
                    assert states.count(SlotState.COMMITTED) <= 1, (key, states)
                    assert all(cell.pins >= 0 for cell in pair.cells)
                    assert pair is pairs[-1] or pair.retired

    # --- inside, under the lock ---

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this node's memory is closed")

    def _cells(self) -> Iterator[Cell]:
        for pairs in self._pairs.values():
            for pair in pairs:
                yield from pair.cells

    def _cell(self, path: Path) -> Cell:
        for cell in self._cells():
            if cell.slot.path == path:
                return cell
        raise UsageError(f"{path} is not a slot of this node")

    def _find(
        self, group: GroupId, rank: Rank, step: Step, incarnation: Incarnation | None, role: Role | None
    ) -> Cell | None:
        for wanted in ("own", "copy") if role is None else (role,):
            for pair in reversed(self._pairs.get((group, rank, wanted), ())):
                index = self._find_in(pair, step, incarnation)
                if index >= 0:
                    return pair.cells[index]
        return None

    def _holds(self, shard: HeldShard, role: Role | None) -> bool:
        cell = self._find(shard.group, shard.rank, shard.step, shard.incarnation, role)
        return cell is not None and cell.slot.content.root == shard.root

    def _find_in(self, pair: Pair, step: Step, incarnation: Incarnation | None) -> int:
        """Index of the sealed cell of this step; of two incarnations the newer; -1 if there is none."""
        best, best_incarnation = -1, -1
        for index, cell in enumerate(pair.cells):
            if cell.obsolete or (state_of(cell.slot) or 0) < SlotState.SEALED:
                continue
            if is_snapshot(cell.slot, step, incarnation) and cell.slot.content.incarnation > best_incarnation:
                best, best_incarnation = index, cell.slot.content.incarnation
        return best

    def _pair(self, key: Key, layout: Layout) -> Pair:
        """The current pair of this key if it has this layout, else a new one, made without the lock."""
        until = time.monotonic() + MAKE_LIMIT_S
        while True:
            self._check_open()
            pairs = self._pairs.get(key, [])
            if pairs and pairs[-1].layout == layout and not pairs[-1].retired:
                return pairs[-1]
            if key not in self._making:
                break
            if not self._changed.wait(until - time.monotonic()):
                raise EnvironmentFault(f"slots for {key[0]}/{key[1]} were not made within {MAKE_LIMIT_S:g} s")
        for old in pairs:
            # Of the retired pairs only the newest can be what a restore needs.
            self._retire(old, keep_committed=old is pairs[-1] or pairs[-1].committed() < 0)
        self._sweep()
        self._making[key] = self._check_limit(key, layout)
        self._made += 1
        number = self._made
        self._changed.release()
        try:
            pair = self._make_pair(key, layout, number)
        finally:
            self._changed.acquire()
            del self._making[key]
            self._changed.notify_all()
        try:
            self._check_open()
        except UsageError:
            for cell in pair.cells:
                self._remove(cell)
            _remove_empty(self.directory)
            raise
        self._pairs.setdefault(key, []).append(pair)
        return pair

    def _check_limit(self, key: Key, layout: Layout) -> int:
        """What a new pair takes. Raises EnvironmentFault if that is too much."""
        wanted_bytes = 2 * slot_bytes(payload_bytes=layout.payload_bytes, index_bytes=layout.index_bytes)
        used_bytes = sum(cell.slot.size_bytes for cell in self._cells()) + sum(self._making.values())
        if self.limit_bytes is not None and used_bytes + wanted_bytes > self.limit_bytes:
            group, rank, role = key
            raise EnvironmentFault(
                f"two slots for {group}/{rank} ({role}) take {format_bytes(wanted_bytes)}; this node's memory tier "
                f"may have {format_bytes(self.limit_bytes)} and has {format_bytes(used_bytes)}",
                hint="raise the pool's host_memory_bytes or lower checkpoint.copies",
            )
        return wanted_bytes

    def _make_pair(self, key: Key, layout: Layout, number: int) -> Pair:
        group, rank, role = key
        make_private_directory(self.directory)
        pair = Pair(key, layout)
        try:
            for side in range(2):
                slot = Slot.create(
                    self.directory / f"{group}-{rank}-{role}-{number}-{side}.slot",
                    run_id=self.run_id,
                    group=group,
                    rank=rank,
                    role=role,
                    **layout._asdict(),
                )
                pair.cells.append(Cell(slot))
        except BaseException:
            for cell in pair.cells:
                self._remove(cell)
            raise
        return pair

    def _free_cell(self, key: Key, layout: Layout, shard: HeldShard, wait_s: float) -> Cell:
        """A cell that may be filled with this shard. Waits for one: a commit that frees it may be on its way."""
        until = time.monotonic() + wait_s
        while True:
            pair = self._pair(key, layout)
            if self._holds(shard, shard.role):
                raise UsageError(f"shard {shard.group}/{shard.rank} of step {shard.step} is here already")
            left_s = until - time.monotonic()
            cell = choose(pair, shard, give_up_stale=left_s <= 0)
            if cell is not None:
                return cell
            if left_s <= 0:
                raise UsageError(
                    f"no slot for shard {shard.group}/{shard.rank} of step {shard.step}: one is committed, the other "
                    f"was not freed within {wait_s:g} s"
                )
            self._changed.wait(left_s)

    def _flip(self, pair: Pair, index: int, step: Step) -> None:
        slot = pair.cells[index].slot
        if slot.state is not SlotState.COMMITTED:
            slot.mark(SlotState.COMMITTED)
        other = pair.cells[1 - index]
        state = state_of(other.slot)
        if state is SlotState.COMMITTED or (state in PENDING and step_of(other.slot) <= step):
            other.obsolete = True  # EMPTY and FILLING are the worker's: it may be writing the header right now

    def _supersede(self, cell: Cell) -> None:
        """A committed shard was received into `cell`: whatever else was committed for this key is obsolete."""
        for pairs in self._pairs.values():
            for pair in pairs:
                if cell in pair.cells:
                    self._flip(pair, pair.cells.index(cell), cell.slot.content.step)
                    for old in pairs[:-1]:
                        self._retire(old, keep_committed=False)
                    return

    def _expire(self, pairs: list[Pair], step: Step) -> None:
        for pair in pairs:
            if not any(cell.filling or step_of(cell.slot) >= step for cell in pair.cells):
                self._retire(pair, keep_committed=False)

    def _retire(self, pair: Pair, *, keep_committed: bool) -> None:
        pair.retired = True
        keep = pair.committed() if keep_committed else -1
        for index, cell in enumerate(pair.cells):
            cell.obsolete = cell.obsolete or index != keep

    def _free(self, concerns: Callable[[Slot], bool]) -> tuple[Flip, ...]:
        flips: list[Flip] = []
        with self._changed:
            for key, pairs in self._pairs.items():
                current = pairs[-1]
                found = False
                for cell in current.cells:
                    if state_of(cell.slot) in PENDING and concerns(cell.slot):
                        cell.obsolete = found = True
                if found:
                    flips.append(Flip(*key, committed=current.committed()))
            self._sweep()
            self._changed.notify_all()
        return tuple(flips)

    def _sweep(self) -> None:
        """Release obsolete cells that nobody uses any more; remove those of retired pairs."""
        for key, pairs in list(self._pairs.items()):
            for pair in list(pairs):
                for cell in list(pair.cells):
                    if cell.obsolete and not cell.in_use:
                        if pair.retired:
                            self._remove(cell)
                            pair.cells.remove(cell)
                        else:
                            cell.slot.release()
                            cell.obsolete = False
                if pair.retired and not pair.cells:
                    pairs.remove(pair)
            if not pairs:
                del self._pairs[key]

    def _remove(self, cell: Cell) -> None:
        cell.slot.path.unlink(missing_ok=True)
        cell.slot.close()


def make_private_directory(directory: Path) -> None:
    """Make a directory, and its parents, that only this user may enter.

    Raises EnvironmentFault when it, or the `myriarch-<uid>` above it, is open to others or belongs to somebody else:
    shared memory is world-writable, and a stranger may have been there first.
    """
    for path in (*reversed(directory.parents), directory):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if path != directory and not path.name.startswith("myriarch-"):
            continue
        seen = path.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
            raise EnvironmentFault(
                f"{path} is not a private folder of user {os.getuid()} "
                f"(owner {seen.st_uid}, mode {stat.filemode(seen.st_mode)})",
                hint="remove it, or let its owner remove it",
            )


def _remove_empty(directory: Path) -> None:
    """Remove the directory and its empty parents, up to and including `myriarch-<uid>`."""
    scheme = next((p for p in directory.parents if p.name.startswith("myriarch-")), directory)
    for path in (directory, *directory.parents):
        try:
            path.rmdir()
        except OSError:
            return  # another node of this machine still has its own here
        if path == scheme:
            return
