"""Jobs of a cluster where large language models are made, after Acme's published aggregates. Synthetic: none ever ran.

Hu et al., "Characterization of Large Language Model Development in the Datacenter", NSDI 2024, publish for each of two
clusters the number of GPU jobs, mean and median run time, mean and median devices, and for completed, cancelled and
failed jobs their share of jobs and of GPU-time: `cluster_summary.csv` of InternLM/AcmeTrace, commit 6d6ac9c, CC-BY-4.0.
319 completed jobs of Kalos were re-published with sizes and times (hyunnnchoi/AcmeTrace, commit 30f09c6, CC-BY-4.0).

Jobs are of two classes, small (1 to 8 devices: evaluation, debugging) and large (16 to 1,024: training). `fitted` finds
shares and run times that meet all those aggregates at once:

    large jobs       as many as the mean size asks for; their sizes are those of Kalos' completed large jobs
    large run times  log-normal with Kalos' spread, cut at the longest run; completed and cancelled ones alike, failed
                     ones shorter (`FAILED_FACTOR`), as long as the GPU-time of each state asks for
    small run times  log-normal through what is left of the mean, and the median

So size, run time and state depend on each other, as they do in the real traces and not in `deep_learning`.

Drawn times are stratified: the n run times of a class and state lie one in each n-th of their distribution, so that
the load of a short workload is that of the cluster and not that of its one longest job. Who gets which depends on the
user: a share `USER_VARIANCE` of the variance is between users.

Not published, and therefore assumed: the sizes of small jobs, how many submit how much (Zipf), how many jobs a user
submits at once.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.arrivals import WEEK_S, stretched, week
from myriarch.simulate.workload.tasks import Estimates, told_s

Floats = NDArray[np.float64]
State = Literal["completed", "cancelled", "failed"]
STATES: Final[tuple[State, ...]] = ("completed", "cancelled", "failed")

LARGE_SIZES: Final = {16: 11, 32: 14, 64: 22, 128: 6, 256: 54, 512: 84, 1024: 39}
"""The 230 of Kalos' 319 completed jobs with 16 devices or more, by the nearest power of two."""
LARGE_SIGMA: Final = 2.784
"""Standard deviation of the logarithm of their run times."""
FAILED_FACTOR: Final = 0.12
"""Mean run time of large failed jobs over that of completed ones. Kalos: 230 completed large jobs have 98.6 % of the
GPU-time of all completed ones; with cancelled ones as long, so many failed ones are left for the mean size that each
has this share."""
SMALL_SIZES: Final = {1: 0.75, 2: 0.1, 4: 0.05, 8: 0.1}
"""Assumed; the published median of all sizes is 1."""
USER_VARIANCE: Final = 0.37
"""Share of the variance of the logarithm of run time that lies between users: ALCF Mira 2018, 160 users."""
USERS: Final = {"small": 60, "large": 12}
"""Assumed. User k submits in proportion to 1 / k."""
TENANTS: Final = 8
"""Assumed. User k is of tenant k mod 8."""
BURST: Final = 8.0
"""Assumed: small jobs that a user submits at once, geometric with this mean (the checkpoints of a training are
evaluated on many data sets)."""
ROUNDS: Final = 60
"""Of the fixed point: each round shrinks the error by about ten."""


class Summary(Value, frozen=True, kw_only=True):
    """What is published of a cluster's GPU jobs."""

    jobs: int
    devices: int
    """GPUs of the cluster (NSDI'24, table 1)."""
    devices_mean: float
    run_s_mean: float
    run_s_median: float
    run_s_most: float
    state_shares: dict[State, float]
    """Of jobs."""
    state_device_s: dict[State, float]


SUMMARIES: Final = {
    "seren": Summary(
        jobs=663_813,
        devices=2288,
        devices_mean=5.68,
        run_s_mean=1414.335,
        run_s_median=122.0,
        run_s_most=1_209_604.0,
        state_shares={"completed": 0.497, "cancelled": 0.075, "failed": 0.429},
        state_device_s={"completed": 4_560_592_618.0, "cancelled": 14_274_584_510.0, "failed": 2_675_447_459.0},
    ),
    "kalos": Summary(
        jobs=19_907,
        devices=2416,
        devices_mean=26.77,
        run_s_mean=1259.689,
        run_s_median=124.0,
        run_s_most=625_740.0,
        state_shares={"completed": 0.541, "cancelled": 0.062, "failed": 0.397},
        state_device_s={"completed": 1_667_685_146.0, "cancelled": 3_239_202_064.0, "failed": 426_292_851.0},
    ),
}


