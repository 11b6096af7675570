"""How a replica group lies on nodes: what placement, restoring and forming agree on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, PoolId, Rank
from myriarch.spec.run import Mesh

NODES_REMEMBERED: Final = 32_768
"""Names whose order is remembered: twice the nodes of a job of 131,072 devices."""

ShardKey = tuple[GroupId, Rank]
"""Whose part of a snapshot. It names a worker, too."""


class GroupLayout(Value, frozen=True, kw_only=True):
    """One group's ranks on its nodes: rank `r` is device `r % devices_per_node` of node `r // devices_per_node`.

    Invariant: `nodes` has exactly as many entries as the mesh's devices need, each once.
    """

    group: GroupId
    pool: PoolId
    mesh: Mesh
    devices_per_node: int
    nodes: tuple[NodeId, ...]

    @property
    def world_size(self) -> int:
        """Workers of the group."""
        return self.mesh.devices

    def node_of(self, rank: int) -> NodeId:
        """The node that rank `rank` runs on."""
        return self.nodes[rank // self.devices_per_node]

    def device_of(self, rank: int) -> int:
        """The index of rank `rank`'s device on its node."""
        return rank % self.devices_per_node

    def shard_keys(self) -> Iterator[ShardKey]:
        """All ranks of the group, in order."""
        for rank in range(self.world_size):
            yield self.group, Rank(rank)

    def seats(self) -> Iterator[tuple[ShardKey, NodeId]]:
        """`((group, rank), node)` of all ranks, in order."""
        for rank in range(self.world_size):
            yield (self.group, Rank(rank)), self.node_of(rank)


def nodes_needed(devices: int, *, devices_per_node: int) -> int:
    """Nodes that hold `devices` devices."""
    return -(-devices // devices_per_node)


@functools.lru_cache(maxsize=NODES_REMEMBERED)
def node_order(node: NodeId) -> tuple[str, int, str]:
    """Sort key that puts `fast-2` before `fast-10`: the name's stem, its number, the whole name."""
    stem, _, number = node.rpartition("-")
    return (stem, int(number), node) if number.isdecimal() else (node, -1, node)
