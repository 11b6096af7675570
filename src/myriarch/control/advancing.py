"""What follows from the state, whatever event made it so: run to a fixed point after every event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from myriarch.checkpoint.restore import complete_copy
from myriarch.control.drift import GAIN_LEAST, REST_STEPS, step_s
from myriarch.control.finishing import finish, try_to_end
from myriarch.control.forming import Choice, assign_groups, form, restore_keeping
from myriarch.control.going_on import in_order, leave_behind, prepared, start_missing
from myriarch.control.judging import grown
from myriarch.control.losses import lose_node, lose_worker
from myriarch.control.recovering import resolve
from myriarch.control.saving import saved, told
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, HoldWorkers, Reason, StartSteps
from myriarch.event.ids import GroupId, NodeId, Step
from myriarch.event.layout import GroupLayout
from myriarch.schedule.groups import Assignment

PASSES_LIMIT: Final = 8
"""Passes over the rules after one event. Each phase is entered at most once or twice: more would be a defect."""

ALL_STOPPED: Final = "all stopped after it"
"""Why a snapshot may do with fewer copies."""


def advance(state: State, *, now_s: float) -> Iterator[AnyAction]:
    """Apply the rules until none changes the phase."""
    yield from _expire(state, now_s)
    for _ in range(PASSES_LIMIT):
        before = (state.course.phase, state.crew.incarnation, state.incident is None)
        rule = _RULES.get(state.course.phase)
        if rule is not None:
            yield from rule(state, now_s)
        if before == (state.course.phase, state.crew.incarnation, state.incident is None):
            return
    raise AssertionError(f"no rest after {PASSES_LIMIT} passes: phase {state.course.phase}")


# --- time ------------------------------------------------------------------------------------------------------------


def _expire(state: State, now_s: float) -> Iterator[AnyAction]:
    """Limits that are over."""
    grace_s = state.recovery.reconnect_grace_s
    for node in state.members.overdue(now_s):
        yield from lose_node(
            state, node, f"its connection has been closed for {grace_s} s", fence=True, now_s=now_s
        )  # fmt: skip
    yield from told(state, state.drain.expire(now_s=now_s))
    if state.course.phase != "finishing":
        if state.rests.over(now_s):
            state.members.version += 1  # a group may be formable
        for key in state.beside.late(now_s):
            lose_worker(state, key, "not ready within the time limit", dead=False, now_s=now_s)
    limit_s = state.course.limit_s
    if limit_s is None or now_s < limit_s:
        return
    state.course.limit_s = None
    if state.course.phase == "waiting":
        yield from _start_late(state, now_s)
    else:
        yield from _blame_late(state, now_s)


def _start_late(state: State, now_s: float) -> Iterator[AnyAction]:
    """Nodes are missing at the start: spares may stand in for them, else the run ends."""
    absent = _absent(state, f"did not join within {state.recovery.start_timeout_s} s")
    assignment = assign_groups(state)
    missing = _lacking(assignment)
    if not missing:
        yield from _stand_in(state, assignment, absent, now_s)
        return
    absent = _absent(state, f"did not join within {state.recovery.start_timeout_s} s (`recovery.start_timeout_s`)")
    text = f"{absent}, and {', '.join(missing)} cannot start without"
    yield from finish(state, "failed", text, detail=f"{text}; see the logs of those agents", now_s=now_s)


def _start_short(state: State, now_s: float) -> Iterator[AnyAction]:
    """Some nodes are known not to come. Without them: as soon as the others are there, or not at all."""
    short = _too_few(state)
    if short:
        text = f"{_ended(state, state.members.exited)}, and {', '.join(short)} cannot start without"
        yield from finish(state, "failed", text, detail=f"{text}; see the logs of those agents", now_s=now_s)
    elif all(NodeId(name) in state.members.exited for name in _designated(state, present=False)):
        assignment = assign_groups(state)
        if not _lacking(assignment):  # else a spare is still on its way
            yield from _stand_in(state, assignment, _absent(state, ""), now_s)


def _stand_in(state: State, assignment: Assignment, absent: str, now_s: float) -> Iterator[AnyAction]:
    """The first incarnation is formed with spares."""
    reason = Reason(text=f"{absent}: spares stand in", numbers={})
    yield from form(state, assignment.layouts, choice="form", reason=reason, incident=None, now_s=now_s)


def _lacking(assignment: Assignment) -> list[GroupId]:
    """Groups that could not be formed, or not as large as they are to be."""
    return [*assignment.missing, *(one.group for one in assignment.resized)]


def _too_few(state: State) -> list[str]:
    """Groups of pools that have fewer nodes to come, spares included, than their groups need."""
    groups, ended = state.resolved.run.groups, state.members.exited
    needed: dict[str, int] = {}
    for group in groups:
        needed[group.pool] = needed.get(group.pool, 0) + group.nodes
    short = [
        pool
        for pool, count in needed.items()
        if sum(NodeId(name) not in ended for name in state.resolved.fleet.pool(pool).node_names) < count
    ]
    return [group.name for group in groups if group.pool in short]


def _absent(state: State, late: str) -> str:
    """The nodes that the groups miss at the start, and why: those that ended by themselves, those that are late."""
    ended, names = state.members.exited, _designated(state, present=False)
    rest = [name for name in names if NodeId(name) not in ended]
    parts = [_ended(state, names), f"{', '.join(rest)} {late}" if rest else ""]
    return ", ".join(part for part in parts if part)


def _ended(state: State, names: Collection[str]) -> str:
    """Those of `names` that ended by themselves, and how."""
    exited = state.members.exited
    return ", ".join(f"{node} ended before it had work ({how})" for node, how in exited.items() if node in names)


def _blame_late(state: State, now_s: float) -> Iterator[AnyAction]:
    """Workers that did not get where all others are count as lost."""
    waits_for = "ready" if state.course.phase == "forming" else "held"
    late = [key for key, worker in state.crew.workers.items() if worker.state not in (waits_for, "gone")]
    for key in late:
        lose_worker(state, key, f"not {waits_for} within the time limit", dead=False, now_s=now_s)
    if late:
        return
    kept = [
        action
        for step in state.crew.held_at
        for action in state.snapshots.settle_for_less(step, since=ALL_STOPPED, at_once=True, now_s=now_s)
    ]
    yield from saved(state, kept, now_s=now_s)
    if not kept:
        state.fail("the snapshot that all stopped for was not safe within the time limit", now_s=now_s)


# --- rules, one for each phase ---------------------------------------------------------------------------------------


def _waiting(state: State, now_s: float) -> Iterator[AnyAction]:
    if state.course.stop_why:
        yield from finish(state, "interrupted", f"{state.course.stop_why}, before the first step", now_s=now_s)
        return
    if state.course.limit_s is None:
        return
    if _designated(state, present=False):
        if state.members.exited:
            yield from _start_short(state, now_s)
        return
    assignment = assign_groups(state)
    nodes = sum(len(layout.nodes) for layout in assignment.layouts)
    text = f"all {nodes} nodes of {len(assignment.layouts)} groups are there"
    reason = Reason(text=text, numbers={"nodes": nodes, "groups": len(assignment.layouts)})
    yield from form(state, assignment.layouts, choice="form", reason=reason, incident=None, now_s=now_s)


def _forming(state: State, now_s: float) -> Iterator[AnyAction]:
    if state.incident is not None:
        yield from resolve(state, now_s=now_s)
    elif state.course.stop_why:
        yield from finish(state, "interrupted", f"{state.course.stop_why}, while workers started", now_s=now_s)
    elif state.crew.unready == 0:
        yield from _start_steps(state, now_s)


def _running(state: State, now_s: float) -> Iterator[AnyAction]:
    if state.incident is not None:
        yield from resolve(state, now_s=now_s)
    elif state.snapshots.differ and state.recovery.healthy_groups == "go_on":
        state.fail(state.snapshots.differ, now_s=now_s)  # no fault would take anybody back to what is saved
    elif state.crew.all_held:
        state.course.phase = "holding"
    else:
        if state.recovery.healthy_groups == "go_on":
            yield from start_missing(state, now_s)
        why = _why_hold(state)
        if why and not state.crew.finished:
            state.course.phase = "holding"
            state.course.limit_s = hold_limit_s(state, now_s)
            yield HoldWorkers(
                incarnation=state.crew.incarnation,
                nodes=state.crew.nodes(),
                reason=Reason(text=why, numbers={"step": state.progress.current}),
            )


def _holding(state: State, now_s: float) -> Iterator[AnyAction]:
    if state.incident is not None:
        yield from resolve(state, now_s=now_s)
    elif state.crew.all_held:
        yield from _all_held(state, now_s)


def _blocked(state: State, now_s: float) -> Iterator[AnyAction]:
    yield from resolve(state, now_s=now_s)


def _finishing(state: State, now_s: float) -> Iterator[AnyAction]:
    yield from try_to_end(state)


_RULES: Final[dict[str, Callable[[State, float], Iterator[AnyAction]]]] = {
    "waiting": _waiting,
    "forming": _forming,
    "running": _running,
    "holding": _holding,
    "blocked": _blocked,
    "finishing": _finishing,
}


def hold_limit_s(state: State, now_s: float) -> float:
    """Until when all have to have stopped, with a safe snapshot."""
    return now_s + state.recovery.start_timeout_s + 3 * state.progress.slowest_step_s


def _designated(state: State, *, present: bool) -> list[str]:
    """The nodes that the groups start on, by the fleet file's numbering: those that are there, or those that miss."""
    taken: dict[str, int] = {}
    names: list[str] = []
    for group in state.resolved.run.groups:
        first = taken.get(group.pool, 0)
        names += [f"{group.pool}-{index}" for index in range(first, first + group.nodes)]
        taken[group.pool] = first + group.nodes
    members = state.members
    there = {str(name) for name in members.nodes if name not in members.offline}
    return [name for name in names if (name in there) == present]


