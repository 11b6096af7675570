"""A job on a simulated fleet whose groups stop, save and begin together, as `Control` has them."""

from __future__ import annotations

from collections.abc import Collection

from myriarch.event.actions import Reason
from myriarch.event.ids import Incarnation, NodeId
from myriarch.event.layout import GroupLayout
from myriarch.recover.incident import Incident
from myriarch.schedule.groups import Assignment
from myriarch.simulate.fleet_assigning import assign_groups
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_work import drained, halt, step_s


def begin(state: State) -> None:
    """The first start."""
    assignment = assign_groups(state, state.crew.groups)
    state.whole_step_s = step_s(state, {layout.group: layout for layout in assignment.layouts})
    nodes = sum(len(layout.nodes) for layout in assignment.layouts)
    reason = Reason(text=f"all {nodes} nodes of {len(assignment.layouts)} groups are there", numbers={})
    form(state, assignment, choice="form", reason=reason, incident=None)


def form(state: State, assignment: Assignment, *, choice: str, reason: Reason, incident: Incident | None) -> None:
    """All begin anew from the newest step that is whole."""
    crew, tiers, trouble, terms = state.crew, state.tiers, state.trouble, state.terms
    halt(state, ("restart", 0.0))
    distrust(state)
    layouts, first = assignment.layouts, crew.incarnation == 0
    crew.incarnation += 1
    plan, remote = tiers.saved.plan(layouts, incarnation=Incarnation(crew.incarnation))
    state.tell(
        choice,
        f"{reason.text}; {plan.text}",
        incident,
        groups=[layout.group for layout in layouts],
        from_step=None if first else state.work.current,
        to_step=plan.step,
        tier=plan.tier,
    )
    anew = {
        one.group: one
        for one in layouts
        if terms.whole_job or one.group in trouble.hurt or crew.layouts.get(one.group) is not one
    }
    crew.born.update(dict.fromkeys(anew, crew.incarnation))
    begin_s = begins_s(state, anew.values())
    restore_s = terms.restore_s(tier=plan.tier, remote=remote)
    halt(state, ("model_build" if first else "restart", begin_s), ("restore", restore_s))
    state.counts.lost_steps += state.books.lose_after(plan.step)
    state.work.current = plan.step
    crew.starting, crew.prepared, crew.joining = {}, {}, {}
    crew.lay(layouts, now_ns=state.now_ns)
    if plan.tier != "memory":
        tiers.saved.committed = None
    # The first incarnation begins as soon as its own nodes are there: spares hold copies from the next one on.
    tiers.copies = tiers.saved.place(layouts, members=crew.members, spares=not first)
    tiers.short, trouble.incident = False, None
    trouble.hurt, trouble.struck = dict.fromkeys(anew), {}
    state.agenda.after(begin_s + restore_s, "ready", state.work.turn)


def stop_after_step(state: State, *, only_for: NodeId | None = None) -> None:
    """All stop after the step under way. `only_for`: if that node takes part in it."""
    work = state.work
    if work.stride is None or work.stopping == work.turn or (only_for is not None and not state.crew.works(only_for)):
        return
    work.stopping = work.turn
    state.agenda.at(work.stride.boundary_ns(state.now_ns), "stopped", work.turn)


def begins_s(state: State, anew: Collection[GroupLayout]) -> float:
    """Until the processes of these groups are there."""
    sizes = [layout.world_size for layout in anew]
    return state.terms.begin_s(started=sum(sizes), largest_group=max(sizes, default=0))


def distrust(state: State) -> None:
    """What is saved by now, less what was saved since values are wrong."""
    tiers, since = state.tiers, state.trouble.wrong_since
    drained(state)
    if since is not None:
        tiers.saved.distrust(since)
        if tiers.drain is not None and tiers.drain[0] > since:
            tiers.drain = None
        state.trouble.wrong_since = None
