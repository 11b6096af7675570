"""Sites, tariffs and grids: what energy costs and emits where a pool stands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.spec.catalogue import catalogue
from myriarch.spec.consistency import check_fleet
from myriarch.spec.fleet import Chip, Fleet, Link, Pool
from myriarch.spec.regions import find_region, regions
from myriarch.spec.site import Period, Site, Tariff

POOL = {"name": "p", "chip": {"id": "c"}, "nodes": 1}


def told(**parts: Any) -> list[str]:
    found: list[str] = []
    fleet = msgspec.convert({"name": "f", "pools": [POOL]} | parts, Fleet)
    check_fleet(fleet, catalogue=catalogue(), tell=lambda path, message: found.append(f"{path}: {message}"))
    return found


def test_a_day_has_its_periods_and_a_price_in_between() -> None:
    valley = Period(hours=(23, 7), price_per_kwh=0.2)
    peak = Period(hours=(17, 22), price_per_kwh=0.8)
    tariff = Tariff(price_per_kwh=0.5, periods=(valley, peak), currency="CNY")
    assert [tariff.price_at(hour) for hour in (22, 23, 0, 6, 7, 16, 17, 21)] == [0.5, 0.2, 0.2, 0.2, 0.5, 0.5, 0.8, 0.8]
    assert tariff.mean_price_per_kwh == pytest.approx((8 * 0.2 + 5 * 0.8 + 11 * 0.5) / 24)


@given(st.integers(0, 23), st.integers(1, 23), st.floats(0, 2), st.floats(0, 2))
def test_the_mean_lies_between_the_prices(start: int, length: int, usual: float, other: float) -> None:
    period = Period(hours=(start, (start + length) % 24), price_per_kwh=other)
    assert sum(period.has(hour) for hour in range(24)) == length
    mean = Tariff(price_per_kwh=usual, periods=(period,)).mean_price_per_kwh
    assert min(usual, other) - 1e-12 <= mean <= max(usual, other) + 1e-12


def test_provinces_have_their_official_factors() -> None:
    """MEE and NBS of China, Announcement 2025 No. 47, table 3 (2023)."""
    assert len(regions()) == 30
    assert regions()["CN-NM"].carbon_kg_per_kwh == pytest.approx(0.6479)
    assert regions()["CN-SC"].carbon_kg_per_kwh == pytest.approx(0.1564)
    assert all(0.1 < region.carbon_kg_per_kwh < 0.7 and region.year == 2023 for region in regions().values())
    assert "Ministry of Ecology and Environment" in regions()["CN-BJ"].source


@pytest.mark.parametrize(
    ("text", "code"),
    [("CN-NM", "CN-NM"), ("cn-nm", "CN-NM"), ("Inner Mongolia", "CN-NM"), ("neimenggu", "CN-NM"),
     ("Guangxi Zhuang Autonomous Region", "CN-GX"), ("Hubei Province", "CN-HB"), ("SHAANXI", "CN-SN")],
)  # fmt: skip
def test_a_region_goes_by_code_or_name(text: str, code: str) -> None:
    region = find_region(text)
    assert region is not None
    assert region.code == code


def test_an_unknown_region_is_none() -> None:
    assert find_region("") is None
    assert find_region("Tibet") is None, "the official table has none"


def test_a_pool_s_own_factor_comes_before_its_site_s_and_that_before_its_region_s() -> None:
    def factor(pool: float | None, site: float | None, region: str = "CN-YN", named: str = "here") -> float | None:
        where = Site(name="here", region=region, carbon_kg_per_kwh=site)
        one = Pool(name="p", chip=Chip(id="c"), nodes=1, site=named, carbon_kg_per_kwh=pool)
        return Fleet(name="f", pools=(one,), sites=(where,)).carbon_kg_per_kwh_of(one)

    assert factor(0.5, 0.4) == 0.5
    assert factor(0.0, 0.4) == 0.0, "zero is a figure"
    assert factor(None, 0.4) == 0.4
    assert factor(None, None) == pytest.approx(0.1333)
    assert factor(None, None, region="") is None
    assert factor(None, None, named="") is None


def test_says_what_currencies_prices_are_in() -> None:
    free = Pool(name="a", chip="h20", nodes=1, currency="EUR")
    rented = Pool(name="b", chip="h20", nodes=1, currency="USD", price_per_device_hour=2)
    site = Site(name="s", tariff=Tariff(price_per_kwh=0.4, currency="CNY"))
    assert Fleet(name="f", pools=(free, rented, rented), sites=(site,)).currencies == ("USD", "CNY")


def test_a_crowded_spine_leaves_each_device_its_part() -> None:
    pool = Pool(name="p", chip="h20", nodes=8, link=Link(bandwidth_bytes_per_s=50e9), oversubscription=2)
    assert pool.network_bandwidth_bytes_per_s == 25e9
    assert Pool(name="p", chip="h20", nodes=8).network_bandwidth_bytes_per_s is None


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "sites[1].name: `a` is sites[0] already; give each its own name"),
        (
            [{"name": "a", "region": "Sichuen"}],
            (
                "sites[0].region: `Sichuen` has no emission factor here; did you mean `sichuan`? "
                "give the site's `carbon_kg_per_kwh`"
            ),
        ),
        (
            [{"name": "a", "tariff": {"price_per_kwh": 1, "periods": [{"hours": [0, 24], "price_per_kwh": 2}]}}],
            (
                "sites[0].tariff.periods[0].hours: [0, 24] is no part of a day; "
                "use `price_per_kwh` of the tariff for all hours"
            ),
        ),
        (
            [
                {
                    "name": "a",
                    "tariff": {
                        "price_per_kwh": 1,
                        "periods": [{"hours": [22, 6], "price_per_kwh": 2}, {"hours": [5, 9], "price_per_kwh": 2}],
                    },
                }
            ],
            "sites[0].tariff.periods[1].hours: has the hour 5 that periods[0] has already; let one have it",
        ),
    ],
)
def test_says_what_is_wrong_with_a_site(sites: list[dict[str, Any]], message: str) -> None:
    assert told(sites=sites) == [message]


def test_a_pool_stands_at_a_site_that_there_is() -> None:
    wrong = "pools[0].site: no site is called `hoot`; did you mean `hohhot`? the fleet has `hohhot`"
    pools = [POOL | {"site": "hoot"}]
    assert told(pools=pools, sites=[{"name": "hohhot"}]) == [wrong]
    assert told(pools=pools) == [], "without sites it is any word, as before"
    assert told(sites=[{"name": "a", "region": "Tibet", "carbon_kg_per_kwh": 0.1}]) == []
