"""Checkpoints on several levels: cheap ones survive most failures, dear ones survive all.

A failure of level k needs a checkpoint of level k or above. Work is cut into intervals of `tau` seconds; each ends with
a checkpoint, whose level follows a nested pattern: `counts[k]` checkpoints of level k, then one of the next level up.

The model is the Markov chain of Moody, Bronevetsky, Mohror and de Supinski ("Design, Modeling, and Evaluation of a
Scalable Multi-level Checkpointing System", SC 2010, section 4), which they solve on a state per interval. Here it is
solved in closed form, so that a pattern of a million intervals costs what one of ten does, and arrays of patterns,
machines and fleets are evaluated at once.

The theory. Failures of level k come at `rate[k]`, exponentially, also while saving and restoring. From just after a
checkpoint of level o to just after the next of level k or above is a *segment*. It is left in one of two ways:
completed, with probability `done`; or by a failure that needs a checkpoint of level i > o, with probability `lost[i]`;
`time_s` is the mean time until either. Then

* segments in a row are a segment: done = d1 d2, time = t1 + d1 t2, lost = l1 + d1 l2; n equal ones a geometric series;
* a segment whose failures up to level o return to its own beginning, by a restore that itself may be hit, is another
  geometric series;
* the pattern of level k+1 is `counts[k]` segments of level k and one more that ends in the higher checkpoint.

Restoring from level k: a failure below level k starts the restore anew; one of level k or above loses that checkpoint
as well, and the next level up (or the failure's own, if higher) is needed. On the top level every restore succeeds in
the end. Efficiency is work over expected time of one whole pattern.

Validated against every row of LLNL's regression data of that model (`tests/data/scr_markov`): ten digits wherever the
source's own arithmetic keeps them. Holds for failures that are independent and exponential, and for saves that stop the
work; a save beside the work counts with the part that stops it. First order, for contrast:
`interval.first_order_levels`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from myriarch.cost.arrays import Array, Real

Mask: TypeAlias = npt.NDArray[np.bool_]

COUNT_LIMIT: Final = 1e6
"""Checkpoints of a level for one of the next: more is never tried."""
_LEAST_CHANCE: Final = 1e-150
"""A pattern that ends less often than this never does: efficiency 0."""
_FINEST: Final = 2.0**-7
"""Last relative step of the search. Efficiency is flat at its top: a step beside it costs 2**-15 of the overhead."""
_SWEEPS_LIMIT: Final = 64
"""Of each step size. Reached only when the start is more than 2**64 from the top."""
_NEWTON_STEPS: Final = 8
_BELOW_ONE: Final = 1.0 - 2.0**-53
_NEVER_PER_S: Final = 1e-15
"""Once in 30 million years: stands for a rate of zero where an interval must be finite."""
_SHORTEST_S: Final = 1e-6
"""No interval is shorter, however cheap a save is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """One level, cheapest first in a sequence of them. Numbers, or arrays that broadcast against all others."""

    rate_per_s: Real
    """Failures that this level survives and none below does."""
    save_s: Real
    """Work stands still so long for a checkpoint of this level."""
    restore_s: Real
    """From the failure to the first second of work from this level: detection and restart included."""
    least_interval_s: Real = 0.0
    """Between two saves of this level: the time that one takes beside the work, until the next may begin."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
    """How often to save on which level, and what that leaves."""

    interval_s: Array
    """Work between two saves of any level."""
    counts: tuple[Array, ...]
    """Saves of each level for one of the next; 0: that level is not used. One fewer than there are levels."""
    efficiency: Array
    """Share of time, in 0..1, that becomes work kept."""

    def interval_of_s(self, index: int) -> Array:
        """Work between two saves of level `index` or above."""
        return _interval_of_s(self.interval_s, self.counts, index)


def _interval_of_s(interval_s: Array, counts: Sequence[Array], index: int) -> Array:
    between = np.asarray(interval_s, dtype=float)
    for count in counts[:index]:
        between = between * (count + 1.0)
    return between


@dataclasses.dataclass(frozen=True)
class _Segment:
    """A stretch that is completed, or left by a failure that needs a higher checkpoint than its first."""

    done: Array
    time_s: Array
    lost: tuple[Array, ...]
    """Chance that it is left by a failure which needs level i."""

    def then(self, other: _Segment) -> _Segment:
        return _Segment(
            self.done * other.done,
            self.time_s + self.done * other.time_s,
            tuple(mine + self.done * theirs for mine, theirs in zip(self.lost, other.lost, strict=True)),
        )

    def repeated(self, times: Array) -> _Segment:
        """`times` of it in a row: the sum of the geometric series, exact also where nearly none or nearly all fail."""
        fails = sum(self.lost, start=np.zeros(()))
        log_done = np.maximum(np.log1p(-np.minimum(fails, 1.0)), -1e6)
        some = fails > 0
        visits = np.where(some, np.expm1(times * log_done) / np.where(some, -fails, 1.0), times)
        return _Segment(np.exp(times * log_done), self.time_s * visits, tuple(each * visits for each in self.lost))

    def where(self, condition: Mask, other: _Segment) -> _Segment:
        pairs = zip(self.lost, other.lost, strict=True)
        return _Segment(
            np.where(condition, self.done, other.done),
            np.where(condition, self.time_s, other.time_s),
            tuple(np.where(condition, mine, theirs) for mine, theirs in pairs),
        )


class _Chain:
    """The Markov chain of one pattern on some levels."""

    def __init__(self, interval_s: Real, counts: Sequence[Real], levels: Sequence[Level]) -> None:
        self.interval_s = np.asarray(interval_s, dtype=float)
        self.counts = [np.asarray(count, dtype=float) for count in counts]
        self.levels = levels
        self.top = len(levels) - 1
        self.rate_per_s = sum((np.asarray(level.rate_per_s, dtype=float) for level in levels), start=np.zeros(()))
        self.restores = [self._restore(index) for index in range(len(levels))]
        self.segment = functools.cache(self._segment)

    def pattern(self) -> _Segment:
        return self.segment(self.top, self.top, self.top)

    def _stretch(self, duration_s: Array) -> _Segment:
        """So long without a failure; a failure of level i needs level i."""
        x = self.rate_per_s * duration_s
        mean_s = duration_s * np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1.0), 1.0)
        return _Segment(np.exp(-x), mean_s, tuple(level.rate_per_s * mean_s for level in self.levels))

    def _restore(self, level: int) -> _Segment:
        """Restoring from `level`, however often a lesser failure starts it anew."""
        once = self._stretch(np.asarray(self.levels[level].restore_s, dtype=float))
        none = np.zeros_like(once.done)
        if level == self.top:
            return _Segment(np.ones_like(once.done), once.time_s / once.done, (none,) * len(self.levels))
        lost = [none] * (level + 1) + list(once.lost[level + 1 :])
        lost[level + 1] = lost[level + 1] + once.lost[level]
        ends = once.done + sum(lost)
        return _Segment(once.done / ends, once.time_s / ends, tuple(each / ends for each in lost))

    def _segment(self, level: int, opener: int, closer: int) -> _Segment:
        """From a checkpoint of level `opener` to the next of `level` or above, which is of level `closer`."""
        if level == 0:
            return self._returning(self._stretch(self.interval_s + self.levels[closer].save_s), opener)
        below = level - 1
        count = self.counts[below]
        plain = self.segment(below, opener, closer)
        row = self.segment(below, opener, below).then(
            self.segment(below, below, below).repeated(np.maximum(count - 1.0, 0.0))
        )
        whole = self._returning(row.then(self.segment(below, below, closer)), opener)
        return whole.where(count > 0, plain)

    def _returning(self, once: _Segment, opener: int) -> _Segment:
        """`once`, begun anew from its first checkpoint after each failure that this survives."""
        restore = self.restores[opener]
        fails = sum(once.lost[: opener + 1], start=np.zeros(()))
        beyond = range(opener + 1, len(self.levels))
        # 1 - fails * restore.done, in terms that cannot cancel.
        ends = once.done + sum((once.lost[i] + fails * restore.lost[i] for i in beyond), start=np.zeros(()))
        ends = np.maximum(ends, _LEAST_CHANCE)
        none = np.zeros_like(once.done)
        lost = tuple((once.lost[i] + fails * restore.lost[i]) / ends if i in beyond else none for i in self._all)
        return _Segment(once.done / ends, (once.time_s + fails * restore.time_s) / ends, lost)

    @property
    def _all(self) -> range:
        return range(len(self.levels))


def pattern_efficiency(interval_s: Real, *, counts: Sequence[Real], levels: Sequence[Level]) -> Array:
    """Share of time that becomes work kept, when saving by this pattern. 0 where a pattern never ends.

    `counts[k]` saves of level k come before each of the next level: with counts (2, 1) the levels of the saves are
    0 0 1 0 0 2, over and over.
    """
    if len(counts) != len(levels) - 1:
        raise ValueError(f"counts: {len(counts)} of them for {len(levels)} levels; give one fewer than levels")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        segment = _Chain(interval_s, counts, levels).pattern()
        work_s = _interval_of_s(np.asarray(interval_s, dtype=float), [np.asarray(c) for c in counts], len(counts))
        share = work_s / segment.time_s
    return np.where(np.isfinite(segment.time_s) & np.isfinite(share), share, 0.0)


def exhaustive_pattern(levels: Sequence[Level], *, intervals_s: Array, count_limits: Sequence[int]) -> Pattern:
    """The best of all patterns with these intervals and 0 to `count_limits[k]` saves of level k. One machine."""
    axes = [np.arange(limit + 1.0) for limit in count_limits]
    grid = np.meshgrid(np.asarray(intervals_s, dtype=float), *axes, indexing="ij")
    share = np.where(
        _allowed(grid[0], grid[1:], levels), pattern_efficiency(grid[0], counts=grid[1:], levels=levels), -1
    )
    best = np.unravel_index(int(np.argmax(share)), share.shape)
    return Pattern(interval_s=grid[0][best], counts=tuple(count[best] for count in grid[1:]), efficiency=share[best])


def best_pattern(levels: Sequence[Level], *, least_interval_s: Real = 0.0) -> Pattern:
    """The best pattern, for each of the machines that the levels' arrays describe.

    Climbs from `first_order_pattern` by factors of the interval and of the counts that shrink from 2 to 1 + 1/128, by
    single saves, and by a save more of one level for one fewer of another. Where it stops, no such neighbour is better;
    on the machines of the tests it finds what `exhaustive_pattern` finds. Never worse than the top level alone at its
    exact optimum. `least_interval_s`: a step, which nothing can be saved inside of.
    """
    floor_s = _floor_s(levels, least_interval_s)
    pattern = first_order_pattern(levels, least_interval_s=least_interval_s)
    step = 1.0
    while step >= _FINEST:
        for _ in range(_SWEEPS_LIMIT):
            best = _best_neighbour(pattern, step, levels, floor_s)
            if not np.any(best.efficiency > pattern.efficiency + 1e-10):
                break
            pattern = _better(pattern, best)
        step /= 2.0
    return pattern


def first_order_pattern(levels: Sequence[Level], *, least_interval_s: Real = 0.0) -> Pattern:
    """The better of two patterns, valued exactly: every level at its first-order interval (Benoit et al., IEEE Trans.
    Comput. 66, 2017), and the top level alone at its optimum. Two evaluations: for scoring many plans."""
    floor_s = _floor_s(levels, least_interval_s)
    rates = [np.maximum(level.rate_per_s, _NEVER_PER_S) for level in levels]
    own = [
        np.maximum(np.sqrt(2.0 * np.maximum(level.save_s, 1e-6) / rate), floor_s)
        for level, rate in zip(levels, rates, strict=True)
    ]
    counts = tuple(np.clip(np.rint(high / low) - 1.0, 0.0, COUNT_LIMIT) for low, high in itertools.pairwise(own))
    none = tuple(np.zeros(floor_s.shape) for _ in counts)
    mtbf_s = 1.0 / sum(rates, start=np.zeros(()))
    alone = np.maximum(mtbf_s * _share_of_mtbf(np.maximum(levels[-1].save_s, 1e-6) / mtbf_s), floor_s)
    every = _valued(*_feasible(own[0], counts, levels, floor_s), levels)
    return _better(every, _valued(*_feasible(alone, none, levels, floor_s), levels))


def _share_of_mtbf(c: Array) -> Array:
    """The x with -ln(1 - x) - x = c: `interval.optimal_interval_s` for arrays, by Newton's steps from the right."""
    x = np.minimum(np.sqrt(2.0 * c), -np.expm1(-c - 1.0))
    for _ in range(_NEWTON_STEPS):
        x = x + (np.log1p(-np.minimum(x, _BELOW_ONE)) + x + c) * (1.0 - x) / x
    return np.minimum(x, 1.0)


