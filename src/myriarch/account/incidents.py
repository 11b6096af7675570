"""What went wrong, when, and how long each part of the way back took.

An incident begins at its *fault*. Nobody sees the fault itself; of its instant there are four kinds of evidence, best
first, and the report says which one it had:

- `injected`: the fault was inflicted on purpose, and the journal says when;
- `silence`: the failure detector measured for how long nothing had come;
- `last_sign_of_life`: the latest event or span of what was lost. The fault came later, so detection looks slower
  than it was, never faster;
- `detection`: nothing is known before the first trouble.

Then come the first trouble that anybody noticed (*detected*), control's decision (*decided*), all workers of the next
incarnation ready (*restored*) and the first step that they complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from msgspec.structs import replace

from myriarch.account.lineage import Lineage
from myriarch.event.actions import Decide, LaunchWorkers, LogMembership, RejoinWorkers, StartSteps, WorkerPlan
from myriarch.event.base import Value
from myriarch.event.events import (
    FaultInjected,
    NodeDisconnected,
    NodeExited,
    NodeJoined,
    NodeSilent,
    Phase,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerReady,
    WorkerStalled,
)
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank
from myriarch.units import NS_PER_S

Evidence = Literal["injected", "silence", "last_sign_of_life", "detection"]
Worker = tuple[GroupId, Rank]

HALTING: Final = frozenset({"wait_for_group", "stop_user_error", "give_up"})
"""Choices that leave the job without steps although they begin no incarnation."""


class Loss(Value, frozen=True, kw_only=True):
    """A node was gone for `[fault_ns, back_ns)`; `back_ns` None: it still is."""

    node: NodeId
    fault_ns: int
    evidence: Evidence
    back_ns: int | None = None


class Decision(Value, frozen=True, kw_only=True):
    """A `Decide` of an incident."""

    at_ns: int
    choice: str
    incarnation: Incarnation
    reason: str
    starts: bool
    """It began a new incarnation."""


class Incident(Value, frozen=True, kw_only=True):
    """One fault and the way back from it. An instant that did not come (yet) is None."""

    number: int
    """As in the journal; 0: control has not decided yet."""
    what: str
    """`node fast-1: killed by SIGKILL`, for people."""
    lost_nodes: tuple[NodeId, ...]
    lost_workers: tuple[Worker, ...]
    fault_ns: int
    evidence: Evidence
    detected_ns: int
    decisions: tuple[Decision, ...] = ()
    forked_ns: int | None = None
    """The worker that was ready last had been forked."""
    phases: tuple[Phase, ...] = ()
    """That worker's way from its fork to its readiness: what everybody waited for."""
    restored_ns: int | None = None
    first_step_ns: int | None = None
    lost_steps: int | None = None
    """Completed steps that it cost: to be done again, or gone with the run. None: not known yet."""
    left_out: tuple[GroupId, ...] = ()
    """Groups that stepped before it and that the others went on without."""
    rejoined_ns: int | None = None
    """All of those that the run was to have stepped again."""

    @property
    def decided_ns(self) -> int | None:
        return self.decisions[0].at_ns if self.decisions else None

    @property
    def interrupts(self) -> bool:
        """The job had to form anew, or could not go on as it was."""
        return not self.decisions or any(d.starts or d.choice in HALTING for d in self.decisions)

    @property
    def incarnation(self) -> Incarnation | None:
        """The first incarnation that the incident's decisions began."""
        return next((decision.incarnation for decision in self.decisions if decision.starts), None)


class Faults(Value, frozen=True, kw_only=True):
    """All that went wrong in a run."""

    incidents: tuple[Incident, ...] = ()
    losses: tuple[Loss, ...] = ()
    planned: tuple[Decision, ...] = ()
    """Later formations that answer no fault: a group that was missing is taken back."""


class _Trouble(Value, frozen=True, kw_only=True):
    """Something bad that was seen and that no decision has answered yet."""

    at_ns: int
    node: NodeId
    worker: Worker | None
    text: str
    silent_ns: int | None = None
    certain: bool = True
    """False for a closed connection: the node may come back."""
    symptom: bool = False
    """A collective failed, most likely because somebody else died."""


LastSpan = Callable[[NodeId, int], int | None]
"""`(node, before_ns)`: end of the latest span of the node's devices that ended by then."""


def find_faults(timeline: Sequence[tuple[int, object]], last_span: LastSpan) -> Faults:
    """Read a journal's incidents and losses. Pure; one pass."""
    reader = _Reader(last_span)
    for at_ns, what in timeline:
        reader.take(at_ns, what)
    return reader.finish()