def _start_steps(state: State, now_s: float) -> Iterator[AnyAction]:
    """All workers are ready."""
    crew, pace = state.crew, state.pace
    if crew.keeps and not state.settle_step():
        yield from leave_behind(state, now_s)
        return
    digests = crew.digests()
    expected = state.snapshots.digest_of(crew.step)
    if len({*digests.values(), *([expected] if expected else [])}) > 1:
        yield from _distrust(state, digests, expected, now_s)
        return
    shares = pace.shares(state.resolved, crew.layouts)
    pace.set_intervals(state.resolved, shares)
    assert pace.memory_every_steps is not None
    assert pace.disk_every_steps is not None
    crew.start(shares)
    state.course.phase, state.course.limit_s = "running", None
    split = ", ".join(f"{share.group}: {share.count}" for share in shares)
    text = f"all {len(crew.workers)} workers are ready; sequences per step {split}; intervals: {pace.why}"
    yield StartSteps(
        incarnation=crew.incarnation,
        start_step=crew.step,
        nodes=crew.nodes(),
        shares=shares,
        endpoints=tuple(worker.endpoint for worker in crew.workers.values() if worker.endpoint is not None),
        memory_every_steps=pace.memory_every_steps,
        disk_every_steps=pace.disk_every_steps,
        reason=Reason(text=text, numbers={"workers": len(crew.workers), "snapshot_s": round(pace.snapshot_s, 6)}),
    )


