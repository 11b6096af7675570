"""Seconds of one layer, and of the vocabulary's layer, for one micro-batch on one device.

Shapes follow Megatron-LM: attention's heads and the MLP's hidden width are split over tp; experts over ep; the sequence
over cp. Forward and backward apart; the backward pass has two products for each of the forward's (gradients of the
input and of the weight). Bytes of streaming kernels count values of two bytes that fused kernels read and write.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real, choose
from myriarch.cost.decoder import Decoder
from myriarch.cost.kernels import Rates, product_s, stream_s
from myriarch.cost.network import Network
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split

DISPATCH_LAUNCHES: Final = 100.0
"""Launches of routing, permuting and dispatching, and waits as long as so many."""


UNFUSED_VALUES: Final = 22.0
"""Values moved for each of a gated activation that is a row of plain operations: gpt-oss's has a bias (reads and writes
4), clamps both halves (4), scales (2), takes the sigmoid (2), multiplies (3), adds one (2), multiplies (3) and weighs
(2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one pass over one layer by kind."""

    matmul_s: Array
    attention_s: Array
    stream_s: Array
    tp_s: Array
    """Collectives of tensor parallelism, before overlap."""
    ep_s: Array
    """All-to-all of experts, before overlap."""
    cp_s: Array
    """Exchange of keys and values, before overlap."""
    kernels: Array
    """Launched: what the host has to keep up with."""

    @property
    def compute_s(self) -> Array:
        return self.matmul_s + self.attention_s + self.stream_s

    def plus(self, other: Times, share: Real = 1.0) -> Times:
        """Both, the other by `share`."""
        names = [field.name for field in dataclasses.fields(self)]
        return Times(**{name: getattr(self, name) + np.multiply(share, getattr(other, name)) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One kind of layer: its two passes, and the part of the forward pass that selective recomputation repeats."""

    forward: Times
    backward: Times
    repeated: Times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that a layer's time depends on."""

    decoder: Decoder
    machine: Machine
    split: Split
    software: Software
    parameters: Parameters

    @property
    def rates(self) -> Rates:
        return Rates.of(self.machine, self.software, self.parameters)

    @property
    def network(self) -> Network:
        return Network.of(self.machine, self.parameters)


def _passes(setting: Setting) -> Array:
    """How often streaming kernels touch memory, relative to fused ones."""
    return 1.0 + np.asarray(setting.software.eager) * (setting.parameters.eager_passes - 1.0)


class _Products:
    """Sums the products of one pass and its mirror."""

    def __init__(self, setting: Setting, rates: Rates) -> None:
        self._rates = rates
        self._share = setting.split.narrow_share
        self._bytes = setting.split.narrow_bytes
        self._passes = setting.parameters.narrow_passes
        self._weight_casts = setting.software.weight_casts
        self.forward_s: Array = np.zeros(())
        self.backward_s: Array = np.zeros(())
        self.cast_s: Array = np.zeros(())
        """Quantising of the forward pass; the backward pass has as much for the gradients."""
        self.kernels = 0.0

    def add(self, m: Real, n: Real, k: Real, *, groups: Real = 1.0, where: Real = 1.0, weights: float = 0.0) -> None:
        """A product that exists `where`; m: tokens. `weights`: they are quantised too, anew for each micro-batch."""
        self.forward_s = self.forward_s + where * self._mixed(m, n, k, groups)
        self.backward_s = self.backward_s + where * (self._mixed(m, k, n, groups) + self._mixed(n, k, m, groups))
        # One read of the operand in two bytes, two writes (as it is and transposed) in one.
        values = groups * (np.multiply(m, k) + np.maximum(weights, self._weight_casts) * np.multiply(n, k))
        # Below one byte: also a rotation and a second, finer scale, each a pass (NVFP4, arXiv:2509.25149).
        finer = 1.0 + np.less(self._bytes, 1.0)
        cast = stream_s(self._passes * finer * 4.0 * values, rates=self._rates, kernels=1.0)
        self.cast_s = self.cast_s + where * self._share * cast
        self.kernels += 1.0

    def _mixed(self, m: Real, n: Real, k: Real, groups: Real) -> Array:
        rates, share = self._rates, self._share
        wide = product_s(m, n, k, rates=rates, rate_flops_per_s=rates.wide_flops_per_s, groups=groups)
        narrow = product_s(
            m, n, k, rates=rates, rate_flops_per_s=rates.narrow_flops_per_s, value_bytes=self._bytes, groups=groups
        )
        return np.multiply(1.0 - np.asarray(share), wide) + np.multiply(share, narrow)


def attention_block(setting: Setting) -> Layer:
    """Norm, projections, attention, residual."""
    d, s = setting.decoder, setting.split
    rates, tokens = setting.rates, setting.split.tokens
    products = _Products(setting, rates)
    latent = np.asarray(d.is_latent, dtype=np.float64)
    ordinary = 1.0 - latent
    query = d.heads * d.head_width / s.tp
    key_value = 2.0 * np.maximum(np.divide(d.kv_heads, s.tp), 1.0) * d.head_width
    products.add(tokens, query + key_value, d.width, where=ordinary)
    products.add(tokens, d.width, query, where=ordinary)
    # Where there is no latent attention, its ranks are 0 and the products are masked; 1.0 keeps the shapes positive.
    q_rank, kv_rank = np.maximum(d.query_rank, 1.0), np.maximum(d.kv_rank, 1.0)
    nope, value = np.subtract(d.head_width, d.rope_width), np.maximum(d.value_width, 1.0)
    ranked = np.greater(d.query_rank, 0)
    products.add(tokens, q_rank, d.width, where=latent * ranked)
    products.add(tokens, query, choose(ranked, q_rank, d.width), where=latent)
    products.add(tokens, kv_rank + d.rope_width, d.width, where=latent)
    products.add(tokens, d.heads * (nope + value) / s.tp, kv_rank, where=latent)
    products.add(tokens, d.width, d.heads * value / s.tp, where=latent)

    core_forward, core_backward = _core(setting, rates)
    hidden = 2.0 * tokens * d.width / choose(s.sequence_parallel, s.tp, 1.0)
    rotated = 2.0 * tokens * (query + key_value / 2.0)
    # Norm: read, write; residual with dropout: two reads, a write. Rotary positions: read, write.
    # Latent attention copies and joins its parts once more.
    passes = _passes(setting)
    forward_bytes = passes * (5.0 * hidden + 2.0 * rotated + latent * 4.0 * rotated)
    stream_forward = stream_s(forward_bytes, rates=rates, kernels=4.0 * passes) + products.cast_s
    stream_backward = stream_s(1.6 * forward_bytes, rates=rates, kernels=6.0 * passes) + products.cast_s
    tp_forward, tp_backward = _tensor_parallel(setting, tokens)
    cp_forward = _context_parallel(setting, tokens * key_value)
    zero = np.zeros_like(products.forward_s)
    count = 6.0 + 4.0 * passes + 4.0 * latent + 2.0 * np.greater(s.tp, 1)
    unfused = 4.0 * (1.0 - np.asarray(setting.software.flash_attention))
    forward = Times(
        matmul_s=products.forward_s,
        attention_s=core_forward,
        stream_s=stream_forward,
        tp_s=tp_forward,
        ep_s=zero,
        cp_s=cp_forward,
        kernels=zero + count + unfused,
    )
    backward = Times(
        matmul_s=products.backward_s,
        attention_s=core_backward,
        stream_s=stream_backward,
        tp_s=tp_backward,
        ep_s=zero,
        cp_s=2.0 * cp_forward,
        kernels=zero + 1.8 * (count + unfused),
    )
    # Without flash attention what is repeated is the core (Korthikanti et al. 2022, section 5). With it there is
    # nothing there to save: norms and the up-projections of latent attention are repeated.
    flash = np.asarray(setting.software.flash_attention)
    again = Times(
        matmul_s=flash * latent * products.forward_s * 0.4,
        attention_s=(1.0 - flash) * core_forward,
        stream_s=flash * 0.4 * stream_forward,
        tp_s=zero,
        ep_s=zero,
        cp_s=zero,
        kernels=zero + 3.0,
    )
    return Layer(forward=forward, backward=backward, repeated=again)


def _core(setting: Setting, rates: Rates) -> tuple[Array, Array]:
    """Seconds of scores, soft-max and mixing, forward and backward.

    Flash attention (Dao et al., arXiv:2205.14135) skips what the causal mask hides and repeats the scores backward: 2.5
    times the forward's work. Without it both products cover the whole square, and the square itself goes through
    memory: forward 13 bytes an entry (scores written, mask and soft-max, dropout with its mask byte, read to mix),
    backward 21.
    """
    d, s, p = setting.decoder, setting.split, setting.parameters
    queries, heads = s.tokens, np.divide(d.heads, s.tp)
    widths = np.add(d.head_width, d.value_head_width)
    square = queries * d.attended_tokens(s.sequence) * heads
    flops = 2.0 * square * widths
    # Narrow heads leave the matrix units waiting for the exponentials; 128 is what kernels are tuned for.
    narrow_heads = np.minimum(widths / 256.0, 1.0) ** 0.2
    behind = np.maximum(np.subtract(setting.machine.launch_year, setting.software.attention_year), 0.0)
    aged = np.exp(-behind / p.attention_aging_years)
    flash_rate = rates.wide_flops_per_s * p.attention_share * narrow_heads * aged
    # Rows shorter than a few tiles, and masks cut by tiles, fill the chip less.
    short = 1.0 + 512.0 / np.asarray(s.sequence)
    flash_forward = 0.5 * flops * short / flash_rate + rates.kernel_s
    flash_backward = 2.5 * flash_forward * 1.15
    # Rows of a head that do not start at 16 bytes keep the matrix units out (DU-09798-001, section 2.1): an eighth of
    # the rate is left, that of the vector units (A100 white paper, table 1: 39 of 312 TFLOP/s in bf16).
    aligned = choose(np.mod(d.head_width, 8.0) < 0.5, 1.0, 0.125)
    batched_rate = rates.wide_flops_per_s * p.batched_share * np.minimum(widths / 256.0, 1.0) ** 0.5 * aligned
    passes = 1.0 + np.asarray(setting.software.eager) * (p.eager_softmax_passes - 1.0)
    plain_forward = flops / batched_rate + stream_s(13.0 * passes * square, rates=rates, kernels=4.0)
    plain_backward = 2.0 * flops / batched_rate + stream_s(21.0 * passes * square, rates=rates, kernels=6.0)
    flash = setting.software.flash_attention
    return choose(flash, flash_forward, plain_forward), choose(flash, flash_backward, plain_backward)


def _tensor_parallel(setting: Setting, tokens: Real) -> tuple[Array, Array]:
    """Collectives of one block, forward and backward: an all-reduce each way, or with sequence parallelism the same
    bytes as a gather and a scatter; the gather of the input is repeated backward, half of it beside a product."""
    s = setting.split
    size = 2.0 * tokens * np.asarray(setting.decoder.width)
    both = 2.0 * setting.network.gather_s(size, s.tp, stride=1.0)
    there = choose(np.greater(s.tp, 1), both, 0.0)
    return there, there * (1.0 + 0.25 * np.asarray(s.sequence_parallel))


def _context_parallel(setting: Setting, values: Real) -> Array:
    """Keys and values of all other ranks pass by once, forward (Liu et al., arXiv:2310.01889)."""
    s = setting.split
    size = 2.0 * np.asarray(values) * s.cp
    return choose(np.greater(s.cp, 1), setting.network.gather_s(size, s.cp, stride=s.tp), 0.0)


def dense_block(setting: Setting) -> Layer:
    """Norm, MLP, residual."""
    d, s = setting.decoder, setting.split
    rates, tokens = setting.rates, setting.split.tokens
    products = _Products(setting, rates)
    hidden_width = d.feed_forward / s.tp
    products.add(tokens, (1.0 + d.gated) * hidden_width, d.width)
    products.add(tokens, d.width, hidden_width)
    forward_bytes, kernels = _mlp_stream(setting, tokens, tokens * hidden_width)
    tp_forward, tp_backward = _tensor_parallel(setting, tokens)
    return _block(setting, products, forward_bytes, kernels, tp=(tp_forward, tp_backward))


def _mlp_stream(setting: Setting, tokens: Real, hidden_values: Real) -> tuple[Array, Array]:
    """Bytes that an MLP block's streaming kernels move forward, and their number."""
    s, d = setting.split, setting.decoder
    passes = _passes(setting)
    hidden = 2.0 * tokens * d.width / choose(s.sequence_parallel, s.tp, 1.0)
    # A fused activation reads one or two values and writes one.
    values = choose(d.unfused_activation, UNFUSED_VALUES, 2.0 + d.gated)
    activation = 2.0 * np.asarray(hidden_values) * values
    return passes * (5.0 * hidden + activation), 4.0 * passes


def _block(
    setting: Setting,
    products: _Products,
    forward_bytes: Real,
    kernels: Real,
    *,
    tp: tuple[Array, Array],
    ep_s: Real = 0.0,
    launches: Real = 0.0,
) -> Layer:
    rates = setting.rates
    zero = np.zeros_like(products.forward_s)
    stream_forward = stream_s(forward_bytes, rates=rates, kernels=kernels) + products.cast_s
    count = np.add(kernels, 2.0) + 2.0 * np.greater(setting.split.tp, 1) + launches
    forward = Times(
        matmul_s=products.forward_s,
        attention_s=zero,
        stream_s=stream_forward,
        tp_s=tp[0],
        ep_s=zero + ep_s,
        cp_s=zero,
        kernels=zero + count,
    )
    backward = Times(
        matmul_s=products.backward_s,
        attention_s=zero,
        stream_s=stream_s(np.multiply(1.6, forward_bytes), rates=rates, kernels=1.5 * np.asarray(kernels))
        + products.cast_s,
        tp_s=tp[1],
        ep_s=zero + ep_s,
        cp_s=zero,
        kernels=zero + 1.8 * count,
    )
    flash = np.asarray(setting.software.flash_attention)
    again = Times(
        matmul_s=zero,
        attention_s=zero,
        stream_s=flash * 0.4 * stream_forward,
        tp_s=zero,
        ep_s=zero,
        cp_s=zero,
        kernels=zero + 2.0,
    )
    return Layer(forward=forward, backward=backward, repeated=again)


def mixture_block(setting: Setting) -> Layer:
    """Norm, router, all-to-all, experts, all-to-all, residual."""
    d, s, p = setting.decoder, setting.split, setting.parameters
    rates = setting.rates
    has = np.greater(d.experts, 0)
    experts, top_k = choose(has, d.experts, 1.0), choose(has, d.top_k, 1.0)
    hidden = choose(has, d.expert_feed_forward, 64.0) / s.expert_tp
    ranks = np.divide(s.tp, s.expert_tp)  # tensor-parallel ranks that share a token's experts out among them
    tokens = s.tokens / ranks
    # Each rank gets as many tokens as it sends; the busiest of several a little more. Experts of a fixed capacity take
    # as many, padding included.
    busiest = choose(
        np.greater(d.capacity_factor, 0), d.capacity_factor, 1.0 + (p.imbalance - 1.0) * np.greater(s.ep, 1)
    )
    routed = tokens * top_k * busiest
    local = np.maximum(experts / s.ep, 1.0)
    products = _Products(setting, rates)
    products.add(routed / local, (1.0 + d.gated) * hidden, d.width, groups=local, weights=0.5)
    products.add(routed / local, d.width, hidden, groups=local, weights=0.5)
    shared = d.shared_experts * choose(has, d.expert_feed_forward, 64.0) / s.tp
    some = np.asarray(np.greater(shared, 0), dtype=np.float64)
    shared = np.maximum(shared, 1.0)
    products.add(s.tokens, (1.0 + d.gated) * shared, d.width, where=some)
    products.add(s.tokens, d.width, shared, where=some)
    forward_bytes, kernels = _mlp_stream(setting, s.tokens, routed * hidden + some * s.tokens * shared)
    # Router: logits and scores in fp32; then the routed tokens are permuted, padded, weighed and put back.
    forward_bytes = forward_bytes + 16.0 * tokens * experts + p.scatter_passes * 2.0 * routed * d.width
    size = 2.0 * tokens * top_k * d.width
    ep_s = 2.0 * setting.network.exchange_s(
        size, s.ep, stride=ranks * 0 + 1.0, copies=top_k, once=setting.software.ep_once
    )
    tp_forward, tp_backward = _tensor_parallel(setting, s.tokens)
    # The products of each expert are launched by themselves, and so are their quantising and its scales; routing and
    # dispatch wait for the counts of tokens to come back to the host.
    launches = DISPATCH_LAUNCHES + local * (2.0 + 8.0 * np.asarray(s.narrow_share))
    tp = (tp_forward, tp_backward)
    return _block(setting, products, forward_bytes, kernels + 12.0, tp=tp, ep_s=ep_s, launches=launches)


def vocabulary_layer(setting: Setting) -> tuple[Times, Times]:
    """Embedding, final norm, output head and loss: forward and backward."""
    d, s = setting.decoder, setting.split
    rates, tokens = setting.rates, setting.split.tokens
    share = d.vocabulary / s.tp
    rate = rates.wide_flops_per_s
    forward = product_s(tokens, share, d.width, rates=rates, rate_flops_per_s=rate)
    backward = product_s(tokens, d.width, share, rates=rates, rate_flops_per_s=rate) + product_s(
        share, d.width, tokens, rates=rates, rate_flops_per_s=rate
    )
    # Logits in two bytes, cast to fp32, maximum, sum, loss; eager frameworks make a copy each time.
    passes = choose(setting.software.eager, 28.0, 14.0)
    hidden = 8.0 * tokens * np.asarray(d.width)
    stream_forward = stream_s(passes * tokens * share + hidden, rates=rates, kernels=8.0)
    stream_backward = stream_s(0.7 * passes * tokens * share + hidden, rates=rates, kernels=8.0)
    zero = np.zeros_like(forward)
    tp_forward, tp_backward = _tensor_parallel(setting, tokens)

    def times(matmul: Array, stream: Array, tp: Array) -> Times:
        return Times(
            matmul_s=matmul,
            attention_s=zero,
            stream_s=stream,
            tp_s=tp,
            ep_s=zero,
            cp_s=zero,
            kernels=zero + 12.0,
        )

    return times(forward, stream_forward, tp_forward), times(backward, stream_backward, tp_backward)
