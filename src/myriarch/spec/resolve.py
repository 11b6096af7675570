"""A run with its fleet and model: chips inlined, groups filled in, everything checked against everything."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Final

import msgspec

from myriarch.spec.consistency import check_fleet, check_model, check_run, check_trainable
from myriarch.spec.document import Source
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.problems import collected
from myriarch.spec.run import Group, Mesh, ResolvedRun, Run


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where the three files came from, for the errors."""

    run: Source
    fleet: Source
    model: Source


NO_FILES: Final = Sources(run=Source("run"), fleet=Source("fleet"), model=Source("model"))


def resolve(
    run: Run, fleet: Fleet, model: Model, *, catalogue: Mapping[str, Chip], sources: Sources = NO_FILES
) -> ResolvedRun:
    """Fill in every default that needs more than one file.

    Chips named in the fleet are replaced by the catalogue's. A run without groups gets one per pool, called like it,
    over all its nodes (not the spares), sharded over all its devices. Raises SpecError with everything that does not
    fit together.
    """
    by_name = {pool.name: pool for pool in fleet.pools}
    groups = run.groups or tuple(_whole_pool(pool) for pool in by_name.values())
    with collected() as problems:
        check_fleet(fleet, catalogue=catalogue, tell=functools.partial(problems.add, sources.fleet))
        check_model(model, tell=functools.partial(problems.add, sources.model))
        check_trainable(model, tell=functools.partial(problems.add, sources.model))
        check_run(run, fleet=fleet, groups=groups, tell=functools.partial(problems.add, sources.run))
    return ResolvedRun(
        run=msgspec.structs.replace(run, groups=groups), fleet=with_chips(fleet, catalogue=catalogue), model=model
    )


def with_chips(fleet: Fleet, *, catalogue: Mapping[str, Chip]) -> Fleet:
    """The fleet with its chips inline. Raises KeyError for one that is not in the catalogue; `check_fleet` tells it."""
    return msgspec.structs.replace(fleet, pools=tuple(_with_chip(pool, catalogue) for pool in fleet.pools))


def _whole_pool(pool: Pool) -> Group:
    return Group(name=pool.name, pool=pool.name, nodes=pool.nodes, mesh=Mesh(dp_shard=pool.devices))


def _with_chip(pool: Pool, catalogue: Mapping[str, Chip]) -> Pool:
    if isinstance(pool.chip, Chip):
        return pool
    return msgspec.structs.replace(pool, chip=catalogue[pool.chip])
