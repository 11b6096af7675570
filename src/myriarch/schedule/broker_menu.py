"""What a job can have in a pool: every start, priced; or what stands against it.

A menu is a table with a row for each slot in which the job may start when it has the pool for itself: prices are exact
integrals of the hour prices, discounts and vouchers over the run (`calendar.Steps`), in the market's currency.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from myriarch.schedule.broker_market import Expected, Market, Offer, Request, Voucher
from myriarch.schedule.broker_result import Miss, NeedName, Price
from myriarch.schedule.calendar import S_PER_HOUR, Floats, Steps, within
from myriarch.units import format_bytes, format_s

Ints = npt.NDArray[np.int64]

JOULES_PER_KWH = 3.6e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Menu:
    """A job's starts in one pool, and what each costs. Of a job without a gang: of one of its tasks."""

    request: Request
    offer: Offer
    duration_s: float
    slots_held: int
    """Whole slots that a run occupies."""
    starts: Ints
    """Slots. Empty where the job cannot run."""
    rent: Floats
    energy: Floats
    carbon_kg: Floats | None
    carbon: Floats
    wait: Floats
    data: float
    """Once for the pool, however many tasks run there."""
    benefits: Mapping[str, Floats]
    """By voucher: what it would pay without its caps; only those that can pay here."""
    misses: tuple[Miss, ...]
    """Why it cannot run here; empty where it can."""

    @property
    def units(self) -> int:
        """Pieces that can be placed by themselves: one gang, or so many tasks."""
        return 1 if self.request.gang else self.request.devices

    @property
    def devices_per_unit(self) -> int:
        return self.request.devices if self.request.gang else 1

    @property
    def billed(self) -> Floats:
        """Of each start, before a voucher and without the data's move."""
        total: Floats = self.rent + self.energy
        return total

    @property
    def compared(self) -> Floats:
        """What starts are ranked by, before a voucher and without the data's move."""
        total: Floats = self.billed + self.carbon + self.wait
        return total

    def price(self, row: int, *, units: int, voucher: float) -> Price:
        """The parts of one start's price, for so many units."""
        return Price(
            rent=float(self.rent[row]) * units,
            energy=float(self.energy[row]) * units,
            data=self.data,
            voucher=voucher,
            carbon=float(self.carbon[row]) * units,
            wait=float(self.wait[row]) * units,
        )


