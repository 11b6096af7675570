"""What to do. `control` says it, shells do it and answer with events.

Every action carries its reason, with the numbers it rests on: shells log it, `report` shows it, tests compare it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from myriarch.event.base import Value
from myriarch.event.events import HeldShard
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.spec.run import Mesh

Number = int | float | str


class Reason(Value, frozen=True, kw_only=True):
    """Why, in one sentence, and the numbers it rests on."""

    text: str
    numbers: dict[str, Number] = msgspec.field(default_factory=dict)


class Action(Value, frozen=True, kw_only=True, tag_field="action", tag=True):
    """Something to do."""

    reason: Reason


class ShardSource(Value, frozen=True, kw_only=True):
    """Where one shard of a snapshot is to be taken from."""

    node: NodeId
    shard: HeldShard


class Fresh(Value, frozen=True, kw_only=True, tag_field="from", tag="fresh"):
    """Start from initial weights, which are a pure function of the run's seed."""


class FromMemory(Value, frozen=True, kw_only=True, tag_field="from", tag="memory"):
    """Take the state from the memory tier.

    `shards` are complete for this worker: its own shard alone where the layout is the same, else all shards of one
    group's copy, from which DCP reshards.
    """

    step: Step
    shards: tuple[ShardSource, ...]
    same_layout: bool


class FromDisk(Value, frozen=True, kw_only=True, tag_field="from", tag="disk"):
    """Take the state from a durable checkpoint."""

    step: Step
    path: str


class Keep(Value, frozen=True, kw_only=True, tag_field="from", tag="keep"):
    """Go on from the state that the worker has, as it is; it says with `Ready` of which step that is.

    Only for workers that rejoin: their group is whole, and nobody doubts what it computed.
    """


Restore = Fresh | FromMemory | FromDisk | Keep


class WorkerPlan(Value, frozen=True, kw_only=True):
    """One worker of an incarnation."""

    group: GroupId
    rank: Rank
    world_size: int
    mesh: Mesh
    device_index: int
    incarnation: Incarnation
    store_node: NodeId
    """Whose agent hosts the group's rendezvous store."""
    store_address: str
    store_port: int
    copy_nodes: tuple[NodeId, ...]
    """Where the agent sends copies of this worker's snapshots."""
    restore: Restore
    calibrate: bool = False
    """Measure the group's speed before the first step."""


class PeerAddress(Value, frozen=True, kw_only=True):
    """A node's byte server."""

    node: NodeId
    address: str
    port: int


class BridgeEndpoint(Value, frozen=True, kw_only=True):
    """Where a worker's end of the bridge listens."""

    group: GroupId
    rank: Rank
    host: str
    port: int


class GroupShare(Value, frozen=True, kw_only=True):
    """A group's part of every step's batch: sequences `[first, first + count)`."""

    group: GroupId
    world_size: int
    first: int
    count: int


class LaunchWorkers(Action, frozen=True, kw_only=True):
    """Fetch what the plans' restores need, fork these workers, let them attach."""

    node: NodeId
    workers: tuple[WorkerPlan, ...]
    peers: tuple[PeerAddress, ...]


class RejoinWorkers(Action, frozen=True, kw_only=True):
    """Workers that are alive and whose group is whole: same process, new incarnation, state as the plan says."""

    node: NodeId
    workers: tuple[WorkerPlan, ...]
    peers: tuple[PeerAddress, ...]


class StopWorkers(Action, frozen=True, kw_only=True):
    """End these workers at once. They belong to an older incarnation than the next launch."""

    node: NodeId
    workers: tuple[tuple[GroupId, Rank], ...]


class StartSteps(Action, frozen=True, kw_only=True):
    """All workers of the incarnation are ready: step from `start_step`."""

    incarnation: Incarnation
    start_step: Step
    nodes: tuple[NodeId, ...]
    shares: tuple[GroupShare, ...]
    """In the bridge's order of summation."""
    endpoints: tuple[BridgeEndpoint, ...]
    memory_every_steps: int
    disk_every_steps: int


class HoldWorkers(Action, frozen=True, kw_only=True):
    """Ask all workers to stop together after some step, with a snapshot of it. They agree on it over the bridge."""

    incarnation: Incarnation
    nodes: tuple[NodeId, ...]


class CommitSnapshot(Action, frozen=True, kw_only=True):
    """Every shard of this step is sealed and safe: it may replace the one before."""

    step: Step
    incarnation: Incarnation
    nodes: tuple[NodeId, ...]


class DropSnapshot(Action, frozen=True, kw_only=True):
    """This snapshot will never be committed: free its slots."""

    step: Step
    incarnation: Incarnation
    nodes: tuple[NodeId, ...]


class DrainShards(Action, frozen=True, kw_only=True):
    """Write these shards, which lie in this node's memory, to the disk tier; keep their slots until it is done."""

    node: NodeId
    step: Step
    incarnation: Incarnation
    shards: tuple[tuple[GroupId, Rank], ...]
    path: str
    """The folder that is being filled; it becomes the checkpoint when `FinishDrain` renames it."""


class FinishDrain(Action, frozen=True, kw_only=True):
    """All shards are written: write the metadata, sync, rename, delete checkpoints that are no longer kept."""

    node: NodeId
    step: Step
    incarnation: Incarnation
    path: str
    final_path: str
    delete_paths: tuple[str, ...]


class FenceNode(Action, frozen=True, kw_only=True):
    """This node was given up while it may still live: it ends its workers, forgets its memory and may join anew."""

    node: NodeId
    boot: str


class EndRun(Action, frozen=True, kw_only=True):
    """The run is over: agents end their workers and themselves."""

    outcome: Literal["completed", "degraded", "interrupted", "failed", "user_error"]
    step: Step
    detail: str = ""
    checkpoint: str = ""


class Decide(Action, frozen=True, kw_only=True):
    """A decision about an incident, for the journal and for people. The actions that carry it out follow it."""

    incident: int
    """Counts incidents from 1; several decisions may belong to one."""
    choice: Literal[
        "form", "restart_workers", "replace_node", "shrink_group", "wait_for_group", "degrade", "readmit_group",
        "rebalance",
        "stop_user_error", "give_up", "restart_controller",
    ]  # fmt: skip
    lost_nodes: tuple[NodeId, ...] = ()
    lost_workers: tuple[tuple[GroupId, Rank], ...] = ()
    groups: tuple[GroupId, ...] = ()
    """Groups that are in the next incarnation."""
    incarnation: Incarnation
    """The one that this decision starts, or the present one."""
    from_step: Step | None = None
    """Newest step that was completed before."""
    to_step: Step | None = None
    """Step that the run goes on from."""


class LogMembership(Action, frozen=True, kw_only=True):
    """A node's role changed: what the ledger needs to know about devices without work."""

    node: NodeId
    pool: PoolId
    role: Literal["active", "spare", "lost", "fenced", "waiting"]


class Warn(Action, frozen=True, kw_only=True):
    """Nothing to carry out: something was lost or given up that does not stop the run, and people should hear of it."""


AnyAction = (
    LaunchWorkers | RejoinWorkers | StopWorkers | StartSteps | HoldWorkers
    | CommitSnapshot | DropSnapshot | DrainShards | FinishDrain
    | FenceNode | EndRun | Decide | LogMembership | Warn
)  # fmt: skip
"""What a journal's action lines decode to."""
