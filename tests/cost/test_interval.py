"""The checkpoint interval against published numbers, and the properties that make it the optimum."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from myriarch.cost.interval import (
    best_efficiency,
    daly_interval_s,
    expected_efficiency,
    first_order_levels,
    optimal_interval_s,
    optimal_interval_steps,
    young_interval_s,
)

MINUTE_S = 60.0
HOUR_S = 3600.0

saves_s = st.floats(1e-3, 1e4)
mtbfs_s = st.floats(1.0, 1e9)
factors = st.floats(1.001, 100.0)


@pytest.mark.parametrize(
    ("mtbf_s", "published_min", "young_min", "daly_min", "exact_min"),
    [
        (24 * HOUR_S, 117, 120.0, 116.69, 116.690),
        (6 * HOUR_S, 57, 60.0, 56.71, 56.714),
        (15 * MINUTE_S, 9.1, 12.25, 9.14, 9.167),
    ],
)
def test_daly_2006_captions_of_the_figures(
    mtbf_s: float, published_min: float, young_min: float, daly_min: float, exact_min: float
) -> None:
    """Daly, Future Generation Computer Systems 22 (2006): 500 h of work, saves of 5 min, restarts of 10 min."""
    save_s = 5 * MINUTE_S
    exact = optimal_interval_s(save_s, mtbf_s=mtbf_s) / MINUTE_S
    assert exact == pytest.approx(published_min, rel=0.01)
    assert exact == pytest.approx(exact_min, abs=0.0006)
    assert young_interval_s(save_s, mtbf_s=mtbf_s) / MINUTE_S == pytest.approx(young_min, abs=0.006)
    assert daly_interval_s(save_s, mtbf_s=mtbf_s) / MINUTE_S == pytest.approx(daly_min, abs=0.006)


@pytest.mark.parametrize(("mtbf_h", "efficiency"), [(24, 0.9126), (6, 0.8194), (0.25, 0.1997)])
def test_daly_2006_efficiencies_computed_from_its_equation_20(mtbf_h: float, efficiency: float) -> None:
    best = best_efficiency(5 * MINUTE_S, restart_s=10 * MINUTE_S, mtbf_s=mtbf_h * HOUR_S)
    assert best == pytest.approx(efficiency, abs=5e-5)


@pytest.mark.parametrize(
    ("mtbf_min", "restart_min", "save_s", "efficiency"),
    [
        (180, 10, 10, 0.906),
        (51, 10, 10, 0.757),
        (18, 1, 0.5, 0.917),
        (18, 3, 0.5, 0.821),
        (18, 10, 10, 0.499),
        (18, 15, 0.5, 0.422),
    ],
)
def test_efficiency_at_the_failure_rates_of_meta(
    mtbf_min: float, restart_min: float, save_s: float, efficiency: float
) -> None:
    """Revisiting Reliability (Meta RSC, HPCA 2025) and FT-HSDP: where E[ETTR] of first order is up to 27 points low."""
    best = best_efficiency(save_s, restart_s=restart_min * MINUTE_S, mtbf_s=mtbf_min * MINUTE_S)
    assert best == pytest.approx(efficiency, abs=0.0006)


MOODY_2010 = {
    # machine: levels of (failures per second, save in s); best efficiency of the Markov model; intervals; tolerance
    "coastal": ([(8.54e-7, 15.0), (2.01e-7, 1835.0)], 0.96776, (5927, 22.8), 0.003),
    "atlas": ([(7.78e-6, 9.0), (5.19e-7, 438.0)], 0.96695, (1521, 27.0), 0.003),
    "made_up": ([(7.78e-6, 9.0), (5.19e-7, 50.0), (3e-8, 438.0)], 0.97677, (1521, 9.1), 0.003),
    "made_up x 50": ([(3.89e-4, 9.0), (2.595e-5, 50.0), (1.5e-6, 438.0)], 0.8317, (215, 9.1), 0.025),
}


@pytest.mark.parametrize("machine", MOODY_2010)
def test_moody_2010_several_levels(machine: str) -> None:
    """Moody et al., SC 2010, through LLNL/SCR-model: the closed form beside the Markov model's best."""
    levels, markov, (first_interval_s, per_next_level), tolerance = MOODY_2010[machine]
    intervals, efficiency = first_order_levels(levels)
    assert efficiency == pytest.approx(markov, abs=tolerance)
    assert intervals[0] == pytest.approx(first_interval_s, abs=0.5)
    assert intervals[1] / intervals[0] == pytest.approx(per_next_level, abs=0.05)


def test_a_level_that_never_fails_costs_nothing() -> None:
    intervals, efficiency = first_order_levels([(0.0, 15.0), (1e-6, 100.0)])
    assert intervals[0] == math.inf
    assert (intervals[1:], efficiency) == first_order_levels([(1e-6, 100.0)])


@given(saves_s, mtbfs_s)
@example(1e-3, 1e9)
@example(1e4, 1.0)
def test_solves_its_defining_equation(save_s: float, mtbf_s: float) -> None:
    x, c = optimal_interval_s(save_s, mtbf_s=mtbf_s) / mtbf_s, save_s / mtbf_s
    assert 0 < x <= 1
    if x < 1e-3:  # here the equation itself loses its digits: ln(1 - x) + x is about -x^2/2
        assert x == pytest.approx(math.sqrt(2 * c) * (1 - math.sqrt(2 * c) / 3), rel=1e-6)
    elif c < 10:
        assert -math.log1p(-x) - x == pytest.approx(c, rel=1e-9)
    else:
        assert 1 - x == pytest.approx(math.exp(-c - 1), rel=1e-3, abs=1e-15)


