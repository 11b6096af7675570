"""What is still free, and the cheapest place in it: the broker's greedy half, for jobs as they arrive.

One job at a time gets the alternative that is cheapest for itself, vouchers counted, in what the jobs before it have
left. Each choice is the best there is for that job; all of them together need not be (`broker_batch` proves more).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from myriarch.schedule.broker_market import Market, Voucher
from myriarch.schedule.broker_menu import Ints, Menu, free_devices, runs_of
from myriarch.schedule.calendar import Floats

DIGITS: Final = 9
"""Prices are compared to so many digits after the point: two integrals of the same price differ in the last bits."""


@dataclasses.dataclass(frozen=True)
class Pick:
    """So many units of a job at one start of one pool."""

    menu: Menu
    row: int
    units: int

    @property
    def slot(self) -> int:
        return int(self.menu.starts[self.row])

    @property
    def devices(self) -> int:
        return self.units * self.menu.devices_per_unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A way to run a whole job: one pick for a gang, and what a voucher pays."""

    picks: tuple[Pick, ...]
    voucher: str | None
    paid: float
    """By the voucher, in the market's currency."""

    @property
    def data(self) -> float:
        return sum({pick.menu.offer.name: pick.menu.data for pick in self.picks}.values())

    @property
    def billed(self) -> float:
        return sum(float(p.menu.billed[p.row]) * p.units for p in self.picks) + self.data - self.paid

    @property
    def compared(self) -> float:
        return sum(float(p.menu.compared[p.row]) * p.units for p in self.picks) + self.data - self.paid


