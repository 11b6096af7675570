"""A run as the ledger sees it: its devices, its clock, who says what about each device, and what became of each step.

Built from two sources that know nothing of each other: the journal (what control saw and decided, on the controller's
clock) and the workers' spans (what they did, on their own clocks). Neither is trusted to be complete or consistent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from myriarch.account.context import Context, contexts, incident_claims, restart_leaf
from myriarch.account.facts import Entry, Facts, StepFact, devices_of_groups, first_incarnation, gather, timeline_of
from myriarch.account.incidents import Faults, LastSpan, find_faults, with_lost_steps
from myriarch.account.lineage import Lineage, lineage_of
from myriarch.account.paint import Claim, Layer
from myriarch.errors import LedgerError
from myriarch.event.actions import EndRun, StartSteps
from myriarch.event.base import Value
from myriarch.event.events import RunStarted
from myriarch.event.ids import DeviceId, GroupId, Incarnation, NodeId, PoolId, device_id
from myriarch.event.journal import Record
from myriarch.event.spans import LEVEL_OF, Leaf, Span
from myriarch.spec.fleet import Fleet
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S

_WAITS: frozenset[Leaf] = frozenset({"exposed_comm", "pipeline_bubble", "straggler_wait", "data_stall", "host_sync"})
"""Leaves of a step in which the device waits for something: after a fault it waits for the way back instead."""
_GUESSES: frozenset[Leaf] = frozenset({"detect", "diagnose", "replace", "restart"})
"""What a worker calls its time when it waits for the way back. The journal knows which part of the way it was."""


class Device(Value, frozen=True, kw_only=True):
    """One accelerator of the fleet file."""

    id: DeviceId
    node: NodeId
    pool: PoolId


class Intake(Value, frozen=True, kw_only=True):
    """What was wrong with the spans that came in. Nothing of it can unbalance the ledger."""

    taken: int = 0
    duplicates: int = 0
    clipped: int = 0
    """Reached out of the time in which the run owned the device; the part inside was taken."""
    negative: int = 0
    """Ended before they began: dropped."""
    foreign: int = 0
    """Of a device that the fleet does not have: dropped."""
    unknown_nodes: tuple[NodeId, ...] = ()
    """Nodes of the journal that the fleet file does not have."""


class History(Value, frozen=True, kw_only=True):
    """See the module. Build it with `History.from_records`."""

    run_id: str
    resolved: ResolvedRun
    start_ns: int
    end_ns: int
    end: EndRun | None
    """None: the run goes on, or nobody lived to say that it ended."""
    running: bool
    """The run goes on, and `end_ns` is the present."""
    devices: tuple[Device, ...]
    claims: dict[DeviceId, tuple[Claim, ...]]
    facts: Facts
    lineage: Lineage
    faults: Faults
    intake: Intake

    @classmethod
    def from_records(cls, records: Iterable[Record], spans: Iterable[Span], *, end_ns: int | None = None) -> History:
        """Read a run. `end_ns`: the present, for a run that goes on; else its last record's instant is its end.

        Raises LedgerError when no record says which run it is.
        """
        timeline = timeline_of(list(records))
        started = next((what for _, what in timeline if isinstance(what, RunStarted)), None)
        if started is None:
            raise LedgerError(
                "the journal has no RunStarted record, so nobody knows which devices to account for",
                hint="name a run directory with an intact journal.jsonl",
            )
        end = next((what for _, what in timeline if isinstance(what, EndRun)), None)
        start_ns, last_ns = timeline[0][0], timeline[-1][0]
        running = end is None and end_ns is not None
        stop_ns = max(end_ns, start_ns) if end_ns is not None and running else last_ns
        return _assemble(started, timeline, spans, start_ns=start_ns, end_ns=stop_ns, end=end, running=running)

    @classmethod
    def not_started(cls, resolved: ResolvedRun) -> History:
        """The history of a run whose journal is still empty: a fleet and no time."""
        return cls(
            run_id="",
            resolved=resolved,
            start_ns=0,
            end_ns=0,
            end=None,
            running=False,
            devices=fleet_devices(resolved.fleet),
            claims={},
            facts=Facts(),
            lineage=Lineage(starts=()),
            faults=Faults(),
            intake=Intake(),
        )

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


def fleet_devices(fleet: Fleet) -> tuple[Device, ...]:
    """All devices of the fleet file, spares included, in its order."""
    devices: list[Device] = []
    for pool in fleet.pools:
        for place in range(pool.nodes + pool.spares):
            node = NodeId(f"{pool.name}-{place}")
            devices += [
                Device(id=device_id(node, index), node=node, pool=PoolId(pool.name))
                for index in range(pool.devices_per_node)
            ]
    return tuple(devices)


def _assemble(
    started: RunStarted,
    timeline: Sequence[Entry],
    spans: Iterable[Span],
    *,
    start_ns: int,
    end_ns: int,
    end: EndRun | None,
    running: bool,
) -> History:
    devices = fleet_devices(started.resolved.fleet)
    nodes = {device.id: device.node for device in devices}
    facts = gather(timeline)
    measured, intake = _measured(spans, nodes, facts, timeline, start_ns=start_ns, end_ns=end_ns)
    last_span = _last_span(measured, nodes)
    faults = find_faults(timeline, last_span)
    context = contexts(nodes.items(), timeline, last_span, start_ns=start_ns, end_ns=end_ns)
    journal_claims = _journal_claims(devices, context, faults, timeline, end_ns)
    counted = _counted(facts, measured)
    cuts = _cuts(faults, end_ns)
    lineage = lineage_of(timeline)
    first = first_incarnation(facts)
    claims = {device.id: (*counted.get(device.id, ()), *journal_claims[device.id]) for device in devices}
    for device, own in measured.items():
        told = (claim for span in own for claim in _claims_of(span, cuts, again=(span.incarnation or 0) > first))
        claims[device] = (*told, *claims[device])
    return History(
        run_id=started.run_id,
        resolved=started.resolved,
        start_ns=start_ns,
        end_ns=end_ns,
        end=end,
        running=running,
        devices=devices,
        claims=claims,
        facts=facts,
        lineage=lineage,
        faults=with_lost_steps(faults, lineage, ((f.completed.incarnation, f.step) for f in facts.steps)),
        intake=intake,
    )


# --- what workers say ------------------------------------------------------------------------------------------------


def _measured(
    spans: Iterable[Span],
    nodes: Mapping[DeviceId, NodeId],
    facts: Facts,
    timeline: Sequence[Entry],
    *,
    start_ns: int,
    end_ns: int,
) -> tuple[dict[DeviceId, list[Span]], Intake]:
    """Spans by device, each once, inside the run's time, with their incarnation; and what was wrong with them."""
    reported = set()
    repeated = clipped = negative = foreign = 0
    for span in spans:
        if span in reported:
            repeated += 1
        elif span.end_ns < span.start_ns:
            negative += 1
        elif span.device not in nodes:
            foreign += 1
        else:
            reported.add(span)
            clipped += span.start_ns < start_ns or span.end_ns > end_ns
    begun = [(at_ns, what.incarnation) for at_ns, what in timeline if isinstance(what, StartSteps)]
    first = first_incarnation(facts)
    by_device: dict[DeviceId, list[Span]] = {}
    for span in reported.union(span for span in facts.phases if span.device in nodes):
        if span.end_ns <= start_ns or span.start_ns >= end_ns:
            continue
        incarnation = span.incarnation
        if incarnation is None:
            index = bisect_right(begun, span.start_ns, key=lambda entry: entry[0])
            incarnation = begun[index - 1][1] if index else first
        by_device.setdefault(span.device, []).append(
            Span(
                device=span.device,
                start_ns=max(span.start_ns, start_ns),
                end_ns=min(span.end_ns, end_ns),
                leaf=span.leaf,
                group=span.group,
                incarnation=incarnation,
                step=span.step,
            )
        )
    known = {NodeId(node) for node in nodes.values()}
    strange = {node: None for _, what in timeline if (node := getattr(what, "node", None)) and node not in known}
    return by_device, Intake(
        taken=len(reported),
        duplicates=repeated,
        clipped=clipped,
        negative=negative,
        foreign=foreign,
        unknown_nodes=tuple(strange),
    )


