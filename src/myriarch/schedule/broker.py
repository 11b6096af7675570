"""The broker (算力撮合): which pool runs which job, when, at what price, and why.

    solve(jobs, market)                      a batch: an integer program, proven or with its gap
    solve(jobs, market, method="arrival")    one after the other as they came: the cheapest place that is left

Either way every job gets a quote from every pool: what it would pay there if it were alone, what it would pay beside
the others, or why it cannot run there at all. Jobs and offers are taken in the order of their names, so the order of a
file changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from myriarch.schedule.broker_batch import RUNS_LIMIT, VARIABLES_LIMIT, Batch, best, size
from myriarch.schedule.broker_book import Book, Choice, in_order
from myriarch.schedule.broker_market import Expected, Jobs, Market, by_name, check, stated_hours
from myriarch.schedule.broker_menu import Menu, Pricing
from myriarch.schedule.broker_result import Award, Bill, Decision, Matching, Miss, Part, Price, Quote
from myriarch.units import format_s

TIME_LIMIT_S: Final = 60.0
"""For the whole program. On one core forty jobs on four pools over two days are proven in four seconds; a hundred on
five pools are within 1 % after a minute."""


def solve(
    jobs: Jobs,
    market: Market,
    *,
    expected: Expected = stated_hours,
    method: Literal["batch", "arrival"] = "batch",
    time_limit_s: float = TIME_LIMIT_S,
    now_s: Callable[[], float] = lambda: 0.0,
    gap: float = 0.0,
) -> Matching:
    """Assign jobs to offers.

    `expected` says how many device-hours a job takes in a pool: the job's own table, or a planner. Each of the
    program's stages gets what `time_limit_s` leaves by the caller's clock `now_s`; without a clock, each gets all of
    it. An answer that the limit cut short depends on the machine; all others do not. With a `gap`, a batch that is
    proven to cost at most this share too much will do; a rolling horizon plans anew anyway. Raises SpecError, with
    everything that is wrong, for contradictory input.
    """
    check(jobs, market)
    pricing = Pricing(market)
    offers = by_name(market)
    menus = {
        job.name: tuple(pricing.menu(job, offer, expected=expected) for offer in offers.values())
        for job in sorted(jobs.jobs, key=lambda each: each.name)
    }
    chosen, _ = in_order(menus, market)
    starts, entries = size(menus)
    notes = list(_unknowns(market))
    batch: Batch | None = None
    if method == "batch" and (starts > VARIABLES_LIMIT or entries > RUNS_LIMIT):
        notes.append(f"{starts} possible starts are too many for one program; each job was placed as it came")
    elif method == "batch":
        batch = best(menus, market, known=chosen, time_limit_s=time_limit_s, now_s=now_s, gap=gap)
        chosen = batch.choices
    return _matching(menus, market, chosen, batch, method=method, notes=notes)


def _unknowns(market: Market) -> Iterable[str]:
    dark = [offer.name for offer in market.offers if offer.carbon_kg_per_kwh is None]
    if dark and market.carbon_price_per_kg:
        yield f"carbon of {', '.join(sorted(dark))} is unknown; it counts as nothing there"


def _matching(
    menus: Mapping[str, Sequence[Menu]],
    market: Market,
    chosen: Mapping[str, Choice],
    batch: Batch | None,
    *,
    method: Literal["batch", "arrival"],
    notes: Sequence[str],
) -> Matching:
    book, alone = Book(market), Book(market)
    for choice in chosen.values():
        book.take(choice)
    book.check()
    decisions = tuple(_decision(name, part, chosen.get(name), book, alone, market) for name, part in menus.items())
    awards = [decision.award for decision in decisions if decision.award is not None]
    return Matching(
        currency=market.currency,
        method=method,
        status="greedy" if batch is None else "optimal" if batch.optimal else "time_limit",
        placed=len(awards),
        compared=math.fsum(award.price.compared for award in awards),
        gap=None if batch is None else batch.gap,
        bills=_summed(bill for award in awards for bill in award.bills),
        decisions=decisions,
        shadow_prices=() if batch is None else batch.shadow_prices,
        prices_support=None if batch is None else batch.prices_support,
        notes=tuple(notes),
    )


def _decision(
    name: str, menus: Sequence[Menu], choice: Choice | None, book: Book, alone: Book, market: Market
) -> Decision:
    """With the job's own place free again, so that every pool is asked on equal terms. In `alone` all is free."""
    if choice is not None:
        book.give(choice)
    quotes = sorted((_quote(menu, choice, book, alone, market) for menu in menus), key=_by_usefulness)
    if choice is not None:
        book.take(choice)
    if choice is None:
        named = _nearest(quotes)
        return Decision(job=name, award=None, quotes=tuple(quotes), reason=_why_not(quotes, named), nearest=named)
    award = _award(name, choice, quotes, market)
    return Decision(job=name, award=award, quotes=tuple(quotes), reason=award.reason, nearest=None)


