"""What if, on a run that is there: its journal replayed into `Control`, and virtual time from its last record on.

The replay proves that this `Control` is the one that decides in the live run: every recorded action equals the
replayed one, byte for byte. From there the world of `simulate.world` goes on, with the nodes, workers, shards and
speeds that the journal shows (`from_live_fleet`, `from_live_timing`), once without and once with what may happen.

Steps are simulated one by one for a window; of longer runs the rest is the window's pace times the steps that are left.
Where faults are drawn over such a run, a few of them are simulated, each alone, and each of the others costs their
mean: right as long as a recovery is over before the next fault, which `overlap` says.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.random import Generator

from myriarch.account.factors import peaks
from myriarch.account.history import History
from myriarch.control import Control, ControlView
from myriarch.cost.flops import flops_per_token
from myriarch.errors import SpecError, UsageError
from myriarch.event.actions import Decide
from myriarch.event.base import Value
from myriarch.event.events import StepCompleted
from myriarch.event.ids import NodeId, PoolId
from myriarch.event.journal import Record
from myriarch.simulate.faults import Fault, chaos_of
from myriarch.simulate.from_live_fleet import LiveFleet, read_fleet, world_of
from myriarch.simulate.from_live_timing import LiveTiming, Measured, read_timing
from myriarch.simulate.world import World
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S

WINDOW_STEPS: Final = 2_000
"""Steps after the last fault that are simulated one by one, at most."""
WINDOW_RECORDS: Final = 8_000
"""So many records of a journal are a window in any case, if they are `WINDOW_SNAPSHOTS`: about a second of a core."""
WINDOW_SNAPSHOTS: Final = 3
"""Intervals between snapshots that a window has at least, for its pace to be the run's."""
REACH_STEPS: Final = 50_000
"""A fault that is further ahead is refused: a minute of a core."""
FAULTS_SIMULATED: Final = 4
"""Of the faults that are drawn over a long run, for each seed."""
WORST_S: Final = 3600.0
"""A run that does not step for so long after its last fault is stuck, and not waited for any longer."""

Outcome = Literal["completed", "degraded", "interrupted", "failed", "user_error", "stuck"]


class Question(Value, frozen=True, kw_only=True):
    """What may happen."""

    faults: tuple[Fault, ...] = ()
    """Instants are seconds from now."""
    rate_per_node_s: float = 0.0
    """Further faults of every node, drawn: a node's process dies."""
    repair_s: float | None = None
    """When another machine has taken a lost node's place; None: none does."""
    spares: dict[PoolId, int] = msgspec.field(default_factory=dict)
    """Nodes more in a pool, there at once."""
    seeds: int = 9

    @property
    def nothing(self) -> bool:
        """Whether it is only asked how the run goes on."""
        return not (self.faults or self.rate_per_node_s or self.spares)


class Range(Value, frozen=True, kw_only=True):
    """Over the seeds, those in which there is a value."""

    p10: float
    p50: float
    p90: float
    seeds: int


class Decision(Value, frozen=True, kw_only=True):
    """What was decided, in the controller's own words."""

    choice: str
    text: str
    seeds: int
    """In how many it was."""


class Projection(Value, frozen=True, kw_only=True):
    """How the run goes on. Seconds from now; None: it does not come to that, or is unknown."""

    outcomes: dict[str, int]
    """By seeds. `stuck`: nothing more happened."""
    end_s: Range | None
    step_s: Range | None
    """A step, snapshots included, once all is well."""
    effective: Range | None
    """Model FLOPs of the steps that come, over the peak of all devices, spares included, until the end."""
    decisions: tuple[Decision, ...] = ()
    detected_s: Range | None = None
    """From the first fault to the decision."""
    next_step_s: Range | None = None
    """From the first fault to the first step that is completed after the decision."""
    lost_steps: Range | None = None
    """Completed and undone, over all incidents."""
    faults: Range | None = None
    """How many there were."""
    steps_simulated: int = 0
    extrapolated: bool = False
    """Whether the end was computed from the pace and not reached."""
    overlap: float = 0.0
    """Drawn faults: share of the time that recoveries take together."""


class Replay(Value, frozen=True, kw_only=True):
    """The proof."""

    records: int
    events: int
    actions: int
    completed_actions: int
    """Said by the replay and not yet in the journal, whose writer is at work or died."""
    digest: str
    """Of the controller's state."""


class WhatIf(Value, frozen=True, kw_only=True):
    """The answer."""

    run: str
    run_id: str
    phase: str
    step: int
    steps: int
    at_ns: int
    """The journal's last instant: what `now` means here."""
    replay: Replay
    measured: tuple[Measured, ...]
    question: Question
    undisturbed: Projection
    changed: Projection | None
    """None: nothing was asked."""
    later_s: Range | None
    """How much later the end is than undisturbed, seed by seed."""
    notes: tuple[str, ...]


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


