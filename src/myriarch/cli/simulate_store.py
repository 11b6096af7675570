"""What a simulation leaves in its run directory, and how a sweep goes on where it stopped.

`scenario.json` is written first, the answer last: a folder without `simulation.json`, `sweep.json` or a journal is of a
simulation that was stopped, and no verb reads it. Every file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from myriarch.errors import EnvironmentFault
from myriarch.event.base import Value
from myriarch.event.journal import encode_line
from myriarch.run.directory import Attempt, RunDirectory, read_json, write_json, writing
from myriarch.run.ledger_store import LedgerStore
from myriarch.simulate.scenario import Scenario
from myriarch.simulate.scenario_answer import Answer
from myriarch.simulate.scenario_play import Played
from myriarch.simulate.scenario_tuning import Tuning
from myriarch.simulate.sweep import Axis, Cell, Sweep
from myriarch.simulate.tuning import Trial
from myriarch.simulate.world import Simulation


class Asked(Value, frozen=True, kw_only=True):
    """`scenario.json`: what was asked, with everything that it names."""

    digest: str
    scenario: Scenario
    axes: tuple[Axis, ...] = ()
    seeds: tuple[int, ...] = ()


def keep(played: Played, *, asked: Asked, directory: RunDirectory) -> Answer:
    """Store one simulation; the answer with the places of its files. Nothing is left of it where that fails."""
    attempt = directory.new_simulation()
    try:
        with writing(directory.path):
            write_json(attempt.scenario, asked)
            files = {"folder": attempt.path, **_parts(played, attempt)}
            answer = msgspec.structs.replace(played.answer, files={name: str(path) for name, path in files.items()})
            write_json(attempt.simulation, answer)
    except BaseException:
        shutil.rmtree(attempt.path, ignore_errors=True)
        raise
    return answer


def _parts(played: Played, attempt: Attempt) -> dict[str, Path]:
    """What there is besides the answer."""
    if played.cluster is not None:
        whole(attempt.jobs, played.cluster.write_jobs)
        if not (stream := played.cluster.stream):
            return {"jobs": attempt.jobs}
        whole(attempt.stream, lambda path: path.write_bytes(stream))
        return {"jobs": attempt.jobs, "stream": attempt.stream}
    if played.run is None:
        return {}
    simulation = played.run.simulation
    write_json(attempt.run, played.run.resolved)
    with LedgerStore(attempt.ledger) as store:
        store.append(simulation.spans)
    whole(attempt.journal, lambda path: _write_journal(simulation, path))
    return {"journal": attempt.journal, "ledger": attempt.ledger}


def _write_journal(simulation: Simulation, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(map(encode_line, simulation.records))


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file beside it, then put it in its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    temporary.replace(path)


def resumed(asked: Asked, *, directory: RunDirectory, fresh: bool) -> Attempt:
    """The newest simulation that asked the same, to go on with it; a new one where there is none, or `fresh`."""
    for attempt in reversed(directory.simulations()):
        if not fresh and _digest(attempt) == asked.digest:
            return attempt
    attempt = directory.new_simulation()
    with writing(directory.path):
        write_json(attempt.scenario, asked)
    return attempt


@contextlib.contextmanager
def unless_nothing_came(attempt: Attempt) -> Iterator[None]:
    """Nothing is left of a sweep or a search that failed, or was stopped, before any of it was kept."""
    try:
        yield
    except BaseException:
        if not attempt.trials.is_file() and not any(attempt.cells.glob("*.json")):
            shutil.rmtree(attempt.path, ignore_errors=True)
        raise


class Trials:
    """The trials of a search, a line each, as they become known: a torn last line is what a writer was at."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt

    def read(self) -> list[Trial]:
        """Those that were kept before."""
        if not self.attempt.trials.is_file():
            return []
        found: list[Trial] = []
        for line in self.attempt.trials.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Trial))
        return found

    def keep(self, trial: Trial) -> None:
        """One more."""
        with writing(self.attempt.path), self.attempt.trials.open("ab") as file:
            file.write(msgspec.json.encode(trial) + b"\n")

    def finish(self, tuning: Tuning) -> Tuning:
        """The search is over."""
        files = {"folder": str(self.attempt.path), "trials": str(self.attempt.trials)}
        done = msgspec.structs.replace(tuning, files=files)
        with writing(self.attempt.path):
            write_json(self.attempt.tuning, done)
        return done


class Cells:
    """The answers of a sweep that are there."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt

    def read(self, cell: Cell) -> Answer | None:
        """A cell's answer, if it is there and whole."""
        try:
            return read_json(self._path(cell), Answer)
        except EnvironmentFault:
            return None

    def keep(self, cell: Cell, answer: Answer) -> None:
        """A cell is done."""
        with writing(self.attempt.path):
            self.attempt.cells.mkdir(exist_ok=True)
            write_json(self._path(cell), answer)

    def finish(self, sweep: Sweep) -> Sweep:
        """All are."""
        files = {"folder": self.attempt.path, "cells": self.attempt.cells}
        done = msgspec.structs.replace(sweep, files={name: str(path) for name, path in files.items()})
        with writing(self.attempt.path):
            write_json(self.attempt.sweep, done)
        return done

    def _path(self, cell: Cell) -> Path:
        return self.attempt.cells / f"{cell.name}.json"


def _digest(attempt: Attempt) -> str:
    try:
        return read_json(attempt.scenario, Asked).digest
    except EnvironmentFault:
        return ""
