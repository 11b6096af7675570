"""Forests: as good as scikit-learn's, the same one row at a time as all at once, and without it."""

from __future__ import annotations

import numpy as np
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.boosted_learner import Growth, grown


def drawn(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with unknown values and a column that is never known; targets with noise."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, 5))
    targets = 3 * rows[:, 0] + np.sin(4 * rows[:, 1]) + random.normal(size=count)
    rows[random.random(rows.shape) < 0.1] = np.nan
    rows[:, 4] = np.nan
    return rows, targets


def pinball(targets: np.ndarray, said: np.ndarray, level: float) -> float:
    errors = targets - said
    return float(np.maximum(level * errors, (level - 1) * errors).mean())


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_it_is_as_good_as_scikit_learn(level: float) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    growth = Growth(quantile=level, trees=30, leaves=16)
    (rows, targets), (asked, truth) = (drawn(1200, seed=seed) for seed in (7, 8))
    model = ensemble.HistGradientBoostingRegressor(
        loss="quantile",
        quantile=level,
        max_iter=growth.trees,
        max_leaf_nodes=growth.leaves,
        max_depth=growth.depth,
        max_bins=growth.bins,
        early_stopping=False,
    )
    with threadpoolctl.threadpool_limits(limits=1):
        theirs = model.fit(np.where(np.arange(5) == 4, 0.0, rows), targets).predict(asked)
    ours = pinball(truth, grown(rows, targets, growth=growth).many(asked), level)
    assert ours < 1.05 * pinball(truth, theirs, level)
    assert ours < 0.7 * pinball(truth, np.full(len(truth), np.quantile(targets, level)), level)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_a_forest_covers_what_it_learnt_from(level: float) -> None:
    rows, targets = drawn(800, seed=1)
    forest = grown(rows, targets, growth=Growth(quantile=level, trees=30, leaves=8))
    said = forest.many(rows)
    assert np.mean(targets <= said) == pytest.approx(level, abs=0.05)
    np.testing.assert_allclose([forest.one(row) for row in rows[:50]], said[:50], rtol=0, atol=1e-12)


def test_one_step_is_found_where_it_is() -> None:
    """One tree with two leaves, each saying its own median."""
    rows = np.array([[float(index), np.nan] for index in range(40)] + [[np.nan, np.nan]] * 40)
    targets = np.array([0.0] * 40 + [8.0] * 40)
    forest = grown(rows, targets, growth=Growth(quantile=0.6, trees=1, rate=1.0, leaves=2))
    assert forest.one(np.array([3.0, np.nan])) == forest.one(np.array([1e9, 5.0])) == 0.0
    assert forest.one(np.array([np.nan, np.nan])) == 8.0


def test_what_cannot_be_learnt_is_refused() -> None:
    with pytest.raises(SpecError, match="from 0 rows"):
        grown(np.zeros((0, 3)), np.zeros(0), growth=Growth(quantile=0.5))
    with pytest.raises(SpecError, match="quantile: 1"):
        grown(np.zeros((9, 3)), np.zeros(9), growth=Growth(quantile=1.0))
