"""What is free on the nodes of one pool from now on, by estimates and promises: when a gang finds its nodes, and which.

`Promises` keeps a row of free devices by node for every instant at which something begins or ends. A search looks at
many rows at once: for every node, how long it stays free enough, then the first instant at which one part of the
network has enough of those. Rows are found through an index, so that one more costs a copy of one row.

`WholeNodes` is the same for a pool in which everybody takes whole nodes, anywhere in it. Then it does not matter which:
intervals that are never more than the nodes at once can always be laid on nodes one after the other, in the order of
their begins. So it counts, and the nodes are chosen when a job starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.packing import choose
from myriarch.schedule.profile import Profile

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[Any]
"""Devices of nodes, as narrow as they fit."""

FIRST_ROWS: Final = 64
"""Room for so many rows at first; doubled when it is used up."""
BLOCK_CELLS: Final = 16_384
"""Rows times nodes that a search looks at together at first: what fits into the cache of a core. Doubled while nothing
is found."""
BLOCK_GROWTH: Final = 2
NARROW_MOST: Final = 32_000
"""Devices of a node that are counted in 16 bits."""


class Seat(NamedTuple):
    """When and where somebody would run."""

    start_s: float
    nodes: tuple[int, ...]
    """Empty: any, chosen at the start."""


class Promises:
    """Invariant: `_times_s[:_count]` ascends, `_times_s[0]` is the newest instant that was told; `_order[i]` is the row
    of free devices from `_times_s[i]` on; `_uses[i]` things begin or end there, at least one but at the first.
    """

    def __init__(self, pool: PoolLayout, free: NDArray[np.int64], *, now_s: float) -> None:
        self.pool = pool
        self._kind = np.int16 if pool.devices_per_node <= NARROW_MOST else np.int64
        self._free: Counts = np.empty((FIRST_ROWS, pool.nodes), dtype=self._kind)
        self._unused = list(range(FIRST_ROWS - 1, 0, -1))
        self._free[0] = free
        self._times_s: Floats = np.full(FIRST_ROWS, now_s)
        self._order: NDArray[np.intp] = np.zeros(FIRST_ROWS, dtype=np.intp)
        self._totals: NDArray[np.int64] = np.full(FIRST_ROWS, int(free.sum()), dtype=np.int64)
        """Sums of the rows, in the order of time."""
        self._uses: NDArray[np.int64] = np.zeros(FIRST_ROWS, dtype=np.int64)
        self._count = 1
        self.closed: dict[int, float] = {}
        """Nodes that will be gone, and when."""

    def __len__(self) -> int:
        return self._count

    def forget(self, now_s: float) -> None:
        """Drop what is over."""
        first = int(self._times_s[: self._count].searchsorted(now_s, side="right")) - 1
        if first > 0:
            self._unused += self._order[:first].tolist()
            for column in (self._times_s, self._order, self._totals, self._uses):
                column[: self._count - first] = column[first : self._count]
            self._count -= first
        self._times_s[0] = now_s

    def earliest(
        self, many: int, each: int, within: Within, duration_s: float, *, before_s: float = np.inf
    ) -> Seat | None:
        """The first place from now on for so long, on so many nodes with so many devices each; None: not before that
        instant."""
        times_s = self._times_s[: self._count]
        begin = self._first_with(many * each, duration_s)
        stop = int(times_s.searchsorted(before_s)) if before_s < np.inf else self._count
        block = max(1, BLOCK_CELLS // self.pool.nodes)
        while begin < stop:
            end = min(stop, begin + block)
            if (found := self._search(begin, end, many, each, within, duration_s)) is not None:
                return found
            begin, block = end, block * BLOCK_GROWTH
        return None

    def take(self, nodes: tuple[int, ...], each: int, from_s: float, until_s: float) -> None:
        """Promise devices to somebody."""
        self._change(nodes, -each, from_s, until_s, uses=1)

    def give(self, nodes: tuple[int, ...], each: int, from_s: float, until_s: float) -> None:
        """Somebody does not need what was taken for him, as far as it is not over."""
        self._change(nodes, each, from_s, until_s, uses=-1)

    def place_at(self, start_s: float, many: int, each: int, within: Within, duration_s: float) -> Seat | None:
        """A place from an instant on; None: there is none."""
        begin = self._row(start_s) if start_s > self._times_s[0] else 0
        return self._search(begin, begin + 1, many, each, within, duration_s)

    def columns(self, nodes: Sequence[int]) -> tuple[Floats, Counts]:
        """Instants from now on, and what is free on some nodes from each until the next: shape (nodes, instants)."""
        rows = self._order[: self._count]
        return self._times_s[: self._count], self._free[rows, np.array(nodes, dtype=np.intp)[:, None]]

    def check(self) -> None:
        """Assert the invariant."""
        span = slice(0, self._count)
        assert (np.diff(self._times_s[span]) > 0).all()
        assert (self._uses[1 : self._count] > 0).all()
        rows = self._free[self._order[span]]
        assert (rows >= 0).all()
        assert (rows <= self.pool.devices_per_node).all()
        assert (rows.sum(axis=1) == self._totals[span]).all()
        assert sorted((*self._unused, *self._order[span].tolist())) == list(range(len(self._free)))

    def free_at(self, at_s: float) -> NDArray[np.int64]:
        """Free devices of each node at an instant."""
        row = int(self._times_s[: self._count].searchsorted(at_s, side="right")) - 1
        found: NDArray[np.int64] = self._free[self._order[row]].astype(np.int64)
        return found

    # --- the search -------------------------------------------------------------------------------------------------

    def _first_with(self, devices: int, duration_s: float) -> int:
        """The first row from which so many devices are free for so long, wherever they are."""
        times_s = self._times_s[: self._count]
        blocked = (self._totals[: self._count] < devices).nonzero()[0]
        if not len(blocked):
            return 0
        rows = np.concatenate(((0,), blocked + 1))
        ends_s = np.concatenate((times_s[blocked], (np.inf,)))
        fits = times_s[np.minimum(rows, self._count - 1)] + duration_s <= ends_s
        fits &= rows < self._count
        first = int(fits.argmax())
        return int(rows[first]) if fits[first] else self._count

    def _search(self, begin: int, end: int, many: int, each: int, within: Within, duration_s: float) -> Seat | None:
        """The first of the rows `[begin, end)` at which somebody can start."""
        times_s = self._times_s[: self._count]
        last = times_s.searchsorted(
            times_s[begin:end] + duration_s
        )  # of each start, the first row that it does not use
        rows = self._free[self._order[begin : int(last[-1])]]
        nodes = self._staying(rows < each, (last - begin).astype(np.int32), end - begin)
        for node, from_s in self.closed.items():
            nodes[:, node] &= times_s[begin:end] + duration_s <= from_s
        possible = self._enough(nodes, many, within)
        first = int(possible.argmax())
        if not possible[first]:
            return None
        least = rows[first : int(last[first]) - begin].min(axis=0)
        return Seat(float(times_s[begin + first]), self._chosen(nodes[first], least, many, within))

    @staticmethod
    def _staying(blocked: Bools, last: NDArray[np.int32], starts: int) -> Bools:
        """Of each start, the nodes that are not blocked from its row until its last one."""
        count = len(blocked)
        next_blocked = np.where(blocked, np.arange(count, dtype=np.int32)[:, None], np.int32(count))
        ahead = np.minimum.accumulate(next_blocked[::-1], axis=0)[::-1]
        staying: Bools = ahead[:starts] >= last[:, None]
        return staying

    def _enough(self, nodes: Bools, many: int, within: Within) -> Bools:
        """Which starts have so many nodes in one part of the network."""
        if many == 1:
            one: Bools = np.any(nodes, axis=1)
            return one
        size = self.pool.domain_nodes(within)
        if size >= self.pool.nodes:
            whole: Bools = nodes.sum(axis=1, dtype=np.int32) >= many
            return whole
        counts = np.add.reduceat(nodes, np.arange(0, self.pool.nodes, size), axis=1, dtype=np.int32)
        parts: Bools = counts.max(axis=1) >= many
        return parts

    def _chosen(self, usable: Bools, least: Counts, many: int, within: Within) -> tuple[int, ...]:
        """The fullest node with room, or the nodes that `packing` chooses; `least`: free devices at the worst."""
        if many == 1:
            return (int(np.where(usable, least, np.iinfo(self._kind).max).argmin()),)
        found = choose(self.pool, usable, least.astype(np.int64), many, within)
        assert found is not None
        return tuple(found.tolist())

    # --- rows -------------------------------------------------------------------------------------------------------

    def _change(self, nodes: tuple[int, ...], devices: int, from_s: float, until_s: float, *, uses: int) -> None:
        """Add to what is free on some nodes, between two instants. What has begun has no row of its own any more."""
        if until_s <= self._times_s[0]:
            return
        begin = self._row(from_s) if from_s > self._times_s[0] else 0
        if begin:
            self._uses[begin] += uses
        end = self._count if until_s == np.inf else self._row(until_s)
        if end < self._count:
            self._uses[end] += uses
        rows = self._order[begin:end]
        if len(nodes) == 1:
            self._free[rows, nodes[0]] += self._kind(devices)
        else:
            self._free[rows[:, None], np.array(nodes, dtype=np.intp)] += self._kind(devices)
        self._totals[begin:end] += devices * len(nodes)
        if end < self._count and not self._uses[end]:
            self._drop(end)
        if begin and not self._uses[begin]:
            self._drop(begin)

    def _row(self, at_s: float) -> int:
        """The place of the row that begins at an instant, made where there is none."""
        at = int(self._times_s[: self._count].searchsorted(at_s))
        if at < self._count and self._times_s[at] == at_s:
            return at
        if self._count == len(self._times_s):
            self._make_room()
        for column in (self._times_s, self._order, self._totals, self._uses):
            column[at + 1 : self._count + 1] = column[at : self._count].copy()
        row = self._unused.pop()
        self._free[row] = self._free[self._order[at - 1]]
        self._times_s[at], self._order[at], self._totals[at], self._uses[at] = at_s, row, self._totals[at - 1], 0
        self._count += 1
        return at

    def _drop(self, at: int) -> None:
        self._unused.append(int(self._order[at]))
        for column in (self._times_s, self._order, self._totals, self._uses):
            column[at : self._count - 1] = column[at + 1 : self._count].copy()
        self._count -= 1

    def _make_room(self) -> None:
        before = len(self._times_s)
        self._unused += range(2 * before - 1, before - 1, -1)
        for name in ("_free", "_times_s", "_order", "_totals", "_uses"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate((old, np.zeros_like(old))))


class WholeNodes:
    """The same in numbers of nodes: whoever asks takes whole ones, and any will do."""

    def __init__(self, pool: PoolLayout, nodes: int) -> None:
        self.pool = pool
        self._profile = Profile(nodes)
        self._now_s = -np.inf

    def forget(self, now_s: float) -> None:
        """Drop what is over."""
        self._now_s = now_s
        self._profile.forget(now_s)

    def earliest(
        self, many: int, each: int, within: Within, duration_s: float, *, before_s: float = np.inf
    ) -> Seat | None:
        """As in `Promises`."""
        if many > self._profile.devices:
            return None
        start_s = self._profile.earliest(many, duration_s, after_s=self._now_s)
        return Seat(start_s, ()) if start_s < before_s else None

    def take(self, many: int, from_s: float, until_s: float) -> None:
        """Promise nodes to somebody."""
        self._profile.take(max(from_s, self._now_s), until_s, many)

    def give(self, many: int, from_s: float, until_s: float) -> None:
        """Somebody does not need them after all."""
        self._profile.give(max(from_s, self._now_s), until_s, many)

    def steps(self) -> tuple[Floats, Counts]:
        """Instants from now on, and how many nodes are free from each until the next."""
        return self._profile.columns(from_s=self._now_s)

    def check(self) -> None:
        """Assert the invariant."""
        self._profile.check()
