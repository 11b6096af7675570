"""Seconds of one training step, and where they go.

    step = (m * slowest stage + (pp - 1)/v * mean stage + exposed communication + optimizer) * waiting for the slowest

One micro-batch through one stage takes the sum of its layers, which `cost.table` has by kind; `compose` puts them
together for a pipeline, replicas and a batch, in few operations, and `step_time` also says where the seconds go.
Zero-bubble schedules leave the share of the bubble that weight gradients cannot fill: 1/3 for as many micro-batches in
flight as 1F1B (ZB-H1, arXiv:2401.10241).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from myriarch.cost.arrays import Array, Real, ceil_div, choose
from myriarch.cost.decoder import Decoder
from myriarch.cost.layer import Setting
from myriarch.cost.offload import Host, optimizer_s
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.table import FORWARD_SHARE, Table, exposed_s

OPTIMIZER_BYTES: float = 28.0
"""Adam in fp32 moves at least: gradient read (4), weight and two moments read (12) and written (12)."""

WHOLE_GRADIENT_BYTES: float = 10.0
"""Moved per weight to add a gradient in two bytes to one in four."""


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
    offload_s: Array
    """Copies of activations to the host's memory and back that are not hidden."""
    other_s: Array
    """Fixed part of a step, and waiting for the slowest device."""

    @property
    def total_s(self) -> Array:
        parts: list[Array] = [getattr(self, field.name) for field in dataclasses.fields(self)]
        total: Array = np.sum(np.broadcast_arrays(*parts), axis=0)
        return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """Seconds of one step, without asking what the layers' seconds are spent on."""

    slot_s: Array
    """One micro-batch through the slowest stage: what one micro-batch more costs, but for `pp_s` and the like."""
    mean_s: Array
    """...through the mean stage."""
    slots_s: Array
    """All micro-batches through the slowest stage."""
    fill_s: Array
    """The pipeline's fill and drain."""
    pp_s: Array
    accumulate_s: Array
    """Adding gradients of micro-batches up."""
    dp_s: Array
    optimizer_s: Array
    jitter: Array
    """Share of the rest that is spent waiting for the slowest device."""
    fixed_s: float

    @property
    def busy_s(self) -> Array:
        # What depends on few things first: the sum grows to its full shape in the last addition.
        small = self.slots_s + self.fill_s + self.pp_s + self.accumulate_s
        busy: Array = small + (self.dp_s + self.optimizer_s)
        return busy

    @property
    def total_s(self) -> Array:
        total: Array = self.busy_s * (1.0 + self.jitter) + self.fixed_s
        return total


def step_time(
    decoder: Decoder, *, machine: Machine, split: Split, software: Software, parameters: Parameters
) -> StepTime:
    """Seconds of one step by kind. Arguments may hold arrays; they broadcast."""
    setting = Setting(decoder=decoder, machine=machine, split=split, software=software, parameters=parameters)
    table = Table.of(setting)
    whole = compose(setting, layer_s=table.layer_s, head_s=table.head_s)
    m, layers = split.micro_batches, decoder.layers / split.pp

    def per_step(kind: str) -> Array:
        total: Array = m * (layers * getattr(table.layer, kind) + getattr(table.head, kind) / split.pp)
        return total

    return StepTime(
        matmul_s=per_step("matmul_s"),
        attention_s=per_step("attention_s"),
        stream_s=per_step("stream_s") + whole.accumulate_s,
        recompute_s=m * layers * table.again.total_s,
        launch_s=per_step("launch_s"),
        tp_s=per_step("tp_s"),
        pp_s=whole.pp_s,
        cp_s=per_step("cp_s"),
        ep_s=per_step("ep_s"),
        dp_s=whole.dp_s,
        bubble_s=whole.fill_s + m * (whole.slot_s - whole.mean_s),
        optimizer_s=whole.optimizer_s,
        offload_s=m * layers * table.offload_s,
        other_s=whole.jitter * whole.busy_s + whole.fixed_s,
    )


