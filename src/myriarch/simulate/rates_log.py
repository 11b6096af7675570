"""Breakdowns replayed from a log, with what is wrong with it counted by kind.

A CSV file with a header. Columns: `at_s` (or `time_s`) in seconds since the log's begin, `pool`, `node` (index in the
pool, or its name `<pool>-<index>`), `cause`, `course`, and where they matter `duration_s`, `factor`, `announced_s`.
Lines that begin with `#` are comments.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

import msgspec

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.simulate.breakdowns import Breakdown, Course

LogProblemKind = Literal[
    "missing field", "not a number", "negative time", "unknown pool", "no such node", "unknown course", "bad factor",
    "repeated",
]  # fmt: skip
PROBLEMS_KEPT: Final = 1000
"""Lines that are told one by one; all are counted."""
NEEDED: Final = ("pool", "node", "cause", "course")
COURSES: Final[tuple[Course, ...]] = get_args(Course)


class LogProblem(Value, frozen=True, kw_only=True):
    """A line that gave no breakdown."""

    line: int
    kind: LogProblemKind
    text: str


class BreakdownLog(Value, frozen=True, kw_only=True):
    """What a log gave, by time; at one instant by pool and node."""

    breakdowns: tuple[Breakdown, ...]
    problems: tuple[LogProblem, ...] = ()
    """The first of them."""
    problem_counts: dict[str, int] = msgspec.field(default_factory=dict)
    """All, by kind."""


class _Bad(Exception):
    def __init__(self, kind: LogProblemKind, text: str) -> None:
        super().__init__(text)
        self.kind: LogProblemKind = kind
        self.text = text


def read_breakdowns(lines: Iterable[str], *, nodes: Mapping[str, int] | None = None) -> BreakdownLog:
    """Read a log. `nodes`: how many each pool has; None: any pool and node is believed.

    Raises SpecError for a file without the columns that are needed.
    """
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if _says(line)]
    if not numbered:
        return BreakdownLog(breakdowns=())
    header = [name.strip() for name in next(csv.reader([numbered[0][1]]))]
    time = next((name for name in ("at_s", "time_s") if name in header), "")
    lacking = [name for name in NEEDED if name not in header] + ([] if time else ["at_s"])
    if lacking:
        raise SpecError(
            f"a log of breakdowns without the columns {', '.join(lacking)}",
            hint=f"its first line names columns: at_s,{','.join(NEEDED)},duration_s,factor,announced_s",
        )
    found: list[Breakdown] = []
    problems: list[LogProblem] = []
    kinds: Counter[str] = Counter()
    seen: set[tuple[str, int, float, str]] = set()
    for number, line in numbered[1:]:
        try:
            one = _breakdown(dict(zip(header, next(csv.reader([line])), strict=False)), time, nodes)
            key = (one.pool, one.node, one.at_s, one.cause)
            if key in seen:
                raise _Bad("repeated", f"{one.pool}-{one.node} at {one.at_s:g} s: `{one.cause}` was there before")
        except _Bad as bad:
            kinds[bad.kind] += 1
            if len(problems) < PROBLEMS_KEPT:
                problems.append(LogProblem(line=number, kind=bad.kind, text=bad.text))
            continue
        seen.add(key)
        found.append(one)
    found.sort(key=lambda one: (one.at_s, one.pool, one.node))
    return BreakdownLog(breakdowns=tuple(found), problems=tuple(problems), problem_counts=dict(sorted(kinds.items())))


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _breakdown(row: Mapping[str, str], time: str, nodes: Mapping[str, int] | None) -> Breakdown:
    pool, course = _text(row, "pool"), _text(row, "course")
    if nodes is not None and pool not in nodes:
        raise _Bad("unknown pool", f"`{pool}`; pools: {', '.join(nodes)}")
    if course not in COURSES:
        raise _Bad("unknown course", f"`{course}`; courses: {', '.join(COURSES)}")
    node = _node(_text(row, "node"), pool)
    if node < 0 or (nodes is not None and node >= nodes[pool]):
        raise _Bad("no such node", f"`{pool}` has no node {node}")
    at_s, duration_s, announced_s = (_number(row, name, 0.0) for name in (time, "duration_s", "announced_s"))
    if not row.get(time, "").strip():
        raise _Bad("missing field", f"no {time}")
    if min(at_s, duration_s, announced_s) < 0:
        raise _Bad("negative time", f"at {at_s:g} s for {duration_s:g} s, announced {announced_s:g} s before")
    factor = _number(row, "factor", 1.0)
    if not 0.0 < factor <= 1.0:
        raise _Bad("bad factor", f"{factor:g}; a slow node keeps a share of its speed above 0 and up to 1")
    return Breakdown(
        at_s=at_s,
        pool=pool,
        node=node,
        cause=_text(row, "cause"),
        course=next(known for known in COURSES if known == course),
        duration_s=duration_s,
        factor=factor,
        announced_s=announced_s,
    )


def _text(row: Mapping[str, str], name: str) -> str:
    value = (row.get(name) or "").strip()
    if not value:
        raise _Bad("missing field", f"no {name}")
    return value


def _number(row: Mapping[str, str], name: str, missing: float) -> float:
    text = (row.get(name) or "").strip()
    if not text:
        return missing
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Bad("not a number", f"{name}: `{text}`")
    return value


def _node(text: str, pool: str) -> int:
    """`7`, or `fast-7` in pool `fast`."""
    digits = text.removeprefix(f"{pool}-")
    if not digits.isdecimal():
        raise _Bad("not a number", f"node: `{text}`")
    return int(digits)
