"""The queue in virtual time: backfill theorems, queueing theory, determinism."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Decision, Placement, Refuse, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.machine import Hold, Machine
from myriarch.schedule.order import LARGEST, SHORTEST, Order
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.outcome import Outcome
from myriarch.simulate.queueing import Task, simulate_queue

DEVICES = 16
POOL = PoolLayout(name="p", nodes=4, devices_per_node=4, nodes_per_rack=2, racks_per_pod=1)
WITHIN: tuple[Within, ...] = ("node", "rack", "pool")


def task(number: int, submit_s: float, devices: int, run_s: float, estimate_s: float, within: Within = "pool") -> Task:
    job = Job(id=JobId(str(number)), submit_s=submit_s, devices=devices, estimate_s=estimate_s, within=within)
    return Task(job=job, run_s=run_s)


@st.composite
def workloads(draw: st.DrawFn, *, exact: bool = False) -> list[Task]:
    """Jobs in short intervals, so that they meet, with equal instants, and sizes up to the machine and beyond."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 6),
                st.one_of(st.integers(1, 4), st.integers(1, DEVICES + 1)),
                st.integers(1, 20),
                st.integers(0, 20),
                st.sampled_from(WITHIN),
            ),
            max_size=30,
        )
    )
    submit_s, tasks = 0, []
    for number, (gap_s, devices, run_s, over_s, within) in enumerate(rows):
        submit_s += gap_s
        tasks.append(task(number, submit_s, devices, run_s, run_s + (0 if exact else over_s), within))
    return tasks


