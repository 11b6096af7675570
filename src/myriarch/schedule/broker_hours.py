"""Which hours a job should run in, and in which pool, when nobody knows how long it will run.

A job that has run for some time goes on for another hour with a chance that its past tells (`Lifetimes`). Every hour it
runs in one of the pools, at that hour's price, or waits, and waiting makes it late. The least expected cost follows
backwards from the horizon (Bellman): state is the hour, where the job is and how long it has run.

    wait          lateness of one hour                      + what is best an hour later
    run in q      price of the hour x share of it in use    + chance to be alive x what is best an hour later
    begin in q    loading, and its lateness                 + run in q          where q is expected to have room
    leave q       saving, and its lateness                  + wait, or the road and begin elsewhere

A job that cannot be stopped never leaves. Starting at once, to see whether a job dies early, and going on when it is
cheap come out by themselves: what an hour of lateness costs falls as the job gets older, since mean 1 / run time falls.
Prices and room are as foreseen; it is worked out anew every time they change.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.calendar import Floats
from myriarch.schedule.durations_slowness import BOUND_S

Bools = npt.NDArray[np.bool_]

TAIL_LEVELS: Final = (np.arange(20) + 0.5) / 20
"""The last of the quantiles is drawn out to a tail of so many."""


class Stops(Value, frozen=True, kw_only=True):
    """What it takes to stop a job and to go on with it, in seconds."""

    save_s: float
    """Devices are held while the state is saved."""
    load_s: float
    """And while it is loaded."""
    move_s: float
    """On the road between pools; no devices are held."""


class Lifetimes:
    """How long a job may run: equally likely run times, ascending; beyond them P(longer than t) ~ 1/t, the tail that
    Harchol-Balter and Downey measured (ACM TOCS 15(3), 1997), up to `most_s`, the user's limit where there is one."""

    def __init__(self, runs_s: Floats, *, most_s: float | None = None) -> None:
        if not len(runs_s) or not runs_s[0] > 0 or (np.diff(runs_s) < 0).any():
            raise SpecError("run times are missing, not above zero or out of order; give ascending quantiles, seconds")
        tail_s = runs_s[-1] / (1.0 - TAIL_LEVELS)
        drawn_s = np.concatenate((runs_s[:-1], tail_s))
        self._runs_s = drawn_s if most_s is None else np.minimum(drawn_s, max(most_s, float(runs_s[0])))
        weights = np.concatenate((np.ones(len(runs_s) - 1), np.full(len(tail_s), 1.0 / len(tail_s)))) / len(runs_s)
        self._alive = _beyond(weights)
        self._worked = _beyond(weights * self._runs_s)
        self._slow = _beyond(weights / np.maximum(self._runs_s, BOUND_S))

    def alive(self, age_s: Floats) -> Floats:
        """The share that runs longer than each age: between two run times in proportion, beyond all ~ 1 / age."""
        last_s, last = self._runs_s[-1], self._alive[-2]
        edges_s = np.concatenate(([0.0], self._runs_s))
        beyond = last * last_s / np.maximum(age_s, last_s)
        found: Floats = np.where(age_s > last_s, beyond, np.interp(age_s, edges_s, np.append(1.0, self._alive[:-1])))
        return found

    def left_s(self, age_s: Floats) -> Floats:
        """The mean of what is left at each age; beyond all run times as much as it has lasted, the tail's median."""
        at = np.searchsorted(self._runs_s, age_s, side="right")
        alive = self._alive[at]
        mean_s = self._worked[at] / np.maximum(alive, 1e-12) - age_s
        found: Floats = np.where(alive > 0, np.maximum(mean_s, 1.0), np.maximum(age_s, 1.0))
        return found

    def slowness_per_s(self, age_s: Floats) -> Floats:
        """The mean of 1 / run time of those that live at each age: what a second of waiting adds to the slowdown."""
        at = np.searchsorted(self._runs_s, age_s, side="right")
        alive = self._alive[at]
        mean = self._slow[at] / np.maximum(alive, 1e-12)
        found: Floats = np.where(alive > 0, mean, 0.5 / np.maximum(age_s, BOUND_S))
        return found


