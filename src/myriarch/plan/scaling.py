"""What to train with a budget: parameters, tokens and loss by published scaling laws, and what departing costs.

The laws and their coefficients are in `plan.scaling_laws`. An answer that leaves the range its law was fitted on says
so, with how far: the largest runs that any of these laws has seen are a thousand times below today's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.plan.scaling_laws import (
    FLOPS_PER_PARAMETER_TOKEN,
    PLAIN,
    Law,
    data_constrained,
    fine_grained,
    sparse,
)

DEFAULT_LAW: Final = "besiroglu"
PARAMETRIC: Final = ("muennighoff", "krajewski-moe", "abnar")
LAWS: Final = (*PLAIN, *PARAMETRIC)

SPREAD: Final = 16.0
"""An isoFLOP table reaches from the optimal size over 16 to 16 times it: where laws of this form are still a valley."""
BISECTIONS: Final = 200
BUDGETS_FLOPS: Final = (1e12, 1e36)


class Optimum(Value, frozen=True, kw_only=True):
    """A budget spent best, by one law."""

    law: str
    source: str
    budget_flops: float
    parameters: float
    active_parameters: float
    tokens: float
    tokens_per_parameter: float
    """Per active parameter."""
    loss: float | None
    """Nats per token on the authors' text; None: the law tells sizes only."""
    epochs: float | None = None
    """How often the corpus is read, where its size was given."""
    extrapolated: tuple[str, ...] = ()
    """What of it lies beyond the runs the law was fitted on."""
    note: str = ""


class Prediction(Value, frozen=True, kw_only=True):
    """The loss of a given size and length."""

    law: str
    parameters: float
    tokens: float
    flops: float
    loss: float
    extrapolated: tuple[str, ...] = ()


class Departure(Value, frozen=True, kw_only=True):
    """A run off the optimum: what it pays in training for being smaller (or larger) than optimal."""

    law: str
    parameters: float
    tokens: float
    tokens_per_parameter: float
    flops: float
    loss: float
    best_loss: float
    """Of the same FLOPs spent best."""
    optimal: Optimum
    """The optimal run that reaches the same loss."""
    training_overhead: float
    """FLOPs over those of the optimal run of the same loss: 1.0 is none."""
    serving_share: float
    """Active parameters over those of the optimal run: what each served token costs relative to it."""
    extrapolated: tuple[str, ...] = ()


def law_of(
    name: str,
    *,
    unique_tokens: float | None = None,
    sparsity: float | None = None,
    granularity: float | None = None,
) -> Law:
    """A law by name with what it needs. Raises SpecError when the name or what it needs is missing, or what it cannot
    use is given."""
    needs: dict[str, tuple[str, float | None, Callable[[float], Law]]] = {
        "muennighoff": ("unique_tokens", unique_tokens, data_constrained),
        "abnar": ("sparsity", sparsity, sparse),
        "krajewski-moe": ("granularity", granularity, fine_grained),
    }
    if name not in LAWS:
        raise SpecError(f"`{name}` is not a known law; use one of {', '.join(LAWS)}", path="law")
    wanted = needs.get(name)
    given = {"unique_tokens": unique_tokens, "sparsity": sparsity, "granularity": granularity}
    for field, value in given.items():
        if value is not None and (wanted is None or wanted[0] != field):
            owner = next(law for law, need in needs.items() if need[0] == field)
            raise SpecError(f"`{field}` means nothing to law `{name}`; use law `{owner}`", path=field)
    if wanted is None:
        return PLAIN[name]
    field, value, make = wanted
    if value is None:
        raise SpecError(f"law `{name}` needs `{field}`", path=field)
    return make(value)


def compute_optimal(
    budget_flops: float,
    *,
    law: str = DEFAULT_LAW,
    unique_tokens: float | None = None,
    sparsity: float | None = None,
    granularity: float | None = None,
) -> Optimum:
    """Parameters and tokens that make the most of `budget_flops` = 6 x active parameters x tokens."""
    if not (budget_flops > 0 and math.isfinite(budget_flops)):
        raise SpecError(f"{budget_flops} FLOPs are not a budget; use a number above zero", path="budget_flops")
    chosen = law_of(law, unique_tokens=unique_tokens, sparsity=sparsity, granularity=granularity)
    return _optimum(chosen, budget_flops, unique_tokens=unique_tokens)


