"""`myriarch simulate SCENARIO`: a fleet, what is asked of it, what goes wrong: what happens, under which policy.

What happens is `myriarch.simulate`'s; here a file becomes a scenario, an answer a table, and both a run directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from myriarch.cli.report_words import Language, choose_language
from myriarch.cli.simulate_files import load_scenario
from myriarch.cli.simulate_show import show_answer, show_sweep, show_tuning
from myriarch.cli.simulate_store import Asked, Cells, Trials, keep, resumed, unless_nothing_came
from myriarch.cli.simulate_words import wrong_lines
from myriarch.errors import EXIT_OK, UsageError
from myriarch.run.directory import Attempt, RunDirectory, attempts_under_run, read_json
from myriarch.simulate.scenario import Scenario
from myriarch.simulate.scenario_answer import Answer
from myriarch.simulate.scenario_check import SEEDS_LIMIT
from myriarch.simulate.scenario_digest import digest_of
from myriarch.simulate.scenario_play import play
from myriarch.simulate.scenario_tuning import Tuning, tuned
from myriarch.simulate.sweep import Axis, Cell, Sweep, axis_of, cells_of, summarised, variants_of
from myriarch.simulate.sweep_crew import answers, ignore_interrupts
from myriarch.simulate.tuning import Trial

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The command line as it was typed."""

    scenario: str
    seeds: int | None = None
    vary: Sequence[str] = ()
    workers: int | None = None
    fresh: bool = False
    tune: bool = False


Made = Answer | Sweep | Tuning


def simulate(options: Options, *, json_output: bool = False, lang: str = "") -> int:
    """Simulate, keep, print. The same sweep again goes on where it stopped, or prints at once what it found."""
    scenario = load_scenario(Path(options.scenario))
    _workers(options)  # wrong ones are told before anything is done
    if options.seeds is not None:
        if options.seeds < 1:
            raise UsageError(f"--seeds: {options.seeds} is none", hint="use 1 or more")
        if options.seeds > SEEDS_LIMIT:
            hint = f"use at most {SEEDS_LIMIT:,}"
            raise UsageError(f"--seeds: {options.seeds:,} are more than anybody waits for", hint=hint)
        scenario = msgspec.structs.replace(scenario, seeds=options.seeds)
    axes = tuple(axis_of(text) for text in options.vary)
    directory = RunDirectory(Path(scenario.output) / scenario.name)
    if any(attempt.launch.is_file() for attempt in attempts_under_run(directory.path)):
        hint = f"give the scenario another `name`: what is simulated does not belong in {directory.path}"
        raise UsageError(f"`{scenario.name}` is a run that was launched, not simulated", hint=hint)
    language = choose_language(lang)
    with directory.lock():
        made: Made
        if options.tune:
            made = _tuned(scenario, axes, options, directory)
        elif axes or scenario.seeds > 1:
            made = _sweep(scenario, axes, options, directory, language)
        else:
            made = _single(scenario, directory, language)
    if isinstance(made, Answer) and made.run is not None and not json_output:
        from myriarch.cli.report import report

        return report(made.files["folder"], json_output=False, lang=language)
    _print(made, json_output=json_output, language=language)
    return EXIT_OK


def show_kept(attempt: Attempt, *, json_output: bool, lang: str) -> int:
    """What `myriarch report` prints of a simulation without a journal."""
    made: Made
    if attempt.tuning.is_file():
        made = read_json(attempt.tuning, Tuning)
    elif attempt.sweep.is_file():
        made = read_json(attempt.sweep, Sweep)
    else:
        made = read_json(attempt.simulation, Answer)
    _print(made, json_output=json_output, language=choose_language(lang))
    return EXIT_OK


def _print(made: Made, *, json_output: bool, language: Language) -> None:
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    elif isinstance(made, Sweep):
        show_sweep(made, language=language)
    elif isinstance(made, Tuning):
        show_tuning(made, language=language)
    else:
        show_answer(made, language=language)


def _single(scenario: Scenario, directory: RunDirectory, language: Language) -> Answer:
    played = play(scenario)
    _tell(played.answer, language)
    return keep(played, asked=Asked(digest=played.answer.digest, scenario=scenario), directory=directory)


