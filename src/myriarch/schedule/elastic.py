"""How many devices, of which kind, each elastic job gets: by what one more device would bring.

Two answers to one question. `choose` is Sia's integer program (Jayaram Subramanya et al., SOSP 2023): every job has a
few configurations (kind, devices), each with a goodput; one is chosen for each job, or none:

    minimise   sum of A[i,j] (r[i,j] G[i,j])^p  +  penalty sum of (1 - sum over j of A[i,j])         p < 0
    subject to sum over j of A[i,j] <= 1,  sum of devices[j] A[i,j] <= devices of each kind

G is normalised by the job's smallest goodput, so that p < 0 favours those that have least (p = -0.5 in the paper), and
`r` discounts every configuration but the present one by the share of its life that a job would lose restarting:
`r = (age - restarts S) / (age + S)` with S seconds for a restart (as in Pollux, OSDI 2021).

`resize` gives devices of one kind away one step at a time, to whom they bring most. With goodputs that bring ever less
it is the optimum (Fox, Operations Research 14, 1966); otherwise steps are taken along the concave hull, and the sum is
within one step of it (Sinha and Zoltners, Operations Research 27, 1979). `Resizing.bound` says how near.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.program import Program

FAIRNESS: Final = -0.5
"""p: Sia's default."""
UNPLACED: Final = 1.1
"""What a job without devices counts for; more than the 1 of its smallest configuration. Sia's public default."""
NO_RESTART: Final = 1.0


class Configuration(Value, frozen=True, kw_only=True):
    """Devices of one kind that a job could have."""

    kind: str
    devices: int
    goodput: float


class Elastic(Value, frozen=True, kw_only=True):
    """A job that can be resized."""

    job: str
    configurations: tuple[Configuration, ...]
    present: int | None = None
    """Index of the one that it has; None: it waits."""
    age_s: float = 0.0
    restarts: int = 0
    restart_s: float = 0.0
    """What one takes: save, start, load."""
    weight: float = 1.0

    @property
    def restart_factor(self) -> float:
        """What is left of a goodput after another restart; a job that has not yet run one restart's time pays none."""
        if self.age_s < self.restart_s or self.present is None:
            return NO_RESTART
        return max(self.age_s - self.restarts * self.restart_s, 0.0) / (self.age_s + self.restart_s)


class Resize(Value, frozen=True, kw_only=True):
    """A job and what it gets."""

    job: str
    configuration: Configuration | None
    """None: no devices."""
    changed: bool
    reason: str


def node_configurations(*, devices: int, devices_per_node: int) -> tuple[int, ...]:
    """Sia's sizes: powers of two inside a node, then whole nodes; without fragments they always pack."""
    inside = [2**power for power in range(int(math.log2(devices_per_node)) + 1)]
    sizes = {size for size in (*inside, devices_per_node) if size <= devices}
    return tuple(sorted(sizes | set(range(devices_per_node, devices + 1, devices_per_node))))


def choose(
    jobs: Sequence[Elastic],
    *,
    devices: Mapping[str, int],
    fairness: float = FAIRNESS,
    unplaced: float = UNPLACED,
    time_limit_s: float = math.inf,
) -> tuple[Resize, ...]:
    """A configuration for each job by Sia's program, in the order of their names."""
    if not fairness < 0 < unplaced:
        raise SpecError(f"fairness {fairness:g} is below and the penalty {unplaced:g} above 0 there")
    program = Program()
    ordered = sorted(jobs, key=lambda each: each.job)
    indices: list[list[int]] = []
    held: dict[str, list[tuple[int, float]]] = {kind: [] for kind in sorted(devices)}
    for job in ordered:
        _check(job, devices)
        variables = []
        least = min(each.goodput for each in job.configurations)
        for index, configuration in enumerate(job.configurations):
            kept = NO_RESTART if index == job.present else max(job.restart_factor, 1e-6)
            value = (kept * configuration.goodput / least) ** fairness
            variable = program.variable(cost=job.weight * (value - unplaced), high=1.0, whole=True)
            variables.append(variable)
            held[configuration.kind].append((variable, float(configuration.devices)))
        program.row([(variable, 1.0) for variable in variables], high=1.0)
        indices.append(variables)
    for kind, terms in held.items():
        program.row(terms, high=float(devices[kind]))
    found = program.minimise(time_limit_s=time_limit_s)
    values = found.values if found is not None else [0.0] * program.variables
    return tuple(
        _resized(job, next((index for index, variable in enumerate(variables) if values[variable] > 0.5), None))
        for job, variables in zip(ordered, indices, strict=True)
    )


