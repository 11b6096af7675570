"""Seconds of single kernels: matrix products by shape, attention, streaming.

A matrix product M x N x K is cut into tiles of the output that the chip's processors take in waves. It costs more than
2 M N K / rate because of (a) padding to whole tiles, (b) a last wave that is not full, (c) filling and draining each
tile's pipeline, which is a loss of `depth_half / K`; and it never takes less than moving its operands, or than a
kernel's own ramp. NVIDIA, "Matrix Multiplication Background User's Guide" (DU-09798-001), sections 2 and 3, describes
(a) and (b).
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real, ceil_div, choose
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software

UNTHROTTLED_W_PER_FLOPS: Final = 400.0 / 312e12
"""Of an A100: 400 W for 312 TFLOP/s."""
TILES: Final[tuple[tuple[float, float, float], ...]] = ((256.0, 128.0, 1.0), (128.0, 128.0, 0.95), (128.0, 64.0, 0.85))
"""Rows, columns and relative speed of the tiles that a library can choose from; the fastest is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What a machine sustains with the libraries of the software's year."""

    wide_flops_per_s: Array
    """Matrix products in 16 bits."""
    narrow_flops_per_s: Array
    memory_bytes_per_s: Array
    processors: Real
    kernel_s: Real
    depth_half: Real
    wave_share: float

    @classmethod
    def of(cls, machine: Machine, software: Software, p: Parameters) -> Rates:
        # A chip's libraries approach its measured best as years pass since it appeared.
        age = np.maximum(np.subtract(software.year, machine.launch_year), 0.0)
        # Newer chips have less power for each operation than an A100, and fall back in clock in long dense products
        # that a benchmark of seconds on them does not show.
        scarce = 1.0 - np.divide(machine.power_w, machine.peak_flops_per_s) / UNTHROTTLED_W_PER_FLOPS
        sustained = p.matmul_sustained * (1.0 - p.throttling * np.clip(scarce, 0.0, 1.0))
        lacking = p.immaturity * np.exp(-age / p.maturing_years) * (1.0 - np.asarray(machine.ripe))
        mature = sustained * (1.0 - lacking)
        return cls(
            wide_flops_per_s=np.multiply(machine.matmul_flops_per_s, mature),
            narrow_flops_per_s=np.multiply(machine.narrow_flops_per_s, mature),
            memory_bytes_per_s=np.multiply(machine.memory_bandwidth_bytes_per_s, p.memory_share),
            processors=machine.processors,
            kernel_s=choose(np.greater(machine.kernel_s, 0), machine.kernel_s, p.kernel_s),
            depth_half=choose(np.greater(machine.depth_half, 0), machine.depth_half, p.depth_half),
            wave_share=p.wave_share,
        )


def product_s(
    m: Real, n: Real, k: Real, *, rates: Rates, rate_flops_per_s: Real, value_bytes: Real = 2.0, groups: Real = 1.0
) -> Array:
    """Seconds of `groups` equal products (m x k) (k x n) in one kernel."""
    best: Array | None = None
    for rows, columns, speed in TILES:
        tiles = ceil_div(m, rows) * ceil_div(n, columns)
        waves = groups * tiles / rates.processors
        unfilled = 1.0 + rates.wave_share * (np.ceil(waves - 1e-9) / waves - 1.0)
        padded = 2.0 * groups * tiles * rows * columns * (k + rates.depth_half)
        seconds = padded * unfilled / (np.asarray(rate_flops_per_s) * speed)
        best = seconds if best is None else np.minimum(best, seconds)
    assert best is not None
    moved = groups * (value_bytes * (m * k + k * n) + 2.0 * m * n)
    return np.maximum(best, moved / rates.memory_bytes_per_s) + rates.kernel_s


def stream_s(size_bytes: Real, *, rates: Rates, kernels: Real) -> Array:
    """Seconds of `kernels` kernels that read and write `size_bytes` together."""
    return np.divide(size_bytes, rates.memory_bytes_per_s) + np.multiply(kernels, rates.kernel_s)
