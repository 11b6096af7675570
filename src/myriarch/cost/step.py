"""Seconds of one training step, and where they go.

    step = (m * slowest stage + (pp - 1)/v * mean stage + exposed communication + optimizer) * waiting for the slowest

One micro-batch through one stage takes the sum of its layers, each pass a soft maximum (the hypotenuse) of what the
device computes and what the host launches: within a layer some kernels are longer than their launch, others shorter.
 Communication that runs beside compute is hidden up to `overlap_reach` of that compute and slows it by
`contention` of what is hidden; the rest is exposed. Zero-bubble schedules leave the share of the bubble that weight
gradients cannot fill: 1/3 for as many micro-batches in flight as 1F1B (ZB-H1, arXiv:2401.10241).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from myriarch.cost.arrays import Array, Real, ceil_div, choose
from myriarch.cost.decoder import Decoder
from myriarch.cost.layer import Layer, Setting, Times, attention_block, dense_block, mixture_block, vocabulary_layer
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split

OPTIMIZER_BYTES: float = 28.0
"""Adam in fp32 moves at least: gradient read (4), weight and two moments read (12) and written (12)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step by what the devices do; the parts sum to `total_s`."""

    matmul_s: Array
    attention_s: Array
    stream_s: Array
    """Norms, activations, soft-max of the loss, casts, permutations."""
    recompute_s: Array
    """Everything computed a second time."""
    launch_s: Array
    """The host was slower than the device."""
    tp_s: Array
    pp_s: Array
    cp_s: Array
    ep_s: Array
    dp_s: Array
    """Exposed collectives of data parallelism and weight sharding."""
    bubble_s: Array
    """Pipeline's fill and drain, and stages that wait for the slowest."""
    optimizer_s: Array
    other_s: Array
    """Fixed part of a step, and waiting for the slowest device."""

    @property
    def total_s(self) -> Array:
        parts: list[Array] = [getattr(self, field.name) for field in dataclasses.fields(self)]
        total: Array = np.sum(np.broadcast_arrays(*parts), axis=0)
        return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over one layer with what is exposed of its communication."""

    times: Times
    tp_s: Array
    ep_s: Array
    cp_s: Array
    launch_s: Array

    @property
    def total_s(self) -> Array:
        total: Array = self.times.compute_s + self.tp_s + self.ep_s + self.cp_s + self.launch_s
        return total


def _exposed(comm_s: Array, window_s: Array, overlap: Real, p: Parameters) -> Array:
    """Seconds that communication adds when the share `overlap` of it may run beside `window_s` of compute."""
    may = comm_s * np.asarray(overlap)
    hidden = np.minimum(may, p.overlap_reach * window_s)
    exposed: Array = comm_s - hidden + p.contention * hidden
    return exposed


def _pass(setting: Setting, times: Times) -> _Pass:
    software, p = setting.software, setting.parameters
    tp_s = _exposed(times.tp_s, times.matmul_s, software.tp_overlap, p)
    ep_s = _exposed(times.ep_s, times.compute_s, software.ep_overlap, p)
    cp_s = _exposed(times.cp_s, times.attention_s, 1.0, p)
    device_s = times.compute_s + tp_s + ep_s + cp_s
    host_s = times.kernels * software.host_seconds * p.host_scale
    return _Pass(times=times, tp_s=tp_s, ep_s=ep_s, cp_s=cp_s, launch_s=np.hypot(host_s, device_s) - device_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Seconds of one micro-batch through some layers, both passes."""

    forward: _Pass
    backward: _Pass
    again: _Pass
    """Recomputed; already weighed by how much is."""

    @property
    def total_s(self) -> Array:
        return self.forward.total_s + self.backward.total_s + self.again.total_s

    @property
    def compute_s(self) -> Array:
        return self.forward.times.compute_s + self.backward.times.compute_s + self.again.times.compute_s


def _stage(setting: Setting, layer: Layer) -> Stage:
    full = np.asarray(setting.split.recompute)
    selective = np.asarray(setting.split.selective) * (1.0 - full)
    zero = np.zeros_like(layer.forward.matmul_s)
    none = Times(matmul_s=zero, attention_s=zero, stream_s=zero, tp_s=zero, ep_s=zero, cp_s=zero, kernels=zero)
    again = none.plus(layer.forward, full).plus(layer.repeated, selective)
    return Stage(
        forward=_pass(setting, layer.forward), backward=_pass(setting, layer.backward), again=_pass(setting, again)
    )


