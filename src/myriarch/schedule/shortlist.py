"""Who may start beside a hold: found among any number of waiting jobs without looking at most of them.

Jobs of one shape need the same devices and fit or do not fit alike, so of each shape only the next in line counts: the
first that is over when the hold begins, or simply the first, where so many devices are spare. Each shape keeps its jobs
in order of arrival under a tournament of their estimates, which finds the first short enough one behind any place in
the logarithm of their number; a heap merges the shapes. A pass over the queue then costs as much as there are shapes
that are small enough and candidates that it tries, however many wait.
"""

from __future__ import annotations

import heapq
import sys
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from myriarch.schedule.job import Job
from myriarch.schedule.line import Full

NOBODY: Final = float("inf")
"""Longer than any estimate."""
LONGEST_S: Final = sys.float_info.max
"""Estimates and holds that are infinite count as this, so that they are shorter than nobody's."""
LEAST_SEATS: Final = 4


class Shortlist:
    """Invariant: `_sizes` has every shape that somebody has who waits, with its devices, the smallest first."""

    def __init__(self) -> None:
        self._bench: dict[int, Bench] = {}
        """By shape."""
        self._sizes: list[tuple[int, int]] = []
        """Devices, shape."""

    def __len__(self) -> int:
        return sum(bench.count for bench in self._bench.values())

    def add(self, job: Job, *, shape: int, arrival: int) -> None:
        """A job waits; arrival: its place in the order of the queue."""
        bench = self._bench.get(shape)
        if bench is None:
            bench = self._bench[shape] = Bench()
        if not bench.count:
            insort(self._sizes, (job.devices, shape))
        bench.add(job, arrival)

    def remove(self, job: Job, *, shape: int, arrival: int) -> None:
        """It waits no more."""
        bench = self._bench[shape]
        bench.remove(arrival)
        if not bench.count:
            del self._sizes[bisect_left(self._sizes, (job.devices, shape))]

    def candidates(
        self, *, free_devices: int, now_s: float, hold_s: float, spare_devices: int, full: Full
    ) -> Iterator[Job]:
        """Who, by mere numbers, may start beside a hold, in order of arrival.

        Its devices are free, and it is over when the hold begins or so many are spare. `full` says for whose needs
        there was no place; it may grow meanwhile, and candidates may leave, but nobody may come.
        """
        hold_s = min(hold_s, LONGEST_S)
        nexts: list[tuple[int, int, int, int]] = []  # arrival, seat, shape, devices
        for devices, shape in self._sizes:
            if devices > free_devices:
                break
            bench = self._bench[shape]
            if bench.shortest_s + now_s > hold_s and devices > spare_devices:
                continue
            seat = _next(bench, 0, shape, full, now_s, hold_s, any_will_do=devices <= spare_devices)
            if seat >= 0:
                nexts.append((bench.arrivals[seat], seat, shape, devices))
        heapq.heapify(nexts)
        while nexts:
            _, seat, shape, devices = nexts[0]
            bench = self._bench[shape]
            yield bench.job(seat)
            seat = _next(bench, seat + 1, shape, full, now_s, hold_s, any_will_do=devices <= spare_devices)
            if seat >= 0:
                heapq.heapreplace(nexts, (bench.arrivals[seat], seat, shape, devices))
            else:
                heapq.heappop(nexts)

    def check(self) -> None:
        """Assert the invariants."""
        for bench in self._bench.values():
            bench.check()
        some = [(bench.devices, shape) for shape, bench in self._bench.items() if bench.count]
        assert sorted(some) == self._sizes


def _next(bench: Bench, seat: int, shape: int, full: Full, now_s: float, hold_s: float, *, any_will_do: bool) -> int:
    """The first candidate on a bench from a seat on; -1: there is none."""
    if any_will_do and shape not in full.late:
        return bench.first(seat, now_s=0.0, by_s=LONGEST_S)
    return -1 if shape in full.ever else bench.first(seat, now_s=now_s, by_s=hold_s)


