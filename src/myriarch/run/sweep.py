"""Shared memory and cgroups of launches: where they are, and the removal of what dead launches left.

/dev/shm/myriarch-<uid>/<run id>/owner.json          which process the launch belongs to
/dev/shm/myriarch-<uid>/<run id>/<node>-<boot>/      one node's memory tier
/dev/shm/myriarch-<uid>/<run id>/<boot>.sock         one node's socket for its workers
<cgroup>/myriarch-<uid>-<run id>-<node>-<boot>-<device>
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Final

import msgspec

from myriarch.errors import EnvironmentFault
from myriarch.event.base import Value
from myriarch.run import cgroups, procfs

SHM: Final = Path("/dev/shm")
UNOWNED_LIMIT_S: Final = 60.0
"""A launch's directory gets its owner within milliseconds; one without is left over after so long."""
SOCKET_PATH_LIMIT_BYTES: Final = 107
"""unix(7): `sun_path` is 108 bytes with its final zero."""


class Owner(Value, frozen=True, kw_only=True):
    """`owner.json`: the launcher, named so that another process of the same id is not mistaken for it."""

    pid: int
    start_ticks: int


def base_directory() -> Path:
    """Everything of this user's launches."""
    return SHM / f"myriarch-{os.getuid()}"


def cgroup_prefix(run_id: str, node: str = "", boot: str = "") -> str:
    """How the names of a launch's, or of one node's, cgroups begin."""
    return f"myriarch-{os.getuid()}-" + "-".join(part for part in (run_id, node, boot) if part)


def create_directory(run_id: str) -> Path:
    """Make the shared-memory directory of this process's launch. EnvironmentFault where there is no shared memory."""
    path = base_directory() / run_id
    try:
        base_directory().mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700)
        owner = Owner(pid=os.getpid(), start_ticks=procfs.start_ticks(os.getpid()) or 0)
        (path / "owner.json").write_bytes(msgspec.json.encode(owner))
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be made: {error.strerror}", hint="make room in /dev/shm (`df -h /dev/shm`)"
        ) from error
    return path


def remove_directory(path: Path) -> None:
    """Remove a launch's shared memory; gone already is fine."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # only when no other launch is under way


def remove_node(shm_directory: Path, *, run_id: str, node: str, boot: str) -> None:
    """Remove what a dead node left: its memory is gone with it."""
    for path in shm_directory.glob(f"{node}-{boot}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in shm_directory.glob(f"{boot}*.sock"):
        path.unlink(missing_ok=True)
    cgroups.remove(cgroup_prefix(run_id, node, boot))


def leave(shm_directory: Path) -> None:
    """Called by every process of a launch at its end: the last one out removes the common directory."""
    with contextlib.suppress(OSError):
        if {entry.name for entry in shm_directory.iterdir()} <= {"owner.json"}:
            remove_directory(shm_directory)


def sweep_stale() -> list[str]:
    """Remove what launches left whose launcher is dead; returns their run ids."""
    swept: list[str] = []
    if not base_directory().is_dir():
        return swept
    for path in base_directory().iterdir():
        try:
            owner = msgspec.json.decode((path / "owner.json").read_bytes(), type=Owner)
        except FileNotFoundError:
            if time.time() - path.stat().st_mtime < UNOWNED_LIMIT_S:
                continue  # being made or being removed at this moment
            owner = Owner(pid=0, start_ticks=0)
        except msgspec.DecodeError:
            owner = Owner(pid=0, start_ticks=0)
        if procfs.is_alive(owner.pid, owner.start_ticks):
            continue
        cgroups.remove(f"{cgroup_prefix(path.name)}-")
        remove_directory(path)
        swept.append(path.name)
    return swept
