"""A scheduler on nodes that others can wrap: told of changes, and asked to move a running job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Resize
from myriarch.schedule.job import JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Draining


@runtime_checkable
class Moving(Draining, Protocol):
    """`Easy`, `InOrder` and `Ranked` on `Placed`, and what wraps them."""

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """There are other nodes or more power than before: who starts now."""

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on at once on other devices of its pool, which are free or its own."""


def nodes_of(scheduler: Moving) -> Placed:
    """Its machine. Raises SpecError for one that only counts devices."""
    if isinstance(machine := scheduler.machine, Placed):
        return machine
    raise SpecError(f"{type(machine).__name__} has no nodes", hint="schedule on a Placed machine")
