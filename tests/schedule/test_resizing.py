"""Elastic jobs on unlike pools: the fast solver against Sia's program, and whole runs: all jobs end, none is lost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Resize, Start
from myriarch.schedule.elastic import Configuration, Elastic, choose
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.resizing import Resizing, by_exchanges, objective
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task

POOLS = (
    PoolLayout(name="fast", nodes=2, devices_per_node=4),
    PoolLayout(name="slow", nodes=4, devices_per_node=4, nodes_per_rack=2),
)


def speeds(job: Job, *, pool: str, devices: int) -> float:
    """Diminishing returns; the fast pool is three times the slow one. Speed 1: what was asked for, on the slow pool."""
    return (3.0 if pool == "fast" else 1.0) * math.pow(devices / job.devices, 0.7)


def task(number: int, *, at_s: float, run_s: float, devices: int = 4, elastic: bool = True) -> Task:
    job = Job(
        id=JobId(f"{number:03d}"),
        submit_s=at_s,
        devices=devices,
        estimate_s=run_s,
        sizes=(1, 2, 4, 8),
        elastic=elastic,
        preemptible=elastic,
        save_s=5.0,
        restart_s=10.0,
        saves_every_s=60.0,
    )
    return Task(job=job, run_s=run_s)


def elastics(count: int, draw: st.DrawFn) -> list[Elastic]:
    jobs = []
    for number in range(count):
        power = draw(st.sampled_from([0.5, 0.8, 1.0]))
        ratio = draw(st.sampled_from([1.0, 2.0, 4.0]))
        configurations = tuple(
            Configuration(kind=kind, devices=size, goodput=factor * float(size**power))
            for kind, factor in (("fast", ratio), ("slow", 1.0))
            for size in (1, 2, 4, 8)
        )
        present = draw(st.one_of(st.none(), st.integers(0, 7)))
        jobs.append(
            Elastic(
                job=f"{number}",
                configurations=configurations,
                present=present,
                age_s=draw(st.sampled_from([100.0, 3600.0])),
                restarts=draw(st.integers(0, 2)),
                restart_s=30.0,
            )
        )
    return jobs


@given(st.data(), st.integers(1, 10))
@settings(max_examples=12, deadline=None)
def test_exchanges_fit_and_are_nearly_as_good_as_the_program(data: st.DataObject, count: int) -> None:
    jobs = data.draw(st.composite(lambda draw: elastics(count, draw))())
    devices = {"fast": 8, "slow": 16}
    found, best = by_exchanges(jobs, devices=devices), choose(jobs, devices=devices)
    for kind, most in devices.items():
        held = [one.configuration.devices for one in found if one.configuration and one.configuration.kind == kind]
        assert sum(held) <= most
    assert objective(jobs, best) <= objective(jobs, found) + 1e-6
    assert objective(jobs, found) <= 1.25 * objective(jobs, best) + 1e-9


@pytest.mark.parametrize("solver", ["program", "marginal"])
def test_one_job_gets_the_best_and_shares_when_another_comes(solver: str) -> None:
    decisions: list[Decision] = []
    tasks = [task(1, at_s=0.0, run_s=4000.0), task(2, at_s=500.0, run_s=4000.0)]
    scheduler = Resizing(Placed(POOLS[:1]), speeds, solver=solver)  # type: ignore[arg-type]
    outcome = simulate_cluster(tasks, scheduler, speeds=speeds, observe=decisions.append, check=True)
    assert outcome.unfinished == 0
    first = decisions[0]
    assert isinstance(first, Start)
    assert first.placement.devices == 8, "all of the pool, while nobody else is there"
    shrunk = next(one for one in decisions if isinstance(one, Resize))
    assert (shrunk.job, shrunk.placement.devices) == ("001", 4)
    assert "a restart leaves" in shrunk.reason


@given(
    st.lists(
        st.tuples(st.floats(0.0, 600.0), st.floats(10.0, 3000.0), st.sampled_from([1, 2, 4, 8, 16]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=10, deadline=None)
def test_every_job_ends_and_nothing_is_given_out_twice(drawn: list[tuple[float, float, int, bool]]) -> None:
    """The simulator asserts the machine's invariants after every event."""
    tasks = [
        task(number, at_s=at_s, run_s=run_s, devices=devices, elastic=elastic)
        for number, (at_s, run_s, devices, elastic) in enumerate(sorted(drawn))
    ]
    resized: list[Decision] = []
    outcome = simulate_cluster(
        tasks, Resizing(Placed(POOLS), speeds), speeds=speeds, observe=resized.append, check=True
    )
    assert outcome.unfinished == 0
    rigid = {one.job.id for one in tasks if not one.job.elastic}
    assert not [one for one in resized if isinstance(one, Resize) and one.job in rigid]


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match="fairness"):
        Resizing(Placed(POOLS), speeds, fairness=0.5)
    with pytest.raises(SpecError, match="round_s"):
        Resizing(Placed(POOLS), speeds, round_s=-math.inf)
