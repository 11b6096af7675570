"""What is saved where, on a fleet of groups and nodes: snapshots in memory, checkpoints in the store, and what faults
leave of them.

The rules are `checkpoint.placement`'s and `checkpoint.restore`'s, which are called on what they are about. A small job
calls them with all its workers, as `Control` does. In a large one a node's shards lie together (rule 4 of the
placement), so that nodes are counted instead of shards; copies stay within a group's own nodes; and whether a snapshot
is whole follows from the places that were lost (`Commit.whole_for`), so that the plan needs no list of workers. A test
compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from myriarch.checkpoint.commit import Snapshot
from myriarch.checkpoint.placement import Place, place_copies
from myriarch.checkpoint.restore import Durable, RestorePlan, plan_restore
from myriarch.event.events import HeldShard
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.layout import GroupLayout, ShardKey, node_order
from myriarch.spec.run import Mesh

WORKERS_LISTED: Final = 256
"""Up to so many workers all of them are placed and planned together, as `Control` does."""

Seat = tuple[GroupId, int]
"""A node's place in a group: its index among the group's nodes."""
Copies = dict[Seat, tuple[NodeId, ...]]
"""Nodes of the copies of a place's shards."""
Placed = Callable[[GroupLayout], Copies]


class Commit:
    """A committed snapshot and who still holds what of it."""

    def __init__(
        self, step: Step, layouts: Mapping[GroupId, GroupLayout], *, copies: Copies | None, placed: Placed
    ) -> None:
        self.step = step
        self.layouts = dict(layouts)
        self.gone: set[NodeId] = set()
        """Nodes lost since."""
        self.lost: dict[Seat, None] = {}
        """Places whose own nodes are among them."""
        self.fetched: dict[Seat, dict[NodeId, None]] = {}
        """Nodes that have a place's shards since a restore. One that was lost and is back is here or nowhere."""
        self._copies: Copies = {} if copies is None else copies
        self._placed = placed

    def holders(self, seat: Seat) -> list[NodeId]:
        """Nodes that hold a place's shards, its own first."""
        group, place = seat
        saved = (self.layouts[group].nodes[place], *self._copies_of(seat))
        return list(dict.fromkeys((*(node for node in saved if node not in self.gone), *self.fetched.get(seat, ()))))

    def whole_for(self, layouts: Sequence[GroupLayout]) -> bool:
        """Whether these groups can begin from it, by the rule of `plan_restore`: each place has its shards from the
        same place of some group of the same mesh; else the group takes all from any group of which none is lost."""
        saved = self.layouts.values()
        known = all(any(layout.mesh == other.mesh for other in saved) for layout in self._changed(layouts))
        if known and all(self._held(self.layouts[group].mesh, place) for group, place in self.lost):
            return True
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether all shards of some group are there, by `complete_copy`'s rule."""
        return len({seat[0] for seat in self.lost if not self.holders(seat)}) < len(self.layouts)

    def remote_for(self, layouts: Sequence[GroupLayout]) -> bool:
        """Whether anybody of these groups has to fetch shards: not all of them are as they were saved."""
        changed = {group for group, _ in self.lost}
        return bool(self._changed(layouts)) or any(layout.group in changed for layout in layouts)

    def _changed(self, layouts: Sequence[GroupLayout]) -> list[GroupLayout]:
        """Groups that were not saved, or had another mesh."""
        saved = self.layouts
        # Nearly always they are the very ones.
        others = [(layout, before) for layout in layouts if (before := saved.get(layout.group)) is not layout]
        return [layout for layout, before in others if before is None or before.mesh != layout.mesh]

    def _held(self, mesh: Mesh, place: int) -> bool:
        """Whether anybody has the shards of this place, in any group of this mesh. Copies are looked up last."""
        kin = [name for name, layout in self.layouts.items() if layout.mesh == mesh]
        return any(self.layouts[name].nodes[place] not in self.gone for name in kin) or any(
            self.holders((name, place)) for name in kin
        )

    def _copies_of(self, seat: Seat) -> tuple[NodeId, ...]:
        if seat not in self._copies:
            self._copies |= self._placed(self.layouts[seat[0]])
        return self._copies[seat]