class Pricing:
    """Prices of a market as step functions: made once, asked for every job."""

    def __init__(self, market: Market) -> None:
        self.market = market
        until_s = market.horizon_s
        self.free = {offer.name: free_devices(offer, market) for offer in market.offers}
        self._hours = {offer.name: market.local_hour(offer) for offer in market.offers}
        self._energy = {o.name: self._daily(o, o.energy_per_kwh) for o in market.offers}
        self._rent = {o.name: self._daily(o, o.rent_per_device_hour).scaled(1 / S_PER_HOUR) for o in market.offers}
        self._carbon = {
            o.name: None if o.carbon_kg_per_kwh is None else self._daily(o, o.carbon_kg_per_kwh) for o in market.offers
        }
        self._valid = {v.name: within([(market.interval_s(v), 1.0)], until_s=until_s) for v in market.vouchers}

    def _daily(self, offer: Offer, hourly: float | tuple[float, ...]) -> Steps:
        return Steps.daily(hourly, local_hour=self._hours[offer.name], until_s=self.market.horizon_s)

    def menu(self, request: Request, offer: Offer, *, expected: Expected) -> Menu:
        """Every start of this job in this pool when it has the pool for itself."""
        market = self.market
        hours = expected(request, offer)
        misses = list(_static_misses(request, offer, market, hours, self.free[offer.name]))
        duration_s = math.nan if hours is None else hours * S_PER_HOUR / request.devices
        starts = np.zeros(0, dtype=np.int64)
        held = 0
        if not misses:
            held = max(math.ceil(duration_s / market.slot_s - 1e-9), 1)
            ready_s = _ready_s(request, offer, market)
            starts = _starts(request, self.free[offer.name], ready_s, duration_s, held, market)
            misses.extend(_late(request, starts, self.free[offer.name], ready_s, duration_s, held, market))
            starts = starts if request.deadline_s is None else _in_time(starts, request.deadline_s, duration_s, market)
        return self._priced(request, offer, duration_s, held, starts, tuple(misses))

    def by_device(self, request: Request, offer: Offer, edges_s: Floats) -> Floats:
        """What a device costs from each edge to the next, carbon included and less the voucher that pays most of it.

        Caps are not looked at, but for a voucher that has nothing left.
        """
        rate = self.market.rate(offer.currency)
        kwh_per_s = offer.power_per_device_w / JOULES_PER_KWH
        rent = self._discounted(request, offer).scaled(rate)
        energy = self._energy[offer.name].scaled(kwh_per_s * rate)
        start_s, end_s = edges_s[:-1], edges_s[1:]
        paid: Floats = np.zeros(len(start_s))
        for _, benefit in self._benefits(request, offer, rent, energy, start_s, end_s):
            paid = np.maximum(paid, benefit)
        price: Floats = rent.over(start_s, end_s) + energy.over(start_s, end_s) - paid
        grid = self._carbon[offer.name]
        return (
            price
            if grid is None
            else price + grid.scaled(kwh_per_s * self.market.carbon_price_per_kg).over(start_s, end_s)
        )

    def _priced(
        self, request: Request, offer: Offer, duration_s: float, held: int, starts: Ints, misses: tuple[Miss, ...]
    ) -> Menu:
        market = self.market
        devices = request.devices if request.gang else 1
        start_s: Floats = starts.astype(np.float64) * market.slot_s
        end_s: Floats = start_s + (0.0 if math.isnan(duration_s) else duration_s)
        rate = market.rate(offer.currency)
        kwh_per_s = devices * offer.power_per_device_w / JOULES_PER_KWH
        rent = self._discounted(request, offer).scaled(devices * rate)
        energy = self._energy[offer.name].scaled(kwh_per_s * rate)
        grid = self._carbon[offer.name]
        carbon_kg = None if grid is None else grid.scaled(kwh_per_s).over(start_s, end_s)
        waited_s = np.maximum(start_s - max(request.submitted_s, request.earliest_s), 0.0)
        weight = 1.0 if request.gang else 1.0 / request.devices
        no_carbon = np.zeros(len(starts))
        return Menu(
            request=request,
            offer=offer,
            duration_s=duration_s,
            slots_held=held,
            starts=starts,
            rent=rent.over(start_s, end_s),
            energy=energy.over(start_s, end_s),
            carbon_kg=carbon_kg,
            carbon=no_carbon if carbon_kg is None else carbon_kg * market.carbon_price_per_kg,
            wait=waited_s / S_PER_HOUR * request.wait_price_per_hour * weight,
            data=_data_price(request, offer, market),
            benefits=dict(self._benefits(request, offer, rent, energy, start_s, end_s)) if len(starts) else {},
            misses=misses,
        )

    def _discounted(self, request: Request, offer: Offer) -> Steps:
        """Rent of a device by the second, less the largest discount of each instant."""
        held = [
            (self.market.interval_s(discount), discount.share)
            for discount in offer.discounts
            if request.devices >= discount.devices_least and request.tenant in (discount.tenants or (request.tenant,))
        ]
        rent = self._rent[offer.name]
        if not held:
            return rent
        waived = within(held, until_s=self.market.horizon_s)
        return rent.times(Steps(waived.edges, 1.0 - waived.values))

    def _benefits(
        self, request: Request, offer: Offer, rent: Steps, energy: Steps, start_s: Floats, end_s: Floats
    ) -> Iterator[tuple[str, Floats]]:
        for voucher in sorted(self.market.vouchers, key=lambda each: each.name):
            if not applies(voucher, request=request, offer=offer):
                continue
            valid = self._valid[voucher.name]
            covered = np.zeros(len(start_s))
            for kind, steps in (("rent", rent), ("energy", energy)):
                if kind in voucher.covers:
                    covered = covered + steps.times(valid).over(start_s, end_s)
            # Energy may be paid to the tenant: then there is nothing for a voucher to pay.
            benefit = np.maximum(covered, 0.0) * voucher.share
            if benefit.any():
                yield voucher.name, benefit


def applies(voucher: Voucher, *, request: Request, offer: Offer) -> bool:
    """Whether this job may use it in this pool, its dates aside."""
    return (
        voucher.currency == offer.currency
        and request.tenant in (voucher.tenants or (request.tenant,))
        and offer.name in (voucher.offers or (offer.name,))
    )


def free_devices(offer: Offer, market: Market) -> Ints:
    """Devices that are free through each whole slot."""
    edges = np.arange(market.slots + 1) * market.slot_s
    ends = np.array([(window.start_s, window.end_s, window.devices) for window in offer.windows], dtype=np.float64)
    starts_s, ends_s, devices = ends.reshape(-1, 3).T
    cuts = np.unique(np.concatenate((edges, starts_s, ends_s)))
    change = np.zeros(len(cuts), dtype=np.int64)
    np.add.at(change, np.searchsorted(cuts, starts_s), devices.astype(np.int64))
    np.add.at(change, np.searchsorted(cuts, ends_s), -devices.astype(np.int64))
    held = np.cumsum(change)
    # Between two cuts the number is one; of a slot, the least of its parts counts.
    first = np.searchsorted(cuts, edges)
    free: Ints = np.minimum.reduceat(held[: first[-1]], first[:-1])
    return free