def with_lost_steps(faults: Faults, lineage: Lineage, completed: Iterable[tuple[Incarnation, int]]) -> Faults:
    """Charge every lost step to the incident that cost it. `completed`: `(incarnation, step)` as in `Span.step`.

    A step is lost by the first later incarnation that went on from before it. Several incidents may stand between two
    incarnations that stepped (a second fault on the way back from the first): the earliest broke the run, and pays.
    What the run's end takes is charged to the incident that ended it.
    """
    started = [Incarnation(0), *(number for number, _ in lineage.starts)]
    costs = {incident.number: 0 for incident in faults.incidents}
    for incarnation, step in sorted(set(completed)):
        if lineage.fate(incarnation, step) != "lost":
            continue
        by = next((number for number, start in lineage.starts if number > incarnation and start <= step), None)
        if by is None:
            guilty = next((one for one in reversed(faults.incidents) if one.restored_ns is None), None)
        else:
            before = started[started.index(by) - 1]
            guilty = next((one for one in faults.incidents if before < (one.incarnation or 0) <= by), None)
        if guilty is not None:
            costs[guilty.number] += 1
    known = {one.number for one in faults.incidents if one.incarnation is not None or lineage.kept_steps is not None}
    return replace(
        faults,
        incidents=tuple(
            replace(one, lost_steps=costs[one.number] if one.number in known else None) for one in faults.incidents
        ),
    )