def compose(setting: Setting, *, layer_s: Real, head_s: Real) -> Composition:
    """A step of layers that take `layer_s` for one micro-batch, forward, backward and again, and a head of `head_s`."""
    p, s, d = setting.parameters, setting.split, setting.decoder
    m = s.micro_batches
    slot_s = slot_seconds(d, s, layer_s=layer_s, head_s=head_s)
    mean_s = (d.layers * np.asarray(layer_s) + head_s) / s.pp
    many = np.greater(s.pp, 1)
    send_size = 2.0 * s.tokens * np.asarray(d.width) / s.tp
    # Stages are neighbours; but a pipeline longer than a link domain leaves it somewhere, and goes as fast as there.
    stride, domain = np.asarray(s.tp * s.cp * s.dp), setting.network.domain_devices
    stride = choose(np.greater(stride * s.pp, domain), np.maximum(stride, domain), stride)
    send_s = setting.network.send_s(send_size, stride=stride)
    shown = 1.0 - np.asarray(setting.software.pp_overlap) * p.overlap_reach
    pp_s = choose(many, 2.0 * send_s * (m * s.virtual * shown + (s.pp - 1.0)), 0.0)
    left = choose(s.zero_bubble, 1.0 / 3.0, 1.0)
    memory_bytes_per_s = setting.rates.memory_bytes_per_s
    sharding = _Sharding.of(setting)
    # Unsharded gradients of a micro-batch are added to those before it; sharded ones are scattered.
    unrouted, routed = stage_parameters(d, s, layers=d.layers / s.pp)
    whole = np.asarray(setting.software.whole_in_pipelines) * many
    added_bytes = choose(whole, WHOLE_GRADIENT_BYTES, setting.software.accumulation_bytes)
    added = added_bytes * (unrouted + routed) / memory_bytes_per_s
    scattered = np.greater_equal(s.zero_stage, 2) & np.equal(whole, 0)
    return Composition(
        slot_s=slot_s,
        mean_s=mean_s,
        slots_s=m * slot_s,
        fill_s=(s.pp - 1.0) / s.virtual * mean_s * left,
        pp_s=pp_s,
        accumulate_s=choose(scattered, 0.0, added) * (m - 1.0),
        dp_s=_data_parallel(setting, sharding, slot_s=slot_s),
        optimizer_s=_optimizer(setting, sharding.held, slot_s=slot_s),
        jitter=_jitter(s, p),
        fixed_s=p.step_s,
    )


def _optimizer(setting: Setting, held: Array, *, slot_s: Array) -> Array:
    p, share = setting.parameters, setting.split.offload_optimizer
    here_s: Array = held * OPTIMIZER_BYTES * p.optimizer_passes / setting.rates.memory_bytes_per_s
    if not np.any(share):
        return here_s
    window_s = (1.0 - FORWARD_SHARE) * slot_s
    return optimizer_s(held, here_s, share=share, window_s=window_s, host=Host.of(setting.machine), p=p)


def least_seconds(setting: Setting, *, layer_s: Real, head_s: Real) -> Array:
    """Not more than `compose` makes of the same layers, whatever the schedule and the sharding.

    Every micro-batch passes the slowest stage; all other summands of a step are zero or more.
    """
    s, p = setting.split, setting.parameters
    slots_s = s.micro_batches * slot_seconds(setting.decoder, s, layer_s=layer_s, head_s=head_s)
    least: Array = slots_s * (1.0 + _jitter(s, p)) + p.step_s
    return least


def _jitter(split: Split, p: Parameters) -> Array:
    """Share of a step that is spent waiting for the slowest of all devices."""
    jitter: Array = p.jitter * np.maximum(np.log2(np.asarray(split.devices) / 8.0), 0.0)
    return jitter


