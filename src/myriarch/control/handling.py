"""What each event changes. What follows from the changes is in `advancing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from myriarch.control import saving
from myriarch.control.advancing import hold_limit_s
from myriarch.control.losses import lose_node, lose_worker
from myriarch.control.saving import saved
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, FenceNode, Reason
from myriarch.event.events import (
    DrainFailed,
    FetchFailed,
    NodeDisconnected,
    NodeExited,
    NodeJoined,
    NodeSilent,
    NodeWarmed,
    ShardDrained,
    ShardFetched,
    ShardReplicated,
    ShardSealed,
    SnapshotDrained,
    SnapshotSkipped,
    StepCompleted,
    StopRequested,
    WorkerExited,
    WorkerForked,
    WorkerHeld,
    WorkerReady,
    WorkerStalled,
)
from myriarch.event.ids import GroupId

Handler = Callable[[State, Any, float], Iterator[AnyAction]]

# --- nodes -----------------------------------------------------------------------------------------------------------


def _joined(state: State, event: NodeJoined, now_s: float) -> Iterator[AnyAction]:
    members = state.members
    if members.fenced.get(event.node) == event.boot:
        text = f"{event.node} was given up and its place may be taken; it has to join as a new boot"
        yield FenceNode(node=event.node, boot=event.boot, reason=Reason(text=text, numbers={}))
        return
    known = members.nodes.get(event.node)
    if known is not None and known.boot == event.boot:
        yield from _rejoined(state, event, now_s)
        return
    if known is not None:
        yield from lose_node(state, event.node, "another agent took its name", fence=False, now_s=now_s)
    members.join(event)
    node = members.nodes[event.node]
    needed = {pool.name: pool.devices_per_node for pool in state.resolved.fleet.pools}.get(event.pool)
    if needed is None or event.devices < needed:
        text = f"{event.node} of pool {event.pool} with {event.devices} devices is not what the fleet file says"
        yield state.story.warn(text, devices=event.devices)
    elif state.course.phase != "waiting":
        node.role = "spare"
    yield members.log(node, f"it joined with {event.devices} devices")


def _rejoined(state: State, event: NodeJoined, now_s: float) -> Iterator[AnyAction]:
    """The same agent process again: what it has is still there. What it lost meanwhile is noticed."""
    state.members.rejoin(event)
    alive = {(worker.group, worker.rank) for worker in event.workers}
    for key in (*state.crew.on_node.get(event.node, ()), *state.beside.on_node(event.node)):
        worker = state.worker(key)
        if worker is not None and worker.pid is not None and key not in alive and state.course.phase != "finishing":
            _suspect(state, key, f"it was gone when {event.node} came back", now_s)
    actions = state.snapshots.rejoin(event.node, event.shards, now_s=now_s)
    yield from saved(state, actions, now_s=now_s)


def _disconnected(state: State, event: NodeDisconnected, now_s: float) -> Iterator[AnyAction]:
    node = state.members.nodes.get(event.node)
    if node is not None and node.boot == event.boot and node.grace_until_s is None:
        state.members.disconnect(event.node, until_s=now_s + state.recovery.reconnect_grace_s)
    yield from ()


def _warmed(state: State, event: NodeWarmed, now_s: float) -> Iterator[AnyAction]:
    state.members.warmed(event)
    yield from ()


def _exited(state: State, event: NodeExited, now_s: float) -> Iterator[AnyAction]:
    node = state.members.nodes.get(event.node)
    if node is not None and node.boot == event.boot:
        how = f"its agent is gone: {event.detail}" if event.detail else "its agent is gone"
        yield from lose_node(state, event.node, how, fence=False, now_s=now_s)
    elif state.members.fenced.get(event.node) == event.boot:
        del state.members.fenced[event.node]
    if state.course.phase == "waiting":
        yield from _exited_early(state, event)


def _exited_early(state: State, event: NodeExited) -> Iterator[AnyAction]:
    """An agent ended before there was work for it, most likely before it ever joined. Its node is not waited for."""
    members = state.members
    ours = any(event.node in pool.node_names for pool in state.resolved.fleet.pools)
    if not ours or event.node in members.nodes or event.node in members.exited:
        return
    members.exited[event.node] = event.detail or "its agent is gone"
    yield state.story.warn(f"{event.node} ended before it had work: {members.exited[event.node]}")


def _silent(state: State, event: NodeSilent, now_s: float) -> Iterator[AnyAction]:
    node = state.members.nodes.get(event.node)
    if node is not None and node.boot == event.boot:
        yield from lose_node(state, event.node, f"silent for {event.silent_s:.3f} s", fence=True, now_s=now_s)


# --- workers ---------------------------------------------------------------------------------------------------------


def _is_present(state: State, event: WorkerForked | WorkerReady | WorkerExited | WorkerHeld | WorkerStalled) -> bool:
    """Whether a worker's event is of the present incarnation. Others are fenced: their state is nobody's any more."""
    worker = state.crew.workers.get((event.group, event.rank))
    return worker is not None and event.incarnation == state.crew.incarnation and event.node == worker.node


def _starts_beside(state: State, event: WorkerForked | WorkerReady) -> bool:
    """Whether a worker's event is of a group that starts beside the others."""
    worker = state.beside.find((event.group, event.rank))
    return worker is not None and event.incarnation == worker.since and event.node == worker.node


