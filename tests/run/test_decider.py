"""The decider: what is journalled, what is sent, what a restart knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from myriarch.errors import IntegrityError
from myriarch.event.actions import LaunchWorkers
from myriarch.event.events import NodeDisconnected, NodeJoined, RunStarted, WorkerForked
from myriarch.event.ids import NodeId, PoolId
from myriarch.event.journal import Record, actions_of, encode_line, scan
from myriarch.run.decider import CLOCK_GRAIN_NS, Clock, Decider
from myriarch.run.journal_file import JournalFile
from myriarch.run.messages import Do, FromController
from myriarch.run.outbox import Outbox
from myriarch.spec.run import ResolvedRun

NODES = (NodeId("fast-0"), NodeId("fast-1"))


class Listener:
    """A connection that remembers."""

    def __init__(self) -> None:
        self.heard: list[FromController] = []
        self.closed = ""

    def send(self, message: FromController) -> None:
        self.heard.append(message)

    def close(self, why: str) -> None:
        self.closed = why

    @property
    def actions(self) -> list[Do]:
        return [message for message in self.heard if isinstance(message, Do)]


def joined(node: str, boot: str = "boot") -> NodeJoined:
    return NodeJoined(
        node=NodeId(node), pool=PoolId("fast"), boot=boot, address="127.0.1.1", port=1, devices=1, fault_domain="rack"
    )


def decide(journal: JournalFile, resolved: ResolvedRun) -> Decider:
    return Decider(journal, nodes=NODES, recovery=resolved.run.recovery)


@pytest.fixture
def resolved(tmp_path: Path, toy: Callable[..., ResolvedRun]) -> ResolvedRun:
    return toy("decided", tmp_path, pools={"fast": (2, 0)})


def start(decider: Decider, resolved: ResolvedRun) -> list[Listener]:
    """Both nodes join: the first formation."""
    decider.take(RunStarted(run_id="id", resolved=resolved))
    listeners = [Listener() for _ in NODES]
    for node, listener in zip(NODES, listeners, strict=True):
        decider.connect(joined(node), listener, done_seq=0)
    return listeners


def run(test: Callable[[], Any]) -> None:
    """On a loop: a decider belongs to one."""

    async def main() -> None:
        test()

    asyncio.run(main())


def test_actions_carry_their_journal_numbers_and_survive_a_restart(tmp_path: Path, resolved: ResolvedRun) -> None:
    path = tmp_path / "journal.jsonl"

    def test() -> None:
        with JournalFile(path) as journal:
            first, second = start(decide(journal, resolved), resolved)
        launches = {
            record.seq: record.action
            for record in scan(path.read_bytes()).records
            if isinstance(record.action, LaunchWorkers)
        }
        assert {do.seq: do.action for do in first.actions + second.actions} == launches
        with JournalFile(path) as journal:
            again = decide(journal, resolved)
            again.replay()
            new, late = Listener(), Listener()
            again.connect(joined("fast-0"), new, done_seq=first.actions[-1].seq)
            again.connect(joined("fast-1"), late, done_seq=0)
            assert new.actions == [], "it was given everything"
            assert late.actions == second.actions, "it was given nothing yet"

    run(test)


def test_actions_that_a_crash_cut_off_are_completed(tmp_path: Path, resolved: ResolvedRun) -> None:
    path = tmp_path / "journal.jsonl"

    def test() -> None:
        with JournalFile(path) as journal:
            start(decide(journal, resolved), resolved)
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        caused = sum(1 for _ in actions_of(scan(whole).records[-4:]))
        assert caused > 1
        path.write_bytes(b"".join(lines[:-2]) + lines[-2][:10])
        with JournalFile(path) as journal:
            decide(journal, resolved).replay()
        assert path.read_bytes() == whole

    run(test)


def test_a_journal_that_says_otherwise_is_refused(tmp_path: Path, resolved: ResolvedRun) -> None:
    path = tmp_path / "journal.jsonl"

    def test() -> None:
        with JournalFile(path) as journal:
            start(decide(journal, resolved), resolved)
        records = list(scan(path.read_bytes()).records)
        index = next(i for i, record in enumerate(records) if isinstance(record.action, LaunchWorkers))
        action = records[index].action
        assert isinstance(action, LaunchWorkers)
        records[index] = msgspec.structs.replace(records[index], action=msgspec.structs.replace(action, workers=()))
        path.write_bytes(b"".join(map(encode_line, records)))
        with JournalFile(path) as journal, pytest.raises(IntegrityError, match="replay"):
            decide(journal, resolved).replay()

    run(test)


def test_after_a_restart_a_repeated_report_is_known_and_a_missing_node_is_missed(
    tmp_path: Path, resolved: ResolvedRun
) -> None:
    path = tmp_path / "journal.jsonl"
    forked = WorkerForked(node=NODES[0], group="fast", rank=0, incarnation=1, pid=7)  # type: ignore[arg-type]

    def test() -> None:
        with JournalFile(path) as journal:
            decider = decide(journal, resolved)
            start(decider, resolved)
            decider.take(forked)
        with JournalFile(path) as journal:
            again = decide(journal, resolved)
            again.replay()
            again.take_report(forked)
            again.connect(joined("fast-0"), Listener(), done_seq=10**6)
            again.missing_after_restart()
        events = [record.event for record in scan(path.read_bytes()).records if record.event is not None]
        assert events.count(forked) == 1
        assert [event.node for event in events if isinstance(event, NodeDisconnected)] == ["fast-1"]

    run(test)


def test_a_new_boot_gets_nothing_that_was_meant_for_the_old_one() -> None:
    box = Outbox()
    box.joined("a")
    box.put(Do(seq=1, action=None))  # type: ignore[arg-type]
    box.joined("a")
    assert len(box.pending) == 1
    box.joined("b")
    assert len(box.pending) == 0


def test_a_second_connection_of_a_node_replaces_the_first() -> None:
    box = Outbox()
    first, second = Listener(), Listener()
    box.connect(first)
    box.connect(second)
    assert "anew" in first.closed
    assert box.connection is second


def test_what_breaks_the_machine_ends_the_process(
    tmp_path: Path, resolved: ResolvedRun, fill_disk: Callable[[JournalFile], None]
) -> None:
    def test() -> None:
        with JournalFile(tmp_path / "journal.jsonl") as journal:
            decider = decide(journal, resolved)
            fill_disk(journal)
            with pytest.raises(Exception, match="No space"):
                decider.take(RunStarted(run_id="id", resolved=resolved))
            assert decider.failed.exception() is not None
            decider.take(joined("fast-0"))
            assert decider.outboxes[NODES[0]].boot == "", "nothing is taken any more"

    run(test)


def test_the_clock_never_steps_back_and_its_instants_are_exact_floats() -> None:
    clock = Clock()
    before = clock.now_ns()
    clock.not_before(before + 10**12)
    later = clock.now_ns()
    assert later >= before + 10**12
    assert before % CLOCK_GRAIN_NS == 0
    assert before / 1e9 == before / 1_000_000_000
    assert Record(seq=1, at_ns=int(float(before))).at_ns == before
