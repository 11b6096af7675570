"""What agents and workers are like at the end of a journal, by the journal alone, and a simulated world of them.

The journal has every report and every order, so each node's processes and memory follow from it, and so does what was
still on its way when it ended: workers that start, shards that are copied or written, a step under way. What nobody
reported is not known: a node that died a moment ago is alive here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from myriarch.control import Control
from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    DrainShards,
    DropSnapshot,
    EndRun,
    FenceNode,
    FinishDrain,
    HoldWorkers,
    LaunchWorkers,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
    WorkerPlan,
)
from myriarch.event.events import (
    AnyEvent,
    DrainFailed,
    NodeDisconnected,
    NodeExited,
    NodeJoined,
    NodeSilent,
    RunStarted,
    ShardDrained,
    ShardFetched,
    ShardReplicated,
    ShardSealed,
    SnapshotDrained,
    SnapshotSkipped,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerHeld,
    WorkerReady,
    WorkerStalled,
)
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Step
from myriarch.event.journal import Record
from myriarch.event.layout import ShardKey
from myriarch.simulate.faults import Fault
from myriarch.simulate.node import SimNode, SimWorker, Stride
from myriarch.simulate.replay import replayed_by_event
from myriarch.simulate.timing import Timing
from myriarch.simulate.world import World
from myriarch.spec.run import ResolvedRun

_MODULUS = 1 << 64
"""Of the sums of digests: see `checkpoint.commit`."""


@dataclass(eq=False)
class LiveFleet:
    """Everything outside the controller. Picklable, so that many worlds can begin with it."""

    resolved: ResolvedRun
    nodes: dict[NodeId, SimNode] = field(default_factory=dict)
    """The newest machine in each place, those that were lost included."""
    at_ns: int = 0
    start: StartSteps | None = None
    """The present incarnation's go."""
    begun_ns: int = 0
    """When the step under way began."""
    steps: dict[GroupId, Step] = field(default_factory=dict)
    """The newest step that each group completed since `start`."""
    holding: bool = False
    forked_ns: dict[ShardKey, int] = field(default_factory=dict)
    """Workers of this incarnation that were forked and are not ready; those that rejoin are not among them."""
    launched: dict[ShardKey, tuple[NodeId, WorkerPlan]] = field(default_factory=dict)
    """Workers that nobody has forked yet."""
    rejoining: dict[ShardKey, tuple[NodeId, WorkerPlan]] = field(default_factory=dict)
    settled: set[tuple[ShardKey, Step, Incarnation]] = field(default_factory=set)
    dropped: set[tuple[Step, Incarnation]] = field(default_factory=set)
    sealed: dict[tuple[Step, Incarnation], dict[ShardKey, int]] = field(default_factory=dict)
    """Digests of the shards of the newest snapshots."""
    drains: dict[NodeId, DrainShards] = field(default_factory=dict)
    finishing: FinishDrain | None = None
    on_disk: dict[Step, str] = field(default_factory=dict)
    fenced: dict[NodeId, None] = field(default_factory=dict)
    """Nodes that were told to come back as another boot and have not."""
    end: EndRun | None = None

    # --- what agents said -------------------------------------------------------------------------------------------

    def saw(self, event: AnyEvent) -> None:
        """An event of the journal."""
        match event:
            case NodeJoined():
                self._joined(event)
            case NodeDisconnected() | NodeExited() | NodeSilent():
                self._gone(event)
            case WorkerForked() | WorkerReady() | WorkerExited() | WorkerStalled() | WorkerHeld():
                self._worker(event)
            case StepCompleted():
                if self.start is not None and event.incarnation == self.start.incarnation:
                    self.steps[event.group] = event.step
                    self.begun_ns = self.at_ns
            case ShardSealed():
                self.nodes[event.node].memory.put(event.shard)
                snapshot = self.sealed.setdefault((event.shard.step, event.shard.incarnation), {})
                snapshot[event.shard.group, event.shard.rank] = int(event.digest or "0", 16)
            case ShardReplicated():
                self.nodes[event.node].memory.put(event.shard)
            case ShardFetched():
                key, node = (event.shard.group, event.shard.rank), self.nodes[event.node]
                node.memory.store_for_restore(event.shard, own=key in self.launched or key in node.workers)
            case SnapshotSkipped():
                self.settled.add(((event.group, event.rank), event.step, event.incarnation))
            case ShardDrained() | DrainFailed():
                self.drains.pop(event.node, None)
            case SnapshotDrained():
                self.finishing = None
                self.on_disk[event.step] = event.path
            case _:
                pass

    def _joined(self, event: NodeJoined) -> None:
        node = self.nodes.get(event.node)
        if node is None or node.boot != event.boot or not node.alive:
            node = SimNode(
                name=event.node,
                pool=event.pool,
                boot=event.boot,
                devices=event.devices,
                fault_domain=event.fault_domain,
            )
            for shard in event.shards:
                node.memory.put(shard)
            self.nodes[event.node] = node
            self.fenced.pop(event.node, None)
        node.address, node.port, node.connected = event.address, event.port, True
        alive = {(worker.group, worker.rank) for worker in event.workers}
        for key in [key for key in node.workers if key not in alive]:
            del node.workers[key]

    def _gone(self, event: NodeDisconnected | NodeExited | NodeSilent) -> None:
        node = self.nodes.get(event.node)
        if node is None or node.boot != event.boot:
            return
        if isinstance(event, NodeDisconnected):
            node.connected = False
        elif isinstance(event, NodeSilent):
            node.stopped = True
        else:
            _die(node)

    def _worker(self, event: WorkerForked | WorkerReady | WorkerExited | WorkerStalled | WorkerHeld) -> None:
        key = (event.group, event.rank)
        node = self.nodes[event.node]
        if isinstance(event, WorkerForked):
            told = self.launched.get(key)
            if told is not None and told[1].incarnation == event.incarnation:
                del self.launched[key]
                self.forked_ns[key] = self.at_ns
                node.workers[key] = SimWorker(key=key, node=node, plan=told[1], pid=event.pid)
            return
        worker = node.workers.get(key)
        if worker is None or worker.incarnation != event.incarnation:
            return
        match event:
            case WorkerReady():
                worker.state, worker.step = "ready", event.step
                self.forked_ns.pop(key, None)
                self.rejoining.pop(key, None)
            case WorkerExited():
                del node.workers[key]
                self.forked_ns.pop(key, None)
                self.rejoining.pop(key, None)
            case WorkerStalled():
                worker.stopped = True
            case WorkerHeld():
                worker.state = "held"

    # --- what the controller said -----------------------------------------------------------------------------------

    def told(self, action: AnyAction) -> None:
        """An action of the journal."""
        match action:
            case LaunchWorkers():
                node = self.nodes[action.node]
                node.memory.begin()
                for plan in action.workers:
                    self._forget((plan.group, plan.rank))
                    self.launched[plan.group, plan.rank] = (action.node, plan)
            case RejoinWorkers():
                node = self.nodes[action.node]
                node.memory.begin()
                for plan in action.workers:
                    key = (plan.group, plan.rank)
                    self._forget(key)
                    if key in node.workers:
                        self._leave(node.workers[key])
                        node.workers[key].plan, node.workers[key].state = plan, "starting"
                        self.rejoining[key] = (action.node, plan)
            case StopWorkers():
                for key in action.workers:
                    self._forget(key)
                    self.nodes[action.node].workers.pop(key, None)
            case StartSteps():
                self._started(action)
            case HoldWorkers():
                self.holding = True
            case CommitSnapshot():
                for name in action.nodes:
                    self.nodes[name].memory.commit(action.step, action.incarnation)
                for older in [one for one in self.sealed if one[0] < action.step]:
                    del self.sealed[older]
            case DropSnapshot():
                self.dropped.add((action.step, action.incarnation))
                for name in action.nodes:
                    self.nodes[name].memory.drop(action.step, action.incarnation)
            case DrainShards():
                self.drains[action.node] = action
            case FinishDrain():
                self.finishing = action
            case FenceNode():
                node = self.nodes[action.node]
                if node.boot == action.boot and not node.stopped:
                    self.fenced[action.node] = None
                _die(node)
            case EndRun():
                self.end = action
            case _:
                pass

    def _started(self, action: StartSteps) -> None:
        self.start, self.steps, self.begun_ns, self.holding = action, {}, self.at_ns, False
        self.settled = {one for one in self.settled if one[2] == action.incarnation}
        self.dropped = {one for one in self.dropped if one[1] == action.incarnation}
        groups = {share.group for share in action.shares}  # others start beside them
        for node in self.nodes.values():
            for worker in node.workers.values():
                there = worker.incarnation == action.incarnation and worker.key[0] in groups
                if there and worker.state == "ready":
                    worker.state = "stepping"

    def _leave(self, worker: SimWorker) -> None:
        """It goes over to another incarnation, with the state that it has."""
        if worker.state in ("stepping", "held") and self.start is not None:
            worker.step = self.steps.get(worker.key[0], self.start.start_step)

    def _forget(self, key: ShardKey) -> None:
        self.launched.pop(key, None)
        self.rejoining.pop(key, None)
        self.forked_ns.pop(key, None)


