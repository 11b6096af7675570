"""Who comes first: a number for each waiting job, the lowest first, equal ones by arrival."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId


class Order(Protocol):
    """An order of the queue. One whose keys change is told of starts and ends."""

    @property
    def by_arrival(self) -> bool:
        """Whether it is the order of arrival: then nobody has to compare keys."""

    @property
    def refresh_s(self) -> float:
        """After how long the keys of all who wait are worked out anew; infinite: never."""

    def key(self, job: Job, *, now_s: float) -> float:
        """The lowest goes first."""

    def started(self, job: Job, *, now_s: float) -> None:
        """A job began to use devices."""

    def ended(self, job: JobId, *, now_s: float) -> None:
        """A job gave its devices back."""


class Fixed(Value, frozen=True, kw_only=True):
    """An order by something that does not change while a job waits."""

    name: str
    of: Callable[[Job], float]
    by_arrival: bool = False

    @property
    def refresh_s(self) -> float:
        """Never."""
        return float("inf")

    def key(self, job: Job, *, now_s: float) -> float:
        """As it was at submission."""
        return self.of(job)

    def started(self, job: Job, *, now_s: float) -> None:
        """Nothing to learn."""

    def ended(self, job: JobId, *, now_s: float) -> None:
        """Nothing to learn."""


ARRIVAL: Final = Fixed(name="arrival", of=lambda job: 0.0, by_arrival=True)
SHORTEST: Final = Fixed(name="shortest", of=lambda job: job.estimate_s)
"""Shortest estimate first (SJF)."""
SMALLEST: Final = Fixed(name="smallest", of=lambda job: float(job.devices))
LARGEST: Final = Fixed(name="largest", of=lambda job: -float(job.devices))
SMALLEST_AREA: Final = Fixed(name="smallest area", of=lambda job: job.devices * job.estimate_s)
"""Fewest device-seconds first, by the estimate (SRSF of Tiresias, NSDI'19, before any service)."""
