"""Sia's applications: fitted profiles, speeds by kind and size, workloads."""

from __future__ import annotations

import math

import pytest

from myriarch.errors import SpecError
from myriarch.schedule.job import Job
from myriarch.schedule.placed import Placed
from myriarch.schedule.resizing import Resizing
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.workload.sia import REFERENCE, SiaWorkload, Tuning, profiles, read_sia, sia_workload

ROWS = """workload,name,time,application,num_replicas,batch_size
1,cifar10-1,528.0,cifar10,12,4096
1,imagenet-0,401.0,imagenet,14,3200
2,bert-0,10.0,bert,6,384
2,yolov3-1,20.0,yolov3,4,64
2,deepspeech2-2,30.0,deepspeech2,12,640
"""
"""Rows as they are in siasosp23/artifacts, with other instants."""
LIMITS = {"error": 0.30, "noise_scale_error": 0.025}
"""yolov3 on A100 is the worst: 29 %."""


def made(number: int, tuning: Tuning) -> SiaWorkload:
    return sia_workload(read_sia(ROWS.splitlines())[number], tuning=tuning)


def job_of(workload: SiaWorkload, name: str) -> Job:
    return next(task.job for task in workload.tasks if task.job.id == name)


def test_profiles_are_fitted_within_what_they_say() -> None:
    known = profiles()
    assert sum(layout.devices for layout in known.layouts) == 64
    for application in known.applications.values():
        assert application.noise_scale_error < LIMITS["noise_scale_error"]
        assert set(application.steps) == set(known.kinds)
        for step in application.steps.values():
            assert step.error < LIMITS["error"]
            assert step.measured > 80
            assert 1.0 <= step.gamma <= 10.0


def test_read_by_workload_in_order_of_submission() -> None:
    found = read_sia(ROWS.splitlines())
    assert {number: [row["name"] for row in rows] for number, rows in found.items()} == {
        1: ["imagenet-0", "cifar10-1"],
        2: ["bert-0", "yolov3-1", "deepspeech2-2"],
    }


@pytest.mark.parametrize(
    ("text", "culprit"),
    [("workload,name\n", "lacks `time`"), (ROWS.replace("imagenet,14", "gpt,14"), "trains `gpt`")],
)
def test_what_cannot_be_read_is_said(text: str, culprit: str) -> None:
    with pytest.raises(SpecError, match=culprit):
        read_sia(text.splitlines())


@pytest.mark.parametrize("tuning", ["rigid", "elastic"])
@pytest.mark.parametrize("number", [1, 2])
def test_work_is_counted_on_the_reference(number: int, tuning: Tuning) -> None:
    workload = made(number, tuning)
    for task in workload.tasks:
        assert workload.speeds(task.job, pool=REFERENCE, devices=task.job.devices) == pytest.approx(1.0)
        assert task.job.estimate_s == task.run_s
        assert task.job.elastic == bool(task.job.sizes) == (tuning == "elastic")


def test_a_rigid_job_has_one_size_and_gains_nothing_from_more() -> None:
    workload = made(1, "rigid")
    job = job_of(workload, "imagenet-0")
    assert workload.speeds(job, pool="a100", devices=13) == 0.0
    exact = workload.speeds(job, pool="a100", devices=14)
    assert exact > 1.0
    assert workload.speeds(job, pool="a100", devices=16) == exact
    assert workload.speeds(job, pool="a100", devices=24) == exact


def test_an_elastic_job_is_at_least_as_fast_as_at_its_users_batch() -> None:
    rigid, elastic = made(2, "rigid"), made(2, "elastic")
    for one, other in zip(rigid.tasks, elastic.tasks, strict=True):
        assert one.job.id == other.job.id
        assert other.run_s <= one.run_s * 1.06  # batches are tried on a grid of 50, and up to the validated most
    job = job_of(elastic, "yolov3-1")
    speeds = [elastic.speeds(job, pool="t4", devices=devices) for devices in (1, 2, 4)]
    assert speeds == sorted(speeds)
    assert elastic.speeds(job, pool="a100", devices=17) == 0.0  # there are 16


def test_a_whole_training_takes_as_many_iterations_as_in_the_profile() -> None:
    """imagenet at 12,800 takes 64 times fewer steps of 64 times the samples, and then some."""
    about = profiles().applications["imagenet"]
    needed = about.iterations * (about.noise_scale + 12_800) * 200 / (12_800 * (about.noise_scale + 200))
    assert 1.0 < needed / (about.iterations / 64) < 2.0
    rate = about.rate_per_s("a100", devices=16, nodes=2, batch=12_800.0)
    step = about.steps["a100"].iteration_s(16, nodes=2, samples=800.0, accumulated=0)
    assert math.isclose(about.iterations / rate, needed * step * about.slowdown)


def test_a_first_start_takes_as_long_on_many_devices_as_on_few() -> None:
    """Alone on the fleet, a job gets what is fastest at once: its start, and then its work at that speed."""
    workload = sia_workload(read_sia(ROWS.splitlines())[2][:1])
    task = workload.tasks[0]
    outcome = simulate_cluster(
        [task], Resizing(Placed(profiles().layouts), workload.speeds), speeds=workload.speeds, check=True
    )
    fastest = max(
        workload.speeds(task.job, pool=layout.name, devices=devices)
        for layout in profiles().layouts
        for devices in (task.job.devices, *task.job.sizes)
    )
    assert task.start_s == profiles().applications["bert"].restart_s == 120.0
    assert outcome.completion_s[0] == pytest.approx(120.0 + task.run_s / fastest)
