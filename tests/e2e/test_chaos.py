"""Faults from a second terminal, one after the other and one into another; strangers; ends that nobody wished for."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from myriarch.event.actions import Decide, DrainShards, EndRun
from myriarch.event.events import (
    NodeExited,
    NodeJoined,
    NodeSilent,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerStalled,
)

pytest.importorskip("torch")

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

RECOVERY = {"heartbeat_timeout_s": 2.0}
STRANGERS_PER_PORT = 100


def myriarch(launched: Any, *arguments: str) -> tuple[int, str, str]:
    """A verb in a second terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "myriarch.cli", *arguments],
        cwd=launched.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def chaos(launched: Any, *arguments: str) -> None:
    code, _, err = myriarch(launched, "chaos", *arguments)
    assert code == 0, err


def steps(launched: Any) -> int:
    """How many steps were completed, those that were redone counted again."""
    return len(launched.events(StepCompleted))


def goes_on(launched: Any, more: int = 4) -> None:
    """Wait until more steps are completed than there were."""
    before = steps(launched)
    launched.until(lambda: steps(launched) >= before + more, f"{more} more steps")


def decides(launched: Any, choice: str, *, after: int) -> None:
    """Wait for a decision beyond the first `after`."""
    launched.until(
        lambda: choice in [decision.choice for decision in launched.actions(Decide)[after:]], f"decision {choice}"
    )


def losses_are_replayed(launched: Any) -> None:
    """A step that was done again gave the same loss, to the last bit; and no step is missing."""
    seen: dict[int, set[float]] = {}
    for event in launched.events(StepCompleted):
        seen.setdefault(event.step, set()).add(event.loss_sum)
    assert sorted(seen) == list(range(1, len(seen) + 1))
    assert {step: sums for step, sums in seen.items() if len(sums) > 1} == {}


def left_of(launched: Any) -> list[str]:
    """Anything of the run in shared memory or in cgroups."""
    found = [str(path) for path in Path("/dev/shm").glob("myriarch-*/*") if launched.name in path.name]
    return found + [str(path) for path in Path("/sys/fs/cgroup").rglob("*myriarch*") if launched.name in path.name]


def until_gone(launched: Any, limit_s: float = 15.0) -> None:
    end = time.monotonic() + limit_s
    while left_of(launched) and time.monotonic() < end:
        time.sleep(0.1)
    assert left_of(launched) == []


# --- strangers -------------------------------------------------------------------------------------------------------


def speak(address: tuple[str, int], data: bytes) -> socket.socket:
    """Say something to a port, and keep the connection open."""
    held = socket.create_connection(address, timeout=5)
    with contextlib.suppress(OSError):  # thrown out in the middle of a sentence
        held.sendall(data)
    return held


def trouble(launched: Any) -> list[socket.socket]:
    """Everything that a stranger can do to the ports of a run without its token."""
    port = int(json.loads((launched.attempt() / "controller.json").read_text())["url"].rsplit(":", 1)[1])
    ports = [("127.0.0.1", port)]
    ports += sorted({(event.address, event.port) for event in launched.events(NodeJoined)})
    held = []
    for address in ports:
        noise = (os.urandom(4096), b"GET /v1/state HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 64, b"\x7f\xff\xff\xff")
        held += [speak(address, data) for data in noise]
        held += [socket.create_connection(address, timeout=5) for _ in range(STRANGERS_PER_PORT)]  # they say nothing
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    requests = [("GET", "/v1/state", ""), ("POST", "/v1/stop", "{}"), ("POST", "/v1/chaos", '{"action": "kill"}')]
    for method, path, body in requests:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting)
        connection.request(method, path, body, {"Authorization": "Bearer wrong"})
        assert connection.getresponse().status == 401
        connection.close()
    for path in ("/v1/agent", "/v1/watch"):
        with pytest.raises(WebSocketException):
            asyncio.run(_upgrade(f"wss://127.0.0.1:{port}{path}", trusting))
    return held


async def _upgrade(url: str, trusting: ssl.SSLContext) -> None:
    async with connect(url, ssl=trusting, additional_headers={"Authorization": "Bearer wrong"}, proxy=None):
        pass


# --- tests -----------------------------------------------------------------------------------------------------------


