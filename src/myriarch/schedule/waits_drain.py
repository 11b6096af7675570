"""A queue that is served strictly in order, drained in some worlds at once.

Whoever is served in order starts when all before him have started and enough of them, or of those who run, have come
back. That is arithmetic, not statistics: with the true run times it gives every start of Mira's jobs under FIFO to the
second. What is not known are the run times, so each job is given one in every world, drawn from what was forecast for
it, and the newcomer's start is worked out in each.

Errors of run times are not independent: what a user sends at once runs alike, and over a week of Mira's jobs the ratio
of real to expected work has a standard deviation of 0.19 in logarithms, where independent errors would leave 0.05. So
each world also has a factor that is common to all of its jobs.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt

from myriarch.schedule.job import Job, JobId

Floats = npt.NDArray[np.float64]

WORLDS: Final = 16
SEED: Final = 0x3A175
"""Of the one stream that jobs' places in their distributions are drawn from."""
COMMON: Final = 0.2
"""Standard deviation of the logarithm of a world's factor. Mira, real over expected work of what ended in a week: 0.19;
in four days 0.22."""
NORMAL: Final = (
    -1.863, -1.318, -1.010, -0.776, -0.579, -0.402, -0.237, -0.078,
    0.078, 0.237, 0.402, 0.579, 0.776, 1.010, 1.318, 1.863,
)  # fmt: skip
"""The middles of sixteen equally likely parts of a standard normal distribution."""
STALE: Final = 0.02
"""Part of the wait that was worked out last, after which all is drained anew; until then, newcomers are added."""
SHORT_JOBS: Final = 8
"""A queue that is no longer is drained anew whenever something happened."""
LIKELY: Final = 100
"""Run times that are kept of a job, each as likely as the others."""


@dataclasses.dataclass(slots=True)
class _Held:
    """A job that waits or runs."""

    devices: int
    estimate_s: float
    run_s: Floats
    """Equally likely run times, ascending: LIKELY of them."""
    places: Floats
    """By world: where in that distribution, 0..1."""
    drawn_s: list[float]
    """By world: how long it runs, as told when it was submitted."""
    started_s: float = 0.0


@dataclasses.dataclass(slots=True)
class _World:
    """After all that wait have started: who ends when (a heap), what is free, when the last one started."""

    ends: list[tuple[float, int]]
    free: int
    start_s: float

    def add(self, devices: int, run_s: float) -> None:
        """One more, behind all others."""
        back = self._take(devices)
        self.free += sum(each for _, each in back) - devices
        self.start_s = max(self.start_s, back[-1][0]) if back else self.start_s
        heapq.heappush(self.ends, (self.start_s + run_s, devices))

    def next_s(self, devices: int) -> float:
        """When a job would start behind all others."""
        back = self._take(devices)
        for end in back:
            heapq.heappush(self.ends, end)
        return max(self.start_s, back[-1][0]) if back else self.start_s

    def _take(self, devices: int) -> list[tuple[float, int]]:
        """Off the heap: the ends that one has to wait for until so many are free."""
        free, back = self.free, []
        while free < devices and self.ends:
            back.append(heapq.heappop(self.ends))
            free += back[-1][1]
        return back