def _die(node: SimNode) -> None:
    node.alive = node.connected = False
    node.workers.clear()


def read_fleet(records: Sequence[Record]) -> tuple[Control, LiveFleet, tuple[Record, ...]]:
    """The controller, all outside it, and the whole journal: with the actions that a torn end left out.

    Raises IntegrityError at the first record that the replay does not give, byte for byte.
    """
    control, fleet, whole = Control(), None, list[Record]()
    for record, actions in replayed_by_event(records, control):
        event = record.event
        assert event is not None
        if isinstance(event, RunStarted):
            fleet = LiveFleet(resolved=event.resolved)
        assert fleet is not None, "a journal begins with RunStarted"
        fleet.at_ns = record.at_ns
        whole.append(record)
        fleet.saw(event)
        for action in actions:
            whole.append(Record(seq=len(whole) + 1, at_ns=record.at_ns, action=action))
            fleet.told(action)
    assert fleet is not None
    return control, fleet, tuple(whole)


# --- going on --------------------------------------------------------------------------------------------------------


def world_of(
    control: Control,
    fleet: LiveFleet,
    records: Sequence[Record],
    *,
    faults: Sequence[Fault],
    timing: Timing,
    speeds: dict[NodeId, float],
    spares: dict[PoolId, int],
    check: bool = False,
) -> World:
    """A world that goes on where the journal ended. It takes over `control` and `fleet`: both are changed by it.

    `speeds`: share of its pool's speed that a node has. `spares`: nodes more in a pool, there at once.
    """
    world = World(fleet.resolved, faults=faults, timing=timing, check=check, control=control, records=records)
    world.nodes.update(fleet.nodes)
    world.end = fleet.end
    for name, speed in speeds.items():
        if name in world.nodes:
            world.nodes[name].speed = speed
    _saved(world, fleet)
    _boot(world, fleet, spares)
    _start(world, fleet)
    _step(world, fleet)
    _save(world, fleet)
    world.inflicter.begin()
    world.wake()
    return world


