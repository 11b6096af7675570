"""The answer to an incident."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from myriarch.control.finishing import finish
from myriarch.control.forming import assign_groups, form, lost_workers, splits
from myriarch.control.going_on import go_on, survive
from myriarch.control.judging import FORMING, going_on, judge
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, Decide
from myriarch.recover.decide import Budget, Decision
from myriarch.recover.incident import Diagnosis, Incident, diagnose
from myriarch.schedule.groups import Assignment


def resolve(state: State, *, now_s: float) -> Iterator[AnyAction]:
    """Answer the open incident, once its causes are known and every node is either there or lost."""
    incident = state.incident
    if incident is None or state.away():
        return
    diagnosis = diagnose(incident, now_s=now_s)
    if diagnosis is None or _seen(state, incident, now_s):
        return
    survival = survive(state, incident, diagnosis, now_s=now_s)
    assignment = assign_groups(state) if survival is None else survival.assignment
    # Healthy groups that go on restart nothing of the run: what limits its restarts does not end it.
    budget = state.budget if survival is None else Budget()
    decision = _judged(state, incident, diagnosis, assignment, budget, now_s)
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
    elif survival is not None:
        yield from go_on(state, survival, decision, incident, now_s=now_s)
    else:
        state.budget.spend(state.progress.newest)
        choice, reason = FORMING[decision.choice], decision.reason
        yield from form(state, assignment.layouts, choice=choice, reason=reason, incident=incident, now_s=now_s)


def _seen(state: State, incident: Incident, now_s: float) -> bool:
    """While a group is waited for: whether nothing has come or gone since it was last looked, and time is not up."""
    look = (state.members.version, incident.findings, bool(state.course.stop_why))
    same, incident.looked = look == incident.looked, look
    until_s = state.wait_until_s
    return same and until_s is not None and now_s < until_s


def _judged(
    state: State, incident: Incident, diagnosis: Diagnosis, assignment: Assignment, budget: Budget, now_s: float
) -> Decision:  # fmt: skip
    formable = splits(state, {layout.group: layout.world_size for layout in assignment.layouts})
    live = state.recovery.healthy_groups == "go_on" and formable  # nobody waits while there is any group
    return judge(
        incident,
        diagnosis,
        assignment,
        absent=[group for group in state.absent if group not in state.beside.starts],
        splits=formable,
        budget=budget,
        newest_step=state.progress.newest,
        recovery=going_on(state.recovery) if live else state.recovery,
        now_s=now_s,
    )


def _decision(state: State, incident: Incident, decision: Decision) -> Decide:
    """A decision that starts no incarnation."""
    state.story.tell(incident.number, decision.choice, decision.reason.text, at_s=incident.opened_s)
    return Decide(
        incident=incident.number,
        choice=decision.choice,
        lost_nodes=tuple(incident.nodes),
        lost_workers=lost_workers(incident),
        groups=tuple(state.crew.layouts),
        incarnation=state.crew.incarnation,
        from_step=state.progress.current,
        reason=decision.reason,
    )
