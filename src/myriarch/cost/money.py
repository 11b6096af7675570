"""What a run costs: devices by the hour, energy by the hour of day. Currencies are never added to each other.

A pool may be rented (a price per device-hour, energy included) or owned (energy by the site's tariff, and depreciation
where it is given). Amounts are arrays, one for each plan; each knows its currency, and adding two currencies is an
error, not a number. A rate of exchange is a decision of the user's: `Money.converted` takes one and keeps it in view.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real
from myriarch.cost.energy import JOULES_PER_KWH
from myriarch.errors import SpecError
from myriarch.spec.site import HOURS_PER_DAY, Tariff

SECONDS_PER_HOUR: Final = 3600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amount:
    """So much of one currency; of many plans where `value` is an array."""

    value: Array
    currency: str

    def __add__(self, other: Amount) -> Amount:
        if other.currency != self.currency:
            raise SpecError(
                f"{self.currency or 'no currency'} and {other.currency or 'no currency'} have no sum; "
                "give both in one currency, or convert one at a rate of your own",
                path="currency",
            )
        return Amount(value=self.value + other.value, currency=self.currency)


@dataclasses.dataclass(frozen=True)
class Money:
    """Amounts by currency, side by side."""

    amounts: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, amounts: Iterable[Amount]) -> Money:
        """Each currency by itself."""
        by_currency: dict[str, Array] = {}
        for amount in amounts:
            held = by_currency.get(amount.currency)
            by_currency[amount.currency] = amount.value if held is None else held + amount.value
        return cls(by_currency)

    def __add__(self, other: Money) -> Money:
        return Money.of((*self.parts, *other.parts))

    @property
    def parts(self) -> tuple[Amount, ...]:
        return tuple(Amount(value=value, currency=currency) for currency, value in self.amounts.items())

    @property
    def currencies(self) -> tuple[str, ...]:
        return tuple(self.amounts)

    def single(self) -> Amount:
        """The one amount there is. Raises SpecError when there are several currencies, or none."""
        if len(self.amounts) != 1:
            held = ", ".join(currency or "no currency" for currency in self.amounts) or "no amount"
            raise SpecError(f"{held}: not one sum; give all prices in one currency", path="currency")
        return self.parts[0]

    def converted(self, to: str, *, rates: Mapping[str, float]) -> Amount:
        """All in one currency, at `rates`: {currency: units of `to` for one of it}. Raises SpecError when one lacks."""
        total = np.zeros(())
        for amount in self.parts:
            rate = 1.0 if amount.currency == to else rates.get(amount.currency)
            if rate is None or not (rate > 0 and math.isfinite(rate)):
                raise SpecError(f"no rate from {amount.currency or 'no currency'} to {to}", path="rates")
            total = total + amount.value * rate
        return Amount(value=total, currency=to)


def rent(*, devices: Real, run_s: Real, price_per_device_hour: float, currency: str) -> Amount:
    """Devices held for so long, whether they step or not."""
    value = np.multiply(devices, run_s) / SECONDS_PER_HOUR * price_per_device_hour
    return Amount(value=np.asarray(value), currency=currency)


def depreciation(*, devices: Real, run_s: Real, price_per_device: float, life_s: float, currency: str) -> Amount:
    """Straight-line: the part of a device's price, with its part of the node and the network, that a run uses up."""
    if not life_s > 0:
        raise SpecError(f"{life_s} s is not a lifetime; four years are 1.26e8", path="life_s")
    value = np.multiply(devices, run_s) / life_s * price_per_device
    return Amount(value=np.asarray(value), currency=currency)


def energy_price(energy_j: Real, *, tariff: Tariff, run_s: Real, start_hour: float = 0.0) -> Amount:
    """Energy drawn evenly over a run that begins at this local hour, by the tariff's price of each hour.

    `energy_j` is the site's, PUE included.
    """
    mean = mean_price_per_kwh(tariff, run_s=run_s, start_hour=start_hour)
    return Amount(value=np.multiply(energy_j, mean) / JOULES_PER_KWH, currency=tariff.currency)


def mean_price_per_kwh(tariff: Tariff, *, run_s: Real, start_hour: float = 0.0) -> Array:
    """Of an even load from `start_hour` on: exact over parts of hours, the day's mean for whole days."""
    prices = np.array([tariff.price_at(hour) for hour in range(HOURS_PER_DAY)])
    # The integral of the price over the day, a line within each hour; days before it repeat.
    passed = np.concatenate(([0.0], np.cumsum(prices)))

    def integral(hour: Array) -> Array:
        days, within = np.divmod(hour, HOURS_PER_DAY)
        whole: Array = days * passed[-1] + np.interp(within, np.arange(HOURS_PER_DAY + 1), passed)
        return whole

    hours = np.asarray(run_s, dtype=np.float64) / SECONDS_PER_HOUR
    start = np.asarray(start_hour % HOURS_PER_DAY, dtype=np.float64)
    spent = integral(start + hours) - integral(start)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(hours > 0, spent / np.where(hours > 0, hours, 1.0), prices[int(start)])
    return mean


def cheapest_start(tariff: Tariff, *, run_s: float) -> tuple[int, float]:
    """The full hour at which a run of this length pays least, and its mean price per kWh; of equals the earliest."""
    prices = [float(mean_price_per_kwh(tariff, run_s=run_s, start_hour=hour)) for hour in range(HOURS_PER_DAY)]
    least = min(prices)
    hour = next(index for index, price in enumerate(prices) if price <= least * (1 + 1e-12))
    return hour, prices[hour]
