"""A cap on the power of a fleet, hour by hour: starts that would pass it are withheld until there is power.

A device that a job holds draws `busy_w`, any other `idle_w`, one that is broken too. A job starts only if, from now to
the end of its estimate, all that runs by the estimates and the job itself stay under the cap of every hour; who has
outlived its estimate is taken to run for ever. Power has the rule that devices have in EASY backfilling (Lifka,
JSSPP'95): if the first in the queue has devices but no power, power is held for it from the earliest instant at which
there is enough, and the others start only if they leave it that.

The cap is never passed while jobs keep to their estimates. Who outlives its estimate, or starts again after a fault,
and so runs on into an hour with a lower cap, is not stopped; nobody else starts meanwhile.

Where hours have prices, a job with a deadline may be held back for cheaper ones: of the instants in the first part of
its slack (deadline - now - estimate), the one from which its estimate costs least; of equals the earliest. As the price
is constant within an hour, the cost is linear between the instants at which it begins or ends with an hour, and one of
those, or now, or the last allowed, is the cheapest.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, final

import msgspec

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision, Placement, Refuse, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.moving import Moving, nodes_of
from myriarch.schedule.power import Hour
from myriarch.schedule.scheduler import refusal

ROUNDING: Final = 1e-9
"""Of a sum of watts."""


class Watts(Value, frozen=True, kw_only=True):
    """What a device of a pool draws, its part of the node included."""

    busy_w: float
    idle_w: float


class _Load(NamedTuple):
    """Watts over the idle ones, from an instant until another."""

    from_s: float
    until_s: float
    power_w: float


class _Held(NamedTuple):
    """A job that waits for cheaper hours. Ordered by instant, number."""

    at_s: float
    number: int
    job: Job
    words: str


@final
class Capped:
    """Another scheduler, under a cap.

    Invariant (`check`): what runs within its estimate, and was never moved, draws no more than the cap of now.
    """

    def __init__(
        self,
        scheduler: Moving,
        watts: Mapping[str, Watts],
        hours: Sequence[Hour],
        *,
        slack_share: float = 0.0,
    ) -> None:
        """hours: ascending; where none is, there is no cap and no price. slack_share: part of its slack for which a job
        with a deadline may be held back; 0: never. Raises SpecError for watts or hours that cannot be."""
        self.machine = nodes_of(scheduler)
        """The scheduler's own."""
        self._scheduler = scheduler
        self._watts = dict(watts)
        self._hours = tuple(hours)
        self._slack_share = slack_share
        self._idle_w = self._checked()
        self._ends_s = [hour.end_s for hour in self._hours]
        self._edges_s = sorted({edge for hour in self._hours for edge in (hour.start_s, hour.end_s)})
        self._held: list[_Held] = []
        self._numbers = 0
        self._words: dict[JobId, str] = {}
        """Of jobs that were held back, until they start."""
        self._review_at_s = math.inf
        """The first edge of an hour after a start was withheld or somebody was left waiting."""
        self._first: tuple[Job, float] | None = None
        """The first in the queue, if it lacked nothing but power, and its watts."""
        self._moved: set[JobId] = set()
        self._now_s = -math.inf
        full_w = sum(nodes.pool.devices * self._watts[name].busy_w for name, nodes in self.machine.pools.items())
        if any(hour.cap_w < full_w for hour in self._hours):
            self.machine.supply = self

    # --- what a scheduler is ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many jobs wait, held back ones too."""
        return self._scheduler.waiting + len(self._held)

    @property
    def head(self) -> Job | None:
        """Who is first in the queue."""
        return self._scheduler.head

    @property
    def wake_s(self) -> float:
        """For the scheduler, for who is held back, or for the next hour if somebody lacks power."""
        held_s = self._held[0].at_s if self._held else math.inf
        return min(self._scheduler.wake_s, held_s, self._review_at_s)

    @property
    def power_w(self) -> float:
        """What all devices draw now."""
        running = (self.machine.run(job)[0] for job in self.machine.running())
        return self._idle_w + sum(self._added_w(placement) for placement in running)

    def cap_w(self, at_s: float) -> float:
        """The cap at an instant."""
        return next((hour.cap_w for hour in self._over(at_s, math.nextafter(at_s, math.inf))), math.inf)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more. Held back, if it has time and energy gets cheaper."""
        self._now_s = now_s
        refused = refusal(self.machine, job, now_s=now_s) or self._powerless(job, now_s)
        if refused is not None:
            return (refused,)
        start_s, words = self._cheapest(job, now_s)
        if start_s > now_s:
            heapq.heappush(self._held, _Held(start_s, self._numbers, job, words))
            self.machine.held_back_devices += job.devices
            self._numbers += 1
            return ()
        return self._noted(self._scheduler.submit(job, now_s=now_s), now_s)

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._now_s = now_s
        self._moved.discard(job)
        return self._noted(self._scheduler.end(job, now_s=now_s), now_s)

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """An hour begins, who was held back comes, or what the scheduler waits for."""
        decisions: list[Decision] = []
        self._now_s = now_s
        if self._review_at_s <= now_s:
            decisions += self.changed(now_s=now_s)
        while self._held and self._held[0].at_s <= now_s:
            held = heapq.heappop(self._held)
            self.machine.held_back_devices -= held.job.devices
            self._words[held.job.id] = held.words
            decisions += self._noted(self._scheduler.submit(held.job, now_s=now_s), now_s)
        if self._scheduler.wake_s <= now_s:
            decisions += self._noted(self._scheduler.wake(now_s=now_s), now_s)
        return decisions

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """There are other nodes, or there is another cap."""
        self._review_at_s = math.inf
        decisions = self._noted(self._scheduler.changed(now_s=now_s), now_s)
        if self._scheduler.waiting:  # who is held for later is not even tried now
            self._review_at_s = self._next_edge_s(now_s)
        return decisions

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on elsewhere."""
        self._moved.add(job)
        return self._scheduler.move(job, placement, now_s=now_s, reason=reason)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone."""
        return self._noted(self._scheduler.lose(pool, node, now_s=now_s), now_s)

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        return self._noted(self._scheduler.regain(pool, node, now_s=now_s), now_s)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        return self._noted(self._scheduler.drain(pool, node, from_s=from_s, now_s=now_s), now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self._scheduler.check()
        kept = [
            self._added_w(placement)
            for job in self.machine.running()
            if job not in self._moved
            for placement, until_s in [self.machine.run(job)]
            if until_s > self._now_s
        ]
        assert self._idle_w + sum(kept) <= self.cap_w(self._now_s) * (1 + ROUNDING)

    # --- power --------------------------------------------------------------------------------------------------------

    def admits(self, job: Job, placement: Placement, *, now_s: float, without: Sequence[Placement] = ()) -> bool:
        """Whether there is power for a start, now and until its end, beside what is held for the first."""
        loads = self._loads(now_s, without)
        mine = _Load(now_s, now_s + job.estimate_s, self._added_w(placement))
        head = self._scheduler.head
        if head is not None and head.id == job.id:
            admitted = self._fits(mine, loads)
            self._first = None if admitted else (job, mine.power_w)
        else:
            if self._first is not None and head is not None and head.id == self._first[0].id:
                loads.append(self._promised(*self._first, loads, now_s))
            admitted = self._fits(mine, loads)
        if not admitted:
            self._review_at_s = min(self._review_at_s, self._next_edge_s(now_s))
        return admitted

    def earliest_s(self, job: Job, *, pool: str, devices: int, now_s: float) -> float:
        """From when on there is power for a job, by the estimates of who runs."""
        power_w = self._added_w(Placement(pool=pool, nodes=(0,), devices_per_node=devices))
        loads = self._loads(now_s, ())
        if self._fits(_Load(now_s, now_s + job.estimate_s, power_w), loads):
            return now_s
        return self._promised(job, power_w, loads, now_s).from_s

    def lacks(self, job: Job) -> bool:
        """Whether the first in the queue has devices, but no power."""
        return self._first is not None and self._first[0].id == job.id

    def _powerless(self, job: Job, now_s: float) -> Refuse | None:
        """The refusal of a job for which there is never power, not even alone on the fleet."""
        needs_w = min(
            self._added_w(Placement(pool=way.nodes.pool.name, nodes=(0,), devices_per_node=way.many * way.each))
            for way in self.machine.ways(job)
        )
        if self.machine.supply is not self or self._fits(_Load(now_s, now_s + job.estimate_s, needs_w), ()):
            return None
        if math.isfinite(self._promised(job, needs_w, (), now_s).from_s):
            return None
        most_w = max(hour.cap_w for hour in self._over(now_s, math.inf))
        why = f"draws {self._idle_w + needs_w:.0f} W with all else idle, for {job.estimate_s:g} s"
        return Refuse(
            job=job.id, at_s=now_s, reason=f"job {job.id} {why}: the caps, {most_w:.0f} W at most, never leave it that"
        )

    def _loads(self, now_s: float, without: Sequence[Placement]) -> list[_Load]:
        """Of those who run, by their estimates."""
        gone, loads = list(without), list[_Load]()
        for placement, until_s in sorted(map(self.machine.run, self.machine.running()), key=lambda run: run[1]):
            if placement in gone:
                gone.remove(placement)  # of two alike the one that ends first: never too little is counted
            else:
                until_s = until_s if until_s > now_s else math.inf
                loads.append(_Load(-math.inf, until_s, self._added_w(placement)))
        return loads

    def _promised(self, job: Job, power_w: float, loads: Sequence[_Load], now_s: float) -> _Load:
        """The first in the queue, from the earliest instant at which there is power for it."""
        later = self._edges_s[bisect_right(self._edges_s, now_s) :]
        for at_s in sorted({*later, *(load.until_s for load in loads if load.until_s > now_s)}):
            load = _Load(at_s, at_s + job.estimate_s, power_w)
            if self._fits(load, loads):
                return load
        return _Load(math.inf, math.inf, 0.0)  # somebody has outlived its estimate, and nobody knows when it ends

    def _fits(self, mine: _Load, loads: Sequence[_Load]) -> bool:
        """Whether a load stays under the cap of all hours beside others. Only where an hour or a load begins can it
        fail first."""
        for hour in self._over(mine.from_s, mine.until_s):
            from_s, until_s = max(hour.start_s, mine.from_s), min(hour.end_s, mine.until_s)
            if math.isinf(hour.cap_w):
                continue
            for at_s in (from_s, *(load.from_s for load in loads if from_s < load.from_s < until_s)):
                beside = sum(load.power_w for load in loads if load.from_s <= at_s < load.until_s)
                if self._idle_w + beside + mine.power_w > hour.cap_w * (1 + ROUNDING):
                    return False
        return True

    def _added_w(self, placement: Placement) -> float:
        """By which a placement draws more than idle devices."""
        watts = self._watts[placement.pool]
        return placement.devices * (watts.busy_w - watts.idle_w)

    def _next_edge_s(self, after_s: float) -> float:
        at = bisect_right(self._edges_s, after_s)
        return self._edges_s[at] if at < len(self._edges_s) else math.inf

    def _over(self, from_s: float, until_s: float) -> Iterator[Hour]:
        """The hours that a stretch of time touches."""
        for at in range(bisect_right(self._ends_s, from_s), len(self._hours)):
            if self._hours[at].start_s >= until_s:
                return
            yield self._hours[at]

    def _noted(self, decisions: Sequence[Decision], now_s: float) -> Sequence[Decision]:
        """Starts with the power that is drawn once all of them have started."""
        self._now_s = now_s
        starts = any(isinstance(decision, Start) for decision in decisions)
        drawn = f"{self.power_w:.0f} of {self.cap_w(now_s):.0f} W drawn" if starts else ""
        noted: list[Decision] = []
        for decision in decisions:
            if isinstance(decision, Resize):
                self._moved.add(decision.job)
            elif not isinstance(decision, Start):
                self._moved.discard(decision.job)
            else:
                said = (decision.reason.text, self._words.pop(decision.job, ""), drawn)
                reason = msgspec.structs.replace(decision.reason, text="; ".join(one for one in said if one))
                decision = msgspec.structs.replace(decision, reason=reason)
            noted.append(decision)
        return noted

    def _checked(self) -> float:
        """What all devices draw idle, if all that was said can be."""
        if missing := [pool for pool in self.machine.pools if pool not in self._watts]:
            raise SpecError(f"pool `{missing[0]}` has no watts", hint="give every pool its busy and idle watts")
        for pool, watts in self._watts.items():
            if not 0 <= watts.idle_w <= watts.busy_w < math.inf:
                numbers = f"{watts.idle_w:g} W idle and {watts.busy_w:g} W busy"
                raise SpecError(f"a device of pool `{pool}` draws {numbers}", hint="0 <= idle <= busy")
        if not 0 <= self._slack_share <= 1:
            raise SpecError(f"slack_share {self._slack_share:g}", hint="from 0 to 1")
        for before, after in pairwise(self._hours):
            if after.start_s < before.end_s:
                raise SpecError(f"the hour from {after.start_s:g} s begins before the one before it ends; sort them")
        idle_w = sum(
            nodes.pool.devices * self._watts[name].idle_w for name, nodes in sorted(self.machine.pools.items())
        )
        for hour in self._hours:
            if hour.end_s <= hour.start_s or hour.cap_w < idle_w:
                raise SpecError(
                    f"the hour from {hour.start_s:g} to {hour.end_s:g} s has a cap of {hour.cap_w:g} W; idle, all"
                    f" devices draw {idle_w:g} W",
                    hint="raise the cap, or leave it out",
                )
        return idle_w

    # --- price --------------------------------------------------------------------------------------------------------

    def _cheapest(self, job: Job, now_s: float) -> tuple[float, str]:
        """When to let a job into the queue, and why not now."""
        slack_s = -1.0 if job.deadline_s is None else job.deadline_s - now_s - job.estimate_s
        if not self._slack_share or slack_s <= 0:
            return now_s, ""
        last_s = now_s + self._slack_share * slack_s
        costs = {at_s: self._mean_price(at_s, at_s + job.estimate_s) for at_s in self._instants(job, now_s, last_s)}
        at_s = min(costs, key=lambda one: (costs[one], one))
        if not math.isfinite(costs[now_s]) or not costs[at_s] < costs[now_s] - ROUNDING * abs(costs[now_s]):
            return now_s, ""
        prices = f"energy at {costs[at_s]:g} a kWh instead of {costs[now_s]:g}"
        return at_s, f"held back from {now_s:g} to {at_s:g} s of {slack_s:g} s slack for {prices}"

    def _instants(self, job: Job, now_s: float, last_s: float) -> Iterator[float]:
        """Starts between which the cost is linear."""
        yield now_s
        yield last_s
        for before_s in (0.0, job.estimate_s):
            begin, end = bisect_right(self._edges_s, now_s + before_s), bisect_left(self._edges_s, last_s + before_s)
            yield from (edge_s - before_s for edge_s in self._edges_s[begin:end])

    def _mean_price(self, from_s: float, until_s: float) -> float:
        """Of a kWh, over a stretch; infinite where an hour of it has none."""
        cost = covered_s = 0.0
        for hour in self._over(from_s, until_s):
            seconds = max(min(hour.end_s, until_s) - max(hour.start_s, from_s), 0.0)
            cost += seconds * hour.price_per_kwh
            covered_s += seconds
        span_s = until_s - from_s
        return cost / span_s if covered_s >= span_s * (1 - ROUNDING) else math.inf
