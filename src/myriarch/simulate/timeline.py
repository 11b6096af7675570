"""Virtual time for schedulers: the one loop in which jobs come and end, nodes change and decisions are carried out.

Nothing is decided here and nothing ticks: time jumps from one instant with an event to the next. At one instant:
submissions, in the order of the workload; ends, in the order in which those jobs started; what happens to nodes; then
what the scheduler waits for. What jobs and nodes are is the stage's: a queue on a sound fleet (`queueing`), or lives
and faults (`cluster`). Decisions and their digest are the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, Protocol, final

import msgspec
import xxhash

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.scheduler import Scheduler

WAKES_AT_ONCE: Final = 1000
"""A scheduler that wants to be woken more often at one instant never lets time pass."""


class Task(Value, frozen=True, kw_only=True):
    """A job, and what no scheduler may know beforehand."""

    job: Job
    run_s: float
    """How long it runs once it started; at most its estimate."""
    start_s: float = 0.0
    """How long its first start takes before anything gets done, however many devices it has; `job.restart_s` is that of
    later ones. In the cluster simulator alone: where jobs have one speed it belongs to `run_s`."""


class Stage(Protocol):
    """Where decisions are carried out: the jobs that came and did not end, and the devices that they hold."""

    @property
    def next_end_s(self) -> float:
        """When the next job ends; infinite: never, if nothing changes."""

    @property
    def next_fault_s(self) -> float:
        """When something happens to a node; infinite: never."""

    def __len__(self) -> int:
        """How many jobs came and did not end."""

    def advance(self, now_s: float) -> None:
        """Time passes until an instant, and nothing changes in it."""

    def submit(self, task: Task) -> None:
        """A job comes. Raises SpecError for one that cannot be."""

    def end(self, *, now_s: float) -> JobId:
        """The job that ends next does so now."""

    def happen(self, now_s: float, *, before: bool = False) -> int:
        """Everything that happens to nodes by now, or did before; how much that is."""

    def apply(self, decision: Decision, *, now_s: float) -> None:
        """Carry out what was decided."""

    def check(self) -> None:
        """Assert the invariants."""


@final
class Timeline:
    """One simulation. Invariant: nothing is left to do before `now_s`."""

    def __init__(
        self,
        tasks: Iterable[Task],
        scheduler: Scheduler,
        *,
        observe: Callable[[Decision], None] | None,
        check: bool,
    ) -> None:
        """Time begins with the first submission."""
        self._tasks = iter(tasks)
        self._next = next(self._tasks, None)
        self._scheduler = scheduler
        self._observe = observe
        self._check = check
        self._stage: Stage
        self.start_s = self.now_s = self._next.job.submit_s if self._next is not None else 0.0
        self.events = 0
        """Submissions, ends, what happened to nodes, and wake-ups."""
        self._digest = xxhash.xxh3_128()
        self._encode = msgspec.msgpack.Encoder().encode

    @property
    def digest(self) -> str:
        """Of all decisions with their reasons, in order."""
        return self._digest.hexdigest()

    def run(self, stage: Stage, *, until_s: float = math.inf) -> None:
        """Until all jobs have ended, or until an instant. Raises SpecError for a workload out of order, and for a
        scheduler that lets no time pass."""
        self._stage, scheduler, woken = stage, self._scheduler, 0
        self.events += stage.happen(self.now_s, before=True)
        while True:
            submit_s = self._next.job.submit_s if self._next is not None else math.inf
            if submit_s == math.inf and until_s == math.inf and not len(stage):
                return
            now_s = min(submit_s, max(min(stage.next_end_s, stage.next_fault_s, scheduler.wake_s), self.now_s))
            if now_s == math.inf or now_s > until_s:
                break
            woken = 0 if now_s > self.now_s else woken + 1
            self._advance(now_s)
            while submit_s == now_s:
                submit_s = self._submit()
            while stage.next_end_s == now_s:
                self.events += 1
                self.done(scheduler.end(stage.end(now_s=now_s), now_s=now_s))
            if stage.next_fault_s <= now_s:
                self.events += stage.happen(now_s)
            if scheduler.wake_s <= now_s:
                self.events += 1
                self.done(scheduler.wake(now_s=now_s))
                if woken > WAKES_AT_ONCE:
                    raise SpecError(
                        f"{type(scheduler).__name__} was woken {woken} times at {now_s} s",
                        hint="after `wake`, `wake_s` has to be later, or infinite",
                    )
        if until_s < math.inf:
            self._advance(max(until_s, self.now_s))

    def done(self, decisions: Iterable[Decision]) -> None:
        """Carry decisions out, and count them."""
        stage, now_s = self._stage, self.now_s
        for decision in decisions:
            self._digest.update(self._encode(decision))
            stage.apply(decision, now_s=now_s)
            if self._observe is not None:
                self._observe(decision)
        if self._check:
            self._scheduler.check()
            stage.check()

    def _advance(self, now_s: float) -> None:
        if now_s < self.now_s:
            raise SpecError(f"after {self.now_s} s comes {now_s} s", hint="sort the workload by submission")
        if now_s > self.now_s:
            self._stage.advance(now_s)
            self.now_s = now_s

    def _submit(self) -> float:
        """The next job comes; when the one after it does."""
        assert self._next is not None
        task = self._next
        self.events += 1
        self._stage.submit(task)
        self.done(self._scheduler.submit(task.job, now_s=self.now_s))
        self._next = next(self._tasks, None)
        return self._next.job.submit_s if self._next is not None else math.inf
