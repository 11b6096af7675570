"""Schedulers around a policy's, and what they are told of the fleet: lending, power, defragmentation, spares by risk.

From the inside out, each wraps what stands before it:

    policy, lending, power, defragmentation, spares

Lending is next to the policy, for services have their devices whatever else is wanted; a job that is held back for
cheaper hours is not yet there for anybody inside; plans to move jobs see what power allows; spares are looked at last,
and in pools that do not lend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar, cast

import numpy as np

from myriarch.cost.failures import DEFAULT_PER_NODE_DAY
from myriarch.cost.spares import DEFAULT_REPAIR_S, DEFAULT_REPAIR_SHARE, mean_repair_s
from myriarch.errors import SpecError
from myriarch.schedule.capped import Capped, Watts
from myriarch.schedule.defragmentation import Defragmenting
from myriarch.schedule.lending import Lending
from myriarch.schedule.lending import Service as Lender
from myriarch.schedule.moving import Moving
from myriarch.schedule.power import Hour
from myriarch.schedule.preference import CheapestRight, Offer
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.sparing import Changing, Sparing
from myriarch.schedule.speed import Speeds
from myriarch.simulate.scenario import FaultModel, Grid, Policy
from myriarch.simulate.scenario_faults import rates_of
from myriarch.simulate.scenario_options import Defragment, Lend, PowerLimit, SparesByRisk
from myriarch.simulate.scenario_power import HOUR_S, Floats, Hourly, hours_of, meter_of
from myriarch.spec.catalogue import lookup
from myriarch.spec.consistency import Tell
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.problems import did_you_mean, listed

HOURS_A_DAY: Final = 24
SECONDS_A_DAY: Final = 86_400.0
PRICED_MOST: Final = 10 * 8766
"""Ten years of hours: past them energy costs the mean, and the lowest cap holds."""
T = TypeVar("T")
OPTIONS: Final = ("lending", "power", "defragment", "spares", "prefer")
"""Of a policy: what stands around it, and which pool a job tries first."""


class Surroundings(NamedTuple):
    """What the schedulers around a policy are told of the fleet."""

    fleet: Fleet
    faults: FaultModel | None = None
    grid: Grid | None = None
    until_s: float = 0.0
    """Until when hours are told one by one."""
    speeds: Speeds | None = None


class Around(NamedTuple):
    """A scheduler with what stands around it."""

    scheduler: Scheduler
    lending: Lending | None = None


def around(scheduler: Scheduler, policy: Policy, told: Surroundings | None) -> Around:
    """Put around a policy's scheduler what the scenario says. Raises SpecError for what the fleet cannot have."""
    lending: Lending | None = None
    if told is None or not any((policy.lending, policy.power, policy.defragment, policy.spares)):
        return Around(scheduler)
    if policy.lending is not None:
        lending = _lending(_moving(scheduler, policy, "lending"), policy.lending, told)
        scheduler = lending
    if policy.power is not None:
        scheduler = _capped(_moving(scheduler, policy, "power"), policy.power, told)
    if (said := or_usual(policy.defragment, Defragment())) is not None:
        inner = _moving(scheduler, policy, "defragment")
        scheduler = Defragmenting(inner, pause_s=said.pause_s, price=said.price)
    if (risk := or_usual(policy.spares, SparesByRisk())) is not None:
        scheduler = _sparing(scheduler, policy, risk, told)
    return Around(scheduler, lending)


def or_usual(said: T | bool | None, usual: T) -> T | None:
    """`true` is what is usual, `false` nothing."""
    if isinstance(said, bool):
        return usual if said else None
    return said


def preference(policy: Policy, fleet: Fleet) -> CheapestRight | None:
    """Which pool a job tries first; None: the one with fewest precisions."""
    if policy.prefer is None:
        return None
    return CheapestRight(
        {
            pool.name: Offer(chip=_chip(pool), price_per_device_hour=pool.price_per_device_hour)
            for pool in fleet.pools
            if pool.price_per_device_hour is not None
        }
    )


def _moving(scheduler: Scheduler, policy: Policy, option: str) -> Moving:
    if isinstance(scheduler, Moving):
        return scheduler
    raise SpecError(f"`{policy.name}` cannot move jobs for `{option}`", path=f"policy.{option}", hint=_instead(policy))


def _instead(policy: Policy) -> str:
    return "leave out `workload.scaling`, or take a ranked policy" if policy.name == "myriarch" else "take `easy`"


def _chip(pool: Pool) -> Chip:
    return pool.chip if isinstance(pool.chip, Chip) else lookup(pool.chip)


