"""The broker for jobs that may wait for cheap hours and cheap pools, also after they have begun.

    submit      a job arrives: it begins at once, or waits in all queues for devices
    wake        time has passed: jobs that were stopped are decided anew, and those that run may be stopped
    started, stopped, ended      what pools report

Every decision is `broker_hours.outlook`: the least expected cost over the hours that are foreseen. Slowdown is priced
by a `Dial`, so that waiting for prices costs no more of it than was promised.

Who has not begun begins wherever there is room, and waits for no price: it may turn out to be short. Where no pool has
room, copies wait in the queues of all: the first pool that starts one wins, and the others are recalled. A copy that
another pool starts before its recall has come is called off, too, so that a job goes on in one place. What has begun
may be stopped: for a price, or for one that has not begun and loses more by waiting. It goes on from the queue of one
pool, where it keeps its turn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, final

import numpy as np
import numpy.typing as npt

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.broker_dial import Dial
from myriarch.schedule.broker_hours import Bools, Hours, Lifetimes, Outlook, Stops, outlook
from myriarch.schedule.broker_market import Market, Request
from myriarch.schedule.broker_menu import Pricing
from myriarch.schedule.broker_rolling import MOVE_GAIN, Recall, Send
from myriarch.schedule.calendar import S_PER_HOUR, Floats
from myriarch.schedule.durations_slowness import BOUND_S

AHEAD_SLOTS: Final = 36
"""Hours that are planned: prices of the first 24 are known, and taken to repeat."""
SMALL: Final = 1.0
"""Jobs that run are left alone when what is left of them costs less than this share of a mean bill: all of those hold
few per cent of the money, and there are many."""
YIELD_MOST: Final = 4
"""Jobs that are stopped, at the most, to make room for another, and ways to do so that are asked about in a pool."""
URGENT: Final = 1e9
"""Price of slowdown where no more of it may be had: devices are waited for, prices are not."""


class Stop(Value, frozen=True, kw_only=True, tag="stop"):
    """Save the state of a job that runs, and free its devices."""

    job: str
    pool: str
    at_s: float
    reason: str


Action = Send | Recall | Stop

BeginsNow = Callable[[str, str, frozenset[str]], bool]
"""Whether a pool would start a job at once if it were sent there now, and some that run there were not there. What it
needs has to be there, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What is foreseen now: prices by the market, devices by the pools."""

    market: Market
    """It opens now."""
    free: Mapping[str, Sequence[tuple[float, float, int]]]
    """By pool: from, until (seconds from now), devices; those of its jobs that are `planned` left out."""
    begins_now: BeginsNow
    slot_end_s: float = S_PER_HOUR
    """When the hour is over in which it is now."""


@dataclasses.dataclass(kw_only=True)
class Held:
    """A job that has not ended.

    Invariant: it waits in the queues of some pools (`queued`), or runs in one (`runs`, `stopping`), or is held.
    """

    request: Request
    speed: Mapping[str, float]
    """By pool in which it can run: seconds of work in a second."""
    limit_s: float
    """Of work, by its user."""
    lives: Lifetimes
    slowness_per_s: float
    stops: Stops | None
    since_s: float
    """When it was last looked at."""
    state: Literal["held", "queued", "runs", "stopping"] = "held"
    pool: str | None = None
    """Where it runs."""
    queues: tuple[str, ...] = ()
    """Where copies of it wait."""
    yielded: bool = False
    """Others have been stopped for it."""
    began_s: float = 0.0
    ran_s: float = 0.0
    """Work of former stretches."""
    last: str | None = None
    """Where its state is."""
    moved_s: float = 0.0
    """From when on it can be in the other pools."""
    waited_s: float = 0.0
    """For prices."""
    counted: float = 0.0
    """What that was taken to cost in slowdown."""

    @property
    def planned(self) -> bool:
        """Whether it waits in a queue and is decided anew; who has not begun begins where a pool has devices first."""
        return self.state == "queued" and self.ran_s > 0

    def age_s(self, now_s: float) -> float:
        """Work done."""
        if self.state != "runs" or self.pool is None:
            return self.ran_s
        load_s = self.stops.load_s if self.stops is not None and self.ran_s > 0 else 0.0
        return self.ran_s + max(now_s - self.began_s - load_s, 0.0) * self.speed[self.pool]


@final
class Shifting:
    """The broker's jobs and where they are."""

    def __init__(self, *, promise: float) -> None:
        """`promise`: by how much waiting for prices may raise the mean bounded slowdown."""
        self.dial = Dial(promise=promise)
        self.jobs: dict[str, Held] = {}

    # --- events --------------------------------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        view: View,
        *,
        speed: Mapping[str, float],
        limit_s: float,
        lives: Lifetimes,
        slowness_per_s: float,
        stops: Stops | None,
        now_s: float,
    ) -> tuple[Action, ...]:
        """A job arrives. Raises SpecError for a repeated name, or a job that runs in no pool of the market."""
        if request.name in self.jobs:
            raise SpecError(f"`{request.name}` is open already; give another name")
        if not set(speed) & {offer.name for offer in view.market.offers}:
            raise SpecError(f"`{request.name}` is expected to run in no pool; give its speed in one")
        job = Held(
            request=request,
            speed=speed,
            limit_s=limit_s,
            lives=lives,
            slowness_per_s=slowness_per_s,
            stops=stops,
            since_s=now_s,
        )
        self.jobs[request.name] = job
        offered = _Offered(view, now_s=now_s)
        hours, _ = offered.hours(job)
        hourly = float((hours.price[:, 1:] / hours.speed[:, None]).mean()) / S_PER_HOUR
        self.dial.came(hourly * float(lives.left_s(np.zeros(1))[0]))
        return tuple(self._place(job, offered, now_s=now_s))

    def wake(self, view: View, *, now_s: float, running: bool = True) -> tuple[Action, ...]:
        """All that wait, and with `running` all that run and can be stopped, the largest first."""
        offered = _Offered(view, now_s=now_s)
        order = sorted(self.jobs.values(), key=lambda job: (-job.request.devices, job.request.name))
        actions: list[Action] = []
        for job in order:
            if job.state in ("held", "queued"):
                self._count(job, now_s=now_s)
                actions += self._place(job, offered, now_s=now_s)
            elif running and job.state == "runs" and job.stops is not None:
                actions += self._reconsider(job, offered, now_s=now_s)
        return tuple(actions)

    def started(self, name: str, pool: str, *, now_s: float) -> tuple[Action, ...]:
        """A pool started it: the other copies are recalled. Of two that started, the one that came first goes on."""
        job = self.jobs[name]
        if job.pool is not None and job.pool != pool:
            return (Recall(job=name, pool=pool, at_s=now_s, reason=f"a copy of it runs in {job.pool}"),)
        self._count(job, now_s=now_s)
        others = [queue for queue in job.queues if queue != pool]
        job.state, job.pool, job.queues, job.began_s, job.last = "runs", pool, (), now_s, pool
        return tuple(Recall(job=name, pool=other, at_s=now_s, reason=f"{pool} started it first") for other in others)

    def stopped(self, name: str, *, now_s: float) -> None:
        """Its devices are free, and its state is saved."""
        job = self.jobs[name]
        job.state, job.pool, job.since_s = "held", None, now_s
        job.moved_s = now_s + (job.stops.move_s if job.stops is not None else 0.0)

    def ended(self, name: str, *, ran_s: float, now_s: float) -> None:
        """It is over, after so much work: now it is known what its waits cost."""
        job = self.jobs.pop(name)
        self.dial.waited(job.waited_s / max(ran_s, BOUND_S) - job.counted)

    def check(self) -> None:
        """Assert the invariants."""
        for name, job in self.jobs.items():
            assert name == job.request.name
            assert (job.pool is not None) == (job.state in ("runs", "stopping")), name
            assert bool(job.queues) == (job.state == "queued"), name
            assert {*job.queues, *({job.pool} - {None})} <= set(job.speed), name

    # --- decisions -----------------------------------------------------------------------------------------------

    def _count(self, job: Held, *, now_s: float) -> None:
        """Time that was waited for a price, and for devices by a job that was stopped."""
        if (job.state == "held" or job.planned) and now_s > job.since_s:
            cost = float(job.lives.slowness_per_s(np.array([job.ran_s]))[0]) * (now_s - job.since_s)
            job.waited_s += now_s - job.since_s
            job.counted += cost
            self.dial.waited(cost)
        job.since_s = now_s

    def _look(self, job: Held, hours: Hours, *, now_s: float, at: int | None) -> Outlook:
        return outlook(
            hours,
            lives=job.lives,
            age_s=job.age_s(now_s),
            price_per_slowdown=min(self.dial.price, URGENT),
            stops=job.stops,
            at=at,
            slowness_at_start_per_s=job.slowness_per_s,
        )

    def _place(self, job: Held, offered: _Offered, *, now_s: float) -> list[Action]:
        """Of a job that does not run."""
        if job.ran_s <= 0:
            return self._begin(job, offered, now_s=now_s)
        hours, names = offered.hours(job)
        look = self._look(job, hours, now_s=now_s, at=None)
        pool, slot = look.best
        cost = float(look.begin[pool, slot])
        if not math.isfinite(cost):
            reason = "no pool foresees room; it waits its turn"
            return self._queue(job, offered.soonest(job), now_s=now_s, reason=reason)
        if slot == 0:
            return self._queue(job, names[pool], now_s=now_s, reason=f"{cost:.6g}; cheapest now")
        now = float(look.begin[:, 0].min())
        if hours.room[pool, :slot].any():
            reason = f"{cost:.6g} in {names[pool]} from slot {slot} on; now {now:.6g}"
            offered.take(job, names[pool], slot, now_s=now_s)
            return self._hold(job, now_s=now_s, reason=reason)
        reason = f"{cost:.6g} in {names[pool]}, with room from slot {slot} on; elsewhere now {now:.6g}"
        return self._queue(job, names[pool], now_s=now_s, reason=reason, turn=look, names=names)

    def _begin(self, job: Held, offered: _Offered, *, now_s: float) -> list[Action]:
        """Of a job that has not begun: where it is cheapest to begin now, or wherever there is room first."""
        hours, names = offered.hours(job)
        if job.queues or not hours.room[:, 0].any():
            return self._race(job, offered, self._by_bill(job, hours, names), now_s=now_s)
        if (urgent := self._urgent(job, hours)) is not None:
            return self._queue(job, names[urgent], now_s=now_s, reason="short; the cheapest that has room now")
        look = self._look(job, hours, now_s=now_s, at=None)
        pool = int(np.argmin(look.begin[:, 0]))
        reason = f"{float(look.begin[pool, 0]):.6g}; the cheapest that has room now"
        return self._queue(job, names[pool], now_s=now_s, reason=reason)

    def _race(self, job: Held, offered: _Offered, names: Sequence[str], *, now_s: float) -> list[Action]:
        """Copies into all queues in which none waits; and older jobs out of its way where that lets it begin."""
        more = [name for name in names if name not in job.queues]
        reason = f"no pool has room now; copies wait in {', '.join((*job.queues, *more))}"
        job.state, job.queues = "queued", (*job.queues, *more)
        sends = [Send(job=job.request.name, pool=name, at_s=now_s, reason=reason) for name in more]
        return [*self._make_room(job, offered, names, now_s=now_s), *sends]

    def _make_room(self, job: Held, offered: _Offered, names: Sequence[str], *, now_s: float) -> list[Action]:
        """Stop such as lose less by waiting than the job does: the longer one has run, the less a second counts."""
        if job.yielded:
            return []
        for name in names:
            for given in self._ways_to_yield(job, name, now_s=now_s):
                if offered.view.begins_now(job.request.name, name, frozenset(one.request.name for one in given)):
                    job.yielded = True
                    return [self._stop(one, f"makes room for {job.request.name}", now_s=now_s) for one in given]
        return []

    def _ways_to_yield(self, job: Held, pool: str, *, now_s: float) -> list[list[Held]]:
        """One that has enough devices, the smallest first; or several, the largest first."""
        run = [
            (one, float(one.lives.slowness_per_s(np.array([one.age_s(now_s)]))[0]))
            for _, one in sorted(self.jobs.items())
            if one.state == "runs" and one.pool == pool and one.stops is not None
        ]
        run = [(one, slow) for one, slow in run if slow < job.slowness_per_s]
        enough = sorted(
            (o for o, _ in run if o.request.devices >= job.request.devices), key=lambda o: o.request.devices
        )
        ways = [[one] for one in enough[:YIELD_MOST]]
        several: list[Held] = []
        lost = 0.0
        for one, slow in sorted(run, key=lambda each: -each[0].request.devices):
            if one.request.devices < job.request.devices and lost + slow < job.slowness_per_s:
                several, lost = [*several, one], lost + slow
                ways += [several] if len(several) <= YIELD_MOST else []
        return ways

    def _stop(self, job: Held, reason: str, *, now_s: float) -> Stop:
        assert job.pool is not None
        job.ran_s, job.state = job.age_s(now_s), "stopping"
        return Stop(job=job.request.name, pool=job.pool, at_s=now_s, reason=reason)

    def _by_bill(self, job: Held, hours: Hours, names: Sequence[str]) -> list[str]:
        """Pools, the cheapest first."""
        bill = _bills(job, hours, np.arange(len(names)))
        return [names[index] for index in np.argsort(bill, kind="stable").tolist()]

    def _urgent(self, job: Held, hours: Hours) -> int | None:
        """The pool in which it begins, where to wait for an hour costs more than to run there: most jobs are short, and
        are told from the others by this at once."""
        now = np.flatnonzero(hours.room[:, 0])
        bill = _bills(job, hours, now)
        hour = self.dial.price * job.slowness_per_s * S_PER_HOUR
        return int(now[np.argmin(bill)]) if hour > bill.min() else None

    def _hold(self, job: Held, *, now_s: float, reason: str) -> list[Action]:
        left, job.state, job.queues, job.since_s = job.queues, "held", (), now_s
        return [Recall(job=job.request.name, pool=pool, at_s=now_s, reason=reason) for pool in left]

    def _queue(
        self,
        job: Held,
        pool: str,
        *,
        now_s: float,
        reason: str,
        turn: Outlook | None = None,
        names: Sequence[str] = (),
    ) -> list[Action]:
        """Into one pool's queue; whoever waits in one keeps the turn there for a small gain."""
        if job.queues == (pool,) or (now_s < job.moved_s and pool != job.last):
            return []
        if turn is not None and len(job.queues) == 1 and job.queues[0] in names:
            here = float(turn.begin[names.index(job.queues[0])].min())
            if here - float(turn.begin.min()) <= MOVE_GAIN * abs(here):
                return []
        left = [queue for queue in job.queues if queue != pool]
        actions: list[Action] = [Recall(job=job.request.name, pool=p, at_s=now_s, reason=reason) for p in left]
        if pool not in job.queues:
            actions.append(Send(job=job.request.name, pool=pool, at_s=now_s, reason=reason))
        job.state, job.queues = "queued", (pool,)
        return actions

    def _reconsider(self, job: Held, offered: _Offered, *, now_s: float) -> list[Action]:
        """Of a job that runs: stop it where what is saved is worth the stop."""
        assert job.pool is not None
        hours, names = offered.hours(job)
        left_s = float(job.lives.left_s(np.array([job.age_s(now_s)]))[0])
        at_stake = left_s / job.speed[job.pool] * float(hours.price[names.index(job.pool), 1:25].mean()) / S_PER_HOUR
        if at_stake < SMALL * self.dial.bill:
            return []
        look = self._look(job, hours, now_s=now_s, at=names.index(job.pool))
        pool, slot = look.best
        other = float(look.begin[pool, slot])
        if not look.stay - other > MOVE_GAIN * abs(look.stay):
            return []
        reason = f"to go on costs {look.stay:.6g}; {other:.6g} in {names[pool]} from slot {slot} on"
        action = self._stop(job, reason, now_s=now_s)
        offered.take(job, names[pool], slot, now_s=now_s)
        return [action]


