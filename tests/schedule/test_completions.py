"""Our policy: rigid jobs by index, elastic ones by rounds that know who is nearly done."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.completions import Completions
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.lengths import Lengths
from myriarch.schedule.myriarch import myriarch
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

POOLS = [
    PoolLayout(name="fast", nodes=2, devices_per_node=4),
    PoolLayout(name="slow", nodes=2, devices_per_node=4),
]


class Root:
    """Speeds that grow with the square root of the devices, twice as high on the fast pool."""

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        return math.sqrt(devices / job.devices) * (2.0 if pool == "fast" else 1.0)


def told(job: Job) -> tuple[object, ...]:
    return (0, (1, job.estimate_s))


def tasks(
    count: int, *, seed: int, elastic: bool = True, preemptible: bool = True, every_s: float = 120.0
) -> list[Task]:
    draw = np.random.default_rng(seed)
    submit_s = np.cumsum(draw.exponential(every_s, count))
    run_s = draw.choice([100.0, 1000.0, 5000.0], count, p=[0.6, 0.3, 0.1])
    return [
        Task(
            job=Job(
                id=JobId(f"j{number}"),
                submit_s=float(submit_s[number]),
                devices=2,
                estimate_s=float(run_s[number]),
                sizes=(1, 4, 8) if elastic else (),
                elastic=elastic,
                preemptible=preemptible,
                restart_s=10.0,
            ),
            run_s=float(run_s[number]),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("elastic", [True, False])
@pytest.mark.parametrize("preemptible", [True, False])
def test_every_job_ends_and_nothing_is_taken_twice(elastic: bool, preemptible: bool) -> None:
    work = tasks(60, seed=1, elastic=elastic, preemptible=preemptible)
    outcome = simulate_cluster(work, myriarch(Placed(POOLS), speeds=Root()), speeds=Root(), check=True)
    assert outcome.completed.all()
    assert (np.asarray(outcome.columns.preemptions).sum() == 0) or preemptible


def test_short_jobs_first_lowers_the_mean_where_run_times_are_known() -> None:
    means = {}
    work = tasks(150, seed=2, every_s=50.0)
    for exponent in (0.0, 0.3):
        lengths = Lengths(keys=told)
        for task in tasks(300, seed=6):
            lengths.learn(task.job, task.run_s)
        machine = Completions(Placed(POOLS), lengths, speeds=Root(), exponent=exponent)
        means[exponent] = simulate_cluster(work, machine, speeds=Root()).completion_s.mean()
    assert means[0.3] < 0.98 * means[0.0]


def test_short_rigid_jobs_overtake_long_ones_beside_elastic_jobs_too() -> None:
    learned = Lengths(keys=told)
    for task in tasks(300, seed=6):
        learned.learn(task.job, task.run_s)
    work = tasks(30, seed=7, every_s=20.0)
    rigid = [msgspec.structs.replace(task.job, sizes=(), elastic=False) for task in tasks(30, seed=8, every_s=20.0)]
    both = [
        *(Task(job=task.job, run_s=task.run_s) for task in work),
        *(Task(job=msgspec.structs.replace(job, id=JobId(f"r{job.id}")), run_s=job.estimate_s) for job in rigid),
    ]
    both.sort(key=lambda task: task.job.submit_s)
    outcome = simulate_cluster(both, Completions(Placed(POOLS), learned, speeds=Root()), speeds=Root(), check=True)
    slowdown = outcome.completion_s / np.array([task.run_s for task in both])
    short = np.array([task.run_s == 100.0 for task in both])
    fixed = np.array([not task.job.sizes for task in both])
    assert slowdown[short & fixed].mean() < 2.0 * slowdown[short & ~fixed].mean()
    assert outcome.completion_s[short & fixed].mean() < 0.5 * outcome.completion_s[~short & fixed].mean()


def test_an_idle_fleet_gives_a_job_all_that_speeds_it_up() -> None:
    work = tasks(1, seed=3)
    outcome = simulate_cluster(work, myriarch(Placed(POOLS), speeds=Root()), speeds=Root())
    assert outcome.completion_s[0] == pytest.approx(work[0].run_s / 4.0)  # 8 of the fast ones: 2 sqrt(8 / 2)


def test_without_speeds_jobs_are_rigid_and_ranked() -> None:
    assert isinstance(myriarch(Placed(POOLS)), Ranked)
    outcome = simulate_cluster(tasks(60, seed=4, elastic=False), myriarch(Placed(POOLS)), check=True)
    assert outcome.completed.all()


def test_decisions_are_the_same_every_time() -> None:
    digests = {
        simulate_cluster(tasks(60, seed=5), myriarch(Placed(POOLS), speeds=Root()), speeds=Root()).digest
        for _ in range(2)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("bad", [{"round_s": 0.0}, {"exponent": 1.0}, {"exponent": -0.5}, {"guard_s": -1.0}])
def test_bad_parameters_are_said(bad: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="round_s"):
        Completions(Placed(POOLS), Lengths(), speeds=Root(), **bad)
