"""Who may start beside a hold: found among any number of waiting jobs without looking at most of them.

Jobs of one shape need the same devices and fit or do not fit alike, so of each shape only the next in line counts: the
first that is over when the hold begins, or simply the first, where so many devices are spare. Each shape keeps its jobs
in order, and finds the first short enough one behind any place without looking at most of them (`bench`); a heap merges
the shapes. A pass over the queue then costs as much as there are shapes that are small enough and candidates that it
tries, however many wait.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Any

from myriarch.schedule.bench import LONGEST_S, Bench, SortedBench
from myriarch.schedule.job import Job
from myriarch.schedule.line import Full


class Shortlist:
    """Invariant: `_sizes` has every shape that somebody has who waits, with its devices, the smallest first."""

    def __init__(self, key: Callable[[Job], float] | None = None) -> None:
        """`key`: in whose order they are tried, equal ones by arrival; it does not change while a job waits. None: all
        by arrival."""
        self._key = key
        self._bench: dict[int, Bench | SortedBench] = {}
        """By shape."""
        self._sizes: list[tuple[int, int]] = []
        """Devices, shape."""

    def __len__(self) -> int:
        return sum(bench.count for bench in self._bench.values())

    @property
    def smallest(self) -> float:
        """The fewest devices that anybody asks for; infinite: nobody waits."""
        return self._sizes[0][0] if self._sizes else float("inf")

    def add(self, job: Job, *, shape: int, arrival: int) -> None:
        """A job waits; arrival: its place in the order of the queue."""
        bench = self._bench.get(shape)
        if bench is None:
            bench = self._bench[shape] = Bench() if self._key is None else SortedBench(self._key)
        if not bench.count:
            insort(self._sizes, (job.devices, shape))
        bench.add(job, arrival)

    def remove(self, job: Job, *, shape: int, arrival: int) -> None:
        """It waits no more."""
        bench = self._bench[shape]
        bench.remove(job, arrival)
        if not bench.count:
            del self._sizes[bisect_left(self._sizes, (job.devices, shape))]

    def candidates(
        self, *, free_devices: int, now_s: float, hold_s: float, spare_devices: int, full: Full
    ) -> Iterator[Job]:
        """Who, by mere numbers, may start beside a hold, in order.

        Its devices are free, and it is over when the hold begins or so many are spare. `full` says for whose needs
        there was no place; it may grow meanwhile, and candidates may leave, but nobody may come.
        """
        hold_s = min(hold_s, LONGEST_S)
        nexts: list[tuple[Any, Any, int, int]] = []  # rank, mark, shape, devices
        for devices, shape in self._sizes:
            if devices > free_devices:
                break
            bench = self._bench[shape]
            if bench.shortest_s + now_s > hold_s and devices > spare_devices:
                continue
            mark = _next(bench, bench.begin, shape, full, now_s, hold_s, any_will_do=devices <= spare_devices)
            if mark is not None:
                nexts.append((bench.rank(mark), mark, shape, devices))
        heapq.heapify(nexts)
        while nexts:
            _, mark, shape, devices = nexts[0]
            bench = self._bench[shape]
            yield bench.job(mark)
            mark = _next(bench, bench.behind(mark), shape, full, now_s, hold_s, any_will_do=devices <= spare_devices)
            if mark is not None:
                heapq.heapreplace(nexts, (bench.rank(mark), mark, shape, devices))
            else:
                heapq.heappop(nexts)

    def check(self) -> None:
        """Assert the invariants."""
        for bench in self._bench.values():
            bench.check()
        some = [(bench.devices, shape) for shape, bench in self._bench.items() if bench.count]
        assert sorted(some) == self._sizes


def _next(
    bench: Bench | SortedBench, begin: Any, shape: int, full: Full, now_s: float, hold_s: float, *, any_will_do: bool
) -> Any:
    """The mark of the first candidate on a bench from one on; None: there is none."""
    if any_will_do and shape not in full.late:
        return bench.first(begin, now_s=0.0, by_s=LONGEST_S)
    return None if shape in full.ever else bench.first(begin, now_s=now_s, by_s=hold_s)
