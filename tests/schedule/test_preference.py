"""Which pool is tried first: the price of work at the job's precision, FP64 left to those who need it."""

from __future__ import annotations

from myriarch.schedule.decision import Refuse, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.preference import CheapestRight, Offer
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Precision

CHIPS = {"a100": ("a100-sxm-80", 2.0), "h100": ("h100-sxm", 3.0), "l40s": ("l40s", 1.9)}
OFFERS = {name: Offer(chip=lookup(chip), price_per_device_hour=price) for name, (chip, price) in CHIPS.items()}


def machine() -> Placed:
    pools = [
        PoolLayout(name=name, nodes=1, devices_per_node=8, precisions=tuple(offer.chip.rate_flops_per_s))
        for name, offer in OFFERS.items()
    ]
    return Placed(pools, prefer=CheapestRight(OFFERS))


def job(name: str, precision: Precision | None) -> Job:
    return Job(id=JobId(name), submit_s=0.0, devices=8, estimate_s=10.0, precision=precision)


def pools_of(*jobs: Job) -> list[str]:
    easy = Easy(machine())
    starts = [decision for one in jobs for decision in easy.submit(one, now_s=0.0)]
    return [one.placement.pool for one in starts if isinstance(one, Start)]


def test_fp64_goes_where_it_is_cheap_and_others_leave_it_free() -> None:
    assert OFFERS["h100"].has_full_fp64
    assert OFFERS["a100"].has_full_fp64
    assert not OFFERS["l40s"].has_full_fp64
    assert pools_of(job("1", "fp64")) == ["h100"], "34 TFLOP/s for 3.0 against 9.7 for 2.0"
    assert pools_of(job("1", "bf16"), job("2", "bf16"), job("3", "bf16")) == ["l40s", "h100", "a100"]
    assert pools_of(job("1", None), job("2", None)) == ["l40s", "a100"], "by the device-hour"


def test_a_precision_that_no_chip_has_is_refused_by_name() -> None:
    decision = Easy(machine()).submit(job("1", "fp4"), now_s=0.0)[0]
    assert isinstance(decision, Refuse)
    assert "pool `a100` has no fp4" in decision.reason


def test_reasons_have_numbers() -> None:
    prefer = CheapestRight(OFFERS)
    pool = machine().pools["h100"].pool
    assert prefer.reason(job("1", "bf16"), pool).endswith("its FP64 is kept for others")
    assert "for 10^15 operations in fp64" in prefer.reason(job("1", "fp64"), pool)
    assert "no price" in prefer.reason(job("1", None), PoolLayout(name="x", nodes=1, devices_per_node=1))
