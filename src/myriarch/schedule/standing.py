"""What a scheduler knows of a job: how long it waited and ran, what it has had, and what it got done.

Work is counted in seconds of the run time that the job would have with the devices it asked for on the pool its
estimate is of. While it runs it gets `speed` of them done each second, but for `restart_s` at the begin of every run
after the first and `save_s` before an orderly end. A fault takes it back to its newest checkpoint. A job may be slower
than this says, on a sick node: it is what a scheduler can know.
"""

from __future__ import annotations

import dataclasses
import math

from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job

NOWHERE = Placement()


@dataclasses.dataclass(slots=True)
class Standing:
    """One job that waits or runs. Instants never go back.

    Invariant: what is counted is counted up to `since_s`, when it began to wait, or to run where it runs.
    """

    job: Job
    number: int
    """Of its arrival."""
    since_s: float
    running: bool = False
    placement: Placement = NOWHERE
    speed: float = 1.0
    startup_s: float = 0.0
    """Of this run, in which nothing gets done."""
    done_s: float = 0.0
    """Work that is done and kept."""
    ran_s: float = 0.0
    waited_s: float = 0.0
    starts: int = 0

    def start(self, placement: Placement, *, now_s: float, speed: float = 1.0) -> None:
        """It runs from now on."""
        self.waited_s += now_s - self.since_s
        self._run(placement, now_s=now_s, speed=speed, startup_s=self.job.restart_s if self.starts else 0.0)

    def move(self, placement: Placement, *, now_s: float, speed: float = 1.0, lost: bool = False) -> None:
        """It goes on elsewhere from now on."""
        self._count(now_s, lost=lost)
        self._run(placement, now_s=now_s, speed=speed, startup_s=self.job.restart_s)

    def stop(self, *, now_s: float, lost: bool = False) -> None:
        """It waits from now on. `lost`: a fault took it, so that it could not save."""
        self._count(now_s, lost=lost)
        self.running, self.placement, self.since_s = False, NOWHERE, now_s

    def done_by(self, now_s: float) -> float:
        """Work done by an instant, if it goes on as it does."""
        if not self.running:
            return self.done_s
        return self.done_s + max(now_s - self.since_s - self.startup_s, 0.0) * self.speed

    def waited_by(self, now_s: float) -> float:
        """Seconds it has waited, in all."""
        return self.waited_s + (0.0 if self.running else now_s - self.since_s)

    @property
    def held(self) -> int:
        """Devices that its job counts as having: those of its placement, or what was asked for where none is."""
        return self.placement.devices or self.job.devices

    @property
    def switch_s(self) -> float:
        """What stopping and starting again costs: no progress for so long."""
        return self.job.save_s + self.job.restart_s

    def _run(self, placement: Placement, *, now_s: float, speed: float, startup_s: float) -> None:
        self.running, self.placement, self.since_s = True, placement, now_s
        self.speed, self.startup_s = speed, startup_s
        self.starts += 1

    def _count(self, now_s: float, *, lost: bool) -> None:
        """Count what came of this run."""
        run_s = now_s - self.since_s
        self.ran_s += run_s
        worked_s = max(run_s - self.startup_s - (0.0 if lost else self.job.save_s), 0.0)
        if lost:
            every_s = self.job.saves_every_s
            worked_s = worked_s // every_s * every_s if math.isfinite(every_s) else 0.0
        self.done_s += worked_s * self.speed