class _Reader:
    """Walks a journal once.

    Invariants: a node is in `_losses_open` from its loss until it joins again; a trouble stays in `_troubles` until a
    decision answers it or time shows that it was none.
    """

    def __init__(self, last_span: LastSpan) -> None:
        self._last_span = last_span
        self._boots: dict[NodeId, str] = {}
        self._seen_ns: dict[NodeId, int] = {}
        self._stepped_ns: dict[GroupId, int] = {}
        """A step of a group is a sign of life of all its nodes."""
        self._places: dict[Worker, NodeId] = {}
        """Where each worker of the newest incarnation, `_placed`, runs."""
        self._placed = Incarnation(0)
        self._incarnation = Incarnation(0)
        self._injected: list[tuple[int, FaultInjected]] = []
        self._troubles: list[_Trouble] = []
        self._losses_open: dict[NodeId, Loss] = {}
        self._losses: list[Loss] = []
        self._incidents: dict[int, Incident] = {}
        self._open: set[int] = set()
        """Incidents that have been decided about and have no first step yet."""
        self._planned: list[Decision] = []
        self._groups: tuple[GroupId, ...] = ()
        """Those that step, or stepped last."""
        self._forks: dict[Worker, int] = {}
        self._last_step_ns = -1

    def take(self, at_ns: int, what: object) -> None:
        match what:
            case FaultInjected(action="kill" | "stop"):
                self._injected.append((at_ns, what))
            case FaultInjected(action="resume", nodes=nodes):
                self._injected = [(at, old) for at, old in self._injected if not _resumed(old, nodes)]
            case NodeJoined():
                self._joined(at_ns, what)
            case NodeDisconnected() | NodeExited() | NodeSilent():
                self._node_trouble(at_ns, what)
            case WorkerExited() | WorkerStalled():
                self._worker_trouble(at_ns, what)
            case LogMembership(node=node, role="lost" | "fenced"):
                self._lose(node, at_ns)
            case Decide():
                self._decided(at_ns, what)
            case LaunchWorkers(workers=plans, node=node) | RejoinWorkers(workers=plans, node=node):
                for plan in plans:
                    self._place(plan, node)
            case WorkerForked(group=group, rank=rank, node=node):
                self._forks[group, rank] = at_ns
                self._seen_ns[node] = at_ns
            case WorkerReady():
                self._ready(at_ns, what)
            case StartSteps():
                self._started(at_ns, what)
            case StepCompleted():
                self._stepped(at_ns, what)
            case _:
                named = getattr(what, "node", None)
                if isinstance(named, str) and not hasattr(what, "reason"):  # an event of the node, not an order to it
                    self._seen_ns[NodeId(named)] = at_ns

    def finish(self) -> Faults:
        """What is known at the end. Troubles that nobody answered are an incident without a decision."""
        open_troubles = [t for t in self._troubles if t.certain and t.at_ns >= self._last_step_ns]
        incidents = list(self._incidents.values())
        if open_troubles:
            nodes = tuple(dict.fromkeys(t.node for t in open_troubles if t.worker is None))
            workers = tuple(dict.fromkeys(t.worker for t in open_troubles if t.worker is not None))
            incidents.append(self._begin(0, open_troubles, nodes, workers, open_troubles[0].at_ns))
        return Faults(
            incidents=tuple(incidents),
            losses=(*self._losses, *self._losses_open.values()),
            planned=tuple(self._planned),
        )

    # --- nodes and workers ---

    def _place(self, plan: WorkerPlan, node: NodeId) -> None:
        if plan.incarnation > self._placed:
            self._places.clear()  # who has no place in the new incarnation has none at all
            self._placed = plan.incarnation
        self._places[plan.group, plan.rank] = node
        self._incarnation = max(self._incarnation, plan.incarnation)

    def _joined(self, at_ns: int, event: NodeJoined) -> None:
        node = event.node
        self._troubles = [t for t in self._troubles if t.certain or t.node != node]
        if node in self._losses_open:
            loss = self._losses_open.pop(node)
            self._losses.append(replace(loss, back_ns=max(at_ns, loss.fault_ns)))
        self._boots[node] = event.boot
        self._seen_ns[node] = at_ns

    def _node_trouble(self, at_ns: int, event: NodeDisconnected | NodeExited | NodeSilent) -> None:
        node = event.node
        if node in self._losses_open or self._boots.get(node, event.boot) != event.boot:
            return
        silent_ns = round(event.silent_s * NS_PER_S) if isinstance(event, NodeSilent) else None
        detail = f"silent for {event.silent_s:.1f} s" if isinstance(event, NodeSilent) else event.detail
        trouble = _Trouble(
            at_ns=at_ns,
            node=node,
            worker=None,
            text=f"node {node}: {detail or 'gone'}",
            silent_ns=silent_ns,
            certain=not isinstance(event, NodeDisconnected),
        )
        if node in self._places.values():
            self._troubles.append(trouble)
        if isinstance(event, NodeExited):
            self._lose(node, at_ns)

    def _worker_trouble(self, at_ns: int, event: WorkerExited | WorkerStalled) -> None:
        # Workers of an incarnation that was given up are stopped by their agents: that is the answer, not the trouble.
        finished = isinstance(event, WorkerExited) and event.cause == "finished"
        if finished or event.incarnation < self._incarnation or event.node in self._losses_open:
            return
        worker = (event.group, event.rank)
        if isinstance(event, WorkerStalled):
            silent_ns, text = round(event.stalled_s * NS_PER_S), f"no progress for {event.stalled_s:.1f} s"
        else:
            silent_ns, text = None, _cause_text(event)
        self._troubles.append(
            _Trouble(
                at_ns=at_ns,
                node=event.node,
                worker=worker,
                text=f"worker {event.group}/{event.rank}: {text}",
                silent_ns=silent_ns,
                symptom=isinstance(event, WorkerExited) and event.cause == "collective_error",
            )
        )

    def _lose(self, node: NodeId, at_ns: int) -> None:
        if node in self._losses_open:
            return
        troubles = [t for t in self._troubles if t.node == node and t.worker is None]
        detected_ns = troubles[0].at_ns if troubles else at_ns
        fault_ns, evidence = self._fault(troubles, {node}, detected_ns, at_ns)
        self._losses_open[node] = Loss(node=node, fault_ns=fault_ns, evidence=evidence)

    # --- the way back ---

    def _decided(self, at_ns: int, decide: Decide) -> None:
        starts = decide.incarnation > self._incarnation
        self._incarnation = max(self._incarnation, decide.incarnation)
        for node in decide.lost_nodes:
            self._lose(node, at_ns)
        decision = Decision(
            at_ns=at_ns,
            choice=decide.choice,
            incarnation=decide.incarnation,
            reason=decide.reason.text,
            starts=starts,
        )
        if decide.choice in ("form", "readmit_group", "rebalance") and decide.incident not in self._incidents:
            if decide.choice != "form":
                self._planned.append(decision)
            return
        if decide.incident not in self._incidents:
            self._incidents[decide.incident] = self._begin(
                decide.incident,
                self._troubles,
                decide.lost_nodes,
                decide.lost_workers,
                at_ns,
                otherwise=decide.reason.text,
            )
            self._open.add(decide.incident)
        # A decision answers everything that was known when it was made.
        self._troubles = []
        incident = self._incidents[decide.incident]
        out = tuple(group for group in self._groups if starts and group not in decide.groups)
        self._incidents[decide.incident] = replace(
            incident,
            left_out=(*incident.left_out, *out),
            decisions=(*incident.decisions, decision),
            lost_nodes=tuple(dict.fromkeys((*incident.lost_nodes, *decide.lost_nodes))),
            lost_workers=tuple(dict.fromkeys((*incident.lost_workers, *decide.lost_workers))),
        )

    def _begin(
        self,
        number: int,
        troubles: Sequence[_Trouble],
        nodes: tuple[NodeId, ...],
        workers: tuple[Worker, ...],
        decided_ns: int,
        *,
        otherwise: str = "no device was lost",
    ) -> Incident:
        detected_ns = min((t.at_ns for t in troubles), default=decided_ns)
        places = {self._places[worker] for worker in workers if worker in self._places} | set(nodes)
        losses = [self._losses_open[node] for node in nodes if node in self._losses_open]
        if losses:
            first = min(losses, key=lambda loss: loss.fault_ns)
            fault_ns, evidence = min(first.fault_ns, detected_ns), first.evidence
        else:
            fault_ns, evidence = self._fault(troubles, places, detected_ns, decided_ns)
        # Failed collectives and closed connections are noticed first; the exit that follows says what it was.
        told = sorted(troubles, key=lambda trouble: (trouble.symptom, not trouble.certain))
        names = [f"node {node}" for node in nodes] + [f"worker {group}/{rank}" for group, rank in workers]
        return Incident(
            number=number,
            what=told[0].text if told else ", ".join(names) or otherwise,
            lost_nodes=nodes,
            lost_workers=workers,
            fault_ns=fault_ns,
            evidence=evidence,
            detected_ns=detected_ns,
        )

    def _ready(self, at_ns: int, event: WorkerReady) -> None:
        """The worker that is ready last is the one that all waited for: its phases are the incident's."""
        self._seen_ns[event.node] = at_ns
        forked_ns = self._forks.get((event.group, event.rank))
        for number in self._open:
            incident = self._incidents[number]
            decided_ns = incident.decided_ns
            waits = incident.restored_ns is None and decided_ns is not None and event.group not in incident.left_out
            if not waits or event.incarnation < (incident.incarnation or self._incarnation + 1):
                continue
            self._incidents[number] = replace(
                incident,
                forked_ns=forked_ns if forked_ns is not None and forked_ns >= (decided_ns or 0) else None,
                phases=event.phases,
            )

    def _started(self, at_ns: int, start: StartSteps) -> None:
        self._incarnation = max(self._incarnation, start.incarnation)
        self._groups = tuple(share.group for share in start.shares)
        for number, incident in self._incidents.items():
            if incident.left_out and incident.rejoined_ns is None and set(incident.left_out) <= set(self._groups):
                self._incidents[number] = replace(incident, rejoined_ns=at_ns)
        for number in sorted(self._open):
            incident = self._incidents[number]
            began = incident.incarnation
            if incident.restored_ns is None and began is not None and start.incarnation >= began:
                self._incidents[number] = replace(incident, restored_ns=at_ns)

    def _stepped(self, at_ns: int, event: StepCompleted) -> None:
        if event.incarnation < self._incarnation:
            return  # reported late by a group whose incarnation was given up
        self._last_step_ns = at_ns
        self._troubles = [t for t in self._troubles if t.certain]
        self._stepped_ns[event.group] = at_ns
        for number in sorted(self._open):
            if self._incidents[number].restored_ns is not None:
                self._incidents[number] = replace(self._incidents[number], first_step_ns=at_ns)
                self._open.discard(number)

    # --- the fault's instant ---

    def _fault(
        self, troubles: Sequence[_Trouble], nodes: set[NodeId], detected_ns: int, known_ns: int
    ) -> tuple[int, Evidence]:
        """When it happened, at the latest `detected_ns`, and how we know."""
        injected = [entry for entry in self._injected if nodes & set(entry[1].nodes) and entry[0] <= known_ns]
        if injected:
            best = max(injected, key=lambda entry: (entry[0] <= detected_ns, entry[0]))
            self._injected.remove(best)
            return min(best[0], detected_ns), "injected"
        silences = [t.at_ns - t.silent_ns for t in troubles if t.silent_ns is not None]
        if silences:
            return min(*silences, detected_ns), "silence"
        groups = {group for (group, _), node in self._places.items() if node in nodes}
        signs = [self._seen_ns[node] for node in nodes if node in self._seen_ns]
        signs += [self._stepped_ns[group] for group in groups if group in self._stepped_ns]
        signs += [end for node in nodes if (end := self._last_span(node, detected_ns)) is not None]
        if signs:
            return min(max(signs), detected_ns), "last_sign_of_life"
        return detected_ns, "detection"


def _resumed(old: FaultInjected, nodes: tuple[NodeId, ...]) -> bool:
    return old.action == "stop" and bool(set(old.nodes) & set(nodes))


def _cause_text(event: WorkerExited) -> str:
    first_line = event.detail.strip().splitlines()[-1] if event.detail.strip() else ""
    known = {"signal": f"killed by signal {event.code}", "exit": f"exit code {event.code}"}
    return known.get(event.cause, event.cause.replace("_", " ")) + (f" ({first_line})" if first_line else "")
