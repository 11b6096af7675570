"""A job as the scheduler sees it: what it asks for, never how long it will really run."""

from __future__ import annotations

from typing import Literal, NewType

from myriarch.event.base import Value
from myriarch.spec.fleet import Precision

JobId = NewType("JobId", str)

Kind = Literal["gang", "hpc", "inference", "interactive", "experiment"]
"""`gang`: training on all its devices or none. `hpc`: MPI. `experiment`: one of many small ones."""

Within = Literal["node", "rack", "pod", "pool"]
"""The largest part of the network that a gang may be spread over. `pool`: packed as well as it goes, no further demand.
No gang is ever spread over two pools."""


class Job(Value, frozen=True, kw_only=True):
    """What somebody asks for."""

    id: JobId
    submit_s: float
    devices: int
    """All of its devices together; they start and end together."""
    estimate_s: float
    """Upper bound of its run time: a scheduler plans with it and a fleet may end the job when it is over."""
    within: Within = "pool"
    pools: tuple[str, ...] = ()
    """Pools that will do; none named: any."""
    precision: Precision | None = None
    """What it computes in; only pools that have it will do. None: whatever there is."""
    tenant: str = ""
    """Whose share of the fleet it uses: a virtual cluster, a project, an account."""
    user: str = ""
    kind: Kind = "gang"
    quality: float = 0.0
    """Quality of service, 0..1: one factor of its priority."""
