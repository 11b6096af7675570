"""`myriarch plan --compute-optimal`: what to train with a budget of FLOPs, and how on a fleet."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import msgspec
from rich.table import Table

from myriarch.cli import quantity
from myriarch.cli.console import Output
from myriarch.cli.plan import Options, ask_of, show
from myriarch.cli.plan_words import words_of
from myriarch.cli.report_words import choose_language
from myriarch.errors import EXIT_FAILED, EXIT_OK, UsageError
from myriarch.event.base import Value
from myriarch.plan.answer import Answer
from myriarch.plan.planner import plan as answered
from myriarch.plan.scaling import DEFAULT_LAW as DEFAULT_LAW
from myriarch.plan.scaling import Optimum, Prediction, compared, compute_optimal, isoflop, law_of
from myriarch.plan.scaling_laws import FLOPS_PER_PARAMETER_TOKEN
from myriarch.plan.shapes import model_of
from myriarch.spec.catalogue import catalogue
from myriarch.spec.model import Model

ROUNDS: Final = 12
"""Of matching the budget to what the fleet trains in the time."""
CLOSE: Final = 0.01
"""A budget that fills the time to so much is found."""
FIRST_UTILISATION: Final = 0.4


class Optimal(Value, frozen=True, kw_only=True):
    """What `myriarch plan --compute-optimal --json` prints."""

    schema: str = "myriarch.optimal/1"
    budget_flops: float
    budget_from: str
    """`--flops`, or the fleet in the time."""
    optimum: Optimum
    """By the law that was asked for."""
    compared: tuple[Optimum, ...]
    """By all others that need nothing more."""
    isoflop: tuple[Prediction, ...]
    """Loss of other sizes on the same budget; empty where the law tells no loss."""
    model: Model
    """A shape for the optimum's parameters."""
    plan: Answer | None = None
    """On the fleet, where one was given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """Which law, and what it needs."""

    name: str
    unique_tokens: float | None = None
    sparsity: float | None = None
    granularity: float | None = None

    def optimum(self, budget_flops: float) -> Optimum:
        return compute_optimal(
            budget_flops,
            law=self.name,
            unique_tokens=self.unique_tokens,
            sparsity=self.sparsity,
            granularity=self.granularity,
        )


def check_options(options: Options, *, emit: str) -> None:
    """Raises UsageError for what --compute-optimal decides itself or cannot use."""
    for option, text in (("--tokens", options.tokens), ("--emit", emit), ("--budget", options.budget)):
        if text:
            raise UsageError(f"{option} does not go with --compute-optimal", hint=f"leave {option} out")
    if options.fleet in catalogue():
        raise UsageError(
            f"--fleet: `{options.fleet}` says which chip, not how many", hint=f"write {options.fleet}:1024"
        )


def optimal(options: Options, *, flops: str, law: Law, json_output: bool, lang: str = "") -> int:
    """Answer and print. With a fleet and no `--flops`, the budget is what the fleet trains within `--deadline`."""
    if options.model:
        raise UsageError("--model: the model is what --compute-optimal finds", hint="leave one of them out")
    made = _by_flops(options, flops, law) if flops else _by_fleet(options, law)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    else:
        _show(made, lang)
    return EXIT_OK if made.plan is None or made.plan.plans else EXIT_FAILED


def _by_flops(options: Options, flops: str, law: Law) -> Optimal:
    budget = quantity.count(flops, option="--flops")
    found = law.optimum(budget)
    answer = _planned(options, found) if options.fleet else None
    return _made(budget, "--flops", found, law, answer)


def _by_fleet(options: Options, law: Law) -> Optimal:
    """The budget whose optimum just fills the time: utilisation depends on the model, so both are found together."""
    if not options.fleet or not options.deadline:
        raise UsageError(
            "--compute-optimal: there is no budget", hint="say --flops 5e25, or --fleet and --deadline to fill"
        )
    days = quantity.days(options.deadline, option="--deadline")
    peak = ask_of(dataclasses.replace(options, model="1B")).peak_flops_per_s
    budget = peak * FIRST_UTILISATION * days * 86_400.0
    low, high = 0.0, math.inf
    best: Optimal | None = None
    for _ in range(ROUNDS):
        found = law.optimum(budget)
        answer = _planned(options, found)
        filled = answer.plans[0].days / days if answer.plans else math.inf
        if filled <= 1:
            low, best = budget, _made(budget, f"{options.fleet} for {days:g} days", found, law, answer)
        else:
            high = budget
        if low >= high * (1 - CLOSE) or filled == 1:
            break
        # Days grow with the budget, but for shapes that divide better or worse: by proportion, inside the bracket.
        guess = budget * (1 - CLOSE / 2) / filled
        budget = guess if low < guess < high else (low + high) / 2 if math.isfinite(high) else 2 * low
    if best is None:
        raise UsageError(f"--deadline: {options.fleet} trains no compute-optimal model in {days:g} days")
    return best


def _planned(options: Options, found: Optimum) -> Answer:
    """A plan for the optimum's size and length, whatever the deadline."""
    asked = dataclasses.replace(options, model=f"{found.parameters:.6g}", tokens=f"{found.tokens:.6g}", deadline="")
    return answered(ask_of(asked))


def _made(budget: float, said: str, found: Optimum, law: Law, answer: Answer | None) -> Optimal:
    chosen = law_of(law.name, unique_tokens=law.unique_tokens, sparsity=law.sparsity, granularity=law.granularity)
    return Optimal(
        budget_flops=budget,
        budget_from=said,
        optimum=found,
        compared=tuple(each for each in compared(budget) if each.law != found.law),
        isoflop=isoflop(budget, law=chosen) if found.loss is not None else (),
        model=model_of(found.parameters),
        plan=answer,
    )


def _show(made: Optimal, lang: str) -> None:
    console = Output()
    console.print(
        f"{made.budget_flops:.3g} FLOPs ({made.budget_from}): {FLOPS_PER_PARAMETER_TOKEN:g} x parameters x tokens"
    )
    table = Table(box=None, padding=(0, 1))
    table.add_column("law")
    for name in ("parameters", "tokens", "tokens/parameter", "loss"):
        table.add_column(name, justify="right")
    table.add_column("source")
    for each in (made.optimum, *made.compared):
        table.add_row(
            each.law,
            f"{each.parameters / 1e9:,.4g} B",
            f"{each.tokens / 1e12:,.4g} T",
            f"{each.tokens_per_parameter:,.3g}",
            "-" if each.loss is None else f"{each.loss:.3f}",
            each.source,
            style="bold" if each is made.optimum else None,
        )
    console.print(table)
    for line in (*made.optimum.extrapolated, *((made.optimum.note,) if made.optimum.note else ())):
        console.print(f"  {line}", style="dim", soft_wrap=True)
    shape = made.model
    console.print(
        f"a usual shape: {shape.layers} layers of {shape.width}, {shape.heads} heads ({shape.kv_heads_resolved} for "
        f"keys and values), MLP of {shape.feed_forward_resolved}",
        soft_wrap=True,
    )
    if made.plan is not None:
        console.print()
        show(made.plan, words=words_of(choose_language(lang)), console=console)
