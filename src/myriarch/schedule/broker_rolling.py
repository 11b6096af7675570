"""The broker over a rolling horizon: decides when a job arrives, and plans anew what has not started.

    submit     a job arrives: the cheapest place that the plans of the others leave, at once
    replan     all that have not started: the largest together, as a batch of `broker.solve`, every hour or so
    retry      some of them, one by one, between two batches
    due        those whose time has come

A market is told at every step: what is free now and later by the pools' own forecasts, and the prices of the next
hours. It opens now. Devices for which the broker's own jobs wait are free in it, since they are what is planned anew.
Out come `Send` and `Recall`: a job is held back by the broker while it waits for a better price, and waits in the
pool's own queue while it waits for devices, where it keeps its turn.

What an hour of waiting is worth follows from one number, `price_per_slowdown`: what a unit of bounded slowdown counts
for in money. A job of an expected run time r loses 1 / r of it in a second, a short one much and a long one little;
with an uncertain run time it is the mean of that (`durations_slowness`), ruled by the chance that the job is short.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.broker import solve
from myriarch.schedule.broker_market import Jobs, Market, Offer, Request, Window
from myriarch.schedule.broker_menu import Ints, free_devices, runs_of
from myriarch.schedule.broker_result import Award, Decision
from myriarch.schedule.calendar import S_PER_HOUR

HOLD_MOST_S: Final = 24 * 3600.0
"""The farthest start that is planned: prices are known a day ahead."""
MOVE_GAIN: Final = 0.02
"""A job leaves a pool's queue for another pool, and its turn there, only for so much of its price."""
BATCH_MOST: Final = 12
"""Jobs that are planned together: those of the most device-hours. Each of the others has its own cheapest place beside
them; they are small, and a program of all of them takes minutes."""
BATCH_GAP: Final = 0.01
"""How far from the least price a batch may stay: less than an hour's news changes."""


class Send(Value, frozen=True, kw_only=True, tag="send"):
    """Let a job wait in a pool's own queue, from now on."""

    job: str
    pool: str
    at_s: float
    reason: str


class Recall(Value, frozen=True, kw_only=True, tag="recall"):
    """Call a waiting job off there."""

    job: str
    pool: str
    at_s: float
    reason: str


Action = Send | Recall


StartsNow = Callable[[str, str], bool]
"""Whether a pool would start a job at once if it were sent there now, by its own rules and the job's limit; as
`sbatch --test-only` says it. What a market foresees rests on expected run times, which may be shorter."""


def _believed(job: str, pool: str) -> bool:
    """Where pools cannot be asked, what they foresee is believed."""
    return True


@dataclasses.dataclass
class Open:
    """A job that has not started."""

    request: Request
    slowness_per_s: float
    came_s: float
    pool: str | None = None
    """Whose queue it waits in; None: the broker holds it."""
    plan: tuple[str, float, float] | None = None
    """Pool, start and end, in seconds of the caller's clock."""


