"""The books of a simulated fleet: what every device did, and which steps it did in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from myriarch.account.tally import Tally
from myriarch.event.ids import NodeId, PoolId
from myriarch.event.spans import Leaf

Idle = Literal["spare", "repair", "maintenance", "quarantined", "power_or_network_down"]
"""What a node is that no group has."""

IDLE_LEAF: Final[Mapping[Idle, Leaf]] = {
    "spare": "idle_reserved_spare",
    "repair": "repair",
    "maintenance": "maintenance",
    "quarantined": "quarantined",
    "power_or_network_down": "power_or_network_down",
}


class Stretch(msgspec.Struct):
    """Steps done in a row by the same devices at one pace."""

    first: int
    """Steps done before it."""
    steps: int
    by_pool: dict[PoolId, tuple[int, int]]
    """Device-nanoseconds of one step: of compute, and of waiting for the slowest."""


class Books:
    """Counts devices of idle nodes by what they are, and of those whose group is missing while others go on; the caller
    spends the time of the others, which work.
    """

    def __init__(self, nodes: Mapping[NodeId, PoolId], *, devices: Mapping[PoolId, int], start_ns: int) -> None:
        """`devices`: of one node of each pool."""
        self.devices = dict(devices)
        self.pool_of = dict(nodes)
        owned: dict[PoolId, int] = dict.fromkeys(devices, 0)
        for pool in nodes.values():
            owned[pool] += devices[pool]
        self.tally = Tally(owned, start_ns=start_ns)
        self.idle: dict[NodeId, Idle] = {}
        self._counts: dict[tuple[PoolId, Idle], int] = {}
        self._missing: Mapping[PoolId, int] = {}
        self._flowed_ns = start_ns
        self._stretches: list[Stretch] = []
        self.put(nodes, "spare", now_ns=start_ns)

    def put(self, nodes: Iterable[NodeId], what: Idle, *, now_ns: int) -> None:
        """Nodes are idle from now on, under this heading."""
        self.flow(now_ns)
        counts, idle = self._counts, self.idle
        for node in nodes:
            pool, before = self.pool_of[node], idle.get(node)
            if before is not None:
                counts[pool, before] -= 1
            idle[node] = what
            counts[pool, what] = counts.get((pool, what), 0) + 1

    def employ(self, nodes: Iterable[NodeId], *, now_ns: int) -> None:
        """Nodes work from now on: whoever employs them spends their time."""
        self.flow(now_ns)
        for node in nodes:
            before = self.idle.pop(node, None)
            if before is not None:
                self._counts[self.pool_of[node], before] -= 1

    def miss(self, nodes: Mapping[PoolId, int], *, now_ns: int) -> None:
        """So many nodes of each pool are in groups that are missing from now on."""
        self.flow(now_ns)
        self._missing = nodes

    def flow(self, now_ns: int) -> None:
        """Spend the time of idle and of missing nodes up to now."""
        duration_ns = now_ns - self._flowed_ns
        if duration_ns:
            for (pool, what), nodes in self._counts.items():
                if nodes:
                    devices = nodes * self.devices[pool]
                    self.tally.spend(pool, IDLE_LEAF[what], devices=devices, duration_ns=duration_ns)
            for pool, nodes in self._missing.items():
                self.tally.spend(pool, "degraded", devices=nodes * self.devices[pool], duration_ns=duration_ns)
            self._flowed_ns = now_ns

    def spend(self, working: Mapping[PoolId, int], leaf: Leaf, duration_ns: int) -> None:
        """Working devices of each pool were in a leaf for so long."""
        if duration_ns:
            for pool, devices in working.items():
                self.tally.spend(pool, leaf, devices=devices, duration_ns=duration_ns)

    def did(self, working: Mapping[PoolId, int], *, first: int, steps: int, compute_ns: int, wait_ns: int) -> None:
        """Working devices did so many steps after the first `first` ones. Kept, until they are lost."""
        if not steps:
            return
        self.spend(working, "useful_compute", steps * compute_ns)
        self.spend(working, "straggler_wait", steps * wait_ns)
        by_pool = {pool: (devices * compute_ns, devices * wait_ns) for pool, devices in working.items()}
        self._stretches.append(Stretch(first, steps, by_pool))

    def lose_after(self, step: int) -> int:
        """All that was done after the first `step` steps was in vain. Returns how many steps that were."""
        lost = 0
        while self._stretches and self._stretches[-1].first + self._stretches[-1].steps > step:
            last = self._stretches[-1]
            gone = min(last.steps, last.first + last.steps - step)
            for pool, (compute, wait) in last.by_pool.items():
                self.tally.move(pool, source="useful_compute", target="lost_work", device_ns=gone * compute)
                self.tally.move(pool, source="straggler_wait", target="lost_work", device_ns=gone * wait)
            lost += gone
            if gone == last.steps:
                self._stretches.pop()
            else:
                last.steps -= gone
        return lost
