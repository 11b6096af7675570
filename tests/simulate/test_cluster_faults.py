"""Faults in the cluster: small cases worked out by hand, and what holds whatever breaks."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.account.factors import Peak, integrals
from myriarch.errors import SpecError
from myriarch.event.ids import PoolId
from myriarch.event.spans import Leaf
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Decision, Placement, Preempt, Resize, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.order import SHORTEST
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.breakdowns import Breakdown, Course
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.cluster_outcome import ClusterOutcome
from myriarch.simulate.cluster_report import ClusterReport, report
from myriarch.simulate.queueing import Task

S = 10**9
DEVICES = 16
POOL = PoolLayout(name="p", nodes=4, devices_per_node=4, nodes_per_rack=2, racks_per_pod=1)


def task(name: str, submit_s: float, devices: int, run_s: float, **more: Any) -> Task:
    job = Job(id=JobId(name), submit_s=submit_s, devices=devices, estimate_s=run_s, **more)
    return Task(job=job, run_s=run_s)


def breakdown(at_s: float, node: int, course: Course, duration_s: float = 0.0, **more: Any) -> Breakdown:
    return Breakdown(at_s=at_s, pool="p", node=node, cause="test", course=course, duration_s=duration_s, **more)


def told(
    tasks: list[Task], *breakdowns: Breakdown, spares: int = 0, **more: Any
) -> tuple[ClusterOutcome, list[Decision]]:
    """Under EASY."""
    machine = Placed([POOL])
    machine.reserve("p", nodes=spares)
    decisions: list[Decision] = []
    outcome = simulate_cluster(
        tasks, Easy(machine), breakdowns=breakdowns, observe=decisions.append, check=True, **more
    )
    return outcome, decisions


def test_a_gang_gets_another_node_of_its_domain() -> None:
    """100 s of work, a checkpoint every 30 s; at 70 s a node goes: on from 60 s, after 5 s of restoring."""
    outcome, decisions = told(
        [task("a", 0.0, 8, 100.0, saves_every_s=30.0, restart_s=5.0)], breakdown(70.0, 0, "repair", 1000.0)
    )
    assert outcome.ended_s.tolist() == [70 + 5 + 40]
    resize = decisions[1]
    assert isinstance(resize, Resize)
    assert resize.lost
    assert resize.placement.nodes == (1, 2)
    assert resize.until_s == 70 + 5 + 40
    assert resize.reason == "node p-0 is lost; of 70 s that it ran 60 s are saved; p-2 takes its place"
    leaves = outcome.ledger.total.leaves
    assert leaves["lost_work"] == 8 * 10 * S
    assert leaves["restart"] == 8 * 5 * S
    assert leaves["useful_compute"] == 8 * 100 * S
    assert leaves["repair"] == 4 * 45 * S
    assert sum(leaves.values()) == 16 * 115 * S


def test_within_its_rack_or_not_at_all() -> None:
    """Its rack has no other node: it waits until the node is back, then goes on from what it saved."""
    outcome, decisions = told(
        [
            task("a", 0.0, 8, 100.0, within="rack", saves_every_s=30.0),
            task("b", 0.0, 8, 200.0, within="rack"),
        ],
        breakdown(70.0, 0, "repair", 50.0),
    )
    preempt = decisions[2]
    assert isinstance(preempt, Preempt)
    assert preempt.lost
    assert "nowhere is room for it now, so it waits where it stood" in preempt.reason
    assert outcome.ended_s.tolist() == [120 + 40, 200]
    assert outcome.columns.lost_s.tolist() == [10, 0]
    assert outcome.columns.restarts.tolist() == [1, 0]


def test_what_saves_nothing_starts_anew_before_those_who_came_later() -> None:
    outcome, decisions = told(
        [task("a", 0.0, 16, 100.0), task("b", 1.0, 16, 10.0)],
        breakdown(70.0, 3, "repair", 30.0),
    )
    assert isinstance(decisions[1], Preempt)
    assert "nothing is left to go on from" in decisions[1].reason
    assert outcome.first_start_s.tolist() == [0, 200]
    assert outcome.ended_s.tolist() == [200, 210]
    leaves = outcome.ledger.total.leaves
    assert leaves["idle_waiting_gang"] == 12 * 30 * S
    assert leaves["lost_work"] == 16 * 70 * S


def test_processes_die_in_place() -> None:
    """No decision: 10 s until it is known, 5 s of restoring, 10 s of work once more."""
    outcome, decisions = told(
        [task("a", 0.0, 8, 100.0, saves_every_s=30.0, restart_s=5.0)], breakdown(70.0, 0, "in_place"), detect_s=10.0
    )
    assert len(decisions) == 1
    assert outcome.ended_s.tolist() == [100 + 10 + 10 + 5]
    assert outcome.ledger.total.leaves["detect"] == 8 * 10 * S


def test_nobody_knows_yet_that_a_node_is_gone() -> None:
    outcome, decisions = told(
        [task("a", 0.0, 8, 100.0, saves_every_s=30.0), task("b", 71.0, 1, 5.0)],
        breakdown(70.0, 0, "repair", 1000.0),
        detect_s=10.0,
    )
    assert isinstance(decisions[2], Resize)
    assert decisions[2].at_s == 80.0
    assert outcome.ended_s.tolist() == [80 + 40, 76]
    assert outcome.ledger.total.leaves["detect"] == 8 * 10 * S
    assert outcome.ledger.total.leaves["repair"] == 4 * 40 * S


def test_whoever_starts_on_a_dead_node_stands_still_until_that_is_known() -> None:
    outcome, _ = told([task("a", 2.0, 16, 100.0)], breakdown(5.0, 0, "repair", 20.0), detect_s=10.0)
    assert outcome.ended_s.tolist() == [25 + 100]
    outcome, _ = told(
        [task("a", 0.0, 1, 1.0), task("b", 7.0, 16, 100.0)], breakdown(5.0, 0, "repair", 20.0), detect_s=10.0
    )
    assert outcome.ended_s.tolist() == [1, 25 + 100]
    assert outcome.ledger.total.leaves["detect"] == 16 * 8 * S


def test_a_gang_is_as_slow_as_its_slowest_node() -> None:
    """Half speed for 40 s: 20 s of work are left over. Own devices are throttled, the others wait."""
    outcome, _ = told([task("a", 0.0, 8, 100.0)], breakdown(50.0, 1, "slow", 40.0, factor=0.5))
    assert outcome.ended_s.tolist() == [120]
    leaves = outcome.ledger.total.leaves
    assert leaves["throttled"] == leaves["straggler_wait"] == 4 * 20 * S
    assert leaves["useful_compute"] == 8 * 100 * S


def test_two_things_that_slow_one_node() -> None:
    """The worse one counts: until 40 s, 5 + 2.5 + 5 s of work are done."""
    outcome, _ = told(
        [task("a", 10.0, 4, 100.0)],
        breakdown(0.0, 0, "slow", 40.0, factor=0.5),
        breakdown(20.0, 0, "slow", 10.0, factor=0.25),
    )
    assert outcome.ended_s.tolist() == [40 + 100 - 12.5]


def test_wrong_values_take_everything_since_the_last_good_checkpoint() -> None:
    """Wrong from 40 s on, noticed at 75 s: back to the checkpoint of 30 s; that of 60 s is no good."""
    outcome, decisions = told(
        [task("a", 0.0, 8, 100.0, saves_every_s=30.0, restart_s=5.0)], breakdown(40.0, 0, "corrupt", 35.0)
    )
    assert len(decisions) == 1
    assert outcome.ended_s.tolist() == [75 + 5 + 70]
    assert outcome.ledger.total.leaves["lost_work"] == 8 * 45 * S
    outcome, _ = told([task("a", 0.0, 8, 100.0)], breakdown(40.0, 0, "corrupt", 90.0))
    assert outcome.ended_s.tolist() == [100]
    assert report(outcome).wrong == 1


def test_announced_maintenance_drains_the_node() -> None:
    """From 15 s on nobody starts there who would be there at 60 s; who is there still then has saved before."""
    tasks = [
        task("stays", 0.0, 2, 90.0, preemptible=True, save_s=2.0, restart_s=3.0),
        task("long", 20.0, 2, 90.0),
        task("brief", 21.0, 2, 30.0),
    ]
    outcome, decisions = told(tasks, breakdown(60.0, 0, "maintenance", 90.0, announced_s=45.0))
    starts = [one for one in decisions if isinstance(one, Start)]
    assert [one.placement.nodes for one in starts] == [(0,), (1,), (0,)]
    (moved,) = [one for one in decisions if isinstance(one, Resize)]
    assert not moved.lost
    assert moved.reason == (
        "node p-0 is taken for maintenance; of 60 s that it ran 60 s are saved; p-1 takes its place"
    )
    leaves = outcome.ledger.total.leaves
    assert leaves["maintenance"] == 4 * 50 * S
    assert leaves["preempted_by_policy"] == 2 * 3 * S
    assert "lost_work" not in leaves
    assert outcome.ended_s.tolist() == [60 + 3 + 30, 110, 51]


def test_two_nodes_are_taken_for_maintenance_at_once() -> None:
    """Announced: so both gangs have saved, and neither moves to the other's node. After a fault in between, too."""
    tasks = [task(name, 0.0, 4, 90.0, preemptible=True) for name in "ab"]
    both = [breakdown(60.0, node, "maintenance", 90.0, announced_s=45.0) for node in (0, 1)]
    outcome, decisions = told(tasks, *both)
    moved = [one for one in decisions if isinstance(one, Resize)]
    assert [(one.lost, one.placement.nodes) for one in moved] == [(False, (2,)), (False, (3,))]
    assert outcome.ended_s.tolist() == [90, 90]
    outcome, decisions = told([task("late", 40.0, 16, 30.0)], breakdown(20.0, 0, "repair", 10.0), *both)
    assert outcome.first_start_s.tolist() == [150]


