"""The constants of `kernels.product_s` for one device, from products of many shapes timed on it.

Least squares of log(measured / modelled) over the logarithms of the rate, `depth_half` and `kernel_s`, by Levenberg's
and Marquardt's method (J. SIAM 11, 1963) from a fixed start: the same table gives the same constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.cost.arrays import Array
from myriarch.cost.kernels import Rates, product_s
from myriarch.cost.parameters import Parameters
from myriarch.spec.profile import ProductRate

DOUBTFUL_WEIGHT: Final = 0.25
"""Of a row whose timings spread widely, beside 1."""
FEWEST_ROWS: Final = 6
"""Fewer give a rate, and no constants of shape."""
DEPTH_BOUNDS: Final = (1.0, 1024.0)
KERNEL_BOUNDS_S: Final = (1e-7, 1e-3)
ROUNDS: Final = 25
"""It converges in about ten."""
STEP: Final = 0.02
"""Of the logarithms, for the slopes: tiles make the model a little rough below that."""

LOWEST: Final = np.log([1.0, DEPTH_BOUNDS[0], KERNEL_BOUNDS_S[0]])
HIGHEST: Final = np.log([1e18, DEPTH_BOUNDS[1], KERNEL_BOUNDS_S[1]])
"""Of rate, depth and kernel."""
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
        depth_half: float | None = None,
    ) -> Shapes:
        """Of rows in one precision. `kernel_s`, `depth_half`: where they are known already. `host_s`: no timing was
        shorter than a launch."""
        table = _Table(rows, processors, memory_bytes_per_s, host_s, parameters.wave_share)
        enough = len(rows) >= FEWEST_ROWS
        start = np.log(
            [table.fastest_flops_per_s, depth_half or parameters.depth_half, kernel_s or parameters.kernel_s]
        )
        free = [True, enough and depth_half is None, enough and kernel_s is None]
        logs = table.fitted(start, free=np.flatnonzero(free))
        rate, depth, ramp = (float(value) for value in np.exp(logs))
        return cls(
            rate_flops_per_s=rate,
            depth_half=depth if enough else None,
            kernel_s=ramp,
            error=float(np.average(np.abs(table.misfit(logs)), weights=table.weights)),
        )


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
        self.weights: Final = np.array([DOUBTFUL_WEIGHT if row.doubtful else 1.0 for row in rows])
        self.fastest_flops_per_s: Final = max(row.rate_flops_per_s for row in rows)
        self._value_bytes: Final = VALUE_BYTES.get(rows[0].precision, 2.0)
        self._processors: Final = processors
        self._memory: Final = np.asarray(memory_bytes_per_s)
        self._host_s: Final = host_s
        self._wave_share: Final = wave_share

    def fitted(self, start: Array, *, free: npt.NDArray[np.intp]) -> Array:
        """Logarithms of the three constants, those in `free` changed from `start` to the least squares."""
        at, damping = start, 1e-2
        misfit = self.misfit(at)
        for _ in range(ROUNDS):
            slopes = np.stack([(self.misfit(at + STEP * np.eye(3)[one]) - misfit) / STEP for one in free], axis=1)
            weighted = slopes * self.weights[:, None]
            square = weighted.T @ slopes
            # A constant that no row shows has no slope: the damping keeps it where it is.
            damped = square + damping * np.diag(np.diag(square) + 1e-9)
            step = np.linalg.solve(damped + 1e-12 * np.eye(len(free)), -weighted.T @ misfit)
            there = at.copy()
            there[free] = np.clip(at[free] + np.clip(step, -1.0, 1.0), LOWEST[free], HIGHEST[free])
            found = self.misfit(there)
            better = self._squares(found) < self._squares(misfit)
            damping = damping / 4.0 if better else damping * 8.0
            if better:
                at, misfit = there, found
        return at

    def _squares(self, misfit: Array) -> float:
        return float(np.sum(self.weights * misfit**2))

    def misfit(self, logs: Array) -> Array:
        """log(measured / modelled) of each row."""
        rate, depth_half, kernel_s = (float(value) for value in np.exp(logs))
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
        return np.log(self._measured_s / np.maximum(modelled, self._host_s))
