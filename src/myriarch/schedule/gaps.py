"""Gaps in what is free: between which instants so much is free without a break, around something that was given back.

Conservative backfilling promises everybody the earliest place. Who waits can therefore find an earlier one only in a
gap that has grown since: one that lies partly in what was given back. `Gaps` has those of one node, or of a pool that
is counted in nodes, by how much is needed; and says of all who wait who begins after a gap that is long enough for him.

It says yes too often by a rounding at most, and never no where there is a place: a search compares `begin + duration`
with the end of a gap, and the length of a gap is taken up to the next number after its end.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.line import Positions, Waiting

Floats = NDArray[np.float64]


class Gaps:
    """Invariant: of every level, begins and lengths rise together: gaps that begin later and are not longer are left
    out. The lists are as long as `levels`; nothing is in those of levels of which there is no gap."""

    def __init__(
        self, times_s: Floats, free: NDArray[Any], levels: NDArray[np.int64], *, from_s: float, until_s: float
    ) -> None:
        """Where so much of each level is free, in gaps that lie partly in `[from_s, until_s)`.

        times_s, free: a step function, shape (steps,), of which the last step lasts for ever; levels ascend.
        """
        begin = max(0, int(times_s.searchsorted(from_s, side="right")) - 1)
        end = max(begin + 1, int(times_s.searchsorted(until_s)))
        fitting = levels[: levels.searchsorted(free[begin:end].max(), side="right")]
        self._begins_s: list[list[float]] = [[] for _ in levels]
        self._lengths_s: list[list[float]] = [[] for _ in levels]
        self._longest_s: Floats = np.full(len(levels), -np.inf)
        self._first_s: Floats = np.full(len(levels), np.inf)
        level, first, stop = _stretches(free, fitting)
        near = (first < end) & (stop > begin)
        level, first, stop = level[near], first[near], stop[near]
        ends_s = np.append(times_s, np.inf)[stop]
        begins_s = times_s[first]
        lengths_s = np.nextafter(ends_s, np.inf) - begins_s
        for at, begin_s, length_s in zip(level.tolist(), begins_s.tolist(), lengths_s.tolist(), strict=True):
            longer = self._lengths_s[at]
            if not longer:
                self._first_s[at] = begin_s
            if not longer or length_s > longer[-1]:
                longer.append(length_s)
                self._begins_s[at].append(begin_s)
                self._longest_s[at] = length_s

    def who_gains(self, waiting: Waiting, levels: NDArray[np.intp]) -> list[int]:
        """Places of those who need what is free in a gap for long enough that begins before their start.

        levels: of each who waits, the number of the level that he needs; -1: none will do.
        """
        may = waiting.estimate_s <= self._longest_s[levels]
        may &= waiting.start_s > self._first_s[levels]
        may &= levels >= 0
        found = may.nonzero()[0]
        asked = zip(
            waiting.places[found].tolist(),
            levels[found].tolist(),
            waiting.estimate_s[found].tolist(),
            waiting.start_s[found].tolist(),
            strict=True,
        )
        return [
            place
            for place, level, estimate_s, start_s in asked
            if self._begins_s[level][bisect_left(self._lengths_s[level], estimate_s)] < start_s
        ]


def _stretches(free: NDArray[Any], levels: NDArray[np.int64]) -> tuple[Positions, Positions, Positions]:
    """Of each level all stretches of steps without a break: number of the level, first step, the one after the last."""
    width = len(free) + 2  # one before and one after, in which nothing is free
    blocked = np.ones((len(levels), width), dtype=np.bool_)
    np.less(free, levels[:, None], out=blocked[:, 1:-1])
    edges = blocked.ravel().nonzero()[0]
    wide = (edges[1:] - edges[:-1] > 1).nonzero()[0]
    level = edges[wide] // width
    return level, edges[wide] - level * width, edges[wide + 1] - level * width - 1