def step_time(
    decoder: Decoder, *, machine: Machine, split: Split, software: Software, parameters: Parameters
) -> StepTime:
    """Seconds of one step by kind. Arguments may hold arrays; they broadcast."""
    setting = Setting(decoder=decoder, machine=machine, split=split, software=software, parameters=parameters)
    p, s, d = parameters, split, decoder
    attention, dense, mixture = (
        _stage(setting, block(setting)) for block in (attention_block, dense_block, mixture_block)
    )
    forward, backward = vocabulary_layer(setting)
    head_forward, head_backward = _pass(setting, forward), _pass(setting, backward)
    head_s = head_forward.total_s + head_backward.total_s

    # Layers of a stage. The stage that holds the head is given fewer layers where they do not divide evenly.
    most = most_layers(d, s)
    last = np.maximum(d.layers - (s.pp - 1.0) * most, np.minimum(most, 1.0))
    mixture_share = d.mixture_layers / d.layers
    stages = ((attention, np.ones_like(mixture_share)), (dense, 1.0 - mixture_share), (mixture, mixture_share))
    layer_s: Array = sum((stage.total_s * share for stage, share in stages), start=np.zeros(()))
    mean_layers = d.layers / s.pp
    slot_s = np.maximum(most * layer_s, last * layer_s + head_s)
    mean_s = mean_layers * layer_s + head_s / s.pp

    m = s.micro_batches
    many = np.greater(s.pp, 1)
    send_size = 2.0 * s.tokens * np.asarray(d.width) / s.tp
    send_s = setting.network.send_s(send_size, stride=s.tp * s.cp * s.dp)
    hidden = np.asarray(software.pp_overlap) * p.overlap_reach
    pp_s = choose(many, 2.0 * send_s * (m * s.virtual * (1.0 - hidden) + (s.pp - 1.0)), 0.0)
    left = choose(s.zero_bubble, 1.0 / 3.0, 1.0)
    bubble_s = (s.pp - 1.0) / s.virtual * mean_s * left + m * (slot_s - mean_s)

    def summed(pick: str, *, again: bool = False) -> Array:
        total: Array = np.zeros(())
        for stage, share in stages:
            passes = (stage.again,) if again else (stage.forward, stage.backward)
            for each in passes:
                value = getattr(each, pick) if hasattr(each, pick) else getattr(each.times, pick)
                total = total + value * share
        return total

    def per_step(pick: str) -> Array:
        head: Array = sum(
            (getattr(each, pick) if hasattr(each, pick) else getattr(each.times, pick))
            for each in (head_forward, head_backward)
        )
        return m * (mean_layers * summed(pick) + head / s.pp)

    # Unsharded gradients of a micro-batch are added to those before it.
    unrouted, routed = stage_parameters(d, s, layers=mean_layers)
    added = software.accumulation_bytes * (unrouted + routed) / setting.rates.memory_bytes_per_s
    accumulate_s = choose(np.greater_equal(s.zero_stage, 3), 0.0, added) * np.maximum(m - 1.0, 0.0)
    again_s: Array = m * mean_layers * summed("total_s", again=True)
    dp_s = _data_parallel(setting, slot_s=slot_s, micro_batches=m)
    optimizer_s = _optimizer(setting)
    parts = {
        "matmul_s": per_step("matmul_s"),
        "attention_s": per_step("attention_s"),
        "stream_s": per_step("stream_s") + accumulate_s,
        "recompute_s": again_s,
        "launch_s": per_step("launch_s"),
        "tp_s": per_step("tp_s"),
        "pp_s": pp_s,
        "cp_s": per_step("cp_s"),
        "ep_s": per_step("ep_s"),
        "dp_s": dp_s,
        "bubble_s": bubble_s,
        "optimizer_s": optimizer_s,
    }
    busy: Array = sum(parts.values(), start=np.zeros(()))
    waiting = p.jitter * np.maximum(np.log2(np.asarray(s.devices) / 8.0), 0.0) * busy
    return StepTime(**parts, other_s=waiting + p.step_s)


