"""A scheduler that ranks all jobs, waiting and running, and stops running ones where that is worth what it costs.

At every decision, in the order of the ranking:

    1  whoever stands first among the waiting starts where there is room
    2  where there is none, running jobs that stand a good deal lower make room, if the swap is worth its price
       (`worth`): the fewest, each of them needed, the lowest first (`displacing`)
    3  where that is not possible or not worth it, devices are held for the first (as EASY holds them), from the
       earliest instant at which it fits by what is known; the others start, or displace others, beside the hold only

so small jobs do not starve large gangs. Nor does anything else: a job that has waited for `guard_s` on end is *aged*,
by turns. Aged jobs stand before all others, displace whoever may be preempted at any price, and when they run are let
run for as long as they waited. Those who have their turn have at most `guard_share` of the devices together, or are
one job: all at once, in a long overload, would be first come first served. So a job waits at most for `guard_s`, for
the turns of those that aged before it, and for those that cannot be preempted. Gangs are whole and inside their domain,
because `Placed` is.

What a pass found impossible is tried again after an end, a change of nodes or a better rank, and every `review_s`,
since time alone makes running jobs preemptible and waits longer.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, final

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Preempt, Reason, Resize, Start
from myriarch.schedule.displacing import Displacement, displace
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Full
from myriarch.schedule.machine import Hold
from myriarch.schedule.placed import Placed
from myriarch.schedule.rankings import Course, Ranking
from myriarch.schedule.roster import RUNNING, WAITING, Roster
from myriarch.schedule.scheduler import refusal
from myriarch.schedule.speed import Rigid, Speeds
from myriarch.schedule.standing import Standing
from myriarch.schedule.worth import Swap, Worth

GUARD_S: Final = 2 * 86_400.0
"""Two days: our choice; beyond the waits of 99 % of the jobs on the traces in hand, so that it decides seldom."""
GUARD_SHARE: Final = 0.1
"""Of the devices: our choice."""
REVIEW_S: Final = 300.0
"""Five minutes, after which Slurm works out priorities anew too (PriorityCalcPeriod)."""
AGED: Final = -(2.0**50)
"""Ranks of aged jobs begin here: below those of all rankings, and exact in a double."""
LEAST_S: Final = 1.0
"""A job that has outlived what is known of it is taken to have so many seconds left."""
LATEST_S: Final = 1e300
"""After all instants but never."""
SEARCHES_MOST: Final = 16
"""Shapes of jobs for which victims are looked for in vain in one pass."""
FEW: Final = 32
"""So many are put in order at a time."""


class _Stopped(NamedTuple):
    """Who was preempted in this pass, and how it was before."""

    preempt: Preempt
    standing: Standing
    until_s: float


class _Decided:
    """What a pass has decided so far."""

    def __init__(self) -> None:
        self.list: list[Decision] = []
        self.stopped: dict[int, _Stopped] = {}
        """By slot."""


@final
class Ranked:
    """The machine. `speeds`: how fast jobs get on where; `plan`: whether holds trust estimates or predictions.

    Invariants (`check`): the roster's running jobs are those that `machine` runs; aged jobs are there; while `_hold`
    is for the first in the queue and `_surprises` are the machine's, it stands.
    """

    def __init__(
        self,
        machine: Placed,
        ranking: Ranking,
        *,
        worth: Worth | None = None,
        speeds: Speeds | None = None,
        holds: bool = True,
        plan: Literal["estimate", "prediction"] = "prediction",
        guard_s: float = GUARD_S,
        guard_share: float = GUARD_SHARE,
        review_s: float = REVIEW_S,
    ) -> None:
        if not guard_s > 0 or not 0 <= guard_share <= 1 or review_s < 0:
            numbers = f"guard_s {guard_s:g}, guard_share {guard_share:g}, review_s {review_s:g}"
            raise SpecError(f"{numbers}: above 0, from 0 to 1, and from 0 up")
        self.machine = machine
        self.ranking = ranking
        self._worth = worth or Worth()
        self._speeds = speeds or Rigid()
        self._holds = holds
        self._predicts = plan == "prediction"
        self._guard_s = guard_s
        self._guard_share = guard_share
        self._review_s = review_s
        self._roster = Roster()
        self._numbers = 0
        self._pools = {name: number for number, name in enumerate(machine.pools)}
        self._planned: dict[int, Job] = {}
        """By slot: the job with what it still has to run as its estimate."""
        self._aged: dict[JobId, tuple[int, float]] = {}
        """Jobs that have their turn: their order, and how long they are let run when they do."""
        self._ages = 0
        self._guards: deque[tuple[float, JobId]] = deque()
        """When jobs age that wait now, or waited; instants ascend."""
        self._hold: Hold | None = None
        self._surprises = 0
        self._reviewed_s = -math.inf
        self._passed_s = 0.0

    # --- what a scheduler is ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._roster.waiting

    @property
    def head(self) -> Job | None:
        """Who stands first among those who wait, by the ranks of the last pass."""
        if not self._roster.waiting:
            return None
        return self._roster.standing(self._first(self._passed_s)).job

    @property
    def wake_s(self) -> float:
        """For the next guard; for ranks that change, and for a review, while there is who could yield."""
        if not self._roster.waiting:
            return math.inf
        guard_s = self._guards[0][0] if self._guards else math.inf
        if guard_s <= self._passed_s:  # whose turn it is not yet
            guard_s = math.inf
        if not self._roster.running:
            return guard_s
        ask_s = self._roster.next_ask_s if self.ranking.urgent else math.inf
        review_s = self._reviewed_s + self._review_s if self._review_s else math.inf
        return min(guard_s, ask_s, review_s)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        if refused := refusal(self.machine, job, now_s=now_s):
            return (refused,)
        standing = Standing(job, self._numbers, now_s)
        self._numbers += 1
        slot = self._roster.add(standing, shape=self.machine.shape(job))
        self.ranking.submitted(standing, now_s=now_s)
        self._waits(slot, now_s)
        return self._pass(now_s, newcomer=slot)

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        slot = self._roster.slot(job)
        self.ranking.ended(self._roster.standing(slot), now_s=now_s)
        self.machine.end(job, now_s=now_s)
        self._roster.remove(slot)
        self._planned.pop(slot, None)
        self._aged.pop(job, None)
        return self._pass(now_s)

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A guard, a rank or a review is due."""
        return self._pass(now_s)

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """Nodes were withdrawn or restored."""
        return self._pass(now_s)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone: its jobs go on elsewhere where a node is kept back or free for them, or wait again."""
        decisions: list[Decision] = []
        planned = self.machine.planned(pool, node, now_s=now_s)
        for job in self.machine.running_on(pool, node):
            slot = self._roster.slot(job)
            lost = not (planned and self._roster.standing(slot).job.preemptible)
            decisions.append(
                self._go_on(slot, pool, node, lost, now_s) or self._set_back(slot, pool, node, lost, now_s)
            )
        left = self.machine.withdraw(pool, node)
        assert not left
        return decisions + self._pass(now_s)

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        self.machine.restore(pool, node)
        return self._pass(now_s)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone: nobody whose plan reaches into that starts there."""
        self.machine.drain(pool, node, from_s=from_s, now_s=now_s)
        return ()

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on at once on other devices of its pool, which are free or its own."""
        slot = self._roster.slot(job)
        standing = self._roster.standing(slot)
        speed = self._speeds(standing.job, pool=placement.pool, devices=placement.devices)
        run_s = standing.job.restart_s + self._left_s(standing, now_s) / (speed or 1.0)
        self._shift(slot, placement, run_s, speed=speed, lost=False, now_s=now_s)
        return Resize(job=job, at_s=now_s, until_s=now_s + run_s, placement=placement, reason=reason)

    def check(self) -> None:
        """Assert the invariants."""
        self.machine.check()
        self._roster.check()
        held = sum(self._roster.standing(slot).held for slot in self._roster.those(RUNNING).tolist())
        assert held == self.machine.devices - self.machine.free_devices
        assert set(self._aged) <= set(self._roster.jobs())

    # --- a pass -------------------------------------------------------------------------------------------------------

    def _pass(self, now_s: float, *, newcomer: int | None = None) -> list[Decision]:
        """Start and stop whom it takes.

        A newcomer that does not stand first is the only one to look at, until a review is due: for the others there was
        no room before, and time only shortens what is left before a hold.
        """
        self._age(now_s)
        moved = self._ask(now_s) and self.ranking.urgent
        roster, decisions = self._roster, _Decided()
        due = moved or now_s >= self._reviewed_s + self._review_s
        if roster.waiting:
            alone = newcomer is not None and not due and self._first(now_s) != newcomer
            if due:
                self._reviewed_s = now_s
            if self._holds and not alone:
                self._start_first(decisions, now_s, displacing=due or newcomer is not None)
            if roster.waiting:
                hold = self._held(now_s) if self._holds else None
                if alone and newcomer is not None:
                    self._try(newcomer, decisions, hold, now_s, displacing=True)
                else:
                    self._serve(decisions, hold, now_s, displacing=due)
        while self._guards and not self._guarded(*self._guards[0]):
            self._guards.popleft()
        self._passed_s = now_s
        return decisions.list

    def _start_first(self, decisions: _Decided, now_s: float, *, displacing: bool) -> None:
        """Start whoever stands first, for as long as there is room or it can be made."""
        while self._roster.waiting:
            first = self._first(now_s)
            aged = self._roster.standing(first).job.id in self._aged
            if first in decisions.stopped or not self._try(
                first, decisions, None, now_s, displacing=displacing or aged
            ):
                return

    def _serve(self, decisions: _Decided, hold: Hold | None, now_s: float, *, displacing: bool) -> None:
        """Let others start in order of rank: where there is room beside the hold, or where it can be made."""
        roster, machine = self._roster, self.machine
        full, searches, after = Full(), 0, (-math.inf, -1)
        while True:
            chosen, more = self._candidates(hold, now_s, full, after, displacing=displacing)
            for slot in chosen:
                after = (roster.rank(slot, now_s=now_s), roster.standing(slot).number)
                shape = int(roster.shapes(np.array([slot]))[0])
                late = hold is not None and now_s + self._planned[slot].estimate_s > hold.at_s
                if shape in (full.late if late else full.ever):
                    continue
                before = len(decisions.stopped)
                if self._try(slot, decisions, hold, now_s, displacing=displacing and searches < SEARCHES_MOST):
                    if len(decisions.stopped) > before:  # they wait now, and may fit elsewhere
                        more = True
                        break
                    if not (machine.free_devices or displacing):
                        return
                else:
                    searches += 1
                    full.late.add(shape)
                    if not late:
                        full.ever.add(shape)
            if not more:
                return

    def _candidates(
        self, hold: Hold | None, now_s: float, full: Full, after: tuple[float, int], *, displacing: bool
    ) -> tuple[list[int], bool]:
        """The next few who may start by mere numbers, in order of rank; and whether there are more."""
        roster = self._roster
        slots = roster.those(WAITING)
        devices, ranks = roster.devices(slots), roster.ranks(slots, now_s=now_s)
        may = devices <= self.machine.largest
        late = np.zeros(len(slots), dtype=np.bool_)
        if hold is not None:
            late = roster.until_s(slots) + now_s > hold.at_s
            may &= ~late | (devices <= self.machine.beside(hold))
        if displacing:
            yielding = roster.yielding(roster.those(RUNNING), now_s=now_s)
            if len(yielding):
                last = float(roster.ranks(yielding, now_s=now_s).max())
                may |= ranks < self.ranking.hysteresis.below(last)
        may &= (ranks > after[0]) | ((ranks == after[0]) & (roster.numbers(slots) > after[1]))
        if hold is not None:
            may &= slots != roster.slot(hold.job)
        if full.late or full.ever:
            shapes = roster.shapes(slots)
            may &= ~np.isin(shapes, list(full.ever)) & ~(late & np.isin(shapes, list(full.late)))
        slots, ranks = slots[may], ranks[may]
        more = len(slots) > FEW
        if more:
            slots = slots[ranks <= np.partition(ranks, FEW)[FEW]]
        return roster.ordered(slots, now_s=now_s).tolist(), more

    def _try(self, slot: int, decisions: _Decided, hold: Hold | None, now_s: float, *, displacing: bool) -> bool:
        """Start one, where there is room or where it is worth making some; whether it runs now."""
        if slot in decisions.stopped:
            return self._undo(slot, decisions, hold, now_s)
        job = self._planned[slot]
        placement = self.machine.place(job, now_s=now_s, hold=hold)
        text = (
            self.ranking.words(self._rank(slot, now_s)) if job.id not in self._aged else self._aged_words(slot, now_s)
        )
        if placement is None and displacing:
            found = self._displacement(slot, hold, now_s)
            if found is not None:
                placement, swap = found[0].placement, found[2]
                for victim in found[1]:
                    self._displaced(victim, slot, swap, decisions, now_s)
                text = f"{text}: {swap.numbers}"
        if placement is None:
            return False
        decisions.list.append(self._start(slot, placement, hold, now_s, text))
        return True

    def _displacement(self, slot: int, hold: Hold | None, now_s: float) -> tuple[Displacement, list[int], Swap] | None:
        """Room for a job at others' cost, who they are, and what it costs; None: none that is worth it."""
        roster, job = self._roster, self._planned[slot]
        aged = job.id in self._aged
        yielding = roster.yielding(roster.those(RUNNING), now_s=LATEST_S if aged else now_s)
        bar = AGED / 2 if aged else self.ranking.hysteresis.above(self._rank(slot, now_s))
        yielding = yielding[roster.ranks(yielding, now_s=now_s) > bar]
        if int(roster.devices(yielding).sum()) + self.machine.free_devices < job.devices:
            return None
        wait_s, run_s = self._wait_s(slot, now_s), self.ranking.left_s(roster.standing(slot), now_s=now_s)
        if not aged and not self._worth.could_allow(wait_s, run_s):
            return None
        order = roster.ordered(yielding, now_s=now_s)[::-1].tolist()
        late = hold is not None and now_s + job.estimate_s > hold.at_s
        barred = {hold.pool: tuple(hold.spare_on)} if hold is not None and late else None
        found = displace(
            self.machine,
            job,
            [roster.standing(victim).placement for victim in order],
            until_s=now_s + job.estimate_s,
            barred=barred,
        )
        if found is None:
            return None
        victims = [order[index] for index in found.victims]
        swap = self._swap(found, victims, wait_s, run_s, now_s)
        return (found, victims, swap) if aged or self._worth.allows(swap) else None

    def _swap(self, found: Displacement, victims: list[int], wait_s: float, run_s: float | None, now_s: float) -> Swap:
        roster = self._roster
        standings = [roster.standing(victim) for victim in victims]
        switches = [(one.held, one.switch_s) for one in standings]
        free = self.machine.pools[found.placement.pool].free[list(found.placement.nodes)]
        each = found.placement.devices_per_node
        left_over = found.freed_devices - int((each - np.minimum(free, each)).sum())
        others = roster.devices(roster.those(WAITING))
        if left_over and len(others) > 1 and int(others.min()) <= left_over:
            left_over = 0
        return Swap(
            devices=found.placement.devices,
            wait_s=min(wait_s, max(float(roster.until_s(np.array(victims)).max()) - now_s, LEAST_S)),
            run_s=run_s,
            switch_device_s=sum(devices * switch_s for devices, switch_s in switches),
            switch_s=sum(switch_s for _, switch_s in switches),
            victims=len(victims),
            left_over_devices=left_over,
        )

    def _wait_s(self, slot: int, now_s: float) -> float:
        """How long a job would wait: until by what is known enough is over for it and those ahead of it.

        Counted over the pools that can take it; infinite where devices are enough but scattered.
        """
        roster, job = self._roster, self._planned[slot]
        able = [not nodes.pool.obstacle(job) for nodes in self.machine.pools.values()]
        free = sum(nodes.free_devices for nodes, can in zip(self.machine.pools.values(), able, strict=True) if can)
        waiting = roster.those(WAITING)
        before = waiting[roster.ranks(waiting, now_s=now_s) < self._rank(slot, now_s)]
        missing = job.devices + int(roster.devices(before).sum()) - free
        running = roster.those(RUNNING)
        if not all(able):
            running = running[np.array(able)[roster.pools(running)]]
        if missing <= 0 or not len(running):
            return math.inf
        left_s = roster.until_s(running) - now_s
        order = np.argsort(left_s, kind="stable")
        enough = int(np.searchsorted(np.cumsum(roster.devices(running)[order]), missing))
        return max(float(left_s[order[min(enough, len(order) - 1)]]), LEAST_S)

    # --- what happens to one job --------------------------------------------------------------------------------------

    def _start(self, slot: int, placement: Placement, hold: Hold | None, now_s: float, text: str) -> Start:
        standing, job = self._roster.standing(slot), self._planned[slot]
        waited_s = now_s - standing.since_s
        if job.id in self._aged:
            self._aged[job.id] = (self._aged[job.id][0], waited_s)
        speed = self._speeds(standing.job, pool=placement.pool, devices=placement.devices)
        standing.start(placement, now_s=now_s, speed=speed)
        run_s = standing.startup_s + self._left_s(standing, now_s) / (speed or 1.0)
        self.machine.start(msgspec.structs.replace(job, estimate_s=run_s), placement, now_s=now_s, hold=hold)
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

    def _runs(self, slot: int, *, until_s: float, now_s: float) -> None:
        standing = self._roster.standing(slot)
        job = standing.job
        spared_s = self._worth.spell * standing.switch_s
        if job.id in self._aged:
            spared_s = max(spared_s, self._aged[job.id][1])
        self._roster.run(
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
        standing = self._roster.standing(slot)
        job, left_s = standing.job, self._left_s(standing, now_s)
        startup_s = job.restart_s if standing.starts else 0.0
        needs_s = startup_s + left_s
        planned = job if needs_s == job.estimate_s else msgspec.structs.replace(job, estimate_s=needs_s)
        self._planned[slot] = planned
        self._roster.wait(slot, needs_s=needs_s)
        self._set_course(slot, now_s)
        if math.isfinite(self._guard_s) and job.id not in self._aged:
            self._guards.append((now_s + self._guard_s, job.id))

    def _stop(self, slot: int, now_s: float, *, lost: bool) -> None:
        standing = self._roster.standing(slot)
        standing.stop(now_s=now_s, lost=lost)
        self.machine.end(standing.job.id, now_s=now_s)
        self.ranking.stopped(standing, now_s=now_s)
        self._waits(slot, now_s)

    def _go_on(self, slot: int, pool: str, node: int, lost: bool, now_s: float) -> Resize | None:
        """A job goes on without a node, if it can and another is there."""
        standing = self._roster.standing(slot)
        job = standing.job
        if not (job.preemptible or job.saves_every_s < math.inf):
            return None
        run_s = job.restart_s + self._left_s(standing, now_s) / (standing.speed or 1.0)
        planned = msgspec.structs.replace(job, estimate_s=run_s)
        placement = self.machine.elsewhere(planned, node, now_s=now_s)
        if placement is None:
            return None
        self._shift(slot, placement, run_s, speed=standing.speed, lost=lost, now_s=now_s)
        why = "failed" if lost else "is taken for maintenance"
        reason = f"node {pool}-{node} {why}; {standing.done_s:.0f} s of its work are saved, and another node is there"
        return Resize(job=job.id, at_s=now_s, until_s=now_s + run_s, placement=placement, lost=lost, reason=reason)

    def _shift(self, slot: int, placement: Placement, run_s: float, *, speed: float, lost: bool, now_s: float) -> None:
        """A running job goes over to other devices, for so long."""
        standing = self._roster.standing(slot)
        self.machine.move(msgspec.structs.replace(standing.job, estimate_s=run_s), placement, now_s=now_s)
        self.ranking.stopped(standing, now_s=now_s)
        standing.move(placement, now_s=now_s, speed=speed, lost=lost)
        self._runs(slot, until_s=now_s + run_s, now_s=now_s)

    def _set_back(self, slot: int, pool: str, node: int, lost: bool, now_s: float) -> Preempt:
        """A job that lost a node waits again."""
        self._stop(slot, now_s, lost=lost)
        standing = self._roster.standing(slot)
        why = "failed" if lost else "is taken for maintenance"
        reason = f"node {pool}-{node} {why}; {standing.done_s:.0f} s of its work are saved, and no other node is there"
        return Preempt(job=standing.job.id, at_s=now_s, lost=lost, reason=reason)

    def _displaced(self, victim: int, newcomer: int, swap: Swap, decisions: _Decided, now_s: float) -> None:
        """One makes room for another."""
        roster = self._roster
        standing, other = roster.standing(victim), roster.standing(newcomer).job.id
        rank, until_s = self._rank(victim, now_s), float(roster.until_s(np.array([victim]))[0])
        why = (
            self._aged_words(newcomer, now_s)
            if other in self._aged
            else self.ranking.words(self._rank(newcomer, now_s))
        )
        reason = f"job {other} {why}, this one {self.ranking.words(rank)}; {swap.numbers}"
        preempt = Preempt(job=standing.job.id, at_s=now_s, reason=reason)
        decisions.list.append(preempt)
        decisions.stopped[victim] = _Stopped(preempt, dataclasses.replace(standing), until_s)
        self._stop(victim, now_s, lost=False)

    def _undo(self, slot: int, decisions: _Decided, hold: Hold | None, now_s: float) -> bool:
        """Nobody took the devices of one that was stopped in this pass after all: it goes on as if nothing had been."""
        preempt, was, until_s = decisions.stopped[slot]
        nodes, place = self.machine.pools[was.placement.pool], was.placement
        if int(nodes.free[list(place.nodes)].min()) < place.devices_per_node:
            return False
        if hold is not None and hold.pool == place.pool and not hold.spare_on.keys().isdisjoint(place.nodes):
            return False
        del decisions.stopped[slot]
        decisions.list[:] = [one for one in decisions.list if one is not preempt]
        standing = self._roster.standing(slot)
        for field in dataclasses.fields(Standing):
            setattr(standing, field.name, getattr(was, field.name))
        run_s = max(until_s - now_s, LEAST_S)
        self.machine.start(msgspec.structs.replace(was.job, estimate_s=run_s), place, now_s=now_s, hold=hold)
        self._runs(slot, until_s=until_s, now_s=now_s)
        return True

    # --- ranks --------------------------------------------------------------------------------------------------------

    def _first(self, now_s: float) -> int:
        return self._roster.first(self._roster.those(WAITING), now_s=now_s)

    def _rank(self, slot: int, now_s: float) -> float:
        return self._roster.rank(slot, now_s=now_s)

    def _left_s(self, standing: Standing, now_s: float) -> float:
        """What it still has to run with the devices it asked for, by what is planned with."""
        left_s = self.ranking.left_s(standing, now_s=now_s) if self._predicts else None
        return max(standing.job.estimate_s - standing.done_by(now_s), LEAST_S) if left_s is None else left_s

    def _ask(self, now_s: float) -> bool:
        """Ranks whose course is over; whether there were any."""
        roster = self._roster
        overdue = roster.overdue(now_s=now_s)
        for slot in overdue:
            self._set_course(slot, now_s)
            if roster.standing(slot).running and float(roster.until_s(np.array([slot]))[0]) <= now_s:
                self._outlived(slot, now_s)
        return bool(overdue)

    def _outlived(self, slot: int, now_s: float) -> None:
        """A running job outlived what was known of it: holds are to know the new end."""
        standing = self._roster.standing(slot)
        run_s = max(self._left_s(standing, now_s), LEAST_S) / (standing.speed or 1.0)
        planned = msgspec.structs.replace(standing.job, estimate_s=run_s)
        self.machine.move(planned, standing.placement, now_s=now_s)
        self._roster.extend(slot, until_s=now_s + run_s)

    def _set_course(self, slot: int, now_s: float) -> None:
        standing = self._roster.standing(slot)
        if (aged := self._aged.get(standing.job.id)) is not None:
            order, owed_s = aged
            over_s = standing.since_s + owed_s if standing.running else math.inf
            if now_s < over_s:
                self._roster.set_course(slot, Course(AGED + order, 0.0, over_s), now_s=now_s)
                return
            del self._aged[standing.job.id]
        self._roster.set_course(slot, self.ranking.course(standing, now_s=now_s), now_s=now_s)

    def _age(self, now_s: float) -> None:
        """Who waited too long has a turn, if others leave one."""
        while self._guards and self._guards[0][0] <= now_s:
            due_s, job = self._guards[0]
            if self._guarded(due_s, job):
                slot = self._roster.slot(job)
                if self._aged and not self._room_for(self._roster.standing(slot).job):
                    return
                self._aged[job] = (self._ages, 0.0)
                self._ages += 1
                self._set_course(slot, now_s)
            self._guards.popleft()

    def _room_for(self, job: Job) -> bool:
        """Whether one more turn leaves the others their share."""
        held = sum(self._roster.standing(self._roster.slot(one)).job.devices for one in self._aged)
        return held + job.devices <= self._guard_share * self.machine.devices

    def _guarded(self, due_s: float, job: JobId) -> bool:
        """Whether a guard is still somebody's."""
        slot = self._roster.find(job)
        if slot is None or job in self._aged:
            return False
        standing = self._roster.standing(slot)
        return not standing.running and standing.since_s + self._guard_s == due_s

    def _aged_words(self, slot: int, now_s: float) -> str:
        standing = self._roster.standing(slot)
        return f"waits since {standing.since_s:g} s, longer than {self._guard_s:g} s, and stands before all others"

    def _held(self, now_s: float) -> Hold:
        """The hold for the first in the queue: the one there is, while it stands."""
        head, hold = self._planned[self._first(now_s)], self._hold
        if hold is None or hold.job != head.id:
            hold = self.machine.hold(head, now_s=now_s)
        elif self._surprises != self.machine.surprises:
            hold = self.machine.renew(hold, head, now_s=now_s)
        self._hold, self._surprises = hold, self.machine.surprises
        return hold
