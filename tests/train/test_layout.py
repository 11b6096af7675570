"""Runs, overlaps and digests: independent of how a model is split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.spec.run import Mesh
from myriarch.train.digest import combine, digest_of
from myriarch.train.layout import (
    Run,
    bases_of,
    covers,
    elements_of,
    fingerprint,
    intersection,
    joined,
    overlap,
    runs_of_chunk,
    runs_of_rank,
    shard_rows,
)

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
models = st.dictionaries(st.sampled_from("abcdef"), shapes, min_size=1, max_size=4)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape = draw(shapes)
    offsets = tuple(draw(st.integers(0, size)) for size in shape)
    sizes = tuple(draw(st.integers(0, size - offset)) for size, offset in zip(shape, offsets, strict=True))
    return shape, offsets, sizes


@given(boxes(), st.integers(0, 100))
def test_runs_of_a_chunk_are_its_elements(box: tuple[tuple[int, ...], ...], base: int) -> None:
    shape, offsets, sizes = box
    whole = np.arange(math.prod(shape)).reshape(shape) + base
    expected = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))].ravel().tolist()
    runs = list(runs_of_chunk(base, shape, offsets, sizes))
    assert [index for run in runs for index in range(run.start, run.stop)] == expected
    assert elements_of(joined(runs)) == len(expected)


def test_rows_are_cut_as_torch_cuts_them() -> None:
    assert [shard_rows(7, parts=3, part=part) for part in range(3)] == [(0, 3), (3, 3), (6, 1)]
    assert [shard_rows(1, parts=3, part=part) for part in range(3)] == [(0, 1), (1, 0), (1, 0)]


@given(models, st.integers(1, 4), st.integers(1, 2))
def test_a_group_holds_each_element_once_per_replica(
    model: dict[str, tuple[int, ...]], parts: int, replicas: int
) -> None:
    mesh = Mesh(dp_replicate=replicas, dp_shard=parts)
    held = sorted(
        index
        for rank in range(mesh.devices)
        for run in runs_of_rank(model, mesh=mesh, rank=rank)
        for index in range(run.start, run.stop)
    )
    total = sum(math.prod(shape) for shape in model.values())
    assert held == sorted(list(range(total)) * replicas)


@given(models, st.integers(1, 4), st.integers(1, 4))
def test_overlaps_partition_and_agree(model: dict[str, tuple[int, ...]], own_parts: int, peer_parts: int) -> None:
    for rank in range(own_parts):
        own = runs_of_rank(model, mesh=Mesh(dp_shard=own_parts), rank=rank)
        slices: list[tuple[int, int]] = []
        for peer_rank in range(peer_parts):
            peer = runs_of_rank(model, mesh=Mesh(dp_shard=peer_parts), rank=peer_rank)
            mine, theirs = overlap(own, peer), overlap(peer, own)
            assert _indices(own, mine.slices) == _indices(peer, theirs.slices)
            assert mine.elements == theirs.elements == elements_of(intersection(own, peer))
            slices += mine.slices
        assert covers(slices, elements_of(own))


def _indices(runs: tuple[Run, ...], slices: tuple[tuple[int, int], ...]) -> list[int]:
    """Canonical indices of slices of a local buffer."""
    local = [index for run in runs for index in range(run.start, run.stop)]
    return [index for start, stop in slices for index in local[start:stop]]


def test_equal_layouts_exchange_one_slice() -> None:
    model = {"a": (4, 3), "b": (6,)}
    runs = runs_of_rank(model, mesh=Mesh(dp_shard=2), rank=1)
    assert overlap(runs, runs).slices == ((0, elements_of(runs)),)


def test_joined_refuses_runs_that_overlap() -> None:
    with pytest.raises(ValueError, match="begins before the end"):
        joined([Run(0, 3), Run(2, 4)])


def test_fingerprints_tell_layouts_apart() -> None:
    assert fingerprint([Run(0, 3), Run(5, 6)]) != fingerprint([Run(0, 3), Run(5, 7)])


@pytest.mark.parametrize("holes", [[(0, 2), (3, 4)], [(0, 3), (2, 4)], [(1, 4)], [(0, 3)]])
def test_covers_sees_holes_and_overlaps(holes: list[tuple[int, int]]) -> None:
    assert not covers(holes, 4)
    assert covers([(2, 4), (0, 2)], 4)
    assert covers([], 0)


# --- digest ----------------------------------------------------------------------------------------------------------


@given(
    st.binary(min_size=4, max_size=400).map(lambda data: data[: len(data) // 4 * 4]), st.integers(0, 2**40), st.data()
)
def test_the_digest_of_parts_adds_up(data: bytes, base: int, draw: st.DataObject) -> None:
    values = np.frombuffer(data, dtype=np.uint8)
    count = len(data) // 4
    cut = draw.draw(st.integers(0, count))
    whole = digest_of(values, item_bytes=4, runs=[Run(base, base + count)])
    first = digest_of(values[: 4 * cut], item_bytes=4, runs=[Run(base, base + cut)])
    second = digest_of(values[4 * cut :], item_bytes=4, runs=[Run(base + cut, base + count)])
    assert combine([second, first]) == whole
    words = values.view("<u4").tolist()
    assert whole == sum(word * (2 * (base + i) + 1) for i, word in enumerate(words)) % 2**64


@pytest.mark.parametrize("item_bytes", [1, 2, 4, 8])
def test_the_digest_sees_every_flipped_bit(item_bytes: int) -> None:
    values = np.arange(64, dtype=np.uint8)
    runs = [Run(3, 3 + 64 // item_bytes)]
    original = digest_of(values, item_bytes=item_bytes, runs=runs)
    changed = set()
    for bit in range(8 * 64):
        flipped = values.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        changed.add(digest_of(flipped, item_bytes=item_bytes, runs=runs))
    assert original not in changed
    if item_bytes <= 4:  # then two flips cannot cancel either
        assert len(changed) == 8 * 64


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
def test_the_digest_of_more_than_one_block(kind: type[np.unsignedinteger[Any]]) -> None:
    values = np.random.default_rng(1).integers(0, np.iinfo(kind).max, 40_000, dtype=kind)
    runs = [Run(7, 36_007), Run(50_000, 54_000)]  # two whole blocks, and two parts
    places = [place for run in runs for place in range(run.start, run.stop)]
    expected = sum(word * (2 * place + 1) for word, place in zip(values.tolist(), places, strict=True)) % 2**64
    assert digest_of(values.view(np.uint8), item_bytes=values.itemsize, runs=runs) == expected


def test_bases_follow_names_not_insertion() -> None:
    assert bases_of({"b": (2,), "a": (3, 2)}) == {"a": 0, "b": 6}
