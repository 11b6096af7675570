"""Silence and stagnation: the failure detector.

Facts come first: a closed socket, an exit, a kernel's word. This catches what gives no sign: a node that is stopped or
cut off while its connection stays open, and a worker that neither progresses nor waits for another.

A worker that waits for others (in the bridge, in a collective, for a word from its agent) is never blamed: whoever it
waits for is. So of a hung group the culprit is found and not its victims; and a worker that starts has the start's own
limit.

The detector itself may have been stopped, with its machine. Then everybody seems silent at once. A gap between its own
calls is therefore taken off everybody's silence (as Cassandra's detector does with its "local pause").
"""

from __future__ import annotations

from typing import Final

import msgspec

from myriarch.event.events import Heartbeat, NodeSilent, WorkerBeat, WorkerStalled
from myriarch.event.ids import NodeId
from myriarch.event.layout import ShardKey
from myriarch.spec.run import Recovery

WAITING_PHASES: Final = frozenset({"start", "wait", "bridge", "collective", "done"})
"""Phases in which a worker waits for somebody else, or is covered by another limit."""

STEPS_ALLOWED: Final = 3.0
"""A worker may stand still for so many times the slowest step seen."""

_POLLS_PER_TIMEOUT: Final = 4
"""How often the detector wants to be asked within one heartbeat time-out; a longer gap is a pause of its own."""


class _WorkerWatch(msgspec.Struct, kw_only=True):
    beat: WorkerBeat
    moved_s: float
    """When its ticks last changed."""
    stepped_s: float
    """When its step last changed."""
    stopped_s: float | None = None
    """Since when the kernel has called it stopped."""
    reported: bool = False


class _NodeWatch(msgspec.Struct, kw_only=True):
    boot: str
    heard_s: float
    workers: dict[ShardKey, _WorkerWatch]
    reported: bool = False


class FailureDetector:
    """Feed it heartbeats and ask it for findings. It holds time only as its caller gives it."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        self._nodes: dict[NodeId, _NodeWatch] = {}
        self._slowest_step_s = 0.0
        self._called_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """When it wants to be polled; None while it watches nobody."""
        if not self._nodes or self._called_s is None:
            return None
        return self._called_s + self._recovery.heartbeat_timeout_s / _POLLS_PER_TIMEOUT

    @property
    def stall_limit_s(self) -> float:
        """How long a worker may stand still."""
        return max(self._recovery.hang_timeout_s, STEPS_ALLOWED * self._slowest_step_s)

    def observe(self, heartbeat: Heartbeat, *, now_s: float) -> None:
        """A node's heartbeat. One of a new boot starts anew."""
        watch = self._nodes.get(heartbeat.node)
        if watch is None or watch.boot != heartbeat.boot:
            watch = _NodeWatch(boot=heartbeat.boot, heard_s=now_s, workers={})
            self._nodes[heartbeat.node] = watch
        if self._called_s is None:
            self._called_s = now_s
        watch.heard_s = max(watch.heard_s, now_s)
        watch.reported = False
        before = watch.workers
        watch.workers = {}
        for beat in heartbeat.workers:
            key = (beat.group, beat.rank)
            watch.workers[key] = self._follow(before.get(key), beat, now_s)

    def forget(self, node: NodeId) -> None:
        """The node is gone or disconnected: somebody else watches over that."""
        self._nodes.pop(node, None)

    def poll(self, *, now_s: float) -> tuple[NodeSilent | WorkerStalled, ...]:
        """What has become suspicious. Each finding is made once, until the node or worker shows life again."""
        self._take_pause_off(now_s)
        found: list[NodeSilent | WorkerStalled] = []
        for node, watch in self._nodes.items():
            silent_s = now_s - watch.heard_s
            if silent_s >= self._recovery.heartbeat_timeout_s:
                if not watch.reported:
                    watch.reported = True
                    found.append(NodeSilent(node=node, boot=watch.boot, silent_s=round(silent_s, 6)))
                continue
            for worker in watch.workers.values():
                finding = self._judge(node, worker, now_s)
                if finding is not None:
                    found.append(finding)
        return tuple(found)

    def _follow(self, watch: _WorkerWatch | None, beat: WorkerBeat, now_s: float) -> _WorkerWatch:
        if watch is None or watch.beat.incarnation != beat.incarnation:
            watch = _WorkerWatch(beat=beat, moved_s=now_s, stepped_s=now_s)
        elif beat.ticks != watch.beat.ticks or beat.step != watch.beat.step or beat.phase != watch.beat.phase:
            if beat.step > watch.beat.step:
                step_s = (now_s - watch.stepped_s) / (beat.step - watch.beat.step)
                self._slowest_step_s = max(self._slowest_step_s, step_s)
                watch.stepped_s = now_s
            watch.moved_s = now_s
            watch.reported = False
        if not beat.stopped:
            watch.stopped_s = None
        elif watch.stopped_s is None:
            watch.stopped_s = now_s
        watch.beat = beat
        return watch

    def _judge(self, node: NodeId, watch: _WorkerWatch, now_s: float) -> WorkerStalled | None:
        if watch.reported:
            return None
        beat = watch.beat
        stopped_s = 0.0 if watch.stopped_s is None else now_s - watch.stopped_s
        still_s = now_s - watch.moved_s
        stopped = beat.stopped and stopped_s >= self._recovery.heartbeat_timeout_s
        hung = beat.phase not in WAITING_PHASES and still_s >= self.stall_limit_s
        if not (stopped or hung):
            return None
        watch.reported = True
        return WorkerStalled(
            node=node,
            group=beat.group,
            rank=beat.rank,
            incarnation=beat.incarnation,
            step=beat.step,
            phase=beat.phase,
            stalled_s=round(stopped_s if stopped else still_s, 6),
            stopped=stopped,
        )

    def _take_pause_off(self, now_s: float) -> None:
        called_s, self._called_s = self._called_s, now_s
        if called_s is None:
            return
        pause_s = now_s - called_s - self._recovery.heartbeat_timeout_s / 2
        if pause_s <= 0:
            return
        for watch in self._nodes.values():
            watch.heard_s = min(now_s, watch.heard_s + pause_s)
            for worker in watch.workers.values():
                worker.moved_s = min(now_s, worker.moved_s + pause_s)
                if worker.stopped_s is not None:
                    worker.stopped_s = min(now_s, worker.stopped_s + pause_s)
