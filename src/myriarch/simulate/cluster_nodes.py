"""In which state the nodes of the simulated cluster are; those that are well are not in it."""

from __future__ import annotations

from collections.abc import Iterable

from myriarch.event.spans import Leaf
from myriarch.schedule.decision import Placement

NodeKey = tuple[str, int]
"""Pool, index."""


class Nodes:
    """Invariant: every entry has a breakdown that is not over; the numbers are those of breakdowns."""

    def __init__(self) -> None:
        self.dying: set[NodeKey] = set()
        """Gone, and nobody knows yet: what runs there stands still."""
        self.away: dict[NodeKey, set[int]] = {}
        self.away_as: dict[NodeKey, Leaf] = {}
        """What its devices do while the scheduler knows it to be away."""
        self.slow: dict[NodeKey, dict[int, float]] = {}
        """Share of its speed that each breakdown leaves."""
        self.corrupt: dict[NodeKey, set[int]] = {}

    def dies(self, placement: Placement) -> bool:
        """Whether one of its nodes is gone without anybody knowing."""
        return bool(self.dying) and any((placement.pool, node) in self.dying for node in placement.nodes)

    def taints(self, placement: Placement) -> Iterable[int]:
        """Breakdowns that make its values wrong."""
        if not self.corrupt:
            return ()
        return [number for node in placement.nodes for number in self.corrupt.get((placement.pool, node), ())]

    def pace(self, placement: Placement) -> tuple[float, int]:
        """What its slowest node leaves of its speed, and how many devices are on slow nodes."""
        if not self.slow:
            return 1.0, 0
        factors = [self.slow.get((placement.pool, node)) for node in placement.nodes]
        slow = [min(one.values()) for one in factors if one]
        return min(slow, default=1.0), len(slow) * placement.devices_per_node
