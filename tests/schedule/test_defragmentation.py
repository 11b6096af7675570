"""Jobs are moved together for a gang that fits by count, when that pays by the stated rule, and never otherwise."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Resize, Start
from myriarch.schedule.defragmentation import Defragmenting
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.moving import Moving
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ByArrival
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

TWO = PoolLayout(name="p", nodes=2, devices_per_node=8)
RACKS = PoolLayout(name="p", nodes=4, devices_per_node=8, nodes_per_rack=2)


def job(name: str, devices: int, **more: object) -> Job:
    told = {"estimate_s": 3000.0, "preemptible": True, "restart_s": 100.0}
    return msgspec.convert({"id": name, "submit_s": 0.0, "devices": devices} | told | more, Job)


def halves(estimate_s: float = 3000.0, **more: object) -> Defragmenting:
    """Half of each of two nodes is in use; `whole` needs one."""
    scheduler = Defragmenting(Easy(Placed([TWO])))
    for name in ("a", "b", "c"):
        scheduler.submit(job(name, 4, estimate_s=estimate_s, **more), now_s=0.0)
    scheduler.end(JobId("a"), now_s=10.0)
    assert not scheduler.wake(now_s=10.0)
    return scheduler


def test_a_gang_that_fits_by_count_gets_a_node() -> None:
    scheduler = halves()
    assert not scheduler.submit(job("whole", 8), now_s=20.0)
    assert scheduler.wake_s == 20.0
    moved, start = scheduler.wake(now_s=20.0)
    assert isinstance(moved, Resize)
    assert (moved.job, moved.placement.nodes, moved.until_s, moved.lost) == ("b", (1,), 3100.0, False)
    assert moved.reason == (
        "makes room for job whole on p-0: 8 devices spared 2980 s; 1 moved for 400 device-seconds of restarting"
    )
    assert isinstance(start, Start)
    assert (start.job, start.placement.nodes) == ("whole", (0,))
    scheduler.check()


def test_nobody_moves_for_less_than_it_costs_or_who_may_not() -> None:
    """8 devices for 100 s against 4 for 200 s: not more. One second longer, and it is."""
    for estimate_s, restart_s, moves in ((120.0, 200.0, False), (320.0, 299.0, True), (320.0, 301.0, False)):
        scheduler = halves(estimate_s=estimate_s, restart_s=restart_s)
        scheduler.submit(job("whole", 8), now_s=20.0)
        assert bool(scheduler.wake(now_s=20.0)) is moves
    stubborn = halves(preemptible=False)
    stubborn.submit(job("whole", 8), now_s=20.0)
    assert not stubborn.wake(now_s=20.0)


def test_a_rack_is_opened_where_it_is_cheapest() -> None:
    """One node of each rack is in use; the second job costs less to move."""
    scheduler = Defragmenting(Easy(Placed([RACKS])))
    for name, restart_s in (("a", 300.0), ("b", 1.0), ("c", 200.0), ("d", 1.0)):
        scheduler.submit(job(name, 8, restart_s=restart_s), now_s=0.0)
    scheduler.end(JobId("b"), now_s=10.0)
    scheduler.end(JobId("d"), now_s=10.0)
    scheduler.submit(job("rack", 16, within="rack"), now_s=10.0)
    moved, start = scheduler.wake(now_s=10.0)
    assert isinstance(moved, Resize)
    assert isinstance(start, Start)
    assert (moved.job, moved.placement.nodes, start.job, start.placement.nodes) == ("c", (1,), "rack", (2, 3))


def test_after_a_plan_there_is_a_pause() -> None:
    scheduler = Defragmenting(Easy(Placed([PoolLayout(name="p", nodes=4, devices_per_node=8)])))
    for number in range(8):
        scheduler.submit(job(f"j{number}", 4), now_s=0.0)
    for number in (0, 2, 4, 6):
        scheduler.end(JobId(f"j{number}"), now_s=10.0)
    scheduler.submit(job("first", 8), now_s=20.0)
    assert len(scheduler.wake(now_s=20.0)) == 2
    scheduler.submit(job("second", 8), now_s=30.0)
    assert scheduler.wake_s == 620.0
    assert [one.job for one in scheduler.wake(now_s=620.0)][-1] == "second"
    with pytest.raises(SpecError, match="pause"):
        Defragmenting(Easy(Placed([TWO])), pause_s=0.0)


@st.composite
def workloads(draw: st.DrawFn) -> list[Task]:
    tasks, at_s = [], 0.0
    for number in range(draw(st.integers(1, 25))):
        at_s += draw(st.integers(0, 400))
        run_s = float(draw(st.integers(1, 4000)))
        one = job(
            f"j{number}",
            draw(st.sampled_from([1, 2, 4, 6, 8, 16])),
            submit_s=at_s,
            estimate_s=run_s * draw(st.sampled_from([1.0, 2.0])),
            within=draw(st.sampled_from(["pool", "rack"])),
            preemptible=draw(st.booleans()),
            restart_s=float(draw(st.integers(0, 200))),
            saves_every_s=300.0,
        )
        tasks.append(Task(job=one, run_s=run_s))
    return tasks


@settings(max_examples=25, deadline=None)
@given(
    tasks=workloads(),
    ranked=st.booleans(),
    breaks=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 3)), max_size=2),
)
def test_moves_pay_and_nothing_is_lost(tasks: list[Task], ranked: bool, breaks: list[tuple[int, int]]) -> None:
    machine = Placed([RACKS])
    base: Moving = Ranked(machine, ByArrival()) if ranked else Easy(machine)
    scheduler = Defragmenting(base)
    breakdowns = [
        Breakdown(at_s=float(at_s), pool="p", node=node, cause="x", course="repair", duration_s=500.0)
        for at_s, node in breaks
    ]
    plans: list[float] = []
    awaited: set[str] = set()

    def seen(decision: Decision) -> None:
        if isinstance(decision, Start):
            awaited.discard(decision.job)
        elif "makes room" not in decision.reason:
            assert not awaited
        if isinstance(decision, Resize) and decision.reason.startswith("makes room"):
            awaited.add(decision.reason.split()[4])
            devices, wait_s, cost = re.findall(
                r": (\d+) devices spared (\S+) s; \d+ moved for (\S+) dev", decision.reason
            )[0]
            assert int(devices) * float(wait_s) > float(cost)
            if not plans or plans[-1] != decision.at_s:
                assert not plans or decision.at_s >= plans[-1] + 600.0
                plans.append(decision.at_s)

    outcome = simulate_cluster(tasks, scheduler, breakdowns=breakdowns, observe=seen, check=True)
    assert outcome.unfinished == 0
    assert not awaited, "whom room is made for starts"
