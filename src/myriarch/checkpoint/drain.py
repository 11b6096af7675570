"""From memory to disk: the machine of the disk tier.

One drain at a time writes one group's complete copy of a committed snapshot into a folder of its own; when all shards
are written, one node writes the metadata and renames the folder into place, and only then is the checkpoint durable. A
drain that fails, or whose nodes are lost, is tried again from whatever is whole then, a bounded number of times; after
that it is given up, loudly, and training goes on. The folders of failed tries go with the next checkpoint that is made.

The snapshot being drained keeps its slots (the agents see to that); the next ones use what is left, or are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from myriarch.checkpoint.commit import Snapshot
from myriarch.checkpoint.restore import Durable, complete_copy
from myriarch.event.actions import AnyAction, DrainShards, FinishDrain, Reason, Warn
from myriarch.event.events import DrainFailed, ShardDrained, SnapshotDrained
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.event.layout import node_order

DRAIN_TRIES: Final = 3
"""Tries of one snapshot, the first included."""

DRAIN_LIMIT_S: Final = 600.0
"""A try that takes longer lost a message and counts as failed. Ten minutes, PyTorch's default for collectives."""


class DrainJob(msgspec.Struct, kw_only=True):
    """A drain under way."""

    snapshot: Snapshot
    final: bool
    attempt: int
    deadline_s: float
    path: str
    waiting: dict[NodeId, None]
    """Nodes that are still writing; empty: `finisher` is at work."""
    writers: dict[NodeId, None]
    """All nodes of this try."""
    finisher: NodeId
    failed_on: dict[NodeId, None] = {}
    """Nodes on which an earlier try failed: others are asked if they can."""


