"""Jobs that wait in an order, and the start of whoever is first: what in-order scheduling and EASY share."""

from __future__ import annotations

import heapq

import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Preempt, Reason, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import SLACK, Line
from myriarch.schedule.machine import Breakable, Hold, Machine
from myriarch.schedule.order import Order
from myriarch.schedule.runs import Runs
from myriarch.schedule.shortlist import Shortlist


class Queue:
    """A line, its order, and the machine that its jobs start on. Invariant: who is in the line is in the shortlist."""

    def __init__(self, machine: Machine, order: Order, *, shortlist: Shortlist | None = None) -> None:
        """`shortlist`: kept with the line, for who asks it."""
        self.machine = machine
        self.order = order
        self.line = Line()
        self._shortlist = shortlist
        self._by_arrival = order.by_arrival
        self._changes = order.refresh_s < float("inf")
        self._heads: list[tuple[float, int, JobId]] = []
        """Where keys do not change, a heap: key, arrival, job. Those who left are still in it."""
        self._fresh_s = float("-inf")
        self._runs = Runs()
        self._breaks = isinstance(machine, Breakable)

    def append(self, job: Job, *, now_s: float) -> int:
        """Let a job wait; its place."""
        key = 0.0 if self._by_arrival else self.order.key(job, now_s=now_s)
        shape = self.machine.shape(job)
        at = self.line.append(job, shape=shape, key=key)
        self._head(job, at)
        if self._shortlist is not None:
            self._shortlist.add(job, shape=shape, arrival=self.line.arrival(at))
        return at

    def remove(self, at: int) -> None:
        """A job waits no more."""
        if self._shortlist is not None:
            line = self.line
            self._shortlist.remove(line.job(at), shape=line.shape(at), arrival=line.arrival(at))
        self.line.remove(at)

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
        if self._by_arrival:
            return self.line.first
        if self._changes:
            return self.line.lowest()
        while (at := self._stands(*self._heads[0])) is None:
            heapq.heappop(self._heads)
        return at

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
        job, arrival = self.line.job(at), self.line.arrival(at)
        self.remove(at)
        return self._start(job, arrival, placement, hold, now_s)

    def start_at_once(self, job: Job, placement: Placement, *, now_s: float, hold: Hold | None = None) -> Start:
        """Let a job that comes now run without having stood in the line."""
        return self._start(job, self.line.pass_by(), placement, hold, now_s)

    def end(self, job: JobId, *, now_s: float) -> bool:
        """A running job ended; whether devices came back by it."""
        if self._changes:
            self.order.ended(job, now_s=now_s)
        self._runs.end(job)
        return self.machine.end(job, now_s=now_s)

    def lose(self, pool: str, node: int, *, now_s: float) -> list[Decision]:
        """A node is gone: its jobs go on elsewhere from what they saved, or wait again where they stood."""
        machine = self._nodes()
        decisions: list[Decision] = []
        planned = machine.planned(pool, node, now_s=now_s)
        for job in machine.running_on(pool, node):
            moved = self._runs.move(job, machine, pool, node, planned=planned, now_s=now_s)
            decisions.append(moved or self._wait_again(job, pool, node, planned, now_s))
        left = machine.withdraw(pool, node)
        assert not left
        return decisions

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on elsewhere in its pool."""
        return self._runs.shift(job, self._nodes(), placement, now_s=now_s, reason=reason)

    def regain(self, pool: str, node: int) -> None:
        """A node is back."""
        self._nodes().restore(pool, node)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> None:
        """A node will be gone."""
        self._nodes().drain(pool, node, from_s=from_s, now_s=now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self.line.check()
        self.machine.check()
        if self._shortlist is not None:
            self._shortlist.check()
            assert len(self._shortlist) == self.line.count
        if self.line.count and not self._by_arrival:
            assert self.head() == self.line.lowest()

    def _start(self, job: Job, arrival: int, placement: Placement, hold: Hold | None, now_s: float) -> Start:
        if self._breaks:
            self._runs.start(job, arrival=arrival, now_s=now_s)
        reason = _reason(job, hold, now_s=now_s)
        self.machine.start(job, placement, now_s=now_s, hold=hold)
        if self._changes:
            self.order.started(job, now_s=now_s)
        return Start(job=job.id, at_s=now_s, until_s=now_s + job.estimate_s, placement=placement, reason=reason)

    def _head(self, job: Job, at: int) -> None:
        """Somebody who waits from now on may be first one day."""
        if self._by_arrival or self._changes:
            return
        heapq.heappush(self._heads, (self.line.key(at), self.line.arrival(at), job.id))
        if len(self._heads) > 2 * self.line.count + SLACK:
            self._heads = [one for one in self._heads if self._stands(*one) is not None]
            heapq.heapify(self._heads)

    def _stands(self, key: float, arrival: int, job: JobId) -> int | None:
        """The place of somebody who waits as he did; None: he left, or waits again with less to do."""
        at = self.line.find(job)
        return at if at is not None and (self.line.key(at), self.line.arrival(at)) == (key, arrival) else None

    def _wait_again(self, gone: JobId, pool: str, node: int, planned: bool, now_s: float) -> Preempt:
        cut = self._runs.cut(gone, planned=planned, moves=False, now_s=now_s)
        job = cut.left
        self.end(job.id, now_s=now_s)
        key = 0.0 if self._by_arrival else self.order.key(job, now_s=now_s)
        shape = self.machine.shape(job)
        self._head(job, self.line.insert(job, shape=shape, arrival=cut.arrival, key=key))
        if self._shortlist is not None:
            self._shortlist.add(job, shape=shape, arrival=cut.arrival)
        self._runs.returned(job.id)
        room = "nowhere is room for it now, so it" if cut.goes_on else "nothing is left to go on from, so it"
        reason = f"{cut.why(pool, node)}; {room} waits where it stood"
        return Preempt(job=job.id, at_s=now_s, lost=cut.lost, reason=reason)

    def _nodes(self) -> Breakable:
        if isinstance(self.machine, Breakable):
            return self.machine
        raise SpecError(
            f"a node is lost, and {type(self.machine).__name__} has no nodes", hint="schedule on a Placed machine"
        )


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
