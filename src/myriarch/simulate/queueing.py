"""A queue of jobs in virtual time: the schedulers of `schedule`, fed with submissions and ends.

Nothing is decided here. Time jumps from one instant with an event to the next. At one instant, submissions come first,
in the order of the workload; then ends, in the order in which those jobs started; then what the scheduler waits for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import xxhash

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision, Start
from myriarch.schedule.job import Job
from myriarch.schedule.scheduler import Scheduler
from myriarch.simulate.outcome import Outcome, Usage


class Task(Value, frozen=True, kw_only=True):
    """A job, and what no scheduler may know beforehand."""

    job: Job
    run_s: float
    """How long it runs once it started; at most its estimate."""


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
    return _Run(tasks, scheduler, observe, check).run()


class _Run:
    """One simulation. Invariant: `_ends` has exactly the jobs that run."""

    def __init__(
        self,
        tasks: Sequence[Task],
        scheduler: Scheduler,
        observe: Callable[[Decision], None] | None,
        check: bool,
    ) -> None:
        self._tasks = tasks
        self._scheduler = scheduler
        self._observe = observe
        self._check = check
        self._index = {task.job.id: index for index, task in enumerate(tasks)}
        if len(self._index) != len(tasks):
            raise SpecError("two jobs of the workload have one id", hint="give every job its own")
        for task in tasks:
            if not 0 < task.run_s <= task.job.estimate_s:
                raise SpecError(
                    f"job {task.job.id} runs for {task.run_s} s, its estimate is {task.job.estimate_s} s",
                    hint="drop jobs that did not run, and let no estimate be below the run time",
                )
        self._start_s = np.full(len(tasks), np.nan)
        self._taken = np.zeros(len(tasks), dtype=np.int64)
        self._refused: dict[int, str] = {}
        self._ends: list[tuple[float, int, int]] = []
        """A heap: end, order of starting, index of the task."""
        self._starts = 0
        self._now_s = tasks[0].job.submit_s if tasks else 0.0
        self._usage = Usage(devices=scheduler.machine.devices)
        self._digest = xxhash.xxh3_128()
        self._encode = msgspec.msgpack.Encoder().encode

    def run(self) -> Outcome:
        tasks, scheduler, ends = self._tasks, self._scheduler, self._ends
        at, wakes, never = 0, 0, float("inf")
        while True:
            submit_s = tasks[at].job.submit_s if at < len(tasks) else never
            now_s = min(submit_s, ends[0][0] if ends else never, scheduler.wake_s)
            if now_s == never:
                break
            self._advance(now_s)
            while submit_s == now_s:
                self._done(scheduler.submit(tasks[at].job, now_s=now_s))
                at += 1
                submit_s = tasks[at].job.submit_s if at < len(tasks) else never
            while ends and ends[0][0] == now_s:
                _, _, index = heapq.heappop(ends)
                self._usage.busy -= int(self._taken[index])
                self._done(scheduler.end(tasks[index].job.id, now_s=now_s))
            if scheduler.wake_s <= now_s:
                self._done(scheduler.wake(now_s=now_s))
                wakes += 1
        assert not scheduler.waiting, "jobs wait for ever"
        return Outcome(
            jobs=[task.job for task in tasks],
            run_s=np.array([task.run_s for task in tasks]),
            start_s=self._start_s,
            taken_devices=self._taken,
            refused={tasks[index].job.id: reason for index, reason in sorted(self._refused.items())},
            usage=self._usage,
            events=len(tasks) + self._starts + wakes,
            digest=self._digest.hexdigest(),
        )

    def _advance(self, now_s: float) -> None:
        if now_s < self._now_s:
            raise SpecError(f"after {self._now_s} s comes {now_s} s", hint="sort the workload by submission")
        self._usage.advance(now_s - self._now_s, self._scheduler)
        self._now_s = now_s

    def _done(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self._digest.update(self._encode(decision))
            index = self._index[decision.job]
            if isinstance(decision, Start):
                self._start(index, decision)
            else:
                self._refused[index] = decision.reason
            if self._observe is not None:
                self._observe(decision)
        if self._check:
            self._scheduler.check()

    def _start(self, index: int, start: Start) -> None:
        self._starts += 1
        self._start_s[index] = start.at_s
        taken = start.placement.devices or self._tasks[index].job.devices
        self._taken[index] = taken
        self._usage.busy += taken
        heapq.heappush(self._ends, (start.at_s + self._tasks[index].run_s, self._starts, index))