class Mix(Value, frozen=True, kw_only=True):
    """What is drawn from."""

    summary: Summary
    large_shares: dict[State, float]
    """Of all jobs."""
    large_median_s: dict[State, float]
    """Of the log-normal that is cut at the longest run."""
    small_median_s: float
    small_sigma: float


def fitted(summary: Summary) -> Mix:
    """The mix that meets a cluster's aggregates."""
    large, small = mean(LARGE_SIZES), mean(SMALL_SIZES)
    share = (summary.devices_mean - small) / (large - small)
    factors: dict[State, float] = {"completed": 1.0, "cancelled": 1.0, "failed": FAILED_FACTOR}
    shares, run_s, small_s = dict.fromkeys(STATES, share / 3), 0.0, summary.run_s_median
    for _ in range(ROUNDS):
        # Device-seconds by job and state that small jobs leave for large ones.
        wanted = {
            state: max(
                summary.state_device_s[state] / summary.jobs
                - (summary.state_shares[state] - shares[state]) * small * small_s,
                0.0,
            )
            for state in STATES
        }
        run_s = sum(wanted[state] / factors[state] for state in STATES) / (share * large)
        shares = {state: wanted[state] / (factors[state] * run_s * large) for state in STATES}
        small_s = (summary.run_s_mean - sum(shares[state] * factors[state] * run_s for state in STATES)) / (1 - share)
    medians = {state: _cut_median_s(factors[state] * run_s, LARGE_SIGMA, summary.run_s_most) for state in STATES}
    median_s = _small_median_s(summary, shares, medians)
    return Mix(
        summary=summary,
        large_shares=shares,
        large_median_s=medians,
        small_median_s=median_s,
        small_sigma=math.sqrt(2.0 * math.log(small_s / median_s)),
    )


def acme(
    jobs: int,
    cluster: str = "kalos",
    *,
    seed: int,
    devices: int | None = None,
    load: float | None = None,
    estimates: Estimates = "usual",
) -> tuple[Task, ...]:
    """So many jobs of Acme's `kalos` or `seren`.

    devices, load: arrivals are spaced so that jobs ask for the share `load` of so many devices. devices None: those of
    the cluster; load None: 0.55. Jobs larger than the fleet are made as large as the fleet.
    """
    if cluster not in SUMMARIES:
        raise SpecError(f"`{cluster}` is no cluster of Acme's", hint=f"use {' or '.join(SUMMARIES)}")
    fleet, load = devices or SUMMARIES[cluster].devices, 0.55 if load is None else load
    if jobs < 1 or fleet < 1 or not load > 0:
        raise SpecError(f"{jobs} jobs on {fleet} devices at load {load}", hint="all three must be above zero")
    mix = fitted(SUMMARIES[cluster])
    draw = {
        name: np.random.default_rng(stream)
        for name, stream in zip(
            ("kind", "size", "run", "user", "arrival"), np.random.SeedSequence(seed).spawn(5), strict=True
        )
    }
    is_large, state = _kinds(draw["kind"], jobs, mix)
    sizes = np.minimum(_sizes(draw["size"], is_large), fleet)
    groups, user = _submissions(draw["user"], is_large)
    run_s = np.maximum(np.rint(_run_s(draw["run"], is_large, state, user, groups, mix)), 1.0)
    even_s = np.cumsum(draw["arrival"].exponential(size=int(groups[-1]) + 1))
    even_s *= float(sizes @ run_s) / (load * fleet * float(even_s[-1]))
    submit_s = np.floor(stretched(even_s, week(), period_s=WEEK_S))[groups]
    columns = zip(submit_s.tolist(), run_s.tolist(), sizes.tolist(), is_large.tolist(), user.tolist(), strict=True)
    return tuple(
        Task(
            job=Job(
                id=JobId(str(number)),
                submit_s=at_s,
                devices=size,
                estimate_s=told_s(ran_s, None, estimates),
                kind="gang" if large else "experiment",
                tenant=f"tenant-{who % TENANTS}",
                user=f"{'trainer' if large else 'tester'}-{who}",
            ),
            run_s=ran_s,
        )
        for number, (at_s, ran_s, size, large, who) in enumerate(columns, start=1)
    )


def mean(sizes: dict[int, float] | dict[int, int]) -> float:
    """Of sizes with these weights."""
    return sum(size * weight for size, weight in sizes.items()) / sum(sizes.values())


def cut_mean_s(median_s: float, sigma: float, most_s: float) -> float:
    """Mean of a log-normal of which nothing exceeds `most_s`: longer ones are that long."""
    mu, top = math.log(median_s), math.log(most_s)
    below = math.exp(mu + sigma**2 / 2) * float(ndtr((top - mu) / sigma - sigma))
    return below + most_s * float(ndtr((mu - top) / sigma))


