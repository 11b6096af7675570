"""The workers of the present incarnation: where they sit and how far they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from myriarch.event.actions import BridgeEndpoint, GroupShare
from myriarch.event.events import WorkerHeld, WorkerReady
from myriarch.event.ids import GroupId, Incarnation, NodeId, Step
from myriarch.event.layout import GroupLayout, ShardKey, node_order

WorkerState = Literal["launched", "forked", "ready", "stepping", "held", "gone"]
"""`launched` -> `forked` -> `ready` -> `stepping` -> `held`, or `gone` at any time."""


class Worker(msgspec.Struct, kw_only=True):
    """One worker."""

    node: NodeId
    device_index: int
    since: Incarnation
    """The one that its process was forked for. Later ones may have kept it."""
    state: WorkerState = "launched"
    pid: int | None = None
    dead: bool = False
    """Its process is known to be gone; a worker can be given up while its process still is there."""
    lived: bool = False
    """Its process was ready once, in this incarnation or an earlier one: it can be told to rejoin."""
    endpoint: BridgeEndpoint | None = None
    digest: str = ""
    step: Step | None = None
    """Of which its state was when it was ready."""
    held_step: Step | None = None

    def ready(self, event: WorkerReady) -> None:
        """It has its model, its group and its state."""
        self.state, self.lived, self.digest, self.step = "ready", True, event.digest, event.step
        self.endpoint = BridgeEndpoint(
            group=event.group, rank=event.rank, host=event.bridge_host, port=event.bridge_port
        )


class Crew(msgspec.Struct, kw_only=True):
    """The groups of the present incarnation and their workers."""

    incarnation: Incarnation = Incarnation(0)
    step: Step = Step(0)
    """The step that the incarnation goes on from. Where groups keep their state it is the newest that is known to be
    done until all are ready: they say which it is."""
    keeps: tuple[GroupId, ...] = ()
    """Groups that go on from the state that they have."""
    layouts: dict[GroupId, GroupLayout] = {}
    """Groups of the present incarnation, in the order of the run file."""
    last: dict[GroupId, GroupLayout] = {}
    """How each group lay when it was last formed, those included that are missing now."""
    group_of: dict[NodeId, GroupId] = {}
    """Which group each node was last given to. One that was lost may be back, and another group may have it since."""
    workers: dict[ShardKey, Worker] = {}
    """Exactly the seats of `layouts`."""
    on_node: dict[NodeId, list[ShardKey]] = {}
    unready: int = 0
    """Workers in `launched` or `forked`, or gone before they were ready."""
    held_at: dict[Step, int] = {}
    """Workers in `held`, by the step that they stopped after: one step, if all is well."""
    finished: bool = False
    """Some worker held because the run's last step is done."""
    shares: tuple[GroupShare, ...] = ()
    """Of the present incarnation, once it steps."""

    def begin(
        self,
        incarnation: Incarnation,
        *,
        step: Step,
        layouts: Iterable[GroupLayout],
        kept: Iterable[GroupId],
        keeps: Collection[GroupId] = (),
        joined: Mapping[ShardKey, Worker] | None = None,
    ) -> None:
        """A new incarnation. Workers of `kept` groups are the same processes: those that were here, or `joined`."""
        old, stay = {**self.workers, **(joined or {})}, set(kept)
        self.incarnation, self.step, self.keeps = incarnation, step, tuple(keeps)
        self.layouts = {layout.group: layout for layout in layouts}
        self.give(self.layouts.values())
        self.workers, self.on_node = {}, {}
        for layout in self.layouts.values():
            for key, node in layout.seats():
                worker = Worker(node=node, device_index=layout.device_of(key[1]), since=incarnation)
                if layout.group in stay:
                    worker.pid, worker.lived, worker.state = old[key].pid, True, "forked"
                    worker.since = old[key].since
                self.workers[key] = worker
                self.on_node.setdefault(node, []).append(key)
        self.unready, self.held_at, self.finished, self.shares = len(self.workers), {}, False, ()

    def give(self, layouts: Iterable[GroupLayout]) -> None:
        """Groups lie so: their nodes are theirs."""
        for layout in layouts:
            self.last[layout.group] = layout
            self.group_of.update(dict.fromkeys(layout.nodes, layout.group))

    def forked(self, key: ShardKey, pid: int) -> None:
        """Its process is there."""
        worker = self.workers[key]
        worker.pid = pid
        if worker.state == "launched":
            worker.state = "forked"

    def ready(self, event: WorkerReady) -> None:
        """It has its model, its group and its state."""
        worker = self.workers[event.group, event.rank]
        if worker.state not in ("launched", "forked"):
            return
        worker.ready(event)
        self.unready -= 1

    def stands(self) -> dict[GroupId, tuple[Step, ...]]:
        """Once all are ready: of which step each group's state is; several, where its workers disagree."""
        found: dict[GroupId, dict[Step, None]] = {}
        for (group, _), worker in self.workers.items():
            assert worker.step is not None, "all are ready"
            found.setdefault(group, {})[worker.step] = None
        return {group: tuple(steps) for group, steps in found.items()}

    def start(self, shares: tuple[GroupShare, ...]) -> None:
        """All are ready: they step."""
        self.shares = shares
        for worker in self.workers.values():
            if worker.state == "ready":
                worker.state = "stepping"

    def hold(self, event: WorkerHeld) -> None:
        """It stopped between steps."""
        worker = self.workers[event.group, event.rank]
        if worker.state != "stepping":
            return
        worker.state, worker.held_step = "held", event.step
        self.held_at[event.step] = self.held_at.get(event.step, 0) + 1
        self.finished |= event.finished

    def lose(self, key: ShardKey, *, dead: bool) -> bool:
        """It does no more work, and with `dead` its process is gone. False when it was lost already."""
        worker = self.workers[key]
        worker.dead |= dead
        if worker.state == "gone":
            return False
        if worker.held_step is not None:
            self.held_at[worker.held_step] -= 1
            worker.held_step = None
        worker.state = "gone"
        return True

    @property
    def all_held(self) -> bool:
        """Whether everybody stopped between steps."""
        return bool(self.workers) and sum(self.held_at.values()) == len(self.workers)

    def whole(self, layout: GroupLayout) -> bool:
        """Whether the group lies as it did and every process of it lives and can be told to rejoin."""
        return self.layouts.get(layout.group) == layout and all(
            worker.lived and worker.state != "gone" for key in layout.shard_keys() for worker in [self.workers[key]]
        )

    def healthy(self, *, forming: bool) -> list[GroupLayout]:
        """Groups of which nobody is lost. While the incarnation is `forming`, those forked for it do not count yet."""
        new = self.incarnation if forming else None
        return [
            layout
            for layout in self.layouts.values()
            if self.whole(layout) and all(self.workers[key].since != new for key in layout.shard_keys())
        ]

    def alive_of(self, group: GroupId) -> Iterator[tuple[NodeId, ShardKey]]:
        """Workers of a group of the present incarnation whose processes are not known to be gone."""
        layout = self.layouts.get(group)
        if layout is not None:
            for key, node in layout.seats():
                if not self.workers[key].dead:
                    yield node, key

    def nodes(self) -> tuple[NodeId, ...]:
        """Nodes that have workers."""
        return tuple(sorted(self.on_node, key=node_order))

    def digests(self) -> dict[GroupId, str]:
        """Sum of each group's digests, in hex; groups that did not all give one are left out."""
        sums: dict[GroupId, str] = {}
        for group, layout in self.layouts.items():
            parts = [self.workers[key].digest for key in layout.shard_keys()]
            if all(parts):
                sums[group] = f"{sum(int(part, 16) for part in parts) % (1 << 64):016x}"
        return sums

    def check(self) -> None:
        """Invariants."""
        seats = [key for layout in self.layouts.values() for key in layout.shard_keys()]
        assert list(self.workers) == seats, "workers are exactly the seats of the layouts"
        places = [(worker.node, worker.device_index) for worker in self.workers.values()]
        assert len(set(places)) == len(places), "a device is in one place"
        for key, worker in self.workers.items():
            assert key in self.on_node[worker.node]
            assert worker.since <= self.incarnation
            assert (worker.held_step is not None) == (worker.state == "held")
            assert worker.endpoint is not None or worker.state in ("launched", "forked", "gone")
            assert worker.step == self.step or worker.state not in ("stepping", "held"), "who steps began as all did"
        for step, count in self.held_at.items():
            assert count == sum(worker.held_step == step for worker in self.workers.values()), "who is held is counted"
        early = sum(worker.state in ("launched", "forked") for worker in self.workers.values())
        assert early <= self.unready <= len(self.workers), "who is not ready is counted"
        assert all(group in self.layouts for group in self.keeps)
        for layout in self.layouts.values():
            assert len(set(layout.nodes)) == len(layout.nodes), "a node has one place in a group"
