"""What a journal says outright: steps, snapshots, speeds, who had which device."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    EndRun,
    FinishDrain,
    GroupShare,
    LaunchWorkers,
    RejoinWorkers,
    StartSteps,
    Warn,
    WorkerPlan,
)
from myriarch.event.base import Value
from myriarch.event.events import (
    AnyEvent,
    RunStarted,
    ShardSealed,
    SnapshotDrained,
    SnapshotSkipped,
    StepCompleted,
    WorkerReady,
)
from myriarch.event.ids import DeviceId, GroupId, Incarnation, NodeId, Rank, Step, device_id
from myriarch.event.journal import Record
from myriarch.event.spans import Span

Entry = tuple[int, AnyEvent | AnyAction]
"""`(at_ns, event or action)`."""


class StepFact(Value, frozen=True, kw_only=True):
    """A group completed a step."""

    at_ns: int
    completed: StepCompleted

    @property
    def step(self) -> int:
        """As in `Span.step`: the step that made the state of `step` steps into `step + 1`."""
        return self.completed.step - 1


class Snapshots(Value, frozen=True, kw_only=True):
    """What became of the snapshots of a run."""

    committed: int = 0
    skipped: int = 0
    """Steps whose snapshot at least one worker could not take or copy."""
    drained: int = 0
    last_committed_step: Step | None = None
    last_durable_step: Step | None = None
    last_durable_path: str = ""
    stall_s_total: float = 0.0
    """Summed over workers."""
    stalls: int = 0


class Facts(Value, frozen=True, kw_only=True):
    """See the module."""

    steps: tuple[StepFact, ...] = ()
    """One for each (group, incarnation, step), in order of arrival."""
    snapshots: Snapshots = Snapshots()
    plans: tuple[tuple[NodeId, WorkerPlan], ...] = ()
    start: StartSteps | None = None
    """The newest."""
    rates: tuple[tuple[NodeId, float], ...] = ()
    """Measured: `(node, rate_flops_per_s)`."""
    phases: tuple[Span, ...] = ()
    """Ways from fork to readiness, as spans."""
    resume_step: Step = Step(0)
    """What the run began with."""
    warnings: tuple[str, ...] = ()

    @property
    def shares(self) -> tuple[GroupShare, ...]:
        return self.start.shares if self.start is not None else ()


def timeline_of(records: Sequence[Record]) -> tuple[Entry, ...]:
    """Records in order of `seq`, each once, with time that never decreases, up to the end of the run.

    Raises nothing: gaps, repetitions and another order are put right or left as gaps. What follows `EndRun` is the
    fleet going home; it is nobody's device time.
    """
    entries: list[Entry] = []
    latest_ns = None
    for record in sorted({record.seq: record for record in records}.values(), key=lambda record: record.seq):
        latest_ns = record.at_ns if latest_ns is None else max(latest_ns, record.at_ns)
        if record.event is not None:
            entries.append((latest_ns, record.event))
        if record.action is not None:
            entries.append((latest_ns, record.action))
            if isinstance(record.action, EndRun):
                break
    return tuple(entries)


def devices_of_groups(facts: Facts) -> dict[tuple[GroupId, Incarnation], tuple[DeviceId, ...]]:
    """The devices of each group in each incarnation."""
    devices: dict[tuple[GroupId, Incarnation], dict[DeviceId, None]] = {}
    for node, plan in facts.plans:
        devices.setdefault((plan.group, plan.incarnation), {})[device_id(node, plan.device_index)] = None
    return {key: tuple(found) for key, found in devices.items()}


def first_incarnation(facts: Facts) -> Incarnation:
    """The one that the run began with: what is started in a later one is started again."""
    return min((plan.incarnation for _, plan in facts.plans), default=Incarnation(1))


def gather(timeline: Sequence[Entry]) -> Facts:
    """Read the facts off a journal; one pass."""
    steps: dict[tuple[GroupId, Incarnation, Step], StepFact] = {}
    plans: list[tuple[NodeId, WorkerPlan]] = []
    places: dict[tuple[GroupId, Rank, Incarnation], DeviceId] = {}
    rates: list[tuple[NodeId, float]] = []
    phases: list[Span] = []
    start: StartSteps | None = None
    resume_step = Step(0)
    warnings: list[str] = []
    for at_ns, what in timeline:
        match what:
            case RunStarted(resume_step=step) if step is not None:
                resume_step = step
            case Warn(reason=reason):
                warnings.append(reason.text)
            case StepCompleted(group=group, incarnation=incarnation, step=step):
                steps.setdefault((group, incarnation, step), StepFact(at_ns=at_ns, completed=what))
            case LaunchWorkers(node=node, workers=workers) | RejoinWorkers(node=node, workers=workers):
                for plan in workers:
                    plans.append((node, plan))
                    places[plan.group, plan.rank, plan.incarnation] = device_id(node, plan.device_index)
            case WorkerReady(node=node, rate_flops_per_s=rate):
                if rate is not None:
                    rates.append((node, rate))
                device = places.get((what.group, what.rank, what.incarnation))
                phases += _spans_of(what, device) if device is not None else []
            case StartSteps():
                start = what
            case _:
                pass
    return Facts(
        steps=tuple(steps.values()),
        snapshots=_snapshots(timeline),
        plans=tuple(plans),
        start=start,
        rates=tuple(rates),
        phases=tuple(phases),
        resume_step=resume_step,
        warnings=tuple(warnings),
    )


def _spans_of(ready: WorkerReady, device: DeviceId) -> list[Span]:
    return [
        Span(
            device=device,
            start_ns=phase.start_ns,
            end_ns=phase.end_ns,
            leaf=phase.leaf,
            group=ready.group,
            incarnation=ready.incarnation,
        )
        for phase in ready.phases
    ]


def _snapshots(timeline: Sequence[Entry]) -> Snapshots:
    committed: dict[Step, None] = {}
    skipped: set[tuple[Incarnation, Step]] = set()
    final_paths: dict[Step, str] = {}
    result = Snapshots()
    for _, what in timeline:
        match what:
            case CommitSnapshot(step=step):
                committed[step] = None
            case SnapshotSkipped(incarnation=incarnation, step=step):
                skipped.add((incarnation, step))
            case FinishDrain(step=step, final_path=path):
                final_paths[step] = path
            case SnapshotDrained(step=step, path=path):
                result = msgspec.structs.replace(
                    result,
                    drained=result.drained + 1,
                    last_durable_step=step,
                    last_durable_path=path or final_paths.get(step, ""),
                )
            case ShardSealed(stall_s=stall_s):
                result = msgspec.structs.replace(
                    result, stall_s_total=result.stall_s_total + stall_s, stalls=result.stalls + 1
                )
            case _:
                pass
    return msgspec.structs.replace(
        result,
        committed=len(committed),
        skipped=len(skipped),
        last_committed_step=max(committed, default=None),
    )
