"""One training on up to 131,072 devices for months of virtual time, by the decisions of `control`.

`World` follows every worker; this follows groups and nodes, and jumps from one decision to the next. What is decided
is decided by the same functions: `recover` says what an incident is and what to do about it (`control.judging`),
`schedule.groups.assign` who takes whose place, `checkpoint` what a fault leaves of snapshots and where to go on,
`control.pace` how the batch is split and how often to save. A conformance test plays the same faults to both.

    running  --fault-->  stricken  --noticed-->  decided: forming --ready--> running
                                                          blocked --nodes are back, or time is up--> decided
    running  --nodes are back, or copies are lost-->  stops after the step under way, saves, forms

With `terms.live` healthy groups go on without one that was hit: all wait until the fault is noticed, the step under way
is lost, and the others begin it anew. The group starts beside them; when it is ready they stop after a step, it takes
their state, and all go on. Only when no healthy group is left, or values were wrong, all begin anew from what is saved.

Simplified: an interrupted step and copies under way are lost; a slow node slows its group from the next step on, and
shares are not split anew for it; nodes that are back are as good as new.

| module | |
| --- | --- |
| `fleet_blows` | what breaks, when it is noticed, who is lost and who comes back |
| `fleet_happenings` | all are ready, all stand, a save is safe, the job ends |
| `fleet_advancing` | what follows: an incident is answered, groups stop for those who are back |
| `fleet_together`, `fleet_live` | all begin anew; healthy groups go on |
| `fleet_assigning` | who takes whose place |
| `fleet_work` | steps, stops and saves from one decision to the next |
| `fleet_state` | all that is known, in small machines: `fleet_agenda`, `fleet_crew`, `fleet_books`, `fleet_memory` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from myriarch.simulate import fleet_blows as blows
from myriarch.simulate import fleet_happenings as happenings
from myriarch.simulate import fleet_live as live
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.faults import Fault
from myriarch.simulate.fleet_agenda import Kind
from myriarch.simulate.fleet_outcome import FleetOutcome
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_terms import FleetTerms
from myriarch.simulate.fleet_together import begin
from myriarch.simulate.fleet_work import close
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S

EVENTS_LIMIT: Final = 50_000_000
"""A simulation that goes on longer has lost its way."""

_HAPPEN: Final[Mapping[Kind, Callable[[State, Any], None]]] = {
    "strike": blows.strike,
    "fault": blows.fault,
    "stepped": blows.after_steps,
    "noticed": blows.noticed,
    "faster": blows.faster,
    "back": blows.back,
    "rested": blows.rested,
    "overdue": happenings.overdue,
    "ready": happenings.ready,
    "started": live.started,
    "stopped": happenings.stopped,
    "held": happenings.held,
    "safe": happenings.safe,
    "finish": happenings.finish,
}


def simulate_fleet(
    resolved: ResolvedRun,
    *,
    terms: FleetTerms,
    until_s: float,
    breakdowns: Iterable[Breakdown] = (),
    faults: Sequence[Fault] = (),
) -> FleetOutcome:
    """Let a job run for so long, or until it ends. `faults` strike after steps, as in `World`: `kill` and `return`."""
    return Fleet(resolved, terms=terms, until_s=until_s, breakdowns=breakdowns, faults=faults).run()


class Fleet:
    """A job and what happens to it, one thing after another."""

    def __init__(
        self,
        resolved: ResolvedRun,
        *,
        terms: FleetTerms,
        until_s: float,
        breakdowns: Iterable[Breakdown] = (),
        faults: Sequence[Fault] = (),
    ) -> None:
        self.state = State(resolved, terms=terms)
        self.until_ns = round(until_s * NS_PER_S)
        agenda = self.state.agenda
        for one in breakdowns:
            agenda.at(round(one.at_s * NS_PER_S), "strike", one)
        for fault in faults:
            if fault.at_s is not None:
                agenda.at(round(fault.at_s * NS_PER_S), "fault", fault)
        stepped = (one for one in faults if one.at_s is None)
        self.state.stepped = sorted(stepped, key=lambda one: one.at_step or 0)

    @property
    def every(self) -> int:
        """Steps from save to save."""
        return self.state.every

    def run(self) -> FleetOutcome:
        """Let it happen."""
        state = self.state
        begin(state)
        while not state.ended and (happening := state.agenda.next(until_ns=self.until_ns)) is not None:
            state.counts.events += 1
            if state.counts.events > EVENTS_LIMIT:
                raise RuntimeError(f"no end after {EVENTS_LIMIT} events of the simulated fleet")
            kind, what = happening
            _HAPPEN[kind](state, what)
        if not state.ended:
            state.agenda.now_ns, state.ended = self.until_ns, "until"
        return self._outcome()

    def check(self) -> None:
        """Invariants."""
        self.state.check()

    def _outcome(self) -> FleetOutcome:
        state, books, groups = self.state, self.state.books, self.state.crew.groups
        close(state)
        books.flow(state.now_ns)
        ledger = books.tally.ledger(end_ns=state.now_ns)
        return FleetOutcome(
            duration_s=state.now_s,
            devices=sum(group.mesh.devices for group in groups.values()),
            owned=sum(books.devices[pool] for pool in books.pool_of.values()),
            steps=state.work.current,
            step_s=state.whole_step_s,
            ended=state.ended,
            counts=state.counts,
            ledger=ledger,
            decisions=tuple(state.chronicle.kept),
            digest=state.chronicle.digest(ledger),
        )
