"""Virtual time: integer nanoseconds, and a queue of things to happen."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from myriarch.units import NS_PER_S


class Clock:
    """Time stands still while something happens and jumps to the next thing. Ties go by order of arrival."""

    def __init__(self, *, origin_ns: int = 0) -> None:
        self.now_ns = origin_ns
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._arrivals = 0

    @property
    def now_s(self) -> float:
        """The instant as `Control` gets it: what a replay computes from the journal, to the bit."""
        return self.now_ns / NS_PER_S

    def at(self, when_ns: int, happen: Callable[[], None]) -> None:
        """Let something happen at an instant, or at once when that is past."""
        self._arrivals += 1
        heapq.heappush(self._queue, (max(when_ns, self.now_ns), self._arrivals, happen))

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen after a delay."""
        self.at(self.now_ns + round(delay_s * NS_PER_S), happen)

    def advance(self) -> bool:
        """Let the next thing happen. False when nothing is left to."""
        if not self._queue:
            return False
        self.now_ns, _, happen = heapq.heappop(self._queue)
        happen()
        return True