def test_a_spare_takes_the_place() -> None:
    tasks = [task("a", 0.0, 12, 100.0, saves_every_s=30.0), task("b", 1.0, 4, 10.0), task("all", 2.0, 16, 1.0)]
    outcome, decisions = told(tasks, breakdown(70.0, 0, "repair", 10.0), spares=1)
    assert isinstance(decisions[2], Resize) or isinstance(decisions[1], Resize)
    assert outcome.refused == {
        JobId(
            "all"
        ): "job all asks for 16 devices: pool `p` has 3 nodes to a pool beside its spares, and it needs 4 in one"
    }
    assert outcome.ended_s[:2].tolist() == [110, 120]
    leaves = outcome.ledger.total.leaves
    assert leaves["idle_reserved_spare"] == 4 * (70 + 40) * S
    assert leaves["repair"] == 4 * 10 * S


def test_a_rack_fails_and_nobody_moves_inside_it() -> None:
    tasks = [task("a", 0.0, 4, 100.0, saves_every_s=30.0), task("b", 0.0, 4, 100.0)]
    outcome, decisions = told(tasks, breakdown(70.0, 0, "repair", 50.0), breakdown(70.0, 1, "repair", 50.0))
    assert [type(one).__name__ for one in decisions] == ["Start", "Start", "Resize", "Preempt", "Start"]
    assert isinstance(decisions[2], Resize)
    assert decisions[2].placement.nodes == (2,)
    assert outcome.ended_s.tolist() == [70 + 40, 70 + 100]


