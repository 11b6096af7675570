"""Strictly in order: nobody starts before who is ahead. By arrival it is first come first served; by estimate, SJF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from myriarch.schedule.decision import Decision, Placement, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Machine
from myriarch.schedule.order import ARRIVAL, Order
from myriarch.schedule.queue import Queue
from myriarch.schedule.scheduler import refusal


@final
class InOrder:
    """The first in the queue starts as soon as it fits; until then all others wait."""

    wake_s = float("inf")

    def __init__(self, machine: Machine, *, order: Order = ARRIVAL) -> None:
        self.machine = machine
        self._queue = Queue(machine, order)

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._queue.line.count

    @property
    def head(self) -> Job | None:
        """Who is first."""
        return self._queue.line.job(self._queue.head()) if self._queue.line.count else None

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        if refused := refusal(self.machine, job, now_s=now_s):
            return (refused,)
        came_back = self.machine.expire(now_s=now_s)
        at = self._queue.append(job, now_s=now_s)
        if came_back or self._queue.refresh(now_s=now_s) or self._queue.head() == at:
            return self._pass(now_s)
        return ()

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        came_back = self.machine.expire(now_s=now_s)
        came_back |= self._queue.end(job, now_s=now_s)
        self._queue.refresh(now_s=now_s)
        return self._pass(now_s) if came_back else ()

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """Nothing to do."""
        return ()

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone: its jobs go on from what they saved on other nodes, or wait again where they stood."""
        return [*self._queue.lose(pool, node, now_s=now_s), *self._pass(now_s)]

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        self._queue.regain(pool, node)
        return self._pass(now_s)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone: nobody whose estimate reaches into that starts there."""
        self._queue.drain(pool, node, from_s=from_s, now_s=now_s)
        return ()

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on at once on other devices of its pool, which are free or its own."""
        return self._queue.move(job, placement, now_s=now_s, reason=reason)

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """Nodes were withdrawn or restored."""
        return self._pass(now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self._queue.check()

    def _pass(self, now_s: float) -> list[Start]:
        starts: list[Start] = []
        self._queue.start_heads(starts, now_s=now_s)
        return starts
