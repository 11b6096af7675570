"""Spare nodes against the Poisson distribution, summed exactly, and against the table of the research."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.spares import (
    DEFAULT_REPAIR_S,
    best_spares,
    mean_repair_s,
    nodes_in_repair,
    shortage,
    shortage_chance,
    spares_needed,
)
from myriarch.plan.valuing import longest_repair_s
from myriarch.spec.fleet import Chip, FailureRate, Pool
from myriarch.units import S_PER_DAY

means = st.floats(0.01, 400.0)


@pytest.mark.parametrize(
    ("nodes", "per_1000_days", "repair_days", "away", "p99", "p999"),
    [
        (1_200, 3.79, 1, 4.55, 10, 12),
        (2_048, 6.50, 1, 13.3, 22, 26),
        (2_048, 6.50, 2, 26.6, 39, 44),
        (12_500, 2.30, 1, 28.8, 42, 47),
        (12_500, 6.50, 3, 243.8, 281, 293),
    ],
)
def test_spares_at_the_published_failure_rates(
    nodes: int, per_1000_days: float, repair_days: float, away: float, p99: int, p999: int
) -> None:
    """Rates of Llama 3, Meta RSC-1 and FT-HSDP; quantiles of the Poisson distribution from another program."""
    rate = nodes * per_1000_days / 1000 / S_PER_DAY
    mean = nodes_in_repair(rate, repair_s=repair_days * S_PER_DAY)
    assert float(mean) == pytest.approx(away, abs=0.06)
    assert int(spares_needed(mean, target=0.99)) == p99
    assert int(spares_needed(mean, target=0.999)) == p999


@pytest.mark.parametrize(("mean", "spares"), [(Fraction(1, 2), 3), (Fraction(9, 2), 10), (Fraction(30), 60)])
def test_tails_are_exact_however_small(mean: Fraction, spares: int) -> None:
    tail = sum(mean**k / math.factorial(k) for k in range(spares + 1, spares + 200))
    exact = float(tail) * math.exp(-float(mean))
    assert float(shortage_chance(float(mean), spares=spares)) == pytest.approx(exact, rel=1e-11)


def test_a_hundred_thousand_devices_and_far_more() -> None:
    assert int(spares_needed(1e5, target=0.5)) == 100_000
    assert float(shortage_chance(1e5, spares=100_000)) == pytest.approx(0.5, abs=1e-3)
    assert float(shortage_chance(1e5, spares=0)) == 1.0
    assert float(shortage_chance(1e5, spares=10**6)) == 0.0


def test_nothing_fails_nothing_is_short() -> None:
    lack = shortage(0.0, spares=0, nodes=100)
    assert float(lack.chance) == float(lack.missing_nodes) == float(lack.degraded_share) == 0.0
    assert int(spares_needed(0.0, target=0.999)) == 0


def test_what_is_missing_on_average_and_in_groups() -> None:
    mean, spares, group = 6.0, 4, 8
    draws = np.random.default_rng(3).poisson(mean, 400_000)
    lack = shortage(mean, spares=spares, nodes=256, group_nodes=group)
    missing = np.maximum(draws - spares, 0)
    assert float(lack.missing_nodes) == pytest.approx(missing.mean(), rel=0.01)
    assert float(lack.degraded_share) == pytest.approx((np.ceil(missing / group) * group).mean() / 256, rel=0.01)


def test_the_number_away_does_not_depend_on_how_repairs_are_distributed() -> None:
    """M/G/infinity: repairs of one length, and log-normal ones with C^2 = 9, leave the same distribution."""
    random = np.random.default_rng(5)
    rate, mean_s, horizon = 4.0, 2.0, 20_000.0
    arrivals = np.cumsum(random.exponential(1 / rate, int(rate * horizon)))
    sigma = math.sqrt(math.log(10.0))
    for lengths in (
        np.full(len(arrivals), mean_s),
        random.lognormal(math.log(mean_s) - sigma**2 / 2, sigma, len(arrivals)),
    ):
        moments = np.arange(100.0, arrivals[-1], 5.0)
        ends = np.sort(arrivals + lengths)
        away = np.searchsorted(arrivals, moments, side="right") - np.searchsorted(ends, moments, side="right")
        assert (away > 12).mean() == pytest.approx(float(shortage_chance(rate * mean_s, spares=12)), abs=0.02)


@given(means, st.integers(0, 60), st.integers(1, 20))
def test_more_spares_are_never_worse_and_more_failures_never_better(mean: float, spares: int, more: int) -> None:
    few, many = (shortage(mean, spares=s, nodes=2000, group_nodes=16) for s in (spares, spares + more))
    worse = shortage(mean * 1.1, spares=spares, nodes=2000, group_nodes=16)
    for name in ("chance", "missing_nodes", "degraded_share"):
        assert getattr(many, name) <= getattr(few, name) <= getattr(worse, name) * (1 + 1e-12)
    assert few.degraded_share <= few.chance


@given(means, st.floats(0.0, 0.999999))
def test_needed_is_the_fewest_that_suffices(mean: float, target: float) -> None:
    spares = int(spares_needed(mean, target=target))
    assert 1 - float(shortage_chance(mean, spares=spares)) >= target - 1e-9
    if spares:
        assert 1 - float(shortage_chance(mean, spares=spares - 1)) < target


def test_the_best_number_of_spares_is_no_worse_than_its_neighbours() -> None:
    for group_nodes in (None, 16.0):
        best = best_spares(28.8, nodes=12_500, group_nodes=group_nodes)

        def share(spares: int, group_nodes: float | None = group_nodes) -> float:
            lack = shortage(28.8, spares=spares, nodes=12_500, group_nodes=group_nodes or 1.0)
            lost = float(lack.chance if group_nodes is None else lack.degraded_share)
            return (1 - lost) / (12_500 + spares)

        assert share(best) >= max(share(max(best - 1, 0)), share(best + 1))
    # A job that needs every node keeps more of them than one that can go on without a group.
    assert best_spares(28.8, nodes=12_500) > best_spares(28.8, nodes=12_500, group_nodes=16.0)


@pytest.mark.parametrize("mean", [-1.0, math.nan, math.inf])
def test_a_mean_that_is_none_is_named(mean: float) -> None:
    with pytest.raises(ValueError, match="nodes in repair"):
        shortage_chance(mean, spares=1)


def test_the_mean_of_a_repair_follows_from_its_median() -> None:
    """LANL: 54 min and 355 min. A log-normal's mean is median x exp(sigma^2 / 2)."""
    assert float(mean_repair_s(54 * 60.0)) == pytest.approx(355 * 60.0)
    sigma = math.sqrt(2 * math.log(355 / 54))
    drawn_s = np.random.default_rng(1).lognormal(math.log(3600.0), sigma, 1_000_000)
    assert float(mean_repair_s(3600.0)) == pytest.approx(drawn_s.mean(), rel=0.02)


def test_plans_size_spares_by_the_mean_where_the_fleet_file_says_a_median() -> None:
    pools = {
        name: (Pool(name=name, chip=Chip(id="c"), nodes=2, failures=failures), 2.0)
        for name, failures in (
            ("a", FailureRate(per_node_day=0.01, repair_s=5400.0)),
            ("b", FailureRate(per_node_day=0.02)),
            ("c", None),
        )
    }
    assert longest_repair_s(pools) == pytest.approx(5400 * 355 / 54)
    assert longest_repair_s({"c": pools["c"]}) == DEFAULT_REPAIR_S
