"""Gradient boosting of quantiles by histograms.

Boosting: Friedman, Annals of Statistics 29(5), 2001. Histograms, leaf by leaf: Ke et al., LightGBM, NIPS'17.

A tree is grown on the sign of what is left: under the pinball loss of level q, a row that is forecast too high pulls
down by 1 - q and any other up by q, so that a set of n rows, `over` of them too high, pulls by G = over - q n, and
dividing it gains

    G_left^2 / n_left + G_right^2 / n_right - G^2 / n

What splits are chosen by are therefore counts of rows, exact and equal on every machine; a leaf then says the quantile
of what is left of its rows. Features are told apart by a few bins each; the histogram of the larger half is that of the
whole less that of the smaller. Which leaf is divided next: the one that gains most.

The learner is small because it does one thing; scikit-learn's does everything, has no public way to its trees, and is
not installed everywhere. `tests/schedule/test_boosted.py` compares the losses of both.
"""

from __future__ import annotations

import dataclasses
import heapq
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from myriarch.errors import SpecError
from myriarch.schedule.boosted import NODE, Floats, Forest

Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """How a forest is grown. Defaults: scikit-learn's where not said otherwise."""

    quantile: float
    """Which one, between 0 and 1."""
    trees: int = 100
    rate: float = 0.1
    leaves: int = 31
    depth: int = 8
    """Bounds the steps of an evaluation; 31 leaves seldom go deeper. scikit-learn has no bound."""
    leaf_rows: int = 20
    bins: int = 64
    """Values that a feature is told apart by; scikit-learn's 255 take a third more time and are no better here."""


def grown(rows: Floats, targets: Floats, *, growth: Growth) -> Forest:
    """A forest that fits the quantile of `targets` (rows,) from `rows` (rows, features). Nothing is drawn.

    Raises SpecError for no rows, and for a level that is none.
    """
    if not len(rows) or not 0 < growth.quantile < 1:
        raise SpecError(
            f"`quantile: {growth.quantile:g}` cannot be learnt from {len(rows)} rows",
            hint="give some rows, and a level between 0 and 1",
        )
    binned = _Binned(rows, bins=growth.bins)
    base = float(np.quantile(targets, growth.quantile))
    left = targets - base
    trees = []
    for _ in range(growth.trees):
        tree = _Tree(binned, left, growth)
        trees.append(tree.nodes())
        for leaf in tree.leaves:
            left[leaf.rows] -= leaf.value
    return Forest(base=base, trees=trees)


class _Binned:
    """Rows as numbers of bins. The last bin of every feature is of what is unknown."""

    def __init__(self, rows: Floats, *, bins: int) -> None:
        features = rows.shape[1]
        self.bins = bins
        self.width = bins + 1
        self.thresholds = np.full((features, bins), np.inf)
        """The upper end of each bin."""
        self.codes: Ints = np.full(rows.shape, bins, dtype=np.intp)
        for feature in range(features):
            column = rows[:, feature]
            known = ~np.isnan(column)
            ends = _ends(column[known], bins)
            self.thresholds[feature, : len(ends)] = ends
            self.codes[known, feature] = np.searchsorted(ends, column[known])
        self.places: Ints = self.codes + np.arange(features) * self.width
        """In a histogram of all features."""
        self.counts = self.histogram(np.arange(len(rows)))

    def histogram(self, rows: Ints) -> Ints:
        """How many rows are in each bin, shape (features, bins + 1)."""
        features = self.codes.shape[1]
        counts = np.bincount(self.places[rows].ravel(), minlength=features * self.width)
        return counts.reshape(features, self.width)


def _ends(values: Floats, bins: int) -> Floats:
    """Between the values where they are few, else between as many of them everywhere."""
    unique = np.unique(values)
    if len(unique) <= bins:
        return (unique[:-1] + unique[1:]) / 2
    return np.unique(np.quantile(values, np.arange(1, bins) / bins, method="midpoint"))


@dataclasses.dataclass(slots=True)
class _Split:
    """The best way to divide a leaf."""

    gain: float
    feature: int
    bin: int
    missing_left: bool


@dataclasses.dataclass(slots=True)
class _Leaf:
    """A node, until it is divided."""

    place: int
    depth: int
    rows: Ints
    counts: Ints
    over: Ints
    """As `counts`, of the rows that are forecast too high."""
    value: float = 0.0


