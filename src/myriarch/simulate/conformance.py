"""What two runs with the same faults must have in common, however long things took in each.

A real run and a simulated one differ in every instant: how many steps were done when a fault struck, how many snapshots
were committed in between, in which order reports came in. What they may not differ in is what was decided: which nodes
took which places, who was forked anew and who stayed, from which tier the state came, how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable

from myriarch.event.actions import (
    AnyAction,
    Decide,
    EndRun,
    FenceNode,
    FromMemory,
    LaunchWorkers,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
    WorkerPlan,
)
from myriarch.event.base import Value
from myriarch.event.events import RunStarted
from myriarch.event.ids import Incarnation, Step
from myriarch.event.journal import Record


class Decided(Value, frozen=True, kw_only=True):
    """One decision, without what depends on timing."""

    what: str
    """`decide`, `stop`, `launch`, `rejoin`, `start`, `fence`, `end`."""
    who: tuple[str, ...] = ()
    """Nodes, groups or workers (`node group/rank <tier>`), sorted."""
    how: str = ""


def decisions(records: Iterable[Record]) -> tuple[Decided, ...]:
    """The decision-level projection of a journal, in order; launches, rejoins and stops of one incarnation sorted.

    Left out: snapshots, drains and membership, whose order and number depend on timing, and step numbers, but for where
    the run ended.
    """
    found: list[Decided] = []
    batch: list[Decided] = []
    steps: int | None = None
    for record in records:
        if isinstance(record.event, RunStarted):
            steps = record.event.resolved.run.steps
        if record.action is None:
            continue
        one = _project(record.action, steps)
        if one is None:
            continue
        if one.what in ("stop", "launch", "rejoin"):
            batch.append(one)
            continue
        found += sorted(batch, key=lambda decided: (decided.what, decided.who))
        batch = []
        found.append(one)
    return (*found, *sorted(batch, key=lambda decided: (decided.what, decided.who)))


def _project(action: AnyAction, steps: int | None) -> Decided | None:
    match action:
        case Decide():
            lost = sorted(action.lost_nodes)
            who = (*(f"lost {node}" for node in lost), *(f"group {group}" for group in action.groups))
            return Decided(what="decide", who=who, how=action.choice)
        case StopWorkers():
            return Decided(what="stop", who=tuple(sorted(f"{action.node} {g}/{r}" for g, r in action.workers)))
        case LaunchWorkers():
            return Decided(what="launch", who=_workers(action.node, action.workers))
        case RejoinWorkers():
            return Decided(what="rejoin", who=_workers(action.node, action.workers))
        case StartSteps():
            return Decided(what="start", who=tuple(f"{share.group} x{share.world_size}" for share in action.shares))
        case FenceNode():
            return Decided(what="fence", who=(action.node,))
        case EndRun():
            where = "at the last step" if action.step == steps else "before the last step"
            return Decided(what="end", how=f"{action.outcome} {where}")
        case _:
            return None


def _workers(node: str, plans: Iterable[WorkerPlan]) -> tuple[str, ...]:
    return tuple(sorted(f"{node} {plan.group}/{plan.rank} {_tier(plan)}" for plan in plans))


def _tier(plan: WorkerPlan) -> str:
    if isinstance(plan.restore, FromMemory):
        return "memory" if plan.restore.same_layout else "memory resharded"
    return type(plan.restore).__name__.removeprefix("From").lower()


def lost_steps(records: Iterable[Record]) -> dict[Incarnation, tuple[Step, Step]]:
    """`{incarnation: (newest step before it, step that it goes on from)}` of every incarnation but the first."""
    return {
        action.incarnation: (action.from_step, action.to_step)
        for record in records
        if isinstance(action := record.action, Decide) and action.from_step is not None and action.to_step is not None
    }