# --- lending ---------------------------------------------------------------------------------------------------------


def _lending(inner: Moving, said: Lend, told: Surroundings) -> Lending:
    begins = 0 if told.grid is None else told.grid.begins_hour
    services = [
        Lender(
            name=one.name,
            pool=one.pool,
            devices=one.devices,
            load=one.load[begins:] + one.load[:begins],
            notice_s=one.notice_s,
        )
        for one in said.services
    ]
    try:
        return Lending(inner, services, step_s=said.step_s, speeds=told.speeds)
    except SpecError as error:
        raise SpecError(error.message, path="policy.lending", hint=error.hint) from None


def check_lending(said: Lend, fleet: Fleet, tell: Tell) -> None:
    """Tell what cannot be of services."""
    pools = {pool.name: pool for pool in fleet.pools}
    if not said.services:
        tell("policy.lending.services", "is empty; name a service, or remove `lending`")
    if HOUR_S % said.step_s:
        tell("policy.lending.step_s", f"{said.step_s:g} s does not divide the hour; use 300, for example")
    nodes: dict[str, int] = {}
    for index, one in enumerate(said.services):
        path = f"policy.lending.services[{index}]"
        if len(one.load) != HOURS_A_DAY:
            tell(f"{path}.load", f"has {len(one.load)} shares; give 24, one for each hour of the day")
        if one.pool not in pools:
            near = did_you_mean(one.pool, pools)
            tell(f"{path}.pool", f"no pool is called `{one.pool}`;{near} the fleet has {listed(pools)}")
            continue
        pool = pools[one.pool]
        nodes[one.pool] = nodes.get(one.pool, 0) + -(-one.devices // pool.devices_per_node)
        if nodes[one.pool] > pool.nodes:
            has = f"the services of pool `{one.pool}` need {nodes[one.pool]} nodes, and it has {pool.nodes}"
            tell(f"{path}.devices", f"{has}; each service has whole nodes: give it fewer devices")
        if pool.spares:
            tell(
                f"{path}.pool",
                f"pool `{one.pool}` keeps {pool.spares} spares, and one that lends has none; remove them",
            )


# --- power -----------------------------------------------------------------------------------------------------------


def _capped(inner: Moving, said: PowerLimit, told: Surroundings) -> Capped:
    hours = hours_of(told.grid)
    meters = {pool.name: meter_of(pool, fleet=told.fleet, grid=told.grid, hours=hours) for pool in told.fleet.pools}
    watts: dict[str, Watts] = {}
    for name, meter in meters.items():
        if meter.busy_w is None or meter.idle_w is None:
            hint = "give it `power_per_device_w`"
            raise SpecError(f"nobody knows what a device of pool `{name}` draws", path="policy.power", hint=hint)
        watts[name] = Watts(busy_w=meter.busy_w, idle_w=meter.idle_w)
    count = int(min(max(np.ceil(told.until_s / HOUR_S), 1), PRICED_MOST))
    prices: Floats = np.zeros(count)
    if said.slack_share:
        if missing := [name for name, meter in meters.items() if meter.price is None]:
            hint = "give `power.price_per_kwh`, or its site a tariff"
            raise SpecError(
                f"what energy costs in pool `{missing[0]}` is unknown", path="policy.power.slack_share", hint=hint
            )
        if len(currencies := sorted({meter.energy_currency for meter in meters.values()})) > 1:
            raise SpecError(
                f"energy is paid in {listed(currencies)}", path="policy.power.slack_share", hint="price it in one"
            )
        full_w = {pool.name: (pool.nodes + pool.spares) * pool.devices_per_node for pool in told.fleet.pools}
        priced = [(full_w[name] * watts[name].busy_w, cast("Hourly", meter.price)) for name, meter in meters.items()]
        prices = _mean_prices(priced, count)
    try:
        return Capped(inner, watts, _spans(prices, _caps(said, count)), slack_share=said.slack_share)
    except SpecError as error:
        raise SpecError(error.message, path="policy.power.cap_w", hint=error.hint) from None


def _mean_prices(priced: Sequence[tuple[float, Hourly]], count: int) -> Floats:
    """By hour, over all pools by what they draw at most."""
    edges_s: Floats = np.arange(count + 1, dtype=np.float64) * HOUR_S
    whole = sum(weight for weight, _ in priced)
    mean: Floats = np.zeros(count)
    for weight, price in priced:
        mean += weight / whole * np.diff(price.integral(edges_s)) / HOUR_S
    return mean.round(12)


def _caps(said: PowerLimit, count: int) -> Floats:
    if said.cap_w is None:
        return np.full(count, np.inf)
    return np.resize(np.asarray(said.cap_w, dtype=float), count)


def _spans(prices: Iterable[float], caps_w: Iterable[float]) -> tuple[Hour, ...]:
    """Equal hours in a row are one. The last goes on for ever, at the mean price and the lowest cap."""
    each = list(zip(prices, caps_w, strict=True))
    tail = (sum(price for price, _ in each) / len(each), min(cap_w for _, cap_w in each))
    starts = [0, *(at for at in range(1, len(each)) if each[at] != each[at - 1])]
    if each[-1] != tail:
        starts.append(len(each))
    bounds = [*(start * HOUR_S for start in starts), float("inf")]
    return tuple(
        Hour(start_s=start_s, end_s=end_s, price_per_kwh=price, cap_w=cap_w)
        for (start_s, end_s), (price, cap_w) in zip(
            pairwise(bounds), (each[start] if start < len(each) else tail for start in starts), strict=True
        )
    )


# --- spares ----------------------------------------------------------------------------------------------------------


def _sparing(scheduler: Scheduler, policy: Policy, said: SparesByRisk, told: Surroundings) -> Sparing:
    if not isinstance(scheduler, Changing):
        raise SpecError(f"`{policy.name}` is not told of spares", path="policy.spares", hint=_instead(policy))
    lends = set() if policy.lending is None else {one.pool for one in policy.lending.services}
    pools = [pool for pool in told.fleet.pools if pool.name not in lends]
    risks = {pool.name: _risk(said, pool, told.faults) for pool in pools}
    return Sparing(
        scheduler,
        failures_per_node_s={name: per_node_s for name, (per_node_s, _) in risks.items()},
        repair_s={name: repair_s for name, (_, repair_s) in risks.items()},
        review_s=said.review_s,
        most_share=said.most_share,
    )


def _risk(said: SparesByRisk, pool: Pool, faults: FaultModel | None) -> tuple[float, float]:
    """Failures of a node by the second that take it away, and the mean repair."""
    per_node_day, repair_s = _known_risk(pool, faults)
    return (
        (per_node_day if said.per_node_day is None else said.per_node_day) / SECONDS_A_DAY,
        repair_s if said.repair_s is None else said.repair_s,
    )


def _known_risk(pool: Pool, faults: FaultModel | None) -> tuple[float, float]:
    """What is drawn, where faults are; of a log nobody knows beforehand, so the pool's own."""
    if faults is None or faults.log or faults.listed:
        if pool.failures is None:
            return DEFAULT_PER_NODE_DAY * DEFAULT_REPAIR_SHARE, DEFAULT_REPAIR_S
        return pool.failures.per_node_day * DEFAULT_REPAIR_SHARE, float(mean_repair_s(pool.failures.repair_s))
    away = [cause for cause in rates_of(faults, pool).causes if cause.course == "repair" and cause.scope == "node"]
    rate = sum(cause.per_place_day for cause in away)
    if not rate:
        return 0.0, DEFAULT_REPAIR_S
    return rate, sum(cause.per_place_day * cause.lasts.mean_s for cause in away) / rate


def check_preference(fleet: Fleet, tell: Tell) -> None:
    """Tell which pools have no price to compare."""
    if unpriced := [pool.name for pool in fleet.pools if pool.price_per_device_hour is None]:
        tell("policy.prefer", f"pool `{unpriced[0]}` has no price; give every pool its `price_per_device_hour`")
    elif len(currencies := sorted({pool.currency for pool in fleet.pools})) > 1:
        tell("policy.prefer", f"pools are priced in {listed(currencies)}; price all in one currency")


def check_options(policy: Policy, *, able: Mapping[str, str], fleet: Fleet | None, tell: Tell) -> None:
    """Tell options that a policy cannot take. able: of each option why it cannot; empty: it can."""
    for option in OPTIONS:
        if getattr(policy, option) not in (None, False) and (why := able[option]):
            tell(f"policy.{option}", why)
    if fleet is None:
        return
    if policy.lending is not None:
        check_lending(policy.lending, fleet, tell)
    if policy.prefer is not None:
        check_preference(fleet, tell)
    if (power := policy.power) is not None:
        if power.cap_w is None and not power.slack_share:
            tell("policy.power", "has neither `cap_w` nor `slack_share`; give one of them")
        if isinstance(power.cap_w, tuple) and not power.cap_w:
            tell("policy.power.cap_w", "is empty; give one cap, or one for each hour")
