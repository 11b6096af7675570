"""Ranked, preemptive scheduling: the rules one by one, and what holds on every run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Preempt, Resize, Start
from myriarch.schedule.displacing import displace
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.las import LeastAttained
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.priority import MultiFactor
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import (
    ByArrival,
    ByPriority,
    EarliestDeadline,
    LeastService,
    Ranking,
    ShortestRemaining,
    UserMeans,
    by_estimate,
)
from myriarch.schedule.scheduler import Draining
from myriarch.schedule.shares import Account, Shares
from myriarch.schedule.standing import NOWHERE, Standing
from myriarch.schedule.worth import FREE_OF_CHARGE, Worth
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

POOL = PoolLayout(name="p", nodes=6, devices_per_node=4, nodes_per_rack=2, racks_per_pod=2)


def job(
    name: str,
    devices: int,
    estimate_s: float,
    *,
    at_s: float = 0.0,
    within: Within = "pool",
    preemptible: bool = True,
    deadline_s: float | None = None,
    user: str = "",
) -> Job:
    return Job(
        id=JobId(name),
        submit_s=at_s,
        devices=devices,
        estimate_s=estimate_s,
        within=within,
        preemptible=preemptible,
        deadline_s=deadline_s,
        user=user,
        saves_every_s=50.0,
        save_s=2.0,
        restart_s=8.0,
    )


def shortest(**kwargs: float) -> ShortestRemaining:
    return ShortestRemaining(by_estimate, **kwargs)  # type: ignore[arg-type]


def flat(devices: int) -> Placed:
    """Any device is as good as any other."""
    return Placed([PoolLayout(name="p", nodes=1, devices_per_node=devices)])


def kinds(decisions: Sequence[Decision]) -> list[tuple[str, str]]:
    return [(type(one).__name__, one.job) for one in decisions]


# --- the rules --------------------------------------------------------------------------------------------------------


def test_a_short_job_displaces_the_longest_and_says_why() -> None:
    ranked = Ranked(flat(4), shortest())
    for name, estimate_s in (("long", 9000.0), ("longer", 10000.0)):
        assert kinds(ranked.submit(job(name, 2, estimate_s), now_s=0.0)) == [("Start", name)]
    decisions = ranked.submit(job("short", 1, 100.0, at_s=1000.0), now_s=1000.0)
    ranked.check()
    assert kinds(decisions) == [("Preempt", "longer"), ("Start", "short")]
    assert isinstance(decisions[0], Preempt)
    assert "has 100 device-seconds left" in decisions[0].reason
    assert "20 device-seconds of saving and restarting" in decisions[0].reason
    assert ranked.waiting == 1
    assert kinds(ranked.end(JobId("short"), now_s=1100.0)) == [("Start", "longer")]


def test_who_just_began_is_let_run_and_who_may_not_be_preempted_stays() -> None:
    ranked = Ranked(flat(2), shortest(), worth=Worth(spell=4.0))
    ranked.submit(job("long", 2, 9000.0), now_s=0.0)
    assert not ranked.submit(job("short", 2, 100.0, at_s=39.0), now_s=39.0), "4 x 10 s are not over"
    assert ranked.wake_s <= 339.0
    assert kinds(ranked.wake(now_s=339.0)) == [("Preempt", "long"), ("Start", "short")]
    fixed = Ranked(flat(2), shortest())
    fixed.submit(job("fixed", 2, 9000.0, preemptible=False), now_s=0.0)
    assert not fixed.submit(job("short", 2, 100.0, at_s=1000.0), now_s=1000.0)


def test_a_swap_that_costs_more_than_it_spares_is_not_made() -> None:
    """The victim would be over in 30 s: the newcomer of 20 s gains 30 s, and the victim loses 20 + 10 s."""
    ranked = Ranked(flat(1), shortest(), worth=Worth(spell=0.0))
    ranked.submit(job("nearly", 1, 1000.0), now_s=0.0)
    assert not ranked.submit(job("short", 1, 20.0, at_s=971.0), now_s=971.0)
    cheap = Ranked(flat(1), shortest(), worth=Worth(spell=0.0, price=0.0))
    cheap.submit(job("nearly", 1, 1000.0), now_s=0.0)
    assert kinds(cheap.submit(job("short", 1, 20.0, at_s=971.0), now_s=971.0))[0] == ("Preempt", "nearly")


def test_small_jobs_do_not_starve_a_gang() -> None:
    """Devices are held for the gang that stands first; a small one goes before it only if it is over by then."""
    ranked = Ranked(flat(4), ByArrival())
    ranked.submit(job("a", 2, 100.0, preemptible=False), now_s=0.0)
    assert not ranked.submit(job("gang", 4, 50.0, at_s=1.0), now_s=1.0)
    assert not ranked.submit(job("late", 2, 200.0, at_s=2.0), now_s=2.0)
    short = ranked.submit(job("early", 2, 90.0, at_s=3.0), now_s=3.0)
    assert kinds(short) == [("Start", "early")]
    assert isinstance(short[0], Start)
    assert (short[0].reason.head, short[0].reason.hold_s) == ("gang", 100.0)


def test_a_hold_that_costs_more_than_it_gains_is_not_made() -> None:
    """Two devices would stand idle for 148 s, which makes one that waits 74 s late; the gang, which has its turn after
    200 s, is spared 51 s. Of a fleet of six it would be made 49 s late, and the hold stands."""
    for devices, done in ((4, [("Start", "late")]), (6, [])):
        ranked = Ranked(flat(devices), ByArrival(), worth=Worth(holds=True), guard_s=200.0, review_s=0.0)
        ranked.submit(job("a", devices - 2, 150.0, preemptible=False), now_s=0.0)
        assert not ranked.submit(job("gang", devices, 50.0, at_s=1.0), now_s=1.0)
        assert kinds(ranked.submit(job("late", 2, 200.0, at_s=2.0), now_s=2.0)) == done
        ranked.check()


def test_who_waits_too_long_has_a_turn() -> None:
    """Always shorter jobs come; the long one waits for its guard, then runs for as long as it waited."""
    ranked = Ranked(flat(1), shortest(), worth=Worth(spell=0.0), guard_s=500.0)
    ranked.submit(job("0", 1, 100.0), now_s=0.0)
    ranked.submit(job("long", 1, 9000.0), now_s=0.0)
    ended_s, number, started = 100.0, 0, None
    while started is None:
        ranked.submit(job(f"{number + 1}", 1, 100.0, at_s=ended_s - 1), now_s=ended_s - 1)
        decisions = ranked.end(JobId(f"{number}"), now_s=ended_s)
        started = next((one for one in decisions if one.job == "long"), None)
        number, ended_s = number + 1, ended_s + 100.0
    assert isinstance(started, Start)
    assert 500.0 <= started.at_s <= 600.0
    assert "longer than 500 s" in started.reason.text
    assert not ranked.submit(job("new", 1, 10.0, at_s=started.at_s + 100), now_s=started.at_s + 100)


def test_deadlines_priorities_and_users() -> None:
    due = Ranked(flat(1), EarliestDeadline(slack_s=10.0), worth=FREE_OF_CHARGE)
    due.submit(job("whenever", 1, 500.0), now_s=0.0)
    assert kinds(due.submit(job("due", 1, 50.0, deadline_s=400.0), now_s=1.0))[0] == ("Preempt", "whenever")
    shares = Shares([Account(name="a"), Account(name="b")])
    shares.charge("a", 1e6, at_s=0.0)
    fair = ByPriority(MultiFactor(shares, devices=1), margin=100.0)
    ranked = Ranked(flat(1), fair, worth=FREE_OF_CHARGE)
    ranked.submit(msgspec.structs.replace(job("has", 1, 500.0), tenant="a"), now_s=0.0)
    decisions = ranked.submit(msgspec.structs.replace(job("has not", 1, 500.0), tenant="b"), now_s=1.0)
    assert kinds(decisions)[0] == ("Preempt", "has")
    means = UserMeans(prior_s=50.0)
    assert means(job("x", 1, 900.0, user="u")) == 50.0
    means.learn(job("x", 1, 900.0, user="u"), 200.0)
    assert means(job("y", 1, 900.0, user="u")) == 200.0
    assert means(job("y", 1, 100.0, user="u")) == 100.0, "never beyond the estimate"


def test_a_prediction_that_is_outlived_is_doubled() -> None:
    ranking = ShortestRemaining(lambda one: 10.0)
    ranked = Ranked(flat(1), ranking)
    ranked.submit(job("liar", 1, 1000.0), now_s=0.0)
    ranked.submit(job("next", 1, 1000.0), now_s=5.0)
    for now_s, left_s in ((10.0, 10.0), (25.0, 15.0)):
        ranked.wake(now_s=now_s)
        roster = ranked._book.roster
        standing = roster.standing(roster.slot(JobId("liar")))
        assert ranking.left_s(standing, now_s=now_s) == left_s
    ranked.check()


def test_a_job_that_starved_comes_back_to_the_first_queue() -> None:
    """It ran for 100 s, fell, and has waited for 200 s; meanwhile a newer one runs in the first queue. As in
    `test_las.test_a_starving_job_comes_back`."""
    service = LeastService(thresholds=(100.0,), starve_factor=2.0)
    ranked = Ranked(flat(1), service, worth=FREE_OF_CHARGE, guard_s=math.inf, review_s=0.0)
    ranked.submit(job("old", 1, 9000.0), now_s=0.0)
    ranked.submit(job("a", 1, 9000.0), now_s=50.0)
    assert kinds(ranked.wake(now_s=100.0)) == [("Preempt", "old"), ("Start", "a")], "100 device-seconds: it fell"
    ranked.submit(job("b", 1, 9000.0), now_s=150.0)
    assert kinds(ranked.end(JobId("a"), now_s=150.0)) == [("Start", "b")]
    ranked.submit(job("c", 1, 9000.0), now_s=240.0)
    assert kinds(ranked.end(JobId("b"), now_s=240.0)) == [("Start", "c")]
    assert ranked.wake_s == pytest.approx(300.0)
    back = ranked.wake(now_s=300.0)
    assert kinds(back) == [("Preempt", "c"), ("Start", "old")], "in the first queue, and it started first"
    assert isinstance(back[1], Start)
    assert "stands in queue 0 of 2" in back[1].reason.text
    ranked.check()


@pytest.mark.parametrize("begin_s", [2_831_000.588235294, 2_831_001.1, 9_999_999.7])
@pytest.mark.parametrize("devices", [1, 49_152, 100_000])
def test_who_is_asked_when_its_queue_changes_is_not_asked_for_ever(begin_s: float, devices: int) -> None:
    """Found on Mira: 49,152 devices get more service in a rounding error of an instant than the tolerance was."""
    ranking = LeastService(thresholds=tuple(devices * threshold_s for threshold_s in (0.7, 17.3, 3600.1)))
    standing = Standing(job=job("large", devices, 9e5), number=0, since_s=begin_s)
    ranking.submitted(standing, now_s=begin_s)
    standing.start(NOWHERE, now_s=begin_s)
    ranking.started(standing, now_s=begin_s)
    now_s, asked = begin_s, 0
    while (until_s := ranking.course(standing, now_s=now_s).until_s) < math.inf:
        assert until_s > now_s
        now_s, asked = until_s, asked + 1
    assert 3 <= asked <= 6


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match="guard_s"):
        Ranked(flat(1), ByArrival(), guard_s=0.0)
    with pytest.raises(SpecError, match="spell"):
        Worth(spell=-1.0)
    with pytest.raises(SpecError, match="margin"):
        shortest(margin=-0.1)
    with pytest.raises(SpecError, match="thresholds"):
        LeastService(thresholds=(2.0, 1.0))


# --- victims ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=16),
    st.integers(1, 24),
    st.sampled_from(["node", "rack", "pod", "pool"]),
)
@settings(max_examples=60, deadline=None)
def test_victims_make_room_and_every_one_is_needed(held: list[tuple[int, int]], devices: int, within: Within) -> None:
    machine = Placed([POOL])
    placements: list[Placement] = []
    for number, (node, each) in enumerate(held):
        if machine.pools["p"].free[node] >= each:
            placement = Placement(pool="p", nodes=(node,), devices_per_node=each)
            machine.start(job(f"{number}", each, 100.0), placement, now_s=0.0)
            placements.append(placement)
    new = job("new", devices, 10.0, within=within)
    found = displace(machine, new, placements, until_s=10.0)
    if machine.refusal(new):
        assert found is None
        return
    assert found is not None, "without all of them the machine is empty"
    free = machine.pools["p"].free.copy()
    for victim in found.victims:
        free[list(placements[victim].nodes)] += placements[victim].devices_per_node
    for without in (None, *found.victims):
        left = free.copy()
        if without is not None:
            left[list(placements[without].nodes)] -= placements[without].devices_per_node
        fits = all(left[node] >= found.placement.devices_per_node for node in found.placement.nodes)
        assert fits == (without is None)


# --- whole runs -------------------------------------------------------------------------------------------------------

RUNS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from([5.0, 30.0, 200.0, 1500.0]),
        st.sampled_from([1, 2, 4, 6, 8, 16]),
        st.sampled_from(["node", "rack", "pod", "pool"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=20,
)
RANKINGS: dict[str, Callable[[], Ranking]] = {
    "arrival": ByArrival,
    "deadline": EarliestDeadline,
    "service": lambda: LeastService(thresholds=(100.0, 1000.0)),
    "remaining": shortest,
}


def tasks_of(drawn: list[tuple[int, float, int, Within, bool]]) -> list[Task]:
    return [
        Task(
            job=job(
                f"{number:02d}",
                devices,
                run_s * (1 + number % 3),
                at_s=float(at_s),
                within=within if devices <= {"node": 4, "rack": 8, "pod": 16, "pool": 24}[within] else "pool",
                preemptible=preemptible,
                deadline_s=at_s + 4 * run_s,
            ),
            run_s=run_s,
        )
        for number, (at_s, run_s, devices, within, preemptible) in enumerate(sorted(drawn))
    ]


@given(RUNS, st.sampled_from(sorted(RANKINGS)))
@settings(max_examples=40, deadline=None)
def test_what_holds_on_every_run(drawn: list[tuple[int, float, int, Within, bool]], name: str) -> None:
    """Gangs are whole and inside their domain, nobody is stopped who may not be or before its spell is over, nobody is
    given others' devices (the machine's invariants, asserted by the simulator), and everybody ends."""
    tasks = tasks_of(drawn)
    jobs = {task.job.id: task.job for task in tasks}
    begun: dict[JobId, float] = {}
    worth = Worth(spell=2.0, holds=len(tasks) % 2 == 0)

    def observe(decision: Decision) -> None:
        one = jobs[decision.job]
        if isinstance(decision, Start):
            nodes = decision.placement.nodes
            assert decision.placement.devices >= one.devices
            assert len(nodes) == POOL.gang(one.devices)[0]
            domain = POOL.domain_nodes(one.within)
            assert len({node // domain for node in nodes}) == 1
            begun[one.id] = decision.at_s
        elif isinstance(decision, Preempt):
            assert one.preemptible
            assert decision.at_s - begun[one.id] >= 2.0 * (one.save_s + one.restart_s) - 1e-9

    ranked = Ranked(Placed([POOL]), RANKINGS[name](), worth=worth, guard_s=5000.0, review_s=60.0)
    outcome = simulate_cluster(tasks, ranked, observe=observe, check=True)
    assert outcome.unfinished == 0
    assert ranked.waiting == 0


@given(RUNS, st.sampled_from(sorted(RANKINGS)), st.sampled_from([0.0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_nobody_waits_longer_than_the_guard_and_the_turns_before(
    drawn: list[tuple[int, float, int, Within, bool]], name: str, share: float
) -> None:
    """The bound that `turns` states, on devices of which any will do and jobs that may all be preempted."""
    guard_s, review_s = 100.0, 20.0
    tasks = [
        Task(job=msgspec.structs.replace(one.job, preemptible=True, within="pool"), run_s=one.run_s)
        for one in tasks_of(drawn)
    ]
    since = {one.job.id: one.job.submit_s for one in tasks}
    waits: list[tuple[float, float]] = []

    def observe(decision: Decision) -> None:
        if isinstance(decision, Start):
            waits.append((since[decision.job], decision.at_s))
        elif isinstance(decision, Preempt):
            since[decision.job] = decision.at_s

    worth = Worth(holds=len(tasks) % 2 == 0)
    ranked = Ranked(flat(24), RANKINGS[name](), worth=worth, guard_s=guard_s, guard_share=share, review_s=review_s)
    simulate_cluster(tasks, ranked, observe=observe)
    for begin_s, end_s in waits:
        due_s = begin_s + guard_s
        before = [
            start_s - since_s
            for since_s, start_s in waits
            if guard_s <= start_s - since_s
            and since_s <= begin_s
            and (since_s, start_s) != (begin_s, end_s)
            and start_s + (start_s - since_s) >= due_s
        ]
        assert end_s - begin_s <= guard_s + sum(before) + (len(before) + 1) * review_s + 1e-6


@given(RUNS, st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_nobody_is_stopped_whose_stop_is_not_paid_for(
    drawn: list[tuple[int, float, int, Within, bool]], price: float
) -> None:
    """For each newcomer: what its victims lose, priced, is no more than what it gains at most: the time until they
    would be over by what is known, times its devices; and by seconds too (`exchange`)."""
    tasks = [Task(job=msgspec.structs.replace(one.job, within="pool"), run_s=one.run_s) for one in tasks_of(drawn)]
    jobs = {one.job.id: one.job for one in tasks}
    until: dict[JobId, float] = {}
    victims: list[Preempt] = []

    def observe(decision: Decision) -> None:
        if isinstance(decision, Preempt):
            victims.append(decision)
        elif isinstance(decision, Start):
            mine = [one for one in victims if one.reason.startswith(f"job {decision.job} ")]
            if mine:
                wait_s = max(until[one.job] for one in mine) - decision.at_s
                lost = [(jobs[one.job].devices, jobs[one.job].save_s + jobs[one.job].restart_s) for one in mine]
                assert jobs[decision.job].devices * wait_s >= price * sum(each * s for each, s in lost) - 1e-6
                run_s = decision.until_s - decision.at_s
                assert wait_s >= price * (len(mine) * (run_s - jobs[decision.job].restart_s) + sum(s for _, s in lost))
            victims[:] = [one for one in victims if one not in mine]
            until[decision.job] = decision.until_s

    worth = Worth(spell=0.0, price=price)
    simulate_cluster(tasks, Ranked(flat(24), shortest(), worth=worth, guard_s=math.inf), observe=observe)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=14),
    st.sampled_from([math.inf, 0.5, 1.0, 2.0, 4.0]),
)
@settings(max_examples=30, deadline=None)
def test_least_service_decides_as_the_machine_of_tiresias(drawn: list[tuple[int, int, int]], starves: float) -> None:
    """All jobs end when they do with `las.LeastAttained`, asked at every event; nobody comes or ends when another does,
    but one may well fall to another queue when another is promoted."""
    thresholds = (10.0, 60.0)
    tasks = [
        Task(
            job=Job(
                id=JobId(f"{n:02d}"), submit_s=at_s + 0.1379 * n, devices=devices, estimate_s=1e9, preemptible=True
            ),
            run_s=run_s + 0.01133 * n,
        )
        for n, (at_s, run_s, devices) in enumerate(sorted(drawn))
    ]
    reference = _by_reference(tasks, LeastAttained(thresholds=thresholds, starve_factor=starves), devices=6)
    ranked = Ranked(
        flat(6),
        LeastService(thresholds=thresholds, starve_factor=starves),
        worth=FREE_OF_CHARGE,
        holds=False,
        guard_s=math.inf,
        review_s=0.0,
    )
    running: set[JobId] = set()
    ends: dict[JobId, float] = {}
    left = {task.job.id: task.run_s for task in tasks}
    now_s, at = 0.0, 0
    while at < len(tasks) or left:
        ended = [one for one in sorted(running) if left[one] <= 1e-6]
        while at < len(tasks) and tasks[at].job.submit_s <= now_s:
            _applied(ranked.submit(tasks[at].job, now_s=now_s), running)
            at += 1
        for one in ended:
            running.discard(one)
            del left[one]
            ends[one] = now_s
            _applied(ranked.end(one, now_s=now_s), running)
        if ranked.wake_s <= now_s:
            _applied(ranked.wake(now_s=now_s), running)
        ranked.check()
        following = [ranked.wake_s, *(now_s + left[one] for one in running)]
        following += [tasks[at].job.submit_s] if at < len(tasks) else []
        if min(following) == math.inf:
            break
        passed_s = min(following) - now_s
        for one in running:
            left[one] -= passed_s
        now_s += passed_s
    assert ends == pytest.approx(reference)


def _applied(decisions: Sequence[Decision], running: set[JobId]) -> None:
    for decision in decisions:
        if isinstance(decision, Start):
            assert decision.job not in running
            running.add(decision.job)
        elif isinstance(decision, Preempt):
            running.remove(decision.job)


def _by_reference(tasks: Sequence[Task], machine: LeastAttained, *, devices: int) -> dict[JobId, float]:
    """Ends of all jobs under the machine, asked at every event."""
    left = {task.job.id: task.run_s for task in tasks}
    ends: dict[JobId, float] = {}
    running: tuple[JobId, ...] = ()
    now_s, at, next_s = 0.0, 0, math.inf
    while at < len(tasks) or left:
        for one in [one for one in running if left[one] <= 1e-6]:
            machine.end(one, now_s=now_s)
            ends[one] = now_s
            del left[one]
        while at < len(tasks) and tasks[at].job.submit_s <= now_s:
            machine.submit(tasks[at].job, now_s=now_s)
            at += 1
        sharing = machine.decide(now_s=now_s, devices=devices)
        running, next_s = sharing.running, sharing.next_s
        following = [now_s + left[one] for one in running] + ([tasks[at].job.submit_s] if at < len(tasks) else [])
        if not following and next_s == math.inf:
            break
        until_s = min([*following, next_s])
        for one in running:
            left[one] -= until_s - now_s
        now_s = until_s
    return ends


def test_a_lost_node_sends_its_jobs_on_or_back() -> None:
    ranked = Ranked(Placed([PoolLayout(name="p", nodes=3, devices_per_node=4)]), shortest())
    assert isinstance(ranked, Draining)
    for name in ("a", "b"):
        ranked.submit(job(name, 4, 1000.0), now_s=0.0)
    moved = ranked.lose("p", 0, now_s=130.0)
    ranked.check()
    assert isinstance(moved[0], Resize)
    assert (moved[0].job, moved[0].placement.nodes, moved[0].lost) == ("a", (2,), True)
    assert "100 s of its work are saved" in moved[0].reason
    back = ranked.lose("p", 1, now_s=140.0)
    assert isinstance(back[0], Preempt)
    assert back[0].lost
    assert kinds(ranked.regain("p", 0, now_s=200.0)) == [("Start", "b")]
    ranked.check()


PROGRAM = """
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning
from myriarch.simulate.queueing import Task
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ShortestRemaining, UserMeans
import msgspec
tasks = [
    Task(job=msgspec.structs.replace(task.job, preemptible=True, save_s=5.0, restart_s=20.0), run_s=task.run_s)
    for task in deep_learning(120, MIXES["seren"], devices=32, load=1.3, seed=4) if task.job.devices <= 32
]
means = UserMeans()
machine = Placed([PoolLayout(name="p", nodes=4, devices_per_node=8)])
ranked = Ranked(machine, ShortestRemaining(means, learn=means.learn))
outcome = simulate_cluster(tasks, ranked)
print(outcome.digest, outcome.unfinished)
"""


def test_the_same_decisions_under_another_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert digests.pop().endswith(" 0\n")
