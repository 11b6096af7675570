"""Preemptive, resizing and round-based schedulers on a fleet that breaks: all jobs end, no invariant gives way."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from myriarch.schedule.gavel_scheduler import Gavel
from myriarch.schedule.job import Job
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import LeastService, ShortestRemaining, UserMeans
from myriarch.schedule.resizing import Resizing
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.sparing import Sparing
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning

POOLS = (
    PoolLayout(name="a", nodes=8, devices_per_node=8, nodes_per_rack=4),
    PoolLayout(name="b", nodes=6, devices_per_node=4),
)


def speeds(job: Job, *, pool: str, devices: int) -> float:
    return (1.0 if pool == "a" else 0.6) * math.pow(devices / job.devices, 0.8)


def by_means() -> Ranked:
    means = UserMeans()
    return Ranked(Placed(POOLS), ShortestRemaining(means, learn=means.learn), speeds=speeds)


def tasks() -> list[Task]:
    changed = {"preemptible": True, "elastic": True, "save_s": 5.0, "restart_s": 20.0, "saves_every_s": 600.0}
    drawn = deep_learning(100, MIXES["seren"], devices=88, load=1.2, seed=4)
    return [
        Task(job=msgspec.structs.replace(task.job, sizes=(1, 2, 4, 8), **changed), run_s=min(task.run_s, 4e4))
        for task in drawn
        if task.job.devices <= 32
    ]


def breakdowns(end_s: float) -> list[Breakdown]:
    draw = np.random.default_rng(5)
    found = []
    for at_s in np.sort(draw.uniform(1000.0, end_s, 50)):
        pool = POOLS[int(draw.integers(2))]
        maintenance = bool(draw.random() < 0.3)
        found.append(
            Breakdown(
                at_s=float(at_s),
                pool=pool.name,
                node=int(draw.integers(pool.nodes)),
                cause="drawn",
                course="maintenance" if maintenance else "repair",
                duration_s=float(draw.exponential(3000.0)),
                announced_s=900.0 if maintenance else 0.0,
            )
        )
    return found


@pytest.mark.parametrize(
    "made",
    [
        by_means,
        lambda: Ranked(Placed(POOLS), LeastService(), speeds=speeds),
        lambda: Sparing(by_means(), failures_per_node_s=1e-5, repair_s=3000.0),
        lambda: Resizing(Placed(POOLS), speeds),
        lambda: Gavel(Placed(POOLS), speeds=speeds),
    ],
    ids=["means", "service", "sparing", "resizing", "gavel"],
)
def test_every_job_ends_whatever_breaks(made: Callable[[], Scheduler]) -> None:
    workload = tasks()
    broken = breakdowns(workload[-1].job.submit_s)
    outcome = simulate_cluster(workload, made(), speeds=speeds, breakdowns=broken, check=True)
    assert outcome.unfinished == 0
    again = simulate_cluster(workload, made(), speeds=speeds, breakdowns=broken)
    assert again.digest == outcome.digest
