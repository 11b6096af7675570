"""What every scheduler is: a machine of submissions and ends in, decisions out.

The simulator and the live broker feed it the same way. At one instant: submissions, then ends, then `wake`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from myriarch.schedule.decision import Decision, Refuse
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Machine


class Scheduler(Protocol):
    """Instants never go back."""

    @property
    def machine(self) -> Machine: ...

    @property
    def waiting(self) -> int:
        """How many jobs wait."""

    @property
    def head(self) -> Job | None:
        """Who is first in the queue; None while jobs wait: all of them are held back (`capped`)."""

    @property
    def wake_s(self) -> float:
        """When it wants to be woken, if nothing happens before; infinite: never."""

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]: ...

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended, however it ended."""

    def wake(self, *, now_s: float) -> Sequence[Decision]: ...

    def check(self) -> None:
        """Assert the invariants."""


@runtime_checkable
class Surviving(Scheduler, Protocol):
    """A scheduler for nodes that break."""

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone from now on. First what becomes of the jobs on it, each of which is moved off it (`Resize`) or
        made to wait again (`Preempt`); `lost` unless the node was drained for this instant. Then who starts."""

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node that was lost is back, and empty."""


@runtime_checkable
class Draining(Surviving, Protocol):
    """One that is also told beforehand."""

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be lost at an instant: nobody whose estimate reaches into it starts there any more."""


def refusal(machine: Machine, job: Job, *, now_s: float) -> Refuse | None:
    """The refusal of a job that can never run."""
    why = machine.refusal(job)
    return Refuse(job=job.id, at_s=now_s, reason=f"job {job.id} {why}") if why else None
