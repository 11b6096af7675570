"""Where devices stand, as a scheduler sees it: pools of equal nodes, in racks, in pods."""

from __future__ import annotations

from collections.abc import Sequence

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Chip, Fleet, Pool, Precision


class PoolLayout(Value, frozen=True, kw_only=True):
    """Nodes of one kind. Node `i` stands in rack `i // nodes_per_rack`, rack `r` in pod `r // racks_per_pod`."""

    name: str
    nodes: int
    devices_per_node: int
    nodes_per_rack: int = 1
    """1: the pool has no racks that matter; each node is one."""
    racks_per_pod: int = 1
    """Racks under one spine, or of one super-pod."""
    precisions: tuple[Precision, ...] = ()
    """What its chip computes in. Empty: unknown, so anything."""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.nodes * self.devices_per_node

    def domain_nodes(self, within: str) -> int:
        """Nodes of the largest part of the network that a gang may use."""
        sizes = {"node": 1, "rack": self.nodes_per_rack, "pod": self.nodes_per_rack * self.racks_per_pod}
        return min(sizes.get(within, self.nodes), self.nodes)

    def gang(self, devices: int) -> tuple[int, int]:
        """Nodes, and devices on each: as few nodes as possible, equally used. The product may exceed what was asked."""
        nodes = -(-devices // self.devices_per_node)
        return nodes, -(-devices // nodes)

    def obstacle(self, job: Job) -> str:
        """Why a job can never run here; empty when it can."""
        if job.pools and self.name not in job.pools:
            return "is not among the pools it names"
        if job.precision is not None and self.precisions and job.precision not in self.precisions:
            return f"has no {job.precision}"
        nodes, _ = self.gang(job.devices)
        if nodes > self.nodes:
            return f"has {self.devices} devices"
        if nodes > (room := self.domain_nodes(job.within)):
            return f"has {room} nodes to a {job.within}, and it needs {nodes} in one"
        return ""


def layout_of(pool: Pool, *, racks_per_pod: int = 1) -> PoolLayout:
    """A pool of a fleet file; precisions are those its chip has a rate for."""
    chip = pool.chip if isinstance(pool.chip, Chip) else lookup(pool.chip)
    return PoolLayout(
        name=pool.name,
        nodes=pool.nodes,
        devices_per_node=pool.devices_per_node,
        nodes_per_rack=pool.nodes_per_rack,
        racks_per_pod=racks_per_pod,
        precisions=tuple(chip.rate_flops_per_s),
    )


def layouts_of(fleet: Fleet) -> tuple[PoolLayout, ...]:
    """The pools of a fleet file, in its order."""
    return tuple(layout_of(pool) for pool in fleet.pools)


def check_layouts(pools: Sequence[PoolLayout]) -> None:
    """Raise SpecError for pools that are none."""
    names = [pool.name for pool in pools]
    if not pools or len(set(names)) < len(names):
        raise SpecError(f"pools {', '.join(names) or '(none)'}", hint="give at least one, each with its own name")
    for pool in pools:
        if min(pool.nodes, pool.devices_per_node, pool.nodes_per_rack, pool.racks_per_pod) < 1:
            raise SpecError(f"pool `{pool.name}` has a size below 1", hint="nodes, devices, racks: at least 1 each")