class Book:
    """Free devices of every pool, slot by slot, and what is left in every voucher. Grows by `take`, shrinks by `give`.

    Invariant (`check`): nothing free is below zero, no voucher below nothing left.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        self.free: dict[str, Ints] = {offer.name: free_devices(offer, market) for offer in market.offers}
        self.vouchers: dict[str, Voucher] = {voucher.name: voucher for voucher in market.vouchers}
        self.left: dict[str, float] = {
            voucher.name: _in_market(market, voucher, voucher.cap_total) for voucher in market.vouchers
        }

    def cap_per_job(self, voucher: str) -> float:
        """In the market's currency."""
        return _in_market(self.market, self.vouchers[voucher], self.vouchers[voucher].cap_per_job)

    def cap(self, voucher: str, picks: Sequence[Pick]) -> float:
        """What it would pay for these picks if no other job used it."""
        covered = sum(
            float(pick.menu.benefits[voucher][pick.row]) * pick.units for pick in picks if voucher in pick.menu.benefits
        )
        return min(covered, self.cap_per_job(voucher))

    def take(self, choice: Choice) -> None:
        """The choice's devices and voucher are no longer free."""
        self._move(choice, sign=-1)

    def give(self, choice: Choice) -> None:
        """Undo `take`."""
        self._move(choice, sign=1)

    def _move(self, choice: Choice, *, sign: int) -> None:
        for pick in choice.picks:
            span = slice(pick.slot, pick.slot + pick.menu.slots_held)
            self.free[pick.menu.offer.name][span] += sign * pick.devices
        if choice.voucher is not None:
            self.left[choice.voucher] += sign * choice.paid

    def check(self) -> None:
        """Raises AssertionError where more was given out than there is."""
        for offer, free in self.free.items():
            assert free.min(initial=0) >= 0, f"{offer}: {free.min()} devices free"
        for voucher, left in self.left.items():
            assert left >= -1e-6, f"{voucher}: {left} left"

    def cheapest(self, menus: Sequence[Menu]) -> Choice | None:
        """The best way to run one job, of its menus in some pools; None where none is free or within its budget.

        Of equal prices the earliest end, then the earliest start, then the pool's name. A gang's is exact; tasks are
        filled in at the cheapest places one after the other, and the voucher that pays most is taken for all of them.
        """
        if not menus:
            return None
        choice = self._gang(menus) if menus[0].request.gang else self._tasks(menus)
        budget = menus[0].request.budget
        if choice is not None and budget is not None and choice.billed > budget * (1 + 1e-9) + 1e-9:
            return None
        return choice

    def room(self, menu: Menu) -> Ints:
        """Devices that are free through a run, for each row of the menu."""
        if not len(menu.starts):
            return np.zeros(0, dtype=np.int64)
        return runs_of(self.free[menu.offer.name], slots=menu.slots_held)[menu.starts]

    def _gang(self, menus: Sequence[Menu]) -> Choice | None:
        best: tuple[tuple[float, float, int, str], Choice] | None = None
        for menu in menus:
            rows = np.flatnonzero(self.room(menu) >= menu.request.devices)
            if not len(rows):
                continue
            paid, voucher = self._vouchers(menu)
            net = menu.compared + menu.data - paid
            if menu.request.budget is not None:
                billed = menu.billed + menu.data - paid
                rows = rows[billed[rows] <= menu.request.budget * (1 + 1e-9) + 1e-9]
                if not len(rows):
                    continue
            row = int(rows[np.argmin(np.round(net[rows], DIGITS))])
            slot = int(menu.starts[row])
            end_s = slot * self.market.slot_s + menu.duration_s
            key = (round(float(net[row]), DIGITS), end_s, slot, menu.offer.name)
            if best is None or key < best[0]:
                used = voucher[row] if paid[row] > 0 else None
                best = key, Choice(picks=(Pick(menu, row, 1),), voucher=used, paid=float(paid[row]))
        return None if best is None else best[1]

    def _vouchers(self, menu: Menu) -> tuple[Floats, list[str]]:
        """For each row the most that one voucher pays, and which."""
        paid = np.zeros(len(menu.starts))
        names = [""] * len(menu.starts)
        for name, benefit in menu.benefits.items():
            pays = np.minimum(benefit, min(max(self.left[name], 0.0), self.cap_per_job(name)))
            for row in np.flatnonzero(pays > paid + 1e-12):
                names[row] = name
            paid = np.maximum(paid, pays)
        return paid, names

    def _tasks(self, menus: Sequence[Menu]) -> Choice | None:
        free = {menu.offer.name: self.free[menu.offer.name].copy() for menu in menus}
        wanted = menus[0].units
        picks: list[Pick] = []
        for menu, row in _places(menus):
            span = free[menu.offer.name][int(menu.starts[row]) :][: menu.slots_held]
            units = min(int(span.min()), wanted)
            if units > 0:
                span -= units
                wanted -= units
                picks.append(Pick(menu, row, units))
            if not wanted:
                return self._with_voucher(picks)
        return None

    def _with_voucher(self, picks: Sequence[Pick]) -> Choice:
        names = sorted({name for pick in picks for name in pick.menu.benefits})
        pays = {name: min(self.cap(name, picks), max(self.left[name], 0.0)) for name in names}
        most = max(pays, key=lambda each: pays[each], default=None)
        if most is None or not pays[most]:
            return Choice(picks=tuple(picks), voucher=None, paid=0.0)
        return Choice(picks=tuple(picks), voucher=most, paid=pays[most])


def _places(menus: Iterable[Menu]) -> list[tuple[Menu, int]]:
    """Every start of every menu, the cheapest for one task first; the data's move is shared by all tasks."""
    keyed = [
        ((round(float(price) + menu.data / menu.units, DIGITS), int(slot), menu.offer.name), menu, row)
        for menu in menus
        for row, (slot, price) in enumerate(zip(menu.starts, menu.compared, strict=True))
    ]
    return [(menu, row) for _, menu, row in sorted(keyed, key=lambda each: each[0])]


def _in_market(market: Market, voucher: Voucher, cap: float | None) -> float:
    return math.inf if cap is None else cap * market.rate(voucher.currency)


def in_order(menus: Mapping[str, Sequence[Menu]], market: Market) -> tuple[dict[str, Choice], Book]:
    """Every job's choice, in the order of arrival (`submitted_s`, then name), and what is left."""
    book = Book(market)
    chosen: dict[str, Choice] = {}
    for name in sorted(menus, key=lambda each: (menus[each][0].request.submitted_s if menus[each] else 0.0, each)):
        choice = book.cheapest(menus[name])
        if choice is not None:
            book.take(choice)
            chosen[name] = choice
    return chosen, book
