"""`myriarch plan`: the best ways to train a model on a fleet, with what they cost and why.

The arithmetic is `myriarch.plan`'s; here words become a question, and an answer becomes a table.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import msgspec
from rich.console import Console
from rich.table import Table

from myriarch.cli import quantity
from myriarch.cli.arithmetic import arithmetic, is_rate
from myriarch.cli.console import Output
from myriarch.cli.files import load_fleet, load_model, load_profile
from myriarch.cli.fixing import space_of
from myriarch.cli.plan_words import Words, words_of
from myriarch.cli.report_words import choose_language
from myriarch.cost.profiled import apply_profiles
from myriarch.cost.split import Machine
from myriarch.errors import EXIT_DEGRADED, EXIT_FAILED, EXIT_OK, SpecError, UsageError
from myriarch.plan.answer import Answer, Answered, Group, Layout
from myriarch.plan.asking import DEFAULT_SOFTWARE, Ask
from myriarch.plan.envelope import ENGLISH_BYTES_PER_TOKEN, tokens_of
from myriarch.plan.flags import FRAMEWORKS, Launch, launch
from myriarch.plan.goal import Aim
from myriarch.plan.planner import candidates_of
from myriarch.plan.planner import plan as answered
from myriarch.plan.shapes import model_of
from myriarch.spec.catalogue import catalogue
from myriarch.spec.fleet import Fleet
from myriarch.spec.model import Model
from myriarch.spec.problems import did_you_mean, listed
from myriarch.units import SUFFIXES, format_rate, format_s, parse_quantity

PRECISIONS: Final = ("bf16", "fp16", "fp8", "fp4")
MOST_DEVICES: Final = 131_072
"""Looked at when the question is how many."""
MOST_SEQUENCES: Final = 10**12
"""Of a step, and tokens of one: the search looks through divisors."""
DATA_UNITS: Final = ("KB", "MB", "GB", "TB", "PB", "kB")
"""Of `--tokens` that are bytes of text. `B` alone is a billion tokens."""
EMIT_TRIES: Final = 40
"""Plans that are tried, best first, when one has to be said in a framework's words."""
PARTS_SHOWN: Final = 0.005
"""Share of a step below which a part is not shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The command line as it was typed; empty: not said."""

    model: str
    fleet: str
    tokens: str = ""
    batch: str = ""
    sequence: str = ""
    deadline: str = ""
    budget: str = ""
    objective: str = ""
    precision: str = "bf16"
    software: str = ""
    fix: Sequence[str] = ()
    profiles: Sequence[str] = ()
    top: int = 5
    bytes_per_token: float = ENGLISH_BYTES_PER_TOKEN


def plan(options: Options, *, emit: str = "", json_output: bool = False, lang: str = "") -> int:
    """Answer and print. Exits with 1 when the model fits nowhere, with 3 when no plan keeps deadline or budget.

    `emit`: a framework; then the best plan is printed as what that is started with.
    """
    if is_rate(options.fleet):
        return _by_rate(options, json_output=json_output)
    ask = ask_of(options)
    if emit:
        return _emit(ask, emit, json_output=json_output)
    made = answered(ask)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    else:
        show(made, words=words_of(choose_language(lang)))
    if not made.plans:
        return EXIT_FAILED
    return EXIT_DEGRADED if made.target_missed else EXIT_OK


def _by_rate(options: Options, *, json_output: bool) -> int:
    """A rate instead of a fleet: arithmetic is all there is."""
    if not options.model:
        raise UsageError("--model is missing", hint="try: myriarch plan --model 500B --fleet 1000PFLOP/s --tokens 15T")
    tokens, assumed = _tokens(options)
    days = quantity.days(options.deadline, option="--deadline") if options.deadline else None
    model = model_from(options.model)
    return arithmetic(model, options.fleet, tokens=tokens, assumed=assumed, deadline_days=days, json_output=json_output)


