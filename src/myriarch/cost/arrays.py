"""Numbers or arrays of numbers: the formulas of a training step take either.

A `Decoder`, `Machine`, `Split` or `Software` holds one configuration in plain numbers, or many in arrays that broadcast
against each other. So one evaluation serves a single plan, a table of published runs and a search's whole space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Real: TypeAlias = float | Array
"""A number, or an array of them."""
Flag: TypeAlias = float | Array
"""1.0 or 0.0, or an array of them; a share between where the text says so."""

T = TypeVar("T")


def stacked(values: Sequence[T]) -> T:
    """One dataclass of arrays out of many of numbers, field by field."""
    first: Any = values[0]
    columns = {
        field.name: np.array([getattr(value, field.name) for value in values], dtype=np.float64)
        for field in dataclasses.fields(first)
    }
    kind: type[T] = type(values[0])
    return kind(**columns)


def ceil_div(amount: Real, parts: Real) -> Array:
    """Whole parts that hold `amount`; a hair of rounding error does not make one more."""
    return np.ceil(np.divide(amount, parts) - 1e-9)


def choose(condition: Real | npt.NDArray[np.bool_] | bool, yes: Real, no: Real) -> Array:
    """`yes` where `condition`, else `no`. Both are evaluated."""
    return np.where(np.asarray(condition, dtype=bool), yes, no)
