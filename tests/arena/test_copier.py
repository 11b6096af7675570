"""Gather lists: whatever the spans, the payload is what they say, and the way back restores it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from myriarch.arena.copier import Span, SpanCopier
from myriarch.arena.slot import BLOCK_BYTES, Slot
from myriarch.errors import UsageError
from myriarch.event.ids import Incarnation, Step

MakeSlot = Callable[..., Slot]

PAYLOAD_BYTES = 2 * BLOCK_BYTES + 77


@pytest.fixture(scope="module")
def slot(make_slot: MakeSlot) -> Slot:
    return make_slot(PAYLOAD_BYTES)


def begin(slot: Slot) -> None:
    slot.begin(step=Step(1), incarnation=Incarnation(1), index=b"")


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """`(offset in the payload, offset in memory, bytes)`: pieces of the payload, some left out, in any order."""
    cuts = sorted({0, PAYLOAD_BYTES, *draw(st.lists(st.integers(0, PAYLOAD_BYTES), max_size=12))})
    pieces = [(start, end - start) for start, end in pairwise(cuts)]
    pieces = [piece for piece in pieces if draw(st.booleans()) or piece == pieces[0]]
    at = 0
    placed = []
    for start, count in draw(st.permutations(pieces)):
        at += draw(st.integers(0, 9))  # odd alignments
        placed.append((start, at, count))
        at += count
    return draw(st.permutations(placed))


@given(layout=layouts(), seed=st.integers(0, 1000))
def test_a_snapshot_holds_what_the_spans_say_and_restores_it(
    slot: Slot, layout: list[tuple[int, int, int]], seed: int
) -> None:
    memory = np.random.default_rng(seed).integers(0, 255, PAYLOAD_BYTES + 200, dtype=np.uint8)
    expected = bytearray(PAYLOAD_BYTES)
    for start, at, count in layout:
        expected[start : start + count] = memory[at : at + count].tobytes()
    base = int(memory.ctypes.data)
    copier = SpanCopier([(start, base + at, count) for start, at, count in layout], PAYLOAD_BYTES)
    begin(slot)
    slot.payload[:] = bytes(PAYLOAD_BYTES)
    hashes = copier.copy_into(slot)
    assert slot.payload == expected
    assert hashes == [xxhash.xxh3_64_intdigest(slot.payload[block]) for block in slot.blocks()]
    slot.seal(hashes)
    slot.verify()
    saved = memory.copy()
    for _, at, count in layout:
        memory[at : at + count] = 0
    copier.copy_out(slot)
    assert (memory == saved).all()


def test_neighbours_are_one_move() -> None:
    copier = SpanCopier([(100, 1100, 50), (0, 1000, 100), (150, 2000, 10), (160, 2010, 0)], 200)
    assert copier.spans == [(0, 1000, 150), (150, 2000, 10)]


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 1000, 10), (9, 2000, 5)],
        [(195, 1000, 6)],
        [(-1, 1000, 5)],
        [(0, 1000, -5)],
    ],
    ids=["overlap", "past the end", "before the start", "negative"],
)
def test_spans_that_cannot_be(spans: list[Span]) -> None:
    with pytest.raises(UsageError, match="span of"):
        SpanCopier(spans, 200)


def test_nothing_to_copy(make_slot: MakeSlot) -> None:
    slot = make_slot(0)
    begin(slot)
    slot.seal(SpanCopier([], 0).copy_into(slot))
    slot.verify()


def test_a_slot_of_another_size_is_refused(slot: Slot) -> None:
    with pytest.raises(UsageError, match="ask for new slots"):
        SpanCopier([], 10).copy_into(slot)
