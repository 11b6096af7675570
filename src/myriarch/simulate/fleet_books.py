"""The books of a simulated fleet: what every device did, and which steps it did in vain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from myriarch.account.tally import Tally
from myriarch.event.ids import NodeId, PoolId
from myriarch.event.spans import Leaf

Idle = Literal["spare", "repair", "maintenance", "quarantined", "power_or_network_down", "degraded"]
"""What a node is that has no work. `degraded`: its group is missing while others go on."""

IDLE_LEAF: Final[Mapping[Idle, Leaf]] = {
    "spare": "idle_reserved_spare",
    "repair": "repair",
    "maintenance": "maintenance",
    "quarantined": "quarantined",
    "power_or_network_down": "power_or_network_down",
    "degraded": "degraded",
}


class Stretch(msgspec.Struct):
    """Steps done in a row by the same devices at one pace."""

    first: int
    """Steps done before it."""
    steps: int
    by_pool: dict[PoolId, tuple[int, int]]
    """Device-nanoseconds of one step: of compute, and of waiting for the slowest."""


class Books:
    """Counts devices of idle nodes by what they are, and lets the caller spend those of working ones.

    Invariant: between two calls every node is either idle under one heading or working.
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
        self._flowed_ns = start_ns
        self._stretches: list[Stretch] = []
        for node in nodes:
            self.put(node, "spare", now_ns=start_ns)

    def put(self, node: NodeId, what: Idle, *, now_ns: int) -> None:
        """A node is idle from now on, under this heading."""
        self.flow(now_ns)
        self._count(node, -1)
        self.idle[node] = what
        self._count(node, 1)

    def employ(self, node: NodeId, *, now_ns: int) -> None:
        """A node works from now on: whoever employs it spends its time."""
        self.flow(now_ns)
        self._count(node, -1)
        self.idle.pop(node, None)

    def flow(self, now_ns: int) -> None:
        """Spend the time of idle nodes up to now."""
        duration_ns = now_ns - self._flowed_ns
        if duration_ns:
            for (pool, what), nodes in self._counts.items():
                if nodes:
                    devices = nodes * self.devices[pool]
                    self.tally.spend(pool, IDLE_LEAF[what], devices=devices, duration_ns=duration_ns)
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

    def safe_before(self, step: int) -> None:
        """Nobody will go back behind the first `step` steps: forget how they were done."""
        kept = 0
        while kept < len(self._stretches) and self._stretches[kept].first + self._stretches[kept].steps <= step:
            kept += 1
        if kept:
            del self._stretches[:kept]

    def _count(self, node: NodeId, change: int) -> None:
        what = self.idle.get(node)
        if what is not None:
            key = (self.pool_of[node], what)
            self._counts[key] = self._counts.get(key, 0) + change
