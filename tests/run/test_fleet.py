"""Whole launches with the toy: formation, faults of every kind, ends of every kind."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from myriarch.account.history import History
from myriarch.cli.chaos import chaos
from myriarch.control import Control
from myriarch.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, UsageError
from myriarch.event.actions import Decide, EndRun, FenceNode, StartSteps
from myriarch.event.events import (
    FaultInjected,
    NodeExited,
    NodeJoined,
    NodeSilent,
    NodeWarmed,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerStalled,
)
from myriarch.event.journal import actions_of, events_of
from myriarch.run.directory import Contact, read_json
from myriarch.run.identity import client_context, read_token
from myriarch.run.ledger_store import read_spans
from myriarch.spec.fleet import Emulation
from myriarch.spec.run import ChaosEvent, Recovery

pytestmark = pytest.mark.processes


def steps_of(launched: Any) -> list[int]:
    return sorted({event.step for event in launched.events(StepCompleted)})


def choices(launched: Any) -> list[str]:
    return [decision.choice for decision in launched.actions(Decide)]


def replays(launched: Any) -> bool:
    """Whether the journal's events give the journal's actions, in a machine of their own."""
    control = Control()
    records = launched.records()
    again = [action for at_ns, event in events_of(records) for action in control.step(event, now_s=at_ns / 1e9)]
    control.check()
    return again == [action for _, action in actions_of(records)]


def test_workers_nodes_and_the_controller_may_die(launch: Any, tmp_path: Path, toy: Any, state_after: Any) -> None:
    """One launch, every kill: a worker, a node with a spare, the controller. The result is that of no kill."""
    launched = launch(
        toy(
            "killed", tmp_path, pools={"fast": (2, 1), "slow": (2, 0)}, steps=80,
            chaos=(
                ChaosEvent(at_step=10, action="kill", target="slow/0"),
                ChaosEvent(at_step=30, action="kill", target="fast-1"),
                ChaosEvent(at_step=50, action="kill", target="controller"),
            ),
        )
    )  # fmt: skip
    outcome = launched.end()
    assert (outcome.outcome, outcome.step) == ("completed", 80)
    assert choices(launched) == ["form", "restart_workers", "replace_node"]
    assert [event.target for event in launched.events(FaultInjected)] == ["slow/0", "fast-1", "controller"]
    killed = [event for event in launched.events(WorkerExited) if event.cause == "signal"]
    assert [(event.group, event.rank, event.code) for event in killed] == [("slow", 0, 9)]
    assert [(event.node, event.detail) for event in launched.events(NodeExited)] == [("fast-1", "killed by SIGKILL")]
    assert {event.node for event in launched.events(WorkerForked) if event.incarnation == 3} == {"fast-0", "fast-2"}
    assert steps_of(launched) == list(range(1, 81))
    assert replays(launched)
    assert np.array_equal(launched.final_state(80), state_after(80))
    spans = read_spans(launched.attempt().ledger)
    assert {span.device for span in spans} == {"fast-0/0", "fast-1/0", "fast-2/0", "slow-0/0", "slow-1/0"}


def test_a_stopped_node_is_fenced_and_comes_back_empty(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("stopped", tmp_path, pools={"fast": (2, 1)}, steps=400), FAKE_STEP_S="0.02")
    launched.until_step(6)
    assert chaos("stop", "fast-1", run=str(launched.attempt().path), factor=None) == EXIT_OK
    launched.until(lambda: "replace_node" in choices(launched), "the spare takes over")
    assert [event.node for event in launched.events(NodeSilent)] == ["fast-1"]
    boots = [event.boot for event in launched.events(NodeJoined) if event.node == "fast-1"]
    assert chaos("resume", "fast-1", run=str(launched.attempt().path), factor=None) == EXIT_OK
    launched.until(
        lambda: [e.boot for e in launched.events(NodeJoined) if e.node == "fast-1"][1:], "the node comes back"
    )
    assert launched.actions(FenceNode)
    again = [event for event in launched.events(NodeJoined) if event.node == "fast-1"][-1]
    assert again.boot != boots[0]
    assert again.workers == ()
    assert again.shards == ()
    launched.until(lambda: again.boot in {event.boot for event in launched.events(NodeWarmed)}, "it is warm")
    launched.client().stop("enough")
    assert launched.end().outcome == "interrupted"
    with pytest.raises(UsageError, match="not under way"):
        chaos("kill", "fast-1", run=str(launched.attempt().path), factor=None)


def test_a_stopped_worker_is_found_and_replaced(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("frozen", tmp_path, pools={"fast": (2, 0)}, steps=4000))
    launched.until_step(4)
    client = launched.client()
    client.chaos("slow", "fast-0", factor=0.5)
    client.chaos("stop", "fast/1")
    launched.until(lambda: "restart_workers" in choices(launched), "a new worker")
    (stalled,) = launched.events(WorkerStalled)
    assert (stalled.group, stalled.rank, stalled.stopped) == ("fast", 1, True)
    restarted = launched.actions(Decide)[-1].to_step
    launched.until(lambda: launched.events(StepCompleted)[-1].step > restarted, "training goes on")
    client.chaos("resume", "fast-0")
    client.stop("enough")
    assert launched.end().outcome == "interrupted"
    assert [event.action for event in launched.events(FaultInjected)] == ["slow", "stop", "resume"]


def test_a_signal_stops_after_a_last_snapshot_and_the_next_launch_resumes(
    launch: Any, tmp_path: Path, toy: Any, state_after: Any, nothing_left: Any
) -> None:
    resolved = toy("again", tmp_path, pools={"fast": (2, 0)}, steps=60)
    first = launch(resolved, FAKE_STEP_S="0.03")
    first.until_step(5)
    first.process.send_signal(signal.SIGTERM)
    outcome = first.end()
    assert outcome.outcome == "interrupted"
    assert nothing_left("again") == []
    second = launch(resolved)
    assert second.end().outcome == "completed"
    assert steps_of(second) == list(range(outcome.step + 1, 61))
    assert np.array_equal(second.final_state(60), state_after(60))
    third = launch(resolved)
    assert "--fresh" in third.end().detail, "there is nothing to do"
    other = msgspec.structs.replace(resolved, run=msgspec.structs.replace(resolved.run, seed=5))
    refused = launch(other)
    _, err = refused.wait()
    assert refused.process.returncode == EXIT_USAGE
    assert "--fresh" in err


def test_two_launches_of_a_run_at_once_are_refused(launch: Any, tmp_path: Path, toy: Any) -> None:
    resolved = toy("once", tmp_path, pools={"fast": (1, 0)}, steps=4000)
    first = launch(resolved)
    first.until_step(1)
    second = launch(resolved)
    _, err = second.wait()
    assert second.process.returncode == EXIT_USAGE
    assert str(first.process.pid) in err
    first.process.send_signal(signal.SIGINT)
    assert first.end().outcome == "interrupted"


def test_strangers_harm_only_their_own_connection(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("strangers", tmp_path, pools={"fast": (1, 0)}, steps=4000))
    launched.until_step(1)
    attempt = launched.attempt()
    url = read_json(attempt.contact, Contact).url
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    with socket.create_connection(address) as raw:
        raw.sendall(os.urandom(4096))
        raw.settimeout(10)
        while raw.recv(4096):
            pass
    tls = client_context(attempt)
    bad = {"Authorization": "Bearer wrong"}
    with pytest.raises(InvalidStatus):
        connect(f"wss{url[5:]}/v1/agent", ssl=tls, additional_headers=bad, proxy=None, open_timeout=60)
    good = {"Authorization": f"Bearer {read_token(attempt)}"}
    for garbage in (b"\xc1garbage", "text"):
        with connect(
            f"wss{url[5:]}/v1/agent", ssl=tls, additional_headers=good, proxy=None, open_timeout=60
        ) as websocket:
            websocket.send(garbage)
            assert _closed_with(websocket) == 1008
    unpinned = ssl.create_default_context()
    with socket.create_connection(address) as raw, pytest.raises(ssl.SSLError):
        unpinned.wrap_socket(raw, server_hostname="127.0.0.1")
    client = launched.client()
    with pytest.raises(UsageError, match="fast-9") as refused:
        client.chaos("kill", "fast-9")
    assert "fast-0" in refused.value.hint
    step = client.state()["step"]
    launched.until(lambda: client.state()["step"] > step, "training goes on")
    client.stop("enough")
    assert launched.end().outcome == "interrupted"
    assert {event.incarnation for event in launched.events(StepCompleted)} == {1}


def _closed_with(websocket: Any) -> int | None:
    try:
        while True:
            websocket.recv(timeout=10)
    except Exception:  # noqa: BLE001  closed, in whichever way
        code: int | None = websocket.protocol.close_code
        return code


def test_the_launchers_death_takes_everything_with_it(launch: Any, tmp_path: Path, toy: Any, nothing_left: Any) -> None:
    resolved = toy("orphans", tmp_path, pools={"fast": (2, 0)}, steps=4000, emulate=Emulation(cpu_fraction=0.5))
    launched = launch(resolved)
    launched.until_step(3)
    launched.process.kill()
    launched.process.wait()
    assert nothing_left("orphans") == []


def test_a_script_that_raises_ends_the_run_with_its_traceback(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("raises", tmp_path, pools={"fast": (2, 0)}), FAKE_RAISE="fast/1@7")
    outcome = launched.end()
    assert outcome.outcome == "user_error"
    assert "the toy was told to raise" in outcome.detail
    assert choices(launched).count("restart_workers") == 0
    assert len(launched.actions(EndRun)) == 1


def test_however_a_worker_ends_its_report_says_how(launch: Any, tmp_path: Path, toy: Any, state_after: Any) -> None:
    launched = launch(
        toy("quits", tmp_path, pools={"fast": (2, 0)}, steps=20),
        FAKE_QUIT="fast/0@1:exit0,fast/1@2:late5,fast/0@3:babble",
    )
    assert launched.end().outcome == "completed"
    ends = [event for event in launched.events(WorkerExited) if event.cause in ("exit", "signal")]
    assert [(end.incarnation, end.rank, end.cause, end.code, end.detail) for end in ends] == [
        (1, 0, "exit", 0, "ended by itself with exit code 0 before the run was over"),
        (2, 1, "exit", 5, "ended with exit code 5 without a word; its log ends:\nthe toy hangs up"),
        (3, 0, "signal", 9, "killed by its agent: Ready from a worker that was asked nothing"),
    ]
    assert np.array_equal(launched.final_state(20), state_after(20))


def test_a_worker_that_cannot_be_forked_harms_no_other(launch: Any, tmp_path: Path, toy: Any) -> None:
    """Its successor can be; the other one, who was ready long before, is the same process to the end."""
    death = ChaosEvent(at_step=4, action="kill", target="fast/0")
    resolved = toy("crowded", tmp_path, pools={"fast": (1, 0), "slow": (1, 0)}, steps=10, chaos=(death,))
    launched = launch(resolved, FAKE_REFUSE="fast/0@2")
    assert launched.end().outcome == "completed"
    killed, refused = launched.events(WorkerExited)[:2]
    assert (killed.group, killed.incarnation, killed.cause) == ("fast", 1, "signal")
    assert (refused.group, refused.incarnation, refused.cause) == ("fast", 2, "exit")
    assert "the toy has no room" in refused.detail
    slow = [event.pid for event in launched.events(WorkerForked) if event.group == "slow"]
    assert len(slow) == 1, "the other worker stays"
    assert choices(launched) == ["form", "restart_workers", "restart_workers"]


def test_a_node_without_room_trains_on_without_snapshots(launch: Any, tmp_path: Path, toy: Any) -> None:
    """What is there when the run starts is checked before it does; this is what is taken away later."""
    launched = launch(toy("full", tmp_path, pools={"fast": (2, 0)}, host_memory_bytes=100e3, steps=8))
    outcome = launched.end()
    assert steps_of(launched) == list(range(1, 9))
    assert outcome.outcome == "failed", "the last step could not be saved"
    agent_log = (launched.attempt().logs / "fast-0-agent.log").read_text()
    assert "host_memory_bytes" in agent_log


def test_a_node_that_cannot_have_room_is_refused_before_the_start(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("small", tmp_path, pools={"fast": (2, 0)}, host_memory_bytes=4096.0))
    _, err = launched.wait()
    assert launched.process.returncode == EXIT_FAILED
    assert "host_memory_bytes" in err
    assert not (launched.folder / "attempts").exists()


def test_a_second_fault_may_come_while_the_first_is_answered(
    launch: Any, tmp_path: Path, toy: Any, state_after: Any
) -> None:  # fmt: skip
    """Workers of both groups die in the same step: the second incarnation is given up before its workers are forked."""
    pools = {"fast": (2, 0), "slow": (2, 0)}
    deaths = tuple(ChaosEvent(at_step=step, action="kill", target=f"{group}/0") for step in (6, 14) for group in pools)
    launched = launch(toy("twice", tmp_path, pools=pools, steps=30, chaos=deaths))
    outcome = launched.end()
    assert (outcome.outcome, outcome.step) == ("completed", 30)
    assert np.array_equal(launched.final_state(30), state_after(30))
    assert not [decide for decide in launched.actions(Decide) if "time limit" in decide.reason.text]


def test_a_zygote_that_cannot_start_is_said_and_ends_the_run(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("barren", tmp_path, pools={"fast": (1, 0)}), TOY_ZYGOTE="raise SystemExit('no torch here')")
    _, err = launched.wait()
    assert launched.process.returncode == EXIT_FAILED
    assert "fast-0" in err
    assert "no torch here" in err, "whoever ends the run has the agent's last words"


def test_slower_devices_are_said_to_be(launch: Any, tmp_path: Path, toy: Any) -> None:
    launched = launch(toy("slower", tmp_path, pools={"fast": (1, 0)}, steps=6, emulate=Emulation(cpu_fraction=0.5)))
    assert launched.end().outcome == "completed"
    said = msgspec.json.decode(launched.attempt().emulation.read_bytes())
    assert said["fast-0"].startswith("50% of one core per device, by ")
    assert len(launched.actions(StartSteps)) == 1


def test_healthy_groups_go_on_without_one_that_was_hit(
    launch: Any, tmp_path: Path, toy: Any, state_after: Any
) -> None:  # fmt: skip
    """A worker dies, then a node whose place a spare takes. The others lose no step and wait for nobody; the group that
    was hit starts beside them and takes their state. The result is that of no kill."""
    recovery = Recovery(start_timeout_s=30.0, heartbeat_timeout_s=0.8, healthy_groups="go_on")
    launched = launch(
        toy(
            "going-on", tmp_path, pools={"fast": (2, 1), "slow": (2, 0), "far": (1, 0)}, steps=120, recovery=recovery,
            chaos=(
                ChaosEvent(at_step=10, action="kill", target="slow/0"),
                ChaosEvent(at_step=60, action="kill", target="fast-1"),
            ),
        ),
        FAKE_STEP_S="0.02",
    )  # fmt: skip
    outcome = launched.end()
    assert (outcome.outcome, outcome.step) == ("completed", 120)
    assert choices(launched) == ["form", "restart_workers", "readmit_group", "replace_node", "readmit_group"]
    decided = launched.actions(Decide)
    assert [set(decision.groups) for decision in decided[1::2]] == [{"fast", "far"}, {"slow", "far"}]
    assert all(decision.from_step == decision.to_step for decision in decided[1:])
    done = [event for event in launched.events(StepCompleted) if event.group == "far"]
    assert [event.step for event in done] == list(range(1, 121)), "no step was done twice"
    assert {event.group for event in launched.events(StepCompleted) if event.incarnation == 4} == {"slow", "far"}
    kept = [(event.group, event.rank) for event in launched.events(WorkerForked) if event.group == "far"]
    assert kept == [("far", 0)], "its process was never started again"
    assert replays(launched)
    assert np.array_equal(launched.final_state(120), state_after(120))
    assert History.from_records(launched.records(), ()).faults.incidents[0].left_out == ("slow",)
