"""How far predictions lie from what was measured: by source, cross-validated, beside a single constant.

A source's rows are predicted with constants that were calibrated without it: those of the other half for the sources
that the shipped constants have seen, those of both halves for a source that they have not. What a row does not say is
filled in by `plan.completion`; a row that cannot be predicted is listed with the reason. Runs over unlike devices are
predicted by `plan.unlike_runs`; their interval is that of the nearest run over one kind, with the doubt about the least
known of their chips.

The baseline is one constant: model FLOPs / (devices x peak x share), the share being the median over the rows of other
sources with the same peak and precision (over all other sources where there are none).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import fields

import msgspec
import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.calibrated import CALIBRATED, HALVES, WIDTHS
from myriarch.cost.evidence import chips_seen
from myriarch.cost.memory import Memory, fits, memory
from myriarch.cost.step import StepTime
from myriarch.cost.uncertainty import chip_reach, interval
from myriarch.plan.calibration import Table
from myriarch.plan.completion import completed, sample
from myriarch.plan.published import PublishedRun
from myriarch.plan.unlike_runs import run_memory, run_step_s


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of step times as shares of the measured ones; None where there are no rows."""

    n: int
    mape: float | None
    """Mean of |predicted - measured| / measured."""
    median: float | None
    p90: float | None
    bias: float | None
    """Mean of (predicted - measured) / measured."""
    coverage80: float | None
    """Share of measured times inside their 80 % intervals."""
    baseline_mape: float | None


class MemoryAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of the fullest device's memory."""

    n: int
    mape: float | None
    bias: float | None


