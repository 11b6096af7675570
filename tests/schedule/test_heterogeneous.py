"""Gavel's policies against references that share no code with them: duals, other formulations, other algorithms."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from myriarch.errors import SpecError
from myriarch.schedule.heterogeneous import (
    Allocation,
    Contender,
    Policy,
    agnostic,
    cheapest,
    finish_time,
    makespan,
    max_min,
)
from myriarch.schedule.rounds import Rounds

MEASURED: dict[str, dict[str, float]] = json.loads(
    (pathlib.Path(__file__).parent / "data" / "gavel_throughputs.json").read_text()
)["throughput_per_s"]
KINDS = ("k80", "p100", "v100")


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Contender], dict[str, int]]:
    devices = {kind: draw(st.integers(4, 12)) for kind in KINDS}
    names = draw(st.lists(st.sampled_from(sorted(MEASURED)), min_size=1, max_size=12))
    jobs = [
        Contender(
            job=f"{index:02d}",
            throughput_per_s=MEASURED[name],
            devices=draw(st.sampled_from((1, 1, 2, 4))),
            weight=float(draw(st.integers(1, 3))),
            steps_left=float(draw(st.integers(1_000, 1_000_000))),
            elapsed_s=float(draw(st.integers(0, 100_000))),
            alone_s=float(draw(st.integers(0, 100_000))),
        )
        for index, name in enumerate(names)
    ]
    return jobs, devices


class Matrices:
    """The allocation's polytope once more: A x <= b for x = X row by row."""

    def __init__(self, jobs: Sequence[Contender], devices: Mapping[str, int]) -> None:
        self.rates = np.array([[job.throughput_per_s[kind] for kind in KINDS] for job in jobs])
        self.scales = np.array([job.devices for job in jobs], dtype=float)
        count, kinds = len(jobs), len(KINDS)
        self.time = np.kron(np.eye(count), np.ones(kinds))
        self.room = np.kron(self.scales, np.eye(kinds))
        self.throughput = np.array([np.kron(np.eye(count)[m], self.rates[m]) for m in range(count)])
        self.A = np.vstack((self.time, self.room))
        self.b = np.concatenate((np.ones(count), [devices[kind] for kind in KINDS]))
        self.counts = self.b[count:]

    def feasible(self, least: Any) -> bool:
        """Whether every job can have at least so much throughput: minimise what is missing (a program with slack)."""
        n = self.A.shape[1]
        done = linprog(
            np.concatenate((np.zeros(n), [1.0])),
            A_ub=np.vstack(
                (
                    np.hstack((self.A, np.zeros((len(self.b), 1)))),
                    np.hstack((-self.throughput / least[:, None], -np.ones((len(least), 1)))),
                )
            ),
            b_ub=np.concatenate((self.b, -np.ones(len(least)))),
            bounds=[(0, None)] * (n + 1),
        )
        return bool(done.fun < 1e-9)


def is_allocation(found: Allocation, jobs: Sequence[Contender], devices: Mapping[str, int]) -> bool:
    shares = np.array([[found.shares[job.job][kind] for kind in KINDS] for job in jobs])
    flat = shares.ravel()
    polytope = Matrices(jobs, devices)
    return bool((flat >= 0).all() and (polytope.A @ flat <= polytope.b * (1 + 1e-7)).all())