def _check(job: Elastic, devices: Mapping[str, int]) -> None:
    if not job.configurations or min(each.goodput for each in job.configurations) <= 0:
        raise SpecError(f"{job.job} has a configuration without goodput, or none at all; leave those out")
    unknown = {each.kind for each in job.configurations} - set(devices)
    if unknown:
        raise SpecError(f"{job.job} asks for {', '.join(sorted(unknown))}; there are {', '.join(sorted(devices))}")


def _resized(job: Elastic, chosen: int | None) -> Resize:
    before = None if job.present is None else job.configurations[job.present]
    after = None if chosen is None else job.configurations[chosen]
    changed = chosen != job.present
    had = "nothing" if before is None else f"{before.devices} {before.kind} at {before.goodput:.4g}"
    gets = "nothing" if after is None else f"{after.devices} {after.kind} at {after.goodput:.4g}"
    cost = f", a restart leaves {job.restart_factor:.2f} of it" if changed and before is not None and after else ""
    return Resize(
        job=job.job,
        configuration=after,
        changed=changed,
        reason=f"{gets}, had {had}{cost}" if changed else f"keeps {had}",
    )


class Resizing(Value, frozen=True, kw_only=True):
    """Devices of one kind, given away."""

    devices: dict[str, int]
    value: float
    """Sum of weighted speed-ups."""
    bound: float
    """No assignment has more."""
    steps: tuple[tuple[str, int, float], ...]
    """Who got how many, in order, and what each device of them brought."""


def resize(speedups: Mapping[str, Sequence[float]], *, devices: int) -> Resizing:
    """Devices to jobs by marginal speed-up. `speedups[job][k]` is the (weighted) speed-up on k devices; at 0 it is 0.

    Deterministic: equal gains go to the first name.
    """
    hulls = {job: _hull(values) for job, values in sorted(speedups.items())}
    queue = [(-hull[0][1], job, 0) for job, hull in hulls.items() if hull]
    heapq.heapify(queue)
    given = dict.fromkeys(hulls, 0)
    left, steps, bound = devices, [], None
    value = 0.0
    while queue:
        negative, job, index = heapq.heappop(queue)
        size, gain = hulls[job][index]
        if size > left:
            # The hull's steps come in falling order: this one, cut to what is left, ends the relaxed optimum.
            bound = value + left * gain if bound is None else bound
            continue
        left -= size
        given[job] += size
        value += size * gain
        steps.append((job, size, -negative))
        if index + 1 < len(hulls[job]):
            heapq.heappush(queue, (-hulls[job][index + 1][1], job, index + 1))
    return Resizing(devices=given, value=value, bound=value if bound is None else bound, steps=tuple(steps))


def _hull(values: Sequence[float]) -> list[tuple[int, float]]:
    """Steps of the upper concave hull: (devices, gain of each), falling gains, while they are gains."""
    corners = [0]
    for point in range(1, len(values)):
        while len(corners) > 1 and _slope(values, corners[-2], corners[-1]) <= _slope(values, corners[-1], point):
            corners.pop()
        corners.append(point)
    return [(high - low, slope) for low, high in pairwise(corners) if (slope := _slope(values, low, high)) > 0]


def _slope(values: Sequence[float], low: int, high: int) -> float:
    return (values[high] - values[low]) / (high - low)
