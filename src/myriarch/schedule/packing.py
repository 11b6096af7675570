"""Which nodes a gang takes: all in one rack where there is one with room, else one pod, else as few racks as it goes.

Of the places that will do, the fullest one that is large enough is taken, so that large holes stay whole (best fit).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.job import Within
from myriarch.schedule.layout import PoolLayout

Nodes = NDArray[np.intp]

MORE_THAN_ANY: Final = np.iinfo(np.int64).max


def choose(
    pool: PoolLayout, usable: NDArray[np.bool_], free: NDArray[np.int64], nodes: int, within: Within
) -> Nodes | None:
    """So many of the usable nodes of a pool, ascending; None when they are not there.

    usable, free: of each node, shape (nodes of the pool,). Within a rack, nodes that are fuller already are taken
    first.
    """
    if np.count_nonzero(usable) < nodes:
        return None
    racks = _counts(usable, pool.nodes_per_rack)
    if (rack := _fullest(racks, nodes)) is not None:
        return _take(pool, usable, free, [(rack, nodes)])
    if within in ("node", "rack"):
        return None
    pods = _counts(racks, pool.racks_per_pod)
    if (pod := _fullest(pods, nodes)) is not None:
        return _take(
            pool, usable, free, _spread(racks, nodes, first=pod * pool.racks_per_pod, count=pool.racks_per_pod)
        )
    if within == "pod":
        return None
    shares: list[tuple[int, int]] = []
    for pod, share in _spread(pods, nodes, first=0, count=len(pods)):
        shares += _spread(racks, share, first=pod * pool.racks_per_pod, count=pool.racks_per_pod)
    return _take(pool, usable, free, shares)


def earliest(pool: PoolLayout, ready_s: NDArray[np.float64], nodes: int, within: Within) -> float:
    """When so many nodes of a pool are ready within one domain; infinite: never.

    ready_s: the instant at which each node is, shape (nodes of the pool,).
    """
    size = pool.domain_nodes(within)
    if size >= pool.nodes:
        return float(np.partition(ready_s, nodes - 1)[nodes - 1])
    domains = -(-pool.nodes // size)
    padded = np.full(domains * size, np.inf)
    padded[: pool.nodes] = ready_s
    return float(np.partition(padded.reshape(domains, size), nodes - 1, axis=1)[:, nodes - 1].min())


def enough(pool: PoolLayout, ready: NDArray[np.bool_], nodes: int, within: Within) -> bool:
    """Whether so many nodes of a pool are ready within one domain. ready: of each node."""
    size = pool.domain_nodes(within)
    if size >= pool.nodes:
        return int(np.count_nonzero(ready)) >= nodes
    return int(_counts(ready, size).max()) >= nodes


def _counts(of: NDArray[np.bool_] | NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Sums of neighbours, so many at a time."""
    sums: NDArray[np.int64] = np.add.reduceat(of.astype(np.int64), np.arange(0, len(of), size))
    return sums


def _fullest(counts: NDArray[np.int64], nodes: int) -> int | None:
    """Of the places with room for so many nodes, the one with least room."""
    room = np.where(counts >= nodes, counts, MORE_THAN_ANY)
    best = int(room.argmin())
    return best if counts[best] >= nodes else None


def _spread(counts: NDArray[np.int64], nodes: int, *, first: int, count: int) -> list[tuple[int, int]]:
    """Places and how many nodes each gives: the roomiest first, then the fullest that has room for what remains."""
    room = counts[first : first + count].copy()
    shares: list[tuple[int, int]] = []
    for at in np.argsort(-room, kind="stable").tolist():
        if nodes == 0:
            break
        if int(room[at]) >= nodes:
            best = _fullest(room, nodes)
            assert best is not None
            shares.append((first + best, nodes))
            break
        shares.append((first + at, int(room[at])))
        nodes -= int(room[at])
        room[at] = 0
    return shares


def _take(pool: PoolLayout, usable: NDArray[np.bool_], free: NDArray[np.int64], shares: list[tuple[int, int]]) -> Nodes:
    """From each rack its number of usable nodes, fuller ones first."""
    taken = []
    for rack, count in shares:
        begin = rack * pool.nodes_per_rack
        nodes = begin + np.flatnonzero(usable[begin : begin + pool.nodes_per_rack])
        taken.append(nodes[np.argsort(free[nodes], kind="stable")[:count]])
    chosen: Nodes = np.sort(np.concatenate(taken))
    return chosen
