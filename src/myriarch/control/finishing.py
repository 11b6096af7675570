"""Ending the run: the newest committed snapshot goes to disk, and then it is over."""

from __future__ import annotations

from collections.abc import Iterator

from myriarch.checkpoint.restore import complete_copy
from myriarch.control.saving import saved, told
from myriarch.control.state import Ending, Outcome, State
from myriarch.event.actions import AnyAction, EndRun, Reason
from myriarch.event.ids import Step


def finish(state: State, outcome: Outcome, text: str, *, detail: str = "", now_s: float) -> Iterator[AnyAction]:
    """Begin to end. Whatever the outcome, the newest whole snapshot in memory is made durable: nothing is lost."""
    yield from saved(state, _without_copies(state, now_s), now_s=now_s)
    committed = state.snapshots.committed
    step = state.durable_step
    state.course.phase, state.course.limit_s = "finishing", None
    if committed is not None and committed.step > step and complete_copy(committed) is not None:
        step = committed.step
        yield from told(state, state.drain.start(committed, final=True, now_s=now_s))
    if outcome in ("completed", "degraded"):
        step = Step(max(step, state.resolved.run.steps))
    state.course.ending = Ending(outcome=outcome, step=step, text=text, detail=detail)


def _without_copies(state: State, now_s: float) -> list[AnyAction]:
    """Commit the newest snapshot of which every shard is sealed: to be written to disk it needs no copies."""
    for step in sorted(state.snapshots.pending, reverse=True):
        actions = state.snapshots.settle_for_less(step, since="the run ends", at_once=True, now_s=now_s)
        if actions:
            return actions
    return []


def try_to_end(state: State) -> Iterator[AnyAction]:
    """End, once nothing is being written any more."""
    ending = state.course.ending
    if state.course.phase != "finishing" or ending is None or state.drain.busy:
        return
    outcome, detail = ending.outcome, ending.detail
    if ending.step > state.durable_step:
        if outcome in ("completed", "degraded") and state.incident is not None and state.incident.nodes:
            # Nodes died with the last snapshot while it was being written: do the lost steps again.
            state.course.ending, state.course.phase = None, "running"
            return
        if outcome not in ("failed", "user_error"):
            outcome, detail = "failed", state.drain.failed
    newest = state.drain.newest
    end = EndRun(
        outcome=outcome,
        step=state.durable_step if outcome in ("failed", "user_error") else ending.step,
        detail=detail,
        checkpoint=newest.path if newest is not None else "",
        reason=Reason(text=ending.text, numbers={"durable_step": state.durable_step}),
    )
    state.course.phase, state.course.end = "ended", end
    yield end
