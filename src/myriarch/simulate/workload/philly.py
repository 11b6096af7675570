"""`cluster_job_log` of Microsoft's Philly (Jeon et al., ATC'19; github.com/msr-fiddle/philly-traces): one JSON list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from myriarch.errors import SpecError
from myriarch.simulate.workload.tables import instant_s
from myriarch.simulate.workload.trace import BadLine, Trace, TraceJob, collect, made


class _Server(msgspec.Struct):
    ip: str = ""
    gpus: list[str] = []


class _Attempt(msgspec.Struct):
    start_time: str | None = None
    end_time: str | None = None
    detail: list[_Server] = []


class _Entry(msgspec.Struct):
    jobid: str = ""
    submitted_time: str | None = None
    status: str = ""
    vc: str = ""
    user: str | None = None
    attempts: list[_Attempt] = []


_decoder: Final = msgspec.json.Decoder(_Entry)


def read_philly(lines: Iterable[str]) -> Trace:
    """One job per entry: it runs from the first attempt's start to the last one's end, on what the first was given.

    Problems are numbered by entry, not by line. Times have no zone and are taken as UTC.
    """
    try:
        entries = msgspec.json.decode("".join(lines), type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise SpecError(f"not a `cluster_job_log`: {error}", hint="it is one JSON list of jobs") from None
    return collect(_records(entries))


def _records(entries: list[msgspec.Raw]) -> Iterator[tuple[int, Callable[[], TraceJob]]]:
    for at, entry in enumerate(entries, start=1):
        yield at, partial(_job, at, entry)


def _job(at: int, raw: msgspec.Raw) -> TraceJob:
    try:
        entry = _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadLine("not a record", f"entry {at}: {error}") from None
    submit_s = instant_s(entry.submitted_time, "submitted_time")
    attempts = [one for one in entry.attempts if _there(one.start_time) and _there(one.end_time)]
    if not attempts:
        raise BadLine("did not run", f"job {entry.jobid} has no attempt with a start and an end")
    start_s, end_s = instant_s(attempts[0].start_time, "start_time"), instant_s(attempts[-1].end_time, "end_time")
    servers = attempts[0].detail
    return made(
        line=at,
        id=entry.jobid,
        submit_s=submit_s,
        run_s=end_s - start_s,
        devices=sum(len(server.gpus) for server in servers),
        wait_s=start_s - submit_s,
        nodes=len(servers),
        tenant=entry.vc,
        user=entry.user or "",
        state=entry.status,
    )


def _there(text: str | None) -> bool:
    return text not in (None, "", "None", "null")
