"""What a question leaves open, and what is taken instead. Every answer says so."""

from __future__ import annotations

import math
from typing import Final

TOKENS_PER_PARAMETER: Final = 20.0
"""Hoffmann et al. (arXiv:2203.15556), by the fit of Besiroglu et al. (arXiv:2404.10102)."""
BATCH_FACTOR, BATCH_POWER = 0.2920, 0.3271
"""Tokens of the best batch over training FLOPs: DeepSeek LLM (arXiv:2401.02954), equation 1, fitted up to 2e20."""
BATCH_TOKENS_MOST: Final = 16 * 2**20
"""Llama 3 405B's largest (arXiv:2407.21783, section 3.4.1): past its own range the law asks for batches that few have
trained with."""
BATCH_SEQUENCES_LEAST: Final = 64


def tokens_for(active_parameters: float) -> float:
    """Tokens to train on when nobody said: the compute-optimal number, to three digits."""
    exact = TOKENS_PER_PARAMETER * active_parameters
    digits = 10.0 ** (math.floor(math.log10(exact)) - 2)
    return round(exact / digits) * digits


def batch_for(flops: float, *, sequence_tokens: int) -> int:
    """Sequences of a batch when nobody said: a power of two, by the law, at most Llama 3's."""
    wanted = min(BATCH_FACTOR * flops**BATCH_POWER, BATCH_TOKENS_MOST) / sequence_tokens
    return max(1 << max(round(math.log2(wanted)), 0), BATCH_SEQUENCES_LEAST)
