"""What a second of waiting costs a job: by how much it raises its expected bounded slowdown, the mean of 1 / run time.

Short runs rule that mean, and forecasts of long ones are wrong now and then: a job that dies in its first minute counts
as much as a thousand that last for a day. So what follows from a forecast (`slowness_per_s`) only orders jobs, and
stands for what past jobs with about the same one came to (`Slowness`): binning, as in calibration of classifiers
(Zadrozny and Elkan, ICML'01).
"""

from __future__ import annotations

import bisect
import math
from typing import Final, final

import numpy as np

from myriarch.errors import SpecError

BOUND_S: Final = 10.0
"""Run times below count as so much in a slowdown: the bounded slowdown of Feitelson et al. (JSSPP'97)."""
BINS_MOST: Final = 10
BIN_LEAST: Final = 50
"""Past jobs in a bin, at the least. An assumption."""


def slowness_per_s(p50_s: float, p90_s: float, *, bound_s: float = BOUND_S) -> float:
    """By how much a second of waiting raises a job's expected bounded slowdown: the mean of 1 / max(run, bound).

    Of a run time whose logarithm is logistic with these two percentiles. Raises SpecError for a median that is not
    above zero, or a 90th percentile below it.
    """
    if not 0 < p50_s <= p90_s:
        raise SpecError(f"a median of {p50_s:g} s and a 90th percentile of {p90_s:g} s; give 0 < median <= percentile")
    levels = np.log(np.arange(1, 100) / (100 - np.arange(1, 100))) / math.log(9.0)
    run_s = np.exp(math.log(p50_s) + levels * math.log(p90_s / p50_s))
    return float((1.0 / np.maximum(run_s, bound_s)).mean())


@final
class Slowness:
    """A machine: what was foreseen and what jobs really ran in, calibrated slownesses out.

    Invariant: `foreseen` and `real` are of the same jobs, in the order in which they ended.
    """

    def __init__(self) -> None:
        self.foreseen: list[float] = []
        self.real: list[float] = []
        self._edges: list[float] = []
        self._means: list[float] = []
        self._made_of = 0

    def ended(self, foreseen: float, run_s: float) -> None:
        """A job ended, of which so much had been foreseen."""
        self.foreseen.append(foreseen)
        self.real.append(1.0 / max(run_s, BOUND_S))

    def calibrated(self, foreseen: float) -> float:
        """As it came out for past jobs of about the same: a tenth of them, or the fifty or more about it. Without any,
        as it was foreseen."""
        if not self.real:
            return foreseen
        if self._made_of != len(self.real):
            self._learn()
        return self._means[bisect.bisect_right(self._edges, foreseen)]

    def _learn(self) -> None:
        order = np.argsort(self.foreseen, kind="stable")
        parts = np.array_split(order, max(min(BINS_MOST, len(order) // BIN_LEAST), 1))
        self._means = [float(np.array(self.real)[part].mean()) for part in parts]
        self._edges = [self.foreseen[int(part[0])] for part in parts[1:]]
        self._made_of = len(self.real)
