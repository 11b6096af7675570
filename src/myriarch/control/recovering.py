"""Forming incarnations: the first one, and those that answer faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from myriarch.checkpoint.placement import place_copies
from myriarch.checkpoint.restore import plan_restore
from myriarch.control.finishing import finish
from myriarch.control.formation import Formation, start_workers, stop_workers
from myriarch.control.judging import FORMING, fits, judge
from myriarch.control.saving import saved
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, Decide, Reason
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank
from myriarch.event.layout import ShardKey
from myriarch.recover.decide import Decision
from myriarch.recover.incident import Diagnosis, Incident, diagnose
from myriarch.schedule.groups import Assignment, assign

Choice = Literal[
    "form", "restart_workers", "replace_node", "shrink_group", "degrade", "readmit_group", "rebalance",
]  # fmt: skip


def assign_groups(state: State) -> Assignment:
    """How the groups would lie now: on the nodes that they have, and on idle ones in place of lost ones."""
    members, committed, previous = state.members, state.snapshots.committed, state.crew.last
    lost = state.incident.nodes if state.incident is not None else {}

    taken = {node: layout.group for layout in state.crew.layouts.values() for node in layout.nodes}

    def gone(group: GroupId, node: NodeId) -> bool:
        # A lost node may be back under its name, with nothing of what it had; and another group may have it since.
        return node not in members.nodes or node in lost or taken.get(node, group) != group

    busy = {node for layout in previous.values() for node in layout.nodes if not gone(layout.group, node)}
    pools = [PoolId(group.pool) for group in state.resolved.run.groups]

    def holds(group: GroupId, place: int, node: NodeId) -> bool:
        layout = previous.get(group)
        if committed is None or layout is None:
            return False
        ranks = range(place * layout.devices_per_node, (place + 1) * layout.devices_per_node)
        return all(node in committed.holders.get((group, Rank(rank)), {}) for rank in ranks)

    def warm(node: NodeId) -> bool:
        # At the start nobody waits for an import that is not needed, so nodes go by name, whoever is faster by chance.
        return state.crew.incarnation == 0 or members.nodes[node].warm

    return assign(
        state.resolved.run.groups,
        idle=members.idle(busy, pools=pools, fleet=state.resolved.fleet),
        previous=previous,
        lost=gone,
        holds=holds,
        warm=warm,
        fits=lambda sizes: _fits(state, sizes),
    )


def form(
    state: State, assignment: Assignment, *, choice: Choice, reason: Reason, incident: Incident | None, now_s: float
) -> Iterator[AnyAction]:
    """Begin the next incarnation."""
    crew, members, snapshots = state.crew, state.members, state.snapshots
    layouts = assignment.layouts
    restore = plan_restore(layouts, committed=snapshots.committed, durable=state.drain.newest)
    incarnation = Incarnation(crew.incarnation + 1)
    kept = [layout.group for layout in layouts if crew.whole(layout)]
    active = {node for layout in layouts for node in layout.nodes}
    copies = place_copies(layouts, places=members.places(active), copies=state.resolved.run.checkpoint.copies)
    numbers = {**reason.numbers, "restore_step": restore.step, "remote_shards": restore.remote_shards}
    decided = Reason(text=f"{reason.text}; {restore.text}", numbers={**numbers, "restarts": state.budget.restarts})
    yield Decide(
        incident=incident.number if incident is not None else 0,
        choice=choice,
        lost_nodes=tuple(incident.nodes) if incident is not None else (),
        lost_workers=_lost_workers(incident),
        groups=tuple(layout.group for layout in layouts),
        incarnation=incarnation,
        from_step=None if crew.incarnation == 0 else state.progress.current,
        to_step=restore.step,
        reason=decided,
    )
    state.story.tell(incident.number if incident is not None else 0, choice, decided.text, at_s=now_s)
    if restore.tier != "memory":
        yield from snapshots.forget_committed(restore.text)
    yield from stop_workers(crew, members, kept=kept, why=f"incarnation {incarnation} takes the place of theirs")
    dropped = snapshots.begin(incarnation, layouts=layouts, copies=copies)
    yield from saved(state, dropped, now_s=now_s)
    crew.begin(incarnation, step=restore.step, layouts=layouts, kept=kept)
    state.progress.begin(restore.step)
    state.drift.begin()
    yield from start_workers(
        Formation(
            incarnation=incarnation,
            layouts=layouts,
            kept=kept,
            restore=restore,
            copies=copies,
            calibrate={layout.group for layout in layouts if layout.group not in state.pace.device_speed},
        ),
        members,
    )
    yield from members.set_roles(active, why=f"incarnation {incarnation} was formed")
    state.incident = None
    state.course.phase = "forming"
    state.course.limit_s = now_s + state.recovery.start_timeout_s


def resolve(state: State, *, now_s: float) -> Iterator[AnyAction]:
    """Answer the open incident, once its causes are known and every node is either there or lost."""
    incident = state.incident
    if incident is None or state.away():
        return
    diagnosis = diagnose(incident, now_s=now_s)
    if diagnosis is None or _seen(state, incident, now_s):
        return
    assignment = assign_groups(state)
    decision = _judged(state, incident, diagnosis, assignment, now_s)
    if decision.choice in ("stop_user_error", "give_up"):
        yield _decision(state, incident, decision)
        outcome: Literal["user_error", "failed"] = "user_error" if diagnosis.kind == "user_error" else "failed"
        detail = diagnosis.detail or decision.reason.text
        yield from finish(state, outcome, decision.reason.text, detail=detail, now_s=now_s)
    elif state.course.stop_why:
        text = f"{diagnosis.text}; the run is to stop ({state.course.stop_why}), so nothing is restarted"
        yield from finish(state, "interrupted", text, now_s=now_s)
    elif decision.choice == "wait_for_group":
        if incident.waiting_since_s is None:
            incident.waiting_since_s = now_s
            state.course.phase, state.course.limit_s = "blocked", None
            yield _decision(state, incident, decision)
    else:
        choice = FORMING[decision.choice]
        state.budget.spend(state.progress.newest)
        yield from form(state, assignment, choice=choice, reason=decision.reason, incident=incident, now_s=now_s)


def _seen(state: State, incident: Incident, now_s: float) -> bool:
    """While a group is waited for: whether nothing has come or gone since it was last looked, and time is not up."""
    look = (state.members.version, incident.findings, bool(state.course.stop_why))
    same, incident.looked = look == incident.looked, look
    until_s = state.wait_until_s
    return same and until_s is not None and now_s < until_s


def _judged(
    state: State, incident: Incident, diagnosis: Diagnosis, assignment: Assignment, now_s: float
) -> Decision:  # fmt: skip
    return judge(
        incident,
        diagnosis,
        assignment,
        absent=state.absent,
        splits=_fits(state, {layout.group: layout.world_size for layout in assignment.layouts}),
        budget=state.budget,
        newest_step=state.progress.newest,
        recovery=state.recovery,
        now_s=now_s,
    )


def _decision(state: State, incident: Incident, decision: Decision) -> Decide:
    """A decision that starts no incarnation."""
    state.story.tell(incident.number, decision.choice, decision.reason.text, at_s=incident.opened_s)
    return Decide(
        incident=incident.number,
        choice=decision.choice,
        lost_nodes=tuple(incident.nodes),
        lost_workers=_lost_workers(incident),
        groups=tuple(state.crew.layouts),
        incarnation=state.crew.incarnation,
        from_step=state.progress.current,
        reason=decision.reason,
    )


def _lost_workers(incident: Incident | None) -> tuple[ShardKey, ...]:
    if incident is None:
        return ()
    return (*incident.workers, *incident.symptoms, *incident.user_errors)


def _fits(state: State, sizes: Mapping[GroupId, int]) -> bool:
    return fits(sizes, sequences=state.resolved.run.batch.sequences)
