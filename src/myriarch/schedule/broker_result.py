"""What the broker answers: for every job what each pool would cost, which one it gets, and why not the others.

    Quote    what one pool would take for one job, or why it cannot
    Award    the pool, the time and the price that a job gets; what a submission to the pool's own engine is made from
    Matching all of a market: awards, quotes, what is left over, shadow prices

All of it is JSON as it stands. Amounts are in the market's currency unless a field says otherwise; `Bill` keeps each
currency by itself.
"""

from __future__ import annotations

from typing import Literal

from myriarch.event.base import Value

NeedName = Literal[
    "tenant",
    "chip",
    "precision",
    "memory",
    "expectation",
    "data",
    "devices",
    "time",
    "budget",
    "taken",
]


class Miss(Value, frozen=True, kw_only=True):
    """One need of a job that a pool does not meet."""

    need: NeedName
    wanted: float | None
    """None where it is not a number: a precision, a tenant."""
    had: float | None
    text: str
    """Culprit, value, remedy."""

    @property
    def distance(self) -> float:
        """How far off, as a share of what is wanted; 1 where it is not a number."""
        if self.wanted is None or self.had is None or not self.wanted:
            return 1.0
        return min(abs(self.wanted - self.had) / abs(self.wanted), 1.0)


class Price(Value, frozen=True, kw_only=True):
    """What one way of running a job costs, in the market's currency."""

    rent: float
    energy: float
    """Below zero where the grid pays."""
    data: float
    """For moving what the job reads."""
    voucher: float
    """What a voucher pays of it; taken off."""
    carbon: float
    """Counted in the comparison, billed by nobody."""
    wait: float
    """Likewise."""

    @property
    def billed(self) -> float:
        return self.rent + self.energy + self.data - self.voucher

    @property
    def compared(self) -> float:
        """What alternatives are ranked by."""
        return self.billed + self.carbon + self.wait


class Bill(Value, frozen=True, kw_only=True):
    """An amount in the currency in which it is paid."""

    currency: str
    value: float


class Part(Value, frozen=True, kw_only=True):
    """Devices of one pool for one time. A gang has one part."""

    offer: str
    start_s: float
    end_s: float
    devices: int


class Quote(Value, frozen=True, kw_only=True):
    """What one pool would take for one job."""

    offer: str
    alone: float | None
    """Compared price at its best time if nobody else were there; None: it cannot run the job at all."""
    alone_start_s: float | None
    free: float | None
    """In what the other jobs leave; None: they leave no time for it."""
    free_start_s: float | None
    extra: float | None
    """`free` over what the job's award costs; None without one of them."""
    price: Price | None
    """The parts of `free`, or of `alone` where nothing is left."""
    carbon_kg: float | None
    misses: tuple[Miss, ...] = ()
    """Why it cannot; empty where it can."""


class Award(Value, frozen=True, kw_only=True):
    """A job's place. `key` stays the same if the same market is solved again: what a submission is idempotent by."""

    job: str
    key: str
    parts: tuple[Part, ...]
    price: Price
    bills: tuple[Bill, ...]
    """What is paid, each currency by itself; the voucher is taken off."""
    voucher: str | None
    carbon_kg: float | None
    """None: a pool's grid is unknown."""
    reason: str


class Decision(Value, frozen=True, kw_only=True):
    """Everything about one job."""

    job: str
    award: Award | None
    quotes: tuple[Quote, ...]
    """One for each pool: the cheapest that is free first, then those that are taken, then those that cannot."""
    reason: str
    """Why this pool; or why none, with the nearest miss."""
    nearest: str | None
    """Of a job without a place: the pool that lacks least."""


class ShadowPrice(Value, frozen=True, kw_only=True):
    """What one more free device would save, by the hour, from `start_s` to `end_s`."""

    offer: str
    start_s: float
    end_s: float
    per_device_hour: float


class Matching(Value, frozen=True, kw_only=True):
    """A market, decided."""

    currency: str
    method: Literal["batch", "arrival"]
    status: Literal["optimal", "time_limit", "greedy"]
    """`optimal`: proven. `time_limit`: within `gap` of it. `greedy`: one job after the other, nothing proven."""
    placed: int
    compared: float
    """Sum of all awards' compared prices: what was minimised, once as many jobs as can be are placed."""
    gap: float | None
    """At most so far above the optimum, as a share; None where nothing is known."""
    bills: tuple[Bill, ...]
    """What all awards together pay, each currency by itself."""
    decisions: tuple[Decision, ...]
    """In the order of the jobs' names."""
    shadow_prices: tuple[ShadowPrice, ...] = ()
    """Of the linear relaxation."""
    prices_support: bool | None = None
    """Whether the relaxation has the same optimum: then the shadow prices alone would lead every job to a place that is
    as good as its own (Bikhchandani and Mamer, J. Economic Theory 74, 1997). False: they are a lower estimate."""
    notes: tuple[str, ...] = ()
    """What was not known or not proven."""

    @property
    def awards(self) -> tuple[Award, ...]:
        return tuple(decision.award for decision in self.decisions if decision.award is not None)

    @property
    def unplaced(self) -> tuple[str, ...]:
        return tuple(decision.job for decision in self.decisions if decision.award is None)
