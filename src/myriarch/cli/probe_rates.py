"""What has to be measured: shared memory, loopback, disk, and whether a CPU quota holds. Each within half a second."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import xxhash

from myriarch.cli.finding import Finding
from myriarch.cli.probe_machine import SHARED_MEMORY
from myriarch.errors import EnvironmentFault
from myriarch.run import cgroups
from myriarch.units import format_rate, format_s

AREA_BYTES: Final = 64 * 2**20
"""More than the last-level cache share of most cores, so that memory is measured and not cache."""
BLOCK_BYTES: Final = 256 * 1024
"""The memory tier's unit of copying and hashing."""
LIMIT_S: Final = 0.25
"""Of each measurement."""


def probe_snapshot_rate(_: Path) -> Finding:
    """Copy into warm shared memory and hash, block by block: the whole of what a snapshot costs a trainer."""
    try:
        with _shared_area(2 * AREA_BYTES) as area:
            fault_s = _seconds(lambda: _touch(area))
            copy = _rate(lambda: _copy_blocks(area), AREA_BYTES)
            both = _rate(lambda: _copy_and_hash_blocks(area), AREA_BYTES)
    except OSError as error:
        remedy = f"free some of {SHARED_MEMORY}: 128 MiB are needed to measure it"
        return Finding(name="snapshot rate", value=f"not measured: {error.strerror}", verdict="warn", remedy=remedy)
    fault = 2 * AREA_BYTES / fault_s
    return Finding(
        name="snapshot rate",
        value=(
            f"{format_rate(both, 'B/s')} copied and hashed on one core"
            f" ({format_rate(copy, 'B/s')} copied, {format_rate(fault, 'B/s')} when touched first)"
        ),
        numbers={"snapshot_bytes_per_s": both, "copy_bytes_per_s": copy, "first_touch_bytes_per_s": fault},
    )


@contextlib.contextmanager
def _shared_area(size_bytes: int) -> Iterator[memoryview]:
    """A file in shared memory without a name, mapped: gone with the process, whatever happens."""
    descriptor, path = tempfile.mkstemp(dir=SHARED_MEMORY, prefix="myriarch-doctor-")
    os.unlink(path)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        with mmap.mmap(descriptor, size_bytes) as mapped, memoryview(mapped) as view:
            yield view
    finally:
        os.close(descriptor)


