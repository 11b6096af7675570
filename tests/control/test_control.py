"""`Control` from outside: its contract with shells. What it decides is in `scenarios/`."""

from __future__ import annotations

import msgspec
import pytest

from myriarch.control import Control, ControlView
from myriarch.event.actions import EndRun, LaunchWorkers
from myriarch.event.events import NodeJoined, RunStarted, StopRequested, Tick
from myriarch.event.ids import NodeId, PoolId
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Group, Mesh, Recovery, ResolvedRun, Run

RESOLVED = ResolvedRun(
    run=Run(
        name="r",
        fleet="f",
        model="m",
        steps=10,
        batch=Batch(sequences=4),
        groups=(Group(name="g", pool="p", nodes=1, mesh=Mesh()),),
        recovery=Recovery(start_timeout_s=7.0),
    ),
    fleet=Fleet(name="f", pools=(Pool(name="p", chip=Chip(id="c"), nodes=1),)),
    model=Model(name="m", layers=1, width=8, heads=1, context_tokens=8),
)
START = RunStarted(run_id="id", resolved=RESOLVED)
JOIN = NodeJoined(
    node=NodeId("p-0"), pool=PoolId("p"), boot="a", address="127.0.0.2", port=1, devices=1, fault_domain="d"
)


def started() -> Control:
    control = Control()
    assert control.step(START, now_s=100.0) == ()
    return control


def test_constructing_does_nothing_and_nothing_is_asked_before_the_start() -> None:
    control = Control()
    assert control.deadline_s is None
    assert not control.ended
    control.check()
    with pytest.raises(AssertionError, match="RunStarted"):
        control.view()


def test_it_asks_to_be_woken_and_a_tick_before_that_changes_nothing() -> None:
    control = started()
    assert control.deadline_s == 107.0
    digest = control.digest()
    assert control.step(Tick(), now_s=103.0) == ()
    assert control.digest() == digest
    (end,) = control.step(Tick(), now_s=107.0)
    assert isinstance(end, EndRun)
    assert end.outcome == "failed"
    assert "p-0" in end.detail, "it names who is missing"
    assert control.ended


def test_after_the_end_nothing_is_answered() -> None:
    control = started()
    control.step(StopRequested(why="Ctrl-C"), now_s=101.0)
    assert control.ended
    digest = control.digest()
    assert control.step(JOIN, now_s=102.0) == ()
    assert control.step(StopRequested(why="again"), now_s=103.0) == ()
    assert control.digest() == digest


def test_every_action_has_a_reason_with_text() -> None:
    control = started()
    actions = control.step(JOIN, now_s=101.0)
    assert any(isinstance(action, LaunchWorkers) for action in actions)
    assert all(action.reason.text for action in actions)


def test_the_view_is_json() -> None:
    control = started()
    control.step(JOIN, now_s=101.0)
    view = control.view()
    assert msgspec.json.decode(msgspec.json.encode(view), type=ControlView) == view
    (worker,) = view.nodes[0].workers
    assert (view.phase, worker.node, worker.state) == ("forming", "p-0", "launched")


def test_a_node_that_is_not_in_the_fleet_file_is_not_used() -> None:
    control = started()
    stranger = msgspec.structs.replace(JOIN, node=NodeId("q-0"), pool=PoolId("q"))
    actions = control.step(stranger, now_s=101.0)
    assert "not what the fleet file says" in actions[0].reason.text
    assert control.view().phase == "waiting"
    control.check()


def test_the_digest_tells_histories_apart() -> None:
    one, other = started(), started()
    assert one.digest() == other.digest()
    one.step(JOIN, now_s=101.0)
    assert one.digest() != other.digest()
    other.step(JOIN, now_s=101.5)
    assert one.digest() != other.digest(), "time is part of it: deadlines hang on it"
