"""Gemini's placement probability against exhaustive enumeration and the numbers of the paper's formula."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.cost.survival import (
    corollary_probability,
    group_probability,
    mixed_probability,
    ring_probability,
    sets_probability,
    window_probability,
)


def enumerated(machines: int, sets: Iterable[Collection[int]], failed: int) -> float:
    whole = [frozenset(each) for each in sets]
    harmless = sum(
        not any(each <= set(down) for each in whole) for down in itertools.combinations(range(machines), failed)
    )
    return harmless / math.comb(machines, failed)


def groups(machines: int, replicas: int) -> list[range]:
    return [range(first, first + replicas) for first in range(0, machines, replicas)]


def ring(members: range, replicas: int) -> list[tuple[int, ...]]:
    size = len(members)
    return [tuple(members[(first + step) % size] for step in range(replicas)) for first in range(size)]


@pytest.mark.parametrize(
    ("machines", "replicas", "failed", "group", "neighbours"),
    [
        (16, 2, 2, 0.933333, 0.866667),
        (16, 2, 3, 0.800000, None),
        (16, 2, 4, 0.615385, None),  # corollary 1 would say 0.600: it is a bound from k = 2m on
        (16, 4, 4, 0.997802, None),
        (12_500, 2, 2, 0.999920, None),
    ],
)
def test_gemini_s_corollary_1(
    machines: int, replicas: int, failed: int, group: float, neighbours: float | None
) -> None:
    """Wang et al., SOSP 2023: 93.3 % against 86.7 % of the ring at 16 machines, two replicas and two failures."""
    assert group_probability(machines, replicas=replicas, failed=failed) == pytest.approx(group, abs=5e-7)
    if neighbours is not None:
        assert ring_probability(machines, replicas=replicas, failed=failed) == pytest.approx(neighbours, abs=5e-7)


def test_the_corollary_is_exact_below_two_groups_and_a_bound_from_there() -> None:
    for machines, replicas in ((12, 2), (12, 3), (16, 4)):
        for failed in range(machines + 1):
            exact = group_probability(machines, replicas=replicas, failed=failed)
            printed = corollary_probability(machines, replicas=replicas, failed=failed)
            if failed < 2 * replicas:
                assert printed == pytest.approx(exact, abs=1e-15)
            else:
                assert printed <= exact
    assert corollary_probability(16, replicas=2, failed=4) == pytest.approx(0.6)


@pytest.mark.parametrize(("machines", "replicas"), [(4, 2), (8, 2), (9, 3), (12, 2), (12, 3), (12, 4), (5, 1)])
def test_group_and_ring_are_what_listing_every_failure_says(machines: int, replicas: int) -> None:
    for failed in range(machines + 1):
        group = group_probability(machines, replicas=replicas, failed=failed)
        assert group == pytest.approx(enumerated(machines, groups(machines, replicas), failed), abs=1e-15)
        around = ring_probability(machines, replicas=replicas, failed=failed)
        assert around == pytest.approx(enumerated(machines, ring(range(machines), replicas), failed), abs=1e-15)


@pytest.mark.parametrize(("machines", "replicas"), [(7, 2), (11, 3), (10, 4), (13, 2)])
def test_mixed_is_groups_and_a_ring_of_the_rest(machines: int, replicas: int) -> None:
    inside = replicas + machines % replicas
    sets = [*groups(machines - inside, replicas), *ring(range(machines - inside, machines), replicas)]
    for failed in range(machines + 1):
        mixed = mixed_probability(machines, replicas=replicas, failed=failed)
        assert mixed == pytest.approx(enumerated(machines, sets, failed), abs=1e-15)
    # Theorem 1: the gap to the bound that no placement passes is at most (2m - 3)/C(N, m) at k = m.
    bound = 1 - math.ceil(machines / replicas) / math.comb(machines, replicas)
    gap = bound - mixed_probability(machines, replicas=replicas, failed=replicas)
    assert gap <= (2 * replicas - 3) / math.comb(machines, replicas) + 1e-15


@given(st.integers(2, 10), st.data())
@settings(max_examples=40)
def test_any_placement_is_what_listing_every_failure_says(machines: int, data: st.DataObject) -> None:
    one_set = st.sets(st.integers(0, machines - 1), min_size=1, max_size=3)
    sets = data.draw(st.lists(one_set, max_size=8))
    failed = data.draw(st.integers(0, machines))
    probability, exact = sets_probability(machines, redundancy_sets=sets, failed=failed)
    assert exact
    assert probability == pytest.approx(enumerated(machines, sets, failed), abs=1e-12)


def test_a_long_ring_gets_a_bound_that_is_never_too_high() -> None:
    sets = ring(range(40), 2)
    for failed in range(8):
        probability, exact = sets_probability(40, redundancy_sets=sets, failed=failed)
        assert not exact
        assert probability <= ring_probability(40, replicas=2, failed=failed) + 1e-12
    assert sets_probability(40, redundancy_sets=sets, failed=2)[0] == pytest.approx(
        ring_probability(40, replicas=2, failed=2)
    )


def test_many_machines_against_chance() -> None:
    draw = np.random.default_rng(11)
    machines, failed, rounds = 64, 12, 20_000
    down = np.argsort(draw.random((rounds, machines)), axis=1)[:, :failed] // 2
    harmless = np.mean([len(set(row)) == failed for row in down.tolist()])
    assert group_probability(machines, replicas=2, failed=failed) == pytest.approx(harmless, abs=0.01)


def test_failures_while_copies_are_placed_anew() -> None:
    """12,288 nodes at 18 minutes between failures (FT-HSDP, arXiv:2602.00277), copies safe again after a minute."""
    rate = 1 / 1080
    chance = window_probability(12_288, replicas=2, failures_per_s=rate, window_s=60.0)
    # A second failure within the minute (1 in 18) would have to hit the one machine that holds the copies.
    assert 1 - chance == pytest.approx(rate * 60 / 12_287, rel=0.05)
    assert window_probability(12_288, replicas=3, failures_per_s=rate, window_s=60.0) > chance
    assert window_probability(12_288, replicas=2, failures_per_s=rate, window_s=600.0) < chance
    assert window_probability(12_288, replicas=2, failures_per_s=0.0, window_s=60.0) == 1.0


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 8))
def test_more_replicas_and_fewer_failures_are_never_worse(groups: int, replicas: int, failed: int) -> None:
    machines = groups * replicas * (replicas + 1)
    failed = min(failed, machines - 1)
    here = group_probability(machines, replicas=replicas, failed=failed)
    assert group_probability(machines, replicas=replicas + 1, failed=failed) >= here
    assert group_probability(machines, replicas=replicas, failed=failed + 1) <= here
    assert ring_probability(machines, replicas=replicas, failed=failed) <= here + 1e-15


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="not a multiple of 2 replicas"):
        group_probability(7, replicas=2, failed=1)
    with pytest.raises(ValueError, match="9 of 8 machines"):
        ring_probability(8, replicas=2, failed=9)
    with pytest.raises(ValueError, match="0 of a shard"):
        mixed_probability(8, replicas=0, failed=1)
