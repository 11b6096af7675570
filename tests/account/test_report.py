"""The report: factors that multiply to the whole, unknowns that stay unknown, and a schema that it fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest

from myriarch.account import History, Report, build_ledger, build_report, first_to_fix
from myriarch.account.factors import integrals, kept_work, peaks
from myriarch.cost.flops import flops_per_token
from myriarch.errors import LedgerError
from myriarch.event.ids import PoolId
from myriarch.event.spans import LEAVES

if TYPE_CHECKING:
    from tests.account.conftest import Story

FAST, SLOW = 100_000, 50_000
"""Peaks of the hand-made story's pools, FLOP/s."""


def test_factors_added_up_by_hand(story_of_a_lost_node: Story) -> None:
    """Peaks: 100 kFLOP/s for `fast`, 50 for `slow`. Seconds of leaves: see `test_ledger`."""
    history = story_of_a_lost_node.history()
    report = build_report(history)
    capacity = 95 * (3 * FAST + SLOW)
    usable = capacity - 45 * FAST
    allocated = usable - 53 * FAST
    kept = FAST * (30 + 60 + 30) + SLOW * 60
    flops = flops_per_token(history.resolved.model) * 100 * 6
    assert report.factors.availability == pytest.approx(usable / capacity, rel=1e-15)
    assert report.factors.scheduling == pytest.approx(allocated / usable, rel=1e-15)
    assert report.factors.fault_handling == pytest.approx(kept / allocated, rel=1e-15)
    assert report.factors.compute == pytest.approx(flops / kept, rel=1e-15)
    assert report.effective == pytest.approx(flops / capacity, rel=1e-15)
    assert math.prod(msgspec.structs.astuple(report.factors)) == pytest.approx(report.effective, rel=1e-12)
    assert all(0 <= factor <= 1 for factor in msgspec.structs.astuple(report.factors))


def test_the_product_is_exact_before_rounding(story_of_a_lost_node: Story) -> None:
    history = story_of_a_lost_node.history()
    flops = Fraction(flops_per_token(history.resolved.model)) * kept_work(history).tokens
    total = integrals(build_ledger(history), peaks(history), model_flops=flops)
    assert total is not None
    assert total.model_flops is not None
    product = (
        total.usable / total.capacity
        * (total.allocated / total.usable)
        * (total.kept / total.allocated)
        * (total.model_flops / total.kept)
    )  # fmt: skip
    assert product == total.model_flops / total.capacity


def test_work_and_loss_count_each_kept_step_once(story_of_a_lost_node: Story) -> None:
    report = build_report(story_of_a_lost_node.history())
    work = report.work
    assert (work.steps_kept, work.steps_lost, work.tokens, work.tokens_lost) == (6, 1, 600, 100)
    assert work.tokens_by_group == {"fast": 480, "slow": 120}
    assert work.tokens_per_s == pytest.approx(600 / 95)
    assert work.tokens_per_s_stepping == pytest.approx(10)
    assert [step for step, _ in report.loss.curve] == [1, 2, 3, 4, 5, 6]
    assert report.loss.first == 5.0
    assert report.loss.last == pytest.approx(5 / 6)
    assert report.run.steps_done == 6
    assert report.run.outcome == "completed"


def test_the_json_has_the_published_keys_and_fits_the_schema(story_of_a_lost_node: Story) -> None:
    report = build_report(story_of_a_lost_node.history(), files={"journal": "j"}, emulation={"slow-0": "CPU quota"})
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(report))
    assert data["schema"] == "myriarch.report/1"
    assert set(data["leaves"]) == set(LEAVES)
    assert set(data["factors"]) == {"availability", "scheduling", "fault_handling", "compute"}
    (incident,) = data["incidents"]
    assert {
        "fault", "detected_s", "decided_s", "restored_s", "first_step_s", "lost_steps", "reason",
    } <= set(incident)  # fmt: skip
    assert data["pools"]["slow"]["emulation"] == "CPU quota"
    jsonschema.Draft202012Validator(msgspec.json.schema(Report)).validate(data)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_unknown_peaks_of_unlike_pools_leave_the_factors_unknown(
    story: Callable[..., Story], make_pool: Callable[..., object]
) -> None:
    run = story(make_pool("fast", nodes=1), make_pool("slow", nodes=1))
    run.join(1, **{"fast-0": "active", "slow-0": "active"})
    report = build_report(run.history(end=10))
    assert msgspec.structs.astuple(report.factors) == (None, None, None, None)
    assert report.effective is None
    assert any("unknown" in note for note in report.notes)


def test_one_kind_of_device_needs_no_peak_for_three_factors(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.solo_steps(0, 0, 5)
    report = build_report(run.history())
    assert msgspec.structs.astuple(report.factors) == (1.0, 1.0, 1.0, None)
    assert report.effective is None
    assert all(fix.gain is None for fix in report.fixes)


def test_a_measured_rate_stands_in_for_an_undeclared_peak(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    seat = ("p-0", "p", 0)
    run.join(0, **{"p-0": "active"})
    run.launch(0, 1, [seat])
    run.ready(0, 1, seat, rate=1e6)
    run.start(0, 1, 0, ["p"])
    run.solo_steps(0, 0, 5)
    report = build_report(run.history())
    peak = report.pools[PoolId("p")].peak
    assert (peak.rate_flops_per_s, peak.source) == (1e6, "measured")
    expected = flops_per_token(run.resolved.model) * 500 / (50 * 1e6)
    assert report.effective == report.factors.compute == pytest.approx(expected)
    assert report.pools[PoolId("p")].compute == pytest.approx(expected)


def test_the_value_of_a_fix_is_the_same_work_in_less_time(story_of_a_lost_node: Story) -> None:
    report = build_report(story_of_a_lost_node.history())
    values = {fix.leaf: fix for fix in report.fixes}
    capacity = 95 * (3 * FAST + SLOW)
    lost = FAST * (14 + 14) + SLOW * 19
    assert report.effective is not None
    assert values["lost_work"].effective == pytest.approx(report.effective * capacity / (capacity - lost))
    assert [fix.gain for fix in report.fixes] == sorted((fix.gain for fix in report.fixes), reverse=True)  # type: ignore[type-var]
    first = first_to_fix(report)
    assert first is not None
    assert first.leaf == "repair", "the spare was idle for longer, but that was wanted"
    assert values["idle_reserved_spare"].meant


def test_a_run_that_has_just_started_has_nothing_to_show(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    report = build_report(run.history())
    assert report.capacity_device_ns == 0
    assert msgspec.structs.astuple(report.factors) == (None, None, None, None)
    assert report.run.outcome == "unfinished"
    assert (report.work.tokens_per_s, report.loss.first) == (None, None)
    waiting = build_report(run.history(end=5))
    assert waiting.run.outcome == "running"
    assert waiting.leaves["queue_to_start"] == waiting.capacity_device_ns == 5_000_000_000
    empty = build_report(History.not_started(run.resolved))
    assert (empty.capacity_device_ns, empty.run.outcome) == (0, "not_started")


def test_a_resumed_run_is_where_it_began(story: Callable[..., Story], solo_pool: object) -> None:
    assert build_report(story(solo_pool, resume_step=40).history()).run.steps_done == 40


def test_records_without_a_run_are_refused() -> None:
    with pytest.raises(LedgerError, match="RunStarted"):
        History.from_records([], [])
