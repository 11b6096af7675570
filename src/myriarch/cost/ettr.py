"""Effective training time ratio, in first order: for contrast with the exact model of `cost.effective`.

Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters" (HPCA 2025,
arXiv:2410.21680), section III:

    E[ETTR] = (1 - N r (u0 + dt/2)) / (1 + w/dt)             dt* = sqrt(2 w / (N r))

N nodes, r failures per node and second, u0 seconds to restart, dt seconds between saves, w seconds that one save stops.
Good while N r u0 is below 0.1: against Daly's exact form it is 0.2 points low at 3 hours between failures, and 27
points at 18 minutes with restarts of 15 (`tests/cost/test_effective.py`). Below 0 where it says nothing is left.
"""

from __future__ import annotations

import numpy as np

from myriarch.cost.arrays import Array, Real


def first_order_ettr(*, failures_per_s: Real, restart_s: Real, save_s: Real, interval_s: Real | None = None) -> Array:
    """E[ETTR] without time in a queue; at the best interval when none is given. `failures_per_s` of all nodes."""
    between = first_order_interval_s(failures_per_s=failures_per_s, save_s=save_s) if interval_s is None else interval_s
    kept = 1.0 - np.multiply(failures_per_s, restart_s + np.divide(between, 2.0))
    ratio: Array = kept / (1.0 + np.divide(save_s, between))
    return ratio


def first_order_interval_s(*, failures_per_s: Real, save_s: Real) -> Array:
    """dt*, Young's interval."""
    interval: Array = np.sqrt(np.divide(np.multiply(2.0, save_s), failures_per_s))
    return interval