class _Tree:
    """One tree. Invariant: every row is in one of `leaves`."""

    def __init__(self, binned: _Binned, left: Floats, growth: Growth) -> None:
        self._binned = binned
        self._growth = growth
        self._left = left
        self._over: Bools = left < 0
        self._nodes: list[tuple[Any, ...]] = []
        self._heap: list[tuple[float, int, _Split, _Leaf]] = []
        """Leaves that can be divided, by what it gains."""
        self.leaves: list[_Leaf] = []
        rows = np.arange(len(left))
        self._add(rows, 0, binned.counts, binned.histogram(rows[self._over]))
        while self._heap and len(self.leaves) + len(self._heap) < growth.leaves:
            _, _, split, leaf = heapq.heappop(self._heap)
            self._divide(leaf, split)
        self.leaves += [leaf for _, _, _, leaf in self._heap]
        for leaf in self.leaves:
            leaf.value = growth.rate * float(np.quantile(left[leaf.rows], growth.quantile))

    def nodes(self) -> npt.NDArray[Any]:
        """As a `Forest` takes them."""
        found = np.array(self._nodes, dtype=NODE)
        for leaf in self.leaves:
            found["value"][leaf.place] = leaf.value
        return found

    def _add(self, rows: Ints, depth: int, counts: Ints, over: Ints) -> int:
        leaf = _Leaf(len(self._nodes), depth, rows, counts, over)
        self._nodes.append((0.0, 0, np.inf, 0, 0, 0, depth, 1))
        split = self._best(leaf) if depth < self._growth.depth else None
        if split is None:
            self.leaves.append(leaf)
        else:
            heapq.heappush(self._heap, (-split.gain, leaf.place, split, leaf))
        return leaf.place

    def _best(self, leaf: _Leaf) -> _Split | None:
        """None: it is too small, or nothing is gained."""
        count, least, level = len(leaf.rows), self._growth.leaf_rows, self._growth.quantile
        if count < 2 * least:
            return None
        n = leaf.counts[:, :-1].cumsum(axis=1)
        over = leaf.over[:, :-1].cumsum(axis=1)
        gaps = np.flatnonzero(leaf.counts[:, -1])
        if len(gaps):  # what is unknown goes right, or left
            n = np.concatenate((n, n[gaps] + leaf.counts[gaps, -1:]))
            over = np.concatenate((over, over[gaps] + leaf.over[gaps, -1:]))
        places = np.flatnonzero((n >= least) & (n <= count - least))
        if not len(places):
            return None
        found = n.ravel()[places]
        pull = over.ravel()[places] - level * found
        all_pull = int(leaf.over[0].sum()) - level * count
        gains = pull**2 / found + (all_pull - pull) ** 2 / (count - found)
        best = int(gains.argmax())
        gain = float(gains[best]) - all_pull**2 / count
        if gain <= LEAST_GAIN:
            return None
        line, at = divmod(int(places[best]), self._binned.bins)
        features = len(leaf.counts)
        if line >= features:
            return _Split(gain, int(gaps[line - features]), at, True)
        known = not leaf.counts[line, -1]
        return _Split(gain, line, at, known and 2 * int(found[best]) > count)

    def _divide(self, leaf: _Leaf, split: _Split) -> None:
        codes = self._binned.codes[leaf.rows, split.feature]
        goes_left = codes <= split.bin
        if split.missing_left:
            goes_left |= codes == self._binned.bins
        halves = leaf.rows[goes_left], leaf.rows[~goes_left]
        smaller = int(len(halves[0]) > len(halves[1]))
        counts = self._binned.histogram(halves[smaller])
        over = self._binned.histogram(halves[smaller][self._over[halves[smaller]]])
        found = {smaller: (counts, over), 1 - smaller: (leaf.counts - counts, leaf.over - over)}
        places = [self._add(halves[side], leaf.depth + 1, *found[side]) for side in (0, 1)]
        threshold = self._binned.thresholds[split.feature, split.bin]
        self._nodes[leaf.place] = (0.0, split.feature, threshold, split.missing_left, *places, leaf.depth, 0)


LEAST_GAIN: Final = 1e-7
"""scikit-learn's: less is rounding."""