def _tell(answer: Answer, language: Language) -> None:
    """What is wrong with a trace or a log, on stderr; the JSON has it, too."""
    for intake in (answer.intake, answer.faults):
        for line in () if intake is None else wrong_lines(intake, language):
            print(f"{'警告' if language == 'zh' else 'warning'}: {line}", file=sys.stderr)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def _sweep(
    scenario: Scenario, axes: tuple[Axis, ...], options: Options, directory: RunDirectory, language: Language
) -> Sweep:
    seeds = tuple(range(scenario.seed, scenario.seed + scenario.seeds))
    variants = variants_of(scenario, axes)
    cells = cells_of(len(variants), seeds)
    digest = digest_of(scenario, also=[msgspec.to_builtins(axis) for axis in axes])
    asked = Asked(digest=digest, scenario=scenario, axes=axes, seeds=seeds)
    store = Cells(resumed(asked, directory=directory, fresh=options.fresh))
    found = {cell: answer for cell in cells if (answer := store.read(cell)) is not None}
    if found and len(found) < len(cells):
        print(f"going on after {len(found)} of {len(cells)} cells, in {store.attempt.path}", file=sys.stderr)
    left = [cell for cell in cells if cell not in found]
    with unless_nothing_came(store.attempt):
        _work(left, [scenario for _, scenario in variants], store, found, workers=_workers(options))
    _tell(found[cells[0]], language)
    sweep = summarised(
        scenario,
        digest=digest,
        axes=axes,
        settings=[settings for settings, _ in variants],
        seeds=seeds,
        answers={cell: found[cell] for cell in cells},
    )
    return store.finish(sweep)


def _work(
    left: Sequence[Cell], variants: Sequence[Scenario], store: Cells, found: dict[Cell, Answer], *, workers: int
) -> None:
    """Work out the cells that are left, and keep each as it becomes ready."""
    scenarios = [msgspec.structs.replace(variants[cell.variant], seed=cell.seed, seeds=1) for cell in left]
    total = len(left) + len(found)
    with _progress() as progress:
        task = progress.add_task("simulate", total=total, completed=len(found))
        with contextlib.closing(answers(scenarios, workers=workers)) as ready:
            try:
                for index, answer in ready:
                    store.keep(left[index], answer)
                    found[left[index]] = answer
                    progress.advance(task)
            except KeyboardInterrupt:
                print(f"{len(found)} of {total} cells are kept; the same command goes on from there", file=sys.stderr)
                raise


# --- tuning ----------------------------------------------------------------------------------------------------------


def _tuned(scenario: Scenario, axes: tuple[Axis, ...], options: Options, directory: RunDirectory) -> Tuning:
    if axes or scenario.seeds > 1:
        raise UsageError("--tune searches by itself; leave out --vary and --seeds")
    digest = digest_of(scenario, also="tune")
    store = Trials(resumed(Asked(digest=digest, scenario=scenario), directory=directory, fresh=options.fresh))
    known = store.read()
    if known:
        print(f"going on after {len(known)} trials, in {store.attempt.path}", file=sys.stderr)
    workers = _workers(options)
    with _progress() as progress, contextlib.ExitStack() as stack:
        task = progress.add_task("tune", total=None, completed=len(known))
        executor = None
        if workers > 1:
            executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=ignore_interrupts)
            stack.callback(executor.shutdown, wait=True, cancel_futures=True)

        def observe(trial: Trial) -> None:
            store.keep(trial)
            progress.advance(task)

        stack.enter_context(unless_nothing_came(store.attempt))
        report = tuned(scenario, executor=executor, known=known, observe=observe)
    made = Tuning(scenario=scenario.name, digest=digest, policy=scenario.policy.name, report=report)
    return store.finish(made)


# --- both ------------------------------------------------------------------------------------------------------------


def _progress() -> Progress:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip


def _workers(options: Options) -> int:
    """Processes: as many as there are cores to use, where nothing was said."""
    if options.workers is None:
        return len(os.sched_getaffinity(0))
    if options.workers < 1:
        raise UsageError(f"--workers: {options.workers} is none", hint="use 1 or more")
    return options.workers
