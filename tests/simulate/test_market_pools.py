"""Pools with queues of their own: owners are scheduled as ever, and every errand runs once, wherever it is sent."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.profile import Profile
from myriarch.simulate.market_pools import Errand, Pause, World
from myriarch.simulate.queueing import Task, simulate_queue

E = JobId("e")


def job(name: str, *, submit_s: float = 0.0, devices: int = 1, estimate_s: float = 100.0) -> Job:
    return Job(id=JobId(name), submit_s=submit_s, devices=devices, estimate_s=estimate_s)


def errand(name: str, *, submit_s: float = 0.0, devices: int = 1, run_s: float = 50.0, pools: str = "pq") -> Errand:
    return Errand(
        job=job(name, submit_s=submit_s, devices=devices),
        run_s=dict.fromkeys(pools, run_s),
        estimate_s=dict.fromkeys(pools, 2 * run_s),
    )


class Scripted:
    """Sends to the first pool, and whatever a test wants when it is woken."""

    period_s = 20.0

    def __init__(self, *, first: str = "p", wake: str = "") -> None:
        self.first = first
        self.script = wake
        self.seen: list[str] = []

    def arrive(self, errand: Errand, world: World) -> None:
        for pool in self.first:
            world.send(errand.job.id, pool)
        world.check()

    def started(self, job: JobId, pool: str, world: World) -> None:
        self.seen.append(f"{job}>{pool}@{world.now_s:g}")

    def stopped(self, job: JobId, pool: str, world: World) -> None:
        self.seen.append(f"{job}|@{world.now_s:g}")

    def ended(self, job: JobId, pool: str, world: World) -> None:
        self.seen.append(f"{job}.@{world.now_s:g}")

    def wake(self, world: World) -> None:
        if self.script == "move":
            for name in [name for name in world.pools["p"].waiting if name not in world.placed]:
                if world.starts_now(name, "q"):
                    world.recall(name, "p")
                    world.send(name, "q")
        world.check()


def owners(*rows: tuple[float, int, float]) -> list[Task]:
    return [
        Task(job=job(f"o{number}", submit_s=at_s, devices=devices, estimate_s=2 * run_s), run_s=run_s)
        for number, (at_s, devices, run_s) in enumerate(rows)
    ]


def test_an_errand_that_waits_may_move() -> None:
    world = World({"p": 2, "q": 2}, {"p": owners((0.0, 2, 90.0)), "q": owners((0.0, 2, 30.0))})
    policy = Scripted(wake="move")
    world.run([errand("e", submit_s=5.0)], policy)
    assert policy.seen == ["e>q@45", "e.@95"]


def test_of_copies_the_first_that_starts_is_the_only_one() -> None:
    world = World({"p": 2, "q": 2}, {"p": owners((0.0, 2, 90.0)), "q": owners((0.0, 2, 30.0))})
    policy = Scripted(first="pq")
    world.run([errand("e", submit_s=5.0)], policy)
    assert policy.seen == ["e>q@30", "e.@80"]
    assert not world.pools["p"].waiting


def test_what_is_foreseen_is_by_estimates_and_turns() -> None:
    tasks = owners((0.0, 2, 50.0), (1.0, 1, 10.0))
    world = World({"p": 2}, {"p": tasks})
    policy = Scripted(wake="")
    world.run([errand("e", submit_s=2.0, pools="p")], policy)
    fresh = World({"p": 2}, {"p": tasks})
    seen: list[object] = []

    class Looks(Scripted):
        def arrive(self, errand: Errand, world: World) -> None:
            seen.append([(w.start_s, w.end_s, w.devices) for w in world.windows("p", horizon_s=200.0)])
            super().arrive(errand, world)

    fresh.run([errand("e", submit_s=2.0, pools="p")], Looks())
    assert seen == [[(98.0, 118.0, 1), (118.0, 200.0, 2)]]


def test_a_pool_says_whether_an_errand_would_start_if_others_were_not_there() -> None:
    """Of two devices one is an owner's until 100 s; another owner waits for both, and may not be delayed."""
    first, second = JobId("a"), JobId("b")
    seen: list[list[bool]] = []

    class Asks(Scripted):
        def arrive(self, errand: Errand, world: World) -> None:
            if errand.job.id == first:
                world.send(first, "p")
                return
            ways = (frozenset[JobId](), frozenset({first}), frozenset({second}))
            seen.append([world.starts_now(second, "p", without=without) for without in ways])
            world.send(second, "p")

    for estimate_s, expected in ((80.0, [False, True, False]), (120.0, [False, False, False])):
        seen.clear()
        tasks = owners((0.0, 1, 50.0), (6.0, 2, 10.0))
        late = errand("b", submit_s=7.0, run_s=estimate_s / 2, pools="p")
        World({"p": 2}, {"p": tasks}).run([errand("a", submit_s=5.0, pools="p"), late], Asks())
        assert seen == [expected]


