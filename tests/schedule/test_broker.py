"""The broker's manners: reasons, prices by hand, vouchers with dates, money that is never mixed, wrong input."""

from __future__ import annotations

import itertools
import math
import pathlib
import subprocess
import sys

import msgspec
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.broker import solve
from myriarch.schedule.broker_market import (
    DataRoute,
    Discount,
    Jobs,
    Market,
    Offer,
    Request,
    Voucher,
    Window,
)
from myriarch.schedule.broker_result import Bill, Matching
from myriarch.schedule.calendar import Steps, instant_s
from myriarch.spec.fleet import Chip
from myriarch.spec.parse import parse

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "broker"
CHIP = Chip(id="any", rate_flops_per_s={"bf16": 1e14}, memory_bytes=8e10)


def offer(name: str, **fields: object) -> Offer:
    base = Offer(
        name=name, chip=CHIP, currency="CNY", windows=(Window(start_s=0.0, end_s=86400.0, devices=8),)
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


def market(*offers: Offer, **fields: object) -> Market:
    base = Market(opens="2026-12-01T00:00+08:00", horizon_s=86400.0, currency="CNY", offers=offers)
    return msgspec.structs.replace(base, **fields)


def request(name: str = "j", **fields: object) -> Request:
    return msgspec.structs.replace(Request(name=name, devices=2, device_hours={"p": 4.0, "q": 4.0}), **fields)


def one(job: Request, where: Market) -> Matching:
    return solve(Jobs(jobs=(job,)), where)


# --- prices ----------------------------------------------------------------------------------------------------------


def test_a_price_by_hand() -> None:
    """Two devices for two hours at 3 CNY, of 1 kW each at hour prices 1, 0.5, -0.25, 1: the two cheapest hours."""
    hourly = (1.0, 0.5, -0.25, 1.0) + (2.0,) * 20
    where = market(offer("p", rent_per_device_hour=3.0, energy_per_kwh=hourly, power_per_device_w=1000.0))
    (award,) = one(request(), where).awards
    assert (award.parts[0].start_s, award.parts[0].end_s) == (3600.0, 10800.0)
    assert award.price.rent == pytest.approx(12.0)
    assert award.price.energy == pytest.approx(2 * 0.5 - 2 * 0.25)
    assert award.key == "j:2@p+3600"


def test_the_grid_may_pay() -> None:
    where = market(offer("p", energy_per_kwh=-0.5, power_per_device_w=1000.0))
    (award,) = one(request(), where).awards
    assert award.price.billed == pytest.approx(-2.0)
    assert one(request(budget=0.0), where).placed == 1


def test_waiting_has_its_price() -> None:
    hourly = (1.0,) * 12 + (0.5,) * 12
    where = market(offer("p", rent_per_device_hour=hourly))
    starts = {wait: one(request(wait_price_per_hour=wait), where).awards[0].parts[0].start_s for wait in (0.0, 1.0)}
    assert starts == {0.0: 43200.0, 1.0: 0.0}


def test_data_costs_time_and_money() -> None:
    where = market(
        offer("p", site="far", rent_per_device_hour=1.0),
        offer("q", site="near", rent_per_device_hour=2.0),
        routes=(DataRoute(between=("near", "far"), bandwidth_bytes_per_s=1e9, price_per_gb=0.001),),
    )
    light, heavy = (one(request(data_site="near", data_bytes=size), where) for size in (3.6e12, 7.2e12))
    assert light.awards[0].parts[0] == msgspec.structs.replace(light.awards[0].parts[0], offer="p", start_s=3600.0)
    assert light.awards[0].price.data == pytest.approx(3.6)
    assert heavy.awards[0].parts[0].offer == "q"


def test_discounts_hold_between_their_dates() -> None:
    half = Discount(share=0.5, valid_from="2026-12-01T06:00", valid_until="2026-12-01T08:00", devices_least=2)
    where = market(offer("p", rent_per_device_hour=1.0, discounts=(half,)))
    assert one(request(), where).awards[0].price.rent == pytest.approx(2.0)
    assert one(request(devices=1, device_hours={"p": 2.0}), where).awards[0].price.rent == pytest.approx(2.0)
    assert one(request(device_hours={"p": 6.0}), where).awards[0].price.rent == pytest.approx(4.0)  # an hour beyond


def test_vouchers_pay_only_for_time_inside_their_dates() -> None:
    coupon = Voucher(name="v", currency="CNY", share=0.5, valid_until="2026-12-01T01:00")
    where = market(offer("p", rent_per_device_hour=1.0), vouchers=(coupon,))
    (award,) = one(request(), where).awards
    assert award.voucher == "v"
    assert award.price.voucher == pytest.approx(1.0)  # one hour of two


def test_a_short_voucher_goes_where_it_places_more() -> None:
    """Two jobs, each within its budget only with the voucher, that is enough for both if shared well."""
    coupon = Voucher(name="v", currency="CNY", share=0.5, cap_total=3.0)
    where = market(offer("p", rent_per_device_hour=1.0), vouchers=(coupon,))
    jobs = (request("a", budget=2.5), request("b", budget=2.5))
    greedy, batch = solve(Jobs(jobs=jobs), where, method="arrival"), solve(Jobs(jobs=jobs), where)
    assert (greedy.placed, batch.placed) == (1, 2)
    assert sum(award.price.voucher for award in batch.awards) == pytest.approx(3.0)


# --- the market ------------------------------------------------------------------------------------------------------


def test_the_batch_sees_what_arrival_cannot() -> None:
    """The flexible job comes first and takes the only place that the other one could have."""
    where = market(offer("p", rent_per_device_hour=1.0), offer("q", rent_per_device_hour=1.1), horizon_s=7200.0)
    jobs = (request("early", devices=8, device_hours={"p": 16.0, "q": 16.0}),
            request("late", devices=8, device_hours={"p": 16.0}, submitted_s=0.0))  # fmt: skip
    assert solve(Jobs(jobs=jobs), where, method="arrival").unplaced == ("late",)
    batch = solve(Jobs(jobs=jobs), where)
    assert {award.job: award.parts[0].offer for award in batch.awards} == {"early": "q", "late": "p"}
    quote = {quote.offer: quote for quote in batch.decisions[0].quotes}["p"]
    assert quote.alone == pytest.approx(16.0)
    assert (quote.free, quote.misses[0].need) == (None, "taken")
    assert "p would take 16 if other jobs did not hold it" in batch.decisions[0].reason


def test_shadow_prices_are_what_a_device_more_would_save() -> None:
    dear = offer("q", rent_per_device_hour=5.0)
    jobs = Jobs(jobs=tuple(request(f"j{index}", devices=1, device_hours={"p": 1.0, "q": 1.0}) for index in range(12)))

    def cost(devices: int) -> Matching:
        window = Window(start_s=0.0, end_s=3600.0, devices=devices)
        return solve(jobs, market(offer("p", rent_per_device_hour=1.0, windows=(window,)), dear, horizon_s=3600.0))

    eight, nine = cost(8), cost(9)
    (shadow,) = [price for price in eight.shadow_prices if price.offer == "p"]
    assert eight.prices_support is True
    assert shadow.per_device_hour == pytest.approx(eight.compared - nine.compared) == pytest.approx(4.0)


def test_tasks_need_not_stay_together() -> None:
    where = market(offer("p", rent_per_device_hour=1.0, windows=(Window(start_s=0.0, end_s=7200.0, devices=3),)))
    job = request(devices=6, device_hours={"p": 6.0})
    assert one(job, where).unplaced == ("j",)
    (award,) = one(msgspec.structs.replace(job, gang=False), where).awards
    assert [(part.start_s, part.devices) for part in award.parts] == [(0.0, 3), (3600.0, 3)]


def test_bills_in_two_currencies_stay_apart() -> None:
    dollars = offer("q", currency="USD", rent_per_device_hour=1.0)
    narrow = (Window(start_s=0.0, end_s=7200.0, devices=2),)
    where = market(offer("p", rent_per_device_hour=1.0, windows=narrow), dollars, rates={"USD": 7.0})
    matching = solve(Jobs(jobs=(request("a"), request("b"))), where)
    assert matching.bills == (Bill(currency="CNY", value=4.0), Bill(currency="USD", value=4.0))
    assert matching.compared == pytest.approx(4.0 + 28.0)


# --- reasons ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (request(devices=16, device_hours={"p": 16.0}), "needs 16 devices; at most 8 are free at once, 8 short"),
        (request(precisions=("fp64",)), "fp64: no rate of any is known for it"),
        (request(memory_bytes=9e10), "needs 83.8 GiB in each device; any has 74.5 GiB"),
        (request(chips=("other",)), "it has any; the job runs on other"),
        (request(device_hours={}), "give device_hours for p"),
        (request(device_hours={"p": 100.0}), "runs 2.1 d; 2 devices are free for 24 h 00 min at a stretch"),
        (request(deadline_s=5400.0), "ends 30 min 00 s after the deadline at the earliest"),
        (request(budget=3.0), "costs 4 CNY at least; the budget is 3"),
        (request(data_site="moon", data_bytes=1.0), "no route from moon"),
        (request(earliest_s=82800.0), "fits no window later"),
    ],
)
def test_why_not(job: Request, said: str) -> None:
    (decision,) = one(job, market(offer("p", rent_per_device_hour=1.0))).decisions
    assert decision.nearest == "p"
    assert said in decision.reason


