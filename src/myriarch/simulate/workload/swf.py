"""Standard Workload Format of the Parallel Workloads Archive: 18 numbers a line, `;` comments, -1 for unknown.

Chapin et al., "Benchmarks and standards for the evaluation of parallel job schedulers", JSSPP'99.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from myriarch.simulate.workload.trace import BadLine, Trace, TraceJob, collect, made, number

FIELDS: Final = 18
JOB, SUBMIT, WAIT, RUN, ALLOCATED, REQUESTED, ESTIMATE, STATUS, USER, GROUP, QUEUE = 0, 1, 2, 3, 4, 7, 8, 10, 11, 12, 14
STATES: Final = {0: "Failed", 1: "Completed", 2: "Partial", 3: "Last part", 4: "Failed part", 5: "Cancelled"}


def read_swf(lines: Iterable[str]) -> Trace:
    """A trace in SWF. Devices are processors: those requested, or where unknown those allocated."""
    return collect(_records(lines))


def header(lines: Iterable[str]) -> dict[str, str]:
    """The header's fields, such as `MaxProcs`."""
    found: dict[str, str] = {}
    for line in lines:
        if not line.startswith(";"):
            break
        name, colon, value = line.lstrip("; \t").partition(":")
        if colon and name.isidentifier():
            found.setdefault(name, value.strip())
    return found


def _records(lines: Iterable[str]) -> Iterator[tuple[int, Callable[[], TraceJob]]]:
    for at, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith(";"):
            yield at, partial(_job, at, line.split())


def _job(line: int, fields: list[str]) -> TraceJob:
    if len(fields) != FIELDS:
        raise BadLine("missing field", f"{len(fields)} fields instead of {FIELDS}")
    values = [number(text, f"field {at}") for at, text in enumerate(fields, start=1)]
    return made(
        line=line,
        id=fields[JOB],
        submit_s=values[SUBMIT],
        run_s=None if values[RUN] == -1 else values[RUN],
        devices=int(values[REQUESTED] if values[REQUESTED] > 0 else max(values[ALLOCATED], 0)),
        wait_s=_known(values[WAIT]),
        estimate_s=_known(values[ESTIMATE]),
        tenant=_name(fields[GROUP]),
        user=_name(fields[USER]),
        kind=_name(fields[QUEUE]),
        state=STATES.get(int(values[STATUS]), ""),
    )


def _known(value: float) -> float | None:
    return None if value < 0 else value


def _name(text: str) -> str:
    return "" if text == "-1" else text
