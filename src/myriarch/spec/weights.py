"""How many weights a model has, by kind: exact, so that published counts come out to the last digit.

With d the width, q and v the widths of a head's queries and values, h and k the heads of queries and of keys, f the
MLP's hidden width, g = 2 with a gate and 1 without:

    attention          d h q + 2 d k q + h q d
    latent attention   d r + r h q  (no query rank: d h q)  +  d (c + p) + c h (q - p + v) + h v d
    MLP, one expert    (g + 1) d f

r and c are the ranks of queries and of keys and values, p the part of q that carries the position (DeepSeek-V2,
arXiv:2405.04434, equations 9 to 19; each rank has a norm). A router has d weights for each expert.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from myriarch.spec.model import LatentAttention, Mixture, Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Trainable parameters of a model, all layers together."""

    attention: int
    dense_mlp: int
    """Of the layers without a mixture."""
    router: int
    routed_experts: int
    active_experts: int
    """Of the routed experts, what one token passes."""
    shared_experts: int
    norms: int
    biases: int
    """Outside the routed experts; theirs count with them."""
    embedding: int
    head: int
    """0 where it is the embedding's matrix."""
    positions: int

    @property
    def total(self) -> int:
        layers = self.attention + self.dense_mlp + self.router + self.routed_experts + self.shared_experts
        return layers + self.norms + self.biases + self.embedding + self.head + self.positions

    @property
    def active(self) -> int:
        """What one token is multiplied with: not the other experts, not the look-ups of its word and position."""
        look_ups = self.positions + (self.embedding if self.head else 0)
        return self.total - self.routed_experts + self.active_experts - look_ups

    @property
    def matrices(self) -> int:
        """Of the active ones, those of matrix products: without norms and biases."""
        return self.active - self.norms - self.biases


def weights_of(model: Model) -> Weights:
    """Count the weights of a model."""
    width, mixture_layers = model.width, model.mixture_layers
    dense_layers = model.layers - mixture_layers
    norm = width * (2 if model.norm == "layernorm" else 1)
    counts = dict.fromkeys(("router", "routed_experts", "active_experts", "shared_experts"), 0)
    biases = model.layers * _attention_biases(model)
    if model.biases == "all":
        biases += dense_layers * _mlp_biases(model, model.feed_forward_resolved)
    if model.mixture is not None:
        counts, more = _mixture(model, model.mixture, mixture_layers)
        biases += more
    return Weights(
        attention=model.layers * _attention(model),
        dense_mlp=dense_layers * _mlp(model, model.feed_forward_resolved),
        norms=model.layers * (model.norms_per_layer * norm + _inner_norms(model)) + norm,
        biases=biases,
        embedding=model.vocabulary * width,
        head=0 if model.tied_embeddings else model.vocabulary * width,
        positions=model.context_tokens * width if model.positions == "learned" else 0,
        **counts,
    )


def _attention(model: Model) -> int:
    if model.latent is not None:
        return _latent_attention(model, model.latent)
    return model.width * model.head_width_resolved * (2 * model.heads + 2 * model.kv_heads_resolved)


def _latent_attention(model: Model, latent: LatentAttention) -> int:
    width, heads = model.width, model.heads
    query = heads * (latent.nope_width + latent.rope_width)
    queries = width * query if latent.query_rank is None else latent.query_rank * (width + query)
    compressed = width * (latent.kv_rank + latent.rope_width)
    expanded = latent.kv_rank * heads * (latent.nope_width + latent.value_width)
    return queries + compressed + expanded + heads * latent.value_width * width


def _inner_norms(model: Model) -> int:
    """Of one layer: those inside attention."""
    if model.latent is not None:
        return model.latent.kv_rank + (model.latent.query_rank or 0)
    return 2 * model.head_width_resolved if model.query_key_norm else 0


def _attention_biases(model: Model) -> int:
    if model.biases == "none":
        return 0
    projected = model.head_width_resolved * (model.heads + 2 * model.kv_heads_resolved)
    return projected + (model.width if model.biases == "all" else 0)


def _mlp(model: Model, hidden: int) -> int:
    return (3 if model.is_gated else 2) * model.width * hidden


def _mlp_biases(model: Model, hidden: int) -> int:
    return (2 if model.is_gated else 1) * hidden + model.width


def _mixture(model: Model, mixture: Mixture, layers: int) -> tuple[dict[str, int], int]:
    """Counts of the mixture layers, and their biases outside the routed experts."""
    has_biases = model.biases == "all"
    own_biases = _mlp_biases(model, mixture.expert_feed_forward) if has_biases else 0
    expert = _mlp(model, mixture.expert_feed_forward)
    counts = {
        "router": layers * model.width * mixture.experts,
        "routed_experts": layers * mixture.experts * (expert + own_biases),
        "active_experts": layers * mixture.top_k * (expert + own_biases),
        "shared_experts": layers * mixture.shared_experts * expert,
    }
    return counts, layers * (mixture.shared_experts * own_biases + (mixture.experts if has_biases else 0))