def _tokens(options: Options) -> tuple[float | None, tuple[str, ...]]:
    """Tokens to train on, and what was assumed to know them: `15TB` are bytes of text."""
    if not options.tokens:
        return None, ()
    if not options.tokens.strip().endswith(DATA_UNITS):
        return quantity.count(options.tokens, option="--tokens"), ()
    try:
        size = parse_quantity(options.tokens, SUFFIXES["_bytes"])
    except ValueError as error:
        raise UsageError(f"--tokens: {error}", hint="write 15T tokens as 15T, 15 TB of text as 15TB") from None
    found = tokens_of(size, bytes_per_token=options.bytes_per_token)
    return found, (
        f"{options.bytes_per_token:g} bytes of text in a token (English; Chinese some 3.5): {found:.3g} tokens",
    )


def check_alone(given: Mapping[str, object]) -> None:
    """Options that mean something to --compute-optimal only. Raises UsageError for the first that was given."""
    for option, value in given.items():
        if value not in ("", None):
            raise UsageError(f"{option} goes with --compute-optimal; add it, or leave {option} out")


def _emit(ask: Ask, framework: str, *, json_output: bool) -> int:
    """Print the best plan that the framework can express as its launch."""
    known = next((name for name in FRAMEWORKS if name == framework), None)
    if known is None:
        remedy = did_you_mean(framework, FRAMEWORKS) or f" use one of {listed(FRAMEWORKS)}"
        raise UsageError(f"--emit: `{framework}` is unknown;{remedy}")
    if len(ask.fleet.pools) > 1:
        raise UsageError(
            f"--emit: {framework} trains on one pool, the fleet has {len(ask.fleet.pools)}",
            hint="name one pool; several are Myriarch's own to train on",
        )
    # Frameworks have no word for zero-bubble schedules on plain stages, nor for some layers recomputed in part.
    space = dataclasses.replace(ask.space, zero_bubble=(False,))
    candidates = candidates_of(dataclasses.replace(ask, space=space, top=max(ask.top, EMIT_TRIES)))
    refusals: list[str] = []
    for candidate in candidates:
        group = candidate.groups[0]
        try:
            found = launch(
                group.split, framework=known, layers=ask.model.layers, precision=group.precision,
                mixture=ask.model.mixture is not None, devices_per_node=ask.fleet.pools[0].devices_per_node,
            )  # fmt: skip
        except SpecError as error:
            refusals.append(str(error))
            continue
        _print_launch(found, json_output=json_output)
        print(f"step {format_s(candidate.step_s)}; {len(refusals)} better plans cannot be said", file=sys.stderr)
        return EXIT_OK
    why = f"; the best: {refusals[0]}" if refusals else ": the model fits nowhere"
    raise UsageError(f"--emit: no plan can be said to {framework}{why}", hint="narrow the space with --fix")


def _print_launch(found: Launch, *, json_output: bool) -> None:
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif found.file:
        print(found.file, end="")
    else:
        print(" \\\n  ".join(["torchrun", *found.launcher, "SCRIPT", *_paired(found.arguments)]))


def _paired(arguments: Sequence[str]) -> Iterator[str]:
    """Each option with its value."""
    line = ""
    for argument in arguments:
        if line and (argument.startswith("--") or "=" in line):
            yield line
            line = argument
        else:
            line = f"{line} {argument}".strip()
    if line:
        yield line


# --- the question ----------------------------------------------------------------------------------------------------


