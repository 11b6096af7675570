"""Bytes of one device, by kind, in the fullest stage.

States (Rajbhandari et al., "ZeRO", SC'20, section 3): 2 bytes a weight, the gradient, and 12 of Adam in mixed precision
(fp32 weight and two moments); stage 1 shards the optimizer, 2 the gradients too, 3 the weights too.

Activations are those of `cost.activations`, of as many micro-batches as are in flight: pp, and pp + (pp - 1)/v
interleaved (Korthikanti et al., MLSys 2023, section 4.2.3), never more than there are. Offloaded states and activations
are in the host's memory (`cost.offload`).
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.activations import Footprint as Footprint
from myriarch.cost.activations import activation_bytes as activation_bytes
from myriarch.cost.arrays import Array, Flag, Real, choose
from myriarch.cost.decoder import Decoder
from myriarch.cost.offload import host_bytes
from myriarch.cost.split import Software, Split
from myriarch.cost.step import most_layers, stage_parameters

WEIGHT_BYTES: Final = 2.0
OPTIMIZER_BYTES: Final = 12.0
WORKSPACE_BYTES: Final = 6.0
"""Of a value of the largest weight: its gradient in two bytes, and in four before it is added up."""
SLACK: Final = 0.02
"""Of activations: blocks that the allocator holds and cannot use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by kind."""

    weights_bytes: Array
    gradients_bytes: Array
    optimizer_bytes: Array
    activations_bytes: Array
    logits_bytes: Array
    """Beyond what a layer that is run again will take in their place."""
    workspace_bytes: Array
    """Gathered weights of ZeRO-3, and workspaces."""
    context_bytes: Array
    """Outside of what a framework prints as its peak."""
    host_bytes: Array
    """Of the host's memory, for what is offloaded; in no total."""

    @property
    def states_bytes(self) -> Array:
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def fragments_bytes(self) -> Array:
        return SLACK * self.activations_bytes

    @property
    def device_bytes(self) -> Array:
        """With the driver's part: what a device must have."""
        return self.total_bytes + self.context_bytes

    @property
    def total_bytes(self) -> Array:
        """What a framework prints as its peak."""
        # What depends on sharding, and what on the micro-batches, first: only the last addition has the full shape.
        fixed = self.states_bytes + self.workspace_bytes
        in_flight = (1.0 + SLACK) * self.activations_bytes + self.logits_bytes
        total: Array = fixed + in_flight
        return total


def fits(memory: Memory, memory_bytes: Real) -> Array:
    """Whether a device of `memory_bytes` holds it, the driver's part included."""
    held: Array = np.less_equal(memory.device_bytes, memory_bytes)
    return held


def memory(decoder: Decoder, *, split: Split, software: Software) -> Memory:
    """Bytes of the fullest device of a pipeline."""
    return _largest(fullest_stages(decoder, split=split, software=software))


def memory_by_stage(decoder: Decoder, *, split: Split, software: Software) -> tuple[Memory, ...]:
    """Bytes of a device of each stage, of one split in plain numbers. The last counts as many layers as the others."""
    pp = int(split.pp)
    footprint = Footprint.of(decoder, split=split, software=software)
    most = most_layers(decoder, split)
    head = choose(np.greater(split.first_layers, 0), split.first_layers, most)
    return tuple(
        _stage(
            decoder,
            split,
            software,
            footprint,
            layers=most if index else head,
            depth=float(pp - index),
            logits=float(index == pp - 1),
            first=index == 0,
        )
        for index in range(pp)
    )


def fullest_stages(
    decoder: Decoder, *, split: Split, software: Software, footprint: Footprint | None = None
) -> tuple[Memory, Memory, Memory]:
    """The candidates for the fullest stage of a pipeline.

    The first, which has the most micro-batches in flight; the second, where the first has fewer layers; the last, which
    has the logits and, in a mixture, no dense layers.
    """
    d, s = decoder, split
    footprint = footprint or Footprint.of(d, split=s, software=software)
    most = most_layers(d, s)
    head = choose(np.greater(s.first_layers, 0), s.first_layers, most)
    many = np.greater(s.pp, 1)
    others = choose(many, most, head)
    first = _stage(d, s, software, footprint, layers=head, depth=s.pp * 1.0, logits=choose(many, 0.0, 1.0), first=True)
    second = _stage(
        d,
        s,
        software,
        footprint,
        layers=others,
        depth=np.maximum(s.pp - 1.0, 1.0),
        logits=choose(np.less_equal(s.pp, 2), 1, 0),
    )
    last = _stage(d, s, software, footprint, layers=others, depth=1.0, logits=1.0)
    return first, second, last