def test_two_breakdowns_of_one_node() -> None:
    outcome, _ = told(
        [task("a", 0.0, 16, 10.0), task("b", 15.0, 16, 10.0)],
        breakdown(12.0, 0, "repair", 20.0),
        breakdown(14.0, 0, "repair", 30.0),
        breakdown(16.0, 0, "in_place"),
    )
    assert outcome.ended_s.tolist() == [10, 54]


def test_factors_come_from_the_ledger() -> None:
    outcome, _ = told(
        [task("a", 0.0, 8, 100.0, saves_every_s=30.0, restart_s=5.0)], breakdown(70.0, 0, "repair", 1000.0)
    )
    found = integrals(outcome.ledger, {PoolId("p"): Peak()}, model_flops=None)
    assert found is not None
    factors = found.factors()
    usable = 16 * 115 - 4 * 45
    assert factors.availability == usable / (16 * 115)
    assert factors.scheduling == 8 * 115 / usable
    assert factors.fault_handling == 100 / 115


def test_fairness_by_hand() -> None:
    """Tenant a holds its devices from the beginning, b waits half of its time: shares 1 and 1/2."""
    tasks = [task("1", 0.0, 16, 100.0, tenant="a"), task("2", 0.0, 16, 100.0, tenant="b", kind="hpc")]
    outcome, _ = told(tasks)
    found = report(outcome)
    assert found.fairness.jain_index == 1.5**2 / (2 * (1 + 0.25))
    # Job 1: two jobs all along, so half of the fleet would have been its own: 200 s alone. Job 2: 1.5 on average.
    assert outcome.finish_time_fairness.tolist() == [100 / 200, 200 / 150]
    assert found.fairness.worse_off == 0.5
    assert found.by_tenant["b"].completion_s_mean == 200
    assert found.by_kind.keys() == {"gang", "hpc"}
    assert found.by_pool["p"].jobs == 2
    assert found.factors.scheduling == 1.0
    assert found.waiting_mean == 0.5
    assert msgspec.json.decode(msgspec.json.encode(found), type=ClusterReport) == found