def ask_of(options: Options) -> Ask:
    """The question that a command line asks. Raises UsageError or SpecError that names the option and the remedy."""
    for option, text in (("--model", options.model), ("--fleet", options.fleet)):
        if not text:
            raise UsageError(f"{option} is missing", hint="try: myriarch plan --model llama-3.1-8b --fleet h100-sxm:64")
    model, (fleet, sizing) = model_from(options.model), _fleet(options)
    aim = _aim(options, sizing=sizing)
    tokens, assumed = _tokens(options)
    money = quantity.money(options.budget, option="--budget") if options.budget else None
    if options.top < 1:
        raise UsageError(f"--top: {options.top} plans are none", hint="ask for 1 or more")
    precisions = _precisions(options.precision)
    return Ask(
        model=model,
        fleet=fleet,
        label=options.fleet,
        aim=aim,
        tokens=tokens,
        assumed=assumed,
        batch=_whole(options.batch, "--batch"),
        sequence=_whole(options.sequence, "--sequence"),
        deadline_days=quantity.days(options.deadline, option="--deadline") if options.deadline else None,
        budget=money.amount if money else None,
        currency=money.currency if money else "",
        precisions=precisions,
        software=options.software or DEFAULT_SOFTWARE,
        top=options.top,
        space=space_of(options.fix),
        measured=_measured(fleet, options.profiles, precisions),
    )


def model_from(text: str) -> Model:
    """A file, a name of the catalogue, or a number of parameters, which gets a usual shape."""
    if text[:1].isdigit() and Path(text).suffix.lower() not in (".yaml", ".yml", ".json", ".toml"):
        return model_of(quantity.count(text, option="--model"))
    return load_model(text)


def _fleet(options: Options) -> tuple[Fleet, bool]:
    """The fleet, and whether the question is how many of it: a chip without a number."""
    text = options.fleet
    if text in catalogue():
        if not options.deadline:
            raise UsageError(
                f"--fleet: `{text}` says which chip, not how many",
                hint=f"write {text}:1024, or say --deadline to learn how many it takes",
            )
        return load_fleet(f"{text}:{MOST_DEVICES}"), True
    return load_fleet(text), False


def _aim(options: Options, *, sizing: bool) -> Aim:
    aims: tuple[Aim, ...] = get_args(Aim)
    if not options.objective:
        return "devices" if sizing else "time"
    for aim in aims:
        if options.objective == aim:
            if aim == "devices" and not options.deadline:
                raise UsageError("--objective devices: the fewest devices for what?", hint="say --deadline")
            return aim
    remedy = did_you_mean(options.objective, aims) or f" use one of {listed(aims)}"
    raise UsageError(f"--objective: `{options.objective}` is unknown;{remedy}")


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in PRECISIONS:
            remedy = did_you_mean(name, PRECISIONS) or f" use some of {listed(PRECISIONS)}"
            raise UsageError(f"--precision: `{name}` is unknown;{remedy}")
    if not names:
        raise UsageError("--precision: none is named", hint=f"use some of {listed(PRECISIONS)}, like bf16,fp8")
    return names


def _whole(text: str, option: str) -> int | None:
    if not text:
        return None
    value = quantity.count(text, option=option)
    if value != int(value):
        raise UsageError(f"{option}: `{text}` is not a whole number")
    if value > MOST_SEQUENCES:
        raise UsageError(f"{option}: `{text}` is more than {MOST_SEQUENCES:g}", hint="give what a step can hold")
    return int(value)


def _measured(fleet: Fleet, files: Sequence[str], precisions: Sequence[str]) -> dict[str, Mapping[str, Machine]]:
    """Machines of the pools that the profile files are of, by pool and precision."""
    if not files:
        return {}
    profiles = [load_profile(file) for file in files]
    found: dict[str, dict[str, Machine]] = {}
    for precision in precisions:
        for name, profiled in apply_profiles(fleet, profiles, chips=catalogue(), precision=precision).items():
            found.setdefault(name, {})[precision] = profiled.machine
    return dict(found)


# --- the answer ------------------------------------------------------------------------------------------------------


