"""Hours of a site: what a kilowatt-hour costs and emits in each, how warm it is and what the cooling adds.

A series begins at some local hour and has a value for every hour after it. What a schedule draws is an integral over
them: exact, whatever second a run starts at. Series are read from CSV (`read_hours`) or drawn (`market_draw`).
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from myriarch.cost.energy import DEFAULT_PUE
from myriarch.errors import SpecError
from myriarch.schedule.calendar import HOURS_PER_DAY, S_PER_HOUR, Floats, Steps
from myriarch.schedule.power import Hour

JOULES_PER_KWH: Final = 3.6e6
COLUMNS: Final = ("site", "hour", "price_per_kwh", "carbon_kg_per_kwh", "temperature_c", "pue")
"""Of a CSV file; the last three may be missing or empty."""
FREE_COOLING_C: Final = 15.0
"""Outside air up to this cools alone: it becomes the 18 to 27 degrees that ASHRAE recommends at the inlets (TC 9.9,
Thermal Guidelines, class A1), with a few degrees of exchanger between."""
PUE_PER_K: Final = 0.01
"""What a degree above that adds. An assumption: 20 K more make the 0.2 by which summer and winter differ at many
sites."""


@dataclasses.dataclass(frozen=True)
class SiteHours:
    """The hours of one site. Arrays have one length; the first hour begins at instant 0."""

    site: str
    first_hour: int
    """Local hour of day at instant 0, 0 to 23."""
    price_per_kwh: Floats
    """May be below zero."""
    carbon_kg_per_kwh: Floats | None = None
    """None: unknown."""
    temperature_c: Floats | None = None
    pue: Floats | None = None
    """None: `DEFAULT_PUE`, a year's mean."""
    synthetic: bool = False
    """Drawn, not measured."""

    @property
    def hours(self) -> int:
        return len(self.price_per_kwh)

    @property
    def pue_hourly(self) -> Floats:
        """Of each hour."""
        return np.full(self.hours, DEFAULT_PUE) if self.pue is None else self.pue

    def price(self) -> Steps:
        """Of a kilowatt-hour at the machines' plugs, cooling included, over time."""
        return self._steps(self.price_per_kwh * self.pue_hourly)

    def carbon(self) -> Steps | None:
        """Likewise, kg CO2."""
        return None if self.carbon_kg_per_kwh is None else self._steps(self.carbon_kg_per_kwh * self.pue_hourly)

    def energy(self) -> Steps:
        """Energy of the site over that of its machines."""
        return self._steps(self.pue_hourly)

    def day_ahead(self, at_s: float) -> tuple[float, ...]:
        """The prices of the 24 hours from an instant on, by local hour of day, cooling included.

        It is what a day-ahead market has published, in the form in which an offer takes it.
        """
        return self._by_hour_of_day(self.price_per_kwh * self.pue_hourly, at_s)

    def carbon_ahead(self, at_s: float) -> tuple[float, ...] | None:
        """Likewise, kg CO2 by the kilowatt-hour: what a grid's forecast says."""
        carbon = self.carbon_kg_per_kwh
        return None if carbon is None else self._by_hour_of_day(carbon * self.pue_hourly, at_s)

    def list_price(self) -> float:
        """The mean of all hours, cooling included: what a price list would say."""
        return float((self.price_per_kwh * self.pue_hourly).mean())

    def spans(self, *, from_s: float, until_s: float, cap_w: float = math.inf) -> tuple[Hour, ...]:
        """The hours between two instants, for `schedule.power.shift`."""
        carbon = self.carbon_kg_per_kwh
        first, last = self._index(from_s), self._index(until_s - 1e-9)
        return tuple(
            Hour(
                start_s=max(hour * S_PER_HOUR, from_s),
                end_s=min((hour + 1) * S_PER_HOUR, until_s),
                price_per_kwh=float(self.price_per_kwh[hour] * self.pue_hourly[hour]),
                carbon_kg_per_kwh=0.0 if carbon is None else float(carbon[hour] * self.pue_hourly[hour]),
                cap_w=cap_w,
            )
            for hour in range(first, last + 1)
        )

    def _steps(self, values: Floats) -> Steps:
        return Steps(np.arange(self.hours + 1, dtype=np.float64) * S_PER_HOUR, values)

    def _by_hour_of_day(self, values: Floats, at_s: float) -> tuple[float, ...]:
        now = self._index(at_s)
        ahead = np.arange(now, now + HOURS_PER_DAY)
        by_hour = np.empty(HOURS_PER_DAY)
        by_hour[(self.first_hour + ahead) % HOURS_PER_DAY] = values[np.minimum(ahead, self.hours - 1)]
        return tuple(by_hour.tolist())

    def _index(self, at_s: float) -> int:
        found = int(at_s // S_PER_HOUR)
        if not 0 <= found < self.hours:
            raise SpecError(f"{self.site} has {self.hours} hours; {at_s:g} s is not in them; give a longer series")
        return found


def pue_of(temperature_c: Floats, *, least: float = 1.15) -> Floats:
    """PUE by the hour from the air outside: `least`, and `PUE_PER_K` for each degree above free cooling."""
    warmer: Floats = least + PUE_PER_K * np.maximum(temperature_c - FREE_COOLING_C, 0.0)
    return warmer


def read_hours(lines: Iterable[str], *, source: str = "") -> dict[str, SiteHours]:
    """Sites by name, from CSV with `COLUMNS`; `hour` counts local hours from a midnight on, without a gap.

    Raises SpecError that names the line.
    """
    reader = csv.DictReader(lines)
    missing = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"has no column {', '.join(missing)}; begin with `{','.join(COLUMNS)}`", source=source)
    rows: dict[str, list[dict[str, float]]] = {}
    for number, row in enumerate(reader, start=2):
        site = (row["site"] or "").strip()
        try:
            values = {name: float(row[name]) for name in COLUMNS[1:] if (row.get(name) or "").strip()}
        except ValueError as error:
            raise SpecError(f"line {number}: {error}; write plain numbers", source=source) from None
        _check_row(values, site, number, before=rows.get(site), source=source)
        rows.setdefault(site, []).append(values)
    if not rows:
        raise SpecError("has no hours; give a line for each site and hour", source=source)
    return {site: _site(site, values, source=source) for site, values in sorted(rows.items())}


