"""A recorded stream of decisions: its records, and their bytes.

    8 bytes that name the format, then for each record
    length of the body (4 bytes, little endian)   CRC-32 of the body (4 bytes)   the body: MessagePack

The first record says what was scheduled on. A stimulus precedes the decisions that it caused. The last record counts
the others and has a digest of them, so that a stream that lost its end is told from one that ended. MessagePack, since
holds and intervals may be infinite, which JSON cannot say. The codec is pure; files are the shells'.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import xxhash

from myriarch.errors import IntegrityError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision, Preempt, Refuse, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout

MAGIC: Final = b"myrsch1\n"
"""Format and version."""
BODY_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""A longer record is damage: a gang over 100,000 nodes takes half a megabyte."""
_FRAME: Final = struct.Struct("<II")


class Opening(Value, frozen=True, kw_only=True):
    """On what was scheduled."""

    scheduler: str
    """In words, for people: a replay is given its scheduler."""
    devices: int
    pools: tuple[PoolLayout, ...] = ()
    """Empty where devices are only counted."""


class Submitted(Value, frozen=True, kw_only=True):
    """A job came."""

    job: Job
    at_s: float


class Ended(Value, frozen=True, kw_only=True):
    """A running job ended, however it ended."""

    job: JobId
    at_s: float


class Woken(Value, frozen=True, kw_only=True):
    """The instant that the scheduler asked to be woken at came."""

    at_s: float


class Lost(Value, frozen=True, kw_only=True):
    """A node failed."""

    pool: str
    node: int
    at_s: float


class Regained(Value, frozen=True, kw_only=True):
    """A node is back."""

    pool: str
    node: int
    at_s: float


class Drained(Value, frozen=True, kw_only=True):
    """A node will be lost at an instant."""

    pool: str
    node: int
    from_s: float
    at_s: float


class Withdrawn(Value, frozen=True, kw_only=True):
    """A waiting job is called off."""

    job: JobId
    at_s: float


Stimulus = Submitted | Ended | Woken | Lost | Regained | Drained | Withdrawn


class Closing(Value, frozen=True, kw_only=True):
    """The stream ends here on purpose."""

    records: int
    """All before this one."""
    digest: str
    """Hex xxh3-128 over their bodies."""


class Entry(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One record: exactly one of the fields beside `seq` is there."""

    seq: int
    """Counts records from 1, without gaps."""
    opening: Opening | None = None
    submitted: Submitted | None = None
    ended: Ended | None = None
    woken: Woken | None = None
    lost: Lost | None = None
    regained: Regained | None = None
    drained: Drained | None = None
    withdrawn: Withdrawn | None = None
    start: Start | None = None
    refuse: Refuse | None = None
    preempt: Preempt | None = None
    resize: Resize | None = None
    closing: Closing | None = None

    @property
    def stimulus(self) -> Stimulus | None:
        """What the scheduler was told, if this is that."""
        of_jobs = self.submitted or self.ended or self.withdrawn
        return of_jobs or self.woken or self.lost or self.regained or self.drained

    @property
    def decision(self) -> Decision | None:
        """What it said, if this is that."""
        return self.start or self.refuse or self.preempt or self.resize


_FIELDS: Final[dict[type, str]] = {
    Opening: "opening",
    Submitted: "submitted",
    Ended: "ended",
    Woken: "woken",
    Lost: "lost",
    Regained: "regained",
    Drained: "drained",
    Withdrawn: "withdrawn",
    Start: "start",
    Refuse: "refuse",
    Preempt: "preempt",
    Resize: "resize",
    Closing: "closing",
}
_PARTS: Final = tuple(_FIELDS.values())
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Entry)


def numbered(seq: int, what: Opening | Stimulus | Decision | Closing) -> Entry:
    """A record."""
    part: dict[str, Any] = {_FIELDS[type(what)]: what}
    return Entry(seq=seq, **part)


def body_of(entry: Entry) -> bytes:
    """A record's body."""
    return _encoder.encode(entry)


def framed(body: bytes) -> bytes:
    """A body with its length and checksum: what is appended to a stream."""
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def read(data: bytes, *, growing: bool = False) -> tuple[Entry, ...]:
    """All records of a stream.

    With `growing`, its writer may be at work or may have been killed: the end may be torn or missing. Otherwise that,
    and any damage anywhere, raises IntegrityError, with the record's number.
    """
    if not data.startswith(MAGIC):
        if growing and MAGIC.startswith(data):
            return ()
        raise IntegrityError(
            f"the stream begins with {data[: len(MAGIC)]!r}, not with {MAGIC!r}",
            hint="is it a stream of decisions, of this version?",
        )
    entries = tuple(_entries(data, growing=growing))
    if growing:
        return entries
    if not entries or entries[-1].closing is None:
        raise IntegrityError(
            f"the stream ends after record {len(entries)}, which does not close it: its end is missing",
            hint="copy it again from where it was recorded; a stream that is still being written is read as growing",
        )
    return entries


def intact_bytes(entries: Sequence[Entry]) -> int:
    """Length of the part of a stream that holds these records."""
    return len(MAGIC) + sum(_FRAME.size + len(_encoder.encode(entry)) for entry in entries)


def _entries(data: bytes, *, growing: bool) -> Iterator[Entry]:
    digest = xxhash.xxh3_128()
    offset, number, closed = len(MAGIC), 0, False
    while offset < len(data):
        number += 1
        if closed:
            raise IntegrityError(f"stream record {number} (byte {offset}) follows the closing record")
        found = _body(data, offset, number, growing=growing)
        if found is None:
            if growing:
                return
            raise IntegrityError(
                f"stream record {number} (byte {offset}) is cut short: {len(data) - offset} bytes are left",
                hint="copy the stream again; one that is still being written is read as growing",
            )
        entry = _decoded(found, number, offset)
        if entry.closing is not None:
            closed = True
            if (entry.closing.records, entry.closing.digest) != (number - 1, digest.hexdigest()):
                raise IntegrityError(f"stream record {number} closes another stream: {entry.closing}")
        digest.update(found)
        yield entry
        offset += _FRAME.size + len(found)


def _body(data: bytes, offset: int, number: int, *, growing: bool) -> bytes | None:
    """The body of the record at `offset`; None when the data end within it, or torn with it."""
    if offset + _FRAME.size > len(data):
        return None
    length, checksum = _FRAME.unpack_from(data, offset)
    if length > BODY_LIMIT_BYTES:
        raise IntegrityError(
            f"stream record {number} (byte {offset}) claims {length} bytes, {BODY_LIMIT_BYTES} are allowed: damaged"
        )
    body = data[offset + _FRAME.size : offset + _FRAME.size + length]
    if len(body) < length:
        return None
    if zlib.crc32(body) != checksum:
        if growing and offset + _FRAME.size + length == len(data):
            return None  # the last one: its writer died before all of it was on disk
        raise IntegrityError(
            f"stream record {number} (byte {offset}) is damaged: its checksum is {checksum:08x}, "
            f"its content's {zlib.crc32(body):08x}",
            hint="restore the stream from a copy",
        )
    return body


def _decoded(body: bytes, number: int, offset: int) -> Entry:
    try:
        entry = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"stream record {number} (byte {offset}) is intact but not of this version: {error}"
        ) from error
    parts = [name for name in _PARTS if getattr(entry, name) is not None]
    if entry.seq != number or len(parts) != 1 or (parts == ["opening"]) != (number == 1):
        raise IntegrityError(
            f"stream record {number} (byte {offset}) has number {entry.seq} and holds {', '.join(parts) or 'nothing'}"
        )
    return entry
