"""Those of one shape who wait, in an order, and the first behind any of them who is over by an instant.

`Bench` keeps them by arrival: nearly everybody comes last, so that their estimates are the leaves of a tournament, and
a look-up takes the logarithm of their number. `SortedBench` keeps them by any number that does not change while they
wait, their estimates for instance: whoever comes stands anywhere between the others, so they are kept in sorted pieces
with the shortest estimate of each, and a look-up takes about the square root of their number.

A mark is where somebody stands on his bench; another who is added may change it. Marks rise in the order of the bench.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple, final

from myriarch.schedule.job import Job

NOBODY: Final = float("inf")
"""Longer than any estimate."""
LONGEST_S: Final = sys.float_info.max
"""Estimates and holds that are infinite count as this, so that they are shorter than nobody's."""
LEAST_SEATS: Final = 4
PIECE: Final = 128
"""A sorted piece is cut in two at twice this length."""

Rank = tuple[float, int]
"""Where somebody stands: his key, and his arrival among equal ones."""


@final
class Bench:
    """Those of one shape who wait, on seats in order of arrival.

    Invariant: `arrivals` rise; `_jobs[seat]` is None on a seat that was left. `_least_s` is a tree of minima, its root
    at 1, the children of `n` at `2n` and `2n + 1`; seats are from `_seats` on, with estimates, or `NOBODY`.
    """

    __slots__ = ("_jobs", "_least_s", "_seats", "arrivals", "count")
    begin: Final = 0

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

    def remove(self, job: Job, arrival: int) -> None:
        """Somebody leaves."""
        seat = bisect_left(self.arrivals, arrival)
        assert self._jobs[seat] is not None
        self._jobs[seat] = None
        self._set(seat, NOBODY)
        self.count -= 1
        if not self.count:
            self.arrivals.clear()
            self._jobs.clear()

    @staticmethod
    def behind(seat: int) -> int:
        """The next seat."""
        return seat + 1

    def rank(self, seat: int) -> int:
        """Where it comes among all benches: by arrival."""
        return self.arrivals[seat]

    def first(self, seat: int, *, now_s: float, by_s: float) -> int | None:
        """The first seat from one on whose job would be over by an instant if it started now; None: there is none."""
        least_s, seats = self._least_s, self._seats
        if seat >= seats:
            return None
        node = seats + seat
        while least_s[node] + now_s > by_s:
            while node & 1:  # all to the left of its parent was seen, too
                node >>= 1
            if not node:
                return None
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


@final
class SortedBench:
    """Those of one shape who wait, by a key, and equal ones by arrival. A mark is a rank; nobody needs to have it.

    Invariant: the pieces and what is in them rise; none is empty; `_least_s` and `_lasts` are the shortest estimate and
    the last rank of each.
    """

    __slots__ = ("_key", "_lasts", "_least_s", "_pieces", "count")
    begin: Final[Rank] = (-NOBODY, 0)

    def __init__(self, key: Callable[[Job], float]) -> None:
        self.count = 0
        """How many wait."""
        self._key = key
        self._pieces: list[_Piece] = []
        self._least_s: list[float] = []
        self._lasts: list[Rank] = []

    @property
    def shortest_s(self) -> float:
        """The shortest estimate."""
        return min(self._least_s, default=NOBODY)

    @property
    def devices(self) -> int:
        """What each of them asks for."""
        return self._pieces[0].jobs[0].devices

    @staticmethod
    def behind(rank: Rank) -> Rank:
        """The least rank behind one."""
        return rank[0], rank[1] + 1

    @staticmethod
    def rank(rank: Rank) -> Rank:
        """Where it comes among all benches: by the key, too."""
        return rank

    def job(self, rank: Rank) -> Job:
        """Who has a rank."""
        piece = self._pieces[bisect_left(self._lasts, rank)]
        return piece.jobs[bisect_left(piece.ranks, rank)]

    def add(self, job: Job, arrival: int) -> None:
        """Somebody comes."""
        self.count += 1
        rank, estimate_s = (self._key(job), arrival), min(job.estimate_s, LONGEST_S)
        if not self._pieces:
            self._pieces.append(_Piece([], [], []))
            self._least_s.append(NOBODY)
            self._lasts.append(rank)
        at = min(bisect_left(self._lasts, rank), len(self._pieces) - 1)
        piece = self._pieces[at]
        place = bisect_left(piece.ranks, rank)
        piece.ranks.insert(place, rank)
        piece.estimates_s.insert(place, estimate_s)
        piece.jobs.insert(place, job)
        if len(piece.ranks) > 2 * PIECE:
            self._cut(at)
        else:
            self._least_s[at], self._lasts[at] = min(self._least_s[at], estimate_s), piece.ranks[-1]

    def remove(self, job: Job, arrival: int) -> None:
        """Somebody leaves."""
        self.count -= 1
        rank = (self._key(job), arrival)
        at = bisect_left(self._lasts, rank)
        piece = self._pieces[at]
        place = bisect_left(piece.ranks, rank)
        assert piece.ranks[place] == rank
        for column in piece:
            del column[place]
        if piece.ranks:
            self._least_s[at], self._lasts[at] = min(piece.estimates_s), piece.ranks[-1]
        else:
            del self._pieces[at], self._least_s[at], self._lasts[at]

    def first(self, rank: Rank, *, now_s: float, by_s: float) -> Rank | None:
        """The first from a rank on whose job would be over by an instant if it started now; None: there is none."""
        begin = bisect_left(self._lasts, rank)
        for at in range(begin, len(self._pieces)):
            if self._least_s[at] + now_s > by_s:
                continue
            piece = self._pieces[at]
            place = bisect_left(piece.ranks, rank) if at == begin else 0
            for estimate_s in islice(piece.estimates_s, place, None):
                if estimate_s + now_s <= by_s:
                    return piece.ranks[place]
                place += 1
        return None

    def check(self) -> None:
        """Assert the invariant."""
        assert all(piece.ranks for piece in self._pieces)
        ranks = [rank for piece in self._pieces for rank in piece.ranks]
        assert ranks == sorted(set(ranks))
        assert len(ranks) == self.count
        assert self._lasts == [piece.ranks[-1] for piece in self._pieces]
        assert self._least_s == [min(piece.estimates_s) for piece in self._pieces]
        for piece in self._pieces:
            assert piece.estimates_s == [min(job.estimate_s, LONGEST_S) for job in piece.jobs]
            assert [key for key, _ in piece.ranks] == [self._key(job) for job in piece.jobs]

    def _cut(self, at: int) -> None:
        ranks, estimates_s, jobs = self._pieces[at]
        halves = [
            _Piece(ranks[:PIECE], estimates_s[:PIECE], jobs[:PIECE]),
            _Piece(ranks[PIECE:], estimates_s[PIECE:], jobs[PIECE:]),
        ]
        self._pieces[at : at + 1] = halves
        self._least_s[at : at + 1] = [min(half.estimates_s) for half in halves]
        self._lasts[at : at + 1] = [half.ranks[-1] for half in halves]


class _Piece(NamedTuple):
    """Some who stand beside each other: lists of one length."""

    ranks: list[Rank]
    estimates_s: list[float]
    jobs: list[Job]
