"""Amounts of the command line."""

from __future__ import annotations

import pytest

from myriarch.cli import quantity
from myriarch.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15T", 15e12),
        ("405B", 405e9),
        ("1.5e13", 1.5e13),
        ("4Mi", 4 * 2**20),
        ("1_000", 1000.0),
        ("1亿", 1e8),
        ("2 k", 2e3),
    ],
)
def test_counts(text: str, value: float) -> None:
    assert quantity.count(text, option="--tokens") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("30d", 30.0), ("720h", 30.0), ("1 month", 30.0), ("6 weeks", 42.0), ("1.5 years", 547.5), ("30天", 30.0)],
)
def test_durations(text: str, value: float) -> None:
    assert quantity.days(text, option="--deadline") == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e6", (5e6, "")),
        ("20M USD", (20e6, "USD")),
        ("3000万 cny", (3e7, "CNY")),
        ("7 eur", (7.0, "EUR")),
        ("3000万元", (3e7, "CNY")),
    ],
)
def test_money(text: str, value: tuple[float, str]) -> None:
    assert quantity.money(text, option="--budget") == value


@pytest.mark.parametrize("text", ["", "T", "15X", "-3", "0", "nan", "inf", "1e999", "15 T tokens"])
def test_what_is_no_count_is_refused_with_the_option_and_the_text(text: str) -> None:
    with pytest.raises(UsageError, match="--tokens") as caught:
        quantity.count(text, option="--tokens")
    assert text in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["30", "30T", "d", "-1d", "0d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--deadline"):
        quantity.days(text, option="--deadline")


@pytest.mark.parametrize("text", ["USD", "5 dollars", "0 USD", "5X"])
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        quantity.money(text, option="--budget")
