"""Journal lines: what is written is read; a torn tail is cut; damage before it is refused."""

from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import IntegrityError
from myriarch.event import journal
from myriarch.event.actions import Reason, StopWorkers
from myriarch.event.events import NodeExited, StepCompleted, StopRequested, Tick
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.event.journal import Record, decode_line, digest, encode_line, scan

texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
events = st.one_of(
    st.just(Tick()),
    st.builds(StopRequested, why=texts),
    st.builds(NodeExited, node=texts.map(NodeId), boot=texts, detail=texts),
    st.builds(
        StepCompleted,
        group=texts.map(GroupId),
        incarnation=st.integers(1, 2**40).map(Incarnation),
        step=st.integers(0, 2**40).map(Step),
        loss_sum=numbers,
        tokens=st.integers(0, 2**53),
        group_tokens=st.integers(0, 2**53),
        duration_s=numbers,
        compute_s=numbers,
    ),
)
actions = st.builds(
    StopWorkers,
    node=texts.map(NodeId),
    workers=st.lists(st.tuples(texts.map(GroupId), st.integers(0, 9).map(Rank)), max_size=3).map(tuple),
    reason=st.builds(Reason, text=texts, numbers=st.dictionaries(texts, st.integers(-5, 5) | texts, max_size=3)),
)


@st.composite
def journals(draw: st.DrawFn) -> tuple[Record, ...]:
    contents = [draw(events), *draw(st.lists(events | actions, max_size=8))]
    at_ns = 0
    records = []
    for seq, content in enumerate(contents, start=1):
        at_ns += draw(st.integers(0, 10))
        if isinstance(content, StopWorkers):
            records.append(Record(seq=seq, at_ns=at_ns, action=content))
        else:
            records.append(Record(seq=seq, at_ns=at_ns, event=content))
    return tuple(records)


def bytes_of(records: tuple[Record, ...]) -> bytes:
    return b"".join(map(encode_line, records))


@given(journals())
def test_what_is_written_is_read(records: tuple[Record, ...]) -> None:
    data = bytes_of(records)
    found = scan(data)
    assert found.records == records
    assert found.intact_bytes == len(data)
    assert digest(found.records) == digest(records)


@given(journals(), st.data())
def test_a_torn_tail_is_cut_and_nothing_else(records: tuple[Record, ...], data: st.DataObject) -> None:
    """A kill in the middle of a write leaves a prefix, whose whole lines stay."""
    whole = bytes_of(records)
    length = data.draw(st.integers(0, len(whole)))
    found = scan(whole[:length])
    kept = len(found.records)
    assert found.records == records[:kept]
    assert found.intact_bytes == len(bytes_of(records[:kept])) <= length
    assert kept == len(records) or length < len(bytes_of(records[: kept + 1])), "no whole line is cut"
    # and the journal goes on where it was cut
    again = scan(whole[: found.intact_bytes] + bytes_of(records[kept:]))
    assert again.records == records


@given(journals(), st.data())
def test_damage_before_the_last_line_is_refused(records: tuple[Record, ...], data: st.DataObject) -> None:
    whole = bytes_of(records)
    last = len(whole) - len(encode_line(records[-1]))
    if last == 0:
        return
    where = data.draw(st.integers(0, last - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[where] ^= flip
    with pytest.raises(IntegrityError):
        scan(bytes(damaged))


@given(st.binary(max_size=80))
def test_no_bytes_make_it_fall_over(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        scan(data)


def test_gaps_steps_back_and_empty_records_are_refused() -> None:
    first = Record(seq=1, at_ns=5, event=Tick())
    with pytest.raises(IntegrityError, match="expected 2"):
        scan(bytes_of((first, Record(seq=3, at_ns=5, event=Tick()))))
    with pytest.raises(IntegrityError, match="the one before of 5 ns"):
        scan(bytes_of((first, Record(seq=2, at_ns=4, event=Tick()))))
    with pytest.raises(IntegrityError, match="neither an event nor an action"):
        scan(bytes_of((first, Record(seq=2, at_ns=5), first)))
    stop = StopWorkers(node=NodeId("n"), workers=(), reason=Reason(text="why"))
    with pytest.raises(IntegrityError, match="begins with an action"):
        scan(bytes_of((Record(seq=1, at_ns=0, action=stop),)))


def test_an_intact_line_of_another_version_is_not_a_torn_one() -> None:
    body = b'{"seq": 1, "at_ns": 0, "event": {"event": "NodeTeleported"}}'
    line = b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)
    with pytest.raises(IntegrityError, match="not of this version"):
        decode_line(line)
    body = b"no JSON"
    with pytest.raises(IntegrityError, match="not of this version"):
        decode_line(b"%08x %d %s\n" % (zlib.crc32(body), len(body), body))


def test_a_line_too_long_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(seq=1, at_ns=0, event=StopRequested(why="x" * 200))
    line = encode_line(record)
    monkeypatch.setattr(journal, "LINE_LIMIT_BYTES", 100)
    with pytest.raises(IntegrityError, match="StopRequested"):
        encode_line(record)
    with pytest.raises(IntegrityError, match="100 are allowed"):
        decode_line(line)


def test_every_message_of_the_vocabulary_decodes_to_itself() -> None:
    """Tags are unique and stable: what an old journal says is what a new controller reads."""
    from typing import get_args

    from myriarch.event.actions import AnyAction
    from myriarch.event.events import AnyEvent

    for union in (AnyEvent, AnyAction):
        tags = [kind.__struct_config__.tag for kind in get_args(union)]
        assert len(set(tags)) == len(tags)
        assert tags == [kind.__name__ for kind in get_args(union)]
