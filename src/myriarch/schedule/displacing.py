"""Who has to go so that a gang finds room: the victims, and where the gang then lies.

Running jobs that may be preempted are taken in the order in which they should go. The shortest beginning of that order
that makes room is found by bisection (more victims never make less room); then, those that should stay longest first,
all that the gang's nodes do not need are let off. So victims are few, and every one of them is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job
from myriarch.schedule.nodes import PoolNodes
from myriarch.schedule.packing import choose
from myriarch.schedule.placed import Placed

Ints = NDArray[np.int64]


class Displacement(NamedTuple):
    """A place for a job, once its victims are gone."""

    placement: Placement
    victims: tuple[int, ...]
    """Indices into the candidates."""
    freed_devices: int
    """By all victims together."""


def displace(
    machine: Placed,
    job: Job,
    candidates: Sequence[Placement],
    *,
    until_s: float,
    barred: Mapping[str, Iterable[int]] | None = None,
) -> Displacement | None:
    """Room for a job that does not fit now, at the cost of few of the candidates, the first of them first.

    `barred`: nodes by pool that it may not use; nor may it use nodes that are drained before `until_s`, or spares. Of
    several pools the one with fewest devices freed; None: no room even without all of them.
    """
    found: Displacement | None = None
    for name, nodes in machine.pools.items():
        if nodes.pool.obstacle(job):
            continue
        mine = [index for index, placement in enumerate(candidates) if placement.pool == name]
        shut = [*(barred or {}).get(name, ()), *nodes.barred(until_s)]
        one = _in_pool(nodes, job, [(index, candidates[index]) for index in mine], shut)
        if one is not None and (found is None or one.freed_devices < found.freed_devices):
            without = [candidates[index] for index in one.victims]
            if machine.supply is None or machine.supply.admits(
                job, one.placement, now_s=until_s - job.estimate_s, without=without
            ):
                found = one
    return found


def _in_pool(
    nodes: PoolNodes, job: Job, candidates: Sequence[tuple[int, Placement]], barred: Iterable[int]
) -> Displacement | None:
    pool = nodes.pool
    many, each = pool.gang(job.devices)
    shut = np.fromiter(barred, dtype=np.intp)

    def room(count: int) -> Ints:
        """Free devices of each node without the first candidates."""
        free = nodes.free.copy()
        for _, placement in candidates[:count]:
            for node in placement.nodes:
                free[node] += placement.devices_per_node
        free[shut] = 0
        return free

    def chosen(count: int) -> NDArray[np.intp] | None:
        free = room(count)
        return choose(pool, free >= each, free, many, job.within)

    # Fewer cannot do, by their devices alone; and it is seldom many more: gallop, then bisect.
    low = _fewest(candidates, many * each - nodes.free_devices)
    probe, step = low, 1
    while (best := chosen(probe)) is None:
        if probe == len(candidates):
            return None
        low, probe, step = probe + 1, min(probe + step, len(candidates)), 2 * step
    high = probe
    while low < high:
        middle = (low + high) // 2
        if (there := chosen(middle)) is None:
            low = middle + 1
        else:
            high, best = middle, there
    victims = _needed(candidates[:high], room(high), best, each)
    return Displacement(
        placement=Placement(pool=pool.name, nodes=tuple(best.tolist()), devices_per_node=each),
        victims=tuple(index for index, _ in victims),
        freed_devices=sum(placement.devices for _, placement in victims),
    )


def _fewest(candidates: Sequence[tuple[int, Placement]], missing: int) -> int:
    """How many of the first have so many devices together; all, if they have fewer."""
    for count, (_, placement) in enumerate(candidates):
        if missing <= 0:
            return count
        missing -= placement.devices
    return len(candidates)


def _needed(
    candidates: Sequence[tuple[int, Placement]], room: Ints, chosen: NDArray[np.intp], each: int
) -> list[tuple[int, Placement]]:
    """Without whom the chosen nodes lack devices; those that come last are let off first."""
    spare = {int(node): int(room[node]) - each for node in chosen}
    needed: list[tuple[int, Placement]] = []
    for index, placement in reversed(candidates):
        touched = [node for node in placement.nodes if node in spare]
        if all(spare[node] >= placement.devices_per_node for node in touched):
            for node in touched:
                spare[node] -= placement.devices_per_node
        else:
            needed.append((index, placement))
    needed.reverse()
    return needed
