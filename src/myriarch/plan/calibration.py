"""Finding the cost model's constants from measured runs: bounded, deterministic, held back by what is plausible.

Least squares of log(predicted / measured) by Levenberg and Marquardt's method (Marquardt, SIAM J. Appl. Math. 11, 1963)
with finite differences, over constants scaled to their bounds. Large residuals count less (Huber's weights), sources
count alike whatever their rows, and each constant is pulled towards its default: a constant that the runs do not
determine stays there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, stacked
from myriarch.cost.decoder import Decoder
from myriarch.cost.parameters import BOUNDS, Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import StepTime, step_time
from myriarch.cost.uncertainty import WIDTH_BOUNDS, Widths, reach, reasons

ITERATIONS: Final = 40
DIFFERENCE: Final = 1e-3
"""Of a constant's range."""
HUBER: Final = 0.12
"""Log residual from which on a row counts less."""
PULL: Final = 0.35
"""Standard deviation of the prior, in half ranges."""
PRIOR_ROWS: Final = 0.0002
"""Weight of one constant's prior beside the mean squared residual."""
STEP_LIMIT: Final = 0.2
"""Of a constant's range, per iteration."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measured run."""

    source: str
    decoder: Decoder
    machine: Machine
    split: Split
    software: Software
    measured_s: float


@dataclasses.dataclass(frozen=True)
class Table:
    """Many runs in columns."""

    sources: tuple[str, ...]
    decoder: Decoder
    machine: Machine
    split: Split
    software: Software
    measured_s: Array

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Table:
        return cls(
            sources=tuple(sample.source for sample in samples),
            decoder=stacked([sample.decoder for sample in samples]),
            machine=stacked([sample.machine for sample in samples]),
            split=stacked([sample.split for sample in samples]),
            software=stacked([sample.software for sample in samples]),
            measured_s=np.array([sample.measured_s for sample in samples]),
        )

    def predicted(self, parameters: Parameters) -> StepTime:
        return step_time(
            self.decoder, machine=self.machine, split=self.split, software=self.software, parameters=parameters
        )

    def predicted_s(self, parameters: Parameters) -> Array:
        return self.predicted(parameters).total_s


def calibrate(samples: Sequence[Sample], *, start: Parameters | None = None) -> Parameters:
    """Constants that predict these runs best, inside their bounds and not far from their defaults."""
    table = Table.of(samples)
    default = start or Parameters()
    names = tuple(BOUNDS)
    low = np.array([BOUNDS[name][0] for name in names])
    span = np.array([BOUNDS[name][1] for name in names]) - low
    prior = (np.array([getattr(default, name) for name in names]) - low) / span
    weights = _balanced(table.sources)

    def parameters(x: Array) -> Parameters:
        values = low + span * x
        return Parameters(**{name: float(value) for name, value in zip(names, values, strict=True)})

    def residuals(x: Array) -> Array:
        logs: Array = np.log(table.predicted_s(parameters(x)) / table.measured_s)
        return logs

    return parameters(_minimise(residuals, prior, weights))


def _balanced(sources: Sequence[str]) -> Array:
    """Weights that sum to 1: each source by the square root of its rows, shared among them."""
    counts = {source: sources.count(source) for source in set(sources)}
    weights = np.array([counts[source] ** -0.5 for source in sources])
    balanced: Array = weights / weights.sum()
    return balanced


def _minimise(residuals: Callable[[Array], Array], prior: Array, weights: Array) -> Array:
    x, damping = prior.copy(), 1e-2
    current = residuals(x)
    strength = PRIOR_ROWS / (0.5 * PULL) ** 2

    def loss(r: Array, at: Array) -> float:
        size = np.abs(r)
        huber = np.where(size <= HUBER, 0.5 * r * r, HUBER * (size - 0.5 * HUBER))
        return float(weights @ huber + 0.5 * strength * ((at - prior) ** 2).sum())

    for _ in range(ITERATIONS):
        robust = weights * np.minimum(1.0, HUBER / np.maximum(np.abs(current), 1e-12))
        columns = []
        for index in range(x.size):
            shifted = x.copy()
            shifted[index] += DIFFERENCE if x[index] < 0.5 else -DIFFERENCE
            columns.append((residuals(shifted) - current) / (shifted[index] - x[index]))
        slopes = np.stack(columns, axis=1)
        gradient = slopes.T @ (robust * current) + strength * (x - prior)
        curvature = slopes.T @ (robust[:, None] * slopes) + strength * np.eye(x.size)
        before = loss(current, x)
        for _ in range(8):
            # Constants at a bound that want to go on stay where they are.
            held = ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))
            free = ~held
            step = np.zeros_like(x)
            damped = curvature + damping * np.diag(np.diag(curvature))
            step[free] = -np.linalg.solve(damped[np.ix_(free, free)], gradient[free])
            candidate = np.clip(x + np.clip(step, -STEP_LIMIT, STEP_LIMIT), 0.0, 1.0)
            trial = residuals(candidate)
            if loss(trial, candidate) < before:
                damping = max(damping / 4.0, 1e-6)
                break
            damping *= 4.0
        else:
            return x
        x, current = candidate, trial
        if before - loss(current, x) < 1e-8:
            return x
    return x


COVERAGE: Final = 0.85
"""Share of the runs at hand that intervals hold, so that they hold 80 % of those of sources that nobody has seen: the
errors of a source are akin, and a few sources say less than their rows."""
WIDTH_STEPS: Final = 40
"""Values that a width is looked for among."""
WIDTH_SWEEPS: Final = 6
WIDTH_PRIOR: Final = 0.002
"""Pull of a width towards its default, per squared share of its range, beside the mean pinball loss."""


def calibrate_widths(table: Table, parameters: Sequence[Parameters]) -> Widths:
    """Widths whose intervals hold `COVERAGE` of the runs, each predicted by its own `parameters`.

    One coordinate after the other, from the defaults.
    """
    steps = {each: table.predicted(each) for each in dict.fromkeys(parameters)}
    names = [field.name for field in dataclasses.fields(StepTime)]
    full = {
        each: {name: np.broadcast_to(getattr(step, name), table.measured_s.shape) for name in names}
        for each, step in steps.items()
    }
    rows = range(len(table.measured_s))
    step = StepTime(**{name: np.array([full[parameters[row]][name][row] for row in rows]) for name in names})
    amounts = reasons(table.decoder, split=table.split, step=step)
    sizes = np.abs(np.log(table.measured_s / step.total_s))
    weights, default = _balanced(table.sources), Widths()

    def loss(widths: Widths) -> float:
        over = sizes - reach(amounts, widths)
        pinball = np.where(over > 0, COVERAGE * over, (COVERAGE - 1.0) * over)
        pulls = (
            ((getattr(widths, name) - getattr(default, name)) / (high - low)) ** 2
            for name, (low, high) in WIDTH_BOUNDS.items()
        )
        return float(weights @ pinball) + WIDTH_PRIOR * float(sum(pulls))

    best = default
    for _ in range(WIDTH_SWEEPS):
        for name, (low, high) in WIDTH_BOUNDS.items():
            values = np.linspace(low, high, WIDTH_STEPS + 1)
            best = min((dataclasses.replace(best, **{name: float(value)}) for value in values), key=loss)
    return best
