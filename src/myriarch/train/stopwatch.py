"""Seconds of short works on a device, in turns.

A shared machine is slow for moments, a chip's clock moves for seconds. So works are not timed one after the other but
in rounds: each round gives every work a few timings, and a slow moment touches all of them alike. Accelerators run
behind the host: a timing queues as many calls as fill a few milliseconds and waits once.

A CPU is shared with other processes. Where torch uses one thread of it, its own CPU time is taken: what the work needs
of a core, whoever else wants that core. With several, CPU time would hide the threads that wait: the clock counts.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import torch

from myriarch.spec.profile import DOUBTFUL_SPREAD

FEWEST_TIMINGS: Final = 3
"""Below, p10 and p90 say nothing."""
MOST_TIMINGS: Final = 200
CALLS_LIMIT: Final = 2000
"""In one timing."""
TIMINGS_A_TURN: Final = 3
RESOLUTION_S: Final = 1e-7
"""Of the clocks, at worst: no timing is shorter."""


@dataclasses.dataclass
class Work:
    """Something to time. `seconds` has what was timed so far, of single calls."""

    name: str
    prepare: Callable[[], Callable[[], object]]
    """Asks for the memory; what it returns is timed. May raise RuntimeError: not possible on this device."""
    expected_s: Callable[[], float] = lambda: 0.0
    """Guess, asked for when its turn comes; one that would take too much of the time is left out."""
    seconds: list[float] = dataclasses.field(default_factory=list)
    call: Callable[[], object] | None = None
    calls: int = 1
    refusal: str = ""
    """Why it was not timed."""


class Stopwatch:
    """Times works on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device: Final = device
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._clock: Final = time.thread_time if alone else time.perf_counter
        self._timing_s: Final = 5e-4 if device.type == "cpu" else 5e-3
        """Long enough for the clock's resolution and, on accelerators, for one wait to be little of it."""

    def synchronize(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def rounds(self, works: Sequence[Work], *, seconds: float, longest_s: float, tick: Callable[[int], None]) -> None:
        """Time all, as often as `seconds` allow; every work that is begun has FEWEST_TIMINGS in the end.

        `longest_s`: of one call; works that take longer are left out. `tick`: told how many works have been begun.
        """
        until = time.perf_counter() + seconds
        for index, work in enumerate(works):
            tick(index)
            if time.perf_counter() > until:
                work.refusal = "no time was left"
                continue
            self._begin(work, longest_s=longest_s)
        timed = [work for work in works if not work.refusal]
        while time.perf_counter() < until:
            wanting = [work for work in timed if len(work.seconds) < MOST_TIMINGS]
            if not wanting:
                return
            for work in wanting:
                if time.perf_counter() > until:
                    return
                self._turn(work)

    def _begin(self, work: Work, *, longest_s: float) -> None:
        if work.expected_s() > longest_s:
            work.refusal = "takes too long for the time given"
            return
        try:
            work.call = work.prepare()
            work.call()
            self.synchronize()
            once_s = self._time(work.call, 1)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # as torch refuses, by build
            work.call = None
            work.refusal = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            return
        work.calls = max(1, min(CALLS_LIMIT, round(self._timing_s / once_s)))
        self._turn(work)

    def _turn(self, work: Work) -> None:
        assert work.call is not None
        work.seconds.extend(self._time(work.call, work.calls) for _ in range(TIMINGS_A_TURN))

    def _time(self, call: Callable[[], object], calls: int) -> float:
        self.synchronize()
        start = self._clock()
        for _ in range(calls):
            call()
        self.synchronize()
        return max(self._clock() - start, RESOLUTION_S) / calls


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and the ends of repeated timings, in seconds."""

    median_s: float
    p10_s: float
    p90_s: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(
            median_s=statistics.median(ordered),
            p10_s=ordered[round(0.1 * last)],
            p90_s=ordered[round(0.9 * last)],
            repeats=len(ordered),
        )

    @property
    def doubtful(self) -> bool:
        return self.p90_s - self.p10_s > DOUBTFUL_SPREAD * self.median_s

    def rates(self, amount: float) -> tuple[float, float, float]:
        """Median, slow end and fast end of `amount` over time."""
        return amount / self.median_s, amount / self.p90_s, amount / self.p10_s
