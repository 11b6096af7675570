"""A live run as its journal shows it, and one course of events from there.

Steps are simulated one by one for a window; of longer runs the rest is the window's pace times the steps that are left.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.random import Generator

from myriarch.control import Control, ControlView
from myriarch.errors import UsageError
from myriarch.event.actions import Decide
from myriarch.event.events import StepCompleted
from myriarch.event.journal import Record
from myriarch.simulate.faults import Fault, chaos_of
from myriarch.simulate.from_live_answer import Question, Replay
from myriarch.simulate.from_live_fleet import LiveFleet, read_fleet, world_of
from myriarch.simulate.from_live_timing import LiveTiming, read_timing
from myriarch.simulate.world import World
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S

WINDOW_STEPS: Final = 2_000
"""Steps after the last fault that are simulated one by one, at most."""
WINDOW_RECORDS: Final = 8_000
"""So many records of a journal are a window in any case, if they are `WINDOW_SNAPSHOTS`: about a second of a core."""
WINDOW_SNAPSHOTS: Final = 3
"""Intervals between snapshots that a window has at least, for its pace to be the run's."""
WORST_S: Final = 3600.0
"""A run that does not step for so long after its last fault is stuck, and not waited for any longer."""
Outcome = Literal["completed", "degraded", "interrupted", "failed", "user_error", "stuck"]


@dataclass(eq=False)
class Live:
    """A run as its journal says it is: as many worlds can begin here as wanted."""

    records: tuple[Record, ...]
    replay: Replay
    view: ControlView
    resolved: ResolvedRun
    timing: LiveTiming
    notes: tuple[str, ...]
    _state: bytes

    @property
    def window_steps(self) -> int:
        """How many steps are simulated one by one: fewer where a step is many events."""
        view = self.view
        workers = sum(len(node.workers) for node in view.nodes)
        every = view.memory_every_steps or 1
        per_step = len(view.groups) + 2.0 * workers / every  # each worker's shard is sealed and copied
        return min(WINDOW_STEPS, max(WINDOW_SNAPSHOTS * every, int(WINDOW_RECORDS / max(per_step, 1.0))))

    def world(self, question: Question, *, faults: Sequence[Fault], draw: Generator | None) -> World:
        """A world that goes on from here."""
        control, fleet = pickle.loads(self._state)
        assert isinstance(control, Control)
        assert isinstance(fleet, LiveFleet)
        world = world_of(
            control,
            fleet,
            self.records,
            faults=(*_chaos_left(self), *faults),
            timing=self.timing.timing(draw=draw),
            speeds=self.timing.speeds(),
            spares=question.spares,
        )
        world.accounts = False
        return world


def read_live(records: Sequence[Record]) -> Live:
    """Replay a journal. Raises IntegrityError where the replay differs, UsageError for one with no run in it."""
    if not records:
        raise UsageError("the journal is still empty", hint="wait until the run has started")
    control, fleet, whole = read_fleet(records)
    view = control.view()
    said = len(whole) - len(records)
    replay = Replay(
        records=len(records),
        events=sum(1 for record in whole if record.event is not None),
        actions=sum(1 for record in records if record.action is not None),
        completed_actions=said,
        digest=control.digest(),
    )
    away = [node.node for node in view.nodes if not node.connected]
    notes = [f"{', '.join(away)}: away when the journal ended, taken to stay away"] if away else []
    return Live(
        records=whole,
        replay=replay,
        view=view,
        resolved=fleet.resolved,
        timing=read_timing(whole),
        notes=tuple(notes),
        _state=pickle.dumps((control, fleet)),
    )


def _chaos_left(live: Live) -> tuple[Fault, ...]:
    """What the run file still has in store for its own run."""
    return tuple(fault for fault in chaos_of(live.resolved.run) if (fault.at_step or 0) > live.view.step)


class StepWorth(NamedTuple):
    """What a step is worth, and what the fleet could do."""

    step_flops: float
    peak_flops_per_s: float | None


@dataclass
class Course:
    """What came of one world."""

    outcome: Outcome
    end_s: float | None
    step_s: float | None
    effective: float | None
    decisions: tuple[tuple[str, str], ...]
    detected_s: float | None
    next_step_s: float | None
    lost_steps: int
    faults: int
    steps: int
    extrapolated: bool
    recovery_s: float = 0.0

    @classmethod
    def of(cls, live: Live, question: Question, *, faults: Sequence[Fault], seed: int, value: StepWorth) -> Course:
        """Let a world go on until the run ends or the window does."""
        draw = np.random.default_rng(np.random.SeedSequence((seed, 1))) if seed else None
        world = live.world(question, faults=faults, draw=draw)
        watch = _Watch(world, live, faults)
        world.go_on(until=watch.enough)
        return watch.course(value)


