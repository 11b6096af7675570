"""How often a run is interrupted."""

from __future__ import annotations

import math

import pytest

from myriarch.cost.failures import DEFAULT_PER_NODE_DAY, failure_rate_per_s, growth, mtbf_s, per_node_day
from myriarch.spec.fleet import Chip, FailureRate, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.resolve import resolve
from myriarch.spec.run import Batch, ResolvedRun, Run


def resolved(*pools: Pool) -> ResolvedRun:
    run = Run(name="r", fleet="f", model="m", steps=9, batch=Batch(sequences=sum(p.devices for p in pools)))
    model = Model(name="m", layers=1, width=8, heads=2, context_tokens=8)
    return resolve(run, Fleet(name="f", pools=pools), model, catalogue={})


def pool(name: str, *, nodes: int, spares: int = 1, per_node_day: float | None = None) -> Pool:
    failures = None if per_node_day is None else FailureRate(per_node_day=per_node_day)
    return Pool(name=name, chip=Chip(id="c"), nodes=nodes, spares=spares, devices_per_node=8, failures=failures)


def test_llama_3_table_5() -> None:
    """2048 nodes, 54 days, 419 unexpected interruptions: one per 3.09 h (arXiv:2407.21783)."""
    assert mtbf_s(resolved(pool("h100", nodes=2048))) / 3600 == pytest.approx(3.09, abs=0.005)
    assert pytest.approx(419 / (2048 * 54), rel=1e-3) == DEFAULT_PER_NODE_DAY


@pytest.mark.parametrize(("nodes", "hours"), [(2048, 1.803), (16384, 0.225)])
def test_meta_rsc_mean_time_to_failure(nodes: int, hours: float) -> None:
    """Revisiting Reliability (HPCA 2025): 6.5 per 1000 node-days give 1.8 h at 16,384 and 0.23 h at 131,072 devices."""
    assert mtbf_s(resolved(pool("a100", nodes=nodes, per_node_day=0.0065))) / 3600 == pytest.approx(hours, abs=0.001)


def test_pools_add_up_and_spares_interrupt_nothing() -> None:
    both = resolved(pool("a", nodes=2, spares=9, per_node_day=1), pool("b", nodes=3, per_node_day=2))
    assert failure_rate_per_s(both) == pytest.approx(8 / 86400)


def test_nothing_ever_fails() -> None:
    assert mtbf_s(resolved(pool("a", nodes=2, per_node_day=0))) == math.inf


@pytest.mark.parametrize(
    ("devices", "minutes"),
    [
        (16_384, 185.6),  # Llama 3: 54 days / 419
        (98_304, 18.0),  # FT-HSDP, measured; 2.3 per 1000 server-days would give 51
    ],
)
def test_the_law_passes_through_the_published_points(devices: int, minutes: float) -> None:
    days = 1 / (devices / 8 * float(per_node_day(devices)))
    assert days * 1440 == pytest.approx(minutes, rel=0.005)


def test_the_law_is_never_below_what_was_measured_and_says_by_how_much_it_is_above() -> None:
    assert float(per_node_day(32_768)) / 2.3e-3 == pytest.approx(1.65, abs=0.01)
    projected = 1440 / 14 / (131_072 / 8)  # FT-HSDP's projection: 14 minutes
    assert float(per_node_day(131_072)) / projected == pytest.approx(1.36, abs=0.01)
    assert float(growth(55_000)) == 1.0 < float(growth(56_000))


def test_only_the_published_rate_grows() -> None:
    large = 98_304 // 8
    assert mtbf_s(resolved(pool("a", nodes=large))) / 60 == pytest.approx(18.0, rel=0.005)
    own = failure_rate_per_s(resolved(pool("a", nodes=large, per_node_day=0.0023)))
    assert 1 / own / 60 == pytest.approx(51, rel=0.01)