class Drain(msgspec.Struct, kw_only=True):
    """What is on disk, what is being written, what comes next."""

    root: str
    """Folder of the run's durable checkpoints."""
    keep: int
    """How many checkpoints stay there."""
    durable: list[Durable] = []
    """On disk and known, oldest first. The last one is what a restore takes."""
    job: DrainJob | None = None
    queued: Snapshot | None = None
    """The run's last snapshot, which waits for the drain under way."""
    rubbish: list[str] = []
    """Folders of failed tries, to be deleted with the next checkpoint that is made."""
    tries: int = 0
    """Folders begun, so that no two tries share one."""
    failed: str = ""
    """Why the newest drain that was asked for was given up; empty when it was not."""

    @property
    def newest(self) -> Durable | None:
        """The newest durable checkpoint."""
        return self.durable[-1] if self.durable else None

    @property
    def busy(self) -> bool:
        """Whether something is being written or waits for it."""
        return self.job is not None or self.queued is not None

    @property
    def deadline_s(self) -> float | None:
        """When the try under way is over."""
        return self.job.deadline_s if self.job is not None else None

    def start(self, snapshot: Snapshot, *, final: bool, now_s: float) -> list[AnyAction]:
        """Make this committed snapshot durable. Only the final one waits for a drain under way; others give way."""
        if self.newest is not None and self.newest.step >= snapshot.step:
            return []
        if self.job is not None and self.job.snapshot.step == snapshot.step:
            self.job.final |= final
            return []
        if self.job is not None and final:
            self.queued = snapshot
            return []
        if self.job is not None:
            text = f"step {snapshot.step} is not written to disk: step {self.job.snapshot.step} is still being written"
            return [Warn(reason=Reason(text=text, numbers={"since_try": self.job.attempt}))]
        self.failed = ""
        return self._begin(snapshot, final=final, attempt=1, now_s=now_s)

    def written(self, event: ShardDrained, *, now_s: float) -> list[AnyAction]:
        """A node wrote its shards."""
        job = self.job
        if job is None or not self._is_of(event.step, event.incarnation) or event.node not in job.waiting:
            return []
        del job.waiting[event.node]
        if job.waiting:
            return []
        job.deadline_s = now_s + DRAIN_LIMIT_S
        stay = (
            [one for one in self.durable if one.step != job.snapshot.step][-(self.keep - 1) :] if self.keep > 1 else []
        )
        delete = [one.path for one in self.durable if one not in stay] + self.rubbish
        text = f"all {len(job.writers)} nodes wrote their shards of step {job.snapshot.step}"
        return [
            FinishDrain(
                node=job.finisher,
                step=job.snapshot.step,
                incarnation=job.snapshot.incarnation,
                path=job.path,
                final_path=checkpoint_path(self.root, job.snapshot.step),
                delete_paths=tuple(delete),
                reason=Reason(text=text, numbers={"kept": len(stay) + 1, "deleted": len(delete)}),
            )
        ]

    def finished(self, event: SnapshotDrained, *, now_s: float) -> list[AnyAction]:
        """The folder is in place: the checkpoint is durable."""
        job = self.job
        if job is None or not self._is_of(event.step, event.incarnation):
            return []
        stay = [one for one in self.durable if one.step != event.step]
        self.durable = [*stay, Durable(step=event.step, path=event.path)][-self.keep :]
        self.rubbish = []
        self.job = None
        return self._next(now_s)

    def fail(self, event: DrainFailed, *, now_s: float) -> list[AnyAction]:
        """A node could not write."""
        if self.job is None or not self._is_of(event.step, event.incarnation) or event.node not in self.job.writers:
            return []
        self.job.failed_on[event.node] = None
        return self._again(f"{event.node}: {event.why}", now_s)

    def lose(self, node: NodeId, *, now_s: float) -> list[AnyAction]:
        """A node is gone. `Snapshots` has forgotten what it held, and so has the snapshot of the job."""
        job = self.job
        if job is None:
            return []
        for held in job.snapshot.holders.values():
            held.pop(node, None)
        if node in job.waiting or (not job.waiting and node == job.finisher):
            return self._again(f"{node} was lost while it wrote", now_s)
        return []

    def expire(self, *, now_s: float) -> list[AnyAction]:
        """The try under way takes too long."""
        if self.job is None or now_s < self.job.deadline_s:
            return []
        return self._again(f"nothing was heard of it for {DRAIN_LIMIT_S:.0f} s", now_s)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _is_of(self, step: Step, incarnation: Incarnation) -> bool:
        job = self.job
        return job is not None and (step, incarnation) == (job.snapshot.step, job.snapshot.incarnation)

    def _begin(
        self, snapshot: Snapshot, *, final: bool, attempt: int, now_s: float, failed_on: Iterable[NodeId] = ()
    ) -> list[AnyAction]:
        avoided = dict.fromkeys(failed_on)
        sources = complete_copy(snapshot, without=avoided) or complete_copy(snapshot)
        if sources is None:
            return self._give_up(snapshot, final, "no group's copy of it is whole in memory")
        by_node: dict[NodeId, list[tuple[GroupId, Rank]]] = {}
        for source in sources:
            by_node.setdefault(source.node, []).append((source.shard.group, source.shard.rank))
        nodes = sorted(by_node, key=node_order)
        self.tries += 1
        path = f"{checkpoint_path(self.root, snapshot.step)}.partial-{self.tries}"
        self.job = DrainJob(
            snapshot=snapshot,
            final=final,
            attempt=attempt,
            deadline_s=now_s + DRAIN_LIMIT_S,
            path=path,
            waiting=dict.fromkeys(nodes),
            writers=dict.fromkeys(nodes),
            finisher=nodes[0],
            failed_on=avoided,
        )
        group = sources[0].shard.group
        kind = "the run's last snapshot is" if final else "a snapshot is due on disk,"
        text = f"{kind} step {snapshot.step}: group {group} has a whole copy"
        numbers = {"try": attempt, "nodes": len(nodes), "size_bytes": sum(one.shard.size_bytes for one in sources)}
        return [
            DrainShards(
                node=node,
                step=snapshot.step,
                incarnation=snapshot.incarnation,
                shards=tuple(by_node[node]),
                path=path,
                reason=Reason(text=text, numbers={**numbers}),
            )
            for node in nodes
        ]

    def _again(self, why: str, now_s: float) -> list[AnyAction]:
        assert self.job is not None
        job, self.job = self.job, None
        self.rubbish.append(job.path)
        if job.attempt < DRAIN_TRIES and complete_copy(job.snapshot) is not None:
            return self._begin(
                job.snapshot, final=job.final, attempt=job.attempt + 1, now_s=now_s, failed_on=job.failed_on
            )
        return [*self._give_up(job.snapshot, job.final, why, attempt=job.attempt), *self._next(now_s)]

    def _give_up(self, snapshot: Snapshot, final: bool, why: str, *, attempt: int = 1) -> list[AnyAction]:
        self.failed = f"step {snapshot.step} could not be written to disk: {why}"
        return [Warn(reason=Reason(text=self.failed, numbers={"tries": attempt, "final": int(final)}))]

    def _next(self, now_s: float) -> list[AnyAction]:
        if self.queued is None:
            return []
        snapshot, self.queued = self.queued, None
        return self.start(snapshot, final=True, now_s=now_s)

    def check(self) -> None:
        """Invariants."""
        steps = [one.step for one in self.durable]
        assert steps == sorted(set(steps)), "durable checkpoints are in order, each once"
        assert len(steps) <= max(self.keep, 1)
        if self.job is not None:
            assert self.job.attempt <= DRAIN_TRIES
            assert self.job.waiting.keys() <= self.job.writers.keys()
            assert self.job.finisher in self.job.writers
        assert self.queued is None or self.job is not None, "nothing waits for nothing"


def checkpoint_path(root: str, step: int) -> str:
    """The folder of the durable checkpoint of `step`. Names sort by step."""
    return f"{root}/step-{step:08d}"
