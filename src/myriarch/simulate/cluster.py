"""Many jobs on a fleet that breaks, in virtual time: any scheduler of `schedule`, fed with what happens.

`timeline` has the loop. A job's end is worked out when it starts, and anew when its devices or their speed change; of
what happens to nodes at one instant, gains come before losses. `queueing.simulate_queue` is the same loop for rigid
jobs on a fleet where nothing breaks, with nothing kept but starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import final

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
from myriarch.simulate.timeline import Task, Timeline


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
    timeline = Timeline(tasks, scheduler, observe=observe, check=check)
    cluster = _Cluster(timeline, scheduler, breakdowns, speeds or Rigid(), detect_s)
    timeline.run(cluster, until_s=math.inf if until_s is None else until_s)
    return cluster.outcome()


@final
class _Cluster:
    """The stage: lives, faults and the meter of one simulation."""

    def __init__(
        self,
        timeline: Timeline,
        scheduler: Scheduler,
        breakdowns: Iterable[Breakdown],
        speeds: Speeds,
        detect_s: float,
    ) -> None:
        self._timeline = timeline
        self._counted = isinstance(scheduler.machine, Counted)
        self._meter = Meter(scheduler, start_s=timeline.start_s)
        self._columns = Columns()
        self._lives = Lives(speeds, self._meter, self._columns)
        self._faults = Faults(breakdowns, scheduler, self._lives, detect_s=detect_s, done=timeline.done)
        self.advance, self.end, self.apply = self._meter.advance, self._lives.end, self._lives.apply
        self.happen = self._faults.happen

    @property
    def next_end_s(self) -> float:
        return self._lives.next_end_s

    @property
    def next_fault_s(self) -> float:
        return self._faults.next_s

    def __len__(self) -> int:
        return len(self._lives)

    def submit(self, task: Task) -> None:
        job = task.job
        if not task.run_s > 0 or (self._counted and task.run_s > job.estimate_s):
            raise SpecError(
                f"job {job.id} runs for {task.run_s} s, its estimate is {job.estimate_s} s",
                hint="drop jobs that did not run; on a machine that counts, let no estimate be below the run time",
            )
        self._lives.submit(task)

    def check(self) -> None:
        self._meter.check()
        self._lives.check()

    def outcome(self) -> ClusterOutcome:
        """What came of it, when time is over."""
        timeline = self._timeline
        unfinished = self._lives.close(timeline.now_s)
        return ClusterOutcome(
            columns=self._columns,
            ledger=self._meter.ledger(),
            start_s=timeline.start_s,
            end_s=timeline.now_s,
            waiting_job_s=self._meter.waiting_job_s,
            waiting_most=self._meter.waiting_most,
            unfinished=unfinished,
            events=timeline.events,
            digest=timeline.digest,
        )
