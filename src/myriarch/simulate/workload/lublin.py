"""Rigid batch jobs after Lublin and Feitelson, "The workload on parallel supercomputers: modeling the characteristics
of rigid jobs", JPDC 63(11), 2003. Sizes are two-stage uniform in their logarithm with powers of two favoured, run
times hyper-gamma in theirs and longer for larger jobs, gaps between arrivals gamma in theirs, over a daily cycle.

Parameters are the authors' for jobs of all types together. Departure: the day's shares are the density at each half
hour rather than differences of the distribution, and instants are stretched continuously over it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.arrivals import lublin_day, stretched
from myriarch.simulate.workload.tasks import Estimates, tasks_drawn

SERIAL: Final = 0.244
POWER_OF_TWO: Final = 0.576
SIZE_LOW: Final = 0.8
SIZE_BREAK_BELOW_HIGH: Final = 2.5
"""log2 of the largest size less log2 of the size where the two stages meet: 7 - 4.5."""
SIZE_FIRST_STAGE: Final = 0.86
SHORT_GAMMA: Final = (4.2, 0.94)
LONG_GAMMA: Final = (312.0, 0.03)
SHORT_SHARE: Final = (-0.0054, 0.78)
"""Slope by processors, and share of short jobs at none."""
LOG_RUN_MOST: Final = 12.0
"""e^12 s, 45 hours: longer ones are drawn again."""
ARRIVAL_GAMMA: Final = (10.2303 * 1.0225, 0.4871)
DAY_GAMMA: Final = (8.1737, 3.9631)


def lublin(
    jobs: int, *, devices: int, seed: int, load: float | None = None, estimates: Estimates = "usual"
) -> tuple[Task, ...]:
    """So many jobs for a machine of so many devices.

    load: device-seconds asked for over those there are, from the first submission to the last; arrivals are drawn
    closer or further apart for it. None: as the model has them.
    """
    if jobs < 1 or devices < 2:
        raise SpecError(f"{jobs} jobs for {devices} devices", hint="at least 1 job and 2 devices")
    draw = np.random.default_rng(seed)
    sizes = _sizes(draw, jobs, np.log2(devices))
    run_s = _run_s(draw, sizes)
    even_s = np.cumsum(np.exp(draw.gamma(*ARRIVAL_GAMMA, size=jobs)))
    if load is not None:
        even_s *= float(sizes @ run_s) / (load * devices * float(even_s[-1]))
    submit_s = stretched(even_s, lublin_day(*DAY_GAMMA))
    return tasks_drawn(submit_s=submit_s, run_s=run_s, devices=sizes, tenants=[""] * jobs, estimates=estimates)


def _sizes(draw: np.random.Generator, jobs: int, high: float) -> NDArray[np.int64]:
    middle = max(high - SIZE_BREAK_BELOW_HIGH, SIZE_LOW)
    first = draw.random(jobs) < SIZE_FIRST_STAGE
    logs = np.where(first, draw.uniform(SIZE_LOW, middle, jobs), draw.uniform(middle, high, jobs))
    kind = draw.random(jobs)
    logs = np.where(kind < SERIAL + POWER_OF_TWO, np.rint(logs), logs)
    return np.where(kind < SERIAL, 1, np.clip(np.rint(2.0**logs), 1, 2.0**high)).astype(np.int64)


def _run_s(draw: np.random.Generator, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    slope, share = SHORT_SHARE
    short = np.clip(slope * sizes + share, 0.0, 1.0)
    logs = np.full(len(sizes), np.inf)
    while (again := logs > LOG_RUN_MOST).any():
        count = int(again.sum())
        is_short = draw.random(count) < short[again]
        logs[again] = np.where(is_short, draw.gamma(*SHORT_GAMMA, size=count), draw.gamma(*LONG_GAMMA, size=count))
    run_s: NDArray[np.float64] = np.exp(logs)
    return run_s
