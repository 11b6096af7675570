"""Queue waits forecast: calibrated on what was never learnt from, under drift, and blind to the future."""

from __future__ import annotations

import csv
import gzip
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.waits import WaitForecast, Waits
from myriarch.schedule.waits_calibration import STEP, Tracker
from myriarch.schedule.waits_drain import Drain

FOLDER = Path(__file__).parent.parent / "data" / "schedules"


class Played(NamedTuple):
    job: Job
    start_s: float
    run_s: float


def schedule(name: str, column: str, count: int) -> list[Played]:
    with gzip.open(FOLDER / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))[:count]
    return [
        Played(
            Job(
                id=JobId(row["id"]),
                submit_s=float(row["submit"]),
                devices=int(row["procs"]),
                estimate_s=float(row["est"]),
            ),
            float(row[column]),
            float(row["run"]),
        )
        for row in rows
    ]


def happened(past: Sequence[Played]) -> list[tuple[float, int, int]]:
    """Instant, kind (0 submission, 1 end, 2 start), which."""
    events = []
    for index, each in enumerate(past):
        events += [(each.job.submit_s, 0, index), (each.start_s, 2, index), (each.start_s + each.run_s, 1, index)]
    return sorted(events)


def played(waits: Waits, past: Sequence[Played]) -> list[WaitForecast]:
    """Forecasts at submission."""
    found = []
    for now_s, kind, index in happened(past):
        job = past[index].job
        if kind == 0:
            found.append(waits.submitted(job, now_s=now_s))
        elif kind == 1:
            waits.ended(job, now_s=now_s)
        else:
            waits.started(job, now_s=now_s)
    waits.check()
    return found


def test_lublin_under_easy() -> None:
    past = schedule("lublin256", "easy", 1200)
    forecasts = played(Waits(devices=256), past)[500:]
    wait_s = np.array([each.start_s - each.job.submit_s for each in past])[500:]
    p50_s, p90_s = np.array([(each.p50_s, each.p90_s) for each in forecasts]).T
    assert 0.4 <= np.mean(wait_s <= p50_s) <= 0.6
    assert 0.8 <= np.mean(wait_s <= p90_s) <= 1.0
    assert np.all(p50_s <= p90_s)
    constant = np.abs(np.log1p(wait_s) - np.median(np.log1p(wait_s)))
    assert np.mean(np.abs(np.log1p(wait_s) - np.log1p(p50_s))) < 0.6 * np.mean(constant)


def test_nothing_that_is_yet_to_come_is_looked_at() -> None:
    past = schedule("lublin256", "easy", 330)
    known_s = past[249].job.submit_s
    later = [
        each._replace(start_s=max(each.start_s, known_s + 1.0) * 1.5, run_s=2 * each.run_s)
        if each.start_s > known_s
        else each._replace(run_s=2 * each.run_s if each.start_s + each.run_s > known_s else each.run_s)
        for each in past
    ]
    one, two = (played(Waits(devices=256), each) for each in (past, later))
    assert one[:250] == two[:250]
    assert one[250:] != two[250:]


def test_asking_changes_nothing() -> None:
    past = schedule("lublin256", "easy", 300)
    waits = Waits(devices=256, every_s=np.inf)
    played(waits, past)
    job = Job(id=JobId("new"), submit_s=1e9, devices=8, estimate_s=3600.0)
    asked = waits.forecast(job, now_s=1e9)
    assert asked == waits.forecast(job, now_s=1e9) == waits.submitted(job, now_s=1e9)
    assert asked.p50_s == asked.work_ahead_s == 0.0, "all is free"
    waits.dropped(job, now_s=1e9 + 5)
    waits.check()


def test_before_anything_is_known_there_is_the_work_ahead() -> None:
    waits = Waits(devices=4)
    first, second, third = (Job(id=JobId(str(index)), submit_s=0.0, devices=4, estimate_s=1000.0) for index in range(3))
    assert waits.submitted(first, now_s=0.0).p50_s == 0.0
    waits.started(first, now_s=0.0)
    waits.submitted(second, now_s=0.0)
    forecast = waits.submitted(third, now_s=400.0)
    assert forecast.work_ahead_s == pytest.approx(1600.0)
    assert forecast.learnt_from == 0
    assert forecast.p50_s == pytest.approx(1600.0, rel=0.05)
    assert forecast.p90_s > 2 * forecast.p50_s
    with pytest.raises(SpecError, match="devices: 0"):
        Waits(devices=0)


