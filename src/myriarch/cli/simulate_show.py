"""Simulations, sweeps and searches, drawn for people from what programs read."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from myriarch.cli.console import Output
from myriarch.cli.refusal_words import refusal
from myriarch.cli.report_words import Language
from myriarch.cli.simulate_words import metric, noted, stretch, term, verdict, word
from myriarch.cli.waterfall import draws, show_factors, show_waterfall
from myriarch.schedule.waits import FIRST_JOBS
from myriarch.simulate.scenario_answer import Answer, Bill, JobsOf, JobsPart, LentPart
from myriarch.simulate.scenario_tuning import Tuning
from myriarch.simulate.scenario_waits import Calibration
from myriarch.simulate.sweep import Sweep, Variant
from myriarch.simulate.sweep_statistics import Estimate
from myriarch.units import format_rate, format_s

GROUPS_SHOWN: Final = 12
"""Of more tenants, those with most device-hours; `--json` has them all."""
REFUSED_SHOWN: Final = 5
JOB_COLUMNS: Final = (
    "jobs", "ended", "device_hours", "wait", "wait_p95", "completion", "completion_p95", "slowdown", "late",
)  # fmt: skip
ROUNDING: Final = 1e-9
"""A smaller difference is of sums in another order."""
SHARES: Final = frozenset(
    {
        "effective",
        "availability",
        "scheduling",
        "fault_handling",
        "compute",
        "utilisation",
        "fragmented",
        "effective_time",
        "progress",
    }
)
"""Metrics that are shares of one."""
SHOWN: Final = (
    "effective", "effective_time", "progress", "mtbf_s", "interruptions", "steps", "lost_steps", "availability",
    "scheduling", "fault_handling", "wait_s_mean", "completion_s_mean", "completion_s_p95", "slowdown_mean",
    "utilisation", "fairness", "lost_hours", "deadlines_missed", "ended", "steps_done", "steps_lost", "incidents",
    "recovery_s_mean", "duration_s", "energy_kwh",
)  # fmt: skip
"""Of a sweep's metrics; `--json` has them all. Money is added."""


def show_answer(answer: Answer, *, language: Language = "en", console: Console | None = None) -> None:
    """One scenario with one seed."""
    console = _ready(console)
    devices = sum(pool.devices for pool in answer.pools.values())
    head = [f"{devices:,} {term('devices', language)}"]
    if answer.jobs is not None:
        placement = "" if answer.jobs.placement == "nodes" else f" ({word(answer.jobs.placement, language)})"
        head = [f"{answer.jobs.policy}{placement}", f"{answer.jobs.all.jobs:,} {term('jobs', language)}", *head]
    if answer.training is not None:
        head = [term("training", language), *head]
    head += [format_s(answer.duration_s), f"{term('seed', language)} {answer.seed}"]
    console.print(f"{answer.scenario}: {', '.join(head)}", style="bold", soft_wrap=True)
    console.print()
    show_factors(console, effective=answer.effective, factors=answer.factors, language=language)
    show_waterfall(console, capacity_device_ns=answer.capacity_device_ns, leaves=answer.leaves, language=language)
    if answer.jobs is not None:
        _jobs(console, answer.jobs, language)
    _fleet(console, answer, language)
    for note in answer.notes:
        console.print(f"{term('note', language)}: {noted(note, language)}", style="dim", soft_wrap=True)
    for name, path in answer.files.items():
        console.print(f"{name}: {path}", style="dim", soft_wrap=True)


def _ready(console: Console | None) -> Console:
    console = console or Output()
    if isinstance(console.file, io.TextIOWrapper) and not draws(console):
        console.file.reconfigure(errors="replace")
    return console


