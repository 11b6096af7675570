"""The queue: waiting jobs in order of arrival, with what is compared of all of them as arrays."""

from __future__ import annotations

from bisect import bisect
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import Job, JobId

Positions = NDArray[np.intp]

SLACK: Final = 64
"""Places of jobs that left are closed up when they are more than the jobs that wait, plus this."""
GONE: Final = np.iinfo(np.int64).max
"""Devices of a place that nobody has: more than any machine."""


class Full:
    """Shapes of jobs for which a pass found no place."""

    __slots__ = ("ever", "late")

    def __init__(self) -> None:
        self.late: set[int] = set()
        """No place for those that outlast the hold."""
        self.ever: set[int] = set()
        """No place at all."""


class Waiting(NamedTuple):
    """Those who have a promise that is not due, in order of arrival: arrays of one length."""

    places: Positions
    """In the line; ascending."""
    start_s: NDArray[np.float64]
    """What is promised."""
    estimate_s: NDArray[np.float64]
    shapes: NDArray[np.int64]

    def after(self, place: int) -> Waiting:
        """Who stands behind a place of the line."""
        begin = int(self.places.searchsorted(place, side="right"))
        return Waiting(self.places[begin:], self.start_s[begin:], self.estimate_s[begin:], self.shapes[begin:])


