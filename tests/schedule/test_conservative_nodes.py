"""Conservative backfilling on nodes: what is promised is kept, where it was promised."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.conservative_nodes import ConservativeNodes
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Decision, Preempt, Refuse, Resize, Start
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.plans import Claim
from myriarch.schedule.promises import Promises
from myriarch.simulate.queueing import Task, simulate_queue

POOL = PoolLayout(name="a", nodes=8, devices_per_node=4, nodes_per_rack=2, racks_per_pod=2)
OTHER = PoolLayout(name="b", nodes=3, devices_per_node=2)
WHOLE = PoolLayout(name="w", nodes=6, devices_per_node=4)


def job(name: str, devices: int, estimate_s: float, *, at_s: float = 0.0, within: Within = "pool") -> Job:
    return Job(id=JobId(name), submit_s=at_s, devices=devices, estimate_s=estimate_s, within=within)


@st.composite
def workloads(draw: st.DrawFn, *, most: int, exact: bool = False, one: bool = False) -> list[Task]:
    """Jobs of all sizes and demands, in the order of submission; some end early."""
    count, now_s, tasks = draw(st.integers(1, 25)), 0.0, []
    for number in range(count):
        now_s += draw(st.sampled_from([0, 0, 1, 5, 30]))
        run_s = draw(st.integers(1, 40))
        more = 0 if exact else draw(st.sampled_from([0, 0, 1, 10, 100]))
        within: Within = "pool" if one else draw(st.sampled_from(["node", "rack", "pod", "pool"]))
        asked = job(str(number), draw(st.integers(1, most)), float(run_s + more), at_s=now_s, within=within)
        tasks.append(Task(job=asked, run_s=float(run_s)))
    return tasks


class Kept:
    """Notes the first promise of every job, and every start."""

    def __init__(self, scheduler: ConservativeNodes) -> None:
        self.scheduler = scheduler
        self.promised: dict[JobId, Claim] = {}
        self.started: dict[JobId, Start] = {}

    def see(self, decision: Decision) -> None:
        if isinstance(decision, Start):
            self.started[decision.job] = decision


def run(tasks: Sequence[Task], pools: Sequence[PoolLayout], *, depth: int | None = None) -> dict[JobId, Start]:
    """Simulate with all checks; every start is as early as its first promise, in one part of the network, and alone."""
    scheduler = ConservativeNodes(Placed(pools), depth=depth)
    kept = Kept(scheduler)
    outcome = simulate_queue(tasks, scheduler, observe=kept.see, check=True)
    sizes = {pool.name: pool for pool in pools}
    busy: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    for task in tasks:
        if task.job.id in outcome.refused:
            continue
        start = kept.started[task.job.id]
        assert start.reason.promised_s is not None
        assert start.at_s <= start.reason.promised_s, "nobody later than the first promise"
        place = start.placement
        pool = sizes[place.pool]
        assert pool.gang(task.job.devices) == (len(place.nodes), place.devices_per_node), "gangs are whole"
        size = pool.domain_nodes(task.job.within)
        assert len({node // size for node in place.nodes}) == 1, "and within what they asked for"
        for node in place.nodes:
            busy.setdefault((place.pool, node), []).append(
                (start.at_s, start.at_s + task.run_s, place.devices_per_node)
            )
    for (name, _), times in busy.items():
        for at_s, _, _ in times:
            used = sum(devices for begin, end, devices in times if begin <= at_s < end)
            assert used <= sizes[name].devices_per_node, "a device is one job's"
    return kept.started


@given(tasks=workloads(most=34))
@settings(max_examples=25)
def test_nobody_starts_later_than_was_promised(tasks: list[Task]) -> None:
    run(tasks, [POOL])


@given(tasks=workloads(most=34), depth=st.integers(1, 4))
@settings(max_examples=15)
def test_the_same_for_the_first_in_two_pools(tasks: list[Task], depth: int) -> None:
    run(tasks, [POOL, OTHER], depth=depth)


@given(tasks=workloads(most=9, one=True))
@settings(max_examples=15)
def test_nodes_of_one_device_are_numbers(tasks: list[Task]) -> None:
    """The starts of the counted rule, job by job, whatever ends early; so are those of whole nodes."""
    counted = simulate_queue(tasks, Conservative(Counted(9))).start_s
    single = ConservativeNodes(Placed([PoolLayout(name="a", nodes=9, devices_per_node=1)]))
    assert (simulate_queue(tasks, single, check=True).start_s == counted).all()
    by_four = [
        msgspec.structs.replace(task, job=msgspec.structs.replace(task.job, devices=4 * task.job.devices))
        for task in tasks
    ]
    wide = ConservativeNodes(Placed([PoolLayout(name="a", nodes=9, devices_per_node=4)]))
    assert (simulate_queue(by_four, wide).start_s == counted).all()


@given(tasks=workloads(most=24, one=True, exact=True))
@settings(max_examples=15)
def test_exact_estimates_start_exactly_when_promised(tasks: list[Task]) -> None:
    for start in run(tasks, [WHOLE]).values():
        assert start.at_s == start.reason.promised_s


def test_numbers_become_nodes_when_somebody_asks_for_less() -> None:
    scheduler = ConservativeNodes(Placed([PoolLayout(name="a", nodes=2, devices_per_node=4)]))

    def submit(name: str, devices: int, estimate_s: float) -> Claim:
        scheduler.submit(job(name, devices, estimate_s), now_s=0.0)
        scheduler.check()
        claim = scheduler.promise(JobId(name))
        assert claim is not None
        return claim

    assert submit("whole", 4, 10.0).nodes == ()
    scheduler.wake(now_s=0.0)
    assert submit("both", 8, 5.0) == Claim("a", 2, 4, 10.0, 15.0, ())
    assert submit("small", 1, 10.0) == Claim("a", 1, 1, 0.0, 10.0, (1,)), "beside the running one, over in time"
    assert submit("long", 1, 11.0) == Claim("a", 1, 1, 15.0, 26.0, (0,)), "after the gang"
    both = scheduler.promise(JobId("both"))
    assert both is not None
    assert both.nodes == (0, 1)
    (start,) = scheduler.wake(now_s=0.0)
    assert start.job == "small"


def test_an_overdue_job_makes_others_wait_and_nothing_else() -> None:
    scheduler = ConservativeNodes(Placed([WHOLE]))
    for name, devices in (("late", 24), ("next", 24), ("last", 8)):
        scheduler.submit(job(name, devices, 100.0), now_s=0.0)
    assert [one.job for one in scheduler.wake(now_s=0.0)] == ["late"]
    assert scheduler.wake_s == 100.0
    assert list(scheduler.wake(now_s=100.0)) == []
    assert scheduler.wake_s == 160.0, "a minute more is believed"
    assert list(scheduler.wake(now_s=160.0)) == []
    assert scheduler.wake_s == 220.0
    scheduler.check()
    assert list(scheduler.end(JobId("late"), now_s=170.0)) == []
    assert [one.job for one in scheduler.wake(now_s=170.0)] == ["next"]
    claim = scheduler.promise(JobId("last"))
    assert claim is not None
    assert claim.start_s == 270.0
    scheduler.check()


def test_nodes_go_and_come_back() -> None:
    scheduler = ConservativeNodes(Placed([PoolLayout(name="a", nodes=3, devices_per_node=4)]))
    saves = msgspec.structs.replace(job("saves", 8, 100.0), saves_every_s=10.0)
    scheduler.submit(saves, now_s=0.0)
    scheduler.submit(job("gone", 2, 50.0), now_s=0.0)
    scheduler.submit(job("large", 12, 10.0), now_s=0.0)
    starts = {one.job: one.placement.nodes for one in scheduler.wake(now_s=0.0) if isinstance(one, Start)}
    assert starts == {"saves": (0, 1), "gone": (2,)}
    lost = scheduler.lose("a", 2, now_s=20.0)
    assert [(type(one), one.job) for one in lost] == [(Preempt, "gone")]
    claim = scheduler.promise(JobId("gone"))
    assert claim is not None
    assert claim.start_s == 100.0
    assert scheduler.promise(JobId("large")) is None, "there is no third node"
    scheduler.check()
    back = scheduler.regain("a", 2, now_s=30.0)
    assert [one.job for one in back] == ["gone"]
    large = scheduler.promise(JobId("large"))
    assert large is not None
    assert large.start_s == 100.0
    scheduler.check()
    moved = scheduler.lose("a", 0, now_s=45.0)
    assert [type(one) for one in moved] == [Preempt], "nowhere is room for four beside what runs on 2"
    scheduler.check()
    scheduler.end(JobId("gone"), now_s=50.0)
    assert [one.job for one in scheduler.wake(now_s=50.0)] == ["saves"]
    scheduler.check()


def test_a_job_goes_on_beside_and_drained_nodes_are_not_promised() -> None:
    scheduler = ConservativeNodes(Placed([PoolLayout(name="a", nodes=3, devices_per_node=4)]))
    scheduler.submit(msgspec.structs.replace(job("saves", 8, 100.0), saves_every_s=10.0), now_s=0.0)
    scheduler.wake(now_s=0.0)
    (moved,) = scheduler.lose("a", 1, now_s=25.0)
    assert isinstance(moved, Resize)
    assert moved.placement.nodes == (0, 2)
    assert moved.until_s == 25.0 + 80.0
    scheduler.regain("a", 1, now_s=26.0)
    scheduler.drain("a", 1, from_s=50.0, now_s=26.0)
    scheduler.submit(job("short", 4, 20.0), now_s=26.0)
    scheduler.submit(job("long", 4, 30.0), now_s=26.0)
    assert [one.job for one in scheduler.wake(now_s=26.0)] == ["short"]
    claim = scheduler.promise(JobId("long"))
    assert claim is not None
    assert (claim.nodes, claim.start_s) == ((0,), 105.0)
    scheduler.check()


@given(data=st.data())
@settings(max_examples=20)
def test_the_search_finds_what_a_look_at_every_instant_finds(data: st.DataObject) -> None:
    promises = Promises(POOL, np.full(8, 4, dtype=np.int64), now_s=0.0)
    for _ in range(data.draw(st.integers(0, 12))):
        duration_s = float(data.draw(st.integers(1, 20)))
        many, each = POOL.gang(data.draw(st.integers(1, 20)))
        within: Within = data.draw(st.sampled_from(["node", "rack", "pod", "pool"]))
        if many > POOL.domain_nodes(within):
            continue
        seat = promises.earliest(many, each, within, duration_s)
        assert seat is not None
        size = POOL.domain_nodes(within)
        for at_s in sorted({float(at) for at in range(int(seat.start_s) + 1)}):
            least = np.min([promises.free_at(at_s + 0.5 * step) for step in range(int(2 * duration_s))], axis=0)
            counts = np.add.reduceat(least >= each, np.arange(0, 8, size), dtype=np.int64)
            assert (counts.max() >= many) == (at_s == seat.start_s)
        promises.take(seat.nodes, each, seat.start_s, seat.start_s + duration_s)
        promises.check()


def test_what_is_refused() -> None:
    (refused,) = ConservativeNodes(Placed([POOL])).submit(job("x", 33, 1.0), now_s=0.0)
    assert isinstance(refused, Refuse)
    assert refused.reason == "job x asks for 33 devices: pool `a` has 32 devices"
    with pytest.raises(SpecError, match="promises nothing"):
        ConservativeNodes(Placed([POOL]), depth=0)


def asking_everybody(scheduler: ConservativeNodes) -> ConservativeNodes:
    """The rule word for word: at every end all who wait are offered an earlier place, in order of arrival."""
    end = scheduler.end
    scheduler._offer = lambda now_s: None  # type: ignore[method-assign]

    def ended(job: JobId, *, now_s: float) -> Sequence[Decision]:
        decisions = end(job, now_s=now_s)
        for place in scheduler._line.promised(after_s=now_s).places.tolist():
            scheduler._move(place, now_s)
        return decisions

    scheduler.end = ended  # type: ignore[method-assign]
    return scheduler


@given(
    tasks=workloads(most=24),
    whole=st.integers(0, 25),
    pools=st.sampled_from([[WHOLE], [POOL], [POOL, OTHER], [WHOLE, OTHER, POOL]]),
)
@settings(max_examples=40)
def test_who_is_not_asked_would_have_gained_nothing(tasks: list[Task], whole: int, pools: list[PoolLayout]) -> None:
    """Also where the first ones take whole nodes, so that promises begin in numbers and become nodes."""
    tasks = [by_fours(task) for task in tasks[:whole]] + tasks[whole:]
    some = simulate_queue(tasks, ConservativeNodes(Placed(pools)))
    everybody = simulate_queue(tasks, asking_everybody(ConservativeNodes(Placed(pools))))
    assert some.digest == everybody.digest


def by_fours(task: Task) -> Task:
    """The same on whole nodes of four, anywhere."""
    wide = msgspec.structs.replace(task.job, devices=-(-task.job.devices // 4) * 4, within="pool")
    return msgspec.structs.replace(task, job=wide)
