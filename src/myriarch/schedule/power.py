"""When flexible jobs draw power: deferred or throttled, by the price and carbon of each hour, under a cap.

A job has work, in seconds at full speed, to be done between two instants; in each hour it may pause, or run at one of a
few levels (a clock or power limit: so much speed for so much power). Over the hours h and levels l, with x[j,h,l] the
share of an hour:

    minimise   sum of x price[h] power[l]           (price with carbon in it)
    subject to sum over l of x[j,h,l] <= 1,  work done = work asked,  sum over jobs of x power[l] <= cap[h]

It is linear, so the optimum is exact, and the dual of the cap is what another watt would save in that hour. A job may
change its level, or pause, inside an hour; `changes` counts how often it does, which is what a checkpoint or a clock
change costs. Jobs that may not pause are the broker's (`broker.solve`): they need one start.

One job alone, under no cap, needs no program: `cheapest_hours` takes hours in the order of their price for the work,
along the convex hull of its levels. That is the optimum, by exchange: work moved from a dearer piece to a cheaper one
never costs more.

A price may be below zero: then drawing power is paid for, and more of it is drawn in that hour, never more than the
work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.program import Program

JOULES_PER_KWH = 3.6e6


class Level(Value, frozen=True, kw_only=True):
    """A way to run: so much of the full speed for so much power, all devices together."""

    speed: float
    """1: full."""
    power_w: float


class Flexible(Value, frozen=True, kw_only=True):
    """A job that may pause and slow down."""

    job: str
    work_s: float
    """At full speed."""
    levels: tuple[Level, ...]
    earliest_s: float = 0.0
    deadline_s: float = math.inf


class Hour(Value, frozen=True, kw_only=True):
    """A span of time with one price."""

    start_s: float
    end_s: float
    price_per_kwh: float
    """May be negative."""
    carbon_kg_per_kwh: float = 0.0
    cap_w: float = math.inf

    def compared_per_kwh(self, carbon_price_per_kg: float) -> float:
        return self.price_per_kwh + self.carbon_kg_per_kwh * carbon_price_per_kg


class Draw(Value, frozen=True, kw_only=True):
    """What a job does in an hour."""

    job: str
    hour: int
    level: int
    seconds: float


class Shift(Value, frozen=True, kw_only=True):
    """A schedule of power."""

    draws: tuple[Draw, ...]
    cost: float
    """In the currency of the prices."""
    carbon_kg: float
    compared: float
    """Cost with carbon at its price: what was minimised."""
    at_once: float | None
    """The same work as early as can be, at full speed, whatever the cap; None where the hours do not hold it."""
    watt_worth: tuple[float, ...]
    """By hour: what one more watt under the cap would save; 0 where the cap does not bind. Where several values do (the
    optimum is a corner of many rows), one of them."""
    changes: int
    reason: str


def shift(jobs: Sequence[Flexible], hours: Sequence[Hour], *, carbon_price_per_kg: float = 0.0) -> Shift:
    """The cheapest schedule. Raises SpecError for jobs that cannot be done in time, one by one or all under the cap."""
    ordered = sorted(jobs, key=lambda each: each.job)
    _check(ordered, hours)
    program = Program()
    pieces = [piece for job in ordered for piece in _pieces(job, hours, carbon_price_per_kg)]
    # Shares of an hour, of the dearest one's cost, of the work and of the cap: the solver's tolerances are absolute.
    unit = max((abs(piece.price) * piece.span_s for piece in pieces), default=0.0) or 1.0
    of_job: dict[str, list[tuple[int, float]]] = {job.job: [] for job in ordered}
    of_hour: dict[tuple[str, int], list[tuple[int, float]]] = {}
    under_cap: dict[int, list[tuple[int, float]]] = {}
    for piece in pieces:
        index = program.variable(cost=piece.price * piece.span_s / unit, high=1.0)
        of_job[piece.job].append((index, piece.level.speed * piece.span_s))
        of_hour.setdefault((piece.job, piece.hour), []).append((index, 1.0))
        under_cap.setdefault(piece.hour, []).append((index, piece.level.power_w * piece.span_s))
    for terms in of_hour.values():
        program.row(terms, high=1.0)
    for job in ordered:
        if job.work_s > 0:
            program.row([(index, work / job.work_s) for index, work in of_job[job.job]], low=1.0, high=1.0)
        else:
            program.row([(index, 1.0) for index, _ in of_job[job.job]], high=0.0)
    rows: dict[int, tuple[int, float]] = {}
    for hour, terms in sorted(under_cap.items()):
        if math.isfinite(hours[hour].cap_w):
            allowed = hours[hour].cap_w * (hours[hour].end_s - hours[hour].start_s) or 1.0
            scaled = [(index, energy / allowed) for index, energy in terms]
            rows[hour] = program.row(scaled, high=1.0 if hours[hour].cap_w else 0.0), allowed
    found = program.relaxed()
    if found is None:
        raise SpecError("under the cap, not all jobs are done by their deadlines; raise it, or move a deadline")
    shares = zip(pieces, found.values, strict=True)
    spent = [(piece, float(share) * piece.span_s) for piece, share in shares if share > 1e-9]
    worth = [0.0] * len(hours)
    for hour, (row, allowed) in rows.items():
        worth[hour] = -float(found.upper[row]) * unit * (hours[hour].end_s - hours[hour].start_s) / allowed
    return _shift(ordered, spent, hours, carbon_price_per_kg, tuple(worth))


def cheapest_hours(job: Flexible, hours: Sequence[Hour], *, carbon_price_per_kg: float = 0.0) -> Shift:
    """One job, no cap: hours in the order of what their work costs. The same cost as `shift`, without a program."""
    _check([job], hours)
    steps: list[tuple[float, int, int, int, float]] = []
    for hour, span in enumerate(hours):
        seconds = _span(job, span)
        if seconds > 0:
            price = span.compared_per_kwh(carbon_price_per_kg) / JOULES_PER_KWH
            for low, high in _hull(job.levels, price):
                speed, power = _of(job.levels, high, price), _of(job.levels, low, price)
                gained = speed[0] - power[0]
                steps.append(((speed[1] - power[1]) / gained, hour, low, high, gained * seconds))
    left = job.work_s
    held: dict[int, tuple[int, int, float]] = {}
    for _, hour, low, high, work in sorted(steps):
        if left <= 1e-9:
            break
        share = min(1.0, left / work)
        held[hour] = low, high, share
        left -= share * work
    spent: list[tuple[_Piece, float]] = []
    for hour, (low, high, share) in sorted(held.items()):
        seconds = _span(job, hours[hour])
        for level, part in ((low, 1.0 - share), (high, share)):
            if level >= 0 and part * seconds > 1e-6:
                spent.append((_piece(job, hours[hour], hour, level, carbon_price_per_kg), part * seconds))
    return _shift([job], spent, hours, carbon_price_per_kg, (0.0,) * len(hours))


@dataclasses.dataclass(frozen=True)
class _Piece:
    job: str
    hour: int
    index: int
    level: Level
    span_s: float
    price: float
    """By the second."""


def _pieces(job: Flexible, hours: Sequence[Hour], carbon_price_per_kg: float) -> Iterator[_Piece]:
    for index, hour in enumerate(hours):
        if _span(job, hour) > 0:
            for level in range(len(job.levels)):
                yield _piece(job, hour, index, level, carbon_price_per_kg)


def _piece(job: Flexible, hour: Hour, index: int, level: int, carbon_price_per_kg: float) -> _Piece:
    power_w = job.levels[level].power_w
    price = hour.compared_per_kwh(carbon_price_per_kg) * power_w / JOULES_PER_KWH
    return _Piece(job.job, index, level, job.levels[level], _span(job, hour), price)


def _span(job: Flexible, hour: Hour) -> float:
    """Seconds of the hour in which the job may run."""
    return max(min(hour.end_s, job.deadline_s) - max(hour.start_s, job.earliest_s), 0.0)


def _of(levels: Sequence[Level], index: int, price: float) -> tuple[float, float]:
    """(speed, cost by the second) of a level; -1: a pause."""
    return (0.0, 0.0) if index < 0 else (levels[index].speed, levels[index].power_w * price)


def _hull(levels: Sequence[Level], price: float) -> list[tuple[int, int]]:
    """Steps of the lower convex hull of cost over speed, from a pause (-1) to the fastest."""
    order = sorted(range(len(levels)), key=lambda index: (levels[index].speed, levels[index].power_w * price))
    corners = [-1]
    for index in order:
        if levels[index].speed <= _of(levels, corners[-1], price)[0]:
            continue
        while len(corners) > 1 and _slope(levels, corners[-2], corners[-1], price) >= _slope(
            levels, corners[-1], index, price
        ):
            corners.pop()
        corners.append(index)
    return list(pairwise(corners))


def _slope(levels: Sequence[Level], low: int, high: int, price: float) -> float:
    (slow, cheap), (fast, dear) = _of(levels, low, price), _of(levels, high, price)
    return (dear - cheap) / (fast - slow)


def _check(jobs: Sequence[Flexible], hours: Sequence[Hour]) -> None:
    for before, after in pairwise(hours):
        if after.start_s < before.end_s:
            raise SpecError(f"the hour from {after.start_s:g} s begins before the one before it ends; sort them")
    for hour in hours:
        if hour.end_s <= hour.start_s:
            raise SpecError(f"an hour ends at {hour.end_s:g} s, before it begins at {hour.start_s:g} s")
    for job in jobs:
        if not job.levels or min(level.speed for level in job.levels) <= 0:
            raise SpecError(f"{job.job} has no level, or one without speed; a pause needs none")
        room_s = sum(_span(job, hour) for hour in hours) * max(level.speed for level in job.levels)
        if room_s < job.work_s - 1e-9:
            raise SpecError(
                f"{job.job} needs {job.work_s:g} s of work; until its deadline there is room for {room_s:g} s"
            )


def _shift(
    jobs: Sequence[Flexible],
    spent: Sequence[tuple[_Piece, float]],
    hours: Sequence[Hour],
    carbon_price_per_kg: float,
    worth: tuple[float, ...],
) -> Shift:
    kwh = [(piece, piece.level.power_w * seconds / JOULES_PER_KWH) for piece, seconds in spent]
    cost = math.fsum(energy * hours[piece.hour].price_per_kwh for piece, energy in kwh)
    carbon_kg = math.fsum(energy * hours[piece.hour].carbon_kg_per_kwh for piece, energy in kwh)
    draws = tuple(Draw(job=p.job, hour=p.hour, level=p.index, seconds=seconds) for p, seconds in spent)
    compared = cost + carbon_kg * carbon_price_per_kg
    at_once = _at_once(jobs, hours, carbon_price_per_kg)
    capped = sum(value > 1e-12 for value in worth)
    saved = "" if at_once is None else f", {at_once - compared:.6g} less than at once"
    return Shift(
        draws=draws,
        cost=cost,
        carbon_kg=carbon_kg,
        compared=compared,
        at_once=at_once,
        watt_worth=worth,
        changes=_changes(draws, hours),
        reason=f"{compared:.6g} in all{saved}; the cap binds in {capped} of {len(hours)} hours",
    )


def _changes(draws: Sequence[Draw], hours: Sequence[Hour]) -> int:
    """Starts, stops and changes of level; inside an hour they are put next to equal neighbours."""
    changes = 0
    for job in {draw.job for draw in draws}:
        before: set[int] = {-1}
        for hour, span in enumerate(hours):
            mine = [draw for draw in draws if draw.job == job and draw.hour == hour]
            levels = {draw.level for draw in mine}
            if sum(draw.seconds for draw in mine) < span.end_s - span.start_s - 1e-3:
                levels.add(-1)
            changes += len(levels) - bool(levels & before)
            before = levels
    return changes


def _at_once(jobs: Sequence[Flexible], hours: Sequence[Hour], carbon_price_per_kg: float) -> float | None:
    total = 0.0
    for job in jobs:
        fastest = max(range(len(job.levels)), key=lambda index: (job.levels[index].speed, -job.levels[index].power_w))
        left = job.work_s
        for index, hour in enumerate(hours):
            seconds = min(_span(job, hour), left / job.levels[fastest].speed)
            left -= seconds * job.levels[fastest].speed
            total += seconds * _piece(job, hour, index, fastest, carbon_price_per_kg).price
        if left > 1e-6:
            return None
    return total
