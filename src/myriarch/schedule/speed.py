"""How fast a job gets on, by pool and number of devices: what policies over unlike and resizable devices weigh."""

from __future__ import annotations

from typing import Protocol

from myriarch.schedule.job import Job


class Speeds(Protocol):
    """Progress by the second. A planner, a profile or measured rates stand behind it."""

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        """Seconds of the job's run time, as it would be with the devices it asked for on the pool its estimate is of,
        that one second there gets done. 0: it cannot run there."""


class Rigid:
    """Every job runs at one speed, on the devices it asked for and no others."""

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        """1 where the devices suffice: a gang that does not divide among its nodes may hold a few more."""
        return 1.0 if devices >= job.devices else 0.0
