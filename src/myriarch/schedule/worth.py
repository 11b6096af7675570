"""Whether a preemption is worth what it costs.

A ranking says who should run; it does not say that a change is worth its price. Three tests, each with its numbers:

    spell      a job that began to run is let run for `spell` times what its next stop and start will cost, so that
               no more than 1 / (1 + spell) of any run is overhead
    devices    the device-seconds that the newcomer need not wait are at least those that are lost:
               devices x wait  >=  price x (sum over victims of devices x (save + restart)  +  devices left over x run)
    exchange   where run times are predicted: the newcomer gains more seconds than all victims lose together, each
               waiting while it runs (the exchange argument behind shortest remaining first, Smith 1956):
               wait  >=  price x sum over victims of (run + save + restart)

`wait` is how long the newcomer would wait otherwise: until enough of what runs is over by what is known, those ahead
of it served first; and at most until its victims are. `run` is how long it will run, for each such job that ends where
that is known as a distribution (`rankings.Ranking.spent_s`): half of a kind that runs a minute or a month costs those
who make room two minutes, not two weeks. Devices that victims free and nobody takes count as left over.
"""

from __future__ import annotations

import math
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.base import Value


class Worth(Value, frozen=True, kw_only=True):
    """The rule. All our own choices; `simulate --tune` finds others for a workload."""

    spell: float = 4.0
    """Overhead of a fifth at most."""
    price: float = 1.0
    """What a lost second counts against a gained one; 0: every preemption is worth it."""
    exchange: bool = True
    """Whether the third test is asked where it can be."""
    holds: bool = False
    """Whether holds have a price, too (`holding`)."""

    def __post_init__(self) -> None:
        if not (self.spell >= 0 and self.price >= 0 and math.isfinite(self.spell)):
            raise SpecError(f"spell {self.spell:g} and price {self.price:g} must be from 0 up")

    def could_allow(self, wait_s: float, run_s: float | None) -> bool:
        """Whether any swap at all could be worth it for a newcomer that waits and runs so long."""
        return not self.exchange or run_s is None or wait_s >= self.price * run_s

    def allows(self, swap: Swap) -> bool:
        """Whether a swap is worth its price."""
        if swap.gained_device_s < self.price * swap.lost_device_s:
            return False
        return not self.exchange or swap.run_s is None or swap.wait_s >= self.price * swap.delayed_s

    def allows_hold(self, *, spared_s: float, idle_device_s: float, waiting: int, devices: int) -> bool:
        """Whether a hold spares its job more than the others who wait lose by what stands idle for it."""
        return spared_s * devices >= self.price * idle_device_s * waiting


class Swap(Value, frozen=True, kw_only=True):
    """A newcomer for some victims."""

    devices: int
    wait_s: float
    """That the newcomer is spared."""
    run_s: float | None
    """That the newcomer will run, for each such job that ends; None: nobody knows."""
    switch_device_s: float
    """Sum over victims of devices x (save + restart)."""
    switch_s: float
    """Sum over victims of (save + restart)."""
    victims: int
    left_over_devices: int
    """Freed, and of use to nobody who waits."""

    @property
    def gained_device_s(self) -> float:
        return self.devices * self.wait_s

    @property
    def lost_device_s(self) -> float:
        idle_s = min(self.wait_s, self.run_s) if self.run_s is not None else self.wait_s
        return self.switch_device_s + self.left_over_devices * idle_s

    @property
    def delayed_s(self) -> float:
        """By which all victims together are late; meaningful where `run_s` is known."""
        return self.victims * (self.run_s or 0.0) + self.switch_s

    @property
    def numbers(self) -> str:
        """For reasons."""
        gained = f"{self.devices} devices spared {self.wait_s:.0f} s"
        lost = f"{self.victims} stopped for {self.switch_device_s:.0f} device-seconds of saving and restarting"
        idle = f", {self.left_over_devices} left over" if self.left_over_devices else ""
        late = f", late by {self.delayed_s:.0f} s together" if self.run_s is not None else ""
        return f"{gained}; {lost}{idle}{late}"


FREE_OF_CHARGE: Final = Worth(spell=0.0, price=0.0, exchange=False)
"""Whoever stands before runs: Tiresias."""
