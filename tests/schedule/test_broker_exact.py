"""The batch against every assignment there is, on markets small enough to enumerate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.schedule.broker import solve
from myriarch.schedule.broker_market import Jobs, Market, Offer, Request, Voucher, Window
from myriarch.spec.fleet import Chip

CHIP = Chip(id="any", rate_flops_per_s={"bf16": 1e14}, memory_bytes=8e10)
SLOTS = 4
OPENS = "2026-12-01T00:00+00:00"

prices = st.integers(0, 9).map(float)


@st.composite
def offers(draw: st.DrawFn, index: int) -> Offer:
    hourly = tuple(draw(prices) for _ in range(SLOTS)) + (0.0,) * (24 - SLOTS)
    energy = tuple(float(draw(st.integers(-3, 5))) for _ in range(SLOTS)) + (0.0,) * (24 - SLOTS)
    start = draw(st.integers(0, 1))
    return Offer(
        name=f"pool-{index}",
        chip=CHIP,
        currency="CNY",
        rent_per_device_hour=hourly,
        energy_per_kwh=energy,
        power_per_device_w=1000.0,
        windows=(Window(start_s=start * 3600.0, end_s=SLOTS * 3600.0, devices=draw(st.integers(1, 4))),),
    )


@st.composite
def requests(draw: st.DrawFn, index: int, pools: int, *, gangs: bool) -> Request:
    devices = draw(st.integers(1, 3))
    hours = {f"pool-{pool}": float(devices * draw(st.integers(1, 3))) for pool in range(pools)}
    return Request(
        name=f"job-{index}",
        tenant=draw(st.sampled_from(("a", "b"))),
        devices=devices,
        gang=gangs or draw(st.booleans()),
        device_hours={pool: value for pool, value in hours.items() if draw(st.integers(0, 3))},
        earliest_s=3600.0 * draw(st.integers(0, 1)),
        deadline_s=3600.0 * draw(st.integers(3, SLOTS)),
        budget=draw(st.none() | st.integers(5, 40).map(float)),
        wait_price_per_hour=float(draw(st.integers(0, 2))),
        priority=float(draw(st.integers(1, 2))),
    )


@st.composite
def vouchers(draw: st.DrawFn, index: int) -> Voucher:
    cap_per_job = draw(st.none() | st.integers(1, 10).map(float))
    total = draw(st.none() | st.integers(10, 20).map(float))
    return Voucher(
        name=f"voucher-{index}",
        currency="CNY",
        share=draw(st.sampled_from((0.25, 0.5))),
        covers=draw(st.sampled_from((("rent",), ("rent", "energy")))),
        cap_per_job=cap_per_job,
        cap_total=total,
        tenants=draw(st.sampled_from(((), ("a",)))),
        valid_until=draw(st.sampled_from(("", "2026-12-01T02:00+00:00"))),
    )


@st.composite
def markets(draw: st.DrawFn, *, gangs: bool, jobs_most: int) -> tuple[Jobs, Market]:
    pools = draw(st.integers(1, 2))
    market = Market(
        opens=OPENS,
        horizon_s=SLOTS * 3600.0,
        currency="CNY",
        offers=tuple(draw(offers(index)) for index in range(pools)),
        vouchers=tuple(draw(vouchers(index)) for index in range(draw(st.integers(0, 2)))),
    )
    count = draw(st.integers(1, jobs_most))
    return Jobs(jobs=tuple(draw(requests(index, pools, gangs=gangs)) for index in range(count))), market


# --- an oracle that shares nothing with the code under test: integers of hours, sums by hand --------------------------

Way = tuple[tuple[str, int], ...]
"""(pool, start) of each unit of a job."""


def ways(job: Request, market: Market) -> Iterator[Way]:
    assert job.deadline_s is not None
    starts = []
    for offer in market.offers:
        hours = job.device_hours.get(offer.name)
        if hours is None:
            continue
        length = round(hours / job.devices)
        latest = round(job.deadline_s / 3600) - length
        starts += [(offer.name, start) for start in range(round(job.earliest_s / 3600), latest + 1)]
    yield from itertools.combinations_with_replacement(starts, 1 if job.gang else job.devices)


def hours_held(job: Request, way: Way) -> Iterator[tuple[str, int, int]]:
    """(pool, hour, devices)"""
    for pool, start in way:
        for hour in range(start, start + round(job.device_hours[pool] / job.devices)):
            yield pool, hour, job.devices if job.gang else 1


def billed(job: Request, way: Way, market: Market, *, covers: tuple[str, ...] = ("rent", "energy"), until: int = 99):  # type: ignore[no-untyped-def]
    by_name = {offer.name: offer for offer in market.offers}
    total = 0.0
    for pool, hour, devices in hours_held(job, way):
        rent, energy = by_name[pool].rent_per_device_hour, by_name[pool].energy_per_kwh
        assert isinstance(rent, tuple)
        assert isinstance(energy, tuple)
        if hour < until:
            total += devices * (rent[hour] * ("rent" in covers) + energy[hour] * ("energy" in covers))
    return total


def waits(job: Request, way: Way) -> float:
    each = [start - job.earliest_s / 3600 for _, start in way]
    return job.wait_price_per_hour * math.fsum(each) / len(each)


def vouchers_pay(jobs: list[tuple[Request, Way, Voucher | None]], market: Market) -> float | None:
    """The most that vouchers pay under caps and budgets; None where a budget cannot be met."""
    total = 0.0
    needed = {voucher.name: 0.0 for voucher in market.vouchers}
    possible = dict(needed)
    for job, way, voucher in jobs:
        short = max(billed(job, way, market) - job.budget, 0.0) if job.budget is not None else 0.0
        if voucher is None:
            if short > 1e-9:
                return None
            continue
        until = 2 if voucher.valid_until else 99
        pays = max(billed(job, way, market, covers=voucher.covers, until=until), 0.0) * voucher.share
        # Of tasks, each one's own bill is covered where it is positive.
        if not job.gang:
            pays = voucher.share * sum(
                max(billed(job, (unit,), market, covers=voucher.covers, until=until), 0.0) for unit in way
            )
        pays = min(pays, math.inf if voucher.cap_per_job is None else voucher.cap_per_job)
        if short > pays + 1e-9:
            return None
        needed[voucher.name] += short
        possible[voucher.name] += pays
    for voucher in market.vouchers:
        cap = math.inf if voucher.cap_total is None else voucher.cap_total
        if needed[voucher.name] > cap + 1e-9:
            return None
        total += min(possible[voucher.name], cap)
    return total


def fits(placed: list[tuple[Request, Way]], market: Market) -> bool:
    held: dict[tuple[str, int], int] = {}
    for job, way in placed:
        for pool, hour, devices in hours_held(job, way):
            held[pool, hour] = held.get((pool, hour), 0) + devices
    for offer in market.offers:
        window = offer.windows[0]
        for hour in range(SLOTS):
            free = window.devices if hour * 3600 >= window.start_s else 0
            if held.get((offer.name, hour), 0) > free:
                return False
    return True


def optimum(jobs: Jobs, market: Market) -> tuple[float, float]:
    """(priority placed, least compared price)"""
    best = (0.0, 0.0)
    found = {job.name: [None, *ways(job, market)] for job in jobs.jobs}
    for chosen in itertools.product(*(found[job.name] for job in jobs.jobs)):
        placed = [(job, way) for job, way in zip(jobs.jobs, chosen, strict=True) if way is not None]
        priority = sum(job.priority for job, _ in placed)
        if priority < -best[0] or not fits(placed, market):
            continue
        allowed = [
            [None, *(v for v in market.vouchers if job.tenant in (v.tenants or (job.tenant,)))] for job, _ in placed
        ]
        price = sum(billed(job, way, market) + waits(job, way) for job, way in placed)
        for used in itertools.product(*allowed):
            paid = vouchers_pay([(*pair, voucher) for pair, voucher in zip(placed, used, strict=True)], market)
            if paid is not None:
                best = min(best, (-priority, price - paid))
    return -best[0], best[1]


@settings(max_examples=40)
@given(markets(gangs=True, jobs_most=3))
def test_gangs_are_placed_at_the_least_price(case: tuple[Jobs, Market]) -> None:
    jobs, market = case
    matching = solve(jobs, market)
    priority, price = optimum(jobs, market)
    assert matching.status == "optimal"
    placed = {award.job for award in matching.awards}
    assert sum(job.priority for job in jobs.jobs if job.name in placed) == priority
    assert matching.compared == pytest.approx(price, abs=1e-6)


@settings(max_examples=15)
@given(markets(gangs=False, jobs_most=2))
def test_tasks_are_placed_at_the_least_price(case: tuple[Jobs, Market]) -> None:
    jobs, market = case
    matching = solve(jobs, market)
    priority, price = optimum(jobs, market)
    placed = {award.job for award in matching.awards}
    assert sum(job.priority for job in jobs.jobs if job.name in placed) == priority
    assert matching.compared == pytest.approx(price, abs=1e-6)


@settings(max_examples=15)
@given(markets(gangs=False, jobs_most=4), st.randoms(use_true_random=False))
def test_the_order_of_a_file_changes_nothing(case: tuple[Jobs, Market], random) -> None:  # type: ignore[no-untyped-def]
    jobs, market = case
    shuffled = list(jobs.jobs)
    random.shuffle(shuffled)
    turned = msgspec.structs.replace(market, offers=market.offers[::-1], vouchers=market.vouchers[::-1])
    for method in ("batch", "arrival"):
        one = solve(jobs, market, method=method)
        other = solve(Jobs(jobs=tuple(shuffled)), turned, method=method)
        assert msgspec.json.encode(one) == msgspec.json.encode(other)


@settings(max_examples=40)
@given(markets(gangs=False, jobs_most=4))
def test_the_batch_is_never_worse_than_arrival_and_neither_overbooks(case: tuple[Jobs, Market]) -> None:
    jobs, market = case
    batch, greedy = solve(jobs, market), solve(jobs, market, method="arrival")
    weight = {job.name: job.priority for job in jobs.jobs}
    won, held = (sum(weight[award.job] for award in matching.awards) for matching in (batch, greedy))
    assert (won, -batch.compared) >= (held, -greedy.compared - 1e-6)
    for matching in (batch, greedy):
        for award in matching.awards:
            job = next(each for each in jobs.jobs if each.name == award.job)
            assert sum(part.devices for part in award.parts) == job.devices
            assert job.budget is None or award.price.billed <= job.budget + 1e-6
            assert all(part.end_s <= (job.deadline_s or 0.0) + 1e-6 for part in award.parts)
