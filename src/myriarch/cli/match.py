"""`myriarch match JOBS MARKET` (算力撮合): which pool runs which job, when, at what price, and why not elsewhere.

Nothing is decided here: `schedule.broker` decides, and this draws its answer. With `--job` every alternative of one job
is shown, each with its price and the parts of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from myriarch.cli.console import Output
from myriarch.cli.files import read_document_text
from myriarch.cli.match_reasons import miss, note, reason
from myriarch.cli.match_words import term
from myriarch.cli.report_words import Language, choose_language
from myriarch.errors import EXIT_DEGRADED, EXIT_OK, SpecError, UsageError
from myriarch.schedule.broker import TIME_LIMIT_S, solve
from myriarch.schedule.broker_market import Jobs, Market
from myriarch.schedule.broker_result import Award, Decision, Matching, Quote
from myriarch.schedule.calendar import instant_s
from myriarch.spec.base import Spec
from myriarch.spec.parse import FORMATS, parse_located
from myriarch.spec.problems import did_you_mean

T = TypeVar("T", bound=Spec)

Method = Literal["batch", "arrival"]
METHODS: Final[dict[str, Method]] = {"batch": "batch", "arrival": "arrival", "greedy": "arrival"}
"""`greedy` is what many call it."""

SHADOWS_SHOWN: Final = 12
"""Of more, the dearest; `--json` has them all."""


def match(
    jobs: str,
    market: str,
    *,
    method: str = "batch",
    job: str = "",
    seconds: float = TIME_LIMIT_S,
    json_output: bool = False,
    lang: str = "",
) -> int:
    """Match the jobs of one file with the offers of another and print who gets what.

    Exit code 3: some jobs, or the one that was asked for, got nothing. Raises SpecError for files that are wrong and
    UsageError for an unknown method or job.
    """
    if method not in METHODS:
        known = " or ".join(METHODS)
        raise UsageError(f"--method: `{method}` is unknown;{did_you_mean(method, METHODS)} use {known}")
    if not seconds > 0:
        raise UsageError(f"--seconds: {seconds:g} is no time to solve in; give some, like 60")
    language = choose_language(lang)
    wanted, where = _read(jobs, Jobs), _read(market, Market)
    names = [request.name for request in wanted.jobs]
    if job and job not in names:
        raise UsageError(f"--job: `{job}` is not in `{jobs}`;{did_you_mean(job, names)} name one of its jobs")
    try:
        with _solver_talks_on_stderr():
            matching = solve(wanted, where, method=METHODS[method], time_limit_s=seconds, now_s=time.monotonic)
    except SpecError as error:
        said = error.message.removeprefix(f"{error.path}: ")  # it will be put in front again
        raise SpecError(said, source=f"{jobs}, {market}", path=error.path, hint=error.hint) from None
    shown = matching if not job else _only(matching, job)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    elif job:
        show_job(shown, where, language=language)
    else:
        show(matching, where, language=language)
    return EXIT_DEGRADED if shown.unplaced else EXIT_OK


@contextlib.contextmanager
def _solver_talks_on_stderr() -> Iterator[None]:
    """Some versions of HiGHS write lines of their own to descriptor 1, past Python; stdout is for data."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed by whoever started this: nothing can get in
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _read(name: str, kind: type[T]) -> T:
    path = Path(name)
    text = read_document_text(path)
    return parse_located(text, kind=kind, format=FORMATS[path.suffix.lower()], source=str(path)).spec


def _only(matching: Matching, job: str) -> Matching:
    """The same answer, with one job's decision only."""
    decisions = tuple(decision for decision in matching.decisions if decision.job == job)
    return msgspec.structs.replace(matching, decisions=decisions)


# --- all jobs --------------------------------------------------------------------------------------------------------


