"""The queue: waiting jobs in order of arrival, with what a pass over them compares as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import Job, JobId

Positions = NDArray[np.intp]

SLACK: Final = 64
"""Places of jobs that left are closed up when they are more than the jobs that wait, plus this."""
FIRST_WINDOW: Final = 256
"""Places looked at together at first."""
GONE: Final = np.iinfo(np.int64).max
"""Devices of a place that nobody has: more than any machine."""


class Line:
    """Places in order of arrival. A place keeps its number until the next `append`.

    Invariant: places in `[_first, _end)` hold a job or are gone, the one at `_first` holds one.
    """

    def __init__(self) -> None:
        self._jobs: list[Job | None] = []
        self._places: dict[JobId, int] = {}
        self._first = 0
        self._end = 0
        self._count = 0
        self._reserve(SLACK)

    def __len__(self) -> int:
        return self._count

    def append(self, job: Job, *, shape: int, key: float = 0.0) -> int:
        """Let a job wait, last by arrival; its place."""
        if self._end - self._first > 2 * self._count + SLACK:
            self._close_up()
        if self._end == len(self._devices):
            self._close_up()
            if self._end * 2 > len(self._devices):
                self._reserve(2 * len(self._devices))
        at = self._end
        self._jobs.append(job)
        self._places[job.id] = at
        self._devices[at], self._estimate_s[at] = job.devices, job.estimate_s
        self._shape[at], self._key[at] = shape, key
        self._end += 1
        self._count += 1
        return at

    def remove(self, at: int) -> None:
        """The job at a place waits no more."""
        del self._places[self.job(at).id]
        self._jobs[at] = None
        self._devices[at], self._key[at] = GONE, np.inf
        self._count -= 1
        while self._first < self._end and self._jobs[self._first] is None:
            self._first += 1

    def job(self, at: int) -> Job:
        """Who has a place."""
        job = self._jobs[at]
        assert job is not None
        return job

    def find(self, job: JobId) -> int | None:
        """A job's place; None when it does not wait."""
        return self._places.get(job)

    @property
    def first(self) -> int:
        """The place of who came first; only when somebody waits."""
        return self._first

    def lowest(self) -> int:
        """The place with the lowest key, of equal ones who came first."""
        return self._first + int(np.argmin(self._key[self._first : self._end]))

    def key(self, at: int) -> float:
        """A place's key."""
        return float(self._key[at])

    def waiting(self) -> Positions:
        """The places of all who wait, in order of arrival."""
        found: Positions = self._first + np.flatnonzero(self._devices[self._first : self._end] != GONE)
        return found

    def jobs(self) -> list[Job]:
        """All who wait, in order of arrival."""
        return [job for job in self._jobs[self._first : self._end] if job is not None]

    def set_keys(self, places: Positions, keys: NDArray[np.float64]) -> None:
        """Order them anew."""
        self._key[places] = keys

    def set_key(self, at: int, key: float) -> None:
        """Order one anew."""
        self._key[at] = key

    def in_order(self, places: Positions) -> Positions:
        """Places by key, equal ones by arrival."""
        ordered: Positions = places[np.argsort(self._key[places], kind="stable")]
        return ordered

    def by_estimate(self, places: Positions) -> Positions:
        """Places by estimate, equal ones by arrival."""
        ordered: Positions = places[np.argsort(self._estimate_s[places], kind="stable")]
        return ordered

    def windows(self) -> Iterator[slice]:
        """All places in parts, each twice as long as the one before: most searches end in the first."""
        begin, length = self._first, FIRST_WINDOW
        while begin < self._end:
            yield slice(begin, min(begin + length, self._end))
            begin, length = begin + length, 2 * length

    def candidates(
        self, *, free_devices: int, now_s: float, hold_s: float, spare_devices: int, window: slice | None = None
    ) -> Positions:
        """Who, by mere numbers, may start beside a hold: its devices are free, and it ends in time or they are spare."""
        window = window or slice(self._first, self._end)
        devices = self._devices[window]
        places = (devices <= free_devices).nonzero()[0]
        if len(places):
            in_time = self._estimate_s[window][places] + now_s <= hold_s
            in_time |= devices[places] <= spare_devices
            places = places[in_time]
            places += window.start
        return places

    def movable(self, *, after: int, now_s: float, devices: int, before_s: float) -> Positions:
        """Places whose key is later than now, and who need at most so many devices or whose key is before an instant."""
        begin = max(self._first, after + 1)
        span = slice(begin, self._end)
        keys = self._key[span]
        wanted = (self._devices[span] <= devices) | (keys < before_s)
        wanted &= (keys > now_s) & (keys != np.inf)
        found: Positions = begin + np.flatnonzero(wanted)
        return found

    def without(self, places: Positions, *, shape: int, lasting_s: float = 0.0) -> Positions:
        """Places but those of a shape whose estimate is above so many seconds."""
        rest: Positions = places[(self._shape[places] != shape) | (self._estimate_s[places] <= lasting_s)]
        return rest

    def check(self) -> None:
        """Assert the invariant."""
        span = self._jobs[self._first : self._end]
        assert self._count == sum(job is not None for job in span) == len(self.waiting())
        assert len(self._jobs) == self._end
        assert all(self.job(at).id == job for job, at in self._places.items())
        assert len(self._places) == self._count
        assert not span or span[0] is not None

    def _reserve(self, length: int) -> None:
        def grown(name: str, kind: type) -> None:
            array: NDArray[Any] = np.zeros(length, dtype=kind)
            before = getattr(self, name, array[:0])
            array[: len(before)] = before
            setattr(self, name, array)

        self._devices: NDArray[np.int64]
        self._shape: NDArray[np.int64]
        self._estimate_s: NDArray[np.float64]
        self._key: NDArray[np.float64]
        grown("_devices", np.int64)
        grown("_shape", np.int64)
        grown("_estimate_s", np.float64)
        grown("_key", np.float64)

    def _close_up(self) -> None:
        places = self.waiting()
        count = len(places)
        for column in (self._devices, self._shape, self._estimate_s, self._key):
            column[:count] = column[places]
        jobs = self.jobs()
        self._jobs = list(jobs)
        self._places = {job.id: at for at, job in enumerate(jobs)}
        self._first, self._end = 0, count
