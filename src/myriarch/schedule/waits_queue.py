"""The state of a queue in numbers: what stands between a job and its start, by what is known now.

Rows like those of `durations_history`: made of what has happened until now and nothing else. Times are expectations:
what is running is expected to end, and what is waiting to need, what `expected` said when the job was submitted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from myriarch.schedule.job import Job, JobId

Floats = npt.NDArray[np.float64]

DAY_S: Final = 86_400.0
DAYS_PER_WEEK: Final = 7
RECENT: Final = 0.2
"""A new wait counts for so much in the mean of recent ones: of some five."""


class Row(NamedTuple):
    """A job that is submitted, as a forest sees it. Waits in it are logarithms of one second more."""

    values: Floats
    """NaN: unknown."""
    origin: float
    """What waits are counted from: that of the work ahead."""


class Table:
    """Rows of numbers with a job each, in no order. Invariant: the first `count` rows are those of `_places`."""

    def __init__(self, columns: int) -> None:
        self._values = np.zeros((columns, 64))
        self._jobs: list[JobId] = []
        self._places: dict[JobId, int] = {}

    @property
    def count(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: JobId) -> bool:
        return job in self._places

    def add(self, job: JobId, *values: float) -> None:
        """A row more."""
        if self.count == self._values.shape[1]:
            self._values = np.concatenate((self._values, np.zeros_like(self._values)), axis=1)
        self._values[:, self.count] = values
        self._places[job] = self.count
        self._jobs.append(job)

    def remove(self, job: JobId) -> tuple[float, ...]:
        """A row less; the last one takes its place."""
        place = self._places.pop(job)
        values = tuple(self._values[:, place].tolist())
        last = self._jobs.pop()
        if last != job:
            self._values[:, place] = self._values[:, self.count]
            self._jobs[place] = last
            self._places[last] = place
        return values

    def columns(self) -> Floats:
        """All rows, shape (columns, count): a view."""
        return self._values[:, : self.count]

    def check(self) -> None:
        """Assert the invariant."""
        assert self._places == {job: place for place, job in enumerate(self._jobs)}


@dataclasses.dataclass(slots=True)
class _Starts:
    """Of a group of jobs: how long those that started last had waited."""

    mean: float = math.nan
    """Of log(1 + wait), recent ones."""
    last: float = math.nan
    started_s: float = math.nan
    submitted_s: float = math.nan
    """When the one that started last had been submitted."""

    def add(self, wait_s: float, *, now_s: float) -> None:
        self.last = math.log1p(wait_s)
        self.mean = self.last if math.isnan(self.mean) else self.mean + RECENT * (self.last - self.mean)
        self.started_s, self.submitted_s = now_s, now_s - wait_s


_NONE: Final = _Starts()


class QueueState:
    """Who waits and who runs on so many devices.

    Invariant: `busy` is the sum of what runs. It may be more than `devices`, where the true number was not known or has
    become smaller.
    """

    def __init__(self, *, devices: int) -> None:
        self.devices = devices
        self.busy = 0
        self._waiting = Table(4)
        """Devices, expected seconds, estimate, submission."""
        self._running = Table(3)
        """Devices, expected end, end by the estimate."""
        self._starts: dict[Hashable, _Starts] = {}
        self._held: dict[Hashable, int] = {}
        """Devices that run, by user."""
        self._queued: dict[Hashable, int] = {}
        """Jobs that wait, by user."""

    def submitted(self, job: Job, *, expected_s: float, now_s: float) -> None:
        """It waits."""
        self._waiting.add(job.id, job.devices, expected_s, job.estimate_s, now_s)
        _count(self._queued, _user(job), 1)

    def started(self, job: Job, *, now_s: float) -> float:
        """It runs; how long it has waited."""
        _, expected_s, estimate_s, submitted_s = self._waiting.remove(job.id)
        self._running.add(job.id, job.devices, now_s + expected_s, now_s + estimate_s)
        self.busy += job.devices
        _count(self._queued, _user(job), -1)
        _count(self._held, _user(job), job.devices)
        wait_s = now_s - submitted_s
        for key in _keys(job, expected_s):
            self._starts.setdefault(key, _Starts()).add(wait_s, now_s=now_s)
        return wait_s

    def ended(self, job: Job) -> None:
        """It gave its devices back."""
        self._running.remove(job.id)
        self.busy -= job.devices
        _count(self._held, _user(job), -job.devices)

    def runs(self, job: Job) -> bool:
        """Whether it was started and has not ended."""
        return job.id in self._running

    def dropped(self, job: Job) -> None:
        """It will not run."""
        self._waiting.remove(job.id)
        _count(self._queued, _user(job), -1)

    def row(self, job: Job, *, expected_s: float, now_s: float) -> Row:
        """Of a job that is submitted now, and the origin that its wait is counted from: all work before it, shared by
        all devices; nothing, where it fits and nobody waits. Work is in seconds of the whole pool."""
        devices, work_s, estimate_s, submitted_s = self._waiting.columns()
        free = self.devices - self.busy
        back = self._back(job, now_s)
        origin = math.log1p(back[-2]) if self._waiting.count or job.devices > free else 0.0
        values = [
            math.log(job.devices),
            math.log(expected_s),
            math.log(job.estimate_s),
            now_s % DAY_S,
            now_s // DAY_S % DAYS_PER_WEEK,
            free / self.devices,
            (free - job.devices) / self.devices,
            float(self._waiting.count),
            float(self._running.count),
            float(self._queued.get(_user(job), 0)),
            self._held.get(_user(job), 0) / self.devices,
            float(devices.sum()) / self.devices,
            float(devices @ work_s) / self.devices,
            float(devices @ estimate_s) / self.devices,
            *self._alike(job, expected_s),
            *self._ahead(submitted_s, now_s),
            *back,
        ]
        for key in _keys(job, expected_s):
            starts = self._starts.get(key, _NONE)
            values += (
                starts.mean,
                starts.last,
                starts.mean - origin,
                starts.last - origin,
                now_s - starts.started_s,
                now_s - starts.submitted_s,
            )
        return Row(values=np.array(values), origin=origin)

    def _alike(self, job: Job, expected_s: float) -> tuple[float, float, float]:
        """Waiting jobs that are no larger, as devices; no larger and no longer, as number and as work."""
        devices, work_s, _, _ = self._waiting.columns()
        smaller = devices <= job.devices
        shorter = smaller & (work_s <= expected_s)
        return (
            float(devices @ smaller) / self.devices,
            float(shorter.sum()),
            float((devices * work_s) @ shorter) / self.devices,
        )

    def _ahead(self, submitted_s: Floats, now_s: float) -> tuple[float, float]:
        """How long the first in the queue has waited, and how long they all have on average."""
        if not len(submitted_s):
            return 0.0, 0.0
        return float(now_s - submitted_s.min()), float(now_s - submitted_s.mean())

    def _back(self, job: Job, now_s: float) -> tuple[float, ...]:
        """When enough will have come back, by expectation and by the estimates; the work that is left of what runs,
        both ways; all work before the job. Who has run longer than expected, is expected to end now."""
        found: list[float] = []
        left: list[float] = []
        devices, *ends = self._running.columns()
        missing = job.devices - (self.devices - self.busy)
        for ends_s in ends:
            left_s = np.maximum(ends_s - now_s, 0.0)
            left.append(float(devices @ left_s) / self.devices)
            found.append(_when(left_s, devices, missing))
        waiting_devices, work_s, estimate_s, _ = self._waiting.columns()
        ahead = (
            left[0] + float(waiting_devices @ work_s) / self.devices,
            left[1] + float(waiting_devices @ estimate_s) / self.devices,
        )
        return (*found, *left, *ahead)

    def check(self) -> None:
        """Assert the invariants."""
        self._waiting.check()
        self._running.check()
        assert self.busy == int(self._running.columns()[0].sum()) == sum(self._held.values())
        assert self._waiting.count == sum(self._queued.values())


def _when(left_s: Floats, devices: Floats, missing: float) -> float:
    """After how many seconds so many devices will have come back; all of them do not suffice: after the last."""
    if missing <= 0 or not len(left_s):
        return 0.0
    order = np.argsort(left_s, kind="stable")
    back = np.cumsum(devices[order])
    return float(left_s[order[min(int(np.searchsorted(back, missing)), len(back) - 1)]])


def _user(job: Job) -> Hashable:
    return (job.tenant, job.user)


def _keys(job: Job, expected_s: float) -> tuple[Hashable, ...]:
    """Groups of alike jobs, for whose last starts one looks: sizes by powers of 2, run times by powers of 4."""
    size = job.devices.bit_length()
    length = math.ceil(math.log2(expected_s) / 2)
    return (("all",), ("size", size), ("size and length", size, length), ("tenant", job.tenant), ("user", _user(job)))


def _count(counts: dict[Hashable, int], key: Hashable, more: int) -> None:
    """No key is kept that counts nothing."""
    now = counts.get(key, 0) + more
    if now:
        counts[key] = now
    else:
        counts.pop(key, None)
