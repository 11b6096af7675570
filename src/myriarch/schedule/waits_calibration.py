"""Quantiles kept at their level while the world drifts.

Whatever forecasts a quantile, an offset is added to it, which goes up by `step * level` after a forecast that was
exceeded and down by `step * (1 - level)` after one that was not: adaptive conformal inference (Gibbs and Candes,
NeurIPS 2021) in its form of a quantile tracker (Angelopoulos, Candes and Tibshirani, NeurIPS 2023). The offset is
bounded by the sizes of the errors, so that over n forecasts the share that is exceeded differs from 1 - level by
O(1 / (n step)) at most, however the forecasts were made and however the waits come about.
"""

from __future__ import annotations

from typing import Final

STEP: Final = 0.05
"""In logarithms of seconds, or of a sharp forecast's own spread: some 28 P50s exceeded, one after the other, double the
next one."""
OPEN: Final = 40
"""Where more forecasts than these have not come out yet, the step is smaller in proportion: all of them would push the
same way before the first effect is seen. The step is of 0.02 to 0.2 the one that lost least sharpness on Mira, SDSC and
Lublin; of 20 and 40, the P90s of Lublin's first 1,200 jobs under EASY hold 80 % and 83 % of the waits."""
OPEN_SHARED: Final = 10
"""The same where all that are open err together: while a long queue turns over once, a P50's offset moves by a quarter
of the spread at most. Of 1, 4, 6, 8, 10, 14, 20 and 40, on queues in order: SDSC's loss grows with it, from 0.25 to
0.29 (0.26 at 10); Lublin's P50, in a queue that never empties, covers 100, 99, 64, 50, 41, 32, 31 and 30 % of them,
and its loss is least at 8 and 10."""


class Tracker:
    """The offset of one quantile in one group of jobs. Invariant: `open` forecasts have not come out."""

    __slots__ = ("_few", "_floor", "_level", "offset", "open")

    def __init__(self, *, level: float, floor: float, shared: bool = False) -> None:
        """`floor`: the least offset. `shared`: forecasts that are open at once err together, and count for few."""
        self._level = level
        self._few = OPEN_SHARED if shared else OPEN
        self._floor = floor
        self.offset = 0.0
        self.open = 0

    def asked(self) -> None:
        """A forecast was made."""
        self.open += 1

    def came_out(self, *, exceeded: bool) -> None:
        """What it was of is known to be more, or not."""
        self.open -= 1
        step = STEP / max(1.0, self.open / self._few)
        self.offset += step * (self._level - (0.0 if exceeded else 1.0))
        self.offset = max(self.offset, self._floor)

    def withdrawn(self) -> None:
        """It will never come out."""
        self.open -= 1