def _cut_median_s(mean_s: float, sigma: float, most_s: float) -> float:
    low, high = 1e-3, mean_s
    for _ in range(ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cut_mean_s(middle, sigma, most_s) < mean_s else (low, middle)
    return low


def _small_median_s(summary: Summary, shares: dict[State, float], medians: dict[State, float]) -> float:
    """The median of small jobs with which half of all jobs are below the published one."""
    mean_s = summary.run_s_mean
    large = sum(shares.values())
    below = sum(
        shares[state] * float(ndtr(math.log(summary.run_s_median / medians[state]) / LARGE_SIGMA)) for state in STATES
    )
    quantile = float(ndtri((0.5 - below) / (1 - large)))
    small_s = (mean_s - sum(shares[s] * cut_mean_s(medians[s], LARGE_SIGMA, summary.run_s_most) for s in STATES)) / (
        1 - large
    )
    # ln m + sigma q = ln(published), and sigma^2 / 2 = ln(mean / m): a quadratic in sigma.
    gap = math.log(small_s / summary.run_s_median)
    sigma = -quantile + math.sqrt(quantile**2 + 2.0 * gap)
    return small_s / math.exp(sigma**2 / 2)


def _kinds(draw: np.random.Generator, jobs: int, mix: Mix) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Class and state of each job; as many of each as their shares say, in random order."""
    large = np.array([mix.large_shares[state] for state in STATES])
    small = np.array([mix.summary.state_shares[state] for state in STATES]) - large
    edges = np.rint(np.cumsum(np.concatenate((large, small))) / (large.sum() + small.sum()) * jobs).astype(np.int64)
    cells = np.repeat(np.arange(6), np.diff(edges, prepend=0))
    draw.shuffle(cells)
    return cells < 3, cells % 3


def _sizes(draw: np.random.Generator, is_large: NDArray[np.bool_]) -> NDArray[np.int64]:
    sizes = np.zeros(len(is_large), dtype=np.int64)
    for which, table in ((is_large, LARGE_SIZES), (~is_large, SMALL_SIZES)):
        places = np.flatnonzero(which)
        weights = np.array(list(table.values()), dtype=np.float64)
        edges = np.rint(np.cumsum(weights) / weights.sum() * len(places)).astype(np.int64)
        sizes[draw.permutation(places)] = np.repeat(list(table), np.diff(edges, prepend=0))
    return sizes


def _submissions(draw: np.random.Generator, is_large: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of each job's submission, ascending, and its user. A small job joins the one before it in a burst."""
    jobs = len(is_large)
    joins = draw.random(jobs) < 1.0 - 1.0 / BURST
    joins[0] = False
    joins[1:] &= ~is_large[1:] & ~is_large[:-1]
    groups = np.cumsum(~joins) - 1
    firsts = np.flatnonzero(~joins)
    user = np.zeros(jobs, dtype=np.int64)
    for name, which in (("large", is_large), ("small", ~is_large)):
        weights = 1.0 / np.arange(1, USERS[name] + 1)
        chosen = draw.choice(USERS[name], size=len(firsts), p=weights / weights.sum())
        user[which] = chosen[groups[which]]
    return groups, user


def _run_s(
    draw: np.random.Generator,
    is_large: NDArray[np.bool_],
    state: NDArray[np.int64],
    user: NDArray[np.int64],
    groups: NDArray[np.int64],
    mix: Mix,
) -> Floats:
    """By rank of a normal number that a user's jobs have partly in common."""
    common = {True: draw.standard_normal(USERS["large"]), False: draw.standard_normal(USERS["small"])}
    own = draw.standard_normal(len(user))
    jitter = draw.random(len(user))
    run_s = np.zeros(len(user))
    for large in (True, False):
        for index, name in enumerate(STATES):
            which = np.flatnonzero((is_large == large) & (state == index))
            if not len(which):
                continue
            score = math.sqrt(USER_VARIANCE) * common[large][user[which]] + math.sqrt(1 - USER_VARIANCE) * own[which]
            ranks = np.argsort(np.argsort(score, kind="stable"), kind="stable")
            normal = ndtri((ranks + jitter[which]) / len(which))
            median_s, sigma = (
                (mix.large_median_s[name], LARGE_SIGMA) if large else (mix.small_median_s, mix.small_sigma)
            )
            run_s[which] = np.minimum(median_s * np.exp(sigma * normal), mix.summary.run_s_most)
    return run_s
