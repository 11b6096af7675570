"""`myriarch simulate --from-live RUN`: what if something happens to a run that is there, also while it is trained.

The journal is read as it lies there; nothing is locked, written or asked of the run. What follows is
`myriarch.simulate.from_live`'s; here options become a question and the answer a table.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.table import Table

from myriarch.cli.console import Output
from myriarch.cli.report_words import Language, choose_language
from myriarch.cli.simulate_words import WORDS_ZH
from myriarch.cost.failures import DEFAULT_PER_NODE_DAY, growth
from myriarch.errors import EXIT_OK, EnvironmentFault, UsageError
from myriarch.event.events import StepCompleted
from myriarch.event.ids import PoolId
from myriarch.event.journal import Record, scan
from myriarch.run.directory import find_attempt
from myriarch.simulate.faults import Fault, FaultAction
from myriarch.simulate.from_live import Projection, Question, Range, WhatIf, read_live, what_if
from myriarch.simulate.from_live_timing import Measured
from myriarch.simulate.rates_published import SOURCES, published
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S, S_PER_DAY, format_rate, format_s

SEEDS: Final = 9
SEEDS_MOST: Final = 1000
OF_QUEUES: Final = ("--job", "--as-of-s")
"""Options that ask of a queue, and not of one training."""
_SPARES: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)?\+(\d{1,6})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """The command line as it was typed."""

    run: str
    kill: Sequence[str] = ()
    stop: Sequence[str] = ()
    at_step: int | None = None
    after_s: float | None = None
    faults: str = ""
    repair_s: float | None = None
    spares: Sequence[str] = ()
    seeds: int | None = None
    as_of_step: int | None = None
    jobs: Sequence[str] = ()
    """Of a queue, as is the next."""
    as_of_s: float | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """What makes no sense without a run."""
        values = {
            "--kill": self.kill,
            "--stop": self.stop,
            "--at-step": self.at_step,
            "--after-s": self.after_s,
            "--faults": self.faults,
            "--repair-s": self.repair_s,
            "--spares": self.spares,
            "--as-of-step": self.as_of_step,
            "--job": self.jobs,
            "--as-of-s": self.as_of_s,
        }
        return tuple(name for name, value in values.items() if value not in (None, "", ()))


def check_alone(options: LiveOptions, *, scenario: str, sweeps: Mapping[str, object]) -> None:
    """Either a scenario or a live run. Raises UsageError for both, none, and options of the other."""
    if not options.run and not scenario:
        raise UsageError("nothing to simulate", hint="name a scenario file, or a run with --from-live RUN")
    if options.run and scenario:
        raise UsageError(f"`{scenario}` and --from-live {options.run} are two things", hint="leave one of them out")
    strange = options.given if not options.run else tuple(name for name, value in sweeps.items() if value)
    if strange:
        needs = "only with" if not options.run else "not with"
        raise UsageError(f"{', '.join(strange)}: {needs} --from-live", hint="see `myriarch simulate --help`")


def from_live_run(options: LiveOptions, *, json_output: bool = False, lang: str = "") -> int:
    """Answer and print. Raises UsageError for a run or options that make no sense, IntegrityError for a journal that
    this version of Myriarch would not have written."""
    language = choose_language(lang)
    stream = stream_of(options.run)
    strange = [name for name in options.given if (name in OF_QUEUES) != (stream is not None)]
    strange += ["--seeds"] if stream is not None and options.seeds is not None else []
    if strange:
        what = "a queue of jobs" if stream is not None else "one training"
        raise UsageError(f"{', '.join(strange)}: not of {what}", hint="see `myriarch simulate --help`")
    if stream is not None:
        from myriarch.cli.simulate_queue import from_live_queue

        return from_live_queue(
            stream, jobs=options.jobs, as_of_s=options.as_of_s, json_output=json_output, language=language
        )
    live = read_live(read_records(options.run, as_of_step=options.as_of_step))
    answer = what_if(live, question_of(options, live.resolved))
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    else:
        show(answer, language=language, past=options.as_of_step is not None)
    return EXIT_OK


def stream_of(run: str) -> Path | None:
    """The stream of decisions that is meant, by its file or by the simulation that left it; None: a training's run."""
    path = Path(run)
    if path.is_file():
        return path
    attempt = find_attempt(run)
    return attempt.stream if attempt.stream.is_file() and not attempt.journal.is_file() else None


def read_records(run: str, *, as_of_step: int | None = None) -> Sequence[Record]:
    """The journal of a run, up to the completion of a step or to its end; a torn last line is left out."""
    path = find_attempt(run).journal
    try:
        records = scan(path.read_bytes()).records
    except FileNotFoundError:
        hint = "name a run that was trained, or jobs that were simulated with `forecasts: true`"
        raise UsageError(f"{path.parent} has no journal", hint=hint) from None
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error
    if as_of_step is None:
        return records
    for at, record in enumerate(records):
        if isinstance(record.event, StepCompleted) and record.event.step >= as_of_step:
            after = next((later for later in range(at + 1, len(records)) if records[later].event is not None), None)
            return records[:after]
    raise UsageError(f"--as-of-step: the run has not completed step {as_of_step}", hint="name one that it completed")