class Watched:
    """A scheduler with its holds written down: the first that was made for each job."""

    def __init__(self, easy: Easy) -> None:
        self.easy = easy
        self.machine: Machine = easy.machine
        self.held_s: dict[JobId, float] = {}

    wake_s = float("inf")
    waiting = property(lambda self: self.easy.waiting)
    head = property(lambda self: self.easy.head)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        return self._seen(self.easy.submit(job, now_s=now_s))

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        return self._seen(self.easy.end(job, now_s=now_s))

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        return self.easy.wake(now_s=now_s)

    def check(self) -> None:
        self.easy.check()

    def _seen(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        for decision in decisions:
            if isinstance(decision, Start):
                assert decision.at_s <= self.held_s.get(decision.job, math.inf)
                if decision.reason.head is not None:
                    assert decision.reason.hold_s is not None
                    self.held_s.setdefault(decision.reason.head, decision.reason.hold_s)
        if (hold := self.easy.hold) is not None:
            self._as_if_anew(hold)
            self.held_s.setdefault(hold.job, hold.at_s)
        return decisions

    def _as_if_anew(self, hold: Hold) -> None:
        """What a hold leaves is what one that was worked out now would find on the same nodes."""
        if isinstance(self.machine, Placed) and hold.at_s < math.inf:
            nodes, head = self.machine.pools[hold.pool], self.easy.head
            assert head is not None
            _, each = nodes.pool.gang(head.devices)
            assert hold.spare_on == {node: nodes._free_at(node, hold.at_s) - each for node in hold.spare_on}


def machines() -> list[Callable[[], Machine]]:
    return [lambda: Counted(DEVICES), lambda: Placed([POOL])]


@settings(max_examples=50)
@given(workloads(), st.sampled_from([0, 1]), st.booleans())
def test_easy_never_delays_the_first_past_its_hold(tasks: list[Task], which: int, shortest_first: bool) -> None:
    watched = Watched(Easy(machines()[which](), shortest_first=shortest_first))
    outcome = simulate_queue(tasks, watched, check=True)
    fits_together(outcome)


@settings(max_examples=50)
@given(workloads())
def test_conservative_keeps_its_first_promise(tasks: list[Task]) -> None:
    scheduler = Conservative(Counted(DEVICES))
    late: list[Decision] = []

    def observe(decision: Decision) -> None:
        if isinstance(decision, Start):
            assert decision.reason.promised_s is not None
            late.extend([decision] if decision.at_s > decision.reason.promised_s else [])

    outcome = simulate_queue(tasks, scheduler, observe=observe, check=True)
    assert not late
    fits_together(outcome)


@settings(max_examples=50)
@given(workloads(exact=True))
def test_exact_estimates_make_promises_exact(tasks: list[Task]) -> None:
    def observe(decision: Decision) -> None:
        assert not isinstance(decision, Start) or decision.at_s == decision.reason.promised_s

    simulate_queue(tasks, Conservative(Counted(DEVICES)), observe=observe, check=True)


@settings(max_examples=50)
@given(workloads())
def test_conservative_offers_are_those_of_looking_at_everybody(tasks: list[Task]) -> None:
    """What is not looked at could not have moved: after every event nobody can start earlier than a full sweep says."""
    quick, full = Conservative(Counted(DEVICES)), Conservative(Counted(DEVICES))
    line = full._line
    movable = line.movable
    line.movable = lambda **given: movable(**{**given, "devices": DEVICES, "before_s": math.inf})  # type: ignore[method-assign]
    assert simulate_queue(tasks, quick).digest == simulate_queue(tasks, full).digest


@settings(max_examples=50)
@given(workloads(), st.sampled_from([0, 1]))
def test_in_order_starts_in_order(tasks: list[Task], which: int) -> None:
    started: list[int] = []
    simulate_queue(
        tasks,
        InOrder(machines()[which]()),
        observe=lambda decision: started.append(int(decision.job)) if isinstance(decision, Start) else None,
        check=True,
    )
    assert started == sorted(started)


@settings(max_examples=50)
@given(workloads(), st.sampled_from([SHORTEST, LARGEST]), st.sampled_from([0, 1]))
def test_other_orders_keep_within_the_machine(tasks: list[Task], order: Order, which: int) -> None:
    makers: tuple[Callable[..., Scheduler], ...] = (InOrder, Easy)
    for make in makers:
        fits_together(simulate_queue(tasks, make(machines()[which](), order=order), check=True))


@settings(max_examples=50)
@given(workloads())
def test_nodes_and_domains_are_never_shared_or_left(tasks: list[Task]) -> None:
    """Gangs are whole, on distinct nodes of their domain, and no device has two jobs."""
    free = [4] * 4
    held: dict[JobId, Placement] = {}
    asked = {one.job.id: one.job for one in tasks}

    class Mirror:
        def __init__(self, inner: Easy) -> None:
            self.inner, self.machine = inner, inner.machine

        wake_s = float("inf")
        waiting = property(lambda self: self.inner.waiting)
        head = property(lambda self: self.inner.head)

        def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
            return self._seen(self.inner.submit(job, now_s=now_s))

        def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
            for node in held.pop(job).nodes:
                free[node] += -(-asked[job].devices // -(-asked[job].devices // 4))
            return self._seen(self.inner.end(job, now_s=now_s))

        def wake(self, *, now_s: float) -> Sequence[Decision]:
            return ()

        def check(self) -> None:
            assert min(free) >= 0
            assert sum(free) == self.machine.free_devices

        def _seen(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
            for decision in decisions:
                job = asked[decision.job]
                if isinstance(decision, Refuse):
                    nodes = -(-job.devices // 4)
                    assert nodes > {"node": 1, "rack": 2, "pod": 2, "pool": 4}[job.within]
                    continue
                assert isinstance(decision, Start)
                where = decision.placement
                held[decision.job] = where
                assert len(set(where.nodes)) == len(where.nodes) == -(-job.devices // 4)
                assert where.devices >= job.devices
                if job.within == "rack":
                    assert len({node // 2 for node in where.nodes}) == 1
                for node in where.nodes:
                    free[node] -= where.devices_per_node
            return decisions

    simulate_queue(tasks, Mirror(Easy(Placed([POOL]))), check=True)


def fits_together(outcome: Outcome) -> None:
    """Refused exactly what is too large; never more than there is; waiting time is the integral of the queue."""
    assert all(job.devices > DEVICES or job.within != "pool" for job in outcome.jobs if job.id in outcome.refused)
    assert all(job.id in outcome.refused for job in outcome.jobs if job.devices > DEVICES)
    ran = outcome.ran
    changes = [
        (at_s, sign * int(count))
        for at_s, count, run_s, did in zip(
            outcome.start_s, outcome.taken_devices, outcome.run_s, ran.tolist(), strict=True
        )
        if did
        for at_s, sign in ((at_s, 1), (at_s + run_s, -1))
    ]
    busy = 0
    for _, change in sorted(changes):
        busy += change
        assert 0 <= busy <= DEVICES
    assert (outcome.wait_s[ran] >= 0).all()
    assert outcome.usage.waiting_job_s == pytest.approx(float(outcome.wait_s[ran].sum()))
    assert outcome.utilisation <= 1.0 + 1e-12


def poisson(jobs: int, *, gap_s: float, run_s: np.ndarray, seed: int) -> list[Task]:
    submit_s = np.cumsum(np.random.default_rng(seed).exponential(gap_s, jobs))
    return [task(at, float(submit_s[at]), 1, float(run_s[at]), float(run_s[at])) for at in range(jobs)]


def within_error(waits_s: np.ndarray, expected_s: float) -> None:
    """The mean lies within 4 standard errors, by means of batches, of what theory says."""
    batches = waits_s[len(waits_s) // 10 :]
    means = batches[: len(batches) // 20 * 20].reshape(20, -1).mean(axis=1)
    error_s = float(means.std(ddof=1)) / math.sqrt(len(means))
    assert abs(float(means.mean()) - expected_s) < 4 * error_s
    assert error_s < 0.25 * expected_s


def test_erlang_c() -> None:
    """M/M/8 at load 0.8: mean wait C(8, 6.4) / (8 mu - lambda)."""
    servers, offered, jobs = 8, 6.4, 20_000
    run_s = np.random.default_rng(2).exponential(1.0, jobs)
    outcome = simulate_queue(poisson(jobs, gap_s=1 / offered, run_s=run_s, seed=1), InOrder(Counted(servers)))
    blocked = 1.0  # Erlang B, by its recursion
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    waits = blocked / (1 - offered / servers * (1 - blocked))
    within_error(outcome.wait_s, waits / (servers - offered))


def test_pollaczek_khinchine() -> None:
    """M/G/1 with log-normal service at load 0.6: mean wait lambda E[S^2] / (2 (1 - rho))."""
    jobs, sigma, load = 20_000, 0.8, 0.6
    run_s = np.random.default_rng(3).lognormal(-(sigma**2) / 2, sigma, jobs)
    outcome = simulate_queue(poisson(jobs, gap_s=1 / load, run_s=run_s, seed=4), InOrder(Counted(1)))
    within_error(outcome.wait_s, load * math.exp(sigma**2) / (2 * (1 - load)))
    length = outcome.usage.waiting_job_s / outcome.makespan_s
    rate = jobs / outcome.makespan_s
    assert length == pytest.approx(rate * float(outcome.wait_s.mean()))  # Little's law


DIGEST = """
from myriarch.schedule.easy import Easy
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.priority import MultiFactor
from myriarch.schedule.shares import Account, Shares
from myriarch.simulate.queueing import simulate_queue
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning
pool = PoolLayout(name="p", nodes=16, devices_per_node=8, nodes_per_rack=4, racks_per_pod=2)
tasks = deep_learning(600, MIXES["seren"], devices=128, load=1.2, seed=5)
tenants = sorted({task.job.tenant for task in tasks})
order = MultiFactor(Shares([Account(name=tenant) for tenant in tenants]), devices=128)
print(simulate_queue(tasks, Easy(Placed([pool]), order=order)).digest)
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


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task(1, 0, 1, 5, 5), task(1, 1, 1, 5, 5)], "one id"),
        ([task(1, 5, 1, 5, 5), task(2, 1, 1, 5, 5)], "comes"),
        ([task(1, 0, 1, 6, 5)], "estimate"),
        ([task(1, 0, 1, 0, 5)], "runs for 0"),
    ],
)
def test_what_is_no_workload_is_refused(tasks: list[Task], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        simulate_queue(tasks, InOrder(Counted(2)))


def test_nothing_to_do() -> None:
    outcome = simulate_queue([], Easy(Counted(2)))
    assert outcome.summary() is None
    assert outcome.utilisation == 0.0


def test_a_job_larger_than_the_fleet_is_refused_with_the_reason() -> None:
    schedulers: list[Scheduler] = [InOrder(Counted(4)), Easy(Counted(4)), Conservative(Counted(4))]
    for scheduler in schedulers:
        outcome = simulate_queue([task(1, 0, 5, 1, 1), task(2, 0, 4, 1, 1)], scheduler)
        assert outcome.refused == {JobId("1"): "job 1 asks for 5 devices, and all together there are 4"}
        assert outcome.start_s[1] == 0.0


def test_by_tenant_and_kind() -> None:
    tasks = [task(1, 0, 4, 10, 10), task(2, 0, 4, 10, 10)]
    outcome = simulate_queue(tasks, InOrder(Counted(4)))
    by = outcome.by(lambda job: job.id)
    assert by["1"].wait_s_mean == 0.0
    assert by["2"].wait_s_mean == 10.0
    assert by["2"].slowdown_mean == 2.0
    assert outcome.utilisation == 1.0
    assert outcome.makespan_s == 20.0