def what_if(live: Live, question: Question) -> WhatIf:
    """Answer. Raises SpecError for nodes that are not there, UsageError for a run that has ended."""
    _check(live, question)
    undisturbed, changed = [], []
    usual, owned = _value_of(live, spares={}), _value_of(live, spares=question.spares)
    for seed in range(question.seeds):
        undisturbed.append(_Course.of(live, Question(seeds=1), faults=(), seed=seed, value=usual))
        if not question.nothing:
            changed.append(_changed(live, question, seed=seed, value=owned, base=undisturbed[-1]))
    later = [
        one.end_s - base.end_s
        for one, base in zip(changed, undisturbed, strict=False)
        if one.end_s is not None and base.end_s is not None
    ]
    return WhatIf(
        run=live.view.run,
        run_id=live.view.run_id,
        phase=live.view.phase,
        step=live.view.step,
        steps=live.view.steps,
        at_ns=live.records[-1].at_ns,
        replay=live.replay,
        measured=live.timing.evidence(),
        question=question,
        undisturbed=_projection(undisturbed),
        changed=_projection(changed) if changed else None,
        later_s=_range(later),
        notes=live.notes,
    )


# --- one course of events --------------------------------------------------------------------------------------------


class _Value(NamedTuple):
    """What a step is worth, and what the fleet could do."""

    step_flops: float
    peak_flops_per_s: float | None


