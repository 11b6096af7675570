"""Floating-point operations and bytes of the model, whatever it runs on.

Model FLOPs are what the mathematics of a step needs: no recomputation, no padding. They are the F of effective compute
and the numerator of MFU.
"""

from __future__ import annotations

from typing import Final

from myriarch.spec.model import Model

STATE_BYTES_PER_PARAMETER: Final = 12
"""fp32 weight and AdamW's two moments, 4 bytes each: what a snapshot holds and a recovery restores. Gradients live
inside a step only."""
GRADIENT_BYTES_PER_PARAMETER: Final = 4
"""fp32: what a group hands over the bridge in every step."""


def matmul_parameters(model: Model) -> int:
    """Weights that multiply a token: its projections, its experts and the output head.

    Not the norms, and not the embedding, which is a look-up; with tied embeddings its matrix counts once, as the head.
    """
    return model.weights.matrices


def palm_flops_per_token(parameters: int, *, layers: int, heads: int, head_width: int, context_tokens: int) -> int:
    """6 N + 12 L H Q T, forward and backward of one token.

    PaLM (arXiv:2204.02311), appendix B. Each weight is one multiplication and one addition forward, and twice that
    backward, for the gradients of its input and of itself: 2 + 4 = 6. Each head makes scores (Q T) and mixes values
    (Q T) in each layer: 2 products x 2 operations x 3 passes = 12. The whole T x T square is counted, as there: with
    causal kernels the hardware does about half of that part, and MFU so defined stays comparable with what is
    published. Soft-max, norms, rotary positions and SwiGLU's products are left out: under 1 % at any useful width.
    """
    return 6 * parameters + 12 * layers * heads * head_width * context_tokens


def flops_per_token(model: Model) -> int:
    """Model FLOPs of one token of a full context, forward and backward.

    Departs from PaLM in N: `matmul_parameters` leaves out the embedding's look-up, as nanochat does. For a byte-level
    model of 1 M parameters with an untied head that look-up would be 3 % too much.
    """
    return palm_flops_per_token(
        matmul_parameters(model),
        layers=model.layers,
        heads=model.heads,
        head_width=(model.head_width_resolved + model.value_width_resolved) // 2,
        context_tokens=model.context_tokens,
    )


def flops_per_sequence(model: Model) -> int:
    """Model FLOPs of one sequence of the batch, forward and backward."""
    return flops_per_token(model) * model.context_tokens


def state_bytes(model: Model) -> int:
    """Bytes of one copy of the training state: weights and optimizer moments."""
    return STATE_BYTES_PER_PARAMETER * model.parameters


def gradient_bytes(model: Model) -> int:
    """Bytes of one full gradient."""
    return GRADIENT_BYTES_PER_PARAMETER * model.parameters
