"""Traces in their original formats, and generators."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from myriarch.errors import SpecError, UsageError
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload import trace as trace_module
from myriarch.simulate.workload.arrivals import DAY_S, lublin_day, stretched
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning
from myriarch.simulate.workload.lublin import lublin
from myriarch.simulate.workload.reading import READERS, read_trace
from myriarch.simulate.workload.swf import header, read_swf
from myriarch.simulate.workload.tasks import tasks_of
from myriarch.simulate.workload.trace import Trace

FOLDER = Path(__file__).parent.parent / "data" / "traces"


def read(name: str) -> Trace:
    return read_trace(FOLDER / name)


def problems(trace: Trace) -> list[tuple[int, str]]:
    return [(one.line, one.kind) for one in trace.problems]


def test_swf() -> None:
    trace = read("sample.swf")
    assert [(job.id, job.submit_s, job.devices, job.run_s, job.estimate_s) for job in trace.jobs] == [
        ("8", 0.0, 2, 10.0, 60.0),
        ("1", 10.0, 8, 60.0, 120.0),
        ("2", 20.0, 4, 30.0, None),
    ]
    first = trace.jobs[1]
    assert (first.wait_s, first.user, first.tenant, first.kind, first.state) == (5.0, "3", "7", "2", "Completed")
    assert trace.jobs[2].wait_s is None
    assert problems(trace) == [
        (7, "did not run"),
        (8, "no devices"),
        (9, "missing field"),
        (10, "not a number"),
        (11, "repeated id"),
        (12, "negative time"),
    ]
    assert set(trace.problem_counts.values()) == {1}
    assert trace.origin == "90"


def test_swf_header() -> None:
    assert header((FOLDER / "sample.swf").read_text().splitlines())["MaxProcs"] == "128"


def test_compact() -> None:
    trace = read("compact.csv")
    assert [(job.devices, job.nodes, job.chip, job.tenant, job.run_s) for job in trace.jobs] == [
        (512, 512, "", "g1", 100.0),
        (8, None, "A100-40G", "g2", 50.5),
        (16, None, "", "", 50.0),
    ]
    assert trace.problem_counts == {"did not run": 1, "missing field": 1, "negative time": 1, "no devices": 1}


def test_philly() -> None:
    trace = read("philly.json")
    last, first = trace.jobs[1], trace.jobs[0]
    assert (first.id, first.submit_s, first.devices, first.run_s, first.wait_s) == ("application_4", 0.0, 1, 10.0, 1.0)
    assert (last.id, last.submit_s, last.devices, last.nodes) == ("application_1", 60.0, 4, 2)
    assert (last.run_s, last.wait_s, last.tenant, last.state) == (480.0, 30.0, "ee9e8c", "Pass")
    assert trace.problem_counts == {"did not run": 2, "missing field": 1}


def test_helios() -> None:
    trace = read("helios.csv")
    assert [(job.id, job.submit_s, job.devices, job.wait_s, job.tenant) for job in trace.jobs] == [
        ("11", 0.0, 1, 0.0, "vc1"),
        ("12", 26.0, 16, 60.0, "vc2"),
    ]
    assert trace.problem_counts == {"did not run": 1, "no devices": 1}


def test_acme() -> None:
    seren, kalos = read("seren.csv"), read("kalos.csv")
    assert [(job.devices, job.kind, job.run_s) for job in seren.jobs] == [
        (8, "Other", 117.0),
        (1024, "Pretrain", 2693.0),
    ]
    assert seren.jobs[1].submit_s == 336.0
    assert problems(seren) == [(4, "not a number")]
    assert [(job.id, job.devices, job.nodes) for job in kalos.jobs] == [("dlc1", 64, 8)]


def test_alibaba() -> None:
    openb, pai = read("openb.csv"), read("pai.csv")
    assert [(job.submit_s, job.devices, job.run_s, job.chip) for job in openb.jobs] == [
        (0.0, 8, 990.0, ""),
        (5.0, 1, 495.0, ""),
        (6.0, 1, 493.0, "V100M16|V100M32"),
    ]
    assert openb.problem_counts == {"did not run": 1, "no devices": 1}
    assert [(job.id, job.devices, job.run_s) for job in pai.jobs] == [
        ("job1/tensorflow", 1, 38.0),
        ("job2/worker", 12, 130.0),
        ("job4/worker", 2, 100.0),
    ]
    assert pai.problem_counts == {"did not run": 1, "no devices": 1}


def test_gzipped_and_named_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress((FOLDER / "sample.swf").read_bytes()))
    assert read_trace(path, kind="swf") == read("sample.swf")


def test_what_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match="no trace that is known"):
        read_trace(path)
    with pytest.raises(SpecError, match="lacks `job_id`"):
        read_trace(path, kind="helios")
    with pytest.raises(SpecError, match="no kind of trace"):
        read_trace(path, kind="swff")
    with pytest.raises(SpecError, match="not a `cluster_job_log`"):
        read_trace(path, kind="philly")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "absent")


@pytest.mark.parametrize("kind", READERS)
def test_an_empty_trace_has_no_jobs_or_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("")
    if kind in ("swf", "pai"):
        assert read_trace(path, kind=kind).jobs == ()
    else:
        with pytest.raises(SpecError):
            read_trace(path, kind=kind)


def test_problems_are_all_counted_and_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "PROBLEMS_KEPT", 2)
    trace = read_swf(["1 2 3\n"] * 5)
    assert len(trace.problems) == 2
    assert trace.problem_counts == {"missing field": 5}


def test_estimates() -> None:
    trace = read("sample.swf")
    assert [task.job.estimate_s for task in tasks_of(trace)] == [60.0, 120.0, 30.0]
    assert [task.job.estimate_s for task in tasks_of(trace, estimates="exact")] == [10.0, 60.0, 30.0]
    assert [task.job.estimate_s for task in tasks_of(trace, estimates="usual")] == [900.0, 900.0, 900.0]
    racks = tasks_of(trace, within=lambda job: "rack" if job.devices > 4 else "node")
    assert [task.job.within for task in racks] == ["node", "rack", "node"]


def columns(tasks: tuple[Task, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([task.job.submit_s for task in tasks]),
        np.array([task.job.devices for task in tasks]),
        np.array([task.run_s for task in tasks]),
    )


def test_lublin_is_like_the_authors_own_jobs() -> None:
    """Against 10,000 jobs of their program for 256 processors (DIR-LAB/deep-batch-scheduler): mean size 22.1, median 8;
    mean run 4,863 s, median 137 s; 771 s between arrivals."""
    submit_s, devices, run_s = columns(lublin(20_000, devices=256, seed=1))
    assert devices.mean() == pytest.approx(22.1, rel=0.06)
    assert np.median(devices) == 8
    assert run_s.mean() == pytest.approx(4863, rel=0.06)
    assert np.median(run_s) == pytest.approx(137, rel=0.15)
    assert submit_s[-1] / len(submit_s) == pytest.approx(771, rel=0.5), "its gaps have no finite variance to speak of"
    assert (np.diff(submit_s) >= 0).all()
    assert devices.max() == 256


def test_a_load_is_met() -> None:
    for tasks, fleet, wanted in (
        (lublin(5000, devices=256, seed=2, load=0.9), 256, 0.9),
        (deep_learning(20_000, MIXES["helios"], devices=256, load=0.7, seed=3), 256, 0.7),
    ):
        submit_s, devices, run_s = columns(tasks)
        load = float(devices @ run_s) / (fleet * submit_s[-1])
        assert load == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("name", MIXES)
def test_deep_learning_has_the_published_aggregates(name: str) -> None:
    mix = MIXES[name]
    _, devices, run_s = columns(deep_learning(40_000, mix, devices=4096, load=0.8, seed=4))
    assert devices.mean() == pytest.approx(mix.devices_mean, rel=0.06)
    assert (devices == 1).mean() == pytest.approx(mix.single_share, abs=0.01)
    assert devices.max() <= mix.devices_most
    assert np.median(run_s) == pytest.approx(mix.run_s_median, rel=0.05)
    assert run_s.mean() == pytest.approx(mix.run_s_mean, rel=0.15)


def test_a_seed_is_a_workload() -> None:
    assert lublin(50, devices=64, seed=7) == lublin(50, devices=64, seed=7)
    assert lublin(50, devices=64, seed=7) != lublin(50, devices=64, seed=8)
    with pytest.raises(SpecError):
        lublin(0, devices=64, seed=7)
    with pytest.raises(SpecError):
        deep_learning(5, MIXES["seren"], devices=8, load=0.0, seed=1)
    assert {task.job.devices for task in deep_learning(5, MIXES["kalos"], devices=1, load=1.0, seed=1)} == {1}


def test_days_are_stretched() -> None:
    day = lublin_day(8.1737, 3.9631)
    assert day.mean() == pytest.approx(1.0)
    assert int(day.argmax()) in range(26, 32), "early afternoon"
    assert int(day.argmin()) in range(12, 24), "the model's day begins at 11"
    even_s = np.linspace(0, 3 * DAY_S, 30_001)
    moved_s = stretched(even_s, day)
    assert (np.diff(moved_s) >= 0).all()
    assert moved_s[0] == 0.0
    assert moved_s[-1] == pytest.approx(3 * DAY_S)
    counted, _ = np.histogram(moved_s % DAY_S, bins=48, range=(0, DAY_S))
    assert np.allclose(counted / counted.mean(), day, atol=0.02)
