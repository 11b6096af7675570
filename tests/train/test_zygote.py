"""The zygote: forks that work, ends that are reported, nothing that outlives it."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.train.zygote import Zygote
from myriarch.wire.frames import Channel
from myriarch.wire.worker import FromWorker, StepDone
from myriarch.wire.zygote import DrainJob, ForkDrain, Forked, ForkWorker, FromZygote, ToZygote

pytestmark = pytest.mark.processes

Fleet = Any
MakeFleet = Callable[..., Any]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "agent.sock"))
        sock.listen()
        sock.settimeout(30)
        yield sock


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def order(folder: Path, **changes: Any) -> ForkWorker:
    fields: dict[str, Any] = {
        "socket_path": str(folder / "agent.sock"), "token": "t", "group": GroupId("a"), "rank": Rank(0),
        "incarnation": Incarnation(1), "device_index": 0, "log_path": str(folder / "worker.log"),
    }  # fmt: skip
    return ForkWorker(**(fields | changes))


def test_the_zygote_has_one_thread(zygote: Any) -> None:
    assert zygote.ready.wait(60)
    assert len(os.listdir(f"/proc/{zygote.process.pid}/task")) == 1


def test_a_worker_attaches_and_ends_when_its_agent_does(zygote: Any, tmp_path: Path, listener: socket.socket) -> None:
    pid = zygote.fork(order(tmp_path))
    sock, _ = listener.accept()
    channel: Channel[FromWorker] = Channel(sock, decode_type=FromWorker)
    attached = channel.receive(timeout_s=30)
    assert (attached.pid, attached.token) == (pid, "t")  # type: ignore[union-attr]
    channel.close()
    end = zygote.end_of(pid)
    assert (end.signal, end.code) == (0, 0)
    assert not exists(pid)


def test_a_killed_child_is_reported_with_its_signal(zygote: Any, tmp_path: Path, listener: socket.socket) -> None:
    pid = zygote.fork(order(tmp_path))
    with listener.accept()[0]:
        os.kill(pid, signal.SIGKILL)
        end = zygote.end_of(pid)
    assert (end.signal, end.code) == (signal.SIGKILL, 0)


def test_a_child_joins_its_cgroup_before_anything_else(zygote: Any, tmp_path: Path, listener: socket.socket) -> None:
    procs = tmp_path / "cgroup.procs"
    procs.touch()
    pid = zygote.fork(order(tmp_path, cgroup_procs=str(procs)))
    with listener.accept()[0]:
        assert procs.read_text() == str(pid)
    assert zygote.end_of(pid).code == 0


def test_a_child_without_its_cgroup_does_not_run_unlimited(zygote: Any, tmp_path: Path) -> None:
    pid = zygote.fork(order(tmp_path, cgroup_procs=str(tmp_path / "missing" / "cgroup.procs")))
    assert zygote.end_of(pid).code == 1
    assert "missing/cgroup.procs" in (tmp_path / "worker.log").read_text()


def test_a_drain_that_fails_says_why(zygote: Any, tmp_path: Path, make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    job = DrainJob(
        kind="shards", step=Step(1), incarnation=Incarnation(1), path=str(tmp_path / "out"), slot_paths=("/nowhere",),
        shards=((GroupId("a"), Rank(0)),),
    )  # fmt: skip
    pid = zygote.fork(ForkDrain(socket_path=fleet.socket_path, token="t", job=job, log_path=str(tmp_path / "log")))
    assert "/nowhere does not exist" in fleet.drained.get(timeout=30).error
    assert zygote.end_of(pid).code == 1


@pytest.fixture
def waiting_child(own_zygote: Any, tmp_path: Path) -> int:
    """A child that waits to join its cgroup: there is nobody at the other end of the pipe."""
    os.mkfifo(tmp_path / "pipe")
    pid: int = own_zygote.fork(order(tmp_path, cgroup_procs=str(tmp_path / "pipe")))
    return pid


def ends_within(pid: int, limit_s: float) -> bool:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    ended = bool(poller.poll(limit_s * 1000))
    os.close(watch)
    return ended


def test_a_fork_that_fails_is_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    ours, theirs = socket.socketpair()
    with (
        Channel[FromZygote](ours, decode_type=FromZygote) as agent,
        Channel[ToZygote](theirs, decode_type=ToZygote) as channel,
    ):
        agent.send(order(tmp_path))
        agent.send(order(tmp_path))
        ours.shutdown(socket.SHUT_WR)
        Zygote(channel).serve()
        for _ in range(2):
            answer = agent.receive(timeout_s=10)
            assert isinstance(answer, Forked)
            assert answer.pid == 0
            assert "Resource temporarily unavailable" in answer.error


def test_without_room_for_another_child_the_others_live_on(own_zygote: Any, waiting_child: int, tmp_path: Path) -> None:
    pid = own_zygote.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    next_one = min(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next_one, before[1]))
    refused = own_zygote.try_to_fork(order(tmp_path))
    assert refused.pid == 0
    assert "Too many open files" in refused.error
    assert children_of(pid) == [waiting_child]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert own_zygote.fork(order(tmp_path, cgroup_procs="/nowhere/cgroup.procs"))
    assert not ends_within(waiting_child, 0)


def test_nothing_outlives_the_zygote(own_zygote: Any, waiting_child: int) -> None:
    """Killed outright, it cannot clean up: the kernel does."""
    assert not ends_within(waiting_child, 0.2)
    own_zygote.process.kill()
    own_zygote.process.wait()
    assert ends_within(waiting_child, 10)


def test_children_end_when_the_agent_hangs_up(own_zygote: Any, waiting_child: int) -> None:
    own_zygote.close()
    assert own_zygote.process.returncode == 0
    assert not exists(waiting_child)


def test_a_training_worker_leaves_nothing_behind(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=1000)
    fleet.launch("a", 2)
    fleet.go(fleet.ready(), [("a", 6)])
    fleet.workers["a", 0].next(StepDone)
    zygote = fleet.zygote.process.pid
    assert len(children_of(zygote)) == 2
    ends = fleet.end()
    assert {(end.signal, end.code) for end in ends.values()} <= {(0, 0), (0, 1)}
    assert children_of(zygote) == []
    assert len(os.listdir(f"/proc/{zygote}/fd")) < 20
