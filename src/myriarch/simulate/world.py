"""The simulated world: virtual agents and workers that carry out what `Control` says and report what comes of it.

The decisions are `Control`'s own: nothing here decides anything that a real agent, worker or engine does not. Durations
come from `Timing`, faults from a list; there is no randomness, so that equal inputs give equal journals, byte for byte.

Simplified against the real thing: a step of all groups is one event; what the failure detector would conclude about a
stopped node or worker comes as its finding after the heartbeat time-out; the network between nodes never splits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from myriarch.control import Control
from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    Decide,
    DrainShards,
    DropSnapshot,
    EndRun,
    FenceNode,
    FinishDrain,
    HoldWorkers,
    LaunchWorkers,
    LogMembership,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
    Warn,
)
from myriarch.event.base import Value
from myriarch.event.events import (
    AnyEvent,
    NodeDisconnected,
    RunStarted,
    StepCompleted,
    Tick,
)
from myriarch.event.ids import NodeId, PoolId, Step
from myriarch.event.journal import Record
from myriarch.event.spans import Span
from myriarch.simulate.clock import Clock
from myriarch.simulate.faults import Fault, chaos_of
from myriarch.simulate.inflict import Inflicter
from myriarch.simulate.node import SimNode
from myriarch.simulate.replay import replayed
from myriarch.simulate.timing import Timing
from myriarch.simulate.work import Work
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S

EPOCH_NS: Final = 1_600_000_000 * NS_PER_S
"""When virtual time begins: a plausible instant, so that times have as many digits as real ones."""

EVENTS_LIMIT: Final = 10_000_000
"""A simulation that goes on longer has lost its way."""


class Simulation(Value, frozen=True, kw_only=True):
    """What came of it: the same things that a real run leaves behind."""

    records: tuple[Record, ...]
    """The journal."""
    spans: tuple[Span, ...]
    """The ledger's rows."""
    end: EndRun | None
    """How it ended; None when nothing more could happen before it did, which is a defect."""
    digest: str
    """Of the control's state."""
    duration_s: float


def simulate(
    resolved: ResolvedRun,
    *,
    faults: Sequence[Fault] = (),
    timing: Timing | None = None,
    resume: tuple[Step, str] | None = None,
    check: bool = False,
) -> Simulation:
    """Run a run in virtual time, with the run file's chaos and further faults.

    `resume` is a durable checkpoint to start from. With `check`, invariants are asserted after every event.
    """
    world = World(resolved, faults=(*chaos_of(resolved.run), *faults), timing=timing or Timing(), check=check)
    return world.run(resume=resume)