class Rolling:
    """The broker's open jobs and their plans.

    Invariant (`check`): a job is open, or gone; one that waits in a pool is not sent to another before it is recalled.
    """

    def __init__(
        self, *, price_per_slowdown: float, hold_most_s: float = HOLD_MOST_S, solver_limit_s: float = 10.0
    ) -> None:
        if not price_per_slowdown >= 0:
            raise SpecError(
                f"`price_per_slowdown: {price_per_slowdown:g}` is below zero; waiting is worth nothing less"
            )
        self.price_per_slowdown = price_per_slowdown
        self.hold_most_s = hold_most_s
        self.solver_limit_s = solver_limit_s
        self.open: dict[str, Open] = {}

    # --- events --------------------------------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        market: Market,
        *,
        slowness_per_s: float,
        now_s: float,
        starts_now: StartsNow = _believed,
    ) -> tuple[Action, ...]:
        """A job arrives. `device_hours` says what is expected of it, by pool. Raises SpecError for a repeated name."""
        if request.name in self.open:
            raise SpecError(f"`{request.name}` is open already; give another name")
        self.open[request.name] = Open(request, slowness_per_s, now_s)
        return self._alone(request.name, market, now_s=now_s, starts_now=starts_now)

    def replan(self, market: Market, *, now_s: float) -> tuple[Action, ...]:
        """All that have not started, together."""
        bulk = sorted(self.open, key=lambda name: (-_bulk(self.open[name].request), name))
        large = bulk[:BATCH_MOST]
        actions: list[Action] = []
        if large:
            actions += self._plan(large, market, now_s=now_s, method="batch")
        for name in bulk[BATCH_MOST:]:
            actions += self._plan([name], market, now_s=now_s, method="arrival")
        return tuple(actions)

    def retry(
        self, names: Sequence[str], market: Market, *, now_s: float, starts_now: StartsNow = _believed
    ) -> tuple[Action, ...]:
        """Some of them, each beside the plans of all others: where devices came back unexpectedly."""
        actions: list[Action] = []
        for name in names:
            if name in self.open:
                actions += self._alone(name, market, now_s=now_s, starts_now=starts_now)
        return tuple(actions)

    def due(self, *, now_s: float) -> tuple[Action, ...]:
        """Jobs that were held for a price, and whose time has come."""
        actions: list[Action] = []
        for name, job in self.open.items():
            if job.pool is None and job.plan is not None and job.plan[1] <= now_s:
                job.pool = job.plan[0]
                actions.append(
                    Send(job=name, pool=job.pool, at_s=now_s, reason=f"held for the price until {now_s:g} s")
                )
        return tuple(actions)

    @property
    def wake_s(self) -> float:
        """When the next job that is held is due; infinite: none."""
        return min(
            (job.plan[1] for job in self.open.values() if job.pool is None and job.plan is not None), default=math.inf
        )

    def started(self, job: str) -> None:
        """A pool started it: nothing is left to plan."""
        self.open.pop(job, None)

    def dropped(self, job: str, *, now_s: float) -> tuple[Action, ...]:
        """Its user does not want it any more."""
        gone = self.open.pop(job, None)
        if gone is None or gone.pool is None:
            return ()
        return (Recall(job=job, pool=gone.pool, at_s=now_s, reason="its user called it off"),)

    def check(self) -> None:
        """Assert the invariants."""
        for name, job in self.open.items():
            assert name == job.request.name
            assert job.pool is None or job.pool in job.request.device_hours

    # --- planning ------------------------------------------------------------------------------------------------

    def _alone(self, name: str, market: Market, *, now_s: float, starts_now: StartsNow) -> tuple[Action, ...]:
        """One job, which pools can be asked about: where it would not start at once, the first slot is not for it."""
        offers = tuple(
            offer if starts_now(name, offer.name) else _without_first_slot(offer, market.slot_s)
            for offer in market.offers
        )
        return self._plan([name], msgspec.structs.replace(market, offers=offers), now_s=now_s, method="arrival")

    def _plan(
        self, names: Sequence[str], market: Market, *, now_s: float, method: Literal["batch", "arrival"]
    ) -> tuple[Action, ...]:
        others = [job for name, job in self.open.items() if name not in names]
        left = _less(market, others, now_s=now_s)
        wanted = tuple(self._asked(self.open[name], left, in_time=True) for name in names)
        matching = solve(Jobs(jobs=wanted), left, method=method, time_limit_s=self.solver_limit_s, gap=BATCH_GAP)
        free = {offer.name: free_devices(offer, left) for offer in left.offers}
        actions: list[Action] = []
        for decision in matching.decisions:
            job = self.open[decision.job]
            if decision.award is None:
                decision = self._later(job, left)
            actions += self._follow(job, decision, left, free, now_s=now_s)
        return tuple(actions)

    def _asked(self, job: Open, market: Market, *, in_time: bool) -> Request:
        """The job as this market sees it: what it has waited is past, what it will wait has its price.

        Runs beyond the horizon are cut: what they pay later is not known anyway.
        """
        request = job.request
        most_s = market.horizon_s - (self.hold_most_s if in_time else 0.0) - 2 * market.slot_s
        hours = {
            pool: min(hours, max(most_s, market.slot_s) / S_PER_HOUR * request.devices)
            for pool, hours in request.device_hours.items()
        }
        longest_s = max(hours.values(), default=0.0) * S_PER_HOUR / request.devices
        return msgspec.structs.replace(
            request,
            submitted_s=0.0,
            device_hours=hours,
            deadline_s=min(self.hold_most_s + longest_s, market.horizon_s) if in_time else None,
            wait_price_per_hour=request.wait_price_per_hour + self.price_per_slowdown * job.slowness_per_s * S_PER_HOUR,
        )

    def _later(self, job: Open, market: Market) -> Decision:
        """Of a job that nobody can start within the time that is planned: wherever it comes first."""
        urgent = msgspec.structs.replace(
            self._asked(job, market, in_time=False), wait_price_per_hour=1e9, budget=None, deadline_s=None
        )
        return solve(Jobs(jobs=(urgent,)), market, method="arrival").decisions[0]

    def _follow(
        self, job: Open, decision: Decision, market: Market, free: Mapping[str, Ints], *, now_s: float
    ) -> list[Action]:
        """From a decision to what has to change."""
        award = decision.award
        if award is None:
            return self._anywhere(job, market, now_s=now_s) if job.pool is None else []
        (part,) = award.parts
        stays = job.pool is not None and part.offer != job.pool and not self._worth_moving(job, decision, award)
        if stays:
            return []
        job.plan = (part.offer, now_s + part.start_s, now_s + part.end_s)
        held = math.ceil((part.end_s - part.start_s) / market.slot_s - 1e-9)
        first = np.flatnonzero(runs_of(free[part.offer], slots=max(held, 1)) >= job.request.devices)
        waits_for_price = part.start_s > 0 and len(first) > 0 and first[0] * market.slot_s < part.start_s
        name = job.request.name
        actions: list[Action] = []
        if job.pool is not None and (waits_for_price or job.pool != part.offer):
            actions.append(Recall(job=name, pool=job.pool, at_s=now_s, reason=decision.reason))
            job.pool = None
        if job.pool is None and not waits_for_price:
            actions.append(Send(job=name, pool=part.offer, at_s=now_s, reason=decision.reason))
            job.pool = part.offer
        return actions

    def _worth_moving(self, job: Open, decision: Decision, award: Award) -> bool:
        here = next((quote.free for quote in decision.quotes if quote.offer == job.pool), None)
        return here is None or here - award.price.compared > MOVE_GAIN * abs(award.price.compared)

    def _anywhere(self, job: Open, market: Market, *, now_s: float) -> list[Action]:
        """No pool foresees a time for it: the largest that can run it, where it will wait for its turn."""
        able = [offer for offer in market.offers if offer.name in job.request.device_hours]
        if not able:
            raise SpecError(f"`{job.request.name}` is expected to run in no pool; give its device_hours")
        pool = max(able, key=lambda offer: (_most(offer), offer.name)).name
        job.pool, job.plan = pool, None
        reason = "no pool foresees enough devices for it; it waits for its turn in the largest"
        return [Send(job=job.request.name, pool=pool, at_s=now_s, reason=reason)]


