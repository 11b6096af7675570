"""Shares of the batch: they sum, they divide, they are proportional."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.event.ids import GroupId
from myriarch.plan import shares as shares_module
from myriarch.plan.shares import ShareRequest, feasible, honour, split_batch

speeds = st.floats(1e-3, 1e3)


def requests_of(sizes: list[int], weights: list[float]) -> list[ShareRequest]:
    return [
        ShareRequest(group=GroupId(f"g{i}"), world_size=size, speed=speed)
        for i, (size, speed) in enumerate(zip(sizes, weights, strict=True))
    ]


@st.composite
def splits(draw: st.DrawFn, *, equal: bool = False) -> tuple[list[ShareRequest], int]:
    count = draw(st.integers(1, 5))
    sizes = (
        [draw(st.integers(1, 8))] * count
        if equal
        else draw(st.lists(st.integers(1, 8), min_size=count, max_size=count))
    )
    weights = draw(st.lists(speeds, min_size=count, max_size=count))
    sequences = sum(sizes) + sum(size * draw(st.integers(0, 12)) for size in sizes)
    return requests_of(sizes, weights), sequences


@given(splits())
def test_shares_are_positive_multiples_that_sum_to_the_batch(case: tuple[list[ShareRequest], int]) -> None:
    requests, sequences = case
    shares = split_batch(requests, sequences=sequences)
    assert [share.group for share in shares] == [request.group for request in requests]
    assert sum(share.count for share in shares) == sequences
    assert all(share.count > 0 and share.count % share.world_size == 0 for share in shares)
    slots = [slot for share in shares for slot in range(share.first, share.first + share.count)]
    assert slots == list(range(sequences)), "every slot is somebody's, once"
    assert split_batch(requests, sequences=sequences) == shares


@given(splits(equal=True))
def test_equal_quanta_are_within_one_quantum_of_proportional(case: tuple[list[ShareRequest], int]) -> None:
    requests, sequences = case
    total = sum(request.speed for request in requests)
    ideal = [sequences * request.speed / total for request in requests]
    assume(all(share >= request.world_size for share, request in zip(ideal, requests, strict=True)))
    for share, exact in zip(split_batch(requests, sequences=sequences), ideal, strict=True):
        assert abs(share.count - exact) < share.world_size + 1e-6


def deviation(requests: list[ShareRequest], sequences: int) -> float:
    """Sum of squared deviations of the shares from proportional, in quanta."""
    total = sum(request.speed for request in requests)
    return sum(
        ((share.count - sequences * request.speed / total) / request.world_size) ** 2
        for share, request in zip(split_batch(requests, sequences=sequences), requests, strict=True)
    )


@given(
    st.lists(st.tuples(st.sampled_from([2, 3, 4]), st.floats(0.5, 2.0)), min_size=9, max_size=12),
    st.integers(0, 60),
)
def test_many_groups_deviate_as_little_as_if_each_were_searched(cases: list[tuple[int, float]], more: int) -> None:
    requests = requests_of([size for size, _ in cases], [size * weight for size, weight in cases])
    sequences = 3 * sum(size for size, _ in cases) + more
    assume(feasible([size for size, _ in cases], sequences=sequences))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares_module, "FEW_GROUPS", 100)
        each = deviation(requests, sequences)
    assert deviation(requests, sequences) <= each + 1e-9


def test_a_hundred_groups_of_which_one_has_shrunk() -> None:
    sizes = [1024] * 95 + [1016]
    shares = split_batch(requests_of(sizes, [float(size) for size in sizes]), sequences=3_145_728)
    assert [share.count for share in shares] == [31 * 1024] * 95 + [128 * 1016], "only a multiple of 128 leaves no rest"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 120))
def test_feasible_says_what_a_search_finds(sizes: list[int], sequences: int) -> None:
    reachable = {0}
    for size in sizes:
        reachable = {used + size * n for used in reachable for n in range(1, sequences // size + 1)}
        reachable = {used for used in reachable if used <= sequences}
    assert feasible(sizes, sequences=sequences) == (sequences in reachable)


@given(splits(), speeds)
def test_only_the_ratio_of_speeds_counts(case: tuple[list[ShareRequest], int], factor: float) -> None:
    requests, sequences = case
    assume(len({request.world_size for request in requests}) == 1)
    powers = [math.ldexp(request.speed, 3) for request in requests]  # exact: a power of two
    scaled = requests_of([request.world_size for request in requests], powers)
    assert split_batch(scaled, sequences=sequences) == split_batch(requests, sequences=sequences)


def test_three_to_one() -> None:
    shares = split_batch(requests_of([2, 2], [3.0, 1.0]), sequences=8)
    assert [(share.first, share.count) for share in shares] == [(0, 6), (6, 2)]


def test_a_tie_goes_to_the_first_group() -> None:
    assert [share.count for share in split_batch(requests_of([1, 1], [1.0, 1.0]), sequences=5)] == [3, 2]


def test_nobody_is_left_without_work() -> None:
    assert [share.count for share in split_batch(requests_of([2, 2], [1000.0, 1.0]), sequences=8)] == [6, 2]


def test_unlike_quanta() -> None:
    assert [share.count for share in split_batch(requests_of([3, 5], [1.0, 1.0]), sequences=34)] == [24, 10]
    assert [share.count for share in split_batch(requests_of([2, 1], [2.0, 1.0]), sequences=9)] == [6, 3]


@pytest.mark.parametrize(("sizes", "sequences"), [([2, 2], 7), ([3, 5], 7), ([4, 4], 4), ([], 4)])
def test_a_batch_that_does_not_divide_is_refused(sizes: list[int], sequences: int) -> None:
    with pytest.raises(SpecError, match="cannot be split"):
        split_batch(requests_of(sizes, [1.0] * len(sizes)), sequences=sequences)


def test_explicit_shares_are_honoured_while_they_fit() -> None:
    both = requests_of([2, 2], [2.0, 6.0])
    explicit = {"g0": 2, "g1": 6}
    assert [share.count for share in honour(both, explicit, sequences=8)] == [2, 6]
    assert [share.count for share in honour(both[1:], explicit, sequences=8)] == [8], "g0 is missing"
    shrunk = requests_of([2, 1], [2.0, 3.0])
    assert [share.count for share in honour(shrunk, explicit, sequences=8)] == [2, 6], "they still fit"
    odd = requests_of([2, 4], [2.0, 6.0])
    assert [share.count for share in honour(odd, explicit, sequences=8)] == [4, 4], "6 is no multiple of 4"
