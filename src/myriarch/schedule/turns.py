"""Nobody starves: whoever has waited too long on end has its turn, and when turns are taken.

A job that has waited for `guard_s` on end is *aged*. Aged jobs stand before all others, in the order in which they
aged, displace whoever may be preempted at any price, and when they run are let run for as long as they waited. Those
who have their turn ask for at most a `share` of the devices together, or are one job: all at once, in a long overload,
would be first come first served. Whoever is due while there is no room among them waits for that, by turns.

The bound. A job that neither drains and domains nor jobs that may not be preempted keep from its devices waits, without
faults, for no longer than

    guard_s + sum of W[i] + (n + 1) x review_s

where i are the n jobs that fell due before it and at its own due instant still wait, or run their turn, and W[i] is how
long each of them waited until it started. For while it waits on, either one of those runs its turn, which lasts W[i] at
most, or the first of them stands before all who wait, all who run yield to it, and it starts at the next pass, which is
at most `review_s` away (`ranked`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Final, final

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.rankings import Course
from myriarch.schedule.roster import Roster
from myriarch.schedule.standing import Standing

GUARD_S: Final = 2 * 86_400.0
"""Two days: our choice."""
GUARD_SHARE: Final = 0.1
"""Of the devices: our choice."""
AGED: Final = -(2.0**50)
"""Ranks of aged jobs begin here: below those of all rankings, and exact in a double."""


@final
class Turns:
    """Invariants (`check`): aged jobs are there; instants at which jobs fall due ascend."""

    def __init__(self, roster: Roster, *, guard_s: float, share: float) -> None:
        if not guard_s > 0 or not 0 <= share <= 1:
            raise SpecError(f"guard_s {guard_s:g}, guard_share {share:g}: above 0, and from 0 to 1")
        self._roster = roster
        self._guard_s = guard_s
        self._share = share
        self._aged: dict[JobId, tuple[int, float]] = {}
        """Jobs that have their turn: their order, and how long they are let run when they do."""
        self._ages = 0
        self._due: deque[tuple[float, JobId]] = deque()
        """When jobs age that wait now, or waited."""

    def __contains__(self, job: JobId) -> bool:
        return job in self._aged

    def watch(self, job: JobId, *, now_s: float) -> None:
        """It waits from now on."""
        if math.isfinite(self._guard_s) and job not in self._aged:
            self._due.append((now_s + self._guard_s, job))

    def begin(self, *, now_s: float, devices: int) -> Iterator[int]:
        """Slots of those whose turn it is from now on: who waited too long, if others leave room among the devices."""
        while self._due and self._due[0][0] <= now_s:
            due_s, job = self._due[0]
            if self._stands(due_s, job):
                slot = self._roster.slot(job)
                if self._aged and not self._room_for(self._roster.standing(slot).job, devices):
                    return
                self._aged[job] = (self._ages, 0.0)
                self._ages += 1
                yield slot
            self._due.popleft()

    def started(self, job: JobId, *, waited_s: float) -> None:
        """It runs: if this is its turn, it is let run for as long as it waited."""
        if (aged := self._aged.get(job)) is not None:
            self._aged[job] = (aged[0], waited_s)

    def gone(self, job: JobId) -> None:
        """It has ended."""
        self._aged.pop(job, None)

    def owed_s(self, job: JobId) -> float:
        """How long a running job is spared because of its turn."""
        aged = self._aged.get(job)
        return 0.0 if aged is None else aged[1]

    def course(self, standing: Standing, *, now_s: float) -> Course | None:
        """Where a job stands that has its turn; None: it has none, or not any more."""
        aged = self._aged.get(standing.job.id)
        if aged is None:
            return None
        order, owed_s = aged
        over_s = standing.since_s + owed_s if standing.running else math.inf
        if now_s < over_s:
            return Course(AGED + order, 0.0, over_s)
        del self._aged[standing.job.id]
        return None

    def forget(self) -> None:
        """Whoever fell due first and waits no more is of no concern."""
        while self._due and not self._stands(*self._due[0]):
            self._due.popleft()

    def next_s(self, *, after_s: float) -> float:
        """When the next one falls due; infinite while those that are due already have to wait for room."""
        due_s = self._due[0][0] if self._due else math.inf
        return due_s if due_s > after_s else math.inf

    def words(self, standing: Standing) -> str:
        """For reasons."""
        return f"waits since {standing.since_s:g} s, longer than {self._guard_s:g} s, and stands before all others"

    def check(self) -> None:
        """Assert the invariants."""
        assert set(self._aged) <= set(self._roster.jobs())
        instants = [due_s for due_s, _ in self._due]
        assert instants == sorted(instants)

    def _room_for(self, job: Job, devices: int) -> bool:
        """Whether one more turn leaves the others their share."""
        roster = self._roster
        held = sum(roster.standing(roster.slot(one)).job.devices for one in self._aged)
        return held + job.devices <= self._share * devices

    def _stands(self, due_s: float, job: JobId) -> bool:
        """Whether it still waits as it did."""
        slot = self._roster.find(job)
        if slot is None or job in self._aged:
            return False
        standing = self._roster.standing(slot)
        return not standing.running and standing.since_s + self._guard_s == due_s