@final
class Drain:
    """Who waits, in order, and who runs on so many devices.

    Invariant: `_worlds` is empty, or has all jobs that wait; it is worked out anew when it was made too long ago.
    `_busy` devices run, `_queued` are waited for.
    """

    def __init__(self, *, devices: int, common: float = COMMON) -> None:
        """`common`: standard deviation of the logarithm of the worlds' factors."""
        self._devices = devices
        self._factors = np.exp(common * np.array(NORMAL))
        self._waiting: dict[JobId, _Held] = {}
        self._running: dict[JobId, _Held] = {}
        self._busy = self._queued = 0
        self._worlds: list[_World] = []
        self._until_s = 0.0
        """When the worlds are out of date."""
        self._random = np.random.default_rng(SEED)

    def submitted(self, job: Job, *, run_s: Floats) -> None:
        """It waits behind the others. `run_s`: equally likely run times, ascending."""
        places = (self._random.permutation(WORLDS) + self._random.random(WORLDS)) / WORLDS
        drawn = run_s[(places * len(run_s)).astype(np.intp)]
        kept = run_s[np.arange(LIKELY) * len(run_s) // LIKELY]
        held = _Held(job.devices, job.estimate_s, kept, places, (drawn * self._factors).tolist())
        self._waiting[job.id] = held
        self._queued += job.devices
        for world, each_s in zip(self._worlds, held.drawn_s, strict=False):
            world.add(job.devices, each_s)

    def started(self, job: Job, *, now_s: float) -> bool:
        """It runs; whether it was its turn."""
        first = next(iter(self._waiting)) == job.id
        held = self._running[job.id] = self._waiting.pop(job.id)
        held.started_s = now_s
        self._busy += held.devices
        self._queued -= held.devices
        self._changed(in_order=first)
        return first

    def ended(self, job: Job) -> None:
        """It gave its devices back."""
        self._busy -= self._running.pop(job.id).devices
        self._changed(in_order=True)

    def dropped(self, job: Job) -> None:
        """It will not run."""
        self._queued -= self._waiting.pop(job.id).devices
        self._worlds = []

    def resized(self, devices: int) -> None:
        """There are so many devices now."""
        self._devices = devices
        self._worlds = []

    def waits(self, job: Job, *, now_s: float) -> Floats:
        """By world, ascending: how long a job would wait that came now."""
        if self._busy + self._queued + job.devices <= self._devices:
            return np.zeros(WORLDS)
        if not self._worlds or now_s >= self._until_s:
            self._work_out(now_s)
        return np.sort([max(world.next_s(job.devices) - now_s, 0.0) for world in self._worlds])

    def check(self) -> None:
        """Assert the invariants, as far as one can see."""
        assert len(self._worlds) in (0, WORLDS)
        assert not self._waiting.keys() & self._running.keys()
        assert self._busy == sum(held.devices for held in self._running.values())
        assert self._queued == sum(held.devices for held in self._waiting.values())

    def _changed(self, *, in_order: bool) -> None:
        if not in_order or len(self._waiting) <= SHORT_JOBS:
            self._worlds = []

    def _work_out(self, now_s: float) -> None:
        running = list(self._running.values())
        ends_s = now_s + _left(running, now_s) * self._factors
        order = np.argsort(ends_s, axis=0, kind="stable")
        devices = np.array([held.devices for held in running], dtype=np.int64)
        waiting = [(held.devices, held.drawn_s) for held in self._waiting.values()]
        self._worlds = []
        for index in range(WORLDS):
            first = order[:, index]
            ends = list(zip(ends_s[first, index].tolist(), devices[first].tolist(), strict=True))
            world = _World(ends, self._devices - self._busy, now_s)  # what is in order is a heap
            for needed, drawn_s in waiting:
                world.add(needed, drawn_s[index])
            self._worlds.append(world)
        starts_s = sorted(world.start_s for world in self._worlds)
        self._until_s = now_s + STALE * (starts_s[WORLDS // 2] - now_s)


def _left(running: Sequence[_Held], now_s: float) -> Floats:
    """By job and world: how much longer it runs. Beyond all that was forecast, P(T > t) ~ 1/t, as in
    `Durations.remaining`, and until its estimate is over it ends by that."""
    if not running:
        return np.zeros((0, WORLDS))
    run_s = np.array([held.run_s for held in running])
    places = np.array([held.places for held in running])
    age_s = now_s - np.array([held.started_s for held in running])[:, None]
    over = (run_s <= age_s).sum(axis=1)[:, None]
    which = over + (places * (LIKELY - over)).astype(np.intp)
    left_s = np.take_along_axis(run_s, np.minimum(which, LIKELY - 1), axis=1) - age_s
    beyond_s = np.maximum(age_s, 1.0) * places / (1.0 - places)
    bound_s = np.array([held.estimate_s for held in running])[:, None] - age_s
    beyond_s = np.where(bound_s > 0, np.minimum(beyond_s, bound_s), beyond_s)
    return np.where(over < LIKELY, left_s, beyond_s)
