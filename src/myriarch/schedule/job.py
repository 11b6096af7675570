"""A job as the scheduler sees it: what it asks for, never how long it will really run."""

from __future__ import annotations

import math
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
    deadline_s: float | None = None
    """When it should have ended; None: whenever."""
    sizes: tuple[int, ...] = ()
    """Other numbers of devices that will do, beside `devices`: mouldable, the size is chosen when it starts."""
    elastic: bool = False
    """It may go over to another of its sizes while it runs."""
    preemptible: bool = False
    """It may be made to wait again, and goes on from what it saved."""
    save_s: float = 0.0
    """How long it saves before it gives its devices up; it makes no progress meanwhile."""
    restart_s: float = 0.0
    """How long it starts and restores, without progress, whenever it starts again or changes its devices."""
    saves_every_s: float = math.inf
    """Running time between two checkpoints: what a fault loses at most. Infinite: a fault loses all."""
