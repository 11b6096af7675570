"""All jobs of a market at once: an integer program whose optimum is proven.

    x[j,p,t]   job j starts in pool p at slot t       (of a job without a gang: so many of its tasks)
    y[j]       job j is placed                        sum over p, t of x[j,p,t] = units[j] y[j]
    z[j,p]     its data is moved to p                 sum over t of x[j,p,t] <= units[j] z[j,p]
    u[j,k]     it uses voucher k                      sum over k of u[j,k] <= 1
    v[j,k]     what voucher k pays for it             v <= share covered(x), v <= cap_per_job u, sum over j <= cap_total

    free[p,s] >= sum of devices[j] x[j,p,t] over the runs that hold slot s
    budget[j] >= billed(x, z) - sum over k of v[j,k]

The time-indexed form has many variables and a tight relaxation (Sousa and Wolsey, Math. Programming 54, 1992). Three
goals, one after the other: the most priority placed, then the least compared price, then of equals the earliest ends
and first names. Each is a program of its own with the goals before it as rows, not one with large weights, so that no
goal blurs another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from myriarch.schedule.broker_book import Book, Choice, Pick
from myriarch.schedule.broker_market import Market
from myriarch.schedule.broker_menu import Ints, Menu
from myriarch.schedule.broker_result import ShadowPrice
from myriarch.schedule.calendar import S_PER_HOUR, Floats
from myriarch.schedule.program import TOLERANCE, Program, Solution

VARIABLES_LIMIT: Final = 300_000
"""Starts of all jobs in all pools together: past it the program would need more memory and time than it is worth."""
RUNS_LIMIT: Final = 5_000_000
"""Entries of the rows of capacity, likewise."""

Menus = Mapping[str, Sequence[Menu]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """What the program found."""

    choices: dict[str, Choice]
    optimal: bool
    gap: float | None
    shadow_prices: tuple[ShadowPrice, ...]
    prices_support: bool | None


@dataclasses.dataclass(kw_only=True)
class _Variables:
    """Where the program's variables stand."""

    start: dict[str, list[tuple[Menu, int]]]
    """By job: each of its menus with the first of its starts' indices."""
    placed: dict[str, int]
    moved: dict[tuple[str, str], int]
    pays: dict[tuple[str, str], int]
    """By job and voucher."""
    uses: dict[tuple[str, str], int]
    capacity: dict[tuple[str, int], int]
    """By pool and slot: rows, of slots that could be asked for more than they have."""


def size(menus: Menus) -> tuple[int, int]:
    """Starts and entries of capacity rows, that a program would have."""
    each = [(len(menu.starts), len(menu.starts) * menu.slots_held) for part in menus.values() for menu in part]
    return sum(starts for starts, _ in each), sum(entries for _, entries in each)


def best(
    menus: Menus,
    market: Market,
    *,
    known: Mapping[str, Choice],
    time_limit_s: float,
    now_s: Callable[[], float],
    gap: float = 0.0,
) -> Batch:
    """The best assignment. `known` is one that is feasible: it is returned where the time brings nothing better.

    `now_s` is a clock of the caller's; this code has none. With a `gap`, a price that is proven to be within this share
    of the least will do; ties are not broken then, and there are no shadow prices.
    """
    ends_s = now_s() + time_limit_s
    program, variables, costs = _program(menus, market)
    weights = np.zeros(program.variables)
    for name, index in variables.placed.items():
        weights[index] = menus[name][0].request.priority
    known_priority = sum(menus[name][0].request.priority for name in known)
    most = float(weights.sum())
    if known_priority < most - 1e-9:
        first = program.with_costs(-weights).minimise(time_limit_s=max(ends_s - now_s(), 0.1))
        if first is None or not first.optimal:
            return _unproven(known)
        most = -first.objective
    priced = program.with_costs(costs)
    priced.row([(int(index), float(weights[index])) for index in np.flatnonzero(weights)], low=most - 1e-6)
    second = priced.minimise(time_limit_s=max(ends_s - now_s(), 0.1), gap=gap)
    if second is None or not (second.optimal or _is_better(second, menus, variables, known)):
        return _unproven(known, bound=None if second is None else second.bound)
    left_s = max(ends_s - now_s(), 0.1)
    final = second if gap else _tie_broken(priced, second, menus, variables, costs, time_limit_s=left_s)
    shadows, support = ((), None) if gap else _shadow_prices(priced, second, variables, market)
    return Batch(
        choices=_choices(final.values, menus, variables, Book(market)),
        optimal=second.optimal,
        gap=second.gap,
        shadow_prices=shadows,
        prices_support=support if second.optimal else None,
    )


