"""EASY backfilling (Lifka, JSSPP'95; Mu'alem and Feitelson, IEEE TPDS 12(6), 2001).

Devices are held for the first job in the queue only, from the earliest instant at which it fits by the estimates of
what runs. Any other job may start at once when it fits and does not delay that instant: it is over by then, or uses
what the hold leaves. With `shortest_first` those others are tried by their estimates (SJBF: Tsafrir, Etsion and
Feitelson, IEEE TPDS 18(6), 2007).

What a pass found impossible stays so until devices come back: time only shortens what is left before the hold. A
submission is therefore compared with the hold alone, and the queue is looked at after ends only. The hold itself is
worked out anew when its job started, or when something ended at another instant than was estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from myriarch.schedule.decision import Decision, Placement, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Full
from myriarch.schedule.machine import Hold, Machine
from myriarch.schedule.order import ARRIVAL, Order
from myriarch.schedule.queue import Queue
from myriarch.schedule.scheduler import refusal
from myriarch.schedule.shortlist import Shortlist


@final
class Easy:
    """The first in `order` is never delayed; the others start when they fit, tried in order too.

    Invariant: while `_hold` is for the first in the queue and `_surprises` are the machine's, it stands.
    """

    wake_s = float("inf")

    def __init__(self, machine: Machine, *, order: Order = ARRIVAL, shortest_first: bool = False) -> None:
        self.machine = machine
        self._shortlist = _shortlist(order, shortest_first)
        self._queue = Queue(machine, order, shortlist=self._shortlist)
        self._hold: Hold | None = None
        self._surprises = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._queue.line.count

    @property
    def head(self) -> Job | None:
        """Who is first."""
        return self._queue.line.job(self._queue.head()) if self._queue.line.count else None

    @property
    def hold(self) -> Hold | None:
        """What is held for the first in the queue; None when it was not asked for since things changed."""
        head, hold = self.head, self._hold
        if head is None or hold is None or hold.job != head.id or self._surprises != self.machine.surprises:
            return None
        return hold

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        if refused := refusal(self.machine, job, now_s=now_s):
            return (refused,)
        came_back = self.machine.expire(now_s=now_s)
        if not came_back and self._queue.order.by_arrival:
            return self._last(job, now_s)
        at = self._queue.append(job, now_s=now_s)
        if came_back or self._queue.refresh(now_s=now_s) or self._queue.head() == at:
            return self._pass(now_s)
        if job.devices > self.machine.largest:
            return ()
        hold = self._held(now_s)
        placement = self.machine.place(job, now_s=now_s, hold=hold)
        return () if placement is None else (self._queue.start(at, placement, now_s=now_s, hold=hold),)

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        came_back = self.machine.expire(now_s=now_s)
        came_back |= self._queue.end(job, now_s=now_s)
        came_back |= self._queue.refresh(now_s=now_s)
        return self._pass(now_s) if came_back and self._queue.line.count else ()

    def withdraw(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A waiting job is called off; who only waited for it may start. Nothing happens for one that does not wait."""
        at = self._queue.line.find(job)
        if at is None:
            return ()
        was_first = at == self._queue.head()
        self._queue.remove(at)
        return self._pass(now_s) if was_first and self.waiting else ()

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
        if (hold := self.hold) is not None:
            assert hold.spare_devices >= 0
            assert all(spare >= 0 for spare in hold.spare_on.values())

    def _last(self, job: Job, now_s: float) -> Sequence[Start]:
        """Who comes last changes nothing for others: it starts at once beside what is held for the first, or waits."""
        if job.devices <= self.machine.largest:
            hold = self._held(now_s) if self._queue.line.count else None
            placement = self.machine.place(job, now_s=now_s, hold=hold)
            if placement is not None:
                return (self._queue.start_at_once(job, placement, now_s=now_s, hold=hold),)
        self._queue.append(job, now_s=now_s)
        return ()

    def _held(self, now_s: float) -> Hold:
        """The hold for the first in the queue: the one there is, while it stands."""
        head = self._queue.line.job(self._queue.head())
        hold = self._hold
        if hold is None or hold.job != head.id:
            hold = self.machine.hold(head, now_s=now_s)
        elif self._surprises != self.machine.surprises:
            hold = self.machine.renew(hold, head, now_s=now_s)
        self._hold, self._surprises = hold, self.machine.surprises
        return hold

    def _pass(self, now_s: float) -> list[Start]:
        starts: list[Start] = []
        hold = self.hold
        if hold is None or hold.at_s <= now_s:  # else the first cannot start yet
            self._queue.start_heads(starts, now_s=now_s)
        if self._queue.line.count > 1 and self.machine.free_devices:
            self._backfill(starts, self._held(now_s), now_s)
        return starts

    def _backfill(self, starts: list[Start], hold: Hold, now_s: float) -> None:
        """Start those behind the first that fit beside the hold."""
        if self._shortlist is not None:
            self._backfill_in_place(starts, self._shortlist, hold, now_s)
        else:
            self._backfill_ordered(starts, hold, now_s)

    def _backfill_in_place(self, starts: list[Start], shortlist: Shortlist, hold: Hold, now_s: float) -> None:
        """Tried one by one, as the shortlist says."""
        machine, full = self.machine, Full()
        largest = machine.largest
        if shortlist.smallest > largest:
            return
        for job in shortlist.candidates(
            free_devices=largest,
            now_s=now_s,
            hold_s=hold.at_s,
            spare_devices=machine.beside(hold),
            full=full,
        ):
            if job.id == hold.job:
                continue
            placement = machine.place(job, now_s=now_s, hold=hold)
            if placement is None:  # nor is there one for who needs the same
                shape = machine.shape(job)
                full.late.add(shape)
                if now_s + job.estimate_s <= hold.at_s:
                    full.ever.add(shape)
                continue
            starts.append(self._start(job, placement, hold, now_s))
            if not machine.free_devices:
                return

    def _backfill_ordered(self, starts: list[Start], hold: Hold, now_s: float) -> None:
        """Tried in the order of a queue whose keys change. Who is as large as one for whom no place was found is passed
        over."""
        line, machine = self._queue.line, self.machine
        left = line.candidates(
            free_devices=machine.largest, now_s=now_s, hold_s=hold.at_s, spare_devices=machine.beside(hold)
        )
        left = line.in_order(left[left != self._queue.head()])
        while len(left) and machine.free_devices:
            at, left = int(left[0]), left[1:]
            job = line.job(at)
            placement = machine.place(job, now_s=now_s, hold=hold)
            if placement is not None:
                starts.append(self._queue.start(at, placement, now_s=now_s, hold=hold))
                continue
            alike = line.like(left, line.shape(at))
            if now_s + job.estimate_s > hold.at_s:
                alike &= line.late(left, now_s=now_s, hold_s=hold.at_s)
            left = left[~alike]

    def _start(self, job: Job, placement: Placement, hold: Hold, now_s: float) -> Start:
        at = self._queue.line.find(job.id)
        assert at is not None
        return self._queue.start(at, placement, now_s=now_s, hold=hold)


def _shortlist(order: Order, shortest_first: bool) -> Shortlist | None:
    """In what order others than the first are tried; None: in one that changes."""
    if shortest_first:
        return Shortlist(lambda job: job.estimate_s)
    if order.by_arrival:
        return Shortlist()
    return Shortlist(lambda job: order.key(job, now_s=0.0)) if order.refresh_s == float("inf") else None
