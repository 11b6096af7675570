"""The journal on disk: `event.journal`'s lines in a file that one controller at a time may write."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from myriarch.errors import EnvironmentFault
from myriarch.event.journal import Record, encode_line, scan


class JournalFile:
    """Append-only, locked. Entering it reads what is there, cuts a torn tail off, and says so in `cut_bytes`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: tuple[Record, ...] = ()
        """What the file held when it was opened."""
        self.cut_bytes = 0
        self._descriptor = -1

    def __enter__(self) -> JournalFile:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = self.path.read_bytes()
            found = scan(data)
        except BlockingIOError:
            self.close()
            raise EnvironmentFault(
                f"{self.path} is being written by another controller", hint="end that one first"
            ) from None
        except BaseException:
            self.close()
            raise
        self.records = found.records
        self.cut_bytes = len(data) - found.intact_bytes
        if self.cut_bytes:
            os.ftruncate(self._descriptor, found.intact_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, records: Iterable[Record], *, sync: bool) -> None:
        """Write in one piece; `sync` waits until the disk has it. Raises EnvironmentFault when the disk is full."""
        data = memoryview(b"".join(map(encode_line, records)))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            if sync:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise EnvironmentFault(
                f"{self.path} cannot be written: {error.strerror}", hint="make room and run the same command again"
            ) from error

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
