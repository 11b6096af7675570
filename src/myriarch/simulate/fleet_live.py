"""A job on a simulated fleet whose healthy groups go on without one that was hit (`terms.live`).

All wait until the fault is noticed, the step under way is lost, and the others begin it anew. The group starts beside
them; when it is ready they stop after a step and save it, it takes the state from there, and all go on. As
`control.going_on` has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from myriarch.checkpoint.restore import RestorePlan, kept_text
from myriarch.event.ids import GroupId, Incarnation
from myriarch.event.layout import GroupLayout
from myriarch.event.spans import Leaf
from myriarch.recover.decide import Decision
from myriarch.recover.incident import Incident
from myriarch.schedule.groups import Assignment
from myriarch.simulate.fleet_assigning import assign_groups
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_together import begins_s, stop_after_step
from myriarch.simulate.fleet_work import halt


def go_on(
    state: State,
    assignment: Assignment,
    healthy: Sequence[GroupId],
    decision: Decision,
    incident: Incident,
    *,
    rests: str,
) -> None:
    """Healthy groups begin the step under way anew; those that were hit start beside them. `rests`: what is said of
    nodes that failed again."""
    crew, trouble, step = state.crew, state.trouble, state.work.current
    parts = (decision.reason.text, rests, _from(state, healthy))
    text = "; ".join(part for part in parts if part)
    crew.incarnation += 1
    state.tell(decision.choice, text, incident, groups=healthy, from_step=step, to_step=step, tier="live")
    planned = {one.group: one for one in assignment.layouts}
    for name in trouble.hurt:
        crew.starting.pop(name, None)
        crew.prepared.pop(name, None)
    crew.joining = {name: None for name in crew.joining if name in healthy}
    _begin(state, [crew.layouts[name] for name in healthy])
    for name in trouble.hurt:
        if name in planned:
            _start_beside(state, planned[name])
    trouble.hurt, trouble.struck, trouble.incident = {}, {}, None


def can_go_on(state: State, healthy: Sequence[GroupId]) -> bool:
    """Whether some of these groups have the newest state, or it is saved for them."""
    kept, step = _keepers(state, healthy), state.work.current
    return bool(kept) or _plan(state, healthy).step == step


def start_missing(state: State) -> None:
    """Groups whose nodes are there again start beside the others."""
    crew = state.crew
    if crew.grown_version == crew.version:
        return
    beside = crew.beside
    missing = {name: crew.groups[name] for name in crew.groups if name not in crew.layouts and name not in beside}
    if missing:
        for layout in assign_groups(state, missing, whole=True, without=state.trouble.rests.resting).layouts:
            if layout.group in missing:
                _start_beside(state, layout)


def started(state: State, layout: GroupLayout) -> None:
    """A group only lacks the others' state: they stop after the step under way."""
    crew = state.crew
    if crew.starting.get(layout.group) is layout:
        crew.prepared[layout.group] = crew.starting.pop(layout.group)
        stop_after_step(state)


def join(state: State) -> None:
    """All stand after one step, which is saved: groups that are ready take its state, and copies are placed anew."""
    crew, step = state.crew, state.work.current
    ready = [name for name in crew.groups if name in crew.prepared]
    joined = {**crew.layouts, **crew.prepared}
    layouts = [joined[name] for name in crew.groups if name in joined]
    crew.incarnation += 1
    choice = "readmit_group" if ready else "form"
    what = f"{', '.join(ready)} is back, from the state of" if ready else "copies are placed anew at"
    text = f"{what} step {step}; {kept_text(len(crew.layouts), step=step)}"
    names = [layout.group for layout in layouts]
    state.tell(choice, text, None, groups=names, from_step=step, to_step=step, tier="live")
    crew.prepared, crew.joining = {}, dict.fromkeys(ready)
    _begin(state, layouts)


def _from(state: State, healthy: Sequence[GroupId]) -> str:
    """Where groups that go on have their state from."""
    kept = _keepers(state, healthy)
    return kept_text(len(kept), step=state.work.current) if kept else _plan(state, healthy).text


def _keepers(state: State, healthy: Sequence[GroupId]) -> list[GroupId]:
    return [name for name in healthy if name not in state.crew.joining]


def _plan(state: State, healthy: Sequence[GroupId]) -> RestorePlan:
    crew = state.crew
    layouts = [crew.layouts[name] for name in healthy]
    return state.tiers.saved.plan(layouts, incarnation=Incarnation(crew.incarnation + 1))[0]


def _begin(state: State, layouts: Sequence[GroupLayout]) -> None:
    """The next incarnation, of groups whose processes are there."""
    terms = state.terms
    move_s = terms.restore_s(tier="memory", remote=True) if state.crew.joining else 0.0
    leaves: tuple[tuple[Leaf, float], ...] = (("restart", terms.regroup_s), ("restore", move_s))
    halt(state, *leaves)
    state.crew.lay(layouts, now_ns=state.now_ns)
    state.tiers.copies = state.tiers.saved.place(layouts, members=state.crew.members, spares=True)
    state.tiers.short = False
    state.agenda.after(sum(duration_s for _, duration_s in leaves), "ready", state.work.turn)


def _start_beside(state: State, layout: GroupLayout) -> None:
    state.crew.start_beside(layout, now_ns=state.now_ns)
    state.agenda.after(begins_s(state, [layout]), "started", layout)
