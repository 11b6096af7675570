"""The actions that make an incarnation: who is stopped, who is forked, who rejoins, with which plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from myriarch.checkpoint.restore import RestorePlan
from myriarch.control.membership import Membership
from myriarch.event.actions import (
    AnyAction,
    FromMemory,
    LaunchWorkers,
    PeerAddress,
    Reason,
    RejoinWorkers,
    StopWorkers,
    WorkerPlan,
)
from myriarch.event.ids import GroupId, Incarnation, NodeId
from myriarch.event.layout import GroupLayout, ShardKey, node_order


class Formation(msgspec.Struct, kw_only=True, frozen=True):
    """What the next incarnation looks like."""

    incarnation: Incarnation
    layouts: Sequence[GroupLayout]
    kept: Collection[GroupId]
    """Groups whose workers stay and rejoin."""
    restore: RestorePlan
    copies: Mapping[ShardKey, tuple[NodeId, ...]]
    calibrate: Collection[GroupId]
    beside: bool = False
    """These groups start beside the incarnation, and take its state later."""


def stop_workers(
    alive: Iterable[tuple[NodeId, ShardKey]], members: Membership, *, why: str
) -> Iterator[AnyAction]:  # fmt: skip
    """End what still lives of groups that do not rejoin, on nodes that are there."""
    by_node: dict[NodeId, list[ShardKey]] = {}
    for node, key in alive:
        if node in members.nodes:
            by_node.setdefault(node, []).append(key)
    for node in sorted(by_node, key=node_order):
        keys = by_node[node]
        yield StopWorkers(node=node, workers=tuple(keys), reason=Reason(text=why, numbers={"workers": len(keys)}))


def start_workers(formation: Formation, members: Membership) -> Iterator[AnyAction]:
    """Launch or rejoin, one action for each node and kind."""
    launches: dict[NodeId, list[WorkerPlan]] = {}
    rejoins: dict[NodeId, list[WorkerPlan]] = {}
    for layout in formation.layouts:
        target = rejoins if layout.group in formation.kept else launches
        for plan, node in _plans(formation, layout, members):
            target.setdefault(node, []).append(plan)
    for node in sorted(launches, key=node_order):
        plans = launches[node]
        yield LaunchWorkers(
            node=node,
            workers=tuple(plans),
            peers=_peers(node, plans, members),
            reason=_why(
                plans,
                f"their group starts beside incarnation {formation.incarnation} and takes its state later"
                if formation.beside
                else f"incarnation {formation.incarnation} forks them",
            ),
        )
    for node in sorted(rejoins, key=node_order):
        plans = rejoins[node]
        yield RejoinWorkers(
            node=node,
            workers=tuple(plans),
            peers=_peers(node, plans, members),
            reason=_why(plans, f"their group is whole: they go over to incarnation {formation.incarnation}"),
        )


def _plans(
    formation: Formation, layout: GroupLayout, members: Membership
) -> Iterator[tuple[WorkerPlan, NodeId]]:  # fmt: skip
    store = members.nodes[layout.nodes[0]]
    for key, node in layout.seats():
        plan = WorkerPlan(
            group=layout.group,
            rank=key[1],
            world_size=layout.world_size,
            mesh=layout.mesh,
            device_index=layout.device_of(key[1]),
            incarnation=formation.incarnation,
            store_node=store.node,
            store_address=store.address,
            store_port=store.port,
            copy_nodes=formation.copies.get(key, ()),
            restore=formation.restore.by_worker[key],
            calibrate=layout.group in formation.calibrate,
        )
        yield plan, node


def _peers(node: NodeId, plans: Iterable[WorkerPlan], members: Membership) -> tuple[PeerAddress, ...]:
    """Byte servers that these plans need: sources of the restore, and where copies go."""
    needed: set[NodeId] = set()
    for plan in plans:
        needed.update(plan.copy_nodes)
        if isinstance(plan.restore, FromMemory):
            needed.update(source.node for source in plan.restore.shards)
    needed.discard(node)
    return tuple(members.nodes[one].peer for one in sorted(needed, key=node_order))


def _why(plans: Sequence[WorkerPlan], text: str) -> Reason:
    restore = plans[0].restore
    fetched = sum(len(plan.restore.shards) for plan in plans if isinstance(plan.restore, FromMemory))
    step = 0 if not hasattr(restore, "step") else restore.step
    return Reason(text=text, numbers={"workers": len(plans), "step": step, "shards": fetched})