def _last_span(measured: Mapping[DeviceId, list[Span]], nodes: Mapping[DeviceId, NodeId]) -> LastSpan:
    ends: dict[NodeId, list[int]] = {}
    for device, spans in measured.items():
        ends.setdefault(nodes[device], []).extend(span.end_ns for span in spans)
    for instants in ends.values():
        instants.sort()

    def last(node: NodeId, before_ns: int) -> int | None:
        instants = ends.get(node, [])
        index = bisect_right(instants, before_ns)
        return instants[index - 1] if index else None

    return last


_Cut = tuple[int, int, int | None]
"""`(from_ns, to_ns, incarnation)`: older workers' waits in this time are the incident's. None: those of all workers."""


def _cuts(faults: Faults, end_ns: int) -> list[_Cut]:
    return [
        (
            incident.fault_ns,
            incident.restored_ns if incident.restored_ns is not None else end_ns,
            incident.incarnation,
        )
        for incident in faults.incidents
        if incident.interrupts
    ]


def _claims_of(span: Span, cuts: Sequence[_Cut], *, again: bool) -> list[Claim]:
    """A span's claims: itself, or what cuts leave of it. `again`: not of the run's first incarnation.

    A worker that waits in a collective for somebody who has died would call all that time communication. From the
    fault on it is part of the incident.
    """
    pieces = [(span.start_ns, span.end_ns)]
    span_incarnation = span.incarnation or 0
    waits, guesses = span.leaf in _WAITS, span.leaf in _GUESSES
    if waits or guesses:
        for from_ns, to_ns, incarnation in cuts:
            if incarnation is None or span_incarnation < incarnation + guesses:
                pieces = [
                    piece
                    for start, end in pieces
                    for piece in ((start, min(end, from_ns)), (max(start, to_ns), end))
                    if piece[0] < piece[1]
                ]
    return [
        Claim(
            start_ns=start,
            end_ns=end,
            leaf=restart_leaf(span.leaf) if again else span.leaf,
            layer=Layer.HINT if waits and span.step is None else Layer.MEASURED,
            incarnation=span_incarnation,
            step=span.step,
        )
        for start, end in pieces
    ]


