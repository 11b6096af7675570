"""What the kernel says about a process."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def state(pid: int) -> str:
    """One letter (`R`, `S`, `D`, `T` stopped, `Z` dead and not waited for), or empty if there is no such process."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; with its id it names a process for good. None: gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def is_alive(pid: int, ticks: int | None = None) -> bool:
    """Whether the process runs (a zombie does not) and, given `ticks`, is the one that started then."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX" and (ticks is None or int(fields[19]) == ticks)


def kill_group(group: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal every process of a group; none left is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal one process; gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()  # the name before it may hold anything
