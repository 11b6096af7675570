"""What a user wants the least of, as a score that the search can prune by.

| objective | the least of |
| --- | --- |
| `time` | days to the last token, failures included |
| `cost` | money: devices by the hour, spares included, energy where it is paid apart |
| `energy` | joules: devices draw more while they compute than while they wait |
| `effective` | peak-FLOP-seconds of the devices owned, and so the most effective compute |
| `devices` | devices that keep a deadline; of as many, the sooner |

A deadline or a budget that a plan misses counts more than anything else: such a plan's score is how far it misses, on
top of a number that no kept promise reaches. So an impossible demand gets the plan that comes nearest.

Failures enter by the share of time that is kept on so many devices, worked out once for each number of devices
(`cost.effective`), so that a score rises with the seconds of a step as the search requires.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from myriarch.cost.arrays import Array, Real

Aim = Literal["time", "cost", "energy", "effective", "devices"]

MISSED: Final = 1e30
"""More than any kept score: joules of a whole planet's year are 6e20."""
SOONER: Final = 0.5
"""Devices that all of a deadline is worth when their number is what counts: less than one."""
SOONER_PER_S: Final = 1e-9
"""Of a currency, that a second sooner is worth: among plans that cost the same, the fastest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """An `Objective` of the search, for one pool."""

    aim: Aim
    steps: float
    """Of the whole training."""
    kept: Callable[[Array], Array]
    """Devices to the share of allocated time that becomes kept steps, in 0..1."""
    owned: Callable[[Array], Array]
    """Devices to devices owned, spares included."""
    price_per_device_hour: float = 1.0
    """In any unit."""
    idle_w: float = 0.0
    """Of one device and its share of everything around it."""
    busy_w: float = 1.0
    price_per_kwh: float = 0.0
    deadline_s: float | None = None
    budget: float | None = None

    @property
    def name(self) -> str:
        return self.aim

    def score(self, step_s: Array, *, busy_s: Array, devices: Real) -> Array:
        """Scores of plans; see the module. Arrays broadcast."""
        number = np.asarray(devices, dtype=np.float64)
        run_s = np.asarray(step_s) * (self.steps / self.kept(number))
        scored = self._aimed(run_s, step_s, busy_s, number)
        if self.deadline_s is not None:
            scored = np.where(run_s > self.deadline_s, MISSED * (run_s / self.deadline_s), scored)
        if self.budget is not None:
            paid = self._money(run_s, step_s, busy_s, number)
            scored = np.where(paid > self.budget, np.maximum(scored, MISSED * (paid / self.budget)), scored)
        return scored

    def _aimed(self, run_s: Array, step_s: Array, busy_s: Array, devices: Array) -> Array:
        match self.aim:
            case "time":
                return run_s
            case "effective":
                return np.asarray(run_s * self.owned(devices))
            case "energy":
                return self._joules(run_s, step_s, busy_s, devices)
            case "devices":
                soon = np.minimum(run_s / (self.deadline_s or np.inf), 1.0)
                return np.asarray(devices + SOONER * soon)
            case "cost":
                return self._money(run_s, step_s, busy_s, devices) + SOONER_PER_S * run_s

    def _joules(self, run_s: Array, step_s: Array, busy_s: Array, devices: Array) -> Array:
        mean_w = self.idle_w + (self.busy_w - self.idle_w) * np.minimum(np.divide(busy_s, step_s), 1.0)
        joules: Array = run_s * devices * mean_w
        return joules

    def _money(self, run_s: Array, step_s: Array, busy_s: Array, devices: Array) -> Array:
        rent = run_s / 3600.0 * self.owned(devices) * self.price_per_device_hour
        if self.price_per_kwh == 0:
            return np.asarray(rent)
        return np.asarray(rent + self._joules(run_s, step_s, busy_s, devices) / 3.6e6 * self.price_per_kwh)


def by_devices(share: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function, asked once for each number of devices."""
    known: dict[float, float] = {}

    def looked_up(devices: Array) -> Array:
        distinct, places = np.unique(devices, return_inverse=True)
        new = [number for number in distinct.tolist() if number not in known]
        if new:
            known.update(zip(new, np.broadcast_to(share(np.array(new)), (len(new),)).tolist(), strict=True))
        values: Array = np.array([known[number] for number in distinct.tolist()])[places]
        return values.reshape(np.shape(devices))

    return looked_up
