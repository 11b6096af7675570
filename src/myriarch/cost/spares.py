"""How many spare nodes: the chance that repairs outrun them, and what it costs when they do.

Nodes fail at a total rate `lambda` (Poisson), each is away for a repair of mean length `R`. The number away is that of
an M/G/infinity queue: Poisson with mean `lambda R`, whatever the distribution of the repair times (Palm, Ericsson
Technics 44, 1943; Takacs, "Introduction to the Theory of Queues", 1962, chapter 3). LANL's repair times are as far from
exponential as can be (squared coefficient of variation 187: Schroeder and Gibson, DSN 2006), which therefore does not
matter; only their mean does.

Holds while few of the nodes are away (a node in repair cannot fail: a correction of `R lambda / nodes`, below 1 % in
practice) and while repairs do not queue for technicians. Failures that take a rack at once are not Poisson in nodes:
count racks then. Tails are summed from their small end, so that 1e-12 is as exact as 0.5, in O(mean) for each mean.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real

DEFAULT_REPAIR_S: Final = 86400.0
"""Mean. A judgement between LANL's mean of 355 min (Schroeder and Gibson, DSN 2006) and SuperBench (ATC 2024), where
38 % of incidents took more than a day and 10 % more than two weeks."""
LANL_MEAN_S: Final = 355 * 60.0
LANL_MEDIAN_S: Final = 54 * 60.0
"""Repair times of 22 systems of LANL, which a log-normal fits best: Schroeder and Gibson, DSN 2006, section 6."""
DEFAULT_REPAIR_SHARE: Final = 0.78
"""Of the failures, those that take their node away: confirmed or suspected hardware, The Llama 3 Herd of Models
(arXiv:2407.21783), section 3.3.4. The others begin anew on the same node."""
_REACH: Final = 12.0
"""Standard deviations past the mean, and as many nodes more: beyond lies less than 1e-16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortage:
    """What is missing when the spares do not suffice; shares of time and of the job, in 0..1."""

    chance: Array
    """Of being short of any node: the share of time that a job stands still which needs all of them."""
    missing_nodes: Array
    """Mean, over all time."""
    degraded_share: Array
    """Of the job, lost on average when the whole replica groups that lack a node are left out."""


def mean_repair_s(median_s: Real) -> Array:
    """Mean of log-normal repairs with this median, as widely spread as LANL's: median x exp(sigma^2 / 2), 6.6 times."""
    return np.asarray(median_s, dtype=float) * (LANL_MEAN_S / LANL_MEDIAN_S)


def nodes_in_repair(failures_per_s: Real, *, repair_s: Real = DEFAULT_REPAIR_S) -> Array:
    """Mean number of nodes away; `failures_per_s` of all nodes together, those that need a repair."""
    return np.asarray(failures_per_s, dtype=float) * repair_s


def shortage_chance(mean: Real, *, spares: Real) -> Array:
    """P(more than `spares` nodes are away), `mean` being away on average."""
    return _tabled(lambda away, spare: _beyond(away)[min(int(spare), len(_beyond(away)) - 1)], mean, spares)


def spares_needed(mean: Real, *, target: Real) -> Array:
    """The fewest spares that suffice with probability `target` at least."""
    if np.any(np.less(target, 0) | np.greater_equal(target, 1)):
        raise ValueError(f"target: {target} is not a probability from 0 to below 1")

    def fewest(away: float, wanted: float) -> float:
        return float(np.argmax(_beyond(away) <= (1.0 - wanted) * (1.0 + 1e-12)))

    return _tabled(fewest, mean, target)


def shortage(mean: Real, *, spares: Real, nodes: Real, group_nodes: Real = 1.0) -> Shortage:
    """What a job of `nodes` nodes lacks. `group_nodes`: of one replica group, which runs whole or not at all; its nodes
    take others' free places, so that what is missing is gathered in as few groups as possible."""
    chance = shortage_chance(mean, spares=spares)
    missing = _tabled(lambda away, spare: float(_beyond(away)[int(spare) :].sum()), mean, spares)
    # The mean of ceil((N - s)/g) groups is the sum over j of P(N > s + j g).
    groups = _tabled(
        lambda away, spare, size: float(_beyond(away)[int(spare) :: max(int(size), 1)].sum()), mean, spares, group_nodes
    )
    degraded: Array = np.minimum(groups * group_nodes / nodes, chance)
    return Shortage(chance=chance, missing_nodes=missing, degraded_share=degraded)


def best_spares(mean: float, *, nodes: float, group_nodes: float | None = None) -> int:
    """The spares that leave the largest share of all nodes owned at work: one more idles more than it saves.

    Without `group_nodes` the job needs every node; with it, it goes on without the groups that lack one.
    """
    spares = np.arange(len(_beyond(mean)), dtype=float)
    lack = shortage(mean, spares=spares, nodes=nodes, group_nodes=group_nodes or 1.0)
    lost = lack.chance if group_nodes is None else lack.degraded_share
    return int(np.argmax((1.0 - lost) * nodes / (nodes + spares)))


@functools.lru_cache(maxsize=256)
def _beyond(mean: float) -> Array:
    """P(N > s) for s = 0, 1, ... until it is 0 in doubles; N Poisson."""
    if not (mean >= 0 and math.isfinite(mean)):
        raise ValueError(f"mean: {mean} nodes in repair is not a finite number from zero up")
    last = math.ceil(mean + _REACH * (math.sqrt(mean) + 1.0)) + 20
    number = np.arange(1.0, last + 1.0)
    steps = np.log(mean) - np.log(number) if mean > 0 else np.full(last, -np.inf)
    chance = np.exp(np.cumsum(steps) - mean)  # of 1, 2, ..., last; logarithms, so that exp(-mean) may underflow
    found: Array = np.minimum(np.append(np.cumsum(chance[::-1])[::-1], 0.0), 1.0)
    found.setflags(write=False)
    return found


def _tabled(value: Callable[..., float], *arguments: Real) -> Array:
    """`value` of each element, computed once for equal ones: plans share their device counts."""
    arrays = np.broadcast_arrays(*(np.asarray(argument, dtype=float) for argument in arguments))
    unique, back = np.unique(np.stack([each.ravel() for each in arrays], axis=1), axis=0, return_inverse=True)
    values = np.array([value(*map(float, row)) for row in unique])
    found: Array = values[back.ravel()].reshape(arrays[0].shape)
    return found
