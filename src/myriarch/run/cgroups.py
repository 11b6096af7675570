"""CPU cgroups, version 1 or 2: where this user may make one, a quota, and their removal.

A quota is honest slowness: the kernel lets the group run for `quota` of every `period` microseconds and no longer,
whatever else the machine does (Turner, Rao and Rao, "CPU bandwidth control for CFS", Linux Symposium 2010).
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from myriarch.errors import EnvironmentFault

PERIOD_US: Final = 10_000
"""Short against a step, so that a quota slows every step alike; the kernel allows 1 ms to 1 s."""
QUOTA_MINIMUM_US: Final = 1_000
"""The kernel's own least quota."""
REMOVAL_LIMIT_S: Final = 2.0
"""A cgroup can be removed when its last process is gone; killed ones take milliseconds."""


class Cgroup:
    """One CPU cgroup of ours."""

    def __init__(self, path: Path, *, version: int) -> None:
        self.path = path
        self.version = version
        self.procs = path / "cgroup.procs"

    def create(self) -> None:
        """Make it; one that is there already is fine. OSError where that is not permitted."""
        self.path.mkdir(exist_ok=True)

    def limit(self, fraction: float | None) -> None:
        """Let its processes together use `fraction` of one core; None: all they want. OSError where not permitted."""
        period_us = PERIOD_US
        quota_us = None if fraction is None else round(period_us * fraction)
        if quota_us is not None and quota_us < QUOTA_MINIMUM_US:
            quota_us, period_us = QUOTA_MINIMUM_US, round(QUOTA_MINIMUM_US / (fraction or 1.0))
        if self.version == 2:
            (self.path / "cpu.max").write_text(f"{'max' if quota_us is None else quota_us} {period_us}")
            return
        # Lift first: the kernel checks every intermediate state against the parent's quota.
        (self.path / "cpu.cfs_quota_us").write_text("-1")
        (self.path / "cpu.cfs_period_us").write_text(str(period_us))
        if quota_us is not None:
            (self.path / "cpu.cfs_quota_us").write_text(str(quota_us))

    def add(self, pid: int) -> None:
        """Move a process, with all its threads, into it. A process that is gone is fine."""
        with contextlib.suppress(ProcessLookupError):
            self.procs.write_text(str(pid))


def find_base() -> tuple[Path, int]:
    """The cgroup directory in which this process may make CPU cgroups, and its version.

    Raises EnvironmentFault with the reason when there is none.
    """
    reasons: list[str] = []
    for base, version in _bases():
        probe = Cgroup(base / f"myriarch-probe-{time.monotonic_ns()}", version=version)
        try:
            probe.create()
            probe.limit(0.5)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror}")
        else:
            return base, version
        finally:
            with contextlib.suppress(OSError):
                probe.path.rmdir()
    raise EnvironmentFault(
        f"no CPU quota is permitted here ({'; '.join(reasons) or 'no CPU cgroup is mounted'})",
        hint="run as root, or let systemd delegate the cpu controller to this user",
    )


def remove(prefix: str) -> list[str]:
    """Remove our cgroups whose names begin with `prefix`; returns those that stayed, because processes are in them."""
    pending = [path for base, _ in _bases() for path in base.glob(f"{prefix}*") if path.is_dir()]
    end_s = time.monotonic() + REMOVAL_LIMIT_S
    while pending:
        pending = [path for path in pending if not _removed(path)]
        if not pending or time.monotonic() > end_s:
            break
        time.sleep(0.02)
    return [str(path) for path in pending]


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _bases() -> list[tuple[Path, int]]:
    """Candidates: this process's own CPU cgroup, then the root of what is mounted."""
    own = _own_paths()
    found: list[tuple[Path, int]] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        root, mount = head.split()[3:5]
        kind, _, options = tail.split()[:3]
        version = {"cgroup": 1, "cgroup2": 2}.get(kind, 0)
        if version == 0 or (version == 1 and "cpu" not in options.split(",")):
            continue
        inside = own.get("cpu" if version == 1 else "", "/").removeprefix(root.rstrip("/"))
        paths = dict.fromkeys((Path(mount) / inside.lstrip("/"), Path(mount)))
        found += [(path, version) for path in paths if path.is_dir() and (version == 1 or _delegates_cpu(path))]
    return found


def _own_paths() -> dict[str, str]:
    """Controller name to this process's cgroup; the empty name is version 2's."""
    paths: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _delegates_cpu(path: Path) -> bool:
    """Version 2: whether children of `path` have a CPU controller, or can be given one."""
    try:
        if "cpu" not in (path / "cgroup.controllers").read_text().split():
            return False
        control = path / "cgroup.subtree_control"
        if "cpu" not in control.read_text().split():
            control.write_text("+cpu")
    except OSError:
        return False
    return True
