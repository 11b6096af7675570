"""Whether the shares still fit: speeds as the steps themselves show them.

Shares come from a short calibration before the first step. Devices get slower or faster afterwards, and a calibration
beside other work was wrong from the start; then every step waits for the slowest group. So each step says how long its
group computed, and when another split would shorten the step enough, all stop together after a step, with a snapshot of
it, and go on with new shares: no step is lost, no sample twice.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Final

import msgspec

from myriarch.event.actions import GroupShare
from myriarch.event.events import StepCompleted
from myriarch.event.ids import GroupId

WINDOW_STEPS: Final = 8
"""A group's speed is the median of so many steps: two in a row that a neighbour disturbed do not move it."""

GAIN_LEAST: Final = 0.10
"""A new split has to shorten the step by so much. Sequences are whole, so smaller gains are mostly rounding; stopping
together costs well under a step's time for each device."""

PATIENCE_STEPS: Final = 200
"""The longest pause between two looks. It doubles from `WINDOW_STEPS` with each change: speeds that swing do not make
the run swing."""


REST_STEPS: Final = 2 * WINDOW_STEPS
"""With fewer steps left, a new split no longer pays."""


class Drift(msgspec.Struct, kw_only=True):
    """Observed speeds of the present incarnation.

    Invariants: `computed` has at most `WINDOW_STEPS` times for each group, all of the present shares; `changes` counts
    the rebalances of the run.
    """

    computed: dict[GroupId, list[float]] = {}
    """Seconds that a group's own forward and backward passes took, newest last."""
    steps: int = 0
    """Completed steps of the slowest-reporting group in this incarnation."""
    looked: int = 0
    """Steps at the newest look: the same steps are not looked at twice, whatever else happens between them."""
    changes: int = 0
    gain: float = 0.0
    """What the newest look promised: share of the step's time."""

    def begin(self) -> None:
        """New incarnation, new shares."""
        self.computed, self.steps, self.looked, self.gain = {}, 0, 0, 0.0

    def completed(self, event: StepCompleted) -> None:
        """A group says how long it computed."""
        times = self.computed.setdefault(event.group, [])
        times.append(event.compute_s)
        del times[:-WINDOW_STEPS]
        self.steps += 1

    def due(self, groups: int) -> bool:
        """Whether it is time to look: every group has filled its window, and the pause is over."""
        pause = min(PATIENCE_STEPS, WINDOW_STEPS << self.changes)
        full = len(self.computed) == groups and all(len(times) == WINDOW_STEPS for times in self.computed.values())
        new = self.steps > self.looked and self.steps % groups == 0
        return groups > 1 and new and full and self.steps >= pause * groups

    def speeds(self, shares: Mapping[GroupId, GroupShare]) -> dict[GroupId, float]:
        """Observed sequences per second of one device of each group; groups without a positive time are left out."""
        found: dict[GroupId, float] = {}
        for group, times in self.computed.items():
            middle_s = statistics.median(times)
            if middle_s > 0.0:
                found[group] = shares[group].count / (middle_s * shares[group].world_size)
        return found

    def check(self) -> None:
        """Invariants."""
        assert all(len(times) <= WINDOW_STEPS for times in self.computed.values())


def step_s(shares: tuple[GroupShare, ...], speeds: Mapping[GroupId, float]) -> float:
    """Seconds that the slowest group computes in a step with these shares."""
    return max(share.count / (speeds[share.group] * share.world_size) for share in shares)
