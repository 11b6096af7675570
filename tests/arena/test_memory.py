"""A node's memory tier: whatever comes and goes, the committed snapshot stays until a newer one is committed."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from myriarch.arena import memory as memory_module
from myriarch.arena.memory import Flip, NodeMemory, SlotPair, make_private_directory, node_directory
from myriarch.arena.slot import BLOCK_BYTES, Slot, SlotState, root_of
from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

Fill = Callable[..., str]

G = GroupId("g")
R = Rank(0)
ROOM = 64


@pytest.fixture
def memory(folder: Path) -> Iterator[NodeMemory]:
    with NodeMemory(folder / "node", "run") as memory:
        yield memory
        memory.check()
    assert not (folder / "node").exists()


def ensure(
    memory: NodeMemory, payload_bytes: int = 10, *, layout: str = "a", rank: int = 0, role: Role = "own"
) -> SlotPair:
    return memory.ensure(
        G, Rank(rank), world_size=1, role=role, layout_hash=layout, payload_bytes=payload_bytes, index_bytes=ROOM
    )


def snapshot(
    pair: SlotPair, fill: Fill, content: bytes, *, step: int, incarnation: int = 1, side: int | None = None
) -> int:
    """What a worker does; returns the slot it took."""
    for index, path in enumerate(pair.paths):
        with Slot.open(path, writable=True) as slot:
            if index == side or (side is None and slot.state < SlotState.SEALED):
                fill(slot, content, step=step, incarnation=incarnation)
                return index
    raise AssertionError("no free slot")


def shard_of(content: bytes, *, step: int, incarnation: int = 1, rank: int = 0, committed: bool = False) -> HeldShard:
    return HeldShard(
        group=G, rank=Rank(rank), world_size=1, step=Step(step), incarnation=Incarnation(incarnation), role="copy",
        size_bytes=len(content), root=root_of(hashes_of(content)), committed=committed,
    )  # fmt: skip


def hashes_of(content: bytes) -> list[int]:
    return [
        xxhash.xxh3_64_intdigest(content[start : start + BLOCK_BYTES]) for start in range(0, len(content), BLOCK_BYTES)
    ]


def receive(
    memory: NodeMemory, shard: HeldShard, content: bytes, *, wait_s: float = 0.0, layout: str = "a"
) -> HeldShard:
    """What the byte server does."""
    hashes = hashes_of(content)
    with memory.receiving(
        shard,
        layout_hash=layout,
        digest="d",
        index=b"index",
        index_room_bytes=ROOM,
        block_hashes=hashes,
        wait_s=wait_s,
    ) as target:
        target.payload[:] = content
        for number in range(len(hashes)):
            target.check_block(number)
        return target.publish()


def steps(memory: NodeMemory) -> set[tuple[int, str, bool]]:
    return {(shard.step, shard.role, shard.committed) for shard in memory.held()}


# --- own slots -------------------------------------------------------------------------------------------------------


def test_two_slots_that_take_turns(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    assert pair.committed == -1
    for step in range(1, 6):
        side = snapshot(pair, fill, b"%010d" % step, step=step)
        assert memory.commit(Step(step)) == (Flip(G, R, "own", side),)
        assert steps(memory) == {(step, "own", True)}
        assert ensure(memory) == SlotPair(pair.paths, side)
    found = memory.find(G, R, Step(5), Incarnation(1))
    assert found is not None
    assert found.read(0, 10) == b"0000000005"
    assert memory.find(G, R, Step(4)) is None


def test_both_slots_may_wait_for_their_commit(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    assert snapshot(pair, fill, b"0" * 10, step=1) == 0
    assert snapshot(pair, fill, b"1" * 10, step=2) == 1
    assert memory.commit(Step(1)) == (Flip(G, R, "own", 0),)
    assert steps(memory) == {(1, "own", True), (2, "own", False)}
    assert memory.commit(Step(2)) == (Flip(G, R, "own", 1),)
    assert steps(memory) == {(2, "own", True)}


def test_a_pending_snapshot_older_than_the_commit_is_freed(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    snapshot(pair, fill, b"1" * 10, step=2)
    memory.commit(Step(2))
    assert steps(memory) == {(2, "own", True)}


def test_drop_frees_what_is_pending_and_nothing_else(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    snapshot(pair, fill, b"1" * 10, step=2)
    assert memory.drop(Step(1)) == ()
    assert memory.drop(Step(2), Incarnation(9)) == ()
    assert memory.drop(Step(2), Incarnation(1)) == (Flip(G, R, "own", 0),)
    assert steps(memory) == {(1, "own", True)}
    assert snapshot(pair, fill, b"2" * 10, step=3) == 1


def test_commit_takes_the_incarnation_that_is_meant(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=5, incarnation=1)
    snapshot(pair, fill, b"1" * 10, step=5, incarnation=2)
    assert memory.commit(Step(5), Incarnation(3)) == ()
    assert memory.commit(Step(5), Incarnation(2)) == (Flip(G, R, "own", 1),)
    assert [shard.incarnation for shard in memory.held()] == [2]


def test_what_older_incarnations_left_is_discarded(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=5, incarnation=1)
    memory.commit(Step(5))
    snapshot(pair, fill, b"1" * 10, step=10, incarnation=1)
    assert memory.discard_stale(Incarnation(1)) == ()
    assert memory.discard_stale(Incarnation(2)) == (Flip(G, R, "own", 0),)
    assert steps(memory) == {(5, "own", True)}


def test_replicated_is_for_that_snapshot_only(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=5)
    memory.replicated(G, R, step=Step(5), incarnation=Incarnation(2))
    slot = memory.find(G, R, Step(5))
    assert slot is not None
    states = [slot.state]
    for _ in range(2):
        memory.replicated(G, R, step=Step(5), incarnation=Incarnation(1))
        states.append(slot.state)
    assert states == [SlotState.SEALED, SlotState.REPLICATED, SlotState.REPLICATED]
    assert memory.commit(Step(5))


def test_a_new_layout_keeps_the_committed_snapshot_of_the_old(memory: NodeMemory, fill: Fill) -> None:
    old = ensure(memory)
    snapshot(old, fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    new = ensure(memory, 20, layout="b")
    assert new.committed == -1
    assert not set(new.paths) & set(old.paths)
    assert steps(memory) == {(1, "own", True)}
    assert [Path(path).exists() for path in old.paths] == [True, False]
    snapshot(new, fill, b"1" * 20, step=2)
    assert steps(memory) == {(1, "own", True), (2, "own", False)}
    newest = ensure(memory, 30, layout="c")
    assert steps(memory) == {(1, "own", True)}, "a pending snapshot of a layout that is given up is worth nothing"
    snapshot(newest, fill, b"2" * 30, step=3)
    memory.commit(Step(3))
    assert steps(memory) == {(3, "own", True)}
    assert not any(Path(path).exists() for path in (*old.paths, *new.paths))


@pytest.mark.parametrize(
    ("position", "complaint"),
    [(4088, "torn or damaged slot"), (2060, "does not match its checksum"), (4080, "torn or damaged slot")],
    ids=["state", "content", "checksum"],
)
def test_a_damaged_slot_is_not_held_and_can_be_filled_again(
    memory: NodeMemory, fill: Fill, caplog: pytest.LogCaptureFixture, position: int, complaint: str
) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    with open(pair.paths[0], "r+b") as file:
        file.seek(position)
        file.write(b"\xff")
    assert memory.held() == ()
    assert complaint in caplog.text
    assert memory.find(G, R, Step(1)) is None
    assert memory.commit(Step(1)) == memory.drop(Step(1)) == memory.discard_stale(Incarnation(2)) == ()
    assert ensure(memory) == pair
    assert snapshot(pair, fill, b"1" * 10, step=2) == 0
    memory.commit(Step(2))
    assert steps(memory) == {(2, "own", True)}


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_pinned_slot_outlives_the_next_commit(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    memory.pin(pair.paths[0])
    memory.pin(pair.paths[0])
    snapshot(pair, fill, b"1" * 10, step=2)
    memory.commit(Step(2))
    with Slot.open(pair.paths[0], writable=True) as slot:
        assert slot.state is SlotState.COMMITTED, "a worker sees that it is not free"
        assert slot.read(0, 10) == b"0" * 10
        memory.unpin(pair.paths[0])
        assert slot.read(0, 10) == b"0" * 10
        memory.unpin(pair.paths[0])
        assert not slot.sealed
    assert steps(memory) == {(2, "own", True)}
    with pytest.raises(UsageError, match="is not pinned"):
        memory.unpin(pair.paths[0])
    with pytest.raises(UsageError, match="is not a slot of this node"):
        memory.pin("/nowhere")


def test_reading_pins(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    (shard,) = memory.held()
    with memory.reading(shard) as slot:
        memory.forget()
        assert memory.held() == ()
        assert slot.read(0, 10) == b"0" * 10
    assert memory.used_bytes == 0
    assert not Path(pair.paths[0]).exists()
    with pytest.raises(UsageError, match="is not in this node's memory"), memory.reading(shard):
        pass


def test_forget_is_selective(memory: NodeMemory, fill: Fill) -> None:
    for rank in (0, 1):
        snapshot(ensure(memory, rank=rank), fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    memory.forget(G, Rank(1))
    assert [shard.rank for shard in memory.held()] == [0]
    memory.forget()
    assert memory.held() == ()
    assert memory.used_bytes == 0


# --- other nodes' shards ---------------------------------------------------------------------------------------------


def test_copies_are_committed_with_everything_else(memory: NodeMemory) -> None:
    for step in (1, 2, 3):
        content = b"%010d" % step
        shard = shard_of(content, step=step)
        assert not memory.holds(shard)
        assert receive(memory, shard, content) == shard
        assert memory.holds(shard)
        assert memory.commit(Step(step), Incarnation(1))[0].role == "copy"
        assert steps(memory) == {(step, "copy", True)}


def test_a_copy_whose_placement_moved_on_goes_with_the_next_commit(memory: NodeMemory, fill: Fill) -> None:
    receive(memory, shard_of(b"0" * 10, step=1, rank=1), b"0" * 10)
    snapshot(ensure(memory), fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    assert steps(memory) == {(1, "own", True), (1, "copy", True)}
    snapshot(ensure(memory), fill, b"1" * 10, step=2)
    memory.commit(Step(2))
    assert steps(memory) == {(2, "own", True)}


def test_a_fetched_shard_is_committed_at_once_and_replaces_what_was(memory: NodeMemory, fill: Fill) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    memory.commit(Step(1))
    content = b"9" * 10
    fetched = msgspec.structs.replace(shard_of(content, step=7, committed=True), role="own")
    assert receive(memory, fetched, content) == fetched
    assert steps(memory) == {(7, "own", True)}
    assert ensure(memory) == SlotPair(pair.paths, 1), "the slots that the worker's own snapshots go on in"


def test_a_transfer_that_broke_off_is_invisible_and_its_slot_is_used_again(memory: NodeMemory) -> None:
    content = b"\1" * (BLOCK_BYTES + 5)
    shard = shard_of(content, step=1)

    def broken_off() -> None:
        with memory.receiving(
            shard, layout_hash="a", digest="", index=b"", index_room_bytes=ROOM, block_hashes=hashes_of(content)
        ) as target:
            target.payload[:BLOCK_BYTES] = content[:BLOCK_BYTES]
            target.check_block(0)
            raise ConnectionError("the sender is gone")

    used = set()
    for _ in range(3):
        with pytest.raises(ConnectionError):
            broken_off()
        assert memory.held() == ()
        assert not memory.holds(shard)
        used.add(memory.used_bytes)
    receive(memory, shard, content)
    assert used == {memory.used_bytes}
    assert steps(memory) == {(1, "copy", False)}


def test_a_wrong_block_is_named(memory: NodeMemory) -> None:
    content = b"\1" * (BLOCK_BYTES + 5)
    shard = shard_of(content, step=1)
    with (
        pytest.raises(IntegrityError, match="block 1 of 2 of shard g/0 at step 1 arrived"),
        memory.receiving(
            shard, layout_hash="a", digest="", index=b"", index_room_bytes=ROOM, block_hashes=hashes_of(content)
        ) as target,
    ):
        target.payload[:] = content[:-1] + b"\2"
        target.check_block(0)
        target.check_block(1)
    assert memory.held() == ()


def test_hashes_that_do_not_add_up_to_the_root_are_refused(memory: NodeMemory) -> None:
    shard = shard_of(b"0" * 10, step=1)
    with (
        pytest.raises(IntegrityError, match="does not match its root"),
        memory.receiving(shard, layout_hash="a", digest="", index=b"", index_room_bytes=ROOM, block_hashes=[1]),
    ):
        pass
    assert memory.used_bytes == 0


def test_a_received_shard_waits_for_the_commit_that_frees_its_slot(memory: NodeMemory) -> None:
    """The sender may hear of the commit first, and push the next snapshot before this node has."""
    receive(memory, shard_of(b"1" * 10, step=1), b"1" * 10)
    memory.commit(Step(1))
    receive(memory, shard_of(b"2" * 10, step=2), b"2" * 10)
    with pytest.raises(UsageError, match="no slot for shard g/0 of step 3"):
        receive(memory, shard_of(b"3" * 10, step=3), b"3" * 10, wait_s=0.05)
    assert steps(memory) == {(1, "copy", True), (2, "copy", False)}
    received: list[HeldShard] = []
    third = threading.Thread(
        target=lambda: received.append(receive(memory, shard_of(b"3" * 10, step=3), b"3" * 10, wait_s=30))
    )
    third.start()
    memory.commit(Step(2))
    third.join(30)
    assert [shard.step for shard in received] == [3]
    assert steps(memory) == {(2, "copy", True), (3, "copy", False)}


def test_a_pending_copy_of_an_older_incarnation_gives_way_after_the_wait(memory: NodeMemory) -> None:
    receive(memory, shard_of(b"1" * 10, step=1), b"1" * 10)
    memory.commit(Step(1))
    receive(memory, shard_of(b"2" * 10, step=2), b"2" * 10)
    receive(memory, shard_of(b"3" * 10, step=2, incarnation=2), b"3" * 10, wait_s=0.05)
    assert steps(memory) == {(1, "copy", True), (2, "copy", False)}
    memory.commit(Step(2), Incarnation(2))
    found = memory.find(G, R, Step(2))
    assert found is not None
    assert found.read(0, 10) == b"3" * 10


def test_what_is_here_already_is_not_received_again(memory: NodeMemory) -> None:
    shard = shard_of(b"1" * 10, step=1)
    receive(memory, shard, b"1" * 10)
    with pytest.raises(UsageError, match="is here already"):
        receive(memory, shard, b"1" * 10)


# --- limits, places, the end -----------------------------------------------------------------------------------------


def test_the_limit_is_kept_and_named(folder: Path) -> None:
    with NodeMemory(folder / "limited", "run", limit_bytes=1 << 20) as memory:
        ensure(memory, 100_000)
        used = memory.used_bytes
        with pytest.raises(EnvironmentFault, match=r"two slots for g/1 \(own\) take .* may have 1 MiB and has"):
            ensure(memory, 1_000_000, rank=1)
        assert memory.used_bytes == used
        assert len(list((folder / "limited").iterdir())) == 2


def test_no_room_for_the_second_slot_leaves_none(memory: NodeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.posix_fallocate, []

    def second_fails(descriptor: int, offset: int, size_bytes: int) -> None:
        calls.append(size_bytes)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, size_bytes)

    monkeypatch.setattr(os, "posix_fallocate", second_fails)
    with pytest.raises(EnvironmentFault, match="has no room"):
        ensure(memory, 1000)
    assert memory.used_bytes == 0
    assert list(memory.directory.iterdir()) == []
    assert ensure(memory, 1000).committed == -1


def test_making_slots_holds_nobody_up(memory: NodeMemory, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ensure(memory)
    snapshot(pair, fill, b"0" * 10, step=1)
    under_way, go_on = threading.Event(), threading.Event()
    real = Slot.create

    def slow(*arguments: object, **named: object) -> Slot:
        under_way.set()
        assert go_on.wait(30)
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Slot, "create", slow)
    pairs: list[SlotPair] = []
    makers = [threading.Thread(target=lambda: pairs.append(ensure(memory, 99, rank=1))) for _ in range(2)]
    for maker in makers:
        maker.start()
    assert under_way.wait(30)
    assert memory.commit(Step(1)) == (Flip(G, R, "own", 0),)
    assert len(memory.held()) == 1
    go_on.set()
    for maker in makers:
        maker.join(30)
    assert len(set(pairs)) == 1, "both got the same slots"
    assert len(pairs) == 2


def test_closing_while_slots_are_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = NodeMemory(folder / "closing", "run")
    under_way, go_on = threading.Event(), threading.Event()
    real = memory_module.make_private_directory

    def slow(directory: Path) -> None:
        under_way.set()
        assert go_on.wait(30)
        real(directory)

    monkeypatch.setattr(memory_module, "make_private_directory", slow)
    errors: list[Exception] = []

    def make() -> None:
        try:
            ensure(memory)
        except UsageError as error:
            errors.append(error)

    maker = threading.Thread(target=make)
    maker.start()
    assert under_way.wait(30)
    memory.close()
    go_on.set()
    maker.join(30)
    assert len(errors) == 1
    assert not (folder / "closing").exists()


def test_close_leaves_nothing_not_even_the_folders(folder: Path) -> None:
    root = folder / "shm"
    root.mkdir()
    directories = [node_directory("run-1", node, "boot", root=root) for node in ("fast-0", "fast-1")]
    open_before = len(os.listdir("/proc/self/fd"))
    memories = [NodeMemory(directory, "run-1") for directory in directories]
    for memory in memories:
        ensure(memory)
        (memory.directory / "beacons").write_bytes(b"")
        assert memory.directory.stat().st_mode & 0o777 == 0o700
        assert memory.directory.parents[1].stat().st_mode & 0o777 == 0o700
    memories[0].close()
    memories[0].close()
    assert [path.name for path in directories[0].parent.iterdir()] == ["fast-1-boot"]
    memories[1].close()
    assert list(root.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == open_before
    with pytest.raises(UsageError, match="is closed"):
        ensure(memories[0])


def test_a_folder_that_is_not_ours_alone_is_refused(folder: Path) -> None:
    theirs = folder / "myriarch-0"
    theirs.mkdir(mode=0o755)
    with pytest.raises(EnvironmentFault, match="is not a private folder"):
        make_private_directory(theirs / "run" / "node")
    theirs.rmdir()
    theirs.symlink_to(folder)
    with pytest.raises(EnvironmentFault, match="is not a private folder"):
        make_private_directory(theirs / "run" / "node")
    theirs.unlink()


# --- any order of anything -------------------------------------------------------------------------------------------


class MemoryMachine(RuleBasedStateMachine):
    """One own shard and one copy under random orders; a model of what must be restorable."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(
            prefix="arena-test-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
        )
        self.memory = NodeMemory(Path(self.place.name) / "node", "run")
        self.committed: dict[Role, tuple[int, int, bytes] | None] = {"own": None, "copy": None}
        self.step = 0
        self.incarnation = 1
        self.pins: list[tuple[str, bytes]] = []

    @initialize()
    def start(self) -> None:
        self.size = 1000
        self.pair = self.make()

    def make(self) -> SlotPair:
        return ensure(self.memory, self.size, layout=str(self.size))

    def content(self, role: Role) -> bytes:
        return np.random.default_rng([self.step, self.incarnation, role == "own", self.size]).bytes(self.size)

    @rule(dies=st.booleans())
    def snapshot(self, dies: bool) -> None:
        self.step += 1
        for path in self.pair.paths:
            with Slot.open(path, writable=True) as slot:
                if slot.state >= SlotState.SEALED:
                    continue
                slot.begin(step=Step(self.step), incarnation=Incarnation(self.incarnation), index=b"i")
                slot.payload[:] = self.content("own")
                if not dies:
                    slot.seal(hashes_of(self.content("own")))
                return

    @rule()
    def push(self) -> None:
        shard = msgspec.structs.replace(
            shard_of(self.content("copy"), step=self.step, incarnation=self.incarnation), rank=Rank(1)
        )
        with suppress(UsageError):  # there already, or no slot is free
            receive(self.memory, shard, self.content("copy"), layout=str(self.size))

    @rule()
    def commit(self) -> None:
        flips = self.memory.commit(Step(self.step), Incarnation(self.incarnation))
        got = {flip.role for flip in flips}
        for role in got:
            self.committed[role] = (self.step, self.incarnation, self.content(role))
        if "copy" not in got:
            copy = self.committed["copy"]
            if copy is not None and not any(
                shard.role == "copy" and shard.step == copy[0] for shard in self.memory.held()
            ):
                self.committed["copy"] = None  # expired: it was older than this commit

    @rule()
    def drop(self) -> None:
        self.memory.drop(Step(self.step))

    @rule()
    def fault(self) -> None:
        self.incarnation += 1
        self.memory.discard_stale(Incarnation(self.incarnation))
        self.pair = self.make()

    @rule(size=st.sampled_from([500, 1000, BLOCK_BYTES + 1]))
    def reshard(self, size: int) -> None:
        self.size = size
        self.fault()

    @precondition(lambda self: len(self.pins) < 2)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        held = self.memory.held()
        if held:
            shard = data.draw(st.sampled_from(held))
            slot = self.memory.find(shard.group, shard.rank, shard.step, shard.incarnation, role=shard.role)
            assert slot is not None
            self.memory.pin(slot.path)
            self.pins.append((str(slot.path), bytes(slot.payload)))

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        path, content = self.pins.pop(0)
        with Slot.open(path) as slot:
            assert slot.read(0, len(content)) == content, "a pinned slot never changes"
        self.memory.unpin(path)

    @invariant()
    def committed_is_restorable(self) -> None:
        self.memory.check()
        for shard in self.memory.held():
            slot = self.memory.find(shard.group, shard.rank, shard.step, shard.incarnation, role=shard.role)
            assert slot is not None
            slot.verify()
        for role, expected in self.committed.items():
            if expected is not None:
                step, incarnation, content = expected
                rank = Rank(0) if role == "own" else Rank(1)
                slot = self.memory.find(G, rank, Step(step), Incarnation(incarnation), role=role)
                assert slot is not None, f"the committed {role} snapshot of step {step} is gone"
                assert slot.state is SlotState.COMMITTED
                assert bytes(slot.payload) == content

    def teardown(self) -> None:
        self.memory.close()
        self.place.cleanup()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
