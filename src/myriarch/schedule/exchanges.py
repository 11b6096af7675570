"""Options for jobs under limits, by exchanges: the fast solver of Sia's program and of ours.

Every job takes one of its options, the first of which is to have nothing; an option costs something and needs devices
of one kind (or whatever else there is only so much of, `footprints`):

    minimise   sum of cost[chosen option of each job]      subject to  needs of all chosen <= devices of each kind

From what jobs have now, the exchange that lowers the sum most is carried out until there is none: one job goes over to
another option, or two jobs do at once, one of them mostly to make room. Starting from the present and stopping at the
first place that no such exchange improves, it leaves jobs alone that a program's exact optimum would shuffle among
equals. With hundreds of waiting jobs, as at the begin, they first take options step by step, by what a step brings for
the share of its kind that it takes (`stepped`).

How near it comes to the program is in `resizing`; the time is O((jobs x options)^2) for an exchange, with at most
`PAIRS_MOST` pairs looked at, those with the best first halves.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EPSILON: Final = 1e-9
"""Gains and prices below it are none."""
PAIRS_MOST: Final = 2_000_000
"""Looked at for one exchange: some tens of milliseconds, 16 MB for each array."""
CROWD: Final = 32
"""With more jobs that have nothing, steps come first: an exchange places one or two."""


class Options(NamedTuple):
    """Of one job; the first needs nothing."""

    costs: Floats
    """The less the better. Float64 [options]."""
    needs: Floats
    """Devices of each kind. Float64 [options, kinds]."""


def needs(configurations: Sequence[tuple[str, int]], kinds: Mapping[str, int]) -> Floats:
    """Of nothing, and of each (kind, devices). Float64 [options, kinds]."""
    found = np.zeros((len(configurations) + 1, len(kinds)))
    for row, (kind, devices) in enumerate(configurations, start=1):
        found[row, kinds[kind]] = devices
    return found


def exchanged(jobs: Sequence[Options], *, present: Sequence[int], devices: Floats) -> list[int]:
    """The option of each job. devices: of each kind; where jobs have more at present, all begin with nothing."""
    if not jobs:
        return []
    first = np.cumsum([0, *(len(job.costs) for job in jobs[:-1])])
    at = list(present)
    if (np.sum([job.needs[one] for job, one in zip(jobs, at, strict=True)], axis=0) > devices).any():
        at = [0] * len(jobs)
    if at.count(0) > CROWD:
        at = stepped(jobs, present=at, devices=devices)
    table = _Table(
        costs=np.concatenate([job.costs for job in jobs]),
        needs=np.concatenate([job.needs for job in jobs]),
        owner=np.repeat(np.arange(len(jobs)), [len(job.costs) for job in jobs]),
    )
    chosen = first + np.array(at)
    free = devices - table.needs[chosen].sum(axis=0)
    while move := _best(table, chosen, free):
        for option in move:
            job = table.owner[option]
            free = free + table.needs[chosen[job]] - table.needs[option]
            chosen[job] = option
    found: list[int] = (chosen - first).tolist()
    return found


class _Table(NamedTuple):
    """All options of all jobs, one below the other."""

    costs: Floats
    needs: Floats
    owner: Ints


def _best(table: _Table, chosen: Ints, free: Floats) -> tuple[int, ...]:
    """The one or two options whose taking lowers the sum most; empty: there are none."""
    now = chosen[table.owner]
    change, more = table.costs - table.costs[now], table.needs - table.needs[now]
    gaining = np.flatnonzero(change < -EPSILON)
    if not len(gaining):
        return ()
    alone = gaining[(more[gaining] <= free).all(axis=1)]
    best = -EPSILON
    move: tuple[int, ...] = ()
    if len(alone):
        option = int(alone[change[alone].argmin()])
        best, move = float(change[option]), (option,)
    yielding = np.flatnonzero((more < 0).any(axis=1))
    most = PAIRS_MOST // max(len(yielding), 1)
    if len(gaining) > most:
        gaining = np.sort(gaining[np.argsort(change[gaining], kind="stable")[:most]])
    if not len(yielding) or not len(gaining):
        return move
    fits = table.owner[gaining][:, None] != table.owner[yielding]
    for kind in range(len(free)):
        fits &= more[gaining, kind][:, None] + more[yielding, kind] <= free[kind]
    sums = np.where(fits, change[gaining][:, None] + change[yielding], 0.0)
    one, other = divmod(int(sums.argmin()), len(yielding))
    if sums[one, other] < best - EPSILON:
        return int(gaining[one]), int(yielding[other])
    return move


def stepped(jobs: Sequence[Options], *, present: Sequence[int], devices: Floats) -> list[int]:
    """An option for each job, step by step from what it has: O(steps x options x log jobs).

    The next step is that which lowers the sum most for the share of its kind that it takes more; one that takes no more
    is always taken.
    """
    shares = [job.needs @ (1.0 / np.maximum(devices, 1.0)) for job in jobs]
    at = list(present)
    free = devices - np.sum([job.needs[one] for job, one in zip(jobs, at, strict=True)], axis=0)
    shut = [np.zeros(len(job.costs), dtype=np.bool_) for job in jobs]
    queue: list[tuple[float, int, int, int]] = []

    def push(number: int) -> None:
        """The job's best next step."""
        job, here = jobs[number], at[number]
        gain, price = job.costs[here] - job.costs, shares[number] - shares[number][here]
        ratio = np.where(price > EPSILON, gain / np.maximum(price, EPSILON), math.inf)
        ratio[(gain <= EPSILON) | shut[number]] = -math.inf
        best = int(ratio.argmax())
        if ratio[best] > -math.inf:
            heapq.heappush(queue, (-float(ratio[best]), number, here, best))

    for number in range(len(jobs)):
        push(number)
    while queue:
        _, number, here, to = heapq.heappop(queue)
        more = jobs[number].needs[to] - jobs[number].needs[here]
        if (more <= free).all():
            free, at[number] = free - more, to
            shut[number][:] = False
        else:
            shut[number][to] = True
        push(number)
    return at
