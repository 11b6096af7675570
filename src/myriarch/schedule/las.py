"""Least attained service, discretised: Tiresias' two-dimensional LAS (Gu et al., NSDI 2019, section 3).

How long a job will run is unknown; what it has had is not. A job's *attained service* is its devices times the time it
has run. Jobs stand in a few queues: they enter the first, and fall to the next when their service passes its threshold
(multi-level feedback, so that jobs of like service do not preempt each other at every step). Inside a queue they stand
in the order of their first start, those not yet started last and by arrival. A job that starves goes back to the first
queue: when it has waited `starve_factor` times as long as it ran since it last came there (the paper's
`PROMOTEKNOB`), and waits still: whoever runs does not starve, however long it waited before.

Running jobs are those at the front that fit; one that does not fit is passed over, and the machine says who has to
yield.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect
from itertools import pairwise
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId

THRESHOLDS_DEVICE_S: Final = (3_600.0, 36_000.0)
"""Three queues: up to one device-hour, up to ten, all others. Our own choice: service is spread over orders of
magnitude, so the thresholds are."""

TICKS_PER_S: Final = 2**20
"""Time and service are counted in whole ticks of about a microsecond: whoever adds them up, and how, has the same sum,
and decides the same. A power of two, so that the instants of ticks are doubles for 272 years."""


def tick_of(at_s: float) -> int:
    """The tick that is nearest to an instant."""
    return round(at_s * TICKS_PER_S)


@dataclasses.dataclass(slots=True)
class Attained:
    """What a job has had since it last came to the first queue, in ticks. Invariant: counted up to `until`."""

    until: int
    held: int = 0
    """Devices; 0: it waits."""
    service: int = 0
    """Device-ticks."""
    ran: int = 0
    waited: int = 0

    def count(self, tick: int, *, held: int) -> None:
        """It went on as it did; from now on it holds so many devices."""
        passed = tick - self.until
        self.service += self.held * passed
        if self.held:
            self.ran += passed
        else:
            self.waited += passed
        self.until, self.held = tick, held


class Queues:
    """The rule: when a job falls to another queue, and when it comes back to the first."""

    def __init__(self, thresholds: tuple[float, ...], starve_factor: float) -> None:
        if any(low >= high for low, high in pairwise(thresholds)) or (thresholds and thresholds[0] <= 0):
            raise SpecError(f"thresholds {thresholds} do not rise from above 0; sort them")
        if starve_factor <= 0:
            raise SpecError(f"starve_factor {starve_factor:g} would promote everybody at once; use infinity for never")
        self.thresholds = thresholds
        self.starve_factor = starve_factor
        self._thresholds = [math.ceil(threshold * TICKS_PER_S) for threshold in thresholds]

    def of(self, attained: Attained) -> int:
        """The queue of what a job has had."""
        return bisect(self._thresholds, attained.service)

    def starves(self, attained: Attained) -> bool:
        """Whether one that waits behind the first queue has waited too long."""
        return math.isfinite(self.starve_factor) and attained.waited >= self._bears(attained)

    def next_s(self, attained: Attained, queue: int) -> float:
        """When one that goes on as it does changes its queue; infinite: never."""
        if attained.held:
            if queue == len(self._thresholds):
                return math.inf
            left = -((attained.service - self._thresholds[queue]) // attained.held)
        elif queue and math.isfinite(self.starve_factor):
            left = self._bears(attained) - attained.waited
        else:
            return math.inf
        return (attained.until + max(left, 1)) / TICKS_PER_S

    def _bears(self, attained: Attained) -> int:
        return math.ceil(self.starve_factor * attained.ran)


class Reordering(Value, frozen=True, kw_only=True):
    """A job that changed its queue."""

    job: JobId
    queue: int
    """0 is the first."""
    reason: str


class Sharing(Value, frozen=True, kw_only=True):
    """Who runs from now on."""

    running: tuple[JobId, ...]
    """In order of priority."""
    started: tuple[JobId, ...]
    preempted: tuple[JobId, ...]
    moved: tuple[Reordering, ...]
    next_s: float
    """When to ask again if nothing happens: somebody's service passes a threshold, or somebody starves."""


@dataclasses.dataclass(kw_only=True)
class _Standing:
    job: Job
    arrival: int
    attained: Attained
    queue: int = 0
    before: int = 0
    """Device-ticks that it had before it last came to the first queue."""
    first_start: int | None = None
    """Number of the start; orders those of one queue."""

    @property
    def service(self) -> int:
        """Device-ticks, ever."""
        return self.before + self.attained.service


