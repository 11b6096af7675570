"""What has to hold between the parts of a scenario. Shapes were checked before; files are those of `cli`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from myriarch.simulate.rates_published import SOURCES
from myriarch.simulate.scenario import (
    FaultModel,
    Generator,
    Grid,
    ListedJob,
    Policy,
    Scaling,
    Scenario,
    Training,
    Trait,
    Workload,
)
from myriarch.simulate.scenario_faults import RUN_COURSES
from myriarch.simulate.scenario_policy import check_policy
from myriarch.simulate.workload.deep_learning import MIXES
from myriarch.simulate.workload.gavel import KINDS
from myriarch.simulate.workload.sia import profiles
from myriarch.spec.catalogue import catalogue
from myriarch.spec.consistency import Tell, check_fleet
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.problems import did_you_mean, listed
from myriarch.spec.run import ResolvedRun

SEEDS_LIMIT: Final = 10_000
_DRAWN: Final = {
    name: getattr(FaultModel(), name)
    for name in ("rate", "shape", "lemons", "switches", "rows", "fail_slow", "maintenance")
}
"""What changes faults that are drawn, with what it is when nobody says it."""


def check_scenario(scenario: Scenario, *, tell: Tell) -> None:
    """Tell everything that does not fit. The fleet has been read: it is no path any more."""
    asked = _asked(scenario)
    if len(asked) != 1:
        what = f"has {' and '.join(f'`{name}`' for name in asked)}" if asked else "asks for nothing"
        tell("", f"{what}; give one of `workload`, `training` and `run`")
    if scenario.run:
        for name in ("fleet", "until_s", "tuning"):
            if getattr(scenario, name):
                tell(name, "is of a workload; a run file says its own fleet and end; remove it")
    if scenario.training is not None and scenario.until_s is None:
        tell("until_s", "is missing; say how long it trains, like `until_s: 30 d`")
    if scenario.workload is None and len(asked) == 1:
        _check_no_jobs(scenario, asked[0], tell)
    if scenario.training is not None:
        _check_training(scenario.training, fleet if isinstance(fleet := scenario.fleet, Fleet) else None, tell)
    if scenario.timing is not None and not scenario.run:
        tell("timing", "is of a `run`, and there is none; remove it")
    if scenario.seeds > SEEDS_LIMIT:
        tell("seeds", f"{scenario.seeds} are more than anybody waits for; use at most {SEEDS_LIMIT}")
    fleet = scenario.fleet
    if isinstance(fleet, Fleet):
        check_fleet(fleet, catalogue=catalogue(), tell=lambda path, message: tell(f"fleet.{path}", message))
    elif scenario.workload is not None or scenario.training is not None:
        tell("fleet", "is missing; name a fleet file, or write chip:devices like h100-sxm:1024")
    by_number = scenario.placement == "numbers"
    if by_number and isinstance(fleet, Fleet) and len(fleet.pools) > 1:
        tell("placement", f"`numbers` tells no devices apart, and the fleet has {len(fleet.pools)} pools; use `nodes`")
    if by_number and isinstance(fleet, Fleet) and any(pool.spares for pool in fleet.pools):
        tell("placement", "spares are nodes, and with `numbers` there are none; use `nodes`")
    check_policy(scenario.policy, by_number=by_number, fleet=fleet if isinstance(fleet, Fleet) else None, tell=tell)
    if scenario.workload is not None:
        _check_workload(scenario.workload, fleet if isinstance(fleet, Fleet) else None, tell)
    if scenario.faults is not None:
        _check_faults(scenario.faults, by_number=by_number, tell=tell)
        where = scenario.run.fleet if isinstance(scenario.run, ResolvedRun) else fleet
        _check_listed_faults(scenario.faults, where if isinstance(where, Fleet) else None, scenario, tell)
    if scenario.power is not None:
        _check_power(scenario.power, tell)


def _check_no_jobs(scenario: Scenario, asked: str, tell: Tell) -> None:
    """What is of many jobs, and would say nothing."""
    if scenario.policy != Policy():
        tell("policy", f"decides between jobs, and a {asked} is one; remove it")
    if scenario.placement != "nodes":
        tell("placement", f"is of jobs, and a {asked} is one on whole nodes; remove it")
    if scenario.forecasts:
        tell("forecasts", f"are of the waits of jobs, and a {asked} waits for nobody; remove it")
    if scenario.tuning is not None and not scenario.run:
        tell("tuning", f"is of a workload, and this is a {asked}; remove it")
    if scenario.faults is not None and scenario.faults.detect_s:
        tell("faults.detect_s", f"is of a workload; a {asked} has a detection time for each cause; remove it")


def _check_training(training: Training, fleet: Fleet | None, tell: Tell) -> None:
    if training.merge_s >= training.step_s:
        tell("training.merge_s", f"{training.merge_s:g} s is all of a step of {training.step_s:g} s; use less")
    names = [] if fleet is None else [pool.name for pool in fleet.pools]
    for name in training.speeds if names else ():
        if name not in names:
            near = did_you_mean(name, names)
            tell(f"training.speeds.{name}", f"no pool is called `{name}`;{near} the fleet has {listed(names)}")


def _asked(scenario: Scenario) -> list[str]:
    return [name for name in ("workload", "training", "run") if getattr(scenario, name)]


def _check_workload(workload: Workload, fleet: Fleet | None, tell: Tell) -> None:
    named = {"trace": workload.trace, "generator": workload.generator, "jobs": workload.jobs}
    given = [name for name, value in named.items() if value]
    if len(given) != 1:
        has = f"has {' and '.join(f'`{name}`' for name in given)}" if given else "has no jobs"
        tell("workload", f"{has}; give one of `trace`, `generator` and `jobs`")
    if workload.kind is not None and not workload.trace:
        tell("workload.kind", "says what a trace file is, and there is none; remove it")
    if workload.to_s is not None and workload.to_s <= workload.from_s:
        tell("workload.to_s", f"{workload.to_s:g} s is not after from_s, {workload.from_s:g} s")
    if workload.scaling is not None and fleet is not None:
        _check_scaling(workload.scaling, fleet, tell)
    if workload.generator is not None:
        _check_generator(workload.generator, tell)
    _check_trainings(workload, fleet, tell)
    if workload.jobs:
        _check_listed(workload.jobs, tell)
    for index, trait in enumerate(workload.traits):
        _check_trait(trait, f"workload.traits[{index}]", fleet, tell)


def _check_scaling(scaling: Scaling, fleet: Fleet, tell: Tell) -> None:
    names = [pool.name for pool in fleet.pools]
    said = {"workload.scaling.reference": scaling.reference} if scaling.reference else {}
    said |= {f"workload.scaling.by_pool.{name}": name for name in scaling.by_pool}
    for path, name in said.items():
        if name not in names:
            tell(path, f"no pool is called `{name}`;{did_you_mean(name, names)} the fleet has {listed(names)}")


def _check_generator(generator: Generator, tell: Tell) -> None:
    if generator.load is None and generator.name in MIXES:
        tell("workload.generator", f"`load` is missing; `{generator.name}` needs it, like `load: 0.8`")
    if generator.multiple is not None and generator.name != "gavel":
        tell("workload.generator.multiple", f"is of `gavel`, not of `{generator.name}`; remove it")


def _check_trainings(workload: Workload, fleet: Fleet | None, tell: Tell) -> None:
    """Jobs whose speeds were measured, on GPUs of some kinds."""
    name = "" if workload.generator is None else workload.generator.name
    sia = name.startswith("sia-") or workload.kind == "sia"
    if workload.part is not None and workload.kind != "sia":
        tell("workload.part", "is of a file of Sia's workloads, and there is none; remove it")
    if workload.tuning is not None and not sia:
        tell("workload.tuning", "is of Sia's jobs, and there are none; remove it")
    if not (sia or name == "gavel"):
        return
    if workload.scaling is not None:
        tell("workload.scaling", "says how fast jobs are, and for these it was measured; remove it")
    kinds = {kind: each.devices_per_node for kind, each in profiles().kinds.items()} if sia else dict.fromkeys(KINDS, 0)
    for index, pool in enumerate(() if fleet is None else fleet.pools):
        path = f"fleet.pools[{index}]"
        if pool.name not in kinds:
            tell(
                f"{path}.name",
                f"the speeds of these jobs are known on {listed(kinds)}; call pools so, not `{pool.name}`",
            )
        elif sia and pool.devices_per_node != kinds[pool.name]:
            has = f"the speeds of these jobs are known on nodes of {kinds[pool.name]}"
            tell(f"{path}.devices_per_node", f"{has}, not of {pool.devices_per_node}; use {kinds[pool.name]}")


def _check_listed(jobs: tuple[ListedJob, ...], tell: Tell) -> None:
    first: dict[str, int] = {}
    for index, job in enumerate(jobs):
        if job.id in first:
            tell(f"workload.jobs[{index}].id", f"`{job.id}` is jobs[{first[job.id]}] already; give each its own")
        first.setdefault(job.id, index)


def _check_trait(trait: Trait, path: str, fleet: Fleet | None, tell: Tell) -> None:
    most, least = trait.devices_most, trait.devices_least
    if most is not None and least is not None and most < least:
        tell(f"{path}.devices_most", f"{most} is below devices_least, {least}: no job is both")
    if trait.sizes is not None and trait.size_factors is not None:
        tell(f"{path}.size_factors", "says what `sizes` says; keep one")
    if fleet is None:
        return
    names = [pool.name for pool in fleet.pools]
    for name in trait.pools or ():
        if name not in names:
            near = did_you_mean(name, names)
            tell(f"{path}.pools", f"no pool is called `{name}`;{near} the fleet has {listed(names)}")
    if trait.precision is not None and not any(_computes(pool, trait.precision) for pool in fleet.pools):
        tell(f"{path}.precision", f"no pool's chip has a rate for `{trait.precision}`")


def _computes(pool: Pool, precision: str) -> bool:
    chip = pool.chip if isinstance(pool.chip, Chip) else catalogue().get(pool.chip)
    return chip is None or not chip.rate_flops_per_s or precision in chip.rate_flops_per_s


def _check_faults(faults: FaultModel, *, by_number: bool, tell: Tell) -> None:
    said = {
        "source": faults.source,
        "per_node_day": faults.per_node_day is not None,
        "log": faults.log,
        "listed": faults.listed,
    }
    given = [name for name, value in said.items() if value]
    if len(given) > 1:
        tell("faults", f"has {' and '.join(f'`{name}`' for name in given)}; keep one")
    if by_number:
        tell("faults", "nodes fail, and with `placement: numbers` there are none; use `nodes`")
    if faults.source and faults.source not in SOURCES:
        near = did_you_mean(faults.source, SOURCES)
        tell("faults.source", f"`{faults.source}` is not known;{near} there are {listed(SOURCES)}")
    for name in ("repair_s", "repair_share"):
        if getattr(faults, name) is not None and (faults.source or faults.log or faults.listed):
            tell(f"faults.{name}", "goes with rates of one's own; remove it, or the source, log or list")
    if faults.noticed_s and not faults.source:
        tell("faults.noticed_s", "is of silent corruption, which only published sources have; name a `source`")
    if faults.log or faults.listed:
        what = "log" if faults.log else "list"
        for name, usual in _DRAWN.items():
            if getattr(faults, name) != usual:
                tell(f"faults.{name}", f"is of faults that are drawn; a {what} has them all; remove it")


def _check_listed_faults(faults: FaultModel, fleet: Fleet | None, scenario: Scenario, tell: Tell) -> None:
    if scenario.run and not (faults.log or faults.listed):
        tell("faults", "of a run are written down: give a `log`, or `listed` faults")
    names = () if fleet is None else fleet.node_names
    known = set(names)
    for index, one in enumerate(faults.listed):
        path = f"faults.listed[{index}]"
        if known and one.node not in known:
            has = ", ".join(f"{pool.node_names[0]} to {pool.node_names[-1]}" for pool in fleet.pools) if fleet else ""
            tell(f"{path}.node", f"`{one.node}` is not known;{did_you_mean(one.node, names)} nodes are {has}")
        if one.course == "slow" and one.factor is None:
            tell(path, "`factor` is missing; say which share of its speed is left, like `factor: 0.5`")
        if one.course != "slow" and one.factor is not None:
            tell(f"{path}.factor", f"has no meaning with `{one.course}`; remove it")
        if scenario.run and one.course not in RUN_COURSES:
            tell(f"{path}.course", f"`{one.course}` cannot happen in a run; it knows {listed(RUN_COURSES)}")
        if not scenario.run and one.course != "in_place" and one.duration_s is None:
            tell(path, f"`duration_s` is missing; say for how long, like `duration_s: 1 h` (`{one.course}`)")


def _check_power(power: Grid, tell: Tell) -> None:
    for name, series in _series(power):
        if isinstance(series, tuple) and not series:
            tell(f"power.{name}", "is empty; give one value, or one for each hour")
    if (power.price_per_kwh is not None or power.hours) and not power.currency:
        tell("power.currency", "is missing; say what the price is in, like USD or CNY")
    carbon = power.carbon_kg_per_kwh
    if carbon is not None and min(carbon if isinstance(carbon, tuple) else (carbon,), default=0.0) < 0:
        tell("power.carbon_kg_per_kwh", "is below zero; a grid emits at least nothing")


def _series(power: Grid) -> Iterator[tuple[str, float | tuple[float, ...] | None]]:
    for name in ("price_per_kwh", "carbon_kg_per_kwh"):
        yield name, getattr(power, name)
