"""What breaks on a simulated fleet, when it is noticed, what is lost with it, and who comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from myriarch.event.ids import GroupId, NodeId, Rank, Step
from myriarch.simulate.breakdowns import Breakdown, Course
from myriarch.simulate.faults import Fault
from myriarch.simulate.fleet_advancing import advance
from myriarch.simulate.fleet_agenda import FOR_EVER_S
from myriarch.simulate.fleet_books import Idle
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_together import stop_after_step
from myriarch.simulate.fleet_work import AFTER_STEP_NS, close, drained, halt, plan_fault
from myriarch.units import NS_PER_S

DOWN: Final[Mapping[str, Idle]] = {
    "rack switch": "power_or_network_down",
    "Network Switch/Cable": "power_or_network_down",
    "NetworkError": "power_or_network_down",
    "power or cooling of a row": "power_or_network_down",
}
"""Why a node is away; any other cause is a repair."""


@dataclass(eq=False)
class Blow:
    """A breakdown on its way to being noticed."""

    node: NodeId
    breakdown: Breakdown
    rank: int | None = None
    """The worker that it hits; None: the node's first."""
    since: Step | None = None
    """Values are wrong from this step on."""
    incarnation: int = 0
    """The present one when it fell."""


def strike(state: State, one: Breakdown, *, rank: int | None = None) -> None:
    """Something breaks down. What is away cannot."""
    node = NodeId(f"{one.pool}-{one.node}")
    crew, trouble, work = state.crew, state.trouble, state.work
    if node not in crew.members or node in trouble.leaving:
        return
    state.counts.strikes += 1
    blow = Blow(node, one, rank, incarnation=crew.incarnation)
    match one.course:
        case "slow":
            trouble.slow.setdefault(node, []).append(one.factor)
            state.agenda.after(one.duration_s, "faster", blow)
            stop_after_step(state, only_for=node)
        case "corrupt":
            blow.since = Step(work.current if work.stride is None else work.stride.done(state.now_ns))
            state.agenda.after(one.duration_s + state.terms.detection_s(one.cause), "noticed", blow)
        case "maintenance" if crew.works(node):
            state.counts.interruptions += 1
            state.counts.planned += 1
            trouble.leaving[node] = one
            stop_after_step(state)
        case "maintenance":
            noticed(state, blow)
        case _:
            if crew.works(node):
                state.counts.interruptions += 1
                if trouble.incident is None:
                    halt(state, ("detect", 0.0))
            state.agenda.after(state.terms.detection_s(one.cause), "noticed", blow)


def faster(state: State, blow: Blow) -> None:
    """A slow node is as fast as it was."""
    slow = state.trouble.slow
    factors = slow.get(blow.node, [])
    if blow.breakdown.factor in factors:  # else the node was replaced meanwhile
        factors.remove(blow.breakdown.factor)
        if not factors:
            del slow[blow.node]
        stop_after_step(state, only_for=blow.node)


def noticed(state: State, blow: Blow) -> None:
    """A fault is known: somebody is lost."""
    node, one, trouble = blow.node, blow.breakdown, state.trouble
    if node not in state.crew.members:
        return
    if one.course == "in_place":
        _lose_worker(state, blow)
        advance(state)
        return
    if blow.since is not None and state.crew.works(node):
        state.counts.interruptions += 1
        trouble.wrong_since = blow.since if trouble.wrong_since is None else min(blow.since, trouble.wrong_since)
    why: Idle = "maintenance" if one.course == "maintenance" else DOWN.get(one.cause, "repair")
    away_s = one.duration_s
    if one.course == "corrupt":
        why, away_s = "quarantined", state.terms.quarantine_s
    lose_node(state, node, one.cause, why)
    state.agenda.after(away_s, "back", node)
    advance(state)


def back(state: State, node: NodeId) -> None:
    """A node is there again, with nothing of what it had."""
    crew = state.crew
    if node in crew.members:
        return
    if crew.works(node):  # its group still waits for it
        close(state)
    crew.welcome(node, now_ns=state.now_ns)
    advance(state)


