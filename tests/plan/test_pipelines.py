"""Pipelines over two unlike pools: against brute force and against the schedule itself."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.plan.pipelines import Cuts, Side, cut, stages_step_s

MUCH = 1e9


def side(layer_s: list[float], *, end_s: float = 0.0, memory_bytes: float = MUCH, kept_bytes: float = 1.0) -> Side:
    count = len(layer_s)
    return Side(
        layer_s=np.array(layer_s),
        end_s=end_s,
        states_bytes=np.full(count, 3.0),
        kept_bytes=np.full(count, kept_bytes),
        end_bytes=2.0,
        other_bytes=1.0,
        memory_bytes=memory_bytes,
    )


def brute_force(front: Side, back: Side, stages: tuple[int, int], link_s: float, micro_batches: int) -> float:
    """All ways to cut the layers, each stage's memory looked at by itself."""
    layers, count = len(front.layer_s), sum(stages)
    best = math.inf
    for borders in itertools.combinations(range(1, layers), count - 1):
        edges = (0, *borders, layers)
        times, fits = [], True
        for index, (start, end) in enumerate(itertools.pairwise(edges)):
            own = front if index < stages[0] else back
            outermost = index in (0, count - 1)
            flights = count - index + (1 if index < stages[0] else 0)
            used = own.states_bytes[start:end].sum() + flights * own.kept_bytes[start:end].sum()
            fits = fits and used + own.other_bytes + outermost * own.end_bytes <= own.memory_bytes
            times.append(own.layer_s[start:end].sum() + outermost * own.end_s)
        if fits:
            best = min(best, sum(times) + 2.0 * link_s + (micro_batches - 1) * max(*times, link_s))
    return best


def fastest(cuts: Cuts, micro_batches: int) -> float:
    return min((cuts.step_s(at, micro_batches) for at in range(len(cuts.front_layers))), default=math.inf)


SECONDS = st.floats(0.1, 5.0)


@given(
    st.lists(st.tuples(SECONDS, SECONDS), min_size=2, max_size=7),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 0.3, 4.0]),
    st.sampled_from([14.0, 30.0, MUCH]),
    st.sampled_from([12.0, 30.0, MUCH]),
    st.integers(1, 9),
)
def test_layers_are_the_optimum_of_all_cuts(
    times: list[tuple[float, float]],
    stages: tuple[int, int],
    end_s: float,
    link_s: float,
    front_bytes: float,
    back_bytes: float,
    micro_batches: int,
) -> None:
    """Unlike layers, ends, memory of both pools, and any number of micro-batches."""
    front = side([first for first, _ in times], end_s=end_s, memory_bytes=front_bytes)
    back = side([second for _, second in times], end_s=2.0 * end_s, memory_bytes=back_bytes)
    cuts = cut(front, back, front_stages=stages[0], back_stages=stages[1], link_s=link_s)
    best = brute_force(front, back, stages, link_s, micro_batches)
    found = fastest(cuts, micro_batches)
    if math.isinf(best):
        assert math.isinf(found)
    else:
        assert found == pytest.approx(best, rel=1e-9)
    assert np.all(cuts.stages.sum(axis=1) == len(times))
    assert np.all(cuts.stages > 0)


def test_layers_are_in_proportion_to_speed() -> None:
    """A front three times as fast takes three quarters of 32 layers."""
    cuts = cut(side([1.0] * 32), side([3.0] * 32), front_stages=2, back_stages=2, link_s=0.0)
    best = min(range(len(cuts.front_layers)), key=lambda at: cuts.step_s(at, 64))
    assert list(cuts.stages[best]) == [12, 12, 4, 4]


def test_a_front_short_of_memory_gives_layers_away() -> None:
    """Four micro-batches in flight and the link's one: 3 + 5 bytes a layer, 27 of 30 left of end and driver."""
    tight = side([1.0] * 8, memory_bytes=30.0)
    cuts = cut(tight, side([1.0] * 8), front_stages=2, back_stages=2, link_s=0.0)
    assert cuts.stages[:, 0].max() == 3


def test_the_more_bandwidth_the_faster() -> None:
    front, back = side([1.0] * 8), side([2.0] * 8)
    times = [
        fastest(cut(front, back, front_stages=2, back_stages=1, link_s=link_s), 8) for link_s in (9.0, 3.0, 1.0, 0.0)
    ]
    assert times == sorted(times, reverse=True)


def play(stage_s: list[float], micro_batches: int) -> float:
    """1F1B, move by move: each stage does its forwards and backwards in the schedule's order as soon as it can."""
    count = len(stage_s)
    orders: list[list[tuple[str, int]]] = []
    for index in range(count):
        warm = min(count - index, micro_batches)
        order = [("f", each) for each in range(warm)]
        for each in range(micro_batches):
            order.append(("b", each))
            if each + warm < micro_batches:
                order.append(("f", each + warm))
        orders.append(order)
    done: dict[tuple[str, int, int], float] = {}
    free, at = [0.0] * count, [0] * count
    while any(at[index] < len(orders[index]) for index in range(count)):
        for index in range(count):
            while at[index] < len(orders[index]):
                kind, each = orders[index][at[index]]
                before = ("f", index - 1, each) if kind == "f" else ("b", index + 1, each)
                outermost = index == (0 if kind == "f" else count - 1)
                if not outermost and before not in done:
                    break
                ready = 0.0 if outermost and kind == "f" else done.get(before, done.get(("f", index, each), 0.0))
                share = 1.0 / 3.0 if kind == "f" else 2.0 / 3.0
                free[index] = max(free[index], ready) + share * stage_s[index]
                done[kind, index, each] = free[index]
                at[index] += 1
    return max(free)


@given(st.lists(SECONDS, min_size=1, max_size=5), st.integers(1, 12))
def test_the_formula_bounds_the_schedule(stage_s: list[float], micro_batches: int) -> None:
    """1F1B as it is played is never slower than the formula, and never faster than the slowest stage's own work.

    Equal stages reach the formula.
    """
    times = np.array(stage_s)
    formula = stages_step_s(times, micro_batches=micro_batches, send_s=np.zeros(len(stage_s) - 1))
    played = play(stage_s, micro_batches)
    assert played <= formula * (1.0 + 1e-9)
    assert played >= micro_batches * max(stage_s) * (1.0 - 1e-9)
    equal = [1.0] * len(stage_s)
    assert play(equal, micro_batches) == pytest.approx(len(stage_s) + micro_batches - 1.0)
