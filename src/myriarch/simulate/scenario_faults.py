"""The breakdowns of a scenario: drawn from published rates or its own, or read from a log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from myriarch.cost.failures import DEFAULT_PER_NODE_DAY
from myriarch.cost.spares import DEFAULT_REPAIR_SHARE, mean_repair_s
from myriarch.errors import SpecError, UsageError
from myriarch.event.base import Value
from myriarch.schedule.layout import PoolLayout
from myriarch.simulate.breakdowns import Breakdown, Course
from myriarch.simulate.faults import Fault
from myriarch.simulate.rates import (
    FAIL_SLOW,
    HARDWARE,
    ROW,
    SWITCH,
    Cause,
    FaultRates,
    like_lanl,
    maintenance,
    plain,
)
from myriarch.simulate.rates_draw import draw
from myriarch.simulate.rates_log import BreakdownLog, LogProblem, read_breakdowns
from myriarch.simulate.rates_published import published
from myriarch.simulate.scenario import FaultModel, ListedFault
from myriarch.spec.fleet import Pool
from myriarch.spec.problems import listed

RUN_COURSES: Final[tuple[Course, ...]] = ("repair", "in_place", "slow")
"""That a run file's run knows: its steps are not computed, so nothing can be corrupted, and nobody announces."""
PROBLEMS_SHOWN: Final = 20
"""Lines of a log that are told one by one; all are counted."""


class FaultIntake(Value, frozen=True, kw_only=True):
    """What goes wrong, as it came in."""

    source: str
    """The published source, the log, or `rates`."""
    breakdowns: int
    by_course: dict[str, int]
    problems: dict[str, int] = msgspec.field(default_factory=dict)
    """Lines of the log that gave no breakdown, by kind."""
    examples: tuple[LogProblem, ...] = ()
    """The first of them."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is to be told about lines that gave no breakdown."""
        total = sum(self.problems.values())
        if not total:
            return ()
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.problems.items()))
        first = self.examples[0]
        return (f"{self.source}: {total:,} lines gave no breakdown: {kinds}; first: line {first.line}: {first.text}",)


class Faulty(Value, frozen=True, kw_only=True):
    """Breakdowns by time."""

    breakdowns: tuple[Breakdown, ...]
    intake: FaultIntake


def breakdowns_of(
    faults: FaultModel,
    pools: Sequence[Pool],
    layouts: Sequence[PoolLayout],
    *,
    until_s: float,
    seed: int,
    job_devices: int | None = None,
) -> Faulty:
    """All of them before `until_s`. job_devices: of the one job that has all devices; its rates may grow with it."""
    found: list[Breakdown] = []
    problems: dict[str, int] = {}
    examples: tuple[LogProblem, ...] = ()
    if faults.listed:
        found = [breakdown_of(one) for one in faults.listed if one.at_s < until_s]
    elif faults.log:
        log = _read(Path(faults.log), {layout.name: layout.nodes for layout in layouts})
        found = [one for one in log.breakdowns if one.at_s < until_s]
        problems, examples = log.problem_counts, log.problems[:PROBLEMS_SHOWN]
    else:
        for pool, layout in zip(pools, layouts, strict=True):
            found += draw(rates_of(faults, pool), [layout], until_s=until_s, seed=seed, job_devices=job_devices)
    order = {pool.name: number for number, pool in enumerate(pools)}
    found.sort(key=lambda one: (one.at_s, order[one.pool], one.node))
    courses = Counter(one.course for one in found)
    return Faulty(
        breakdowns=tuple(found),
        intake=FaultIntake(
            source="listed" if faults.listed else faults.log or faults.source or "rates",
            breakdowns=len(found),
            by_course=dict(sorted(courses.items())),
            problems=problems,
            examples=examples,
        ),
    )


def breakdown_of(said: ListedFault) -> Breakdown:
    """One that was written down."""
    pool, _, index = said.node.rpartition("-")
    return Breakdown(
        at_s=said.at_s,
        pool=pool,
        node=int(index),
        cause=said.cause,
        course=said.course,
        duration_s=said.duration_s or 0.0,
        factor=said.factor or 1.0,
        announced_s=said.announced_s,
    )


def faults_in_run(breakdowns: Iterable[Breakdown]) -> Iterator[Fault]:
    """What breakdowns do to the world of a run. A node that is repaired comes back as another machine in its place;
    a duration of 0 is for good."""
    for one in breakdowns:
        target = f"{one.pool}-{one.node}"
        match one.course:
            case "repair":
                yield Fault(action="break", target=target, at_s=one.at_s, duration_s=one.duration_s or math.inf)
            case "in_place":
                yield Fault(action="kill_workers", target=target, at_s=one.at_s)
            case "slow":
                yield Fault(action="slow", target=target, at_s=one.at_s, factor=one.factor)
                if one.duration_s:
                    until_s = one.at_s + one.duration_s
                    yield Fault(action="slow", target=target, at_s=until_s, factor=1.0 / one.factor)
            case _:
                raise SpecError(
                    f"`{one.course}` of {target} at {one.at_s:g} s cannot happen in a run",
                    path="faults",
                    hint=f"it knows {listed(RUN_COURSES)}",
                )


def rates_of(faults: FaultModel, pool: Pool) -> FaultRates:
    """The model of one pool, with all that the scenario changes in it."""
    rates = published(faults.source, noticed_s=faults.noticed_s) if faults.source else _own(faults, pool)
    rates = rates.scaled(faults.rate) if faults.rate != 1.0 else rates
    if faults.shape is not None:
        rates = msgspec.structs.replace(rates, shape=faults.shape)
    if faults.lemons is not None:
        lemons = faults.lemons
        rates = msgspec.structs.replace(rates, lemon_share=lemons.share, lemon_times=lemons.times)
    return rates.with_causes(*_further(faults))


def _own(faults: FaultModel, pool: Pool) -> FaultRates:
    """What the scenario says of all pools, else what the pool says of itself, else Llama 3's rate."""
    said = pool.failures
    per_node_day = faults.per_node_day
    if per_node_day is None:
        per_node_day = DEFAULT_PER_NODE_DAY if said is None else said.per_node_day
    repair = HARDWARE
    if faults.repair_s is not None:
        repair = like_lanl(faults.repair_s)
    elif said is not None:
        repair = like_lanl(float(mean_repair_s(said.repair_s)))
    return plain(
        per_node_day,
        repair=repair,
        repair_share=DEFAULT_REPAIR_SHARE if faults.repair_share is None else faults.repair_share,
        name=pool.name,
    )


def _further(faults: FaultModel) -> Iterable[Cause]:
    if faults.switches and not faults.source:
        yield SWITCH
    if faults.rows:
        yield ROW
    if faults.fail_slow:
        yield FAIL_SLOW
    if (upkeep := faults.maintenance) is not None:
        yield maintenance(every_s=upkeep.every_s, duration_s=upkeep.duration_s, announced_s=upkeep.announced_s)


def _read(path: Path, nodes: Mapping[str, int]) -> BreakdownLog:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return read_breakdowns(file, nodes=nodes)
    except SpecError as error:
        raise SpecError(error.message, source=str(path), hint=error.hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="name a CSV file of breakdowns") from None
