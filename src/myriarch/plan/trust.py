"""How far a plan's numbers can be trusted: the interval around them, and the measurements behind them."""

from __future__ import annotations

import math

from myriarch.cost.calibrated import INTERVALS
from myriarch.plan.answer import Evidence
from myriarch.plan.candidate import Candidate


def interval_of(candidate: Candidate) -> tuple[float, float]:
    """Factors on the seconds of a step that hold four of five predictions."""
    low, high = INTERVALS["all"]
    return math.exp(low), math.exp(high)


def evidence_of(candidate: Candidate) -> Evidence:
    return Evidence(grade="?", reasons=())
