"""What the broker (算力撮合) reads: jobs with needs, pools with offers, vouchers, routes for data.

Instants are seconds after the market opens; dates of vouchers and discounts are dates. Money is in the currency that
its owner names: amounts in two currencies are never added; where the market names a rate, they are compared by it.
Energy may have a negative price in some hours, as on the exchanges of many grids: then a run is paid for its draw.
Rent may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from myriarch.errors import SpecError
from myriarch.schedule.calendar import HOURS_PER_DAY, instant_s
from myriarch.spec.base import Count, Fraction, Name, NonNegative, Positive, Spec
from myriarch.spec.catalogue import catalogue, lookup
from myriarch.spec.document import Source, join
from myriarch.spec.fleet import Chip, Precision
from myriarch.spec.problems import collected, did_you_mean

SLOTS_LIMIT: Final = 24 * 366
"""Slots of a horizon: a year of hours."""

Covered = Literal["rent", "energy"]


class Window(Spec, frozen=True, kw_only=True):
    """Devices that are free for a time. Windows of one offer that overlap add up."""

    start_s: NonNegative
    end_s: Positive
    devices: Count


class Discount(Spec, frozen=True, kw_only=True):
    """A part of the rent that a pool waives between two dates. Of several that hold, the largest counts."""

    share: Fraction
    valid_from: str = ""
    """`2026-12-01`, or with an hour; empty: always."""
    valid_until: str = ""
    """Until before this instant."""
    devices_least: Count = 1
    """Of the job."""
    tenants: tuple[str, ...] = ()
    """Empty: everybody."""


class Offer(Spec, frozen=True, kw_only=True):
    """A pool and what it asks."""

    name: Name
    chip: str | Chip
    """A catalogue name, or a chip described inline."""
    windows: tuple[Window, ...]
    currency: str
    rent_per_device_hour: NonNegative | tuple[NonNegative, ...] = 0.0
    """One price, or 24 by the hour of day."""
    energy_per_kwh: float | tuple[float, ...] = 0.0
    """What the tenant pays besides rent; one price, or 24; negative where the grid pays."""
    power_per_device_w: NonNegative = 0.0
    """Under load, with its share of the node and the cooling; what energy and carbon are counted from."""
    carbon_kg_per_kwh: NonNegative | tuple[NonNegative, ...] | None = None
    """Of the grid; None: unknown, and said so."""
    utc_offset_s: float | None = None
    """Of the clock that its prices follow; None: the market's."""
    site: str = ""
    """Where its data lies."""
    devices_largest: Count | None = None
    """Of one gang: what one fabric reaches. None: all that are free."""
    tenants: tuple[str, ...] = ()
    """Who may use it; empty: everybody."""
    discounts: tuple[Discount, ...] = ()

    @property
    def chip_resolved(self) -> Chip:
        """From the catalogue where it is a name. Raises SpecError for one that is not there."""
        return lookup(self.chip) if isinstance(self.chip, str) else self.chip


class DataRoute(Spec, frozen=True, kw_only=True):
    """What moves data between two sites, either way. Each move has the bandwidth for itself."""

    between: tuple[str, str]
    bandwidth_bytes_per_s: Positive
    price_per_gb: NonNegative = 0.0
    """For 10^9 bytes."""
    currency: str = ""
    """Empty: the market's."""


class Voucher(Spec, frozen=True, kw_only=True):
    """算力券: somebody pays a share of the bill, between dates, up to caps. A job uses one voucher at most."""

    name: Name
    currency: str
    """It pays bills in this currency only."""
    share: Fraction
    """Of what it covers."""
    covers: tuple[Covered, ...] = ("rent", "energy")
    valid_from: str = ""
    valid_until: str = ""
    """Only device-time between the two dates is paid for."""
    cap_per_job: NonNegative | None = None
    cap_total: NonNegative | None = None
    tenants: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    """Empty: all pools that bill in its currency."""


