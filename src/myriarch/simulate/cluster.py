"""Many jobs on a fleet that breaks, in virtual time: any scheduler of `schedule`, fed with what happens.

Nothing is decided here and nothing ticks. Time jumps from one instant with an event to the next; a job's end is worked
out when it starts, and anew when its devices or their speed change. At one instant: submissions, in the order of the
workload; ends, in the order in which those jobs started; what nodes gain, then what they lose; then what the scheduler
waits for. Without breakdowns, and with rigid jobs, the decisions are those of `queueing.simulate_queue`, byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import xxhash

from myriarch.errors import SpecError
from myriarch.schedule.counted import Counted
from myriarch.schedule.decision import Decision
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.speed import Rigid, Speeds
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster_columns import Columns
from myriarch.simulate.cluster_faults import Faults
from myriarch.simulate.cluster_ledger import Meter
from myriarch.simulate.cluster_lives import Lives
from myriarch.simulate.cluster_outcome import ClusterOutcome
from myriarch.simulate.queueing import Task

WAKES_AT_ONCE: Final = 1000
"""A scheduler that wants to be woken more often at one instant never lets time pass."""


def simulate_cluster(
    tasks: Iterable[Task],
    scheduler: Scheduler,
    *,
    breakdowns: Iterable[Breakdown] = (),
    speeds: Speeds | None = None,
    until_s: float | None = None,
    detect_s: float = 0.0,
    observe: Callable[[Decision], None] | None = None,
    check: bool = False,
) -> ClusterOutcome:
    """Run a workload, in the order of its submissions, to its end or until an instant.

    Time begins with the first submission; what broke before has broken then. speeds: how fast jobs get on; none: they
    are rigid. detect_s: from a fault until anybody knows, while the job's
    devices stand still; 0: faults are known at once. `observe` sees every decision, when it has been carried out.
    With `check`, invariants are asserted after every event.

    Raises SpecError for a workload or breakdowns that cannot be, and where nodes break under a scheduler that knows
    nothing of it (no `Surviving`).
    """
    return _Cluster(tasks, scheduler, breakdowns, speeds or Rigid(), until_s, detect_s, observe, check).run()


class _Cluster:
    """One simulation."""

    def __init__(
        self,
        tasks: Iterable[Task],
        scheduler: Scheduler,
        breakdowns: Iterable[Breakdown],
        speeds: Speeds,
        until_s: float | None,
        detect_s: float,
        observe: Callable[[Decision], None] | None,
        check: bool,
    ) -> None:
        self._tasks = iter(tasks)
        self._next = next(self._tasks, None)
        self._scheduler = scheduler
        self._until_s = math.inf if until_s is None else until_s
        self._observe = observe
        self._check = check
        self._counted = isinstance(scheduler.machine, Counted)
        self._now_s = self._start_s = self._next.job.submit_s if self._next is not None else 0.0
        self._meter = Meter(scheduler, start_s=self._now_s)
        self._columns = Columns()
        self._lives = Lives(speeds, self._meter, self._columns)
        self._faults = Faults(breakdowns, scheduler, self._lives, detect_s=detect_s, done=self._done)
        self._events = 0
        self._digest = xxhash.xxh3_128()
        self._encode = msgspec.msgpack.Encoder().encode

    def run(self) -> ClusterOutcome:
        scheduler, lives, faults, woken = self._scheduler, self._lives, self._faults, 0
        self._events += faults.happen(self._now_s, before=True)
        while True:
            submit_s = self._next.job.submit_s if self._next is not None else math.inf
            if submit_s == math.inf and not lives and self._until_s == math.inf:
                break
            now_s = min(submit_s, max(min(lives.next_end_s, faults.next_s, scheduler.wake_s), self._now_s))
            if now_s == math.inf or now_s > self._until_s:
                break
            woken = 0 if now_s > self._now_s else woken + 1
            self._advance(now_s)
            while submit_s == now_s:
                submit_s = self._submit()
            while lives.next_end_s == now_s:
                self._events += 1
                self._done(scheduler.end(lives.end(now_s=now_s), now_s=now_s))
            self._events += faults.happen(now_s)
            if scheduler.wake_s <= now_s:
                self._events += 1
                self._done(scheduler.wake(now_s=now_s))
                if woken > WAKES_AT_ONCE:
                    raise SpecError(
                        f"{type(scheduler).__name__} was woken {woken} times at {now_s} s",
                        hint="after `wake`, `wake_s` has to be later, or infinite",
                    )
        return self._outcome()

    def _outcome(self) -> ClusterOutcome:
        if self._until_s < math.inf:
            self._advance(max(self._until_s, self._now_s))
        unfinished = self._lives.close(self._now_s)
        return ClusterOutcome(
            columns=self._columns,
            ledger=self._meter.ledger(),
            start_s=self._start_s,
            end_s=self._now_s,
            waiting_job_s=self._meter.waiting_job_s,
            waiting_most=self._meter.waiting_most,
            unfinished=unfinished,
            events=self._events,
            digest=self._digest.hexdigest(),
        )

    def _advance(self, now_s: float) -> None:
        if now_s < self._now_s:
            raise SpecError(f"after {self._now_s} s comes {now_s} s", hint="sort the workload by submission")
        if now_s > self._now_s:
            self._meter.advance(now_s)
            self._now_s = now_s

    def _submit(self) -> float:
        """The next job comes; when the one after it does."""
        assert self._next is not None
        task, job = self._next, self._next.job
        if not task.run_s > 0 or (self._counted and task.run_s > job.estimate_s):
            raise SpecError(
                f"job {job.id} runs for {task.run_s} s, its estimate is {job.estimate_s} s",
                hint="drop jobs that did not run; on a machine that counts, let no estimate be below the run time",
            )
        self._events += 1
        self._lives.submit(task)
        self._done(self._scheduler.submit(job, now_s=self._now_s))
        self._next = next(self._tasks, None)
        return self._next.job.submit_s if self._next is not None else math.inf

    def _done(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self._digest.update(self._encode(decision))
            self._lives.apply(decision, now_s=self._now_s)
            if self._observe is not None:
                self._observe(decision)
        if self._check:
            self._scheduler.check()
            self._meter.check()
            self._lives.check()
