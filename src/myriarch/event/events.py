"""What happened. Shells observe, `control` decides, the journal keeps.

An event says what was seen, by whom, and never what to do about it. Events are what a recorded run can be replayed
from, so nothing that a decision rests on may be missing from them.
"""

from __future__ import annotations

from typing import Literal

from myriarch.event.base import Value
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.spans import Leaf
from myriarch.spec.run import ResolvedRun

Role = Literal["own", "copy"]
"""A shard's own slot on the node whose worker wrote it, or a copy in another node's memory."""


class Event(Value, frozen=True, kw_only=True, tag_field="event", tag=True):
    """Something that happened."""


class HeldShard(Value, frozen=True, kw_only=True):
    """An intact shard of a snapshot in a node's memory tier."""

    group: GroupId
    rank: Rank
    world_size: int
    step: Step
    incarnation: Incarnation
    role: Role
    size_bytes: int
    root: str
    """Hex xxh3-128 over the block hashes: equal roots mean equal bytes."""
    committed: bool = False


class RunningWorker(Value, frozen=True, kw_only=True):
    """A worker that is alive on a node."""

    group: GroupId
    rank: Rank
    incarnation: Incarnation
    pid: int


class Phase(Value, frozen=True, kw_only=True):
    """One part of a worker's way from its fork to its readiness."""

    leaf: Leaf
    start_ns: int
    end_ns: int


class WorkerBeat(Value, frozen=True, kw_only=True):
    """What a worker's progress beacon in shared memory says, read by its agent without touching the worker."""

    group: GroupId
    rank: Rank
    incarnation: Incarnation
    step: Step
    phase: str
    """`start`, `compute`, `collective`, `bridge`, `snapshot`, `optimizer`, `wait`, `done`."""
    ticks: int
    """Counts phase changes: equal ticks mean no progress."""
    stopped: bool = False
    """The kernel says that the process is stopped (state T)."""


# --- the run ---------------------------------------------------------------------------------------------------------


class RunStarted(Event, frozen=True, kw_only=True):
    """First event of every journal."""

    run_id: str
    resolved: ResolvedRun
    resume_step: Step | None = None
    resume_path: str = ""
    """A durable checkpoint to start from, readable by every node."""
    resume_digest: str = ""


class StopRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the run to end after a last snapshot."""

    why: str


class FaultInjected(Event, frozen=True, kw_only=True):
    """A fault was inflicted on purpose. It is a note for the account: no decision may rest on it."""

    action: Literal["kill", "stop", "slow", "resume"]
    target: str
    nodes: tuple[NodeId, ...]
    """Nodes that it hits."""
    detail: str = ""


class Tick(Event, frozen=True, kw_only=True):
    """The instant that the machine asked to be woken at (`deadline_s`) has come."""


# --- nodes -----------------------------------------------------------------------------------------------------------


class NodeJoined(Event, frozen=True, kw_only=True):
    """A node's agent connected, for the first time or again. It says what it holds: nothing is restarted in vain."""

    node: NodeId
    pool: PoolId
    boot: str
    """Random per agent process: the same boot means the same agent, with its memory and workers."""
    address: str
    port: int
    """Where its byte server listens."""
    devices: int
    fault_domain: str
    workers: tuple[RunningWorker, ...] = ()
    shards: tuple[HeldShard, ...] = ()
    warm: bool = False
    """Workers can be forked at once. If not, a fork waits until the node's zygote has imported torch: `NodeWarmed`."""


class NodeWarmed(Event, frozen=True, kw_only=True):
    """A node that joined cold has torch imported: from now on its workers are forked at once."""

    node: NodeId
    boot: str


class NodeDisconnected(Event, frozen=True, kw_only=True):
    """A node's control connection closed. It may come back: see `Recovery.reconnect_grace_s`."""

    node: NodeId
    boot: str
    detail: str = ""


class NodeExited(Event, frozen=True, kw_only=True):
    """The engine says that the node's agent is gone for good."""

    node: NodeId
    boot: str
    detail: str = ""
    """`killed by SIGKILL`, `exit code 1`, ..."""


class NodeSilent(Event, frozen=True, kw_only=True):
    """The failure detector's finding: a node's connection is open and nothing comes over it."""

    node: NodeId
    boot: str
    silent_s: float


class WorkerStalled(Event, frozen=True, kw_only=True):
    """The failure detector's finding: a worker neither progresses nor waits for another."""

    node: NodeId
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    step: Step
    phase: str
    stalled_s: float
    stopped: bool
    """The kernel says that its process is stopped."""


class Heartbeat(Value, frozen=True, kw_only=True):
    """A node is alive, and this far are its workers.

    An observation, not an event: it feeds `recover`'s failure detector and is not journalled. What the detector
    concludes (`NodeSilent`, `WorkerStalled`) is.
    """

    node: NodeId
    boot: str
    workers: tuple[WorkerBeat, ...] = ()


