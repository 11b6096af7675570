"""Run times learnt from past jobs: calibrated, better than the usual guesses, and blind to the future."""

from __future__ import annotations

import csv
import gzip
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.durations import Durations, Forecast
from myriarch.schedule.job import Job, JobId

MIRA = Path(__file__).parent.parent / "data" / "schedules" / "mira5k.csv.gz"
DAY_S = 86_400.0
HOUR_S = 3_600.0
Past = Sequence[tuple[Job, float]]


def mira() -> list[tuple[Job, float]]:
    """Jobs of Mira and how long they ran; the sample names no users."""
    with gzip.open(MIRA, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        (
            Job(
                id=JobId(row["id"]),
                submit_s=float(row["submit"]),
                devices=int(row["procs"]),
                estimate_s=float(row["est"]),
                kind="hpc",
            ),
            float(row["run"]),
        )
        for row in rows
    ]


def drawn(count: int, *, seed: int = 3) -> list[tuple[Job, float]]:
    """Users who each have a usual run time, and jobs about it."""
    random = np.random.default_rng(seed)
    usual = np.exp(random.normal(8.0, 1.5, size=12))
    jobs = []
    for index in range(count):
        user = int(random.integers(12))
        run_s = max(float(usual[user] * np.exp(random.normal(0, 0.5))), 1.0)
        job = Job(
            id=JobId(str(index)),
            submit_s=index * 600.0,
            devices=int(2 ** random.integers(4)),
            estimate_s=86_400.0,
            user=str(user),
        )
        jobs.append((job, run_s))
    return jobs


def played(durations: Durations, past: Past) -> Iterator[Forecast]:
    """Forecasts at submission, as if every job started at once."""
    ends: list[tuple[float, int, Job, float]] = []
    for index, (job, run_s) in enumerate(past):
        while ends and ends[0][0] <= job.submit_s:
            end_s, _, ended, ran_s = heapq.heappop(ends)
            durations.ended(ended, ran_s, now_s=end_s)
        yield durations.submitted(job, now_s=job.submit_s)
        heapq.heappush(ends, (job.submit_s + run_s, index, job, run_s))
    durations.check()


def log_errors(forecasts: Sequence[Forecast], past: Past) -> np.ndarray:
    return np.array([abs(np.log(each.p50_s / run_s)) for each, (_, run_s) in zip(forecasts, past, strict=True)])


def test_mira_weeks_that_were_never_learnt_from() -> None:
    past = mira()[:1200]
    forecasts = list(played(Durations(estimates=True), past))[600:]
    later = past[600:]
    run_s = np.array([each for _, each in later])
    asked = np.abs(np.log([job.estimate_s / run for job, run in later]))
    assert np.median(log_errors(forecasts, later)) < 0.8 * np.median(asked)
    assert 0.4 <= np.mean(run_s <= [each.p50_s for each in forecasts]) <= 0.6
    assert 0.8 <= np.mean(run_s <= [each.p90_s for each in forecasts]) <= 1.0
    assert 0.5 < sum(each.mean_s for each in forecasts) / run_s.sum() < 2


def test_means_where_a_queue_is_long() -> None:
    """What ends was submitted 250 jobs ago, and forecast by nobody's forest."""
    durations = Durations(estimates=False)
    past = drawn(800)
    expected_s = []
    for index, (job, _) in enumerate(past):
        if index >= 250:
            ended, ran_s = past[index - 250]
            durations.ended(ended, ran_s, now_s=job.submit_s)
        expected_s.append(durations.submitted(job, now_s=job.submit_s).mean_s)
    durations.check()
    assert 0.7 < sum(expected_s[620:]) / sum(run_s for _, run_s in past[620:]) < 1.5


def test_users_are_told_apart() -> None:
    past = drawn(800)
    forecasts = list(played(Durations(estimates=False), past))[500:]
    known = np.abs(np.random.default_rng(0).normal(0, 0.5, size=5000))
    """The noise that was drawn: nobody can be nearer."""
    assert np.median(log_errors(forecasts, past[500:])) < 1.35 * np.median(known)


def test_nothing_that_is_yet_to_come_is_looked_at() -> None:
    past = drawn(420)
    turned = past[:300] + [(job, run_s) for (job, _), (_, run_s) in zip(past[300:], past[:299:-1], strict=True)]
    assert [run_s for _, run_s in turned] != [run_s for _, run_s in past]
    one, two = (list(played(Durations(estimates=True), each)) for each in (past, turned))
    assert one[:301] == two[:301]
    assert one[301:] != two[301:]


def test_estimates_that_were_made_up_are_not_looked_at() -> None:
    past = drawn(260)
    told = [(msgspec.structs.replace(job, estimate_s=run_s), run_s) for job, run_s in past]
    assert list(played(Durations(estimates=False), past)) == list(played(Durations(estimates=False), told))


def test_a_forecast_stands_until_the_end() -> None:
    durations = Durations(estimates=True)
    *past, (last, _) = drawn(300)
    list(played(durations, past))
    forecast = durations.submitted(last, now_s=last.submit_s)
    assert forecast == durations.forecast(last, now_s=last.submit_s + DAY_S)
    assert forecast.p50_s < durations(last) < forecast.p90_s
    durations.dropped(last)
    durations.check()


def test_what_remains() -> None:
    durations = Durations(estimates=True)
    *past, (last, _) = drawn(300)
    list(played(durations, past))
    whole = durations.submitted(last, now_s=last.submit_s)
    fresh = durations.remaining(last, age_s=0.0, now_s=last.submit_s)
    assert fresh.p50_s == pytest.approx(whole.p50_s)
    late = durations.remaining(last, age_s=whole.p90_s, now_s=last.submit_s)
    assert 0 < late.p50_s <= late.p90_s
    over = durations.remaining(last, age_s=86_000.0, now_s=last.submit_s)
    assert over.p90_s <= 400.0, "nothing is left beyond the estimate"


def test_before_anything_is_known() -> None:
    job = Job(id=JobId("a"), submit_s=0.0, devices=8, estimate_s=2 * HOUR_S)
    asked = Durations(estimates=True).submitted(job, now_s=0.0)
    assert asked.p50_s == pytest.approx(HOUR_S, rel=0.1)
    assert asked.p50_s < asked.mean_s < asked.p90_s
    assert Durations(estimates=False).submitted(job, now_s=0.0).p50_s == pytest.approx(874.0, rel=0.1)
    with pytest.raises(SpecError, match="window_jobs"):
        Durations(estimates=True, window_jobs=10)


@settings(max_examples=20)
@given(runs_s=st.lists(st.floats(1.0, 5000.0), max_size=60), estimate_s=st.floats(10.0, 5000.0), asked=st.booleans())
def test_likely_run_times_are_those_of_the_forecast(runs_s: list[float], estimate_s: float, asked: bool) -> None:
    durations = Durations(estimates=asked)
    job = Job(id=JobId("new"), submit_s=1e6, devices=2, estimate_s=estimate_s)
    for index, run_s in enumerate(runs_s):
        past = Job(id=JobId(str(index)), submit_s=0.0, devices=2, estimate_s=5000.0)
        durations.ended(past, run_s, now_s=float(index))
    likely_s = durations.likely(job, now_s=1e6)
    mean_s = durations.forecast(job, now_s=1e6).mean_s
    assert len(likely_s) == 100
    assert np.all(np.diff(likely_s) >= 0)
    assert likely_s.mean() == pytest.approx(min(mean_s, estimate_s) if asked else mean_s)
    assert not asked or likely_s[-1] <= estimate_s
