"""Feed a journal's events to a fresh `Control` and compare what it says."""

from __future__ import annotations

from collections.abc import Iterable

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
    due: list[AnyAction] = []
    for record in records:
        if record.event is not None:
            if due:
                raise IntegrityError(f"journal record {record.seq}: the replay says {due[0]} before it")
            due = list(control.step(record.event, now_s=record.at_ns / NS_PER_S))
            actions += due
            continue
        if not due:
            raise IntegrityError(f"journal record {record.seq} says {record.action}, the replay says nothing")
        again = Record(seq=record.seq, at_ns=record.at_ns, action=due.pop(0))
        if encode_line(again) != encode_line(record):
            raise IntegrityError(f"journal record {record.seq} says {record.action}, the replay says {again.action}")
    return control, tuple(actions)
