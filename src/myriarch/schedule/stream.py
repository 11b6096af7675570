"""What a scheduler was told and what it said to it, in order: recorded, and played again to the last byte.

A scheduler is a pure function of its stimuli, so this is all that is needed to find out whether the one that decided
on a live fleet and the one in a simulation are the same: feed the recorded stimuli to a fresh one and compare bytes.
`stream_format` has the records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, final, runtime_checkable

import xxhash

from myriarch.errors import IntegrityError, UsageError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Machine
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Draining, Scheduler, Surviving
from myriarch.schedule.stream_format import (
    MAGIC,
    Closing,
    Drained,
    Ended,
    Entry,
    Lost,
    Opening,
    Regained,
    Stimulus,
    Submitted,
    Withdrawn,
    Woken,
    body_of,
    framed,
    intact_bytes,
    numbered,
    read,
)

__all__ = [
    "MAGIC",
    "Closing",
    "Drained",
    "Ended",
    "Entry",
    "Lost",
    "Opening",
    "Recorder",
    "Regained",
    "Replayed",
    "Stimulus",
    "Submitted",
    "Tape",
    "Withdrawing",
    "Withdrawn",
    "Woken",
    "feed",
    "intact_bytes",
    "opening",
    "read",
    "replay",
]


@runtime_checkable
class Withdrawing(Protocol):
    """A scheduler whose waiting jobs may be called off."""

    def withdraw(self, job: JobId, *, now_s: float) -> Sequence[Decision]: ...


class Tape:
    """Encodes records one after the other. Invariant: `digest` is over the bodies of all `records` so far."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._digest = xxhash.xxh3_128()
        self.records = 0

    @property
    def digest(self) -> str:
        """Of all that was put."""
        return self._digest.hexdigest()

    def put(self, what: Opening | Stimulus | Decision | Closing) -> None:
        """One record more."""
        body = self.count(numbered(self.records + 1, what))
        self._write(framed(body))

    def count(self, entry: Entry) -> bytes:
        """Count a record that was written before; its body."""
        body = body_of(entry)
        self.records += 1
        self._digest.update(body)
        return body


