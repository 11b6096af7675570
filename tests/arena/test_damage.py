"""Flipped bits, cut files, foreign blocks: every one of them is found, none is ever read as a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.arena.copier import SpanCopier
from myriarch.arena.slot import BLOCK_BYTES, PAGE_BYTES, Slot, SlotState
from myriarch.errors import IntegrityError
from myriarch.event.ids import Incarnation, Step

MakeSlot = Callable[..., Slot]
Fill = Callable[..., str]

PAYLOAD_BYTES = 2 * BLOCK_BYTES + 1000
INDEX = bytes(range(256)) * 4

REGIONS = {
    "header": (0, 4088),
    "state": (4088, PAGE_BYTES),
    "index": (PAGE_BYTES, PAGE_BYTES + len(INDEX)),
    "block table": (2 * PAGE_BYTES, 2 * PAGE_BYTES + 3 * 8),
    "payload": (3 * PAGE_BYTES, 3 * PAGE_BYTES + PAYLOAD_BYTES),
}
"""All bytes of the file but the padding, which carries no meaning."""


@pytest.fixture(scope="module")
def sealed(make_slot: MakeSlot, fill: Fill) -> Slot:
    slot = make_slot(PAYLOAD_BYTES)
    fill(slot, np.random.default_rng(1).bytes(PAYLOAD_BYTES), index=INDEX)
    slot.mark(SlotState.COMMITTED)
    return slot


def look_at_everything(path: Path) -> None:
    with Slot.open(path) as slot:
        slot.verify()


def flip(path: Path, position: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        old = file.read(1)[0]
        file.seek(position)
        file.write(bytes([old ^ mask]))


@pytest.mark.parametrize("region", REGIONS)
@given(data=st.data())
def test_every_flip_is_found(sealed: Slot, region: str, data: st.DataObject) -> None:
    start, end = REGIONS[region]
    position = data.draw(st.integers(start, end - 1))
    mask = data.draw(st.integers(1, 255))
    look_at_everything(sealed.path)
    flip(sealed.path, position, mask)
    try:
        with pytest.raises(IntegrityError):
            look_at_everything(sealed.path)
    finally:
        flip(sealed.path, position, mask)


def test_every_single_bit_of_the_header_page_counts(sealed: Slot) -> None:
    for position in range(0, PAGE_BYTES, 3):
        flip(sealed.path, position, 1 << position % 8)
        with pytest.raises(IntegrityError):
            look_at_everything(sealed.path)
        flip(sealed.path, position, 1 << position % 8)
    look_at_everything(sealed.path)


@given(position=st.integers(0, PAYLOAD_BYTES - 1), offset=st.integers(0, PAYLOAD_BYTES), length=st.integers(0, 5000))
def test_reading_meets_the_flips_of_its_blocks_and_no_others(
    sealed: Slot, position: int, offset: int, length: int
) -> None:
    length = min(length, PAYLOAD_BYTES - offset)
    touched = range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1) if length else range(0)
    flip(sealed.path, REGIONS["payload"][0] + position, 0x10)
    try:
        with Slot.open(sealed.path) as reader:
            if position // BLOCK_BYTES in touched:
                with pytest.raises(IntegrityError, match=f"block {position // BLOCK_BYTES} of 3"):
                    reader.read(offset, length)
            else:
                assert len(reader.read(offset, length)) == length
    finally:
        flip(sealed.path, REGIONS["payload"][0] + position, 0x10)


def test_the_first_bad_block_is_named(sealed: Slot) -> None:
    start = REGIONS["payload"][0]
    for block in (1, 2):
        flip(sealed.path, start + block * BLOCK_BYTES + 5, 1)
    with pytest.raises(IntegrityError, match=r"block 1 of 3 does not match its hash \(shard g/0, step 1\)"):
        look_at_everything(sealed.path)
    for block in (1, 2):
        flip(sealed.path, start + block * BLOCK_BYTES + 5, 1)


def test_swapped_blocks_are_found(sealed: Slot) -> None:
    payload = sealed.payload
    first, second = bytes(payload[:BLOCK_BYTES]), bytes(payload[BLOCK_BYTES : 2 * BLOCK_BYTES])
    payload[:BLOCK_BYTES], payload[BLOCK_BYTES : 2 * BLOCK_BYTES] = second, first
    with pytest.raises(IntegrityError, match="block 0"):
        look_at_everything(sealed.path)
    payload[:BLOCK_BYTES], payload[BLOCK_BYTES : 2 * BLOCK_BYTES] = first, second
    look_at_everything(sealed.path)


@given(size_bytes=st.integers(0, 4 * BLOCK_BYTES))
def test_a_file_of_another_length_is_refused(sealed: Slot, folder: Path, size_bytes: int) -> None:
    content = sealed.path.read_bytes()
    path = folder / "cut"
    path.write_bytes((content + bytes(4 * BLOCK_BYTES))[:size_bytes])
    if size_bytes == len(content):
        look_at_everything(path)
    else:
        with pytest.raises(IntegrityError):
            look_at_everything(path)


def test_a_file_cut_while_it_is_mapped_is_an_error_and_no_crash(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(PAYLOAD_BYTES)
    fill(slot, bytes(PAYLOAD_BYTES))
    with Slot.open(slot.path) as reader:
        with slot.path.open("r+b") as file:
            file.truncate(2 * PAGE_BYTES)
        with pytest.raises(IntegrityError, match="its header speaks of"):
            reader.verify()
        with pytest.raises(IntegrityError, match="its header speaks of"):
            reader.read(BLOCK_BYTES, 10)


@pytest.mark.parametrize("region", ["index", "block table", "payload"])
def test_regions_of_another_snapshot_are_found(make_slot: MakeSlot, fill: Fill, region: str) -> None:
    """A stale generation: every byte intact, and of another step."""
    old, new = make_slot(PAYLOAD_BYTES), make_slot(PAYLOAD_BYTES)
    fill(old, bytes(PAYLOAD_BYTES), step=1, index=INDEX)
    fill(new, b"\1" * PAYLOAD_BYTES, step=2, index=INDEX[::-1])
    start, end = REGIONS[region]
    stale = old.path.read_bytes()[start:end]
    with new.path.open("r+b") as file:
        file.seek(start)
        file.write(stale)
    with pytest.raises(IntegrityError):
        look_at_everything(new.path)


def test_a_header_of_another_seal_does_not_fit_the_state_word(make_slot: MakeSlot, fill: Fill) -> None:
    slot = make_slot(PAYLOAD_BYTES)
    fill(slot, bytes(PAYLOAD_BYTES), step=1)
    header = slot.path.read_bytes()[: REGIONS["state"][0]]
    fill(slot, bytes(PAYLOAD_BYTES), step=2)
    with slot.path.open("r+b") as file:
        file.write(header)
    with pytest.raises(IntegrityError, match="does not belong to the header"):
        look_at_everything(slot.path)


def test_a_restore_in_place_stops_at_a_bad_block(make_slot: MakeSlot) -> None:
    slot = make_slot(PAYLOAD_BYTES)
    state = np.random.default_rng(2).integers(0, 255, PAYLOAD_BYTES, dtype=np.uint8)
    copier = SpanCopier([(0, int(state.ctypes.data), PAYLOAD_BYTES)], PAYLOAD_BYTES)
    slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")
    slot.seal(copier.copy_into(slot))
    saved = state.copy()
    state[:] = 0
    slot.payload[BLOCK_BYTES + 3] ^= 1
    with pytest.raises(IntegrityError, match="block 1 of 3"):
        copier.copy_out(slot)
    assert (state[BLOCK_BYTES:] == 0).all(), "nothing of the bad block, or after it, was copied"
    slot.payload[BLOCK_BYTES + 3] ^= 1
    copier.copy_out(slot)
    assert (state == saved).all()
