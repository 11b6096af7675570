"""What gangs take of nodes, as rows of a program: devices, and that pieces of a gang have to fit into nodes.

Ten devices on nodes of eight are two pieces of five, beside which no other five has room, though six devices are free.
Counted by devices alone such gangs are chosen together and then find no place. So each pool has several rows. In row k
a piece of more than `per_node - k` devices counts as a whole node, one of fewer than k as nothing, any other as what it
is; whatever can be packed into the nodes keeps below `nodes x per_node` in all of them. These are the dual feasible
functions behind the bound L2 of bin packing (Martello and Toth, Discrete Applied Mathematics 28, 1990); row 1 counts
devices. The converse is not true, but nearly so for nodes of few devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.layout import PoolLayout

Floats = NDArray[np.float64]

ROWS_MOST: Final = 8
"""Of a pool; nodes of up to 16 devices have all of theirs, larger ones every so many."""


class Footprints:
    """Rows of all pools, one pool after the other."""

    def __init__(self, pools: Iterable[PoolLayout]) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._thresholds = {name: _thresholds(pool.devices_per_node) for name, pool in self._pools.items()}
        self._first: dict[str, int] = {}
        self.rows = 0
        for name, thresholds in self._thresholds.items():
            self._first[name] = self.rows
            self.rows += len(thresholds)

    def room(self, devices: dict[str, int]) -> Floats:
        """Of each row, where pools have so many usable devices, in whole nodes. Float64 [rows]."""
        return np.concatenate([np.full(len(each), float(devices[name])) for name, each in self._thresholds.items()])

    def of(self, pool: str, *, nodes: int, each: int) -> Floats:
        """Of a gang with so many devices on each of so many nodes. Float64 [rows]."""
        per_node, first = self._pools[pool].devices_per_node, self._first[pool]
        found = np.zeros(self.rows)
        for row, least in enumerate(self._thresholds[pool], start=first):
            found[row] = nodes * (per_node if each > per_node - least else each if each >= least else 0)
        return found


def _thresholds(per_node: int) -> tuple[int, ...]:
    half = max(per_node // 2, 1)
    return tuple(range(1, half + 1, -(-half // ROWS_MOST)))
