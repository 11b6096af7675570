"""What agents and the controller say to each other: MessagePack, one message per WebSocket frame.

Nothing is lost and nothing is done twice, whoever dies and comes back:

- Agent to controller: `Report`s are numbered by the agent and kept until the controller, having journalled them, says
  `Taken`. After a reconnect, those not taken are sent again. A controller that was restarted in between recognises in
  its journal the events that it had journalled without having said so.
- Controller to agent: an action's number is its record's in the journal, so it outlives the controller. `Hello` says
  the last one that this agent process was given; those after it are sent again.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from myriarch.event.actions import AnyAction
from myriarch.event.base import Value
from myriarch.event.events import AnyEvent, Heartbeat, NodeJoined
from myriarch.event.ids import GroupId, NodeId, Rank, Step
from myriarch.event.spans import Span

MESSAGE_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A larger WebSocket message is refused by either side."""
REPORTS_KEPT: Final = 50_000
"""Reports that an agent keeps for a controller that is away: hours of steps. Then the oldest are dropped, loudly."""
REPORTS_PER_BATCH: Final = 1024
"""A report is an event, or the spans of a step or two: a kilobyte."""


class Message(Value, frozen=True, kw_only=True, tag_field="message", tag=True):
    """Base of both directions."""


# --- agent to controller ---------------------------------------------------------------------------------------------


class Validation(Value, frozen=True, kw_only=True):
    """Loss on held-out text."""

    group: GroupId
    step: Step
    loss_sum: float
    tokens: int


class Report(Value, frozen=True, kw_only=True):
    """One thing that an agent saw: exactly one of the three is there."""

    seq: int
    """Counts an agent process's reports from 1."""
    event: AnyEvent | None = None
    spans: tuple[Span, ...] = ()
    validation: Validation | None = None


class Hello(Message, frozen=True, kw_only=True):
    """First message of a connection, with the first reports that the controller has not taken; `Reports` follow."""

    run_id: str
    joined: NodeJoined
    done_seq: int
    """Journal number of the last action that this agent process was given; 0: none."""
    reports: tuple[Report, ...] = ()
    emulation: str = ""
    """How the node's devices are made slower, for people; empty: they are not."""


class Reports(Message, frozen=True, kw_only=True):
    reports: tuple[Report, ...]


class Beat(Message, frozen=True, kw_only=True):
    heartbeat: Heartbeat
    done_seq: int


class Inflicted(Message, frozen=True, kw_only=True):
    """The answer to `Inflict`, where the agent lives to give it."""

    id: int
    error: str = ""


# --- controller to agent ---------------------------------------------------------------------------------------------


class Do(Message, frozen=True, kw_only=True):
    """Carry this out."""

    seq: int
    action: AnyAction


class Taken(Message, frozen=True, kw_only=True):
    """Reports up to `seq` are in the journal and the ledger."""

    seq: int


class Inflict(Message, frozen=True, kw_only=True):
    """A fault on purpose, on the whole node or on one of its workers."""

    id: int
    action: Literal["kill", "stop", "slow", "resume"]
    worker: tuple[GroupId, Rank] | None = None
    factor: float | None = None


FromAgent = Hello | Reports | Beat | Inflicted
FromController = Do | Taken | Inflict

# --- controller to the launcher --------------------------------------------------------------------------------------


class Resume(Message, frozen=True, kw_only=True):
    """For the engine: a stopped node cannot continue itself."""

    node: NodeId


_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: FromAgent | FromController) -> bytes:
    """One frame."""
    return _encoder.encode(message)


from_agent: Final = msgspec.msgpack.Decoder(FromAgent)
from_controller: Final = msgspec.msgpack.Decoder(FromController)
