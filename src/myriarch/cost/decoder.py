"""What is trained, as the formulas of a step need it: dense, grouped-query, latent-attention and mixture decoders."""

from __future__ import annotations

import dataclasses

import numpy as np

from myriarch.cost.arrays import Array, Flag, Real, choose
from myriarch.spec.model import LatentAttention, Mixture, Model, Window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """Shape of a decoder language model. Each field may be an array of as many models."""

    layers: Real
    width: Real
    heads: Real
    kv_heads: Real
    head_width: Real
    """Of queries and keys; of values too, without latent attention."""
    feed_forward: Real
    """Hidden width of a dense layer's MLP."""
    gated: Flag
    """SwiGLU and its kin: two matrices in, one out."""
    vocabulary: Real
    tied: Flag = 0.0
    """Embedding and output head share their matrix."""
    experts: Real = 0.0
    """Routed experts of a mixture layer; 0: dense."""
    top_k: Real = 0.0
    expert_feed_forward: Real = 0.0
    shared_experts: Real = 0.0
    dense_layers: Real = 0.0
    """Of a mixture: its first layers, which have a dense MLP."""
    query_rank: Real = 0.0
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): rank of the queries; 0: none."""
    kv_rank: Real = 0.0
    """Of keys and values; 0: ordinary attention."""
    rope_width: Real = 0.0
    """Latent attention: part of `head_width` that carries the position, shared by all heads for the keys."""
    value_width: Real = 0.0
    """Latent attention: width of a head's values."""
    window_tokens: Real = 0.0
    """Sliding window of `window_share` of the layers; 0: none."""
    window_share: Real = 0.5
    capacity_factor: Real = 0.0
    """Tokens that an expert takes, over its even share; 0: all that come."""
    unfused_activation: Flag = 0.0
    """Its gated activation has biases and clamps that frameworks compute one by one (gpt-oss, arXiv:2508.10925)."""
    other_parameters: Real = 0.0
    """Biases, learned positions, inner and further norms: part of `parameters`, too few to matter elsewhere."""

    @classmethod
    def of(cls, model: Model) -> Decoder:
        """The decoder that a model file describes, with as many parameters to the last one."""
        shape = cls(
            layers=float(model.layers),
            width=float(model.width),
            heads=float(model.heads),
            kv_heads=float(model.kv_heads_resolved),
            head_width=float(model.head_width_resolved),
            feed_forward=float(_feed_forward(model)),
            gated=float(model.is_gated),
            vocabulary=float(model.vocabulary),
            tied=float(model.tied_embeddings),
            unfused_activation=float(model.is_gated and model.biases == "all"),
            **_mixture(model.mixture),
            **_latent(model.latent),
            **_window(model.window),
        )
        return dataclasses.replace(shape, other_parameters=model.parameters - float(shape.parameters))

    @property
    def is_latent(self) -> Array:
        return np.greater(self.kv_rank, 0)

    @property
    def value_head_width(self) -> Array:
        return choose(self.is_latent, self.value_width, self.head_width)

    @property
    def mixture_layers(self) -> Array:
        """Layers whose MLP is a mixture of experts."""
        return choose(np.greater(self.experts, 0), np.subtract(self.layers, self.dense_layers), 0.0)

    @property
    def attention_parameters(self) -> Array:
        """Of one layer's projections."""
        query = self.heads * self.head_width
        ordinary = self.width * (query + 2 * self.kv_heads * self.head_width) + query * self.width
        nope = np.subtract(self.head_width, self.rope_width)
        compressed = choose(np.greater(self.query_rank, 0), self.query_rank * (self.width + query), self.width * query)
        latent = (
            compressed
            + self.width * (self.kv_rank + self.rope_width)
            + self.kv_rank * self.heads * (nope + self.value_width)
            + self.heads * self.value_width * self.width
        )
        return choose(self.is_latent, latent, ordinary)

    @property
    def matrices(self) -> Real:
        """Matrices of one MLP: 3 gated, 2 plain."""
        return 2.0 + self.gated

    @property
    def dense_mlp_parameters(self) -> Real:
        """Of one dense layer's MLP."""
        return self.matrices * self.width * self.feed_forward

    @property
    def expert_parameters(self) -> Real:
        """Of one expert."""
        return self.matrices * self.width * self.expert_feed_forward

    @property
    def routed_parameters(self) -> Array:
        """Of all routed experts of the model: what expert parallelism shards."""
        return self.mixture_layers * self.experts * self.expert_parameters

    @property
    def unrouted_parameters(self) -> Array:
        """Of all layers, without the routed experts and the vocabulary."""
        mixture = self.mixture_layers
        dense = np.subtract(self.layers, mixture)
        shared = mixture * (self.shared_experts * self.expert_parameters + self.width * self.experts)
        norms = 2.0 * self.layers * self.width
        return self.layers * self.attention_parameters + dense * self.dense_mlp_parameters + shared + norms

    @property
    def vocabulary_parameters(self) -> Real:
        """Of the embedding; the head has as many again, unless tied."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> Array:
        """All trainable parameters."""
        layers = self.routed_parameters + self.unrouted_parameters
        return layers + (2.0 - self.tied) * self.vocabulary_parameters + self.other_parameters

    @property
    def active_parameters(self) -> Array:
        """Parameters that one token is multiplied with; the embedding is a look-up and does not count."""
        routed = self.mixture_layers * self.top_k * self.expert_parameters
        return self.unrouted_parameters + routed + self.vocabulary_parameters

    def attended_tokens(self, sequence: Real) -> Array:
        """Mean over the layers of the keys in a query's row of the full square.

        A causal kernel does half of it: s/2 keys a query without a window, w with one, so the row counts 2 w.
        """
        windowed = np.minimum(np.multiply(2.0, self.window_tokens), sequence)
        share = np.asarray(self.window_share)
        return choose(np.greater(self.window_tokens, 0), share * windowed + (1.0 - share) * sequence, sequence)

    def flops_per_token(self, sequence: Real, *, causal: bool = True) -> Array:
        """Model FLOPs of one token, forward and backward: 6 N + 6 (or 12, the whole square) L H Q T.

        PaLM (arXiv:2204.02311), appendix B, counts the square; a causal kernel does half of it.
        """
        square = 6.0 if causal else 12.0
        width = self.heads * (np.add(self.head_width, self.value_head_width)) / 2.0
        return 6.0 * self.active_parameters + square * self.layers * width * self.attended_tokens(sequence)


def _feed_forward(model: Model) -> int:
    """Width of the dense MLP; of an expert, where no layer has a dense one."""
    if model.mixture is not None and not model.mixture.dense_layers:
        return model.mixture.expert_feed_forward
    return model.feed_forward_resolved


def _mixture(mixture: Mixture | None) -> dict[str, float]:
    if mixture is None:
        return {}
    return {
        "experts": float(mixture.experts),
        "top_k": float(mixture.top_k),
        "expert_feed_forward": float(mixture.expert_feed_forward),
        "shared_experts": float(mixture.shared_experts),
        "dense_layers": float(mixture.dense_layers),
        "capacity_factor": mixture.capacity_factor or 0.0,
    }


def _latent(latent: LatentAttention | None) -> dict[str, float]:
    if latent is None:
        return {}
    return {
        "query_rank": float(latent.query_rank or 0),
        "kv_rank": float(latent.kv_rank),
        "rope_width": float(latent.rope_width),
        "value_width": float(latent.value_width),
    }


def _window(window: Window | None) -> dict[str, float]:
    return {} if window is None else {"window_tokens": float(window.tokens), "window_share": window.share}