def show(made: Answer, *, words: Words, console: Console | None = None) -> None:
    """Draw the answer for people: the plans in a table, then the best in full."""
    console = console or Output()
    asked = made.question
    console.print(
        f"{asked.model}: {asked.parameters / 1e9:,.4g} B {words('parameters')}"
        + (f" ({asked.active_parameters / 1e9:,.4g} B {words('active')})" if _is_sparse(made) else "")
        + f", {asked.tokens:.4g} {words('tokens')}; {asked.fleet}: {asked.devices:,} {words('devices')}; "
        f"{words('batch')} {asked.batch_sequences} x {asked.sequence_tokens}; {asked.software}",
        style="bold",
        soft_wrap=True,
    )
    for line in asked.assumed:
        console.print(f"  {words('assumed')}: {line}", style="dim", soft_wrap=True)
    console.print()
    if made.plans:
        console.print(_table(made, words))
        _best(console, made.plans[0], words)
    _rest(console, made, words)


def _is_sparse(made: Answer) -> bool:
    """A mixture: some parameters are not multiplied with every token."""
    return made.question.active_parameters < 0.9 * made.question.parameters


def _table(made: Answer, words: Words) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("#", justify="right")
    table.add_column(words("split"))
    for name in ("devices", "step", "mfu", "memory", "days", "effective", "energy", "money", "evidence"):
        table.add_column(words(name), justify="right")
    for each in made.plans:
        table.add_row(
            str(each.rank),
            "; ".join(_groups(each)),
            f"{each.devices:,}",
            _around(each.step_s, each.step_interval80_s),
            f"{each.mfu:.1%}",
            f"{max(group.memory_bytes / group.capacity_bytes for group in each.groups):.0%}",
            f"{each.days:,.3g}",
            f"{each.effective.effective:.1%}",
            "?" if each.energy_kwh is None else _energy(each.energy_kwh),
            " + ".join(f"{_short(paid.amount)} {paid.currency}" for paid in each.money) or "?",
            each.evidence.grade,
            style=None if each.meets else "yellow",
        )
    return table


def _groups(each: Answered) -> Iterator[str]:
    for group in each.groups:
        where = "" if len(each.groups) == 1 and len(group.pools) == 1 else f"{'+'.join(group.pools)}: "
        share = f", {group.sequences} seq" if len(each.groups) > 1 else ""
        yield where + _split(group.layout) + share


def _split(layout: Layout) -> str:
    axes = [
        f"{name}{value}"
        for name, value in (
            ("tp", layout.tp),
            ("pp", layout.pp),
            ("dp", layout.dp),
            ("cp", layout.cp),
            ("ep", layout.ep),
        )
        if value > 1 or name in ("tp", "pp", "dp")
    ]
    if layout.expert_tp > 1:
        axes.append(f"etp{layout.expert_tp}")
    axes.append(f"mb{layout.micro_batch}")
    if layout.schedule == "interleaved":
        axes.append(f"v{layout.virtual}")
    elif layout.schedule == "zero-bubble":
        axes.append("zb")
    if layout.zero_stage:
        axes.append(f"z{layout.zero_stage}" + (f"/{layout.shard}" if layout.zero_stage == 3 else ""))
    if layout.recompute != "none":
        some = f"{layout.recomputed_share:.0%}" if layout.recompute == "some layers" else layout.recompute
        axes.append(f"re:{some}")
    if layout.offload_optimizer or layout.offload_activations:
        axes.append("off")
    if layout.precision not in ("bf16", "fp16"):
        axes.append(layout.precision)
    return " ".join(axes)


def _energy(energy_kwh: float) -> str:
    return format_rate(energy_kwh * 1e3, "Wh")


def _short(amount: float) -> str:
    """`23.4 M`."""
    return format_rate(amount, "").strip()


def _around(value_s: float, interval: tuple[float, float]) -> str:
    low, high = (bound / value_s - 1 for bound in interval)
    return f"{format_s(value_s)} {low:+.0%}/{high:+.0%}"


def _best(console: Console, best: Answered, words: Words) -> None:
    console.print()
    console.print(words("best"), style="bold")
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(justify="right", style="dim")
    table.add_column()
    for name, text in _lines(best, words):
        table.add_row(name, text)
    console.print(table)


