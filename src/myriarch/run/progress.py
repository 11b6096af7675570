"""Tells people how the run goes, on stderr: a line that moves on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from myriarch.units import format_rate

LINE_INTERVAL_S: Final = 10.0
"""Between two lines where there is no terminal: a log is read afterwards."""
SMOOTHING: Final = 0.2
"""Weight of the newest measurement of the token rate."""


class Told(msgspec.Struct):
    """A decision about an incident, as the state tells it."""

    incident: int
    choice: str
    text: str
    at_s: float


class Shown(msgspec.Struct):
    """The part of the state that is shown; whatever else is in it is passed over."""

    phase: str = "waiting"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens: int = 0
    step_s: float | None = None
    incarnation: int = 0
    incidents: list[Told] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
    groups: list[dict[str, Any]] = msgspec.field(default_factory=list)
    emulation: dict[str, str] = msgspec.field(default_factory=dict)


decoder: Final = msgspec.json.Decoder(Shown)


class Talk:
    """A stream whose reader may leave: a closed terminal or pipe ends no run; what is said then goes nowhere."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._nobody_listens()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._nobody_listens()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _nobody_listens(self) -> None:
        """What is left in the stream's buffer, and whatever else this process says there, must have somewhere to go."""
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


class ProgressLine:
    """A context manager; `show` it each new state."""

    def __init__(self, *, steps: int, console: Console | None = None) -> None:
        self._console = console or Console(file=cast(IO[str], Talk(sys.stderr)), highlight=False)
        self._steps = steps
        self._bar = Progress(
            TextColumn("{task.fields[phase]:<9}"), BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total}"), TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
            console=self._console, disable=not self._console.is_terminal, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._told_until_s = 0.0
        self._warned = 0
        self._ways: set[str] = set()
        self._line_at_s = 0.0
        self._rate: float | None = None
        self._last_step: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("train", total=self._steps, phase="starting", numbers="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str, *, style: str = "") -> None:
        """One line for people, above the bar."""
        self._console.print(text, style=style or None, markup=False, soft_wrap=True)

    def show(self, shown: Shown) -> None:
        """A new state: what is new in it is said, the rest moves the bar."""
        self._say_news(shown)
        self._measure(shown)
        numbers = self._numbers(shown)
        if self._task is not None:
            self._bar.update(
                self._task, completed=shown.step, total=shown.steps or self._steps, phase=shown.phase, numbers=numbers
            )
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - self._line_at_s >= LINE_INTERVAL_S:
            self._line_at_s = now_s
            self.say(f"{shown.phase}  step {shown.step}/{shown.steps or self._steps}  {numbers}")

    def _say_news(self, shown: Shown) -> None:
        for told in shown.incidents:
            if told.at_s > self._told_until_s:
                what = f"incident {told.incident}, {told.choice}" if told.incident else told.choice
                self.say(f"{what}: {told.text}", style="yellow" if told.incident else "")
        self._told_until_s = max([self._told_until_s, *(told.at_s for told in shown.incidents)])
        for text in shown.warnings[self._warned :]:
            self.say(f"warning: {text}", style="yellow")
        self._warned = max(self._warned, len(shown.warnings))
        for node, way in shown.emulation.items():
            if way and way not in self._ways:
                self._ways.add(way)
                self.say(f"{node.rpartition('-')[0]} is really slower: {way}")

    def _measure(self, shown: Shown) -> None:
        """Tokens per second, over the steps that were completed between two states."""
        now_s = time.monotonic()
        before = self._last_step
        if before is None or shown.step < before[0]:
            self._last_step = (shown.step, now_s)
        elif shown.step > before[0]:
            rate = (shown.step - before[0]) * shown.tokens / max(now_s - before[1], 1e-3)
            self._rate = rate if self._rate is None else SMOOTHING * rate + (1 - SMOOTHING) * self._rate
            self._last_step = (shown.step, now_s)

    def _numbers(self, shown: Shown) -> str:
        parts = []
        if shown.loss is not None:
            parts.append(f"loss {shown.loss:.4f}")
        if self._rate is not None:
            parts.append(format_rate(self._rate, "token/s"))
        if shown.groups:
            parts.append(f"{len(shown.groups)} groups")
        return "  ".join(parts)
