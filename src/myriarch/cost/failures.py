"""How often a run is interrupted."""

from __future__ import annotations

import math
from typing import Final

from myriarch.spec.fleet import Pool
from myriarch.spec.run import ResolvedRun
from myriarch.units import S_PER_DAY

DEFAULT_PER_NODE_DAY: Final = 3.79e-3
"""419 unexpected interruptions of 2048 nodes (8 H100 each) in 54 days: The Llama 3 Herd of Models (arXiv:2407.21783),
table 5. Its counts are used: the shares that it prints beside them do not match. Others: Meta RSC 2.34 and 6.50,
FT-HSDP 2.3 per 1000 node-days."""


def node_rate_per_s(pool: Pool) -> float:
    """Failures per second of one node of the pool: as the fleet file says, else the published default."""
    per_day = DEFAULT_PER_NODE_DAY if pool.failures is None else pool.failures.per_node_day
    return per_day / S_PER_DAY


def failure_rate_per_s(resolved: ResolvedRun) -> float:
    """Failures per second of all nodes that the run's groups work on; spares interrupt nothing.

    Independent failures. Past some 32,000 devices the measured rate grows faster than the nodes do (Meta: 18 minutes
    between failures at 98,000 where the rate at 32,000 would give 51), which this does not model.
    """
    return sum(group.nodes * node_rate_per_s(resolved.fleet.pool(group.pool)) for group in resolved.run.groups)


def mtbf_s(resolved: ResolvedRun) -> float:
    """Mean seconds between two failures of the run; inf when nothing ever fails."""
    rate = failure_rate_per_s(resolved)
    return 1.0 / rate if rate > 0 else math.inf
