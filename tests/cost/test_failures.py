"""How often a run is interrupted."""

from __future__ import annotations

import math

import pytest

from myriarch.cost.failures import DEFAULT_PER_NODE_DAY, failure_rate_per_s, mtbf_s
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
