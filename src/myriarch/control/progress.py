"""How far the run is."""

from __future__ import annotations

import msgspec

from myriarch.event.events import StepCompleted
from myriarch.event.ids import GroupId, Incarnation, Step


class Progress(msgspec.Struct, kw_only=True):
    """Steps that were completed, and what they said."""

    newest: Step = Step(0)
    """The newest step that any group completed, over all incarnations."""
    current: Step = Step(0)
    """The newest step of the present incarnation, or the one that it goes on from."""
    stepped: Incarnation = Incarnation(0)
    """The newest incarnation of which some group completed a step."""
    of_group: dict[GroupId, Step] = {}
    loss: float | None = None
    """Mean over the valid tokens of the newest step's batch."""
    tokens: int = 0
    """Valid tokens of the newest step's batch."""
    step_s: float | None = None
    """Duration of the newest step."""
    slowest_step_s: float = 0.0

    def begin(self, step: Step) -> None:
        """An incarnation goes on from `step`."""
        self.current = step
        self.newest = max(self.newest, step)
        self.of_group = {}

    def completed(self, event: StepCompleted) -> None:
        """A group completed a step."""
        self.of_group[event.group] = event.step
        self.current = max(self.current, event.step)
        self.newest = max(self.newest, event.step)
        self.stepped = event.incarnation
        self.loss = event.loss_sum / event.tokens if event.tokens else None
        self.tokens = event.tokens
        self.step_s = event.duration_s
        self.slowest_step_s = max(self.slowest_step_s, event.duration_s)

    def check(self) -> None:
        """Invariants."""
        assert self.current <= self.newest
        assert all(step <= self.current for step in self.of_group.values())
