"""What the shells ask of this machine: cgroups, processes, ports, identities, room."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from myriarch.errors import EnvironmentFault, UsageError
from myriarch.run import cgroups, procfs, room, sweep
from myriarch.run.certificate import create_identity
from myriarch.run.cgroups import Cgroup
from myriarch.run.controller import bind
from myriarch.run.directory import Attempt
from myriarch.run.identity import client_context, read_token
from myriarch.run.local import places_of
from myriarch.run.quota import DutyCycle, choose
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.run import ResolvedRun

SPIN = "while True: pass"


@pytest.fixture
def spinner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes all the CPU time that it gets."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    yield process
    process.kill()
    process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_share(pid: int, over_s: float) -> float:
    start, start_s = _cpu_s(pid), time.monotonic()
    time.sleep(over_s)
    return (_cpu_s(pid) - start) / (time.monotonic() - start_s)


@pytest.mark.processes
def test_a_quota_really_slows(spinner: subprocess.Popen[bytes]) -> None:
    try:
        base, version = cgroups.find_base()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    prefix = f"myriarch-{os.getuid()}-test-{secrets.token_hex(4)}"
    group = Cgroup(base / f"{prefix}-0", version=version)
    group.create()
    try:
        group.limit(0.2)
        group.add(spinner.pid)
        assert _cpu_share(spinner.pid, 1.0) < 0.3, "an upper bound: a busy machine only lowers it"
        group.limit(0.05)
        group.limit(None)
    finally:
        spinner.kill()
        spinner.wait()
        assert cgroups.remove(prefix) == []
    assert not group.path.exists()


@pytest.mark.processes
def test_a_duty_cycle_slows_and_leaves_frozen_processes_alone(spinner: subprocess.Popen[bytes]) -> None:
    async def main() -> None:
        frozen: set[int] = set()
        limiter = DutyCycle(pids=lambda device: [spinner.pid], frozen=frozen, why="a test wants it")
        limiter.limit(0, 0.2)
        assert limiter.owns_stop(spinner.pid)
        seen: set[str] = set()
        while not {"R", "T"} <= seen:  # the test's own limit ends it
            seen.add(procfs.state(spinner.pid))
            await asyncio.sleep(0.003)
        frozen.add(spinner.pid)
        procfs.kill(spinner.pid, signal.SIGSTOP)
        await asyncio.sleep(0.2)
        assert procfs.state(spinner.pid) == "T"
        assert not limiter.owns_stop(spinner.pid)
        frozen.clear()
        limiter.close()
        await asyncio.sleep(0.05)
        assert procfs.state(spinner.pid) == "R", "the end of a duty cycle lets its processes go"
        assert "because a test wants it" in limiter.method

    asyncio.run(main())


def test_the_limiter_says_what_it_is() -> None:
    limiter = choose(f"myriarch-{os.getuid()}-none", pids=lambda device: (), frozen=set())
    assert limiter.method.startswith(("CPU quota (cgroup v", "duty cycle ("))
    limiter.close()


def test_a_process_is_named_by_its_id_and_its_start() -> None:
    ticks = procfs.start_ticks(os.getpid())
    assert ticks is not None
    assert procfs.is_alive(os.getpid(), ticks)
    assert not procfs.is_alive(os.getpid(), ticks + 1)
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.state(process.pid) == "Z"
    assert not procfs.is_alive(process.pid)
    process.wait()
    assert procfs.state(process.pid) == ""


def test_what_dead_launches_left_is_swept_and_living_ones_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "SHM", tmp_path)
    alive = sweep.create_directory("alive-1")
    dead = sweep.create_directory("dead-1")
    (dead / "owner.json").write_bytes(msgspec.json.encode(sweep.Owner(pid=os.getpid(), start_ticks=1)))
    (dead / "fast-0-boot").mkdir()
    (dead / "fast-0-boot" / "slot").write_bytes(b"x")
    assert sweep.sweep_stale() == ["dead-1"]
    assert alive.is_dir()
    assert not dead.exists()
    sweep.leave(alive)
    assert not alive.exists(), "the last one out"
    with pytest.raises(EnvironmentFault, match="cannot be made"):
        sweep.create_directory("x" * 300)


def test_the_token_and_the_key_are_private_and_the_certificate_is_pinned(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    token = create_identity(attempt, addresses=("127.0.0.1",))
    assert read_token(attempt) == token
    assert len(bytes.fromhex(token)) == 32
    for path in (attempt.token, attempt.key):
        assert path.stat().st_mode & 0o777 == 0o600
    context = client_context(attempt)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(EnvironmentFault, match="token"):
        read_token(Attempt(tmp_path / "elsewhere"))


def test_a_port_in_use_is_said() -> None:
    with bind(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=str(port)) as refused:
            bind(port)
        assert "ss -ltnp" in refused.value.hint
    with bind(port):
        pass


def test_a_run_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, toy: Callable[..., ResolvedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = toy("room", tmp_path, pools={"fast": (2, 0)})
    room.check(resolved)
    one = room.shard_bytes(resolved, resolved.run.groups[0])
    assert room.machine_bytes(resolved) == 2 * 2 * 2 * one, "two slots, own and one copy, two workers"
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(free=1000))
    with pytest.raises(EnvironmentFault, match="1000 B free") as refused:
        room.check(resolved)
    assert "checkpoint.copies" in refused.value.hint


class _Usage(msgspec.Struct):
    free: int


def test_every_node_has_an_address_of_its_own() -> None:
    pools = (
        Pool(name="fast", chip=Chip(id="c"), nodes=2, spares=1, nodes_per_rack=2),
        Pool(name="slow", chip=Chip(id="c"), nodes=1),
    )
    places = places_of(Fleet(name="f", pools=pools))
    assert [(place.node, place.address, place.fault_domain) for place in places] == [
        ("fast-0", "127.0.1.1", "fast/rack-0"),
        ("fast-1", "127.0.1.2", "fast/rack-0"),
        ("fast-2", "127.0.1.3", "fast/rack-1"),
        ("slow-0", "127.0.2.1", "slow/rack-0"),
    ]
    with pytest.raises(UsageError, match="300"):
        places_of(Fleet(name="f", pools=(Pool(name="many", chip=Chip(id="c"), nodes=300),)))
