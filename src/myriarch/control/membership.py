"""Who is there: nodes, their connections, their roles."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Literal

import msgspec

from myriarch.checkpoint.placement import Place
from myriarch.event.actions import AnyAction, LogMembership, PeerAddress, Reason
from myriarch.event.events import NodeJoined, NodeWarmed
from myriarch.event.ids import NodeId, PoolId
from myriarch.event.layout import node_order
from myriarch.spec.fleet import Fleet

NodeRole = Literal["active", "spare", "waiting"]
"""`active`: has workers. `spare`: could have some. `waiting`: will get some, or cannot be used."""


class Node(msgspec.Struct, kw_only=True):
    """A node that is a member."""

    node: NodeId
    pool: PoolId
    boot: str
    address: str
    port: int
    devices: int
    fault_domain: str
    role: NodeRole = "waiting"
    warm: bool = False
    """It forks workers at once; otherwise it first has to import torch."""
    grace_until_s: float | None = None
    """Its connection is closed, and then it is lost; None: it is connected."""

    @property
    def peer(self) -> PeerAddress:
        """Where its byte server listens."""
        return PeerAddress(node=self.node, address=self.address, port=self.port)


class Membership(msgspec.Struct, kw_only=True):
    """The nodes that are there. A node that is lost is no member; it may come back as another boot."""

    nodes: dict[NodeId, Node] = {}
    fenced: dict[NodeId, str] = {}
    """Nodes that were given up while they may live, with the boot that may not come back."""
    offline: dict[NodeId, None] = {}
    """Members whose connection is closed: exactly those with a `grace_until_s`."""
    exited: dict[NodeId, str] = {}
    """Nodes that the engine saw end before the first formation, and how: nobody waits for them. No member is one."""
    version: int = 0
    """Counts changes that may make a group formable."""

    def join(self, event: NodeJoined) -> None:
        """A node that is no member becomes one."""
        self.nodes[event.node] = Node(
            node=event.node,
            pool=event.pool,
            boot=event.boot,
            address=event.address,
            port=event.port,
            devices=event.devices,
            fault_domain=event.fault_domain,
            warm=event.warm,
        )
        self.fenced.pop(event.node, None)
        self.exited.pop(event.node, None)
        self.version += 1

    def rejoin(self, event: NodeJoined) -> None:
        """A member's agent connected anew: the same process, with its memory and workers."""
        node = self.nodes[event.node]
        node.address, node.port = event.address, event.port
        node.warm = event.warm
        node.grace_until_s = None
        self.offline.pop(event.node, None)
        self.version += 1

    def warmed(self, event: NodeWarmed) -> None:
        """A member can fork at once. It is formable as before, only faster, so `version` stays."""
        node = self.nodes.get(event.node)
        if node is not None and node.boot == event.boot:
            node.warm = True

    def disconnect(self, node: NodeId, *, until_s: float) -> None:
        """A member's connection closed."""
        self.nodes[node].grace_until_s = until_s
        self.offline[node] = None

    def lose(self, node: NodeId, *, fence: bool) -> Node:
        """A member is gone; with `fence` it may still live and has to be told."""
        self.offline.pop(node, None)
        self.version += 1
        gone = self.nodes.pop(node)
        if fence:
            self.fenced[node] = gone.boot
        return gone

    @property
    def deadline_s(self) -> float | None:
        """When the first disconnected member is lost."""
        return min((self.nodes[node].grace_until_s or 0.0 for node in self.offline), default=None)

    def overdue(self, now_s: float) -> list[NodeId]:
        """Members whose grace is over."""
        return [node for node in self.offline if now_s >= (self.nodes[node].grace_until_s or 0.0)]

    def idle(self, busy: Container[NodeId], *, pools: Iterable[PoolId], fleet: Fleet) -> dict[PoolId, list[NodeId]]:
        """Connected members of each pool that are not in `busy` and have the devices that the fleet file says."""
        free: dict[PoolId, list[NodeId]] = {pool: [] for pool in pools}
        needed = {pool: fleet.pool(pool).devices_per_node for pool in free}
        for node in self.nodes.values():
            usable = node.pool in free and node.grace_until_s is None and node.devices >= needed[node.pool]
            if usable and node.node not in busy:
                free[node.pool].append(node.node)
        return free

    def places(self, active: Container[NodeId]) -> Iterator[Place]:
        """Connected members, as places of copies."""
        for node in sorted(self.nodes.values(), key=lambda one: node_order(one.node)):
            if node.grace_until_s is None or node.node in active:
                yield Place(
                    node=node.node, pool=node.pool, fault_domain=node.fault_domain, spare=node.node not in active
                )

    def set_roles(self, active: Container[NodeId], *, why: str) -> list[AnyAction]:
        """After a formation: who has work and who is kept warm."""
        actions: list[AnyAction] = []
        for node in self.nodes.values():
            role: NodeRole = "active" if node.node in active else "spare"
            if role != node.role:
                node.role = role
                actions.append(self.log(node, why))
        return actions

    def log(self, node: Node, why: str) -> LogMembership:
        """Its present role, for the ledger."""
        return LogMembership(node=node.node, pool=node.pool, role=node.role, reason=Reason(text=f"{node.node}: {why}"))

    def check(self) -> None:
        """Invariants."""
        for name, node in self.nodes.items():
            assert name == node.node
            assert (node.grace_until_s is not None) == (name in self.offline), "offline nodes have a grace, others none"
            assert self.fenced.get(name) != node.boot, "a fenced boot is no member"
        assert self.offline.keys() <= self.nodes.keys()
        assert not self.exited.keys() & self.nodes.keys(), "who is there has not ended"
