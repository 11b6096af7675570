"""Shares of unlike devices for jobs that each run at their own rate on each kind: Gavel's policies.

Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads", OSDI 2020
(arXiv:2008.09213). With `T[m,j]` the throughput of job m on kind j, `z[m]` its devices, `n[j]` the devices of a kind,
an allocation `X[m,j]` is the share of time that m spends on j (section 3.1):

    X >= 0      sum over j of X[m,j] <= 1      sum over m of z[m] X[m,j] <= n[j]
    throughput(m, X) = sum over j of T[m,j] X[m,j]

and every policy is an objective over it (section 4):

    max-min      maximise the least of  z[m] / w[m] * throughput(m, X) / throughput(m, X_equal)
    makespan     minimise the greatest of  steps[m] / throughput(m, X)
    cost         maximise  sum of throughput(m, X) / sum of price[j] z[m] X[m,j],  deadlines as rows
    finish time  minimise the greatest of  (elapsed[m] + steps[m] / throughput(m, X)) / time alone on 1/n of the devices

`X_equal` gives everybody time on every kind in proportion to its devices. Where an objective leaves a choice, the
allocation with the largest sum of normalised throughputs is taken, so that nothing idles for want of an objective.
Objectives are those of Gavel's public code, which multiplies max-min by z; space sharing (two jobs on one device) is
left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.calendar import Floats
from myriarch.schedule.program import Program

FINISH_TOLERANCE: Final = 1e-10
"""Relative: an iteration of finish-time fairness that brings no more than this is the last."""


class Contender(Value, frozen=True, kw_only=True):
    """A job that competes for devices."""

    job: str
    throughput_per_s: dict[str, float]
    """Steps by the second with all its devices, by kind; a kind that is missing cannot run it."""
    devices: int = 1
    weight: float = 1.0
    """Of max-min: twice the weight is worth twice the share."""
    steps_left: float = 0.0
    elapsed_s: float = 0.0
    """Since it came."""
    alone_s: float = 0.0
    """Of its finished steps: how long they would have taken alone on 1/n of the devices, n as it was then."""
    deadline_s: float | None = None
    """From now; of the cost policy."""
    alike: int = 1
    """So many jobs, this one and others that differ in nothing but their names: max-min gives them equal shares, so
    that one entry stands for all. Of `max_min` and `agnostic` alone; other policies tell jobs apart."""


class Allocation(Value, frozen=True, kw_only=True):
    """Shares of time by job and kind, and what they achieve."""

    shares: dict[str, dict[str, float]]
    objective: float
    """In the policy's own unit: a normalised throughput, seconds, steps for the money, or a ratio of times."""

    def share(self, job: str) -> float:
        """Of the time in which the job runs at all."""
        return math.fsum(self.shares[job].values())


@dataclasses.dataclass(frozen=True)
class _Table:
    """Contenders and kinds as arrays, both in the order of their names."""

    jobs: tuple[Contender, ...]
    kinds: tuple[str, ...]
    rates: Floats
    """[job, kind]"""
    scales: Floats
    counts: Floats

    @classmethod
    def of(cls, contenders: Sequence[Contender], devices: Mapping[str, int]) -> _Table:
        jobs = tuple(sorted(contenders, key=lambda each: each.job))
        kinds = tuple(sorted(devices))
        for job in jobs:
            able = [kind for kind in kinds if job.throughput_per_s.get(kind, 0.0) > 0 and devices[kind] > 0]
            if not able or job.devices > max(devices[kind] for kind in able):
                wanted = f"{job.job} runs on {job.devices} devices of none of {', '.join(kinds)}"
                raise SpecError(f"{wanted}; leave it out, or add some")
            if job.devices < 1 or job.weight <= 0:
                raise SpecError(f"{job.job}: {job.devices} devices at weight {job.weight:g}; both are more than 0")
        rates = np.array([[job.throughput_per_s.get(kind, 0.0) for kind in kinds] for job in jobs]).reshape(
            -1, len(kinds)
        )
        return cls(
            jobs=jobs,
            kinds=kinds,
            rates=rates,
            scales=np.array([float(job.devices * job.alike) for job in jobs]),
            counts=np.array([float(devices[kind]) for kind in kinds]),
        )

    def program(self) -> Program:
        """One variable for each X[m,j], row by row, under the rows that every policy has."""
        program = Program()
        for rate in self.rates.flat:
            program.variable(high=1.0 if rate > 0 else 0.0)
        jobs, kinds = range(len(self.jobs)), range(len(self.kinds))
        for job in jobs:
            program.row([(self.at(job, kind), 1.0) for kind in kinds], high=1.0)
        for kind in kinds:
            program.row([(self.at(job, kind), self.scales[job]) for job in jobs], high=self.counts[kind])
        return program

    def at(self, job: int, kind: int) -> int:
        return job * len(self.kinds) + kind

    def terms(self, job: int, factor: float = 1.0) -> list[tuple[int, float]]:
        """`factor` times the throughput of a job."""
        return [(self.at(job, kind), factor * rate) for kind, rate in enumerate(self.rates[job]) if rate > 0]

    def allocation(self, values: Floats, objective: float) -> Allocation:
        shares = np.clip(values[: self.rates.size], 0.0, 1.0).reshape(self.rates.shape)
        return Allocation(
            shares={
                job.job: dict(zip(self.kinds, (float(x) for x in row), strict=True))
                for job, row in zip(self.jobs, shares, strict=True)
            },
            objective=objective,
        )

    def equal(self) -> Floats:
        """`X_equal`'s throughputs: all the time, on every kind in proportion to its devices."""
        found: Floats = self.rates @ (self.counts / self.counts.sum())
        return found

    def alone(self) -> Floats:
        """Throughput on 1/n of the devices of every kind, for good."""
        shares = (self.counts / len(self.jobs))[None, :] / self.scales[:, None]
        found: Floats = (self.rates * shares / np.maximum(shares.sum(axis=1), 1.0)[:, None]).sum(axis=1)
        return found