def _beyond(weights: Floats) -> Floats:
    """Sums from each place on; the last is 0."""
    return np.append(np.cumsum(weights[::-1])[::-1], 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hours:
    """What pools are expected to offer a job, pool by pool and slot by slot: arrays of (pools, slots)."""

    edges_s: Floats
    """Of the slots, from now (0) on: the first may be short, the others are alike."""
    price: Floats
    """Of the slot, all devices of the job together."""
    room: Bools
    """Whether the job could begin there in that slot."""
    speed: Floats
    """By pool: seconds of work done in a second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """Expected costs, lateness at its price included; infinite where there is no way."""

    stay: float
    """Go on where it runs."""
    wait: float
    """For the next slot, at the least."""
    begin: Floats
    """By pool and slot: wait until then, and begin there."""

    @property
    def best(self) -> tuple[int, int]:
        """Pool and slot of the cheapest beginning; of equals the earliest."""
        slot, pool = np.unravel_index(int(np.argmin(self.begin.T)), self.begin.T.shape)
        return int(pool), int(slot)


def outlook(
    hours: Hours,
    *,
    lives: Lifetimes,
    age_s: float,
    price_per_slowdown: float,
    stops: Stops | None,
    at: int | None,
    slowness_at_start_per_s: float | None = None,
) -> Outlook:
    """What a job of some age can expect from each of the things that it could do now.

    `at`: the pool that it runs in. `slowness_at_start_per_s` replaces the forecast one of a job that has not run.
    """
    pools, slots = hours.price.shape
    slot_s = float(hours.edges_s[-1] - hours.edges_s[-2])
    grid_s = age_s + slot_s * np.arange(slots + 1)
    slow = lives.slowness_per_s(grid_s) * price_per_slowdown
    if slowness_at_start_per_s is not None and age_s <= 0:
        slow[0] = slowness_at_start_per_s * price_per_slowdown
    load_s = np.full(slots + 1, 0.0 if stops is None else stops.load_s)
    load_s[0] *= age_s > 0 or at is not None
    step = _Step(grid_s, lives, hours.speed * slot_s)
    # All that does not depend on the value: (slots, pools, ages).
    price = hours.price.T[:, :, None]
    used = price * step.used
    enter_price = np.where(hours.room.T[:, :, None], price * (load_s / slot_s) + slow * load_s, np.inf)
    leave_price = None if stops is None else price * (stops.save_s / slot_s) + slow * stops.save_s
    road = None if stops is None else slow * stops.move_s
    value = _end(hours, lives, grid_s, slot_s)
    begin = np.full((pools, slots), np.inf)
    for slot in range(slots - 1, 0, -1):
        run = used[slot] + step.alive * step.later(value[:-1])
        enter = run + enter_price[slot]
        begin[:, slot] = enter[:, 0]
        wait, enters = slow * slot_s + value[-1], enter.min(axis=0)
        if leave_price is not None:
            run = np.minimum(run, leave_price[slot] + np.minimum(wait, road + enters))
        value = np.concatenate((run, np.minimum(wait, enters)[None]))
    return _now(hours, begin, value, step=step, lives=lives, age_s=age_s, slow=float(slow[0]), stops=stops, at=at)


class _Step:
    """One whole slot of running: who is alive afterwards, and how old. Arrays of (pools, ages)."""

    def __init__(self, grid_s: Floats, lives: Lifetimes, work_s: Floats) -> None:
        self.slot_s = float(grid_s[1] - grid_s[0])
        ages = len(grid_s)
        self._one = bool((work_s == self.slot_s).all())
        place = np.arange(ages) + work_s[:, None] / self.slot_s
        self._low = np.minimum(place.astype(np.int64), ages - 1)
        self._high = np.minimum(self._low + 1, ages - 1)
        self._part = place - np.floor(place)
        self._rows = np.arange(len(work_s))[:, None]
        alive = np.maximum(lives.alive(grid_s), 1e-12)
        self.alive = lives.alive((grid_s + work_s[:, None]).ravel()).reshape(len(work_s), ages) / alive
        self.used = (1.0 + self.alive) / 2

    def later(self, value: Floats) -> Floats:
        """Values at the ages after the slot; the last age stands for all beyond."""
        if self._one:
            return np.concatenate((value[:, 1:], value[:, -1:]), axis=1)
        low, high = value[self._rows, self._low], value[self._rows, self._high]
        found: Floats = low + (high - low) * self._part
        return found


def _end(hours: Hours, lives: Lifetimes, grid_s: Floats, slot_s: float) -> Floats:
    """At the horizon: what is left of the job, at the mean of the last day's cheapest hours. (pools + 1, ages)."""
    day = max(round(86_400.0 / slot_s), 1)
    cheapest = (hours.price[:, -day:] / hours.speed[:, None]).min(axis=0).mean() / slot_s
    return np.tile(lives.left_s(grid_s) * cheapest, (len(hours.price) + 1, 1))


def _now(
    hours: Hours,
    begin: Floats,
    value: Floats,
    *,
    step: _Step,
    lives: Lifetimes,
    age_s: float,
    slow: float,
    stops: Stops | None,
    at: int | None,
) -> Outlook:
    """The first slot, at one age, for as long as it lasts."""
    length_s = float(hours.edges_s[1] - hours.edges_s[0])
    after_s = age_s + hours.speed * length_s
    alive = lives.alive(after_s) / max(float(lives.alive(np.array([age_s]))[0]), 1e-12)
    place = np.minimum(hours.speed * length_s / step.slot_s, value.shape[1] - 1.0)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, value.shape[1] - 1)
    rows = np.arange(len(hours.speed))
    # Values between two ages are those of who lives to see them: beyond a user's limit there is hardly anybody.
    ages_s: Floats = age_s + step.slot_s * np.arange(value.shape[1], dtype=np.float64)
    lived = lives.alive(ages_s)
    left = value * (lived / max(float(lived[0]), 1e-12))
    later = left[rows, low] + (left[rows, high] - left[rows, low]) * (place - low)
    run = hours.price[:, 0] * (1.0 + alive) / 2 + later
    loads = stops is not None and (age_s > 0 or at is not None)
    load_s = stops.load_s if stops is not None and loads else 0.0
    load = hours.price[:, 0] * (load_s / length_s) + slow * load_s
    begin[:, 0] = np.where(hours.room[:, 0], run + load, np.inf)
    begin += slow * hours.edges_s[:-1]
    wait = slow * length_s + float(value[-1, 0])
    if at is None:
        return Outlook(stay=np.inf, wait=wait, begin=begin)
    if stops is None:
        return Outlook(stay=float(run[at]), wait=np.inf, begin=np.full_like(begin, np.inf))
    leave = float(hours.price[at, 0]) * stops.save_s / length_s + slow * stops.save_s
    begin[:, 0] += slow * stops.move_s
    begin[at, 0] = np.inf
    return Outlook(stay=float(run[at]), wait=leave + wait, begin=leave + begin)
