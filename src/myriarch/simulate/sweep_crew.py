"""Processes that work out the cells of a sweep: one cell at a time each, answers in the order in which they are ready.

The parent alone is interrupted (Ctrl-C): workers ignore SIGINT, and end when the parent closes their pipe, or by
SIGTERM to their process id if they are in the middle of a cell. A parent that is killed closes all pipes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

import msgspec

from myriarch.errors import EXIT_USAGE, EnvironmentFault, MyriarchError, UsageError
from myriarch.event.base import Value
from myriarch.simulate.scenario import Scenario
from myriarch.simulate.scenario_answer import Answer

END_TIMEOUT_S: Final = 5.0
"""Until a worker that was asked to end is killed."""


class _Done(Value, frozen=True, kw_only=True):
    """What a worker says. `error` empty: here is the answer."""

    answer: Answer | None = None
    error: str = ""
    hint: str = ""
    exit_code: int = 1


def answers(scenarios: Sequence[Scenario], *, workers: int) -> Generator[tuple[int, Answer]]:
    """Index and answer of each, as they become ready. One worker: in this process.

    Raises what a scenario that cannot be simulated raises, EnvironmentFault when a worker process dies.
    """
    if workers <= 1 or len(scenarios) <= 1:
        from myriarch.simulate.scenario_play import play

        for index, scenario in enumerate(scenarios):
            yield index, play(scenario).answer
        return
    crew = _Crew(min(workers, len(scenarios)))
    try:
        yield from crew.work(scenarios)
    finally:
        crew.end()


class _Crew:
    """Invariant: `_at` has, for each pipe, the index of the cell that its worker is at."""

    def __init__(self, workers: int) -> None:
        context = get_context("spawn")
        self._processes: dict[Connection, SpawnProcess] = {}
        self._at: dict[Connection, int] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def work(self, scenarios: Sequence[Scenario]) -> Iterator[tuple[int, Answer]]:
        waiting = iter(range(len(scenarios)))
        for pipe in self._processes:
            self._give(pipe, waiting, scenarios)
        while self._at:
            for ready in wait(list(self._at)):
                assert isinstance(ready, Connection)
                index, answer = self._receive(ready)
                self._give(ready, waiting, scenarios)
                yield index, answer

    def end(self) -> None:
        """No worker is left, whatever it was at."""
        for pipe, process in self._processes.items():
            pipe.close()
            if pipe in self._at:
                process.terminate()
        for process in self._processes.values():
            process.join(END_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def _give(self, pipe: Connection, waiting: Iterator[int], scenarios: Sequence[Scenario]) -> None:
        index = next(waiting, None)
        if index is not None:
            self._at[pipe] = index
            with contextlib.suppress(BrokenPipeError):  # a worker that died is found where its answer is awaited
                pipe.send_bytes(msgspec.json.encode(scenarios[index]))

    def _receive(self, pipe: Connection) -> tuple[int, Answer]:
        index = self._at.pop(pipe)
        try:
            done = msgspec.json.decode(pipe.recv_bytes(), type=_Done)
        except (EOFError, ConnectionError):
            process = self._processes[pipe]
            process.join(END_TIMEOUT_S)
            raise EnvironmentFault(
                f"worker process {process.pid} died in cell {index} with exit code {process.exitcode}",
                hint="give it more memory with fewer --workers; finished cells are kept",
            ) from None
        if done.answer is None:
            kind = UsageError if done.exit_code == EXIT_USAGE else EnvironmentFault
            raise kind(done.error, hint=done.hint)
        return index, done.answer


def ignore_interrupts() -> None:
    """Ctrl-C goes to every process of a terminal; the parent alone takes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _worker(pipe: Connection) -> None:
    """The main function of a worker process."""
    ignore_interrupts()
    from myriarch.simulate.scenario_play import play

    while True:
        try:
            scenario = msgspec.json.decode(pipe.recv_bytes(), type=Scenario)
        except (EOFError, ConnectionError):
            return
        try:
            done = _Done(answer=play(scenario).answer)
        except MyriarchError as error:
            done = _Done(error=str(error), hint=error.hint, exit_code=error.exit_code)
        try:
            pipe.send_bytes(msgspec.json.encode(done))
        except (BrokenPipeError, ConnectionError):
            return