class World:
    """Controller, agents and workers of one run, in virtual time."""

    def __init__(
        self,
        resolved: ResolvedRun,
        *,
        faults: Sequence[Fault],
        timing: Timing,
        check: bool,
        control: Control | None = None,
        records: Sequence[Record] = (),
    ) -> None:
        """A new world; or one that goes on with a controller after the journal that made it what it is."""
        self.resolved = resolved
        self.timing = timing
        self.clock = Clock(origin_ns=records[-1].at_ns if records else EPOCH_NS)
        self.control = control or Control()
        self.records: list[Record] = list(records)
        self.end: EndRun | None = None
        self.accounts = True
        """Whether the ledger's rows are kept."""
        self.nodes: dict[NodeId, SimNode] = {}
        """The newest machine in each place."""
        self.work = Work(self)
        self.inflicter = Inflicter(self, faults)
        self._check = check
        self._boots = 0
        self._controller_up = True
        self._alarm_s: float | None = None
        """The deadline that a `Tick` is set for."""
        self._waiting: list[AnyEvent] = []
        """What the engine has to report while the controller is away."""

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self, *, resume: tuple[Step, str] | None = None) -> Simulation:
        """Let it happen."""
        step, path = resume if resume is not None else (None, "")
        self._take(RunStarted(run_id="simulated", resolved=self.resolved, resume_step=step, resume_path=path))
        for pool in self.resolved.fleet.pools:
            for index in range(pool.nodes + pool.spares):
                self.boot(NodeId(f"{pool.name}-{index}"), PoolId(pool.name), after_s=self.timing.join_s)
        self.inflicter.begin()
        self.go_on()
        return Simulation(
            records=tuple(self.records),
            spans=tuple(self.work.spans),
            end=self.end,
            digest=self.control.digest(),
            duration_s=(self.clock.now_ns - EPOCH_NS) / NS_PER_S,
        )

    def go_on(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until the run ends, nothing more can happen, or it was enough."""
        count = 0
        while self.end is None and not until() and self.clock.advance():
            count += 1
            if count > EVENTS_LIMIT:
                raise RuntimeError(f"no end after {EVENTS_LIMIT} events of the simulated world")

    def tell(self, action: AnyAction) -> None:
        """An action is on its way to the agents that carry it out."""
        self._tell(action)

    def wake(self) -> None:
        """Set the alarm that the controller asks for."""
        self._wake()

    def boot(self, name: NodeId, pool: PoolId, *, after_s: float) -> None:
        """Put a new machine into a node's place; its agent joins after a while."""
        spec = self.resolved.fleet.pool(pool)
        self._boots += 1
        rack = int(name.rpartition("-")[2]) // spec.nodes_per_rack
        node = SimNode(
            name=name,
            pool=pool,
            boot=f"boot-{self._boots}",
            devices=spec.devices_per_node,
            fault_domain=f"{pool}/{rack}",
        )
        self.nodes[name] = node
        self.clock.after(after_s, partial(self.connect, node))

    # --- the controller ---------------------------------------------------------------------------------------------

    def _take(self, event: AnyEvent) -> None:
        """The controller gets an event: journal, decide, journal, tell."""
        if self.end is not None:
            return
        at_ns = self.clock.now_ns
        actions = self.control.step(event, now_s=self.clock.now_s)
        if self._check:
            self.control.check()
        self._record(at_ns, event, actions)
        for action in actions:
            if isinstance(action, EndRun):
                self.end = action
            self._tell(action)
        self._wake()
        if isinstance(event, StepCompleted):
            self.inflicter.stepped(event.step)

    def _record(self, at_ns: int, event: AnyEvent, actions: Sequence[AnyAction]) -> None:
        self.records.append(Record(seq=len(self.records) + 1, at_ns=at_ns, event=event))
        for action in actions:
            self.records.append(Record(seq=len(self.records) + 1, at_ns=at_ns, action=action))

    def _wake(self) -> None:
        """A `Tick` when the machine wants one. Later ones are asked for then."""
        deadline_s = self.control.deadline_s
        if deadline_s is not None and deadline_s != self._alarm_s:
            self._alarm_s = deadline_s
            self.clock.at(round(deadline_s * NS_PER_S), partial(self._tick, deadline_s))

    def _tick(self, alarm_s: float) -> None:
        if alarm_s != self._alarm_s:
            return  # another one was set since
        self._alarm_s = None
        if not self._controller_up or self.control.deadline_s is None:
            return
        if self.control.deadline_s <= self.clock.now_s:
            self._take(Tick())
        elif alarm_s == self.control.deadline_s:  # the float of this instant lies a hair before the deadline's
            self._alarm_s = alarm_s
            self.clock.at(self.clock.now_ns + 1_000, partial(self._tick, alarm_s))
        else:
            self._wake()

    def _tell(self, action: AnyAction) -> None:
        for name in _recipients(action):
            node = self.nodes.get(name)
            if node is not None:
                self.clock.after(self.timing.latency_s, partial(self._arrive, node, action))

    def _arrive(self, node: SimNode, action: AnyAction) -> None:
        if not node.alive:
            return
        if not node.connected or node.stopped:
            node.incoming.append(action)
            return
        self.work.do(node, action)

    def kill_controller(self, absence_s: float) -> None:
        """The controller dies; another replays its journal and the agents connect anew."""
        self._controller_up = False
        for node in self.nodes.values():
            node.connected = False
        self.clock.after(absence_s, self._restart_controller)

    def _restart_controller(self) -> None:
        before = self.control.digest()
        self.control, _ = replayed(self.records)
        if self.control.digest() != before:
            raise AssertionError("the replayed control is not the one that died")
        self._controller_up = True
        self._alarm_s = None
        gone = []
        for name, shown in ((view.node, view.boot) for view in self.control.view().nodes if view.connected):
            node = self.nodes[name]
            if node.alive and not node.stopped and node.boot == shown:
                self.clock.after(self.timing.latency_s, partial(self.connect, node))
            else:
                gone.append(NodeDisconnected(node=name, boot=shown, detail="did not come back"))
        for node in self.nodes.values():
            if node.alive and not node.connected:
                self.clock.after(2 * self.timing.latency_s, partial(self.connect, node))
        waiting, self._waiting = self._waiting, []
        for event in (*gone, *waiting):
            self._take(event)
        self._wake()

    # --- connections ------------------------------------------------------------------------------------------------

    def report(self, node: SimNode, event: AnyEvent) -> None:
        """An agent saw something."""
        if not node.alive:
            return
        if not node.connected or node.stopped:
            node.outgoing.append(event)
            return

        def arrive() -> None:
            if node.connected and self._controller_up:
                self._take(event)
            else:
                node.outgoing.append(event)

        self.clock.after(self.timing.latency_s, arrive)

    def engine_says(self, event: AnyEvent) -> None:
        """The engine, or the detector, found something."""
        if self._controller_up:
            self._take(event)
        else:
            self._waiting.append(event)

    def connect(self, node: SimNode) -> None:
        """An agent connects, says what it has, and catches up in both directions."""
        if not node.alive or node.stopped or node.connected or not self._controller_up:
            return
        node.connected = True
        self._take(node.joined(list(self.nodes).index(node.name)))
        waiting, node.outgoing = node.outgoing, []
        for event in waiting:
            self._take(event)
        actions, node.incoming = node.incoming, []
        for action in actions:
            self._arrive(node, action)

    def disconnect(self, node: SimNode, *, duration_s: float) -> None:
        """An agent's connection closes, and it tries again after a while."""
        if node.alive and node.connected:
            node.connected = False
            self.engine_says(NodeDisconnected(node=node.name, boot=node.boot, detail="connection closed"))
            self.clock.after(duration_s, partial(self.connect, node))


def _recipients(action: AnyAction) -> tuple[NodeId, ...]:
    """Whose agents carry an action out."""
    match action:
        case StartSteps() | HoldWorkers() | CommitSnapshot() | DropSnapshot():
            return action.nodes
        case LaunchWorkers() | RejoinWorkers() | StopWorkers() | DrainShards() | FinishDrain() | FenceNode():
            return (action.node,)
        case Decide() | LogMembership() | Warn() | EndRun():
            return ()
