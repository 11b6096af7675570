"""Policies by name: which parameters each takes, and the scheduler that it is.

| name | who runs |
| --- | --- |
| fifo | in order, nobody overtakes |
| easy, sjbf | EASY backfilling; `sjbf` tries the others by their estimates |
| conservative | every job is promised a start at submission |
| priority | EASY in the order of Slurm's multi-factor priority with fair share |
| preemptive, fair | by arrival, and by that priority, where running jobs that stand lower may be stopped |
| las | least attained service (Tiresias) |
| srtf, srsf | shortest remaining time, and shortest remaining service (time x devices), as users estimate it |
| qssf | shortest remaining service by the means of users' past jobs (after Helios' QSSF) |
| gittins | most completions for the devices first, by run times learned from jobs that ended |
| deadline | earliest deadline first |
| gavel | shares of unlike pools by a linear program, made up of rounds (Gavel) |
| myriarch | our own: Gittins' indices, jobs stopped and resized by them, unlike pools by an integer program |
| elastic | jobs with `sizes` are resized by their speed-ups (the family of Pollux and Sia) |

From `preemptive` to `deadline`, jobs that are `preemptible` are stopped where that is worth what it costs
(`schedule.worth`). What can stand around a policy is `simulate.scenario_around`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import msgspec

from myriarch.errors import SpecError
from myriarch.schedule import heterogeneous
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.conservative_nodes import ConservativeNodes
from myriarch.schedule.counted import Counted
from myriarch.schedule.durations import Durations
from myriarch.schedule.easy import Easy
from myriarch.schedule.gavel_scheduler import Gavel
from myriarch.schedule.gittins import Gittins
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.lengths import Lengths
from myriarch.schedule.myriarch import SETTINGS, myriarch
from myriarch.schedule.order import ARRIVAL, LARGEST, SHORTEST, SMALLEST, SMALLEST_AREA, Fixed
from myriarch.schedule.placed import Placed, Prefer
from myriarch.schedule.priority import AGE_MOST_S, REFRESH_S, MultiFactor, Weights
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import (
    ByArrival,
    ByPriority,
    EarliestDeadline,
    LeastService,
    Ranking,
    ShortestRemaining,
    UserMeans,
)
from myriarch.schedule.resizing import Resizing
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.shares import HALF_LIFE_S, Account, Shares
from myriarch.schedule.speed import Rigid, Speeds
from myriarch.schedule.worth import Worth
from myriarch.simulate.scenario import OrderName, Policy, PolicyName
from myriarch.simulate.scenario_around import OPTIONS, Around, Surroundings, around, check_options
from myriarch.spec.consistency import Tell
from myriarch.spec.fleet import Fleet
from myriarch.spec.problems import listed

PROMISED_MOST: Final = 50
"""Waiting jobs that `conservative` promises nodes at once: an early default of Slurm's backfilling; it is 500
today. Offers after early ends cost about the square of it."""

ORDERS: Final[dict[OrderName, Fixed]] = {
    "arrival": ARRIVAL,
    "shortest": SHORTEST,
    "smallest": SMALLEST,
    "largest": LARGEST,
    "smallest-area": SMALLEST_AREA,
}


Placing = Literal["nodes", "numbers"]


class Setting(NamedTuple):
    """What a scheduler is made for."""

    pools: Sequence[PoolLayout]
    by_number: bool
    """Any device is as good as any other."""
    accounts: tuple[str, ...]
    """Tenants that the workload has, in alphabetical order."""
    spares: Mapping[str, int] = {}
    """Nodes of each pool that are kept back, counted in `pools`."""
    speeds: Speeds = Rigid()
    asked: bool = False
    """Whether estimates are what users asked for, and not made up from the run times that they would tell."""
    prices: Mapping[str, float] = {}
    """Of a device-hour, by pool, where all are in one currency."""
    prefer: Prefer | None = None
    """Which pool a job tries first."""
    around: Surroundings | None = None
    """For what stands around the policy."""

    @property
    def devices(self) -> int:
        return sum(pool.devices for pool in self.pools)

    def machine(self) -> Counted | Placed:
        """A new one, with everything free."""
        if self.by_number:
            return Counted(self.devices)
        placed = Placed(self.pools, prefer=self.prefer)
        for pool, nodes in self.spares.items():
            placed.reserve(pool, nodes=nodes)
        return placed


class Known(NamedTuple):
    """A policy that there is."""

    takes: tuple[str, ...]
    """Parameters that mean something to it."""
    make: Callable[[Policy, Setting], Scheduler]
    placements: tuple[Placing, ...] = ("nodes", "numbers")
    options: tuple[str, ...] = OPTIONS
    """What can stand around it, on nodes."""


def check_policy(policy: Policy, *, by_number: bool, fleet: Fleet | None = None, tell: Tell) -> None:
    """Parameters that the policy does not take, and placements that it cannot do."""
    takes = POLICIES[policy.name].takes
    for name in given(policy):
        if name not in takes and name not in OPTIONS:
            remedy = f"it takes {listed(takes)}" if takes else "it takes none"
            tell(f"policy.{name}", f"has no meaning with `{policy.name}`; {remedy}")
    placing = "numbers" if by_number else "nodes"
    placements = POLICIES[policy.name].placements
    if placing not in placements:
        tell("policy.name", f"`{policy.name}` cannot do `placement: {placing}`; use {listed(placements)}")
    if policy.name == "conservative" and policy.depth is not None and by_number:
        tell("policy.depth", "with `placement: numbers` everybody has a promise; remove it")
    if policy.review_s is not None and 0 < policy.review_s < 1:
        tell("policy.review_s", f"{policy.review_s:g} s lets time hardly pass; use 1 s or more, or 0 for never")
    _check_thresholds(policy.thresholds_device_s or (), tell)
    able = {option: _unable(policy.name, option, by_number=by_number) for option in OPTIONS}
    check_options(policy, able=able, fleet=fleet, tell=tell)


def _check_thresholds(thresholds: Sequence[float], tell: Tell) -> None:
    for index, (low, high) in enumerate(pairwise(thresholds), start=1):
        if low >= high:
            tell(f"policy.thresholds_device_s[{index}]", f"{high:g} is not above {low:g}, the one before; sort them")


def _unable(name: PolicyName, option: str, *, by_number: bool) -> str:
    """Why a policy cannot take an option; empty: it can."""
    if option not in POLICIES[name].options:
        able = [other for other, known in POLICIES.items() if option in known.options]
        return f"cannot stand around `{name}`; remove it, or use {listed(able)}"
    return "is of nodes, and with `placement: numbers` there are none; use `nodes`" if by_number else ""


def given(policy: Policy) -> tuple[str, ...]:
    """Parameters that were said."""
    names = (field.name for field in msgspec.structs.fields(Policy) if field.name != "name")
    return tuple(name for name in names if getattr(policy, name) is not None)


def renamed(policy: Policy, name: PolicyName) -> Policy:
    """Another policy, with those of the parameters that mean something to it, and all that stands around it."""
    takes = (*POLICIES[name].takes, *OPTIONS)
    kept = {field: getattr(policy, field) for field in given(policy) if field in takes}
    return Policy(name=name, **kept)


def scheduler_of(policy: Policy, setting: Setting) -> Scheduler:
    """The scheduler that a policy is, with all around it, on a fleet with everything free."""
    return surrounded(policy, setting).scheduler


def surrounded(policy: Policy, setting: Setting) -> Around:
    """The same, with what can be asked of it afterwards."""
    return around(POLICIES[policy.name].make(policy, setting), policy, setting.around)


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
    return (
        Conservative(machine)
        if isinstance(machine, Counted)
        else ConservativeNodes(machine, depth=policy.depth or PROMISED_MOST)
    )


def _priority(policy: Policy, setting: Setting) -> Scheduler:
    return Easy(setting.machine(), order=_factors(policy, setting))


def _factors(policy: Policy, setting: Setting) -> MultiFactor:
    shares = Shares(
        _accounts(policy.shares or dict.fromkeys(setting.accounts, 1.0)), half_life_s=policy.half_life_s or HALF_LIFE_S
    )
    weights = policy.weights
    return MultiFactor(
        shares,
        devices=setting.devices,
        weights=Weights() if weights is None else msgspec.convert(msgspec.structs.asdict(weights), Weights),
        algorithm=policy.algorithm or "fair tree",
        age_most_s=policy.age_most_s or AGE_MOST_S,
        refresh_s=policy.refresh_s or REFRESH_S,
        favour_small=bool(policy.favour_small),
    )


def _accounts(shares: dict[str, float]) -> Sequence[Account]:
    """A tree of what was said; a tenant whose users alone are named has one share."""
    parents = dict.fromkeys(name.partition("/")[0] for name in shares if "/" in name)
    named = [name for name in (*parents, *shares) if name]
    return [
        Account(name=name, shares=shares.get(name, 1.0), parent=name.partition("/")[0] if "/" in name else "")
        for name in dict.fromkeys(named)
    ]


def _ranked(ranking: Ranking, policy: Policy, setting: Setting) -> Scheduler:
    """A ranking, with the parameters that all of them take."""
    worth = {name: getattr(policy, name) for name in WORTH if getattr(policy, name) is not None}
    ranked = {name: getattr(policy, name) for name in RANKED if getattr(policy, name) is not None}
    return Ranked(_placed(policy, setting), ranking, worth=Worth(**worth), speeds=setting.speeds, **ranked)


def _preemptive(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(ByArrival(), policy, setting)


def _fair(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(ByPriority(_factors(policy, setting), **_said(policy, margin="margin")), policy, setting)


def _las(policy: Policy, setting: Setting) -> Scheduler:
    said = _said(policy, thresholds_device_s="thresholds", starve_factor="starve_factor")
    return _ranked(LeastService(**said), policy, setting)


def _srtf(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(_shortest(policy, setting, by="time", predictor="estimate"), policy, setting)


def _srsf(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(_shortest(policy, setting, by="service", predictor="estimate"), policy, setting)


def _qssf(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(_shortest(policy, setting, by="service", predictor="user-means"), policy, setting)


def _gittins(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(Gittins(Lengths(), **_said(policy, margin="margin", exponent="exponent")), policy, setting)


def _shortest(policy: Policy, setting: Setting, *, by: Literal["time", "service"], predictor: str) -> ShortestRemaining:
    said = _said(policy, margin="margin")
    match policy.predictor or predictor:
        case "estimate":
            return ShortestRemaining(_estimate_s, by=by, **said)
        case "learned":
            durations = Durations(estimates=setting.asked)
            return ShortestRemaining(durations, by=by, learn=durations.ended, **said)
        case _:
            means = UserMeans()
            return ShortestRemaining(means, by=by, learn=means.learn, **said)


def _estimate_s(job: Job) -> float:
    return job.estimate_s


def _deadline(policy: Policy, setting: Setting) -> Scheduler:
    return _ranked(EarliestDeadline(**_said(policy, slack_s="slack_s")), policy, setting)


def _gavel(policy: Policy, setting: Setting) -> Scheduler:
    objective: heterogeneous.Policy = OBJECTIVES.get(policy.objective or "", heterogeneous.max_min)
    if policy.objective == "cheapest":  # the only one that asks for prices
        if unpriced := [pool.name for pool in setting.pools if pool.name not in setting.prices]:
            hint = "give every pool its `price_per_device_hour`, in one currency"
            raise SpecError(f"pool `{unpriced[0]}` has no price", path="policy.objective", hint=hint)
        objective = functools.partial(heterogeneous.cheapest, price_per_device_hour=setting.prices)
    said = _said(policy, round_s="round_s")
    return Gavel(_placed(policy, setting), speeds=setting.speeds, policy=objective, **said)


def _elastic(policy: Policy, setting: Setting) -> Scheduler:
    said = _said(policy, solver="solver", round_s="round_s", guard_s="guard_s")
    return Resizing(_placed(policy, setting), setting.speeds, **said)


def _myriarch(policy: Policy, setting: Setting) -> Scheduler:
    said = {name: getattr(policy, name) for name in OURS if getattr(policy, name) is not None}
    speeds = None if isinstance(setting.speeds, Rigid) else setting.speeds
    settings = msgspec.structs.replace(SETTINGS, **said)
    return myriarch(_placed(policy, setting), speeds=speeds, settings=settings)


def _placed(policy: Policy, setting: Setting) -> Placed:
    machine = setting.machine()
    if not isinstance(machine, Placed):
        raise SpecError(f"`{policy.name}` places jobs on nodes", path="placement", hint="placement: nodes")
    return machine


def _said(policy: Policy, **names: str) -> dict[str, Any]:
    """Parameters that were said, by what the machine calls them."""
    return {theirs: value for ours, theirs in names.items() if (value := getattr(policy, ours)) is not None}


OBJECTIVES: Final[dict[str, heterogeneous.Policy]] = {
    "makespan": heterogeneous.makespan,
    "finish-time": heterogeneous.finish_time,
}
OURS: Final = ("margin", "spell", "price", "exponent", "guard_s", "holds")
WORTH: Final = ("spell", "price", "exchange")
RANKED: Final = ("holds", "guard_s", "guard_share", "review_s")
STOPS: Final = (*WORTH, *RANKED)
"""What every policy takes that may stop running jobs."""
PRIORITY: Final = ("weights", "shares", "algorithm", "half_life_s", "age_most_s", "refresh_s", "favour_small")

POLICIES: Final[dict[PolicyName, Known]] = {
    "fifo": Known(("order",), _fifo),
    "easy": Known(("order",), _easy),
    "sjbf": Known(("order",), _sjbf),
    "conservative": Known(("depth",), _conservative, options=("spares", "prefer")),
    "priority": Known(PRIORITY, _priority),
    "preemptive": Known(STOPS, _preemptive, ("nodes",)),
    "fair": Known((*PRIORITY, "margin", *STOPS), _fair, ("nodes",)),
    "las": Known(("thresholds_device_s", "starve_factor", *STOPS), _las, ("nodes",)),
    "srtf": Known(("predictor", "margin", *STOPS), _srtf, ("nodes",)),
    "srsf": Known(("predictor", "margin", *STOPS), _srsf, ("nodes",)),
    "qssf": Known(("predictor", "margin", *STOPS), _qssf, ("nodes",)),
    "gittins": Known(("margin", "exponent", *STOPS), _gittins, ("nodes",)),
    "deadline": Known(("slack_s", *STOPS), _deadline, ("nodes",)),
    "gavel": Known(("objective", "round_s"), _gavel, ("nodes",), options=()),
    "myriarch": Known(OURS, _myriarch, ("nodes",)),
    "elastic": Known(("solver", "round_s", "guard_s"), _elastic, ("nodes",), options=()),
}
