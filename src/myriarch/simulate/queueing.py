"""A queue of rigid jobs on a fleet where nothing breaks: `timeline`'s loop, with nothing kept but starts.

For whole schedules of classic traces: what `cluster.simulate_cluster` decides without breakdowns, in half its time,
since no job has more of a life than a start and an end.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Refuse, Start
from myriarch.schedule.job import JobId
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.outcome import Outcome, Usage
from myriarch.simulate.timeline import Task, Timeline

__all__ = ["Task", "simulate_queue"]


def simulate_queue(
    tasks: Sequence[Task],
    scheduler: Scheduler,
    *,
    observe: Callable[[Decision], None] | None = None,
    check: bool = False,
) -> Outcome:
    """Run a workload, in the order of its submissions, to its end.

    `observe` sees every decision. With `check`, invariants are asserted after every event. Raises SpecError for a
    workload that no scheduler can be given: out of order, or with a job that runs longer than its estimate.
    """
    timeline = Timeline(tasks, scheduler, observe=observe, check=check)
    queue = _Queue(tasks, scheduler, start_s=timeline.start_s)
    timeline.run(queue)
    assert not scheduler.waiting, "jobs wait for ever"
    return Outcome(
        jobs=[task.job for task in tasks],
        run_s=np.array([task.run_s for task in tasks]),
        start_s=queue.start_s,
        taken_devices=queue.taken,
        refused={tasks[index].job.id: reason for index, reason in sorted(queue.refused.items())},
        usage=queue.usage,
        events=timeline.events,
        digest=timeline.digest,
    )


@final
class _Queue:
    """The stage. Invariant: `_ends` has exactly the jobs that run; `_there` counts them and those that wait."""

    next_fault_s: Final = math.inf

    def __init__(self, tasks: Sequence[Task], scheduler: Scheduler, *, start_s: float) -> None:
        self._tasks = tasks
        self._scheduler = scheduler
        self._index = _indices(tasks)
        self.start_s = np.full(len(tasks), np.nan)
        self.taken = np.zeros(len(tasks), dtype=np.int64)
        self.refused: dict[int, str] = {}
        self.usage = Usage(devices=scheduler.machine.devices)
        self._ends: list[tuple[float, int, int]] = []
        """A heap: end, order of starting, index of the task."""
        self._starts = 0
        self._there = 0
        self._now_s = start_s

    @property
    def next_end_s(self) -> float:
        return self._ends[0][0] if self._ends else math.inf

    def __len__(self) -> int:
        return self._there

    def advance(self, now_s: float) -> None:
        self.usage.advance(now_s - self._now_s, self._scheduler)
        self._now_s = now_s

    def submit(self, task: Task) -> None:
        self._there += 1

    def end(self, *, now_s: float) -> JobId:
        _, _, index = heapq.heappop(self._ends)
        self._there -= 1
        self.usage.busy -= int(self.taken[index])
        return self._tasks[index].job.id

    def happen(self, now_s: float, *, before: bool = False) -> int:
        return 0

    def apply(self, decision: Decision, *, now_s: float) -> None:
        index = self._index[decision.job]
        if isinstance(decision, Start):
            self._starts += 1
            self.start_s[index] = now_s
            taken = decision.placement.devices or self._tasks[index].job.devices
            self.taken[index] = taken
            self.usage.busy += taken
            heapq.heappush(self._ends, (now_s + self._tasks[index].run_s, self._starts, index))
        elif isinstance(decision, Refuse):
            self._there -= 1
            self.refused[index] = decision.reason
        else:
            raise SpecError(
                f"job {decision.job} is stopped or moved: {decision.reason}",
                hint="simulate schedulers that do that with `simulate_cluster`",
            )

    def check(self) -> None:
        assert self._there == len(self._ends) + self._scheduler.waiting


def _indices(tasks: Sequence[Task]) -> dict[JobId, int]:
    """Of tasks by their ids. Raises SpecError for a workload that cannot be."""
    index = {task.job.id: at for at, task in enumerate(tasks)}
    if len(index) != len(tasks):
        raise SpecError("two jobs of the workload have one id", hint="give every job its own")
    for task in tasks:
        if not 0 < task.run_s <= task.job.estimate_s:
            raise SpecError(
                f"job {task.job.id} runs for {task.run_s} s, its estimate is {task.job.estimate_s} s",
                hint="drop jobs that did not run, and let no estimate be below the run time",
            )
    return index
