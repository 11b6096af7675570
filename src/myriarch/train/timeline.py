"""Where a worker's time goes, without gaps: one leaf ends in the nanosecond in which the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from myriarch.event.events import Phase
from myriarch.event.ids import DeviceId, GroupId, Incarnation, Step
from myriarch.event.spans import Leaf, Span

REPORT_EVERY_NS: Final = 200_000_000
"""Reports are batched: a worker that is killed takes at most this much of its account with it."""
SPANS_LIMIT: Final = 100_000
"""Unreported spans that are kept; beyond, the oldest go."""


def epoch_clock() -> Callable[[], int]:
    """Nanoseconds since the Unix epoch that never step back: the wall clock is read once, then time is added."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    return lambda: offset_ns + time.monotonic_ns()


class Timeline:
    """The spans of one device, as its worker sees them."""

    def __init__(self, *, start_ns: int | None = None, leaf: Leaf = "rendezvous") -> None:
        self.now_ns: Final = epoch_clock()
        self.device = DeviceId("")
        self.group: GroupId | None = None
        self.incarnation: Incarnation | None = None
        self._leaf: Leaf = leaf
        self._step: Step | None = None
        self._start_ns = self.now_ns() if start_ns is None else start_ns
        self._closed: list[Span] = []
        self._reported_ns = self._start_ns
        self._formation: list[Span] = []
        self._forming = True

    def enter(self, leaf: Leaf, *, step: Step | None = None) -> None:
        """From now on time belongs to `leaf`, of `step` where it belongs to one."""
        if (leaf, step) != (self._leaf, self._step):
            self._close(self.now_ns())
            self._leaf, self._step = leaf, step

    @contextmanager
    def within(self, leaf: Leaf) -> Iterator[None]:
        """Time of the body belongs to `leaf`, then to what it belonged to before."""
        before, step = self._leaf, self._step
        self.enter(leaf, step=step)
        try:
            yield
        finally:
            self.enter(before, step=step)

    def split(self, at_ns: int, leaf: Leaf) -> None:
        """What lies between the start of the open span and `at_ns` was `leaf`: known only afterwards."""
        if self._start_ns < at_ns:
            after, self._leaf = self._leaf, leaf
            self._close(min(at_ns, self.now_ns()))
            self._leaf = after

    @property
    def open_since_ns(self) -> int:
        """When the open span began."""
        return self._start_ns

    def form(self) -> None:
        """A new formation begins: `phases` counts from here."""
        self._close(self.now_ns())
        self._formation = []
        self._forming = True

    def phases(self) -> tuple[Phase, ...]:
        """The way from the start of this formation to now, and its end."""
        self._close(self.now_ns())
        self._forming = False
        return tuple(Phase(leaf=span.leaf, start_ns=span.start_ns, end_ns=span.end_ns) for span in self._formation)

    def take(self, *, force: bool = False) -> tuple[Span, ...]:
        """Spans that have not been reported, up to now; nothing if the last report is recent."""
        now_ns = self.now_ns()
        if not force and now_ns - self._reported_ns < REPORT_EVERY_NS:
            return ()
        self._close(now_ns)
        self._reported_ns = now_ns
        spans, self._closed = tuple(self._closed), []
        return spans

    def _close(self, end_ns: int) -> None:
        if end_ns <= self._start_ns:
            return
        span = Span(
            device=self.device,
            start_ns=self._start_ns,
            end_ns=end_ns,
            leaf=self._leaf,
            group=self.group,
            incarnation=self.incarnation,
            step=self._step,
        )
        self._start_ns = end_ns
        self._closed.append(span)
        del self._closed[:-SPANS_LIMIT]
        if self._forming:
            self._formation.append(span)
