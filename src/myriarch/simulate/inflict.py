"""Inflicts faults on the simulated world."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from myriarch.event.events import FaultInjected, NodeExited, NodeSilent, StopRequested, WorkerStalled
from myriarch.event.ids import GroupId, NodeId, Rank
from myriarch.simulate.faults import Fault
from myriarch.simulate.node import SimNode, SimWorker
from myriarch.simulate.starting import restored_step

if TYPE_CHECKING:
    from myriarch.simulate.world import World

_NOTED: dict[str, Literal["kill", "stop", "slow"]] = {"kill": "kill", "stop": "stop", "slow": "slow"}
"""Faults that the journal gets a note of, as from `myriarch chaos`."""


class Inflicter:
    """Knows which faults are still to come."""

    def __init__(self, world: World, faults: Sequence[Fault]) -> None:
        self.world = world
        self._timed = [fault for fault in faults if fault.at_s is not None]
        self._stepped = sorted(
            (fault for fault in faults if fault.at_s is None), key=lambda fault: fault.at_step or 0
        )  # fmt: skip

    def begin(self) -> None:
        """The run starts."""
        for fault in self._timed:
            self.world.clock.after(fault.at_s or 0.0, partial(self.inflict, fault))

    def stepped(self, step: int) -> None:
        """A step was completed."""
        while self._stepped and (self._stepped[0].at_step or 0) <= step:
            self.world.clock.after(0.001, partial(self.inflict, self._stepped.pop(0)))

    def inflict(self, fault: Fault) -> None:
        """Now. A fault whose target is not there does nothing."""
        if self.world.end is not None:
            return
        if fault.action == "request_stop":
            self.world.engine_says(StopRequested(why="a stop was requested"))
        elif fault.target == "controller":
            self._note(fault, ())
            self.world.kill_controller(fault.duration_s)
        elif "/" in fault.target:
            for worker in self._workers(fault.target):
                self._on_worker(fault, worker)
        elif fault.target in self.world.nodes:
            self._on_node(fault, self.world.nodes[NodeId(fault.target)])

    def _note(self, fault: Fault, nodes: tuple[NodeId, ...]) -> None:
        if fault.action in _NOTED:
            action = _NOTED[fault.action]
            self.world.engine_says(FaultInjected(action=action, target=fault.target, nodes=nodes))

    def _workers(self, target: str) -> Iterator[SimWorker]:
        group, _, rank = target.partition("/")
        for node in list(self.world.nodes.values()):
            worker = node.workers.get((GroupId(group), Rank(int(rank))))
            if worker is not None and node.alive:
                yield worker

    def _on_worker(self, fault: Fault, worker: SimWorker) -> None:
        self._note(fault, (worker.node.name,))
        match fault.action:
            case "kill":
                self.world.work.kill(worker, code=9, told=True)
            case "stop":
                worker.stopped = True
                timeout_s = self.world.resolved.run.recovery.heartbeat_timeout_s
                self.world.clock.after(timeout_s, partial(self._stalled, worker, timeout_s))
            case "user_error":
                self.world.work.stepping.raise_in(worker, "Traceback (most recent call last):\nValueError: injected")
            case "skip_snapshot":
                worker.skips += 1
            case "slow":
                worker.node.speed *= fault.factor
            case _:
                raise ValueError(f"`{fault.action}` cannot be done to a worker, only to a node")

    def _stalled(self, worker: SimWorker, stalled_s: float) -> None:
        if worker.alive and not worker.node.stopped:
            event = WorkerStalled(
                node=worker.node.name,
                group=worker.key[0],
                rank=worker.key[1],
                incarnation=worker.incarnation,
                step=restored_step(worker.plan),
                phase="compute",
                stalled_s=stalled_s,
                stopped=True,
            )
            self.world.engine_says(event)

    def _die(self, node: SimNode, *, detail: str) -> None:
        if node.alive:
            self.world.work.die(node)
            gone = NodeExited(node=node.name, boot=node.boot, detail=detail)
            self.world.clock.after(self.world.timing.exit_s, partial(self.world.engine_says, gone))

    def _on_node(self, fault: Fault, node: SimNode) -> None:
        self._note(fault, (node.name,))
        match fault.action:
            case "kill":
                self._die(node, detail="killed by SIGKILL")
            case "break":
                node.broken = True
                self._die(node, detail="the machine failed")
                if math.isfinite(fault.duration_s):
                    back = Fault(action="return", target=node.name)
                    self.world.clock.after(fault.duration_s, partial(self.inflict, back))
            case "kill_workers":
                for worker in list(node.workers.values()) if node.alive else ():
                    self.world.work.kill(worker, code=9, told=True)
            case "stop":
                node.stopped = True
                timeout_s = self.world.resolved.run.recovery.heartbeat_timeout_s
                silent = NodeSilent(node=node.name, boot=node.boot, silent_s=timeout_s)
                self.world.clock.after(timeout_s, partial(self.world.engine_says, silent))
            case "return":
                if not node.alive or node.stopped:
                    node.alive = False
                    self.world.boot(node.name, node.pool, after_s=0.0)
            case "disconnect":
                self.world.disconnect(node, duration_s=fault.duration_s)
            case "bad_shard":
                node.memory.spoil()
            case "no_room":
                node.memory.refuses_copies = True
            case "drain_error":
                node.drain_errors += 1
            case "slow":
                node.speed *= fault.factor
            case _:
                raise ValueError(f"`{fault.action}` cannot be done to a node, only to a worker")
