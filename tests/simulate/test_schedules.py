"""Whole schedules, job by job, against a reference simulator (`tests/data/schedules`)."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from myriarch.schedule.conservative import Conservative
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.queueing import Task, simulate_queue

FOLDER = Path(__file__).parent.parent / "data" / "schedules"
POLICIES: dict[str, Callable[[Counted], Scheduler]] = {
    "fcfs": InOrder,
    "easy": Easy,
    "easy_sjbf": lambda machine: Easy(machine, shortest_first=True),
    "conservative": Conservative,
}


class Known(NamedTuple):
    tasks: list[Task]
    start_s: dict[str, np.ndarray]


def known(name: str) -> Known:
    if not (FOLDER / f"{name}.csv.gz").exists():
        pytest.skip("a source distribution leaves out what may not be used for profit: see NOTICE")
    with gzip.open(FOLDER / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    tasks = [
        Task(
            job=Job(
                id=JobId(row["id"]),
                submit_s=float(row["submit"]),
                devices=int(row["procs"]),
                estimate_s=float(row["est"]),
            ),
            run_s=float(row["run"]),
        )
        for row in rows
    ]
    columns = [name for name in rows[0] if name in POLICIES]
    return Known(tasks, {name: np.array([float(row[name]) for row in rows]) for name in columns})


@pytest.mark.parametrize(
    ("name", "policy", "devices", "wait_s", "slowdown"),
    [
        ("sdsc5k", "fcfs", 128, 15711.537, 254.131),
        ("sdsc5k", "easy", 128, 3372.912, 17.142),
        ("sdsc5k", "conservative", 128, 3558.031, 16.6107),
        ("sdsc5k", "easy_sjbf", 128, 3524.691, 17.2920),
        ("lublin256", "easy", 256, 97155.995, 590.0538),
        ("lublin256", "conservative", 256, 131567.509, 489.2013),
    ],
)
def test_every_job_starts_when_it_does_there(
    name: str, policy: str, devices: int, wait_s: float, slowdown: float
) -> None:
    tasks, starts = known(name)
    scheduler = POLICIES[policy](Counted(devices))
    outcome = simulate_queue(tasks, scheduler)
    scheduler.check()
    assert int((outcome.start_s != starts[policy]).sum()) == 0
    summary = outcome.summary()
    assert summary is not None
    assert summary.wait_s_mean == pytest.approx(wait_s, abs=1e-3)
    assert summary.slowdown_mean == pytest.approx(slowdown, abs=1e-3)


@pytest.mark.parametrize("policy", ["fcfs", "easy"])
def test_a_machine_of_49152_nodes(policy: str) -> None:
    """The first jobs start as they do in the whole trace, up to the submission of the first one left out."""
    tasks, starts = known("mira5k")
    outcome = simulate_queue(tasks, POLICIES[policy](Counted(49_152)))
    comparable = starts[policy] < tasks[-1].job.submit_s
    assert comparable.sum() > 2000
    assert int((outcome.start_s != starts[policy])[comparable].sum()) == 0
