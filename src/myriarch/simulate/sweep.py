"""Variants of a scenario: every combination of the values that are varied, each with every seed.

    --vary policy.name=fifo,easy --vary faults.rate=1,10 --seeds 8        2 x 2 variants, 32 cells

A path is a field of the scenario once everything that it names was read: `fleet.pools[0].nodes` of a fleet file, too.
A value is checked as if it stood in the file. Another `policy.name` keeps those of the file's parameters that mean
something to it, and all that stands around the policy: lending, power and the like change the question.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from myriarch.errors import SpecError, UsageError
from myriarch.event.base import Value
from myriarch.simulate.scenario import Scenario
from myriarch.simulate.scenario_answer import METRICS, SWEEP_SCHEMA, Answer, metrics_of
from myriarch.simulate.scenario_around import OPTIONS
from myriarch.simulate.scenario_check import check_scenario
from myriarch.simulate.scenario_policy import POLICIES
from myriarch.simulate.sweep_statistics import CONFIDENCE, Estimate, difference, estimate
from myriarch.spec.document import Document, Source, read_document
from myriarch.spec.problems import collected
from myriarch.spec.shape import shaped

CELLS_LIMIT: Final = 100_000
UNVARIED: Final = {
    "seed": "use --seeds: every variant is simulated with each of them",
    "seeds": "use --seeds",
    **dict.fromkeys(("name", "output", "note", "tuning", "forecasts"), "vary a field that changes what happens"),
}
"""Fields that a sweep gives to its cells itself, or that change no answer, with what to do instead."""
_STEP: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]+)\]")
_COMMA: Final = re.compile(r",(?![^\[{]*[\]}])")
"""Commas outside of brackets."""


class Axis(Value, frozen=True, kw_only=True):
    """A field that is varied, and its values as they were written."""

    path: str
    values: tuple[str, ...]


class Cell(Value, frozen=True, kw_only=True):
    """One scenario with one seed."""

    variant: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.variant:03d}-{self.seed}"


class Variant(Value, frozen=True, kw_only=True):
    """A combination of values, and what came of it over all seeds."""

    settings: dict[str, str]
    metrics: dict[str, Estimate]
    against_first: dict[str, Estimate]
    """Differences to the first variant on the same seeds; empty for the first itself."""


class Sweep(Value, frozen=True, kw_only=True):
    """The answer of a sweep."""

    schema: str = SWEEP_SCHEMA
    scenario: str
    digest: str
    """Of the scenario, what is varied, the seeds, and the version."""
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    confidence: float = CONFIDENCE
    variants: tuple[Variant, ...]
    better: dict[str, str]
    """By metric: whether `higher` or `lower` is better; money is better lower."""
    notes: tuple[str, ...] = ()
    files: dict[str, str] = msgspec.field(default_factory=dict)


def axis_of(text: str) -> Axis:
    """Of `policy.name=fifo,easy`. Raises UsageError."""
    path, equals, values = text.partition("=")
    parts = tuple(part.strip() for part in _COMMA.split(values))
    if not equals or not path.strip() or not all(parts):
        raise UsageError(f"--vary: `{text}` is no field with values", hint="write --vary policy.name=fifo,easy")
    if path.strip() in UNVARIED:
        raise UsageError(f"--vary: `{path.strip()}` is no part of the question", hint=UNVARIED[path.strip()])
    if len(set(parts)) < len(parts):
        raise UsageError(f"--vary: `{text}` has a value twice", hint="name each value once")
    return Axis(path=path.strip(), values=parts)


def variants_of(scenario: Scenario, axes: Sequence[Axis]) -> list[tuple[dict[str, str], Scenario]]:
    """Every combination, the last axis fastest. Raises SpecError for a value that the scenario cannot have."""
    if len({axis.path for axis in axes}) < len(axes):
        raise UsageError("--vary: one field is varied twice", hint="name all its values at once")
    combined = itertools.product(*(axis.values for axis in axes))
    paths = [axis.path for axis in axes]
    return [
        (settings, varied(scenario, settings)) for settings in (dict(zip(paths, one, strict=True)) for one in combined)
    ]


def cells_of(variants: int, seeds: Sequence[int]) -> list[Cell]:
    """All cells: seeds fastest. Raises UsageError for more than anybody waits for."""
    if variants * len(seeds) > CELLS_LIMIT:
        raise UsageError(f"{variants} variants with {len(seeds)} seeds are more than {CELLS_LIMIT:,} cells")
    return [Cell(variant=variant, seed=seed) for variant in range(variants) for seed in seeds]


def varied(scenario: Scenario, settings: Mapping[str, str]) -> Scenario:
    """The scenario with other values. Raises SpecError with the field, the value and the remedy."""
    content = cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode(scenario)))
    for path, text in sorted(settings.items(), key=lambda one: one[0] != "policy.name"):
        _set(content, path, _value(path, text))
    source = Source(name="--vary")
    changed = shaped(Document(value=content, source=source), Scenario)
    with collected() as problems:
        check_scenario(changed, tell=lambda path, message: problems.add(source, path, message))
    return changed


def _value(path: str, text: str) -> object:
    try:
        return read_document(text, format="yaml", source="").value
    except SpecError as error:
        raise SpecError(error.message, source="--vary", path=path) from None


def _set(content: dict[str, Any], path: str, value: object) -> None:
    """Put a value at a path; tables that were left out are begun."""
    steps = [name or int(index) for name, index in _STEP.findall(path)]
    if "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps) != f".{path}":
        raise UsageError(f"--vary: `{path}` is no path", hint="write fields with dots: fleet.pools[0].nodes")
    place: Any = content
    for at, step in enumerate(steps):
        known = place if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else ()
        if at < len(steps) - 1 and isinstance(step, str) and isinstance(place, dict) and place.get(step) is None:
            place[step] = {}
        elif (isinstance(step, int) and step not in known) or not isinstance(place, (dict, list)):
            raise UsageError(f"--vary: `{path}` has no place in the scenario", hint="see `myriarch schema scenario`")
        if at < len(steps) - 1:
            place = place[step]
        else:
            place[step] = value
    if path == "policy.name" and isinstance(value, str) and value in POLICIES:
        takes = (*POLICIES[value].takes, *OPTIONS)
        policy = content["policy"]
        content["policy"] = {key: part for key, part in policy.items() if key == "name" or key in takes}


def summarised(
    scenario: Scenario,
    *,
    digest: str,
    axes: Sequence[Axis],
    settings: Sequence[dict[str, str]],
    seeds: Sequence[int],
    answers: Mapping[Cell, Answer],
) -> Sweep:
    """Means and differences of all cells."""
    values = [_by_metric(variant, seeds, answers) for variant in range(len(settings))]
    first = values[0]
    names = dict.fromkeys(name for variant in values for name in variant)
    return Sweep(
        scenario=scenario.name,
        digest=digest,
        axes=tuple(axes),
        seeds=tuple(seeds),
        variants=tuple(
            Variant(
                settings=settings[index],
                metrics={name: estimate(list(by_seed.values())) for name, by_seed in variant.items()},
                against_first=_against(variant, first) if index else {},
            )
            for index, variant in enumerate(values)
        ),
        better={name: METRICS.get(name, "lower") for name in names},
        notes=_notes(answers.values()),
    )


def _notes(answers: Iterable[Answer]) -> tuple[str, ...]:
    """What holds for some of the cells."""
    jobs = [answer.jobs.all for answer in answers if answer.jobs is not None]
    notes = []
    if any(of.refused for of in jobs):
        notes.append("in some cells jobs were refused: no pool can ever run them; the cells list them")
    if any(of.ended + of.refused < of.jobs for of in jobs):
        notes.append("in some cells jobs had not ended by the end; waits, JCT and slowdown are of those that had")
    return tuple(notes)


def _by_metric(variant: int, seeds: Sequence[int], answers: Mapping[Cell, Answer]) -> dict[str, dict[int, float]]:
    """`{metric: {seed: value}}` of one variant; a metric that is unknown for a seed lacks it."""
    found: dict[str, dict[int, float]] = {}
    for seed in seeds:
        for name, value in metrics_of(answers[Cell(variant=variant, seed=seed)]).items():
            found.setdefault(name, {})[seed] = value
    return found


def _against(variant: Mapping[str, dict[int, float]], first: Mapping[str, dict[int, float]]) -> dict[str, Estimate]:
    found = {name: difference(variant[name], first[name]) for name in variant if name in first}
    return {name: one for name, one in found.items() if one is not None}
