"""The breakdowns of a scenario: drawn from published rates or its own, or read from a log."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from myriarch.cost.failures import DEFAULT_PER_NODE_DAY
from myriarch.cost.spares import DEFAULT_REPAIR_SHARE
from myriarch.errors import SpecError, UsageError
from myriarch.schedule.layout import PoolLayout
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.rates import FAIL_SLOW, HARDWARE, ROW, SWITCH, Cause, FaultRates, like_lanl, maintenance, plain
from myriarch.simulate.rates_draw import draw
from myriarch.simulate.rates_published import published
from myriarch.simulate.scenario import FaultModel
from myriarch.spec.fleet import Pool

COLUMNS: Final = ("at_s", "pool", "node", "cause", "course", "duration_s", "factor", "announced_s")
"""Of a log; the last three may be missing or empty."""
NUMBERS: Final = ("at_s", "duration_s", "factor", "announced_s")


def breakdowns_of(
    faults: FaultModel,
    pools: Sequence[Pool],
    layouts: Sequence[PoolLayout],
    *,
    until_s: float,
    seed: int,
    job_devices: int | None = None,
) -> tuple[Breakdown, ...]:
    """All of them before `until_s`, by time. job_devices: of the one job that has all devices; its rates may grow."""
    if faults.log:
        return tuple(one for one in read_log(Path(faults.log)) if one.at_s < until_s)
    found: list[Breakdown] = []
    for pool, layout in zip(pools, layouts, strict=True):
        found += draw(rates_of(faults, pool), [layout], until_s=until_s, seed=seed, job_devices=job_devices)
    order = {pool.name: number for number, pool in enumerate(pools)}
    return tuple(sorted(found, key=lambda one: (one.at_s, order[one.pool], one.node)))


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


# --- a log -----------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> tuple[Breakdown, ...]:
    """The breakdowns of a CSV file, by time. Raises SpecError with the line, UsageError for a file that is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS[:5] if name not in (rows.fieldnames or ())]
            if missing:
                hint = f"the first line names the columns: {','.join(COLUMNS)}"
                raise SpecError(f"lacks `{'`, `'.join(missing)}`", source=str(path), hint=hint)
            found = [_breakdown(row, f"{path}:{rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="name a CSV file of breakdowns") from None
    return tuple(sorted(found, key=lambda one: one.at_s))


def _breakdown(row: Mapping[str, str], where: str) -> Breakdown:
    said = {name: row[name].strip() for name in COLUMNS if (row.get(name) or "").strip()}
    try:
        content = {name: float(text) if name in NUMBERS else text for name, text in said.items()}
        made = msgspec.convert({**content, "node": int(said["node"])}, Breakdown)
    except (ValueError, KeyError, msgspec.ValidationError) as error:
        raise SpecError(f"is no breakdown: {error}", source=where, hint="see docs/simulation.md, faults") from None
    if not (made.at_s >= 0 and made.duration_s >= 0 and 0 < made.factor <= 1 and made.announced_s >= 0):
        raise SpecError("has a time below zero, or a factor that is no share", source=where, hint="use times from 0")
    return made
