"""How near a predicted configuration is to measured ones: a grade from A to E, with the nearest published runs.

    A  A published run of this chip, this kind of model and precision used the same axes of parallelism, and its
       devices, parameters and sequence are within a factor of two each. Or, on devices whose rates were measured into
       a profile, such a run of any chip.
    B  The same, with factors up to eight.
    C  The chip, the kind of model, the precision and each axis are in published runs, but not in one of such a size.
    D  The chip is in no published run, but its numbers are good; or the model's kind, the precision or an axis is in
       none.
    E  The chip's numbers are of low confidence, announced, or lack a measured matrix rate and published runs both.

Published runs are those that the constants were calibrated on (`data/evidence.csv`, written by `benchmarks/evidence.py`
from the file of published configurations, with their sources' names). Kinds of models: dense, mixture of experts, and
either with latent attention. Axes: tensor, pipeline, context and expert parallelism, and sharded weights.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import math
from typing import Any, Final, Literal

from myriarch.cost.decoder import Decoder
from myriarch.cost.split import Split
from myriarch.spec.base import Spec
from myriarch.spec.fleet import Chip

Grade = Literal["A", "B", "C", "D", "E"]
NEAR: Final = 2.0
"""Factor of devices, parameters and sequence within which a run counts as near..."""
FAR: Final = 8.0
"""...and as comparable."""
SHOWN: Final = 3
"""Nearest runs that are named."""
MISMATCH: Final = 3.0
"""What an unlike chip, kind, precision or axis counts in the distance: as much as a factor of eight in a size."""


class Run(Spec, frozen=True, kw_only=True):
    """One published run, or a configuration to compare with them."""

    id: str
    source: str
    chip: str
    kind: str
    precision: str
    axes: str
    """Letters of those in use: t, p, c, e, s."""
    devices: float
    parameters: float
    sequence: float
    measured_s: float
    error: float
    """Of the model that had not seen its source: predicted / measured - 1."""


class Nearest(Spec, frozen=True, kw_only=True):
    """A published run and what tells it from the configuration."""

    id: str
    source: str
    differs: tuple[str, ...]
    error: float


class Evidence(Spec, frozen=True, kw_only=True):
    """A grade and its grounds."""

    grade: Grade
    reason: str
    nearest: tuple[Nearest, ...]


@functools.cache
def published() -> tuple[Run, ...]:
    """All runs that the constants rest on."""
    text = importlib.resources.files("myriarch.cost").joinpath("data", "evidence.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    numbers = ("devices", "parameters", "sequence", "measured_s", "error")
    rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(lines)]
    return tuple(Run(**(row | {name: float(row[name]) for name in numbers})) for row in rows)


@functools.cache
def chips_seen() -> frozenset[str]:
    """Ids of the chips of all published runs."""
    return frozenset(run.chip for run in published())


def described(decoder: Decoder, *, chip: str, split: Split) -> Run:
    """A configuration in plain numbers as a run is described."""
    kind = "mixture" if float(decoder.experts) > 0 else "dense"
    latent = " with latent attention" if float(decoder.kv_rank) > 0 else ""
    bits = float(split.narrow_bytes) if float(split.narrow_share) > 0 else 2.0
    used = {"t": split.tp, "p": split.pp, "c": split.cp, "e": split.ep, "s": float(split.zero_stage) >= 3}
    return Run(
        id="",
        source="",
        chip=chip,
        kind=kind + latent,
        precision={2.0: "16 bits", 1.0: "8 bits"}.get(bits, "4 bits"),
        axes="".join(letter for letter, size in used.items() if float(size) > (0 if letter == "s" else 1)),
        devices=float(split.devices),
        parameters=float(decoder.parameters),
        sequence=float(split.sequence),
        measured_s=0.0,
        error=0.0,
    )


def evidence(decoder: Decoder, *, chip: Chip, split: Split, profiled: bool = False) -> Evidence:
    """The grade of a prediction. `profiled`: the devices' rates were measured, so another chip's run will do."""
    wanted = described(decoder, chip=chip.id, split=split)
    ranked = sorted(published(), key=lambda run: (_distance(wanted, run, profiled=profiled), run.id))
    nearest = tuple(
        Nearest(id=run.id, source=run.source, differs=_differences(wanted, run), error=run.error)
        for run in ranked[:SHOWN]
    )
    grade, reason = _grade(wanted, chip, profiled=profiled)
    return Evidence(grade=grade, reason=reason, nearest=nearest)


def _grade(wanted: Run, chip: Chip, *, profiled: bool) -> tuple[Grade, str]:
    seen = chip.id in chips_seen()
    if not profiled and chip.is_doubtful:
        return "E", f"the numbers of {chip.id} are of {chip.confidence} confidence"
    if not (profiled or seen or chip.matmul_measured_flops_per_s):
        return (
            "E",
            f"no run on {chip.id} is among those that this rests on, nor has the catalogue a measured matrix rate",
        )
    alike = [run for run in published() if _alike(wanted, run, profiled=profiled)]
    factor = min((_factor(wanted, run) for run in alike), default=math.inf)
    if factor <= FAR:
        grade: Grade = "A" if factor <= NEAR else "B"
        return grade, f"published runs alike in chip, kind, precision and axes are within a factor of {factor:.1f}"
    unknown = [
        f"{name} {value}"
        for name, value in (("kind", wanted.kind), ("precision", wanted.precision))
        if not any(getattr(run, name) == value for run in published())
    ]
    unknown += [f"axis {axis}" for axis in wanted.axes if not any(axis in run.axes for run in published())]
    if unknown or not (seen or profiled):
        return "D", "in no published run: " + ", ".join(unknown or [f"chip {chip.id}"])
    return "C", "chip, kind, precision and axes are in published runs, but not together at such a size"


def _alike(wanted: Run, run: Run, *, profiled: bool) -> bool:
    same = (run.kind, run.precision) == (wanted.kind, wanted.precision) and set(wanted.axes) <= set(run.axes)
    return same and (profiled or run.chip == wanted.chip)


def _factor(wanted: Run, run: Run) -> float:
    """The largest factor between sizes."""
    return math.exp(max(abs(each) for each in _sizes(wanted, run)))


def _distance(wanted: Run, run: Run, *, profiled: bool) -> float:
    flags = (not profiled and run.chip != wanted.chip, run.kind != wanted.kind, run.precision != wanted.precision)
    unlike = sum(flags) + len(set(wanted.axes) ^ set(run.axes)) / 2.0
    return MISMATCH * unlike + sum(abs(each) for each in _sizes(wanted, run)) / math.log(2.0)


def _sizes(wanted: Run, run: Run) -> tuple[float, float, float]:
    """Logs of the factors between devices, parameters and sequences."""
    return (
        math.log(run.devices / wanted.devices),
        math.log(run.parameters / wanted.parameters),
        math.log(run.sequence / wanted.sequence),
    )


def _differences(wanted: Run, run: Run) -> tuple[str, ...]:
    found = [
        f"{name} {getattr(run, name)}"
        for name in ("chip", "kind", "precision")
        if getattr(run, name) != getattr(wanted, name)
    ]
    found += [f"without {axis}" for axis in wanted.axes if axis not in run.axes]
    found += [f"with {axis}" for axis in run.axes if axis not in wanted.axes]
    for name, log in zip(("devices", "parameters", "sequence"), _sizes(wanted, run), strict=True):
        if abs(log) > math.log(NEAR):
            found.append(f"{name} x {math.exp(log):.2g}")
    return tuple(found)
