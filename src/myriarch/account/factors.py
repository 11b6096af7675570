"""Effective compute: four factors whose product is the whole, in peak-FLOP-seconds.

With `p` the peak rate of a device at the job's precision and integrals over device time,

    C_cap   = sum p * (all time)
    C_ok    = C_cap less the leaves of level `unusable`
    C_alloc = C_ok less those of level `unscheduled`
    C_keep  = the leaves of level `step`: lost steps are in `lost_work`, so what is left there was kept
    F       = model FLOPs of the kept steps

    effective = F/C_cap = C_ok/C_cap * C_alloc/C_ok * C_keep/C_alloc * F/C_keep
                          availability  scheduling    fault_handling    compute

Each numerator is the next denominator, so the product holds by cancellation whatever the devices are. Sums are exact
rationals; a factor becomes a float only at the end. A factor whose denominator is zero, or whose peaks are unknown,
is unknown (None): never zero, never one.

Where all devices are of one kind the peak cancels from the first three factors, and they are known even if it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from myriarch.account.history import History
from myriarch.account.ledger import Account, Ledger
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.spec.fleet import Chip, Pool, Precision
from myriarch.units import NS_PER_S


class Factors(Value, frozen=True, kw_only=True):
    """Each from 0 to 1, or None where it is unknown.

    `compute` above 1 means that the peak is wrong: a device was measured while something else ran on it.
    """

    availability: float | None = None
    scheduling: float | None = None
    fault_handling: float | None = None
    compute: float | None = None


class Peak(Value, frozen=True, kw_only=True):
    """The peak rate of a pool's devices at the job's precision."""

    rate_flops_per_s: float | None = None
    source: Literal["declared", "measured", "unknown"] = "unknown"


class Integrals(Value, frozen=True, kw_only=True):
    """The four integrals and F, in peak-FLOP (peak-FLOP-seconds per second). Exact.

    `weighted` False: peaks are unknown but equal, and the integrals are in device-seconds.
    """

    capacity: Fraction
    usable: Fraction
    allocated: Fraction
    kept: Fraction
    model_flops: Fraction | None
    weighted: bool

    def factors(self) -> Factors:
        return Factors(
            availability=_ratio(self.usable, self.capacity),
            scheduling=_ratio(self.allocated, self.usable),
            fault_handling=_ratio(self.kept, self.allocated),
            compute=_ratio(self.model_flops, self.kept) if self.weighted else None,
        )

    def effective(self) -> float | None:
        return _ratio(self.model_flops, self.capacity) if self.weighted else None


def peaks(history: History) -> dict[PoolId, Peak]:
    """By pool: the rate that the fleet file declares for the model's precision, else the best that was measured.

    A device that this machine only imitates (`emulate`) is what it was measured to be; a declared rate is that of the
    thing imitated, and counts only when nothing was measured.

    All devices of a pool are of one kind, and the best measurement is the nearest to the peak of that kind.
    """
    pool_of = {device.node: device.pool for device in history.devices}
    measured: dict[PoolId, float] = {}
    for node, rate in history.facts.rates:
        if (pool := pool_of.get(node)) is not None:
            measured[pool] = max(rate, measured.get(pool, 0.0))
    precision: Precision = history.resolved.model.dtype
    return {
        PoolId(pool.name): _peak(pool, precision, measured.get(PoolId(pool.name)))
        for pool in history.resolved.fleet.pools
    }


def _peak(pool: Pool, precision: Precision, measured: float | None) -> Peak:
    declared = pool.chip.rate_flops_per_s.get(precision) if isinstance(pool.chip, Chip) else None
    if declared is not None and (pool.emulate is None or measured is None):
        return Peak(rate_flops_per_s=declared, source="declared")
    if measured:
        return Peak(rate_flops_per_s=measured, source="measured")
    return Peak()


def integrals(ledger: Ledger, rates: Mapping[PoolId, Peak], *, model_flops: Fraction | None) -> Integrals | None:
    """Integrate the ledger over all pools. None: peaks are unknown and the devices unlike."""
    weights: dict[PoolId, Fraction] = {}
    weighted = True
    for pool in ledger.pools:
        rate = rates[pool].rate_flops_per_s
        if rate is not None:
            weights[pool] = Fraction(rate)
        elif len(ledger.pools) == 1:
            weights[pool], weighted = Fraction(1), False
        else:
            return None

    def integrate(account_ns: Mapping[PoolId, int]) -> Fraction:
        return sum((weights[pool] * ns for pool, ns in account_ns.items()), Fraction(0)) / NS_PER_S

    capacity = {pool: account.capacity_device_ns for pool, account in ledger.pools.items()}
    usable = {pool: capacity[pool] - account.level_ns("unusable") for pool, account in ledger.pools.items()}
    allocated = {pool: usable[pool] - account.level_ns("unscheduled") for pool, account in ledger.pools.items()}
    kept = {pool: account.level_ns("step") for pool, account in ledger.pools.items()}
    return Integrals(
        capacity=integrate(capacity),
        usable=integrate(usable),
        allocated=integrate(allocated),
        kept=integrate(kept),
        model_flops=model_flops,
        weighted=weighted,
    )


class KeptWork(Value, frozen=True, kw_only=True):
    """What the steps that were not lost consumed, provisional ones included."""

    steps: int
    lost_steps: int
    """Completed and lost: done once more, or never."""
    provisional_steps: int
    tokens: int
    lost_tokens: int
    tokens_by_group: dict[GroupId, int]


def kept_work(history: History) -> KeptWork:
    """Count steps and valid tokens by fate. A step counts once, whatever the number of groups."""
    numbers: dict[str, set[tuple[int, int]]] = {"kept": set(), "lost": set(), "provisional": set()}
    by_group: dict[GroupId, int] = {}
    lost_tokens = 0
    for fact in history.facts.steps:
        done = fact.completed
        fate = history.lineage.fate(done.incarnation, fact.step)
        numbers[fate].add((done.incarnation, fact.step))
        if fate == "lost":
            lost_tokens += done.group_tokens
        else:
            by_group[done.group] = by_group.get(done.group, 0) + done.group_tokens
    return KeptWork(
        steps=len(numbers["kept"]) + len(numbers["provisional"]),
        lost_steps=len(numbers["lost"]),
        provisional_steps=len(numbers["provisional"]),
        tokens=sum(by_group.values()),
        lost_tokens=lost_tokens,
        tokens_by_group=by_group,
    )


def pools_of_groups(history: History) -> dict[GroupId, PoolId]:
    """The pool that each group's devices are in."""
    pool_of: dict[NodeId, PoolId] = {device.node: device.pool for device in history.devices}
    found = {GroupId(group.name): PoolId(group.pool) for group in history.resolved.run.groups}
    for node, plan in history.facts.plans:
        if node in pool_of:
            found.setdefault(plan.group, pool_of[node])
    return found


def compute_of(account: Account, peak: Peak, model_flops: Fraction) -> float | None:
    """The compute factor (MFU of kept time) of one pool."""
    if peak.rate_flops_per_s is None:
        return None
    return _ratio(model_flops, Fraction(peak.rate_flops_per_s) * account.level_ns("step") / NS_PER_S)


def _ratio(part: Fraction | None, whole: Fraction) -> float | None:
    return None if part is None or not whole else float(part / whole)