def test_the_nearest_miss_is_the_pool_that_lacks_least() -> None:
    small = offer("p", windows=(Window(start_s=0.0, end_s=86400.0, devices=1),))
    nearly = offer("q", windows=(Window(start_s=0.0, end_s=86400.0, devices=3),))
    (decision,) = one(request(devices=4), market(small, nearly)).decisions
    assert decision.nearest == "q"
    assert {quote.offer for quote in decision.quotes} == {"p", "q"}


# --- input that is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (market(), "is empty; give at least one pool"),
        (market(offer("p"), offer("p")), "is the name of offers[0] too"),
        (market(offer("p", windows=(Window(start_s=7200.0, end_s=3600.0, devices=1),))), "before it begins"),
        (market(offer("p", currency="USD")), "USD and CNY have no sum"),
        (market(offer("p", energy_per_kwh=(1.0,) * 23, power_per_device_w=1.0)), "has 23 prices; give one, or 24"),
        (market(offer("p", energy_per_kwh=1.0)), "needs the power of a device"),
        (market(offer("p", chip="h1000")), "not in the catalogue"),
        (market(offer("p"), opens="yesterday"), "`yesterday` is not a date"),
        (market(offer("p"), opens="2026-02-29"), "no day or hour that there is"),
    ],
)
def test_a_market_that_contradicts_itself(where: Market, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        one(request(), where)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("voucher", "said"),
    [
        ({"valid_from": "2026-12-02", "valid_until": "2026-12-01"}, "is not after 2026-12-02; swap them"),
        ({"cap_per_job": 10.0, "cap_total": 5.0}, "is more than `cap_total`, 5"),
        ({"offers": ("nowhere",)}, "`nowhere` is no pool of this market"),
        ({"currency": "USD"}, "no pool bills USD; the voucher could never pay"),
        ({"currency": "USD", "offers": ("p",)}, "`p` bills CNY, the voucher pays USD"),
        ({"valid_until": "soon"}, "`soon` is not a date"),
    ],
)
def test_a_voucher_that_contradicts_itself(voucher: dict[str, object], said: str) -> None:
    coupon = msgspec.structs.replace(Voucher(name="v", currency="CNY", share=0.5), **voucher)
    with pytest.raises(SpecError) as raised:
        one(request(), market(offer("p"), vouchers=(coupon,)))
    assert said in str(raised.value)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(SpecError) as raised:
        one(request(earliest_s=100.0, deadline_s=50.0, data_bytes=5.0), market(offer("p", energy_per_kwh=1.0)))
    assert all(word in str(raised.value) for word in ("power_per_device_w", "deadline_s", "data_site"))