def show(matching: Matching, market: Market, *, language: Language = "en", console: Console | None = None) -> None:
    """Who gets what, at what price, and what stood against the next best."""
    console = console or Output()
    total = len(matching.decisions)
    pools = f"{len(market.offers)} {term('pools', language)}".rstrip()
    console.print(
        f"{term('title', language)}: {total} {term('jobs_on', language)} {pools}; "
        f"{term('placed', language)} {matching.placed}, {_status(matching, language)}",
        style="bold",
    )
    table = Table(box=None, padding=(0, 1))
    for key in ("job", "gets", "devices", "when"):
        table.add_column(term(key, language), justify="right" if key == "devices" else "left", no_wrap=True)
    for key in ("price", "billed"):
        table.add_column(f"{term(key, language)}, {matching.currency}", justify="right")
    table.add_column(term("next", language))
    table.add_column(term("more", language), justify="right")
    for decision in matching.decisions:
        table.add_row(*_row(decision, market, language))
    console.print(table)
    console.print()
    for line in _why_not(matching, language):
        console.print(line, soft_wrap=True)
    bills = ", ".join(f"{bill.value:,.2f} {bill.currency}" for bill in matching.bills) or "-"
    console.print(f"{term('compared', language)}: {matching.compared:,.2f} {matching.currency}")
    console.print(f"{term('bills', language)}: {bills}")
    _shadows(console, matching, market, language)
    console.print(term("means", language), style="dim", soft_wrap=True)
    for text in matching.notes:
        said = note(text, language=language)
        console.print(f"{term('note', language)}: {said}", style="yellow", soft_wrap=True)


def _status(matching: Matching, language: Language) -> str:
    said = term(matching.status, language)
    if matching.status == "time_limit" and matching.gap is not None:
        return f"{said}, {term('within', language)} {matching.gap:.1%}"
    return said


def _row(decision: Decision, market: Market, language: Language) -> tuple[str, ...]:
    award = decision.award
    if award is None:
        return decision.job, term("nothing", language), *("-" for _ in range(6))
    following = _next(decision, award)
    extra = None if following is None else following.extra
    return (
        decision.job,
        ", ".join(dict.fromkeys(part.offer for part in award.parts)),
        str(sum(part.devices for part in award.parts)),
        _span(award, market),
        f"{award.price.compared:,.2f}",
        f"{award.price.billed:,.2f}",
        "-" if following is None else following.offer,
        "-" if extra is None else f"{extra:+,.2f}",
    )


def _next(decision: Decision, award: Award) -> Quote | None:
    """The best pool that the job did not get."""
    mine = {part.offer for part in award.parts}
    return next((quote for quote in decision.quotes if quote.offer not in mine), None)


def _why_not(matching: Matching, language: Language) -> Iterator[str]:
    """Of jobs that got nothing, and of those whose next best pool has no price at the moment."""
    for decision in matching.decisions:
        if decision.award is None:
            yield f"{decision.job}: {term('nothing', language)}; {_reason(decision, matching, language)}"
        elif (following := _next(decision, decision.award)) is not None and following.extra is None:
            texts = "; ".join(miss(each, language=language) for each in following.misses)
            yield f"{decision.job}, {term('not_next', language)}: {following.offer}: {texts}"


def _reason(decision: Decision, matching: Matching, language: Language) -> str:
    return reason(decision, currency=matching.currency, language=language)


def _shadows(console: Console, matching: Matching, market: Market, language: Language) -> None:
    if not matching.shadow_prices:
        return
    dearest = sorted(matching.shadow_prices, key=lambda each: (-each.per_device_hour, each.offer, each.start_s))
    kept = sorted(dearest[:SHADOWS_SHOWN], key=lambda each: (each.offer, each.start_s))
    title = term("shadow", language)
    if matching.prices_support is False:
        title += f" ({term('guide', language)})"
    console.print()
    console.print(title, style="bold")
    table = Table(box=None, padding=(0, 1))
    for key in ("pool", "from", "until"):
        table.add_column(term(key, language))
    table.add_column(f"{term('saving', language)}, {matching.currency}", justify="right")
    for price in kept:
        start, end = _clock(price.start_s, market), _clock(price.end_s, market)
        table.add_row(price.offer, start, end, f"{price.per_device_hour:,.3f}")
    console.print(table)
    if len(dearest) > len(kept):
        console.print(f"... {len(dearest) - len(kept)} {term('more_rows', language)}: --json", style="dim")
    console.print()


