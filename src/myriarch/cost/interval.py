"""How often to save: the interval that loses least to saving and to failures together.

Failures come at random with mean time `M` between them (exponential), also while saving and restoring. A segment is
`tau` of work and `d` of saving; a failure inside costs a restart `R` and the segment anew. Daly (Future Generation
Computer Systems 22, 2006, eq. 20) has the expected time of `Ts` of work in closed form, and so the share of time that
is work kept:

    T = M exp(R/M) (exp((tau + d)/M) - 1) Ts/tau            efficiency = Ts/T

Setting dT/dtau = 0 gives (1 - tau/M) exp((tau + d)/M) = 1, hence with x = tau/M and c = d/M

    -ln(1 - x) - x = c        or        x = 1 + W0(-exp(-c - 1)),  W0 the principal branch of Lambert's W

which is solved exactly here. R does not matter to where the optimum lies, only to how good it is. Young's (1974) and
Daly's series are kept beside it for contrast: at c = 1/3 Young is 34 % too long, Daly 0.3 % too short.

Valid for any M, d > 0. Not modelled: failures that come in bursts (LANL's Weibull shape below 1 moves the optimum
little), and saves that overlap work (let `d` be the part that stops it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_SERIES_BELOW: Final = 1e-3
"""Below this p the series' first dropped term, 0.026 p^5 of the whole, is lost in rounding; Newton would lose digits to
cancellation."""
_NEWTON_LIMIT: Final = 100
"""Never reached: the iteration converges quadratically from the right of the root, some 5 to 8 steps."""


def optimal_interval_s(save_s: float, *, mtbf_s: float) -> float:
    """Work between two saves that loses least, in seconds. 0 when saving is free, inf when nothing fails."""
    _require_positive(mtbf_s, "mtbf_s")
    _require_not_negative(save_s, "save_s")
    if save_s == 0 or math.isinf(mtbf_s):
        return 0.0 if save_s == 0 else math.inf
    return mtbf_s * _root(save_s / mtbf_s)


def _root(c: float) -> float:
    """The x in (0, 1] with -ln(1 - x) - x = c, to machine precision."""
    # 1 + W0(z) around the branch point z = -1/e (Corless et al., Adv. Comput. Math. 5, 1996, eq. 4.22);
    # e z + 1 = 1 - exp(-c), so that p keeps all its digits however small c is.
    p = math.sqrt(-2.0 * math.expm1(-c))
    if p < _SERIES_BELOW:
        return p * (1 + p * (-1 / 3 + p * (11 / 72 + p * (-43 / 540 + p * 769 / 17280))))
    # Both bounds lie right of the root: x^2/2 <= c, and 1 - x = exp(-c - 1 + (1 - x)) >= exp(-c - 1). The function is
    # concave and falls, so from there Newton's steps stay right of the root and only shrink.
    x = min(math.sqrt(2.0 * c), -math.expm1(-c - 1.0))
    for _ in range(_NEWTON_LIMIT):
        if x >= 1.0:
            return 1.0
        step = (math.log1p(-x) + x + c) * (1.0 - x) / x
        x += step
        if abs(step) <= 1e-16 * x or step >= 0:
            break
    return x


def young_interval_s(save_s: float, *, mtbf_s: float) -> float:
    """sqrt(2 d M): Young, Comm. ACM 17 (1974). Good while d is far below M."""
    return math.sqrt(2.0 * save_s * mtbf_s)


def daly_interval_s(save_s: float, *, mtbf_s: float) -> float:
    """Daly's higher-order series (2006, eq. 37): `sqrt(2dM)(1 + sqrt(d/2M)/3 + (d/2M)/9) - d` for d < 2M, else M."""
    if save_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2.0 * mtbf_s)
    return math.sqrt(2.0 * save_s * mtbf_s) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save_s


def expected_efficiency(interval_s: float, *, save_s: float, restart_s: float, mtbf_s: float) -> float:
    """Share of time, in 0..1, that becomes work kept, when saving after every `interval_s` of work.

    `restart_s`: from a failure to the first step after it, restoring included. Without failures: tau / (tau + d).
    """
    _require_positive(interval_s, "interval_s")
    _require_positive(mtbf_s, "mtbf_s")
    _require_not_negative(save_s, "save_s")
    _require_not_negative(restart_s, "restart_s")
    if math.isinf(mtbf_s):
        return interval_s / (interval_s + save_s)
    exponent = (interval_s + save_s) / mtbf_s
    # exp(-R/M) x / (exp(y) - 1), written so that nothing overflows however bad the interval is.
    decay = math.exp(-(restart_s / mtbf_s) - exponent)
    return (interval_s / mtbf_s) * decay / -math.expm1(-exponent)


def best_efficiency(save_s: float, *, restart_s: float, mtbf_s: float) -> float:
    """`expected_efficiency` at the optimal interval; its limit, exp(-R/M), when saving is free."""
    interval_s = optimal_interval_s(save_s, mtbf_s=mtbf_s)
    if math.isinf(interval_s):
        return 1.0
    if interval_s == 0:
        return math.exp(-restart_s / mtbf_s)
    return expected_efficiency(interval_s, save_s=save_s, restart_s=restart_s, mtbf_s=mtbf_s)


def optimal_interval_steps(step_s: float, *, save_s: float, mtbf_s: float, limit_steps: int) -> int:
    """The optimal interval in whole steps, from 1 to `limit_steps`.

    Efficiency rises up to its one maximum and falls after it, so the best whole number is next to the exact optimum.
    """
    _require_positive(step_s, "step_s")
    exact = optimal_interval_s(save_s, mtbf_s=mtbf_s) / step_s
    if exact >= limit_steps:
        return limit_steps
    lower = max(math.floor(exact), 1)

    def efficiency(steps: int) -> float:
        return expected_efficiency(steps * step_s, save_s=save_s, restart_s=0.0, mtbf_s=mtbf_s)

    return min(max(lower, lower + 1, key=efficiency), limit_steps)


def first_order_levels(levels: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], float]:
    """Intervals in seconds and efficiency of several tiers: `levels` has (failures per second, save_s) of each.

    A tier's rate is that of the failures which no cheaper tier survives. First order (Benoit et al., IEEE Trans.
    Comput. 66, 2017): each tier by itself, tau = sqrt(2 C / lambda), overhead the sum of sqrt(2 lambda C), efficiency
    1 / (1 + overhead). Against the Markov model of Moody et al. (SC 2010) it is 0.1 points high on the two real
    machines of that paper and 2.2 points high at 50 times the failure rate.
    """
    intervals = tuple(young_interval_s(save_s, mtbf_s=1.0 / rate) if rate > 0 else math.inf for rate, save_s in levels)
    overhead = sum(math.sqrt(2.0 * rate * save_s) for rate, save_s in levels)
    return intervals, 1.0 / (1.0 + overhead)


def _require_positive(value: float, name: str) -> None:
    if not value > 0:
        raise ValueError(f"{name}: {value} is not above zero")


def _require_not_negative(value: float, name: str) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: {value} is not a finite number from zero up")
