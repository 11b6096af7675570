"""All jobs of a scheduler that ranks, waiting and running, as arrays: what a pass compares, by slot.

A slot is a job's for as long as it is there, and then another's. Ranks are kept as lines (`rankings.Course`), so that
nobody is touched merely because time passes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import JobId
from myriarch.schedule.rankings import Course
from myriarch.schedule.standing import Standing

Slots = NDArray[np.intp]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

FIRST_CAPACITY: Final = 64
FREE, WAITING, RUNNING = 0, 1, 2


class Roster:
    """Invariant: the slots of `_slots` are exactly those that are not FREE; arrays beyond `_end` mean nothing."""

    def __init__(self) -> None:
        self._slots: dict[JobId, int] = {}
        self._standings: list[Standing | None] = []
        self._unused: list[int] = []
        self._end = 0
        self.waiting = 0
        self.running = 0
        self._reserve(FIRST_CAPACITY)

    def add(self, standing: Standing, *, shape: int) -> int:
        """A new job, which waits; its slot."""
        if self._unused:
            slot = self._unused.pop()
            self._standings[slot] = standing
        else:
            slot = self._end
            if slot == len(self._state):
                self._reserve(2 * slot)
            self._standings.append(standing)
            self._end += 1
        self._slots[standing.job.id] = slot
        self._state[slot] = WAITING
        self._number[slot], self._shape[slot] = standing.number, shape
        self._devices[slot] = standing.job.devices
        self.waiting += 1
        return slot

    def remove(self, slot: int) -> None:
        """A job is gone."""
        self._count(slot, -1)
        del self._slots[self.standing(slot).job.id]
        self._standings[slot] = None
        self._state[slot] = FREE
        self._unused.append(slot)

    def run(self, slot: int, *, pool: int, devices: int, until_s: float, yields_from_s: float) -> None:
        """A job runs: so many devices, until then by what is known; from `yields_from_s` on it may be preempted."""
        self._count(slot, -1)
        self._state[slot], self._pool[slot] = RUNNING, pool
        self._devices[slot], self._until_s[slot], self._yields_from_s[slot] = devices, until_s, yields_from_s
        self._count(slot, 1)

    def extend(self, slot: int, *, until_s: float) -> None:
        """A running job will end at another instant."""
        self._until_s[slot] = until_s

    def wait(self, slot: int, *, needs_s: float) -> None:
        """A job waits: it will run for so long."""
        self._count(slot, -1)
        self._state[slot] = WAITING
        self._devices[slot], self._until_s[slot] = self.standing(slot).job.devices, needs_s
        self._count(slot, 1)

    def set_course(self, slot: int, course: Course, *, now_s: float) -> None:
        """Where a job stands from now on."""
        self._rank[slot] = course.rank - course.per_s * now_s
        self._per_s[slot], self._ask_s[slot] = course.per_s, course.until_s

    def slot(self, job: JobId) -> int:
        """A job's slot."""
        return self._slots[job]

    def find(self, job: JobId) -> int | None:
        """A job's slot; None when it is not there."""
        return self._slots.get(job)

    def standing(self, slot: int) -> Standing:
        """Whose slot it is."""
        standing = self._standings[slot]
        assert standing is not None
        return standing

    def ranks(self, slots: Slots, *, now_s: float) -> Floats:
        """Where they stand now."""
        found: Floats = self._rank[slots] + self._per_s[slots] * now_s
        return found

    def rank(self, slot: int, *, now_s: float) -> float:
        """Where one stands now."""
        return float(self._rank[slot] + self._per_s[slot] * now_s)

    def those(self, state: int) -> Slots:
        """Slots of all in a state."""
        found: Slots = (self._state[: self._end] == state).nonzero()[0]
        return found

    def overdue(self, *, now_s: float) -> list[int]:
        """Slots whose course is over."""
        if not self._slots:
            return []
        late = (self._ask_s[: self._end] <= now_s) & (self._state[: self._end] != FREE)
        found: list[int] = late.nonzero()[0].tolist()
        return found

    @property
    def next_ask_s(self) -> float:
        """When the first course is over."""
        asks_s = self._ask_s[: self._end][self._state[: self._end] != FREE]
        return float(asks_s.min()) if len(asks_s) else float("inf")

    def first(self, slots: Slots, *, now_s: float) -> int:
        """Of some slots the one that stands first."""
        ranks = self.ranks(slots, now_s=now_s)
        best = slots[ranks == ranks.min()]
        return int(best[0]) if len(best) == 1 else int(best[self._number[best].argmin()])

    def ordered(self, slots: Slots, *, now_s: float) -> Slots:
        """Slots by rank, equal ones by arrival."""
        found: Slots = slots[np.lexsort((self._number[slots], self.ranks(slots, now_s=now_s)))]
        return found

    def devices(self, slots: Slots) -> NDArray[np.int64]:
        """Devices that those who run hold, and those who wait ask for."""
        found: NDArray[np.int64] = self._devices[slots]
        return found

    def numbers(self, slots: Slots) -> NDArray[np.int64]:
        """Of their arrivals."""
        found: NDArray[np.int64] = self._number[slots]
        return found

    def shape(self, slot: int) -> int:
        """What one's needs have in common with others'."""
        return int(self._shape[slot])

    def shapes(self, slots: Slots) -> NDArray[np.int64]:
        """What their needs have in common."""
        found: NDArray[np.int64] = self._shape[slots]
        return found

    def until_s(self, slots: Slots) -> Floats:
        """When those who run end; how long those who wait will run."""
        found: Floats = self._until_s[slots]
        return found

    def until(self, slot: int) -> float:
        """When one that runs ends."""
        return float(self._until_s[slot])

    def pools(self, slots: Slots) -> NDArray[np.int64]:
        """Numbers of the pools in which they run."""
        found: NDArray[np.int64] = self._pool[slots]
        return found

    def yielding(self, slots: Slots, *, now_s: float) -> Slots:
        """Of running ones those that may be preempted now."""
        found: Slots = slots[self._yields_from_s[slots] <= now_s]
        return found

    def jobs(self) -> list[JobId]:
        """All, in the order of their slots' jobs' arrival."""
        return list(self._slots)

    def check(self) -> None:
        """Assert the invariant."""
        states = self._state[: self._end]
        assert (states != FREE).sum() == len(self._slots) == self.waiting + self.running
        assert (states == RUNNING).sum() == self.running
        for job, slot in self._slots.items():
            standing = self.standing(slot)
            assert standing.job.id == job
            assert standing.running == (states[slot] == RUNNING)
            assert int(self._devices[slot]) == (standing.held if standing.running else standing.job.devices)

    def _count(self, slot: int, by: int) -> None:
        if self._state[slot] == RUNNING:
            self.running += by
        else:
            self.waiting += by

    def _reserve(self, length: int) -> None:
        def grown(name: str, kind: type) -> None:
            array: NDArray[Any] = np.zeros(length, dtype=kind)
            before = getattr(self, name, array[:0])
            array[: len(before)] = before
            setattr(self, name, array)

        self._state: NDArray[np.int8]
        self._number: NDArray[np.int64]
        self._shape: NDArray[np.int64]
        self._devices: NDArray[np.int64]
        self._pool: NDArray[np.int64]
        self._until_s: Floats
        self._yields_from_s: Floats
        self._rank: Floats
        self._per_s: Floats
        self._ask_s: Floats
        grown("_state", np.int8)
        for name in ("_number", "_shape", "_devices", "_pool"):
            grown(name, np.int64)
        for name in ("_until_s", "_yields_from_s", "_rank", "_per_s", "_ask_s"):
            grown(name, np.float64)
