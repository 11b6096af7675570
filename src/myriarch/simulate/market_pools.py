"""Pools with queues of their own, and a broker's jobs among those of their owners, in virtual time.

Every pool is run by its own EASY scheduler, the same object as everywhere. Its owners' jobs go straight into its queue;
the broker's jobs go where a `Policy` sends them and wait there like anybody else's. What a policy may know is what a
broker could be told: who runs and waits now, by their estimates (`windows`); never who comes later, nor how long
anybody really runs.

An errand with a `Pause` can be stopped while it runs and go on later, there or elsewhere: it keeps its devices while it
saves its state, and what was done before; when it goes on, it first has to load.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

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

FORGOTTEN_S: Final = 2 * 86_400.0
"""After so long without any event a policy has forgotten the errands that wait nowhere: prices are known for a day, and
plans reach less than two ahead."""


class Pause(Value, frozen=True, kw_only=True):
    """What stopping a job and going on with it takes, in seconds of its devices; and of the road between two pools."""

    save_s: float
    load_s: float
    move_s: float
    """From one pool to another, before it can load there: no device is held."""


class Errand(Value, frozen=True, kw_only=True):
    """A job of the broker's, and what nobody knows beforehand."""

    job: Job
    run_s: dict[str, float]
    """By pool: how long it runs there; pools that are not named cannot run it."""
    estimate_s: dict[str, float]
    """By pool: what its user asks for; never below the run."""
    pause: Pause | None = None
    """None: once it runs, it runs to its end."""


class Policy(Protocol):
    """Where the broker's jobs go. It acts through `World.send` and `World.recall`."""

    period_s: float
    """How often it wants to be woken."""

    def arrive(self, errand: Errand, world: World) -> None: ...

    def started(self, job: JobId, pool: str, world: World) -> None: ...

    def stopped(self, job: JobId, pool: str, world: World) -> None: ...

    def ended(self, job: JobId, pool: str, world: World) -> None: ...

    def wake(self, world: World) -> None: ...


class Placed(Value, frozen=True, kw_only=True):
    """What became of an errand, or of one stretch of it. Of a whole errand: its last pool, first start, last end."""

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

    @property
    def free(self) -> int:
        """Devices on which nobody runs."""
        return self.devices - self.held(self.running)

    def held(self, jobs: Iterable[JobId]) -> int:
        """Devices of those of some jobs that run."""
        return sum(self.running[job][0] for job in jobs if job in self.running)

    def ahead(self, *, now_s: float, without: frozenset[JobId]) -> Profile:
        """Devices that are free from now on, by estimates: all who wait get their places in turn. Some are left out."""
        held = [span for job, span in self.running.items() if job not in without]
        profile = Profile.holding(self.devices, held, origin_s=now_s)
        for job in self.waiting.values():
            if job.id not in without:
                start_s = profile.earliest(job.devices, job.estimate_s, after_s=now_s)
                profile.take(start_s, start_s + job.estimate_s, job.devices)
        return profile


@dataclasses.dataclass(slots=True)
class _Part:
    """How far an errand is. Invariant: 0 < left <= 1, and it runs (`pool`) or not."""

    left: float = 1.0
    """Of its work."""
    asked: float = 1.0
    """Of what its user asked for."""
    pool: str | None = None
    start_s: float = 0.0
    load_s: float = 0.0
    """Of this stretch."""
    end: int = -1
    """The number of the event that ends the stretch; another one's is of no effect."""
    stopping: bool = False
    last: str | None = None
    free_s: float = 0.0
    """When its state can be in another pool."""


