"""What is trained: a decoder language model, Llama style."""

from __future__ import annotations

from typing import Literal

from myriarch.spec.base import Spec
from myriarch.spec.fleet import Count, Name, Positive


class Model(Spec, frozen=True, kw_only=True):
    """Decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    name: Name
    layers: Count
    width: Count
    """Model dimension, d_model."""
    heads: Count
    kv_heads: Count | None = None
    """Grouped-query attention; None: as many as heads."""
    feed_forward: Count | None = None
    """Hidden width of SwiGLU; None: 8/3 of the width, rounded up to a multiple of 32."""
    vocabulary: Count = 256
    """256: bytes, no tokenizer."""
    context_tokens: Count
    rope_theta: Positive = 10_000.0
    norm_epsilon: Positive = 1e-5
    tied_embeddings: bool = True
    dtype: Literal["fp32", "bf16"] = "fp32"

    @property
    def kv_heads_resolved(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def feed_forward_resolved(self) -> int:
        if self.feed_forward is not None:
            return self.feed_forward
        return -(-(8 * self.width // 3) // 32) * 32

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, embeddings included."""
        head = self.width // self.heads
        attention = self.width * head * (2 * self.heads + 2 * self.kv_heads_resolved)
        mlp = 3 * self.width * self.feed_forward_resolved
        norms = 2 * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied_embeddings else 2)
        return self.layers * (attention + mlp + norms) + self.width + embeddings
