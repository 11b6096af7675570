"""The shortlist says whom a walk over the whole queue finds; EASY by it decides as EASY by that walk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.schedule.bench import Bench, SortedBench
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.line import Full
from myriarch.schedule.machine import Hold, Machine
from myriarch.schedule.order import ARRIVAL, LARGEST, SHORTEST, SMALLEST, SMALLEST_AREA, Fixed
from myriarch.schedule.placed import Placed
from myriarch.schedule.shortlist import Shortlist
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

Key = Callable[[Job], float] | None
KEYS: list[Key] = [None, lambda job: job.estimate_s, lambda job: -job.devices, lambda job: int(job.id) * 7 % 5]

INSTANTS = st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0, math.inf])


def job(number: int, devices: int, estimate_s: float, within: Within = "pool") -> Job:
    return Job(id=JobId(str(number)), submit_s=0.0, devices=devices, estimate_s=estimate_s, within=within)


class Walked(Shortlist):
    """Everybody is looked at."""

    def __init__(self, key: Key = None) -> None:
        super().__init__(key)
        self.of = key or (lambda job: 0.0)
        self.all: dict[int, tuple[Job, int]] = {}

    def add(self, job: Job, *, shape: int, arrival: int) -> None:
        self.all[arrival] = (job, shape)
        super().add(job, shape=shape, arrival=arrival)

    def remove(self, job: Job, *, shape: int, arrival: int) -> None:
        del self.all[arrival]
        super().remove(job, shape=shape, arrival=arrival)

    def candidates(
        self, *, free_devices: int, now_s: float, hold_s: float, spare_devices: int, full: Full
    ) -> Iterator[Job]:
        for _, (one, shape) in sorted(self.all.items(), key=lambda item: (self.of(item[1][0]), item[0])):
            late = now_s + one.estimate_s > hold_s
            fits = one.devices <= free_devices and (not late or one.devices <= spare_devices)
            if fits and shape not in (full.late if late else full.ever):
                yield one


@settings(max_examples=80)
@given(st.data(), st.sampled_from(KEYS))
def test_it_says_whom_a_walk_finds(data: st.DataObject, key: Key) -> None:
    shortlist, walked = Shortlist(key), Walked(key)
    waiting, gone = dict[int, Job](), list[tuple[int, Job]]()
    rows = st.tuples(st.integers(1, 5), INSTANTS.filter(bool), st.integers(0, 99))
    for arrival, (devices, estimate_s, what) in enumerate(data.draw(st.lists(rows, max_size=60))):
        came = [(arrival, job(arrival, devices, estimate_s))]
        if what < 20 and gone:
            came.append(gone.pop(what % len(gone)))  # waits again, where it stood
        for each in (shortlist, walked):
            for place, one in came:
                each.add(one, shape=one.devices, arrival=place)
        waiting.update(came)
        if what > 50:
            place = sorted(waiting)[what % len(waiting)]
            for each in (shortlist, walked):
                each.remove(waiting[place], shape=waiting[place].devices, arrival=place)
            gone.append((place, waiting.pop(place)))
    shortlist.check()
    assert len(shortlist) == len(waiting)
    free, spare = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    now_s, hold_s = data.draw(st.sampled_from([0.0, 3.0])), data.draw(INSTANTS)
    refused = data.draw(st.sets(st.sampled_from(sorted(waiting)))) if waiting else set()
    found = []
    for each in (shortlist, walked):
        full, seen = Full(), list[Job]()
        for one in each.candidates(free_devices=free, now_s=now_s, hold_s=hold_s, spare_devices=spare, full=full):
            seen.append(one)
            if int(one.id) in refused:
                full.late.add(one.devices)
                if now_s + one.estimate_s <= hold_s:
                    full.ever.add(one.devices)
            else:
                each.remove(one, shape=one.devices, arrival=int(one.id))
        each.check()
        found.append(seen)
    assert found[0] == found[1]


POOLS = (
    PoolLayout(name="a", nodes=4, devices_per_node=4, nodes_per_rack=2, racks_per_pod=2),
    PoolLayout(name="b", nodes=2, devices_per_node=4, nodes_per_rack=2, racks_per_pod=1, precisions=("bf16", "fp64")),
)


class Anew(Placed):
    """Whether a hold stands is seen by working it out anew."""

    def _stands(self, hold: Hold, job: Job) -> bool:
        at_s, way = self._earliest(job)
        return at_s == hold.at_s and way.nodes.pool.name == hold.pool


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Task], list[Breakdown]]:
    rows = st.tuples(
        st.integers(0, 2), st.integers(1, 16), st.integers(1, 20), st.integers(0, 20), st.sampled_from(["rack", "pool"])
    )
    tasks, submit_s = [], 0
    for number, (gap_s, devices, run_s, over_s, within) in enumerate(draw(st.lists(rows, min_size=10, max_size=50))):
        submit_s += gap_s
        one = Job(
            id=JobId(str(number)),
            submit_s=float(submit_s),
            devices=devices,
            estimate_s=float(run_s + over_s),
            within=within,  # type: ignore[arg-type]
            saves_every_s=3.0,
            restart_s=2.0,
        )
        tasks.append(Task(job=one, run_s=float(run_s)))
    faults = st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.integers(0, 1), st.integers(1, 9))
    breakdowns = [
        Breakdown(at_s=float(at_s), pool=pool, node=node, cause="x", course="repair", duration_s=float(duration_s))
        for at_s, pool, node, duration_s in sorted(draw(st.lists(faults, max_size=3)))
    ]
    return tasks, breakdowns


@settings(max_examples=60)
@given(worlds(), st.booleans(), st.sampled_from([ARRIVAL, ARRIVAL, SHORTEST, SMALLEST, LARGEST, SMALLEST_AREA, None]))
def test_easy_decides_as_by_a_walk_over_the_queue(
    world: tuple[list[Task], list[Breakdown]], counted: bool, order: Fixed | None
) -> None:
    """By any order that stays; None: by arrival, and the others by their estimates."""
    tasks, breakdowns = world
    machines: list[Machine] = [Counted(16), Counted(16)] if counted else [Placed(POOLS), Anew(POOLS)]
    quick, plain = (Easy(machine, order=order or ARRIVAL, shortest_first=order is None) for machine in machines)
    plain._shortlist = plain._queue._shortlist = Walked(order.of if order else lambda job: job.estimate_s)
    digests = [
        simulate_cluster(tasks, easy, breakdowns=() if counted else breakdowns, check=True).digest
        for easy in (quick, plain)
    ]
    assert digests[0] == digests[1]


def test_infinite_estimates_and_holds() -> None:
    shortlist = Shortlist()
    for number, estimate_s in enumerate([math.inf, 5.0, math.inf]):
        shortlist.add(job(number, 1, estimate_s), shape=1, arrival=number)
    for hold_s, expected in ((math.inf, ["0", "1", "2"]), (10.0, ["1"])):
        found = shortlist.candidates(free_devices=1, now_s=3.0, hold_s=hold_s, spare_devices=0, full=Full())
        assert [one.id for one in found] == expected


@given(st.randoms(use_true_random=False), st.integers(1, 700), st.integers(0, 9))
@settings(max_examples=10)
def test_a_long_sorted_bench_is_in_pieces(random: Random, count: int, by_s: int) -> None:
    rows = [(random.randint(0, 9), random.randint(1, 9)) for _ in range(count)]
    left = set(random.sample(range(count), random.randint(0, count)))
    bench = SortedBench(lambda job: job.submit_s)
    jobs = [Job(id=JobId(str(n)), submit_s=key, devices=1, estimate_s=most) for n, (key, most) in enumerate(rows)]
    for number, one in enumerate(jobs):
        bench.add(one, number)
    for number in set(range(len(jobs))) - left:
        bench.remove(jobs[number], number)
    bench.check()
    found = list[Job]()
    mark = bench.first(bench.begin, now_s=0.0, by_s=by_s)
    while mark is not None:
        found.append(bench.job(mark))
        mark = bench.first(bench.behind(mark), now_s=0.0, by_s=by_s)
    plain = sorted(left, key=lambda number: (jobs[number].submit_s, number))
    assert found == [jobs[number] for number in plain if jobs[number].estimate_s <= by_s]


@pytest.mark.parametrize("count", [1, 5, 300])
def test_seats_that_were_left_are_taken_away(count: int) -> None:
    shortlist = Shortlist()
    for number in range(count):
        shortlist.add(job(number, 1, 1.0), shape=1, arrival=number)
    for number in range(count, 3_000):
        shortlist.remove(job(number - count, 1, 1.0), shape=1, arrival=number - count)
        shortlist.add(job(number, 1, 1.0), shape=1, arrival=number)
    (bench,) = shortlist._bench.values()
    assert isinstance(bench, Bench)
    assert len(bench.arrivals) <= max(8, 4 * count)
    shortlist.check()
