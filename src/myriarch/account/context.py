"""What a device was doing as far as the journal knows: the layers below the measured spans.

Two kinds of claims come from here. *Context*: the device waits for the run to form, is a spare, is held for the last
drain, belongs to a group that the run goes on without. *Incident*: the job as a whole is in some phase of an incident,
and every device of the job that has nothing better to say is in that phase too, be it in the group that broke or in one
that waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from myriarch.account.facts import Entry
from myriarch.account.incidents import HALTING, Decision, Faults, Incident, LastSpan
from myriarch.account.paint import Claim, Layer
from myriarch.event.actions import (
    Decide,
    LaunchWorkers,
    LogMembership,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
    WorkerPlan,
)
from myriarch.event.base import Value
from myriarch.event.events import NodeJoined, StepCompleted, WorkerExited, WorkerForked, WorkerHeld, WorkerReady
from myriarch.event.ids import DeviceId, GroupId, Incarnation, NodeId, Rank, device_id
from myriarch.event.spans import LEVEL_OF, Leaf

Stage = Literal["none", "launched", "forked", "ready", "stepping", "held", "gone", "benched"]
_STARTING: tuple[Stage, ...] = ("launched", "forked", "ready")
"""On the way; where the others step without its group, it starts beside them."""
_IN_JOB: frozenset[Stage] = frozenset({"launched", "forked", "ready", "stepping", "held", "gone"})


class Context(Value, frozen=True, kw_only=True):
    """Of one device."""

    claims: tuple[Claim, ...] = ()
    in_job: tuple[tuple[int, int], ...] = ()
    """Intervals in which the job had the device."""


class _Device:
    """One device while the journal is walked. `leaf` and `in_job` hold since `since_ns`."""

    def __init__(self, node: NodeId, start_ns: int) -> None:
        self.node = node
        self.stage: Stage = "none"
        self.group: GroupId | None = None
        self.incarnation = Incarnation(0)
        self.leaf: Leaf | None = None
        self.in_job = False
        self.since_ns = start_ns
        self.claims: list[Claim] = []
        self.jobs: list[tuple[int, int]] = []

    def become(self, leaf: Leaf | None, in_job: bool, at_ns: int) -> None:
        """Close what held until now, if anything changes."""
        if (leaf, in_job) == (self.leaf, self.in_job):
            return
        self.close(at_ns)
        self.leaf, self.in_job, self.since_ns = leaf, in_job, at_ns

    def close(self, at_ns: int) -> None:
        if at_ns <= self.since_ns:
            return
        if self.leaf is not None:
            self.claims.append(Claim(start_ns=self.since_ns, end_ns=at_ns, leaf=self.leaf, layer=Layer.CONTEXT))
        if self.in_job:
            if self.jobs and self.jobs[-1][1] == self.since_ns:
                self.jobs[-1] = (self.jobs[-1][0], at_ns)
            else:
                self.jobs.append((self.since_ns, at_ns))


class _Walk:
    """Follows roles of nodes and stages of workers through a journal."""

    def __init__(
        self, devices: Iterable[tuple[DeviceId, NodeId]], timeline: Sequence[Entry], last_span: LastSpan, start_ns: int
    ) -> None:
        self._last_span = last_span
        self._devices = {device: _Device(node, start_ns) for device, node in devices}
        self._by_node: dict[NodeId, list[_Device]] = {}
        for device in self._devices.values():
            self._by_node.setdefault(device.node, []).append(device)
        self._roles: dict[NodeId, str] = {}
        self._first_roles: dict[NodeId, str] = {}
        """What each node was first taken for: a spare is one from the run's beginning."""
        for _, what in timeline:
            if isinstance(what, LogMembership) and what.role in ("active", "spare"):
                self._first_roles.setdefault(what.node, what.role)
        self._workers: dict[tuple[GroupId, Rank], _Device] = {}
        self._first: Incarnation | None = None
        """The incarnation that the run began with."""
        self._formed = False
        self._groups: frozenset[GroupId] = frozenset()
        """Groups that the present or coming incarnation is made of."""
        self._refresh(self._devices.values(), start_ns)

    def take(self, at_ns: int, what: object) -> None:
        match what:
            case NodeJoined(node=node):
                if self._roles.get(node) in ("lost", "fenced"):
                    self._roles[node] = "waiting"
                self._refresh(self._by_node.get(node, ()), at_ns)
            case LogMembership(node=node, role=role):
                self._roles[node] = role
                for device in self._by_node.get(node, ()):
                    if role in ("lost", "fenced", "spare") and device.stage != "none":
                        device.stage = "benched"
                self._refresh(self._by_node.get(node, ()), at_ns)
            case Decide(groups=groups) if groups:
                self._groups = frozenset(groups)
            case LaunchWorkers(node=node, workers=plans) | RejoinWorkers(node=node, workers=plans):
                self._roles[node] = "active"
                for plan in plans:
                    self._assign(node, plan, "launched" if isinstance(what, LaunchWorkers) else "forked")
                self._refresh(self._by_node.get(node, ()), at_ns)
            case StopWorkers(workers=workers):
                for group, rank in workers:
                    self._move(group, rank, "gone", at_ns)
            case WorkerForked(group=group, rank=rank):
                self._move(group, rank, "forked", at_ns)
            case WorkerReady(group=group, rank=rank):
                self._move(group, rank, "ready", at_ns)
            case WorkerHeld(node=node, group=group, rank=rank):
                # It may have waited for long before the word came through: a controller that was away was told later.
                self._move(group, rank, "held", self._last_span(node, at_ns) or at_ns)
            case WorkerExited(group=group, rank=rank, incarnation=incarnation):
                worker = self._workers.get((group, rank))
                if worker is not None and worker.incarnation == incarnation and worker.stage != "held":
                    self._move(group, rank, "gone", at_ns)
            case StartSteps():
                self._start(what, at_ns)
            case _:
                pass

    def finish(self, end_ns: int) -> dict[DeviceId, Context]:
        for device in self._devices.values():
            device.close(end_ns)
        return {
            name: Context(claims=tuple(device.claims), in_job=tuple(device.jobs))
            for name, device in self._devices.items()
        }

    def _assign(self, node: NodeId, plan: WorkerPlan, stage: Stage) -> None:
        device = self._devices.get(device_id(node, plan.device_index))
        if device is None:
            return
        device.stage, device.group, device.incarnation = stage, plan.group, plan.incarnation
        self._workers[plan.group, plan.rank] = device
        self._first = plan.incarnation if self._first is None else self._first

    def _move(self, group: GroupId, rank: Rank, stage: Stage, at_ns: int) -> None:
        device = self._workers.get((group, rank))
        if device is not None and device.stage not in ("none", "benched"):
            device.stage = stage
            self._refresh((device,), max(at_ns, device.since_ns))

    def _start(self, start: StartSteps, at_ns: int) -> None:
        self._formed = True
        self._groups = frozenset(share.group for share in start.shares)
        for device in self._devices.values():
            if device.group in self._groups:
                device.stage = "stepping" if device.incarnation == start.incarnation else "benched"
            elif device.stage not in ("none", *_STARTING):
                device.stage = "benched"
        self._refresh(self._devices.values(), at_ns)

    def _refresh(self, devices: Iterable[_Device], at_ns: int) -> None:
        for device in devices:
            in_job = device.stage in _IN_JOB and self._roles.get(device.node) not in ("lost", "fenced", "spare")
            device.become(self._leaf(device), in_job, at_ns)

    def _leaf(self, device: _Device) -> Leaf | None:
        """What an otherwise unexplained nanosecond of the device is, as things stand."""
        role = self._roles.get(device.node)
        if role in ("lost", "fenced"):
            return "repair"
        if device.stage == "benched" and device.group not in self._groups:
            return "degraded"
        if role == "spare" or (device.stage == "none" and self._first_roles.get(device.node) == "spare"):
            return "idle_reserved_spare"
        again = self._first is not None and device.incarnation > self._first
        match device.stage:
            case "none":
                if not self._formed:
                    return "queue_to_start"
                return "idle_waiting_gang" if role == "waiting" else "idle_fragmented"
            case "launched":
                return "restart" if again else "queue_to_start"
            case "forked" | "ready":
                return "restart" if again else "rendezvous"
            case "held":
                return "checkpoint_stall"
            case "benched":
                return "idle_waiting_gang" if role == "waiting" else "idle_fragmented"
            case "stepping" | "gone":
                return None


