"""Gradient-boosted trees: grown by scikit-learn's histogram learner, evaluated here.

What is learnt is a batch, once a week; what is asked is one row at a time, a hundred thousand times. scikit-learn
checks and copies for each of those rows; here all trees of all forests take one step down together, which is one
gather in numpy a level. `tests/schedule/test_boosted.py` holds the two to the same numbers. scikit-learn is the extra
`learn` and is imported where a forest is grown and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from myriarch.errors import SpecError

Floats = npt.NDArray[np.float64]

SEED: Final = 0
"""Nothing is drawn below 10,000 rows or without early stopping; above, the rows that bins are made of are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """How a forest is grown. Defaults: scikit-learn's where not said otherwise."""

    loss: Literal["squared_error", "quantile"] = "squared_error"
    quantile: float | None = None
    """Which one, for the loss of that name."""
    trees: int = 100
    rate: float = 0.1
    leaves: int = 31
    depth: int = 8
    """Bounds the steps of an evaluation; 31 leaves seldom go deeper. scikit-learn has no bound."""
    leaf_rows: int = 20
    bins: int = 64
    """Values that a feature is told apart by; scikit-learn's 255 take a third more time and are no better here."""


class Forest:
    """A sum of trees over rows of equal length. NaN is a value: each split says where it goes."""

    def __init__(self, *, base: float, trees: Sequence[npt.NDArray[Any]]) -> None:
        self._base = base
        offsets = np.cumsum([0, *(len(tree) for tree in trees)])[:-1]
        self._roots = np.array(offsets, dtype=np.intp)
        nodes = np.concatenate(trees) if trees else np.zeros(0, dtype=_NODE)
        leaf = nodes["is_leaf"].astype(bool)
        shift = np.repeat(self._roots, [len(tree) for tree in trees])
        own = np.arange(len(nodes))
        self._feature = nodes["feature_idx"].astype(np.intp)
        self._feature[leaf] = 0
        self._threshold = nodes["num_threshold"].astype(np.float64)
        self._missing_left = nodes["missing_go_to_left"].astype(bool)
        left = np.where(leaf, own, nodes["left"].astype(np.intp) + shift)
        right = np.where(leaf, own, nodes["right"].astype(np.intp) + shift)
        self._next = np.stack((right, left), axis=1).ravel()
        self._value = nodes["value"].astype(np.float64)
        self._depth = int(nodes["depth"].max(initial=0))

    def one(self, row: Floats) -> float:
        """The sum for one row."""
        at = self._roots
        for _ in range(self._depth):
            values = row[self._feature[at]]
            left = values <= self._threshold[at]
            left |= np.isnan(values) & self._missing_left[at]
            at = self._next[2 * at + left]
        return self._base + float(self._value[at].sum())

    def many(self, rows: Floats) -> Floats:
        """The sums for many, `rows` of shape (rows, features)."""
        sums = np.full(len(rows), self._base)
        index = np.arange(len(rows))
        for root in self._roots:
            at = np.full(len(rows), root)
            for _ in range(self._depth):
                values = rows[index, self._feature[at]]
                left = (values <= self._threshold[at]) | (np.isnan(values) & self._missing_left[at])
                at = self._next[2 * at + left]
            sums += self._value[at]
        return sums


_NODE: Final = np.dtype(
    [
        ("value", "f8"), ("feature_idx", "i8"), ("num_threshold", "f8"), ("missing_go_to_left", "u1"),
        ("left", "u4"), ("right", "u4"), ("depth", "u4"), ("is_leaf", "u1"),
    ]
)  # fmt: skip


def grown(rows: Floats, targets: Floats, *, growth: Growth, weights: Floats | None = None) -> Forest:
    """A forest that fits `targets` (rows,) from `rows` (rows, features). Deterministic, in one thread.

    Raises SpecError where scikit-learn is missing.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise SpecError(
            "scikit-learn, which learns from past jobs, is not installed",
            hint="pip install 'myriarch[learn]', or plan with the users' estimates",
        ) from None
    model = HistGradientBoostingRegressor(
        loss=growth.loss,
        quantile=growth.quantile,
        max_iter=growth.trees,
        learning_rate=growth.rate,
        max_leaf_nodes=growth.leaves,
        max_depth=growth.depth,
        min_samples_leaf=growth.leaf_rows,
        max_bins=growth.bins,
        early_stopping=False,
        random_state=SEED,
    )
    rows = np.where(np.isnan(rows).all(axis=0), 0.0, rows)  # a column that is never known has no bins
    with threadpool_limits(limits=1):
        model.fit(rows, targets, sample_weight=weights)
    # The learner has no public way to its trees; these two names have stood since its first release (0.21).
    trees = [predictor.nodes for (predictor,) in model._predictors]
    return Forest(base=float(model._baseline_prediction.ravel()[0]), trees=trees)