@dataclass
class _Course:
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
    def of(cls, live: Live, question: Question, *, faults: Sequence[Fault], seed: int, value: _Value) -> _Course:
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

    def course(self, value: _Value) -> _Course:
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
        return _Course(
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


def _changed(live: Live, question: Question, *, seed: int, value: _Value, base: _Course) -> _Course:
    """With what was asked: the faults that are named, then those that are drawn."""
    draw = np.random.default_rng(np.random.SeedSequence((seed, 2)))
    if not question.rate_per_node_s:
        return _Course.of(live, question, faults=_repaired(question.faults, question), seed=seed, value=value)
    nodes = [node.node for node in live.view.nodes]
    left = live.view.steps - live.view.step
    step_s = base.step_s or 0.0
    span_s = left * step_s if base.end_s is None else base.end_s
    rate_per_s = question.rate_per_node_s * len(nodes)
    if left <= live.window_steps:
        drawn = _drawn(draw, nodes, rate_per_s=rate_per_s, until_s=2.0 * span_s)
        return _Course.of(
            live, question, faults=_repaired((*question.faults, *drawn), question), seed=seed, value=value
        )
    return _many(
        live, question, draw, nodes, rate_per_s=rate_per_s, span_s=span_s, step_s=step_s, seed=seed, value=value
    )


def _many(
    live: Live,
    question: Question,
    draw: Generator,
    nodes: Sequence[NodeId],
    *,
    rate_per_s: float,
    span_s: float,
    step_s: float,
    seed: int,
    value: _Value,
) -> _Course:
    """Faults over a run that is too long to be simulated step by step: a few alone, the others cost their mean."""
    quiet = _Course.of(live, question, faults=question.faults, seed=seed, value=value)
    count = int(draw.poisson(rate_per_s * span_s))
    alone = []
    for _ in range(min(count, FAULTS_SIMULATED)):
        at_s = float(draw.uniform(0.0, live.window_steps / 2 * step_s))
        fault = Fault(action="kill", target=nodes[int(draw.integers(len(nodes)))], at_s=at_s)
        faults = _repaired((*question.faults, fault), question)
        alone.append(_Course.of(live, question, faults=faults, seed=seed, value=value))
    if not alone or quiet.end_s is None:
        return quiet
    if any(one.end_s is None for one in alone):
        return next(one for one in alone if one.end_s is None)
    costs_s = [(one.end_s or 0.0) - quiet.end_s for one in alone]
    delay_s = count * float(np.mean(costs_s))
    end_s = quiet.end_s + max(0.0, delay_s)
    first = alone[0]
    first.end_s, first.faults, first.extrapolated = end_s, count + len(question.faults), True
    first.lost_steps = round(count * float(np.mean([one.lost_steps for one in alone])))
    first.recovery_s = delay_s
    if quiet.effective is not None:
        first.effective = quiet.effective * quiet.end_s / end_s
    return first


def _drawn(draw: Generator, nodes: Sequence[NodeId], *, rate_per_s: float, until_s: float) -> tuple[Fault, ...]:
    """A Poisson process over all nodes."""
    found: list[Fault] = []
    at_s = float(draw.exponential(1.0 / rate_per_s))
    while at_s < until_s:
        found.append(Fault(action="kill", target=nodes[int(draw.integers(len(nodes)))], at_s=at_s))
        at_s += float(draw.exponential(1.0 / rate_per_s))
    return tuple(found)


def _repaired(faults: Sequence[Fault], question: Question) -> tuple[Fault, ...]:
    """The faults, and the machines that take the lost ones' places."""
    if question.repair_s is None:
        return tuple(faults)
    back = [
        Fault(action="return", target=fault.target, at_s=fault.at_s + question.repair_s)
        for fault in faults
        if fault.at_s is not None and fault.action in ("kill", "stop") and "/" not in fault.target
    ]
    return (*faults, *back)


def _chaos_left(live: Live) -> tuple[Fault, ...]:
    """What the run file still has in store for its own run."""
    return tuple(fault for fault in chaos_of(live.resolved.run) if (fault.at_step or 0) > live.view.step)


def _check(live: Live, question: Question) -> None:
    view = live.view
    if view.phase == "ended":
        raise UsageError(
            f"run `{view.run}` has ended ({view.outcome} at step {view.step}): nothing is left to go on",
            hint="look back with --as-of-step: the journal is then read up to there",
        )
    known = {node.node for node in view.nodes}
    workers = {f"{worker.group}/{worker.rank}" for node in view.nodes for worker in node.workers}
    pools = [pool.name for pool in live.resolved.fleet.pools]
    for fault in question.faults:
        if fault.target not in known | workers | {"", "controller"}:
            raise SpecError(
                f"`{fault.target}` is no node of the run now",
                path="kill",
                hint=f"there are: {', '.join(sorted(known))}",
            )
        if fault.at_step is not None and not view.step < fault.at_step <= min(view.steps, view.step + REACH_STEPS):
            raise SpecError(
                f"step {fault.at_step} is not ahead: the run is at {view.step} of {view.steps}",
                path="at-step",
                hint=f"name a step up to {min(view.steps, view.step + REACH_STEPS)}",
            )
    for pool in question.spares:
        if pool not in pools:
            raise SpecError(f"`{pool}` is no pool of the run", path="spares", hint=f"there are: {', '.join(pools)}")


def _value_of(live: Live, *, spares: Mapping[PoolId, int]) -> _Value:
    """By the account's own peaks, declared or measured, of all devices and of spares that are added."""
    resolved = live.resolved
    history = History.from_records(live.records, ())
    rates = peaks(history)
    peak = 0.0
    for pool in resolved.fleet.pools:
        rate = rates[PoolId(pool.name)].rate_flops_per_s
        if rate is None:
            return _Value(0.0, None)
        peak += rate * (pool.nodes + pool.spares + spares.get(PoolId(pool.name), 0)) * pool.devices_per_node
    tokens = live.view.tokens or resolved.run.batch.sequences * resolved.model.context_tokens
    return _Value(tokens * flops_per_token(resolved.model), peak)


# --- over seeds ------------------------------------------------------------------------------------------------------


def _projection(courses: Sequence[_Course]) -> Projection:
    def over(of: Callable[[_Course], float | None]) -> Range | None:
        return _range([value for one in courses if (value := of(one)) is not None])

    counts: dict[tuple[str, str], int] = {}
    for one in courses:
        for decision in one.decisions:
            counts[decision] = counts.get(decision, 0) + 1
    outcomes: dict[str, int] = {}
    for one in courses:
        outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
    spans_s = sum(one.end_s or 0.0 for one in courses)
    return Projection(
        outcomes=outcomes,
        end_s=over(lambda one: one.end_s),
        step_s=over(lambda one: one.step_s),
        effective=over(lambda one: one.effective),
        decisions=tuple(
            Decision(choice=choice, text=text, seeds=seeds)
            for (choice, text), seeds in list(counts.items())[:DECISIONS_TOLD]
        ),
        detected_s=over(lambda one: one.detected_s),
        next_step_s=over(lambda one: one.next_step_s),
        lost_steps=over(lambda one: float(one.lost_steps)),
        faults=over(lambda one: float(one.faults)),
        steps_simulated=max((one.steps for one in courses), default=0),
        extrapolated=any(one.extrapolated for one in courses),
        overlap=sum(one.recovery_s for one in courses) / spans_s if spans_s else 0.0,
    )


DECISIONS_TOLD: Final = 20
"""Different ones; the first over all seeds."""


def _range(values: Sequence[float]) -> Range | None:
    if not values:
        return None
    p10, p50, p90 = (float(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
    return Range(p10=p10, p50=p50, p90=p90, seeds=len(values))
