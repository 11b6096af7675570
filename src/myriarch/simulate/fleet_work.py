"""Steps and stops of a job on a simulated fleet: what working devices do, until something else is decided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from myriarch.event.ids import GroupId, Step
from myriarch.event.layout import GroupLayout
from myriarch.event.spans import Leaf
from myriarch.simulate.fleet_state import State
from myriarch.simulate.fleet_stride import Stride
from myriarch.units import NS_PER_S

AFTER_STEP_NS: Final = 1_000_000
"""A fault that is to strike once a step is done strikes so long after it, as in `World`."""
STEPS_REMEMBERED: Final = 10_000
"""Sets of groups whose step time is remembered."""


def close(state: State) -> None:
    """Spend working devices' time up to now; a stride ends, and which steps and saves it completed is known."""
    work, books, working, now_ns = state.work, state.books, state.crew.working, state.now_ns
    duration_ns, work.since_ns = now_ns - work.since_ns, now_ns
    stride, work.stride = work.stride, None
    if stride is None:
        begin_ns = now_ns - duration_ns
        for index, (leaf, until_ns) in enumerate(work.leaves):
            last = index == len(work.leaves) - 1
            end_ns = now_ns if last else min(until_ns, now_ns)
            if end_ns > begin_ns:
                books.spend(working, leaf, end_ns - begin_ns)
                begin_ns = end_ns
        return
    done, stopped_ns = stride.done(now_ns), stride.stopped_ns(now_ns)
    steps = done - stride.first
    books.did(
        working,
        first=stride.first,
        steps=steps,
        compute_ns=stride.step_ns - work.wait_ns,
        wait_ns=work.wait_ns,
    )
    # Of a save's stop, the part that stands for slower steps beside its copies.
    beside_ns = round(stopped_ns * (state.terms.contention_s / state.pace.snapshot_s))
    books.spend(working, "checkpoint_stall", stopped_ns - beside_ns)
    books.spend(working, "checkpoint_contention", beside_ns)
    books.spend(working, "lost_work", duration_ns - steps * stride.step_ns - stopped_ns)
    work.current = Step(done)
    work.newest = max(work.newest, work.current)
    _bank(state, stride)


def halt(state: State, *leaves: tuple[Leaf, float]) -> None:
    """No more steps; working devices do this, each so many seconds, and the last one from then on."""
    close(state)
    state.work.turn += 1
    state.work.leaves, until_ns = [], state.now_ns
    for leaf, duration_s in leaves:
        until_ns += round(duration_s * NS_PER_S)
        state.work.leaves.append((leaf, until_ns))


def start_stride(state: State) -> None:
    """Steps, from the present one on."""
    close(state)
    work = state.work
    step_ns = round(_step_s(state) * NS_PER_S)
    slow = (math.prod(factors) for node, factors in state.trouble.slow.items() if state.crew.works(node))
    work.wait_ns = round(step_ns / min(slow, default=1.0)) - step_ns
    work.turn += 1
    work.stride = Stride(
        begun_ns=state.now_ns,
        first=work.current,
        step_ns=step_ns + work.wait_ns,
        stop_ns=round(state.pace.snapshot_s * NS_PER_S),
        every=state.every,
    )
    last = state.resolved.run.steps
    if last > work.current:
        state.agenda.at(work.stride.end_ns(last), "finish", work.turn)
    plan_fault(state, work.stride)


def plan_fault(state: State, stride: Stride) -> None:
    """The next fault that waits for a step."""
    if state.stepped:
        step = max(state.stepped[0].at_step or 0, stride.first + 1)
        state.agenda.at(stride.end_ns(step) + AFTER_STEP_NS, "stepped", (state.work.turn, step))


def drained(state: State) -> None:
    """A checkpoint may be in the store by now."""
    tiers = state.tiers
    if tiers.drain is not None and tiers.drain[1] <= state.now_ns:
        if tiers.saved.newest_durable is None or tiers.drain[0] > tiers.saved.newest_durable.step:
            tiers.saved.store(tiers.drain[0])
        tiers.drain = None


def save(state: State, step: Step) -> None:
    """A save is safe."""
    if state.terms.memory:
        state.tiers.saved.commit(step, state.crew.layouts, copies=state.tiers.copies)
    else:
        state.tiers.saved.store(step)


def _bank(state: State, stride: Stride) -> None:
    """Saves that became safe during a stride that ends now."""
    now_ns, terms = state.now_ns, state.terms
    if terms.memory:
        copy_ns = round(terms.copy_s * NS_PER_S)
        _drain_some(state, stride, after_ns=stride.stop_ns + copy_ns)
        step = stride.saved(now_ns, after_ns=copy_ns)
    else:
        step = stride.saved(now_ns, after_ns=0)
    if step:
        save(state, Step(step))


def _drain_some(state: State, stride: Stride, *, after_ns: int) -> None:
    """Snapshots of the stride that went to the store, or are on their way: one at a time."""
    now_ns, tiers, every = state.now_ns, state.tiers, state.pace.disk_every_steps
    assert every is not None
    drained(state)
    if tiers.drain is not None:
        return
    free_ns, step = stride.begun_ns, (stride.first // every + 1) * every
    while (safe_ns := stride.end_ns(step) + after_ns) <= now_ns:
        if safe_ns >= free_ns:
            free_ns = safe_ns + round(state.terms.drain_s * NS_PER_S)
            tiers.drain = (Step(step), free_ns)
            drained(state)
        step += every


def _step_s(state: State) -> float:
    """Of the groups that step, by the shares that `Control` would give them."""
    crew, known = state.crew, state.steps_s
    odd = crew.sizes.items() ^ crew.full.items() if crew.sizes != crew.full else ()
    key = tuple(sorted(odd))  # groups that are missing or of another size
    if key not in known:
        if len(known) >= STEPS_REMEMBERED:
            known.clear()
        known[key] = step_s(state, crew.layouts)
    return known[key]


def step_s(state: State, layouts: Mapping[GroupId, GroupLayout]) -> float:
    """Seconds of a step of groups that lie so."""
    shares = state.pace.shares(state.resolved, layouts)
    state.pace.set_intervals(state.resolved, shares)
    seconds = state.pace.step_s(shares)
    assert seconds is not None, "the terms say how fast every pool is"
    return seconds + state.terms.merge_s
