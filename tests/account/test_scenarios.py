"""Six small histories with known answers, by which goodput libraries are told apart.

Google's ml-goodput-measurement 0.2.3 answers 100 % to four of them, three of which are 66.7 %, and 0 % to a fifth that
is 50 % (measured; it infers everything from the starts of steps). A step takes 10 s, one device, and its peak is what a
step of 10 s needs: useful compute at full speed is effective compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from myriarch.account import Report, build_report
from myriarch.cost.flops import flops_per_token

if TYPE_CHECKING:
    from tests.account.conftest import Story

POINTS = 0.1 / 100
"""Tolerance: 0.1 points."""
STEP_S = 10.0
SEAT = ("p-0", "p", 0)


@pytest.fixture
def run(story: Callable[..., Story], make_pool: Callable[..., object], tokens: int) -> Story:
    told = story(make_pool("p", nodes=1, rate=1.0))
    rate = flops_per_token(told.resolved.model) * tokens / STEP_S
    told = story(make_pool("p", nodes=1, rate=rate))
    told.solo()
    return told


@pytest.fixture
def tokens() -> int:
    return 100


def out_for_1000_s(run: Story, *, from_step: int, to_step: int) -> None:
    """Killed at 1000 s, back at 2000 s."""
    run.worker_exited(1000, SEAT, 1)
    run.decide(1010, "restart_workers", 2, lost_workers=(("p", 0),), from_step=from_step, to_step=to_step)
    run.launch(1010, 2, [SEAT])
    run.fork(1990, 2, [SEAT])
    run.ready(2000, 2, SEAT, ("restore", 1991, 2000))
    run.start(2000, 2, to_step, ["p"])


def check(report: Report, expected: float) -> None:
    """The effective number and the leaf of useful compute both say so, and everything adds up."""
    assert report.effective == pytest.approx(expected, abs=POINTS)
    assert report.leaves["useful_compute"] / report.capacity_device_ns == pytest.approx(expected, abs=POINTS)
    assert sum(report.leaves.values()) == report.capacity_device_ns
    assert report.leaves["unattributed"] == 0


def test_a_an_outage_after_which_nothing_is_lost(run: Story) -> None:
    run.solo_steps(0, 0, 100)
    out_for_1000_s(run, from_step=100, to_step=100)
    run.solo_steps(2000, 100, 100, incarnation=2)
    run.end(3000, 200)
    report = build_report(run.history())
    check(report, 200 / 300)
    assert report.leaves["lost_work"] == 0
    assert report.incidents[0].lost_steps == 0


def test_b_the_same_with_one_step_lost(run: Story) -> None:
    run.solo_steps(0, 0, 100)
    out_for_1000_s(run, from_step=100, to_step=99)
    run.solo_steps(2000, 99, 100, incarnation=2)
    run.end(3000, 199)
    report = build_report(run.history())
    check(report, 199 / 300)
    assert report.leaves["lost_work"] == 10_000_000_000
    assert report.incidents[0].lost_steps == 1


def test_c_half_speed_in_the_second_half(run: Story) -> None:
    run.solo_steps(0, 0, 100)
    run.solo_steps(1000, 100, 100, duration=20)
    run.end(3000, 200)
    report = build_report(run.history())
    check(report, 200 / 300)
    assert report.leaves["throttled"] == 1000_000_000_000


def test_d_a_hang_inside_a_step(run: Story) -> None:
    run.solo_steps(0, 0, 100)
    run.solo_steps(1000, 100, 1, duration=1010)
    run.solo_steps(2010, 101, 99)
    run.end(3000, 200)
    report = build_report(run.history())
    check(report, 200 / 300)
    assert report.incidents == ()


def test_e_a_crash_that_nobody_repairs(run: Story) -> None:
    run.solo_steps(0, 0, 100)
    run.exited(1000, "p-0")
    report = build_report(run.history(end=2000))
    check(report, 1 / 2)
    assert report.factors.availability == pytest.approx(1 / 2)
    assert report.leaves["repair"] == 1000_000_000_000
    assert report.provisional_device_ns == 1000_000_000_000


def test_f_an_evaluation_across_the_border_of_two_steps(run: Story) -> None:
    run.solo_steps(0, 0, 49)
    run.solo_steps(490, 49, 1, duration=20)
    run.solo_steps(510, 50, 1, duration=20)
    run.solo_steps(530, 51, 47)
    run.span("p-0", 500, 520, "evaluation")
    run.end(1000, 98)
    report = build_report(run.history())
    check(report, 0.98)
    assert report.leaves["evaluation"] == 20_000_000_000
