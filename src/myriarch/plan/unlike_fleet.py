"""Plans over the pools of a fleet file: who may take part is read from it, the rest is `plan.unlike`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from myriarch.cost.decoder import Decoder
from myriarch.cost.parameters import Parameters
from myriarch.cost.pools import machine_of
from myriarch.cost.silicon import UNKNOWN, silicon
from myriarch.cost.split import Machine, Software
from myriarch.errors import SpecError
from myriarch.plan.bridge import AVERAGINGS, Averaging, Bridges
from myriarch.plan.unlike import Entrant, Refusal, UnlikePlan, unlike_plans
from myriarch.plan.unlike_offers import Axes, pool_entrant
from myriarch.plan.unlike_pipelines import pair_entrant
from myriarch.spec.catalogue import chip_of, described
from myriarch.spec.fleet import Fleet, Pool

NARROW: Final = ("fp8", "fp4")
UNUSED: Final = ("tf32", "fp32", "fp64", "fp64_tc", "int8", "mem_type", "pcie")
"""Fields of the catalogue that no formula of a step takes: doubts about them do not touch a plan."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and by which software: the same on all pools."""

    decoder: Decoder
    batch: int
    """Sequences of a step, all groups together."""
    sequence: int
    """Tokens."""
    software: Software
    parameters: Parameters
    precision: str = "bf16"
    overlap: float = 0.0
    """Share of the last backward pass beside which the bridge exchanges; the trainer's begins after it."""


def fleet_plans(
    task: Task,
    fleet: Fleet,
    *,
    axes: Mapping[str, Axes] | Axes | None = None,
    averagings: tuple[Averaging, ...] = AVERAGINGS,
    pipelines: bool = True,
    machines: Mapping[str, Machine] | None = None,
    measured: Collection[str] | None = None,
    top: int = 5,
) -> tuple[UnlikePlan, ...]:
    """The best plans over the fleet's pools, best first; empty when the model fits nowhere.

    axes: what is tried, for all pools or by pool. pipelines: also groups over two pools, where a link joins them.
    machines: numbers by pool, which go before the catalogue's. measured: those of them that were measured (all, unless
    said), so that nothing of theirs is doubtful. A pool whose chip lacks a number that the formulas need is refused in
    `left_out` of each plan; raises SpecError when all are.
    """
    known = frozenset((machines or {}) if measured is None else measured)
    found: dict[str, Machine] = {}
    refused: list[Refusal] = []
    for pool in fleet.pools:
        try:
            found[pool.name] = (machines or {}).get(pool.name) or machine_of(pool, precision=task.precision)
        except SpecError as error:
            refused.append(Refusal(pool=pool.name, reason=error.message))
    if not found:
        raise SpecError(
            f"none of the {len(fleet.pools)} pools can be planned: " + "; ".join(each.reason for each in refused),
            path="pools",
            hint="describe the chips inline, or measure them with `myriarch doctor --calibrate`",
        )
    bridges = Bridges.of(
        fleet,
        share=task.parameters.network_share,
        card_bytes_per_s={
            name: fleet.pool(name).devices * float(own.network_bandwidth_bytes_per_s) for name, own in found.items()
        },
    )
    entrants = []
    for name, own in found.items():
        entrant = _alone(task, fleet.pool(name), own, axes, measured=name in known)
        if len(entrant.offers):
            entrants.append(entrant)
        else:
            refused.append(Refusal(pool=name, reason="the model fits in no split of it"))
    if pipelines:
        entrants += _pairs(task, fleet, found, bridges, measured=known)
    return unlike_plans(
        entrants,
        batch=task.batch,
        parameters=float(task.decoder.parameters),
        bridges=bridges,
        averagings=averagings,
        refused=_not_in(refused, entrants),
        top=top,
    )


def _not_in(refused: list[Refusal], entrants: list[Entrant]) -> list[Refusal]:
    """Refusals that hold in every plan: of pools that take part in nothing, not even in a pipeline."""
    paired = {pool for entrant in entrants for pool in entrant.pools}
    return [each for each in refused if each.pool not in paired]


def doubts(pool: Pool) -> tuple[str, ...]:
    """Numbers of a pool's chip that a plan uses and that nobody vouches for."""
    chip = chip_of(pool)
    found = []
    if chip.is_doubtful:
        found.append(f"{pool.name}: {described(chip)}")
    recalled = [field for field in chip.uncertain_fields if field not in UNUSED]
    if recalled:
        found.append(f"{pool.name}: {chip.id}, recalled rather than read: {', '.join(recalled)}")
    if silicon(chip.id) is UNKNOWN:
        found.append(f"{pool.name}: {chip.id}, processors, year and network are taken as {UNKNOWN}")
    if not chip.matmul_measured_flops_per_s:
        share = silicon(chip.id).measured_share
        found.append(f"{pool.name}: {chip.id}, nobody measured its products; taken as {share:.0%} of the peak")
    return tuple(found)


def _alone(task: Task, pool: Pool, own: Machine, axes: Mapping[str, Axes] | Axes | None, *, measured: bool) -> Entrant:
    tried = axes.get(pool.name) if isinstance(axes, Mapping) else axes
    return pool_entrant(
        pool.name,
        task.decoder,
        machine=own,
        devices=pool.devices,
        batch=task.batch,
        sequence=task.sequence,
        software=task.software,
        parameters=task.parameters,
        axes=tried,
        narrow_share=1.0 if task.precision in NARROW else 0.0,
        overlap=task.overlap,
        doubts=() if measured else doubts(pool),
    )


def _pairs(
    task: Task, fleet: Fleet, found: Mapping[str, Machine], bridges: Bridges, *, measured: frozenset[str]
) -> Iterator[Entrant]:
    for one, other in itertools.combinations(found, 2):
        if bridges.link(one, other) is None:
            continue
        entrant = pair_entrant(
            (one, other),
            task.decoder,
            machines=(found[one], found[other]),
            devices=(fleet.pool(one).devices, fleet.pool(other).devices),
            batch=task.batch,
            sequence=task.sequence,
            software=task.software,
            parameters=task.parameters,
            bridges=bridges,
            narrow_share=1.0 if task.precision in NARROW else 0.0,
            doubts=tuple(doubt for name in (one, other) if name not in measured for doubt in doubts(fleet.pool(name))),
        )
        if len(entrant.offers):
            yield entrant
