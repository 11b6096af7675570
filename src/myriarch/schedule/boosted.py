"""Gradient-boosted trees, evaluated one row at a time.

What is learnt is a batch, once a week (`boosted_learner`); what is asked is one row at a time, a hundred thousand
times. All trees of a forest take one step down together, which is one gather in numpy a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NODE: Final = np.dtype(
    [
        ("value", "f8"), ("feature_idx", "i8"), ("num_threshold", "f8"), ("missing_go_to_left", "u1"),
        ("left", "u4"), ("right", "u4"), ("depth", "u4"), ("is_leaf", "u1"),
    ]
)  # fmt: skip
"""A node of a tree; children are named by their places in it. A leaf has a value and nothing else."""


class Forest:
    """A sum of trees over rows of equal length. NaN is a value: each split says where it goes."""

    def __init__(self, *, base: float, trees: Sequence[npt.NDArray[Any]]) -> None:
        self._base = base
        offsets = np.cumsum([0, *(len(tree) for tree in trees)])[:-1]
        self._roots = np.array(offsets, dtype=np.intp)
        nodes = np.concatenate(trees) if trees else np.zeros(0, dtype=NODE)
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