def contexts(
    devices: Iterable[tuple[DeviceId, NodeId]],
    timeline: Sequence[Entry],
    last_span: LastSpan,
    *,
    start_ns: int,
    end_ns: int,
) -> dict[DeviceId, Context]:
    """The context of each device, from the run's first record to its end."""
    walk = _Walk(devices, timeline, last_span, start_ns)
    for at_ns, what in timeline:
        walk.take(at_ns, what)
    return walk.finish(end_ns)


def incident_claims(faults: Faults, timeline: Sequence[Entry], *, end_ns: int) -> tuple[Claim, ...]:
    """The phases of all incidents that interrupted the job, for devices that have nothing better to say.

    A later incident outranks an earlier one that is not over: what is waited for then is the answer to the later.
    """
    starts = [(at_ns, what.incarnation) for at_ns, what in timeline if isinstance(what, StartSteps)]
    turns = sorted(
        decision.at_ns
        for decision in (*(d for i in faults.incidents for d in i.decisions), *faults.planned)
        if decision.starts or decision.choice in HALTING
    )

    def until_ns(decision: Decision) -> int:
        """When something else is decided, or the run steps again."""
        later = [turn for turn in turns if turn > decision.at_ns]
        later += [at for at, incarnation in starts if at >= decision.at_ns and incarnation >= decision.incarnation]
        return min(later, default=end_ns)

    claims = [_claim(d.at_ns, until_ns(d), "restart", 0) for d in faults.planned]
    for order, incident in enumerate(faults.incidents, start=1):
        if not incident.interrupts:
            continue
        decided_ns = incident.decided_ns if incident.decided_ns is not None else end_ns
        claims.append(_claim(incident.fault_ns, incident.detected_ns, "detect", order))
        claims.append(_claim(incident.detected_ns, decided_ns, "diagnose", order))
        claims.append(_claim(_step_began_ns(timeline, incident.fault_ns), incident.fault_ns, "lost_work", order))
        for decision in incident.decisions:
            if not decision.starts and decision.choice not in HALTING:
                continue
            claims.append(_claim(decision.at_ns, until_ns(decision), _leaf_of(decision.choice), order))
        claims += _way_back(incident, order, end_ns)
    return tuple(claims)


