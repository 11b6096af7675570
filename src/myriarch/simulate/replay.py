"""Feed a journal's events to a fresh `Control` and compare what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from myriarch.control import Control
from myriarch.errors import IntegrityError
from myriarch.event.actions import AnyAction
from myriarch.event.journal import Record, encode_line
from myriarch.units import NS_PER_S


def replay(records: Iterable[Record]) -> tuple[AnyAction, ...]:
    """All actions, in order. Raises IntegrityError at the first that differs from the journal's, byte for byte."""
    return replayed(records)[1]


def replayed(records: Iterable[Record]) -> tuple[Control, tuple[AnyAction, ...]]:
    """The machine after the journal's last event, and all actions."""
    control = Control()
    actions: list[AnyAction] = []
    for _, answer in replayed_by_event(records, control):
        actions += answer
    return control, tuple(actions)


def replayed_by_event(
    records: Iterable[Record], control: Control
) -> Iterator[tuple[Record, tuple[AnyAction, ...]]]:  # fmt: skip
    """Each event's record and what `control`, a fresh one, says to it, once the journal was seen to say the same.

    The last event's actions may be missing in the journal: its writer may have died, or be at work.
    """
    event: Record | None = None
    answer: tuple[AnyAction, ...] = ()
    seen = 0
    for record in records:
        if record.event is not None:
            if seen < len(answer):
                raise IntegrityError(f"journal record {record.seq}: the replay says {answer[seen]} before it")
            if event is not None:
                yield event, answer
            event, seen = record, 0
            answer = control.step(record.event, now_s=record.at_ns / NS_PER_S)
            continue
        if seen == len(answer):
            raise IntegrityError(f"journal record {record.seq} says {record.action}, the replay says nothing")
        again = Record(seq=record.seq, at_ns=record.at_ns, action=answer[seen])
        seen += 1
        if encode_line(again) != encode_line(record):
            raise IntegrityError(f"journal record {record.seq} says {record.action}, the replay says {again.action}")
    if event is not None:
        yield event, answer
