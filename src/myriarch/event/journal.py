"""The journal's lines: append-only, each with its length and checksum, readable by people.

    <crc32, 8 hex digits> <length of the JSON in bytes, decimal> <JSON>\\n

An event's line precedes the lines of the actions that it caused. Replaying the events alone gives the same state and
the same actions; a replay that does not is a defect. A process killed while it
wrote leaves a torn last line: `scan` says where the intact part ends, and the shell cuts the file there. A damaged line
*before* the last is not a torn tail but corruption, and is refused.

The codec is here and pure; the file is the shell's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import xxhash

from myriarch.errors import IntegrityError
from myriarch.event.actions import AnyAction
from myriarch.event.base import Value
from myriarch.event.events import AnyEvent

LINE_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""A longer line is refused: no event or action of a 100,000-device run comes near it."""


class Record(Value, frozen=True, kw_only=True):
    """One line: an event, or an action that an event before it caused. Exactly one of the two is there."""

    seq: int
    """Counts records from 1, without gaps."""
    at_ns: int
    """When the controller took it, in nanoseconds since the Unix epoch. Never decreases."""
    event: AnyEvent | None = None
    action: AnyAction | None = None


_encoder: Final = msgspec.json.Encoder(order="deterministic")
_decoder: Final = msgspec.json.Decoder(Record)


def encode_line(record: Record) -> bytes:
    """One line, newline included."""
    body = _encoder.encode(record)
    line = b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)
    if len(line) > LINE_LIMIT_BYTES:
        kind = type(record.event or record.action).__name__
        raise IntegrityError(
            f"journal record {record.seq} ({kind}) takes {len(line)} bytes, {LINE_LIMIT_BYTES} are allowed"
        )
    return line


def decode_line(line: bytes) -> Record:
    """The inverse of `encode_line`. Raises IntegrityError for anything else."""
    head, _, body = line.rstrip(b"\n").partition(b" ")
    length, _, body = body.partition(b" ")
    if len(line) > LINE_LIMIT_BYTES:
        raise IntegrityError(f"a journal line takes {len(line)} bytes, {LINE_LIMIT_BYTES} are allowed")
    if not line.endswith(b"\n") or length != b"%d" % len(body):
        raise IntegrityError("a journal line is cut short")
    if head != b"%08x" % zlib.crc32(body):
        raise IntegrityError(f"a journal line's checksum is {head.decode(errors='replace')}, its content's is not")
    try:
        record = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"a journal line is intact but not of this version: {error}") from error
    if (record.event is None) == (record.action is None):
        raise IntegrityError("a journal line is intact but has neither an event nor an action, or both")
    return record


class Scan(Value, frozen=True, kw_only=True):
    """What a journal's bytes hold."""

    records: tuple[Record, ...]
    intact_bytes: int
    """Length of the part that may stay; less than the whole when the tail is torn."""


def scan(data: bytes) -> Scan:
    """Decode a whole journal.

    Raises IntegrityError, with the line's number, for damage anywhere but in the last line, for gaps in `seq`, for time
    that goes back, and for a first line that is an action.
    """
    records: list[Record] = []
    offset = 0
    number = 0
    while offset < len(data):
        end = data.find(b"\n", offset)
        end = len(data) if end < 0 else end + 1
        number += 1
        try:
            record = decode_line(data[offset:end])
        except IntegrityError as error:
            if end == len(data) and not _holds_more(data[offset:end]):
                break
            raise IntegrityError(
                f"journal line {number} (byte {offset}) is damaged and {len(data) - end} bytes follow it: {error}",
                hint="restore the journal from a copy, or start over with --fresh",
            ) from error
        _require_next(records, record, number)
        records.append(record)
        offset = end
    return Scan(records=tuple(records), intact_bytes=offset)


def _require_next(records: list[Record], record: Record, number: int) -> None:
    if record.seq != len(records) + 1:
        raise IntegrityError(f"journal line {number} has number {record.seq}, expected {len(records) + 1}")
    if not records and record.event is None:
        raise IntegrityError("the journal begins with an action; its first line has to be an event")
    if records and record.at_ns < records[-1].at_ns:
        raise IntegrityError(f"journal line {number} is of {record.at_ns} ns, the one before of {records[-1].at_ns} ns")


def digest(records: Iterable[Record]) -> str:
    """Hex xxh3-128 over the content of all records: equal for equal runs, whatever the process or its hash seed."""
    state = xxhash.xxh3_128()
    for record in records:
        state.update(_encoder.encode(record))
        state.update(b"\n")
    return state.hexdigest()


def events_of(records: Iterable[Record]) -> Iterator[tuple[int, AnyEvent]]:
    """`(at_ns, event)` in order: what a replay feeds."""
    for record in records:
        if record.event is not None:
            yield record.at_ns, record.event


def actions_of(records: Iterable[Record]) -> Iterator[tuple[int, AnyAction]]:
    """`(at_ns, action)` in order."""
    for record in records:
        if record.action is not None:
            yield record.at_ns, record.action


def _holds_more(line: bytes) -> bool:
    """Whether bytes follow the end that the line itself names: then its newline is damaged, not its tail torn."""
    _, _, rest = line.partition(b" ")
    length, _, body = rest.partition(b" ")
    return length.isdigit() and len(body) > int(length) + 1