def _optimum(law: Law, budget_flops: float, *, unique_tokens: float | None = None) -> Optimum:
    best = law.optimum(budget_flops)
    return Optimum(
        law=law.name,
        source=law.source,
        budget_flops=budget_flops,
        parameters=best.parameters,
        active_parameters=best.active_parameters,
        tokens=best.tokens,
        tokens_per_parameter=best.tokens / best.active_parameters,
        loss=float(law.loss(best.parameters, best.tokens)) if law.has_loss else None,
        epochs=None if unique_tokens is None else best.tokens / unique_tokens,
        extrapolated=beyond(law, parameters=best.parameters, tokens=best.tokens, flops=budget_flops),
        note=law.note,
    )


def predicted_loss(parameters: float, tokens: float, *, law: Law) -> Prediction:
    """The loss after so many tokens. Raises SpecError when the law tells no loss."""
    flops = FLOPS_PER_PARAMETER_TOKEN * parameters * law.active_share * tokens
    return Prediction(
        law=law.name,
        parameters=parameters,
        tokens=tokens,
        flops=flops,
        loss=float(law.loss(parameters, tokens)),
        extrapolated=beyond(law, parameters=parameters, tokens=tokens, flops=flops),
    )


def isoflop(budget_flops: float, *, law: Law, points: int = 9) -> tuple[Prediction, ...]:
    """The valley of one budget: sizes evenly in the logarithm around the optimum, the optimum in the middle."""
    centre = law.optimum(budget_flops).parameters
    half = (points - 1) / 2.0
    rows = []
    for index in range(points):
        parameters = centre * SPREAD ** ((index - half) / half if half else 0.0)
        tokens = budget_flops / (FLOPS_PER_PARAMETER_TOKEN * parameters * law.active_share)
        rows.append(predicted_loss(parameters, tokens, law=law))
    return tuple(rows)


def departure(parameters: float, tokens: float, *, law: Law) -> Departure:
    """What a run off the optimum pays: Llama 3's 8 billion parameters on 15 trillion tokens, say."""
    here = predicted_loss(parameters, tokens, law=law)
    same_flops = _optimum(law, here.flops)
    same_loss = _optimum(law, budget_for(here.loss, law=law))
    assert same_flops.loss is not None  # `predicted_loss` has refused laws without one
    active = parameters * law.active_share
    return Departure(
        law=law.name,
        parameters=parameters,
        tokens=tokens,
        tokens_per_parameter=tokens / active,
        flops=here.flops,
        loss=here.loss,
        best_loss=same_flops.loss,
        optimal=same_loss,
        training_overhead=here.flops / same_loss.budget_flops,
        serving_share=active / same_loss.active_parameters,
        extrapolated=here.extrapolated,
    )


def budget_for(loss: float, *, law: Law) -> float:
    """The smallest budget in FLOPs that reaches `loss`. Raises SpecError when none does."""

    def reached(budget_flops: float) -> float:
        best = law.optimum(budget_flops)
        return float(law.loss(best.parameters, best.tokens))

    low, high = (math.log(bound) for bound in BUDGETS_FLOPS)
    if reached(math.exp(high)) > loss:
        raise SpecError(
            f"a loss of {loss:.4g} is below what law `{law.name}` reaches with any budget "
            f"({reached(math.exp(high)):.4g} at {BUDGETS_FLOPS[1]:.0e} FLOPs); ask for a higher loss",
            path="loss",
        )
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        if reached(math.exp(middle)) > loss:
            low = middle
        else:
            high = middle
    return math.exp(high)


def beyond(law: Law, *, parameters: float, tokens: float, flops: float) -> tuple[str, ...]:
    """In words, what lies outside the runs that a law was fitted on."""
    asked = (
        ("parameters", parameters, law.fitted.parameters),
        ("tokens", tokens, law.fitted.tokens),
        ("FLOPs", flops, law.fitted.flops),
    )
    said = []
    for name, value, fitted in asked:
        if fitted is None:
            continue
        if value > fitted[1]:
            said.append(f"{value:.3g} {name}: {value / fitted[1]:.3g} times the largest run fitted ({fitted[1]:.3g})")
        elif value < fitted[0]:
            said.append(f"{value:.3g} {name}: {fitted[0] / value:.3g} times below the smallest run ({fitted[0]:.3g})")
    return tuple(said)


def compared(budget_flops: float, *, laws: Sequence[str] = tuple(PLAIN)) -> tuple[Optimum, ...]:
    """One budget by several laws that need nothing else."""
    return tuple(compute_optimal(budget_flops, law=name) for name in laws)
