"""`Control`: events in, actions out.

For the same events at the same times it gives the same actions, in every process: it has no clock, reads nothing, draws
nothing, and iterates only over things with an order. Its journal is therefore its state, and a controller that died is
replaced by one that replays it.

An event changes the machines that it concerns (`handling`); then the rules of the present phase are applied until
nothing follows any more (`advancing`). Time is an argument: `deadline_s` says when the machine wants a `Tick`, and any
later event does as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import xxhash

from myriarch.checkpoint.drain import Drain
from myriarch.checkpoint.restore import Durable
from myriarch.control.advancing import advance
from myriarch.control.finishing import finish
from myriarch.control.handling import HANDLERS
from myriarch.control.state import State
from myriarch.control.view import ControlView, view_of
from myriarch.event.actions import AnyAction
from myriarch.event.events import AnyEvent, RunStarted
from myriarch.event.ids import Step


class Control:
    """The deciding machine of one run."""

    def __init__(self) -> None:
        self._state: State | None = None

    def step(self, event: AnyEvent, *, now_s: float) -> tuple[AnyAction, ...]:
        """Take an event at an instant, which never decreases; say what to do, in this order.

        The first event is `RunStarted`. Once the run has ended, nothing is answered any more.
        """
        return tuple(self._step(event, now_s))

    def _step(self, event: AnyEvent, now_s: float) -> Iterator[AnyAction]:
        if isinstance(event, RunStarted):
            assert self._state is None, "a journal has one RunStarted, its first event"
            self._state = _begin(event, now_s)
            if self._state.durable_step >= event.resolved.run.steps:
                yield from finish(self._state, "completed", "all steps were done before this start", now_s=now_s)
        state = self._started
        if state.course.phase == "ended":
            return
        handler = HANDLERS.get(type(event))
        if handler is not None:
            yield from handler(state, event, now_s)
        yield from advance(state, now_s=now_s)

    @property
    def deadline_s(self) -> float | None:
        """When it wants to be woken by a `Tick`; None: only by events."""
        return None if self._state is None else self._state.deadline_s

    @property
    def ended(self) -> bool:
        """Whether `EndRun` was said."""
        return self._state is not None and self._state.course.phase == "ended"

    def view(self) -> ControlView:
        """What people are shown."""
        return view_of(self._started)

    def digest(self) -> str:
        """Hex xxh3-128 over the whole state: equal for equal histories."""
        return xxhash.xxh3_128_hexdigest(msgspec.json.encode(_canonical(self._state)))

    def check(self) -> None:
        """Assert every invariant."""
        if self._state is not None:
            self._state.check()

    @property
    def _started(self) -> State:
        assert self._state is not None, "the first event of a journal is RunStarted"
        return self._state


def _begin(event: RunStarted, now_s: float) -> State:
    run = event.resolved.run
    drain = Drain(root=f"{run.output}/{run.name}/checkpoints", keep=run.checkpoint.keep_on_disk)
    if event.resume_step is not None:
        drain.durable = [Durable(step=event.resume_step, path=event.resume_path)]
    state = State(run_id=event.run_id, resolved=event.resolved, drain=drain)
    state.course.limit_s = now_s + run.recovery.start_timeout_s
    state.progress.begin(Step(event.resume_step or 0))
    return state


def _canonical(value: Any) -> Any:
    """The same value as lists and scalars, so that equal states encode to equal bytes."""
    if isinstance(value, msgspec.Struct):
        return [type(value).__name__, *(_canonical(getattr(value, name)) for name in value.__struct_fields__)]
    if isinstance(value, dict):
        return [[_canonical(key), _canonical(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    assert not isinstance(value, set | frozenset), "a set in the state has no order"
    return value
