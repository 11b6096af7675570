"""What a worker and its agent say to each other over their Unix socket.

One message per frame (`myriarch.wire.frames`), MessagePack. The worker connects, sends `Attach` and then obeys. It
polls the socket between steps and inside the bridge, never inside a collective: a group agrees by its own vote.
"""

from __future__ import annotations

from typing import Literal

from myriarch.event.actions import BridgeEndpoint, GroupShare, WorkerPlan
from myriarch.event.base import Value
from myriarch.event.events import Phase
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.event.spans import Span
from myriarch.spec.run import ResolvedRun


class Message(Value, frozen=True, kw_only=True, tag_field="message", tag=True):
    """Base of both directions."""


# --- worker to agent -------------------------------------------------------------------------------------------------


class Attach(Message, frozen=True, kw_only=True):
    """First frame. The agent answers with `Begin`."""

    token: str
    pid: int
    group: GroupId
    rank: Rank
    incarnation: Incarnation


class SlotRequest(Message, frozen=True, kw_only=True):
    """The worker's state has this layout: make two slots for it, faulted in. The agent answers with `Slots`."""

    payload_bytes: int
    index_bytes: int
    layout_hash: str


class Ready(Message, frozen=True, kw_only=True):
    step: Step
    bridge_host: str
    bridge_port: int
    state_bytes: int
    digest: str
    sequence_s: float | None = None
    snapshot_s: float | None = None
    rate_flops_per_s: float | None = None
    phases: tuple[Phase, ...] = ()


class StepDone(Message, frozen=True, kw_only=True):
    """Rank 0 of each group, after each step: becomes `StepCompleted`."""

    step: Step
    loss_sum: float
    tokens: int
    group_tokens: int
    duration_s: float
    compute_s: float
    grad_norm: float = 0.0
    learning_rate: float = 0.0


class Sealed(Message, frozen=True, kw_only=True):
    """A snapshot is complete in slot `slot`."""

    slot: int
    step: Step
    size_bytes: int
    root: str
    digest: str
    stall_s: float


class Skipped(Message, frozen=True, kw_only=True):
    """A snapshot was due and both slots were busy, or the copy failed."""

    step: Step
    why: str


class Held(Message, frozen=True, kw_only=True):
    step: Step
    finished: bool


class Spans(Message, frozen=True, kw_only=True):
    """Where the worker's time went since the last report."""

    spans: tuple[Span, ...]


class Validated(Message, frozen=True, kw_only=True):
    """Loss on held-out text, sum and tokens."""

    step: Step
    loss_sum: float
    tokens: int


class Failed(Message, frozen=True, kw_only=True):
    """Last words: becomes `WorkerExited`."""

    cause: Literal["user_error", "collective_error"]
    detail: str


# --- agent to worker -------------------------------------------------------------------------------------------------


class Begin(Message, frozen=True, kw_only=True):
    """All that a worker needs to build its group and its state."""

    resolved: ResolvedRun
    plan: WorkerPlan
    run_token: str
    """For the rendezvous store and the bridge."""
    address: str
    """The node's own address: what the worker's bridge listens on."""
    slot_paths: tuple[str, ...]
    """For each shard of the plan's restore, in order: the slot in this node's memory that holds it."""
    beacon_path: str
    beacon_index: int
    node: NodeId = NodeId("")
    """The node's name: the worker's spans are of one of its devices."""


class Slots(Message, frozen=True, kw_only=True):
    """Paths of the worker's own two slots. `committed` is the index of the one not to touch, or -1."""

    paths: tuple[str, str]
    committed: int = -1
    error: str = ""
    """Not empty: there is no memory for them; the worker trains on without snapshots and says so."""


class Go(Message, frozen=True, kw_only=True):
    incarnation: Incarnation
    start_step: Step
    shares: tuple[GroupShare, ...]
    endpoints: tuple[BridgeEndpoint, ...]
    memory_every_steps: int


class Rejoin(Message, frozen=True, kw_only=True):
    """Leave this incarnation: abort the step, take or keep the state as the plan's restore says, answer `Ready`."""

    plan: WorkerPlan
    slot_paths: tuple[str, ...]


class Hold(Message, frozen=True, kw_only=True):
    """Agree with all others on a step to stop after, snapshot it, answer `Held`, then wait for `Rejoin` or the end."""


class SlotFree(Message, frozen=True, kw_only=True):
    """The slot that is not `committed` may be filled again. Sent on commit and on drop."""

    committed: int
    step: Step


FromWorker = Attach | SlotRequest | Ready | StepDone | Sealed | Skipped | Held | Spans | Validated | Failed
FromAgent = Begin | Slots | Go | Rejoin | Hold | SlotFree
