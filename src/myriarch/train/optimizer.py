"""AdamW whose result does not depend on the layout, and the schedule of its learning rate.

Groups of unlike meshes cut the same tensor at different places, so an element may meet a vector loop in one group
and its scalar tail in another; PyTorch's fused AdamW then differs in the last bit (seen with torch 2.13 on AVX-512:
a compiler may contract `a * b + c` in one and not in the other). Here every operation is a single IEEE 754
addition, multiplication, division or square root, each correctly rounded, one at a time: the result is the same
bits on any layout, vector width and conforming device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from myriarch.spec.run import Optimizer


def learning_rate_at(step: int, *, steps: int, optimizer: Optimizer) -> float:
    """Linear warm-up to `learning_rate`, then half a cosine down to `minimum_learning_rate` at the last step.

    `step` counts optimizer steps already done; the first of all uses `1 / warmup_steps` of the rate.
    """
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    span = max(1, steps - optimizer.warmup_steps)
    progress = min(1.0, (step - optimizer.warmup_steps + 1) / span)
    low = min(optimizer.minimum_learning_rate, optimizer.learning_rate)
    return low + (optimizer.learning_rate - low) * 0.5 * (1.0 + math.cos(math.pi * progress))


class AdamW:
    """Loshchilov and Hutter, ICLR 2019, algorithm 2, on the local shards of parameters.

    Weight decay applies to matrices and not to vectors (norm gains), as is usual for transformers. The number of
    steps done is not state of its own: it is the run's step.
    """

    def __init__(
        self, parameters: Sequence[Tensor], means: Sequence[Tensor], squares: Sequence[Tensor], *, spec: Optimizer
    ) -> None:
        self._tensors: Final = tuple(zip(parameters, means, squares, strict=True))
        self._spec: Final = spec
        largest = max(parameters, key=lambda parameter: parameter.numel())
        self._scratch: Final = [largest.new_empty(largest.numel()) for _ in range(2)]

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], *, step: int, learning_rate: float) -> None:
        """Make the parameters after `step` steps into those after `step + 1`."""
        spec = self._spec
        correction = 1.0 - spec.beta1 ** (step + 1)
        correction_root = math.sqrt(1.0 - spec.beta2 ** (step + 1))
        for (parameter, mean, square), gradient in zip(self._tensors, gradients, strict=True):
            one, other = (scratch[: parameter.numel()].view(parameter.shape) for scratch in self._scratch)
            if parameter.dim() > 1:
                parameter.mul_(1.0 - learning_rate * spec.weight_decay)
            mean.mul_(spec.beta1).add_(torch.mul(gradient, 1.0 - spec.beta1, out=one))
            torch.mul(gradient, gradient, out=one)
            square.mul_(spec.beta2).add_(one.mul_(1.0 - spec.beta2))
            torch.sqrt(square, out=one).div_(correction_root).add_(spec.epsilon)
            torch.div(mean, one, out=other).mul_(learning_rate / correction)
            parameter.sub_(other)
