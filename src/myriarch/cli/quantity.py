"""Amounts as people write them on the command line: tokens, durations, money."""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

from myriarch.errors import UsageError
from myriarch.units import NUMBER_PATTERN

_AMOUNT: Final = re.compile(rf"\s*({NUMBER_PATTERN})\s*([A-Za-z万亿小时天日周个月年]*)\s*")
_MONEY: Final = re.compile(rf"\s*({NUMBER_PATTERN})\s*([kMB万亿]?)\s*([A-Za-z]{{3}}|元|美元)?\s*")

_COUNTS: Final = {
    "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15, "万": 1e4, "亿": 1e8, "万亿": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30,
}  # fmt: skip
"""Of tokens, parameters, sequences, FLOPs. `B` is a billion, as in 70B."""
_DAYS: Final = {
    "s": 1 / 86_400, "min": 1 / 1_440, "h": 1 / 24, "d": 1.0, "day": 1.0, "days": 1.0, "w": 7.0, "week": 7.0,
    "weeks": 7.0, "month": 30.0, "months": 30.0, "y": 365.0, "year": 365.0, "years": 365.0,
    "小时": 1 / 24, "天": 1.0, "日": 1.0, "周": 7.0, "个月": 30.0, "月": 30.0, "年": 365.0,
}  # fmt: skip
"""A month is 30 days, a year 365."""


class Money(NamedTuple):
    """An amount, and its currency if one was said."""

    amount: float
    currency: str


def count(text: str, *, option: str) -> float:
    """`15T`, `405B`, `1.5e13`, `4Mi`, `1亿`: a number above zero. Raises UsageError that names the option."""
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in _COUNTS:
        raise UsageError(
            f"{option}: `{text}` is not an amount", hint="write a number with k, M, B, T: 15T, 405B, 1.5e13"
        )
    return _positive(float(match[1].replace("_", "")) * _COUNTS[match[2]], text, option)


def days(text: str, *, option: str) -> float:
    """`30d`, `720h`, `6 weeks`, `1 month`: days above zero. A bare number is refused: of what?"""
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in _DAYS:
        raise UsageError(
            f"{option}: `{text}` is not a duration",
            hint="write a number and h, d, weeks, months (30 days) or years: 30d",
        )
    found = _positive(float(match[1].replace("_", "")) * _DAYS[match[2]], text, option)
    if found < _DAYS["s"]:
        raise UsageError(f"{option}: `{text}` is less than a second", hint="give a longer one")
    return found


def money(text: str, *, option: str) -> Money:
    """`5e6`, `20M USD`, `3000万 CNY`: an amount above zero, and its currency if it is said."""
    match = _MONEY.fullmatch(text)
    if match is None:
        raise UsageError(f"{option}: `{text}` is not an amount of money", hint="write a number and a currency: 20M USD")
    amount = _positive(float(match[1].replace("_", "")) * _COUNTS[match[2]], text, option)
    return Money(amount, {"元": "CNY", "美元": "USD"}.get(match[3] or "", (match[3] or "").upper()))


def _positive(value: float, text: str, option: str) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{option}: `{text}` is not above zero", hint="give a positive, finite amount")
    return value
