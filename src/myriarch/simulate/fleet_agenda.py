"""What is going to happen on a simulated fleet, by time; at one instant in the order in which it was planned."""

from __future__ import annotations

import heapq
from typing import Any, Final, Literal

from myriarch.units import NS_PER_S

Kind = Literal[
    "strike", "fault", "stepped", "noticed", "faster", "back", "rested", "overdue", "ready", "started", "stopped",
    "held", "safe", "finish",
]  # fmt: skip
"""Names of what happens; `simulate.fleet` says what follows from each."""
FOR_EVER_S: Final = 1e15


class Agenda:
    """A clock that jumps from one happening to the next. Invariant: nothing is planned for before now."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._queue: list[tuple[int, int, Kind, Any]] = []
        self._arrivals = 0

    @property
    def now_s(self) -> float:
        return self.now_ns / NS_PER_S

    def at(self, when_ns: int, kind: Kind, what: Any) -> None:
        """It happens at this instant, or now if that is over."""
        self._arrivals += 1
        heapq.heappush(self._queue, (max(when_ns, self.now_ns), self._arrivals, kind, what))

    def after(self, delay_s: float, kind: Kind, what: Any) -> None:
        """It happens so long from now; not at all if that is for ever."""
        if delay_s < FOR_EVER_S:
            self.at(self.now_ns + round(delay_s * NS_PER_S), kind, what)

    def next(self, *, until_ns: int) -> tuple[Kind, Any] | None:
        """Go on to what happens next. None: nothing does until then."""
        if not self._queue or self._queue[0][0] > until_ns:
            return None
        self.now_ns, _, kind, what = heapq.heappop(self._queue)
        return kind, what