@final
class Recorder:
    """A scheduler that records another: use it in its place, in virtual time or on a live fleet.

    `write` gets whole records, to append them to a file. `close` when nothing more will come.
    """

    def __init__(self, scheduler: Scheduler, write: Callable[[bytes], object], *, name: str = "") -> None:
        self.scheduler = scheduler
        self._tape = Tape(write)
        write(MAGIC)
        self._tape.put(opening(scheduler, name=name))

    @classmethod
    def resumed(cls, entries: Sequence[Entry], scheduler: Scheduler, write: Callable[[bytes], object]) -> Self:
        """Go on with a stream whose writer died: replay what it holds into a fresh scheduler, then append.

        `entries` are of `read(data, growing=True)`; the file is to be cut to their `intact_bytes` first. Decisions that
        were not written any more are written now; whoever acts on them finds them at the end of the stream.
        """
        found, due = _replay(entries, scheduler, growing=True)
        if found.closed:
            raise UsageError("the stream was closed: nothing more can be recorded in it", hint="begin another one")
        recorder = cls.__new__(cls)
        recorder.scheduler, recorder._tape = scheduler, Tape(write)
        for entry in entries:
            recorder._tape.count(entry)
        for decision in due:
            recorder._tape.put(decision)
        return recorder

    @property
    def machine(self) -> Machine:
        """The recorded one's."""
        return self.scheduler.machine

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self.scheduler.waiting

    @property
    def head(self) -> Job | None:
        """Who is first in the queue."""
        return self.scheduler.head

    @property
    def wake_s(self) -> float:
        """When it wants to be woken."""
        return self.scheduler.wake_s

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        return self._told(Submitted(job=job, at_s=now_s))

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        return self._told(Ended(job=job, at_s=now_s))

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """What it waited for has come."""
        return self._told(Woken(at_s=now_s))

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node failed."""
        return self._told(Lost(pool=pool, node=node, at_s=now_s))

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        return self._told(Regained(pool=pool, node=node, at_s=now_s))

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone. Whoever cannot be told beforehand is not, and nothing is recorded."""
        if not isinstance(self.scheduler, Draining):
            return ()
        return self._told(Drained(pool=pool, node=node, from_s=from_s, at_s=now_s))

    def withdraw(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A waiting job is called off."""
        return self._told(Withdrawn(job=job, at_s=now_s))

    def check(self) -> None:
        """Assert the invariants."""
        self.scheduler.check()

    def close(self) -> None:
        """Nothing more will come."""
        self._tape.put(Closing(records=self._tape.records, digest=self._tape.digest))

    def _told(self, stimulus: Stimulus) -> Sequence[Decision]:
        self._tape.put(stimulus)
        decisions = feed(self.scheduler, stimulus)
        for decision in decisions:
            self._tape.put(decision)
        return decisions


def opening(scheduler: Scheduler, *, name: str = "") -> Opening:
    """What a stream says of the scheduler that it records."""
    machine = scheduler.machine
    pools = tuple(nodes.pool for nodes in machine.pools.values()) if isinstance(machine, Placed) else ()
    devices = sum(pool.devices for pool in pools) if pools else machine.devices
    return Opening(scheduler=name or type(scheduler).__name__, devices=devices, pools=pools)


def feed(scheduler: Scheduler, stimulus: Stimulus) -> Sequence[Decision]:
    """Tell a scheduler what happened. Raises UsageError for what it cannot be told."""
    match stimulus:
        case Submitted():
            return scheduler.submit(stimulus.job, now_s=stimulus.at_s)
        case Ended():
            return scheduler.end(stimulus.job, now_s=stimulus.at_s)
        case Woken():
            return scheduler.wake(now_s=stimulus.at_s)
        case Lost() if isinstance(scheduler, Surviving):
            return scheduler.lose(stimulus.pool, stimulus.node, now_s=stimulus.at_s)
        case Regained() if isinstance(scheduler, Surviving):
            return scheduler.regain(stimulus.pool, stimulus.node, now_s=stimulus.at_s)
        case Drained() if isinstance(scheduler, Draining):
            return scheduler.drain(stimulus.pool, stimulus.node, from_s=stimulus.from_s, now_s=stimulus.at_s)
        case Withdrawn() if isinstance(scheduler, Withdrawing):
            return scheduler.withdraw(stimulus.job, now_s=stimulus.at_s)
    raise UsageError(
        f"{type(scheduler).__name__} cannot be told {stimulus}", hint="use a scheduler that has a method for it"
    )


class Replayed(Value, frozen=True, kw_only=True):
    """A replay that gave the recorded decisions, byte for byte."""

    stimuli: int
    decisions: int
    until_s: float
    """The last instant."""
    digest: str
    """Of the stream."""
    closed: bool
    """Whether the stream was ended on purpose."""


def replay(stream: bytes | Sequence[Entry], scheduler: Scheduler, *, growing: bool = False) -> Replayed:
    """Feed a stream's stimuli to a fresh scheduler, on the same machine as the recorded one.

    Raises IntegrityError that names the first record whose bytes differ from what the scheduler says.
    """
    entries = read(stream, growing=growing) if isinstance(stream, bytes) else stream
    found, due = _replay(entries, scheduler, growing=growing)
    if due and not growing:
        raise _difference(entries[-1], "nothing more", due[0])
    return found


def _replay(entries: Sequence[Entry], scheduler: Scheduler, *, growing: bool) -> tuple[Replayed, list[Decision]]:
    """The same, and what the scheduler said at last that the stream does not have."""
    if not entries or entries[0].opening is None:
        raise IntegrityError("the stream has no opening record", hint="it was cut off at its begin")
    _same_machine(entries[0].opening, opening(scheduler))
    digest = xxhash.xxh3_128(body_of(entries[0]))
    due: list[Decision] = []
    stimuli = decisions = 0
    until_s = float("-inf")
    for entry in entries[1:]:
        body = body_of(entry)
        digest.update(body)
        if (stimulus := entry.stimulus) is not None or entry.closing is not None:
            if due:
                raise _difference(entry, "nothing more", due[0])
            if stimulus is not None:
                stimuli, until_s = stimuli + 1, max(until_s, stimulus.at_s)
                due = list(feed(scheduler, stimulus))
            continue
        if not due:
            raise _difference(entry, entry.decision, "nothing")
        again = due.pop(0)
        if body_of(numbered(entry.seq, again)) != body:
            raise _difference(entry, entry.decision, again)
        decisions += 1
    found = Replayed(
        stimuli=stimuli,
        decisions=decisions,
        until_s=until_s,
        digest=digest.hexdigest(),
        closed=entries[-1].closing is not None,
    )
    return found, due


def _same_machine(recorded: Opening, given: Opening) -> None:
    if (recorded.devices, recorded.pools) != (given.devices, given.pools):
        raise UsageError(
            f"the stream is of {_machine(recorded)}, the scheduler has {_machine(given)}",
            hint="replay it with a scheduler on the machine that it was recorded on",
        )


def _machine(told: Opening) -> str:
    pools = ", ".join(f"{pool.name}: {pool.nodes} x {pool.devices_per_node}" for pool in told.pools)
    return f"{told.devices} devices ({pools})" if pools else f"{told.devices} devices"


def _difference(entry: Entry, recorded: object, replayed: object) -> IntegrityError:
    return IntegrityError(
        f"stream record {entry.seq} says {recorded}, the replay says {replayed}",
        hint="another policy, other parameters or another version of Myriarch made it",
    )
