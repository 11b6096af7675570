"""What a scheduler may know of a job when it is submitted: its own words, and how alike jobs that have ended ran.

A row of numbers for each job, made at its submission and never changed. Statistics are kept for groups that a job
belongs to (its user, its user with this size, its tenant, ...), and a job counts in them from the instant it ended. So
nothing that happens after a submission can change its row; `tests/schedule/test_durations.py` reorders the future and
compares.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from myriarch.schedule.job import Job, Kind

Floats = npt.NDArray[np.float64]

KINDS: Final[tuple[Kind, ...]] = ("gang", "hpc", "inference", "interactive", "experiment")
DAY_S: Final = 86_400.0
DAYS_PER_WEEK: Final = 7
SLOW, FAST = 0.02, 0.2
"""A new run counts for so much in a group's mean, at least: means over some 50 and some 5 jobs. People repeat what they
ran last (Tsafrir, Etsion and Feitelson, IEEE TPDS 18(6), 2007: the last two jobs of a user predict best)."""


class Row(NamedTuple):
    """A job, as a forest sees it. Run times in it are logarithms, and differences from one of them."""

    values: Floats
    """NaN: unknown."""
    origin: float
    """Log run time of the last job that ended in the narrowest group that has one; NaN: no job has ended yet."""


class Group:
    """Running statistics of log run times of jobs that ended."""

    __slots__ = ("before", "count", "ended_s", "fast", "last", "slow", "square")

    def __init__(self) -> None:
        self.count = 0
        self.slow = self.fast = self.square = self.last = self.before = self.ended_s = math.nan

    def add(self, log_run: float, *, now_s: float) -> None:
        """A job of the group ended."""
        if not self.count:
            self.slow = self.fast = log_run
            self.square = 0.0
        self.count += 1
        slow, fast = max(SLOW, 1 / self.count), max(FAST, 1 / self.count)
        self.square += slow * ((log_run - self.slow) ** 2 - self.square)
        self.slow += slow * (log_run - self.slow)
        self.fast += fast * (log_run - self.fast)
        self.before, self.last = self.last, log_run
        self.ended_s = now_s


class Owner:
    """Who submits: what of theirs has not ended, and when they last came."""

    __slots__ = ("came_s", "devices", "estimate_s", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self.came_s = self.devices = self.estimate_s = math.nan


_NOBODY: Final = Owner()
_EMPTY: Final = Group()


class History:
    """All that has happened, in groups. Invariant: an owner's `pending` counts its jobs that have not ended."""

    def __init__(self, *, estimates: bool) -> None:
        self._estimates = estimates
        self._groups: dict[Hashable, Group] = {}
        self._owners: dict[Hashable, Owner] = {}

    def row(self, job: Job, *, now_s: float) -> Row:
        """The job's row, and the origin that its run times are counted from."""
        groups = [self._groups.get(key, _EMPTY) for key in self._keys(job)]
        origin = next((group.last for group in groups if group.count), math.nan)
        log_estimate = math.log(job.estimate_s) if self._estimates else math.nan
        values = [
            math.log(job.devices),
            log_estimate,
            float(KINDS.index(job.kind)),
            now_s % DAY_S,
            now_s // DAY_S % DAYS_PER_WEEK,
            origin,
            log_estimate - origin,
        ]
        for key in self._owned(job):
            owner = self._owners.get(key, _NOBODY)
            values += (
                float(owner.pending),
                now_s - owner.came_s,
                job.devices - owner.devices,
                job.estimate_s - owner.estimate_s if self._estimates else math.nan,
            )
        for group in groups:
            values += (
                float(group.count),
                group.slow - origin,
                group.fast - origin,
                group.last - origin,
                group.before - origin,
                math.sqrt(group.square),
                now_s - group.ended_s,
            )
        return Row(values=np.array(values), origin=origin)

    def submitted(self, job: Job, *, now_s: float) -> None:
        """It counts as pending from now on."""
        for key in self._owned(job):
            owner = self._owners.setdefault(key, Owner())
            owner.pending += 1
            owner.came_s, owner.devices, owner.estimate_s = now_s, job.devices, job.estimate_s

    def dropped(self, job: Job) -> None:
        """It will not run."""
        for key in self._owned(job):
            self._owners[key].pending -= 1

    def ended(self, job: Job, run_s: float, *, now_s: float) -> None:
        """It counts in its groups from now on."""
        for key in self._owned(job):
            self._owners[key].pending -= 1
        log_run = math.log(max(run_s, 1.0))
        for key in self._keys(job):
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group()
            group.add(log_run, now_s=now_s)

    def _owned(self, job: Job) -> tuple[Hashable, ...]:
        return (("user", job.tenant, job.user), ("tenant", job.tenant))

    def _keys(self, job: Job) -> tuple[Hashable, ...]:
        """The narrowest first."""
        asked = job.estimate_s if self._estimates else None
        user = (job.tenant, job.user)
        return (
            ("user, size and estimate", user, job.devices, asked),
            ("user and size", user, job.devices),
            ("user", user),
            ("tenant and size", job.tenant, job.devices),
            ("tenant", job.tenant),
            ("size and estimate", job.devices, asked),
            ("all",),
        )
