"""Sizing both ways on step-like functions, against trying every count."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.plan.sizing import Best, devices_for, steps_of, timed, tokens_by, within_budget

TOKENS, BATCH = 1e9, 1e6
STEPS = 1000


def ideal(devices: int) -> float:
    """100 device-seconds of work, shared without loss."""
    return 100.0 / devices


def factored(devices: int) -> float:
    """Only powers of two times 1, 3 or 5 have a plan; below 8 nothing fits; communication grows slowly."""
    odd = devices
    while odd % 2 == 0:
        odd //= 2
    if odd not in (1, 3, 5) or devices < 8:
        return math.inf
    return 100.0 / devices + 0.01 * math.log2(devices)


def truth(best: Best, counts: range, target_s: float) -> int | None:
    return next((count for count in counts if best(count) <= target_s), None)


@given(deadline=st.floats(100.0, 20_000.0), most=st.integers(1, 300))
def test_the_smallest_count_is_exact_for_functions_that_are_not_monotone(deadline: float, most: int) -> None:
    counts = range(1, most + 1)
    found = devices_for(factored, deadline_s=deadline, tokens=TOKENS, batch_tokens=BATCH, counts=counts)
    expected = truth(factored, counts, deadline / STEPS)
    assert found.proved
    assert found.reachable == (expected is not None)
    if expected is not None:
        assert found.best is not None
        assert found.best.used == found.best.devices == expected
        assert found.best.run_s <= deadline


@given(
    steps=st.lists(st.one_of(st.floats(0.01, 100.0), st.just(math.inf)), min_size=1, max_size=60),
    deadline=st.floats(1.0, 1e6),
)
def test_any_function_at_all(steps: list[float], deadline: float) -> None:
    def best(devices: int) -> float:
        return steps[devices - 1]

    counts = range(1, len(steps) + 1)
    found = devices_for(best, deadline_s=deadline, tokens=TOKENS, batch_tokens=BATCH, counts=counts)
    expected = truth(best, counts, deadline / STEPS * (1 + 1e-12))
    assert found.reachable == (expected is not None)
    if found.reachable:
        assert found.best is not None
        assert found.best.used == expected
    elif min(steps) < math.inf:
        assert found.best is not None
        assert found.best.step_s == min(steps)
    else:
        assert found.best is None
        assert found.limit == "memory"


def test_a_monotone_function_is_bisected() -> None:
    found = devices_for(
        ideal, deadline_s=100.0, tokens=TOKENS, batch_tokens=BATCH, counts=range(1, 100_001), monotone=True
    )
    assert found.best is not None
    assert found.best.used == 1000
    assert found.proved
    assert found.evaluations < 40


def test_a_lower_bound_spares_asking() -> None:
    """At their peak rate 1,000 devices are needed, so nothing below is asked."""

    def best(devices: int) -> float:
        return 2.0 * ideal(devices)

    found = devices_for(
        best, deadline_s=100.0, tokens=TOKENS, batch_tokens=BATCH, counts=range(8, 4000, 8), floor_s=ideal
    )
    assert found.best is not None
    assert found.best.used == 2000
    assert found.proved
    assert found.evaluations < 130


def test_too_many_counts_are_not_proved_and_that_is_said() -> None:
    found = devices_for(
        ideal, deadline_s=100.0, tokens=TOKENS, batch_tokens=BATCH, counts=range(1, 5001), evaluations=50
    )
    assert found.best is not None
    assert found.best.used == 1000
    assert not found.proved
    assert found.evaluations <= 50


def test_a_longer_deadline_never_needs_more() -> None:
    counts = range(1, 257)
    used = []
    for deadline in (400.0, 800.0, 1600.0, 3200.0, 6400.0):
        found = devices_for(factored, deadline_s=deadline, tokens=TOKENS, batch_tokens=BATCH, counts=counts)
        if found.reachable:
            assert found.best is not None
            used.append(found.best.used)
    assert used == sorted(used, reverse=True)
    assert len(used) >= 3


@pytest.mark.parametrize(
    ("best", "floor", "limit"),
    [
        (lambda devices: math.inf, None, "memory"),
        (lambda devices: 200.0 / devices, ideal, "peak rate"),
        (lambda devices: 100.0 / min(devices, 32), None, "batch and communication"),
        (ideal, None, "fleet"),
    ],
)
def test_what_limits_an_impossible_deadline(best: Best, floor: Best | None, limit: str) -> None:
    found = devices_for(
        best, deadline_s=10.0, tokens=TOKENS, batch_tokens=BATCH, counts=range(8, 129, 8), floor_s=floor
    )
    assert not found.reachable
    assert found.limit == limit
    assert found.reason
    if limit != "memory":
        assert found.best is not None
        assert found.best.run_s > 10.0


def test_days_on_a_given_fleet_leave_devices_idle() -> None:
    run = timed(factored, devices=127, counts=range(1, 200), tokens=TOKENS, batch_tokens=BATCH)
    assert run.devices == 127
    assert run.used == 96
    assert run.steps == STEPS
    assert run.run_s == pytest.approx(STEPS * factored(96))
    with pytest.raises(SpecError, match="no plan fits 7 devices"):
        timed(factored, devices=7, counts=range(1, 200), tokens=TOKENS, batch_tokens=BATCH)


@given(devices=st.integers(8, 250), more=st.integers(0, 150))
def test_a_larger_fleet_is_never_slower(devices: int, more: int) -> None:
    counts = range(8, 401)
    less = timed(factored, devices=devices, counts=counts, tokens=TOKENS, batch_tokens=BATCH)
    larger = timed(factored, devices=devices + more, counts=counts, tokens=TOKENS, batch_tokens=BATCH)
    assert larger.run_s <= less.run_s
    assert less.fastest
    assert larger.fastest


def test_a_bound_ends_the_asking_and_too_many_counts_are_said() -> None:
    asked: list[int] = []

    def best(devices: int) -> float:
        asked.append(devices)
        return 2.0 * ideal(devices)

    counts = range(1, 701)
    run = timed(best, devices=700, counts=counts, tokens=TOKENS, batch_tokens=BATCH, floor_s=ideal)
    assert run.fastest
    assert run.used == 700
    assert min(asked) == 351  # at the peak rate 350 devices are as fast as 700 at half of it
    blind = timed(best, devices=700, counts=counts, tokens=TOKENS, batch_tokens=BATCH)
    assert not blind.fastest


def test_time_scales_with_tokens() -> None:
    once = timed(ideal, devices=64, counts=range(1, 65), tokens=TOKENS, batch_tokens=BATCH)
    twice = timed(ideal, devices=64, counts=range(1, 65), tokens=2 * TOKENS, batch_tokens=BATCH)
    assert twice.run_s == pytest.approx(2 * once.run_s)


def test_tokens_by_a_deadline_are_whole_steps() -> None:
    run = tokens_by(ideal, devices=64, counts=range(1, 65), deadline_s=16.0, batch_tokens=BATCH)
    assert run.steps == 10  # 1.5625 s each
    assert run.tokens == 10 * BATCH
    assert run.run_s == pytest.approx(15.625)
    exact = tokens_by(ideal, devices=50, counts=range(1, 65), deadline_s=20.0, batch_tokens=BATCH)
    assert exact.steps == 10


def test_money_buys_the_soonest_it_can() -> None:
    """100 device-seconds a step and nothing lost: 27.8 device-hours at 2 each cost 55.6, on any count."""
    bought = within_budget(
        ideal,
        budget=60.0,
        currency="EUR",
        price_per_device_hour=2.0,
        tokens=TOKENS,
        batch_tokens=BATCH,
        counts=range(8, 65, 8),
    )
    assert bought.affordable
    assert bought.best is not None
    assert bought.best.used == 64
    assert bought.cost == pytest.approx(100.0 * STEPS / 3600.0 * 2.0)
    assert bought.currency == "EUR"
    poor = within_budget(
        factored,
        budget=10.0,
        currency="EUR",
        price_per_device_hour=2.0,
        tokens=TOKENS,
        batch_tokens=BATCH,
        counts=range(1, 65),
    )
    assert not poor.affordable
    assert poor.best is not None
    assert poor.best.used == 8  # more of them lose more to communication
    assert "times as much" in poor.reason
    nothing = within_budget(
        lambda devices: math.inf,
        budget=10.0,
        currency="EUR",
        price_per_device_hour=2.0,
        tokens=TOKENS,
        batch_tokens=BATCH,
        counts=(8,),
    )
    assert nothing.best is None
    assert "memory" in nothing.reason


def test_nonsense_is_refused() -> None:
    with pytest.raises(SpecError, match="not a deadline"):
        devices_for(ideal, deadline_s=0.0, tokens=TOKENS, batch_tokens=BATCH, counts=(1,))
    with pytest.raises(SpecError, match="no counts"):
        devices_for(ideal, deadline_s=1.0, tokens=TOKENS, batch_tokens=BATCH, counts=())
    with pytest.raises(SpecError, match="below 1"):
        devices_for(ideal, deadline_s=1.0, tokens=TOKENS, batch_tokens=BATCH, counts=(0, 1))
    with pytest.raises(ValueError, match="neither seconds nor infinity"):
        devices_for(lambda devices: math.nan, deadline_s=1.0, tokens=TOKENS, batch_tokens=BATCH, counts=(1,))
    with pytest.raises(SpecError, match="not above zero"):
        steps_of(0.0, batch_tokens=1.0)
    assert steps_of(10.0, batch_tokens=4.0) == 3