def _unproven(known: Mapping[str, Choice], *, bound: float | None = None) -> Batch:
    total = sum(choice.compared for choice in known.values())
    gap = None if bound is None else max(total - bound, 0.0) / max(abs(total), 1e-9)
    return Batch(choices=dict(known), optimal=False, gap=gap, shadow_prices=(), prices_support=None)


def _is_better(found: Solution, menus: Menus, variables: _Variables, known: Mapping[str, Choice]) -> bool:
    """Whether an unproven solution beats the known one: more priority placed, or as much for less."""
    placed = sum(menus[name][0].request.priority * found.values[index] for name, index in variables.placed.items())
    held = sum(menus[name][0].request.priority for name in known)
    return placed > held + 1e-6 or found.objective < sum(choice.compared for choice in known.values())


# --- the program -----------------------------------------------------------------------------------------------------


def _program(menus: Menus, market: Market) -> tuple[Program, _Variables, Floats]:
    program = Program()
    book = Book(market)
    variables = _Variables(start={}, placed={}, moved={}, pays={}, uses={}, capacity={})
    for name, part in menus.items():
        able = [menu for menu in part if len(menu.starts)]
        if able:
            _job(program, variables, name, able, book)
    _capacity_rows(program, variables, book)
    _voucher_rows(program, variables, book)
    return program, variables, np.array(program.costs)


def _job(program: Program, variables: _Variables, name: str, menus: Sequence[Menu], book: Book) -> None:
    request = menus[0].request
    variables.start[name] = []
    placed = variables.placed[name] = program.variable(high=1.0, whole=True)
    everywhere: list[tuple[int, float]] = [(placed, -float(menus[0].units))]
    billed: list[tuple[int, float]] = []
    for menu in menus:
        # The one start of a gang moves its data too; tasks share one move, which has its own variable.
        once = menu.data if request.gang else 0.0
        first = program.variables
        variables.start[name].append((menu, first))
        for price in menu.compared + once:
            program.variable(cost=float(price), high=float(menu.units), whole=True)
        here = [(first + row, 1.0) for row in range(len(menu.starts))]
        everywhere += here
        billed += [(first + row, float(price)) for row, price in enumerate(menu.billed + once)]
        if not request.gang and menu.data:
            moved = variables.moved[name, menu.offer.name] = program.variable(cost=menu.data, high=1.0, whole=True)
            program.row([*here, (moved, -float(menu.units))], high=0.0)
            billed.append((moved, menu.data))
    program.row(everywhere, low=0.0, high=0.0)
    paid = _job_vouchers(program, variables, name, book)
    if request.budget is not None:
        program.row([*billed, *((index, -1.0) for index in paid)], high=request.budget)


def _job_vouchers(program: Program, variables: _Variables, name: str, book: Book) -> list[int]:
    starts = variables.start[name]
    names = sorted({voucher for menu, _ in starts for voucher in menu.benefits})
    paid: list[int] = []
    for voucher in names:
        covered = [
            (first + row, float(benefit))
            for menu, first in starts
            if voucher in menu.benefits
            for row, benefit in enumerate(menu.benefits[voucher])
        ]
        units = starts[0][0].units
        cap = min(book.cap_per_job(voucher), book.left[voucher], units * max(benefit for _, benefit in covered))
        pays = variables.pays[name, voucher] = program.variable(cost=-1.0, high=cap)
        uses = variables.uses[name, voucher] = program.variable(high=1.0, whole=True)
        program.row([(pays, 1.0), *((index, -benefit) for index, benefit in covered)], high=0.0)
        program.row([(pays, 1.0), (uses, -cap)], high=0.0)
        paid.append(pays)
    if len(names) > 1:
        program.row([(variables.uses[name, voucher], 1.0) for voucher in names], high=1.0)
    return paid


def _capacity_rows(program: Program, variables: _Variables, book: Book) -> None:
    """A row for each pool and slot that could be asked for more devices than are free."""
    for offer in sorted(book.free):
        free: Ints = book.free[offer]
        asked = np.zeros(len(free), dtype=np.int64)
        holds: dict[int, list[tuple[int, float]]] = {}
        menus = [(menu, first) for starts in variables.start.values() for menu, first in starts]
        here = [(menu, first) for menu, first in menus if menu.offer.name == offer]
        for menu, _ in here:
            held = np.zeros(len(free), dtype=np.bool_)
            for start in menu.starts:
                held[start : start + menu.slots_held] = True
            asked += held * menu.request.devices
        tight = asked > free
        for menu, first in here:
            for row, start in enumerate(menu.starts):
                for slot in range(start, start + menu.slots_held):
                    if tight[slot]:
                        holds.setdefault(int(slot), []).append((first + row, float(menu.devices_per_unit)))
        for slot in sorted(holds):
            variables.capacity[offer, slot] = program.row(holds[slot], high=float(free[slot]))


