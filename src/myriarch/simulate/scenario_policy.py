"""Policies by name: which parameters each takes, and the scheduler that it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from myriarch.errors import SpecError
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.order import ARRIVAL, LARGEST, SHORTEST, SMALLEST, SMALLEST_AREA, Fixed
from myriarch.schedule.placed import Placed
from myriarch.schedule.priority import AGE_MOST_S, REFRESH_S, MultiFactor, Weights
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.shares import HALF_LIFE_S, Account, Shares
from myriarch.simulate.scenario import OrderName, Policy, PolicyName
from myriarch.spec.consistency import Tell
from myriarch.spec.problems import listed

ORDERS: Final[dict[OrderName, Fixed]] = {
    "arrival": ARRIVAL,
    "shortest": SHORTEST,
    "smallest": SMALLEST,
    "largest": LARGEST,
    "smallest-area": SMALLEST_AREA,
}


class Setting(NamedTuple):
    """What a scheduler is made for."""

    pools: Sequence[PoolLayout]
    by_number: bool
    """Any device is as good as any other."""
    accounts: tuple[str, ...]
    """Tenants that the workload has, in alphabetical order."""

    @property
    def devices(self) -> int:
        return sum(pool.devices for pool in self.pools)

    def machine(self) -> Counted | Placed:
        """A new one, with everything free."""
        return Counted(self.devices) if self.by_number else Placed(self.pools)


class Known(NamedTuple):
    """A policy that there is."""

    takes: tuple[str, ...]
    """Parameters that mean something to it."""
    make: Callable[[Policy, Setting], Scheduler]


def check_policy(policy: Policy, *, by_number: bool, tell: Tell) -> None:
    """Parameters that the policy does not take, and placements that it cannot do."""
    takes = POLICIES[policy.name].takes
    for name in given(policy):
        if name not in takes:
            remedy = f"it takes {listed(takes)}" if takes else "it takes none"
            tell(f"policy.{name}", f"has no meaning with `{policy.name}`; {remedy}")
    if policy.name == "conservative" and not by_number:
        tell("policy.name", "`conservative` promises numbers of devices; add `placement: numbers`")


def given(policy: Policy) -> tuple[str, ...]:
    """Parameters that were said."""
    names = (field.name for field in msgspec.structs.fields(Policy) if field.name != "name")
    return tuple(name for name in names if getattr(policy, name) is not None)


def renamed(policy: Policy, name: PolicyName) -> Policy:
    """Another policy, with those of the parameters that mean something to it."""
    kept = {field: getattr(policy, field) for field in given(policy) if field in POLICIES[name].takes}
    return Policy(name=name, **kept)


def scheduler_of(policy: Policy, setting: Setting) -> Scheduler:
    """The scheduler that a policy is, on a fleet with everything free."""
    return POLICIES[policy.name].make(policy, setting)


def _order(policy: Policy) -> Fixed:
    return ORDERS[policy.order or "arrival"]


def _fifo(policy: Policy, setting: Setting) -> Scheduler:
    return InOrder(setting.machine(), order=_order(policy))


def _easy(policy: Policy, setting: Setting) -> Scheduler:
    return Easy(setting.machine(), order=_order(policy))


def _sjbf(policy: Policy, setting: Setting) -> Scheduler:
    return Easy(setting.machine(), order=_order(policy), shortest_first=True)


def _conservative(policy: Policy, setting: Setting) -> Scheduler:
    machine = setting.machine()
    if not isinstance(machine, Counted):
        raise SpecError("`conservative` promises numbers of devices", path="policy.name", hint="placement: numbers")
    return Conservative(machine)


def _priority(policy: Policy, setting: Setting) -> Scheduler:
    shares = Shares(
        _accounts(policy.shares or dict.fromkeys(setting.accounts, 1.0)), half_life_s=policy.half_life_s or HALF_LIFE_S
    )
    weights = policy.weights
    order = MultiFactor(
        shares,
        devices=setting.devices,
        weights=Weights() if weights is None else msgspec.convert(msgspec.structs.asdict(weights), Weights),
        algorithm=policy.algorithm or "fair tree",
        age_most_s=policy.age_most_s or AGE_MOST_S,
        refresh_s=policy.refresh_s or REFRESH_S,
        favour_small=bool(policy.favour_small),
    )
    return Easy(setting.machine(), order=order)


def _accounts(shares: dict[str, float]) -> Sequence[Account]:
    """A tree of what was said; a tenant whose users alone are named has one share."""
    parents = dict.fromkeys(name.partition("/")[0] for name in shares if "/" in name)
    named = [name for name in (*parents, *shares) if name]
    return [
        Account(name=name, shares=shares.get(name, 1.0), parent=name.partition("/")[0] if "/" in name else "")
        for name in dict.fromkeys(named)
    ]


POLICIES: Final[dict[PolicyName, Known]] = {
    "fifo": Known(("order",), _fifo),
    "easy": Known(("order",), _easy),
    "sjbf": Known(("order",), _sjbf),
    "conservative": Known((), _conservative),
    "priority": Known(
        ("weights", "shares", "algorithm", "half_life_s", "age_most_s", "refresh_s", "favour_small"), _priority
    ),
}
