"""The constants of `kernels.product_s` for one device, from products of many shapes timed on it.

Taken by least squares of log(measured / modelled) on a grid of `depth_half` and `kernel_s`; the rate then follows in
closed form where the operations count, and is improved by a few rounds where bytes and ramps do. A grid, so that the
same table gives the same constants.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.kernels import Rates, product_s
from myriarch.cost.parameters import Parameters
from myriarch.spec.profile import ProductRate

DOUBTFUL_WEIGHT: Final = 0.25
"""Of a row whose timings spread widely, beside 1."""
FEWEST_ROWS: Final = 6
"""Fewer give a rate, and no constants of shape."""
DEPTHS: Final = tuple(map(float, (1.0, *np.geomspace(8.0, 1024.0, 15))))
KERNELS_S: Final = tuple(map(float, np.geomspace(2e-7, 1e-4, 19)))
ROUNDS: Final = 6
"""Of improving the rate: it converges in two or three, as few rows are bound by anything else."""
VALUE_BYTES: Final[dict[str, float]] = {"fp8": 1.0, "bf16": 2.0, "fp16": 2.0, "fp32": 4.0, "tf32": 4.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a table of products says of a device."""

    rate_flops_per_s: float
    """That products of ample shape reach."""
    depth_half: float | None
    """None: too few rows to say."""
    kernel_s: float
    error: float
    """Mean |log(measured / modelled)| of the rows."""

    @classmethod
    def of(
        cls,
        rows: Sequence[ProductRate],
        *,
        processors: float,
        memory_bytes_per_s: float,
        kernel_s: float | None,
        host_s: float,
        parameters: Parameters,
    ) -> Shapes:
        """Of rows in one precision. `kernel_s` where it is known; `host_s`: no timing was shorter than a launch."""
        table = _Table(rows, processors, memory_bytes_per_s, host_s, parameters.wave_share)
        enough = len(rows) >= FEWEST_ROWS
        depths = DEPTHS if enough else (parameters.depth_half,)
        ramps = (kernel_s,) if kernel_s is not None else KERNELS_S if enough else (parameters.kernel_s,)
        _, best = min(
            (table.fitted(depth, ramp) for depth, ramp in itertools.product(depths, ramps)), key=lambda pair: pair[0]
        )
        return best if enough else dataclasses.replace(best, depth_half=None)


class _Table:
    """The rows as arrays."""

    def __init__(
        self,
        rows: Sequence[ProductRate],
        processors: float,
        memory_bytes_per_s: float,
        host_s: float,
        wave_share: float,
    ) -> None:
        self._m, self._n, self._k = (np.array([getattr(row, side) for row in rows], dtype=np.float64) for side in "mnk")
        self._measured_s: Final = np.array([row.product_s for row in rows])
        self._weights: Final = np.array([DOUBTFUL_WEIGHT if row.doubtful else 1.0 for row in rows])
        self._value_bytes: Final = VALUE_BYTES.get(rows[0].precision, 2.0)
        self._processors: Final = processors
        self._memory: Final = np.asarray(memory_bytes_per_s)
        self._host_s: Final = host_s
        self._wave_share: Final = wave_share

    def fitted(self, depth_half: float, kernel_s: float) -> tuple[float, Shapes]:
        """Weighted sum of squares, and the constants with the best rate for these two."""
        rate = float(np.max(2.0 * self._m * self._n * self._k / self._measured_s))
        logs = self._logs(rate, depth_half, kernel_s)
        for _ in range(ROUNDS):
            rate *= float(np.exp(-np.average(logs, weights=self._weights)))
            logs = self._logs(rate, depth_half, kernel_s)
        shapes = Shapes(
            rate_flops_per_s=rate,
            depth_half=depth_half,
            kernel_s=kernel_s,
            error=float(np.average(np.abs(logs), weights=self._weights)),
        )
        return float(np.sum(self._weights * logs**2)), shapes

    def _logs(self, rate: float, depth_half: float, kernel_s: float) -> Array:
        rates = Rates(
            wide_flops_per_s=np.asarray(rate),
            narrow_flops_per_s=np.asarray(rate),
            memory_bytes_per_s=self._memory,
            processors=self._processors,
            kernel_s=kernel_s,
            depth_half=depth_half,
            wave_share=self._wave_share,
        )
        modelled = product_s(
            self._m, self._n, self._k, rates=rates, rate_flops_per_s=rate, value_bytes=self._value_bytes
        )
        logs: Array = np.log(self._measured_s / np.maximum(modelled, self._host_s))
        return logs
