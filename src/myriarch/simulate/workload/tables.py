"""Traces that are tables with a header: the compact schema of this repository, Helios, Acme, Alibaba."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final

from myriarch.errors import SpecError
from myriarch.simulate.workload.trace import (
    TEXT_TOLD,
    BadLine,
    ProblemKind,
    Trace,
    TraceJob,
    collect,
    count,
    made,
    maybe,
    number,
)

Row = Mapping[str, str]
Parse = Callable[[int, Row], TraceJob]

COMPACT_COLUMNS: Final = (
    "job", "submit_s", "wait_s", "run_s", "req_s", "nodes", "gpus", "procs", "gpu_type", "user", "group", "state",
)  # fmt: skip
PAI_TASK_COLUMNS: Final = (
    "job_name", "task_name", "inst_num", "status", "start_time", "end_time", "plan_cpu", "plan_mem", "plan_gpu",
    "gpu_type",
)  # fmt: skip
PERCENT: Final = 100.0
MILLI: Final = 1000


def read_compact(lines: Iterable[str]) -> Trace:
    """Compact CSV: seconds from the first submission; an empty cell is unknown.

    Devices are `gpus` where there are any, else `nodes`, else `procs`.
    """
    return _read(lines, _compact, needed=("job", "submit_s", "run_s"), some=("gpus", "nodes", "procs"))


def read_helios(lines: Iterable[str]) -> Trace:
    """`cluster_log.csv` of Helios (Hu et al., SC'21; github.com/S-Lab-System-Group/HeliosData)."""
    return _read(lines, _slurm, needed=("job_id", "gpu_num", "submit_time", "duration", "vc"))


def read_acme(lines: Iterable[str]) -> Trace:
    """`trace_seren.csv`, `trace_kalos.csv` of Acme (Hu et al., NSDI'24; github.com/InternLM/AcmeTrace)."""
    return _read(lines, _slurm, needed=("job_id", "gpu_num", "submit_time", "duration", "type"))


def read_openb(lines: Iterable[str]) -> Trace:
    """`openb_pod_list_*.csv` of Alibaba's GPU trace of 2023 (Weng et al., ATC'23). A share of a GPU counts as one."""
    return _read(lines, _openb, needed=("name", "num_gpu", "creation_time", "deletion_time"))


def read_pai(lines: Iterable[str]) -> Trace:
    """`pai_task_table.csv` of Alibaba's GPU trace of 2020 (Weng et al., NSDI'22), which has no header.

    One job per task: instances times GPUs in percent of one, rounded up to whole devices.
    """
    return _read(lines, _pai, needed=("job_name",), columns=PAI_TASK_COLUMNS)


def instant_s(text: str | None, name: str) -> float:
    """Seconds since 1970 of `2023-05-17 11:00:58+00:00`; without an offset it is taken as UTC. Raises BadLine."""
    if not text or text in ("None", "null"):
        raise BadLine("missing field", f"no `{name}`")
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadLine("not a number", f"`{name}: {text[:TEXT_TOLD]}` is no date") from None


def _read(
    lines: Iterable[str],
    parse: Parse,
    *,
    needed: tuple[str, ...],
    some: tuple[str, ...] = (),
    columns: tuple[str, ...] | None = None,
) -> Trace:
    """`some`: columns of which there has to be one."""
    rows = csv.DictReader(lines, fieldnames=columns)
    try:
        found = rows.fieldnames or ()
    except csv.Error as error:
        raise SpecError(
            f"its first line is none of a table: {error}", hint="is it a trace of another format?"
        ) from None
    if missing := [name for name in needed if name not in found]:
        raise SpecError(f"the table lacks `{'`, `'.join(missing)}`", hint="is it a trace of another format?")
    if some and not any(name in found for name in some):
        hint = f"name the column {' or '.join(f'`{name}`' for name in some)}"
        raise SpecError(f"no column says how many devices a job has: there are `{'`, `'.join(found)}`", hint=hint)
    return collect(_numbered(rows, parse, needed))


def _numbered(
    rows: csv.DictReader[str], parse: Parse, needed: tuple[str, ...]
) -> Iterator[tuple[int, Callable[[], TraceJob]]]:  # fmt: skip
    while True:
        before = rows.line_num
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # a cell without an end, a NUL
            yield rows.line_num, partial(_no_job, "not a record", str(error))
            continue
        line = rows.line_num
        if line > before + 1 and any("\n" in cell for cell in row.values() if isinstance(cell, str)):
            yield line, partial(_no_job, "not a record", "a cell goes over several lines: is a quote left open?")
        elif None in row:
            yield line, partial(_no_job, "not a record", f"{len(row[None])} cells more than columns")
        elif None in row.values() and any(row[name] is None for name in needed):
            yield line, partial(_no_job, "missing field", "fewer cells than columns")
        else:
            yield line, partial(parse, line, row)


def _no_job(kind: ProblemKind, why: str) -> TraceJob:
    raise BadLine(kind, why)


def _compact(line: int, row: Row) -> TraceJob:
    nodes = count(row.get("nodes"), "nodes")
    return made(
        line=line,
        id=row["job"],
        submit_s=number(row["submit_s"], "submit_s"),
        run_s=maybe(row["run_s"], "run_s"),
        devices=count(row.get("gpus"), "gpus") or nodes or count(row.get("procs"), "procs"),
        wait_s=maybe(row.get("wait_s"), "wait_s"),
        estimate_s=maybe(row.get("req_s"), "req_s"),
        nodes=nodes,
        chip=row.get("gpu_type") or "",
        tenant=row.get("group") or "",
        user=row.get("user") or "",
        state=row.get("state") or "",
    )


def _slurm(line: int, row: Row) -> TraceJob:
    return made(
        line=line,
        id=row["job_id"],
        submit_s=instant_s(row["submit_time"], "submit_time"),
        run_s=maybe(row["duration"], "duration"),
        devices=count(row["gpu_num"], "gpu_num"),
        wait_s=maybe(row.get("queue"), "queue"),
        nodes=count(row.get("node_num"), "node_num"),
        tenant=row.get("vc") or "",
        user=row.get("user") or "",
        kind=row.get("type") or "",
        state=row.get("state") or "",
    )


def _openb(line: int, row: Row) -> TraceJob:
    created_s, scheduled_s = (
        number(row["creation_time"], "creation_time"),
        maybe(row.get("scheduled_time"), "scheduled"),
    )
    deleted_s = number(row["deletion_time"], "deletion_time")
    return made(
        line=line,
        id=row["name"],
        submit_s=created_s,
        run_s=None if scheduled_s is None else deleted_s - scheduled_s,
        devices=count(row["num_gpu"], "num_gpu"),
        wait_s=None if scheduled_s is None else scheduled_s - created_s,
        chip=row.get("gpu_spec") or "",
        kind=row.get("qos") or "",
        state=row.get("pod_phase") or "",
    )


def _pai(line: int, row: Row) -> TraceJob:
    start_s, end_s = number(row["start_time"], "start_time"), maybe(row["end_time"], "end_time")
    share, instances = maybe(row["plan_gpu"], "plan_gpu"), number(row["inst_num"], "inst_num")
    return made(
        line=line,
        id=f"{row['job_name']}/{row['task_name']}",
        submit_s=start_s,
        run_s=None if end_s is None else end_s - start_s,
        devices=None if share is None else -int(-instances * share / PERCENT // 1),
        chip=row["gpu_type"] or "",
        kind=row["task_name"] or "",
        state=row["status"] or "",
    )
