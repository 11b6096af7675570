"""Prices, carbon and weather by the hour, drawn after published shapes. All of it is synthetic, and says so.

    tariff_hours    Chinese time-of-use tariffs (峰谷分时电价): the same every day
    spot_hours      a spot market (电力现货): another price every hour, low when the sun shines or the wind blows
    weather         temperature, sun and wind

**Tariffs.** Hours are those in force for industry and commerce in February 2026, from a listing of all provinces.
Guangdong (Development and Reform Commission, notice 331 of 2021): peak 10-12 and 14-19, valley 0-8, 1.7 : 1 : 0.38.
Shandong in spring and autumn: peak 16-21, valley 9-14 and 23-7, since the sun makes noon cheap there; 1.7 : 1 : 0.3.
Jiangsu in spring and autumn: peak 15-22, valley 2-6 and 10-14. Yunnan: peak 7-9 and 18-24, valley 2-6 and 12-16. For
these two the ratios are the least that the National Commission asks of provinces with a wide load (notice 1093 of 2021:
peak over valley 4 : 1), spread about the flat price. Levels of the flat price are the caller's.

**Spot.** A price is a base that wanders from day to day, times a shape with a morning and an evening peak, less what
sun and wind of the hour take off. In hours of much of both it falls below zero, as in Shandong since 2023, down to a
floor. Sizes are assumptions; what is kept of real markets is the order of things: noon below night below evening, days
unlike each other, neighbouring hours alike.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.calendar import HOURS_PER_DAY, Floats
from myriarch.simulate.market_hours import SiteHours, pue_of
from myriarch.spec.problems import did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A tariff relative to its flat price."""

    peak: tuple[tuple[int, int], ...]
    """Local hours, from the first until before the second; over midnight where the second is smaller."""
    valley: tuple[tuple[int, int], ...]
    peak_ratio: float
    valley_ratio: float

    def ratio(self, hour: int) -> float:
        """Of one hour of the day over the flat price."""
        if any(_within(hour, span) for span in self.peak):
            return self.peak_ratio
        return self.valley_ratio if any(_within(hour, span) for span in self.valley) else 1.0


SHAPES: Final[dict[str, Shape]] = {
    "guangdong": Shape(peak=((10, 12), (14, 19)), valley=((0, 8),), peak_ratio=1.7, valley_ratio=0.38),
    "shandong": Shape(peak=((16, 21),), valley=((9, 14), (23, 7)), peak_ratio=1.7, valley_ratio=0.3),
    "jiangsu": Shape(peak=((15, 22),), valley=((2, 6), (10, 14)), peak_ratio=1.6, valley_ratio=0.4),
    "yunnan": Shape(peak=((7, 9), (18, 24)), valley=((2, 6), (12, 16)), peak_ratio=1.6, valley_ratio=0.4),
}
_LOAD: Final = (0.78, 0.74, 0.72, 0.72, 0.75, 0.84, 0.98, 1.10, 1.14, 1.12, 1.08, 1.04,
                1.0, 1.0, 1.02, 1.06, 1.14, 1.26, 1.36, 1.36, 1.26, 1.12, 0.96, 0.85)  # fmt: skip
"""What is asked for over the day: two peaks, the evening's the higher, mean 1.02."""


@dataclasses.dataclass(frozen=True)
class Weather:
    """By the hour."""

    temperature_c: Floats
    sun: Floats
    """Of what a clear noon gives, 0 to 1."""
    wind: Floats
    """Of what the turbines can give, 0 to 1."""


def weather(
    rng: np.random.Generator, *, hours: int, first_hour: int = 0, mean_c: float = 14.0, swing_c: float = 5.0
) -> Weather:
    """Days unlike each other, hours like their neighbours.

    Sun: half a sine from 6 to 18 h under clouds drawn anew each day (beta, mean 0.7). Wind: a logistic of a process
    that forgets in 12 h. Temperature: the day's sine, warmest at 15 h, about a mean that wanders by 3 degrees over
    three days.
    """
    days = hours // HOURS_PER_DAY + 2
    hour = (first_hour + np.arange(hours)) % HOURS_PER_DAY
    day = (first_hour + np.arange(hours)) // HOURS_PER_DAY
    clouds = rng.beta(3.5, 1.5, days)
    sun = np.maximum(np.sin((hour - 5.5) / 12.0 * math.pi), 0.0) * np.where((hour > 5) & (hour < 18), 1.0, 0.0)
    gusts = _wandering(rng, hours, forgets=12.0)
    fronts = _wandering(rng, days, forgets=3.0)
    return Weather(
        temperature_c=mean_c + 3.0 * fronts[day] + swing_c * np.cos((hour - 15) / 24.0 * 2 * math.pi),
        sun=sun * clouds[day],
        wind=1.0 / (1.0 + np.exp(-(gusts * 1.2 - 0.7))),
    )


