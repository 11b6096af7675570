"""From who runs where to who should run where: the decisions that lead from one to the other.

A policy of rounds says which jobs should have which pool and how many devices. Jobs that have it already stay on their
nodes. The others stop, move or start, so that devices are free before they are taken: first those stop that are to have
nothing; then jobs move whose new place is free, largest first; those that stand in each other's way all stop and start
again at the same instant; then those start that waited, largest first. Who finds no place, because what is free lies
scattered, keeps what it had, or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from myriarch.schedule.decision import Decision, Placement, Preempt, Reason, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import refusal
from myriarch.schedule.speed import Speeds
from myriarch.schedule.standing import Standing

LEAST_S = 1.0
"""A job that has outlived its estimate is taken to have so many seconds left."""


class Wanted(NamedTuple):
    """What a job should have."""

    pool: str
    devices: int
    """Asked for; a gang that does not divide among its nodes gets a few more."""


Why = Callable[[JobId], str]
"""Why a job gets what it should have, in numbers; asked for those whose devices change."""


class Assignment:
    """Jobs, waiting and running, on a machine. Invariant: those that run are those the machine runs, where they are."""

    def __init__(self, machine: Placed, speeds: Speeds) -> None:
        self.machine = machine
        self.speeds = speeds
        self.standings: dict[JobId, Standing] = {}
        """In the order of arrival."""
        self.waiting = 0
        self._arrivals = 0

    @property
    def head(self) -> Job | None:
        """Who waits and came first."""
        return next((one.job for one in self.standings.values() if not one.running), None)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more; the refusal, if it can never run."""
        if (refused := refusal(self.machine, job, now_s=now_s)) is not None:
            return (refused,)
        self.standings[job.id] = Standing(job, self._arrivals, now_s)
        self._arrivals += 1
        self.waiting += 1
        return ()

    def end(self, job: JobId, *, now_s: float) -> Standing:
        """A running job ended; how it stood."""
        self.machine.end(job, now_s=now_s)
        return self.standings.pop(job)

    def lose(self, pool: str, node: int, *, now_s: float) -> list[Decision]:
        """A node is gone: the jobs on it wait again, from what they saved."""
        planned = self.machine.planned(pool, node, now_s=now_s)
        decisions: list[Decision] = []
        for job in self.machine.running_on(pool, node):
            lost = not (planned and self.standings[job].job.preemptible)
            why = "failed" if lost else "is taken for maintenance"
            decisions.append(self._stop(job, f"node {pool}-{node} {why}", now_s, lost=lost))
        left = self.machine.withdraw(pool, node)
        assert not left
        return decisions

    def realise(self, wanted: Mapping[JobId, Wanted], *, reason: Why, now_s: float) -> list[Decision]:
        """Everybody to what it should have, as far as there is room; who is not in it is to have nothing.

        Jobs that run and may not be preempted have to be in it with what they have.
        """
        out = [one.job.id for one in self.standings.values() if one.running and one.job.id not in wanted]
        decisions: list[Decision] = [self._stop(job, "others have its devices from now on", now_s) for job in out]
        movers = [job for job, want in wanted.items() if self.standings[job].running and not self._has(job, want)]
        movers.sort(key=lambda job: (self._grows(job, wanted[job]), -wanted[job].devices))
        blocked: list[JobId] = []
        for job in movers:
            moved = self._moved(job, wanted[job], reason, now_s)
            if moved is not None:
                decisions.append(moved)
            elif self.standings[job].job.preemptible:
                blocked.append(job)
        decisions += [self._stop(job, f"makes room to move: {reason(job)}", now_s) for job in blocked]
        starters = [job for job in wanted if not self.standings[job].running]
        for job in sorted(starters, key=lambda job: -wanted[job].devices):
            started = self.start(job, wanted[job], reason=reason, now_s=now_s)
            if started is not None:
                decisions.append(started)
        return decisions

    def devices(self, pool: str) -> int:
        """That can be given out, used or not."""
        return self.machine.pools[pool].usable_devices

    def left_s(self, job: JobId, *, now_s: float) -> float:
        """Work that is left by its estimate, in seconds."""
        standing = self.standings[job]
        return max(standing.job.estimate_s - standing.done_by(now_s), LEAST_S)

    def check(self) -> None:
        """Assert the invariants."""
        self.machine.check()
        running = [one for one in self.standings.values() if one.running]
        assert sum(one.held for one in running) == self.machine.devices - self.machine.free_devices
        assert self.waiting == len(self.standings) - len(running)

    def _has(self, job: JobId, want: Wanted) -> bool:
        placement = self.standings[job].placement
        many, each = self.machine.pools[want.pool].pool.gang(want.devices)
        return placement.pool == want.pool and (len(placement.nodes), placement.devices_per_node) == (many, each)

    def _grows(self, job: JobId, want: Wanted) -> bool:
        return want.devices > self.standings[job].held

    def _planned(self, standing: Standing, want: Wanted, startup_s: float, now_s: float) -> Job:
        """The job as the machine is to see it: this pool, these devices, for so long."""
        job = standing.job
        many, each = self.machine.pools[want.pool].pool.gang(want.devices)
        speed = self.speeds(job, pool=want.pool, devices=many * each) or 1.0
        run_s = startup_s + self.left_s(job.id, now_s=now_s) / speed
        return msgspec.structs.replace(job, pools=(want.pool,), devices=want.devices, estimate_s=run_s)

    def _moved(self, job: JobId, want: Wanted, reason: Why, now_s: float) -> Resize | None:
        """Go over to another place, if it is free once its own is."""
        standing = self.standings[job]
        planned = self._planned(standing, want, standing.job.restart_s, now_s)
        if want.pool != standing.placement.pool and self.machine.place(planned, now_s=now_s) is None:
            return None  # what it gives back is elsewhere
        before, left_s = standing.placement, self.left_s(job, now_s=now_s) / (standing.speed or 1.0)
        self.machine.end(job, now_s=now_s)
        placement = self.machine.place(planned, now_s=now_s)
        if placement is None:
            self.machine.start(msgspec.structs.replace(standing.job, estimate_s=left_s), before, now_s=now_s)
            return None
        self.machine.start(planned, placement, now_s=now_s)
        speed = self.speeds(standing.job, pool=placement.pool, devices=placement.devices)
        standing.move(placement, now_s=now_s, speed=speed)
        until_s = now_s + planned.estimate_s
        return Resize(job=job, at_s=now_s, until_s=until_s, placement=placement, reason=reason(job))

    def start(self, job: JobId, want: Wanted, *, reason: Why, now_s: float) -> Start | None:
        """Let a waiting job run, if there is room."""
        standing = self.standings[job]
        planned = self._planned(standing, want, standing.job.restart_s if standing.starts else 0.0, now_s)
        placement = self.machine.place(planned, now_s=now_s)
        if placement is None:
            return None
        why = Reason(rule="ranked", waited_s=now_s - standing.since_s, text=reason(job))
        self.machine.start(planned, placement, now_s=now_s)
        self._runs(standing, placement, now_s)
        return Start(job=job, at_s=now_s, until_s=now_s + planned.estimate_s, placement=placement, reason=why)

    def _runs(self, standing: Standing, placement: Placement, now_s: float) -> None:
        speed = self.speeds(standing.job, pool=placement.pool, devices=placement.devices)
        standing.start(placement, now_s=now_s, speed=speed)
        self.waiting -= 1

    def _stop(self, job: JobId, reason: str, now_s: float, *, lost: bool = False) -> Preempt:
        standing = self.standings[job]
        self.machine.end(job, now_s=now_s)
        standing.stop(now_s=now_s, lost=lost)
        self.waiting += 1
        return Preempt(job=job, at_s=now_s, lost=lost, reason=reason)
