"""Model FLOPs and bytes against published models."""

from __future__ import annotations

import pytest

from myriarch.cost.flops import (
    flops_per_sequence,
    flops_per_token,
    gradient_bytes,
    matmul_parameters,
    palm_flops_per_token,
    state_bytes,
)
from myriarch.spec.model import Model

LLAMA3_8B = Model(
    name="llama3-8b",
    layers=32,
    width=4096,
    heads=32,
    kv_heads=8,
    feed_forward=14336,
    vocabulary=128256,
    context_tokens=8192,
    tied_embeddings=False,
)


def test_palm_540b_appendix_b() -> None:
    """PaLM (arXiv:2204.02311), appendix B: 238.3K tokens/s on 6144 TPU v4 of 275 TFLOP/s is an MFU of 46.2 %."""
    per_token = palm_flops_per_token(540_350_000_000, layers=118, heads=48, head_width=256, context_tokens=2048)
    assert 238_300 * per_token / (6144 * 275e12) == pytest.approx(0.462, abs=0.0005)


def test_llama_3_8b_parameters() -> None:
    """8,030,261,248: the parameter count of the published checkpoint."""
    assert LLAMA3_8B.parameters == 8_030_261_248


def test_matmul_parameters_leave_out_look_up_and_norms() -> None:
    norms = (2 * LLAMA3_8B.layers + 1) * LLAMA3_8B.width
    embedding = LLAMA3_8B.vocabulary * LLAMA3_8B.width
    assert matmul_parameters(LLAMA3_8B) == LLAMA3_8B.parameters - norms - embedding


def test_llama_3_8b_flops_per_token() -> None:
    # 6 x 7.504e9 for the weights, 12 x 32 x 4096 x 8192 for the scores
    assert flops_per_token(LLAMA3_8B) == 6 * 7_504_658_432 + 12_884_901_888
    assert flops_per_sequence(LLAMA3_8B) == 8192 * flops_per_token(LLAMA3_8B)


def test_tied_and_untied_heads_multiply_alike() -> None:
    tied = Model(name="t", layers=2, width=64, heads=2, context_tokens=16)
    untied = Model(name="t", layers=2, width=64, heads=2, context_tokens=16, tied_embeddings=False)
    assert flops_per_token(tied) == flops_per_token(untied)
    assert untied.parameters - tied.parameters == 256 * 64


def test_bytes_of_the_state_and_of_a_gradient() -> None:
    model = Model(name="t", layers=1, width=8, heads=2, kv_heads=1, feed_forward=32, context_tokens=16)
    parameters = 8 * 4 * (2 * 2 + 2 * 1) + 3 * 8 * 32 + 2 * 8 + 8 + 256 * 8
    assert model.parameters == parameters
    assert state_bytes(model) == 12 * parameters
    assert gradient_bytes(model) == 4 * parameters
