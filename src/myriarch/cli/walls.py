"""`myriarch walls`: how energy, reliability and parallelism bound effective compute as devices grow."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from myriarch.cli import quantity
from myriarch.cli.console import Output
from myriarch.cli.plan import model_from
from myriarch.cli.report_words import Language, choose_language
from myriarch.cost.decoder import Decoder
from myriarch.cost.silicon import machine
from myriarch.errors import EXIT_OK, EnvironmentFault, SpecError, UsageError
from myriarch.plan.walls import BATCH_TOKENS, DEFAULT_PUE, Site, Walls, device_counts, walls
from myriarch.plan.walls_search import searched
from myriarch.plan.walls_svg import walls_svg
from myriarch.spec.catalogue import described, lookup
from myriarch.spec.shorthand import node_devices
from myriarch.units import SUFFIXES, format_rate, format_s, parse_quantity

MOST_POINTS: Final = 40
MOST_DEVICES: Final = 10_000_000

TERMS: Final[dict[str, dict[Language, str]]] = {
    "devices": {"en": "devices", "zh": "卡"},
    "effective": {"en": "effective", "zh": "有效算力"},
    "plain": {"en": "plain", "zh": "无对策"},
    "binds": {"en": "binds", "zh": "瓶颈"},
    "power": {"en": "power", "zh": "功率"},
    "per_token": {"en": "J/token", "zh": "焦/token"},
    "mtbf": {"en": "one fault in", "zh": "故障间隔"},
    "kept": {"en": "kept", "zh": "保留"},
    "mfu": {"en": "MFU", "zh": "MFU"},
    "split": {"en": "split", "zh": "切分"},
    "energy": {"en": "energy", "zh": "能源"},
    "reliability": {"en": "reliability", "zh": "可靠性"},
    "parallelism": {"en": "parallelism", "zh": "并行"},
    "measure": {"en": "counter-measure, at {n} devices", "zh": "对策（{n} 卡时）"},
    "alone": {"en": "alone", "zh": "单独采用"},
    "without": {"en": "all but it", "zh": "唯缺此项"},
    "wall": {"en": "wall", "zh": "墙"},
    "assumed": {"en": "assumed", "zh": "假定"},
    "effective_note": {
        "en": "effective compute: share of peak that becomes kept model FLOPs, with all remedies and without any",
        "zh": "有效算力：峰值中变成被保留的模型 FLOP 的份额；有全部对策与没有对策",
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The command line as it was typed; empty: not said."""

    model: str
    chip: str
    first: str = "1000"
    last: str = "100000"
    points: int = 7
    batch_tokens: str = ""
    power: str = ""
    """Limit of the site."""
    pue: float = DEFAULT_PUE
    price: float | None = None
    """Of a kWh."""
    svg: str = ""


def show_walls(options: Options, *, json_output: bool, lang: str = "") -> int:
    """Compute, print, and write the picture where one was asked for."""
    language = choose_language(lang)
    found = _walls(options)
    if options.svg:
        _write(Path(options.svg), walls_svg(found, language=language))
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        show(found, language=language)
    return EXIT_OK


def _walls(options: Options) -> Walls:
    model = model_from(options.model)
    chip = lookup(options.chip)
    if chip.power_w is None:
        raise SpecError(
            f"the power of `{chip.id}` is unknown, and one of the walls is energy",
            path="--chip",
            hint="use a chip whose board power is known",
        )
    machine(chip)  # says what is missing, before anything else
    first = _devices(options.first, "--from")
    last = _devices(options.last, "--to")
    if not 2 <= options.points <= MOST_POINTS:
        raise UsageError(f"--points: {options.points}", hint=f"use 2 to {MOST_POINTS}")
    if not 1 <= options.pue < math.inf:
        hint = "a site draws no less than its machines; try 1.25"
        raise UsageError(f"--pue: {options.pue} is not a finite number from 1 up", hint=hint)
    if options.price is not None and not 0 <= options.price < math.inf:
        raise UsageError(f"--price: {options.price} is not a finite number from 0 up", hint="say what a kWh costs")
    batch = quantity.count(options.batch_tokens, option="--batch-tokens") if options.batch_tokens else BATCH_TOKENS
    decoder = Decoder.of(model)
    return walls(
        model=model.name,
        chip=described(chip),
        devices=device_counts(first, last, points=options.points),
        best=searched(decoder, chip=chip, batch_tokens=batch, sequence=model.context_tokens),
        batch_tokens=batch,
        board_w=chip.power_w,
        site=Site(limit_w=_power(options.power), pue=options.pue, price_per_kwh=options.price),
        devices_per_node=node_devices(chip),
    )


def _devices(text: str, option: str) -> int:
    value = quantity.count(text, option=option)
    if value != int(value):
        raise UsageError(f"{option}: `{text}` is not a whole number of devices")
    if value > MOST_DEVICES:
        raise UsageError(f"{option}: `{text}` is more than {MOST_DEVICES:,} devices", hint="nobody has so many")
    return int(value)


def _power(text: str) -> float | None:
    if not text:
        return None
    try:
        value = parse_quantity(text, SUFFIXES["_w"])
    except ValueError as error:
        raise UsageError(f"--power: {error}", hint="write 30MW") from None
    if value <= 0:
        raise UsageError(f"--power: `{text}` is not above zero", hint="write 30MW")
    return value


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise EnvironmentFault(
            f"--svg: `{path}` cannot be written: {error.strerror}", hint="name a file elsewhere"
        ) from None
    print(f"{path}: {len(text):,} bytes", file=sys.stderr)


def show(found: Walls, *, language: Language, console: Console | None = None) -> None:
    """Draw the walls as a table, and the counter-measures at the largest number of devices."""
    console = console or Output()

    def term(key: str) -> str:
        return TERMS[key][language]

    console.print(f"{found.model}, {found.chip}: {found.batch_tokens / 1e6:.3g} M tokens", style="bold")
    console.print(term("effective_note"), style="dim", soft_wrap=True)
    table = Table(box=None, padding=(0, 1))
    for key in ("devices", "effective", "plain", "binds", "power", "per_token", "mtbf", "kept", "mfu"):
        table.add_column(term(key), justify="right")
    table.add_column(term("split"))
    for row in found.rows:
        best = row.parallelism.best
        table.add_row(
            f"{row.devices:,}",
            f"{row.effective:.1%}",
            f"{row.effective_plain:.1%}",
            term(row.binds),
            format_rate(row.energy.power_w, "W"),
            "-" if row.energy.j_per_token is None else f"{row.energy.j_per_token:.3g}",
            format_s(row.reliability.mtbf_s),
            f"{row.reliability.kept:.1%} / {row.reliability.kept_plain:.1%}",
            "-" if best is None else f"{best.mfu:.1%}",
            "-" if best is None else best.split,
        )
    console.print(table)
    console.print()
    console.print(_measures(found, language))
    for line in found.assumptions:
        console.print(f"{term('assumed')}: {line}", style="dim", soft_wrap=True)


def _measures(found: Walls, language: Language) -> Table:
    last = found.rows[-1]
    table = Table(box=None, padding=(0, 1))
    table.add_column(TERMS["measure"][language].format(n=f"{last.devices:,}"))
    for key in ("wall", "alone", "without"):
        table.add_column(TERMS[key][language], justify="right")
    table.add_row("-", "", f"{last.effective_plain:.1%}", f"{last.effective:.1%}")
    for measure in last.measures:
        table.add_row(measure.name, TERMS[measure.wall][language], f"{measure.alone:.1%}", f"{measure.without:.1%}")
    return table
