"""Whether devices are held for who stands first: a hold has a price, as a stop has.

Until the last of what it waits for is back, what came back before stands idle, but for jobs that end earlier. For one
as large as the fleet that may be for days: on Mira, where such a job comes every third day, an eighth of all
device-time. So seconds of jobs are compared:

    spared     by which the hold brings the job's start forward: without one, it starts when it has its turn (`turns`)
               at the latest
    lost       while one of all devices does nothing, each of those who wait is late by its share:
               idle device-seconds x waiting / devices

Ends are those that are expected now, at the ages that jobs have (`ranked_book`). What is idle is counted as if nobody
started beside the hold: too much, and found anew in every review, while what others do leaves less of it. A job that
has its turn is held for at any price.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np

from myriarch.schedule.displacing import displace
from myriarch.schedule.job import JobId
from myriarch.schedule.ranked_book import LEAST_S, RankedBook
from myriarch.schedule.roster import RUNNING, Floats, Slots
from myriarch.schedule.worth import Worth


@final
class Holding:
    """The question, asked anew for another job and in every review."""

    def __init__(self, book: RankedBook, worth: Worth, *, guard_s: float, review_s: float) -> None:
        self._book = book
        self._worth = worth
        self._guard_s = guard_s
        self._review_s = review_s
        self._asked: JobId | None = None
        self._again_s = -math.inf
        self._pays = True

    def pays(self, slot: int, *, now_s: float) -> bool:
        """Whether a hold for the job that stands first is worth its price."""
        if not self._worth.holds or math.isinf(self._guard_s):
            return True
        job = self._book.planned(slot).id
        if job in self._book.turns:
            return True
        if job != self._asked or now_s >= self._again_s:
            self._asked, self._again_s = job, now_s + self._review_s
            self._pays = self._paid(slot, now_s)
        return self._pays

    def _paid(self, slot: int, now_s: float) -> bool:
        book, roster = self._book, self._book.roster
        job, running = book.planned(slot), roster.those(RUNNING)
        left_s = self._left_s(running, now_s)
        order = np.lexsort((running, left_s))
        places = [roster.standing(one).placement for one in running[order].tolist()]
        found = displace(book.machine, job, places, until_s=now_s + job.estimate_s)
        if found is None:  # never, with the nodes that are there: nothing is held then
            return True
        before = order[list(found.victims)]
        for_s = float(left_s[before].max(initial=0.0))
        busy_device_s = float((roster.devices(running[before]) * left_s[before]).sum())
        return self._worth.allows_hold(
            spared_s=roster.standing(slot).since_s + self._guard_s - (now_s + for_s),
            idle_device_s=max(found.placement.devices * for_s - busy_device_s, 0.0),
            waiting=roster.waiting - 1,
            devices=book.machine.devices,
        )

    def _left_s(self, running: Slots, now_s: float) -> Floats:
        """When each should be over; whoever is overdue, by what is left on average at its age."""
        book = self._book
        left_s = book.roster.until_s(running) - now_s
        for at in (left_s <= 0).nonzero()[0].tolist():
            more_s = book.ranking.left_s(book.roster.standing(int(running[at])), now_s=now_s)
            left_s[at] = max(more_s or 0.0, LEAST_S)
        return left_s
