"""What every scheduler is: a machine of submissions and ends in, decisions out.

The simulator and the live broker feed it the same way. At one instant: submissions, then ends, then `wake`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
        """Who is first in the queue."""

    @property
    def wake_s(self) -> float:
        """When it wants to be woken, if nothing happens before; infinite: never."""

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]: ...

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended, however it ended."""

    def wake(self, *, now_s: float) -> Sequence[Decision]: ...

    def check(self) -> None:
        """Assert the invariants."""


def refusal(machine: Machine, job: Job, *, now_s: float) -> Refuse | None:
    """The refusal of a job that can never run."""
    why = machine.refusal(job)
    return Refuse(job=job.id, at_s=now_s, reason=f"job {job.id} {why}") if why else None
