"""The nodes of one pool: what is free on each, and when the rest will be, by the estimates of what runs there.

A node is looked for by a set of nodes for each number of free devices, kept as the bits of one integer: the fullest
node with room for a small job is then a few operations on words. Gangs and holds look at arrays of all nodes at once.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.packing import choose, earliest

NOBODY: Final[Mapping[int, int]] = {}

Load = tuple[float, int, int]
"""End by the estimate, number that breaks ties, devices on this node."""


class PoolNodes:
    """Invariant: on every node, free devices and loads sum to what it has, unless it is withdrawn; `_having[n]` is the
    set of nodes with exactly n free; `_ready_s[n - 1]` says when each node has n free, but for those that are
    `_stale`."""

    def __init__(self, pool: PoolLayout) -> None:
        self.pool = pool
        self.free_devices = pool.devices
        self._free: NDArray[np.int64] = np.full(pool.nodes, pool.devices_per_node, dtype=np.int64)
        self._having = [0] * (pool.devices_per_node + 1)
        self._having[-1] = (1 << pool.nodes) - 1
        self._ready_s = np.full((pool.devices_per_node, pool.nodes), -np.inf)
        self._loads: list[list[Load]] = [[] for _ in range(pool.nodes)]
        self._stale: set[int] = set()
        self._withdrawn: set[int] = set()

    @property
    def free(self) -> NDArray[np.int64]:
        """Free devices of each node; not to be written to."""
        return self._free

    @property
    def spare_devices(self) -> int:
        """Free devices that are kept back on purpose."""
        return 0

    @property
    def usable_devices(self) -> int:
        """Devices of nodes that are there."""
        return self.pool.devices - len(self._withdrawn) * self.pool.devices_per_node

    @property
    def largest(self) -> int:
        """No job that asks for more devices fits now.

        A gang over several nodes uses more than half of each, so without such a node the fullest hole is all there is.
        """
        each = self.pool.devices_per_node
        while each and not self._having[each]:
            each -= 1
        return each if 2 * each <= self.pool.devices_per_node else self.free_devices

    def find(
        self, nodes: int, each: int, within: Within, *, spare: Mapping[int, int] = NOBODY
    ) -> tuple[int, ...] | None:
        """Nodes with so many free devices each. On the nodes of `spare` no more than it says may be used."""
        if self.free_devices < nodes * each:
            return None
        if nodes == 1:
            node = self._fullest(each, spare)
            return None if node is None else (node,)
        usable = self._free >= each
        for node, limit in spare.items():
            if limit < each:
                usable[node] = False
        chosen = choose(self.pool, usable, self._free, nodes, within)
        return None if chosen is None else tuple(chosen.tolist())

    def when(self, nodes: int, each: int, within: Within) -> float:
        """The earliest instant at which so many nodes have so many free devices each, by estimates."""
        ready_s = self._ready(each)
        return float(ready_s.min()) if nodes == 1 else earliest(self.pool, ready_s, nodes, within)

    def spare_at(self, at_s: float, nodes: int, each: int, within: Within) -> dict[int, int]:
        """Who is taken at `when`, and what is left on them then."""
        usable = self._ready(each) <= at_s
        if nodes == 1:
            chosen = [int(usable.argmax())]
        else:
            found = choose(self.pool, usable, self._free, nodes, within)
            assert found is not None
            chosen = found.tolist()
        return {node: self._free_at(node, at_s) - each for node in chosen}

    def take(self, nodes: Sequence[int], each: int, until_s: float, number: int) -> None:
        """Somebody uses devices."""
        load = (until_s, number, each)
        for node in nodes:
            insort(self._loads[node], load)
            self._set_free(node, int(self._free[node]) - each)
        self.free_devices -= len(nodes) * each

    def give(self, nodes: Sequence[int], each: int, until_s: float, number: int) -> None:
        """Somebody uses them no more."""
        load = (until_s, number, each)
        for node in nodes:
            self._loads[node].remove(load)
            self._set_free(node, int(self._free[node]) + each)
        self.free_devices += len(nodes) * each

    def withdraw(self, node: int) -> None:
        """A node is not there any more; nothing may run on it."""
        assert not self._loads[node]
        assert node not in self._withdrawn
        self._withdrawn.add(node)
        self._having[int(self._free[node])] ^= 1 << node
        self.free_devices -= int(self._free[node])
        self._free[node] = 0
        self._having[0] ^= 1 << node
        self._stale.add(node)

    def restore(self, node: int) -> None:
        """It is back, and empty."""
        self._withdrawn.remove(node)
        self._set_free(node, self.pool.devices_per_node)
        self.free_devices += self.pool.devices_per_node

    def check(self) -> None:
        """Assert the invariant."""
        for node, loads in enumerate(self._loads):
            free = int(self._free[node])
            assert loads == sorted(loads)
            assert [at for at, nodes in enumerate(self._having) if nodes >> node & 1] == [free]
            if node not in self._withdrawn:
                assert free + sum(load[2] for load in loads) == self.pool.devices_per_node
                assert node in self._stale or self._ready_s[:, node].tolist() == self._column(node)
        assert self.free_devices == int(self._free.sum())

    def _fullest(self, each: int, spare: Mapping[int, int]) -> int | None:
        held = 0
        for node in spare:
            held |= 1 << node
        for free in range(each, self.pool.devices_per_node + 1):
            having = self._having[free]
            if not having:
                continue
            if nodes := having & ~held:
                return (nodes & -nodes).bit_length() - 1
            if having & held:
                for node, limit in spare.items():
                    if limit >= each and having >> node & 1:
                        return node
        return None

    def _free_at(self, node: int, at_s: float) -> int:
        return int(self._free[node]) + sum(load[2] for load in self._loads[node] if load[0] <= at_s)

    def _set_free(self, node: int, free: int) -> None:
        bit = 1 << node
        self._having[int(self._free[node])] ^= bit
        self._having[free] ^= bit
        self._free[node] = free
        self._stale.add(node)

    def _ready(self, each: int) -> NDArray[np.float64]:
        """When each node has so many devices free."""
        for node in self._stale:
            self._ready_s[:, node] = self._column(node)
        self._stale.clear()
        ready_s: NDArray[np.float64] = self._ready_s[each - 1]
        return ready_s

    def _column(self, node: int) -> list[float]:
        if node in self._withdrawn:
            return [math.inf] * self.pool.devices_per_node
        column = [-math.inf] * int(self._free[node])
        for until_s, _, devices in self._loads[node]:
            column += [until_s] * devices
        return column
