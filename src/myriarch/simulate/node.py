"""A simulated node: an agent, its memory, its workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from myriarch.event.actions import AnyAction, WorkerPlan
from myriarch.event.events import AnyEvent, NodeJoined, RunningWorker
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Step
from myriarch.event.layout import ShardKey
from myriarch.simulate.memory import SimMemory

INITIAL: Final = Step(0)


@dataclass(eq=False)
class SimWorker:
    """A worker process. It is alive as long as its node's `workers` has it."""

    key: ShardKey
    node: SimNode
    plan: WorkerPlan
    pid: int
    state: Literal["starting", "ready", "stepping", "held"] = "starting"
    step: Step = INITIAL
    """Of which its state is, when it does not step."""
    stopped: bool = False
    skips: int = 0
    """Snapshots that it will skip."""

    @property
    def incarnation(self) -> Incarnation:
        """The one that it is in."""
        return self.plan.incarnation

    @property
    def alive(self) -> bool:
        """Whether this very process is there."""
        return self.node.workers.get(self.key) is self

    @property
    def able(self) -> bool:
        """Whether it can do anything now."""
        return self.alive and not self.stopped and not self.node.stopped


@dataclass(eq=False)
class SimNode:
    """A machine in a node's place. A machine that died stays dead; the name may get another."""

    name: NodeId
    pool: PoolId
    boot: str
    devices: int
    fault_domain: str
    address: str = ""
    """Where its byte server listens; empty: an address made of its number."""
    port: int = 7000
    alive: bool = True
    stopped: bool = False
    connected: bool = False
    speed: float = 1.0
    """Share of its speed that it has left."""
    memory: SimMemory = field(default_factory=SimMemory)
    workers: dict[ShardKey, SimWorker] = field(default_factory=dict)
    outgoing: list[AnyEvent] = field(default_factory=list)
    """Reports that wait for the connection."""
    incoming: list[AnyAction] = field(default_factory=list)
    """Actions that wait for the connection, or for the node to go on."""
    broken: bool = False
    """It is under repair: whoever gives it up gets no other machine for it."""
    drain_errors: int = 0
    """Writes to disk that will fail."""
    launching: dict[ShardKey, Incarnation] = field(default_factory=dict)
    """Workers whose restore is being fetched, before they are forked."""

    def joined(self, number: int) -> NodeJoined:
        """What its agent says when it connects."""
        return NodeJoined(
            node=self.name,
            pool=self.pool,
            boot=self.boot,
            address=self.address or f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
            port=self.port,
            devices=self.devices,
            fault_domain=self.fault_domain,
            workers=tuple(
                RunningWorker(group=key[0], rank=key[1], incarnation=worker.incarnation, pid=worker.pid)
                for key, worker in self.workers.items()
            ),
            shards=self.memory.held(),
            warm=True,
        )


@dataclass(eq=False)
class Stride:
    """The steps of one incarnation: all groups go in step, since they merge after each."""

    incarnation: Incarnation
    step: Step
    """Steps done."""
    workers: dict[ShardKey, SimWorker] = field(default_factory=dict)
    compute_s: dict[GroupId, float] = field(default_factory=dict)
    """Of the step under way: each group's own forward and backward."""
    failing: set[GroupId] = field(default_factory=set)
    """Groups whose collectives are about to fail, since somebody of theirs died."""
    holding: bool = False
    broken: bool = False
    """Somebody died, left or hangs: nothing completes any more."""
