"""A slot is trusted whole or refused: its states, its hashes, what happens when it does not fit."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.arena.slot import BLOCK_BYTES, PAGE_BYTES, Slot, SlotState, block_count, root_of, slot_bytes
from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.events import HeldShard
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

MakeSlot = Callable[..., Slot]
Fill = Callable[..., str]

SIZES = [0, 1, 63, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17]


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    return bytes((i * 131 + seed * 17 + (i >> 8)) & 0xFF for i in range(min(size_bytes, 65537))) * (
        size_bytes // 65537 + 1
    )


def content_of(size_bytes: int, seed: int = 0) -> bytes:
    return pattern(size_bytes, seed)[:size_bytes]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_what_was_sealed_is_read_back(make_slot: MakeSlot, fill: Fill, size_bytes: int) -> None:
    slot = make_slot(size_bytes)
    content = content_of(size_bytes)
    root = fill(slot, content, step=7, incarnation=3, index=b"where things lie", digest="abc")
    with Slot.open(slot.path) as reader:
        reader.verify()
        assert reader.read(0, size_bytes) == content
        assert bytes(reader.payload) == content
        assert reader.index == b"where things lie"
        assert root_of(reader.block_hashes) == root
        assert len(reader.block_hashes) == block_count(size_bytes)
        assert reader.digest == "abc"
        assert reader.held() == HeldShard(
            group=GroupId("g"), rank=Rank(0), world_size=1, step=Step(7), incarnation=Incarnation(3), role="own",
            size_bytes=size_bytes, root=root,
        )  # fmt: skip


def test_the_file_is_private_and_as_large_as_announced(make_slot: MakeSlot) -> None:
    slot = make_slot(BLOCK_BYTES + 1, index_bytes=5000)
    seen = slot.path.stat()
    assert seen.st_mode & 0o777 == 0o600
    assert seen.st_size == slot.size_bytes == slot_bytes(payload_bytes=BLOCK_BYTES + 1, index_bytes=5000)
    assert slot.payload_address % PAGE_BYTES == 0
    assert seen.st_blocks * 512 >= seen.st_size, "allocated, not sparse"


@given(offset=st.integers(0, 2 * BLOCK_BYTES + 99), size_bytes=st.integers(0, 2 * BLOCK_BYTES + 99))
def test_any_part_can_be_read(make_slot: MakeSlot, fill: Fill, offset: int, size_bytes: int) -> None:
    total = 2 * BLOCK_BYTES + 99
    content = content_of(total)
    slot = _once(make_slot, fill, content)
    if offset + size_bytes > total:
        with pytest.raises(UsageError):
            slot.read(offset, size_bytes)
    else:
        assert slot.read(offset, size_bytes) == content[offset : offset + size_bytes]


_made: dict[int, Slot] = {}


@pytest.fixture(autouse=True, scope="module")
def _forget_made() -> Iterator[None]:
    yield
    _made.clear()


def _once(make_slot: MakeSlot, fill: Fill, content: bytes) -> Slot:
    """The same sealed slot for all examples of a property."""
    if len(content) not in _made:
        slot = make_slot(len(content))
        fill(slot, content)
        _made[len(content)] = slot
    return _made[len(content)]


def test_reading_proves_a_block_again_after_new_content(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(BLOCK_BYTES)
    fill(slot, content_of(BLOCK_BYTES))
    with Slot.open(slot.path) as reader:
        assert reader.read(5, 10) == content_of(BLOCK_BYTES)[5:15]
        fill(slot, content_of(BLOCK_BYTES, seed=1), step=2)
        slot.payload[100] ^= 1
        with pytest.raises(IntegrityError, match="block 0"):
            reader.read(5, 10)


# --- the state machine -----------------------------------------------------------------------------------------------


def test_the_way_of_a_snapshot(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(10)
    states = [slot.state]
    slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    states.append(slot.state)
    fill(slot, b"0123456789")
    states.append(slot.state)
    for state in (SlotState.REPLICATED, SlotState.COMMITTED):
        slot.mark(state)
        states.append(slot.state)
    assert states == list(SlotState)
    assert slot.held().committed
    with pytest.raises(UsageError, match="committed step 1"):
        slot.begin(step=Step(2), incarnation=Incarnation(1), index=b"")
    assert slot.read(0, 10) == b"0123456789"
    slot.release()
    fill(slot, b"9876543210", step=2)
    assert slot.read(0, 10) == b"9876543210"


@pytest.mark.parametrize("before", list(SlotState))
@pytest.mark.parametrize("after", list(SlotState))
def test_only_legal_transitions(make_slot: MakeSlot, fill: Fill, before: SlotState, after: SlotState) -> None:
    legal = {
        (SlotState.SEALED, SlotState.REPLICATED),
        (SlotState.SEALED, SlotState.COMMITTED),
        (SlotState.REPLICATED, SlotState.COMMITTED),
    }
    slot = make_slot(10)
    if before is SlotState.FILLING:
        slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    elif before >= SlotState.SEALED:
        fill(slot, b"0123456789")
        if before > SlotState.SEALED:
            slot.mark(before)
    assert slot.state is before
    if (before, after) in legal:
        slot.mark(after)
        assert slot.state is after
    else:
        with pytest.raises(UsageError, match=f"is {before.name}"):
            slot.mark(after)
        assert slot.state is before


@pytest.mark.parametrize("state", [SlotState.EMPTY, SlotState.FILLING])
def test_what_is_not_sealed_cannot_be_read(make_slot: MakeSlot, state: SlotState) -> None:
    slot = make_slot(10)
    if state is SlotState.FILLING:
        slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    reads: list[Callable[[], object]] = [slot.verify, slot.held, lambda: slot.read(0, 1), lambda: slot.block_hashes]
    for read in reads:
        with pytest.raises(IntegrityError, match="holds no snapshot"):
            read()


def test_only_who_began_may_seal(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(10)
    slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    with Slot.open(slot.path, writable=True) as other:
        with pytest.raises(UsageError, match="only a fill that this process began"):
            other.seal([0])
        fill(other, b"0123456789", step=1, incarnation=2)
        with pytest.raises(UsageError, match="is SEALED"):
            slot.seal([0])
        assert slot.held().incarnation == 2


def test_a_slot_that_was_released_under_its_writer_cannot_be_sealed(make_slot: MakeSlot) -> None:
    slot = make_slot(10)
    slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    with Slot.open(slot.path, writable=True) as agent:
        agent.release()
    with pytest.raises(UsageError, match="is EMPTY"):
        slot.seal([0])


def test_seal_wants_one_hash_per_block(make_slot: MakeSlot) -> None:
    slot = make_slot(BLOCK_BYTES + 1)
    slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    with pytest.raises(UsageError, match="2 blocks, 1 hashes"):
        slot.seal([0])


def test_an_index_needs_its_room(make_slot: MakeSlot) -> None:
    slot = make_slot(10, index_bytes=4)
    with pytest.raises(UsageError, match="room for an index of 4 bytes, not 5"):
        slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"12345")
    assert slot.state is SlotState.EMPTY


def test_a_reader_cannot_write(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(10)
    fill(slot, b"0123456789")
    with Slot.open(slot.path) as reader:
        assert reader.payload.readonly
        with pytest.raises(TypeError):
            reader.release()


def test_a_view_that_is_still_held_outlives_close(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(10)
    fill(slot, b"0123456789")
    reader = Slot.open(slot.path)
    view = reader.payload
    reader.close()
    assert bytes(view) == b"0123456789"
    view.release()


# --- what is not a slot, and what does not fit -----------------------------------------------------------------------


def test_opening_what_is_not_there(folder: Path) -> None:
    with pytest.raises(EnvironmentFault, match="does not exist"):
        Slot.open(folder / "nothing")


def test_opening_what_is_no_slot(folder: Path) -> None:
    path = folder / "text"
    path.write_bytes(b"some text")
    with pytest.raises(IntegrityError, match="is no slot: 9 bytes"):
        Slot.open(path)
    path.write_bytes(bytes(100_000))
    with pytest.raises(IntegrityError, match="is no slot: it begins with"):
        Slot.open(path)


def test_another_format_version_is_named(make_slot: MakeSlot) -> None:
    import xxhash

    slot = make_slot(10)
    page = bytearray(slot.path.read_bytes()[:PAGE_BYTES])
    page[8] = 9
    page[2040:2048] = xxhash.xxh3_64_intdigest(bytes(page[:2040])).to_bytes(8, "little")
    with slot.path.open("r+b") as file:
        file.write(page)
    with pytest.raises(IntegrityError, match="slot format 9, this version reads 1"):
        Slot.open(slot.path)


def test_creating_where_a_file_is_fails(make_slot: MakeSlot) -> None:
    slot = make_slot(10)
    with pytest.raises(FileExistsError):
        _create(slot.path, 10)
    assert slot.path.exists()


def _create(path: Path, payload_bytes: int) -> Slot:
    return Slot.create(
        path, run_id="r", group=GroupId("g"), rank=Rank(0), world_size=1, role="own", layout_hash="",
        payload_bytes=payload_bytes, index_bytes=10,
    )  # fmt: skip


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_names_the_place_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, offset: int, size_bytes: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(EnvironmentFault, match=r"has no room for a snapshot slot: 10 MiB wanted, .* free") as caught:
        _create(folder / "huge", 10 << 20)
    assert str(folder) in caught.value.message
    assert "remount" in caught.value.hint
    assert not (folder / "huge").exists()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_no_room_on_a_real_filesystem(tmp_path: Path) -> None:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("this user may not mount a small tmpfs")
    try:
        with _create(tmp_path / "small", 100_000):
            pass
        with pytest.raises(EnvironmentFault, match=r"2.01 MiB wanted, 912 KiB free"):
            _create(tmp_path / "large", 2 << 20)
        assert [path.name for path in tmp_path.iterdir()] == ["small"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_name_that_does_not_fit_the_header(folder: Path) -> None:
    with pytest.raises(UsageError, match="use shorter names"):
        Slot.create(
            folder / "long", run_id="r" * 5000, group=GroupId("g"), rank=Rank(0), world_size=1, role="own",
            layout_hash="", payload_bytes=1, index_bytes=1,
        )  # fmt: skip
    assert not (folder / "long").exists()
