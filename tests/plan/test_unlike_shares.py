"""Shares over unlike groups: against brute force, and what has to hold for all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.plan.unlike_shares import UNLIMITED, Offers, balance, bound_s, envelope, supply, unit_of

Way = tuple[int, float, float]
"""Quantum, slot, fixed."""


def offers(*ways: Way, least: int = 1, most: int = UNLIMITED, multiple: int = 1, window_s: float = 0.0) -> Offers:
    count = len(ways)
    return Offers(
        quantum=np.array([way[0] for way in ways], dtype=np.int64),
        slot_s=np.array([way[1] for way in ways]),
        fixed_s=np.array([way[2] for way in ways]),
        least=np.full(count, least),
        most=np.full(count, most),
        multiple=np.full(count, multiple),
        window_s=np.full(count, window_s),
    )


def brute_force(entrants: list[Offers], batch: int, exchange_s: float = 0.0) -> float:
    """The fastest of all shares and all ways."""
    best = math.inf
    for ways in itertools.product(*(range(len(each)) for each in entrants)):
        counts = [
            range(
                -(-max(int(each.least[way]), 1) // int(each.multiple[way])) * int(each.multiple[way]),
                min(int(each.most[way]), batch // int(each.quantum[way])) + 1,
                int(each.multiple[way]),
            )
            for each, way in zip(entrants, ways, strict=True)
        ]
        for numbers in itertools.product(*counts):
            taken = sum(m * int(each.quantum[way]) for each, way, m in zip(entrants, ways, numbers, strict=True))
            if taken == batch:
                times = (
                    each.step_s(way, m) + max(exchange_s - float(each.window_s[way]), 0.0)
                    for each, way, m in zip(entrants, ways, numbers, strict=True)
                )
                best = min(best, max(times))
    return best


def solve(entrants: list[Offers], batch: int, exchange_s: float = 0.0) -> tuple[float, tuple[int, ...]] | None:
    unit = unit_of(entrants, batch)
    envelopes = [envelope(each, batch=batch, unit=unit, exchange_s=exchange_s) for each in entrants]
    found = balance(envelopes, batch // unit)
    if found is None:
        return None
    for each, share in zip(envelopes, found.shares, strict=True):
        assert each.seconds[share] <= found.seconds
    assert bound_s([supply(each) for each in envelopes], batch // unit) <= found.seconds
    return found.seconds, tuple(share * unit for share in found.shares)


WAY = st.tuples(st.integers(1, 5), st.floats(0.01, 10.0), st.floats(0.0, 5.0))
ENTRANT = st.builds(
    lambda ways, least, most, multiple, window_s: offers(
        *ways, least=least, most=most, multiple=multiple, window_s=window_s
    ),
    st.lists(WAY, min_size=1, max_size=3),
    st.integers(1, 2),
    st.sampled_from([4, UNLIMITED]),
    st.integers(1, 2),
    st.sampled_from([0.0, 1.0]),
)


@given(st.lists(ENTRANT, min_size=1, max_size=3), st.integers(1, 14), st.sampled_from([0.0, 0.5, 3.0]))
def test_shares_are_the_optimum_of_all_shares_and_ways(entrants: list[Offers], batch: int, exchange_s: float) -> None:
    """Fewest and most micro-batches, multiples and windows included; no shares where there are none."""
    best = brute_force(entrants, batch, exchange_s)
    found = solve(entrants, batch, exchange_s)
    if found is None:
        assert math.isinf(best)
    else:
        assert found[0] == pytest.approx(best, rel=1e-12)
        assert sum(found[1]) == batch


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=4), st.integers(1, 4), st.integers(8, 200))
def test_shares_are_proportional_to_speed(slots: list[float], quantum: int, count: int) -> None:
    """Equal quanta and no fixed parts: within one quantum for two groups, n - 1 for n.

    More than one can be needed: with slots 1, 110 and 110, 100 micro-batches end after 100 s as (98, 1, 1) does after
    110 s, though proportional shares are (98.2, 0.9, 0.9).
    """
    batch = quantum * count
    found = solve([offers((quantum, slot, 0.0)) for slot in slots], batch)
    assert found is not None
    speed = sum(1.0 / slot for slot in slots)
    for share, slot in zip(found[1], slots, strict=True):
        ideal = batch / slot / speed
        assert abs(share - ideal) <= quantum * (len(slots) - 1)


def test_a_coarse_group_leaves_the_rest_to_a_fine_one() -> None:
    """100 sequences: 48 at a time here, any number there."""
    found = solve([offers((48, 1.5, 0.0)), offers((1, 0.05, 0.0))], 100)
    assert found is not None
    assert found[0] == pytest.approx(52 * 0.05)
    assert found[1] == (48, 52)


def test_no_shares_when_quanta_do_not_sum_to_the_batch() -> None:
    assert solve([offers((4, 1.0, 0.0)), offers((6, 1.0, 0.0))], 11) is None


def test_large_batches_are_exact() -> None:
    """65,536 sequences over three groups, against the closed form for equal quanta without fixed parts."""
    slots = (0.003, 0.0071, 0.011)
    found = solve([offers((1, slot, 0.0)) for slot in slots], 65536)
    assert found is not None
    together_s = 65536 / sum(1.0 / slot for slot in slots)
    assert together_s <= found[0] <= together_s + max(slots)
    assert sum(found[1]) == 65536
