"""Forests: the same numbers as scikit-learn's, one row at a time."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from myriarch.errors import SpecError
from myriarch.schedule.boosted import Growth, grown


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with unknown values and a column that is never known; targets with noise."""
    random = np.random.default_rng(7)
    rows = random.normal(size=(count, 5))
    targets = 3 * rows[:, 0] + np.sin(4 * rows[:, 1]) + random.normal(size=count)
    rows[random.random(rows.shape) < 0.1] = np.nan
    rows[:, 4] = np.nan
    return rows, targets


@pytest.mark.parametrize("growth", [Growth(trees=12), Growth(loss="quantile", quantile=0.9, trees=12, leaves=16)])
def test_it_says_what_scikit_learn_says(growth: Growth) -> None:
    rows, targets = drawn(600)
    asked, _ = drawn(700)
    forest = grown(rows, targets, growth=growth)
    theirs = HistGradientBoostingRegressor(
        loss=growth.loss,
        quantile=growth.quantile,
        max_iter=growth.trees,
        max_leaf_nodes=growth.leaves,
        max_depth=growth.depth,
        max_bins=growth.bins,
        early_stopping=False,
    ).fit(np.where(np.arange(5) == 4, 0.0, rows), targets)
    expected = theirs.predict(asked)
    np.testing.assert_allclose(forest.many(asked), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose([forest.one(row) for row in asked[:50]], expected[:50], rtol=0, atol=1e-12)


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(SpecError, match="not installed") as raised:
        grown(*drawn(100), growth=Growth())
    assert "myriarch[learn]" in raised.value.hint
