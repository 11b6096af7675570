"""When jobs come: instants drawn at an even pace, then stretched over days with busy and calm hours."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
BUCKETS: Final = 48
"""Half hours."""
FIRST_BUCKET: Final = 22
"""The day of the model begins at 11 o'clock."""
DAY_SWING: Final = 0.34
"""Amplitude of the first harmonic of submissions by hour: 0.29 in Philly 2017, 0.39 in ALCF Mira 2018."""
BUSIEST_HOUR: Final = 16.0
"""A round number: neither trace says what time its first hour is."""
WEEKEND: Final = 0.81
"""Submissions on the calmest two days in a row over the mean: 0.77 in Philly 2017, 0.85 in ALCF Mira 2018."""


def lublin_day(shape: float, scale: float) -> Floats:
    """Jobs by half hour from midnight, mean 1: a gamma density over the half hours from 11 to 11 (see `lublin`)."""
    hours = np.arange(FIRST_BUCKET, FIRST_BUCKET + BUCKETS, dtype=np.float64)
    logs = (shape - 1.0) * np.log(hours) - hours / scale - math.lgamma(shape) - shape * math.log(scale)
    return np.roll(np.exp(logs) / np.exp(logs).mean(), FIRST_BUCKET)


def week() -> Floats:
    """Jobs by hour from Monday's midnight, mean 1: a daily and a weekly cycle."""
    hours = np.arange(24) + 0.5
    day = 1.0 + DAY_SWING * np.cos((hours - BUSIEST_HOUR) * (2 * math.pi / 24))
    days = np.array([(7.0 - 2 * WEEKEND) / 5] * 5 + [WEEKEND] * 2)
    shares: Floats = np.outer(days, day).ravel()
    return shares


def stretched(even_s: Floats, day: Floats, *, period_s: float = DAY_S) -> Floats:
    """Instants of an even pace moved so that each part of a day, or of another period, gets its share of them.

    even_s: ascending seconds since midnight. day: share of each equal part of the period, mean 1.
    """
    edges_s = np.linspace(0.0, period_s, len(day) + 1)
    passed_s = np.concatenate(([0.0], np.cumsum(day))) * (period_s / len(day))
    days, rest_s = np.divmod(even_s, period_s)
    moved: Floats = days * period_s + np.interp(rest_s, passed_s, edges_s)
    return moved