class World:
    """All pools and the time. Invariant (`check`): an errand runs in one pool at most, and waits nowhere while it
    runs."""

    def __init__(self, devices: Mapping[str, int], owned: Mapping[str, Sequence[Task]]) -> None:
        self.pools = {name: Pool(name, devices=count) for name, count in devices.items()}
        self.now_s = 0.0
        self.placed: dict[JobId, Placed] = {}
        """Of errands that have started; of one that runs, the end is when it will end if nobody stops it."""
        self.stretches: dict[JobId, list[Placed]] = {}
        self.owned_waits: list[tuple[str, float, float]] = []
        """Of the owners' jobs: pool, wait and run in seconds."""
        self._owned = {(name, task.job.id): task for name, tasks in owned.items() for task in tasks}
        self._errands: dict[JobId, Errand] = {}
        self._parts: dict[JobId, _Part] = {}
        self._where: dict[JobId, list[str]] = {}
        """Of errands that wait in pools: which."""
        self._events: list[tuple[float, int, int, str, JobId]] = []
        """A heap: instant, kind (submission, end), number, pool, job."""
        self._number = 0
        self._policy: Policy | None = None
        self._ahead: dict[str, tuple[tuple[float, int], dict[frozenset[JobId], Profile]]] = {}
        for name, tasks in owned.items():
            for task in tasks:
                self._push(task.job.submit_s, _SUBMIT, name, task.job.id)

    # --- what a policy may do and know ---------------------------------------------------------------------------

    def send(self, job: JobId, pool: str) -> None:
        """Let an errand wait in a pool; it may start at once."""
        errand, there = self._errands[job], self.pools[pool]
        if pool not in errand.run_s:
            raise SpecError(f"{job} cannot run in {pool}; it runs in {', '.join(errand.run_s)}")
        if self._part(job).pool is not None or self._over(job) or pool in self._where.get(job, ()):
            return
        if not self.moved(job, pool):
            raise SpecError(f"{job} is on its way from {self._part(job).last}; send it to {pool} when it is `moved`")
        self._where.setdefault(job, []).append(pool)
        asked = msgspec.structs.replace(errand.job, estimate_s=self.asked_s(job, pool))
        there.waiting[job] = asked
        self._done(pool, there.scheduler.submit(asked, now_s=self.now_s))

    def recall(self, job: JobId, pool: str) -> None:
        """Call off an errand that waits in a pool."""
        if pool in self._where.get(job, ()):
            self._where[job].remove(pool)
            del self.pools[pool].waiting[job]
            self._done(pool, self.pools[pool].scheduler.withdraw(job, now_s=self.now_s))

    def starts_now(self, job: JobId, pool: str, *, without: frozenset[JobId] = frozenset()) -> bool:
        """Whether a pool would start an errand at once, if it were sent there last; and some others were not there."""
        errand, there = self._errands[job], self.pools[pool]
        if pool not in errand.run_s or there.free + there.held(without) < errand.job.devices:
            return False
        asked, ahead = self.asked_s(job, pool), self.ahead(pool, without=without | {job})
        return ahead.earliest(errand.job.devices, asked, after_s=self.now_s) <= self.now_s

    def pause(self, job: JobId) -> None:
        """Stop an errand that runs: what was done until now is kept, its devices are free when that is saved."""
        pause, part = self._errands[job].pause, self._part(job)
        if pause is None:
            raise SpecError(f"{job} cannot be stopped; let it run to its end")
        if part.pool is None or part.stopping:
            return
        ran_s = self.now_s - part.start_s
        done = max(ran_s - part.load_s, 0.0) / self._errands[job].run_s[part.pool]
        ends_s = self.now_s + pause.save_s
        if done >= part.left or ends_s >= self.placed[job].end_s:  # it ends by itself before
            return
        part.left -= done
        part.asked -= max(ran_s - part.load_s, 0.0) / self._errands[job].estimate_s[part.pool]
        part.stopping, part.free_s = True, ends_s + pause.move_s
        self._ends(job, part, ends_s)

    def ran_s(self, job: JobId, pool: str) -> float:
        """How long an errand has run, loading aside, in seconds of a pool in which it can run."""
        part, errand = self._part(job), self._errands[job]
        done = 1.0 - part.left
        if part.pool is not None and not part.stopping:
            done += max(self.now_s - part.start_s - part.load_s, 0.0) / errand.run_s[part.pool]
        return done * errand.run_s[pool]

    def asked_s(self, job: JobId, pool: str) -> float:
        """The limit that an errand has left in a pool, with the time to load."""
        part, errand = self._part(job), self._errands[job]
        return errand.estimate_s[pool] * part.asked + self._load_s(job)

    def running_in(self, job: JobId) -> str | None:
        """The pool that an errand runs in; None: in none, or it is being stopped."""
        part = self._part(job)
        return None if part.stopping else part.pool

    def moved(self, job: JobId, pool: str) -> bool:
        """Whether what a stopped errand needs to go on is in a pool by now."""
        part = self._part(job)
        return part.last is None or part.last == pool or part.free_s <= self.now_s

    def ahead(self, pool: str, *, without: frozenset[JobId] = frozenset()) -> Profile:
        """What is free in a pool from now on, by estimates, as if some errands did not wait there."""
        there = self.pools[pool]
        state = self.now_s, there.changes
        if pool not in self._ahead or self._ahead[pool][0] != state:
            self._ahead[pool] = state, {}
        kept, missing = self._ahead[pool][1], frozenset(without & (there.waiting.keys() | there.running.keys()))
        if missing not in kept:
            kept[missing] = there.ahead(now_s=self.now_s, without=missing)
        return kept[missing]

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
        happened_s = self.now_s
        while open_errands:
            if not self._events or wake_s < self._events[0][0]:
                self.now_s = wake_s
                policy.wake(self)
                wake_s += policy.period_s
                idle = not self._events and not any(pool.waiting for pool in self.pools.values())
                if idle and self.now_s - happened_s > FORGOTTEN_S:
                    missing = [job for job in self._errands if not self._over(job)]
                    raise SpecError(f"{len(missing)} jobs are sent nowhere, {missing[0]} first; the policy forgot them")
                continue
            at_s, kind, number, pool, job = heapq.heappop(self._events)
            self.now_s = happened_s = at_s
            if kind == _ARRIVE:
                policy.arrive(self._errands[job], self)
            elif kind == _SUBMIT:
                task = self._owned[pool, job]
                self.pools[pool].waiting[job] = task.job
                self._done(pool, self.pools[pool].scheduler.submit(task.job, now_s=at_s))
            elif job not in self._errands or self._parts[job].end == number:
                over = job not in self._errands or self._stopped(job, pool)
                del self.pools[pool].running[job]
                self.pools[pool].changes += 1
                self._done(pool, self.pools[pool].scheduler.end(job, now_s=at_s))
                if job in self._errands and over:
                    open_errands -= 1
                    policy.ended(job, pool, self)
                elif job in self._errands:
                    policy.stopped(job, pool, self)
        return self.placed

    def check(self) -> None:
        """Assert the invariants."""
        for pool in self.pools.values():
            pool.scheduler.check()
            assert pool.scheduler.waiting == len(pool.waiting)
            assert sum(devices for devices, _ in pool.running.values()) <= pool.devices
            assert not {job for job in pool.waiting if job in self._errands and self._part(job).pool is not None}
        for job, stretches in self.stretches.items():
            assert all(one.end_s <= two.start_s for one, two in itertools.pairwise(stretches)), job

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
                self._begin(job.id, pool)
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

    def _begin(self, job: JobId, pool: str) -> None:
        part = self._part(job)
        part.load_s = self._load_s(job)
        part.pool = part.last = pool
        part.start_s, part.stopping = self.now_s, False
        end_s = self.now_s + part.load_s + self._errands[job].run_s[pool] * part.left
        self.stretches.setdefault(job, []).append(Placed(pool=pool, start_s=self.now_s, end_s=end_s))
        self._ends(job, part, end_s)

    def _ends(self, job: JobId, part: _Part, end_s: float) -> None:
        """The stretch that runs will end then, and not at another instant."""
        assert part.pool is not None
        stretches = self.stretches[job]
        stretches[-1] = Placed(pool=part.pool, start_s=part.start_s, end_s=end_s)
        self.placed[job] = Placed(pool=part.pool, start_s=stretches[0].start_s, end_s=end_s)
        self._push(end_s, _END, part.pool, job)
        part.end = self._number

    def _stopped(self, job: JobId, pool: str) -> bool:
        """A stretch has ended. Whether the errand is over."""
        part = self._parts[job]
        over = not part.stopping
        part.pool, part.stopping = None, False
        if over:
            part.left = 0.0
        return over

    def _part(self, job: JobId) -> _Part:
        return self._parts.setdefault(job, _Part())

    def _over(self, job: JobId) -> bool:
        return self._part(job).left <= 0

    def _load_s(self, job: JobId) -> float:
        pause = self._errands[job].pause
        return pause.load_s if pause is not None and job in self.stretches else 0.0

    def _push(self, at_s: float, kind: int, pool: str, job: JobId) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, kind, self._number, pool, job))


_SUBMIT, _ARRIVE, _END = 0, 1, 2
"""At one instant: owners' submissions, the broker's, ends."""