def _step_began_ns(timeline: Sequence[Entry], fault_ns: int) -> int:
    """When the step began that was under way at the fault; the fault's instant if there was none.

    That step was never completed, and the killed workers took their account of it with them: for them it is lost work.
    """
    began_ns = fault_ns
    for at_ns, what in timeline:
        if at_ns > fault_ns:
            break
        if isinstance(what, StartSteps | StepCompleted):
            began_ns = at_ns
        elif isinstance(what, WorkerHeld | LaunchWorkers):
            began_ns = fault_ns
    return began_ns


def _way_back(incident: Incident, order: int, end_ns: int) -> list[Claim]:
    """From the fork of the worker that all waited for, until the go: its phases, and `restart` between them."""
    decided_ns, forked_ns = incident.decided_ns, incident.forked_ns
    restored_ns = incident.restored_ns if incident.restored_ns is not None else end_ns
    if decided_ns is None:
        return []
    claims = [
        _claim(max(phase.start_ns, decided_ns), min(phase.end_ns, restored_ns), restart_leaf(phase.leaf), order)
        for phase in incident.phases
    ]
    if forked_ns is not None:
        claims.append(_claim(forked_ns, restored_ns, "restart", order))
    return claims


def restart_leaf(leaf: Leaf) -> Leaf:
    """Starting again is the price of the fault: what the first start calls `rendezvous` is `restart` now."""
    return "restart" if LEVEL_OF[leaf] == "start" else leaf


def _leaf_of(choice: str) -> Leaf:
    if choice in ("replace_node", "wait_for_group"):
        return "replace"
    return "diagnose" if choice in HALTING else "restart"


def _claim(start_ns: int, end_ns: int, leaf: Leaf, order: int) -> Claim:
    return Claim(start_ns=start_ns, end_ns=end_ns, leaf=leaf, layer=Layer.INCIDENT, incarnation=order)
