"""How fast jobs get on with other devices than those their run times are of.

    speed = (pool's speed for the job / reference pool's) * (devices / devices asked for) ^ exponent

A pool's speed is what the scenario says, else its chip's peak in the job's precision: a first guess that measured rates
should replace. The power law is that of strong scaling at a constant batch: with exponent 1 twice the devices take half
the time. A rigid job runs with what it asked for and no less.
"""

from __future__ import annotations

import math
from typing import final

from myriarch.errors import SpecError
from myriarch.schedule.job import Job
from myriarch.schedule.speed import Rigid, Speeds
from myriarch.simulate.scenario import Scaling
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Chip, Fleet, Pool, Precision

USUAL: tuple[Precision, ...] = ("bf16", "fp16", "fp32", "fp64")
"""What a job computes in that does not say: the first of these that the chip has."""


def speeds_of(scaling: Scaling | None, fleet: Fleet) -> Speeds:
    """The speeds of a scenario; without any, all jobs are rigid and all pools alike."""
    return Rigid() if scaling is None else Scaled(scaling, fleet)


@final
class Scaled:
    """See the module."""

    def __init__(self, scaling: Scaling, fleet: Fleet) -> None:
        self._pools = {pool.name: pool for pool in fleet.pools}
        self._reference = scaling.reference or fleet.pools[0].name
        self._exponent = scaling.exponent
        self._said = scaling.by_pool
        self._ratios: dict[tuple[str, Precision | None], float] = {}

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        """Seconds of the job's run time that one second there gets done; 0: it cannot run there."""
        ratio = self._ratio(pool, job.precision)
        if not job.sizes:
            return ratio if devices >= job.devices else 0.0
        if devices < min(job.devices, *job.sizes):
            return 0.0
        usable = max(size for size in (job.devices, *job.sizes) if size <= devices)
        return ratio * math.pow(usable / job.devices, self._exponent)

    def _ratio(self, pool: str, precision: Precision | None) -> float:
        key = (pool, precision)
        if key not in self._ratios:
            self._ratios[key] = self._speed(pool, precision) / self._speed(self._reference, precision)
        return self._ratios[key]

    def _speed(self, name: str, precision: Precision | None) -> float:
        if name in self._said:
            return self._said[name]
        rate = peak_of(self._pools[name], precision)
        if rate is None:
            raise SpecError(
                f"the peak of pool `{name}` in {precision or 'bf16'} is unknown",
                path="workload.scaling.by_pool",
                hint=f"say how fast it is: {{{name}: 1.0}}",
            )
        return rate


def peak_of(pool: Pool, precision: Precision | None = None) -> float | None:
    """The peak rate of a device, in what is asked or in what most training computes in; None: unknown."""
    rates = (pool.chip if isinstance(pool.chip, Chip) else lookup(pool.chip)).rate_flops_per_s
    if precision is not None:
        return rates.get(precision)
    return next((rates[name] for name in USUAL if name in rates), None)