# --- what the journal says -------------------------------------------------------------------------------------------


def _counted(facts: Facts, measured: Mapping[DeviceId, list[Span]]) -> dict[DeviceId, list[Claim]]:
    """Steps that a group completed, for those of its devices that left no span of the step.

    A killed worker takes its last spans with it; the steps that it helped to complete were done all the same. The
    event's `compute_s` is the group's compute, the rest of the step is its communication.
    """
    told = {(device, s.incarnation, s.step) for device, spans in measured.items() for s in spans if s.step is not None}
    places = devices_of_groups(facts)
    claims: dict[DeviceId, list[Claim]] = {}
    for fact in facts.steps:
        done = fact.completed
        for device in places.get((done.group, done.incarnation), ()):
            if (device, done.incarnation, fact.step) not in told:
                claims.setdefault(device, []).extend(_counted_step(fact))
    return claims


def _counted_step(fact: StepFact) -> tuple[Claim, Claim]:
    done = fact.completed
    duration_ns = max(0, round(done.duration_s * NS_PER_S))
    compute_ns = min(duration_ns, round(done.compute_s * NS_PER_S)) if done.compute_s > 0 else duration_ns
    start_ns = fact.at_ns - duration_ns

    def part(from_ns: int, to_ns: int, leaf: Leaf) -> Claim:
        return Claim(
            start_ns=from_ns,
            end_ns=to_ns,
            leaf=leaf,
            layer=Layer.COUNTED,
            incarnation=done.incarnation,
            step=fact.step,
        )

    middle_ns = start_ns + compute_ns
    return part(start_ns, middle_ns, "useful_compute"), part(middle_ns, fact.at_ns, "exposed_comm")


def _journal_claims(
    devices: Sequence[Device],
    context: Mapping[DeviceId, Context],
    faults: Faults,
    timeline: Sequence[Entry],
    end_ns: int,
) -> dict[DeviceId, list[Claim]]:
    phases = incident_claims(faults, timeline, end_ns=end_ns)
    claims: dict[DeviceId, list[Claim]] = {}
    for device in devices:
        own = claims.setdefault(device.id, list(context[device.id].claims))
        for start_ns, stop_ns in context[device.id].in_job:
            for phase in phases:
                if phase.start_ns < stop_ns and phase.end_ns > start_ns:
                    own.append(_clipped(phase, start_ns, stop_ns))
        for loss in faults.losses:
            if loss.node == device.node:
                back_ns = loss.back_ns if loss.back_ns is not None else end_ns
                own.append(Claim(start_ns=loss.fault_ns, end_ns=back_ns, leaf="repair", layer=Layer.LOST))
    return claims


def _clipped(claim: Claim, start_ns: int, end_ns: int) -> Claim:
    return Claim(
        start_ns=max(claim.start_ns, start_ns),
        end_ns=min(claim.end_ns, end_ns),
        leaf=claim.leaf,
        layer=claim.layer,
        incarnation=claim.incarnation,
    )


def groups_of(history: History) -> dict[DeviceId, dict[Incarnation, GroupId]]:
    """The group that each device worked for, by incarnation."""
    found: dict[DeviceId, dict[Incarnation, GroupId]] = {}
    for node, plan in history.facts.plans:
        found.setdefault(device_id(node, plan.device_index), {})[plan.incarnation] = plan.group
    return found


def step_level(leaf: Leaf) -> bool:
    """Whether time in this leaf was spent inside a step."""
    return LEVEL_OF[leaf] == "step"