def _voucher_rows(program: Program, variables: _Variables, book: Book) -> None:
    for voucher, left in sorted(book.left.items()):
        paid = [index for (_, name), index in variables.pays.items() if name == voucher]
        if paid and math.isfinite(left):
            program.row([(index, 1.0) for index in paid], high=left)


# --- the answer ------------------------------------------------------------------------------------------------------


def _tie_broken(
    priced: Program, found: Solution, menus: Menus, variables: _Variables, costs: Floats, *, time_limit_s: float
) -> Solution:
    """Of all assignments at this price, the one whose runs end earliest in sum, in pools first by name.

    Where the solver cannot hold the price to its last digits, or the time is out, the one that was found stays.
    """
    if not found.optimal:
        return found
    ranks = np.zeros(priced.variables)
    for starts in variables.start.values():
        for order, (menu, first) in enumerate(sorted(starts, key=lambda each: each[0].offer.name)):
            ends = menu.starts + menu.slots_held + order / (2 * len(starts))
            ranks[first : first + len(menu.starts)] = ends
    tied = priced.with_costs(ranks)
    slack = 1e-9 * max(abs(found.objective), 1.0)
    tied.row([(int(index), float(costs[index])) for index in np.flatnonzero(costs)], high=found.objective + slack)
    earliest = tied.minimise(time_limit_s=time_limit_s)
    if earliest is None or not earliest.optimal:
        return found
    return dataclasses.replace(found, values=earliest.values)


def _choices(values: Floats, menus: Menus, variables: _Variables, book: Book) -> dict[str, Choice]:
    chosen: dict[str, Choice] = {}
    for name, starts in variables.start.items():
        picks = tuple(
            Pick(menu, row, round(values[first + row]))
            for menu, first in starts
            for row in range(len(menu.starts))
            if values[first + row] > 0.5
        )
        if not picks:
            continue
        pays = {voucher: float(values[index]) for (job, voucher), index in variables.pays.items() if job == name}
        voucher = max(pays, key=lambda each: pays[each], default=None)
        if voucher is not None and pays[voucher] > TOLERANCE * max(book.cap(voucher, picks), 1.0):
            chosen[name] = Choice(picks=picks, voucher=voucher, paid=min(pays[voucher], book.cap(voucher, picks)))
        else:
            chosen[name] = Choice(picks=picks, voucher=None, paid=0.0)
    return _topped_up(chosen, book)


def _topped_up(chosen: Mapping[str, Choice], book: Book) -> dict[str, Choice]:
    """Vouchers pay all they can: what the solver's tolerances left of them goes to jobs in the order of their names."""
    for choice in chosen.values():
        book.take(choice)
    topped: dict[str, Choice] = {}
    for name, choice in chosen.items():
        if choice.voucher is not None:
            book.give(choice)
            most = min(book.cap(choice.voucher, choice.picks), book.left[choice.voucher])
            choice = dataclasses.replace(choice, paid=most)
            book.take(choice)
        topped[name] = choice
    return topped


def _shadow_prices(
    priced: Program, found: Solution, variables: _Variables, market: Market
) -> tuple[tuple[ShadowPrice, ...], bool | None]:
    duals = priced.relaxed()
    if duals is None:
        return (), None
    slot_h = market.slot_s / S_PER_HOUR
    values = {
        key: -float(duals.upper[row]) / slot_h for key, row in variables.capacity.items() if duals.upper[row] < -1e-7
    }
    joined: list[ShadowPrice] = []
    for (offer, slot), value in sorted(values.items()):
        start_s, end_s = slot * market.slot_s, (slot + 1) * market.slot_s
        last = joined[-1] if joined else None
        same = last is not None and last.offer == offer and last.end_s == start_s
        if last is not None and same and math.isclose(last.per_device_hour, value, rel_tol=1e-9):
            joined[-1] = ShadowPrice(offer=offer, start_s=last.start_s, end_s=end_s, per_device_hour=value)
        else:
            joined.append(ShadowPrice(offer=offer, start_s=start_s, end_s=end_s, per_device_hour=value))
    return tuple(joined), math.isclose(duals.objective, found.objective, rel_tol=1e-6, abs_tol=1e-6)
