"""Deep-learning jobs after published aggregates of GPU clusters. Synthetic: no job of it ever ran.

Sizes: one device with a share of its own, else powers of two with shares that fall by a constant ratio, which is found
from the mean. Run times: log-normal, from mean and median. Arrivals: Poisson over a day with a peak in the afternoon.
Tenants: by a Zipf law. Sizes and run times are drawn independently; in real traces they are not independent.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.arrivals import stretched
from myriarch.simulate.workload.tasks import Estimates, tasks_drawn

DAY_SWING: Final = 0.5
"""Arrivals at the busiest hour over the mean, less one: a round number, no fit."""
BUSIEST_HOUR: Final = 16.0
BISECTIONS: Final = 60


class Mix(Value, frozen=True, kw_only=True):
    """What a cluster's GPU jobs are like."""

    source: str
    single_share: float
    """Share of jobs with one device."""
    devices_mean: float
    devices_most: int
    run_s_mean: float
    run_s_median: float
    tenants: int = 15


_ACME = "cluster_summary.csv of InternLM/AcmeTrace, commit 6d6ac9c, GPU jobs (Hu et al., NSDI'24)"
MIXES: Final = {
    "seren": Mix(
        source=_ACME,
        single_share=0.5,
        devices_mean=5.68,
        devices_most=1024,
        run_s_mean=1414.3,
        run_s_median=122.0,
    ),
    "kalos": Mix(
        source=_ACME,
        single_share=0.5,
        devices_mean=26.77,
        devices_most=1024,
        run_s_mean=1259.7,
        run_s_median=124.0,
    ),
    "helios": Mix(
        source=_ACME,
        single_share=0.5,
        devices_mean=3.716,
        devices_most=2048,
        run_s_mean=6651.7,
        run_s_median=206.0,
    ),
    "philly": Mix(
        source=f"{_ACME}; share of one GPU: 76,627 of the 82,247 jobs of siasosp23/artifacts philly.csv",
        single_share=0.9317,
        devices_mean=1.928,
        devices_most=128,
        run_s_mean=18006.1,
        run_s_median=874.0,
    ),
    "pai": Mix(
        source=f"{_ACME}, its row of Alibaba's PAI; sizes, which are parts of devices there: the 7,064 GPU pods of "
        "openb_pod_list_default.csv of alibaba/clusterdata, commit 7a6c496e, 6,989 of one device or a part of it",
        single_share=0.9894,
        devices_mean=1.0522,
        devices_most=8,
        run_s_mean=4787.1,
        run_s_median=480.7,
    ),
}
"""A median of one device says no more than that half of the jobs have one: there 0.5 is taken."""


def deep_learning(
    jobs: int, mix: Mix, *, devices: int, load: float, seed: int, estimates: Estimates = "usual"
) -> tuple[Task, ...]:
    """So many jobs that ask a fleet of so many devices for a share `load` of its device-seconds."""
    if jobs < 1 or devices < 1 or not load > 0:
        raise SpecError(f"{jobs} jobs on {devices} devices at load {load}", hint="all three must be above zero")
    draw = np.random.default_rng(seed)
    sizes = np.array([2**power for power in range(int(math.log2(min(mix.devices_most, devices))) + 1)])
    drawn = draw.choice(sizes, size=jobs, p=size_shares(mix, sizes))
    run_s = draw.lognormal(math.log(mix.run_s_median), run_sigma(mix), jobs)
    even_s = np.cumsum(draw.exponential(size=jobs))
    even_s *= float(drawn @ np.maximum(np.rint(run_s), 1.0)) / (load * devices * float(even_s[-1]))
    ranks = 1.0 / np.arange(1, mix.tenants + 1)
    tenants = draw.choice(mix.tenants, size=jobs, p=ranks / ranks.sum())
    return tasks_drawn(
        submit_s=stretched(even_s, _day()),
        run_s=run_s,
        devices=drawn,
        tenants=[f"tenant-{tenant}" for tenant in tenants.tolist()],
        estimates=estimates,
    )


def size_shares(mix: Mix, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares of the sizes 1, 2, 4, ...: their mean is the mix's, or as near as these sizes come."""
    if len(sizes) == 1:
        return np.ones(1)
    low, high = 1e-6, 4.0
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        if float(_shares(mix, sizes, ratio) @ sizes) < mix.devices_mean:
            low = ratio
        else:
            high = ratio
    return _shares(mix, sizes, low)


def run_sigma(mix: Mix) -> float:
    """Standard deviation of the logarithm: a log-normal's mean is its median times exp(sigma^2 / 2)."""
    return math.sqrt(2.0 * math.log(mix.run_s_mean / mix.run_s_median))


def _shares(mix: Mix, sizes: NDArray[np.int64], ratio: float) -> NDArray[np.float64]:
    rest = ratio ** np.arange(len(sizes) - 1)
    shares: NDArray[np.float64] = np.concatenate(([mix.single_share], (1.0 - mix.single_share) * rest / rest.sum()))
    return shares


def _day() -> NDArray[np.float64]:
    hours = np.arange(24) + 0.5
    day: NDArray[np.float64] = 1.0 + DAY_SWING * np.cos((hours - BUSIEST_HOUR) * (2 * math.pi / 24))
    return day
