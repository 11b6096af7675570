"""A cap by hour: starts wait for power, the first in the queue is not starved of it, and the cap is never passed."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.capped import Capped, Watts
from myriarch.schedule.decision import Decision, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.moving import Moving
from myriarch.schedule.placed import Placed
from myriarch.schedule.power import Hour
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ShortestRemaining
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

POOL = PoolLayout(name="p", nodes=4, devices_per_node=8)
WATTS = {"p": Watts(busy_w=1000.0, idle_w=100.0)}
"""3,200 W idle; a node of busy devices adds 7,200 W."""


def job(name: str, devices: int = 8, **more: object) -> Job:
    return msgspec.convert({"id": name, "submit_s": 0.0, "devices": devices, "estimate_s": 3000.0} | more, Job)


def hours(*caps_w: float, price: tuple[float, ...] = ()) -> list[Hour]:
    return [
        Hour(
            start_s=3600.0 * at,
            end_s=3600.0 * (at + 1),
            price_per_kwh=price[at] if price else 0.1,
            cap_w=cap_w,
        )
        for at, cap_w in enumerate(caps_w)
    ]


def names(decisions: object) -> list[str]:
    return [one.job for one in decisions if isinstance(one, Start)]  # type: ignore[attr-defined]


def test_a_start_waits_for_power_and_those_that_fit_go_on() -> None:
    """Two nodes' worth of power: the third starts when one of them is over, and says what is drawn."""
    capped = Capped(Easy(Placed([POOL])), WATTS, hours(17_600.0, 17_600.0))
    (first,) = capped.submit(job("a"), now_s=0.0)
    assert isinstance(first, Start)
    assert first.reason.sentence == (
        "first in the queue, and its devices are free, after 0 s in the queue; 10400 of 17600 W drawn"
    )
    assert names(capped.submit(job("b", 4), now_s=0.0)) == ["b"]
    assert not capped.submit(job("c"), now_s=10.0), "withheld, not refused"
    assert capped.wake_s == 3600.0
    assert names(capped.submit(job("d", 4, estimate_s=2000.0), now_s=20.0)) == ["d"], "over before a is"
    assert not capped.submit(job("e", 4, estimate_s=2000.0), now_s=30.0)
    assert capped.power_w == 17_600.0
    assert names(capped.end(JobId("d"), now_s=2020.0)) == ["e"], "it leaves c enough at 3000 s"
    assert names(capped.end(JobId("a"), now_s=3000.0)) == ["c"]
    capped.check()


def test_no_job_runs_into_an_hour_with_too_little_power() -> None:
    capped = Capped(Easy(Placed([POOL])), WATTS, hours(32_000.0, 10_400.0, 32_000.0))
    assert names(capped.submit(job("short", 16, estimate_s=3600.0), now_s=0.0)) == ["short"]
    assert not capped.submit(job("long", 16, estimate_s=3601.0), now_s=0.0)
    assert names(capped.submit(job("small", 8, estimate_s=7200.0), now_s=0.0)) == ["small"]
    assert not capped.end(JobId("short"), now_s=3600.0)
    assert capped.wake_s == 3600.0
    assert not capped.wake(now_s=3600.0)
    assert capped.wake_s == 7200.0
    assert names(capped.wake(now_s=7200.0)) == ["long"]
    assert capped.cap_w(10_800.0) == math.inf


def test_a_job_with_slack_is_held_for_cheap_hours() -> None:
    """Half of 14,400 s slack: it may begin until 7,200 s, and costs least from there on."""
    night = hours(*(math.inf,) * 6, price=(0.4, 0.4, 0.1, 0.1, 0.1, 0.1))
    capped = Capped(InOrder(Placed([POOL])), WATTS, night, slack_share=0.5)
    assert not capped.submit(job("flexible", estimate_s=3600.0, deadline_s=18_000.0), now_s=0.0)
    assert (capped.waiting, capped.wake_s) == (1, 7200.0)
    assert names(capped.submit(job("other", estimate_s=3600.0), now_s=0.0)) == ["other"]
    assert names(capped.submit(job("late", estimate_s=3600.0, deadline_s=3600.0), now_s=0.0)) == ["late"]
    (start,) = capped.wake(now_s=7200.0)
    assert isinstance(start, Start)
    assert start.reason.text == (
        "held back from 0 to 7200 s of 14400 s slack for energy at 0.1 a kWh instead of 0.4; 24800 of inf W drawn"
    )
    assert capped.waiting == 0


def test_what_cannot_be_is_refused() -> None:
    for watts, caps, match in (
        ({}, (math.inf,), "no watts"),
        ({"p": Watts(busy_w=1.0, idle_w=2.0)}, (math.inf,), "2 W idle"),
        (WATTS, (3199.0,), "idle, all devices draw 3200 W"),
    ):
        with pytest.raises(SpecError, match=match):
            Capped(Easy(Placed([POOL])), watts, hours(*caps))


@st.composite
def workloads(draw: st.DrawFn) -> list[Task]:
    tasks, at_s = [], 0.0
    for number in range(draw(st.integers(1, 25))):
        at_s += draw(st.integers(0, 1500))
        run_s = float(draw(st.integers(1, 6000)))
        estimate_s = run_s * draw(st.sampled_from([1.0, 2.0]))
        flexible = draw(st.booleans())
        one = job(
            f"j{number}",
            draw(st.sampled_from([1, 3, 4, 8, 16, 24])),
            submit_s=at_s,
            estimate_s=estimate_s,
            deadline_s=at_s + 3 * estimate_s + 7200.0 if flexible else None,
            preemptible=draw(st.booleans()),
        )
        tasks.append(Task(job=one, run_s=run_s))
    return tasks


@settings(max_examples=20, deadline=None)
@given(
    tasks=workloads(),
    caps=st.lists(st.sampled_from([3200.0, 8000.0, 17_600.0, 25_000.0, math.inf]), min_size=1, max_size=8),
    which=st.sampled_from(["easy", "fifo", "ranked"]),
)
def test_the_cap_is_never_passed_and_all_run(tasks: list[Task], caps: list[float], which: str) -> None:
    machine = Placed([POOL])
    base: Moving = Easy(machine) if which == "easy" else InOrder(machine)
    if which == "ranked":
        base = Ranked(machine, ShortestRemaining(lambda one: one.estimate_s), plan="estimate")
    priced = hours(*caps, price=tuple(0.1 * (at % 3 + 1) for at in range(len(caps))))
    capped = Capped(base, WATTS, priced, slack_share=0.5)

    def seen(decision: Decision) -> None:
        if isinstance(decision, Start):
            assert capped.power_w <= capped.cap_w(decision.at_s) * (1 + 1e-9)
            assert "W drawn" in decision.reason.text

    outcome = simulate_cluster(tasks, capped, observe=seen, check=True)
    assert outcome.unfinished == 0
    assert not outcome.columns.refused
