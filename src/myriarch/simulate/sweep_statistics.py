"""Means with confidence intervals over seeds, and differences between variants that saw the same seeds.

Seeds are independent draws, so the mean of `n` of them has the standard error s / sqrt(n), and its interval at a
confidence is t times that, with Student's t at n - 1 degrees of freedom (Student, Biometrika 6, 1908). Two variants
that saw the same seeds saw the same jobs and faults: their differences, seed by seed, vary far less than the values
do (common random numbers; Law, Simulation Modeling and Analysis, section 11.2), and get an interval of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from myriarch.event.base import Value

CONFIDENCE: Final = 0.95


class Estimate(Value, frozen=True, kw_only=True):
    """A mean over seeds."""

    mean: float
    half_width: float | None
    """The interval is the mean, this much up and down; None with one seed."""
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out zero: for a difference, that it is there."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of at least one value, with its interval."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean=mean, half_width=None, seeds=count)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_t(confidence, degrees=count - 1) * deviation / math.sqrt(count)
    return Estimate(mean=mean, half_width=half, seeds=count)


def difference(
    values: Mapping[int, float], base: Mapping[int, float], *, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Of a variant to the base, over the seeds that both have; None when there are none."""
    both = sorted(values.keys() & base.keys())
    return estimate([values[seed] - base[seed] for seed in both], confidence=confidence) if both else None


def student_t(confidence: float, *, degrees: int) -> float:
    """Half the width of Student's distribution that holds so much of it, around zero."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1.0 + confidence) / 2.0))
