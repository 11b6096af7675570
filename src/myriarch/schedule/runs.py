"""Who runs, and what becomes of it when a node is lost: for queues whose jobs otherwise run to their end.

A scheduler sees no more of a job than what it asked for. Whoever runs at another speed than 1, or was set back in place
by a fault that no scheduler heard of, has done less than is thought here; it counts as overdue before its end.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec

from myriarch.schedule.decision import Placement, Resize
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Breakable

OVERDUE_S: Final = 1.0
"""Left to a job that should be done already: it may end at any time, as `placed` takes it for its holds too."""


def kept_s(job: Job, *, ran_s: float, lost: bool) -> float:
    """Work that stays of a run at speed 1: up to its last save, or to the newest checkpoint if a fault cut it short."""
    if not lost:
        return max(0.0, ran_s - job.save_s)
    return math.floor(ran_s / job.saves_every_s) * job.saves_every_s if job.saves_every_s < math.inf else 0.0


class _Run(NamedTuple):
    job: Job
    """Its estimate is of what was left when it got its devices, restoring included."""
    arrival: int
    started_s: float
    restores_s: float
    """Restoring that comes first."""


class Cut(NamedTuple):
    """A run that a lost node cuts short."""

    left: Job
    """The job as it goes on: its estimate is of what is left, restoring included."""
    arrival: int
    ran_s: float
    kept_s: float
    lost: bool
    """It could not save first."""

    @property
    def goes_on(self) -> bool:
        """Whether it has, or may have, a state to go on from."""
        return self.left.preemptible or self.left.saves_every_s < math.inf

    def why(self, pool: str, node: int) -> str:
        """In numbers."""
        saved = f"of {self.ran_s:g} s that it ran {self.kept_s:g} s are saved"
        return f"node {pool}-{node} is {'lost' if self.lost else 'taken for maintenance'}; {saved}"


class Runs:
    """Invariant: every running job of the queue is in it; `_returned` are those that wait again."""

    def __init__(self) -> None:
        self._runs: dict[JobId, _Run] = {}
        self._returned: set[JobId] = set()

    def start(self, job: Job, *, arrival: int, now_s: float) -> None:
        """A job got its devices."""
        restores_s = 0.0
        if self._returned and job.id in self._returned:
            self._returned.discard(job.id)
            restores_s = job.restart_s
        self._runs[job.id] = _Run(job, arrival, now_s, restores_s)

    def end(self, job: JobId) -> None:
        """It gave them back."""
        self._runs.pop(job, None)

    def returned(self, job: JobId) -> None:
        """It waits again."""
        self._returned.add(job)

    def cut(self, job: JobId, *, planned: bool, moves: bool, now_s: float) -> Cut:
        """What is left of a job when a node of it goes.

        One that may be preempted has saved before a planned loss; one that moves then hands over all that it did.
        """
        run = self._runs[job]
        lost = not (planned and run.job.preemptible)
        ran_s = max(0.0, now_s - run.started_s - run.restores_s)
        kept = ran_s if moves and not lost else kept_s(run.job, ran_s=ran_s, lost=lost)
        left_s = max(run.job.estimate_s - run.restores_s - kept, OVERDUE_S) + run.job.restart_s
        return Cut(msgspec.structs.replace(run.job, estimate_s=left_s), run.arrival, ran_s, kept, lost)

    def move(
        self, job: JobId, machine: Breakable, pool: str, node: int, *, planned: bool, now_s: float
    ) -> Resize | None:
        """Let it go on without the node, if it can and there is room."""
        cut = self.cut(job, planned=planned, moves=True, now_s=now_s)
        placement = machine.elsewhere(cut.left, node, now_s=now_s) if cut.goes_on else None
        if placement is None:
            return None
        before = self.moved(cut, machine, placement, now_s=now_s)
        new = ", ".join(f"{pool}-{one}" for one in placement.nodes if one not in before.nodes)
        return Resize(
            job=cut.left.id,
            at_s=now_s,
            until_s=now_s + cut.left.estimate_s,
            placement=placement,
            lost=cut.lost,
            reason=f"{cut.why(pool, node)}; {new} takes its place",
        )

    def shift(self, job: JobId, machine: Breakable, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """Let it go on elsewhere, because somebody decided so. On fewer devices it is taken to need longer in
        proportion, on more as long as before: its estimate stays an upper bound where more devices do no harm."""
        cut = self.cut(job, planned=True, moves=True, now_s=now_s)
        held = machine.run(job)[0].devices
        if placement.devices < held:
            work_s = cut.left.estimate_s - cut.left.restart_s
            longer_s = work_s * held / placement.devices + cut.left.restart_s
            cut = cut._replace(left=msgspec.structs.replace(cut.left, estimate_s=longer_s))
        self.moved(cut, machine, placement, now_s=now_s)
        until_s = now_s + cut.left.estimate_s
        return Resize(job=job, at_s=now_s, until_s=until_s, placement=placement, reason=reason)

    def moved(self, cut: Cut, machine: Breakable, placement: Placement, *, now_s: float) -> Placement:
        """It goes on there; where it was."""
        self._runs[cut.left.id] = _Run(cut.left, cut.arrival, now_s, cut.left.restart_s)
        return machine.move(cut.left, placement, now_s=now_s)
