"""A newcomer for some victims: who would have to go for a job that waits, and whether that is worth its price.

Those that may be preempted now and stand a good deal lower are candidates, the lowest first (`displacing` finds the
fewest); what the swap gains and costs is counted, and `worth` says whether it is made. For a job that has its turn
(`turns`) everybody is a candidate who may ever be preempted, at any price.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, final

import numpy as np

from myriarch.schedule.decision import Placement
from myriarch.schedule.displacing import Displacement, displace
from myriarch.schedule.machine import Hold
from myriarch.schedule.ranked_book import LEAST_S, RankedBook
from myriarch.schedule.roster import RUNNING, WAITING, Slots
from myriarch.schedule.turns import AGED
from myriarch.schedule.worth import Swap, Worth

LATEST_S: Final = 1e300
"""After all instants but never."""


class Found(NamedTuple):
    """A swap that is worth it."""

    placement: Placement
    """Of the newcomer, once the victims are gone."""
    victims: list[int]
    """Slots."""
    swap: Swap


@final
class Swaps:
    """Looks for them; changes nothing."""

    def __init__(self, book: RankedBook, worth: Worth) -> None:
        self._book = book
        self._worth = worth

    def find(self, slot: int, *, hold: Hold | None, now_s: float) -> Found | None:
        """Room for a job at others' cost; None: none that is worth it."""
        book, roster = self._book, self._book.roster
        job = book.planned(slot)
        aged = job.id in book.turns
        yielding = self._yielding(slot, aged, now_s)
        if int(roster.devices(yielding).sum()) + book.machine.free_devices < job.devices:
            return None
        wait_s, run_s = self._wait_s(slot, now_s), book.ranking.spent_s(roster.standing(slot), now_s=now_s)
        if not aged and not self._worth.could_allow(wait_s, run_s):
            return None
        order = roster.ordered(yielding, now_s=now_s)[::-1].tolist()
        late = hold is not None and now_s + job.estimate_s > hold.at_s
        found = displace(
            book.machine,
            job,
            [roster.standing(victim).placement for victim in order],
            until_s=now_s + job.estimate_s,
            barred={hold.pool: tuple(hold.spare_on)} if hold is not None and late else None,
        )
        if found is None:
            return None
        victims = [order[index] for index in found.victims]
        swap = self._swap(found, victims, wait_s, run_s, now_s)
        return Found(found.placement, victims, swap) if aged or self._worth.allows(swap) else None

    def _yielding(self, slot: int, aged: bool, now_s: float) -> Slots:
        """Running jobs that would yield to it."""
        book, roster = self._book, self._book.roster
        found = roster.yielding(roster.those(RUNNING), now_s=LATEST_S if aged else now_s)
        bar = AGED / 2 if aged else book.ranking.hysteresis.above(book.rank(slot, now_s=now_s))
        lower: Slots = found[roster.ranks(found, now_s=now_s) > bar]
        return lower

    def _swap(self, found: Displacement, victims: list[int], wait_s: float, run_s: float | None, now_s: float) -> Swap:
        """What it gains and costs."""
        book, roster = self._book, self._book.roster
        standings = [roster.standing(victim) for victim in victims]
        free = book.machine.pools[found.placement.pool].free[list(found.placement.nodes)]
        each = found.placement.devices_per_node
        left_over = found.freed_devices - int((each - np.minimum(free, each)).sum())
        others = roster.devices(roster.those(WAITING))
        if left_over and len(others) > 1 and int(others.min()) <= left_over:
            left_over = 0
        until_s = max(roster.until(victim) for victim in victims)
        return Swap(
            devices=found.placement.devices,
            wait_s=min(wait_s, max(until_s - now_s, LEAST_S)),
            run_s=run_s,
            switch_device_s=sum(one.held * one.switch_s for one in standings),
            switch_s=sum(one.switch_s for one in standings),
            victims=len(victims),
            left_over_devices=left_over,
        )

    def _wait_s(self, slot: int, now_s: float) -> float:
        """How long a job would wait: until by what is known enough is over for it and those ahead of it.

        Counted over the pools that can take it; infinite where devices are enough but scattered.
        """
        book, roster = self._book, self._book.roster
        job, pools = book.planned(slot), book.machine.pools.values()
        able = [not nodes.pool.obstacle(job) for nodes in pools]
        free = sum(nodes.free_devices for nodes, can in zip(pools, able, strict=True) if can)
        waiting = roster.those(WAITING)
        before = waiting[roster.ranks(waiting, now_s=now_s) < book.rank(slot, now_s=now_s)]
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