def rested(state: State, _: None) -> None:
    """Nodes that failed again and again may be used once more."""
    if state.trouble.rests.over(state.now_s):
        state.crew.version += 1
        advance(state)


def lose_node(state: State, node: NodeId, how: str, why: Idle) -> None:
    """A member is gone, with its memory."""
    crew, tiers, trouble = state.crew, state.tiers, state.trouble
    seat, works = crew.seat.get(node), crew.works(node)
    if works and state.work.stride is not None:
        halt(state, ("detect", 0.0))
    elif works:
        close(state)
    trouble.leaving.pop(node, None)
    trouble.slow.pop(node, None)
    drained(state)
    tiers.saved.lose(node, seat)
    if seat is not None and (works or seat[0] in crew.beside):
        trouble.found(now_s=state.now_s).nodes[node] = how
        trouble.hurt[seat[0]] = trouble.struck[seat[0]] = None
        if tiers.drain is not None and seat[0] == next(iter(crew.layouts), None):
            # The first group writes; what is whole then is written again.
            tiers.drain = (tiers.drain[0], state.now_ns + round(state.terms.drain_s * NS_PER_S))
    elif tiers.copies is not None and any(node in nodes for nodes in tiers.copies.values()):
        tiers.short = True
    crew.lose(node, why, now_ns=state.now_ns)


def _lose_worker(state: State, blow: Blow) -> None:
    """A worker is gone, unless its group was started anew meanwhile."""
    crew, trouble = state.crew, state.trouble
    if blow.node not in crew.seat:
        return
    group, place = crew.seat[blow.node]
    if (group in crew.layouts or group in crew.beside) and crew.born[group] <= blow.incarnation:
        rank = place * crew.last[group].devices_per_node if blow.rank is None else blow.rank
        trouble.found(now_s=state.now_s).lose_worker((group, Rank(rank)), blow.breakdown.cause)
        trouble.hurt[group] = None


# --- faults as `World` takes them -----------------------------------------------------------------------------------


def fault(state: State, one: Fault) -> None:
    """A fault of a run file: `kill` or `return`. Raises ValueError for others."""
    if one.action == "return":
        back(state, NodeId(one.target))
    elif one.action != "kill":
        raise ValueError(f"`{one.action}` cannot be done to a fleet, only `kill` and `return`")
    elif "/" not in one.target:
        _kill(state, NodeId(one.target), "repair", "its agent is gone: killed by SIGKILL", None)
    else:
        group, _, rank = one.target.partition("/")
        layout = state.crew.layouts.get(GroupId(group))
        if layout is not None and int(rank) < layout.world_size:
            _kill(state, layout.node_of(int(rank)), "in_place", "signal 9", int(rank))


def after_steps(state: State, what: tuple[int, int]) -> None:
    """Faults that were to strike after a step which is done now."""
    turn, step = what
    if turn != state.work.turn:
        return
    due = [one for one in state.stepped if (one.at_step or 0) <= step]
    state.stepped = state.stepped[len(due) :]
    for one in due:
        fault(state, one)
    if state.work.stride is not None:
        plan_fault(state, state.work.stride)


def strike_standing(state: State) -> None:
    """All stand: faults that were to strike after the step which they just did find them so."""
    due = [one for one in state.stepped if (one.at_step or 0) <= state.work.current]
    state.stepped = state.stepped[len(due) :]
    for one in due:
        state.agenda.at(state.now_ns + AFTER_STEP_NS, "fault", one)


def _kill(state: State, node: NodeId, course: Course, how: str, rank: int | None) -> None:
    pool, _, index = node.rpartition("-")
    one = Breakdown(at_s=state.now_s, pool=pool, node=int(index), cause=how, course=course, duration_s=FOR_EVER_S)
    strike(state, one, rank=rank)
