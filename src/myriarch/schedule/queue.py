"""Jobs that wait in an order, and the start of whoever is first: what in-order scheduling and EASY share."""

from __future__ import annotations

import numpy as np

from myriarch.schedule.decision import Placement, Reason, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Line
from myriarch.schedule.machine import Hold, Machine
from myriarch.schedule.order import Order


class Queue:
    """A line, its order, and the machine that its jobs start on."""

    def __init__(self, machine: Machine, order: Order) -> None:
        self.machine = machine
        self.order = order
        self.line = Line()
        self._by_arrival = order.by_arrival
        self._changes = order.refresh_s < float("inf")
        self._fresh_s = float("-inf")

    def append(self, job: Job, *, now_s: float) -> int:
        """Let a job wait; its place."""
        key = 0.0 if self._by_arrival else self.order.key(job, now_s=now_s)
        return self.line.append(job, shape=self.machine.shape(job), key=key)

    def refresh(self, *, now_s: float) -> bool:
        """Work the keys out anew where they are too old; whether that was done."""
        if not self._changes or now_s < self._fresh_s + self.order.refresh_s or not self.line.count:
            return False
        self._fresh_s = now_s
        places = self.line.waiting()
        keys = [self.order.key(self.line.job(at), now_s=now_s) for at in places.tolist()]
        self.line.set_keys(places, np.array(keys))
        return True

    def head(self) -> int:
        """The place of who is first."""
        return self.line.first if self._by_arrival else self.line.lowest()

    def start_heads(self, starts: list[Start], *, now_s: float) -> None:
        """Start the first ones for as long as they fit."""
        while self.line.count:
            at = self.head()
            placement = self.machine.place(self.line.job(at), now_s=now_s)
            if placement is None:
                return
            starts.append(self.start(at, placement, now_s=now_s))

    def start(self, at: int, placement: Placement, *, now_s: float, hold: Hold | None = None) -> Start:
        """Take a job out of the line and let it run."""
        job = self.line.job(at)
        self.line.remove(at)
        reason = _reason(job, hold, now_s=now_s)
        self.machine.start(job, placement, now_s=now_s, hold=hold)
        if self._changes:
            self.order.started(job, now_s=now_s)
        return Start(job=job.id, at_s=now_s, until_s=now_s + job.estimate_s, placement=placement, reason=reason)

    def end(self, job: JobId, *, now_s: float) -> bool:
        """A running job ended; whether devices came back by it."""
        if self._changes:
            self.order.ended(job, now_s=now_s)
        return self.machine.end(job, now_s=now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self.line.check()
        self.machine.check()


def _reason(job: Job, hold: Hold | None, *, now_s: float) -> Reason:
    waited_s = now_s - job.submit_s
    if hold is None:
        return Reason(rule="in order", waited_s=waited_s)
    return Reason(
        rule="before the hold" if now_s + job.estimate_s <= hold.at_s else "beside the hold",
        waited_s=waited_s,
        head=hold.job,
        hold_s=hold.at_s,
        spare_devices=hold.spare_devices,
    )
