"""What if, on a run that is there: its journal replayed into `Control`, and virtual time from its last record on.

The replay proves that this `Control` is the one that decides in the live run: every recorded action equals the
replayed one, byte for byte. From there the world of `simulate.world` goes on, with the nodes, workers, shards and
speeds that the journal shows (`from_live_fleet`, `from_live_timing`), once without and once with what may happen
(`from_live_course`).

Steps are simulated one by one for a window; of longer runs the rest is the window's pace times the steps that are left.
Where faults are drawn over such a run, a few of them are simulated, each alone, and each of the others costs their
mean: right as long as a recovery is over before the next fault, which `overlap` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator

from myriarch.account.factors import peaks
from myriarch.account.history import History
from myriarch.cost.flops import flops_per_token
from myriarch.errors import SpecError, UsageError
from myriarch.event.ids import NodeId, PoolId
from myriarch.simulate.faults import Fault
from myriarch.simulate.from_live_answer import Decision, Projection, Question, Range, Replay, WhatIf, range_over
from myriarch.simulate.from_live_course import Course, Live, StepWorth, read_live

__all__ = ["Decision", "Live", "Projection", "Question", "Range", "Replay", "WhatIf", "read_live", "what_if"]

REACH_STEPS: Final = 50_000
"""A fault that is further ahead is refused: a minute of a core."""
FAULTS_SIMULATED: Final = 4
"""Of the faults that are drawn over a long run, for each seed."""
DECISIONS_TOLD: Final = 20
"""Different ones; the first over all seeds."""


def what_if(live: Live, question: Question) -> WhatIf:
    """Answer. Raises SpecError for nodes that are not there, UsageError for a run that has ended."""
    _check(live, question)
    undisturbed, changed = [], []
    usual, owned = _value_of(live, spares={}), _value_of(live, spares=question.spares)
    for seed in range(question.seeds):
        undisturbed.append(Course.of(live, Question(seeds=1), faults=(), seed=seed, value=usual))
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
        later_s=range_over(later),
        notes=live.notes,
    )


def _changed(live: Live, question: Question, *, seed: int, value: StepWorth, base: Course) -> Course:
    """With what was asked: the faults that are named, then those that are drawn."""
    draw = np.random.default_rng(np.random.SeedSequence((seed, 2)))
    if not question.rate_per_node_s:
        return Course.of(live, question, faults=_repaired(question.faults, question), seed=seed, value=value)
    nodes = [node.node for node in live.view.nodes]
    left = live.view.steps - live.view.step
    step_s = base.step_s or 0.0
    span_s = left * step_s if base.end_s is None else base.end_s
    rate_per_s = question.rate_per_node_s * len(nodes)
    if left <= live.window_steps:
        drawn = _drawn(draw, nodes, rate_per_s=rate_per_s, until_s=2.0 * span_s)
        return Course.of(live, question, faults=_repaired((*question.faults, *drawn), question), seed=seed, value=value)
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
    value: StepWorth,
) -> Course:
    """Faults over a run that is too long to be simulated step by step: a few alone, the others cost their mean."""
    quiet = Course.of(live, question, faults=question.faults, seed=seed, value=value)
    count = int(draw.poisson(rate_per_s * span_s))
    alone = []
    for _ in range(min(count, FAULTS_SIMULATED)):
        at_s = float(draw.uniform(0.0, live.window_steps / 2 * step_s))
        fault = Fault(action="kill", target=nodes[int(draw.integers(len(nodes)))], at_s=at_s)
        faults = _repaired((*question.faults, fault), question)
        alone.append(Course.of(live, question, faults=faults, seed=seed, value=value))
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


def _value_of(live: Live, *, spares: Mapping[PoolId, int]) -> StepWorth:
    """By the account's own peaks, declared or measured, of all devices and of spares that are added."""
    resolved = live.resolved
    history = History.from_records(live.records, ())
    rates = peaks(history)
    peak = 0.0
    for pool in resolved.fleet.pools:
        rate = rates[PoolId(pool.name)].rate_flops_per_s
        if rate is None:
            return StepWorth(0.0, None)
        peak += rate * (pool.nodes + pool.spares + spares.get(PoolId(pool.name), 0)) * pool.devices_per_node
    tokens = live.view.tokens or resolved.run.batch.sequences * resolved.model.context_tokens
    return StepWorth(tokens * flops_per_token(resolved.model), peak)


def _projection(courses: Sequence[Course]) -> Projection:
    def over(of: Callable[[Course], float | None]) -> Range | None:
        return range_over([value for one in courses if (value := of(one)) is not None])

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
