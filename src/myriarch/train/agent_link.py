"""The worker's side of its agent's socket: what was said, kept until somebody asks."""

from __future__ import annotations

import os
from collections import deque
from typing import Final, Protocol, TypeVar

from myriarch.errors import WireError
from myriarch.event.actions import GroupShare
from myriarch.event.ids import GroupId, Incarnation, Step
from myriarch.wire.frames import Channel
from myriarch.wire.worker import Begin, FromAgent, FromWorker, Go, Hold, Ready, Rejoin, SlotFree, SlotRequest, Slots

AGENT_ANSWER_LIMIT_S: Final = 60.0
"""For an answer that the agent can give by itself."""
AGENT_WORD_LIMIT_S: Final = 24 * 3600.0
"""For a word that depends on the whole fleet, such as `Go`. The agent's own end is noticed at once."""

Answer = TypeVar("Answer", Begin, Slots)


class AgentGone(Exception):
    """The agent closed the socket: this worker has nobody to work for."""


class Link(Protocol):
    """What a session needs of its agent."""

    def send(self, message: FromWorker) -> None:
        """Raises AgentGone."""

    def ask_slots(self, request: SlotRequest) -> Slots:
        """Two slots for this layout."""
        ...

    def next_word(self) -> Go | Rejoin:
        """The next `Go` or `Rejoin`, waiting for it. Raises AgentGone; WireError if the agent is there and mute."""
        ...

    def take_hold(self) -> bool:
        """Whether the agent asked for a hold in this incarnation."""
        ...

    def fileno(self) -> int:
        """What to poll besides other waits."""
        ...

    def pump(self) -> bool:
        """Take in what has arrived, without waiting. True when a `Rejoin` is waiting to be obeyed."""
        ...


class AgentLink:
    """A link over a socket. What arrives is sorted at once: nothing is lost while a worker waits for something else."""

    def __init__(self, channel: Channel[FromAgent]) -> None:
        self._channel: Final = channel
        self._words: Final[deque[Go | Rejoin]] = deque()
        """In the order in which they were said: a group stays together only if all its workers keep that order."""
        self._answers: Final[deque[FromAgent]] = deque()
        self._hold = False

    def begin(self) -> Begin:
        """The agent's answer to `Attach`: it may first have to fetch what the restore needs."""
        return self._answer(Begin, AGENT_WORD_LIMIT_S)

    def send(self, message: FromWorker) -> None:
        try:
            self._channel.send(message)
        except WireError as error:
            raise AgentGone(str(error)) from error

    def ask_slots(self, request: SlotRequest) -> Slots:
        self.send(request)
        return self._answer(Slots, AGENT_ANSWER_LIMIT_S)

    def next_word(self) -> Go | Rejoin:
        while not self._words:
            self._sort(self._receive(AGENT_WORD_LIMIT_S))
        return self._words.popleft()

    def take_hold(self) -> bool:
        self.pump()
        return self._hold

    def fileno(self) -> int:
        return self._channel.fileno()

    def pump(self) -> bool:
        while self._channel.poll(0.0):
            self._sort(self._receive(AGENT_ANSWER_LIMIT_S))
        return any(isinstance(word, Rejoin) for word in self._words)

    def _answer(self, kind: type[Answer], limit_s: float) -> Answer:
        while True:
            for message in tuple(self._answers):
                if isinstance(message, kind):
                    self._answers.remove(message)
                    return message
            self._sort(self._receive(limit_s))

    def _receive(self, limit_s: float) -> FromAgent:
        # WireError passes: an agent that is silent or talks nonsense is still there, and is told why this worker ends.
        message = self._channel.receive(timeout_s=limit_s)
        if message is None:
            raise AgentGone("the agent closed the worker's socket")
        return message

    def _sort(self, message: FromAgent) -> None:
        if isinstance(message, Go | Rejoin):
            self._words.append(message)
            if isinstance(message, Rejoin):
                self._hold = False  # what came before it was meant for the incarnation that it ends
        elif isinstance(message, Hold):
            self._hold = True
        elif not isinstance(message, SlotFree):  # a slot's own state word says whether it is free
            self._answers.append(message)


class NoAgent:
    """Stands in for an agent where there is none: one group of one worker, no memory tier, nobody to report to."""

    def __init__(self, *, group: GroupId, sequences: int) -> None:
        self._share: Final = GroupShare(group=group, world_size=1, first=0, count=sequences)
        self._ready: Final[list[Step]] = []
        self._never, self._other_end = os.pipe()

    def send(self, message: FromWorker) -> None:
        if isinstance(message, Ready):
            self._ready.append(message.step)

    def ask_slots(self, request: SlotRequest) -> Slots:
        return Slots(paths=("", ""), error="this process runs alone: without an agent there is no memory tier")

    def next_word(self) -> Go | Rejoin:
        """`Go` at once, and no second time."""
        if not self._ready:
            raise AgentGone("there is no agent")
        step = self._ready.pop()
        first = Incarnation(1)
        return Go(incarnation=first, start_step=step, shares=(self._share,), endpoints=(), memory_every_steps=0)

    def take_hold(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._never

    def pump(self) -> bool:
        return False
