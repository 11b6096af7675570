"""What happens by plan to a job on a simulated fleet: all are ready, all stand, a save is safe, it ends."""

from __future__ import annotations

from myriarch.event.actions import Reason
from myriarch.event.ids import Step
from myriarch.simulate.fleet_advancing import advance, resolve
from myriarch.simulate.fleet_assigning import assign_groups, grown_groups
from myriarch.simulate.fleet_blows import lose_node, strike_standing
from myriarch.simulate.fleet_live import join
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_together import form
from myriarch.simulate.fleet_work import close, halt, save, start_stride


def ready(state: State, turn: int) -> None:
    """All workers are ready: they step."""
    if turn != state.work.turn:
        return
    trouble = state.trouble
    for name in trouble.hurt:
        state.tiers.saved.restored(state.crew.layouts[name])
    trouble.hurt, trouble.struck, state.crew.joining = {}, {}, {}
    start_stride(state)
    advance(state)


def stopped(state: State, turn: int) -> None:
    """All stand after the same step."""
    if turn != state.work.turn:
        return
    close(state)
    strike_standing(state)
    crew, work = state.crew, state.work
    stop_s, copy_s = state.pace.snapshot_s, state.terms.copy_s
    if state.terms.live and state.trouble.leaving:
        halt(state, ("restart", 0.0))
        _let_go(state)
    elif state.trouble.leaving or crew.prepared or state.tiers.short or grown_groups(state):
        halt(state, ("checkpoint_stall", stop_s + copy_s))
        work.stopping = work.turn
        state.agenda.after(stop_s + copy_s, "held", work.turn)
    elif work.current % state.every:
        start_stride(state)
        advance(state)
    else:
        halt(state, ("checkpoint_stall", stop_s))
        state.agenda.after(stop_s, "ready", work.turn)
        state.agenda.after(stop_s + copy_s, "safe", (crew.incarnation, work.current))


def safe(state: State, what: tuple[int, Step]) -> None:
    """A save that was made while all stood is safe."""
    incarnation, step = what
    if incarnation == state.crew.incarnation:
        save(state, step)


def held(state: State, turn: int) -> None:
    """The step that all stopped after is saved: what they stopped for can be done."""
    if turn != state.work.turn:
        return
    close(state)
    step = state.work.current
    save(state, step)
    if state.trouble.leaving:
        _let_go(state)
        return
    back = grown_groups(state)
    if state.terms.live and not back:
        join(state)
        return
    choice, text = "form", f"copies are placed anew at step {step}"
    if back:
        choice, text = "readmit_group", f"{', '.join(back)} is back, from the state of step {step}"
    assignment = assign_groups(state, state.crew.incomplete)
    form(state, assignment, choice=choice, reason=Reason(text=text, numbers={"step": step}), incident=None)


def overdue(state: State, number: int) -> None:
    """Missing groups have been waited for long enough."""
    incident = state.trouble.incident
    if incident is not None and incident.number == number:
        resolve(state)


def finish(state: State, turn: int) -> None:
    """The last step is done."""
    if turn == state.work.turn:
        close(state)
        there = len(state.crew.layouts) + len(state.crew.beside)  # who starts beside the others is not missing
        state.ended = "completed" if there == len(state.crew.groups) else "degraded"


def _let_go(state: State) -> None:
    """Nodes whose maintenance waited for this."""
    for node, one in list(state.trouble.leaving.items()):
        lose_node(state, node, one.cause, "maintenance")
        state.agenda.after(one.duration_s, "back", node)
    advance(state)
