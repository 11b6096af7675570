"""Whether this machine has room for a run, in memory and on disk: asked before anything starts, so nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from myriarch.cost.flops import state_bytes
from myriarch.errors import EnvironmentFault
from myriarch.run.sweep import SHM
from myriarch.spec.run import Group, ResolvedRun
from myriarch.units import format_bytes

SLOTS: Final = 2
"""Of each shard, wherever it is held: the committed one and the one that is being filled."""

JOURNAL_BYTES: Final = 8 * 1024**2
"""For journal, ledger and logs: a few thousand steps' worth; a long run's grow with it."""


def shard_bytes(resolved: ResolvedRun, group: Group) -> float:
    """One worker's part of the state. Optimizer scalars, indexes and hashes are a per mille of it and left out."""
    return state_bytes(resolved.model) / group.mesh.dp_shard


def machine_bytes(resolved: ResolvedRun) -> float:
    """All slots of all nodes of a local fleet."""
    copies = 1 + resolved.run.checkpoint.copies
    return sum(SLOTS * copies * group.mesh.devices * shard_bytes(resolved, group) for group in resolved.run.groups)


def check_disk(resolved: ResolvedRun) -> None:
    """Raise EnvironmentFault when the checkpoints that are kept, the one being written and the journal cannot fit."""
    output = Path(resolved.run.output).absolute()
    there = next(path for path in (output, *output.parents) if path.exists())
    needed_bytes = (1 + resolved.run.checkpoint.keep_on_disk) * state_bytes(resolved.model) + JOURNAL_BYTES
    free_bytes = shutil.disk_usage(there).free
    if needed_bytes > free_bytes:
        raise EnvironmentFault(
            f"{there} has {format_bytes(free_bytes)} free, and the run's checkpoints, journal and logs take "
            f"{format_bytes(needed_bytes)}",
            hint="free it, name another folder with `output` in the run file, or lower `checkpoint.keep_on_disk`",
        )


def check(resolved: ResolvedRun, *, shm: Path = SHM) -> None:
    """Raise EnvironmentFault when the slots cannot fit into the machine, or a node's own into what it may have."""
    for group in resolved.run.groups:
        pool = resolved.fleet.pool(group.pool)
        own_bytes = SLOTS * pool.devices_per_node * shard_bytes(resolved, group)
        if pool.host_memory_bytes is not None and own_bytes > pool.host_memory_bytes:
            raise EnvironmentFault(
                f"a node of pool `{pool.name}` needs {format_bytes(own_bytes)} for the snapshots of its own workers, "
                f"and `host_memory_bytes` gives it {format_bytes(pool.host_memory_bytes)}",
                hint="raise it in the fleet file, or shard the model over more devices",
            )
    needed_bytes, free_bytes = machine_bytes(resolved), shutil.disk_usage(shm).free
    if needed_bytes > free_bytes:
        raise EnvironmentFault(
            f"{shm} has {format_bytes(free_bytes)} free, and the run's snapshots take {format_bytes(needed_bytes)}",
            hint=f"make it larger (`mount -o remount,size=... {shm}`), free it, or lower `checkpoint.copies`",
        )
