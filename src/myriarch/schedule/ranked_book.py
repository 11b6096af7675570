"""What happens to the jobs of a scheduler that ranks, one by one: it waits, starts, stops, moves, starts after all.

All that has to agree is changed together here: where a job runs (`machine`), how it stands (`standing`), where it ranks
(`roster`), what it still has to run, and since when it is watched lest it starve (`turns`). Who is to start, and whom
to stop for it, is decided by `ranked`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final, NamedTuple, final

import msgspec

from myriarch.schedule.decision import Placement, Preempt, Reason, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Hold
from myriarch.schedule.placed import Placed
from myriarch.schedule.rankings import Ranking
from myriarch.schedule.roster import RUNNING, WAITING, Roster
from myriarch.schedule.speed import Speeds
from myriarch.schedule.standing import Standing
from myriarch.schedule.turns import Turns

LEAST_S: Final = 1.0
"""A job that has outlived what is known of it is taken to have so many seconds left."""


class Stopped(NamedTuple):
    """Who was preempted, and how it was before."""

    preempt: Preempt
    standing: Standing
    until_s: float


@final
class RankedBook:
    """Jobs, waiting and running. `spell`: of `Worth`; `predicts`: whether plans trust predictions or estimates.

    Invariants (`check`): the roster's running jobs are those that `machine` runs; those of `roster` and `turns`.
    """

    def __init__(
        self,
        machine: Placed,
        ranking: Ranking,
        *,
        speeds: Speeds,
        spell: float,
        predicts: bool,
        guard_s: float,
        guard_share: float,
    ) -> None:
        self.machine = machine
        self.ranking = ranking
        self.roster = Roster()
        self.turns = Turns(self.roster, guard_s=guard_s, share=guard_share)
        self._speeds = speeds
        self._spell = spell
        self._predicts = predicts
        self._arrivals = 0
        self._pools = {name: number for number, name in enumerate(machine.pools)}
        self._planned: dict[int, Job] = {}
        """By slot: the job with what it still has to run as its estimate."""

    # --- what is known of a job ---------------------------------------------------------------------------------------

    def planned(self, slot: int) -> Job:
        """The job of a slot, with what it still has to run as its estimate."""
        return self._planned[slot]

    def rank(self, slot: int, *, now_s: float) -> float:
        """Where it stands."""
        return self.roster.rank(slot, now_s=now_s)

    def first(self, *, now_s: float) -> int:
        """Who stands first among those that wait; there is somebody."""
        return self.roster.first(self.roster.those(WAITING), now_s=now_s)

    def words(self, slot: int, *, now_s: float) -> str:
        """Why it stands where it does."""
        standing = self.roster.standing(slot)
        if standing.job.id in self.turns:
            return self.turns.words(standing)
        return self.ranking.words(self.rank(slot, now_s=now_s))

    # --- what happens to it -------------------------------------------------------------------------------------------

    def submit(self, job: Job, *, now_s: float) -> int:
        """A job more, which waits; its slot."""
        standing = Standing(job, self._arrivals, now_s)
        self._arrivals += 1
        slot = self.roster.add(standing, shape=self.machine.shape(job))
        self.ranking.submitted(standing, now_s=now_s)
        self._waits(slot, now_s)
        return slot

    def end(self, job: JobId, *, now_s: float) -> None:
        """A running job ended."""
        slot = self.roster.slot(job)
        self.ranking.ended(self.roster.standing(slot), now_s=now_s)
        self.machine.end(job, now_s=now_s)
        self.roster.remove(slot)
        del self._planned[slot]
        self.turns.gone(job)

    def start(self, slot: int, placement: Placement, *, hold: Hold | None, text: str, now_s: float) -> Start:
        """A waiting job runs there."""
        standing, job = self.roster.standing(slot), self._planned[slot]
        waited_s = now_s - standing.since_s
        self.turns.started(job.id, waited_s=waited_s)
        speed = self._speeds(standing.job, pool=placement.pool, devices=placement.devices)
        standing.start(placement, now_s=now_s, speed=speed)
        run_s = standing.startup_s + self._left_s(standing, now_s) / (speed or 1.0)
        self.machine.start(_lasting(job, run_s), placement, now_s=now_s, hold=hold)
        self._runs(slot, until_s=now_s + run_s, now_s=now_s)
        beside = hold is not None and hold.at_s < math.inf
        reason = Reason(
            rule="ranked",
            waited_s=waited_s,
            head=hold.job if hold is not None else None,
            hold_s=hold.at_s if hold is not None and beside else None,
            spare_devices=hold.spare_devices if hold is not None and beside else None,
            text=text,
        )
        return Start(job=job.id, at_s=now_s, until_s=now_s + run_s, placement=placement, reason=reason)

    def preempt(self, slot: int, *, reason: str, now_s: float) -> Stopped:
        """A running job saves and waits again; how it was, for `undo`."""
        standing = self.roster.standing(slot)
        before = dataclasses.replace(standing)
        preempt = Preempt(job=standing.job.id, at_s=now_s, reason=reason)
        until_s = self.roster.until(slot)
        self._stop(slot, now_s, lost=False)
        return Stopped(preempt, before, until_s)

    def undo(self, slot: int, stopped: Stopped, *, hold: Hold | None, now_s: float) -> bool:
        """One that was stopped just now goes on as if nothing had been, if nobody took its devices; whether it does."""
        was, place = stopped.standing, stopped.standing.placement
        free = self.machine.pools[place.pool].free
        if int(free[list(place.nodes)].min()) < place.devices_per_node:
            return False
        if hold is not None and hold.pool == place.pool and not hold.spare_on.keys().isdisjoint(place.nodes):
            return False
        run_s = max(stopped.until_s - now_s, LEAST_S)
        goes_on, supply = _lasting(was.job, run_s), self.machine.supply
        if supply is not None and not supply.admits(goes_on, place, now_s=now_s):
            return False
        standing = self.roster.standing(slot)
        for field in dataclasses.fields(Standing):
            setattr(standing, field.name, getattr(was, field.name))
        self.machine.start(goes_on, place, now_s=now_s, hold=hold)
        self._runs(slot, until_s=stopped.until_s, now_s=now_s)
        return True

    def lose(self, job: JobId, pool: str, node: int, *, planned: bool, now_s: float) -> Resize | Preempt:
        """A running job's node is gone: it goes on elsewhere, where a node is kept back or free for it, or waits again.

        planned: it was told in time, and saves if it can be preempted; else it is back to its newest checkpoint.
        """
        slot = self.roster.slot(job)
        lost = not (planned and self.roster.standing(slot).job.preemptible)
        why = f"node {pool}-{node} {'failed' if lost else 'is taken for maintenance'}"
        return self._go_on(slot, node, why, lost, now_s) or self._set_back(slot, why, lost, now_s)

    def move(self, job: JobId, placement: Placement, *, reason: str, now_s: float) -> Resize:
        """A running job goes on at once on other devices of its pool, which are free or its own."""
        slot = self.roster.slot(job)
        standing = self.roster.standing(slot)
        speed = self._speeds(standing.job, pool=placement.pool, devices=placement.devices)
        run_s = standing.job.restart_s + self._left_s(standing, now_s) / (speed or 1.0)
        self._shift(slot, placement, run_s, speed=speed, lost=False, now_s=now_s)
        return Resize(job=job, at_s=now_s, until_s=now_s + run_s, placement=placement, reason=reason)

    # --- time passes --------------------------------------------------------------------------------------------------

    def age(self, *, now_s: float) -> None:
        """Those who waited too long have their turns."""
        for slot in self.turns.begin(now_s=now_s, devices=self.machine.devices):
            self._set_course(slot, now_s)

    def ask(self, *, now_s: float) -> bool:
        """Rank anew whose course is over, and expect their ends anew; whether there were any."""
        overdue = self.roster.overdue(now_s=now_s)
        for slot in overdue:
            self._set_course(slot, now_s)
            if not self.roster.standing(slot).running:
                continue
            if self.roster.until(slot) <= now_s:
                self._outlived(slot, now_s)
            else:
                self._expect(slot, now_s)
        return bool(overdue)

    def check(self) -> None:
        """Assert the invariants."""
        self.machine.check()
        self.roster.check()
        self.turns.check()
        held = sum(self.roster.standing(slot).held for slot in self.roster.those(RUNNING).tolist())
        assert held == self.machine.devices - self.machine.free_devices

    # --- how ----------------------------------------------------------------------------------------------------------

    def _runs(self, slot: int, *, until_s: float, now_s: float) -> None:
        """It runs from `since_s` on: until when by what is known, and from when on it may be preempted."""
        standing = self.roster.standing(slot)
        job = standing.job
        spared_s = max(self._spell * standing.switch_s, self.turns.owed_s(job.id))
        self.roster.run(
            slot,
            pool=self._pools[standing.placement.pool],
            devices=standing.held,
            until_s=until_s,
            yields_from_s=standing.since_s + spared_s if job.preemptible else math.inf,
        )
        self.ranking.started(standing, now_s=now_s)
        self._set_course(slot, now_s)

    def _waits(self, slot: int, now_s: float) -> None:
        """It waits from now on: what it will ask for, and until when it is guarded."""
        standing = self.roster.standing(slot)
        job, left_s = standing.job, self._left_s(standing, now_s)
        needs_s = (job.restart_s if standing.starts else 0.0) + left_s
        self._planned[slot] = job if needs_s == job.estimate_s else _lasting(job, needs_s)
        self.roster.wait(slot, needs_s=needs_s)
        self._set_course(slot, now_s)
        self.turns.watch(job.id, now_s=now_s)

    def _stop(self, slot: int, now_s: float, *, lost: bool) -> None:
        standing = self.roster.standing(slot)
        standing.stop(now_s=now_s, lost=lost)
        self.machine.end(standing.job.id, now_s=now_s)
        self.ranking.stopped(standing, now_s=now_s)
        self._waits(slot, now_s)

    def _shift(self, slot: int, placement: Placement, run_s: float, *, speed: float, lost: bool, now_s: float) -> None:
        """A running job goes over to other devices, for so long."""
        standing = self.roster.standing(slot)
        self.machine.move(_lasting(standing.job, run_s), placement, now_s=now_s)
        self.ranking.stopped(standing, now_s=now_s)
        standing.move(placement, now_s=now_s, speed=speed, lost=lost)
        self._runs(slot, until_s=now_s + run_s, now_s=now_s)

    def _go_on(self, slot: int, node: int, why: str, lost: bool, now_s: float) -> Resize | None:
        """A job goes on without a node, if it can and another is there."""
        standing = self.roster.standing(slot)
        job = standing.job
        if not (job.preemptible or job.saves_every_s < math.inf):
            return None
        run_s = job.restart_s + self._left_s(standing, now_s) / (standing.speed or 1.0)
        placement = self.machine.elsewhere(_lasting(job, run_s), node, now_s=now_s)
        if placement is None:
            return None
        self._shift(slot, placement, run_s, speed=standing.speed, lost=lost, now_s=now_s)
        reason = f"{why}; {standing.done_s:.0f} s of its work are saved, and another node is there"
        return Resize(job=job.id, at_s=now_s, until_s=now_s + run_s, placement=placement, lost=lost, reason=reason)

    def _set_back(self, slot: int, why: str, lost: bool, now_s: float) -> Preempt:
        """A job that lost a node waits again."""
        self._stop(slot, now_s, lost=lost)
        standing = self.roster.standing(slot)
        reason = f"{why}; {standing.done_s:.0f} s of its work are saved, and no other node is there"
        return Preempt(job=standing.job.id, at_s=now_s, lost=lost, reason=reason)

    def _expect(self, slot: int, now_s: float) -> None:
        """A running job is older: what swaps count with is when it should end now, not what was thought at its start.
        Of long-tailed run times whoever has lasted has longer to go, and hundreds of such ends would seem near."""
        standing = self.roster.standing(slot)
        startup_s = max(standing.since_s + standing.startup_s - now_s, 0.0)
        left_s = max(self._left_s(standing, now_s), LEAST_S) / (standing.speed or 1.0)
        self.roster.extend(slot, until_s=now_s + startup_s + left_s)

    def _outlived(self, slot: int, now_s: float) -> None:
        """A running job outlived what was known of it: holds are to know the new end."""
        standing = self.roster.standing(slot)
        run_s = max(self._left_s(standing, now_s), LEAST_S) / (standing.speed or 1.0)
        self.machine.move(_lasting(standing.job, run_s), standing.placement, now_s=now_s)
        self.roster.extend(slot, until_s=now_s + run_s)

    def _left_s(self, standing: Standing, now_s: float) -> float:
        """What it still has to run with the devices it asked for, by what is planned with."""
        left_s = self.ranking.left_s(standing, now_s=now_s) if self._predicts else None
        return max(standing.job.estimate_s - standing.done_by(now_s), LEAST_S) if left_s is None else left_s

    def _set_course(self, slot: int, now_s: float) -> None:
        standing = self.roster.standing(slot)
        course = self.turns.course(standing, now_s=now_s) or self.ranking.course(standing, now_s=now_s)
        self.roster.set_course(slot, course, now_s=now_s)


def _lasting(job: Job, run_s: float) -> Job:
    """The job as the machine is to see it: for so long."""
    return msgspec.structs.replace(job, estimate_s=run_s)