class Bench:
    """Those of one shape who wait, on seats in order of arrival.

    Invariant: `arrivals` rise; `_jobs[seat]` is None on a seat that was left. `_least_s` is a tree of minima, its root
    at 1, the children of `n` at `2n` and `2n + 1`; seats are from `_seats` on, with estimates, or `NOBODY`.
    """

    __slots__ = ("_jobs", "_least_s", "_seats", "arrivals", "count")

    def __init__(self) -> None:
        self.arrivals: list[int] = []
        self.count = 0
        """How many wait."""
        self._jobs: list[Job | None] = []
        self._seats = LEAST_SEATS
        self._least_s = [NOBODY] * (2 * LEAST_SEATS)

    @property
    def shortest_s(self) -> float:
        """The shortest estimate."""
        return self._least_s[1]

    @property
    def devices(self) -> int:
        """What each of them asks for."""
        return next(job.devices for job in self._jobs if job is not None)

    def job(self, seat: int) -> Job:
        """Who has a seat."""
        job = self._jobs[seat]
        assert job is not None
        return job

    def add(self, job: Job, arrival: int) -> None:
        """Somebody comes, as a rule last. Seats may be numbered anew."""
        arrivals = self.arrivals
        if len(arrivals) == self._seats:
            self._close_up()
            arrivals = self.arrivals
        seat = len(arrivals)
        if seat and arrivals[-1] >= arrival:
            seat = bisect_left(arrivals, arrival)
            if arrivals[seat] != arrival:
                arrivals.insert(seat, arrival)
                self._jobs.insert(seat, job)
                self.count += 1
                self._close_up()
                return
            self._jobs[seat] = job  # it comes back to its own seat
        else:
            arrivals.append(arrival)
            self._jobs.append(job)
        self.count += 1
        self._set(seat, min(job.estimate_s, LONGEST_S))

    def remove(self, arrival: int) -> None:
        """Somebody leaves."""
        seat = bisect_left(self.arrivals, arrival)
        assert self._jobs[seat] is not None
        self._jobs[seat] = None
        self._set(seat, NOBODY)
        self.count -= 1
        if not self.count:
            self.arrivals.clear()
            self._jobs.clear()

    def first(self, seat: int, *, now_s: float, by_s: float) -> int:
        """The first seat from one on whose job would be over by an instant if it started now; -1: there is none."""
        least_s, seats = self._least_s, self._seats
        if seat >= seats:
            return -1
        node = seats + seat
        while least_s[node] + now_s > by_s:
            while node & 1:  # all to the left of its parent was seen, too
                node >>= 1
            if not node:
                return -1
            node += 1
        while node < seats:
            node *= 2
            if least_s[node] + now_s > by_s:
                node += 1
        return node - seats

    def check(self) -> None:
        """Assert the invariant."""
        assert self.arrivals == sorted(set(self.arrivals))
        assert len(self._jobs) == len(self.arrivals) <= self._seats
        assert self.count == sum(job is not None for job in self._jobs)
        assert len({job.devices for job in self._jobs if job is not None}) <= 1
        leaves = [NOBODY if job is None else min(job.estimate_s, LONGEST_S) for job in self._jobs]
        assert self._least_s[self._seats :] == leaves + [NOBODY] * (self._seats - len(leaves))
        least_s = self._least_s
        assert all(least_s[node] == min(least_s[2 * node : 2 * node + 2]) for node in range(1, self._seats))

    def _set(self, seat: int, estimate_s: float) -> None:
        least_s, node = self._least_s, self._seats + seat
        least_s[node] = estimate_s
        while node > 1:
            node >>= 1
            left, right = least_s[2 * node], least_s[2 * node + 1]
            least = left if left <= right else right
            if least_s[node] == least:
                return
            least_s[node] = least

    def _close_up(self) -> None:
        """Take away the seats that were left; double them where few were."""
        taken = [(arrival, job) for arrival, job in zip(self.arrivals, self._jobs, strict=True) if job is not None]
        self.arrivals = [arrival for arrival, _ in taken]
        self._jobs = [job for _, job in taken]
        while 2 * len(taken) > self._seats:
            self._seats *= 2
        least_s = [NOBODY] * (2 * self._seats)
        least_s[self._seats : self._seats + len(taken)] = [min(job.estimate_s, LONGEST_S) for _, job in taken]
        for node in range(self._seats - 1, 0, -1):
            least_s[node] = min(least_s[2 * node], least_s[2 * node + 1])
        self._least_s = least_s