def _touch(area: memoryview) -> None:
    page = mmap.PAGESIZE
    area[::page] = bytes(len(area) // page)


def _copy_blocks(area: memoryview) -> None:
    for start in range(0, AREA_BYTES, BLOCK_BYTES):
        area[AREA_BYTES + start : AREA_BYTES + start + BLOCK_BYTES] = area[start : start + BLOCK_BYTES]


def _copy_and_hash_blocks(area: memoryview) -> None:
    for start in range(0, AREA_BYTES, BLOCK_BYTES):
        copied = area[AREA_BYTES + start : AREA_BYTES + start + BLOCK_BYTES]
        copied[:] = area[start : start + BLOCK_BYTES]
        xxhash.xxh3_64_intdigest(copied)


def probe_loopback_rate(_: Path) -> Finding:
    """TCP between two loopback addresses: bytes one way, then single bytes there and back."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=5.0))
        far, _address = listener.accept()
        stack.enter_context(far)
        far.settimeout(5.0)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        round_trip_s = _round_trip_s(near, far)
        rate = _stream_rate(near, far)
    return Finding(
        name="loopback",
        value=f"{format_rate(rate, 'B/s')} over one TCP stream, {format_s(round_trip_s)} there and back",
        numbers={"stream_bytes_per_s": rate, "round_trip_s": round_trip_s},
    )


def _round_trip_s(near: socket.socket, far: socket.socket, *, rounds: int = 500) -> float:
    """Median over `rounds`; two threads of one process, so the interpreter's switching is in it."""

    def echo() -> None:
        for _ in range(rounds):
            far.sendall(far.recv(1))

    def ask() -> None:
        near.sendall(b".")
        near.recv(1)

    with _thread(echo):
        return statistics.median(_seconds(ask) for _ in range(rounds))


def _stream_rate(near: socket.socket, far: socket.socket) -> float:
    """Bytes per second until the sender's limit is over, all of them received."""
    payload = bytes(4 * BLOCK_BYTES)

    def send() -> None:
        end = time.perf_counter() + LIMIT_S
        while time.perf_counter() < end:
            near.sendall(payload)
        near.shutdown(socket.SHUT_WR)

    buffer = bytearray(len(payload))
    received = 0
    start = time.perf_counter()
    with _thread(send):
        while count := far.recv_into(buffer):
            received += count
    return received / (time.perf_counter() - start)


@contextlib.contextmanager
def _thread(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=10.0)


def probe_disk(directory: Path) -> Finding:
    """Small appends made durable, as the journal does; then one large file, as a drain does."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            append_s = statistics.median(_repeat(lambda: _append(file.fileno(), 512)))
            rate = 16 * 2**20 / _seconds(lambda: _append(file.fileno(), 16 * 2**20))
    except OSError as error:
        remedy = "free some, or change to a folder on another disk"
        value = f"not measured: {error.strerror}"
        return Finding(name="disk", value=value, verdict="missing", remedy=remedy)
    value = f"{format_s(append_s)} for a durable append, {format_rate(rate, 'B/s')} for 16 MiB made durable"
    numbers: dict[str, int | float | str | bool] = {"durable_append_s": append_s, "durable_bytes_per_s": rate}
    if append_s > 0.05:
        remedy = "put `output` on a local disk: the controller makes every decision durable before it acts"
        return Finding(name="disk", value=value, verdict="warn", remedy=remedy, numbers=numbers)
    return Finding(name="disk", value=value, numbers=numbers)


def probe_cpu_quota(_: Path) -> Finding:
    """Whether pools can be made slower by the kernel: hold a spinning process to a quarter of a core and look."""
    try:
        base, version = cgroups.find_base()
    except EnvironmentFault as fault:
        return Finding(
            name="cpu quota",
            value=f"not permitted, a duty cycle of stops is used instead: {fault}",
            verdict="warn",
            remedy=fault.hint,
            numbers={"cgroup_version": 0},
        )
    asked = 0.25
    got = _fraction_under_quota(cgroups.Cgroup(base / f"myriarch-doctor-{os.getpid()}", version=version), asked)
    value = f"cgroup v{version}: {asked:.0%} of a core allowed, {got:.0%} taken"
    numbers: dict[str, int | float | str | bool] = {"cgroup_version": version, "allowed": asked, "taken": got}
    if got > 1.5 * asked:
        remedy = "this kernel ignores quotas: emulated pools will not be as slow as the fleet file says"
        return Finding(name="cpu quota", value=value, verdict="warn", remedy=remedy, numbers=numbers)
    return Finding(name="cpu quota", value=value, numbers=numbers)


_SPIN: Final = f"""
import sys, time
sys.stdin.readline()
end, start = time.perf_counter() + {LIMIT_S}, time.process_time()
while time.perf_counter() < end:
    pass
print((time.process_time() - start) / {LIMIT_S})
"""


def _fraction_under_quota(group: cgroups.Cgroup, fraction: float) -> float:
    """CPU time over wall time of a process that spins inside `group` with a quota of `fraction`."""
    command = [sys.executable, "-I", "-S", "-c", _SPIN]
    group.create()
    try:
        group.limit(fraction)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as spinner:
            group.add(spinner.pid)
            answer, _complaint = spinner.communicate("\n", timeout=10.0)
            return float(answer)
    finally:
        cgroups.remove(group.path.name)


def _append(descriptor: int, size_bytes: int) -> None:
    os.write(descriptor, bytes(size_bytes))
    os.fdatasync(descriptor)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _repeat(work: Callable[[], object]) -> list[float]:
    """Seconds of each call, until the limit is over; at least three."""
    end = time.perf_counter() + LIMIT_S
    taken = [_seconds(work) for _ in range(3)]
    while time.perf_counter() < end:
        taken.append(_seconds(work))
    return taken


def _rate(work: Callable[[], object], size_bytes: int) -> float:
    """Bytes per second of the median call."""
    return size_bytes / statistics.median(_repeat(work))


PROBES: Final[tuple[Callable[[Path], Finding], ...]] = (
    probe_snapshot_rate,
    probe_loopback_rate,
    probe_cpu_quota,
    probe_disk,
)
