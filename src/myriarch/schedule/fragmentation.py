"""How much of what is free is of no use because of where it lies.

After the measure of Weng et al., "Beware of Fragmentation" (FGD, USENIX ATC'23), section 3: the free devices that a job
drawn from the demand cannot use, averaged over the demand. There devices are shared and a job is small; here jobs are
gangs: one that finds no place can use none of the free devices, one that does all those that lie as it needs them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.packing import choose


def stranded_devices(pool: PoolLayout, free: NDArray[np.int64], devices: int) -> int:
    """Free devices that a gang of so many devices cannot use. free: of each node, shape (nodes,)."""
    nodes, each = pool.gang(devices)
    usable = free >= each
    if choose(pool, usable, free, nodes, "pool") is None:
        return int(free.sum())
    return int(free.sum() - (free[usable] // each * each).sum())


def fragmentation(pool: PoolLayout, free: NDArray[np.int64], demand: Mapping[int, float]) -> float:
    """Share of the free devices that the demand cannot use; 0 when nothing is free.

    demand: how often a gang of so many devices is asked for; need not sum to 1.
    """
    total, weight = int(free.sum()), sum(demand.values())
    if not total or not weight:
        return 0.0
    return sum(often * stranded_devices(pool, free, devices) for devices, often in demand.items()) / (total * weight)
