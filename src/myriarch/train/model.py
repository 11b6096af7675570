"""The reference model: a decoder, Llama style (Touvron et al., arXiv 2302.13971).

RMSNorm before each sublayer, rotary positions, grouped-query attention, SwiGLU, embeddings tied on request. Layers
live in a ModuleDict, so that a pipeline stage can keep any of them under their own names.

Initial weights are a pure function of (seed, name, position): a rank fills its own shard without seeing the rest, and
every layout of every group starts from the same bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from myriarch.spec.model import Model
from myriarch.train.counter import key_of, uniform_range
from myriarch.train.layout import runs_of_chunk

_EMBEDDING_DEVIATION: Final = 0.02
"""As GPT-2 and Llama; tied logits then start near uniform."""


class Attention(nn.Module):
    """Causal self-attention; several query heads share one key and value head."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.head_width = model.width // model.heads
        self.query = nn.Linear(model.width, model.heads * self.head_width, bias=False)
        self.key = nn.Linear(model.width, model.kv_heads_resolved * self.head_width, bias=False)
        self.value = nn.Linear(model.width, model.kv_heads_resolved * self.head_width, bias=False)
        self.output = nn.Linear(model.heads * self.head_width, model.width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, tokens, _ = hidden.shape
        # Heads come from the local width of the projections, so tensor-parallel shards of them work unchanged.
        query, key, value = (
            projection(hidden).view(batch, tokens, -1, self.head_width).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
        shared = query.shape[1] // key.shape[1]
        if shared > 1:
            key, value = (tensor.repeat_interleave(shared, dim=1) for tensor in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, -1))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.gate = nn.Linear(model.width, model.feed_forward_resolved, bias=False)
        self.up = nn.Linear(model.width, model.feed_forward_resolved, bias=False)
        self.down = nn.Linear(model.feed_forward_resolved, model.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(model.width, eps=model.norm_epsilon)
        self.attention = Attention(model)
        self.feed_forward_norm = nn.RMSNorm(model.width, eps=model.norm_epsilon)
        self.feed_forward = FeedForward(model)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cosine, sine)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Token ids (batch, tokens) to logits (batch, tokens, vocabulary)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.spec = model
        self.embedding = nn.Embedding(model.vocabulary, model.width)
        self.layers = nn.ModuleDict({str(index): Block(model) for index in range(model.layers)})
        self.norm = nn.RMSNorm(model.width, eps=model.norm_epsilon)
        self.head = None if model.tied_embeddings else nn.Linear(model.width, model.vocabulary, bias=False)
        table = torch.empty(model.context_tokens, model.width // model.heads)
        self.register_buffer("cosine", table, persistent=False)
        self.register_buffer("sine", table.clone(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        cosine, sine = (table[: tokens.shape[1]].to(hidden.dtype) for table in (self.cosine, self.sine))
        for layer in self.layers.values():
            hidden = layer(hidden, cosine, sine)
        hidden = self.norm(hidden)
        return F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)

    def fill_tables(self) -> None:
        """Rotary tables (Su et al., arXiv 2104.09864); they are computed, never saved."""
        width = self.cosine.shape[1]
        frequency = self.spec.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.outer(torch.arange(self.cosine.shape[0], dtype=torch.float64), frequency).repeat(1, 2)
        self.cosine.copy_(angle.cos())
        self.sine.copy_(angle.sin())


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    one, other = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-other, one), dim=-1) * sine


def loss_sum_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in nats, summed over all tokens, in fp32.

    A sum, because a mean of the means of unequal parts is wrong (12 to 14 % under uneven shares): the division by the
    valid tokens of the whole batch comes last.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def deviation_of(name: str, shape: torch.Size, *, layers: int) -> float | None:
    """Standard deviation of a parameter's initial weights; None: it starts as ones (a norm's gain).

    Projections have `1/sqrt(fan_in)`; those that write into the residual stream are scaled down by `sqrt(2 layers)`
    (GPT-2), so that its variance does not grow with depth.
    """
    if len(shape) == 1:
        return None
    if name.startswith("embedding."):
        return _EMBEDDING_DEVIATION
    residual = ".output." in name or ".down." in name
    return float(shape[1] ** -0.5 * ((2 * layers) ** -0.5 if residual else 1.0))


def fill_initial(
    name: str, local: Tensor, *, shape: torch.Size, offsets: tuple[int, ...], seed: int, layers: int
) -> None:
    """Write the initial weights of the box of `name` that begins at `offsets` into `local`."""
    deviation = deviation_of(name, shape, layers=layers)
    if deviation is None:
        local.fill_(1.0)
        return
    key = key_of("weight", seed, name)
    runs = runs_of_chunk(0, tuple(shape), offsets, tuple(local.shape))
    parts = [uniform_range(key, run.start, run.stop, deviation=deviation) for run in runs]
    if parts:
        local.copy_(torch.from_numpy(np.concatenate(parts)).view(local.shape))
