"""What devices draw, and what energy costs and emits by the hour, over the whole of a scenario.

A device that a job holds draws what `cost.energy` says of a computing one with its part of the node; any other device
draws the idle share; the site adds its PUE. Prices, carbon and PUE are constant within an hour and begin anew when
their series is over, so the integrals over any stretch of time are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from myriarch.cost.energy import AIR, DEFAULT_PUE, JOULES_PER_KWH
from myriarch.errors import UsageError
from myriarch.simulate.market_hours import SiteHours, read_hours
from myriarch.simulate.scenario import Grid
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.site import HOURS_PER_DAY

HOUR_S = 3600.0

Floats = NDArray[np.float64]


class Hourly:
    """A value that is constant within each hour since the scenario began, and periodic."""

    def __init__(self, values: Sequence[float] | Floats) -> None:
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
    """At the plug, of a device that a job holds; None: unknown."""
    idle_w: float | None
    pue: Hourly
    price: Hourly | None
    """Of a kWh at the plug, with what the site adds to it; None: not known, or part of the rent."""
    energy_currency: str
    carbon: Hourly | None
    """kg of CO2, likewise."""
    rent_per_device_hour: float | None
    rent_currency: str


def meter_of(pool: Pool, *, fleet: Fleet, grid: Grid | None, hours: Mapping[str, SiteHours] | None = None) -> Meter:
    """The pool's meter. What the grid says goes before the `hours` of its file, and they before the fleet's site."""
    busy_w, idle_w = _drawn_w(pool)
    here = (hours or {}).get(pool.site)
    site = fleet.site_of(pool)
    fixed = DEFAULT_PUE if site is None or site.pue is None else site.pue
    pue = [fixed] if here is None or here.pue is None else here.pue.tolist()
    price, currency = _price(pool, fleet, grid, here)
    return Meter(
        busy_w=busy_w,
        idle_w=idle_w,
        pue=Hourly(pue),
        price=_times(price, pue),
        energy_currency=currency,
        carbon=_times(_carbon(pool, fleet, grid, here), pue),
        rent_per_device_hour=pool.price_per_device_hour,
        rent_currency=pool.currency,
    )


def hours_of(grid: Grid | None) -> dict[str, SiteHours]:
    """The hours of sites that a grid's file has. Raises SpecError for a file that is none."""
    if grid is None or not grid.hours:
        return {}
    try:
        with open(grid.hours, encoding="utf-8") as file:
            return read_hours(file, source=grid.hours)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{grid.hours} cannot be read: {error}", hint="name a CSV file of hours") from None


def _drawn_w(pool: Pool) -> tuple[float | None, float | None]:
    chip = pool.chip if isinstance(pool.chip, Chip) else lookup(pool.chip)
    load_w = pool.power_per_device_w
    board_w = chip.power_w if load_w is None else float(AIR.board_w(load_w))
    if board_w is None:
        return None, None
    return float(AIR.drawn_w("computing", board_w=board_w)), float(AIR.drawn_w("idle", board_w=board_w))


def _price(pool: Pool, fleet: Fleet, grid: Grid | None, here: SiteHours | None) -> tuple[list[float] | None, str]:
    if grid is not None and grid.price_per_kwh is not None:
        return _series(grid.price_per_kwh), grid.currency
    if grid is not None and here is not None:
        return here.price_per_kwh.tolist(), grid.currency
    site = fleet.site_of(pool)
    if site is None or site.tariff is None:
        return None, ""
    begins = 0 if grid is None else grid.begins_hour
    prices = [site.tariff.price_at((begins + hour) % HOURS_PER_DAY) for hour in range(HOURS_PER_DAY)]
    return prices, site.tariff.currency


def _carbon(pool: Pool, fleet: Fleet, grid: Grid | None, here: SiteHours | None) -> list[float] | None:
    if grid is not None and grid.carbon_kg_per_kwh is not None:
        return _series(grid.carbon_kg_per_kwh)
    if here is not None and here.carbon_kg_per_kwh is not None:
        return [float(carbon) for carbon in here.carbon_kg_per_kwh]
    factor = fleet.carbon_kg_per_kwh_of(pool)
    return None if factor is None else [factor]


def _series(values: float | tuple[float, ...]) -> list[float]:
    return list(values) if isinstance(values, tuple) else [values]


def _times(values: list[float] | None, pue: list[float]) -> Hourly | None:
    """Hour by hour, over a stretch that both periods divide."""
    if values is None:
        return None
    length = max(len(values), len(pue)) if 1 in (len(values), len(pue)) else math.lcm(len(values), len(pue))
    return Hourly(np.resize(values, length) * np.resize(pue, length))


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
    rent = None
    if meter.rent_per_device_hour is not None:
        rent = devices * (end_s - start_s) * (meter.rent_per_device_hour / HOUR_S)
    if watts is None:
        return Drawn(energy_kwh=None, carbon_kg=None, energy_price=None, rent=rent)
    kwh_per_s = devices * (watts / JOULES_PER_KWH)

    def over(series: Hourly | None) -> Floats | None:
        return None if series is None else kwh_per_s * (series.integral(end_s) - series.integral(start_s))

    return Drawn(energy_kwh=over(meter.pue), carbon_kg=over(meter.carbon), energy_price=over(meter.price), rent=rent)