def _lines(best: Answered, words: Words) -> Iterator[tuple[str, str]]:
    for group in best.groups:
        label = "+".join(group.pools) if len(best.groups) > 1 else words("step")
        yield label, _parts(group, words) or format_s(group.step_s)
    for group in best.groups:
        yield words("memory"), _memory(group, words)
    if best.averaging is not None:
        bridge = best.averaging
        yield words("bridge"), f"{bridge.label}; {format_s(bridge.exposed_s)} {words('exposed')}; {bridge.quality}"
        if bridge.alternative:
            yield words("instead"), bridge.alternative
    yield words("rate"), f"{best.tokens_per_s:,.4g} {words('tokens')}/s, MFU {best.mfu:.1%}, HFU {best.hfu:.1%}"
    low, high = best.days_interval80
    run = (
        f"{best.steps:,} {words('steps')}, {best.days:,.3g} {words('days')} ({low:,.3g} {words('to')} {high:,.3g}), "
        f"{best.device_hours:,.4g} {words('device_hours')}"
    )
    yield words("run"), run
    effective = best.effective
    factors = (
        f"{effective.effective:.1%} = {effective.availability:.2%} x {effective.scheduling:.2%} x "
        f"{effective.fault_handling:.2%} x {effective.compute:.1%}"
    )
    yield words("effective"), factors
    saves = ", ".join(f"{save.tier} {words('every')} {format_s(save.every_s)}" for save in effective.saves)
    faults = (
        f"{words('mtbf')} {format_s(effective.mtbf_s)}, {words('back_after')} {format_s(effective.recover_s)}, "
        f"{effective.spare_nodes} {words('spare_nodes')}; {saves}"
    )
    yield words("faults"), faults
    if best.energy_kwh is not None:
        carbon = "" if best.carbon_kg is None else f", {best.carbon_kg / 1e3:,.4g} t CO2"
        yield words("energy"), f"{_energy(best.energy_kwh)}{carbon}"
    for paid in best.money:
        yield words("money"), f"{_short(paid.amount)} {paid.currency} ({paid.what})"
    yield words("evidence"), "; ".join((best.evidence.grade, *best.evidence.reasons))
    for nearest in best.evidence.nearest:
        yield words("nearest"), nearest
    for text in best.why:
        yield words("why"), text
    if best.why_not_next:
        yield words("why_not"), best.why_not_next
    for group in best.groups:
        for doubt in group.doubts:
            yield words("doubt"), doubt


def _parts(group: Group, words: Words) -> str:
    total = group.step_s
    parts = sorted(group.breakdown_s.items(), key=lambda part: -part[1])
    return ", ".join(
        f"{words.part(name)} {seconds / total:.1%}" for name, seconds in parts if seconds >= PARTS_SHOWN * total
    )


def _memory(group: Group, words: Words) -> str:
    used = f"{group.memory_bytes / 1e9:.1f} / {group.capacity_bytes / 1e9:.1f} GB"
    if not group.memory:
        return used
    fullest = max(group.memory, key=lambda stage: stage.total_bytes)
    kinds = sorted(fullest.by_kind.items(), key=lambda kind: -kind[1])
    named = ", ".join(
        f"{words.part(kind)} {size / 1e9:.1f}" for kind, size in kinds if size > 0.005 * fullest.total_bytes
    )
    where = f" ({words('stage')} {fullest.stage})" if len(group.memory) > 1 else ""
    return f"{used}{where}: {named}"


def _rest(console: Console, made: Answer, words: Words) -> None:
    if made.miss is not None:
        console.print(f"{words('fits_nowhere')}: {made.miss.text}", style="red", soft_wrap=True)
    if made.target_missed:
        console.print(f"{words('missed')}: {made.target_missed}", style="yellow", soft_wrap=True)
    for left in made.left_out:
        console.print(f"{words('left_out')} {left.pool}: {left.reason}", soft_wrap=True)
    for note in made.notes:
        console.print(f"{words('note')}: {note}", style="dim", soft_wrap=True)