class LeastAttained:
    """The machine. Instants never go back; each call first counts the time since the last.

    Invariants (`check`): running jobs fit the devices of the last decision; every job is in the queue of its service,
    or before it by promotion.
    """

    def __init__(self, *, thresholds: tuple[float, ...] = THRESHOLDS_DEVICE_S, starve_factor: float = math.inf) -> None:
        self._queues = Queues(thresholds, starve_factor)
        self._jobs: dict[JobId, _Standing] = {}
        self._running: tuple[JobId, ...] = ()
        self._now_s = 0.0
        self._arrivals = 0
        self._starts = 0
        self._devices = 0

    def submit(self, job: Job, *, now_s: float) -> None:
        """A new job, in the first queue."""
        self._advance(now_s)
        self._jobs[job.id] = _Standing(job=job, arrival=self._arrivals, attained=Attained(tick_of(now_s)))
        self._arrivals += 1

    def end(self, job: JobId, *, now_s: float) -> None:
        """A job is done, or withdrawn."""
        self._advance(now_s)
        del self._jobs[job]
        self._running = tuple(each for each in self._running if each != job)

    def service(self, job: JobId) -> float:
        """Device-seconds that the job has had."""
        return self._jobs[job].service / TICKS_PER_S

    def decide(self, *, now_s: float, devices: int) -> Sharing:
        """Who runs on so many devices."""
        self._advance(now_s)
        running = set(self._running)
        moved = tuple(each for standing in self._jobs.values() if (each := self._moved(standing)) is not None)
        free, chosen = devices, []
        for standing in sorted(self._jobs.values(), key=_order):
            if standing.job.devices <= free:
                free -= standing.job.devices
                chosen.append(standing)
        for standing in chosen:
            if standing.first_start is None:
                standing.first_start = self._starts
                self._starts += 1
        before = self._running
        self._running, self._devices = tuple(standing.job.id for standing in chosen), devices
        self._advance(now_s)
        return Sharing(
            running=self._running,
            started=tuple(job for job in self._running if job not in running),
            preempted=tuple(job for job in before if job not in self._running),
            moved=moved,
            next_s=self._next_s(),
        )

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        held = sum(self._jobs[job].job.devices for job in self._running)
        assert held <= self._devices, f"{held} devices of {self._devices}"
        for standing in self._jobs.values():
            before = Attained(0, service=standing.service)
            assert standing.queue <= self._queues.of(before), f"{standing.job.id} fell too far"

    def _advance(self, now_s: float) -> None:
        """Count up to an instant; from then on those run who were chosen."""
        if now_s < self._now_s:
            raise ValueError(f"{now_s} s is before {self._now_s} s")
        self._now_s = now_s
        tick, running = tick_of(now_s), set(self._running)
        for job, standing in self._jobs.items():
            standing.attained.count(tick, held=standing.job.devices if job in running else 0)

    def _moved(self, standing: _Standing) -> Reordering | None:
        attained = standing.attained
        if not attained.held and standing.queue and self._queues.starves(attained):
            standing.queue, standing.before = 0, standing.service
            standing.attained = Attained(attained.until)
            waited_s, ran_s = attained.waited / TICKS_PER_S, attained.ran / TICKS_PER_S
            reason = f"waited {waited_s:.0f} s after running {ran_s:.0f} s: back to the first queue"
            return Reordering(job=standing.job.id, queue=0, reason=reason)
        # What a promoted job has had since decides how soon it falls again.
        queue = self._queues.of(attained)
        if queue <= standing.queue:
            return None
        standing.queue = queue
        service, threshold = standing.service / TICKS_PER_S, self._queues.thresholds[queue - 1]
        reason = f"{service:.0f} device-seconds of service passed {threshold:.0f}: queue {queue}"
        return Reordering(job=standing.job.id, queue=queue, reason=reason)

    def _next_s(self) -> float:
        """The next time at which somebody would change queues with everything going on as it does."""
        return min(
            (self._queues.next_s(standing.attained, standing.queue) for standing in self._jobs.values()),
            default=math.inf,
        )


def _order(standing: _Standing) -> tuple[int, float, int]:
    first = math.inf if standing.first_start is None else standing.first_start
    return standing.queue, first, standing.arrival