@settings(max_examples=25)
@given(fleets())
def test_max_min_has_a_dual_of_the_same_value(case: tuple[list[Contender], dict[str, int]]) -> None:
    jobs, devices = case
    found = max_min(jobs, devices)
    assert is_allocation(found, jobs, devices)
    p = Matrices(jobs, devices)
    normal = p.rates @ (p.counts / p.counts.sum())
    a = p.rates * (p.scales / [job.weight for job in jobs] / normal)[:, None]
    count, kinds = a.shape
    # Dual: min sum(u) + counts q  with  sum(y) = 1,  u[m] + z[m] q[j] >= y[m] a[m,j]
    columns = count + kinds + count
    rows, right = [], []
    for m in range(count):
        for j in range(kinds):
            row = np.zeros(columns)
            row[m], row[count + j], row[count + kinds + m] = -1.0, -p.scales[m], a[m, j]
            rows.append(row)
            right.append(0.0)
    sums = np.concatenate((np.zeros(count + kinds), np.ones(count)))
    dual = linprog(
        np.concatenate((np.ones(count), p.counts, np.zeros(count))),
        A_ub=np.array(rows), b_ub=right, A_eq=sums[None, :], b_eq=[1.0],
    )  # fmt: skip
    assert found.objective == pytest.approx(dual.fun, rel=1e-6)
    reached = (np.array([[found.shares[job.job][kind] for kind in KINDS] for job in jobs]) * a).sum(axis=1)
    assert reached.min() == pytest.approx(found.objective, rel=1e-6)


@settings(max_examples=15)
@given(fleets())
def test_makespan_is_where_feasibility_ends(case: tuple[list[Contender], dict[str, int]]) -> None:
    jobs, devices = case
    found = makespan(jobs, devices)
    assert is_allocation(found, jobs, devices)
    polytope, steps = Matrices(jobs, devices), np.array([job.steps_left for job in jobs])
    assert polytope.feasible(steps / (found.objective * (1 + 1e-6)))
    assert not polytope.feasible(steps / (found.objective * (1 - 1e-6)))


@settings(max_examples=15)
@given(fleets())
def test_finish_time_is_where_feasibility_ends(case: tuple[list[Contender], dict[str, int]]) -> None:
    jobs, devices = case
    found = finish_time(jobs, devices)
    assert is_allocation(found, jobs, devices)
    polytope = Matrices(jobs, devices)
    steps, elapsed = np.array([job.steps_left for job in jobs]), np.array([job.elapsed_s for job in jobs])
    shares = polytope.counts / len(jobs) / polytope.scales[:, None]
    alone = (polytope.rates * shares / np.maximum(shares.sum(axis=1), 1.0)[:, None]).sum(axis=1)
    total = np.array([job.alone_s for job in jobs]) + steps / alone
    loose = found.objective * (1 + 1e-6) * total - elapsed
    tight = found.objective * (1 - 1e-6) * total - elapsed
    assert polytope.feasible(steps / loose)
    assert (tight <= 0).any() or not polytope.feasible(steps / tight)


@settings(max_examples=15)
@given(fleets())
def test_cheapest_equals_dinkelbachs_iteration(case: tuple[list[Contender], dict[str, int]]) -> None:
    """A ratio of linear functions N / D is greatest where the maximum of N - r D is 0 (Management Science 13, 1967)."""
    jobs, devices = case
    price = {"k80": 0.45, "p100": 1.46, "v100": 2.48}  # Google Cloud's, as in Gavel's section 7
    found = cheapest(jobs, devices, price_per_device_hour=price)
    assert is_allocation(found, jobs, devices)
    polytope = Matrices(jobs, devices)
    gain = polytope.throughput.sum(axis=0) * 3600.0
    spend = np.kron(polytope.scales, [price[kind] for kind in KINDS])
    ratio = 0.0
    for _ in range(50):
        x = linprog(-(gain - ratio * spend), A_ub=polytope.A, b_ub=polytope.b).x
        if not x.any() or gain @ x / (spend @ x) <= ratio * (1 + 1e-12):
            break
        ratio = gain @ x / (spend @ x)
    assert found.objective == pytest.approx(ratio, rel=1e-6)


