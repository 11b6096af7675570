"""Pools with queues of their own, and a broker's jobs among those of their owners, in virtual time.

Every pool is run by its own EASY scheduler, the same object as everywhere. Its owners' jobs go straight into its queue;
the broker's jobs go where a `Policy` sends them and wait there like anybody else's. What a policy may know is what a
broker could be told: who runs and waits now, by their estimates (`windows`); never who comes later, nor how long
anybody really runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.broker_market import Window
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Decision, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.profile import Profile
from myriarch.simulate.queueing import Task


class Errand(Value, frozen=True, kw_only=True):
    """A job of the broker's, and what nobody knows beforehand."""

    job: Job
    run_s: dict[str, float]
    """By pool: how long it runs there; pools that are not named cannot run it."""
    estimate_s: dict[str, float]
    """By pool: what its user asks for; never below the run."""


class Policy(Protocol):
    """Where the broker's jobs go. It acts through `World.send` and `World.recall`."""

    period_s: float
    """How often it wants to be woken."""

    def arrive(self, errand: Errand, world: World) -> None: ...

    def started(self, job: JobId, pool: str, world: World) -> None: ...

    def ended(self, job: JobId, pool: str, world: World) -> None: ...

    def wake(self, world: World) -> None: ...


class Placed(Value, frozen=True, kw_only=True):
    """What became of an errand."""

    pool: str
    start_s: float
    end_s: float


class Pool:
    """A pool, its scheduler, and who runs and waits there. Invariant: `waiting` are those in the scheduler's queue."""

    def __init__(self, name: str, *, devices: int) -> None:
        self.name = name
        self.devices = devices
        self.scheduler = Easy(Counted(devices))
        self.running: dict[JobId, tuple[int, float]] = {}
        """Devices, and when the estimate is over."""
        self.waiting: dict[JobId, Job] = {}
        """In the order in which they came."""
        self.changes = 0

    def ahead(self, *, now_s: float, without: frozenset[JobId]) -> Profile:
        """Devices that are free from now on, by estimates: all who wait get their places in turn, but for some."""
        profile = Profile(self.devices, origin_s=now_s)
        for devices, until_s in self.running.values():
            if until_s > now_s:
                profile.take(now_s, until_s, devices)
        for job in self.waiting.values():
            if job.id not in without:
                start_s = profile.earliest(job.devices, job.estimate_s, after_s=now_s)
                profile.take(start_s, start_s + job.estimate_s, job.devices)
        return profile


