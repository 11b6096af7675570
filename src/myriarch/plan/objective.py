"""What a search looks for the least of."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from myriarch.cost.arrays import Array, Real


class Objective(Protocol):
    """A score of plans; the least is the best.

    The search leaves plans out whose best conceivable score is proved to be too high, so a score must not fall when
    `step_s` or `busy_s` rises and the rest stays. Scores are positive or negative, never NaN.
    """

    @property
    def name(self) -> str: ...

    def score(self, step_s: Array, *, busy_s: Array, devices: Real) -> Array:
        """Scores of plans whose steps take `step_s`, in which each of `devices` devices computes for `busy_s` seconds
        on average. Arrays broadcast."""
        ...


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """The time of a step, and so of the training."""

    name: str = "time"

    def score(self, step_s: Array, *, busy_s: Array, devices: Real) -> Array:
        return step_s


@dataclasses.dataclass(frozen=True)
class DeviceSeconds:
    """Device-seconds of a step: what is paid for where every hour of a device costs the same."""

    name: str = "cost"

    def score(self, step_s: Array, *, busy_s: Array, devices: Real) -> Array:
        return np.multiply(step_s, devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joules:
    """Energy of a step: devices draw `idle_w` all the time and `busy_w` while they compute."""

    idle_w: float
    busy_w: float
    name: str = "energy"

    def score(self, step_s: Array, *, busy_s: Array, devices: Real) -> Array:
        scored: Array = devices * (self.idle_w * step_s + (self.busy_w - self.idle_w) * busy_s)
        return scored
