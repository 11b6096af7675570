"""Groups that start beside the others (`recovery.healthy_groups: go_on`).

A group that was hit, or whose nodes are back, is started while the others step. Its workers meet, build their model and
their initial weights, and say that they are ready; then they only lack the others' state. All stop together after a
step, with a snapshot of it, and the group takes that over in the next incarnation.

A group starts for the incarnation that is present then, and never twice for the same one: what its processes left
behind in the rendezvous of an earlier start is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from myriarch.control.crew import Worker
from myriarch.event.events import WorkerReady
from myriarch.event.ids import GroupId, Incarnation, NodeId
from myriarch.event.layout import GroupLayout, ShardKey


class Start(msgspec.Struct, kw_only=True):
    """One group on its way."""

    layout: GroupLayout
    since: Incarnation
    """The incarnation that it was started beside."""
    limit_s: float
    """When it has taken too long."""
    workers: dict[ShardKey, Worker]
    """Exactly the seats of `layout`: `launched` -> `forked` -> `ready`, or `gone`."""

    @property
    def prepared(self) -> bool:
        """Whether it only lacks the others' state."""
        return all(worker.state == "ready" for worker in self.workers.values())

    @property
    def hit(self) -> bool:
        """Whether somebody of it was lost."""
        return any(worker.state == "gone" for worker in self.workers.values())


class Beside(msgspec.Struct, kw_only=True):
    """All groups that start beside the others. None of them is in the present incarnation."""

    starts: dict[GroupId, Start] = {}

    def begin(self, layouts: Iterable[GroupLayout], *, since: Incarnation, limit_s: float) -> None:
        """These groups start."""
        for layout in layouts:
            workers = {
                key: Worker(node=node, device_index=layout.device_of(key[1]), since=since)
                for key, node in layout.seats()
            }
            self.starts[layout.group] = Start(layout=layout, since=since, limit_s=limit_s, workers=workers)

    def take_in(self, layout: GroupLayout, workers: dict[ShardKey, Worker], *, limit_s: float) -> None:
        """A group of the present incarnation, of which all are ready, is to take the others' state."""
        since = next(iter(workers.values())).since
        self.starts[layout.group] = Start(layout=layout, since=since, limit_s=limit_s, workers=workers)

    def leave(self, groups: Iterable[GroupId]) -> dict[GroupId, Start]:
        """These do not start beside the others any more: they join them, or begin anew."""
        return {group: self.starts.pop(group) for group in groups if group in self.starts}

    def find(self, key: ShardKey) -> Worker | None:
        """The worker in this seat."""
        start = self.starts.get(key[0])
        return start.workers.get(key) if start is not None else None

    def on_node(self, node: NodeId) -> tuple[ShardKey, ...]:
        """Who starts there."""
        return tuple(key for start in self.starts.values() for key, seat in start.layout.seats() if seat == node)

    def nodes(self) -> Iterator[NodeId]:
        """Everybody's, once for each group."""
        for start in self.starts.values():
            yield from start.layout.nodes

    def forked(self, key: ShardKey, pid: int) -> None:
        """Its process is there."""
        worker = self.starts[key[0]].workers[key]
        worker.pid = pid
        if worker.state == "launched":
            worker.state = "forked"

    def ready(self, event: WorkerReady) -> None:
        """It has met its group and built its model."""
        worker = self.starts[event.group].workers[event.group, event.rank]
        if worker.state in ("launched", "forked"):
            worker.ready(event)

    def lose(self, key: ShardKey, *, dead: bool) -> bool:
        """It does no more work, and with `dead` its process is gone. False when it was lost already."""
        worker = self.starts[key[0]].workers[key]
        worker.dead |= dead
        new = worker.state != "gone"
        worker.state = "gone"
        return new

    def whole(self, layout: GroupLayout) -> bool:
        """Whether the group has started as it is to lie, and its workers can be told to rejoin."""
        start = self.starts.get(layout.group)
        return start is not None and start.layout == layout and start.prepared

    def alive(self, groups: Iterable[GroupId]) -> Iterator[tuple[NodeId, ShardKey]]:
        """Workers of these groups whose processes are not known to be gone."""
        for group in groups:
            if group in self.starts:
                for key, worker in self.starts[group].workers.items():
                    if not worker.dead:
                        yield worker.node, key

    @property
    def prepared(self) -> tuple[GroupId, ...]:
        """Groups that only lack the others' state."""
        return tuple(group for group, start in self.starts.items() if start.prepared)

    @property
    def hit(self) -> tuple[GroupId, ...]:
        """Groups that lost somebody on their way."""
        return tuple(group for group, start in self.starts.items() if start.hit)

    @property
    def deadline_s(self) -> float | None:
        """When the first of them has taken too long."""
        return min((start.limit_s for start in self.starts.values() if not (start.prepared or start.hit)), default=None)

    def late(self, now_s: float) -> list[ShardKey]:
        """Workers that are not ready although their group's time is over."""
        return [
            key
            for start in self.starts.values()
            if now_s >= start.limit_s and not start.hit
            for key, worker in start.workers.items()
            if worker.state != "ready"
        ]

    def check(self) -> None:
        """Invariants."""
        for group, start in self.starts.items():
            assert group == start.layout.group
            assert list(start.workers) == list(start.layout.shard_keys()), "workers are exactly the seats"
            assert all(worker.since == start.since for worker in start.workers.values())
        nodes = list(self.nodes())
        assert len(set(nodes)) == len(nodes), "a node starts one group"