def _nearest(quotes: Sequence[Quote]) -> str | None:
    """Of pools that cannot, the one that lacks least: fewest needs, then the least distance, then the name."""
    lacking = [quote for quote in quotes if quote.misses]
    if not lacking:
        return None
    return min(lacking, key=lambda each: (len(each.misses), sum(m.distance for m in each.misses), each.offer)).offer


def _by_usefulness(quote: Quote) -> tuple[int, float, str]:
    if quote.free is not None:
        return 0, round(quote.free, 9), quote.offer
    if quote.alone is not None:
        return 1, round(quote.alone, 9), quote.offer
    return 2, 0.0, quote.offer


def _quote(menu: Menu, choice: Choice | None, book: Book, empty: Book, market: Market) -> Quote:
    alone = empty.cheapest([menu])
    free = book.cheapest([menu]) if alone is not None else None
    shown = free or alone
    misses = menu.misses
    if alone is None and not misses:
        misses = (_over_budget(menu, empty, market),)
    elif alone is not None and free is None:
        text = f"{_devices(menu)} are free at no time that suits; other jobs have them"
        misses = (Miss(need="taken", wanted=None, had=None, text=text),)
    return Quote(
        offer=menu.offer.name,
        alone=None if alone is None else alone.compared,
        alone_start_s=None if alone is None else _start_s(alone, market),
        free=None if free is None else free.compared,
        free_start_s=None if free is None else _start_s(free, market),
        extra=None if free is None or choice is None else free.compared - choice.compared,
        price=None if shown is None else _price(shown),
        carbon_kg=None if shown is None else _carbon_kg(shown),
        misses=misses,
    )


def _devices(menu: Menu) -> str:
    return f"{menu.request.devices} devices" if menu.request.gang else f"{menu.request.devices} times one device"


def _over_budget(menu: Menu, empty: Book, market: Market) -> Miss:
    """A pool that could run it, at no price within the budget, or not all of its tasks."""
    request = menu.request
    unlimited = dataclasses.replace(menu, request=msgspec.structs.replace(request, budget=None))
    cheapest = empty.cheapest([unlimited])
    if cheapest is None or request.budget is None:
        return Miss(need="devices", wanted=None, had=None, text=f"{_devices(menu)} never fit before the horizon")
    text = f"costs {cheapest.billed:.6g} {market.currency} at least; the budget is {request.budget:.6g}"
    return Miss(need="budget", wanted=cheapest.billed, had=request.budget, text=text)


def _start_s(choice: Choice, market: Market) -> float:
    return min(pick.slot for pick in choice.picks) * market.slot_s


def _price(choice: Choice) -> Price:
    parts = [pick.menu.price(pick.row, units=pick.units, voucher=0.0) for pick in choice.picks]
    return Price(
        rent=math.fsum(part.rent for part in parts),
        energy=math.fsum(part.energy for part in parts),
        data=choice.data,
        voucher=choice.paid,
        carbon=math.fsum(part.carbon for part in parts),
        wait=math.fsum(part.wait for part in parts),
    )


def _carbon_kg(choice: Choice) -> float | None:
    emitted = [
        None if pick.menu.carbon_kg is None else float(pick.menu.carbon_kg[pick.row]) * pick.units
        for pick in choice.picks
    ]
    return None if None in emitted else math.fsum(value for value in emitted if value is not None)


