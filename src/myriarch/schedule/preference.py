"""Which pool a job tries first: where its precision is cheapest, FP64 left to those who compute in it.

A pool's price for a job is money for work: its price by the device-hour over its chip's rate at the job's precision,

    price_per_device_hour / rate_flops_per_s[precision]

with dense peak rates, so that it compares chips, not programs; a job that says no precision is compared at the lowest
price by the device-hour. Chips whose FP64 is a good part of their FP32 are scarce, and right for little else that
others could not do: jobs of other precisions try them last, whatever they cost. A chip without the job's precision is
no candidate at all: `Placed` refuses with its name where no other is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job
from myriarch.schedule.layout import PoolLayout
from myriarch.spec.fleet import Chip, Precision

FP64: Final[tuple[Precision, ...]] = ("fp64", "fp64_tc")
FULL_FP64_SHARE: Final = 0.25
"""FP64 over FP32, without tensor cores: 1/2 on the chips built for it (A100, H100, MI250: data sheets), 1/32 or
1/64 on the others. Anything between them would do."""


class Offer(Value, frozen=True, kw_only=True):
    """What a pool's devices can do and cost."""

    chip: Chip
    price_per_device_hour: float

    @property
    def has_full_fp64(self) -> bool:
        """Whether it is a chip for FP64."""
        rates = self.chip.rate_flops_per_s
        fp64, fp32 = rates.get("fp64", 0.0), rates.get("fp32", 0.0)
        return fp64 > 0 and fp64 >= FULL_FP64_SHARE * fp32


@final
class CheapestRight:
    """`prefer` of a `Placed` machine, by pool. Pools that it knows nothing of come last."""

    def __init__(self, offers: Mapping[str, Offer]) -> None:
        for name, offer in offers.items():
            if not offer.price_per_device_hour >= 0:
                raise SpecError(f"pool `{name}` costs {offer.price_per_device_hour} an hour", hint="from 0 up")
        self._offers = dict(offers)

    def __call__(self, job: Job, pool: PoolLayout) -> tuple[int, float]:
        """The lowest is tried first: kept for others or not, then the price of work."""
        offer = self._offers.get(pool.name)
        if offer is None:
            return (2, 0.0)
        kept = offer.has_full_fp64 and job.precision not in FP64
        return (int(kept), self.price(job, offer))

    def price(self, job: Job, offer: Offer) -> float:
        """Money for 10^15 operations at the job's precision; by the device-hour where it says none."""
        if job.precision is None:
            return offer.price_per_device_hour
        rate = offer.chip.rate_flops_per_s.get(job.precision, 0.0)
        return offer.price_per_device_hour / 3600.0 / (rate / 1e15) if rate else float("inf")

    def reason(self, job: Job, pool: PoolLayout) -> str:
        """Why a pool has its place, in numbers."""
        offer = self._offers.get(pool.name)
        if offer is None:
            return f"pool `{pool.name}`: no price is known"
        kept = "; its FP64 is kept for others" if self(job, pool)[0] else ""
        unit = "an hour" if job.precision is None else f"for 10^15 operations in {job.precision}"
        return f"pool `{pool.name}`: {self.price(job, offer):.4g} {unit}{kept}"