# --- one job ---------------------------------------------------------------------------------------------------------


def show_job(matching: Matching, market: Market, *, language: Language = "en", console: Console | None = None) -> None:
    """Every pool's price for one job, with its parts; or what the pool lacks."""
    console = console or Output()
    (decision,) = matching.decisions
    award = decision.award
    got = term("nothing", language) if award is None else f"{award.parts[0].offer}, {_span(award, market)}"
    console.print(f"{decision.job}: {got}", style="bold")
    console.print(f"{term('reason', language)}: {_reason(decision, matching, language)}", soft_wrap=True)
    table = Table(box=None, padding=(0, 1))
    table.add_column(term("pool", language))
    table.add_column("")
    table.add_column(term("start", language), no_wrap=True)
    for key in ("price", "extra", "rent", "energy", "data", "voucher", "carbon", "wait", "carbon_kg"):
        table.add_column(term(key, language), justify="right")
    for cells in _alternatives(decision, market, language):
        table.add_row(*cells)
    console.print(table)
    for quote in decision.quotes:
        for lacking in quote.misses:
            console.print(f"{quote.offer}: {miss(lacking, language=language)}", soft_wrap=True)
    console.print(term("means", language), style="dim", soft_wrap=True)


def _alternatives(decision: Decision, market: Market, language: Language) -> Iterator[tuple[str, ...]]:
    award = decision.award
    if award is not None:
        price = award.price
        pools = ", ".join(dict.fromkeys(part.offer for part in award.parts))
        start = _clock(award.parts[0].start_s, market)
        parts = (price.rent, price.energy, price.data, -price.voucher, price.carbon, price.wait)
        yield (
            pools, term("chosen", language), start, _money(price.compared), "", *map(_money, parts),
            _unknown(award.carbon_kg),
        )  # fmt: skip
    for quote in decision.quotes:
        if award is None or {part.offer for part in award.parts} != {quote.offer}:
            yield _alternative(quote, market, language)


def _alternative(quote: Quote, market: Market, language: Language) -> tuple[str, ...]:
    if quote.price is None:
        return quote.offer, term("cannot", language), *("-" for _ in range(10))
    state = "free" if quote.free is not None else "taken"
    start_s = quote.free_start_s if quote.free is not None else quote.alone_start_s
    price = quote.price
    parts = (price.rent, price.energy, price.data, -price.voucher, price.carbon, price.wait)
    return (
        quote.offer,
        term(state, language),
        "-" if start_s is None else _clock(start_s, market),
        _money(price.compared),
        "-" if quote.extra is None else ("+" if quote.extra >= 0 else "") + _money(quote.extra),
        *map(_money, parts),
        _unknown(quote.carbon_kg),
    )


# --- small parts -----------------------------------------------------------------------------------------------------


def _money(value: float) -> str:
    """To the cent; thousands without, as nobody compares by them."""
    return "0" if value == 0 else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _unknown(value: float | None) -> str:
    """Unknown is `?`, never zero."""
    return "?" if value is None else f"{value:,.1f}"


def _span(award: Award, market: Market) -> str:
    start_s = min(part.start_s for part in award.parts)
    end_s = max(part.end_s for part in award.parts)
    return f"{_clock(start_s, market)} - {_clock(end_s, market)}"


def _clock(after_s: float, market: Market) -> str:
    """Month, day, hour and minute on the market's clock."""
    opens_s, offset_s = instant_s(market.opens, utc_offset_s=0.0)
    zone = timezone(timedelta(seconds=offset_s))
    return datetime.fromtimestamp(opens_s + after_s, tz=zone).strftime("%m-%d %H:%M")
