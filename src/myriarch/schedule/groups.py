"""Groups onto nodes: at the start, after losses, and when nodes come back.

A group keeps the nodes it has. A place that became empty is filled by an idle node of the same pool: a warm one before
one whose processes still have to import torch, which takes longer than most restores; among equals one that already
holds the shards of that place, then the node that was there (it came back as another machine), then the first by name.
Where no node is left the group goes on smaller: copies of the model inside the group are given up first
(`dp_replicate`), then the shards are spread over fewer devices (`dp_shard`), until the batch can be split again.
A group without any node is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.event.layout import GroupLayout, node_order, nodes_needed
from myriarch.spec.run import Group, Mesh

Fits = Callable[[Mapping[GroupId, int]], bool]
"""Whether groups of these world sizes can split the batch."""


class Replacement(Value, frozen=True, kw_only=True):
    """A node that takes a place which was empty."""

    group: GroupId
    place: int
    """Index into the group's nodes."""
    lost: NodeId | None
    """Who was there; None: nobody yet."""
    node: NodeId


class Shrinkage(Value, frozen=True, kw_only=True):
    """A group that has another size than before: smaller, or grown back."""

    group: GroupId
    from_devices: int
    to_devices: int


class Assignment(Value, frozen=True, kw_only=True):
    """Who works where."""

    layouts: tuple[GroupLayout, ...]
    """Groups that can be formed, in the order of the run file."""
    missing: tuple[GroupId, ...] = ()
    replaced: tuple[Replacement, ...] = ()
    resized: tuple[Shrinkage, ...] = ()

    def layout(self, group: GroupId) -> GroupLayout | None:
        """The layout of `group`; None when it is missing."""
        return next((layout for layout in self.layouts if layout.group == group), None)


def assign(
    groups: Sequence[Group],
    *,
    idle: Mapping[PoolId, Sequence[NodeId]],
    previous: Mapping[GroupId, GroupLayout],
    lost: Callable[[GroupId, NodeId], bool],
    holds: Callable[[GroupId, int, NodeId], bool],
    warm: Callable[[NodeId], bool],
    fits: Fits,
    whole: bool = False,
) -> Assignment:
    """Give every group its nodes.

    `previous` is how the groups lay before, `lost(group, node)` says which of those nodes are gone, or another group's
    by now, `idle` are the usable nodes of each pool that no group has, `holds(group, place, node)` says whether a node
    already has the shards of a place, and `warm(node)` whether it forks workers at once. `whole`: no group goes on
    smaller, and one that cannot be filled takes no idle nodes from the others.
    """
    free = {pool: sorted(nodes, key=node_order) for pool, nodes in idle.items()}
    wanted: list[tuple[Group, tuple[NodeId | None, ...]]] = []
    replaced: list[Replacement] = []
    for group in groups:
        before = previous.get(GroupId(group.name))
        places, changes = _fill(group, before, free[PoolId(group.pool)], lost, holds, warm, whole)
        wanted.append((group, places))
        replaced += changes
    if whole:
        wanted = [(group, places) for group, places in wanted if all(places)]
    layouts = _shrink_to_fit(wanted, fits)
    return Assignment(
        layouts=tuple(layouts[name] for group in groups if (name := GroupId(group.name)) in layouts),
        missing=tuple(name for group in groups if (name := GroupId(group.name)) not in layouts),
        replaced=tuple(replaced),
        resized=tuple(_resized(groups, previous, layouts)),
    )


def smaller_meshes(mesh: Mesh, *, devices: int) -> Iterator[Mesh]:
    """Meshes that fit on `devices` devices, the one to prefer first; `mesh` itself when it fits.

    Whole copies are given up before shards are spread, since that keeps the layout inside each copy.
    """
    for replicas in range(mesh.dp_replicate, 0, -1):
        if replicas * mesh.dp_shard <= devices:
            yield Mesh(dp_replicate=replicas, dp_shard=mesh.dp_shard)
    for shards in range(min(mesh.dp_shard - 1, devices), 0, -1):
        yield Mesh(dp_shard=shards)


def _fill(
    group: Group,
    before: GroupLayout | None,
    free: list[NodeId],
    lost: Callable[[GroupId, NodeId], bool],
    holds: Callable[[GroupId, int, NodeId], bool],
    warm: Callable[[NodeId], bool],
    whole: bool,
) -> tuple[tuple[NodeId | None, ...], list[Replacement]]:
    """The group's places, filled as far as nodes go. Takes what it uses out of `free`."""
    name = GroupId(group.name)
    held: list[NodeId | None] = list(before.nodes) if before is not None else []
    held += [None] * (group.nodes - len(held))
    changes: list[Replacement] = []
    empty = [place for place, node in enumerate(held) if node is None or lost(name, node)]
    enough = not whole or len(empty) <= len(free)
    for place in empty:
        node, held[place] = held[place], None
        if not free or not enough:
            continue
        # `free` is in order, so that the first of the best is the first by name. Nobody holds a new group's shards.
        chosen = (
            next((other for other in free if warm(other)), free[0])
            if before is None
            else min(free, key=lambda other: (not warm(other), not holds(name, place, other), other != node))
        )
        free.remove(chosen)
        held[place] = chosen
        changes.append(Replacement(group=name, place=place, lost=node, node=chosen))
    return tuple(held), changes


def _shrink_to_fit(wanted: Sequence[tuple[Group, tuple[NodeId | None, ...]]], fits: Fits) -> dict[GroupId, GroupLayout]:
    """Meshes for the nodes that there are. A group for which no mesh fits is left out."""
    sizes = {GroupId(group.name): group.mesh.devices for group, places in wanted if any(places)}
    layouts: dict[GroupId, GroupLayout] = {}
    for group, places in wanted:
        name = GroupId(group.name)
        nodes = tuple(node for node in places if node is not None)
        per_node = group.mesh.devices // group.nodes
        for mesh in smaller_meshes(group.mesh, devices=len(nodes) * per_node):
            if mesh == group.mesh or fits({**sizes, name: mesh.devices}):
                sizes[name] = mesh.devices
                used = nodes[: nodes_needed(mesh.devices, devices_per_node=per_node)]
                layouts[name] = GroupLayout(
                    group=name, pool=PoolId(group.pool), mesh=mesh, devices_per_node=per_node, nodes=used
                )
                break
        else:
            sizes.pop(name, None)
    return layouts


def _resized(
    groups: Sequence[Group], previous: Mapping[GroupId, GroupLayout], layouts: Mapping[GroupId, GroupLayout]
) -> Iterator[Shrinkage]:
    for group in groups:
        name = GroupId(group.name)
        if name not in layouts:
            continue
        before = previous[name].world_size if name in previous else group.mesh.devices
        if layouts[name].world_size != before:
            yield Shrinkage(group=name, from_devices=before, to_devices=layouts[name].world_size)
