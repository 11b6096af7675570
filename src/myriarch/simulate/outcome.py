"""What came of a workload: waits, slowdowns, use of the fleet, per tenant and kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.scheduler import Scheduler

SLOWDOWN_BOUND_S: Final = 10.0
"""Shorter jobs count as this long, lest they rule every mean (Feitelson et al., JSSPP'97; 10 s as in Mu'alem and
Feitelson 2001)."""

SECONDS_PER_HOUR: Final = 3600.0

Floats = NDArray[np.float64]


class Usage:
    """Integrals over virtual time, kept as it passes."""

    def __init__(self, *, devices: int) -> None:
        self.devices = devices
        self.busy = 0
        """Devices that jobs hold now."""
        self.busy_device_s = 0.0
        self.waiting_job_s = 0.0
        """Length of the queue, integrated."""
        self.waiting_most = 0
        self.idle_wanted_device_s = 0.0
        """Free while somebody waited."""
        self.idle_fragmented_device_s = 0.0
        """Free while somebody waited who asked for no more than that: scattered, or held for another."""

    def advance(self, duration_s: float, scheduler: Scheduler) -> None:
        """Time passes, and nothing changes in it."""
        self.busy_device_s += self.busy * duration_s
        waiting = scheduler.waiting
        if not waiting:
            return
        self.waiting_job_s += waiting * duration_s
        if waiting > self.waiting_most:
            self.waiting_most = waiting
        free = scheduler.machine.free_devices
        if free:
            self.idle_wanted_device_s += free * duration_s
            head = scheduler.head
            if head is not None and head.devices <= free:
                self.idle_fragmented_device_s += free * duration_s


class Summary(Value, frozen=True, kw_only=True):
    """Of the jobs that ran. Times in seconds."""

    jobs: int
    device_hours: float
    """Devices asked for times run time."""
    wait_s_mean: float
    wait_s_p50: float
    wait_s_p95: float
    wait_s_max: float
    completion_s_mean: float
    """From submission to end (JCT)."""
    completion_s_p95: float
    slowdown_mean: float
    """Bounded: (wait + run) / max(run, 10 s), at least 1."""
    slowdown_p95: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Arrays are in the order of the workload; a refused job has no start (NaN)."""

    jobs: Sequence[Job]
    run_s: Floats
    start_s: Floats
    taken_devices: NDArray[np.int64]
    refused: Mapping[JobId, str]
    usage: Usage
    events: int
    """Submissions, ends and wake-ups."""
    digest: str
    """Of all decisions with their reasons, in order."""

    @property
    def ran(self) -> NDArray[np.bool_]:
        """Which jobs did."""
        return ~np.isnan(self.start_s)

    @property
    def wait_s(self) -> Floats:
        """From submission to start."""
        waits: Floats = self.start_s - np.array([job.submit_s for job in self.jobs])
        return waits

    @property
    def slowdown(self) -> Floats:
        """Bounded slowdown."""
        slowdowns: Floats = np.maximum((self.wait_s + self.run_s) / np.maximum(self.run_s, SLOWDOWN_BOUND_S), 1.0)
        return slowdowns

    @property
    def makespan_s(self) -> float:
        """From the first submission to the last end."""
        if not self.ran.any():
            return 0.0
        return float(np.nanmax(self.start_s + self.run_s)) - self.jobs[0].submit_s

    @property
    def utilisation(self) -> float:
        """Share of the fleet's device-seconds, over the makespan, that jobs held."""
        capacity = self.usage.devices * self.makespan_s
        return self.usage.busy_device_s / capacity if capacity else 0.0

    @property
    def fragmented(self) -> float:
        """Share of the fleet's device-seconds that were free and enough for the first in the queue, but scattered."""
        capacity = self.usage.devices * self.makespan_s
        return self.usage.idle_fragmented_device_s / capacity if capacity else 0.0

    def summary(self, chosen: NDArray[np.bool_] | None = None) -> Summary | None:
        """Of all jobs that ran, or of the chosen ones; None when there are none."""
        which = self.ran if chosen is None else self.ran & chosen
        if not which.any():
            return None
        wait_s, run_s, slowdown = self.wait_s[which], self.run_s[which], self.slowdown[which]
        devices = np.array([job.devices for job in self.jobs])[which]
        completion_s = wait_s + run_s
        return Summary(
            jobs=len(wait_s),
            device_hours=float(devices @ run_s) / SECONDS_PER_HOUR,
            wait_s_mean=float(wait_s.mean()),
            wait_s_p50=float(np.quantile(wait_s, 0.5)),
            wait_s_p95=float(np.quantile(wait_s, 0.95)),
            wait_s_max=float(wait_s.max()),
            completion_s_mean=float(completion_s.mean()),
            completion_s_p95=float(np.quantile(completion_s, 0.95)),
            slowdown_mean=float(slowdown.mean()),
            slowdown_p95=float(np.quantile(slowdown, 0.95)),
        )

    def by(self, group: Callable[[Job], str]) -> dict[str, Summary]:
        """Summaries by tenant, kind, pool asked for, ...: groups in alphabetical order."""
        names = np.array([group(job) for job in self.jobs])
        found = {name: self.summary(names == name) for name in sorted(set(names.tolist()))}
        return {name: summary for name, summary in found.items() if summary is not None}
