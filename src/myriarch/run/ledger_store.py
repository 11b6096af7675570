"""The workers' spans on disk: SQLite, written in batches by one process, readable by others at any time.

Write-ahead logging with `synchronous=NORMAL`: a batch is in the file or is not, whenever the writer is killed, and a
reader never sees half of one. A power failure may take the newest batches, never the file: the ledger of what is left
still adds up (`myriarch.account` calls the rest `unattributed`).

    spans(id, device, start_ns, end_ns, leaf, grp, incarnation, step)        in order of arrival
    PRAGMA application_id = "Mydl", PRAGMA user_version = schema version
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

import msgspec

from myriarch.errors import EnvironmentFault, IntegrityError
from myriarch.event.spans import Span

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = int.from_bytes(b"Mydl", "big")
BATCH_ROWS: Final = 10_000
"""Of one transaction: a longer list is stored in several. SQLite stores some 300,000 rows a second so."""
BUSY_LIMIT_S: Final = 5.0
"""Somebody else writes (nobody should): wait so long, then say so."""

_CREATE: Final = """
CREATE TABLE IF NOT EXISTS spans(
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    leaf TEXT NOT NULL,
    grp TEXT,
    incarnation INTEGER,
    step INTEGER
)
"""
_INSERT: Final = (
    "INSERT INTO spans(device, start_ns, end_ns, leaf, grp, incarnation, step) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_SELECT: Final = "SELECT device, start_ns, end_ns, leaf, grp, incarnation, step FROM spans ORDER BY id"
_COLUMNS: Final = ("device", "start_ns", "end_ns", "leaf", "group", "incarnation", "step")


class LedgerStore:
    """Appends spans to a ledger file. A context manager; constructing it touches nothing.

    One caller at a time: it may be another thread than the one that entered, never two at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> LedgerStore:
        """Open or create. Raises IntegrityError for a file that is no ledger of this version."""
        connection = sqlite3.connect(self.path, timeout=BUSY_LIMIT_S, isolation_level=None, check_same_thread=False)
        try:
            _check_version(connection, self.path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute(_CREATE)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise _damage(self.path, error) from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, spans: Iterable[Span]) -> int:
        """Store spans and return how many. Each batch of `BATCH_ROWS` is stored as a whole or not at all.

        Raises EnvironmentFault when the disk does not take them.
        """
        if self._connection is None:
            raise RuntimeError("the ledger is not open: use it as a context manager")
        rows = ((s.device, s.start_ns, s.end_ns, s.leaf, s.group, s.incarnation, s.step) for s in spans)
        stored = 0
        try:
            while batch := list(islice(rows, BATCH_ROWS)):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._connection.executemany(_INSERT, batch)
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
                stored += len(batch)
        except (sqlite3.OperationalError, OverflowError) as error:
            raise EnvironmentFault(
                f"{self.path} cannot be written: {error}", hint="make room on the disk; the run itself goes on"
            ) from error
        return stored

    def read(self) -> tuple[Span, ...]:
        """All spans, in order of arrival. Works whether or not the store is open."""
        return read_spans(self.path)

    def close(self) -> None:
        """Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def read_spans(path: Path) -> tuple[Span, ...]:
    """All spans of a ledger file, in order of arrival; none if there is no file yet.

    The writer may be at work, killed, or gone. Raises IntegrityError for a file that is damaged or of another version.
    """
    if not path.exists() or path.stat().st_size == 0:
        return ()
    try:
        return tuple(_read(path, "mode=ro"))
    except sqlite3.OperationalError:
        # A read-only folder has no room for the log's index; without a writer the file may be read without one.
        try:
            return tuple(_read(path, "mode=ro&immutable=1"))
        except sqlite3.DatabaseError as error:
            raise _damage(path, error) from error
    except sqlite3.DatabaseError as error:
        raise _damage(path, error) from error


def _read(path: Path, mode: str) -> Iterator[Span]:
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True, timeout=BUSY_LIMIT_S)
    try:
        if not _check_version(connection, path):
            return
        for row in connection.execute(_SELECT):
            try:
                yield msgspec.convert(dict(zip(_COLUMNS, row, strict=True)), Span)
            except msgspec.ValidationError as error:
                raise IntegrityError(f"{path} holds a span that is none: {row!r}: {error}") from error
    finally:
        connection.close()


def _check_version(connection: sqlite3.Connection, path: Path) -> bool:
    """False: the file is still empty. Raises IntegrityError unless it is a ledger of this version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    if tables == 0:
        return False
    if application != APPLICATION_ID or version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{path} is not a ledger of version {SCHEMA_VERSION} (application {application:#x}, version {version})",
            hint="read it with the version of Myriarch that wrote it",
        )
    return True


def _damage(path: Path, error: sqlite3.DatabaseError) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged or no ledger: {error}",
        hint="move it away: the report then rests on the journal alone",
    )