class Market(Spec, frozen=True, kw_only=True):
    """Offers, and the rules that they share."""

    opens: str
    """Instant 0, with its offset from UTC: `2026-12-01T08:00+08:00`."""
    horizon_s: Positive
    """How far the market looks; all runs end before."""
    slot_s: Positive = 3600.0
    """Runs start at multiples of it and hold whole slots of capacity; an hour, as prices change by the hour. What a run
    pays is exact to the second."""
    currency: str
    """In which alternatives are compared."""
    rates: dict[str, Positive] = msgspec.field(default_factory=dict)
    """Units of `currency` for one of another. Without a rate, a market has one currency only."""
    carbon_price_per_kg: NonNegative = 0.0
    """What a kilogram of CO2 counts for in the comparison; nobody is billed for it."""
    offers: tuple[Offer, ...]
    routes: tuple[DataRoute, ...] = ()
    vouchers: tuple[Voucher, ...] = ()

    @property
    def slots(self) -> int:
        return int(self.horizon_s / self.slot_s + 1e-9)

    def rate(self, currency: str) -> float:
        """Units of the market's currency for one of this. Raises SpecError where none is stated."""
        if currency in ("", self.currency):
            return 1.0
        if currency not in self.rates:
            raise SpecError(
                f"{currency} and {self.currency} have no sum; give the rate: {{{currency}: so many {self.currency}}}",
                path="rates",
            )
        return self.rates[currency]

    def interval_s(self, dated: Discount | Voucher) -> tuple[float, float]:
        """From when until when it is valid, on the market's axis. Raises ValueError for a date that is none."""
        opens_s, offset_s = instant_s(self.opens, utc_offset_s=0.0)
        start, end = (
            instant_s(text, utc_offset_s=offset_s)[0] - opens_s if text else bound
            for text, bound in ((dated.valid_from, float("-inf")), (dated.valid_until, float("inf")))
        )
        return start, end

    def local_hour(self, offer: Offer) -> float:
        """The time of day at instant 0 on the offer's clock."""
        opens_s, offset_s = instant_s(self.opens, utc_offset_s=0.0)
        local_s = opens_s + (offset_s if offer.utc_offset_s is None else offer.utc_offset_s)
        return local_s % 86400 / 3600

    def route(self, one: str, other: str) -> DataRoute | None:
        return next((route for route in self.routes if set(route.between) == {one, other}), None)


class Request(Spec, frozen=True, kw_only=True):
    """A job and what it needs."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    tenant: str = ""
    devices: Count
    gang: bool = True
    """True: all devices at once, in one pool. False: as many single-device tasks, each where and when it suits."""
    chips: tuple[str, ...] = ()
    """Kinds that it runs on; empty: any."""
    precisions: tuple[Precision, ...] = ()
    """Rates that the chip must have: `fp64` for a solver, `fp8` for some training."""
    memory_bytes: NonNegative = 0.0
    """Of each device."""
    device_hours: dict[str, Positive] = msgspec.field(default_factory=dict)
    """What it is expected to take, all devices together, by pool or by chip."""
    submitted_s: NonNegative = 0.0
    earliest_s: NonNegative = 0.0
    deadline_s: Positive | None = None
    budget: NonNegative | None = None
    """In the market's currency: all that is billed, less the voucher."""
    wait_price_per_hour: NonNegative = 0.0
    """What an hour of waiting counts for in the comparison, in the market's currency; nobody is billed for it."""
    priority: Positive = 1.0
    """Where not all can be placed, the most of this is."""
    data_site: str = ""
    data_bytes: NonNegative = 0.0


class Jobs(Spec, frozen=True, kw_only=True):
    """A file of jobs."""

    jobs: tuple[Request, ...]


Expected = Callable[[Request, Offer], float | None]
"""Device-hours that a job takes in a pool, all devices together; None: not known there."""


def stated_hours(request: Request, offer: Offer) -> float | None:
    """What the job's own table says of the pool, else of its chip."""
    chip = offer.chip if isinstance(offer.chip, str) else offer.chip.id
    return request.device_hours.get(offer.name, request.device_hours.get(chip))


def check(jobs: Jobs, market: Market) -> None:
    """What has to hold between the parts. Raises SpecError that names all that does not."""
    with collected() as problems:
        for path, message in (*_market_problems(market), *_job_problems(jobs)):
            problems.add(Source(), path, message)


Found = Iterator[tuple[str, str]]


def _market_problems(market: Market) -> Found:
    yield from _date_problems(market.opens, "opens")
    if not market.offers:
        yield "offers", "is empty; give at least one pool"
    if not 1 <= market.slots <= SLOTS_LIMIT:
        yield "horizon_s", f"holds {market.slots} slots of {market.slot_s:g} s; use 1 to {SLOTS_LIMIT}"
    yield from _twice((offer.name for offer in market.offers), "offers")
    yield from _twice((voucher.name for voucher in market.vouchers), "vouchers")
    priced = {f"offers[{i}].currency": offer.currency for i, offer in enumerate(market.offers)}
    priced |= {f"routes[{i}].currency": route.currency for i, route in enumerate(market.routes) if route.price_per_gb}
    for path, currency in priced.items():
        if currency not in ("", market.currency, *market.rates):
            remedy = f"give `rates: {{{currency}: so many {market.currency}}}`, or one currency"
            yield path, f"{currency} and {market.currency} have no sum; {remedy}"
    for index, offer in enumerate(market.offers):
        yield from _offer_problems(offer, market, join("offers", index))
    for index, voucher in enumerate(market.vouchers):
        yield from _voucher_problems(voucher, market, join("vouchers", index))
    ends: set[frozenset[str]] = set()
    for index, route in enumerate(market.routes):
        if frozenset(route.between) in ends or len(set(route.between)) == 1:
            yield join("routes", index), f"{' and '.join(route.between)}: a route joins two sites, each two once"
        ends.add(frozenset(route.between))


