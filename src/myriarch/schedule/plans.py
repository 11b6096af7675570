"""The promises of one pool: who has which place, and who may find an earlier one by what was given back.

A plan is in numbers of nodes for as long as that is enough (`promises.WholeNodes`), else by node (`promises.Promises`).
It keeps a list of those who were promised each node. Somebody gains by a node that was given back only if

    he finds a gap there that is long enough and begins before his start (`gaps`), or
    he sits on it, and it is free just before his start: he may begin earlier, and go on in his own place.

All who wait are compared with a gap at once, as arrays, and those who sit there one by one. Whoever needs one node only
gains then; whoever needs several may still lack another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.gaps import Floats, Gaps
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Line, Waiting
from myriarch.schedule.placed import Placed
from myriarch.schedule.promises import Promises, Seat, WholeNodes

ANY: Final = -1
"""The node of those who will get any."""


class Claim(NamedTuple):
    """Devices of a pool for somebody, from an instant until another."""

    pool: str
    many: int
    each: int
    start_s: float
    until_s: float
    nodes: tuple[int, ...]
    """Empty: any."""


class GivenBack(NamedTuple):
    """What nobody needs any more."""

    claim: Claim
    from_s: float
    """Before that somebody does."""


@final
class Asked:
    """Places of the line of those who are to be asked, in order of arrival; others may come behind who is asked now."""

    def __init__(self, places: Iterable[int]) -> None:
        self._in = set(places)
        self._heap = sorted(self._in)

    def __iter__(self) -> Iterator[int]:
        while self._heap:
            place = heapq.heappop(self._heap)
            self._in.remove(place)
            yield place

    def add(self, places: Iterable[int]) -> None:
        """Ask them, too."""
        for place in places:
            if place not in self._in:
                self._in.add(place)
                heapq.heappush(self._heap, place)


@final
class Plan:
    """Invariant: of `whole` and `promises` one is there; `_seated[node]` has exactly the waiting jobs that are promised
    the node, or `ANY`."""

    def __init__(self, machine: Placed, pool: str, free: WholeNodes | Promises) -> None:
        self._machine = machine
        self._pool = pool
        self.whole = free if isinstance(free, WholeNodes) else None
        self.promises = free if isinstance(free, Promises) else None
        self._free = free
        self._seated: dict[int, dict[JobId, Claim]] = {}
        self._levels: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        """What shapes of jobs need: nodes of the pool, or devices of a node."""
        self._level_of: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        """Of each shape, which level that is; -1: it may not go to this pool."""

    def forget(self, now_s: float) -> None:
        """Drop what is over."""
        self._free.forget(now_s)

    def earliest(self, job: Job, many: int, each: int, *, before_s: float) -> Seat | None:
        """The first place for a job; None: not before that instant."""
        return self._free.earliest(many, each, job.within, job.estimate_s, before_s=before_s)

    def take(self, claim: Claim) -> None:
        """Somebody runs there."""
        if self.whole is not None:
            self.whole.take(claim.many, claim.start_s, claim.until_s)
        elif self.promises is not None:
            self.promises.take(claim.nodes, claim.each, claim.start_s, claim.until_s)

    def give(self, claim: Claim) -> None:
        """Nobody needs it any more."""
        if self.whole is not None:
            self.whole.give(claim.many, claim.start_s, claim.until_s)
        elif self.promises is not None:
            self.promises.give(claim.nodes, claim.each, claim.start_s, claim.until_s)

    def seat(self, job: JobId, claim: Claim) -> None:
        """Somebody who waits was promised it."""
        for node in claim.nodes or (ANY,):
            self._seated.setdefault(node, {})[job] = claim

    def unseat(self, job: JobId, claim: Claim) -> None:
        """He is promised it no more, or runs there now."""
        for node in claim.nodes or (ANY,):
            del self._seated[node][job]

    def gainers(self, given: GivenBack, waiting: Waiting, line: Line) -> set[int]:
        """Places of the line of those who may find an earlier start by what was given back; no others will."""
        if not len(waiting.places):
            return set()
        levels = self._levels_of(waiting.shapes)
        if self.whole is not None:
            times_s, free = self.whole.steps()
            gaps = Gaps(times_s, free, self._levels, from_s=given.from_s, until_s=given.claim.until_s)
            return {*gaps.who_gains(waiting, levels), *self._who_moves_up(times_s, free, waiting, levels, line)}
        assert self.promises is not None
        found: set[int] = set()
        nodes = given.claim.nodes or range(self.promises.pool.nodes)
        times_s, columns = self.promises.columns(nodes)
        seen: set[bytes] = set()
        for node, free in zip(nodes, columns, strict=True):
            found |= self._who_moves_up_on(node, times_s, free, int(waiting.places[0]), line)
            if (column := free.tobytes()) not in seen:  # the nodes of a gang are often alike
                seen.add(column)
                gaps = Gaps(times_s, free, self._levels, from_s=given.from_s, until_s=given.claim.until_s)
                found.update(gaps.who_gains(waiting, levels))
        return found

    def check(self) -> None:
        """Assert the invariant."""
        self._free.check()
        for node, seated in self._seated.items():
            assert all(node in claim.nodes or (node == ANY and not claim.nodes) for claim in seated.values())

    def _who_moves_up(
        self, times_s: Floats, free: NDArray[Any], waiting: Waiting, levels: NDArray[np.intp], line: Line
    ) -> list[int]:
        """Places of those who were promised any nodes, of which as many are free just before their start."""
        before = times_s.searchsorted(waiting.start_s) - 1
        room = free[before] >= self._levels[levels]
        room &= levels >= 0
        seated = self._seated.get(ANY, {})
        return [place for place in waiting.places[room].tolist() if line.job(place).id in seated]

    def _who_moves_up_on(self, node: int, times_s: Floats, free: NDArray[Any], first: int, line: Line) -> set[int]:
        """Places from `first` on of those who were promised a node that is free just before their start."""
        seated = self._seated.get(node)
        if not seated:
            return set()
        start_s = np.array([claim.start_s for claim in seated.values()])
        each = np.array([claim.each for claim in seated.values()])
        moves_up = free[times_s.searchsorted(start_s) - 1] >= each
        moves_up &= start_s > times_s[0]
        jobs = list(seated)
        places = {line.find(jobs[at]) for at in moves_up.nonzero()[0].tolist()}
        return {place for place in places if place is not None and place >= first}

    def _levels_of(self, shapes: NDArray[np.int64]) -> NDArray[np.intp]:
        """What those of some shapes need, as numbers of `_levels`."""
        if len(self._level_of) < self._machine.shapes:
            gangs = self._machine.gangs(self._pool)
            needs = [0 if gang is None else gang[0 if self.whole is not None else 1] for gang in gangs]
            self._levels = np.array(sorted({need for need in needs if need}), dtype=np.int64)
            self._level_of = np.where(needs, self._levels.searchsorted(needs), -1).astype(np.intp)
        found: NDArray[np.intp] = self._level_of[shapes]
        return found
