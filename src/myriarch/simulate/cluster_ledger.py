"""Where every device-nanosecond of the fleet goes: jobs say what they did with theirs, the rest is idle or away.

Devices are idle for want of jobs (`idle_no_demand`); while somebody waits, because the first in the queue asks for no
more than is free, but it is scattered or held for another (`idle_fragmented`), or because it asks for more
(`idle_waiting_gang`); or on purpose: as spares (`idle_reserved_spare`), as many as jobs ask for that are held back for
cheaper hours while nobody else waits, or because the first has devices but no power (`idle_price_hold`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from myriarch.account.ledger import Ledger
from myriarch.account.tally import Tally
from myriarch.event.ids import PoolId
from myriarch.event.spans import Leaf
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.cluster_life import instant_ns

UNNAMED: Final = PoolId("fleet")
"""In the ledger, the pool of a machine that only counts devices. Placements on it name none."""


class PoolMeter:
    """Who has the devices of one pool now. Invariant: `busy` and `away` sum to no more than `devices`."""

    __slots__ = ("away", "busy", "devices", "devices_per_node", "idle_ns")

    def __init__(self, devices: int, devices_per_node: int) -> None:
        self.devices = devices
        self.devices_per_node = devices_per_node
        self.busy = 0
        """Held by jobs."""
        self.away: dict[Leaf, int] = {}
        """On nodes that cannot be used."""
        self.idle_ns: dict[Leaf, int] = {}


class Meter:
    """Integrals over virtual time, exact in the end."""

    def __init__(self, scheduler: Scheduler, *, start_s: float) -> None:
        self._scheduler = scheduler
        self._placed = machine if isinstance(machine := scheduler.machine, Placed) else None
        if self._placed is not None:
            layouts = [nodes.pool for nodes in self._placed.pools.values()]
            self.pools = {pool.name: PoolMeter(pool.devices, pool.devices_per_node) for pool in layouts}
        else:
            self.pools = {"": PoolMeter(machine.devices, 0)}
        self._all = list(self.pools.items())
        self._now_s = start_s
        self.start_ns = self._now_ns = instant_ns(start_s)
        self._spent: dict[tuple[str, Leaf], int] = {}
        self.waiting_job_s = 0.0
        """Length of the queue, integrated."""
        self.waiting_most = 0
        self.busy_device_s = 0.0

    def spend(self, pool: str, leaf: Leaf, device_ns: int) -> None:
        """What jobs did with the devices they hold."""
        key = (pool, leaf)
        self._spent[key] = self._spent.get(key, 0) + device_ns

    def withdraw(self, pool: str, leaf: Leaf) -> None:
        """A node is away."""
        away = self.pools[pool].away
        away[leaf] = away.get(leaf, 0) + self.pools[pool].devices_per_node

    def restore(self, pool: str, leaf: Leaf) -> None:
        """It is back."""
        self.pools[pool].away[leaf] -= self.pools[pool].devices_per_node

    def advance(self, now_s: float) -> None:
        """Time passes, and nothing changes in it."""
        now_ns, duration_s = instant_ns(now_s), now_s - self._now_s
        duration_ns = now_ns - self._now_ns
        self._now_ns, self._now_s = now_ns, now_s
        waiting = self._scheduler.waiting
        if waiting:
            self.waiting_job_s += waiting * duration_s
            if waiting > self.waiting_most:
                self.waiting_most = waiting
        idle: Leaf | None = None if waiting else "idle_no_demand"
        held_back = 0
        for name, pool in self._all:
            self.busy_device_s += pool.busy * duration_s
            free = pool.devices - pool.busy
            for leaf, devices in pool.away.items():
                pool.idle_ns[leaf] = pool.idle_ns.get(leaf, 0) + devices * duration_ns
                free -= devices
            if not free:
                continue
            if self._placed is not None and (spare := self._placed.pools[name].spare_devices):
                pool.idle_ns["idle_reserved_spare"] = pool.idle_ns.get("idle_reserved_spare", 0) + spare * duration_ns
                free -= spare
            if idle is None:
                idle = self._why_idle()
                if idle == "idle_no_demand" and self._placed is not None:
                    held_back = self._placed.held_back_devices
            if held_back and (held := min(held_back, free)):
                pool.idle_ns["idle_price_hold"] = pool.idle_ns.get("idle_price_hold", 0) + held * duration_ns
                free, held_back = free - held, held_back - held
            pool.idle_ns[idle] = pool.idle_ns.get(idle, 0) + free * duration_ns

    def ledger(self) -> Ledger:
        """Of all time until now. Raises LedgerError unless everything was spent once."""
        tally = Tally({_id(name): pool.devices for name, pool in self._all}, start_ns=self.start_ns)
        for (name, leaf), device_ns in self._spent.items():
            tally.spend(_id(name), leaf, devices=1, duration_ns=device_ns)
        for name, pool in self._all:
            for leaf, device_ns in pool.idle_ns.items():
                tally.spend(_id(name), leaf, devices=1, duration_ns=device_ns)
        return tally.ledger(end_ns=self._now_ns)

    def check(self) -> None:
        """Assert that the scheduler's machine has free what nobody holds."""
        if self._placed is None:
            return
        for name, pool in self._all:
            free = pool.devices - pool.busy - sum(pool.away.values())
            nodes = self._placed.pools[name]
            assert free == nodes.free_devices + nodes.spare_devices, f"pool `{name}`"

    def _why_idle(self) -> Leaf:
        head = self._scheduler.head
        if head is None:  # all who wait are held back
            return "idle_no_demand"
        supply = None if self._placed is None else self._placed.supply
        if supply is not None and supply.lacks(head):
            return "idle_price_hold"
        fits = head.devices <= self._scheduler.machine.free_devices
        return "idle_fragmented" if fits else "idle_waiting_gang"


def nodes_of(scheduler: Scheduler) -> Mapping[str, int]:
    """How many nodes each pool has; none where devices are only counted."""
    machine = scheduler.machine
    return {name: nodes.pool.nodes for name, nodes in machine.pools.items()} if isinstance(machine, Placed) else {}


def _id(pool: str) -> PoolId:
    return PoolId(pool) if pool else UNNAMED