def _distrust(state: State, digests: dict[GroupId, str], expected: str, now_s: float) -> Iterator[AnyAction]:
    """Groups restored different states, or another one than was saved: restore the wrong ones from elsewhere."""
    seen = ", ".join(f"{group}: {digest}" for group, digest in digests.items())
    saved_as = f", it was saved as {expected}" if expected else ""
    kind = "states" if state.crew.keeps else "restored states"
    state.fail(f"the groups' {kind} of step {state.crew.step} differ ({seen}{saved_as})", now_s=now_s)
    wrong = [group for group, digest in digests.items() if expected and digest != expected]
    distrusted = [group for group in wrong if state.snapshots.distrust(group)]
    if not distrusted and not state.crew.keeps:  # what groups have kept is no word against what was saved
        yield from state.snapshots.forget_committed("what was restored from it is not what was saved")


def _why_hold(state: State) -> str:
    """Why all should stop together now; empty: they should not."""
    if state.course.stop_why:
        return f"the run is to stop: {state.course.stop_why}"
    if state.snapshots.short:
        return f"{state.snapshots.short} copies were lost with their nodes: they are placed anew"
    ready = prepared(state)
    if ready:
        return f"{_names(ready)} only {'lacks' if len(ready) == 1 else 'lack'} the others' state"
    drifted = _why_rebalance(state)
    if drifted:
        return drifted
    if state.course.grown_version == state.members.version:
        return ""
    state.course.grown_version = state.members.version
    if state.members.offline:
        return ""
    back = _grown(state)
    return f"nodes are there for {', '.join(back)} to come back or to grow" if back else ""