def _floor_s(levels: Sequence[Level], least_interval_s: Real) -> Array:
    shape = np.broadcast_shapes(
        np.shape(least_interval_s), *(np.shape(value) for level in levels for value in dataclasses.astuple(level))
    )
    return np.broadcast_to(np.maximum(least_interval_s, _SHORTEST_S), shape)


def _feasible(
    interval_s: Array, counts: tuple[Array, ...], levels: Sequence[Level], floor_s: Array
) -> tuple[Array, tuple[Array, ...]]:
    """The pattern with its interval stretched until every level has time to finish a save."""
    interval_s = np.maximum(interval_s, floor_s)
    stretch = np.ones_like(interval_s)
    for index, level in enumerate(levels):
        stretch = np.maximum(stretch, level.least_interval_s / _interval_of_s(interval_s, counts, index))
    return interval_s * stretch, counts


def _allowed(interval_s: Array, counts: Sequence[Array], levels: Sequence[Level]) -> Mask:
    good = np.ones_like(interval_s, dtype=bool)
    for index, level in enumerate(levels):
        good &= _interval_of_s(interval_s, counts, index) >= np.asarray(level.least_interval_s) * (1.0 - 1e-12)
    return good


def _valued(interval_s: Array, counts: tuple[Array, ...], levels: Sequence[Level]) -> Pattern:
    share = pattern_efficiency(interval_s, counts=counts, levels=levels)
    return Pattern(interval_s=interval_s, counts=counts, efficiency=share)


