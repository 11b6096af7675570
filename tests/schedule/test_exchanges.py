"""Exchanges: what fits, never worse than steps or the present, the same every time."""

from __future__ import annotations

import numpy as np

from myriarch.schedule.exchanges import CROWD, Options, exchanged, needs, stepped

KINDS = {"fast": 0, "slow": 1}
DEVICES = np.array([8.0, 16.0])


def drawn(count: int, *, seed: int) -> list[Options]:
    """Jobs of four sizes on either kind, with speed-ups like k^p."""
    draw = np.random.default_rng(seed)
    configurations = [(kind, size) for kind in KINDS for size in (1, 2, 4, 8)]
    jobs = []
    for _ in range(count):
        power, ratio = draw.choice([0.5, 0.8]), draw.choice([1.0, 3.0])
        speeds = [size**power * (ratio if kind == "fast" else 1.0) for kind, size in configurations]
        jobs.append(Options(np.array([0.0, *speeds]) * -draw.choice([1.0, 2.0]), needs(configurations, KINDS)))
    return jobs


def total(jobs: list[Options], chosen: list[int]) -> float:
    used = np.sum([job.needs[at] for job, at in zip(jobs, chosen, strict=True)], axis=0)
    assert (used <= DEVICES).all()
    return float(sum(job.costs[at] for job, at in zip(jobs, chosen, strict=True)))


def test_never_worse_than_steps_from_nothing_for_a_crowd() -> None:
    for seed in range(4):
        jobs = drawn(CROWD + 8, seed=seed)
        nothing = [0] * len(jobs)
        found = exchanged(jobs, present=nothing, devices=DEVICES)
        assert total(jobs, found) <= total(jobs, stepped(jobs, present=nothing, devices=DEVICES)) + 1e-9
        assert found == exchanged(jobs, present=nothing, devices=DEVICES)


def test_what_cannot_be_bettered_stays() -> None:
    jobs = drawn(6, seed=1)
    found = exchanged(jobs, present=[0] * 6, devices=DEVICES)
    assert exchanged(jobs, present=found, devices=DEVICES) == found


def test_where_devices_are_gone_all_begin_with_nothing() -> None:
    jobs = drawn(3, seed=2)
    everything = [4, 4, 8]  # eight of the fast ones twice, and there are eight
    assert total(jobs, exchanged(jobs, present=everything, devices=DEVICES)) < 0


def test_nobody_asks() -> None:
    assert exchanged([], present=[], devices=DEVICES) == []
