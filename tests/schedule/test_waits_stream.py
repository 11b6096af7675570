"""A queue seen through its stream: told at each submission what was known then, and those that wait what is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ShortestRemaining
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.stream import Entry, Recorder, read
from myriarch.schedule.waits import WaitForecast
from myriarch.schedule.waits_stream import Watch, left
from myriarch.simulate.queueing import simulate_queue
from myriarch.simulate.workload.lublin import lublin

DEVICES = 64
JOBS = 215
"""Just enough to learn from."""


def recorded(scheduler: Scheduler, *, jobs: int) -> tuple[Entry, ...]:
    data = bytearray()
    recorder = Recorder(scheduler, data.extend)
    simulate_queue(lublin(jobs, devices=DEVICES, seed=3, load=0.9), recorder)
    recorder.close()
    return read(bytes(data))


@pytest.fixture(scope="module")
def stream() -> tuple[Entry, ...]:
    return recorded(Easy(Counted(DEVICES)), jobs=JOBS)


def watch(entries: tuple[Entry, ...]) -> Watch:
    made = Watch(devices=DEVICES, estimates=False)
    for entry in entries:
        made.hear(entry)
    made.check()
    return made


@pytest.fixture(scope="module")
def whole(stream: tuple[Entry, ...]) -> Watch:
    return watch(stream)


def test_it_sees_what_the_scheduler_did(stream: tuple[Entry, ...], whole: Watch) -> None:
    starts = {entry.start.job: entry.start.at_s for entry in stream if entry.start is not None}
    came = [entry.submitted.job for entry in stream if entry.submitted is not None]
    assert [one.job for one in whole.told] == [job.id for job in came]
    assert [one.wait_s for one in whole.told] == [starts[job.id] - job.submit_s for job in came]
    assert (whole.running, whole.waiting(now_s=whole.now_s), whole.started_jobs) == (0, (), JOBS)
    assert [one.learnt_from > 0 for one in whole.told] == sorted(one.learnt_from > 0 for one in whole.told)
    assert whole.told[-1].learnt_from >= 200


def test_nothing_that_comes_later_is_looked_at_and_asking_changes_nothing(
    stream: tuple[Entry, ...], whole: Watch
) -> None:
    queued = np.cumsum([(entry.submitted is not None) - int(entry.start is not None) for entry in stream])
    cut = int(np.flatnonzero(queued[len(stream) // 2 :] > 2)[0]) + len(stream) // 2 + 1
    part = watch(stream[:cut])
    for early, late in zip(part.told, whole.told, strict=False):
        assert (early.job, early.p50_s, early.p90_s) == (late.job, late.p50_s, late.p90_s)
        assert early.wait_s in (None, late.wait_s)
    waiting = part.waiting(now_s=part.now_s)
    assert {one.job for one in waiting} == {one.job for one in part.told if one.wait_s is None}
    assert [one.waited_s for one in waiting] == sorted((one.waited_s for one in waiting), reverse=True)
    assert all(0.0 <= one.p50_s <= one.p90_s for one in waiting)
    job = Job(id=JobId("new"), submit_s=part.now_s, devices=8, estimate_s=3600.0, tenant="t", user="u")
    assert part.forecast(job, now_s=part.now_s) == part.forecast(job, now_s=part.now_s)
    part.check()
    for entry in stream[cut:]:
        part.hear(entry)
    assert part.told == whole.told
    here = next(entry.submitted.job for entry in stream if entry.submitted is not None)
    with pytest.raises(ValueError, match="is here already"):
        watch(stream[:3]).forecast(here, now_s=here.submit_s)


def test_who_is_stopped_waits_again_and_who_is_refused_or_leaves_was_told_nothing() -> None:
    data = bytearray()
    scheduler = Ranked(
        Placed([PoolLayout(name="p", nodes=1, devices_per_node=8)]), ShortestRemaining(lambda job: job.estimate_s)
    )
    recorder = Recorder(scheduler, data.extend)

    def job(name: str, at_s: float, devices: int, estimate_s: float) -> None:
        wanted = Job(id=JobId(name), submit_s=at_s, devices=devices, estimate_s=estimate_s, preemptible=True)
        recorder.submit(wanted, now_s=at_s)

    job("long", 0.0, 8, 1e6)
    job("large", 5.0, 9, 10.0)
    job("short", 10_000.0, 8, 60.0)
    entries = read(bytes(data), growing=True)
    assert [entry.preempt.job for entry in entries if entry.preempt is not None] == ["long"]
    made = Watch(devices=8, estimates=True)
    for entry in entries:
        made.hear(entry)
    made.check()
    (again,) = made.waiting(now_s=10_030.0)
    assert (again.job, again.waited_s) == ("long", 30.0)
    assert [(one.job, one.wait_s) for one in made.told] == [("long", 0.0), ("short", 0.0)]
    assert made.running == 1
    recorder.end(JobId("short"), now_s=10_060.0)
    for entry in read(bytes(data), growing=True)[len(entries) :]:
        made.hear(entry)
    made.check()
    assert (made.running, made.waiting(now_s=10_060.0)) == (1, ())


def said(p50_s: float, p90_s: float) -> WaitForecast:
    return WaitForecast(p50_s=p50_s, p90_s=p90_s, work_ahead_s=0.0, learnt_from=0)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e7))
def test_what_is_left_of_a_forecast(p50_s: float, more_s: float, waited_s: float) -> None:
    half, tenth = left(said(p50_s, p50_s + more_s), waited_s=waited_s)
    assert 0.0 <= half <= tenth
    if waited_s == 0.0 and p50_s >= 1.0:
        assert (half, tenth) == pytest.approx((p50_s, p50_s + more_s))
    if waited_s >= max(p50_s + more_s, 1.0):
        assert (half, tenth) == pytest.approx((waited_s, 9 * waited_s)), "another t with probability one half"


def test_what_is_left_is_the_part_of_the_distribution_beyond() -> None:
    """Against counting: waits drawn from the distribution that `left` reads."""
    share = (np.arange(200_000) + 0.5) / 200_000
    p50_s, p90_s = 100.0, 1000.0
    wait_s = np.interp(share, [0.0, 0.5, 0.9], [0.0, p50_s, p90_s])
    wait_s = np.where(share > 0.9, 0.1 * p90_s / (1.0 - share), wait_s)
    for waited_s in (0.0, 50.0, 99.0, 300.0, 999.0, 5000.0):
        longer_s = wait_s[wait_s > waited_s] - waited_s
        assert left(said(p50_s, p90_s), waited_s=waited_s) == pytest.approx(np.quantile(longer_s, [0.5, 0.9]), rel=0.01)