def _jobs(console: Console, jobs: JobsPart, language: Language) -> None:
    table = Table(box=None, padding=(0, 1))
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    late = jobs.all.summary is not None and jobs.all.summary.deadlines > 0
    for name in JOB_COLUMNS if late else JOB_COLUMNS[:-1]:
        table.add_column(term(name, language), justify="right", no_wrap=True)
    table.add_row("", term("all", language), *_cells(jobs.all, late=late), style="bold")
    for kind, groups in (("kind", jobs.kinds), ("pool", jobs.pools), ("tenant", jobs.tenants)):
        if len(groups) < 2:
            continue
        largest = sorted(groups, key=lambda name: (-groups[name].held_device_hours, name))[:GROUPS_SHOWN]
        for index, name in enumerate(largest):
            shown = word(name, language) if kind == "kind" else name
            table.add_row("" if index else term(kind, language), shown, *_cells(groups[name], late=late))
        if len(largest) < len(groups):
            table.add_row("", f"... {len(groups) - len(largest)} {term('more', language)}: --json", style="dim")
    console.print(table)
    console.print()
    for refused in jobs.refused[:REFUSED_SHOWN]:
        why = refusal(refused.reason, language)
        console.print(f"{term('refused', language)}: {why}", style="yellow", soft_wrap=True)
    if jobs.all.refused > REFUSED_SHOWN:
        rest = jobs.all.refused - REFUSED_SHOWN
        console.print(f"... {rest:,} {term('more', language)}", style="dim")


def _cells(of: JobsOf, *, late: bool) -> Iterator[str]:
    yield f"{of.jobs:,}"
    yield f"{of.ended:,}"
    yield f"{of.held_device_hours:,.0f}" if of.held_device_hours >= 100 else f"{of.held_device_hours:.3g}"
    found = of.summary
    if found is None:
        yield from "-" * (len(JOB_COLUMNS) - (3 if late else 4))
        return
    yield short_s(found.wait_s_mean)
    yield short_s(found.wait_s_p95)
    yield short_s(found.completion_s_mean)
    yield short_s(found.completion_s_p95)
    yield f"{found.slowdown_mean:,.2f}"
    if late:
        yield f"{found.deadlines_missed:,}/{found.deadlines:,}" if found.deadlines else "-"


def _fleet(console: Console, answer: Answer, language: Language) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in _facts(answer, language):
        table.add_row(f"  {name}", text)
    console.print(term("fleet", language), style="bold")
    console.print(table)
    console.print()


def _facts(answer: Answer, language: Language) -> Iterator[tuple[str, str]]:
    jobs = answer.jobs
    if jobs is not None:
        yield term("utilisation", language), f"{jobs.utilisation:.1%}"
        yield term("fragmented", language), f"{jobs.fragmented:.2%}"
        yield term("waiting", language), f"{jobs.waiting_mean:,.1f}, {jobs.waiting_most:,}"
        if jobs.fairness is not None:
            yield term("fairness", language), f"{jobs.fairness:.3f}"
        if jobs.finish_time_fairness_p95 is not None:
            yield term("rho", language), f"{jobs.finish_time_fairness_p95:.2f}"
        found = jobs.all.summary
        if found is not None:
            for name in ("preemptions", "restarts", "resizes"):
                if count := getattr(found, name):
                    yield term(name, language), f"{count:,}"
            if found.lost_hours:
                yield term("lost", language), f"{found.lost_hours:,.1f}"
        if jobs.waits is not None:
            yield from told_facts(jobs.waits.calibration, language)
        for pool, lent in jobs.lending.items():
            yield f"{term('services', language)} {pool}", _lent(lent, language)
    if answer.faults is not None:
        courses = _counted(answer.faults.by_course, language)
        yield term("faults", language), f"{answer.faults.breakdowns:,}" + (f": {courses}" if courses else "")
    if (training := answer.training) is not None:
        for name in ("effective_time", "progress"):
            yield metric(name, language), f"{getattr(training, name):.2%}"
        if training.mtbf_s is not None:
            yield metric("mtbf_s", language), format_s(training.mtbf_s)
        for name in ("interruptions", "steps", "lost_steps"):
            yield metric(name, language), f"{getattr(training, name):,}"
        for name in ("choices", "tiers"):
            yield term(name, language), _counted(getattr(training, name), language)
    if jobs is not None and jobs.power_w_most is not None:
        yield term("power", language), format_rate(jobs.power_w_most, "W")
    yield from _bill(answer.bill, language)


