"""Steps of all groups together, and what happens to them when somebody dies."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from myriarch.event.actions import GroupShare, Keep, StartSteps
from myriarch.event.events import StepCompleted, WorkerExited, WorkerHeld
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.event.spans import Leaf
from myriarch.simulate.node import SimNode, SimWorker, Stride
from myriarch.units import NS_PER_S

if TYPE_CHECKING:
    from myriarch.simulate.work import Work
    from myriarch.simulate.world import World


class Stepping:
    """Lets the present incarnation step."""

    def __init__(self, world: World, work: Work) -> None:
        self.world = world
        self.work = work
        self.stride: Stride | None = None
        self._start: StartSteps | None = None
        self._started: dict[str, None] = {}
        """Nodes that the present `StartSteps` has reached."""
        self._begun_ns = 0

    # --- start and stop ---------------------------------------------------------------------------------------------

    def start(self, node: SimNode, action: StartSteps) -> None:
        """`StartSteps` reached a node. Workers step once it has reached all: the first merge waits for the last."""
        if self._start is None or self._start.incarnation < action.incarnation:
            self._start, self._started = action, {}
            self.stride = Stride(incarnation=action.incarnation, step=action.start_step)
        if self.stride is None or self._start.incarnation != action.incarnation:
            return
        self._started[node.name] = None
        for worker in node.workers.values():
            if worker.incarnation == action.incarnation and worker.state == "ready":
                worker.state = "stepping"
                self.stride.workers[worker.key] = worker
        if len(self._started) == len(action.nodes):
            whole = sum(share.world_size for share in action.shares)
            self.stride.broken |= len(self.stride.workers) < whole
            self._begin_step()

    def resume(self, action: StartSteps, stride: Stride, *, begun_ns: int, late: Collection[GroupId]) -> None:
        """Go on in the middle of steps: `stride.step` are done, and the next one began at an instant.

        `late` are groups that have not said yet that they completed the newest one. Workers of the shares that the
        stride lacks are dead: what follows from that is on its way.
        """
        self._start, self._started, self.stride = action, dict.fromkeys(action.nodes), stride
        for share in action.shares:
            present = sum(1 for group, _ in stride.workers if group == share.group)
            if present < share.world_size:
                stride.broken = True
                self._doom(stride, share.group)
        if stride.broken:
            return
        self._begun_ns = begun_ns
        stride.compute_s = self._compute_s(stride)
        for share in action.shares:
            if share.group in late:
                self._report_step(stride, share, duration_s=max(stride.compute_s.values()))
        finished = stride.step >= self.world.resolved.run.steps
        stopped = any(worker.state == "held" for worker in stride.workers.values())
        stride.holding |= stopped
        due = stride.step > action.start_step and stride.step % action.memory_every_steps == 0
        if finished or stopped or (due and self.work.saving.unsaved(stride)):
            self._after_step(stride, finished=finished)
        else:
            step_s = max(stride.compute_s.values()) + self.world.timing.bridge_s
            self.world.clock.at(begun_ns + round(step_s * NS_PER_S), partial(self._end_step, stride))

    def hold(self, incarnation: Incarnation) -> None:
        """Some worker was asked to hold: its flag reaches all with the next merge."""
        if self.stride is not None and self.stride.incarnation == incarnation:
            self.stride.holding = True

    def lost(self, worker: SimWorker) -> None:
        """A worker died. Its group's collectives fail; other groups wait for word from their agents."""
        stride = self.stride
        if stride is None or stride.workers.get(worker.key) is not worker:
            return
        stride.broken = True
        del stride.workers[worker.key]
        if worker.state != "held":
            self._doom(stride, worker.key[0])

    def leave(self, worker: SimWorker) -> None:
        """A worker goes over to another incarnation."""
        stride = self.stride
        if stride is not None and stride.workers.get(worker.key) is worker:
            stride.broken = True
            worker.step = stride.step
            del stride.workers[worker.key]

    def raise_in(self, worker: SimWorker, detail: str) -> None:
        """A worker's script raises."""
        self._exit(worker, "user_error", detail)

    def _doom(self, stride: Stride, group: GroupId) -> None:
        """The collectives of a group are about to fail."""
        if group not in stride.failing:
            stride.failing.add(group)
            self.world.clock.after(self.world.timing.collective_s, partial(self._fail, stride, group))

    def _fail(self, stride: Stride, group: GroupId) -> None:
        for peer in [one for one in stride.workers.values() if one.key[0] == group]:
            if peer.able and peer.incarnation == stride.incarnation and peer.state == "stepping":
                self._exit(peer, "collective_error", "connection closed by peer")

    def _exit(self, worker: SimWorker, cause: str, detail: str) -> None:
        node, key, incarnation = worker.node, worker.key, worker.incarnation
        self.work.kill(worker, code=1, told=False)
        gone = WorkerExited(
            node=node.name,
            group=key[0],
            rank=key[1],
            incarnation=incarnation,
            cause="user_error" if cause == "user_error" else "collective_error",
            detail=detail,
        )
        self.world.clock.after(self.world.timing.exit_s, partial(self.world.report, node, gone))

    # --- steps ------------------------------------------------------------------------------------------------------

    def _begin_step(self) -> None:
        stride = self.stride
        assert stride is not None
        self._begun_ns = self.world.clock.now_ns
        if stride.step >= self.world.resolved.run.steps:
            if any(isinstance(worker.plan.restore, Keep) for worker in stride.workers.values()):
                self._after_step(stride, finished=True)  # what they have kept is nowhere saved
            else:
                self._hold_all(stride, finished=True)
            return
        stride.compute_s = self._compute_s(stride)
        step_s = max(stride.compute_s.values()) + self.world.timing.bridge_s
        self.world.clock.after(step_s, partial(self._end_step, stride))

    def _compute_s(self, stride: Stride) -> dict[GroupId, float]:
        """Each group's own forward and backward: as slow as its slowest device."""
        slowest_s: dict[GroupId, float] = {}
        for key, worker in stride.workers.items():
            device_s = self.world.timing.device_sequence_s(worker.node.pool) / worker.node.speed
            slowest_s[key[0]] = max(slowest_s.get(key[0], 0.0), device_s)
        return {
            share.group: share.count * slowest_s.get(share.group, 0.0) / share.world_size for share in self._shares()
        }

    def _shares(self) -> tuple[GroupShare, ...]:
        assert self._start is not None
        return self._start.shares

    def _end_step(self, stride: Stride) -> None:
        if stride is not self.stride or stride.broken or not all(worker.able for worker in stride.workers.values()):
            return
        begun_ns, now_ns = self._begun_ns, self.world.clock.now_ns
        duration_s = (now_ns - begun_ns) / NS_PER_S
        before, stride.step = stride.step, Step(stride.step + 1)
        self._account_step(stride, before, begun_ns, now_ns)
        for share in self._shares():
            self._report_step(stride, share, duration_s=duration_s)
        finished = stride.step >= self.world.resolved.run.steps
        self._after_step(stride, finished=finished)

    def _report_step(self, stride: Stride, share: GroupShare, *, duration_s: float) -> None:
        """A group's rank 0 says that the newest step is done."""
        tokens = self.world.resolved.run.batch.sequences * self.world.resolved.model.context_tokens
        event = StepCompleted(
            group=share.group,
            incarnation=stride.incarnation,
            step=stride.step,
            loss_sum=tokens * loss_after(stride.step),
            tokens=tokens,
            group_tokens=share.count * self.world.resolved.model.context_tokens,
            duration_s=duration_s,
            compute_s=round(stride.compute_s[share.group], 9),
        )
        self.world.report(stride.workers[share.group, Rank(0)].node, event)

    def _after_step(self, stride: Stride, *, finished: bool) -> None:
        """Snapshot if it is due; then stop or go on."""
        assert self._start is not None
        stop = finished or stride.holding
        stall_s = 0.0
        if stop or stride.step % self._start.memory_every_steps == 0:
            workers = self.work.saving.unsaved(stride)
            stall_s = max((self.work.saving.snapshot(one, stride.step, final=stop) for one in workers), default=0.0)
        if stop:
            self.world.clock.after(stall_s, partial(self._hold_if_whole, stride, finished))
        else:
            self.world.clock.after(stall_s, partial(self._next_step, stride))

    def _next_step(self, stride: Stride) -> None:
        if stride is self.stride and not stride.broken:
            self._begin_step()

    def _hold_if_whole(self, stride: Stride, finished: bool) -> None:
        if stride is self.stride:
            self._hold_all(stride, finished=finished)

    def _hold_all(self, stride: Stride, *, finished: bool) -> None:
        for worker in list(stride.workers.values()):
            if worker.able and worker.state == "stepping":
                worker.state = "held"
                event = WorkerHeld(
                    node=worker.node.name,
                    group=worker.key[0],
                    rank=worker.key[1],
                    incarnation=stride.incarnation,
                    step=stride.step,
                    finished=finished,
                )
                self.world.report(worker.node, event)

    def _account_step(self, stride: Stride, step: Step, start_ns: int, end_ns: int) -> None:
        if not self.world.accounts:
            return
        bridge_ns = round(self.world.timing.bridge_s * NS_PER_S)
        for worker in stride.workers.values():
            compute_ns = start_ns + round(stride.compute_s[worker.key[0]] * NS_PER_S)
            merge_ns = max(compute_ns, end_ns - bridge_ns)
            device = worker.plan.device_index
            parts: tuple[tuple[Leaf, int, int], ...] = (
                ("useful_compute", start_ns, min(compute_ns, end_ns)),
                ("straggler_wait", compute_ns, merge_ns),
                ("exposed_comm", merge_ns, end_ns),
            )
            for leaf, begin, end in parts:
                self.work.spend(
                    worker.node, worker.key, device, leaf, begin, end, incarnation=stride.incarnation, step=step
                )


def loss_after(step: int) -> float:
    """A loss curve: the same for the same step, whoever computes it."""
    return 1.2 + 4.3 / math.sqrt(1 + step / 12)