class Saved:
    """All that a restore can take. Fed with commits and losses, asked for plans."""

    def __init__(self, *, copies: int, keep: int, racks: Mapping[NodeId, str], workers: int) -> None:
        """`racks`: the fault domain of every node of the fleet. `workers`: of the whole job."""
        self.copies = copies
        self.keep = keep
        self.racks = racks
        self.listed = workers <= WORKERS_LISTED
        self.committed: Commit | None = None
        self.durable: list[Durable] = []
        """Oldest first."""

    @property
    def newest_durable(self) -> Durable | None:
        return self.durable[-1] if self.durable else None

    def commit(self, step: Step, layouts: Mapping[GroupId, GroupLayout], *, copies: Copies | None) -> None:
        """A snapshot is safe in memory. `copies` None: they lie within each group and are looked up when needed."""
        self.committed = Commit(step, layouts, copies=copies, placed=self._within)

    def store(self, step: Step) -> None:
        """A checkpoint is in the store."""
        stay = [one for one in self.durable if one.step != step]
        self.durable = [*stay, Durable(step=step, path=f"step-{step:08d}")][-self.keep :]

    def left(self) -> Step:
        """The step that a run which ends now leaves behind: `Control` makes a snapshot that is whole durable first."""
        durable = self.newest_durable.step if self.newest_durable is not None else Step(0)
        if self.committed is None or not self.committed.complete:
            return durable
        return max(durable, self.committed.step)

    def lose(self, node: NodeId, seat: Seat | None) -> None:
        """A node is gone with its memory. `seat`: where it works."""
        commit = self.committed
        if commit is None:
            return
        commit.gone.add(node)
        for nodes_with in commit.fetched.values():
            nodes_with.pop(node, None)
        if seat is not None and seat[0] in commit.layouts:
            nodes = commit.layouts[seat[0]].nodes
            if seat[1] < len(nodes) and nodes[seat[1]] == node:
                commit.lost[seat] = None

    def restored(self, layout: GroupLayout) -> None:
        """A group started from the committed snapshot: nodes that took a place have its shards now."""
        commit = self.committed
        before = None if commit is None else commit.layouts.get(layout.group)
        if commit is None or before is None or before.mesh != layout.mesh:
            return
        for place, (node, owner) in enumerate(zip(layout.nodes, before.nodes, strict=True)):
            if node != owner or node in commit.gone:
                commit.fetched.setdefault((layout.group, place), {})[node] = None

    def distrust(self, after: Step) -> None:
        """Values were wrong from this step on."""
        if self.committed is not None and self.committed.step > after:
            self.committed = None
        self.durable = [one for one in self.durable if one.step <= after]

    def holds(self, seat: Seat, node: NodeId) -> bool:
        """Whether an idle node has a place's shards of the committed snapshot. In a large job it holds no copies."""
        commit = self.committed
        if commit is None or not self.listed:
            return False
        if seat[0] not in commit.layouts or seat[1] >= len(commit.layouts[seat[0]].nodes):
            return False
        return node in commit.holders(seat)

    def plan(self, layouts: Sequence[GroupLayout], *, incarnation: Incarnation) -> tuple[RestorePlan, bool]:
        """The newest step that is whole for these groups; and whether anybody has to fetch from another node."""
        commit = self.committed
        if self.listed:
            snapshot = None if commit is None else _snapshot(commit, tuple(commit.layouts.values()), incarnation)
            plan = plan_restore(layouts, committed=snapshot, durable=self.newest_durable)
            return plan, plan.remote_shards > 0
        if commit is None:
            return plan_restore((), committed=None, durable=self.newest_durable), False
        # To the planner nobody holds anything: it finds a step whole that nobody asks for, and lost if somebody does.
        asks = () if commit.whole_for(layouts) else layouts[:1]
        plan = plan_restore(asks, committed=_snapshot(commit, (), incarnation), durable=self.newest_durable)
        return plan, plan.tier == "memory" and commit.remote_for(layouts)

    def place(
        self, layouts: Sequence[GroupLayout], *, members: Mapping[NodeId, PoolId], spares: bool
    ) -> Copies | None:  # fmt: skip
        """Where copies go: over all members while workers are few, spares' memory included or not; None: within each
        group."""
        if not self.listed:
            return None
        active = {node for layout in layouts for node in layout.nodes}
        places = [
            Place(node=node, pool=members[node], fault_domain=self.racks[node], spare=node not in active)
            for node in sorted(members, key=node_order)
            if spares or node in active
        ]
        return _by_place(layouts, place_copies(layouts, places=places, copies=self.copies))

    def _within(self, layout: GroupLayout) -> Copies:
        """Copies of one group's shards on its own nodes."""
        places = [Place(node=node, pool=layout.pool, fault_domain=self.racks[node]) for node in layout.nodes]
        return _by_place((layout,), place_copies((layout,), places=places, copies=self.copies))


def _by_place(layouts: Sequence[GroupLayout], copies: Mapping[ShardKey, tuple[NodeId, ...]]) -> Copies:
    """Of each place: the shards of a node's workers lie together."""
    return {
        (layout.group, place): copies[layout.group, Rank(place * layout.devices_per_node)]
        for layout in layouts
        for place in range(len(layout.nodes))
    }


def _snapshot(commit: Commit, layouts: tuple[GroupLayout, ...], incarnation: Incarnation) -> Snapshot:
    """As the restore planner knows it."""
    holders: dict[ShardKey, dict[NodeId, HeldShard]] = {}
    for layout in layouts:
        for place, owner in enumerate(layout.nodes):
            nodes = commit.holders((layout.group, place))
            first = place * layout.devices_per_node
            for rank in range(first, min(first + layout.devices_per_node, layout.world_size)):
                holders[layout.group, Rank(rank)] = {
                    node: HeldShard(
                        group=layout.group,
                        rank=Rank(rank),
                        world_size=layout.world_size,
                        step=commit.step,
                        incarnation=incarnation,
                        role="own" if node == owner else "copy",
                        size_bytes=0,
                        root="",
                    )
                    for node in nodes
                }
    return Snapshot(
        step=commit.step,
        incarnation=incarnation,
        layouts=layouts,
        began_s=0.0,
        holders=holders,
        unsealed=0,
        uncopied=0,
        digests={},
        unsealed_of={},
        undigested={},
    )
