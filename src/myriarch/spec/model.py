"""What is trained: a decoder language model, dense or a mixture of experts.

The reference trainer builds the Llama-style dense ones (`consistency.check_trainable`); the planner takes all.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from myriarch.spec.base import Spec
from myriarch.spec.fleet import Count, Fraction, Name, Positive
from myriarch.spec.weights import Weights, weights_of

Whole = Annotated[int, Meta(ge=0)]
Activation = Literal["swiglu", "geglu", "gelu", "relu2"]


class LatentAttention(Spec, frozen=True, kw_only=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): low-rank keys, values and queries."""

    kv_rank: Count
    """Of what keys and values are expanded from."""
    query_rank: Count | None = None
    """None: queries come straight from the width."""
    nope_width: Count
    """Part of a head's queries and keys that carries no position."""
    rope_width: Count
    """Part that does; all heads share it for the keys."""
    value_width: Count
    """Of a head's values."""


class Mixture(Spec, frozen=True, kw_only=True):
    """Mixture of experts in place of the MLP (Fedus et al., arXiv:2101.03961; shared experts: arXiv:2401.06066)."""

    experts: Count
    """Routed experts of a layer."""
    top_k: Count
    """Experts that a token is routed to."""
    expert_feed_forward: Count
    """Hidden width of one expert."""
    shared_experts: Whole = 0
    """Experts of the same width that every token passes."""
    dense_layers: Whole = 0
    """First layers, which have a dense MLP of `feed_forward`."""
    capacity_factor: Positive | None = None
    """Tokens that an expert takes, over its even share; the rest is dropped. None: nothing is dropped."""


class Window(Spec, frozen=True, kw_only=True):
    """Attention to the nearest tokens only."""

    tokens: Count
    share: Fraction = 1.0
    """Of the layers that look no further; the others see the whole context. 0.5: every second."""


class Model(Spec, frozen=True, kw_only=True):
    """Decoder-only transformer. What is left out is Llama's: RMSNorm, rotary positions, SwiGLU, no biases."""

    name: Name
    layers: Count
    width: Count
    """Model dimension, d_model."""
    heads: Count
    kv_heads: Count | None = None
    """Grouped-query attention, 1: multi-query; None: as many as heads."""
    head_width: Count | None = None
    """None: width / heads."""
    latent: LatentAttention | None = None
    """In place of `kv_heads` and `head_width`."""
    window: Window | None = None
    feed_forward: Count | None = None
    """Hidden width of the MLP; None: 8/3 of the width, rounded up to a multiple of 32, or 4 times it where the
    activation has no gate."""
    activation: Activation = "swiglu"
    """`swiglu` and `geglu` have a gate: three matrices instead of two. `relu2`: squared ReLU."""
    mixture: Mixture | None = None
    """None: dense."""
    vocabulary: Count = 256
    """256: bytes, no tokenizer."""
    context_tokens: Count
    """Of one training sequence, unless a plan says another length."""
    positions: Literal["rotary", "learned", "none"] = "rotary"
    """`learned`: a vector for each token of the context. `none`: also biases of the scores (ALiBi), which are fixed."""
    rope_theta: Positive = 10_000.0
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """`layernorm`: with a bias; one without counts as `rmsnorm`."""
    norms_per_layer: Count = 2
    """1: attention and MLP side by side (PaLM). 4: before and after both (Gemma 2)."""
    query_key_norm: bool = False
    """Queries and keys are normed by heads (Qwen3)."""
    norm_epsilon: Positive = 1e-5
    biases: Literal["none", "qkv", "all"] = "none"
    """Of the projections: `qkv` into attention only (Qwen2), `all`: the MLP's and the router's too (GPT-3)."""
    tied_embeddings: bool = True
    dtype: Literal["fp32", "bf16"] = "fp32"
    """What the trainer keeps weights in."""
    source: str = ""
    """Where the shape was read."""
    note: str = ""

    @property
    def kv_heads_resolved(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width_resolved(self) -> int:
        """Of queries and keys."""
        if self.latent is not None:
            return self.latent.nope_width + self.latent.rope_width
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def value_width_resolved(self) -> int:
        """Of a head's values."""
        return self.head_width_resolved if self.latent is None else self.latent.value_width

    @property
    def is_gated(self) -> bool:
        return self.activation in ("swiglu", "geglu")

    @property
    def feed_forward_resolved(self) -> int:
        if self.feed_forward is not None:
            return self.feed_forward
        return -(-(8 * self.width // 3) // 32) * 32 if self.is_gated else 4 * self.width

    @property
    def mixture_layers(self) -> int:
        """Layers whose MLP is a mixture of experts."""
        return 0 if self.mixture is None else max(self.layers - self.mixture.dense_layers, 0)

    @property
    def weights(self) -> Weights:
        """Trainable parameters by kind."""
        return weights_of(self)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, embeddings included."""
        return self.weights.total

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with: its own experts, and not the embedding's look-up.

        Publishers who count the look-up too (Mixtral, Qwen3) print up to `vocabulary * width` more.
        """
        return self.weights.active
