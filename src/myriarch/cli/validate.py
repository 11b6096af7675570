"""`myriarch validate FILE`: predictions beside published measurements, by source."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import yaml
from rich.console import Console
from rich.table import Table

from myriarch.cli.console import Output
from myriarch.cli.files import read_document_text
from myriarch.errors import EXIT_OK, SpecError
from myriarch.plan.published import read_published
from myriarch.plan.validation import Accuracy, Validation
from myriarch.plan.validation import validate as validate_runs

REASONS_SHOWN: Final = 20


def validate(file: str, *, json_output: bool = False) -> int:
    """Predict every row of `file` and print the errors. Raises SpecError when the file cannot be read as such."""
    result = validate_runs(read_published(_document(Path(file))))
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    else:
        show(result)
    return EXIT_OK


def _document(path: Path) -> dict[str, object]:
    text = read_document_text(path)
    try:
        document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise SpecError(f"not YAML: {str(error).splitlines()[0]}", source=str(path)) from None
    if not isinstance(document, dict):
        raise SpecError("not a mapping; it needs `format`, `sources`, `models` and `rows`", source=str(path))
    return document


def show(result: Validation, *, console: Console | None = None) -> None:
    """Draw the errors by source, then memory, feasibility and the rows that cannot be predicted."""
    console = console or Output()
    table = Table(box=None, padding=(0, 1))
    table.add_column("source")
    for name in ("n", "MAPE", "median", "p90", "bias", "in 80 %", "one constant"):
        table.add_column(name, justify="right")
    for source, accuracy in result.sources.items():
        table.add_row(source, *_cells(accuracy))
    table.add_row("all", *_cells(result.overall), style="bold")
    console.print(table)
    console.print()
    memory, feasible = result.memory, result.feasibility
    console.print(f"memory: {memory.n} rows, MAPE {_percent(memory.mape)}, bias {_percent(memory.bias)}")
    console.print(
        f"feasibility: {feasible.measured_rejected} of {feasible.measured_n} measured runs rejected, "
        f"{feasible.oom_accepted} of {feasible.oom_n} that ran out of memory accepted"
    )
    _reasons(console, result)


def _reasons(console: Console, result: Validation) -> None:
    reasons: dict[tuple[str, str], int] = {}
    for row in result.rows:
        if row.reason:
            reasons[row.source, row.reason] = reasons.get((row.source, row.reason), 0) + 1
    if not reasons:
        return
    console.print(f"not predicted: {sum(reasons.values())} rows")
    for (source, reason), number in list(reasons.items())[:REASONS_SHOWN]:
        console.print(f"  {source}: {number}: {reason}", style="dim", soft_wrap=True)
    if len(reasons) > REASONS_SHOWN:
        console.print(f"  ... {len(reasons) - REASONS_SHOWN} more reasons: --json", style="dim")


def _cells(accuracy: Accuracy) -> tuple[str, ...]:
    values = (accuracy.mape, accuracy.median, accuracy.p90, accuracy.bias, accuracy.coverage80, accuracy.baseline_mape)
    return (str(accuracy.n), *(_percent(value) for value in values))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
