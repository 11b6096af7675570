"""The cluster in virtual time: rigid jobs on whole nodes give the very decisions of `simulate_queue`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Decision, Placement, Preempt, Reason, Resize, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.order import SHORTEST
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task, simulate_queue

DEVICES = 16
POOL = PoolLayout(name="p", nodes=4, devices_per_node=4, nodes_per_rack=2, racks_per_pod=1)
WITHIN: tuple[Within, ...] = ("node", "rack", "pool")
SCHEDULERS: tuple[Callable[[], Scheduler], ...] = (
    lambda: InOrder(Placed([POOL])),
    lambda: Easy(Placed([POOL])),
    lambda: Easy(Placed([POOL]), order=SHORTEST),
    lambda: Easy(Counted(DEVICES), shortest_first=True),
    lambda: Conservative(Counted(DEVICES)),
)


@st.composite
def workloads(draw: st.DrawFn) -> list[Task]:
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 6),
                st.one_of(st.integers(1, 4), st.integers(1, DEVICES + 1)),
                st.integers(1, 20),
                st.integers(0, 20),
                st.sampled_from(WITHIN),
                st.sampled_from(["a", "b"]),
            ),
            max_size=30,
        )
    )
    submit_s, tasks = 0, []
    for number, (gap_s, devices, run_s, over_s, within, tenant) in enumerate(rows):
        submit_s += gap_s
        job = Job(
            id=JobId(str(number)),
            submit_s=float(submit_s),
            devices=devices,
            estimate_s=float(run_s + over_s),
            within=within,
            tenant=tenant,
        )
        tasks.append(Task(job=job, run_s=float(run_s)))
    return tasks


@settings(max_examples=40)
@given(workloads(), st.sampled_from(SCHEDULERS))
def test_without_faults_it_decides_as_the_queue_does(tasks: list[Task], make: Callable[[], Scheduler]) -> None:
    queue = simulate_queue(tasks, make())
    cluster = simulate_cluster(iter(tasks), make(), check=True)
    assert cluster.digest == queue.digest
    assert cluster.events == queue.events
    assert cluster.refused == queue.refused
    assert cluster.unfinished == 0
    assert cluster.waiting_job_s == pytest.approx(queue.usage.waiting_job_s)
    assert cluster.waiting_most == queue.usage.waiting_most
    assert sum(cluster.columns.held_device_s) == pytest.approx(queue.usage.busy_device_s)
    if (expected := queue.summary()) is not None:
        found = cluster.summary()
        assert found is not None
        assert found.completion_s_mean == pytest.approx(expected.completion_s_mean)
        assert found.slowdown_mean == pytest.approx(expected.slowdown_mean)
        assert cluster.utilisation == pytest.approx(queue.utilisation)
        assert cluster.fragmented == pytest.approx(queue.fragmented)


class Scripted:
    """Starts what comes where it comes, and does at set instants what it was told to."""

    def __init__(self, machine: Placed, script: dict[float, Sequence[Decision]]) -> None:
        self.machine = machine
        self._script = script

    head = None
    waiting = 0

    @property
    def wake_s(self) -> float:
        return min(self._script, default=math.inf)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        return (start(job.id, (0,), 4, at_s=now_s),) if job.id == "0" else ()

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        return ()

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        return self._script.pop(now_s)

    def check(self) -> None: ...


def start(job: str, nodes: tuple[int, ...], each: int, *, at_s: float) -> Start:
    placement = Placement(pool="p", nodes=nodes, devices_per_node=each)
    reason = Reason(rule="ranked", waited_s=0.0, text="told to")
    return Start(job=JobId(job), at_s=at_s, until_s=math.inf, placement=placement, reason=reason)


class Linear:
    """Twice the devices, twice the progress."""

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        return devices / job.devices


def test_preempted_jobs_go_on_where_they_saved() -> None:
    """100 s of work: 40 s, of which the last 5 are spent on saving; 65 s are left, after 10 s of restoring."""
    job = Job(id=JobId("0"), submit_s=0.0, devices=4, estimate_s=100.0, save_s=5.0, restart_s=10.0)
    script: dict[float, Sequence[Decision]] = {
        40.0: (Preempt(job=job.id, at_s=40.0, reason="told to"),),
        50.0: (start("0", (1,), 4, at_s=50.0),),
    }
    outcome = simulate_cluster([Task(job=job, run_s=100.0)], Scripted(Placed([POOL]), script))
    assert outcome.ended_s.tolist() == [50 + 10 + 65]
    leaves = outcome.ledger.total.leaves
    assert leaves["checkpoint_stall"] == 4 * 5 * 10**9
    assert leaves["preempted_by_policy"] == 4 * 10 * 10**9
    assert leaves["useful_compute"] == 4 * 100 * 10**9
    assert "lost_work" not in leaves
    summary = outcome.summary()
    assert summary is not None
    assert (summary.preemptions, summary.restarts) == (1, 1)


def test_resized_jobs_get_on_at_another_speed() -> None:
    """100 s of work: 40 s on 4 devices, 10 s of restoring, then 60 s of work at double speed."""
    job = Job(id=JobId("0"), submit_s=0.0, devices=4, estimate_s=100.0, restart_s=10.0, sizes=(8,), elastic=True)
    wider = Placement(pool="p", nodes=(0, 1), devices_per_node=4)
    resize = Resize(job=job.id, at_s=40.0, until_s=80.0, placement=wider, reason="told to")
    outcome = simulate_cluster(
        [Task(job=job, run_s=100.0)], Scripted(Placed([POOL]), {40.0: (resize,)}), speeds=Linear()
    )
    assert outcome.ended_s.tolist() == [40 + 10 + 30]
    assert outcome.ledger.total.leaves["useful_compute"] == (4 * 40 + 8 * 30) * 10**9
    with pytest.raises(SpecError, match="gets nothing done"):
        narrow = Resize(
            job=job.id,
            at_s=40.0,
            until_s=0.0,
            placement=Placement(pool="p", nodes=(0,), devices_per_node=2),
            reason="told to",
        )
        simulate_cluster([Task(job=job, run_s=100.0)], Scripted(Placed([POOL]), {40.0: (narrow,)}))


def test_until_an_instant() -> None:
    job = Job(id=JobId("0"), submit_s=10.0, devices=4, estimate_s=100.0)
    outcome = simulate_cluster([Task(job=job, run_s=100.0)], Easy(Placed([POOL])), until_s=60.0)
    assert outcome.unfinished == 1
    assert outcome.ledger.total.leaves == {"idle_no_demand": 12 * 50 * 10**9, "useful_compute": 4 * 50 * 10**9}
    assert outcome.summary() is None


def test_a_scheduler_that_never_lets_time_pass() -> None:
    class Restless(Scripted):
        @property
        def wake_s(self) -> float:
            return 0.0

        def wake(self, *, now_s: float) -> Sequence[Decision]:
            return ()

    job = Job(id=JobId("1"), submit_s=0.0, devices=4, estimate_s=1.0)
    with pytest.raises(SpecError, match="was woken"):
        simulate_cluster([Task(job=job, run_s=1.0)], Restless(Placed([POOL]), {}))


def test_nothing_to_do() -> None:
    outcome = simulate_cluster([], Easy(Counted(2)))
    assert outcome.summary() is None
    assert outcome.utilisation == 0.0
    assert outcome.jain_index is None