class World:
    """All pools and the time. Invariant (`check`): an errand runs at most once, and waits nowhere once it started."""

    def __init__(self, devices: Mapping[str, int], owned: Mapping[str, Sequence[Task]]) -> None:
        self.pools = {name: Pool(name, devices=count) for name, count in devices.items()}
        self.now_s = 0.0
        self.placed: dict[JobId, Placed] = {}
        self.owned_waits: list[tuple[str, float, float]] = []
        """Of the owners' jobs: pool, wait and run in seconds."""
        self._owned = {(name, task.job.id): task for name, tasks in owned.items() for task in tasks}
        self._errands: dict[JobId, Errand] = {}
        self._where: dict[JobId, list[str]] = {}
        """Of errands that wait in pools: which."""
        self._events: list[tuple[float, int, int, str, JobId]] = []
        """A heap: instant, kind (submission, end), number, pool, job."""
        self._number = 0
        self._policy: Policy | None = None
        self._ahead: dict[str, tuple[tuple[float, int, frozenset[JobId]], Profile]] = {}
        for name, tasks in owned.items():
            for task in tasks:
                self._push(task.job.submit_s, _SUBMIT, name, task.job.id)

    # --- what a policy may do and know ---------------------------------------------------------------------------

    def send(self, job: JobId, pool: str) -> None:
        """Let an errand wait in a pool; it may start at once."""
        errand, there = self._errands[job], self.pools[pool]
        if pool not in errand.run_s:
            raise SpecError(f"{job} cannot run in {pool}; it runs in {', '.join(errand.run_s)}")
        if job in self.placed or pool in self._where.get(job, ()):
            return
        self._where.setdefault(job, []).append(pool)
        asked = msgspec.structs.replace(errand.job, estimate_s=errand.estimate_s[pool])
        there.waiting[job] = asked
        self._done(pool, there.scheduler.submit(asked, now_s=self.now_s))

    def recall(self, job: JobId, pool: str) -> None:
        """Call off an errand that waits in a pool."""
        if pool in self._where.get(job, ()) and job not in self.placed:
            self._where[job].remove(pool)
            del self.pools[pool].waiting[job]
            self._done(pool, self.pools[pool].scheduler.withdraw(job, now_s=self.now_s))

    def starts_now(self, job: JobId, pool: str) -> bool:
        """Whether a pool would start an errand at once, if it were sent there last."""
        errand = self._errands[job]
        if pool not in errand.run_s:
            return False
        asked, ahead = errand.estimate_s[pool], self.ahead(pool, without=frozenset((job,)))
        return ahead.earliest(errand.job.devices, asked, after_s=self.now_s) <= self.now_s

    def ahead(self, pool: str, *, without: frozenset[JobId] = frozenset()) -> Profile:
        """What is free in a pool from now on, by estimates, as if some errands did not wait there."""
        there = self.pools[pool]
        key = (self.now_s, there.changes, without)
        if pool not in self._ahead or self._ahead[pool][0] != key:
            self._ahead[pool] = key, there.ahead(now_s=self.now_s, without=without)
        return self._ahead[pool][1]

    def windows(self, pool: str, *, horizon_s: float, without: frozenset[JobId] = frozenset()) -> tuple[Window, ...]:
        """The same as an offer says it, from now on."""
        steps = self.ahead(pool, without=without).steps()
        edges = [max(at_s - self.now_s, 0.0) for at_s, _ in steps] + [horizon_s]
        spans = zip(edges[:-1], edges[1:], steps, strict=True)
        return tuple(
            Window(start_s=start_s, end_s=min(end_s, horizon_s), devices=free)
            for start_s, end_s, (_, free) in spans
            if free and start_s < min(end_s, horizon_s)
        )

    # --- time ----------------------------------------------------------------------------------------------------

    def run(self, errands: Iterable[Errand], policy: Policy) -> dict[JobId, Placed]:
        """Until every errand has ended. The owners' jobs that come after that are of no interest."""
        self._policy = policy
        ordered = list(errands)
        for errand in ordered:
            self._errands[errand.job.id] = errand
            self._push(errand.job.submit_s, _ARRIVE, "", errand.job.id)
        open_errands = len(ordered)
        wake_s = (ordered[0].job.submit_s if ordered else 0.0) + policy.period_s
        while open_errands:
            if not self._events or wake_s < self._events[0][0]:
                self.now_s = wake_s
                policy.wake(self)
                wake_s += policy.period_s
                if not self._events and not any(pool.waiting for pool in self.pools.values()):
                    missing = [job for job in self._errands if job not in self.placed]
                    raise SpecError(f"{len(missing)} jobs are sent nowhere, {missing[0]} first; the policy forgot them")
                continue
            at_s, kind, _, pool, job = heapq.heappop(self._events)
            self.now_s = at_s
            if kind == _ARRIVE:
                policy.arrive(self._errands[job], self)
            elif kind == _SUBMIT:
                task = self._owned[pool, job]
                self.pools[pool].waiting[job] = task.job
                self._done(pool, self.pools[pool].scheduler.submit(task.job, now_s=at_s))
            else:
                del self.pools[pool].running[job]
                self.pools[pool].changes += 1
                self._done(pool, self.pools[pool].scheduler.end(job, now_s=at_s))
                if job in self._errands:
                    open_errands -= 1
                    policy.ended(job, pool, self)
        return self.placed

    def check(self) -> None:
        """Assert the invariants."""
        for pool in self.pools.values():
            pool.scheduler.check()
            assert pool.scheduler.waiting == len(pool.waiting)
            assert sum(devices for devices, _ in pool.running.values()) <= pool.devices
            assert not set(pool.waiting) & set(self.placed)

    def _done(self, pool: str, decisions: Sequence[Decision]) -> None:
        there = self.pools[pool]
        there.changes += 1
        begun: list[JobId] = []
        for decision in decisions:
            if not isinstance(decision, Start):
                raise SpecError(f"{pool} refuses: {decision.reason}; send it where it fits")
            job = there.waiting.pop(decision.job)
            there.running[job.id] = (job.devices, decision.until_s)
            if job.id in self._errands:
                run_s = self._errands[job.id].run_s[pool]
                self.placed[job.id] = Placed(pool=pool, start_s=self.now_s, end_s=self.now_s + run_s)
                begun.append(job.id)
            else:
                run_s = self._owned[pool, job.id].run_s
                self.owned_waits.append((pool, self.now_s - job.submit_s, run_s))
            self._push(self.now_s + run_s, _END, pool, job.id)
        assert self._policy is not None or not begun
        for started in begun:
            for other in [each for each in self._where.pop(started) if each != pool]:
                del self.pools[other].waiting[started]
                self._done(other, self.pools[other].scheduler.withdraw(started, now_s=self.now_s))
            if self._policy is not None:
                self._policy.started(started, pool, self)

    def _push(self, at_s: float, kind: int, pool: str, job: JobId) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, kind, self._number, pool, job))


_SUBMIT, _ARRIVE, _END = 0, 1, 2
"""At one instant: owners' submissions, the broker's, ends."""