class _Watch:
    """Reads what a world's journal says while it goes on."""

    def __init__(self, world: World, live: Live, faults: Sequence[Fault]) -> None:
        self.world = world
        self.live = live
        self.faults = faults
        self.begin = len(world.records)
        self.now_ns = world.clock.now_ns
        self.incarnation = live.view.incarnation
        last_s = max((fault.at_s for fault in faults if fault.at_s is not None), default=0.0)
        self.faults_over_ns = self.now_ns + round(last_s * NS_PER_S)
        self.faults_over_step = max((fault.at_step for fault in faults if fault.at_step is not None), default=0)
        self.read = self.begin
        self.stepped: list[tuple[int, int, int]] = []
        """`(at_ns, incarnation, step)` of every step, by the group that completed it first."""
        self.decided: list[tuple[int, Decide]] = []
        self.moved_ns = self.now_ns
        self.target: int | None = None
        """The step at which it is enough; None: faults are still to come."""

    def enough(self) -> bool:
        """Whether the window is over, or nothing moves any more."""
        records = self.world.records
        while self.read < len(records):
            self._take(records[self.read])
            self.read += 1
        if (
            self.target is None
            and self.world.clock.now_ns >= self.faults_over_ns
            and self._step >= self.faults_over_step
        ):
            self.target = self._step + self.live.window_steps
        if self.target is not None and self._step >= self.target:
            return True
        quiet_ns = self.world.clock.now_ns - max(self.moved_ns, self.faults_over_ns)
        return quiet_ns > WORST_S * NS_PER_S

    @property
    def _step(self) -> int:
        return self.stepped[-1][2] if self.stepped else self.live.view.step

    def _take(self, record: Record) -> None:
        if isinstance(record.action, Decide):
            self.decided.append((record.at_ns, record.action))
        event = record.event
        if isinstance(event, StepCompleted) and (
            not self.stepped or (event.incarnation, event.step) > self.stepped[-1][1:]
        ):
            self.stepped.append((record.at_ns, event.incarnation, event.step))
            self.moved_ns = record.at_ns

    def course(self, value: StepWorth) -> Course:
        """What came of it."""
        self.enough()
        end, view = self.world.end, self.live.view
        passed_s = (self.world.clock.now_ns - self.now_ns) / NS_PER_S
        step_s = self._pace()
        reached = self._step
        end_s: float | None = None
        outcome: Outcome = "stuck"
        if end is not None:
            outcome, end_s, reached = end.outcome, passed_s, max(end.step, view.step if end.step == 0 else end.step)
        elif self.target is not None and self._step >= self.target and step_s is not None:
            outcome, end_s = "completed", passed_s + (view.steps - self._step) * step_s
            reached = view.steps
        fault_ns = self._fault_ns()
        after = [one for one in self.decided if fault_ns is not None and one[0] >= fault_ns]
        detected_s = (after[0][0] - fault_ns) / NS_PER_S if after and fault_ns is not None else None
        effective = None
        if end_s and value.peak_flops_per_s:
            effective = (reached - view.step) * value.step_flops / (value.peak_flops_per_s * end_s)
        return Course(
            outcome=outcome,
            end_s=end_s,
            step_s=step_s,
            effective=effective,
            decisions=tuple((one.choice, one.reason.text) for _, one in self.decided),
            detected_s=detected_s,
            next_step_s=self._next_step_s(fault_ns, after),
            lost_steps=sum(
                one.from_step - one.to_step
                for _, one in self.decided
                if one.from_step is not None and one.to_step is not None
            ),
            faults=len(self.faults),
            steps=max(0, self._step - view.step),
            extrapolated=end is None and end_s is not None,
        )

    def _fault_ns(self) -> int | None:
        """When the first fault struck."""
        instants = [self.now_ns + round(fault.at_s * NS_PER_S) for fault in self.faults if fault.at_s is not None]
        for fault in self.faults:
            if fault.at_s is None:
                reached = next((at_ns for at_ns, _, step in self.stepped if step >= (fault.at_step or 0)), None)
                instants += [reached] if reached is not None else []
        return min(instants, default=None)

    def _next_step_s(self, fault_ns: int | None, after: Sequence[tuple[int, Decide]]) -> float | None:
        if fault_ns is None or not after:
            return None
        first = after[0][1].incarnation
        found = next(
            (at_ns for at_ns, incarnation, _ in self.stepped if at_ns >= after[0][0] and incarnation >= first), None
        )
        return None if found is None else (found - fault_ns) / NS_PER_S

    def _pace(self) -> float | None:
        """Seconds of a step of the newest incarnation, over whole intervals between snapshots."""
        if not self.stepped:
            return None
        newest = self.stepped[-1][1]
        steps = [(at_ns, step) for at_ns, incarnation, step in self.stepped if incarnation == newest]
        every = self.world.control.view().memory_every_steps or 1
        whole = (len(steps) - 1) // every * every or len(steps) - 1
        if whole < 1:
            return None
        return (steps[-1][0] - steps[-1 - whole][0]) / NS_PER_S / whole
