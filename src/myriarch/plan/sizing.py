"""How many devices for a deadline, how long on a fleet, how much by a date, what for a sum of money.

All stand on one function, `best(devices)`: the least seconds of a kept step on exactly so many devices, infinite when
no plan fits them. It is a step-like function and not monotone: 1,021 devices (a prime) are worse than 1,020. What is
monotone is the best with *at most* so many, the rest left idle; so

    the smallest fleet that meets a deadline = the smallest count c with best(c) <= the step's share of the deadline,

and the answer names how many of a fleet's devices work. The search brackets the smallest count by doubling and
bisection, and then proves it: every smaller count is either ruled out by a lower bound on its step (`floor_s`, the peak
rate's, say) or was asked. Where `best` itself already leaves devices idle (`monotone=True`), an infeasible count rules
out all below it and bisection alone is the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

from myriarch.errors import SpecError
from myriarch.event.base import Value

Best = Callable[[int], float]
"""Devices to seconds of a kept step; infinity: no plan."""

EVALUATIONS: Final = 400
"""Most calls of `best` for one question: a second each is what the slowest search is allowed."""
GAIN_NEEDED: Final = 0.02
"""A fleet is at the end of what devices bring when the next half again as large is not even so much faster."""
MONEY_COUNTS: Final = 24
"""Counts that a question about money is tried on, evenly in the logarithm."""

Limit = Literal["", "memory", "peak rate", "batch and communication", "fleet"]


class Timed(Value, frozen=True, kw_only=True):
    """A training on some devices of a fleet."""

    devices: int
    """Of the fleet that was asked about."""
    used: int
    """Those that work; the others idle because no plan is faster with them."""
    step_s: float
    steps: int
    run_s: float
    tokens: float
    """Trained on in this time."""
    fastest: bool = True
    """No count up to `devices` is faster: each was asked, or ruled out by a bound. False: there were too many."""


class Sized(Value, frozen=True, kw_only=True):
    """How many devices a deadline needs."""

    deadline_s: float
    reachable: bool
    best: Timed | None
    """The smallest that meets it; of an impossible deadline the fastest that was found; None: nothing fits anywhere."""
    proved: bool
    """No smaller count meets it (or, unreachable: none at all): by bounds and by asking, not by sampling."""
    evaluations: int
    limit: Limit = ""
    """What stands in the way of an impossible deadline."""
    reason: str = ""


class Purchase(Value, frozen=True, kw_only=True):
    """What a sum buys."""

    budget: float
    currency: str
    affordable: bool
    best: Timed | None
    """The soonest within the budget; of one that is too small the cheapest."""
    cost: float | None
    """Of `best`, in `currency`."""
    reason: str = ""


class _Asked:
    """`best`, each count asked once, and not more often than the limit."""

    def __init__(self, best: Best, limit: int) -> None:
        self._best = best
        self._limit = limit
        self.known: dict[int, float] = {}

    @property
    def spent(self) -> bool:
        return len(self.known) >= self._limit

    def __call__(self, devices: int) -> float:
        if devices not in self.known:
            step_s = self._best(devices)
            if math.isnan(step_s) or step_s <= 0:
                raise ValueError(f"best({devices}) is {step_s}: neither seconds nor infinity")
            self.known[devices] = step_s
        return self.known[devices]

    def fastest(self) -> tuple[int, float] | None:
        """The fastest count asked; of equals the smallest. None when nothing fitted."""
        found = [(step_s, devices) for devices, step_s in self.known.items() if math.isfinite(step_s)]
        return (min(found)[1], min(found)[0]) if found else None


def steps_of(tokens: float, *, batch_tokens: float) -> int:
    """Whole steps that train on `tokens`."""
    for name, value in (("tokens", tokens), ("batch_tokens", batch_tokens)):
        if not (value > 0 and math.isfinite(value)):
            raise SpecError(f"{value} is not above zero and finite", path=name)
    return math.ceil(tokens / batch_tokens - 1e-9)


def timed(
    best: Best,
    *,
    devices: int,
    counts: Sequence[int],
    tokens: float,
    batch_tokens: float,
    floor_s: Best | None = None,
    evaluations: int = EVALUATIONS,
) -> Timed:
    """How long on a given fleet: the fastest of the usable counts up to it, asked from the largest down until the bound
    rules out the rest. Raises SpecError when none has a plan."""
    asked = _Asked(best, evaluations)
    floor: Best = floor_s or (lambda count: 0.0)
    usable = [count for count in _ascending(counts) if count <= devices]
    proved, first = True, 0
    while first < len(usable):
        found = asked.fastest()
        # As devices get fewer the bound only rises: what it rules out lies at the front.
        while found is not None and first < len(usable) and floor(usable[first]) >= found[1]:
            first += 1
        left = evaluations - len(asked.known)
        if len(usable) - first > left and left <= evaluations // 2:
            proved = False
            for count in _spread(usable[first:], left):
                asked(count)
            break
        if first < len(usable):
            asked(usable.pop())
    found = asked.fastest()
    if found is None:
        raise SpecError(f"no plan fits {devices} devices or fewer", path="devices", hint="use more, or more memory")
    return _timed(devices, *found, tokens=tokens, batch_tokens=batch_tokens, fastest=proved)


def _timed(
    devices: int, used: int, step_s: float, *, tokens: float, batch_tokens: float, fastest: bool = True
) -> Timed:
    steps = steps_of(tokens, batch_tokens=batch_tokens)
    return Timed(
        devices=devices,
        used=used,
        step_s=step_s,
        steps=steps,
        run_s=steps * step_s,
        tokens=tokens,
        fastest=fastest,
    )


def tokens_by(
    best: Best,
    *,
    devices: int,
    counts: Sequence[int],
    deadline_s: float,
    batch_tokens: float,
    floor_s: Best | None = None,
) -> Timed:
    """How much a given fleet trains on by a deadline: whole steps only, so `run_s` may end before it."""
    one = timed(best, devices=devices, counts=counts, tokens=batch_tokens, batch_tokens=batch_tokens, floor_s=floor_s)
    steps = math.floor(deadline_s / one.step_s * (1 + 1e-12))
    return Timed(
        devices=devices,
        used=one.used,
        step_s=one.step_s,
        steps=steps,
        run_s=steps * one.step_s,
        tokens=steps * batch_tokens,
        fastest=one.fastest,
    )


def devices_for(
    best: Best,
    *,
    deadline_s: float,
    tokens: float,
    batch_tokens: float,
    counts: Sequence[int],
    floor_s: Best | None = None,
    monotone: bool = False,
    evaluations: int = EVALUATIONS,
) -> Sized:
    """The smallest usable count that meets a deadline.

    `counts`: those that a plan can use (whole nodes, say). `floor_s`: no plan's step on so many devices is faster; it
    must not rise with devices. Raises SpecError when the deadline is not above zero or no counts are given.
    """
    if not deadline_s > 0:
        raise SpecError(f"{deadline_s} s is not a deadline; use one above zero", path="deadline_s")
    usable = _ascending(counts)
    if not usable:
        raise SpecError("no counts of devices that a plan can use", path="counts")
    steps = steps_of(tokens, batch_tokens=batch_tokens)
    target_s = deadline_s / steps * (1 + 1e-12)
    floor: Best = floor_s or (lambda devices: 0.0)
    asked = _Asked(best, evaluations)
    open_counts = [count for count in usable if floor(count) <= target_s]
    smallest, proved = _smallest(asked, open_counts, target_s, monotone=monotone)
    if smallest is not None:
        return Sized(
            deadline_s=deadline_s,
            reachable=True,
            best=_timed(smallest, smallest, asked(smallest), tokens=tokens, batch_tokens=batch_tokens),
            proved=proved,
            evaluations=len(asked.known),
        )
    # Unreachable: the fastest there is, from all counts or as many as may be asked.
    rest = [count for count in usable if count not in asked.known]
    room = max(evaluations - len(asked.known), 1)
    for count in _spread(rest, room) if rest else ():
        asked(count)
    limit, reason = _limit(asked, usable, target_s, floor)
    found = asked.fastest()
    return Sized(
        deadline_s=deadline_s,
        reachable=False,
        best=None
        if found is None
        else _timed(
            usable[-1], *found, tokens=tokens, batch_tokens=batch_tokens, fastest=len(asked.known) == len(usable)
        ),
        proved=proved,
        evaluations=len(asked.known),
        limit=limit,
        reason=reason,
    )


def _smallest(asked: _Asked, counts: Sequence[int], target_s: float, *, monotone: bool) -> tuple[int | None, bool]:
    """The smallest of `counts` that meets the target as far as asked, and whether all below are ruled out."""
    index = _bracketed(asked, counts, target_s)
    found = counts[index] if index < len(counts) else None
    if monotone:
        return found, True
    # A smaller count may do better. From below, so that the first that meets the target is the smallest.
    for count in counts[:index]:
        if asked.spent and count not in asked.known:
            return found, False
        if asked(count) <= target_s:
            return count, True
    return found, True


def _bracketed(asked: _Asked, counts: Sequence[int], target_s: float) -> int:
    """Index of a count that meets the target while the one asked before it does not: by doubling the index, then
    bisection. The number of counts when none of those asked meets it; the largest is asked then."""
    low, high = -1, 0
    while high < len(counts) and asked(counts[high]) > target_s:
        low = high
        high = 2 * high + 1
        if high >= len(counts) and low < len(counts) - 1:
            high = len(counts) - 1
    if high >= len(counts):
        return len(counts)
    while high - low > 1:
        middle = (low + high) // 2
        if asked(counts[middle]) <= target_s:
            high = middle
        else:
            low = middle
    return high


def _limit(asked: _Asked, counts: Sequence[int], target_s: float, floor: Best) -> tuple[Limit, str]:
    found = asked.fastest()
    if found is None:
        return "memory", f"no plan fits any of the counts up to {counts[-1]}: the model needs more memory"
    used, step_s = found
    short = step_s / target_s
    if floor(counts[-1]) > target_s:
        times = floor(counts[-1]) / target_s
        return "peak rate", (
            f"{counts[-1]} devices at their peak rate are {times:.3g} times too slow: "
            "more devices, fewer tokens or a smaller model"
        )
    smaller = [step for devices, step in asked.known.items() if devices <= used / 1.5 and math.isfinite(step)]
    if used < counts[-1] or (smaller and min(smaller) <= step_s * (1 + GAIN_NEEDED)):
        return "batch and communication", (
            f"the step is fastest on {used} of up to {counts[-1]} devices, {short:.3g} times too slow, "
            "and more devices do not speed it up: a larger batch or a faster network would"
        )
    return "fleet", (
        f"on all {counts[-1]} devices the step is {short:.3g} times too slow and still gains from more of them"
    )


def within_budget(
    best: Best,
    *,
    budget: float,
    currency: str,
    price_per_device_hour: float,
    tokens: float,
    batch_tokens: float,
    counts: Sequence[int],
) -> Purchase:
    """The soonest that a sum of money buys, devices paid by the hour while the training runs.

    Of many counts, `MONEY_COUNTS` evenly in the logarithm are tried: a sample, not a proof.
    """
    for name, value in (("budget", budget), ("price_per_device_hour", price_per_device_hour)):
        if not value > 0:
            raise SpecError(f"{value} is not above zero", path=name)
    priced: list[tuple[float, float, Timed]] = []
    for count in _spread(_ascending(counts), MONEY_COUNTS):
        step_s = best(count)
        if math.isfinite(step_s):
            run = _timed(count, count, step_s, tokens=tokens, batch_tokens=batch_tokens)
            priced.append((count * run.run_s / 3600.0 * price_per_device_hour, run.run_s, run))
    if not priced:
        return Purchase(
            budget=budget,
            currency=currency,
            affordable=False,
            best=None,
            cost=None,
            reason="no plan fits any of the counts: the model needs more memory",
        )
    affordable = [entry for entry in priced if entry[0] <= budget]
    if affordable:
        cost, _, run = min(affordable, key=lambda entry: (entry[1], entry[0], entry[2].devices))
        return Purchase(budget=budget, currency=currency, affordable=True, best=run, cost=cost)
    cost, _, run = min(priced, key=lambda entry: (entry[0], entry[2].devices))
    return Purchase(
        budget=budget,
        currency=currency,
        affordable=False,
        best=run,
        cost=cost,
        reason=f"the cheapest run costs {cost / budget:.3g} times as much",
    )


def _ascending(counts: Sequence[int]) -> list[int]:
    if any(count < 1 for count in counts):
        raise SpecError("a count of devices below 1", path="counts")
    return sorted(set(counts))


def _spread(counts: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly in the logarithm; the smallest and the largest are among them."""
    if len(counts) <= most:
        return list(counts)
    low, high = math.log(counts[0]), math.log(counts[-1])
    chosen = {counts[0], counts[-1]}
    index = 0
    for part in range(1, most - 1):
        wanted = math.exp(low + (high - low) * part / (most - 1))
        while counts[index] < wanted:
            index += 1
        chosen.add(counts[index])
    return sorted(chosen)