def _bulk(request: Request) -> float:
    return max(request.device_hours.values(), default=0.0)


def _most(offer: Offer) -> int:
    return max((window.devices for window in offer.windows), default=0)


def _less(market: Market, others: Sequence[Open], *, now_s: float) -> Market:
    """The market without the devices that other jobs' plans take."""
    planned = [(job.request.devices, *job.plan) for job in others if job.plan is not None]
    offers: list[Offer] = []
    for offer in market.offers:
        mine = [(devices, start, end) for devices, pool, start, end in planned if pool == offer.name]
        if mine:
            free = free_devices(offer, market)
            for devices, start_s, end_s in mine:
                # Who should have started and did not takes its time from now on.
                late_s = max(now_s - start_s, 0.0)
                first = int((start_s + late_s - now_s) // market.slot_s)
                last = math.ceil((end_s + late_s - now_s) / market.slot_s)
                free[first:last] -= devices
            offer = msgspec.structs.replace(offer, windows=_windows(np.maximum(free, 0), market.slot_s))
        offers.append(offer)
    return msgspec.structs.replace(market, offers=tuple(offers))


def _without_first_slot(offer: Offer, slot_s: float) -> Offer:
    later = (msgspec.structs.replace(each, start_s=max(each.start_s, slot_s)) for each in offer.windows)
    windows = tuple(each for each in later if each.start_s < each.end_s)
    return msgspec.structs.replace(offer, windows=windows or (_moment(2 * slot_s),))


def _moment(at_s: float) -> Window:
    """A pool with nothing free keeps one device for no whole slot: an offer has to have a window."""
    return Window(start_s=at_s, end_s=at_s + 1.0, devices=1)


def _windows(free: Ints, slot_s: float) -> tuple[Window, ...]:
    """Equal neighbours in one."""
    cuts = np.flatnonzero(np.diff(free)) + 1
    edges = np.concatenate(([0], cuts, [len(free)]))
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    found = tuple(
        Window(start_s=first * slot_s, end_s=last * slot_s, devices=int(free[first]))
        for first, last in spans
        if free[first] > 0
    )
    return found or (_moment(0.0),)
