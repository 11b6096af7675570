"""Goodput by its formulas; Sia's program and marginal resizing against every assignment there is."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.elastic import UNPLACED, Configuration, Elastic, choose, node_configurations, resize
from myriarch.schedule.goodput import Learning, StepTime, best_setting

STEP = StepTime(
    alpha_grad_s=0.01, beta_grad_s=0.001, alpha_local_s=0.02, beta_local_s=0.001, alpha_node_s=0.08, beta_node_s=0.004
)


def test_a_step_by_the_papers_formulas() -> None:
    assert STEP.iteration_s(1, nodes=1, samples=100, accumulated=0) == pytest.approx(0.11)
    assert STEP.iteration_s(4, nodes=1, samples=100, accumulated=2) == pytest.approx(2 * 0.11 + 0.11 + 0.02 + 0.002)
    assert STEP.iteration_s(4, nodes=2, samples=100, accumulated=0) == pytest.approx(0.11 + 0.08 + 0.008)


@given(st.floats(1, 10), st.integers(2, 64), st.floats(1, 1e4))
def test_overlap_lies_between_the_longer_and_the_sum(gamma: float, devices: int, samples: float) -> None:
    step = StepTime(alpha_grad_s=0.01, beta_grad_s=0.001, alpha_node_s=0.08, beta_node_s=0.004, gamma=gamma)
    grad, sync = step.grad_s(samples), step.sync_s(devices, nodes=2)
    seconds = step.iteration_s(devices, nodes=2, samples=samples, accumulated=0)
    assert max(grad, sync) * (1 - 1e-12) <= seconds <= (grad + sync) * (1 + 1e-12)


@given(st.floats(1, 1e6), st.floats(1, 1e5), st.floats(1, 100))
def test_efficiency_is_one_at_the_users_batch_and_never_more_beyond(noise: float, batch: float, times: float) -> None:
    learning = Learning(batch=batch, noise_scale=noise, batch_most=batch * times, samples_most=batch)
    assert learning.efficiency(batch) == pytest.approx(1.0)
    assert 1 / times - 1e-9 <= learning.efficiency(batch * times) <= 1 + 1e-9


def test_a_noisier_gradient_takes_a_larger_batch() -> None:
    """The paper's point: the best batch grows with devices and, as training converges, with the noise scale."""

    def batch(noise: float, devices: int) -> float:
        learning = Learning(batch=128, noise_scale=noise, batch_most=8192, samples_most=512)
        return best_setting(STEP, learning, devices=devices, nodes=1 + (devices > 4)).batch

    assert batch(100.0, 4) < batch(1000.0, 4) < batch(10000.0, 4)
    assert batch(1000.0, 1) < batch(1000.0, 4) < batch(1000.0, 16)


def test_more_devices_than_samples() -> None:
    learning = Learning(batch=8, noise_scale=10, batch_most=16, samples_most=8)
    with pytest.raises(SpecError, match="32 devices for a batch of at most 16"):
        best_setting(STEP, learning, devices=32, nodes=4)


def test_sias_sizes() -> None:
    assert node_configurations(devices=24, devices_per_node=8) == (1, 2, 4, 8, 16, 24)
    assert node_configurations(devices=3, devices_per_node=4) == (1, 2)


KINDS = {"a": 4, "b": 2}


@st.composite
def elastics(draw: st.DrawFn) -> list[Elastic]:
    jobs = []
    for index in range(draw(st.integers(1, 4))):
        configurations = tuple(
            Configuration(kind=kind, devices=size, goodput=float(draw(st.integers(1, 20))))
            for kind, most in KINDS.items()
            for size in (1, 2, 4)
            if size <= most and draw(st.booleans())
        ) or (Configuration(kind="a", devices=1, goodput=1.0),)
        jobs.append(
            Elastic(
                job=f"job-{index}",
                configurations=configurations,
                present=draw(st.none() | st.integers(0, len(configurations) - 1)),
                age_s=float(draw(st.integers(0, 1000))),
                restarts=draw(st.integers(0, 3)),
                restart_s=60.0,
            )
        )
    return jobs


def cost(job: Elastic, chosen: int | None) -> float:
    """Of one job in Sia's objective, written out once more."""
    if chosen is None:
        return UNPLACED
    factor = 1.0
    if chosen != job.present and job.present is not None and job.age_s >= job.restart_s:
        factor = max((job.age_s - job.restarts * job.restart_s) / (job.age_s + job.restart_s), 1e-6)
    least = min(each.goodput for each in job.configurations)
    return 1 / math.sqrt(factor * job.configurations[chosen].goodput / least)


@settings(max_examples=40)
@given(elastics())
def test_sias_program_finds_the_least(jobs: list[Elastic]) -> None:
    best = math.inf
    for chosen in itertools.product(*([None, *range(len(job.configurations))] for job in jobs)):
        used = dict.fromkeys(KINDS, 0)
        for job, index in zip(jobs, chosen, strict=True):
            if index is not None:
                used[job.configurations[index].kind] += job.configurations[index].devices
        if all(used[kind] <= KINDS[kind] for kind in KINDS):
            best = min(best, sum(cost(job, index) for job, index in zip(jobs, chosen, strict=True)))
    found = choose(jobs, devices=KINDS)
    indices = [
        None if one.configuration is None else job.configurations.index(one.configuration)
        for job, one in zip(jobs, found, strict=True)
    ]
    assert sum(cost(job, index) for job, index in zip(jobs, indices, strict=True)) == pytest.approx(best)


def test_a_restart_that_costs_more_than_it_brings_is_not_made() -> None:
    sizes = (Configuration(kind="a", devices=1, goodput=10.0), Configuration(kind="a", devices=2, goodput=11.0))
    young = Elastic(job="j", configurations=sizes, present=0, age_s=300.0, restart_s=100.0)
    old = Elastic(job="j", configurations=sizes, present=0, age_s=300_000.0, restart_s=100.0)
    assert choose([young], devices=KINDS)[0].reason == "keeps 1 a at 10"
    assert choose([old], devices=KINDS)[0].configuration == sizes[1]


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), max_size=6), min_size=1),
    st.integers(0, 12),
    st.booleans(),
)
def test_marginal_resizing(gains: dict[str, list[int]], devices: int, concave: bool) -> None:
    """Falling gains: the optimum. Any gains: never over the bound, and the optimum never over it either."""
    speedups = {
        job: [0.0, *itertools.accumulate(float(gain) for gain in (sorted(part, reverse=True) if concave else part))]
        for job, part in gains.items()
    }
    best = max(
        sum(speedups[job][k] for job, k in zip(speedups, counts, strict=True))
        for counts in itertools.product(*(range(len(values)) for values in speedups.values()))
        if sum(counts) <= devices
    )
    found = resize(speedups, devices=devices)
    assert sum(found.devices.values()) <= devices
    assert sum(speedups[job][k] for job, k in found.devices.items()) == pytest.approx(found.value)
    assert found.value <= best + 1e-9
    assert best <= found.bound + 1e-9
    if concave:
        assert found.value == pytest.approx(best)
