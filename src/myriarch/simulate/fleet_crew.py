"""Who sits where on a simulated fleet: members, groups, spares, and whose time the caller spends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.event.layout import GroupLayout
from myriarch.simulate.fleet_books import Books, Idle
from myriarch.simulate.fleet_memory import Seat
from myriarch.spec.run import Group, ResolvedRun

NOWHERE: Final[Seat] = (GroupId(""), -1)


class Crew:
    """Nodes and groups.

    Invariants (`check`): members without a seat are exactly the spares, which the books have as idle; a seat says where
    its node is in the last layout of its group.
    """

    def __init__(self, resolved: ResolvedRun, *, books: Books) -> None:
        self.books = books
        self.groups: dict[GroupId, Group] = {GroupId(group.name): group for group in resolved.run.groups}
        self.members: dict[NodeId, PoolId] = dict(books.pool_of)
        """Nodes that are there."""
        self.version = 0
        """Of `members`."""
        self.grown_version = -1
        """For which it was last looked whether groups can grow."""
        self.layouts: dict[GroupId, GroupLayout] = {}
        """Groups that work."""
        self.sizes: dict[GroupId, int] = {}
        """Devices of the groups of `layouts`..."""
        self.full = {name: group.mesh.devices for name, group in self.groups.items()}
        """...and of all groups when they are whole."""
        self.last: dict[GroupId, GroupLayout] = {}
        """How each group lay last, missing and starting ones included."""
        self.seat: dict[NodeId, Seat] = {}
        """Of the nodes of `last`."""
        self.present: dict[GroupId, int] = dict.fromkeys(self.groups, 0)
        """Members among the nodes that sit in each group."""
        self.spare: dict[PoolId, dict[NodeId, None]] = {pool: {} for pool in books.devices}
        """Members without a seat, by pool."""
        for node, pool in self.members.items():
            self.spare[pool][node] = None
        self.working: dict[PoolId, int] = {}
        """Devices that do what the work says: those of `layouts`, less what was found lost."""
        self.starting: dict[GroupId, GroupLayout] = {}
        """With `live`: groups that start beside the others..."""
        self.prepared: dict[GroupId, GroupLayout] = {}
        """...and those that only lack the others' state."""
        self.joining: dict[GroupId, None] = {}
        """Groups of `layouts` that are about to take the others' state."""
        self.incarnation = 0
        self.born: dict[GroupId, int] = {}
        """The incarnation that each group's processes were started for."""
        self._nodes_at_work: dict[PoolId, int] = dict.fromkeys(books.devices, 0)
        """Of the groups of `layouts`."""

    @property
    def beside(self) -> dict[GroupId, GroupLayout]:
        """Groups that start beside the others."""
        return {**self.starting, **self.prepared}

    @property
    def incomplete(self) -> dict[GroupId, Group]:
        """Groups that are missing or smaller than they are to be."""
        if self.sizes == self.full:
            return {}
        return {name: group for name, group in self.groups.items() if self.sizes.get(name) != self.full[name]}

    def works(self, node: NodeId) -> bool:
        seat = self.seat.get(node)
        return seat is not None and seat[0] in self.layouts

    def sits(self, node: NodeId, group: GroupId) -> bool:
        """Whether the node's seat is in this group. One that came back may have been taken by another."""
        seat = self.seat.get(node)
        return seat is not None and seat[0] == group

    def lose(self, node: NodeId, why: Idle, *, now_ns: int) -> None:
        """A member is gone. The time of working nodes was spent up to now."""
        seat, works = self.seat.get(node), self.works(node)
        pool = self.members.pop(node)
        self.spare[pool].pop(node, None)
        self.version += 1
        if seat is not None:
            self.present[seat[0]] -= 1
        if works:
            self.working[pool] -= self.books.devices[pool]
        self.books.put([node], why, now_ns=now_ns)
        if seat is not None and not works:
            self.count_missing(now_ns=now_ns)

    def welcome(self, node: NodeId, *, now_ns: int) -> None:
        """A node is there again. Where its group still waits for it, the time of working nodes was spent up to now."""
        pool = self.members[node] = self.books.pool_of[node]
        self.version += 1
        if node not in self.seat:
            self.spare[pool][node] = None
            self.books.put([node], "spare", now_ns=now_ns)
            return
        self.present[self.seat[node][0]] += 1
        self.books.employ([node], now_ns=now_ns)
        if self.works(node):
            self.working[pool] += self.books.devices[pool]
        self.count_missing(now_ns=now_ns)

    def lay(self, layouts: Sequence[GroupLayout], *, now_ns: int) -> None:
        """These groups work from now on, and no others."""
        before, idle = self.layouts, self.books.idle
        self.layouts = {layout.group: layout for layout in layouts}
        for name in before.keys() - self.layouts.keys():
            del self.sizes[name]
            self._nodes_at_work[before[name].pool] -= len(before[name].nodes)
        for name, layout in self.layouts.items():
            old = before.get(name)
            if old is not layout:
                self.sizes[name] = layout.world_size
                self._nodes_at_work[layout.pool] += len(layout.nodes) - (len(old.nodes) if old is not None else 0)
                self._take(layout, now_ns=now_ns)
                self.books.employ([node for node in layout.nodes if node in idle], now_ns=now_ns)
        self.working = {pool: nodes * self.books.devices[pool] for pool, nodes in self._nodes_at_work.items()}
        self.count_missing(now_ns=now_ns)

    def start_beside(self, layout: GroupLayout, *, now_ns: int) -> None:
        """A group starts while others work."""
        self.starting[layout.group] = layout
        self.born[layout.group] = self.incarnation
        self.books.employ(self._take(layout, now_ns=now_ns), now_ns=now_ns)
        self.count_missing(now_ns=now_ns)

    def count_missing(self, *, now_ns: int) -> None:
        """Nodes that are there and whose group is not among those that work."""
        found: dict[PoolId, int] = {}
        if len(self.layouts) < len(self.last):
            for name, layout in self.last.items():
                if name not in self.layouts:
                    found[layout.pool] = found.get(layout.pool, 0) + self.present[name]
        self.books.miss(found, now_ns=now_ns)

    def _take(self, layout: GroupLayout, *, now_ns: int) -> list[NodeId]:
        """A group lies so: who sat there before and is a member becomes a spare. Returns who took a place."""
        group, before = layout.group, self.last.get(layout.group)
        self.last[group] = layout
        old: tuple[NodeId, ...] = before.nodes if before is not None else ()
        seat, members, spare = self.seat, self.members, self.spare[layout.pool]
        stay = {
            node
            for node, was in zip(layout.nodes, old, strict=False)
            if node == was and seat.get(node, NOWHERE)[0] == group
        }
        for node in old:
            if node not in stay and self.sits(node, group):
                self._leave(node)
        fresh = []
        for place, node in enumerate(layout.nodes):
            if node not in stay:
                self._leave(node)
                seat[node] = (group, place)
                self.present[group] += node in members
                spare.pop(node, None)
                fresh.append(node)
        free = [node for node in old if node not in stay and node not in seat and node in members]
        spare.update(dict.fromkeys(free))
        self.books.put(free, "spare", now_ns=now_ns)
        return fresh

    def _leave(self, node: NodeId) -> None:
        """The node has its seat no more."""
        seat = self.seat.pop(node, None)
        if seat is not None:
            self.present[seat[0]] -= node in self.members

    def check(self) -> None:
        """Invariants."""
        idle = self.members.keys() & self.books.idle.keys()
        spare = {node for nodes in self.spare.values() for node in nodes}
        assert idle == spare, "members that no group has are spares"
        assert spare == self.members.keys() - self.seat.keys(), "spares have no seat"
        sitting = Counter(group for node, (group, _) in self.seat.items() if node in self.members)
        assert all(sitting[group] == present for group, present in self.present.items())
        assert all(self.last[group].nodes[place] == node for node, (group, place) in self.seat.items())
