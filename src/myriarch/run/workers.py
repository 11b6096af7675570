"""The workers of one node, by group and rank."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from myriarch.event.actions import StartSteps, WorkerPlan
from myriarch.event.events import RunningWorker, WorkerExited
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.run.fetch import Fetcher
from myriarch.run.node import Node
from myriarch.run.replicate import Replicator
from myriarch.run.worker import END_LIMIT_S, Key, Worker
from myriarch.wire.worker import Go, Hold, SlotFree


class WorkerTable:
    """The node's workers by group and rank; at most one of each."""

    def __init__(self, node: Node, *, fetcher: Fetcher, replicator: Replicator) -> None:
        self._node = node
        self._fetcher = fetcher
        self._replicator = replicator
        self._workers: dict[Key, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter([worker for worker in self._workers.values() if not worker.ended.is_set()])

    def running(self) -> tuple[RunningWorker, ...]:
        """For `NodeJoined`: those that are alive or about to be."""
        return tuple(
            RunningWorker(group=w.plan.group, rank=w.plan.rank, incarnation=w.plan.incarnation, pid=w.pid)
            for w in self
            if not w.ordered_to_end
        )

    def pids_of(self, device: int) -> list[int]:
        """Processes on a device."""
        return [worker.pid for worker in self if worker.pid and worker.plan.device_index == device]

    def find(self, group: GroupId, rank: Rank) -> Worker | None:
        worker = self._workers.get((group, rank))
        return None if worker is None or worker.ended.is_set() else worker

    def launch(self, plan: WorkerPlan) -> None:
        """Start a worker, after whichever has its name or its device has ended."""
        before = [w for w in self if w.key == (plan.group, plan.rank) or w.plan.device_index == plan.device_index]
        for worker in before:
            worker.stop()
        new = Worker(plan, node=self._node, fetcher=self._fetcher, replicator=self._replicator)
        self._workers[new.key] = new
        new.start(before)

    def rejoin(self, plan: WorkerPlan) -> None:
        """Tell a living worker; one that is not there is reported as lost."""
        worker = self.find(plan.group, plan.rank)
        if worker is not None and not worker.ordered_to_end:
            worker.rejoin(plan)
            return
        self._node.link.report(
            WorkerExited(
                node=self._node.id, group=plan.group, rank=plan.rank, incarnation=plan.incarnation, cause="exit",
                detail="it is not running on this node",
            )
        )  # fmt: skip

    def stop(self, keys: Iterable[Key]) -> None:
        for group, rank in keys:
            if (worker := self.find(group, rank)) is not None:
                worker.stop()

    def go(self, action: StartSteps) -> None:
        """Everybody of this incarnation steps."""
        message = Go(
            incarnation=action.incarnation, start_step=action.start_step, shares=action.shares,
            endpoints=action.endpoints, memory_every_steps=action.memory_every_steps,
        )  # fmt: skip
        for worker in self._of(action.incarnation):
            worker.tell(message)

    def hold(self, incarnation: Incarnation) -> None:
        for worker in self._of(incarnation):
            worker.tell(Hold())

    def slot_free(self, group: GroupId, rank: Rank, *, committed: int, step: Step) -> None:
        if (worker := self.find(group, rank)) is not None and worker.attached:
            worker.tell(SlotFree(committed=committed, step=step))

    async def end_all(self, *, gently_s: float) -> None:
        """End every worker and wait until they are gone; gently for so long, then by force."""
        living = list(self)
        for worker in living:
            worker.dismiss() if gently_s > 0 else worker.stop()
        waits = [asyncio.create_task(worker.ended.wait()) for worker in living]
        if waits and gently_s > 0:
            await asyncio.wait(waits, timeout=gently_s)
        for worker in living:
            worker.stop()
        if waits:
            await asyncio.wait(waits, timeout=END_LIMIT_S)

    def _of(self, incarnation: Incarnation) -> list[Worker]:
        return [worker for worker in self if worker.plan.incarnation == incarnation and not worker.ordered_to_end]
