"""Owns `Control`: an event goes in, both it and the answer go to the journal, then the answer goes out.

Everything happens on the event loop's thread and nothing here waits, so events have one order: the journal's.
Written before told: no agent hears of an action that a crash could make unsaid.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from myriarch.control import Control, ControlView
from myriarch.errors import IntegrityError
from myriarch.event.actions import AnyAction, CommitSnapshot, Decide, EndRun, LaunchWorkers, StartSteps, Warn
from myriarch.event.events import (
    AnyEvent,
    Heartbeat,
    NodeDisconnected,
    NodeExited,
    NodeJoined,
    RunStarted,
    Tick,
)
from myriarch.event.ids import GroupId, NodeId, Rank
from myriarch.event.journal import Record
from myriarch.recover import FailureDetector
from myriarch.run.journal_file import JournalFile
from myriarch.run.messages import Do
from myriarch.run.outbox import Connection, Outbox, recipients
from myriarch.spec.run import Recovery
from myriarch.units import NS_PER_S

log = logging.getLogger("myriarch.controller")

REPEATS_KNOWN: Final = 4096
"""Newest events of a replayed journal among which an agent's repeated report is looked for."""
CLOCK_GRAIN_NS: Final = 1024
"""Instants are multiples of it. Those are exact as floats (a float of 2^61 has steps of 256), so that whoever replays a
journal gets the same seconds, in whichever way he divides."""
TICK_MINIMUM_S: Final = 0.005
"""Between two ticks: a deadline that a tick does not move must not spin the loop."""