def question_of(options: LiveOptions, resolved: ResolvedRun) -> Question:
    """Options as a question. Raises UsageError."""
    if options.at_step is not None and options.after_s is not None:
        raise UsageError("--at-step and --after-s name two instants", hint="give one of them")
    if (options.at_step is not None or options.after_s is not None) and not (options.kill or options.stop):
        raise UsageError("--at-step and --after-s say when, but not what", hint="add --kill NODE or --stop NODE")
    for name, value in (("--after-s", options.after_s), ("--repair-s", options.repair_s)):
        if value is not None and not 0.0 <= value < float("inf"):
            raise UsageError(f"{name}: {value:g} s is no time from now", hint="give seconds, 0 or more")
    if options.seeds is not None and not 1 <= options.seeds <= SEEDS_MOST:
        raise UsageError(f"--seeds: {options.seeds} is out of range", hint=f"use 1 to {SEEDS_MOST}")
    after_s = None if options.at_step is not None else options.after_s or 0.0
    told: list[tuple[FaultAction, str]] = [("kill", one) for one in options.kill]
    told += [("stop", one) for one in options.stop]
    return Question(
        faults=tuple(Fault(action=action, target=one, at_s=after_s, at_step=options.at_step) for action, one in told),
        rate_per_node_s=_rate(options.faults, resolved) / S_PER_DAY,
        repair_s=options.repair_s,
        spares=_spares(options.spares, resolved),
        seeds=options.seeds or SEEDS,
    )


def _rate(text: str, resolved: ResolvedRun) -> float:
    """Failures of a node and day: a number; `fleet`, what the fleet file says of its pools, else what is published; or
    a published source, for a job as large as this one."""
    if not text:
        return 0.0
    devices = sum(group.mesh.devices for group in resolved.run.groups)
    if text == "fleet":
        grown = float(growth(devices))
        rates = [
            (pool.nodes, DEFAULT_PER_NODE_DAY * grown if pool.failures is None else pool.failures.per_node_day)
            for pool in resolved.fleet.pools
        ]
        return sum(count * rate for count, rate in rates) / sum(count for count, _ in rates)
    if text in SOURCES:
        return published(text).per_node_day(devices=devices)
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 < rate <= S_PER_DAY:
        raise UsageError(
            f"--faults: `{text}` is no rate",
            hint=f"write failures of a node and day, like 0.004, or `fleet`, or a source: {', '.join(SOURCES)}",
        )
    return rate


def _spares(texts: Sequence[str], resolved: ResolvedRun) -> dict[PoolId, int]:
    """`+2`: so many more in each pool with a group; `fast+2`: in one pool."""
    used = [PoolId(name) for name in dict.fromkeys(group.pool for group in resolved.run.groups)]
    found: dict[PoolId, int] = {}
    for text in texts:
        match = _SPARES.fullmatch(text)
        if match is None or int(match[2]) == 0:
            raise UsageError(f"--spares: `{text}` is no number of nodes", hint="write +2, or fast+2 for one pool")
        for pool in [PoolId(match[1])] if match[1] else used:
            found[pool] = found.get(pool, 0) + int(match[2])
    return found


# --- showing ---------------------------------------------------------------------------------------------------------

_WORDS: Final[dict[str, tuple[str, str]]] = {
    "step": ("step", "步"),
    "of": ("of", "/"),
    "ago": ("as of {} ago", "截至 {} 前"),
    "past": ("as it was then", "当时状态"),
    "replayed": (
        "replayed: {} events, {} recorded actions, each the same byte for byte; state {}",
        "重放: {} 个事件, {} 个记录的动作, 逐字节相同; 状态 {}",
    ),
    "unwritten": ("{} actions were not in the journal yet", "{} 个动作尚未写入日志"),
    "what_if": ("what if", "假设"),
    "nothing": ("as it goes on", "照此继续"),
    "kill": ("{} is killed", "{} 被杀死"),
    "stop": ("{} goes silent", "{} 无响应"),
    "at_step": ("at step {}", "在第 {} 步"),
    "after": ("in {}", "{} 后"),
    "now": ("now", "现在"),
    "drawn": ("every node fails {} times a day", "每节点每天故障 {} 次"),
    "spares": ("{} spare nodes more in {}", "{1} 增加 {0} 个备用节点"),
    "undisturbed": ("undisturbed", "无故障"),
    "changed": ("with it", "假设成立"),
    "outcome": ("outcome", "结局"),
    "end": ("ends in", "结束于"),
    "later": ("later", "推迟"),
    "step_s": ("a step", "每步"),
    "effective": ("effective compute", "有效算力"),
    "detected": ("decided after", "决策用时"),
    "next_step": ("next step after", "恢复到下一步"),
    "lost": ("steps lost", "丢失步数"),
    "faults": ("faults", "故障数"),
    "decision": ("decision", "决策"),
    "measured": ("measured in this run", "由本次运行测得"),
    "assumed": ("not recorded yet, assumed", "尚无记录, 取默认值"),
    "simulated": (
        "{} steps were simulated one by one; the rest is their pace",
        "逐步模拟了 {} 步, 其余按其速度推算",
    ),
    "unknown": ("unknown", "未知"),
    "note": ("note", "注"),
}


