"""Hours of sites: read, drawn, and what a schedule draws, pays and emits by them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.power import Flexible, Level, cheapest_hours
from myriarch.simulate.market_draw import SHAPES, spot_hours, tariff_hours, weather
from myriarch.simulate.market_energy import Held, Plant, Watts, spent, watts_of
from myriarch.simulate.market_hours import SiteHours, pue_of, read_hours
from myriarch.spec.catalogue import lookup

HEAD = "site,hour,price_per_kwh,carbon_kg_per_kwh,temperature_c\n"


def flat(price: float = 1.0, *, hours: int = 48, pue: float = 1.0) -> SiteHours:
    return SiteHours("s", 0, np.full(hours, price), np.full(hours, 0.5), pue=np.full(hours, pue))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_sites_of_a_file() -> None:
    lines = [HEAD, *(f"{site},{hour},{hour / 10},0.5,{hour}\n" for site in "ba" for hour in range(30))]
    sites = read_hours(lines)
    assert list(sites) == ["a", "b"]
    one = sites["a"]
    assert (one.hours, one.first_hour, one.synthetic) == (30, 0, False)
    assert one.pue is not None
    assert one.pue[[10, 25]].tolist() == [1.15, 1.25]
    assert one.price_per_kwh[7] == 0.7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("site,hour\na,0\n", "has no column price_per_kwh"),
        (HEAD, "has no hours"),
        (HEAD + "a,0,1,,\na,2,1,,\n", "line 3: hour 2 of a follows hour 0; sort, and fill the gaps"),
        (HEAD + "a,0,1,0.5,\na,1,1,,\n", "`carbon_kg_per_kwh` is given for 1 of 2 hours"),
        (HEAD + "a,0,much,,\n", "line 2: could not convert"),
        (HEAD + "a,0,inf,,\n", "not finite"),
        (HEAD + "a,0,,,\n", "`price_per_kwh` is empty"),
        (HEAD + ",0,1,,\n", "names no site"),
        (HEAD + "a,0,1,-1,\n", "check the units"),
        (HEAD + "a,0.5,1,,\n", "count whole hours"),
    ],
)
def test_files_that_are_wrong(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=r"prices\.csv") as raised:
        read_hours(text.splitlines(keepends=True), source="prices.csv")
    assert said in str(raised.value)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_a_tariff_is_the_same_every_day() -> None:
    site = tariff_hours("s", shape="guangdong", flat_per_kwh=0.6, hours=72, rng=np.random.default_rng(1), first_hour=6)
    by_day = site.price_per_kwh.reshape(3, 24)
    assert (by_day == by_day[0]).all()
    assert site.price_per_kwh[[0, 2, 4]] == pytest.approx([0.6 * 0.38, 0.6, 0.6 * 1.7])  # 6, 8 and 10 o'clock
    assert site.synthetic
    with pytest.raises(SpecError, match="did you mean `guangdong`"):
        tariff_hours("s", shape="guangdon", flat_per_kwh=1.0, hours=24, rng=np.random.default_rng(1))


@pytest.mark.parametrize("name", SHAPES)
def test_no_hour_is_both_peak_and_valley(name: str) -> None:
    shape = SHAPES[name]
    for peak, valley in itertools.product(shape.peak, shape.valley):
        of_peak, of_valley = ({h % 24 for h in range(a, b if a < b else b + 24)} for a, b in (peak, valley))
        assert not of_peak & of_valley


def test_a_spot_market_has_the_order_of_real_ones() -> None:
    site = spot_hours("s", base_per_kwh=0.4, hours=24 * 90, rng=np.random.default_rng(3), carbon_kg_per_kwh=0.6)
    day = site.price_per_kwh.reshape(-1, 24).mean(axis=0)
    assert day[11:14].mean() < day[0:5].mean() < day[17:20].mean()
    assert 0.0 < (site.price_per_kwh < 0).mean() < 0.15
    assert site.price_per_kwh.min() >= -0.08 - 1e-12
    assert site.carbon_kg_per_kwh is not None
    assert site.carbon_kg_per_kwh.mean() == pytest.approx(0.6)
    assert site.carbon_kg_per_kwh.min() > 0
    centred = site.price_per_kwh - np.tile(day, 90)
    assert np.corrcoef(centred[1:], centred[:-1])[0, 1] > 0.6


def test_drawn_hours_depend_on_the_seed_alone() -> None:
    one, same, other = (
        spot_hours("s", base_per_kwh=1.0, hours=48, rng=np.random.default_rng(seed)).price_per_kwh for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()
    sky = weather(np.random.default_rng(1), hours=24 * 60)
    assert (sky.sun.reshape(-1, 24)[:, [0, 5, 18, 23]] == 0).all()
    assert 10 < sky.temperature_c.mean() < 18


# --- integrals -------------------------------------------------------------------------------------------------------


def test_the_next_day_by_the_hour_of_day() -> None:
    site = SiteHours("s", 22, np.arange(60.0), pue=np.ones(60))
    ahead = site.day_ahead(3 * 3600.0 + 1.0)  # 1 o'clock
    assert (ahead[1], ahead[2], ahead[0]) == (3.0, 4.0, 26.0)
    assert site.carbon_ahead(0.0) is None
    with pytest.raises(SpecError, match="give a longer series"):
        site.day_ahead(60 * 3600.0)


def test_energy_money_and_carbon_by_hand() -> None:
    plant = Plant(devices=4, watts=Watts(busy_w=1000.0, idle_w=100.0), hours=flat(2.0, pue=1.5))
    found = spent([Held("p", 1800.0, 5400.0, 3)], {"p": plant}, start_s=0.0, end_s=7200.0)["p"]
    busy_kwh, idle_kwh = 3 * 1.0 * 1.5, (4 * 2 - 3) * 0.1 * 1.5
    assert found.busy_j == pytest.approx(busy_kwh * 3.6e6)
    assert found.idle_j == pytest.approx(idle_kwh * 3.6e6)
    assert found.cost == pytest.approx(2.0 * (busy_kwh + idle_kwh))
    assert found.carbon_kg == pytest.approx(0.5 * (busy_kwh + idle_kwh))


def test_schedules_that_cannot_be() -> None:
    plants = {"p": Plant(devices=4, watts=Watts(1.0, 0.0), hours=flat())}
    with pytest.raises(SpecError, match="4 devices, and 5 are held at once"):
        spent([Held("p", 0.0, 10.0, 3), Held("p", 5.0, 15.0, 2)], plants, start_s=0.0, end_s=20.0)
    with pytest.raises(SpecError, match="is no pool"):
        spent([Held("q", 0.0, 10.0, 3)], plants, start_s=0.0, end_s=20.0)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 9e4), st.floats(1, 9e4), st.integers(1, 3)), max_size=6),
    st.lists(st.floats(-1, 2), min_size=48, max_size=48),
)
def test_a_schedule_pays_the_sum_of_its_runs(runs: list[tuple[float, float, int]], prices: list[float]) -> None:
    """Energy is conserved, and each run pays the integral of the price over it."""
    hours = SiteHours("s", 0, np.array(prices), np.ones(48), pue=np.full(48, 1.2))
    held = [Held("p", start, min(start + run, 172_800.0), devices) for start, run, devices in runs]
    plant = Plant(devices=18, watts=Watts(500.0, 0.0), hours=hours)
    found = spent(held, {"p": plant}, start_s=0.0, end_s=172_800.0)["p"]
    device_s = sum(each.devices * (each.end_s - each.start_s) for each in held)
    assert found.busy_j == pytest.approx(device_s * 500.0 * 1.2)
    starts, ends = (np.array([getattr(each, name) for each in held]) for name in ("start_s", "end_s"))
    paid = hours.price().over(starts, ends) @ np.array([each.devices for each in held]) * 500.0 / 3.6e6 if held else 0.0
    assert math.isclose(found.busy_cost, paid, rel_tol=1e-9, abs_tol=1e-9)


def test_hours_for_shifting_and_watts_of_chips() -> None:
    site = tariff_hours("s", shape="shandong", flat_per_kwh=0.6, hours=48, rng=np.random.default_rng(5))
    job = Flexible(job="j", work_s=3 * 3600.0, levels=(Level(speed=1.0, power_w=1e4),), earliest_s=25_200.0)
    spans = site.spans(from_s=1800.0, until_s=86_400.0)
    assert (spans[0].start_s, spans[0].end_s, len(spans)) == (1800.0, 3600.0, 24)
    found = cheapest_hours(job, spans)
    assert found.at_once is not None
    assert found.compared < found.at_once
    busy, idle = watts_of(lookup("a100-sxm-80"))
    assert (busy, idle) == pytest.approx((400 * 1.45 / 0.95, 400 * 0.57 / 0.95))
    assert pue_of(np.array([0.0, 25.0])) == pytest.approx([1.15, 1.25])