def _is_new(state: State, group: GroupId) -> bool:
    """Whether a group is on its way to others that have stepped: what its script raises then, it does not in theirs."""
    forming = state.course.phase == "forming" and state.crew.keeps and group not in state.crew.keeps
    return group in state.beside.starts or bool(forming)


def _forked(state: State, event: WorkerForked, now_s: float) -> Iterator[AnyAction]:
    if _is_present(state, event):
        state.crew.forked((event.group, event.rank), event.pid)
    elif _starts_beside(state, event):
        state.beside.forked((event.group, event.rank), event.pid)
    yield from ()


def _ready(state: State, event: WorkerReady, now_s: float) -> Iterator[AnyAction]:
    if _starts_beside(state, event):
        state.beside.ready(event)
        state.pace.measured(event, devices=state.beside.starts[event.group].layout.world_size)
        return
    if not _is_present(state, event):
        return
    if event.step != state.crew.step and event.group not in state.crew.keeps:
        what = f"worker {event.group}/{event.rank} restored step {event.step} instead of {state.crew.step}"
        state.fail(what, now_s=now_s)
        return
    state.crew.ready(event)
    state.pace.measured(event, devices=state.crew.layouts[event.group].world_size)
    yield from ()


def _worker_exited(state: State, event: WorkerExited, now_s: float) -> Iterator[AnyAction]:
    key = (event.group, event.rank)
    worker = state.worker(key)
    # Of a process that the present incarnation kept, its end in an earlier one is news: it may have died at the very
    # moment when others were lost, and nobody would be ready for whom all wait.
    if worker is None or event.node != worker.node or not worker.since <= event.incarnation <= state.crew.incarnation:
        return
    if state.course.phase == "finishing":
        state.lose(key, dead=True)
    elif event.cause == "user_error" and _is_new(state, event.group):
        last = event.detail.strip().rpartition("\n")[2]
        lose_worker(
            state, key, f"its script, which the others run, raised as it started: {last}", dead=False, now_s=now_s
        )
    elif event.cause == "user_error":
        _suspect(state, key, event.detail, now_s, by_script=True)
    elif event.cause == "collective_error":
        _suspect(state, key, event.detail, now_s)
    else:
        how = f"signal {event.code}" if event.cause == "signal" else f"exit code {event.code}"
        lose_worker(state, key, event.detail or how, dead=True, now_s=now_s)
    yield from ()


def _suspect(state: State, key: tuple[Any, Any], detail: str, now_s: float, *, by_script: bool = False) -> None:
    """A worker is gone, most likely because somebody else is. What it says later about its end is believed instead."""
    incident = state.incident
    new = state.lose(key, dead=False)
    if not new and (incident is None or key not in incident.symptoms):
        return
    incident = state.found(now_s)
    incident.symptoms.pop(key, None)
    (incident.user_errors if by_script else incident.symptoms)[key] = detail


def _stalled(state: State, event: WorkerStalled, now_s: float) -> Iterator[AnyAction]:
    key = (event.group, event.rank)
    if _is_present(state, event) and state.course.phase != "finishing":
        how = "its process is stopped" if event.stopped else f"it hangs in `{event.phase}`"
        lose_worker(state, key, f"{how} for {event.stalled_s:.3f} s", dead=False, now_s=now_s)
    yield from ()


def _step_completed(state: State, event: StepCompleted, now_s: float) -> Iterator[AnyAction]:
    if event.incarnation == state.crew.incarnation and event.group in state.crew.layouts:
        state.progress.completed(event)
        state.drift.completed(event)
        yield from saved(state, state.snapshots.passed(event.step), now_s=now_s)


def _held(state: State, event: WorkerHeld, now_s: float) -> Iterator[AnyAction]:
    if _is_present(state, event):
        state.crew.hold(event)
        if state.course.phase == "running" and state.course.limit_s is None:
            state.course.limit_s = hold_limit_s(state, now_s)
    yield from ()


# --- the run ---------------------------------------------------------------------------------------------------------


def _stop(state: State, event: StopRequested, now_s: float) -> Iterator[AnyAction]:
    state.course.stop_why = state.course.stop_why or event.why or "a stop was requested"
    yield from ()


HANDLERS: Final[dict[type, Handler]] = {
    StopRequested: _stop,
    NodeJoined: _joined,
    NodeDisconnected: _disconnected,
    NodeExited: _exited,
    NodeSilent: _silent,
    NodeWarmed: _warmed,
    WorkerForked: _forked,
    WorkerReady: _ready,
    WorkerExited: _worker_exited,
    WorkerStalled: _stalled,
    StepCompleted: _step_completed,
    WorkerHeld: _held,
    ShardSealed: saving.on_sealed,
    ShardReplicated: saving.on_replicated,
    SnapshotSkipped: saving.on_skipped,
    ShardFetched: saving.on_fetched,
    FetchFailed: saving.on_fetch_failed,
    ShardDrained: saving.on_drained,
    SnapshotDrained: saving.on_snapshot_drained,
    DrainFailed: saving.on_drain_failed,
}
"""Events that are not here change nothing: `Tick` lets time pass, `FaultInjected` is a note."""