def _offer_problems(offer: Offer, market: Market, path: str) -> Found:
    try:
        _ = offer.chip_resolved
    except SpecError as error:
        yield join(path, "chip"), error.message
    if not offer.windows:
        yield join(path, "windows"), "is empty; a pool without free devices has no offer"
    for index, window in enumerate(offer.windows):
        if window.end_s <= window.start_s:
            where = join(join(path, "windows"), index)
            yield where, f"ends at {window.end_s:g} s, before it begins at {window.start_s:g} s; swap them"
    for name in ("rent_per_device_hour", "energy_per_kwh", "carbon_kg_per_kwh"):
        value = getattr(offer, name)
        if isinstance(value, tuple) and len(value) != HOURS_PER_DAY:
            yield join(path, name), f"has {len(value)} prices; give one, or {HOURS_PER_DAY} from midnight on"
    if not offer.power_per_device_w and (offer.energy_per_kwh != 0.0):
        yield join(path, "power_per_device_w"), "is missing; energy by the kilowatt-hour needs the power of a device"
    for index, discount in enumerate(offer.discounts):
        yield from _validity_problems(discount, market, join(join(path, "discounts"), index))


def _voucher_problems(voucher: Voucher, market: Market, path: str) -> Found:
    yield from _validity_problems(voucher, market, path)
    by_name = {offer.name: offer for offer in market.offers}
    for name in voucher.offers:
        if name not in by_name:
            yield join(path, "offers"), f"`{name}` is no pool of this market;{did_you_mean(name, by_name)} name one"
        elif by_name[name].currency != voucher.currency:
            billed = by_name[name].currency
            yield (
                join(path, "offers"),
                f"`{name}` bills {billed}, the voucher pays {voucher.currency}; drop one of them",
            )
    if not voucher.offers and voucher.currency not in {offer.currency for offer in market.offers}:
        yield join(path, "currency"), f"no pool bills {voucher.currency}; the voucher could never pay"
    if voucher.cap_per_job is not None and voucher.cap_total is not None and voucher.cap_per_job > voucher.cap_total:
        yield (
            join(path, "cap_per_job"),
            f"{voucher.cap_per_job:g} is more than `cap_total`, {voucher.cap_total:g}; one of the two is wrong",
        )


def _validity_problems(dated: Discount | Voucher, market: Market, path: str) -> Found:
    found = [
        *_date_problems(dated.valid_from, join(path, "valid_from")),
        *_date_problems(dated.valid_until, join(path, "valid_until")),
    ]
    yield from found
    if found or list(_date_problems(market.opens, "")):
        return
    start, end = market.interval_s(dated)
    if end <= start:
        yield join(path, "valid_until"), f"{dated.valid_until} is not after {dated.valid_from}; swap them"


def _date_problems(text: str, path: str) -> Found:
    if text or path == "opens":
        try:
            instant_s(text, utc_offset_s=0.0)
        except ValueError as error:
            yield path, str(error)


def _job_problems(jobs: Jobs) -> Found:
    yield from _twice((job.name for job in jobs.jobs), "jobs")
    known = catalogue()
    for index, job in enumerate(jobs.jobs):
        path = join("jobs", index)
        begins_s = max(job.earliest_s, job.submitted_s)
        if job.deadline_s is not None and job.deadline_s <= begins_s:
            yield (
                join(path, "deadline_s"),
                f"{job.deadline_s:g} s is not after its earliest start, {begins_s:g} s; swap them",
            )
        if job.data_bytes and not job.data_site:
            yield join(path, "data_site"), f"is missing; where do the {job.data_bytes:g} bytes lie?"
        for chip in job.chips:
            if chip not in known and chip.casefold() in {name.casefold() for name in known}:
                yield join(path, "chips"), f"`{chip}`:{did_you_mean(chip, known)} chips are named as in the catalogue"


def _twice(names: Iterable[str], path: str) -> Found:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            yield join(path, index), f"`{name}` is the name of {path}[{first[name]}] too; give another"
        first.setdefault(name, index)


def by_name(market: Market) -> Mapping[str, Offer]:
    """The offers in the order of their names: the one order in which everything is decided."""
    return {offer.name: offer for offer in sorted(market.offers, key=lambda each: each.name)}
