"""A scheduler that ranks all jobs, waiting and running, and stops running ones where that is worth what it costs.

At every decision, in the order of the ranking:

    1  whoever stands first among the waiting starts where there is room
    2  where there is none, running jobs that stand a good deal lower make room, if the swap is worth its price
       (`swaps`, `worth`): the fewest, each of them needed, the lowest first (`displacing`)
    3  where that is not possible or not worth it, devices are held for the first (as EASY holds them), from the
       earliest instant at which it fits by what is known, if that is worth what stands idle meanwhile (`holding`); the
       others start, or displace others, beside the hold only

so small jobs do not starve large gangs. Nor does anything else: who waited for `guard_s` on end has its turn
(`turns`, which states the bound). Gangs are whole and inside their domain, because `Placed` is.

What a pass found impossible is tried again after an end, a change of nodes or a better rank, and every `review_s`,
since time alone makes running jobs preemptible and waits longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, final

import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Resize
from myriarch.schedule.holding import Holding
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Full
from myriarch.schedule.machine import Hold
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked_book import RankedBook, Stopped
from myriarch.schedule.rankings import Ranking
from myriarch.schedule.roster import RUNNING, WAITING
from myriarch.schedule.scheduler import refusal
from myriarch.schedule.speed import Rigid, Speeds
from myriarch.schedule.swaps import Found, Swaps
from myriarch.schedule.turns import GUARD_S, GUARD_SHARE
from myriarch.schedule.worth import Worth

REVIEW_S: Final = 300.0
"""Five minutes, after which Slurm works out priorities anew too (PriorityCalcPeriod)."""
SEARCHES_MOST: Final = 16
"""Shapes of jobs for which victims are looked for in vain in one pass."""
FEW: Final = 32
"""So many are put in order at a time."""


class _Decided:
    """What a pass has decided so far."""

    def __init__(self) -> None:
        self.list: list[Decision] = []
        self.stopped: dict[int, Stopped] = {}
        """By slot."""


@final
class Ranked:
    """The machine. `speeds`: how fast jobs get on where; `plan`: whether holds trust estimates or predictions.

    Invariants (`check`): those of `RankedBook`; while `_hold` is for the first in the queue and `_surprises` are the
    machine's, it stands.
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
        if review_s < 0:
            raise SpecError(f"review_s {review_s:g} is below zero; 0: no reviews")
        self.machine = machine
        self.ranking = ranking
        worth = worth or Worth()
        self._book = RankedBook(
            machine,
            ranking,
            speeds=speeds or Rigid(),
            spell=worth.spell,
            predicts=plan == "prediction",
            guard_s=guard_s,
            guard_share=guard_share,
        )
        self._swaps = Swaps(self._book, worth)
        self._holding = Holding(self._book, worth, guard_s=guard_s, review_s=review_s)
        self._holds = holds
        self._review_s = review_s
        self._hold: Hold | None = None
        self._surprises = 0
        self._reviewed_s = -math.inf
        self._passed_s = 0.0

    # --- what a scheduler is ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._book.roster.waiting

    @property
    def head(self) -> Job | None:
        """Who stands first among those who wait, by the ranks of the last pass."""
        book = self._book
        return book.roster.standing(book.first(now_s=self._passed_s)).job if self.waiting else None

    @property
    def wake_s(self) -> float:
        """For the next guard; for ranks that change, and for a review, while there is who could yield."""
        roster = self._book.roster
        if not roster.waiting:
            return math.inf
        guard_s = self._book.turns.next_s(after_s=self._passed_s)
        if not roster.running:
            return guard_s
        ask_s = roster.next_ask_s if self.ranking.urgent else math.inf
        review_s = self._reviewed_s + self._review_s if self._review_s else math.inf
        return min(guard_s, ask_s, review_s)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        if refused := refusal(self.machine, job, now_s=now_s):
            return (refused,)
        return self._pass(now_s, newcomer=self._book.submit(job, now_s=now_s))

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._book.end(job, now_s=now_s)
        return self._pass(now_s)

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A guard, a rank or a review is due."""
        return self._pass(now_s)

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """Nodes were withdrawn or restored."""
        return self._pass(now_s)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone: its jobs go on elsewhere where a node is kept back or free for them, or wait again."""
        planned = self.machine.planned(pool, node, now_s=now_s)
        decisions: list[Decision] = [
            self._book.lose(job, pool, node, planned=planned, now_s=now_s)
            for job in self.machine.running_on(pool, node)
        ]
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
        return self._book.move(job, placement, reason=reason, now_s=now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self._book.check()

    # --- a pass -------------------------------------------------------------------------------------------------------

    def _pass(self, now_s: float, *, newcomer: int | None = None) -> list[Decision]:
        """Start and stop whom it takes.

        A newcomer that does not stand first is the only one to look at, until a review is due: for the others there was
        no room before, and time only shortens what is left before a hold.
        """
        book, decisions = self._book, _Decided()
        book.age(now_s=now_s)
        moved = book.ask(now_s=now_s) and self.ranking.urgent
        due = moved or now_s >= self._reviewed_s + self._review_s
        if self.waiting:
            alone = newcomer is not None and not due and book.first(now_s=now_s) != newcomer
            if due:
                self._reviewed_s = now_s
            if self._holds and not alone:
                self._start_first(decisions, now_s, displacing=due or newcomer is not None)
            if self.waiting:
                hold = self._held(now_s) if self._holds else None
                if alone and newcomer is not None:
                    self._try(newcomer, decisions, hold, now_s, displacing=True)
                else:
                    self._serve(decisions, hold, now_s, displacing=due)
        book.turns.forget()
        self._passed_s = now_s
        return decisions.list

    def _start_first(self, decisions: _Decided, now_s: float, *, displacing: bool) -> None:
        """Start whoever stands first, for as long as there is room or it can be made."""
        while self.waiting:
            first = self._book.first(now_s=now_s)
            displaces = displacing or self._book.planned(first).id in self._book.turns
            if first in decisions.stopped or not self._try(first, decisions, None, now_s, displacing=displaces):
                return

    def _serve(self, decisions: _Decided, hold: Hold | None, now_s: float, *, displacing: bool) -> None:
        """Let others start in order of rank: where there is room beside the hold, or where it can be made."""
        book, roster = self._book, self._book.roster
        full, searches, after = Full(), 0, (-math.inf, -1)
        while True:
            chosen, more = self._candidates(hold, now_s, full, after, displacing=displacing)
            for slot in chosen:
                after = (book.rank(slot, now_s=now_s), roster.standing(slot).number)
                shape = roster.shape(slot)
                late = hold is not None and now_s + book.planned(slot).estimate_s > hold.at_s
                if shape in (full.late if late else full.ever):
                    continue
                before = len(decisions.stopped)
                if self._try(slot, decisions, hold, now_s, displacing=displacing and searches < SEARCHES_MOST):
                    if len(decisions.stopped) > before:  # they wait now, and may fit elsewhere
                        more = True
                        break
                    if not (self.machine.free_devices or displacing):
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
        roster = self._book.roster
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
        slots, ranks, late = slots[may], ranks[may], late[may]
        if full.late or full.ever:
            fits = [
                shape not in (full.late if after_hold else full.ever)
                for shape, after_hold in zip(roster.shapes(slots).tolist(), late.tolist(), strict=True)
            ]
            slots, ranks = slots[fits], ranks[fits]
        more = len(slots) > FEW
        if more:
            slots = slots[ranks <= np.partition(ranks, FEW)[FEW]]
        return roster.ordered(slots, now_s=now_s).tolist(), more

    def _try(self, slot: int, decisions: _Decided, hold: Hold | None, now_s: float, *, displacing: bool) -> bool:
        """Start one, where there is room or where it is worth making some; whether it runs now."""
        if slot in decisions.stopped:
            return self._undo(slot, decisions, hold, now_s)
        book = self._book
        placement = self.machine.place(book.planned(slot), now_s=now_s, hold=hold)
        found = self._swaps.find(slot, hold=hold, now_s=now_s) if placement is None and displacing else None
        if placement is None and found is None:
            return False
        text = book.words(slot, now_s=now_s)
        if found is not None:
            self._displace(slot, found, decisions, now_s)
            placement, text = found.placement, f"{text}: {found.swap.numbers}"
        assert placement is not None
        decisions.list.append(book.start(slot, placement, hold=hold, text=text, now_s=now_s))
        return True

    def _displace(self, newcomer: int, found: Found, decisions: _Decided, now_s: float) -> None:
        """Some make room for another."""
        book = self._book
        other, why = book.planned(newcomer).id, book.words(newcomer, now_s=now_s)
        for victim in found.victims:
            mine = self.ranking.words(book.rank(victim, now_s=now_s))
            reason = f"job {other} {why}, this one {mine}; {found.swap.numbers}"
            decisions.stopped[victim] = book.preempt(victim, reason=reason, now_s=now_s)
            decisions.list.append(decisions.stopped[victim].preempt)

    def _undo(self, slot: int, decisions: _Decided, hold: Hold | None, now_s: float) -> bool:
        """Nobody took the devices of one that was stopped in this pass after all: it was not stopped."""
        stopped = decisions.stopped[slot]
        if not self._book.undo(slot, stopped, hold=hold, now_s=now_s):
            return False
        del decisions.stopped[slot]
        decisions.list[:] = [one for one in decisions.list if one is not stopped.preempt]
        return True

    def _held(self, now_s: float) -> Hold | None:
        """The hold for the first in the queue: the one there is, while it stands; None: it is not worth its price."""
        first = self._book.first(now_s=now_s)
        if not self._holding.pays(first, now_s=now_s):
            self._hold = None
            return None
        head, hold = self._book.planned(first), self._hold
        if hold is None or hold.job != head.id:
            hold = self.machine.hold(head, now_s=now_s)
        elif self._surprises != self.machine.surprises:
            hold = self.machine.renew(hold, head, now_s=now_s)
        self._hold, self._surprises = hold, self.machine.surprises
        return hold