def _award(name: str, choice: Choice, quotes: Sequence[Quote], market: Market) -> Award:
    parts = tuple(
        Part(
            offer=pick.menu.offer.name,
            start_s=pick.slot * market.slot_s,
            end_s=pick.slot * market.slot_s + pick.menu.duration_s,
            devices=pick.devices,
        )
        for pick in sorted(choice.picks, key=lambda each: (each.slot, each.menu.offer.name))
    )
    key = ";".join(f"{part.devices}@{part.offer}+{part.start_s:.0f}" for part in parts)
    return Award(
        job=name,
        key=f"{name}:{key}",
        parts=parts,
        price=_price(choice),
        bills=_bills(choice, market),
        voucher=choice.voucher,
        carbon_kg=_carbon_kg(choice),
        reason=_why(choice, quotes, market),
    )


def _bills(choice: Choice, market: Market) -> tuple[Bill, ...]:
    """What is paid, in the currencies in which it is paid."""
    bills: list[Bill] = []
    for pick in choice.picks:
        currency = pick.menu.offer.currency
        value = float(pick.menu.billed[pick.row]) * pick.units / market.rate(currency)
        bills.append(Bill(currency=currency, value=value))
    for menu in {pick.menu.offer.name: pick.menu for pick in choice.picks}.values():
        route = market.route(menu.request.data_site, menu.offer.site)
        if menu.data and route is not None:
            currency = route.currency or market.currency
            bills.append(Bill(currency=currency, value=menu.data / market.rate(currency)))
    if choice.voucher is not None:
        voucher = next(each for each in market.vouchers if each.name == choice.voucher)
        bills.append(Bill(currency=voucher.currency, value=-choice.paid / market.rate(voucher.currency)))
    return _summed(bills)


def _summed(bills: Iterable[Bill]) -> tuple[Bill, ...]:
    """Each currency by itself."""
    values: dict[str, list[float]] = {}
    for bill in bills:
        values.setdefault(bill.currency, []).append(bill.value)
    return tuple(Bill(currency=currency, value=math.fsum(parts)) for currency, parts in sorted(values.items()))


def _why(choice: Choice, quotes: Sequence[Quote], market: Market) -> str:
    """Why this pool, with the numbers that it rests on."""
    mine = {pick.menu.offer.name for pick in choice.picks}
    price = f"{choice.compared:.6g} {market.currency}"
    if len(mine) > 1:
        return f"tasks in {', '.join(sorted(mine))} for {price}"
    others = [quote for quote in quotes if quote.offer not in mine]
    able = [quote for quote in others if quote.extra is not None]
    said = [f"{price}, voucher {choice.voucher} pays {choice.paid:.6g}" if choice.voucher else price]
    if able and able[0].extra is not None:
        said.append(f"next is {able[0].offer} for {able[0].extra:+.6g}")
    else:
        said.append("no other pool can" if not others or all(q.alone is None for q in others) else "no other is free")
    noticed = choice.compared - 1e-6 * max(abs(choice.compared), 1.0)
    lost = [q for q in others if q.alone is not None and q.alone < noticed]
    if lost:
        said.append(f"{lost[0].offer} would take {lost[0].alone:.6g} if other jobs did not hold it")
    own = next(quote for quote in quotes if quote.offer in mine)
    if own.alone is not None and own.alone < noticed and own.alone_start_s is not None:
        said.append(f"alone it would pay {own.alone:.6g} there, starting at {format_s(own.alone_start_s)}")
    return "; ".join(said)


def _why_not(quotes: Sequence[Quote], closest: str | None) -> str:
    if any(quote.free is not None for quote in quotes):
        return "other jobs of more priority, or more of them, took its place"
    if any(quote.alone is not None for quote in quotes):
        return "other jobs hold the devices at every time that suits"
    texts = {quote.offer: "; ".join(miss.text for miss in quote.misses) for quote in quotes}
    return f"fits no pool; nearest is {closest}: {texts[closest]}" if closest is not None else "there is no pool"
