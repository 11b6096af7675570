"""The nodes of one pool: what is free on each, and when the rest will be, by the estimates of what runs there.

A node is looked for by a set of nodes for each number of free devices, kept as the bits of one integer: the fullest
node with room for a small job is then a few operations on words. Gangs and holds look at arrays of all nodes at once.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import Within
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.packing import choose, earliest, enough

FARTHEST: Final[Mapping[Within, int]] = {"node": 0, "rack": 0, "pod": 1, "pool": 2}
"""How far away the node that takes another's place may be: 0 in its rack, 1 in its pod, 2 anywhere."""

MANY: Final = 24
"""From so many nodes on it is less work to count those of a gang together, on 64 nodes as on 49,152."""

NOBODY: Final[Mapping[int, int]] = {}

Load = tuple[float, int, int]
"""End by the estimate, number that breaks ties, devices on this node."""


class Drain(NamedTuple):
    """A node will be gone from an instant on."""

    from_s: float
    said_s: float
    """When that was said."""


class PoolNodes:
    """Invariant: on every node, free devices and loads sum to what it has, unless it is withdrawn or a spare, with
    nothing free and nothing on it; `_having[n]` is the set of nodes with exactly n free, `_nodes_with[n]` its size;
    `_ready_s[n - 1]` says when each node has n free, but for those that are `_stale`."""

    def __init__(self, pool: PoolLayout) -> None:
        self.pool = pool
        self.free_devices = pool.devices
        self._free: NDArray[np.int64] = np.full(pool.nodes, pool.devices_per_node, dtype=np.int64)
        self._having = [0] * (pool.devices_per_node + 1)
        self._having[-1] = (1 << pool.nodes) - 1
        self._nodes_with = [0] * pool.devices_per_node + [pool.nodes]
        self._ready_s = np.full((pool.devices_per_node, pool.nodes), -np.inf)
        self._loads: list[list[Load]] = [[] for _ in range(pool.nodes)]
        self._stale: set[int] = set()
        self._withdrawn: set[int] = set()
        self.spares: set[int] = set()
        """Kept back; only whoever loses a node gets one."""
        self.drains: dict[int, Drain] = {}
        """Nodes that will be gone."""

    @property
    def free(self) -> NDArray[np.int64]:
        """Free devices of each node; not to be written to."""
        return self._free

    @property
    def spare_devices(self) -> int:
        """Free devices that are kept back on purpose."""
        return len(self.spares) * self.pool.devices_per_node

    @property
    def usable_devices(self) -> int:
        """Devices of nodes that are there and not kept back."""
        return self.pool.devices - (len(self._withdrawn) + len(self.spares)) * self.pool.devices_per_node

    @property
    def largest(self) -> int:
        """No job that asks for more devices fits now.

        A gang over several nodes uses more than half of each, so without such a node the fullest hole is all there is.
        """
        each = self.pool.devices_per_node
        while each and not self._having[each]:
            each -= 1
        return each if 2 * each <= self.pool.devices_per_node else self.free_devices

    def room(self, within: Within, spares: int) -> int:
        """Nodes of the largest domain, if so many spares are wherever they hurt most."""
        size = self.pool.domain_nodes(within)
        whole, rest = divmod(self.pool.nodes, size)
        sizes = [-size] * whole + [-rest]
        heapq.heapify(sizes)
        for _ in range(spares):
            heapq.heapreplace(sizes, sizes[0] + 1)
        return -sizes[0]

    def find(
        self, nodes: int, each: int, within: Within, *, spare: Mapping[int, int] = NOBODY, bits: int = 0
    ) -> tuple[int, ...] | None:
        """Nodes with so many free devices each. On the nodes of `spare`, the `bits`, no more than it says may be
        used."""
        if self.free_devices < nodes * each:
            return None
        if nodes == 1:
            node = self._fullest(each, spare, bits)
            return None if node is None else (node,)
        most = sum(self._nodes_with[each:])
        if most < nodes:
            return None
        if spare:
            most -= sum((having & bits).bit_count() for having in self._having[each:])
            if most + sum(limit >= each for limit in spare.values()) < nodes:
                return None
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

    def ready_by(self, at_s: float, nodes: int, each: int, within: Within) -> bool:
        """Whether `when` is an instant or before it: much less work."""
        return enough(self.pool, self._ready(each) <= at_s, nodes, within)

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
        self._add_free(nodes, -each)
        self.free_devices -= len(nodes) * each

    def give(self, nodes: Sequence[int], each: int, until_s: float, number: int) -> None:
        """Somebody uses them no more."""
        load = (until_s, number, each)
        for node in nodes:
            self._loads[node].remove(load)
        self._add_free(nodes, each)
        self.free_devices += len(nodes) * each

    def withdraw(self, node: int) -> None:
        """A node is not there any more; nothing may run on it."""
        assert not self._loads[node]
        assert node not in self._withdrawn
        self.drains.pop(node, None)
        if node in self.spares:
            self.spares.remove(node)
        else:
            self._hide(node)
        self._withdrawn.add(node)

    def restore(self, node: int) -> None:
        """It is back, and empty."""
        self._withdrawn.remove(node)
        self._show(node)

    def keep_back(self, node: int) -> None:
        """An empty node becomes a spare."""
        assert not self._loads[node]
        assert node not in self._withdrawn
        self._hide(node)
        self.spares.add(node)

    def let_go(self, node: int) -> None:
        """A spare becomes a node like others."""
        self.spares.remove(node)
        self._show(node)

    def drain(self, node: int, drain: Drain) -> None:
        """A node will be gone; of two instants the earlier counts."""
        known = self.drains.get(node)
        if known is None or drain.from_s < known.from_s:
            self.drains[node] = drain
            self._stale.add(node)

    def undrain(self, node: int) -> None:
        """It will stay after all."""
        self.drains.pop(node, None)
        self._stale.add(node)

    def barred(self, until_s: float) -> dict[int, int]:
        """Nodes that will be gone before an instant, with what may be used of them then: nothing."""
        return {node: 0 for node, drain in self.drains.items() if until_s > drain.from_s}

    def numbers_on(self, node: int) -> list[int]:
        """The numbers of those who use a node, ascending."""
        return sorted(number for _, number, _ in self._loads[node])

    def empty(self) -> list[int]:
        """Nodes that could become spares, ascending."""
        return [
            int(node)
            for node in np.flatnonzero(self._free == self.pool.devices_per_node)
            if int(node) not in self.drains
        ]

    def instead_of(self, node: int, each: int, *, keeps: Sequence[int], within: Within, until_s: float) -> int | None:
        """Who can take a node's place beside `keeps`: near it, no spare if another will do, the fullest with room."""
        usable = self._free >= each
        usable[list(self.spares)] = True
        usable[[node, *keeps, *self.barred(until_s)]] = False
        found = np.flatnonzero(usable)
        rack, pod = self.pool.nodes_per_rack, self.pool.nodes_per_rack * self.pool.racks_per_pod
        far = 2 - (found // rack == node // rack).astype(int) - (found // pod == node // pod)
        found, far = (of[far <= FARTHEST[within if keeps else "pool"]] for of in (found, far))
        if not len(found):
            return None
        spare = np.isin(found, list(self.spares))
        return int(found[np.lexsort((found, self._free[found], spare, far))[0]])

    def check(self) -> None:
        """Assert the invariant."""
        for node, loads in enumerate(self._loads):
            free = int(self._free[node])
            assert loads == sorted(loads)
            assert [at for at, nodes in enumerate(self._having) if nodes >> node & 1] == [free]
            if node in self._withdrawn or node in self.spares:
                assert not loads
                assert not free
            else:
                assert free + sum(load[2] for load in loads) == self.pool.devices_per_node
                assert node in self._stale or self._ready_s[:, node].tolist() == self._column(node)
        assert not self._withdrawn & self.spares
        assert [nodes.bit_count() for nodes in self._having] == self._nodes_with
        assert self.free_devices == int(self._free.sum())

    def _fullest(self, each: int, spare: Mapping[int, int], held: int) -> int | None:
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

    def _hide(self, node: int) -> None:
        """An empty node has nothing free for anybody."""
        self.free_devices -= int(self._free[node])
        self._set_free(node, 0)

    def _show(self, node: int) -> None:
        self._set_free(node, self.pool.devices_per_node)
        self.free_devices += self.pool.devices_per_node

    def _add_free(self, nodes: Sequence[int], devices: int) -> None:
        """So many more are free on each. A node is a bit of a long integer: those of a large gang are set at once."""
        if len(nodes) < MANY:
            for node in nodes:
                self._set_free(node, int(self._free[node]) + devices)
            return
        at = np.array(nodes)
        before = self._free[at]
        for free in np.flatnonzero(np.bincount(before)).tolist():
            alike = at[before == free]
            bits = self._bits(alike)
            self._having[free] ^= bits
            self._having[free + devices] ^= bits
            self._nodes_with[free] -= len(alike)
            self._nodes_with[free + devices] += len(alike)
        self._free[at] += devices
        self._stale.update(nodes)

    def _bits(self, nodes: NDArray[np.int64]) -> int:
        having = np.zeros(self.pool.nodes, dtype=np.bool_)
        having[nodes] = True
        return int.from_bytes(np.packbits(having, bitorder="little").tobytes(), "little")

    def _set_free(self, node: int, free: int) -> None:
        bit, before = 1 << node, int(self._free[node])
        self._having[before] ^= bit
        self._having[free] ^= bit
        self._nodes_with[before] -= 1
        self._nodes_with[free] += 1
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
        if node in self._withdrawn or node in self.spares or node in self.drains:
            return [math.inf] * self.pool.devices_per_node
        column = [-math.inf] * int(self._free[node])
        for until_s, _, devices in self._loads[node]:
            column += [until_s] * devices
        return column
