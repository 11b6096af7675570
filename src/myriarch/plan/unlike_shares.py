"""Shares of one batch for groups of unlike speed: the exact optimum over their ways and whole micro-batches.

Entrant i (a pool, or two pools that share a pipeline) has *ways* to run: splits of its devices. With way w and m
micro-batches on every replica it processes b = m * quantum_w sequences in

    T_w(m) = fixed_w + slot_w * m                                                  seconds,

which is what `cost.step_time` says: a step is affine in its number of micro-batches. All entrants have to take shares
that sum to the batch, and the step lasts as long as the slowest:

    minimise max_i f_i(b_i)  subject to  sum_i b_i = B,  b_i > 0,      f_i(b) = min {T_w(m) : m * quantum_w = b}.

f_i, the *envelope*, is an array over b = 1..B in units of the quanta's common divisor; it need not be monotone, and is
infinite where no way serves.

Optimality. Let A_i(T) = {b : f_i(b) <= T}. A step of T is possible exactly when B is in the sumset A_1(T) + ... +
A_n(T). A_i(T) only grows with T, so what is possible stays possible, and it changes only where T passes a value of some
f_i: a binary search over these finitely many values finds the least possible T, which is the optimum. Sumsets are
computed as convolutions of indicator vectors by FFT; their entries are counts below 2**20, and the error of the
transform (about 1e-16 * log n * the largest count) stays far below the 0.5 that it is compared with.

Bound. With U_i(T) = max A_i(T), no T with sum_i U_i(T) < B is possible; the least T without that, `bound_s`, costs no
sumset. The search over sets of entrants prunes with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from myriarch.cost.arrays import Array

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

UNLIMITED: Final = 2**40
"""Micro-batches: more than any batch has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offers:
    """The ways in which one entrant can run; every array has one value for each way."""

    quantum: Ints
    """Sequences of one micro-batch on every replica: dp * micro_batch."""
    slot_s: Array
    """Seconds of one more micro-batch."""
    fixed_s: Array
    """Seconds of a step whatever its micro-batches: fill and drain, exposed gradients, optimizer."""
    least: Ints
    """Fewest micro-batches..."""
    most: Ints
    """...and most: memory may allow fewer in flight than the pipeline is deep. `UNLIMITED`: any number."""
    multiple: Ints
    """Micro-batches come in multiples of it (interleaved pipelines: of their depth)."""
    window_s: Array
    """Seconds at the end of the step beside which the bridge may exchange; 0: it begins when all is computed."""

    def __len__(self) -> int:
        return len(self.quantum)

    def step_s(self, way: int, micro_batches: int) -> float:
        """Seconds of a step with so many micro-batches on every replica."""
        return float(self.fixed_s[way] + self.slot_s[way] * micro_batches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Envelope:
    """The best way for each share. Index: units of the batch."""

    seconds: Array
    way: Ints
    pace_s: Array
    """Seconds of one more unit with that way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance:
    """Shares in units, and the seconds of the slowest."""

    seconds: float
    shares: tuple[int, ...]


def unit_of(offers: Sequence[Offers], batch: int) -> int:
    """Sequences that divide the batch and every share that any way can take."""
    steps = {int(step) for each in offers for step in np.unique(each.quantum * each.multiple)}
    return math.gcd(batch, *steps)


def envelope(offers: Offers, *, batch: int, unit: int, exchange_s: float = 0.0) -> Envelope:
    """f(b) for b = 0, unit, ..., batch; with an exchange of which a way hides at most its window.

    All groups compute until C_i and have their first gradients at C_i - window_i. The exchange takes X, begins when
    all have begun to have gradients and ends after all have all: max(max_i (C_i - window_i) + X, max_i C_i), which is
    max_i (C_i + max(0, X - window_i)): the exchange is an addition to each way's own fixed part.
    """
    units = batch // unit
    seconds = np.full(units + 1, np.inf)
    way = np.full(units + 1, -1, dtype=np.int64)
    pace_s = np.full(units + 1, np.inf)
    fixed_s = offers.fixed_s + np.maximum(exchange_s - offers.window_s, 0.0)
    keys = np.stack([offers.quantum, offers.least, offers.most, offers.multiple])
    kinds, kind_of = np.unique(keys, axis=1, return_inverse=True)
    for kind, (quantum, least, most, multiple) in enumerate(kinds.T):
        first = -(-max(int(least), 1) // multiple) * multiple
        counts = np.arange(first, min(int(most), batch // int(quantum)) + 1, multiple)
        if not len(counts):
            continue
        members = np.flatnonzero(kind_of == kind)
        members = members[_least_lines(offers.slot_s[members], fixed_s[members])]
        times = fixed_s[members, None] + offers.slot_s[members, None] * counts
        best = np.argmin(times, axis=0)
        value = times[best, np.arange(len(counts))]
        at = counts * quantum // unit
        better = value < seconds[at]
        seconds[at[better]] = value[better]
        way[at[better]] = members[best[better]]
        pace_s[at[better]] = offers.slot_s[members[best[better]]] * unit / quantum
    return Envelope(seconds=seconds, way=way, pace_s=pace_s)


def _least_lines(slope: Array, offset: Array) -> Ints:
    """Lines that are lowest somewhere, and perhaps some more: those that no line with a smaller slope lies below."""
    order = np.lexsort((offset, slope))
    lowest = np.minimum.accumulate(offset[order])
    first = np.concatenate(([True], offset[order][1:] < lowest[:-1]))
    kept: Ints = order[first]
    return kept


def supply(each: Envelope) -> Array:
    """Seconds to process at least b units: nondecreasing in b."""
    least: Array = np.minimum.accumulate(each.seconds[::-1])[::-1]
    return least


def bound_s(supplies: Sequence[Array], units: int) -> float:
    """No shares that sum to `units` are faster; inf when no shares can sum to it.

    Bisected to a relative 1e-9; what is returned is the end that is too short, so it is a bound.
    """

    def enough(limit_s: float) -> bool:
        most = [int(np.searchsorted(each[1:], limit_s, side="right")) for each in supplies]
        return min(most) > 0 and sum(most) >= units

    # Every entrant takes at least one unit, and none more than is left.
    low = max(float(each[1]) for each in supplies)
    high = max((float(each[np.isfinite(each)][-1]) for each in supplies if np.isfinite(each[1])), default=math.inf)
    if not math.isfinite(low) or not enough(high):
        return math.inf
    if enough(low):
        return low
    while high - low > 1e-9 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low


def balance(envelopes: Sequence[Envelope], units: int) -> Balance | None:
    """The fastest shares that sum to `units`, each at least one unit; None when there are none."""
    lowest = bound_s([supply(each) for each in envelopes], units)
    if not math.isfinite(lowest):
        return None
    values = np.unique(np.concatenate([each.seconds[1:] for each in envelopes]))
    values = values[np.isfinite(values) & (values >= lowest)]
    at = _gallop(len(values), lambda index: _possible(envelopes, units, float(values[index])))
    if at is None:
        return None
    limit_s = float(values[at])
    return Balance(seconds=limit_s, shares=_shares(envelopes, units, limit_s))


def _first(count: int, holds: Callable[[int], bool]) -> int | None:
    """The first index at which a property holds that, once it does, goes on to hold."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low if low < count else None


def _gallop(count: int, holds: Callable[[int], bool]) -> int | None:
    """As `_first`, when the index is expected near 0."""
    reach = 1
    while reach < count and not holds(reach - 1):
        reach *= 2
    start, end = (0 if reach == 1 else reach // 2), min(reach, count)
    found = _first(end - start, lambda index: holds(start + index))
    return None if found is None else start + found


def _within(each: Envelope, limit_s: float) -> Flags:
    flags: Flags = each.seconds <= limit_s
    return flags


def _possible(envelopes: Sequence[Envelope], units: int, limit_s: float) -> bool:
    tails = _tails(envelopes, units, limit_s)
    return bool(np.any(_within(envelopes[0], limit_s) & tails[0][::-1]))


def _tails(envelopes: Sequence[Envelope], units: int, limit_s: float) -> list[Flags]:
    """For each entrant, what those behind it can take together within `limit_s`."""
    nothing: Flags = np.zeros(units + 1, dtype=np.bool_)
    nothing[0] = True
    tails = [nothing]
    for each in reversed(envelopes[1:]):
        tails.append(_sumset(_within(each, limit_s), tails[-1]))
    return tails[::-1]


def _sumset(first: Flags, second: Flags) -> Flags:
    """All sums of an index that is set in the one and one that is set in the other, up to the vectors' length."""
    if np.count_nonzero(second) == 1:  # a single index moves the other
        shift = int(np.argmax(second))
        moved = np.zeros_like(first)
        moved[shift:] = first[: len(first) - shift]
        return moved
    size = 1 << (2 * len(first) - 2).bit_length()
    counts = np.fft.irfft(np.fft.rfft(first, size) * np.fft.rfft(second, size), size)
    sums: Flags = counts[: len(first)] > 0.5
    return sums


def _shares(envelopes: Sequence[Envelope], units: int, limit_s: float) -> tuple[int, ...]:
    """Of the possible shares, one entrant after the other, the nearest to what it would process in the same time if
    micro-batches were divisible."""
    tails = _tails(envelopes, units, limit_s)
    ideal = _divisible(envelopes, units, limit_s)
    shares, rest = [], units
    for each, tail, wish in zip(envelopes, tails, ideal, strict=True):
        flags = _within(each, limit_s)[: rest + 1] & tail[rest::-1]
        possible = np.flatnonzero(flags)
        share = int(possible[np.argmin(np.abs(possible - wish))])
        shares.append(share)
        rest -= share
    return tuple(shares)


def _divisible(envelopes: Sequence[Envelope], units: int, limit_s: float) -> list[float]:
    """Shares that end at the same time, each with the way that serves it best at `limit_s`."""
    most = [int(np.flatnonzero(_within(each, limit_s))[-1]) for each in envelopes]
    pace_s = [float(each.pace_s[share]) for each, share in zip(envelopes, most, strict=True)]
    fixed_s = [
        float(each.seconds[share]) - pace * share for each, share, pace in zip(envelopes, most, pace_s, strict=True)
    ]
    # sum_i (t - fixed_i) / pace_i = units
    speed = sum(1.0 / pace for pace in pace_s)
    together_s = (units + sum(fixed / pace for fixed, pace in zip(fixed_s, pace_s, strict=True))) / speed
    return [(together_s - fixed) / pace for fixed, pace in zip(fixed_s, pace_s, strict=True)]
