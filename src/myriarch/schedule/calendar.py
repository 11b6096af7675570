"""Dates of a market, and amounts that change with the hour: both on one axis, seconds after the market opens.

Deciding code has no clock, and none of `datetime`; a date is read by its own few lines. A price by the hour of day, a
voucher's dates and a discount are all step functions of time, so what a run pays is an integral of a product of steps:
exact, whatever second it starts at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.units import S_PER_DAY

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

S_PER_HOUR: Final = 3600.0
HOURS_PER_DAY: Final = 24

_INSTANT: Final = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2}))?(?:(Z)|([+-])(\d{2}):?(\d{2}))?)?"
)
_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_NEEDED: Final = "write 2026-12-01 or 2026-12-01T08:00+08:00"


def instant_s(text: str, *, utc_offset_s: float) -> tuple[float, float]:
    """An ISO 8601 instant as (seconds since 1970-01-01 UTC, its offset from UTC); a bare date is its midnight.

    `utc_offset_s` holds where the text names none. Raises ValueError.
    """
    match = _INSTANT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a date; {_NEEDED}")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    month_is_there = 1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1] and (leap or (month, day) != (2, 29))
    if not month_is_there or hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"`{text}` is no day or hour that there is; {_NEEDED}")
    zulu, sign, zone_hours, zone_minutes = match.groups()[6:]
    offset_s = utc_offset_s
    if zulu is not None or sign is not None:
        offset_s = 0.0 if zulu else (3600 * int(zone_hours) + 60 * int(zone_minutes)) * (1.0 if sign == "+" else -1.0)
    local_s = _days(year, month, day) * S_PER_DAY + hour * 3600 + minute * 60 + second
    return local_s - offset_s, offset_s


def instant_text(epoch_s: float, *, utc_offset_s: float) -> str:
    """The inverse of `instant_s`, to the second: what a market that opens now writes."""
    local_s = int(epoch_s + utc_offset_s)
    days, second = divmod(local_s, int(S_PER_DAY))
    # Years that begin in March, so that the leap day comes last: 400 of them are 146,097 days.
    era, of_era = divmod(days + 719468, 146097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    year = year_of_era + 400 * era + (month >= 10)
    month = month + 3 if month < 10 else month - 9
    sign, offset = "-" if utc_offset_s < 0 else "+", int(abs(utc_offset_s)) // 60
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f"{year:04d}-{month:02d}-{day:02d}T{clock}{sign}{offset // 60:02d}:{offset % 60:02d}"


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar: years begin in March, so that the leap day comes last."""
    year -= month <= 2
    month_after_march = (month + 9) % 12
    day_of_year = (153 * month_after_march + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - 719468


class Steps:
    """A step function of time with its integral: `values[i]` from `edges[i]` until `edges[i + 1]`."""

    def __init__(self, edges: Floats, values: Floats) -> None:
        self.edges = edges
        self.values = values
        self._passed = np.concatenate(([0.0], np.cumsum(np.diff(edges) * values)))

    @classmethod
    def daily(cls, hourly: float | Sequence[float], *, local_hour: float, until_s: float) -> Steps:
        """One value for all hours, or 24 of them from midnight on. `local_hour`: the time of day at instant 0."""
        if isinstance(hourly, (int, float)):
            return cls(np.array([0.0, until_s]), np.array([float(hourly)]))
        first = int(np.floor(local_hour))
        hours = np.arange(first, first + int(np.ceil(until_s / S_PER_HOUR)) + 1)
        starts = (hours - local_hour) * S_PER_HOUR
        edges = np.concatenate((starts, [starts[-1] + S_PER_HOUR]))
        return cls(edges, np.asarray(hourly, dtype=np.float64)[hours % HOURS_PER_DAY])

    def scaled(self, factor: float) -> Steps:
        """Every value times `factor`."""
        return Steps(self.edges, self.values * factor)

    def times(self, other: Steps) -> Steps:
        """The product, where both are known."""
        low, high = max(self.edges[0], other.edges[0]), min(self.edges[-1], other.edges[-1])
        edges = np.unique(np.concatenate((self.edges, other.edges)))
        edges = edges[(edges >= low) & (edges <= high)]
        middles = (edges[1:] + edges[:-1]) / 2
        return Steps(edges, self.at(middles) * other.at(middles))

    def at(self, instants_s: Floats) -> Floats:
        """The values at some instants; an edge belongs to the step after it."""
        index = np.searchsorted(self.edges, instants_s, side="right") - 1
        found: Floats = self.values[np.clip(index, 0, len(self.values) - 1)]
        return found

    def over(self, start_s: Floats, end_s: Floats) -> Floats:
        """The integral from each start to its end, in value-seconds."""
        found: Floats = np.interp(end_s, self.edges, self._passed) - np.interp(start_s, self.edges, self._passed)
        return found


def within(intervals: Iterable[tuple[Interval, float]], *, until_s: float, otherwise: float = 0.0) -> Steps:
    """A step function that has the greatest of the values of the intervals that hold an instant, or `otherwise`."""
    parts = [((max(start, 0.0), min(end, until_s)), value) for (start, end), value in intervals]
    parts = [((start, end), value) for (start, end), value in parts if start < end]
    edges = np.unique(np.array([0.0, until_s, *(edge for interval, _ in parts for edge in interval)]))
    middles = (edges[1:] + edges[:-1]) / 2
    values = np.full(len(middles), -np.inf)
    for (start, end), value in parts:
        held = (middles > start) & (middles < end)
        values[held] = np.maximum(values[held], value)
    return Steps(edges, np.where(np.isneginf(values), otherwise, values))
