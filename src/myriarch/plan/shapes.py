"""A plausible shape for a number of parameters: layers, width, heads, as published models have them.

The loss hardly depends on the shape at a given size (Kaplan et al., arXiv:2001.08361, figure 5: 2 to 3 % over a factor
of 40 in width / layers), so a rule is enough to plan with. This one follows Llama 3 (arXiv:2407.21783, table 3):

    head       128 wide                                     8B, 70B and 405B alike
    queries    8 key-value heads, shared by the query heads 8B, 70B and 405B alike
    MLP        SwiGLU, 3.5 times the width                  8B and 70B; 405B has 3.25
    aspect     width / layers near 120                      128, 102 and 130
    layers     a multiple of 4 (of 2 below 4096 wide), so that a pipeline can cut it
    width      a multiple of 1024 from 4096 on, so that 8 devices can share the heads; of 256 below
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from myriarch.errors import SpecError
from myriarch.spec.model import Model

HEAD_WIDTH: Final = 128
KV_HEADS: Final = 8
MLP_RATIO: Final = 3.5
ASPECT: Final = 120.0
VOCABULARY: Final = 128_256
"""Llama 3."""
CONTEXT_TOKENS: Final = 8_192
"""Llama 3, up to its last phase of training."""
TIED_BELOW: Final = 4e9
"""Smaller models use one matrix for embedding and head: Llama 3.2 of 1 and 3 billion parameters do, 8 does not."""
SMALLEST: Final = 20e6
LARGEST: Final = 100e12
SIZE_WEIGHT: Final = 20.0
"""A 1 % miss of the size weighs as much as 20 % of the aspect."""


def model_of(
    parameters: float, *, vocabulary: int = VOCABULARY, context_tokens: int = CONTEXT_TOKENS, name: str = ""
) -> Model:
    """A dense decoder of about so many parameters, embeddings included: within 6 % from 200 million parameters on.

    Raises SpecError outside 20 million to 100 trillion parameters, and where the vocabulary alone leaves no room.
    """
    if not SMALLEST <= parameters <= LARGEST:
        raise SpecError(
            f"{parameters:g} parameters: the rule of shapes holds from {SMALLEST:g} to {LARGEST:g}; describe the model "
            "in a file",
            path="parameters",
        )
    shapes = list(_candidates(parameters, vocabulary, context_tokens, name or f"dense-{_short(parameters)}"))
    if not shapes:
        raise SpecError(
            f"a vocabulary of {vocabulary} leaves no room for layers in {parameters:g} parameters; use a smaller one",
            path="vocabulary",
        )
    return min(shapes, key=lambda model: _oddness(model, parameters))


def _oddness(model: Model, parameters: float) -> float:
    aspect = abs(math.log(model.width / model.layers / ASPECT))
    return aspect + SIZE_WEIGHT * abs(math.log(model.parameters / parameters))


def _candidates(parameters: float, vocabulary: int, context_tokens: int, name: str) -> Iterator[Model]:
    tied = parameters < TIED_BELOW
    # Width and layers of a model of this aspect: about 12.75 layers width^2 parameters; the search goes 4 times around.
    ideal = (parameters * ASPECT / 12.75) ** (1.0 / 3.0)
    for width in _widths(ideal / 4.0, ideal * 4.0):
        heads = width // HEAD_WIDTH
        kv_heads = math.gcd(heads, KV_HEADS)
        feed_forward = math.ceil(MLP_RATIO * width / 256) * 256
        layer = 2 * width * (width + kv_heads * HEAD_WIDTH) + 3 * width * feed_forward + 2 * width
        rest = parameters - vocabulary * width * (1 if tied else 2) - width
        step = 4 if width >= 4096 else 2
        layers = round(rest / layer / step) * step
        if layers >= step:
            yield Model(
                name=name,
                layers=layers,
                width=width,
                heads=heads,
                kv_heads=kv_heads,
                feed_forward=feed_forward,
                vocabulary=vocabulary,
                context_tokens=context_tokens,
                rope_theta=500_000.0,
                tied_embeddings=tied,
                dtype="bf16",
            )


def _widths(low: float, high: float) -> Iterator[int]:
    width = 256
    while width <= high:
        if width >= low:
            yield width
        width += 256 if width < 4096 else 1024


def _short(parameters: float) -> str:
    """`8b`, `67b`, `1-3t`: as a name may have it."""
    for size, letter in ((1e12, "t"), (1e9, "b"), (1e6, "m")):
        if parameters >= size:
            return f"{parameters / size:.3g}".replace(".", "-").replace("+", "") + letter
    return f"{parameters:.0f}"