def test_late_and_refused() -> None:
    tasks = [task("1", 0.0, 16, 100.0, deadline_s=90.0), task("2", 0.0, 16, 100.0, deadline_s=900.0)]
    outcome, _ = told([*tasks, task("3", 0.0, 17, 1.0, deadline_s=1.0)])
    found = report(outcome)
    assert found.all is not None
    assert (found.all.deadlines, found.all.deadlines_missed) == (2, 1)
    assert found.refused == {JobId("3"): "job 3 asks for 17 devices: pool `p` has 16 devices"}
    assert outcome.missed.tolist() == [True, False, True]


def test_what_cannot_be() -> None:
    one = [task("a", 0.0, 4, 10.0)]
    with pytest.raises(SpecError, match="there is no such node"):
        told(one, breakdown(1.0, 9, "repair", 1.0))
    with pytest.raises(SpecError, match=r"leaves 0\.0 of the speed"):
        told(one, breakdown(1.0, 0, "slow", 1.0, factor=0.0))
    with pytest.raises(SpecError, match="no such node"):
        simulate_cluster(one, Conservative(Counted(4)), breakdowns=[breakdown(1.0, 0, "repair", 1.0)])
    with pytest.raises(SpecError, match="4 spare nodes of the 4"):
        Placed([POOL]).reserve("p", nodes=4)


WITHIN: tuple[Within, ...] = ("node", "rack", "pool")
COURSES: tuple[Course, ...] = ("repair", "repair", "in_place", "slow", "corrupt", "maintenance")


@st.composite
def workloads(draw: st.DrawFn) -> list[Task]:
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 6),
                st.one_of(st.integers(1, 4), st.integers(1, DEVICES + 1)),
                st.integers(1, 30),
                st.integers(0, 20),
                st.sampled_from(WITHIN),
                st.sampled_from([0, 0, 3]),
                st.sampled_from([math.inf, 7.0]),
                st.booleans(),
            ),
            max_size=20,
        )
    )
    submit_s, tasks = 0.0, []
    for number, (gap_s, devices, run_s, over_s, within, restart_s, saves_every_s, preemptible) in enumerate(rows):
        submit_s += gap_s
        job = Job(
            id=JobId(str(number)),
            submit_s=submit_s,
            devices=devices,
            estimate_s=float(run_s + over_s),
            within=within,
            restart_s=float(restart_s),
            save_s=2.0 * preemptible,
            saves_every_s=saves_every_s,
            preemptible=preemptible,
        )
        tasks.append(Task(job=job, run_s=float(run_s)))
    return tasks


