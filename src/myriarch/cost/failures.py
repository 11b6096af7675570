"""How often a run is interrupted.

Up to some 55,000 devices the rate of a job grows as its nodes do. Beyond, it grows faster than that (switches, power,
software that meets its first 100,000 ranks). Published points, unexpected interruptions of one job per 1000 nodes (8
devices) and day:

    16,384 devices   3.79   419 in 54 days               The Llama 3 Herd of Models (arXiv:2407.21783), table 5
    32,768           2.3    678                          Fault-tolerant HSDP (arXiv:2602.00277), table 1
    98,304           6.51   every 18 minutes             the same; 2.3 would give 51 minutes
    131,072          6.3    every 14 minutes, projected  the same

The law taken here is the upper envelope of the measured ones,

    rate(N) = max(3.79, 2.3 (N/32768)^0.947)             0.947 = ln(51/18) / ln 3

It holds between 8 devices and 100,000: at 32,768 it is 1.65 times what was measured there, at 131,072 1.36 times what
was projected. Two clusters of one company, both of H100: other fleets should state their own rate (`failures` of a
pool), which then counts as measured at its size, without growth.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real
from myriarch.spec.fleet import Pool
from myriarch.spec.run import ResolvedRun
from myriarch.units import S_PER_DAY

DEFAULT_PER_NODE_DAY: Final = 3.79e-3
"""419 unexpected interruptions of 2048 nodes (8 H100 each) in 54 days: The Llama 3 Herd of Models (arXiv:2407.21783),
table 5. Its counts are used: the shares that it prints beside them do not match. Others: Meta RSC 2.34 and 6.50,
FT-HSDP 2.3 per 1000 node-days."""


LARGE_PER_NODE_DAY: Final = 2.3e-3
LARGE_DEVICES: Final = 32768.0
LARGE_EXPONENT: Final = 0.947
"""Fault-tolerant HSDP (arXiv:2602.00277): the rate at 32,768 devices, and how it grew by 98,304."""
MEASURED_DEVICES: Final = 98304.0
"""The largest job whose rate was published: beyond, the law is a guess."""


def per_node_day(devices: Real) -> Array:
    """Interruptions of one node (8 devices) and day in a job of so many devices, by the law above."""
    large = LARGE_PER_NODE_DAY * (np.asarray(devices, dtype=float) / LARGE_DEVICES) ** LARGE_EXPONENT
    return np.maximum(DEFAULT_PER_NODE_DAY, large)


def growth(devices: Real) -> Array:
    """How many times the rate of a small job a node's rate is, in a job of so many devices."""
    return per_node_day(devices) / DEFAULT_PER_NODE_DAY


def node_rate_per_s(pool: Pool) -> float:
    """Failures per second of one node of the pool: as the fleet file says, else the published default."""
    per_day = DEFAULT_PER_NODE_DAY if pool.failures is None else pool.failures.per_node_day
    return per_day / S_PER_DAY


def failure_rate_per_s(resolved: ResolvedRun) -> float:
    """Failures per second of all nodes that the run's groups work on; spares interrupt nothing.

    Pools without a rate of their own have the published one, which grows with all the run's devices.
    """
    pools = [(group.nodes, resolved.fleet.pool(group.pool)) for group in resolved.run.groups]
    devices = sum(nodes * pool.devices_per_node for nodes, pool in pools)
    grown = float(growth(devices))
    return sum(nodes * node_rate_per_s(pool) * (grown if pool.failures is None else 1.0) for nodes, pool in pools)


def mtbf_s(resolved: ResolvedRun) -> float:
    """Mean seconds between two failures of the run; inf when nothing ever fails."""
    rate = failure_rate_per_s(resolved)
    return 1.0 / rate if rate > 0 else math.inf
