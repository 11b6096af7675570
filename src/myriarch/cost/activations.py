"""Bytes that one layer keeps of one micro-batch for its backward pass, and where.

Of one token (Korthikanti et al., "Reducing Activation Recomputation", MLSys 2023, section 4), in bytes,

    norms' and products' inputs of the full width   8 h, and 2 h of dropout masks        / tp with sequence parallelism
    queries, keys, values and the mix of values     2 (q + 2 kv) + 2 q                   / tp
    MLP: before and after the activation            2 f (2, or 3 gated)                  / tp
    soft-max and dropout, without flash attention   5 a s                                / tp

which is their equation 2, s b h (10 + 24/t + 5 a s / h t), for f = 4 h and no grouped queries.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, choose
from myriarch.cost.decoder import Decoder
from myriarch.cost.split import Software, Split

BUFFERED_LAYERS: Final = 2.0
"""Layers whose offloaded activations are on the device at a time: one on its way, one in use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footprint:
    """Activations of one layer and one micro-batch on one device.

    Depends of the split on what `cost.table` says of its tables, so a search makes it as rarely.
    """

    kept_bytes: Array
    """From the forward to the backward pass."""
    again_bytes: Array
    """While a recomputed layer is run again, all of it is there once; and offloaded layers on their way."""
    offloaded_bytes: Array = dataclasses.field(default_factory=lambda: np.zeros(()))
    """What waits in the host's memory, not counted in the others."""

    @classmethod
    def of(cls, decoder: Decoder, *, split: Split, software: Software) -> Footprint:
        s, recompute = split, np.asarray(split.recompute)
        layer_bytes = activation_bytes(decoder, split=s, software=software)
        input_bytes = 2.0 * s.tokens * np.asarray(decoder.width) / choose(s.sequence_parallel, s.tp, 1.0)
        kept_bytes = layer_bytes * (1.0 - recompute) + input_bytes * recompute
        offloaded_bytes = kept_bytes * s.offload_activations
        return cls(
            kept_bytes=kept_bytes - offloaded_bytes,
            again_bytes=layer_bytes * recompute + BUFFERED_LAYERS * offloaded_bytes,
            offloaded_bytes=offloaded_bytes,
        )


def activation_bytes(decoder: Decoder, *, split: Split, software: Software) -> Array:
    """What one layer keeps of one micro-batch for its backward pass on one device, nothing recomputed in full."""
    d, s = decoder, split
    tokens, width = np.asarray(s.tokens), np.asarray(d.width)
    flash = np.asarray(software.flash_attention)
    selective = np.asarray(s.selective)
    value = 2.0 - (2.0 - np.asarray(s.narrow_bytes)) * np.asarray(s.narrow_share)
    query = d.heads * d.head_width
    values = d.heads * d.value_head_width
    key_value = 2.0 * choose(d.is_latent, (query + values) / 2.0, d.kv_heads * d.head_width)
    ranks = choose(d.is_latent, 2.0 * (d.query_rank + d.kv_rank), 0.0)
    # Norms' inputs in two bytes, products' inputs in the precision of the product. Selective recomputation with flash
    # attention repeats what is cheap: norms, activations, up-projections of latent attention.
    cheap = 1.0 - flash * selective
    wide = 4.0 * width + cheap * 2.0 * value * width + np.asarray(software.dropout) * 2.0 * width
    mlp_values = choose(np.greater(d.experts, 0), d.shared_experts * d.expert_feed_forward, d.feed_forward)
    activation = 2.0 * (1.0 + d.gated) + cheap * value
    expanded = choose(d.is_latent, cheap, 1.0)
    core = 2.0 * expanded * (query + key_value) + (1.0 + value / 2.0) * values
    # Soft-max before and after dropout, and a mask of one byte.
    entry = 4.0 + np.asarray(software.dropout)
    square = (1.0 - flash) * (1.0 - selective) * entry * d.heads * s.sequence
    mixture = np.asarray(np.greater(d.experts, 0), dtype=np.float64)
    share = d.mixture_layers / d.layers
    routed_values = (
        d.top_k * ((value + 2.0) * width + activation * d.expert_feed_forward) / np.maximum(s.expert_tp, 1.0)
    )
    expert_tokens = tokens * s.expert_tp / s.tp
    dense_part = (1.0 - share) * mixture * activation * d.feed_forward
    sharded = core + square + activation * mlp_values * choose(mixture, share, 1.0) + dense_part + ranks
    kept: Array = (
        tokens * wide / choose(s.sequence_parallel, s.tp, 1.0)
        + tokens * sharded / s.tp
        + mixture * share * expert_tokens * routed_values
    )
    return kept