def stage_parameters(decoder: Decoder, split: Split, *, layers: Real, first: bool = False) -> tuple[Array, Array]:
    """Parameters of a stage of so many layers on one device before sharding by ZeRO: unrouted and routed.

    A mixture's dense layers are its first, so the first stage has fewer experts than the others. Each end of a pipeline
    has the vocabulary once.
    """
    d, s = decoder, split
    share = np.divide(layers, d.layers)
    vocabulary = d.vocabulary_parameters * choose(np.greater(s.pp, 1), 1.0, 2.0 - np.asarray(d.tied))
    unrouted = (d.unrouted_parameters * share + vocabulary) / s.tp
    mixtures = np.minimum(layers, d.mixture_layers)
    if first:
        mixtures = choose(np.greater(d.experts, 0), np.maximum(np.subtract(layers, d.dense_layers), 0.0), 0.0)
    each = d.experts * d.expert_parameters / (s.ep * s.expert_tp)
    return unrouted, mixtures * each


def most_layers(decoder: Decoder, split: Split) -> Array:
    """Layers of the fullest stage."""
    return choose(np.greater(split.stage_layers, 0), split.stage_layers, ceil_div(decoder.layers, split.pp))


def _data_parallel(setting: Setting, *, slot_s: Array, micro_batches: Array) -> Array:
    s, software, p = setting.split, setting.software, setting.parameters
    network = setting.network
    unrouted, routed = stage_parameters(setting.decoder, s, layers=most_layers(setting.decoder, s))
    stride = np.asarray(s.tp)
    replicas, shard = np.asarray(s.replicas), s.sharded_over
    expert_replicas = np.maximum(replicas * s.tp / (np.asarray(s.ep) * s.expert_tp), 1.0)
    expert_stride = np.asarray(s.ep) * s.expert_tp

    def moved(value_bytes: Real) -> Array:
        """Gathering (or scattering) all values of the fullest stage once over the replicas."""
        over = choose(np.greater_equal(s.zero_stage, 3), shard, replicas)
        first = network.gather_s(unrouted * value_bytes, over, stride=stride, flat=software.flat_collectives)
        second = network.gather_s(
            routed * value_bytes, expert_replicas, stride=expert_stride, flat=software.flat_collectives
        )
        return choose(over > 1, first, 0.0) + choose((expert_replicas > 1) & np.greater(routed, 0), second, 0.0)

    gradient, weight = moved(software.gradient_bytes), moved(2.0)
    # Replicated or ZeRO-1/2: once per step. An all-reduce is a scatter and a gather of the gradient; a sharded
    # optimizer scatters the gradient and gathers the weight.
    once = gradient + choose(np.greater_equal(s.zero_stage, 1), weight, gradient)
    window = slot_s * choose(np.greater(s.pp, 1), 1.0 / np.asarray(s.virtual), 0.9)
    plain = _exposed(once, window, software.dp_overlap, p)
    # ZeRO-3: weights gathered for each pass of each micro-batch, gradients scattered; replicas of shards all-reduce
    # once. The first gather and the last scatter of a step have nothing beside them.
    each = 2.0 * weight + gradient
    beside = _exposed(each, slot_s, software.dp_overlap, p)
    ends = (weight + gradient) / setting.decoder.layers
    across = np.maximum(replicas / shard, 1.0)
    replicated = 2.0 * network.gather_s(unrouted / shard * software.gradient_bytes, across, stride=shard * stride)
    sharded = (
        micro_batches * beside + ends + choose(across > 1, _exposed(replicated, slot_s, software.dp_overlap, p), 0.0)
    )
    return choose(np.greater_equal(s.zero_stage, 3), sharded, plain)


def _optimizer(setting: Setting) -> Array:
    s, p = setting.split, setting.parameters
    unrouted, routed = stage_parameters(setting.decoder, s, layers=most_layers(setting.decoder, s))
    sharded = np.greater_equal(s.zero_stage, 1)
    expert_replicas = np.maximum(np.asarray(s.replicas) * s.tp / (np.asarray(s.ep) * s.expert_tp), 1.0)
    held = unrouted / choose(sharded, s.sharded_over, 1.0) + routed / choose(sharded, expert_replicas, 1.0)
    return held * OPTIMIZER_BYTES * p.optimizer_passes / setting.rates.memory_bytes_per_s
