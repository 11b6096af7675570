"""Shifting power: the program against a fill by hand and an enumeration; the cap; negative prices."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.power import Flexible, Hour, Level, cheapest_hours, shift

FULL, HALF = Level(speed=1.0, power_w=1000.0), Level(speed=0.7, power_w=500.0)


def hours(prices: list[float], *, cap_w: float = math.inf) -> list[Hour]:
    return [
        Hour(start_s=3600.0 * index, end_s=3600.0 * (index + 1), price_per_kwh=price, cap_w=cap_w)
        for index, price in enumerate(prices)
    ]


def test_work_waits_for_the_cheap_hours() -> None:
    job = Flexible(job="j", work_s=7200.0, levels=(FULL,))
    found = shift([job], hours([0.9, 0.3, 0.8, 0.2]))
    assert [(draw.hour, draw.seconds) for draw in found.draws] == [(1, 3600.0), (3, 3600.0)]
    assert found.cost == pytest.approx(0.5)
    assert found.at_once == pytest.approx(1.2)
    assert found.changes == 3  # starts, stops, starts


def test_throttled_where_the_cap_binds_and_a_watt_has_a_worth() -> None:
    jobs = [Flexible(job=name, work_s=3600.0, levels=(FULL, HALF)) for name in "ab"]
    free = shift(jobs, hours([0.1, 1.0]))
    capped = shift(jobs, hours([0.1, 1.0], cap_w=900.0))
    assert free.watt_worth == (0.0, 0.0)
    assert capped.watt_worth[0] > 0
    assert capped.cost > free.cost
    more = shift(jobs, hours([0.1, 1.0], cap_w=901.0))
    assert capped.compared - more.compared == pytest.approx(capped.watt_worth[0] + capped.watt_worth[1], rel=1e-6)
    drawn = [0.0, 0.0]
    for draw in capped.draws:
        drawn[draw.hour] += (FULL, HALF)[draw.level].power_w * draw.seconds
    assert all(energy <= 900.0 * 3600 * (1 + 1e-9) for energy in drawn)


def test_a_negative_price_draws_all_the_work_can_take() -> None:
    job = Flexible(job="j", work_s=3600.0, levels=(FULL, HALF))
    found = shift([job], hours([0.5, -0.2, 0.5]))
    assert found.cost == pytest.approx(-0.2)
    assert [(draw.hour, draw.level) for draw in found.draws] == [(1, 0)]


prices = st.integers(-5, 20).map(lambda cents: cents / 10)


@settings(max_examples=50)
@given(
    st.lists(prices, min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=3),
    st.floats(0.05, 1.0),
)
def test_one_jobs_fill_is_the_programs_optimum(price: list[float], levels: list[tuple[int, int]], share: float) -> None:
    options = tuple(Level(speed=speed / 10, power_w=100.0 * power) for speed, power in levels)
    work_s = share * 3600.0 * len(price) * max(level.speed for level in options)
    job = Flexible(job="j", work_s=work_s, levels=options)
    program, fill = shift([job], hours(price)), cheapest_hours(job, hours(price))
    assert fill.compared == pytest.approx(program.compared, rel=1e-6, abs=1e-8)
    done = sum(options[draw.level].speed * draw.seconds for draw in fill.draws)
    assert done == pytest.approx(work_s, abs=1e-3)


@settings(max_examples=25)
@given(st.lists(prices, min_size=2, max_size=4), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2))
def test_no_schedule_of_whole_hours_is_cheaper(price: list[float], a: int, b: int, cap: int) -> None:
    """Every schedule that runs or pauses by whole hours, within the cap, costs at least as much."""
    jobs = [Flexible(job=name, work_s=3600.0 * work, levels=(FULL,)) for name, work in (("a", a), ("b", b))]
    best = math.inf
    for one in itertools.combinations(range(len(price)), a):
        for other in itertools.combinations(range(len(price)), b):
            if cap == 2 or not set(one) & set(other):
                best = min(best, sum(price[hour] for hour in (*one, *other)))
    if math.isinf(best):
        with pytest.raises(SpecError):
            shift(jobs, hours(price, cap_w=1000.0 * cap))
        return
    # One device-hour each, equal power: a transport problem, whose optimum is whole.
    assert shift(jobs, hours(price, cap_w=1000.0 * cap)).cost == pytest.approx(best, abs=1e-8)


def test_what_cannot_be_done() -> None:
    with pytest.raises(SpecError, match="room for 3600 s"):
        shift([Flexible(job="j", work_s=4000.0, levels=(FULL,))], hours([1.0]))
    with pytest.raises(SpecError, match="raise it, or move a deadline"):
        shift([Flexible(job=name, work_s=3600.0, levels=(FULL,)) for name in "ab"], hours([1.0], cap_w=1500.0))
    with pytest.raises(SpecError, match="before it begins"):
        shift([], [Hour(start_s=10.0, end_s=5.0, price_per_kwh=1.0)])