def runs_of(free: Ints, *, slots: int) -> Ints:
    """For each start, the fewest devices that are free through so many slots from it on."""
    if slots > len(free):
        return np.zeros(0, dtype=np.int64)
    least: Ints = np.lib.stride_tricks.sliding_window_view(free, slots).min(axis=1)
    return least


def _static_misses(request: Request, offer: Offer, market: Market, hours: float | None, free: Ints) -> Iterator[Miss]:
    """Needs that no hour of the day changes."""
    chip = offer.chip_resolved
    if offer.tenants and request.tenant not in offer.tenants:
        who = request.tenant or "a job without a tenant"
        yield _unmet("tenant", f"{who} may not use it; it is for {', '.join(offer.tenants)}")
    if request.chips and chip.id not in request.chips:
        yield _unmet("chip", f"it has {chip.id}; the job runs on {', '.join(request.chips)}")
    for precision in request.precisions:
        if precision not in chip.rate_flops_per_s and precision not in chip.matmul_measured_flops_per_s:
            yield _unmet("precision", f"{precision}: no rate of {chip.id} is known for it; it may lack it")
    if request.memory_bytes and (chip.memory_bytes or 0.0) < request.memory_bytes:
        has = "an unknown amount" if chip.memory_bytes is None else format_bytes(chip.memory_bytes)
        text = f"needs {format_bytes(request.memory_bytes)} in each device; {chip.id} has {has}"
        yield Miss(need="memory", wanted=request.memory_bytes, had=chip.memory_bytes, text=text)
    if hours is None:
        yield _unmet("expectation", f"how long it takes there is unknown; give device_hours for {offer.name}")
    if request.data_bytes and request.data_site != offer.site and market.route(request.data_site, offer.site) is None:
        yield _unmet("data", f"no route from {request.data_site} to {offer.site or 'its site, which has no name'}")
    wanted = request.devices if request.gang else 1
    most = int(free.max(initial=0))
    reach = most if offer.devices_largest is None else min(most, offer.devices_largest)
    if reach < wanted:
        limit = "are free at once" if reach == most else "are reached by one fabric"
        text = f"needs {wanted} devices; at most {reach} {limit}, {wanted - reach} short"
        yield Miss(need="devices", wanted=wanted, had=reach, text=text)


def _unmet(need: NeedName, text: str) -> Miss:
    return Miss(need=need, wanted=None, had=None, text=text)


def _ready_s(request: Request, offer: Offer, market: Market) -> float:
    """When it can start at the earliest: its data moves from its submission on."""
    moved_s = request.submitted_s
    if request.data_bytes and request.data_site != offer.site:
        route = market.route(request.data_site, offer.site)
        moved_s += math.inf if route is None else request.data_bytes / route.bandwidth_bytes_per_s
    return max(request.earliest_s, moved_s)


def _data_price(request: Request, offer: Offer, market: Market) -> float:
    route = market.route(request.data_site, offer.site) if request.data_site != offer.site else None
    if route is None or not request.data_bytes:
        return 0.0
    return request.data_bytes / 1e9 * route.price_per_gb * market.rate(route.currency)


def _starts(request: Request, free: Ints, ready_s: float, duration_s: float, held: int, market: Market) -> Ints:
    """Slots in which enough devices are free for the whole run, whatever the deadline says."""
    wanted = request.devices if request.gang else 1
    slots = np.flatnonzero(runs_of(free, slots=held) >= wanted)
    return slots[(slots * market.slot_s >= ready_s - 1e-6)]


def _in_time(starts: Ints, deadline_s: float, duration_s: float, market: Market) -> Ints:
    return starts[starts * market.slot_s + duration_s <= deadline_s + 1e-6]


def _late(
    request: Request, starts: Ints, free: Ints, ready_s: float, duration_s: float, held: int, market: Market
) -> Iterator[Miss]:
    """Why no start is in time, where none is."""
    if not len(starts):
        wanted = request.devices if request.gang else 1
        longest_s = _longest(free >= wanted) * market.slot_s
        if longest_s < held * market.slot_s:
            text = f"runs {format_s(duration_s)}; {wanted} devices are free for {format_s(longest_s)} at a stretch"
            yield Miss(need="time", wanted=held * market.slot_s, had=longest_s, text=text)
        else:
            text = f"can start {format_s(ready_s)} from now, and its run of {format_s(duration_s)} fits no window later"
            yield Miss(need="time", wanted=ready_s + duration_s, had=market.horizon_s, text=text)
    elif request.deadline_s is not None:
        end_s = float(starts[0]) * market.slot_s + duration_s
        if end_s > request.deadline_s + 1e-6:
            late_s = end_s - request.deadline_s
            text = f"ends {format_s(late_s)} after the deadline at the earliest"
            yield Miss(need="time", wanted=end_s, had=request.deadline_s, text=text)


def _longest(held: npt.NDArray[np.bool_]) -> int:
    """The longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], held.astype(np.int8), [0]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))