def slot_seconds(decoder: Decoder, split: Split, *, layer_s: Real, head_s: Real) -> Array:
    """One micro-batch through the slowest stage.

    The stage that holds the head is given fewer layers where they do not divide evenly.
    """
    most = most_layers(decoder, split)
    last = np.maximum(decoder.layers - (split.pp - 1.0) * most, np.minimum(most, 1.0))
    return np.maximum(most * layer_s, last * layer_s + head_s)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sharding:
    """Who holds which of the fullest stage's parameters."""

    unrouted: Array
    routed: Array
    expert_replicas: Array
    """Devices that hold the same experts when nothing is sharded."""
    expert_stride: Array
    held: Array
    """Parameters whose optimizer states a device has."""

    @classmethod
    def of(cls, setting: Setting) -> _Sharding:
        s = setting.split
        unrouted, routed = stage_parameters(setting.decoder, s, layers=most_layers(setting.decoder, s))
        stride = np.multiply(s.ep, s.expert_tp)
        replicas = np.maximum(np.multiply(s.replicas, s.tp) / stride, 1.0)
        sharded = np.greater_equal(s.zero_stage, 1)
        held = unrouted / choose(sharded, s.sharded_over, 1.0) + routed / choose(sharded, replicas, 1.0)
        return cls(unrouted=unrouted, routed=routed, expert_replicas=replicas, expert_stride=stride, held=held)


def _data_parallel(setting: Setting, sharding: _Sharding, *, slot_s: Array) -> Array:
    """Exposed collectives of gradients and weights.

    Replicated: an all-reduce of the gradient once a step, which is a scatter and a gather. ZeRO-1 scatters the gradient
    and gathers the weight. ZeRO-2, which holds no whole gradient, scatters it in every micro-batch. ZeRO-3 gathers the
    weight for both passes of every micro-batch and scatters the gradient (each once a step by
    frameworks that hold both whole in a pipeline); replicas of shards all-reduce once.
    """
    s, software, p = setting.split, setting.software, setting.parameters
    network, stride, m = setting.network, np.asarray(s.tp), setting.split.micro_batches
    replicas, shard = np.asarray(s.replicas), s.sharded_over
    expert_replicas = sharding.expert_replicas
    over = choose(np.greater_equal(s.zero_stage, 3), shard, replicas)
    flat = software.flat_collectives

    def moved(value_bytes: Real) -> Array:
        """Gathering (or scattering) all values of the fullest stage once over the replicas."""
        first = network.gather_s(sharding.unrouted * value_bytes, over, stride=stride, flat=flat)
        second = network.gather_s(
            sharding.routed * value_bytes, expert_replicas, stride=sharding.expert_stride, flat=flat
        )
        some = (expert_replicas > 1) & np.greater(sharding.routed, 0)
        return choose(over > 1, first, 0.0) + choose(some, second, 0.0)

    gradient, weight = moved(software.gradient_bytes), moved(2.0)
    sharded_once = weight + gradient * np.asarray(software.whole_gradients)
    once = gradient + choose(np.greater_equal(s.zero_stage, 1), sharded_once, gradient)
    # A chunk's gradients travel while the rank is busy with the micro-batches of its other chunks, its weights
    # likewise; the last chunk to finish has its own last pass.
    chunks = np.asarray(s.virtual)
    behind = slot_s * (1.0 + (chunks - 1.0) * np.minimum(s.pp, m)) / chunks
    window = choose(np.greater(s.pp, 1), behind, 0.9 * slot_s)
    scattered = choose(np.equal(s.zero_stage, 2), gradient, 0.0)
    plain = exposed_s(once, window, software.dp_overlap, p) + (m - 1.0) * exposed_s(
        scattered, slot_s, software.dp_overlap, p
    )
    # The first gather and the last scatter of a step have nothing beside them.
    beside = exposed_s(2.0 * weight + gradient, slot_s, software.dp_overlap, p)
    ends = (weight + gradient) / setting.decoder.layers
    across = np.maximum(replicas / shard, 1.0)
    size = sharding.unrouted / shard * software.gradient_bytes
    replicated = 2.0 * network.gather_s(size, across, stride=shard * stride)
    once_s = exposed_s(weight + gradient, slot_s, software.dp_overlap, p)
    whole = np.asarray(software.whole_in_pipelines) * np.greater(s.pp, 1)
    sharded = (
        choose(whole, once_s, m * beside)
        + ends
        + choose(across > 1, exposed_s(replicated, slot_s, software.dp_overlap, p), 0.0)
    )
    return choose(np.greater_equal(s.zero_stage, 3), sharded, plain)
