"""What can be read off this machine: Python, cores, memory, shared memory, limits, addresses, clock."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from myriarch.cli.finding import Finding
from myriarch.units import format_bytes, format_s

SHARED_MEMORY: Final = Path("/dev/shm")

MEMORY_BYTES_WANTED: Final = 4 * 2**30
"""The five nodes of `examples/two-pools`, each with torch imported once and forked, use about 2 GiB."""
SHARED_MEMORY_BYTES_NEEDED: Final = 64 * 2**20
SHARED_MEMORY_BYTES_WANTED: Final = 1 * 2**30
"""The example's tier: four workers, two slots and two copies, of some 10 M parameters at 12 bytes, is under 1 GiB."""
FILES_NEEDED: Final = 256
FILES_WANTED: Final = 1024
"""A controller holds some sockets per node, an agent some per worker and per stream."""
DISK_BYTES_WANTED: Final = 2 * 2**30


def probe_python(_: Path) -> Finding:
    version = platform.python_version()
    finding = f"{version} ({platform.python_implementation()}) on {platform.system()} {platform.release()}"
    numbers: dict[str, int | float | str | bool] = {"version": version, "system": platform.system()}
    if sys.platform != "linux":
        remedy = "run on Linux: the local engine needs its process groups, /dev/shm and loopback addresses"
        return Finding(name="python", value=finding, verdict="missing", remedy=remedy, numbers=numbers)
    return Finding(name="python", value=finding, numbers=numbers)


def probe_cores(_: Path) -> Finding:
    usable = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    cores = usable if quota is None else min(float(usable), quota)
    value = f"{usable} usable of {os.cpu_count()}" + ("" if quota is None else f", quota of {quota:.2f}")
    numbers: dict[str, int | float | str | bool] = {"usable": usable, "cores": cores}
    if cores < 2:
        remedy = "give it two cores or more: on one, pools only take turns, and their speeds mean little"
        return Finding(name="cores", value=value, verdict="warn", remedy=remedy, numbers=numbers)
    return Finding(name="cores", value=value, numbers=numbers)


def cpu_quota() -> float | None:
    """Cores that this process's cgroup may use, v2 or v1; None: no quota, or none that can be read."""
    with_two = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(with_two) == 2 and with_two[0] != "max":
        return int(with_two[0]) / int(with_two[1])
    quota = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
    period = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def probe_memory(_: Path) -> Finding:
    fields = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    available, total = (int(fields[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
    value = f"{format_bytes(available)} free of {format_bytes(total)}"
    numbers: dict[str, int | float | str | bool] = {"available_bytes": available, "total_bytes": total}
    if available < MEMORY_BYTES_WANTED:
        remedy = f"free some: the demo wants {format_bytes(MEMORY_BYTES_WANTED)}"
        return Finding(name="memory", value=value, verdict="warn", remedy=remedy, numbers=numbers)
    return Finding(name="memory", value=value, numbers=numbers)


def probe_shared_memory(_: Path) -> Finding:
    remedy = f"mount -o remount,size=4G {SHARED_MEMORY}, or start the container with --shm-size=4g"
    if not os.access(SHARED_MEMORY, os.W_OK):
        return Finding(
            name="shared memory",
            value=f"{SHARED_MEMORY} is not there, or not writable",
            verdict="missing",
            remedy="mount a tmpfs on /dev/shm: the memory tier and the progress beacons lie there",
        )
    usage = shutil.disk_usage(SHARED_MEMORY)
    value = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)} in {SHARED_MEMORY}"
    numbers: dict[str, int | float | str | bool] = {"free_bytes": usage.free, "total_bytes": usage.total}
    if usage.free >= SHARED_MEMORY_BYTES_WANTED:
        return Finding(name="shared memory", value=value, numbers=numbers)
    if usage.free >= SHARED_MEMORY_BYTES_NEEDED:
        return Finding(name="shared memory", value=value, verdict="warn", remedy=remedy, numbers=numbers)
    return Finding(name="shared memory", value=value, verdict="missing", remedy=remedy, numbers=numbers)


def probe_limits(_: Path) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    value = f"{soft} open files (may be raised to {hard})"
    numbers: dict[str, int | float | str | bool] = {"soft": soft, "hard": hard}
    if soft >= FILES_WANTED:
        return Finding(name="limits", value=value, numbers=numbers)
    verdict: Final = "warn" if soft >= FILES_NEEDED else "missing"
    return Finding(name="limits", value=value, verdict=verdict, remedy=f"ulimit -n {FILES_WANTED}", numbers=numbers)


def probe_addresses(_: Path) -> Finding:
    """Each node of a local fleet has a loopback address of its own: bind some, and take a free port on each."""
    wanted = [f"127.0.1.{last}" for last in range(1, 6)]
    ports = []
    for address in wanted:
        with socket.socket() as listener:
            try:
                listener.bind((address, 0))
                listener.listen(1)
            except OSError as error:
                return Finding(
                    name="addresses",
                    value=f"{address} cannot be bound: {os.strerror(error.errno or errno.EADDRNOTAVAIL)}",
                    verdict="missing",
                    remedy=f"ip addr add {address}/8 dev lo",
                )
            ports.append(listener.getsockname()[1])
    first, last = map(int, (_read(Path("/proc/sys/net/ipv4/ip_local_port_range")) or "32768 60999").split())
    return Finding(
        name="addresses",
        value=f"{wanted[0]} to {wanted[-1]} usable; {last - first + 1} ports that may be handed out",
        numbers={"addresses": len(wanted), "ports": last - first + 1},
    )


def probe_clock(_: Path) -> Finding:
    """The smallest step that the monotonic clock was seen to take: what a span of the ledger can resolve."""
    smallest_ns = min(_clock_step_ns() for _ in range(2000))
    value = f"resolves {format_s(smallest_ns * 1e-9)}" if smallest_ns >= 1000 else f"resolves {smallest_ns} ns"
    numbers: dict[str, int | float | str | bool] = {"step_s": smallest_ns * 1e-9}
    if smallest_ns > 1_000_000:
        remedy = "see /sys/devices/system/clocksource: tsc resolves nanoseconds"
        return Finding(name="clock", value=value, verdict="warn", remedy=remedy, numbers=numbers)
    return Finding(name="clock", value=value, numbers=numbers)


def _clock_step_ns() -> int:
    start = time.monotonic_ns()
    while (now := time.monotonic_ns()) == start:
        pass
    return now - start


def probe_directory(directory: Path) -> Finding:
    """Where `runs/` would be made."""
    if not os.access(directory, os.W_OK):
        remedy = "change to a folder that is writable, or set `output` in the run file"
        return Finding(name="run folder", value=f"{directory} is not writable", verdict="missing", remedy=remedy)
    free = shutil.disk_usage(directory).free
    value = f"{format_bytes(free)} free in {directory}"
    if free < DISK_BYTES_WANTED:
        remedy = "free some, or set `output` in the run file: checkpoints and journals go there"
        return Finding(name="run folder", value=value, verdict="warn", remedy=remedy, numbers={"free_bytes": free})
    return Finding(name="run folder", value=value, numbers={"free_bytes": free})


def _read(path: Path) -> str:
    """Content of a kernel file, or nothing where this kernel has none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


PROBES: Final[tuple[Callable[[Path], Finding], ...]] = (
    probe_python,
    probe_cores,
    probe_memory,
    probe_shared_memory,
    probe_limits,
    probe_addresses,
    probe_clock,
    probe_directory,
)