def test_rent_below_zero_is_refused_where_it_is_read() -> None:
    text = (EXAMPLE / "market.yaml").read_text().replace("rent_per_device_hour: 7.5", "rent_per_device_hour: -7.5")
    with pytest.raises(SpecError, match="out of range; use at least 0"):
        parse(text, kind=Market)


# --- the example, the calendar, the imports --------------------------------------------------------------------------


def test_the_example_of_the_documentation() -> None:
    where = parse((EXAMPLE / "market.yaml").read_text(), kind=Market)
    jobs = parse((EXAMPLE / "jobs.yaml").read_text(), kind=Jobs)
    batch, greedy = solve(jobs, where), solve(jobs, where, method="arrival")
    assert batch.status == "optimal"
    assert batch.unplaced == ("frontier",)
    assert batch.compared < greedy.compared
    assert msgspec.json.decode(msgspec.json.encode(batch), type=Matching) == batch
    # What docs/broker.md prints.
    printed = (pathlib.Path(__file__).parents[2] / "docs" / "broker.md").read_text()
    for decision in batch.decisions:
        assert decision.reason in printed
    assert f"{batch.compared:.2f}" in printed
    assert f"{greedy.compared:.2f}" in printed


def test_too_little_time_gives_the_greedy_answer_with_no_claim() -> None:
    jobs = Jobs(jobs=tuple(request(f"{index:02d}", device_hours={"p": 2.0 + index}) for index in range(30)))
    where = market(*(offer(name, rent_per_device_hour=tuple(float(h % 5) for h in range(24))) for name in "pq"))
    matching = solve(jobs, where, time_limit_s=0.0)
    assert matching.status in ("optimal", "time_limit")
    assert matching.placed >= solve(jobs, where, method="arrival").placed


def test_dates_are_those_of_the_gregorian_calendar() -> None:
    assert instant_s("1970-01-01", utc_offset_s=0.0) == (0.0, 0.0)
    assert instant_s("2026-12-01T08:00+08:00", utc_offset_s=0.0) == (1796083200.0, 28800.0)
    assert (
        instant_s("2024-03-01T00:00:01Z", utc_offset_s=0.0)[0] - instant_s("2024-02-29", utc_offset_s=0.0)[0] == 86401
    )
    days = [instant_s(f"2000-{month:02d}-01", utc_offset_s=0.0)[0] / 86400 for month in range(1, 13)]
    assert [int(b - a) for a, b in itertools.pairwise(days)] == [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30]


def test_integrals_of_steps() -> None:
    import numpy as np

    steps = Steps.daily(tuple(float(hour) for hour in range(24)), local_hour=22.5, until_s=4 * 3600.0)
    # Half an hour at 22, an hour at 23, half an hour at 0.
    assert steps.over(np.array([0.0]), np.array([7200.0]))[0] == pytest.approx((11 + 23 + 0) * 3600)
    assert math.isclose(steps.scaled(2.0).over(np.array([0.0]), np.array([1800.0]))[0], 2 * 11 * 3600)


def test_scipy_is_imported_where_a_program_is_solved() -> None:
    code = "import sys, myriarch, myriarch.schedule.broker, myriarch.schedule.elastic, myriarch.schedule.power; "
    code += "print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