Policy = Callable[[Sequence[Contender], Mapping[str, int]], Allocation]


def max_min(contenders: Sequence[Contender], devices: Mapping[str, int]) -> Allocation:
    """Gavel's fairness (its equation for LAS, section 4.1): the least weighted share is the largest there is."""
    if not contenders:
        return Allocation(shares={}, objective=math.inf)
    table = _Table.of(contenders, devices)
    weights = np.array([job.weight * job.alike for job in table.jobs])
    return _least_raised(table, table.scales / weights / table.equal())


def agnostic(contenders: Sequence[Contender], devices: Mapping[str, int]) -> Allocation:
    """Max-min that takes all kinds for equal: the baseline that Gavel is compared with (Tiresias' fairness)."""
    blind = [
        Contender(
            job=job.job,
            throughput_per_s={kind: 1.0 for kind, rate in job.throughput_per_s.items() if rate > 0},
            devices=job.devices,
            weight=job.weight,
            alike=job.alike,
        )
        for job in contenders
    ]
    return max_min(blind, devices)


def makespan(contenders: Sequence[Contender], devices: Mapping[str, int]) -> Allocation:
    """All jobs are done as early as can be (section 4.2). One linear program, where the paper bisects: with the last
    end at M, every throughput is at least steps / M, and 1 / M enters linearly."""
    if not contenders:
        return Allocation(shares={}, objective=0.0)
    table = _Table.of(contenders, devices)
    steps = np.array([job.steps_left for job in table.jobs])
    if not (steps > 0).any():
        return table.allocation(np.zeros(table.rates.size), 0.0)
    found = _least_raised(table, np.divide(1.0, steps, out=np.full(len(steps), math.inf), where=steps > 0))
    return Allocation(shares=found.shares, objective=1.0 / found.objective)


def cheapest(
    contenders: Sequence[Contender], devices: Mapping[str, int], *, price_per_device_hour: Mapping[str, float]
) -> Allocation:
    """The most steps for the money (section 4.2), with deadlines held.

    A ratio of two linear functions; by Charnes and Cooper (Naval Research Logistics 9, 1962) the allocation times `t`
    is found, `t` such that the money spent is 1. Raises SpecError when the deadlines cannot all be met, or a kind is
    free of charge.
    """
    if not contenders:
        return Allocation(shares={}, objective=0.0)
    table = _Table.of(contenders, devices)
    prices = np.array([price_per_device_hour[kind] for kind in table.kinds])
    if (prices <= 0).any():
        raise SpecError("a price of nothing has no most steps for the money; leave that kind to another policy")
    program = Program()
    for rate in table.rates.flat:
        program.variable(cost=-float(rate), high=math.inf if rate > 0 else 0.0)
    t = program.variable()
    jobs, kinds = range(len(table.jobs)), range(len(table.kinds))
    for job in jobs:
        program.row([*((table.at(job, kind), 1.0) for kind in kinds), (t, -1.0)], high=0.0)
    for kind in kinds:
        held = [(table.at(job, kind), float(table.scales[job])) for job in jobs]
        program.row([*held, (t, -float(table.counts[kind]))], high=0.0)
    for job in jobs:
        deadline_s = table.jobs[job].deadline_s
        if deadline_s is not None:
            program.row([*table.terms(job), (t, -table.jobs[job].steps_left / deadline_s)], low=0.0)
    spent = [(table.at(job, kind), float(table.scales[job] * prices[kind])) for job in jobs for kind in kinds]
    program.row(spent, low=1.0, high=1.0)
    found = program.minimise()
    if found is None or found.values[t] <= 0:
        late = [job.job for job in table.jobs if job.deadline_s is not None]
        raise SpecError(f"the deadlines of {', '.join(late)} cannot all be met; move one, or add devices")
    # Steps by the hour for what an hour costs.
    return table.allocation(found.values / found.values[t], -found.objective * 3600.0)


