"""What a unit of slowdown counts for in money, set so that waiting for prices slows jobs down by no more than promised.

It is the dual variable of that promise. Jobs wait where that saves more than the slowdown at this price. The more of
the promise is used up, the dearer slowdown becomes, by a factor of e for every `SHARE` of it. At `LEVEL` of it, a unit
counts as much as a job's mean bill so far: who waits as long as it runs then has to save its own price. Waits count as
they are expected to while a job runs, and as they were when it has ended.
"""

from __future__ import annotations

import math
from typing import Final, final

from myriarch.errors import SpecError

SHARE: Final = 0.2
"""Of the promise: a fortieth of a bill at nothing used, 3.5 bills at all of it; then nobody waits. An assumption."""
LEVEL: Final = 0.75
"""Of the promise, where a unit of slowdown counts as much as a bill."""
LEAST_JOBS: Final = 20
"""The promise counts as if so many jobs had come, so that the first ones can wait, too."""


@final
class Dial:
    """A machine: jobs, their bills and their waits in, the price of slowdown out. Invariant: `jobs` and `billed` only
    grow."""

    def __init__(self, *, promise: float) -> None:
        """`promise`: by how much waiting for prices may raise the mean bounded slowdown. Raises SpecError below 0."""
        if not 0 <= promise < math.inf:
            raise SpecError(f"`promise: {promise:g}` is no slowdown; give 0 or more, like 0.05")
        self.promise = promise
        self.jobs = 0
        self.billed = 0.0
        self.spent = 0.0
        """Units of slowdown that jobs were made to wait for."""

    def came(self, bill: float) -> None:
        """A job, and what it is expected to pay."""
        self.jobs += 1
        self.billed += max(bill, 0.0)

    def waited(self, slowdown: float) -> None:
        """Of a job that waits for prices; below zero where it had been overestimated."""
        self.spent += slowdown

    @property
    def used(self) -> float:
        """Share of the promise."""
        allowed = self.promise * max(self.jobs, LEAST_JOBS)
        return max(self.spent, 0.0) / allowed if allowed > 0 else math.inf

    @property
    def bill(self) -> float:
        """The mean of all jobs so far."""
        return self.billed / max(self.jobs, 1)

    @property
    def price(self) -> float:
        """Of a unit of bounded slowdown; infinite where no more is left."""
        if self.used >= 1.0:
            return math.inf
        return self.bill * math.exp((self.used - LEVEL) / SHARE)