def _saved(world: World, fleet: LiveFleet) -> None:
    """What is known of snapshots that were taken before."""
    saving = world.work.saving
    saving.on_disk.update(fleet.on_disk)
    saving.settled |= fleet.settled
    start = fleet.start
    sizes = {share.group: share.world_size for share in start.shares} if start is not None else {}
    for (step, incarnation), parts in fleet.sealed.items():
        if (step, incarnation) in fleet.dropped:
            continue
        sums: dict[GroupId, int] = {}
        for (group, _), part in parts.items():
            sums[group] = (sums.get(group, 0) + part) % _MODULUS
        whole = [group for group in sums if sum(1 for key in parts if key[0] == group) >= sizes.get(group, 1)]
        state = sums[whole[0]] if whole else int(saving.digest(step, 0), 16)
        saving.states[step] = state
        _fill_in(world, fleet, step, incarnation, parts, state)
    for key, step, incarnation in ((key, *one) for one in fleet.dropped for key in _keys(start)):
        saving.settled.add((key, step, incarnation))


def _fill_in(
    world: World, fleet: LiveFleet, step: Step, incarnation: Incarnation, parts: dict[ShardKey, int], state: int
) -> None:
    """What shards that are still to be sealed will say, so that every group's sum is the state's."""
    given: dict[GroupId, int] = {}
    for (group, _), part in parts.items():
        given[group] = (given.get(group, 0) + part) % _MODULUS
    for key in _keys(fleet.start):
        if key not in parts and given.get(key[0]) is not None:
            world.work.saving.parts[key, step, incarnation] = (state - given[key[0]]) % _MODULUS
            given[key[0]] = state


