"""Spans on disk: whole batches, whoever is killed; readable while they are written."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from myriarch.errors import EnvironmentFault, IntegrityError
from myriarch.event.ids import DeviceId, GroupId, Incarnation, Step
from myriarch.event.spans import Span
from myriarch.run.ledger_store import LedgerStore, read_spans


def span(index: int) -> Span:
    return Span(
        device=DeviceId("fast-0/0"),
        start_ns=1_790_000_000_000_000_000 + index,
        end_ns=1_790_000_000_000_000_001 + index,
        leaf="useful_compute",
        group=GroupId("fast") if index % 2 else None,
        incarnation=Incarnation(1),
        step=Step(index) if index % 3 else None,
    )


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with LedgerStore(path) as store:
        assert store.append(span(i) for i in range(25_000)) == 25_000
        assert store.append([]) == 0
        assert store.read() == tuple(span(i) for i in range(25_000)), "while it is open"
    with LedgerStore(path) as store:
        store.append([span(25_000)])
    assert read_spans(path) == tuple(span(i) for i in range(25_001))


def test_no_file_and_an_empty_file_hold_nothing(tmp_path: Path) -> None:
    assert read_spans(tmp_path / "ledger.sqlite") == ()
    (tmp_path / "ledger.sqlite").touch()
    assert read_spans(tmp_path / "ledger.sqlite") == ()


def test_something_else_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.sqlite"
    noise.write_bytes(os.urandom(4096))
    with pytest.raises(IntegrityError, match="damaged or no ledger"):
        read_spans(noise)
    with pytest.raises(IntegrityError, match="damaged or no ledger"), LedgerStore(noise):
        pass
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE spans(x)")
    connection.close()
    with pytest.raises(IntegrityError, match="not a ledger of version 1"):
        read_spans(other)
    with pytest.raises(IntegrityError, match="not a ledger of version 1"), LedgerStore(other):
        pass


def test_a_span_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with LedgerStore(path) as store:
        store.append([span(1)])
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE spans SET leaf = 'siesta'")
    connection.close()
    with pytest.raises(IntegrityError, match="siesta"):
        read_spans(path)


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with LedgerStore(path) as store:
        assert store._connection is not None
        store._connection.execute("PRAGMA max_page_count = 4")
        with pytest.raises(EnvironmentFault, match="full"):
            store.append(span(i) for i in range(20_000))
    assert read_spans(path) == ()


@pytest.mark.processes
def test_a_killed_writer_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    script = """
import sys
from pathlib import Path
from myriarch.event.spans import Span
from myriarch.run.ledger_store import LedgerStore
with LedgerStore(Path(sys.argv[1])) as store:
    start = 0
    while True:
        store.append(Span(device="d/0", start_ns=i, end_ns=i + 1, leaf="restore") for i in range(start, start + 100))
        start += 100
        print(start, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdout is not None
        try:
            for _ in range(20):
                committed = int(writer.stdout.readline())
            assert len(read_spans(path)) >= committed, "a reader beside the writer sees what was stored"
        finally:
            writer.send_signal(signal.SIGKILL)
    spans = read_spans(path)
    assert len(spans) >= committed
    assert len(spans) % 100 == 0
    assert [each.start_ns for each in spans] == list(range(len(spans)))
    with LedgerStore(path) as store:
        store.append([span(0)])
    assert len(read_spans(path)) == len(spans) + 1
