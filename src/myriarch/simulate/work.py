"""What simulated agents do with actions, and what their workers do then."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    DrainShards,
    DropSnapshot,
    FenceNode,
    FinishDrain,
    HoldWorkers,
    LaunchWorkers,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
)
from myriarch.event.events import WorkerExited
from myriarch.event.ids import GroupId, Incarnation, Step, device_id
from myriarch.event.layout import ShardKey
from myriarch.event.spans import Leaf, Span
from myriarch.simulate.node import SimNode, SimWorker
from myriarch.simulate.saving import Saving
from myriarch.simulate.starting import Starting
from myriarch.simulate.stepping import Stepping

if TYPE_CHECKING:
    from myriarch.simulate.world import World


class Work:
    """Carries actions out. `starting`, `stepping` and `saving` each own a part of what workers do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spans: list[Span] = []
        self.starting = Starting(world, self)
        self.stepping = Stepping(world, self)
        self.saving = Saving(world, self)

    def do(self, node: SimNode, action: AnyAction) -> None:
        """An action arrived at a node that can carry it out."""
        match action:
            case LaunchWorkers():
                self.starting.launch(node, action.workers)
            case RejoinWorkers():
                self.starting.rejoin(node, action.workers)
            case StopWorkers():
                for key in action.workers:
                    node.launching.pop(key, None)
                    if key in node.workers:
                        self.kill(node.workers[key], code=9, told=True)
            case StartSteps():
                self.stepping.start(node, action)
            case HoldWorkers():
                self.stepping.hold(action.incarnation)
            case CommitSnapshot():
                node.memory.commit(action.step, action.incarnation)
            case DropSnapshot():
                node.memory.drop(action.step, action.incarnation)
            case DrainShards():
                self.saving.drain(node, action)
            case FinishDrain():
                self.saving.finish_drain(node, action)
            case FenceNode():
                self.fence(node, action)
            case _:
                raise AssertionError(f"not an agent's: {type(action).__name__}")

    def kill(self, worker: SimWorker, *, code: int, told: bool) -> None:
        """A worker process dies by a signal. With `told` its agent lives to say so."""
        node, key, incarnation = worker.node, worker.key, worker.incarnation
        del node.workers[key]
        self.stepping.lost(worker)
        if told:
            gone = WorkerExited(
                node=node.name, group=key[0], rank=key[1], incarnation=incarnation, cause="signal", code=code
            )
            self.world.clock.after(self.world.timing.exit_s, partial(self.world.report, node, gone))

    def die(self, node: SimNode) -> None:
        """A machine dies at once, with all that is on it."""
        node.alive = False
        node.connected = False
        workers, node.workers = list(node.workers.values()), {}
        for worker in workers:
            self.stepping.lost(worker)

    def fence(self, node: SimNode, action: FenceNode) -> None:
        """A node that was given up ends what it has and comes back as a new boot."""
        if node.boot != action.boot:
            return
        self.die(node)
        if self.world.nodes.get(node.name) is node and not node.broken:
            self.world.boot(node.name, node.pool, after_s=self.world.timing.rejoin_s)

    def spend(
        self,
        node: SimNode,
        key: ShardKey,
        device_index: int,
        leaf: Leaf,
        start_ns: int,
        end_ns: int,
        *,
        incarnation: Incarnation,
        step: Step | None = None,
    ) -> None:
        """A ledger row."""
        if end_ns > start_ns and self.world.accounts:
            self.spans.append(
                Span(
                    device=device_id(node.name, device_index),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    leaf=leaf,
                    group=GroupId(key[0]),
                    incarnation=incarnation,
                    step=step,
                )
            )