BREAKDOWNS = st.lists(
    st.builds(
        Breakdown,
        at_s=st.integers(0, 60).map(float),
        pool=st.just("p"),
        node=st.integers(0, 3),
        cause=st.just("drawn"),
        course=st.sampled_from(COURSES),
        duration_s=st.integers(0, 30).map(float),
        factor=st.sampled_from([0.25, 0.5, 1.0]),
        announced_s=st.sampled_from([0.0, 5.0, 20.0]),
    ),
    max_size=12,
)
SCHEDULERS: tuple[Callable[[Placed], Scheduler], ...] = (
    lambda machine: InOrder(machine),
    lambda machine: Easy(machine),
    lambda machine: Easy(machine, order=SHORTEST),
    lambda machine: Easy(machine, shortest_first=True),
)


HELD: tuple[Leaf, ...] = (
    "useful_compute", "throttled", "straggler_wait", "lost_work", "restart", "detect",
    "checkpoint_stall", "preempted_by_policy",
)  # fmt: skip


@settings(max_examples=120)
@given(workloads(), BREAKDOWNS, st.sampled_from(SCHEDULERS), st.sampled_from([0, 1]), st.sampled_from([0.0, 4.0]))
def test_whatever_breaks(
    tasks: list[Task], breakdowns: list[Breakdown], make: Callable[[Placed], Scheduler], spares: int, detect_s: float
) -> None:
    """No device has two jobs, gangs are whole and inside their domain, nobody starts on a node that is known to be
    away, every accepted job ends, and what it held is what it did, lost and stood still for, to the nanosecond."""
    machine = Placed([POOL])
    machine.reserve("p", nodes=spares)
    asked = {one.job.id: one.job for one in tasks}
    held: dict[JobId, Placement] = {}

    def observe(decision: Decision) -> None:
        assert {job for job in held if job not in machine._running} <= {decision.job} | ended(held, machine)
        for job in ended(held, machine):
            del held[job]
        if isinstance(decision, Start | Resize):
            held[decision.job] = decision.placement
        used = [(one.pool, node) for one in held.values() for node in one.nodes for _ in range(one.devices_per_node)]
        assert all(used.count(("p", node)) <= 4 for node in range(4))
        for job, one in held.items():
            assert len(set(one.nodes)) == len(one.nodes) == -(-asked[job].devices // 4)
            assert one.devices >= asked[job].devices
            assert asked[job].within != "rack" or len({node // 2 for node in one.nodes}) == 1

    outcome = simulate_cluster(
        tasks, make(machine), breakdowns=breakdowns, observe=observe, detect_s=detect_s, check=True
    )
    assert outcome.unfinished == 0
    assert outcome.completed.sum() + len(outcome.refused) == len(tasks)
    done = outcome.completed
    leaves = outcome.ledger.total.leaves
    jobs_ns = sum(leaves.get(leaf, 0) for leaf in HELD)
    assert jobs_ns / S == pytest.approx(sum(outcome.columns.held_device_s))
    each = {one.job.id: -(-one.job.devices // -(-one.job.devices // 4)) * -(-one.job.devices // 4) for one in tasks}
    useful_s = sum(each[one.job.id] * one.run_s for one, did in zip(tasks, done.tolist(), strict=True) if did)
    assert leaves.get("useful_compute", 0) / S == pytest.approx(useful_s)
    lost_s = sum(each[one.job.id] * lost for one, lost in zip(tasks, outcome.columns.lost_s, strict=True))
    if not any(one.course == "slow" for one in breakdowns):
        assert leaves.get("lost_work", 0) / S == pytest.approx(lost_s)


def ended(held: dict[JobId, Placement], machine: Placed) -> set[JobId]:
    return {job for job in held if job not in machine._running}


DIGEST = """
from myriarch.schedule.easy import Easy
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning
pool = PoolLayout(name="p", nodes=16, devices_per_node=8, nodes_per_rack=4, racks_per_pod=2)
tasks = deep_learning(300, MIXES["seren"], devices=128, load=1.2, seed=5)
breakdowns = [
    Breakdown(at_s=100.0 * at, pool="p", node=at * 7 % 16, cause="x", course=course, duration_s=900.0, factor=0.5)
    for at, course in enumerate(["repair", "in_place", "slow", "corrupt", "maintenance"] * 20)
]
print(simulate_cluster(tasks, Easy(Placed([pool])), breakdowns=breakdowns).digest)
"""


def test_another_hash_seed_gives_the_same_digest() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
