"""What an agent says is kept in order until somebody asks."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from myriarch.errors import WireError
from myriarch.event.actions import Fresh, WorkerPlan
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.spec.run import Mesh
from myriarch.train.agent_link import AgentGone, AgentLink, NoAgent
from myriarch.wire.frames import Channel
from myriarch.wire.worker import (
    FromAgent,
    FromWorker,
    Go,
    Held,
    Hold,
    Ready,
    Rejoin,
    SlotFree,
    SlotRequest,
    Slots,
)

Ends = tuple[AgentLink, Channel[FromWorker]]

GO = Go(incarnation=Incarnation(1), start_step=Step(0), shares=(), endpoints=(), memory_every_steps=0)
REJOIN = Rejoin(
    slot_paths=(),
    plan=WorkerPlan(
        group=GroupId("a"), rank=Rank(0), world_size=1, mesh=Mesh(), device_index=0, incarnation=Incarnation(2),
        store_node=NodeId("n"), store_address="", store_port=0, copy_nodes=(), restore=Fresh(),
    ),
)  # fmt: skip
REQUEST = SlotRequest(payload_bytes=1, index_bytes=1, layout_hash="h")


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    link = AgentLink(Channel[FromAgent](theirs, decode_type=FromAgent))
    with Channel[FromWorker](ours, decode_type=FromWorker) as agent:
        yield link, agent
    theirs.close()


def test_words_wait_while_an_answer_is_awaited(ends: Ends) -> None:
    link, agent = ends
    for message in (GO, SlotFree(committed=0, step=Step(1)), Hold(), Slots(paths=("a", "b"))):
        agent.send(message)
    assert link.ask_slots(REQUEST) == Slots(paths=("a", "b"))
    assert agent.receive() == REQUEST
    assert link.next_word() == GO
    assert link.take_hold()


def test_a_rejoin_is_seen_and_stays_until_it_is_obeyed(ends: Ends) -> None:
    link, agent = ends
    assert not link.pump()
    agent.send(GO)
    assert not link.pump()
    agent.send(REJOIN)
    assert link.pump()
    assert link.pump()
    assert (link.next_word(), link.next_word()) == (GO, REJOIN)
    assert not link.pump()


def test_a_hold_belongs_to_the_incarnation_it_was_said_in(ends: Ends) -> None:
    link, agent = ends
    agent.send(Hold())
    assert link.take_hold()
    agent.send(REJOIN)
    assert not link.take_hold()
    agent.send(Hold())  # said after the rejoin, heard before it is obeyed
    assert link.pump()
    assert link.next_word() == REJOIN
    assert link.take_hold()


def test_the_end_of_the_agent_ends_every_wait(ends: Ends) -> None:
    link, agent = ends
    agent.frames.shutdown()
    for wait in (link.pump, link.next_word, link.begin, link.take_hold, lambda: link.ask_slots(REQUEST)):
        with pytest.raises(AgentGone):
            wait()
    with pytest.raises(AgentGone):
        for _ in range(3):
            link.send(Held(step=Step(1), finished=True))


def test_an_agent_that_talks_nonsense_is_still_there(ends: Ends) -> None:
    """Its worker ends with words, and not as if it had nobody to work for."""
    link, agent = ends
    agent.frames.send(b"\xc1")
    with pytest.raises(WireError, match="not of this protocol"):
        link.next_word()


def test_without_an_agent_there_is_one_go_and_no_memory() -> None:
    link = NoAgent(group=GroupId("alone"), sequences=5)
    assert link.ask_slots(REQUEST).error
    with pytest.raises(AgentGone):
        link.next_word()
    link.send(Ready(step=Step(3), bridge_host="", bridge_port=0, state_bytes=0, digest=""))
    word = link.next_word()
    assert isinstance(word, Go)
    assert (word.start_step, word.shares[0].count) == (3, 5)
    assert not link.pump()
    assert not link.take_hold()
