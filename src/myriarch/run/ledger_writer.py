"""Spans and validation losses on their way to disk: in a thread, in batches, so that no fault waits for a disk."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from myriarch.errors import MyriarchError
from myriarch.run.ledger_store import LedgerStore
from myriarch.run.messages import Report, Taken
from myriarch.run.outbox import Connection

log = logging.getLogger("myriarch.controller")

QUEUE_LIMIT: Final = 4096
"""Batches of reports waiting for the disk. Beyond it the oldest are not acknowledged: their agents keep them."""


class LedgerWriter:
    """An async context manager; leaving it writes what is queued."""

    def __init__(self, path: Path, *, validations: Path) -> None:
        self._store = LedgerStore(path)
        self._validations = validations
        self._queue: deque[tuple[tuple[Report, ...], Connection, Taken]] = deque(maxlen=QUEUE_LIMIT)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def put(self, reports: tuple[Report, ...], connection: Connection, *, taken: Taken) -> None:
        """Queue what an agent reported; its spans are written, then the agent hears `taken`."""
        self._queue.append((reports, connection, taken))
        self._idle.clear()
        self._wake.set()

    async def flushed(self) -> None:
        await self._idle.wait()

    async def __aenter__(self) -> LedgerWriter:
        await asyncio.to_thread(self._store.__enter__)
        self._task = asyncio.create_task(self._write(), name="ledger")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.flushed()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._store.close)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batches = tuple(self._queue)
            self._queue.clear()
            try:
                await asyncio.to_thread(self._write_now, [report for reports, _, _ in batches for report in reports])
            except (MyriarchError, OSError) as error:
                log.error("spans are lost, and the report will show their time as unattributed: %s", error)
            for _, connection, taken in batches:
                connection.send(taken)
            if not self._queue:
                self._idle.set()

    def _write_now(self, reports: list[Report]) -> None:
        spans = [span for report in reports for span in report.spans]
        if spans:
            self._store.append(spans)
        validations = [msgspec.json.encode(report.validation) for report in reports if report.validation is not None]
        if validations:
            with self._validations.open("ab") as file:
                file.write(b"\n".join(validations) + b"\n")
