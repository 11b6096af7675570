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
from itertools import pairwise
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId

THRESHOLDS_DEVICE_S: Final = (3_600.0, 36_000.0)
"""Three queues: up to one device-hour, up to ten, all others. Our own choice: service is spread over orders of
magnitude, so the thresholds are."""

LEAST_S: Final = 1e-6
"""Until somebody changes queues at least: instants are doubles, and service that lacks their rounding would stop time;
on 49,152 devices it is some service."""


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
    queue: int = 0
    service: float = 0.0
    """Device-seconds, ever."""
    first_start: int | None = None
    """Number of the start; orders those of one queue."""
    ran_s: float = 0.0
    """Since it last entered the first queue."""
    waited_s: float = 0.0
    """Likewise."""


class LeastAttained:
    """The machine. Instants never go back; each call first counts the time since the last.

    Invariants (`check`): running jobs fit the devices of the last decision; every job is in the queue of its service,
    or before it by promotion.
    """

    def __init__(self, *, thresholds: tuple[float, ...] = THRESHOLDS_DEVICE_S, starve_factor: float = math.inf) -> None:
        if any(low >= high for low, high in pairwise(thresholds)) or (thresholds and thresholds[0] <= 0):
            raise SpecError(f"thresholds {thresholds} do not rise from above 0; sort them")
        if starve_factor <= 0:
            raise SpecError(f"starve_factor {starve_factor:g} would promote everybody at once; use infinity for never")
        self.thresholds = thresholds
        self.starve_factor = starve_factor
        self._jobs: dict[JobId, _Standing] = {}
        self._running: tuple[JobId, ...] = ()
        self._now_s = 0.0
        self._arrivals = 0
        self._starts = 0
        self._devices = 0

    def submit(self, job: Job, *, now_s: float) -> None:
        """A new job, in the first queue."""
        self._advance(now_s)
        self._jobs[job.id] = _Standing(job=job, arrival=self._arrivals)
        self._arrivals += 1

    def end(self, job: JobId, *, now_s: float) -> None:
        """A job is done, or withdrawn."""
        self._advance(now_s)
        del self._jobs[job]
        self._running = tuple(each for each in self._running if each != job)

    def service(self, job: JobId) -> float:
        """Device-seconds that the job has had."""
        return self._jobs[job].service

    def decide(self, *, now_s: float, devices: int) -> Sharing:
        """Who runs on so many devices."""
        self._advance(now_s)
        running = set(self._running)
        moved = tuple(
            each
            for job, standing in self._jobs.items()
            if (each := self._moved(standing, waits=job not in running)) is not None
        )
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
            assert standing.queue <= self._queue_of(standing.service), f"{standing.job.id} fell too far"

    def _advance(self, now_s: float) -> None:
        passed_s = now_s - self._now_s
        if passed_s < 0:
            raise ValueError(f"{now_s} s is before {self._now_s} s")
        self._now_s = now_s
        running = set(self._running)
        for job, standing in self._jobs.items():
            if job in running:
                standing.service += passed_s * standing.job.devices
                standing.ran_s += passed_s
            else:
                standing.waited_s += passed_s

    def _queue_of(self, service: float) -> int:
        return sum(service >= threshold * (1 - 1e-12) for threshold in self.thresholds)

    def _moved(self, standing: _Standing, *, waits: bool) -> Reordering | None:
        starving = (
            waits and standing.queue > 0 and standing.waited_s >= self.starve_factor * standing.ran_s * (1 - 1e-12)
        )
        if starving:
            waited_s, ran_s = standing.waited_s, standing.ran_s
            standing.queue, standing.ran_s, standing.waited_s = 0, 0.0, 0.0
            reason = f"waited {waited_s:.0f} s after running {ran_s:.0f} s: back to the first queue"
            return Reordering(job=standing.job.id, queue=0, reason=reason)
        # What a promoted job has had since decides how soon it falls again.
        since = standing.ran_s * standing.job.devices if standing.service > 0 else 0.0
        queue = self._queue_of(min(standing.service, since))
        if queue <= standing.queue:
            return None
        standing.queue = queue
        threshold = self.thresholds[queue - 1]
        reason = f"{standing.service:.0f} device-seconds of service passed {threshold:.0f}: queue {queue}"
        return Reordering(job=standing.job.id, queue=queue, reason=reason)

    def _next_s(self) -> float:
        """The next time at which somebody would change queues with everything going on as it does."""
        running = set(self._running)
        waits: list[float] = []
        for job, standing in self._jobs.items():
            if job in running and standing.queue < len(self.thresholds):
                left = self.thresholds[standing.queue] / standing.job.devices - standing.ran_s
                waits.append(max(left, LEAST_S))
            elif job not in running and standing.queue > 0 and math.isfinite(self.starve_factor):
                waits.append(max(self.starve_factor * standing.ran_s - standing.waited_s, LEAST_S))
        return self._now_s + min(waits, default=math.inf)


def _order(standing: _Standing) -> tuple[int, float, int]:
    first = math.inf if standing.first_start is None else standing.first_start
    return standing.queue, first, standing.arrival
