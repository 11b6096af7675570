"""Healthy groups go on without one that was hit (`recovery.healthy_groups: go_on`).

    fault -> the healthy groups keep their state, form the next incarnation at once, and step
             the group that was hit starts beside them: on a spare, on a node that is back, in a new process
    ready -> all stop together after a step; it takes their snapshot of it, they keep their state

So a fault costs the healthy groups its detection, the step under way and a word from their agents, but no step that
was done. It is the answer to what is lost, not to what is wrong: where states differ or a snapshot failed, all go back
to the newest safe one (`recovering`), and so it is when no group is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from myriarch.checkpoint.restore import RestorePlan
from myriarch.control.forming import assign_groups, form, restore_keeping, splits, start_beside
from myriarch.control.judging import FORMING
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, Reason
from myriarch.event.base import Value
from myriarch.event.ids import GroupId
from myriarch.event.layout import GroupLayout
from myriarch.recover.decide import Decision
from myriarch.recover.incident import Diagnosis, Incident
from myriarch.recover.rests import culprits
from myriarch.schedule.groups import Assignment
from myriarch.spec.run import Group


class Survival(Value, frozen=True, kw_only=True):
    """How the healthy groups could go on, and where the others would start."""

    layouts: tuple[GroupLayout, ...]
    """Of the healthy groups."""
    keep: RestorePlan
    hit: tuple[GroupId, ...]
    assignment: Assignment
    """Of all groups: the healthy ones as they are, of the others those that can be started whole."""
    rests: str
    """Which nodes rest now because they failed again; empty: none."""


def survive(state: State, incident: Incident, diagnosis: Diagnosis, *, now_s: float) -> Survival | None:
    """How to go on without the groups that were hit; None: all have to begin anew, from what is saved.

    Who failed may have to rest, so this is asked once for an incident.
    """
    crew, phase = state.crew, state.course.phase
    trusted = diagnosis.kind == "fault" and not (incident.failures or incident.doubts or state.snapshots.differ)
    if state.recovery.healthy_groups != "go_on" or not trusted or phase not in ("running", "holding", "forming"):
        return None
    layouts = crew.healthy(forming=phase == "forming")
    names = [layout.group for layout in layouts]
    hit = [*(group for group in crew.layouts if group not in names), *state.beside.hit]
    if not hit or not splits(state, {layout.group: layout.world_size for layout in layouts}):
        return None
    keep = restore_keeping(state, layouts, crew.keeps if phase == "forming" else names)
    if keep is None:
        return None
    rests = state.rests.failed(culprits(incident, node_of=state.node_of), now_s=now_s)
    return Survival(
        layouts=tuple(layouts),
        keep=keep,
        hit=tuple(name for group in state.resolved.run.groups if (name := GroupId(group.name)) in hit),
        assignment=_with(layouts, _assign_others(state, names)),
        rests=rests,
    )


def go_on(
    state: State, survival: Survival, decision: Decision, incident: Incident, *, now_s: float
) -> Iterator[AnyAction]:
    """The healthy groups go on; those that were hit start beside them, as far as there are nodes."""
    reason = decision.reason
    if survival.rests:
        reason = Reason(text=f"{reason.text}; {survival.rests}", numbers=reason.numbers)
    yield from form(
        state,
        survival.layouts,
        choice=FORMING[decision.choice],
        reason=reason,
        incident=incident,
        now_s=now_s,
        keep=survival.keep,
        starts=[layout for layout in survival.assignment.layouts if layout.group in survival.hit],
    )


def leave_behind(state: State, now_s: float) -> Iterator[AnyAction]:
    """Groups that kept their state stand at different steps: the fault came in the middle of a merge, and some had all
    of it. They go on, and those that are behind take their state as a group does that starts beside them."""
    crew, stands = state.crew, state.crew.stands()
    newest = max(step for stand in stands.values() for step in stand)
    ahead = [layout for group, layout in crew.layouts.items() if stands[group] == (newest,)]
    seen = ", ".join(f"{group} after {' and '.join(map(str, stand))}" for group, stand in stands.items())
    text = f"the healthy groups stand at different steps ({seen})"
    torn = any(len(stand) > 1 for stand in stands.values())
    if torn or not splits(state, {layout.group: layout.world_size for layout in ahead}):
        state.fail(text, now_s=now_s)
        return
    state.progress.begin(newest)
    keep = restore_keeping(state, ahead, crew.layouts)
    for layout in [layout for layout in crew.layouts.values() if layout not in ahead]:
        workers = {key: crew.workers[key] for key in layout.shard_keys()}
        state.beside.take_in(layout, workers, limit_s=now_s + state.recovery.start_timeout_s)
    yield from form(
        state,
        ahead,
        choice="form",
        reason=Reason(text=text, numbers={"newest": newest}),
        incident=None,
        now_s=now_s,
        keep=keep,
    )


def start_missing(state: State, now_s: float) -> Iterator[AnyAction]:
    """Groups whose nodes are there again, or have rested, start beside the others. Looked for once for each change."""
    course, members = state.course, state.members
    if course.grown_version == members.version or members.offline or course.stop_why or state.crew.finished:
        return
    here = [*state.crew.layouts, *state.beside.starts]
    missing = [GroupId(group.name) for group in state.resolved.run.groups if group.name not in here]
    if missing:
        found = [layout for layout in _assign_others(state, here).layouts if layout.group in missing]
        yield from start_beside(state, found, now_s=now_s)
        active = {*state.crew.on_node, *state.beside.nodes()}
        yield from members.set_roles(active, why="its group starts beside the others")


def prepared(state: State) -> list[GroupLayout]:
    """Groups that only lack the others' state, in the order of the run file, so many that all can split the batch."""
    found: list[GroupLayout] = []
    sizes = {layout.group: layout.world_size for layout in state.crew.layouts.values()}
    for group in state.resolved.run.groups:
        name = GroupId(group.name)
        if name in state.beside.prepared:
            layout = state.beside.starts[name].layout
            if splits(state, {**sizes, name: layout.world_size}):
                sizes[name] = layout.world_size
                found.append(layout)
    return found


def in_order(state: State, layouts: Sequence[GroupLayout]) -> tuple[GroupLayout, ...]:
    """As the run file has them."""
    by_name = {layout.group: layout for layout in layouts}
    return tuple(by_name[name] for group in state.resolved.run.groups if (name := GroupId(group.name)) in by_name)


def _assign_others(state: State, names: Sequence[GroupId]) -> Assignment:
    """How all groups but these would lie, each whole or not at all."""
    others: list[Group] = [group for group in state.resolved.run.groups if group.name not in names]
    return assign_groups(state, others, whole=True, without=state.rests.resting)


def _with(layouts: Sequence[GroupLayout], others: Assignment) -> Assignment:
    return Assignment(
        layouts=(*layouts, *others.layouts), missing=others.missing, replaced=others.replaced, resized=others.resized
    )
