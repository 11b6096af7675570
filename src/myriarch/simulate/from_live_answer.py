"""What is asked of a live run's future, and the answer, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from myriarch.event.base import Value
from myriarch.event.ids import PoolId
from myriarch.simulate.faults import Fault
from myriarch.simulate.from_live_timing import Measured


class Question(Value, frozen=True, kw_only=True):
    """What may happen."""

    faults: tuple[Fault, ...] = ()
    """Instants are seconds from now."""
    rate_per_node_s: float = 0.0
    """Further faults of every node, drawn: a node's process dies."""
    repair_s: float | None = None
    """When another machine has taken a lost node's place; None: none does."""
    spares: dict[PoolId, int] = msgspec.field(default_factory=dict)
    """Nodes more in a pool, there at once."""
    seeds: int = 9

    @property
    def nothing(self) -> bool:
        """Whether it is only asked how the run goes on."""
        return not (self.faults or self.rate_per_node_s or self.spares)


class Range(Value, frozen=True, kw_only=True):
    """Over the seeds, those in which there is a value."""

    p10: float
    p50: float
    p90: float
    seeds: int


class Decision(Value, frozen=True, kw_only=True):
    """What was decided, in the controller's own words."""

    choice: str
    text: str
    seeds: int
    """In how many it was."""


class Projection(Value, frozen=True, kw_only=True):
    """How the run goes on. Seconds from now; None: it does not come to that, or is unknown."""

    outcomes: dict[str, int]
    """By seeds. `stuck`: nothing more happened."""
    end_s: Range | None
    step_s: Range | None
    """A step, snapshots included, once all is well."""
    effective: Range | None
    """Model FLOPs of the steps that come, over the peak of all devices, spares included, until the end."""
    decisions: tuple[Decision, ...] = ()
    detected_s: Range | None = None
    """From the first fault to the decision."""
    next_step_s: Range | None = None
    """From the first fault to the first step that is completed after the decision."""
    lost_steps: Range | None = None
    """Completed and undone, over all incidents."""
    faults: Range | None = None
    """How many there were."""
    steps_simulated: int = 0
    extrapolated: bool = False
    """Whether the end was computed from the pace and not reached."""
    overlap: float = 0.0
    """Drawn faults: share of the time that recoveries take together."""


class Replay(Value, frozen=True, kw_only=True):
    """The proof."""

    records: int
    events: int
    actions: int
    completed_actions: int
    """Said by the replay and not yet in the journal, whose writer is at work or died."""
    digest: str
    """Of the controller's state."""


class WhatIf(Value, frozen=True, kw_only=True):
    """The answer."""

    run: str
    run_id: str
    phase: str
    step: int
    steps: int
    at_ns: int
    """The journal's last instant: what `now` means here."""
    replay: Replay
    measured: tuple[Measured, ...]
    question: Question
    undisturbed: Projection
    changed: Projection | None
    """None: nothing was asked."""
    later_s: Range | None
    """How much later the end is than undisturbed, seed by seed."""
    notes: tuple[str, ...]


def range_over(values: Sequence[float]) -> Range | None:
    """Of the values that there are; None: none."""
    if not values:
        return None
    p10, p50, p90 = (float(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
    return Range(p10=p10, p50=p50, p90=p90, seeds=len(values))