def test_an_errand_that_is_stopped_goes_on_where_it_was() -> None:
    """50 s of work; stopped after 20 s, saved for 5 s; 10 s of road and 3 s to load are the price of the other pool."""
    pause = Pause(save_s=5.0, load_s=3.0, move_s=10.0)

    class Moves(Scripted):
        def wake(self, world: World) -> None:
            if world.now_s == 20.0:
                world.pause(E)
                assert world.running_in(E) is None
            if world.now_s == 40.0 and world.moved(E, "q"):
                assert (world.ran_s(E, "q"), world.asked_s(E, "q")) == (20.0, 83.0)
                world.send(E, "q")
            if world.now_s == 60.0:
                assert world.ran_s(E, "p") == 20.0 + 20.0 - 3.0
            world.check()

    policy = Moves()
    world = World({"p": 2, "q": 2}, {})
    world.run([msgspec.structs.replace(errand("e"), pause=pause)], policy)
    assert policy.seen == ["e>p@0", "e|@25", "e>q@40", "e.@73"]
    assert [(one.pool, one.start_s, one.end_s) for one in world.stretches[E]] == [("p", 0.0, 25.0), ("q", 40.0, 73.0)]
    assert (world.placed[E].start_s, world.placed[E].end_s) == (0.0, 73.0)


def test_an_errand_that_ends_while_it_would_be_saved_is_not_stopped() -> None:
    class Late(Scripted):
        def wake(self, world: World) -> None:
            world.pause(E)

    policy = Late()
    late = msgspec.structs.replace(errand("e", run_s=24.0), pause=Pause(save_s=5.0, load_s=3.0, move_s=10.0))
    World({"p": 2, "q": 2}, {}).run([late], policy)
    assert policy.seen == ["e>p@0", "e.@24"]
    with pytest.raises(SpecError, match="cannot be stopped"):
        World({"p": 2}, {}).run([errand("e")], Late())


def test_a_policy_may_hold_the_last_errand_for_a_day_in_which_nothing_happens() -> None:
    class Holds(Scripted):
        period_s = 3600.0

        def arrive(self, errand: Errand, world: World) -> None: ...

        def wake(self, world: World) -> None:
            if world.now_s >= 86_400.0:
                world.send(E, "p")

    policy = Holds()
    World({"p": 2}, {}).run([errand("e")], policy)
    assert policy.seen == ["e>p@86400", "e.@86450"]


def test_mistakes_of_a_policy_are_said() -> None:
    class Forgets(Scripted):
        def arrive(self, errand: Errand, world: World) -> None: ...

    with pytest.raises(SpecError, match="sent nowhere"):
        World({"p": 2}, {}).run([errand("e")], Forgets())
    with pytest.raises(SpecError, match="cannot run in p"):
        World({"p": 2, "q": 2}, {}).run([errand("e", pools="q")], Scripted())
    with pytest.raises(SpecError, match="refuses"):
        World({"p": 2}, {}).run([errand("e", devices=3)], Scripted())


rows = st.lists(
    st.tuples(st.integers(0, 300).map(float), st.integers(1, 4), st.integers(1, 90).map(float)), max_size=12
)


@settings(max_examples=40)
@given(rows, rows, st.integers(0, 2**32))
def test_every_errand_does_its_work_once_whatever_a_policy_does(
    first: list[tuple[float, int, float]], second: list[tuple[float, int, float]], seed: int
) -> None:
    rng = random.Random(seed)

    class Restless(Scripted):
        def wake(self, world: World) -> None:
            for name in sorted(world.stretches):
                if rng.random() < 0.2:
                    world.pause(name)
            for name in [each for pool in world.pools.values() for each in pool.waiting if each.startswith("e")]:
                for pool in rng.sample("pq", 2):
                    rng.choice((world.send, world.send, world.recall))(name, pool)
            for name in (each.job.id for each in errands if each.job.submit_s <= world.now_s):
                if not any(name in pool.waiting for pool in world.pools.values()):
                    world.send(name, rng.choice("pq"))
            world.check()

    errands = [
        msgspec.structs.replace(
            errand(f"e{number}", submit_s=at_s, devices=devices, run_s=run_s),
            pause=Pause(save_s=2.0, load_s=1.0, move_s=0.0),
        )
        for number, (at_s, devices, run_s) in enumerate(sorted(second))
    ]
    policy = Restless()
    world = World({"p": 4, "q": 5}, {"p": owners(*sorted(first))})
    placed = world.run(errands, policy)
    assert set(placed) == {each.job.id for each in errands}
    assert sum(".@" in line for line in policy.seen) == len(errands)
    assert sum(">" in line for line in policy.seen) == sum("|@" in line for line in policy.seen) + len(errands)
    for each in errands:
        stretches = world.stretches[each.job.id]
        held_s = sum(one.end_s - one.start_s for one in stretches)
        # Who is stopped while it loads has done nothing in that stretch.
        least_s = each.run_s["p"] + 2.0 * (len(stretches) - 1)
        assert least_s - 1e-6 <= held_s <= least_s + 1.0 * (len(stretches) - 1) + 1e-6
        assert placed[each.job.id].start_s >= each.job.submit_s


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30).map(float)), max_size=12))
def test_devices_that_are_held_from_now_on_are_the_same_at_once_as_one_by_one(held: list[tuple[int, float]]) -> None:
    one_by_one = Profile(50, origin_s=5.0)
    for devices, until_s in held:
        if until_s > 5.0:
            one_by_one.take(5.0, until_s, devices)
    at_once = Profile.holding(50, held, origin_s=5.0)
    at_once.check()
    assert at_once.steps() == one_by_one.steps()


@settings(max_examples=40)
@given(rows)
def test_owners_alone_are_scheduled_as_in_any_queue(jobs: list[tuple[float, int, float]]) -> None:
    tasks = owners(*sorted(jobs))
    world = World({"p": 4}, {"p": tasks})
    world.run([errand("e", submit_s=5000.0, pools="p")], Scripted())
    expected = simulate_queue(tasks, Easy(Counted(4)))
    assert sorted(wait for _, wait, _ in world.owned_waits) == sorted(expected.wait_s.tolist())