def test_a_preempted_job_waits_again() -> None:
    waits = Waits(devices=4)
    job = Job(id=JobId("a"), submit_s=0.0, devices=4, estimate_s=1000.0)
    waits.submitted(job, now_s=0.0)
    with pytest.raises(ValueError, match="waits already"):
        waits.submitted(job, now_s=0.0)
    waits.started(job, now_s=0.0)
    waits.ended(job, now_s=500.0)
    waits.submitted(job, now_s=500.0)
    waits.check()
    waits.started(job, now_s=9000.0)
    waits.check()
    assert waits.started_jobs == 2


@settings(max_examples=30)
@given(
    level=st.sampled_from((0.1, 0.5, 0.9)),
    drift=st.floats(-0.01, 0.01),
    seed=st.integers(0, 1000),
)
def test_offsets_keep_their_level_whatever_comes(level: float, drift: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    tracker = Tracker(level=level, floor=-np.inf)
    count, covered = 2000, 0
    for index in range(count):
        tracker.asked()
        exceeded = bool(random.normal() + drift * index > tracker.offset)
        tracker.came_out(exceeded=exceeded)
        covered += not exceeded
    # Every step adds STEP * level where exceeded, takes STEP * (1 - level) where not: the sum is the offset.
    assert covered / count == pytest.approx(level - tracker.offset / (STEP * count), abs=1e-9)
    assert tracker.open == 0
    assert abs(covered / count - level) < 0.05 + abs(drift) / STEP


def fifo(count: int, *, seed: int, load: float) -> list[Played]:
    """Jobs on 16 devices, served strictly in order."""
    random = np.random.default_rng(seed)
    devices, run_s = 2 ** random.integers(0, 4, count), random.lognormal(7.0, 1.0, count)
    submit_s = np.cumsum(random.exponential(float((devices * run_s).mean()) / 16 / load, count))
    past: list[Played] = []
    ends: list[tuple[float, int]] = []
    free, start_s = 16, 0.0
    for index in range(count):
        start_s = max(start_s, submit_s[index])
        while free < devices[index]:
            end_s, back = heapq.heappop(ends)
            start_s, free = max(start_s, end_s), free + back
        free -= int(devices[index])
        heapq.heappush(ends, (start_s + run_s[index], int(devices[index])))
        job = Job(id=JobId(str(index)), submit_s=submit_s[index], devices=int(devices[index]), estimate_s=1e5)
        past.append(Played(job, start_s, float(run_s[index])))
    return past


def test_with_the_true_run_times_a_queue_in_order_has_no_secret() -> None:
    past = fifo(120, seed=1, load=1.5)
    true_s = {each.job.id: each.run_s for each in past}
    drain = Drain(devices=16, common=0.0)
    for now_s, kind, index in happened(past):
        job = past[index].job
        if kind == 1:
            drain.ended(job)
        elif kind == 2:
            assert drain.started(job, now_s=now_s)
        else:
            wait_s = drain.waits(job, now_s=now_s)
            assert wait_s == pytest.approx(past[index].start_s - now_s, rel=1e-9, abs=1e-6)
            drain.submitted(job, run_s=np.array([true_s[job.id]]))
    drain.check()


def test_a_drained_queue_is_calibrated() -> None:
    """Over queues that have nothing to do with each other; jobs of one queue share its errors."""
    random = np.random.default_rng(3)
    run_s = np.sort(random.lognormal(7.0, 1.0, 100))
    below = []
    for _ in range(150):
        likely, known = Drain(devices=16, common=0.0), Drain(devices=16, common=0.0)
        for index, devices in enumerate((2 ** random.integers(0, 4, 25)).tolist()):
            job = Job(id=JobId(str(index)), submit_s=0.0, devices=devices, estimate_s=1e5)
            likely.submitted(job, run_s=run_s)
            known.submitted(job, run_s=random.choice(run_s, 1))
        last = Job(id=JobId("last"), submit_s=0.0, devices=16, estimate_s=1e5)
        below.append(known.waits(last, now_s=0.0)[0] <= np.quantile(likely.waits(last, now_s=0.0), (0.5, 0.9)))
    p50, p90 = np.mean(below, axis=0)
    assert p50 == pytest.approx(0.5, abs=0.1)
    assert p90 == pytest.approx(0.9, abs=0.08)


def test_an_overloaded_queue_in_order_is_drained_and_not_guessed() -> None:
    past = fifo(500, seed=2, load=1.3)
    run_s = np.sort([each.run_s for each in past])
    forecasts = played(Waits(devices=16, expected=lambda job: float(run_s.mean()), likely=lambda job: run_s), past)[
        250:
    ]
    wait_s = np.array([each.start_s - each.job.submit_s for each in past])[250:]
    p50_s, p90_s = np.array([(each.p50_s, each.p90_s) for each in forecasts]).T
    assert np.median(np.abs(np.log(wait_s / p50_s))) < 0.15
    assert np.mean(wait_s <= p90_s) > 0.8
    assert np.median(p90_s / p50_s) < 1.6
