"""A run over unlike devices as somebody else laid it out: pipelines of given stages, each of one kind of device.

For published and running jobs, whose cuts and shares are not ours to choose. Every pipeline is a replica with as many
micro-batches as the others; they add their gradients up stage by stage, and the slowest sets the pace. Devices of
unlike kinds share no scale-up domain: where the replicas of a stage are unlike, their gradients go over the network.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import SLACK, WEIGHT_BYTES, memory_by_stage
from myriarch.cost.network import Network
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.errors import SpecError
from myriarch.plan.pipelines import stages_step_s
from myriarch.plan.unlike_pipelines import stage_terms


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStage:
    """Some layers on devices of one kind."""

    machine: Machine
    tp: int
    layers: int


def run_step_s(
    decoder: Decoder,
    pipelines: Sequence[Sequence[RunStage]],
    *,
    batch: int,
    micro_batch: int,
    sequence: int,
    software: Software,
    parameters: Parameters,
    recompute: float = 0.0,
) -> float:
    """Seconds of one step. Raises SpecError when stages do not hold the model or micro-batches do not fill the batch.

    batch, micro_batch: sequences; sequence: tokens. Embedding and head are in the first and the last stage and count as
    no layer.
    """
    for stages in pipelines:
        held = sum(stage.layers for stage in stages)
        if held != int(decoder.layers):
            raise SpecError(f"stages of {held} layers do not hold the model's {int(decoder.layers)}")
    count, rest = divmod(batch, len(pipelines) * micro_batch)
    if rest or not count:
        raise SpecError(f"{batch} sequences are not whole micro-batches of {micro_batch} on {len(pipelines)} pipelines")
    slowest_s = 0.0
    pipelines = _apart(pipelines)
    for stages in dict.fromkeys(tuple(each) for each in pipelines):
        times, ends = [], []
        for index, stage in enumerate(stages):
            layer_s, head_s, fixed_s = stage_terms(
                decoder,
                stage.machine,
                tp=stage.tp,
                dp=len(pipelines),
                layers=stage.layers,
                micro_batch=micro_batch,
                sequence=sequence,
                software=software,
                parameters=parameters,
                recompute=recompute,
            )
            times.append(stage.layers * layer_s + (head_s if index == len(stages) - 1 else 0.0))
            ends.append(fixed_s)
        size = 2.0 * micro_batch * sequence * float(decoder.width)
        shown = 1.0 - float(software.pp_overlap) * parameters.overlap_reach
        sends = [
            shown * max(_send_s(one, size, parameters), _send_s(two, size, parameters))
            for one, two in itertools.pairwise(stages)
        ]
        own_s = stages_step_s(np.array(times), micro_batches=float(count), send_s=np.array(sends))
        slowest_s = max(slowest_s, own_s + max(ends))
    devices = sum(stage.tp for stages in pipelines for stage in stages)
    return slowest_s * (1.0 + parameters.jitter * max(math.log2(devices / 8.0), 0.0)) + parameters.step_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes of one device of a stage."""

    held_bytes: float
    """What a framework prints as its peak."""
    context_bytes: float
    """The driver's part beside it."""
    fits: bool


def run_memory(
    decoder: Decoder,
    pipelines: Sequence[Sequence[RunStage]],
    *,
    batch: int,
    micro_batch: int,
    sequence: int,
    software: Software,
    recompute: float = 0.0,
    value_bytes: float = 2.0,
) -> tuple[tuple[StageMemory, ...], ...]:
    """What a device of each stage of each pipeline holds.

    value_bytes: of a weight and an activation. In 4 the weights are the optimizer's own: 16 bytes a weight (weight,
    gradient, two moments), and activations are twice as many bytes as in 2.
    """
    return tuple(
        tuple(
            _stage_memory(
                decoder,
                stage,
                at=at,
                split=Split(
                    tp=float(stage.tp),
                    pp=float(len(stages)),
                    dp=float(len(pipelines)),
                    stage_layers=float(stage.layers),
                    first_layers=float(stage.layers),
                    zero_stage=software.default_zero_stage,
                    sequence_parallel=software.default_sequence_parallel if stage.tp > 1 else 0.0,
                    batch=float(batch),
                    micro_batch=float(micro_batch),
                    sequence=float(sequence),
                    recompute=recompute,
                ),
                software=software,
                value_bytes=value_bytes,
            )
            for at, stage in enumerate(stages)
        )
        for stages in pipelines
    )


def _stage_memory(
    decoder: Decoder, stage: RunStage, *, at: int, split: Split, software: Software, value_bytes: float
) -> StageMemory:
    found = memory_by_stage(decoder, split=split, software=software)[at]
    held = float(found.total_bytes)
    if value_bytes > WEIGHT_BYTES:
        # Weights are those of the optimizer: no copy in two bytes.
        wider = value_bytes / WEIGHT_BYTES - 1.0
        held += wider * (1.0 + SLACK) * float(found.activations_bytes) - float(found.weights_bytes)
    context = float(found.context_bytes)
    return StageMemory(held_bytes=held, context_bytes=context, fits=held + context <= float(stage.machine.memory_bytes))


def _apart(pipelines: Sequence[Sequence[RunStage]]) -> list[tuple[RunStage, ...]]:
    """The pipelines, a domain being one replica's devices wherever replicas are of several kinds.

    Stage by stage where all are cut alike; else layers have their replicas in several stages, and all count.
    """
    cuts = {tuple(stage.layers for stage in stages) for stages in pipelines}
    kinds = [{stage.machine for stage in replicas} for replicas in zip(*pipelines, strict=len(cuts) == 1)]
    if len(cuts) > 1:
        kinds = [set().union(*({stage.machine for stage in stages} for stages in pipelines))] * max(map(len, pipelines))
    return [
        tuple(_alone(stage) if len(own) > 1 else stage for stage, own in zip(stages, kinds, strict=False))
        for stages in pipelines
    ]


def _alone(stage: RunStage) -> RunStage:
    domain = min(float(stage.machine.link_domain_devices), float(stage.tp))
    return dataclasses.replace(stage, machine=dataclasses.replace(stage.machine, link_domain_devices=domain))


def _send_s(stage: RunStage, size_bytes: float, parameters: Parameters) -> float:
    """Out of one stage, each of its devices its own part, over the network between nodes."""
    network = Network.of(stage.machine, parameters)
    return float(network.send_s(size_bytes / stage.tp, stride=float(network.domain_devices)))