def tariff_hours(
    site: str,
    *,
    shape: str,
    flat_per_kwh: float,
    hours: int,
    rng: np.random.Generator,
    first_hour: int = 0,
    carbon_kg_per_kwh: float | None = None,
    mean_c: float = 16.0,
) -> SiteHours:
    """A site that pays a tariff, with weather and a grid whose carbon falls while the sun shines."""
    if shape not in SHAPES:
        raise SpecError(f"`{shape}` is no tariff;{did_you_mean(shape, SHAPES)} there are: {', '.join(SHAPES)}")
    sky = weather(rng, hours=hours, first_hour=first_hour, mean_c=mean_c)
    of_day = np.array([SHAPES[shape].ratio(hour) for hour in range(HOURS_PER_DAY)]) * flat_per_kwh
    return _site(site, of_day[(first_hour + np.arange(hours)) % HOURS_PER_DAY], sky, first_hour, carbon_kg_per_kwh)


def spot_hours(
    site: str,
    *,
    base_per_kwh: float,
    hours: int,
    rng: np.random.Generator,
    sun: float = 0.8,
    wind: float = 0.4,
    first_hour: int = 0,
    carbon_kg_per_kwh: float | None = None,
    mean_c: float = 12.0,
) -> SiteHours:
    """A site that buys on a spot market. `sun`, `wind`: what full sun or wind takes off, as shares of the base.

    The base wanders by 15 % over three days, each hour by 8 %; nothing falls below a fifth of the base under zero.
    """
    sky = weather(rng, hours=hours, first_hour=first_hour, mean_c=mean_c)
    day = (first_hour + np.arange(hours)) // HOURS_PER_DAY
    level = np.exp(0.15 * _wandering(rng, int(day[-1]) + 1, forgets=3.0) - 0.5 * 0.15**2)[day]
    noise = np.exp(0.08 * rng.standard_normal(hours) - 0.5 * 0.08**2)
    load = np.array(_LOAD)[(first_hour + np.arange(hours)) % HOURS_PER_DAY]
    price = base_per_kwh * (level * load * noise - sun * sky.sun - wind * sky.wind)
    return _site(site, np.maximum(price, -0.2 * base_per_kwh), sky, first_hour, carbon_kg_per_kwh)


def _site(site: str, price: Floats, sky: Weather, first_hour: int, carbon_kg_per_kwh: float | None) -> SiteHours:
    """Carbon is the grid's yearly factor, less while sun and wind blow and more while they do not, the same in the
    mean: half of it moves with them. An assumption."""
    carbon: Floats | None = None
    if carbon_kg_per_kwh is not None:
        clean = sky.sun + sky.wind
        moved = 1.0 - 0.5 * (clean - clean.mean()) / max(float(clean.max()), 1e-9)
        carbon = carbon_kg_per_kwh * moved / moved.mean()
    return SiteHours(
        site=site,
        first_hour=first_hour % HOURS_PER_DAY,
        price_per_kwh=price,
        carbon_kg_per_kwh=carbon,
        temperature_c=sky.temperature_c,
        pue=pue_of(sky.temperature_c),
        synthetic=True,
    )


def _wandering(rng: np.random.Generator, steps: int, *, forgets: float) -> Floats:
    """A standard normal that forgets itself in so many steps (AR(1), stationary from the first)."""
    keeps = math.exp(-1.0 / forgets)
    drawn = rng.standard_normal(steps) * math.sqrt(1.0 - keeps**2)
    drawn[0] /= math.sqrt(1.0 - keeps**2)
    for step in range(1, steps):
        drawn[step] += keeps * drawn[step - 1]
    return drawn


def _within(hour: int, span: tuple[int, int]) -> bool:
    start, end = span
    return start <= hour < end if start < end else hour >= start or hour < end
