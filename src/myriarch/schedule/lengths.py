"""How long jobs run, as distributions: learned online from jobs that ended, by groups that a job belongs to.

Times fall into bins, two to the octave. Groups are nested, from all jobs down to those of one user with one size and
one estimate, and each is a histogram. A job's distribution is found from the coarsest group to the finest: what a group
has seen counts, and what the coarser one says counts as much as `PRIOR` more jobs (an additive prior, as in
interpolated n-gram models: Witten and Bell, IEEE Trans. Information Theory 37(4), 1991, and Dirichlet smoothing of
MacKay and Peto, Natural Language Engineering 1(3), 1995). A group forgets: beyond `MEMORY` jobs each new one takes
weight off all before it. Nothing runs past its estimate, so what lies beyond it is cut off.

A group may count how much of their estimates jobs used instead of seconds (`OfEstimate`): where estimates are good, a
few jobs tell of all others, also of those that ask for what nobody asked for before.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.schedule.job import Job

Floats = NDArray[np.float64]
Keys = Callable[[Job], tuple[Hashable, ...]]
"""The groups of a job, the coarsest first; equal keys of two levels are two groups."""

OCTAVES: Final = 25
"""From 1 s to 388 days."""
BINS: Final = 2 * OCTAVES
EDGES_S: Final[Floats] = 2.0 ** (np.arange(BINS + 1) / 2.0)
EDGES_S.setflags(write=False)
_EDGES_S: Final[list[float]] = EDGES_S.tolist()
MIDDLES_S: Final[Floats] = np.sqrt(EDGES_S[:-1] * EDGES_S[1:])
MIDDLES_S.setflags(write=False)
"""Where a bin's jobs are taken to end."""
PRIOR: Final = 20.0
MEMORY: Final = 100.0
KERNEL: Final = (0.125, 0.75, 0.125)
"""A job counts for its bin and a little for those beside it. All three were chosen by the likelihood of the next job on
the first third of Philly and Mira and on a synthetic workload; it changes little from half to twice as much."""


def bin_of(run_s: float) -> int:
    """The bin of a run time."""
    return min(max(bisect.bisect_right(_EDGES_S, run_s) - 1, 0), BINS - 1)


def of_history(job: Job) -> tuple[Hashable, ...]:
    """All jobs; those of its size and estimate, both to the octave; of its tenant; of its user; and exactly like it."""
    size, told = job.devices.bit_length(), bin_of(job.estimate_s) // 2
    keys: tuple[Hashable, ...] = (0, (1, size, told), (2, job.tenant, size, told))
    if not job.user:
        return keys
    return (*keys, (3, job.user, size, told), (4, job.user, job.devices, job.estimate_s))


class OfEstimate(NamedTuple):
    """The key of a group in which run times are counted against estimates."""

    key: Hashable


def of_trainings(job: Job) -> tuple[Hashable, ...]:
    """Where users know how many epochs they train: the same, and how much of their estimates all jobs used."""
    everybody, *narrower = of_history(job)
    return (everybody, OfEstimate(0), *narrower)


@final
class Lengths:
    """Distributions of run times. Invariant: histograms hold no negative weight, and at most `memory` in all."""

    def __init__(self, *, keys: Keys = of_history, prior: float = PRIOR, memory: float = MEMORY) -> None:
        if not prior > 0 or not memory >= 1:
            raise SpecError(f"prior {prior:g} must be above zero and memory {memory:g} at least 1")
        self._keys = keys
        self._prior = prior
        self._memory = memory
        self._groups: dict[Hashable, Floats] = {}
        self._totals: dict[Hashable, float] = {}

    def distribution(self, job: Job) -> Floats:
        """The probability of each bin; sums to 1. Float64 [BINS]."""
        mass = np.full(BINS, 1.0 / BINS)
        last = bin_of(job.estimate_s)
        for key in self._keys(job):
            seen = self._groups.get(key)
            if seen is not None:
                seconds = _until(last, seen) if isinstance(key, OfEstimate) else seen
                mass = (seconds + self._prior * mass) / (self._totals[key] + self._prior)
        if last + 1 < BINS:
            mass[last] += float(mass[last + 1 :].sum())
            mass[last + 1 :] = 0.0
        return mass

    def learn(self, job: Job, run_s: float) -> None:
        """A job ended after so much work."""
        at = bin_of(run_s)
        by_seconds, by_share = _spread(at), _spread(BINS - 1 - max(bin_of(job.estimate_s) - at, 0))
        for key in self._keys(job):
            seen = self._groups.get(key)
            if seen is None:
                seen = self._groups[key] = np.zeros(BINS)
                self._totals[key] = 0.0
            if self._totals[key] >= self._memory:
                keep = 1.0 - 1.0 / self._memory
                seen *= keep
                self._totals[key] *= keep
            seen += by_share if isinstance(key, OfEstimate) else by_seconds
            self._totals[key] += 1.0

    def check(self) -> None:
        """Assert the invariant."""
        for key, seen in self._groups.items():
            assert (seen >= 0).all()
            assert abs(float(seen.sum()) - self._totals[key]) < 1e-6 * self._memory
            assert self._totals[key] <= self._memory + 1.0


def _spread(at: int) -> Floats:
    """One job in a bin, by the kernel; at the ends all of it stays inside."""
    found = np.zeros(BINS)
    for step, weight in zip((-1, 0, 1), KERNEL, strict=True):
        found[min(max(at + step, 0), BINS - 1)] += weight
    return found


def _until(last: int, shares: Floats) -> Floats:
    """Shares of an estimate as run times: the last is the estimate's bin; what is too short goes to the first."""
    found = np.zeros(BINS)
    found[: last + 1] = shares[BINS - 1 - last :]
    found[0] += float(shares[: BINS - 1 - last].sum())
    return found