def told_facts(made: Calibration, language: Language) -> Iterator[tuple[str, str]]:
    """How waits came out against what jobs were told."""
    if not made.quantiles:
        yield term("told_50", language), term("told_nothing", language).format(first=FIRST_JOBS)
    for one in made.quantiles:
        of_told = "-" if one.told_within is None else f"{one.told_within:.1%}"
        shares = {"within": f"{one.within:.1%}", "below": f"{one.below:.1%}", "told": f"{one.told:.1%}"}
        text = term("told_shares", language).format(**shares, of_told=of_told)
        yield term(f"told_{100 * one.level:.0f}", language), text
    if made.loss is not None:
        text = term("told_of", language).format(loss=f"{made.loss:.2f}", scored=f"{made.scored:,}")
        yield term("told_loss", language), text


def _counted(counts: Mapping[str, int], language: Language) -> str:
    return ", ".join(f"{count:,} {word(what, language)}" for what, count in counts.items())


def _lent(lent: LentPart, language: Language) -> str:
    """What services had and gave."""
    counts = (
        ("kept", f"{lent.kept_device_hours:,.0f}"),
        ("lent", f"{lent.lent_device_hours:,.0f}"),
        ("short", f"{lent.short_device_hours:,.3g}" if lent.short_device_hours else ""),
        ("asked_back", f"{lent.asked_back_nodes:,}"),
        ("stopped", f"{lent.stopped:,}"),
        ("shrunk", f"{lent.shrunk:,}" if lent.shrunk else ""),
    )
    return ", ".join(f"{term(name, language)} {text}" for name, text in counts if text)


def _bill(bill: Bill, language: Language) -> Iterator[tuple[str, str]]:
    unknown = term("unknown", language)
    yield term("energy", language), unknown if bill.energy_kwh is None else format_rate(bill.energy_kwh * 1e3, "Wh")
    if bill.carbon_kg is not None:
        yield term("carbon", language), f"{bill.carbon_kg / 1e3:,.4g} t"
    if bill.money:
        spent = " + ".join(f"{amount:,.0f} {currency or '?'}" for currency, amount in bill.money.items())
        yield term("money", language), spent


# --- sweeps ----------------------------------------------------------------------------------------------------------


def show_sweep(sweep: Sweep, *, language: Language = "en", console: Console | None = None) -> None:
    """Metrics down, variants across; below, what each variant differs from the first."""
    console = _ready(console)
    runs = f"{len(sweep.variants)} x {len(sweep.seeds)} {term('seeds', language)}"
    console.print(f"{sweep.scenario}: {runs}", style="bold")
    many = len(sweep.seeds) > 1
    line = term("interval", language).format(seeds=len(sweep.seeds), confidence=sweep.confidence)
    console.print(line if many else term("one_seed", language), style="dim", soft_wrap=True)
    if many and len(sweep.variants) > 1:
        console.print(term("marks", language), style="dim", soft_wrap=True)
    names = [name for name in sweep.better if (name in SHOWN or name.startswith("money ")) and _tells(sweep, name)]
    table = Table(box=None, padding=(0, 1))
    table.add_column(term("metric", language))
    for variant in sweep.variants:
        table.add_column(_label(variant), justify="right", overflow="fold")
    for name in names:
        cells = [_estimate(name, variant.metrics.get(name)) + _mark(sweep, variant, name) for variant in sweep.variants]
        table.add_row(metric(name, language), *cells)
    console.print(table if names else term("alike", language))
    if names and len(sweep.variants) > 1:
        console.print()
        console.print(term("against", language), style="bold")
        console.print(_differences(sweep, names, language))
    for note in sweep.notes:
        console.print(f"{term('note', language)}: {noted(note, language)}", style="dim", soft_wrap=True)
    for file, path in sweep.files.items():
        console.print(f"{file}: {path}", style="dim", soft_wrap=True)


