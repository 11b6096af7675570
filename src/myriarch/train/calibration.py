"""How fast a worker is before its first step: under its quota, on its device, with its model.

Nothing of the training state is touched: weights are read, gradients are dropped, the random state is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

from myriarch.train.group import Group
from myriarch.train.session import Calibration

_MEASURE_S: Final = 0.4
"""At least so long, after a first pass that pays for caches and lazy set-up: several periods of a CPU quota (0.1 s)."""
_PASSES_MOST: Final = 8
_MATMUL_S: Final = 0.15
_MATMUL_SIDE: Final = 384
"""Three fp32 matrices of 384 squared fit in a second-level cache of 2 MiB."""


def calibrate(
    forward_and_backward: Callable[[], int], *, drop_gradients: Callable[[], None], group: Group, device: torch.device
) -> Calibration:
    """Measure. `forward_and_backward` runs one micro-batch as a step would, and returns its sequences.

    Collective: all ranks do the same number of passes, until the slowest has measured long enough.
    """
    random_state = torch.get_rng_state()
    forward_and_backward()
    drop_gradients()
    sequences = 0
    started = time.monotonic()
    for _ in range(_PASSES_MOST):
        sequences += forward_and_backward()
        drop_gradients()
        elapsed_s = time.monotonic() - started
        if group.maxima([elapsed_s])[0] >= _MEASURE_S:
            break
    slowest_s = group.maxima([time.monotonic() - started])[0]
    rate = matmul_rate(device)
    torch.set_rng_state(random_state)
    return Calibration(sequence_s=slowest_s / (sequences * group.world_size), rate_flops_per_s=rate)


def matmul_rate(device: torch.device) -> float:
    """Best fp32 matmul rate over a short time, in FLOP/s. A product of side n takes `2 n**3` operations."""
    one = torch.ones(_MATMUL_SIDE, _MATMUL_SIDE, device=device)
    out = torch.empty_like(one)
    until = time.monotonic() + _MATMUL_S
    products, started = 0, time.monotonic()
    with torch.no_grad():
        while time.monotonic() < until:
            torch.mm(one, one, out=out)
            products += 1
        if device.type != "cpu":
            torch.accelerator.synchronize()
    return products * 2.0 * _MATMUL_SIDE**3 / (time.monotonic() - started)