class Clock:
    """Nanoseconds since the Unix epoch that never step back, not even over a restart."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._floor_ns = 0

    def now_ns(self) -> int:
        now_ns = time.monotonic_ns() + self._offset_ns
        self._floor_ns = max(self._floor_ns, now_ns // CLOCK_GRAIN_NS * CLOCK_GRAIN_NS)
        return self._floor_ns

    def not_before(self, at_ns: int) -> None:
        """The journal has been there already."""
        self._floor_ns = max(self._floor_ns, at_ns)


class Decider:
    """The controller's mind. Create, `replay`, then `take` events; `watch_deadlines` is a task beside it."""

    def __init__(self, journal: JournalFile, *, nodes: tuple[NodeId, ...], recovery: Recovery) -> None:
        self.journal = journal
        self.control = Control()
        self.detector = FailureDetector(recovery)
        self.clock = Clock()
        self.outboxes = {node: Outbox() for node in nodes}
        self.end: EndRun | None = None
        """How the run ended: after this no event is taken."""
        self.ended = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with what broke the machine or its journal: this process is of no use then, its journal is."""
        self.changed = asyncio.Event()
        """Set by every event: the deadlines may have moved."""
        self.watchers: set[asyncio.Event] = set()
        """Set by every event: for those who show the state."""
        self._seq = 0
        self._online: dict[NodeId, str] = {}
        """Nodes whose connection is open as far as the journal knows, with their boots."""
        self._known: set[AnyEvent] = set()
        self._end_seq = 0
        self.workers: dict[tuple[GroupId, Rank], NodeId] = {}
        """Where each worker was last launched."""

    # --- before the first event ---

    def replay(self) -> None:
        """Rebuild the state from the journal. Raises IntegrityError where the machine answers otherwise than it did."""
        records = self.journal.records
        position = 0
        while position < len(records):
            record = records[position]
            if record.event is None:
                raise IntegrityError(f"journal record {record.seq} is an action without the event that caused it")
            self.clock.not_before(record.at_ns)
            actions = self.control.step(record.event, now_s=record.at_ns / NS_PER_S)
            self._seq = record.seq
            self._observe(record.event)
            written = records[position + 1 : position + 1 + len(actions)]
            for action, line in zip(actions, written, strict=False):
                if line.action is None:
                    break  # the rest is missing: torn between the event and its last action
                if line.action != action:
                    raise IntegrityError(
                        f"journal record {line.seq} says {line.action}, the replay says {action}",
                        hint="another version of Myriarch wrote this journal; start over with --fresh",
                    )
            told = sum(1 for line in written if line.action is not None)
            if told < len(actions) and position + 1 + told < len(records):
                raise IntegrityError(f"the replay of journal record {record.seq} says more than was journalled")
            self._tell(actions)
            if told < len(actions):
                self._write(actions[told:], record.at_ns, seq=record.seq + told)
            position += 1 + told
        self._known = {r.event for r in records[-REPEATS_KNOWN:] if r.event is not None and _is_hashable(r.event)}

    # --- events ---

    def take(self, event: AnyEvent) -> None:
        """Journal an event, let the machine answer, journal and send the answer."""
        if self.end is not None or self.failed.done():
            return
        try:
            self._take(event)
        except Exception as error:
            self.failed.set_exception(error)
            raise

    def _take(self, event: AnyEvent) -> None:
        at_ns = self.clock.now_ns()
        actions = self.control.step(event, now_s=at_ns / NS_PER_S)
        first = self._seq + 1
        records = [Record(seq=first, at_ns=at_ns, event=event)]
        records += [Record(seq=first + i, at_ns=at_ns, action=action) for i, action in enumerate(actions, start=1)]
        self.journal.append(records, sync=any(isinstance(a, Decide | CommitSnapshot | EndRun) for a in actions))
        self._seq = first
        self._observe(event)
        self._tell(actions)
        self._log(event, actions)
        self._wake()

    def take_report(self, event: AnyEvent) -> None:
        """Take an event that an agent reports, unless it reports it again: the replayed journal has it. Once each."""
        if event in self._known:
            self._known.discard(event)
        else:
            self.take(event)

    def observe_beat(self, heartbeat: Heartbeat) -> None:
        """A heartbeat feeds the failure detector; it is not journalled."""
        self.detector.observe(heartbeat, now_s=self.clock.now_ns() / NS_PER_S)
        self.changed.set()

    def connect(self, joined: NodeJoined, connection: Connection, *, done_seq: int) -> None:
        """A node's agent is here."""
        box = self.outboxes[joined.node]
        self.take(joined)
        box.done(done_seq)
        if self.end is not None and done_seq < self._end_seq and not box.pending:
            box.put(Do(seq=self._end_seq, action=self.end))  # it came when the run was over
        box.connect(connection)

    def disconnect(self, node: NodeId, connection: Connection, detail: str) -> None:
        """A connection closed; unless the node has another by now, it is disconnected."""
        box = self.outboxes[node]
        if box.connection is not connection:
            return
        box.connection = None
        self.take(NodeDisconnected(node=node, boot=box.boot, detail=detail))

    def missing_after_restart(self) -> None:
        """Nodes that were online before this process started and have not come back: their connections are closed."""
        for node, boot in tuple(self._online.items()):
            if self.outboxes[node].connection is None:
                self.take(
                    NodeDisconnected(node=node, boot=boot, detail="did not come back to the restarted controller")
                )

    def view(self) -> ControlView:
        return self.control.view()

    async def watch_deadlines(self) -> None:
        """Wake the machine when it asked to be woken, and the detector when a silence becomes suspicious."""
        while self.end is None:
            due_s = min((d for d in (self.control.deadline_s, self.detector.deadline_s) if d is not None), default=None)
            wait_s = None if due_s is None else max(due_s - self.clock.now_ns() / NS_PER_S, 0.0)
            try:
                async with asyncio.timeout(wait_s):
                    await self.changed.wait()
            except TimeoutError:
                self._due()
                await asyncio.sleep(TICK_MINIMUM_S)
            self.changed.clear()

    def _due(self) -> None:
        now_s = self.clock.now_ns() / NS_PER_S
        for finding in self.detector.poll(now_s=now_s):
            self.take(finding)
        if self.control.deadline_s is not None and self.control.deadline_s <= now_s:
            self.take(Tick())

    # --- the answer ---

    def _observe(self, event: AnyEvent) -> None:
        """What the shell itself must know of an event, live or replayed."""
        match event:
            case NodeJoined():
                self._online[event.node] = event.boot
                self.outboxes[event.node].joined(event.boot)
            case NodeDisconnected() | NodeExited():
                if self._online.get(event.node) == event.boot:
                    del self._online[event.node]
                    self.detector.forget(event.node)
            case _:
                pass

    def _tell(self, actions: tuple[AnyAction, ...]) -> None:
        """Number the actions as the journal does, and put them into their nodes' boxes."""
        for action in actions:
            self._seq += 1
            if isinstance(action, EndRun):
                self.end, self._end_seq = action, self._seq
                self.ended.set()
            elif isinstance(action, LaunchWorkers):
                self.workers.update(((plan.group, plan.rank), action.node) for plan in action.workers)
            everybody = tuple(node for node, box in self.outboxes.items() if box.boot)
            for node in recipients(action, everybody):
                self.outboxes[node].put(Do(seq=self._seq, action=action))

    def _write(self, actions: tuple[AnyAction, ...], at_ns: int, *, seq: int) -> None:
        """Complete the last event's lines, which a crash cut short."""
        records = [Record(seq=seq + i, at_ns=at_ns, action=action) for i, action in enumerate(actions, start=1)]
        self.journal.append(records, sync=True)

    def _wake(self) -> None:
        self.changed.set()
        for watcher in self.watchers:
            watcher.set()

    def _log(self, event: AnyEvent, actions: tuple[AnyAction, ...]) -> None:
        if not isinstance(event, Tick) or actions:
            log.debug("%s", event)
        for action in actions:
            level = logging.INFO if isinstance(action, Decide | StartSteps | EndRun) else logging.DEBUG
            level = logging.WARNING if isinstance(action, Warn) else level
            log.log(level, "%s: %s", type(action).__name__, action.reason.text)


def _is_hashable(event: AnyEvent) -> bool:
    """Events with dicts inside (a run's spec) are not; no agent reports one."""
    return not isinstance(event, RunStarted)
