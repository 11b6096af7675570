"""Which steps were kept.

A step is *provisional* when it is done: nobody knows yet whether its result will survive. It is *kept* once a
checkpoint or a live replica that contains it was used to go on from, or the run ended with it; it is *lost* once the
run went on from an earlier step, or ended without it. Decided by incarnation, not by time: the same step number may
be done in several incarnations, and at most one of them is not lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from myriarch.event.actions import Decide, EndRun, StartSteps
from myriarch.event.base import Value
from myriarch.event.ids import Incarnation, Step

Fate = Literal["kept", "lost", "provisional"]


class Lineage(Value, frozen=True, kw_only=True):
    """From which step each incarnation went on, and with which the run ended."""

    starts: tuple[tuple[Incarnation, Step], ...]
    """`(incarnation, the step that it went on from)`, in order of incarnations."""
    kept_steps: Step | None = None
    """The run ended with the state after this many steps; None while it goes on."""

    def fate(self, incarnation: int, step: int) -> Fate:
        """What became of the step that makes the state of `step` steps into `step + 1`, as done in `incarnation`."""
        later = [start for number, start in self.starts if number > incarnation]
        if self.kept_steps is not None:
            later.append(self.kept_steps)
        if any(start <= step for start in later):
            return "lost"
        return "kept" if later else "provisional"


def lineage_of(timeline: Sequence[tuple[int, object]]) -> Lineage:
    """Read it off a journal.

    `StartSteps` says from which step an incarnation really went on. The newest incarnation may be on its way still:
    then its `Decide` says so. An incarnation that never started took nothing away from anybody, and is left out.

    The run keeps what `EndRun` says. For one that failed that is its newest durable checkpoint: memory dies with the
    fleet.
    """
    starts: dict[Incarnation, Step] = {}
    decided: tuple[Incarnation, Step] | None = None
    kept: Step | None = None
    for _, what in timeline:
        match what:
            case StartSteps(incarnation=incarnation, start_step=step):
                starts[incarnation] = step
            case Decide(incarnation=incarnation, to_step=step) if step is not None:
                decided = (incarnation, step)
            case EndRun(step=step):
                kept = step
            case _:
                pass
    if decided is not None and decided[0] > max(starts, default=Incarnation(0)):
        starts[decided[0]] = decided[1]
    return Lineage(starts=tuple(sorted(starts.items())), kept_steps=kept)