def show(answer: WhatIf, *, language: Language = "en", past: bool = False) -> None:
    """For people. Ranges are the 10th and the 90th percentile over the seeds."""

    def word(name: str) -> str:
        """One's own; of decisions and outcomes in English what programs read."""
        if name in _WORDS:
            return _WORDS[name][language == "zh"]
        return WORDS_ZH.get(name, name) if language == "zh" else name

    console = Output()
    age_s = max(0.0, time.time() - answer.at_ns / NS_PER_S)
    age = word("past") if past else word("ago").format(format_s(age_s))
    console.print(
        f"{answer.run}: {word(answer.phase)}, {word('step')} {answer.step} {word('of')} {answer.steps}, {age}",
        style="bold",
    )
    proof = answer.replay
    console.print(word("replayed").format(proof.events, proof.actions, proof.digest[:12]))
    if proof.completed_actions:
        console.print(word("unwritten").format(proof.completed_actions))
    console.print()
    console.print(f"{word('what_if')}: {_asked(answer.question, word)}", style="bold")
    console.print(_table(answer, word))
    changed = answer.changed or answer.undisturbed
    for decision in changed.decisions:
        share = f"{decision.seeds}/{answer.question.seeds}"
        console.print(f"{word('decision')}: {word(decision.choice)} ({share}): {decision.text}")
    if changed.extrapolated:
        console.print(word("simulated").format(changed.steps_simulated), style="dim")
    _evidence(console, answer.measured, word)
    for note in answer.notes:
        console.print(f"{word('note')}: {note}", style="dim")


def _asked(question: Question, word: Callable[[str], str]) -> str:
    parts = []
    for fault in question.faults:
        when = word("now") if not fault.at_s else word("after").format(format_s(fault.at_s))
        if fault.at_step is not None:
            when = word("at_step").format(fault.at_step)
        parts.append(f"{word(fault.action).format(fault.target)} {when}")
    if question.rate_per_node_s:
        parts.append(word("drawn").format(f"{question.rate_per_node_s * S_PER_DAY:g}"))
    parts += [word("spares").format(count, pool) for pool, count in question.spares.items()]
    return ", ".join(parts) or word("nothing")


def _table(answer: WhatIf, word: Callable[[str], str]) -> Table:
    both = [answer.undisturbed, *([answer.changed] if answer.changed is not None else [])]
    table = Table(box=None, padding=(0, 2), show_edge=False)
    table.add_column("")
    for name in ("undisturbed", "changed")[: len(both)]:
        table.add_column(word(name))

    def row(name: str, cell: Callable[[Projection], str]) -> None:
        table.add_row(word(name), *(cell(one) for one in both))

    row("outcome", lambda one: ", ".join(f"{word(name)} {count}" for name, count in one.outcomes.items()))
    row("end", lambda one: _range(one.end_s, format_s, word))
    if answer.later_s is not None:
        table.add_row(word("later"), "", _range(answer.later_s, format_s, word))
    row("step_s", lambda one: _range(one.step_s, format_s, word))
    row("effective", lambda one: _range(one.effective, lambda share: f"{100 * share:.3g} %", word))
    if answer.changed is not None:
        shown = (
            ("faults", answer.changed.faults, lambda count: f"{count:g}"),
            ("detected", answer.changed.detected_s, format_s),
            ("next_step", answer.changed.next_step_s, format_s),
            ("lost", answer.changed.lost_steps, lambda count: f"{count:g}"),
        )
        for name, value, form in shown:
            table.add_row(word(name), "", _range(value, form, word))
    return table


def _range(value: Range | None, form: Callable[[float], str], word: Callable[[str], str]) -> str:
    if value is None:
        return word("unknown")
    low, middle, high = form(value.p10), form(value.p50), form(value.p90)
    return middle if low == high else f"{middle} ({low} .. {high})"


def _evidence(console: Output, measured: Sequence[Measured], word: Callable[[str], str]) -> None:
    known = [f"{_named(one)} ({one.samples})" for one in measured if one.samples]
    assumed = [_named(one) for one in measured if not one.samples]
    console.print(f"{word('measured')}: {', '.join(known)}", style="dim")
    console.print(f"{word('assumed')}: {', '.join(assumed)}", style="dim")


def _named(one: Measured) -> str:
    if one.name.endswith("_bytes_per_s"):
        return f"{one.name.removesuffix('_bytes_per_s')} {format_rate(one.value, 'B/s')}"
    if one.name.startswith("sequence_s"):
        return f"{one.name.replace('_s of ', ' on ')} {format_s(one.value)}"
    if one.name.endswith("_s"):
        return f"{one.name.removesuffix('_s').replace('_', ' ')} {format_s(one.value)}"
    return f"{one.name.replace('_', ' ')} {one.value:.3g}"
