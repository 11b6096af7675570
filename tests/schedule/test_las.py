"""Tiresias' discretised LAS: the paper's example, falling and rising between queues, no device given out twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.las import LeastAttained


def job(name: str, devices: int) -> Job:
    return Job(id=JobId(name), submit_s=0.0, devices=devices, estimate_s=math.inf)


def completions(
    machine: LeastAttained, runs: dict[str, tuple[int, float]], *, devices: int, quantum_s: float
) -> dict[str, float]:
    """Play it: a job is done when it has run so long. A decision each quantum, and when somebody ends."""
    for name, (needed, _) in runs.items():
        machine.submit(job(name, needed), now_s=0.0)
    left = {name: run_s for name, (_, run_s) in runs.items()}
    done: dict[str, float] = {}
    now_s = 0.0
    while left:
        sharing = machine.decide(now_s=now_s, devices=devices)
        machine.check()
        now_s += quantum_s
        for name in sharing.running:
            left[name] -= quantum_s
        for name in [each for each in left if left[each] <= 1e-9]:
            machine.end(JobId(name), now_s=now_s)
            done[name] = now_s
            del left[name]
    return done


def test_the_papers_example_of_three_jobs() -> None:
    """Tiresias' illustration of LAS on two devices, jobs of (devices, time) (2, 2), (1, 8), (2, 6): mean completion
    11.7; SRSF, which knows the times, has 9.3."""
    machine = LeastAttained(thresholds=tuple(float(step) for step in range(1, 20)))
    runs = {"J1": (2, 2.0), "J2": (1, 8.0), "J3": (2, 6.0)}
    done = completions(machine, runs, devices=2, quantum_s=1.0)
    assert done == {"J1": 5.0, "J2": 14.0, "J3": 16.0}
    assert sum(done.values()) / 3 == pytest.approx(11.7, abs=0.05)


def test_a_job_falls_when_its_service_passes_a_threshold() -> None:
    machine = LeastAttained(thresholds=(100.0,))
    machine.submit(job("long", 4), now_s=0.0)
    first = machine.decide(now_s=0.0, devices=4)
    assert first.started == ("long",)
    assert first.next_s == 25.0  # 100 device-seconds of four devices
    machine.submit(job("new", 4), now_s=10.0)
    assert machine.decide(now_s=10.0, devices=4).preempted == ()  # the same queue: no preemption
    fallen = machine.decide(now_s=25.0, devices=4)
    assert fallen.preempted == ("long",)
    assert fallen.started == ("new",)
    assert fallen.moved[0].reason == "100 device-seconds of service passed 100: queue 1"


def test_a_starving_job_comes_back() -> None:
    machine = LeastAttained(thresholds=(100.0,), starve_factor=2.0)
    machine.submit(job("old", 1), now_s=0.0)
    machine.decide(now_s=0.0, devices=1)
    machine.submit(job("a", 1), now_s=0.0)
    machine.decide(now_s=100.0, devices=1)  # old falls, a runs
    machine.end(JobId("a"), now_s=150.0)
    machine.submit(job("b", 1), now_s=150.0)
    machine.decide(now_s=150.0, devices=1)
    machine.end(JobId("b"), now_s=240.0)
    machine.submit(job("c", 1), now_s=240.0)
    waiting = machine.decide(now_s=240.0, devices=1)
    assert waiting.running == ("c",)
    assert waiting.next_s == pytest.approx(300.0, abs=0.01)
    machine.submit(job("d", 1), now_s=301.0)
    back = machine.decide(now_s=301.0, devices=1)
    assert [move.queue for move in back.moved if move.job == "old"] == [0]
    assert back.running == ("old",)  # first started of the first queue


@settings(max_examples=30)
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 8), st.integers(1, 12)), min_size=1),
    st.integers(8, 12),
)
def test_everybody_ends_and_no_work_waits_for_idle_devices(runs: dict[str, tuple[int, int]], devices: int) -> None:
    machine = LeastAttained(thresholds=(4.0, 16.0))
    jobs = {name: (needed, float(run_s)) for name, (needed, run_s) in runs.items()}
    done = completions(machine, jobs, devices=devices, quantum_s=1.0)
    assert set(done) == set(runs)
    # At every instant at least one job runs: the first that fits an empty fleet.
    assert max(done.values()) <= sum(run_s for _, run_s in jobs.values())


def test_thresholds_rise() -> None:
    with pytest.raises(SpecError, match="do not rise"):
        LeastAttained(thresholds=(10.0, 10.0))
    with pytest.raises(SpecError, match="promote everybody"):
        LeastAttained(starve_factor=0.0)
