"""What goes wrong in a fleet of nodes, as the cluster simulator takes it: drawn from rates or replayed from a log."""

from __future__ import annotations

from typing import Literal

from myriarch.event.base import Value

Course = Literal["repair", "in_place", "slow", "corrupt", "maintenance"]
"""What follows. `repair`: the node is away for a while. `in_place`: its processes die, the node stays. `slow`: it goes
on slower for a while (fail-slow). `corrupt`: it computes wrong values until somebody notices (silent data corruption).
`maintenance`: announced; the node is drained and away for a while."""


class Breakdown(Value, frozen=True, kw_only=True):
    """One fault of one node. A rack or a switch that fails gives one for each of its nodes, at one instant."""

    at_s: float
    pool: str
    node: int
    """Index in the pool."""
    cause: str
    """In the words of the source of the rate: `GPU HBM3 Memory`, `Network Switch/Cable`."""
    course: Course
    duration_s: float = 0.0
    """Away, slow, or until the corruption is noticed; 0 with `in_place`."""
    factor: float = 1.0
    """With `slow`: share of its speed that is left."""
    announced_s: float = 0.0
    """With `maintenance`: how long before."""
