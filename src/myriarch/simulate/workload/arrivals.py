"""When jobs come: instants drawn at an even pace, then stretched over days with busy and calm hours."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S: Final = 86_400.0
BUCKETS: Final = 48
"""Half hours."""
FIRST_BUCKET: Final = 22
"""The day of the model begins at 11 o'clock."""


def lublin_day(shape: float, scale: float) -> Floats:
    """Jobs by half hour from midnight, mean 1: a gamma density over the half hours from 11 to 11 (see `lublin`)."""
    hours = np.arange(FIRST_BUCKET, FIRST_BUCKET + BUCKETS, dtype=np.float64)
    logs = (shape - 1.0) * np.log(hours) - hours / scale - math.lgamma(shape) - shape * math.log(scale)
    return np.roll(np.exp(logs) / np.exp(logs).mean(), FIRST_BUCKET)


def stretched(even_s: Floats, day: Floats) -> Floats:
    """Instants of an even pace moved so that each part of a day gets its share of them.

    even_s: ascending seconds since midnight. day: share of each equal part of the day, mean 1.
    """
    edges_s = np.linspace(0.0, DAY_S, len(day) + 1)
    passed_s = np.concatenate(([0.0], np.cumsum(day))) * (DAY_S / len(day))
    days, rest_s = np.divmod(even_s, DAY_S)
    moved: Floats = days * DAY_S + np.interp(rest_s, passed_s, edges_s)
    return moved