class Feasibility(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that were measured and are said not to fit; runs that ran out of memory and are said to fit."""

    measured_rejected: int
    oom_accepted: int
    measured_n: int
    oom_n: int


class ValidatedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the file."""

    id: str
    source: str
    level: str
    """Of software, as it was taken to be."""
    measured_step_s: float | None = None
    predicted_step_s: float | None = None
    error: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    baseline_step_s: float | None = None
    measured_memory_bytes: float | None = None
    predicted_memory_bytes: float | None = None
    fits: bool | None = None
    constants: str = ""
    """Which calibration predicted it: the half that has not seen its source, or `all`."""
    assumed: str = ""
    """What the row does not say and was filled in."""
    reason: str = ""
    """Why it cannot be predicted."""


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """What `myriarch validate --json` prints."""

    overall: Accuracy
    sources: dict[str, Accuracy]
    memory: MemoryAccuracy
    feasibility: Feasibility
    rows: tuple[ValidatedRow, ...]


def validate(runs: Iterable[PublishedRun]) -> Validation:
    """Predict every run and compare."""
    filled = tuple(completed(run) for run in runs)
    rows = tuple(_with_baseline(filled, _rows(filled)))
    timed = [row for row in rows if row.predicted_step_s is not None and row.measured_step_s is not None]
    held = [row for row in rows if row.predicted_memory_bytes is not None and row.measured_memory_bytes is not None]
    errors = np.array([row.predicted_memory_bytes / row.measured_memory_bytes - 1.0 for row in held])  # type: ignore[operator]
    ran = [row for row, run in zip(rows, filled, strict=True) if run.measured_step_s and not run.out_of_memory]
    failed = [row for row, run in zip(rows, filled, strict=True) if run.out_of_memory and not run.reason]
    return Validation(
        overall=_accuracy(timed),
        sources={
            source: _accuracy([row for row in timed if row.source == source])
            for source in dict.fromkeys(row.source for row in rows)
        },
        memory=MemoryAccuracy(
            n=len(held),
            mape=float(np.abs(errors).mean()) if held else None,
            bias=float(errors.mean()) if held else None,
        ),
        feasibility=Feasibility(
            measured_rejected=sum(row.fits is False for row in ran),
            oom_accepted=sum(row.fits is True for row in failed),
            measured_n=len(ran),
            oom_n=len(failed),
        ),
        rows=rows,
    )


def unseen_constants(source: str) -> str:
    """The calibration that has not seen `source`."""
    for half, other in (("first", "second"), ("second", "first")):
        if source in HALVES[half]:
            return other
    return "all"


def _rows(runs: Sequence[PublishedRun]) -> tuple[ValidatedRow, ...]:
    """All rows, those of the same constants predicted at once."""
    steps: dict[int, StepTime] = {}
    for name in CALIBRATED:
        own = [i for i, run in enumerate(runs) if run.split is not None and unseen_constants(run.source) == name]
        if own:
            step = Table.of([sample(runs[i]) for i in own]).predicted(CALIBRATED[name])
            kinds = {kind.name: np.broadcast_to(getattr(step, kind.name), len(own)) for kind in fields(StepTime)}
            for at, i in enumerate(own):
                steps[i] = StepTime(**{kind: values[at] for kind, values in kinds.items()})
    return tuple(_row(run, steps.get(i)) for i, run in enumerate(runs))


def _row(run: PublishedRun, step: StepTime | None) -> ValidatedRow:
    measured_s = run.measured_step_s
    if step is None or run.decoder is None or run.machine is None or run.split is None or run.software is None:
        return ValidatedRow(
            id=run.id, source=run.source, level=run.level, measured_step_s=measured_s, reason=run.reason
        )
    name, predicted_s = unseen_constants(run.source), float(step.total_s)
    assert run.chip is not None
    doubt = max(chip_reach(chip, profiled=False, seen=chip.id in chips_seen()) for chip in run.chips or (run.chip,))
    low, high = interval(run.decoder, split=run.split, step=step, widths=WIDTHS[name], chip=doubt)
    needed = memory(run.decoder, split=run.split, software=run.software)
    needed_bytes, fitting = _as_printed(needed, run.memory_kind), bool(fits(needed, run.machine.memory_bytes))
    if run.pipelines:
        predicted_s, needed_bytes, fitting = _unlike(run, name)
    return ValidatedRow(
        id=run.id,
        source=run.source,
        level=run.level,
        measured_step_s=measured_s,
        predicted_step_s=predicted_s,
        error=None if measured_s is None else predicted_s / measured_s - 1.0,
        low_s=predicted_s * float(low),
        high_s=predicted_s * float(high),
        measured_memory_bytes=run.measured_memory_bytes,
        predicted_memory_bytes=needed_bytes,
        fits=fitting,
        constants=name,
        assumed=_assumed(run),
    )


def _unlike(run: PublishedRun, name: str) -> tuple[float, float, bool]:
    """Of a run over unlike devices: seconds of a step, bytes of the fullest device, and whether all stages fit."""
    assert run.decoder is not None
    assert run.split is not None
    assert run.software is not None
    split, sizes = run.split, {"batch": int(run.split.batch), "micro_batch": int(run.split.micro_batch)}
    laid = {**sizes, "sequence": int(split.sequence)}
    recompute, kind = float(split.recompute), run.memory_kind
    predicted_s = run_step_s(
        run.decoder, run.pipelines, **laid, software=run.software, parameters=CALIBRATED[name], recompute=recompute
    )
    held = run_memory(
        run.decoder, run.pipelines, **laid, software=run.software, recompute=recompute, value_bytes=run.value_bytes
    )
    stages = [stage for each in held for stage in each]
    fullest = max(stage.held_bytes + (stage.context_bytes if kind == "device" else 0.0) for stage in stages)
    return predicted_s, fullest, all(stage.fits for stage in stages)


def _as_printed(needed: Memory, kind: str) -> float:
    """The part of the memory that the source prints: states and activations, the allocator's peak, or the device's."""
    if kind == "states+activations":
        return float(needed.states_bytes + needed.activations_bytes)
    return float(needed.total_bytes) + float(needed.context_bytes if kind == "device" else 0.0)


def _assumed(run: PublishedRun) -> str:
    assert run.split is not None
    words = []
    if run.pipelines and not run.split_known:
        words.append("stages on the chips in the order that they are named")
    elif not run.split_known:
        words.append(f"tp {run.split.tp:g} x pp {run.split.pp:g} x dp {run.split.dp:g}, vpp {run.split.virtual:g}")
    if not run.batch_known:
        words.append(f"batch {run.split.batch:g}")
    if run.split_known and not run.chunks_known:
        words.append(f"vpp {run.split.virtual:g}")
    if not run.micro_batch_known:
        words.append(f"micro-batch {run.split.micro_batch:g}")
    if not run.recompute_known:
        words.append(f"recompute {run.split.recompute:g}" + (" + selective" if run.split.selective else ""))
    return ", ".join(words)


def _accuracy(rows: Sequence[ValidatedRow]) -> Accuracy:
    if not rows:
        return Accuracy(n=0, mape=None, median=None, p90=None, bias=None, coverage80=None, baseline_mape=None)
    predicted, measured, baseline, low, high = (
        np.array([getattr(row, name) for row in rows], dtype=np.float64)
        for name in ("predicted_step_s", "measured_step_s", "baseline_step_s", "low_s", "high_s")
    )
    error: Array = predicted / measured - 1.0
    return Accuracy(
        n=len(rows),
        mape=float(np.abs(error).mean()),
        median=float(np.median(np.abs(error))),
        p90=float(np.quantile(np.abs(error), 0.9)),
        bias=float(error.mean()),
        coverage80=float(((measured >= low) & (measured <= high)).mean()),
        baseline_mape=float(np.abs(baseline / measured - 1.0).mean()),
    )


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A run as the baseline sees it."""

    source: str
    kind: tuple[float, float]
    ideal_s: float
    """Model FLOPs over the peak of all devices; with a second forward pass where everything is recomputed."""
    measured_s: float | None


def _with_baseline(runs: Sequence[PublishedRun], rows: Sequence[ValidatedRow]) -> Iterable[ValidatedRow]:
    plain = [_plain(run) for run in runs]
    for row, own in zip(rows, plain, strict=True):
        if own is None:
            yield row
            continue
        others = [each for each in plain if each is not None and each.measured_s and each.source != own.source]
        alike = [each for each in others if each.kind == own.kind] or others
        share = np.median([each.ideal_s / each.measured_s for each in alike if each.measured_s]) if alike else 0.4
        yield msgspec.structs.replace(row, baseline_step_s=own.ideal_s / float(share))


def _plain(run: PublishedRun) -> _Plain | None:
    if run.decoder is None or run.machine is None or run.split is None:
        return None
    split = run.split
    # Recomputation as the row itself says: the baseline knows no memory.
    flops = float(run.decoder.flops_per_token(split.sequence)) * float(split.batch) * float(split.sequence)
    if run.recompute_known:
        flops *= 1.0 + float(split.recompute) / 3.0
    peak = float(run.machine.peak_flops_per_s)
    narrow = float(run.machine.narrow_flops_per_s) / float(run.machine.matmul_flops_per_s)
    rate = peak * (narrow if float(split.narrow_share) > 0 else 1.0)
    kind = (peak, float(split.narrow_bytes))
    return _Plain(run.source, kind, flops / (rate * float(split.devices)), run.measured_step_s)
