"""`myriarch report [RUN]`: where every device-second of a run went.

Reads the run's journal and ledger as they lie there, be the run going on, ended or killed: a torn last line is what a
writer was at, not damage. The table is drawn from the same report that `--json` prints.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from myriarch.account import History, Report, build_report, first_to_fix
from myriarch.account.report import IncidentReport
from myriarch.cli.console import Output
from myriarch.cli.report_words import Language, advice, choose_language, leaf_name, term
from myriarch.cli.waterfall import draws, percent, show_factors, show_waterfall
from myriarch.errors import EXIT_OK, EnvironmentFault, IntegrityError
from myriarch.event.journal import Record, scan
from myriarch.event.spans import Span
from myriarch.run.directory import Attempt, Contact, find_attempt, read_json
from myriarch.run.ledger_store import read_spans
from myriarch.run.procfs import is_alive
from myriarch.units import format_rate, format_s

SPARK_CELLS: Final = 40
"""Width of the loss curve."""
INCIDENTS_SHOWN: Final = 20
"""Of more, the newest; `--json` has them all."""
_SPARKS: Final = "▁▂▃▄▅▆▇█"


def report(run: str | None = "", *, json_output: bool = False, lang: str = "") -> int:
    """Print the report of `run`: a run's name, the folder of a run or of one launch; nothing: the newest.

    `lang`: `en` or `zh`, for people only. Raises UsageError when there is no such run, IntegrityError when its journal
    is damaged before its end.
    """
    attempt = find_attempt(run or "")
    if not attempt.journal.is_file():  # a simulation has its answer stored, and no journal to work it out from
        from myriarch.cli.simulate import show_kept

        return show_kept(attempt, json_output=json_output, lang=lang)
    made = read_report(attempt)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    else:
        show(made, language=choose_language(lang))
    return EXIT_OK


# --- reading ---------------------------------------------------------------------------------------------------------


def read_report(attempt: Attempt) -> Report:
    """The report of one launch as its files are now."""
    records = read_journal(attempt.journal)
    files = {"folder": attempt.path, "journal": attempt.journal, "ledger": attempt.ledger, "logs": attempt.logs}
    shown = {name: str(path) for name, path in files.items() if path.exists()}
    if not records:
        return build_report(History.not_started(attempt.resolved()), files=shown)
    spans, damage = _spans(attempt.ledger)
    now_ns = time.time_ns() if _controller_lives(attempt) else None
    history = History.from_records(records, spans, end_ns=now_ns)
    checkpoint = history.end.checkpoint if history.end is not None else ""
    if checkpoint := checkpoint or history.facts.snapshots.last_durable_path:
        shown["checkpoint"] = checkpoint
    made = build_report(history, files=shown, emulation=_emulation(attempt))
    return msgspec.structs.replace(made, notes=(*made.notes, damage)) if damage else made


def read_journal(path: Path) -> Sequence[Record]:
    """All intact records. Raises EnvironmentFault for an unreadable journal, IntegrityError for a damaged one."""
    try:
        return scan(path.read_bytes()).records
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error


def _spans(path: Path) -> tuple[Sequence[Span], str]:
    """The workers' spans; without them, why not. The journal alone makes a coarser report, not a wrong one."""
    try:
        return read_spans(path), ""
    except IntegrityError as error:
        return (), f"{error}; the report rests on the journal alone"


def _controller_lives(attempt: Attempt) -> bool:
    """Whether the run goes on: it has not said how it ended, and its controller's process is there."""
    if attempt.outcome.exists() or not attempt.contact.exists():
        return False
    try:
        return is_alive(read_json(attempt.contact, Contact).pid)
    except EnvironmentFault:
        return False


def _emulation(attempt: Attempt) -> dict[str, str]:
    """By node: how its devices were made slower."""
    try:
        return read_json(attempt.emulation, dict[str, str])
    except EnvironmentFault:
        return {}


# --- showing ---------------------------------------------------------------------------------------------------------


def show(made: Report, *, language: Language = "en", console: Console | None = None) -> None:
    """Draw the report for people."""
    console = console or Output()
    if isinstance(console.file, io.TextIOWrapper) and not draws(console):
        console.file.reconfigure(errors="replace")  # a reason may quote anything; a `?` is better than no report
    _headline(console, made, language)
    show_waterfall(
        console,
        capacity_device_ns=made.capacity_device_ns,
        leaves=made.leaves,
        gains={fix.leaf: fix.gain for fix in made.fixes},
        language=language,
    )
    _pools(console, made, language)
    _incidents(console, made, language)
    _work(console, made, language)
    _fix(console, made, language)
    for warning in made.warnings:
        console.print(f"{term('warning', language)}: {warning}", style="yellow")
    for note in made.notes:
        console.print(f"{term('note', language)}: {note}", style="dim")
    for name, path in made.files.items():
        console.print(f"{name}: {path}", style="dim", soft_wrap=True)


