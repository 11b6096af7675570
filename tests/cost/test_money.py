"""Money: by the hour, by the hour of day, and never across currencies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.energy import JOULES_PER_KWH
from myriarch.cost.money import (
    Amount,
    Money,
    cheapest_start,
    depreciation,
    energy_price,
    mean_price_per_kwh,
    rent,
)
from myriarch.errors import SpecError
from myriarch.spec.site import Period, Tariff

FLAT = Tariff(price_per_kwh=0.6, currency="CNY")
BY_HOUR = Tariff(
    price_per_kwh=0.80,
    periods=(Period(hours=(8, 12), price_per_kwh=1.17), Period(hours=(22, 6), price_per_kwh=0.43)),
    currency="CNY",
)
HOUR_S = 3600.0


def test_two_hours_of_ten_thousand_devices() -> None:
    """10,000 devices at 1.05 kW and PUE 1.25 for 2 h: 26.25 MWh, at 0.6 yuan 15,750."""
    energy_j = 10_000 * 1050.0 * 1.25 * 2 * HOUR_S
    paid = energy_price(energy_j, tariff=FLAT, run_s=2 * HOUR_S)
    assert float(paid.value) == pytest.approx(15_750.0)
    assert paid.currency == "CNY"


def test_rent_and_depreciation_by_hand() -> None:
    assert float(rent(devices=8, run_s=90 * 60.0, price_per_device_hour=2.5, currency="USD").value) == 30.0
    # A device of 30,000 over four years, used for a hundredth of them.
    life_s = 4 * 365.25 * 86_400
    used = depreciation(devices=2, run_s=life_s / 100, price_per_device=30_000.0, life_s=life_s, currency="USD")
    assert float(used.value) == pytest.approx(600.0)
    with pytest.raises(SpecError, match="not a lifetime"):
        depreciation(devices=2, run_s=1.0, price_per_device=1.0, life_s=0.0, currency="USD")


@pytest.mark.parametrize(
    ("start", "hours", "mean"),
    [
        (8.0, 4.0, 1.17),
        (0.0, 6.0, 0.43),
        (23.0, 2.0, 0.43),
        (7.0, 2.0, (0.80 + 1.17) / 2),
        (7.5, 1.0, (0.80 + 1.17) / 2),
        (0.0, 24.0, (8 * 0.43 + 4 * 1.17 + 12 * 0.80) / 24),
        (5.0, 240.0, (8 * 0.43 + 4 * 1.17 + 12 * 0.80) / 24),
        (9.0, 0.0, 1.17),
    ],
)
def test_a_load_pays_the_price_of_its_hours(start: float, hours: float, mean: float) -> None:
    assert float(mean_price_per_kwh(BY_HOUR, run_s=hours * HOUR_S, start_hour=start)) == pytest.approx(mean)


@given(start=st.floats(0.0, 48.0), hours=st.floats(0.001, 1000.0), part=st.floats(0.01, 0.99))
def test_a_run_costs_the_sum_of_its_parts(start: float, hours: float, part: float) -> None:
    """Any run, cut anywhere; and the day's mean is what long ones pay."""

    def paid(begin: float, length: float) -> float:
        return length * float(mean_price_per_kwh(BY_HOUR, run_s=length * HOUR_S, start_hour=begin))

    first = hours * part
    assert paid(start, hours) == pytest.approx(paid(start, first) + paid(start + first, hours - first), rel=1e-6)
    assert 0.43 - 1e-9 <= paid(start, hours) / hours <= 1.17 + 1e-9
    assert paid(start, 2400.0) / 2400.0 == pytest.approx(BY_HOUR.mean_price_per_kwh)


def test_many_plans_at_once() -> None:
    run_s = np.array([1.0, 10.0, 1000.0]) * HOUR_S
    energy_j = np.array([1.0, 2.0, 3.0]) * JOULES_PER_KWH
    paid = energy_price(energy_j, tariff=BY_HOUR, run_s=run_s, start_hour=8.0)
    assert paid.value.shape == (3,)
    assert float(paid.value[0]) == pytest.approx(1.17)


def test_a_short_run_waits_for_the_valley() -> None:
    hour, price = cheapest_start(BY_HOUR, run_s=4 * HOUR_S)
    assert hour == 0
    assert price == pytest.approx(0.43)
    assert cheapest_start(BY_HOUR, run_s=8 * HOUR_S)[0] == 22


def test_currencies_stay_apart() -> None:
    yuan = Amount(value=np.asarray(100.0), currency="CNY")
    dollars = Amount(value=np.asarray(10.0), currency="USD")
    with pytest.raises(SpecError, match="have no sum"):
        _ = yuan + dollars
    both = Money.of((yuan, dollars, yuan))
    assert both.currencies == ("CNY", "USD")
    assert float(both.amounts["CNY"]) == 200.0
    assert float(both.amounts["USD"]) == 10.0
    with pytest.raises(SpecError, match="not one sum"):
        both.single()
    assert float((both + Money.of((dollars,))).amounts["USD"]) == 20.0
    assert Money.of((yuan,)).single() == yuan
    with pytest.raises(SpecError, match="no amount"):
        Money().single()


def test_conversion_is_the_users() -> None:
    both = Money.of((Amount(value=np.asarray(100.0), currency="CNY"), Amount(value=np.asarray(10.0), currency="USD")))
    assert float(both.converted("CNY", rates={"USD": 7.0}).value) == pytest.approx(170.0)
    with pytest.raises(SpecError, match="no rate from USD"):
        both.converted("CNY", rates={})