def _bills(job: Held, hours: Hours, pools: npt.NDArray[np.intp]) -> Floats:
    """What a job that has not begun is expected to pay, begun now and never stopped: every hour's price times the
    chance that it still runs then, and the mean of the last day's for all that is left of it after the horizon."""
    age_s = hours.speed[pools, None] * hours.edges_s
    alive = job.lives.alive(age_s.ravel()).reshape(age_s.shape)
    ahead = (hours.price[pools] * (alive[:, :-1] + alive[:, 1:]) / 2).sum(axis=1)
    later_s = alive[:, -1] * job.lives.left_s(age_s[:, -1]) / hours.speed[pools]
    found: Floats = ahead + hours.price[pools, -24:].mean(axis=1) * later_s / S_PER_HOUR
    return found


class _Offered:
    """A view as arrays, pool by pool; what this round's plans take is no longer free in it."""

    def __init__(self, view: View, *, now_s: float) -> None:
        self.view = view
        self.pricing = Pricing(view.market)
        self.names = [offer.name for offer in view.market.offers]
        self.now_s = now_s
        self.edges_s = np.concatenate(([0.0], view.slot_end_s + S_PER_HOUR * np.arange(AHEAD_SLOTS)))
        self._slots: dict[str, Floats] = {}
        self._price: dict[tuple[str, int, str], Floats] = {}

    def _free(self, name: str) -> Floats:
        """The fewest devices that are free in each slot; windows do not overlap, and gaps have none."""
        if name not in self._slots:
            windows = self.view.free.get(name, ())
            # A step function: gaps and all beyond have no devices.
            until_s = [0.0, *(window[1] for window in windows)]
            from_s = [*(window[0] for window in windows), math.inf]
            steps_s = np.array([at_s for pair in zip(until_s, from_s, strict=True) for at_s in pair][:-1])
            devices = np.array([0.0, *(each for window in windows for each in (window[2], 0.0))])
            kept = np.diff(steps_s, append=math.inf) > 0
            steps_s, devices = steps_s[kept], devices[kept]
            first = steps_s.searchsorted(self.edges_s[:-1], side="right") - 1
            last = np.maximum(steps_s.searchsorted(self.edges_s[1:]), first + 1)
            spans = np.column_stack((first, last)).ravel()
            self._slots[name] = np.minimum.reduceat(np.append(devices, math.inf), spans)[::2]
        return self._slots[name]

    def able(self, job: Held) -> list[str]:
        """Pools in which it can run."""
        return [name for name in self.names if name in job.speed]

    def hours(self, job: Held) -> tuple[Hours, list[str]]:
        """Of the pools in which a job can run."""
        names = self.able(job)
        devices = job.request.devices
        room = np.array([self._room(job, name) for name in names])
        price = np.array([self._priced(job.request, name) for name in names])
        speed = np.array([job.speed[name] for name in names])
        return Hours(edges_s=self.edges_s, price=price * devices, room=room, speed=speed), names

    def _room(self, job: Held, name: str) -> Bools:
        """Slots from which on the devices are free for as long as the job is expected to last. Now the pool is asked;
        for later the user's limit would say too little, since others end before theirs, too."""
        left_s = float(job.lives.left_s(np.array([job.age_s(self.now_s)]))[0])
        slots = max(math.ceil(left_s / job.speed[name] / S_PER_HOUR), 1)
        busy = np.concatenate((self._free(name) < job.request.devices, np.zeros(slots, dtype=np.bool_)))
        blocked = np.concatenate(([0], np.cumsum(busy)))
        room: Bools = (blocked[slots : slots + AHEAD_SLOTS] - blocked[:AHEAD_SLOTS]) == 0
        away = job.last is not None and job.last != name
        room[0] = (away or job.state != "runs") and self.view.begins_now(job.request.name, name, frozenset())
        if away:
            room &= self.edges_s[:-1] >= job.moved_s - self.now_s
        return room

    def _priced(self, request: Request, name: str) -> Floats:
        key = name, request.devices, request.tenant
        if key not in self._price:
            offer = next(each for each in self.view.market.offers if each.name == name)
            self._price[key] = self.pricing.by_device(request, offer, self.edges_s)
        return self._price[key]

    def soonest(self, job: Held) -> str:
        """Where nothing is foreseen: the pool with the most devices, or the one in which it waits already."""
        if job.queues:
            return job.queues[0]
        return max(self.able(job), key=lambda name: (self._free(name).max(), name))

    def take(self, job: Held, name: str, slot: int, *, now_s: float) -> None:
        """Keep devices for a plan."""
        left_s = float(job.lives.left_s(np.array([job.age_s(now_s)]))[0])
        until = slot + max(math.ceil(left_s / job.speed[name] / S_PER_HOUR), 1)
        self._free(name)[slot:until] -= job.request.devices