def _headline(console: Console, made: Report, language: Language) -> None:
    run = made.run
    console.print(
        f"{run.name}: {run.outcome}, {term('steps', language)} {run.steps_done}/{run.steps_wanted}, "
        f"{run.devices} {term('devices', language)}, {format_s(run.duration_s)}",
        style="bold",
    )
    if run.detail:
        console.print(run.detail)
    console.print()
    show_factors(console, effective=made.effective, factors=made.factors, language=language)


def _pools(console: Console, made: Report, language: Language) -> None:
    table = Table(box=None, padding=(0, 1))
    for name in ("pool", "chip", "devices", "peak", "tokens"):
        table.add_column(term(name, language), justify="left" if name in ("pool", "chip") else "right")
    table.add_column("MFU", justify="right")
    table.add_column(term("emulated", language))
    for pool, facts in made.pools.items():
        rate = facts.peak.rate_flops_per_s
        emulation = facts.emulation
        if not emulation and facts.emulated_cpu_fraction is not None:
            emulation = f"{facts.emulated_cpu_fraction:.0%}"
        table.add_row(
            pool,
            facts.chip,
            str(facts.devices),
            term("unknown", language) if rate is None else f"{format_rate(rate, 'FLOP/s')} ({facts.peak.source})",
            f"{facts.tokens:,}",
            percent(facts.compute, language),
            emulation,
        )
    console.print(table)
    console.print()


def _incidents(console: Console, made: Report, language: Language) -> None:
    if not made.incidents:
        console.print(term("no_incidents", language))
        console.print()
        return
    table = Table(title=term("incidents", language), title_justify="left", box=None, padding=(0, 1), title_style="bold")
    table.add_column(term("fault", language), overflow="fold")
    for name in ("at", "detected", "decided", "restored", "first_step", "lost_steps"):
        table.add_column(term(name, language), justify="right")
    shown = made.incidents[-INCIDENTS_SHOWN:]
    for incident in shown:
        table.add_row(
            f"{incident.fault} [{term('evidence_' + incident.evidence, language)}]",
            format_s(incident.fault_at_s),
            *(
                _seconds(value)
                for value in (incident.detected_s, incident.decided_s, incident.restored_s, incident.first_step_s)
            ),
            "-" if incident.lost_steps is None else str(incident.lost_steps),
        )
    console.print(table)
    for incident in shown:
        lines = [f"{term('split', language)}: {_split(incident)}", f"{term('why', language)}: {incident.reason}"]
        console.print(Padding("\n".join(lines), (0, 0, 0, 3)), style="dim")
    if len(shown) < len(made.incidents):
        console.print(f"... {len(made.incidents) - len(shown)} more: --json", style="dim")
    console.print()


def _split(incident: IncidentReport) -> str:
    values = msgspec.structs.asdict(incident.split)
    parts = [f"{name.removesuffix('_s').replace('_', ' ')} {_seconds(value)}" for name, value in values.items()]
    return " · ".join(parts)


def _work(console: Console, made: Report, language: Language) -> None:
    work, snapshots = made.work, made.snapshots
    rate = "-" if work.tokens_per_s is None else f"{work.tokens_per_s:,.0f}/s"
    stepping = "" if work.tokens_per_s_stepping is None else f" ({work.tokens_per_s_stepping:,.0f}/s in steps)"
    console.print(
        f"{term('steps', language)}: {work.steps_kept:,}, {term('lost', language)} {work.steps_lost}, "
        f"{term('provisional', language)} {work.steps_provisional} · "
        f"{term('tokens', language)}: {work.tokens:,}, {rate}{stepping}"
    )
    if made.loss.first is not None and made.loss.last is not None:
        curve = _spark(console, [loss for _, loss in made.loss.curve])
        console.print(f"{term('loss', language)}: {made.loss.first:.4f} {curve} {made.loss.last:.4f}")
    console.print(
        f"{term('snapshots', language)}: {snapshots.committed} {term('committed', language)}, "
        f"{snapshots.skipped} {term('skipped', language)}, {snapshots.drained} {term('drained', language)}"
    )
    console.print()


def _fix(console: Console, made: Report, language: Language) -> None:
    fix = first_to_fix(made)
    head = term("fix", language)
    if fix is None:
        console.print(f"{head}: {term('nothing_to_fix', language)}")
        return
    lines = [f"{head}: {leaf_name(fix.leaf, language)} ({100 * fix.share:.1f} %)"]
    if fix.effective is not None:
        lines.append(f"{term('would_be', language)} {percent(fix.effective, language)}")
    if hint := advice(fix.leaf, language):
        lines.append(hint)
    console.print("\n  ".join(lines), style="bold")


# --- small parts -----------------------------------------------------------------------------------------------------


def _seconds(value: float | None) -> str:
    """Not happened is `-`, never zero."""
    return "-" if value is None else f"{value:.3f}"


def _spark(console: Console, values: Sequence[float]) -> str:
    if not draws(console) or len(values) < 2:
        return "->"
    step = max(1, -(-len(values) // SPARK_CELLS))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = min(means), max(means)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((mean - low) * scale)] for mean in means)