def _keys(start: StartSteps | None) -> list[ShardKey]:
    """All workers of the incarnation."""
    return [(endpoint.group, endpoint.rank) for endpoint in start.endpoints] if start is not None else []


def _boot(world: World, fleet: LiveFleet, spares: dict[PoolId, int]) -> None:
    """Nodes that are on their way, and those that are added."""
    waiting = world.control.view().phase == "waiting"
    for pool in world.resolved.fleet.pools:
        for index in range(pool.nodes + pool.spares):
            name = NodeId(f"{pool.name}-{index}")
            if waiting and name not in world.nodes:
                world.boot(name, PoolId(pool.name), after_s=world.timing.join_s)
        for more in range(spares.get(PoolId(pool.name), 0)):
            name = NodeId(f"{pool.name}-{pool.nodes + pool.spares + more}")
            world.boot(name, PoolId(pool.name), after_s=0.0)
    for name in fleet.fenced:
        world.boot(name, world.nodes[name].pool, after_s=world.timing.rejoin_s)


def _start(world: World, fleet: LiveFleet) -> None:
    """Workers on their way to readiness."""
    starting = world.work.starting
    launches: dict[NodeId, list[WorkerPlan]] = {}
    rejoins: dict[NodeId, list[WorkerPlan]] = {}
    for told, by_node in ((fleet.launched, launches), (fleet.rejoining, rejoins)):
        for name, plan in told.values():
            if world.nodes[name].alive and not world.nodes[name].stopped:
                by_node.setdefault(name, []).append(plan)
    for name, plans in launches.items():
        starting.launch(world.nodes[name], plans)
    for name, plans in rejoins.items():
        starting.rejoin(world.nodes[name], plans)
    groups = {key[0] for key in fleet.launched}
    now_ns = world.clock.now_ns
    for key, since_ns in fleet.forked_ns.items():
        for node in world.nodes.values():
            worker = node.workers.get(key)
            if worker is None:
                continue
            if key[0] in groups:
                starting.wait_for_rest(worker, since_ns=since_ns)
            else:
                starting.build(worker, since_ns=since_ns, met_ns=now_ns)


def _step(world: World, fleet: LiveFleet) -> None:
    """The step under way."""
    start = fleet.start
    if start is None or fleet.end is not None or start.incarnation != world.control.view().incarnation:
        return
    stride = Stride(incarnation=start.incarnation, step=Step(max([start.start_step, *fleet.steps.values()])))
    stride.holding = fleet.holding
    for node in world.nodes.values():
        for key, worker in node.workers.items():
            if worker.incarnation == start.incarnation and worker.state in ("stepping", "held"):
                stride.workers[key] = worker
    stride.workers = {key: stride.workers[key] for key in _keys(start) if key in stride.workers}
    late = [share.group for share in start.shares if fleet.steps.get(share.group, start.start_step) < stride.step]
    world.work.stepping.resume(start, stride, begun_ns=fleet.begun_ns, late=late)


def _save(world: World, fleet: LiveFleet) -> None:
    """Copies and writes under way."""
    saving = world.work.saving
    for node in list(world.nodes.values()):
        for worker in node.workers.values():
            for shard in node.memory.held():
                mine = (shard.group, shard.rank) == worker.key and shard.incarnation == worker.incarnation
                if not mine or shard.committed or shard.role != "own":
                    continue
                for target in worker.plan.copy_nodes:
                    taker = world.nodes.get(target)
                    if taker is not None and not taker.memory.has(*worker.key, shard.step, shard.incarnation):
                        saving.send_copy(worker, shard, target)
    for name, drain in fleet.drains.items():
        if world.nodes[name].alive:
            saving.drain(world.nodes[name], drain)
    if fleet.finishing is not None and world.nodes[fleet.finishing.node].alive:
        world.clock.after(
            world.timing.latency_s, partial(saving.finish_drain, world.nodes[fleet.finishing.node], fleet.finishing)
        )
