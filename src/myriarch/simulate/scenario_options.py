"""What can be put around a policy: the part of a scenario's `policy` that changes the fleet under any scheduler.

`simulate.scenario_around` makes the schedulers of them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from myriarch.schedule.defragmentation import PAUSE_S
from myriarch.schedule.lending import STEP_S
from myriarch.schedule.sparing import MOST_SHARE, REVIEW_S
from myriarch.spec.base import Count, Name, NonNegative, Positive, Spec

Load = Annotated[float, Meta(ge=0, le=1)]


class Service(Spec, frozen=True, kw_only=True):
    """An inference service that owns devices of a pool, and lends what it does not need."""

    name: Name
    pool: Name
    devices: Count
    """At its peak, on whole nodes of its own."""
    load: tuple[Load, ...]
    """Share of them that it needs: 24 numbers, by hour of the day from midnight. `power.begins_hour` says at which
    hour the scenario begins."""
    notice_s: Annotated[float, Meta(ge=1, le=86_400)]
    """How long before they are needed devices are asked back. Only jobs that may be preempted, and save within it,
    are lent to."""


class Lend(Spec, frozen=True, kw_only=True):
    """Services that lend (Lyra)."""

    services: tuple[Service, ...]
    step_s: Annotated[float, Meta(ge=60, le=3600)] = STEP_S
    """Between two looks at what services will need; divides the hour."""


class Defragment(Spec, frozen=True, kw_only=True):
    """Running jobs are moved together for a gang that fits by count."""

    pause_s: Annotated[float, Meta(ge=1)] = PAUSE_S
    """Between two plans."""
    price: NonNegative = 1.0
    """What a lost device-second counts against one that the gang is spared."""


class PowerLimit(Spec, frozen=True, kw_only=True):
    """A cap on the power of all devices, and jobs held back for cheaper hours."""

    cap_w: Positive | tuple[Positive, ...] | None = None
    """At the plug, without the site's PUE: one, or one for each hour from the beginning; when they are over they begin
    anew. None: no cap."""
    slack_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Part of its slack (deadline - submission - estimate) for which a job with a deadline may be held back until
    energy is cheaper; 0: nobody is."""


class SparesByRisk(Spec, frozen=True, kw_only=True):
    """As many nodes are kept back in each pool as the risk of the running gangs is worth."""

    per_node_day: Annotated[float, Meta(ge=0, le=1000)] | None = None
    """Failures that take a node away. None: those of the scenario's `faults`, else the pools' own."""
    repair_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    """Mean. None: likewise."""
    review_s: Annotated[float, Meta(ge=60)] = REVIEW_S
    most_share: Annotated[float, Meta(ge=0, lt=1)] = MOST_SHARE
    """Of a pool's nodes, at most."""