class Line:
    """Places in order of arrival. A place keeps its number until the next `append`.

    Invariant: places in `[first, _end)` hold a job or are gone, `count` of them a job, the one at `first` too.
    """

    def __init__(self) -> None:
        self._jobs: list[Job | None] = []
        self._arrivals: list[int] = []
        """Ascending: who came when, counted from 0."""
        self._came = 0
        self._places: dict[JobId, int] = {}
        self.first = 0
        """The place of who came first, when somebody waits."""
        self.count = 0
        """How many wait."""
        self._end = 0
        self._reserve(SLACK)

    def append(self, job: Job, *, shape: int, key: float = 0.0) -> int:
        """Let a job wait, last by arrival; its place."""
        if self._end - self.first > 2 * self.count + SLACK:
            self._close_up()
        if self._end == len(self._devices):
            self._close_up()
            if self._end * 2 > len(self._devices):
                self._reserve(2 * len(self._devices))
        at = self._end
        self._jobs.append(job)
        self._places[job.id] = at
        self._devices[at], self._estimate_s[at], self._shapes[at] = job.devices, job.estimate_s, shape
        self._arrivals.append(self._came)
        self._came += 1
        self._key[at] = key
        self._end += 1
        self.count += 1
        return at

    def pass_by(self) -> int:
        """Somebody comes and need not wait: when that was."""
        self._came += 1
        return self._came - 1

    def insert(self, job: Job, *, shape: int, arrival: int, key: float = 0.0) -> int:
        """Let a job wait again, where it stood; its place. Places of others change."""
        self._close_up()
        if self._end == len(self._devices):
            self._reserve(2 * len(self._devices))
        at, end = bisect(self._arrivals, arrival), self._end
        for column in (self._devices, self._estimate_s, self._shapes, self._key):
            column[at + 1 : end + 1] = column[at:end].copy()
        self._devices[at], self._estimate_s[at], self._key[at] = job.devices, job.estimate_s, key
        self._shapes[at] = shape
        self._jobs.insert(at, job)
        self._arrivals.insert(at, arrival)
        self._places = {one.id: place for place, one in enumerate(self._jobs) if one is not None}
        self._end += 1
        self.count += 1
        return at

    def remove(self, at: int) -> None:
        """The job at a place waits no more."""
        del self._places[self.job(at).id]
        self._jobs[at] = None
        self._devices[at], self._estimate_s[at], self._key[at] = GONE, np.inf, np.inf
        self.count -= 1
        while self.first < self._end and self._jobs[self.first] is None:
            self.first += 1

    def job(self, at: int) -> Job:
        """Who has a place."""
        job = self._jobs[at]
        assert job is not None
        return job

    def shape(self, at: int) -> int:
        """What its job's needs have in common with others'."""
        return int(self._shapes[at])

    def arrival(self, at: int) -> int:
        """When its job came, counted from 0."""
        return self._arrivals[at]

    def find(self, job: JobId) -> int | None:
        """A job's place; None when it does not wait."""
        return self._places.get(job)

    def lowest(self) -> int:
        """The place with the lowest key, of equal ones who came first."""
        return self.first + int(np.argmin(self._key[self.first : self._end]))

    def key(self, at: int) -> float:
        """A place's key."""
        return float(self._key[at])

    def waiting(self) -> Positions:
        """The places of all who wait, in order of arrival."""
        found: Positions = self.first + np.flatnonzero(self._devices[self.first : self._end] != GONE)
        return found

    def jobs(self) -> list[Job]:
        """All who wait, in order of arrival."""
        return [job for job in self._jobs[self.first : self._end] if job is not None]

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

    def candidates(self, *, free_devices: int, now_s: float, hold_s: float, spare_devices: int) -> Positions:
        """Who, by mere numbers, may start beside a hold, in order of arrival: what `Shortlist` says one by one."""
        span = slice(self.first, self._end)
        devices = self._devices[span]
        may = self._estimate_s[span] + now_s <= hold_s
        may |= devices <= spare_devices
        may &= devices <= free_devices
        found: Positions = self.first + np.flatnonzero(may)
        return found

    def late(self, places: Positions, *, now_s: float, hold_s: float) -> NDArray[np.bool_]:
        """Of some places, whose jobs would outlast a hold if they started now."""
        late: NDArray[np.bool_] = self._estimate_s[places] + now_s > hold_s
        return late

    def like(self, places: Positions, shape: int) -> NDArray[np.bool_]:
        """Of some places, whose jobs are of a shape."""
        like: NDArray[np.bool_] = self._shapes[places] == shape
        return like

    def movable(self, *, after: int, now_s: float, devices: int, before_s: float) -> Positions:
        """Places whose key is later than now, if few devices are asked for or the key is before an instant."""
        begin = max(self.first, after + 1)
        span = slice(begin, self._end)
        keys = self._key[span]
        wanted = (self._devices[span] <= devices) | (keys < before_s)
        wanted &= (keys > now_s) & (keys != np.inf)
        found: Positions = begin + np.flatnonzero(wanted)
        return found

    def promised(self, *, after_s: float) -> Waiting:
        """All whose key is a start later than an instant."""
        span = slice(self.first, self._end)
        keys = self._key[span]
        found = np.flatnonzero((keys > after_s) & (keys != np.inf))
        return Waiting(self.first + found, keys[found], self._estimate_s[span][found], self._shapes[span][found])

    def check(self) -> None:
        """Assert the invariant."""
        span = self._jobs[self.first : self._end]
        assert self.count == sum(job is not None for job in span) == len(self.waiting())
        assert len(self._jobs) == len(self._arrivals) == self._end
        assert self._arrivals == sorted(self._arrivals)
        assert all(self.job(at).id == job for job, at in self._places.items())
        assert len(self._places) == self.count
        assert not span or span[0] is not None

    def _reserve(self, length: int) -> None:
        def grown(name: str, kind: type) -> None:
            array: NDArray[Any] = np.zeros(length, dtype=kind)
            before = getattr(self, name, array[:0])
            array[: len(before)] = before
            setattr(self, name, array)

        self._devices: NDArray[np.int64]
        self._estimate_s: NDArray[np.float64]
        self._key: NDArray[np.float64]
        self._shapes: NDArray[np.int64]
        grown("_devices", np.int64)
        grown("_estimate_s", np.float64)
        grown("_key", np.float64)
        grown("_shapes", np.int64)

    def _close_up(self) -> None:
        places = self.waiting()
        count = len(places)
        for column in (self._devices, self._estimate_s, self._shapes, self._key):
            column[:count] = column[places]
        jobs = self.jobs()
        self._arrivals = [self._arrivals[at] for at in places.tolist()]
        self._jobs = list(jobs)
        self._places = {job.id: at for at, job in enumerate(jobs)}
        self.first, self._end = 0, count
