"""Forecasts in worlds that nobody planned for: sane, whatever is told, and whenever."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.durations import Durations
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.waits import WaitForecast, Waits


def job_at(number: int, *, devices: int = 1, submit_s: float = 0.0, estimate_s: float = 3600.0) -> Job:
    return Job(id=JobId(str(number)), submit_s=submit_s, devices=devices, estimate_s=estimate_s)


def assert_sane(forecast: WaitForecast) -> None:
    assert 0.0 <= forecast.p50_s <= forecast.p90_s < math.inf
    assert 0.0 <= forecast.work_ahead_s < math.inf


def watched(durations: Durations, *, devices: int) -> Waits:
    return Waits(
        devices=devices,
        expected=lambda job: durations.forecast(job, now_s=job.submit_s).mean_s,
        likely=lambda job: durations.likely(job, now_s=job.submit_s),
    )


@settings(max_examples=40)
@given(
    told=st.lists(
        st.tuples(
            st.sampled_from(("submitted", "started", "ended", "dropped", "resized")),
            st.integers(0, 6),
            st.floats(-1e4, 1e6),
        ),
        max_size=60,
    )
)
def test_whatever_is_told_in_whatever_order(told: list[tuple[str, int, float]]) -> None:
    """Clocks that go back, ends of jobs that were never seen, jobs larger than what is left of the pool."""
    waits = Waits(devices=8)
    there: set[int] = set()
    for word, number, now_s in told:
        job = job_at(number, devices=2**number, submit_s=now_s, estimate_s=10.0**number)
        if word == "resized":
            waits.resized(number + 1, now_s=now_s)
        elif word == "submitted":
            if number in there:
                with pytest.raises(ValueError, match="already"):
                    waits.submitted(job, now_s=now_s)
                continue
            there.add(number)
            assert_sane(waits.submitted(job, now_s=now_s))
        elif word == "started":
            if not waits.running(job):
                there.add(number)
                waits.started(job, now_s=now_s)
        else:
            action: Callable[..., None] = waits.ended if word == "ended" else waits.dropped
            gone = waits.running(job) if word == "ended" else not waits.running(job)
            there -= {number} if gone else set()
            action(job, now_s=now_s)
        waits.check()
        assert_sane(waits.forecast(job_at(99, devices=9), now_s=now_s))


def test_jobs_that_are_all_alike() -> None:
    """One device, one run time, in order: all is known after the first few, and learnt from 250."""
    durations = Durations(estimates=False)
    waits = watched(durations, devices=1)
    jobs = [job_at(number, submit_s=500.0 * number) for number in range(250)]
    for number, job in enumerate(jobs):
        durations.submitted(job, now_s=job.submit_s)
        forecast = waits.submitted(job, now_s=job.submit_s)
        assert_sane(forecast)
        start_s = max(job.submit_s, 0.0)
        waits.started(job, now_s=start_s)
        waits.ended(job, now_s=start_s + 400.0)
        durations.ended(job, 400.0, now_s=start_s + 400.0)
        if number > 220:
            said = durations.forecast(jobs[0], now_s=job.submit_s)
            assert said.p50_s == pytest.approx(400.0, rel=0.05)
            assert said.p90_s < 450.0
            assert forecast.p90_s == 0.0, "the device was free, every time"
    durations.check()
    waits.check()


def test_a_burst_on_a_fleet_that_shrinks_and_jobs_that_never_end() -> None:
    durations = Durations(estimates=True)
    waits = watched(durations, devices=64)
    burst = [job_at(number, devices=1 + number % 4) for number in range(1000)]
    forecasts = [waits.submitted(job, now_s=0.0) for job in burst]
    for job in burst[:25]:
        waits.started(job, now_s=0.0)
    waits.resized(16, now_s=60.0)
    later = waits.forecast(job_at(5000), now_s=60.0)
    waits.resized(640, now_s=120.0)
    sooner = waits.forecast(job_at(5000), now_s=120.0)
    for forecast in (*forecasts, later, sooner):
        assert_sane(forecast)
    assert forecasts[0].p50_s == 0.0 < forecasts[-1].p50_s
    assert sooner.p50_s < forecasts[-1].p50_s < later.p50_s
    for days in (1, 10, 1000):
        assert_sane(waits.forecast(job_at(5000, devices=64), now_s=days * 86_400.0))
    assert_sane(waits.submitted(job_at(5000, devices=10_000), now_s=1e8))
    waits.check()
    durations.check()
    with pytest.raises(SpecError, match="devices: 0"):
        waits.resized(0, now_s=1e8)


def test_run_times_of_nothing_at_all() -> None:
    """Records with zeros in them, and clocks that go back."""
    durations = Durations(estimates=False)
    for number in range(60):
        job = job_at(number, submit_s=100.0 * (number % 7))
        durations.submitted(job, now_s=job.submit_s)
        durations.ended(job, 0.0 if number % 2 else -5.0, now_s=50.0)
    said = durations.forecast(job_at(99), now_s=0.0)
    assert 0.0 <= said.p50_s <= said.p90_s < math.inf
    assert 0.0 <= said.mean_s < math.inf
    assert np.isfinite(durations.likely(job_at(99), now_s=0.0)).all()
    durations.check()