def _check_row(
    values: Mapping[str, float], site: str, number: int, *, before: list[dict[str, float]] | None, source: str
) -> None:
    where = f"line {number}"
    if not site:
        raise SpecError(f"{where}: names no site; fill in `site`", source=source)
    for name in COLUMNS[1:3]:
        if name not in values:
            raise SpecError(f"{where}: `{name}` is empty; a market needs every hour", source=source)
    if any(not math.isfinite(value) for value in values.values()):
        raise SpecError(f"{where}: an amount is not finite; write plain numbers", source=source)
    if values.get("carbon_kg_per_kwh", 0.0) < 0 or values.get("pue", 1.0) < 1:
        raise SpecError(f"{where}: carbon is below 0, or PUE below 1; check the units", source=source)
    if before and values["hour"] != before[-1]["hour"] + 1:
        text = (
            f"{where}: hour {values['hour']:g} of {site} follows hour {before[-1]['hour']:g}; sort, and fill the gaps"
        )
        raise SpecError(text, source=source)
    if not before and (values["hour"] < 0 or values["hour"] != int(values["hour"])):
        raise SpecError(f"{where}: hour {values['hour']:g} of {site}; count whole hours from 0 on", source=source)


def _site(site: str, rows: list[dict[str, float]], *, source: str) -> SiteHours:
    def column(name: str) -> Floats | None:
        given = [row[name] for row in rows if name in row]
        if given and len(given) < len(rows):
            raise SpecError(
                f"{site}: `{name}` is given for {len(given)} of {len(rows)} hours; all or none", source=source
            )
        return np.array(given) if given else None

    temperature_c, pue = column("temperature_c"), column("pue")
    return SiteHours(
        site=site,
        first_hour=int(rows[0]["hour"]) % HOURS_PER_DAY,
        price_per_kwh=np.array([row["price_per_kwh"] for row in rows]),
        carbon_kg_per_kwh=column("carbon_kg_per_kwh"),
        temperature_c=temperature_c,
        pue=pue if pue is not None or temperature_c is None else pue_of(temperature_c),
    )
