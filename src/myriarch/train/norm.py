"""A gradient's norm that does not depend on how the gradient is split.

Floating-point sums depend on their order, so the norms of two groups of unlike meshes would differ in the last
bits, and so would the clipped updates. Integers add in any order to the same result: squares are scaled to fixed
point, summed in 64-bit integers on every rank, and the ranks' sums added by an all-reduce.

With `m` the largest magnitude in the whole gradient and `e` the power of two above it, `x = g / 2**e` lies in [-1,
1] and `x**2` is exact in fp64 for fp32 `g`. Two limbs of `k = 62 - ceil(log2 N)` bits each hold `x**2` to `2**-2k`,
and N of them cannot overflow. The error of the sum is below `N * 2**-2k` of the largest square: 2e-10 of it for N =
1e9 elements.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_LIMB_ROOM_BITS: Final = 62
_BLOCK: Final = 1 << 16
"""Elements per pass: their fp64 copies stay in the second-level cache."""


def _fraction_bits(elements: int) -> int:
    return _LIMB_ROOM_BITS - max(1, elements - 1).bit_length()


def _scale(maximum: float) -> float:
    """The power of two that brings `maximum` below one; exact."""
    return math.ldexp(1.0, -math.frexp(maximum)[1]) if maximum > 0.0 else 1.0


def largest_magnitude(gradient: Tensor) -> float:
    """Of a flat gradient; infinite if any element is not finite, zero if there is none."""
    if gradient.numel() == 0:
        return 0.0
    low, high = (float(value) for value in gradient.aminmax())
    largest = max(-low, high)
    return largest if math.isfinite(largest) else math.inf


def square_limbs(gradient: Tensor, *, maximum: float, elements: int) -> tuple[int, int]:
    """This rank's sums of the upper and the lower limbs. `maximum` and `elements` are of the whole gradient."""
    unit = math.ldexp(1.0, _fraction_bits(elements))
    scale = _scale(maximum)
    upper_sum = lower_sum = 0
    for block in torch.split(gradient, _BLOCK):
        square = block.double().mul_(scale)
        square.mul_(square).mul_(unit)
        upper = square.floor()
        lower = square.sub_(upper).mul_(unit).floor_()
        upper_sum += int(upper.long().sum())
        lower_sum += int(lower.long().sum())
    return upper_sum, lower_sum


def norm_of(limbs: tuple[int, int], *, maximum: float, elements: int) -> float:
    """The Euclidean norm from the sums of all ranks' limbs."""
    bits = _fraction_bits(elements)
    return math.sqrt(math.ldexp((limbs[0] << bits) + limbs[1], -2 * bits)) / _scale(maximum)