def _better(first: Pattern, second: Pattern) -> Pattern:
    chosen = second.efficiency > first.efficiency
    return Pattern(
        interval_s=np.where(chosen, second.interval_s, first.interval_s),
        counts=tuple(np.where(chosen, b, a) for a, b in zip(first.counts, second.counts, strict=True)),
        efficiency=np.where(chosen, second.efficiency, first.efficiency),
    )


def _best_neighbour(pattern: Pattern, step: float, levels: Sequence[Level], floor_s: Array) -> Pattern:
    """Of each machine; all neighbours of all machines are valued in one evaluation."""
    near = _neighbours(pattern, step)
    interval_s = np.stack([each[0] for each in near])
    counts = tuple(np.stack([each[1][index] for each in near]) for index in range(len(pattern.counts)))
    every = _valued(*_feasible(interval_s, counts, levels, floor_s), levels)
    first = np.argmax(every.efficiency, axis=0)[np.newaxis]

    def taken(values: Array) -> Array:
        chosen: Array = np.take_along_axis(values, first, axis=0)[0]
        return chosen

    return Pattern(
        interval_s=taken(every.interval_s),
        counts=tuple(taken(count) for count in every.counts),
        efficiency=taken(every.efficiency),
    )


def _neighbours(pattern: Pattern, step: float) -> list[tuple[Array, tuple[Array, ...]]]:
    """Patterns one step away: a longer or shorter interval; more or fewer saves of a level, with the same interval or
    with one that leaves the levels above theirs; a save of one level for one of another."""
    interval_s, counts = pattern.interval_s, pattern.counts
    found = [(interval_s * (1.0 + step), counts), (interval_s / (1.0 + step), counts)]
    for index, count in enumerate(counts):
        more = np.maximum(count + 1.0, np.rint(count * (1.0 + step)))
        fewer = np.minimum(count - 1.0, np.rint(count / (1.0 + step)))
        for moved in (np.minimum(more, COUNT_LIMIT), np.maximum(fewer, 0.0)):
            others = _with(counts, {index: moved})
            found += [(interval_s, others), (interval_s * (count + 1.0) / (moved + 1.0), others)]
    for up, down in itertools.permutations(range(len(counts)), 2):
        traded = _with(
            counts, {up: np.minimum(counts[up] + 1.0, COUNT_LIMIT), down: np.maximum(counts[down] - 1.0, 0.0)}
        )
        found.append((interval_s, traded))
    return found


def _with(counts: tuple[Array, ...], changed: Mapping[int, Array]) -> tuple[Array, ...]:
    return tuple(changed.get(index, count) for index, count in enumerate(counts))
