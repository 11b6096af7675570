"""`myriarch simulate --from-live QUEUE`: how long the jobs that wait still will, and how long a new one would.

QUEUE is a stream of decisions (`schedule.stream`), or the folder of a simulation that left one. It is read as it lies
there; nothing is locked or written. What is answered is `myriarch.simulate.from_live_queue`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.table import Table

from myriarch.cli.console import Output
from myriarch.cli.quantity import days
from myriarch.cli.refusal_words import refusal
from myriarch.cli.report_words import Language
from myriarch.cli.simulate_show import short_s, told_facts
from myriarch.cli.simulate_words import term
from myriarch.errors import EXIT_OK, EnvironmentFault, UsageError
from myriarch.run.directory import read_json
from myriarch.schedule.stream import read
from myriarch.simulate.from_live_queue import Asked, NewJob, Queue, queue_now
from myriarch.simulate.scenario import DEVICES_LIMIT
from myriarch.simulate.scenario_answer import Answer
from myriarch.units import S_PER_DAY, format_s

SHOWN: Final = 20
"""Of more jobs that wait, those that wait longest; `--json` has them all."""
_JOB: Final = re.compile(r"([0-9]{1,10}):([^:]+)(?::([^:/]+)(?:/([^:/]+))?)?")


def from_live_queue(
    stream: Path, *, jobs: Sequence[str], as_of_s: float | None, json_output: bool = False, language: Language = "en"
) -> int:
    """Answer and print. Raises UsageError for options that make no sense, IntegrityError for a damaged stream."""
    if as_of_s is not None and not abs(as_of_s) < float("inf"):
        raise UsageError(f"--as-of-s: {as_of_s:g} is no instant", hint="give seconds, as the stream counts them")
    asked = [new_job(text) for text in jobs]
    try:
        data = stream.read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"{stream} cannot be read: {error.strerror}") from error
    queue = queue_now(read(data, growing=True), asked=asked, estimates=_estimates(stream), as_of_s=as_of_s)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(queue), indent=2).decode())
    else:
        show(queue, language=language)
    return EXIT_OK


def new_job(text: str) -> NewJob:
    """Of `8:4h`, `8:4h:vision` or `8:4h:vision/ada`. Raises UsageError."""
    match = _JOB.fullmatch(text.strip())
    if match is None:
        hint = "write devices and time, like 8:4h; who submits it may follow, like 8:4h:tenant/user"
        raise UsageError(f"--job: `{text}` is no job", hint=hint)
    devices = int(match[1])
    if not 1 <= devices <= DEVICES_LIMIT:
        raise UsageError(f"--job: `{text}` asks for {devices} devices", hint=f"use 1 to {DEVICES_LIMIT:,}")
    estimate_s = days(match[2], option="--job") * S_PER_DAY
    return NewJob(devices=devices, estimate_s=estimate_s, tenant=match[3] or "", user=match[4] or "")


def _estimates(stream: Path) -> bool:
    """Whether estimates are users' own; a simulation beside the stream knows, a live scheduler's are."""
    answer = stream.with_name("simulation.json")
    if not answer.is_file():
        return True
    jobs = read_json(answer, Answer).jobs
    return jobs is None or jobs.waits is None or jobs.waits.estimates


# --- showing ---------------------------------------------------------------------------------------------------------


def show(queue: Queue, *, language: Language = "en") -> None:
    """For people."""

    def word(name: str) -> str:
        return term(name, language)

    console = Output()
    counts = (
        (f"{queue.devices:,}", "devices"),
        (f"{queue.running:,}", "queue_running"),
        (f"{len(queue.waiting):,}", "queue_waiting"),
    )
    said = ", ".join(f"{count} {word(name)}" for count, name in counts)
    console.print(f"{queue.scheduler}: {said}, {word('queue_at')} {format_s(queue.at_s)}", style="bold")
    console.print(word("queue_learnt").format(queue.started), style="dim")
    console.print()
    if queue.asked:
        _asked(console, queue.asked, word, language)
    if queue.waiting:
        _waiting(console, queue, word)
    facts = Table.grid(padding=(0, 2))
    for name, text in told_facts(queue.calibration, language):
        facts.add_row(f"  {name}", text)
    console.print(word("told"), style="bold")
    console.print(facts)


def _asked(console: Output, asked: Sequence[Asked], word: Callable[[str], str], language: Language) -> None:
    table = Table(box=None, padding=(0, 1))
    table.add_column(word("queue_new"))
    for name in ("devices", "queue_time", "queue_p50", "queue_p90"):
        table.add_column(word(name), justify="right")
    for one in asked:
        who = "/".join(part for part in (one.job.tenant, one.job.user) if part) or "-"
        cells = [_wait(seconds, word) for seconds in (one.p50_s, one.p90_s)]
        table.add_row(who, f"{one.job.devices:,}", short_s(one.job.estimate_s), *cells)
    console.print(table)
    for one in asked:
        if one.refused:
            console.print(f"{word('refused')}: {refusal(one.refused, language)}", style="yellow", soft_wrap=True)
    console.print()


def _waiting(console: Output, queue: Queue, word: Callable[[str], str]) -> None:
    table = Table(box=None, padding=(0, 1))
    table.add_column(word("queue_waits"))
    table.add_column(word("tenant"))
    for name in ("devices", "queue_waited", "queue_p50", "queue_p90"):
        table.add_column(word(name), justify="right")
    for one in queue.waiting[:SHOWN]:
        cells = [_wait(seconds, word) for seconds in (one.p50_s, one.p90_s)]
        table.add_row(one.job, one.tenant or "-", f"{one.devices:,}", short_s(one.waited_s), *cells)
    console.print(table)
    if len(queue.waiting) > SHOWN:
        console.print(f"... {len(queue.waiting) - SHOWN:,} {word('more')}: --json", style="dim")
    console.print()


def _wait(seconds: float | None, word: Callable[[str], str]) -> str:
    """Never, at once, or how long."""
    if seconds is None:
        return word("queue_never")
    return short_s(seconds) if seconds >= 1.0 else word("queue_at_once")