def test_deadlines_bind_the_cheapest() -> None:
    slow = Contender(job="slow", throughput_per_s={"k80": 1.0, "v100": 2.0}, steps_left=3600.0, deadline_s=2400.0)
    price = {"k80": 1.0, "v100": 4.0}
    found = cheapest([slow], {"k80": 1, "v100": 1}, price_per_device_hour=price)
    # All the time is used, half of it on the fast kind: 1.5 steps/s, for 2.5 an hour.
    assert found.shares["slow"] == pytest.approx({"k80": 0.5, "v100": 0.5})
    assert found.objective == pytest.approx(1.5 * 3600 / 2.5)
    hurried = Contender(job="slow", throughput_per_s={"k80": 1.0}, steps_left=3600.0, deadline_s=2400.0)
    with pytest.raises(SpecError, match="deadlines of slow cannot all be met"):
        cheapest([hurried], {"k80": 1}, price_per_device_hour=price)


def test_everybody_is_better_off_than_on_an_even_mix() -> None:
    """Sharing incentive (section 4.4): of three jobs with unlike speed-ups, none loses by taking part."""
    jobs = [
        Contender(job="a", throughput_per_s={"v100": 40.0, "p100": 20.0, "k80": 10.0}),
        Contender(job="b", throughput_per_s={"v100": 12.0, "p100": 8.0, "k80": 4.0}),
        Contender(job="c", throughput_per_s={"v100": 100.0, "p100": 50.0, "k80": 10.0}),
    ]
    found = max_min(jobs, {"v100": 1, "p100": 1, "k80": 1})
    assert found.objective > 1.0


def test_aware_is_never_worse_for_the_least_than_agnostic() -> None:
    jobs = [Contender(job=name, throughput_per_s=MEASURED[name]) for name in sorted(MEASURED)]
    devices = {"k80": 8, "p100": 8, "v100": 8}
    aware, blind = max_min(jobs, devices), agnostic(jobs, devices)
    mix = {kind: devices[kind] / 24 for kind in devices}

    def least(found: Allocation) -> float:
        return min(
            sum(found.shares[job.job][kind] * rate for kind, rate in job.throughput_per_s.items())
            / sum(mix[kind] * rate for kind, rate in job.throughput_per_s.items())
            for job in jobs
        )

    assert least(aware) == pytest.approx(aware.objective, rel=1e-6)
    assert least(aware) > 1.05 * least(blind)


@pytest.mark.parametrize("policy", [max_min, makespan, finish_time])
def test_order_does_not_matter(policy: Policy) -> None:
    jobs = [Contender(job=name, throughput_per_s=MEASURED[name], steps_left=1e5) for name in sorted(MEASURED)]
    devices = {"k80": 2, "p100": 3, "v100": 4}
    assert policy(jobs, devices) == policy(jobs[::-1], dict(reversed(devices.items())))


def test_nothing_to_share() -> None:
    assert max_min([], {"v100": 1}).shares == {}
    with pytest.raises(SpecError, match="16 devices of none"):
        max_min([Contender(job="big", throughput_per_s={"v100": 1.0}, devices=16)], {"v100": 8})


@settings(max_examples=8)
@given(fleets())
def test_rounds_come_near_the_shares(case: tuple[list[Contender], dict[str, int]]) -> None:
    """Of jobs on one device each, every share is met to a few rounds; nobody gets two places, no kind too many jobs."""
    jobs, devices = case
    jobs = [Contender(job=job.job, throughput_per_s=job.throughput_per_s) for job in jobs]
    allocation = max_min(jobs, devices)
    wanted = {job.job: 1 for job in jobs}
    rounds, had = Rounds(), {(job.job, kind): 0 for job in jobs for kind in KINDS}
    count = 400
    for _ in range(count):
        turns = rounds.next(allocation, wanted=wanted, devices=devices)
        assert len({turn.job for turn in turns}) == len(turns)
        for kind in KINDS:
            assert sum(turn.devices for turn in turns if turn.kind == kind) <= devices[kind]
        for turn in turns:
            had[turn.job, turn.kind] += 1
        rounds.passed(turns, jobs=tuple(wanted), round_s=360.0)
        rounds.check()
    for (job, kind), number in had.items():
        assert number / count >= allocation.shares[job][kind] - 0.05