def finish_time(contenders: Sequence[Contender], devices: Mapping[str, int]) -> Allocation:
    """Themis' fairness on unlike devices (section 4.2): nobody finishes much later than alone on an even part.

    A bound rho asks of every job a throughput of steps / (rho alone - elapsed). The allocation that exceeds all of them
    by the largest factor meets a smaller bound, which is the next rho, until the factor is 1: a generalised Dinkelbach
    iteration (Crouzeix, Ferland and Schaible, J. Optimization Theory and Applications 47, 1985), a handful of programs.
    """
    if not contenders:
        return Allocation(shares={}, objective=0.0)
    table = _Table.of(contenders, devices)
    steps = np.array([job.steps_left for job in table.jobs])
    elapsed = np.array([job.elapsed_s for job in table.jobs])
    total = np.array([job.alone_s for job in table.jobs]) + steps / table.alone()
    waiting = steps > 0
    if not waiting.any():
        return table.allocation(np.zeros(table.rates.size), float(np.divide(elapsed, total).max()))
    # Everybody's even part is an allocation: its bound is one to start from.
    even = table.equal() * float(min(1.0, table.counts.sum() / table.scales.sum()))
    rho = float(((elapsed + steps / even)[waiting] / total[waiting]).max())
    while True:
        wanted = np.divide(steps, rho * total - elapsed, out=np.zeros(len(steps)), where=waiting)
        factors = np.divide(1.0, wanted, out=np.full(len(steps), math.inf), where=waiting)
        reached = _throughputs(table, _least_raised(table, factors, filled=False))
        lower = float(((elapsed + steps / reached)[waiting] / total[waiting]).max())
        if lower >= rho * (1 - FINISH_TOLERANCE):
            return Allocation(shares=_least_raised(table, factors, filled=True).shares, objective=min(rho, lower))
        rho = lower


def _throughputs(table: _Table, allocation: Allocation) -> Floats:
    shares = np.array([[allocation.shares[job.job][kind] for kind in table.kinds] for job in table.jobs])
    found: Floats = (table.rates * shares).sum(axis=1)
    return found


def _least_raised(table: _Table, factors: Floats, *, filled: bool = True) -> Allocation:
    """Maximise the least of factor x throughput (an infinite factor: of no concern); `filled`, then the sum of all.

    Factors are scaled to about one before they reach the solver: its tolerances are absolute.
    """
    counted = np.isfinite(factors)
    scale = float(np.median(factors[counted] * table.rates[counted].max(axis=1)))
    normal = np.where(counted, factors, 0.0) / scale
    program = table.program()
    least = program.variable(cost=-1.0)
    for concern in np.flatnonzero(counted):
        program.row([*table.terms(int(concern), float(normal[concern])), (least, -1.0)], low=0.0)
    found = program.minimise()
    if found is None:
        raise SpecError("there is no allocation at all; is a kind without devices?")
    if not filled:
        return table.allocation(found.values, float(found.values[least]) * scale)
    costs = np.zeros(program.variables)
    for job in range(len(table.jobs)):
        weight = normal[job] * table.jobs[job].alike if counted[job] else 0.0
        for variable, value in table.terms(job, float(weight)):
            costs[variable] = -value
    fuller = program.with_costs(costs)
    fuller.row([(least, 1.0)], low=float(found.values[least]) * (1 - 1e-9))
    fullest = fuller.minimise()
    values = found.values if fullest is None else fullest.values
    return table.allocation(values, float(found.values[least]) * scale)
