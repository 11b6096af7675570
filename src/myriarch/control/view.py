"""What people and programs are shown of the run: frozen, and JSON as it stands."""

from __future__ import annotations

from myriarch.control.state import IncidentTold, State
from myriarch.event.actions import GroupShare
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, PoolId, Rank


class WorkerView(Value, frozen=True, kw_only=True):
    group: GroupId
    rank: Rank
    node: NodeId
    device_index: int
    state: str
    pid: int | None


class NodeView(Value, frozen=True, kw_only=True):
    node: NodeId
    pool: PoolId
    boot: str
    role: str
    connected: bool
    address: str
    devices: int
    workers: tuple[WorkerView, ...]


class GroupView(Value, frozen=True, kw_only=True):
    group: GroupId
    pool: str
    formed: bool
    """Whether it is part of the present incarnation."""
    devices: int
    devices_full: int
    nodes: tuple[NodeId, ...]
    share: int | None
    """Sequences of each step's batch; None while it does not step."""
    step: int | None
    """The newest step that it completed in the present incarnation."""


class ControlView(Value, frozen=True, kw_only=True):
    """The state of a run."""

    run_id: str
    run: str
    phase: str
    step: int
    """Steps done, as of the present incarnation."""
    steps: int
    """Steps to do."""
    loss: float | None
    """Mean over the valid tokens of the newest step's batch."""
    tokens: int
    """Valid tokens of the newest step's batch."""
    step_s: float | None
    incarnation: int
    groups: tuple[GroupView, ...]
    nodes: tuple[NodeView, ...]
    shares: tuple[GroupShare, ...]
    memory_every_steps: int | None
    disk_every_steps: int | None
    committed_step: int | None
    """Newest snapshot that is safe in memory."""
    durable_step: int | None
    """Newest checkpoint on disk."""
    checkpoint: str
    """Its folder; empty when there is none."""
    restarts: int
    incidents: tuple[IncidentTold, ...]
    warnings: tuple[str, ...]
    stopping: str
    """Why the run is to stop; empty: it is not."""
    outcome: str
    """How it ended; empty while it has not."""
    detail: str


def view_of(state: State) -> ControlView:
    """Everything at once; O(nodes + workers)."""
    run, crew, end = state.resolved.run, state.crew, state.course.end
    committed, newest = state.snapshots.committed, state.drain.newest
    return ControlView(
        run_id=state.run_id,
        run=run.name,
        phase=state.course.phase,
        step=state.progress.current,
        steps=run.steps,
        loss=state.progress.loss,
        tokens=state.progress.tokens,
        step_s=state.progress.step_s,
        incarnation=crew.incarnation,
        groups=_groups(state),
        nodes=_nodes(state),
        shares=crew.shares,
        memory_every_steps=state.pace.memory_every_steps,
        disk_every_steps=state.pace.disk_every_steps,
        committed_step=committed.step if committed is not None else None,
        durable_step=newest.step if newest is not None else None,
        checkpoint=newest.path if newest is not None else "",
        restarts=state.budget.restarts,
        incidents=tuple(state.story.told),
        warnings=tuple(state.story.warnings),
        stopping=state.course.stop_why,
        outcome=end.outcome if end is not None else "",
        detail=end.detail if end is not None else "",
    )


def _groups(state: State) -> tuple[GroupView, ...]:
    shares = {share.group: share.count for share in state.crew.shares}
    views = []
    for group in state.resolved.run.groups:
        name = GroupId(group.name)
        layout = state.crew.layouts.get(name)
        views.append(
            GroupView(
                group=name,
                pool=group.pool,
                formed=layout is not None,
                devices=layout.world_size if layout is not None else 0,
                devices_full=group.mesh.devices,
                nodes=layout.nodes if layout is not None else (),
                share=shares.get(name),
                step=state.progress.of_group.get(name),
            )
        )
    return tuple(views)


def _nodes(state: State) -> tuple[NodeView, ...]:
    views = []
    for node in state.members.nodes.values():
        workers = []
        for group, rank in (*state.crew.on_node.get(node.node, ()), *state.beside.on_node(node.node)):
            worker = state.worker((group, rank))
            if worker is None:
                continue
            workers.append(
                WorkerView(
                    group=group,
                    rank=rank,
                    node=node.node,
                    device_index=worker.device_index,
                    state=worker.state,
                    pid=worker.pid,
                )
            )
        views.append(
            NodeView(
                node=node.node,
                pool=node.pool,
                boot=node.boot,
                role=node.role,
                connected=node.grace_until_s is None,
                address=node.address,
                devices=node.devices,
                workers=tuple(workers),
            )
        )
    return tuple(views)