# --- workers ---------------------------------------------------------------------------------------------------------


class WorkerForked(Event, frozen=True, kw_only=True):
    node: NodeId
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    pid: int


class WorkerReady(Event, frozen=True, kw_only=True):
    """A worker has its model, its group and its state, and waits for the go."""

    node: NodeId
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    step: Step
    """The step that its state is of."""
    bridge_host: str
    bridge_port: int
    state_bytes: int
    digest: str
    """Hex of the restored state's shard digest: additive over a group's shards, mod 2**64. Empty where it is kept: the
    snapshot before had it, and the next one has it again before anything is saved."""
    sequence_s: float | None = None
    """Measured: seconds of the whole group per sequence of the batch. Only where the plan asked to calibrate."""
    snapshot_s: float | None = None
    """Measured: seconds that one snapshot stops the worker. Only where the plan asked to calibrate."""
    rate_flops_per_s: float | None = None
    """Measured: best matmul rate of the device as it is now, quota included. Only where the plan asked to calibrate."""
    phases: tuple[Phase, ...] = ()


class WorkerExited(Event, frozen=True, kw_only=True):
    """A worker is gone, or about to be."""

    node: NodeId
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    cause: Literal["signal", "exit", "user_error", "collective_error", "finished"]
    """`user_error`: the script raised. `collective_error`: a collective or the bridge failed under it, most likely
    because somebody else died. `signal`, `exit`: the process ended without a word."""
    code: int = 0
    """Signal number or exit code."""
    detail: str = ""
    """The traceback, or what is known."""


class StepCompleted(Event, frozen=True, kw_only=True):
    """A group completed the step that made the state `step` old. Sent by the group's rank 0."""

    group: GroupId
    incarnation: Incarnation
    step: Step
    loss_sum: float
    """Summed over all valid tokens of the whole batch, all groups: equal in every group."""
    tokens: int
    """Valid tokens of the whole batch."""
    group_tokens: int
    duration_s: float
    compute_s: float
    """Of it, the group's own forward and backward: what speed is measured by."""
    grad_norm: float = 0.0
    learning_rate: float = 0.0


class WorkerHeld(Event, frozen=True, kw_only=True):
    """A worker stopped between steps, after a snapshot: it was asked to, or the run's last step is done."""

    node: NodeId
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    step: Step
    finished: bool


# --- snapshots -------------------------------------------------------------------------------------------------------


class ShardSealed(Event, frozen=True, kw_only=True):
    """A worker's part of a snapshot is complete in its node's memory."""

    node: NodeId
    shard: HeldShard
    digest: str
    """As in `WorkerReady`: groups compare the sums of their shards' digests."""
    stall_s: float


class ShardReplicated(Event, frozen=True, kw_only=True):
    """A copy of a sealed shard is complete and verified in another node's memory."""

    node: NodeId
    """Where the copy is."""
    shard: HeldShard


class SnapshotSkipped(Event, frozen=True, kw_only=True):
    """A worker could not take its part of a snapshot, or a copy of it could not be made."""

    node: NodeId
    group: GroupId
    rank: Rank
    incarnation: Incarnation
    step: Step
    why: str


class ShardFetched(Event, frozen=True, kw_only=True):
    """A node got a shard that a restore needs from another node, verified."""

    node: NodeId
    shard: HeldShard
    source: NodeId
    duration_s: float


class FetchFailed(Event, frozen=True, kw_only=True):
    node: NodeId
    incarnation: Incarnation
    group: GroupId
    rank: Rank
    step: Step
    source: NodeId
    why: str


class ShardDrained(Event, frozen=True, kw_only=True):
    """A node wrote its shards of a snapshot to the disk tier."""

    node: NodeId
    step: Step
    incarnation: Incarnation
    shards: tuple[tuple[GroupId, Rank], ...]
    size_bytes: int
    duration_s: float


class SnapshotDrained(Event, frozen=True, kw_only=True):
    """A whole snapshot is durable: synced, renamed into place, loadable by plain DCP."""

    step: Step
    incarnation: Incarnation
    path: str


class DrainFailed(Event, frozen=True, kw_only=True):
    node: NodeId
    step: Step
    incarnation: Incarnation
    why: str


AnyEvent = (
    RunStarted | StopRequested | FaultInjected | Tick
    | NodeJoined | NodeWarmed | NodeDisconnected | NodeExited | NodeSilent | WorkerStalled
    | WorkerForked | WorkerReady | WorkerExited | StepCompleted | WorkerHeld
    | ShardSealed | ShardReplicated | SnapshotSkipped | ShardFetched | FetchFailed
    | ShardDrained | SnapshotDrained | DrainFailed
)  # fmt: skip
"""What a journal's event lines decode to."""