@given(saves_s, mtbfs_s, st.floats(0, 1e4), factors)
def test_no_other_interval_is_better(save_s: float, mtbf_s: float, restart_s: float, factor: float) -> None:
    best = best_efficiency(save_s, restart_s=restart_s, mtbf_s=mtbf_s)
    interval_s = optimal_interval_s(save_s, mtbf_s=mtbf_s)
    for other_s in (interval_s * factor, interval_s / factor):
        other = expected_efficiency(other_s, save_s=save_s, restart_s=restart_s, mtbf_s=mtbf_s)
        assert other <= best * (1 + 1e-9)
    assert 0 <= best <= 1


@given(saves_s, mtbfs_s, factors)
def test_rises_with_the_cost_of_a_save_and_with_the_time_between_failures(
    save_s: float, mtbf_s: float, factor: float
) -> None:
    interval_s = optimal_interval_s(save_s, mtbf_s=mtbf_s)
    assert optimal_interval_s(save_s * factor, mtbf_s=mtbf_s) >= interval_s
    assert optimal_interval_s(save_s, mtbf_s=mtbf_s * factor) >= interval_s


@given(saves_s, mtbfs_s, st.floats(0, 1e4), factors)
def test_efficiency_falls_with_every_cost_and_rises_with_the_time_between_failures(
    save_s: float, mtbf_s: float, restart_s: float, factor: float
) -> None:
    best = best_efficiency(save_s, restart_s=restart_s, mtbf_s=mtbf_s) * (1 + 1e-12)
    assert best_efficiency(save_s * factor, restart_s=restart_s, mtbf_s=mtbf_s) <= best
    assert best_efficiency(save_s, restart_s=restart_s * factor, mtbf_s=mtbf_s) <= best
    assert best_efficiency(save_s, restart_s=restart_s, mtbf_s=mtbf_s / factor) <= best


@given(saves_s, mtbfs_s, st.floats(0, 1e4))
def test_does_not_depend_on_the_unit_of_time(save_s: float, mtbf_s: float, restart_s: float) -> None:
    interval_s = optimal_interval_s(save_s, mtbf_s=mtbf_s)
    assert optimal_interval_s(save_s * 1024, mtbf_s=mtbf_s * 1024) == pytest.approx(interval_s * 1024, rel=1e-12)
    one = best_efficiency(save_s, restart_s=restart_s, mtbf_s=mtbf_s)
    other = best_efficiency(save_s * 1024, restart_s=restart_s * 1024, mtbf_s=mtbf_s * 1024)
    assert one == pytest.approx(other, rel=1e-12)


@given(st.floats(0.01, 100.0), saves_s, mtbfs_s, st.integers(1, 10_000))
def test_whole_steps_are_the_best_whole_steps(step_s: float, save_s: float, mtbf_s: float, limit_steps: int) -> None:
    steps = optimal_interval_steps(step_s, save_s=save_s, mtbf_s=mtbf_s, limit_steps=limit_steps)
    assert 1 <= steps <= limit_steps

    def efficiency(count: int) -> float:
        return expected_efficiency(count * step_s, save_s=save_s, restart_s=0, mtbf_s=mtbf_s)

    near = [count for count in (1, steps - 1, steps + 1) if 1 <= count <= limit_steps]
    assert all(efficiency(count) <= efficiency(steps) * (1 + 1e-9) for count in near)


def test_the_ends_of_the_range() -> None:
    assert optimal_interval_s(0.0, mtbf_s=100.0) == 0.0
    assert optimal_interval_s(5.0, mtbf_s=math.inf) == math.inf
    assert best_efficiency(5.0, restart_s=60.0, mtbf_s=math.inf) == 1.0
    assert best_efficiency(0.0, restart_s=50.0, mtbf_s=100.0) == pytest.approx(math.exp(-0.5))
    assert expected_efficiency(90.0, save_s=10.0, restart_s=60.0, mtbf_s=math.inf) == 0.9
    assert expected_efficiency(1e9, save_s=10.0, restart_s=60.0, mtbf_s=1.0) == 0.0
    assert daly_interval_s(10.0, mtbf_s=5.0) == 5.0
    assert optimal_interval_steps(1.0, save_s=5.0, mtbf_s=math.inf, limit_steps=120) == 120
    assert optimal_interval_steps(1.0, save_s=0.0, mtbf_s=100.0, limit_steps=120) == 1


@pytest.mark.parametrize(
    ("save_s", "mtbf_s", "message"),
    [
        (5.0, 0.0, "mtbf_s: 0.0 is not above zero"),
        (5.0, math.nan, "mtbf_s: nan is not above zero"),
        (-1.0, 9.0, "save_s: -1.0 is not a finite number from zero up"),
        (math.inf, 9.0, "save_s: inf is not a finite number from zero up"),
    ],
)
def test_refuses_what_is_no_duration(save_s: float, mtbf_s: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_interval_s(save_s, mtbf_s=mtbf_s)
