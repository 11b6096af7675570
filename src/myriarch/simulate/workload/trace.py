"""What a trace says about its jobs, and what is wrong with it, line by line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec

from myriarch.event.base import Value

ProblemKind = Literal[
    "missing field", "not a number", "out of range", "negative time", "no devices", "did not run", "repeated id",
    "not a record",
]  # fmt: skip
"""`out of range`: no time or number of devices that there is, such as milliseconds where seconds belong. `no devices`:
a job of CPUs only. `did not run`: cancelled in the queue, or no end was recorded. `not a record`: no line of the
format."""

TIME_MOST_S: Final = 1e11
"""Three thousand years; the present in milliseconds since 1970 is seventeen times as much."""
DEVICES_MOST: Final = 10**9
"""Any scheduler refuses that many with a reason; more is no number of devices."""

TEXT_TOLD: Final = 60
"""Characters of a wrong field that a problem quotes."""
PROBLEMS_KEPT: Final = 1000
"""Lines that are reported one by one; all are counted."""


class TraceJob(Value, frozen=True, kw_only=True):
    """One job of a trace. Seconds since the trace's first submission; None: the source does not say."""

    line: int
    id: str
    submit_s: float
    run_s: float
    devices: int
    wait_s: float | None = None
    """What the real system did. Never shown to a policy."""
    estimate_s: float | None = None
    """What the user asked for."""
    nodes: int | None = None
    chip: str = ""
    tenant: str = ""
    user: str = ""
    kind: str = ""
    """In the words of the source."""
    state: str = ""
    """How it ended, in the words of the source."""


class Problem(Value, frozen=True, kw_only=True):
    """A line that gave no job."""

    line: int
    kind: ProblemKind
    text: str


class Trace(Value, frozen=True, kw_only=True):
    """Jobs in the order of submission, equal instants in the order of the file."""

    jobs: tuple[TraceJob, ...]
    problems: tuple[Problem, ...] = ()
    """The first of them."""
    problem_counts: dict[str, int] = msgspec.field(default_factory=dict)
    """All, by kind."""
    origin: str = ""
    """The instant of the first submission, as the source writes it."""


class BadLine(Exception):
    """Raised by a format for a line that gives no job."""

    def __init__(self, kind: ProblemKind, text: str) -> None:
        super().__init__(text)
        self.kind: ProblemKind = kind
        self.text = text


def collect(records: Iterable[tuple[int, Callable[[], TraceJob]]]) -> Trace:
    """A trace of line numbers and what makes a job of the line, or raises BadLine."""
    jobs: list[TraceJob] = []
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for line, parse in records:
        try:
            job = parse()
            if job.id in seen:
                raise BadLine("repeated id", f"`{job.id[:TEXT_TOLD]}` was there before")
        except BadLine as bad:
            counts[bad.kind] += 1
            if len(problems) < PROBLEMS_KEPT:
                problems.append(Problem(line=line, kind=bad.kind, text=bad.text))
            continue
        seen.add(job.id)
        jobs.append(job)
    jobs.sort(key=lambda job: job.submit_s)
    first_s = jobs[0].submit_s if jobs else 0.0
    if first_s:
        jobs = [msgspec.structs.replace(job, submit_s=job.submit_s - first_s) for job in jobs]
    return Trace(
        jobs=tuple(jobs), problems=tuple(problems), problem_counts=dict(sorted(counts.items())), origin=f"{first_s:g}"
    )


def made(
    *,
    line: int,
    id: str,
    submit_s: float,
    run_s: float | None,
    devices: int | None,
    wait_s: float | None = None,
    estimate_s: float | None = None,
    nodes: int | None = None,
    chip: str = "",
    tenant: str = "",
    user: str = "",
    kind: str = "",
    state: str = "",
) -> TraceJob:
    """A job, if these fields can be one's. A negative wait or estimate is unknown. Raises BadLine."""
    if not id:
        raise BadLine("missing field", "no id")
    if submit_s < 0:
        raise BadLine("negative time", f"submitted at {submit_s:g} s")
    if max(submit_s, run_s or 0.0, wait_s or 0.0, estimate_s or 0.0) > TIME_MOST_S:
        raise _too_long(id, {"submitted at": submit_s, "ran": run_s, "waited": wait_s, "asked for": estimate_s})
    if not devices or devices < 0:
        raise BadLine("no devices", f"job {id} asks for {devices or 0:.6g}")
    if devices > DEVICES_MOST:
        raise BadLine("out of range", f"job {id} asks for {float(devices):.3g} devices")
    if run_s is None or not run_s > 0:
        raise BadLine("negative time" if run_s is not None and run_s < 0 else "did not run", f"job {id} ran {run_s} s")
    return TraceJob(
        line=line,
        id=id,
        submit_s=submit_s,
        run_s=run_s,
        devices=devices,
        wait_s=wait_s if wait_s is None or wait_s >= 0 else None,
        estimate_s=estimate_s if estimate_s is None or estimate_s > 0 else None,
        nodes=nodes,
        chip=chip,
        tenant=tenant,
        user=user,
        kind=kind,
        state=state,
    )


def _too_long(id: str, times_s: Mapping[str, float | None]) -> BadLine:
    what, time_s = next((what, one) for what, one in times_s.items() if one is not None and one > TIME_MOST_S)
    return BadLine("out of range", f"job {id} {what} {time_s:g} s: is that in seconds?")


def number(text: str | None, name: str) -> float:
    """A number that has to be there. Raises BadLine."""
    found = maybe(text, name)
    if found is None:
        raise BadLine("missing field", f"no `{name}`")
    return found


def maybe(text: str | None, name: str) -> float | None:
    """A number, or None for an empty field. Raises BadLine."""
    if text is None or text in ("", "nan", "NaN", "None", "NULL"):
        return None
    try:
        found = float(text if text.isascii() and "_" not in text else "")  # Python reads 1_0 and digits of all scripts
    except ValueError:
        raise BadLine("not a number", f"`{name}: {text[:TEXT_TOLD]}`") from None
    if not math.isfinite(found):
        raise BadLine("not a number", f"`{name}: {text[:TEXT_TOLD]}`")
    return found


def count(text: str | None, name: str) -> int | None:
    """A number of things, rounded up: a share of a device is a device."""
    found = maybe(text, name)
    return None if found is None else -int(-found // 1)
