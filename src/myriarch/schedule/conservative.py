"""Conservative backfilling: every job is promised a start when it is submitted, and promises only ever become earlier.

Feitelson and Weil, "Utilization and predictability in scheduling the IBM SP2 with backfilling", IPPS'98; Mu'alem and
Feitelson, IEEE TPDS 12(6), 2001. When a job ends before its estimate, all who wait are offered an earlier place, in
order of arrival.

Most offers come to nothing, and it is known beforehand. A promise was the earliest possible one; it can become earlier
only by using devices that were given back since. So a job is looked at only if its devices fit into what was given
back, or it stands in it; where all jobs end exactly on time nothing is ever looked at twice.

Promises are about numbers of devices: they need a machine where any device is as good as any other (`Counted`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import final

from myriarch.schedule.counted import NOWHERE, Counted
from myriarch.schedule.decision import Decision, Reason, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Line
from myriarch.schedule.profile import Profile
from myriarch.schedule.scheduler import refusal


class Stretch:
    """An interval of time that covers all that was added to it."""

    __slots__ = ("from_s", "until_s")

    def __init__(self) -> None:
        self.from_s, self.until_s = float("inf"), float("-inf")

    def add(self, from_s: float, until_s: float) -> None:
        """Cover this too."""
        self.from_s, self.until_s = min(self.from_s, from_s), max(self.until_s, until_s)


@final
class Conservative:
    """Keys of the line are promised starts.

    Invariant: the profile is the machine less what runs (until its estimate) and less what is promised.
    """

    def __init__(self, machine: Counted) -> None:
        self.machine = machine
        self._line = Line()
        self._profile = Profile(machine.devices)
        self._first_promise_s: dict[JobId, float] = {}
        self._until_s: dict[JobId, tuple[float, int]] = {}
        self._promises: list[tuple[float, int, JobId]] = []
        """A heap: start, order of promising, job. Promises that were replaced are still in it."""
        self._promised = 0
        self._given_back = Stretch()
        """What was given back since everybody was last looked at."""

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._line.count

    @property
    def head(self) -> Job | None:
        """Who came first."""
        return self._line.job(self._line.first) if self._line.count else None

    @property
    def wake_s(self) -> float:
        """The next promised start."""
        while self._promises and not self._stands(*self._promises[0]):
            heapq.heappop(self._promises)
        return self._promises[0][0] if self._promises else float("inf")

    def promise_s(self, job: JobId) -> float | None:
        """When a waiting job starts at the latest."""
        at = self._line.find(job)
        return None if at is None else self._line.key(at)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """Promise it the earliest start that delays nobody; `wake` then starts it."""
        if refused := refusal(self.machine, job, now_s=now_s):
            return (refused,)
        self._profile.forget(now_s)
        start_s = self._profile.earliest(job.devices, job.estimate_s, after_s=now_s)
        self._profile.take(start_s, start_s + job.estimate_s, job.devices)
        self._line.append(job, shape=job.devices, key=start_s)
        self._first_promise_s[job.id] = start_s
        self._promise(job.id, start_s)
        return ()

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """What it does not need any more is offered to all who wait."""
        self._profile.forget(now_s)
        self.machine.expire(now_s=now_s)
        self.machine.end(job, now_s=now_s)
        until_s, devices = self._until_s.pop(job)
        if until_s > now_s:
            self._profile.give(now_s, until_s, devices)
            self._given_back.add(now_s, until_s)
        if self._given_back.until_s > now_s:
            self._offer(now_s)
        return ()

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """Start those whose promised time has come, in the order of promising."""
        self.machine.expire(now_s=now_s)
        starts = []
        while self.wake_s <= now_s:
            _, _, name = heapq.heappop(self._promises)
            at = self._line.find(name)
            assert at is not None
            starts.append(self._start(at, now_s))
        return starts

    def check(self) -> None:
        """Assert the invariants."""
        self._line.check()
        self._profile.check()
        self.machine.check()
        assert all(self._line.key(at) <= self._first_promise_s[self._line.job(at).id] for at in self._line.waiting())

    def _start(self, at: int, now_s: float) -> Start:
        job = self._line.job(at)
        self._line.remove(at)
        self.machine.start(job, NOWHERE, now_s=now_s)
        until_s = now_s + job.estimate_s
        self._until_s[job.id] = (until_s, job.devices)
        promised_s = self._first_promise_s.pop(job.id)
        reason = Reason(rule="promised", waited_s=now_s - job.submit_s, promised_s=promised_s)
        return Start(job=job.id, at_s=now_s, until_s=until_s, placement=NOWHERE, reason=reason)

    def _promise(self, job: JobId, start_s: float) -> None:
        self._promised += 1
        heapq.heappush(self._promises, (start_s, self._promised, job))

    def _stands(self, start_s: float, _: int, job: JobId) -> bool:
        return self.promise_s(job) == start_s

    def _offer(self, now_s: float) -> None:
        """Offer everybody, in order of arrival, an earlier start."""
        given_back, later = self._given_back, Stretch()
        after = -1
        while True:
            most = self._profile.most_free(max(given_back.from_s, now_s), given_back.until_s)
            for at in self._line.movable(after=after, now_s=now_s, devices=most, before_s=given_back.until_s).tolist():
                freed = self._move(at, now_s)
                if freed is not None:
                    given_back.add(*freed)
                    later.add(*freed)  # who was looked at before this job may use it next time
                    after = at
                    break
            else:
                break
        self._given_back = later

    def _move(self, at: int, now_s: float) -> tuple[float, float] | None:
        """Promise a job an earlier start if there is one; what it gave back by that."""
        job, old_s = self._line.job(at), self._line.key(at)
        new_s = self._profile.earlier(job.devices, job.estimate_s, after_s=now_s, than_s=old_s)
        if new_s >= old_s:
            return None
        self._profile.give(old_s, old_s + job.estimate_s, job.devices)
        self._profile.take(new_s, new_s + job.estimate_s, job.devices)
        self._line.set_key(at, new_s)
        self._promise(job.id, new_s)
        return max(old_s, new_s + job.estimate_s), old_s + job.estimate_s
