"""What a published run leaves out and its memory and speed tell: recomputation and micro-batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import fits, memory
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import step_time
from myriarch.plan.calibration import Sample
from myriarch.plan.published import PublishedRun
from myriarch.plan.unlike_runs import run_memory

RECOMPUTED: Final = ((0.0, 0.0), (0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 0.0))
"""Shares of layers recomputed in full, and selectively: the first that fits is taken."""
MICRO_BATCHES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
TENSORS: Final = (1, 2, 4, 8)
STAGES: Final = (1, 2, 4, 6, 8, 10, 12, 16)
CHUNKS: Final = (1, 2, 4, 6)
"""Of layers a pipeline rank: those that a split is looked for among where a row names none."""


def completed(run: PublishedRun) -> PublishedRun:
    """`run` with the least recomputation that fits where none is named, and the fastest micro-batch that fits."""
    if run.decoder is None or run.machine is None or run.split is None or run.software is None:
        return run
    parts = (run.decoder, run.machine, run.software)
    split = run.split
    if run.pipelines:
        return _unlike(run)
    if not run.split_known:
        split = _fastest(split, run.recompute_known, *parts)
    elif not (run.micro_batch_known and run.chunks_known):
        each = float(split.batch) / float(split.dp)
        sizes = [size for size in MICRO_BATCHES if each % size == 0] or [1.0]
        if run.micro_batch_known:
            sizes = [float(split.micro_batch)]
        sized = [dataclasses.replace(split, micro_batch=size) for size in sizes]
        chunked = [
            chunks for each in sized for chunks in ([each] if run.chunks_known else _interleaved(each, run.decoder))
        ]
        choices = [_least(choice, run.recompute_known, *parts) for choice in chunked]
        fitting = [choice for choice in choices if _fits(choice, *parts)] or choices[:1]
        split = min(fitting, key=lambda choice: _seconds(choice, *parts))
    elif not run.recompute_known:
        split = _least(split, False, *parts)
    return dataclasses.replace(run, split=split)


def _unlike(run: PublishedRun) -> PublishedRun:
    """A run over unlike devices with full recomputation where its stages do not fit without, and none is named."""
    assert run.decoder is not None
    assert run.split is not None
    assert run.software is not None
    if run.recompute_known:
        return run
    held = run_memory(
        run.decoder,
        run.pipelines,
        batch=int(run.split.batch),
        micro_batch=int(run.split.micro_batch),
        sequence=int(run.split.sequence),
        software=run.software,
        value_bytes=run.value_bytes,
    )
    fitting = all(stage.fits for stages in held for stage in stages)
    return dataclasses.replace(run, split=dataclasses.replace(run.split, recompute=0.0 if fitting else 1.0))


def _fastest(split: Split, known: bool, decoder: Decoder, machine: Machine, software: Software) -> Split:
    """The fastest of the usual splits that fit; whoever published a run had looked for it."""
    parts = (decoder, machine, software)
    choices = [
        _least(dataclasses.replace(choice, micro_batch=size), known, *parts)
        for choice in _splits(split, decoder, machine)
        for size in MICRO_BATCHES[:3]
        if float(split.batch) / float(choice.dp) % size == 0
    ]
    fitting = [choice for choice in choices if _fits(choice, *parts)]
    return min(fitting or [split], key=lambda choice: _seconds(choice, *parts))


def _interleaved(split: Split, decoder: Decoder) -> list[Split]:
    """With every number of chunks that divides the layers of a stage; the schedule needs whole rounds of micro-batches
    (Narayanan et al. 2021, section 2.2)."""
    stage = -(-int(decoder.layers) // int(split.pp))
    rounds = float(split.micro_batches) % float(split.pp) == 0
    counts = [count for count in range(1, stage + 1) if stage % count == 0 and (rounds or count == 1)]
    return [dataclasses.replace(split, virtual=float(count)) for count in counts]


def _splits(split: Split, decoder: Decoder, machine: Machine) -> list[Split]:
    devices, layers = int(split.devices), int(decoder.layers)
    found = []
    for tp in TENSORS:
        for pp in STAGES:
            for virtual in CHUNKS if pp > 1 else (1,):
                dp = devices // (tp * pp * int(split.cp))
                whole = tp * pp * int(split.cp) * dp == devices and dp and float(split.batch) % dp == 0
                if not whole or tp > machine.link_domain_devices or -(-layers // pp) < virtual:
                    continue
                size = {"tp": float(tp), "pp": float(pp), "dp": float(dp), "virtual": float(virtual)}
                even = {"stage_layers": 0.0, "first_layers": 0.0, "sequence_parallel": float(tp > 1)}
                found.append(dataclasses.replace(split, expert_tp=float(tp), **size, **even))
    return found


def _least(split: Split, known: bool, decoder: Decoder, machine: Machine, software: Software) -> Split:
    if known:
        return split
    choices = [dataclasses.replace(split, recompute=full, selective=some) for full, some in RECOMPUTED]
    return next((choice for choice in choices if _fits(choice, decoder, machine, software)), choices[-1])


def _fits(split: Split, decoder: Decoder, machine: Machine, software: Software) -> bool:
    return bool(fits(memory(decoder, split=split, software=software), machine.memory_bytes))


def _seconds(split: Split, decoder: Decoder, machine: Machine, software: Software) -> float:
    # With the default constants, so that what is completed does not depend on a calibration.
    step = step_time(decoder, machine=machine, split=split, software=software, parameters=Parameters())
    return float(step.total_s)


def samples(runs: Iterable[PublishedRun]) -> tuple[Sample, ...]:
    """The runs that constants can be calibrated on: none over unlike devices."""
    found = []
    for run in (completed(run) for run in runs):
        parts = (run.decoder, run.machine, run.split, run.software)
        known = run.split_known and run.batch_known and not run.pipelines
        if run.measured_step_s is None or not known or any(part is None for part in parts):
            continue
        found.append(sample(run))
    return tuple(found)


def sample(run: PublishedRun) -> Sample:
    """A run that lacks nothing, as calibration needs it."""
    assert run.decoder is not None
    assert run.machine is not None
    assert run.split is not None
    assert run.software is not None
    return Sample(
        source=run.source,
        decoder=run.decoder,
        machine=run.machine,
        split=run.split,
        software=run.software,
        measured_s=run.measured_step_s or 1.0,
    )
