"""Linear and mixed-integer programs, written row by row and solved by HiGHS (Huangfu and Hall, Math. Prog. Comp. 2018).

    minimise c x  subject to  low <= A x <= high,  bounds on x,  some of x whole numbers

Variables and rows keep the order in which they were added, and HiGHS is deterministic: the same program gives the same
solution, among equals too. SciPy is imported where a program is solved and nowhere else; it takes half a second.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from myriarch.errors import MyriarchError

Floats = npt.NDArray[np.float64]

TOLERANCE: Final = 1e-7
"""Of HiGHS: a row may be overrun by so much (its `primal_feasibility_tolerance`)."""
_OPTIMAL, _LIMIT, _INFEASIBLE = 0, 1, 2
"""`status` of scipy.optimize.milp and linprog."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """An answer: proven, or the best that was found in the time."""

    values: Floats
    """One for each variable; whole where it had to be."""
    objective: float
    bound: float
    """No feasible point is lower than this."""
    optimal: bool
    """Proven; False: the time ran out."""

    @property
    def gap(self) -> float:
        """How far, at most, the objective is above the optimum; as a share of it. 0 where it is proven."""
        if self.optimal:
            return 0.0
        distance = max(self.objective - self.bound, 0.0)
        return distance / max(abs(self.objective), 1e-9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duals:
    """Of a linear program: what one more unit of a row's bound would change in the objective."""

    values: Floats
    objective: float
    upper: Floats
    """By row: change of the objective for one more of its upper bound; never positive, 0 where the row is slack."""
    lower: Floats
    """By row, of its lower bound; never negative."""


class Program:
    """A program under construction. Its methods return the index of what they added."""

    def __init__(self) -> None:
        self._costs: list[float] = []
        self._bounds: list[tuple[float, float]] = []
        self._whole: list[bool] = []
        self._entries: list[tuple[int, int, float]] = []
        self._limits: list[tuple[float, float]] = []

    @property
    def variables(self) -> int:
        return len(self._costs)

    @property
    def rows(self) -> int:
        return len(self._limits)

    @property
    def costs(self) -> tuple[float, ...]:
        """Of each variable in the objective."""
        return tuple(self._costs)

    def variable(self, *, cost: float = 0.0, low: float = 0.0, high: float = math.inf, whole: bool = False) -> int:
        """A variable between `low` and `high`."""
        self._costs.append(cost)
        self._bounds.append((low, high))
        self._whole.append(whole)
        return len(self._costs) - 1

    def row(self, terms: Iterable[tuple[int, float]], *, low: float = -math.inf, high: float = math.inf) -> int:
        """`low <= sum of coefficient x variable <= high`, from (variable, coefficient)."""
        index = len(self._limits)
        self._entries.extend((index, variable, factor) for variable, factor in terms)
        self._limits.append((low, high))
        return index

    def with_costs(self, costs: Iterable[float]) -> Program:
        """The same rows under another objective; rows added to it later are its own."""
        other = Program()
        other._costs = list(costs)
        if len(other._costs) != self.variables:
            raise ValueError(f"{len(other._costs)} costs for {self.variables} variables")
        other._bounds, other._whole = list(self._bounds), list(self._whole)
        other._entries, other._limits = list(self._entries), list(self._limits)
        return other

    def cost_of(self, values: Floats) -> float:
        """The objective at a point."""
        return float(np.dot(self._costs, values))

    def minimise(self, *, time_limit_s: float = math.inf, gap: float = 0.0) -> Solution | None:
        """The best point; None where there is none (or, with `optimal` unproven, none was found in the time).

        Exact: HiGHS's own relative gap of 1e-4 is set to `gap`, nothing if not said otherwise. Raises MyriarchError for
        an unbounded program.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        if not self._costs:
            return Solution(values=np.zeros(0), objective=0.0, bound=0.0, optimal=True)
        options: dict[str, float] = {"mip_rel_gap": gap}
        if math.isfinite(time_limit_s):
            options["time_limit"] = time_limit_s
        low, high = np.array(self._bounds).T
        found = milp(
            np.array(self._costs),
            integrality=np.array(self._whole, dtype=np.int64),
            bounds=Bounds(low, high),
            constraints=[LinearConstraint(self._matrix(), *np.array(self._limits).T)] if self._limits else [],
            options=options,
        )
        if found.status not in (_OPTIMAL, _LIMIT, _INFEASIBLE):
            raise MyriarchError(f"the solver gave up on {self.variables} variables, {self.rows} rows: {found.message}")
        if found.x is None:
            return None
        values = np.where(self._whole, np.round(found.x), found.x)
        bound = float(found.fun if found.get("mip_dual_bound") is None else found.mip_dual_bound)
        proven = found.status == _OPTIMAL and (not gap or found.fun - bound <= TOLERANCE * max(abs(found.fun), 1.0))
        return Solution(values=values, objective=self.cost_of(values), bound=bound, optimal=proven)

    def relaxed(self, *, time_limit_s: float = math.inf) -> Duals | None:
        """The program without "whole numbers", with its shadow prices; None where no point or too little time."""
        from scipy.optimize import linprog

        if not self._costs:
            return Duals(values=np.zeros(0), objective=0.0, upper=np.zeros(self.rows), lower=np.zeros(self.rows))
        low, high = np.array(self._limits).reshape(-1, 2).T
        above, below = np.flatnonzero(np.isfinite(high)), np.flatnonzero(np.isfinite(low))
        matrix = self._matrix()
        found = linprog(
            np.array(self._costs),
            A_ub=_stacked(matrix[above], -matrix[below]),
            b_ub=np.concatenate((high[above], -low[below])),
            bounds=np.array(self._bounds),
            method="highs",
            options={"time_limit": time_limit_s} if math.isfinite(time_limit_s) else {},
        )
        if found.status != _OPTIMAL:
            return None
        upper, lower = np.zeros(self.rows), np.zeros(self.rows)
        marginals = np.asarray(found.ineqlin.marginals, dtype=np.float64)
        upper[above], lower[below] = marginals[: len(above)], -marginals[len(above) :]
        return Duals(values=np.asarray(found.x), objective=float(found.fun), upper=upper, lower=lower)

    def _matrix(self) -> Any:
        from scipy.sparse import csr_matrix

        rows, columns, factors = zip(*self._entries, strict=True) if self._entries else ((), (), ())
        return csr_matrix((factors, (rows, columns)), shape=(self.rows, self.variables))


def _stacked(upper: Any, lower: Any) -> Any:
    from scipy.sparse import vstack

    return vstack((upper, lower), format="csr")