def _tells(sweep: Sweep, name: str) -> bool:
    """Not when every variant has the same, as where nothing fails."""
    return len({found.mean for each in sweep.variants if (found := each.metrics.get(name)) is not None}) > 1 or (
        len(sweep.variants) == 1
    )


def _differences(sweep: Sweep, names: list[str], language: Language) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column(term("metric", language))
    for variant in sweep.variants[1:]:
        table.add_column(_label(variant), justify="right", overflow="fold")
    for name in names:
        found = [variant.against_first.get(name) for variant in sweep.variants[1:]]
        table.add_row(metric(name, language), *(_estimate(name, one, signed=True) for one in found))
    return table


def _label(variant: Variant) -> str:
    return "\n".join(variant.settings.values()) or "-"


def _mark(sweep: Sweep, variant: Variant, name: str) -> str:
    """Padded, so that numbers stand below each other."""
    found = variant.against_first.get(name)
    if found is None or not found.excludes_zero:
        return "  "
    return " *" if (found.mean > 0) == (sweep.better[name] == "higher") else " !"


def _estimate(name: str, found: Estimate | None, *, signed: bool = False) -> str:
    if found is None:
        return "-"
    mean, half = (found.mean if abs(found.mean) > ROUNDING else 0.0), found.half_width
    plus = "+" if signed and mean > 0 else ""
    if name in SHARES:
        return f"{plus}{100 * mean:.2f}" + ("" if half is None else f" ± {100 * half:.2f}") + " %"
    if name.endswith(("_s_mean", "_s_p95")) or name in ("duration_s", "mtbf_s"):
        return plus + short_s(mean) + ("" if half is None else f" ± {short_s(half)}")
    digits = "{:,.0f}" if abs(mean) >= 1000 else "{:,.3g}"
    return plus + digits.format(mean) + ("" if half is None else f" ± {digits.format(half)}")


# --- tuning ----------------------------------------------------------------------------------------------------------


def show_tuning(made: Tuning, *, language: Language = "en", console: Console | None = None) -> None:
    """What the search found, and whether the held-out weeks bear it out."""
    console = _ready(console)
    report = made.report
    head = f"{made.scenario}: {made.policy}, {report.tried} {term('settings', language)}, {report.trials} "
    console.print(head + term("trials", language), style="bold")
    advice = term("use" if report.recommended else "keep", language)
    style = "green" if report.recommended else "yellow"
    console.print(f"{advice}: {verdict(report, language)}", style=style, soft_wrap=True)
    console.print()
    table = Table(box=None, padding=(0, 1))
    table.add_column(term("parameter", language))
    for name in ("present", "found"):
        table.add_column(term(name, language), justify="right")
    for path, value in report.found.items():
        table.add_row(path, str(report.present[path]), str(value), style="" if value != report.present[path] else "dim")
    console.print(table)
    console.print()
    weeks = Table(box=None, padding=(0, 1))
    weeks.add_column(term("held_out", language))
    for name in ("present", "found", "gain"):
        weeks.add_column(term(name, language), justify="right")
    for name, (before, after) in report.by_week.items():
        weeks.add_row(stretch(name, language), short_s(before), short_s(after), f"{1 - after / before:+.1%}")
    console.print(weeks)
    past = report.past
    console.print(f"{term('past', language)}: {past.saved:+.1%} ({past.weeks})", style="dim")
    for file, path in made.files.items():
        console.print(f"{file}: {path}", style="dim", soft_wrap=True)


def short_s(seconds: float) -> str:
    """A duration in one unit, to fit a column: `84 s`, `12.5 min`, `3.2 h`, `1.4 d`."""
    for unit, unit_s, below in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0)):
        if abs(seconds) < below:
            return f"{seconds / unit_s:.{0 if unit == 's' else 1}f} {unit}"
    return f"{seconds / 86_400.0:,.1f} d"