def _why_rebalance(state: State) -> str:
    """Why the batch should be split anew; empty: the shares fit, or were said by the run file."""
    crew, drift, run = state.crew, state.drift, state.resolved.run
    if run.shares != "measured" or run.steps - state.progress.current < REST_STEPS:
        return ""
    if not drift.due(len(crew.layouts)):
        return ""
    drift.looked = drift.steps
    shares = {share.group: share for share in crew.shares}
    speeds = drift.speeds(shares)
    if speeds.keys() != shares.keys():
        return ""
    better = state.pace.shares(state.resolved, crew.layouts, speeds)
    drift.gain = 1.0 - step_s(better, speeds) / step_s(crew.shares, speeds)
    if drift.gain < GAIN_LEAST:
        return ""
    split = ", ".join(f"{share.group}: {shares[share.group].count} -> {share.count}" for share in better)
    return f"another split of the batch shortens the step by {drift.gain:.0%} ({split} sequences)"


def _rebalance(state: State) -> str:
    """Take over the observed speeds, where they are what all stopped for; what to say about it, or nothing."""
    why = state.drift.gain >= GAIN_LEAST
    state.drift.gain, gain = 0.0, state.drift.gain
    if not why:
        return ""
    state.pace.device_speed |= state.drift.speeds({share.group: share for share in state.crew.shares})
    state.drift.changes += 1
    return f"the batch is split anew by the speeds of the last steps: {gain:.0%} shorter steps expected"


def _grown(state: State) -> list[GroupId]:
    """Groups that would be larger than they are, or there at all, if all were formed now."""
    layouts = state.crew.layouts
    if not state.absent and all(
        layouts[GroupId(group.name)].world_size == group.mesh.devices for group in state.resolved.run.groups
    ):
        return []
    back = grown(layouts, assign_groups(state))
    if state.recovery.healthy_groups == "go_on":  # a missing one starts beside the others first
        back = [group for group in back if group in layouts]
    return back


def _names(layouts: Sequence[GroupLayout]) -> str:
    return ", ".join(layout.group for layout in layouts)


def _all_held(state: State, now_s: float) -> Iterator[AnyAction]:
    """Everybody stopped after the same step. Once its snapshot is safe, what they stopped for can be done."""
    steps = sorted(step for step, count in state.crew.held_at.items() if count)
    if len(steps) != 1:
        state.fail(f"workers stopped after different steps: {steps[0]} and {steps[-1]}", now_s=now_s)
        return
    step = steps[0]
    if step in state.snapshots.dropped:
        state.fail(f"the snapshot of step {step} that all stopped for was dropped", now_s=now_s)
        return
    kept = state.snapshots.settle_for_less(step, since=ALL_STOPPED, at_once=False, now_s=now_s)
    yield from saved(state, kept, now_s=now_s)
    committed = state.snapshots.committed
    if committed is None or committed.step < step:
        return
    if complete_copy(committed) is None:
        state.fail(f"the snapshot of step {step} that all stopped for is no longer whole", now_s=now_s)
    elif state.crew.finished:
        text = f"all {state.resolved.run.steps} steps are done"
        if state.absent:
            text += f", the last ones without {', '.join(state.absent)}"
        # A group that was on its way is not missing: every step has its whole batch, and the fleet is as it was.
        missing = [group for group in state.absent if group not in state.beside.starts]
        yield from finish(state, "degraded" if missing else "completed", text, now_s=now_s)
    elif state.course.stop_why:
        yield from finish(state, "interrupted", state.course.stop_why, now_s=now_s)
    else:
        yield from _form_after(state, step, now_s)


def _form_after(state: State, step: Step, now_s: float) -> Iterator[AnyAction]:
    """All stand after a step, and its snapshot is safe: form anew, as what they stopped for wants it."""
    live = state.recovery.healthy_groups == "go_on"
    back, rebalanced, ready = _grown(state), _rebalance(state), prepared(state)
    choice: Choice = "form"
    text = f"copies are placed anew at step {step}"
    if back or ready:
        names = ", ".join(back) or _names(ready)
        choice, text = "readmit_group", f"{names} is back, from the state of step {step}"
    elif rebalanced:
        choice, text = "rebalance", rebalanced
    keeping = live and not back
    layouts = in_order(state, [*state.crew.layouts.values(), *ready]) if keeping else assign_groups(state).layouts
    yield from form(
        state,
        layouts,
        choice=choice,
        reason=Reason(text=text, numbers={"step": step}),
        incident=None,
        now_s=now_s,
        keep=restore_keeping(state, layouts, state.crew.layouts) if keeping else None,
    )
