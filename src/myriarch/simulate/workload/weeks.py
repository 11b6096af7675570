"""A workload cut into weeks: past ones to learn from, and later ones that nobody has looked at."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.arrivals import DAY_S, WEEK_S

AROUND_S: Final = 2 * DAY_S
"""Jobs that come so long before and after a week are simulated with it: our choice; the fleet is not empty when a week
begins, and its last jobs have others after them."""


class Period(Value, frozen=True, kw_only=True):
    """A stretch of a workload: some jobs are of interest, others are only there with them."""

    name: str
    tasks: tuple[Task, ...]
    """In order of submission, at the instants of the whole workload."""
    first: int
    last: int
    """Jobs of interest are `tasks[first:last]`."""

    @property
    def of_interest(self) -> tuple[Task, ...]:
        """The jobs that count."""
        return self.tasks[self.first : self.last]


class Split(Value, frozen=True, kw_only=True):
    """Weeks before an instant and after it. No job that came after it is in any period of the past."""

    past: tuple[Period, ...]
    held_out: tuple[Period, ...]
    at_s: float


def split_weeks(
    tasks: Sequence[Task], *, past: float = 0.6, week_s: float = WEEK_S, around_s: float = AROUND_S
) -> Split:
    """Whole weeks, the share `past` of them in the past. A last week that is not whole, and weeks without jobs, are
    left out. Raises SpecError where there are not enough for one on either side."""
    if not 0.0 < past < 1.0 or not week_s > 0 or around_s < 0:
        raise SpecError(f"past {past:g} of weeks of {week_s:g} s with {around_s:g} s around", hint="0 < past < 1")
    starts = [task.job.submit_s for task in tasks]
    begin_s = starts[0] if starts else 0.0
    many = int((starts[-1] - begin_s) // week_s) if starts else 0
    cut = round(past * many)
    if not 0 < cut < many:
        raise SpecError(f"the workload has {many} whole weeks", hint="a split needs at least two; shorten `week_s`")
    edges_s = [begin_s + number * week_s for number in range(many + 1)]
    at_s = edges_s[cut]
    word = "week" if week_s == WEEK_S else "period"
    found: list[list[Period]] = [[], []]
    for number, (from_s, to_s) in enumerate(pairwise(edges_s)):
        later = number >= cut
        end_s = to_s + around_s if later else min(to_s + around_s, at_s)
        low, high = bisect.bisect_left(starts, from_s - around_s), bisect.bisect_left(starts, end_s)
        first, last = bisect.bisect_left(starts, from_s), bisect.bisect_left(starts, to_s)
        if first < last:
            period = Period(
                name=f"{word} {number + 1}", tasks=tuple(tasks[low:high]), first=first - low, last=last - low
            )
            found[later].append(period)
    return Split(past=tuple(found[0]), held_out=tuple(found[1]), at_s=at_s)
