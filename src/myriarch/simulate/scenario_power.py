"""What devices draw, and what energy costs and emits by the hour, over the whole of a scenario.

A device that a job holds draws what `cost.energy` says of a computing one with its part of the node; any other device
draws the idle share. Both are at the site's meter (PUE). Prices and carbon are constant within an hour and begin anew
when the series is over, so their integrals over any stretch of time are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from myriarch.cost.energy import AIR, DEFAULT_PUE, JOULES_PER_KWH
from myriarch.simulate.scenario import Grid
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.site import HOURS_PER_DAY

HOUR_S = 3600.0

Floats = NDArray[np.float64]


class Hourly:
    """A value that is constant within each hour since the scenario began, and periodic."""

    def __init__(self, values: Sequence[float]) -> None:
        self._passed = np.concatenate(([0.0], np.cumsum(values))) * HOUR_S
        self._period_s = len(values) * HOUR_S

    def integral(self, until_s: Floats) -> Floats:
        """From 0 to each instant: value times seconds."""
        rounds, within_s = np.divmod(until_s, self._period_s)
        inside = np.interp(within_s, np.arange(len(self._passed)) * HOUR_S, self._passed)
        whole: Floats = rounds * self._passed[-1] + inside
        return whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meter:
    """One pool's."""

    busy_w: float | None
    """Of a device that a job holds; None: unknown."""
    idle_w: float | None
    price: Hourly | None
    """Of a kWh; None: not known, or part of the rent."""
    energy_currency: str
    carbon: Hourly | None
    """kg of CO2 in a kWh."""
    rent_per_device_hour: float | None
    rent_currency: str


def meter_of(pool: Pool, *, fleet: Fleet, grid: Grid | None) -> Meter:
    """The pool's meter: the scenario's grid goes before the fleet's site."""
    busy_w, idle_w = _drawn_w(pool, fleet)
    price, currency = _price(pool, fleet, grid)
    return Meter(
        busy_w=busy_w,
        idle_w=idle_w,
        price=price,
        energy_currency=currency,
        carbon=_carbon(pool, fleet, grid),
        rent_per_device_hour=pool.price_per_device_hour,
        rent_currency=pool.currency,
    )


def _drawn_w(pool: Pool, fleet: Fleet) -> tuple[float | None, float | None]:
    chip = pool.chip if isinstance(pool.chip, Chip) else lookup(pool.chip)
    site = fleet.site_of(pool)
    pue = DEFAULT_PUE if site is None or site.pue is None else site.pue
    load_w = pool.power_per_device_w
    board_w = chip.power_w if load_w is None else float(AIR.board_w(load_w))
    if board_w is None:
        return None, None
    return tuple(pue * float(AIR.drawn_w(state, board_w=board_w)) for state in ("computing", "idle"))  # type: ignore[return-value]


def _price(pool: Pool, fleet: Fleet, grid: Grid | None) -> tuple[Hourly | None, str]:
    if grid is not None and grid.price_per_kwh is not None:
        return _series(grid.price_per_kwh), grid.currency
    site = fleet.site_of(pool)
    if site is None or site.tariff is None:
        return None, ""
    begins = 0 if grid is None else grid.begins_hour
    prices = [site.tariff.price_at((begins + hour) % HOURS_PER_DAY) for hour in range(HOURS_PER_DAY)]
    return Hourly(prices), site.tariff.currency


def _carbon(pool: Pool, fleet: Fleet, grid: Grid | None) -> Hourly | None:
    if grid is not None and grid.carbon_kg_per_kwh is not None:
        return _series(grid.carbon_kg_per_kwh)
    factor = fleet.carbon_kg_per_kwh_of(pool)
    return None if factor is None else Hourly([factor])


def _series(values: float | tuple[float, ...]) -> Hourly:
    return Hourly(values if isinstance(values, tuple) else [values])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Of each stint of a job on a pool, in the order of the stints. Unknown is None, never zero."""

    energy_kwh: Floats | None
    carbon_kg: Floats | None
    energy_price: Floats | None
    rent: Floats | None


def drawn(meter: Meter, *, devices: NDArray[np.int64], start_s: Floats, end_s: Floats, busy: bool = True) -> Drawn:
    """What so many devices drew, emitted and cost from `start_s` to `end_s`; all three of one length.

    `busy` False: without a job; their rent is due all the same.
    """
    watts = meter.busy_w if busy else meter.idle_w
    held_s = end_s - start_s
    rent = None
    if meter.rent_per_device_hour is not None:
        rent = devices * held_s * (meter.rent_per_device_hour / HOUR_S)
    if watts is None:
        return Drawn(energy_kwh=None, carbon_kg=None, energy_price=None, rent=rent)
    kwh_per_s = devices * (watts / JOULES_PER_KWH)

    def over(series: Hourly | None) -> Floats | None:
        return None if series is None else kwh_per_s * (series.integral(end_s) - series.integral(start_s))

    return Drawn(energy_kwh=kwh_per_s * held_s, carbon_kg=over(meter.carbon), energy_price=over(meter.price), rent=rent)
