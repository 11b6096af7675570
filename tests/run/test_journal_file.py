"""The journal on disk: torn tails, one writer, a full disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from myriarch.errors import EnvironmentFault, IntegrityError
from myriarch.event.events import Tick
from myriarch.event.journal import Record
from myriarch.run.journal_file import JournalFile


def _records(first: int, count: int) -> list[Record]:
    return [Record(seq=first + i, at_ns=first + i, event=Tick()) for i in range(count)]


def test_a_torn_tail_is_cut_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalFile(path) as journal:
        journal.append(_records(1, 3), sync=True)
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        with JournalFile(path) as journal:
            assert [record.seq for record in journal.records] == [1, 2]
            assert journal.cut_bytes > 0
            journal.append(_records(3, 1), sync=False)
        assert path.read_bytes() == whole


def test_damage_before_the_tail_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalFile(path) as journal:
        journal.append(_records(1, 3), sync=True)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="line 1"), JournalFile(path):
        pass
    assert path.read_bytes() == data, "evidence is not touched"


def test_one_controller_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalFile(path), pytest.raises(EnvironmentFault, match="another controller"), JournalFile(path):
        pass
    with JournalFile(path):
        pass


def test_a_full_disk_is_said(tmp_path: Path, fill_disk: Callable[[JournalFile], None]) -> None:
    with JournalFile(tmp_path / "journal.jsonl") as journal:
        fill_disk(journal)
        with pytest.raises(EnvironmentFault, match="No space left"):
            journal.append(_records(1, 1), sync=False)
