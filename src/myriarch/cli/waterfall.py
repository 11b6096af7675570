"""Effective compute, its factors and the waterfall of leaves, drawn alike for runs and simulations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from myriarch.account.factors import Factors
from myriarch.cli.report_words import LEVELS, Language, leaf_name, term
from myriarch.event.spans import LEVEL_OF, Leaf, Level
from myriarch.units import NS_PER_S, format_s

BAR_CELLS: Final = 36
"""Width of a waterfall's bar."""
FACTORS: Final = ("availability", "scheduling", "fault_handling", "compute")
_DOWN: Final[tuple[Level, ...]] = ("unusable", "unscheduled", "start", "fault", "save", "user", "unknown", "step")
"""From capacity down to what was useful."""


def show_factors(console: Console, *, effective: float | None, factors: Factors, language: Language) -> None:
    """The one number and the four that multiply to it."""
    console.print(f"{term('effective', language)}: {percent(effective, language)}", style="bold")
    table = Table.grid(padding=(0, 2))
    for name in FACTORS:
        value: float | None = getattr(factors, name)
        means = term(f"{name}_means", language)
        table.add_row(
            "  " + term(name, language), percent(value, language), bar(console, 0.0, value or 0.0, cells=20), means
        )
    console.print(table)
    console.print()


def show_waterfall(
    console: Console,
    *,
    capacity_device_ns: int,
    leaves: Mapping[Leaf, int],
    gains: Mapping[Leaf, float | None] | None = None,
    language: Language,
) -> None:
    """Where the device time went. gains: what effective compute would win without a leaf; none: no such column."""
    if not capacity_device_ns:
        return
    table = Table(title=term("where", language), title_justify="left", box=None, padding=(0, 1), title_style="bold")
    table.add_column(term("level", language), style="dim")
    table.add_column(term("leaf", language))
    table.add_column(term("device_time", language), justify="right")
    table.add_column(term("share", language), justify="right")
    table.add_column("")
    if gains is not None:
        table.add_column(term("gain", language), justify="right")
    whole = format_s(capacity_device_ns / NS_PER_S)
    table.add_row("", term("capacity", language), whole, "100.0 %", bar(console, 0.0, 1.0))
    left_ns = capacity_device_ns
    previous: Level | None = None
    for leaf in _downwards(leaves):
        ns, level = leaves[leaf], LEVEL_OF[leaf]
        cells = [
            LEVELS[level][language] if level != previous else "",
            leaf_name(leaf, language),
            format_s(ns / NS_PER_S),
            f"{100 * ns / capacity_device_ns:.1f} %",
            bar(console, (left_ns - ns) / capacity_device_ns, left_ns / capacity_device_ns),
        ]
        if gains is not None:
            cells.append("" if (gain := gains.get(leaf)) is None else f"+{100 * gain:.1f}")
        table.add_row(*cells, style="green" if leaf == "useful_compute" else "")
        left_ns -= ns
        previous = level
    console.print(table)
    console.print()


def _downwards(leaves: Mapping[Leaf, int]) -> Iterator[Leaf]:
    """The leaves that cost something, level by level, what was useful last."""
    for level in _DOWN:
        for leaf, ns in leaves.items():
            if ns and LEVEL_OF[leaf] == level and leaf != "useful_compute":
                yield leaf
    if leaves.get("useful_compute"):
        yield "useful_compute"


def percent(value: float | None, language: Language) -> str:
    """Unknown is said, never zero."""
    return term("unknown", language) if value is None else f"{100 * value:.1f} %"


def bar(console: Console, start: float, end: float, *, cells: int = BAR_CELLS) -> str:
    """A bar from `start` to `end`, both shares of its whole width; what is not nothing is at least one cell."""
    first, last = round(min(start, 1.0) * cells), round(min(end, 1.0) * cells)
    if end > start and first == last:
        first, last = (first - 1, last) if first == cells else (first, last + 1)
    block = "█" if draws(console) else "#"
    return " " * first + block * (last - first)


def draws(console: Console) -> bool:
    """Whether the terminal's encoding has block characters."""
    return console.encoding.lower().startswith("utf")
