"""How long those that wait still will, and how long a new job would: from the stream of a scheduler that is at work.

The stream (`schedule.stream`) is a scheduler's journal: all that it heard and said. It is read as it lies there, also
while it is being written; what is learnt from it is learnt by the code that forecasts for a scenario's jobs. Jobs that
the machine can never take are refused with the reason that its scheduler would give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from myriarch.errors import UsageError
from myriarch.event.base import Value
from myriarch.schedule.counted import Counted
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Machine
from myriarch.schedule.placed import Placed
from myriarch.schedule.stream_format import Entry, Opening
from myriarch.schedule.waits_stream import StillWaiting
from myriarch.simulate.scenario_waits import Calibration, calibration_of, watched

SCHEMA: Final = "myriarch.queue/1"


class NewJob(Value, frozen=True, kw_only=True):
    """Somebody might submit it."""

    devices: int
    estimate_s: float
    tenant: str = ""
    user: str = ""


class Asked(Value, frozen=True, kw_only=True):
    """A new job, and how long it would wait if it came now. None: never, see `refused`."""

    job: NewJob
    p50_s: float | None = None
    """As likely longer as shorter; 0: at once."""
    p90_s: float | None = None
    work_ahead_s: float | None = None
    """Expected work before it, in seconds of the whole fleet."""
    refused: str = ""
    """Why it could never start."""


class Queue(Value, frozen=True, kw_only=True):
    """Who waits, for how long yet, and how far that is to be trusted."""

    schema: str = SCHEMA
    scheduler: str
    """As the stream calls it."""
    devices: int
    at_s: float
    """The stream's last instant, or the one that was asked for: what `now` means here."""
    closed: bool
    """Whether the stream was ended on purpose."""
    estimates: bool
    """Whether estimates are taken for the users' own words."""
    submitted: int
    running: int
    started: int
    """Waits that are over: what could be learnt from."""
    calibration: Calibration
    """Of all that was told at submission, until now."""
    waiting: tuple[StillWaiting, ...]
    """Those that wait longest first."""
    asked: tuple[Asked, ...]


def queue_now(
    entries: Sequence[Entry], *, asked: Iterable[NewJob] = (), estimates: bool = True, as_of_s: float | None = None
) -> Queue:
    """Answer. `entries`: of `stream.read(..., growing=True)`. `as_of_s`: look back to this instant of the stream.

    Raises IntegrityError for a stream without its begin, UsageError for one in which nothing has happened by then.
    """
    seen = entries if as_of_s is None else _until(entries, as_of_s)
    watch = watched(seen, estimates=estimates)
    opening = seen[0].opening
    assert opening is not None
    if not watch.told and not watch.running:
        raise UsageError("no job was submitted until then", hint="wait for the first, or look at a later instant")
    now_s = watch.now_s if as_of_s is None else max(as_of_s, watch.now_s)
    machine = _machine(opening)
    found = []
    for number, new in enumerate(asked):
        job = Job(
            id=JobId(f"asked/{number}"),
            submit_s=now_s,
            devices=new.devices,
            estimate_s=new.estimate_s,
            tenant=new.tenant,
            user=new.user,
            kind="gang" if new.devices > 1 else "experiment",
        )
        if why := machine.refusal(job):
            found.append(Asked(job=new, refused=why))
            continue
        said = watch.forecast(job, now_s=now_s)
        found.append(Asked(job=new, p50_s=said.p50_s, p90_s=said.p90_s, work_ahead_s=said.work_ahead_s))
    return Queue(
        scheduler=opening.scheduler,
        devices=opening.devices,
        at_s=now_s,
        closed=seen[-1].closing is not None,
        estimates=estimates,
        submitted=len(watch.told),
        running=watch.running,
        started=watch.started_jobs,
        calibration=calibration_of(watch.told, end_s=now_s),
        waiting=watch.waiting(now_s=now_s),
        asked=tuple(found),
    )


def _until(entries: Sequence[Entry], as_of_s: float) -> Sequence[Entry]:
    """Up to what the last stimulus by then caused."""
    for index, entry in enumerate(entries):
        if entry.stimulus is not None and entry.stimulus.at_s > as_of_s:
            return entries[:index]
    return entries


def _machine(opening: Opening) -> Machine:
    return Placed(opening.pools) if opening.pools else Counted(opening.devices)
