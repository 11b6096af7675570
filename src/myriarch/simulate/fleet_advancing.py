"""What follows from what happened to a simulated fleet, as `control.advancing` and `control.recovering` have it."""

from __future__ import annotations

import math
from typing import Final

from myriarch.control.judging import FORMING, fits, judge, wait_until_s
from myriarch.recover.decide import Budget
from myriarch.recover.incident import Incident, diagnose
from myriarch.recover.rests import culprits
from myriarch.simulate.fleet_assigning import assign_groups, grown_groups, splits
from myriarch.simulate.fleet_live import can_go_on, go_on, start_missing
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_together import distrust, form, stop_after_step
from myriarch.simulate.fleet_work import close, halt
from myriarch.units import NS_PER_S

ROUNDING_NS: Final = 1_000
"""Seconds as a float are off by less for years: so much later an instant is over, whatever its rounding."""


def advance(state: State) -> None:
    """After every happening that may change what is to be done."""
    if state.trouble.incident is not None:
        resolve(state)
        return
    running = state.work.stride is not None and state.work.stopping != state.work.turn
    if state.terms.live and running:
        start_missing(state)
    if state.trouble.leaving or state.crew.prepared or (running and _why_stop(state)):
        stop_after_step(state)


def resolve(state: State) -> None:
    """Answer the open incident, as `control.recovering.resolve` does."""
    crew, trouble, incident = state.crew, state.trouble, state.trouble.incident
    assert incident is not None
    diagnosis = diagnose(incident, now_s=state.now_s)
    assert diagnosis is not None, "all that is found here are facts"
    healthy = [name for name in crew.layouts if name not in trouble.hurt]
    whole = fits({name: crew.sizes[name] for name in healthy}, sequences=state.resolved.run.batch.sequences)
    goes_on = state.terms.live and whole and trouble.wrong_since is None and can_go_on(state, healthy)
    touched = crew.incomplete.keys() | trouble.struck.keys()
    rests = ""
    if goes_on:
        touched = (crew.groups.keys() - crew.layouts.keys()) | trouble.hurt.keys()
        rests = _rest(state, incident)
    looked_at = {name: group for name, group in crew.groups.items() if name in touched}
    assignment = assign_groups(state, looked_at, whole=goes_on, without=trouble.rests.resting if goes_on else ())
    formable = splits(state, assignment.layouts, resized=bool(assignment.resized))
    beside = crew.beside
    decision = judge(
        incident,
        diagnosis,
        assignment,
        absent=[name for name in crew.groups if name not in crew.layouts and name not in beside],
        splits=formable,
        budget=Budget() if goes_on else trouble.budget,
        newest_step=state.work.newest,
        # With `live`, nobody waits for a group that is missing, unless there is no other.
        recovery=state.going_on if state.terms.live and formable else state.recovery,
        now_s=state.now_s,
    )
    if decision.choice == "wait_for_group":
        if incident.waiting_since_s is None:
            incident.waiting_since_s = state.now_s
            state.tell(decision.choice, decision.reason.text, incident, groups=list(crew.layouts))
            halt(state, ("replace", 0.0))
            until_s = wait_until_s(incident, state.recovery)
            assert until_s is not None
            state.agenda.at(math.ceil(until_s * NS_PER_S) + ROUNDING_NS, "overdue", incident.number)
    elif decision.choice not in FORMING:
        state.tell(decision.choice, decision.reason.text, incident, groups=list(crew.layouts))
        _give_up(state)
    elif goes_on:
        go_on(state, assignment, healthy, decision, incident, rests=rests)
    else:
        trouble.budget.spend(state.work.newest)
        form(state, assignment, choice=decision.choice, reason=decision.reason, incident=incident)


def _rest(state: State, incident: Incident) -> str:
    """Nodes that fail again and again rest. What is said of it."""
    rests, crew = state.trouble.rests, state.crew
    told = rests.failed(culprits(incident, node_of=lambda key: crew.last[key[0]].node_of(key[1])), now_s=state.now_s)
    if told:
        for node in rests.resting:
            state.agenda.at(math.ceil(rests.failures[node].rested_s * NS_PER_S) + ROUNDING_NS, "rested", None)
    return told


def _give_up(state: State) -> None:
    """The run ends. Steps that were not saved are lost."""
    close(state)
    distrust(state)
    step = state.tiers.saved.left()
    state.counts.lost_steps += state.books.lose_after(step)
    state.work.current = step
    state.ended = "failed"


def _why_stop(state: State) -> bool:
    """Whether all should stop together now."""
    crew = state.crew
    if state.tiers.short:
        return True
    if crew.grown_version == crew.version:
        return False
    crew.grown_version = crew.version
    return bool(grown_groups(state))