def peak_bytes(stages: tuple[Memory, ...]) -> Array:
    """What the fullest of them needs of its device, the driver's part included."""
    peak = stages[0].device_bytes
    for stage in stages[1:]:
        peak = np.maximum(peak, stage.device_bytes)
    return peak


def peak_host_bytes(stages: tuple[Memory, ...]) -> Array:
    """What one device of any of them takes of its host's memory."""
    peak = stages[0].host_bytes
    for stage in stages[1:]:
        peak = np.maximum(peak, stage.host_bytes)
    return peak


def _stage(
    d: Decoder,
    s: Split,
    software: Software,
    footprint: Footprint,
    *,
    layers: Real,
    depth: Real,
    logits: Real,
    first: bool = False,
) -> Memory:
    """A stage with `depth` stages from it to the pipeline's end, itself included."""
    unrouted, routed = stage_parameters(d, s, layers=layers, first=first)
    # With one stage, first and last are the same.
    whole = stage_parameters(d, s, layers=layers)[1]
    routed = choose(np.greater(s.pp, 1), routed, np.minimum(whole, d.routed_parameters / (s.ep * s.expert_tp)))
    stage = np.asarray(s.zero_stage)
    expert_replicas = np.maximum(np.asarray(s.replicas) * s.tp / (np.asarray(s.ep) * s.expert_tp), 1.0)

    gathered = np.asarray(software.whole_in_pipelines) * np.greater(s.pp, 1)

    def held(value_bytes: Real, from_stage: float, whole: Flag = 0.0) -> Array:
        shard = choose((stage >= from_stage) & np.equal(whole, 0), s.sharded_over, 1.0)
        expert_shard = choose((stage >= from_stage) & np.equal(whole, 0), expert_replicas, 1.0)
        return value_bytes * (unrouted / shard + routed / expert_shard)

    reduced_bytes = np.maximum(software.gradient_bytes, software.held_gradient_bytes)
    gradient_bytes = choose((stage >= 3) & np.equal(gathered, 0), 2.0, reduced_bytes)
    chunks = 1.0 + (s.pp - 1.0) / (s.pp * s.virtual) * np.greater(s.virtual, 1)
    in_flight = np.minimum(depth * chunks, s.micro_batches)
    host = np.zeros(())
    if np.any(s.offload_optimizer) or np.any(s.offload_activations):
        waiting = layers * footprint.offloaded_bytes * in_flight
        host = host_bytes(held(1.0, 1.0), waiting, split=s)
    # ZeRO-3 holds the largest weight, the next one on its way, and its gradient.
    largest = (1.0 + d.gated) * d.width * d.feed_forward / s.tp
    return Memory(
        weights_bytes=held(WEIGHT_BYTES, 3.0, gathered),
        gradients_bytes=held(gradient_bytes, 2.0, gathered),
        optimizer_bytes=held(OPTIMIZER_BYTES, 1.0) * (1.0 - np.asarray(s.offload_optimizer)),
        activations_bytes=layers * footprint.kept_bytes * in_flight + footprint.again_bytes,
        # They are gone before the first layer is run again.
        logits_bytes=np.maximum(
            np.asarray(logits) * s.tokens * d.vocabulary / s.tp * software.logit_bytes - footprint.again_bytes, 0.0
        ),
        context_bytes=np.asarray(software.context_bytes),
        host_bytes=host,
        workspace_bytes=choose(stage >= 3, 3.0 * WEIGHT_BYTES, WORKSPACE_BYTES) * largest,
    )


def _largest(stages: tuple[Memory, ...]) -> Memory:
    """Of each configuration the stage that needs most."""
    totals = np.stack(np.broadcast_arrays(*(stage.total_bytes for stage in stages)))
    index = np.argmax(totals, axis=0)[None]

    def taken(name: str) -> Array:
        values = np.stack([np.broadcast_to(getattr(stage, name), totals.shape[1:]) for stage in stages])
        picked: Array = np.take_along_axis(values, index, axis=0)[0]
        return picked

    kinds = {field.name: taken(field.name) for field in dataclasses.fields(Memory)}
    return Memory(**{**kinds, "host_bytes": np.broadcast_to(peak_host_bytes(stages), totals.shape[1:])})
