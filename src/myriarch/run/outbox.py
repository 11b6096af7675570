"""What the controller still has to tell each node.

An action stays here until the node's agent says that it was given it. A node's new agent process (another boot) starts
with an empty box: what was meant for the old one died with it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    Decide,
    DropSnapshot,
    EndRun,
    HoldWorkers,
    LogMembership,
    StartSteps,
    Warn,
)
from myriarch.event.ids import NodeId
from myriarch.run.messages import Do, FromController

PENDING_LIMIT: Final = 100_000
"""Actions kept for a node that is away. Then the oldest go: a node that long away is lost and comes as a new boot."""


class Connection(Protocol):
    """One agent's open connection."""

    def send(self, message: FromController) -> None:
        """Queue a message; never blocks, never fails. A peer too slow to read is disconnected."""

    def close(self, why: str) -> None:
        """Disconnect."""


class Outbox:
    """One node's. `pending` holds numbers in rising order; all of them are above what the agent said it was given."""

    def __init__(self) -> None:
        self.boot = ""
        self.pending: deque[Do] = deque(maxlen=PENDING_LIMIT)
        self.connection: Connection | None = None

    def joined(self, boot: str) -> None:
        """The node's agent process is `boot` now."""
        if boot != self.boot:
            self.boot = boot
            self.pending.clear()

    def put(self, do: Do) -> None:
        """Send now if the node is connected, and again after a reconnect if need be."""
        self.pending.append(do)
        if self.connection is not None:
            self.connection.send(do)

    def done(self, seq: int) -> None:
        """The agent was given everything up to `seq`."""
        while self.pending and self.pending[0].seq <= seq:
            self.pending.popleft()

    def connect(self, connection: Connection) -> None:
        """Use this connection, and send over it what is pending. An older one is closed: it is the same agent's."""
        if self.connection is not None:
            self.connection.close("the node has connected anew")
        self.connection = connection
        for do in self.pending:
            connection.send(do)


def recipients(action: AnyAction, everybody: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    """The nodes whose agents carry an action out. Decisions and membership are for the journal alone."""
    match action:
        case Decide() | LogMembership() | Warn():
            return ()
        case StartSteps() | HoldWorkers() | CommitSnapshot() | DropSnapshot():
            return action.nodes
        case EndRun():
            return everybody
        case _:
            return (action.node,)
