"""Where devices stand: what a kilowatt-hour costs there by the hour, what it emits, what the cooling adds."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from myriarch.spec.base import Name, NonNegative, Positive, Spec
from myriarch.spec.regions import find_region

HOURS_PER_DAY: Final = 24

Hour = Annotated[int, Meta(ge=0, le=24)]


class Period(Spec, frozen=True, kw_only=True):
    """Hours of every day with a price of their own: peak, valley."""

    hours: tuple[Hour, Hour]
    """From the first until before the second, local time; [22, 6] goes over midnight."""
    price_per_kwh: NonNegative

    def has(self, hour: int) -> bool:
        """Whether `hour`, 0 to 23, is one of them."""
        start, end = self.hours
        return start <= hour < end if start < end else hour >= start or hour < end


class Tariff(Spec, frozen=True, kw_only=True):
    """The price of energy, everything in that is paid by the kilowatt-hour."""

    price_per_kwh: NonNegative
    """In all hours that no period has."""
    periods: tuple[Period, ...] = ()
    currency: str = ""
    """`USD`, `CNY`, ..."""

    def price_at(self, hour: int) -> float:
        """Per kWh in the local hour 0 to 23."""
        return next((period.price_per_kwh for period in self.periods if period.has(hour)), self.price_per_kwh)

    @property
    def mean_price_per_kwh(self) -> float:
        """Of a load that is the same all day, as training is."""
        return sum(self.price_at(hour) for hour in range(HOURS_PER_DAY)) / HOURS_PER_DAY


class Site(Spec, frozen=True, kw_only=True):
    """A data centre, or a part of one with a tariff of its own."""

    name: Name
    region: str = ""
    """Of the grid: a Chinese province, by code (`CN-NM`) or name, gives the site its emission factor."""
    tariff: Tariff | None = None
    pue: Annotated[float, Meta(ge=1, le=10)] | None = None
    """Power usage effectiveness (ISO/IEC 30134-2): energy of the site over that of its machines."""
    carbon_kg_per_kwh: NonNegative | None = None
    """kg CO2 per kWh; None: the region's, where that is known."""
    store_bandwidth_bytes_per_s: Positive | None = None
    """To the object store that keeps checkpoints, one direction, all nodes of the site together."""

    @property
    def carbon_kg_per_kwh_resolved(self) -> float | None:
        """The site's own factor, else its region's; None when neither is known."""
        if self.carbon_kg_per_kwh is not None:
            return self.carbon_kg_per_kwh
        region = find_region(self.region)
        return None if region is None else region.carbon_kg_per_kwh