def test_a_fleet_survives_what_is_done_to_it_and_accounts_for_it(launch: Any) -> None:
    """One fleet, a whole afternoon: wrong orders, strangers, slow, stopped and killed parts, then a stop."""
    launched = launch(name="afternoon", steps=100_000, recovery=RECOVERY)
    launched.until(lambda: steps(launched) > 3, "three steps")

    refused = {
        ("kill", "fats-1"): "did you mean `fast-1`?",
        ("kil", "fast-1"): "did you mean `kill`?",
        ("slow", "fast-1"): "--factor",
        ("slow", "fast-1", "--factor", "7"): "share of speed",
        ("slow", "controller", "--factor", "0.5"): "use kill or stop",
        ("kill", "fast-1", "--run", "nobody"): "there are: afternoon",
    }
    for order, said in refused.items():
        code, _, err = myriarch(launched, "chaos", *order)
        assert code == 2, err
        assert said in err
    code, _, err = myriarch(launched, "train", "afternoon.yaml", "--fresh")
    assert code == 2
    assert f"under way in process {launched.process.pid}" in err

    held = trouble(launched)
    goes_on(launched)
    chaos(launched, "slow", "fast/0", "--factor", "0.3")
    goes_on(launched, more=10)
    chaos(launched, "resume", "fast/0")
    assert [decision.choice for decision in launched.actions(Decide)] == ["form"], "nothing of this is a fault"
    for connection in held:
        connection.close()

    chaos(launched, "stop", "slow/1")
    decides(launched, "restart_workers", after=1)
    assert [(event.group, event.rank) for event in launched.events(WorkerStalled)] == [("slow", 1)]
    goes_on(launched)

    chaos(launched, "stop", "fast-1")
    decides(launched, "replace_node", after=2)
    assert [event.node for event in launched.events(NodeSilent)] == ["fast-1"]
    chaos(launched, "resume", "fast-1")
    launched.until(lambda: launched.events(NodeJoined)[-1].node == "fast-1", "the fenced node's return")
    assert launched.events(NodeJoined)[-1].shards == (), "it comes back empty"
    goes_on(launched)

    count = len(launched.actions(Decide))
    chaos(launched, "kill", "fast/0")
    decides(launched, "restart_workers", after=count)
    chaos(launched, "kill", "slow/0")  # the first recovery may still be under way
    launched.until(
        lambda: {(e.group, e.rank) for e in launched.events(WorkerExited)} >= {("fast", 0), ("slow", 0)}, "two deaths"
    )
    goes_on(launched)
    code, out, err = myriarch(launched, "report", "--json")
    assert code == 0, err
    running = json.loads(out)

    # A stopped controller hears no signal of the launcher; it is replaced, and hears it then.
    chaos(launched, "stop", "controller")
    launched.process.send_signal(signal.SIGTERM)
    code, out, err = launched.wait()
    assert code == 130, err
    assert "the controller is stopped" in err
    assert launched.actions(EndRun)[-1].outcome == "interrupted"
    until_gone(launched)
    losses_are_replayed(launched)

    schema = json.loads(myriarch(launched, "schema", "report")[1])
    ended = json.loads(myriarch(launched, "report", "--json")[1])
    for report in (running, ended):
        jsonschema.validate(report, schema)
        assert sum(report["leaves"].values()) == report["capacity_device_ns"]
        assert len(report["incidents"]) >= 4
    assert ended["leaves"]["unattributed"] <= 0.02 * ended["capacity_device_ns"]
    assert ended["leaves"]["straggler_wait"] > 0
    assert myriarch(launched, "chaos", "kill", "fast-0")[0] == 2, "it is over"

    journal = launched.attempt() / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-40])  # torn: a crash
    assert myriarch(launched, "report")[0] == 0
    journal.write_bytes(whole[: len(whole) // 2] + b"#" + whole[len(whole) // 2 + 1 :])  # damaged: nothing to guess
    code, _, err = myriarch(launched, "report")
    assert code == 1
    assert "is damaged" in err
    assert "Traceback" not in err


def test_a_killed_launcher_leaves_nothing_even_of_what_is_stopped(launch: Any) -> None:
    """A stopped process does not see that its launcher is gone."""
    launched = launch(name="stopped-orphans", steps=100_000, recovery={"heartbeat_timeout_s": 60.0})
    launched.until(lambda: steps(launched) > 0, "a step")
    chaos(launched, "stop", "slow-1")
    chaos(launched, "stop", "controller")
    launched.process.kill()
    launched.process.wait()
    until_gone(launched)  # and the fixture asserts that no process is left
    code, out, err = myriarch(launched, "report")
    assert code == 0, err
    assert "unfinished" in out


def test_a_group_that_dies_whole_comes_back_and_a_late_death_harms_no_checkpoint(launch: Any) -> None:
    """Both nodes of a group at once: the other group's memory has the state. Then one more, in the last drain."""
    pools = [
        {"name": "fast", "chip": {"id": "cpu-core"}, "nodes": 2, "spares": 2},
        {"name": "slow", "chip": {"id": "cpu-core"}, "nodes": 2},
    ]
    launched = launch(name="whole-group", steps=60, fleet={"pools": pools}, recovery=RECOVERY)
    launched.until(lambda: steps(launched) > 10, "ten steps")
    for node in ("fast-0", "fast-1"):
        kill_node(launched, node)
    decides(launched, "replace_node", after=1)
    goes_on(launched)
    assert {event.node for event in launched.events(NodeExited)} == {"fast-0", "fast-1"}
    assert {"fast-2", "fast-3"} <= {event.node for event in launched.events(WorkerForked)}

    launched.until(lambda: last_drain(launched) != "", "the last drain")
    kill_node(launched, last_drain(launched))
    code, _, err = launched.wait()
    assert code in (0, 3), err
    assert launched.actions(EndRun)[-1].step == 60
    checkpoint = Path(launched.actions(EndRun)[-1].checkpoint)
    assert checkpoint.name == "step-00000060"
    assert (checkpoint / ".metadata").exists()
    losses_are_replayed(launched)
    until_gone(launched)


def last_drain(launched: Any) -> str:
    """A node that writes the run's last step to disk; empty while none does."""
    return next((str(action.node) for action in launched.actions(DrainShards) if action.step == 60), "")


def kill_node(launched: Any, node: str) -> None:
    """SIGKILL to the node's process group, by nobody that the fleet knows."""
    agent = f"myriarch.run.agent\0{launched.attempt()}\0{node}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if agent in (entry / "cmdline").read_bytes():
                    os.killpg(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue
