"""Where a run keeps its files.

<output>/<run name>/lock                     held by the launch that is under way
<output>/<run name>/checkpoints/             durable checkpoints, one folder a step
<output>/<run name>/attempts/0001/           one launch
    run.json launch.json journal.jsonl ledger.sqlite controller.json token tls.pem tls.key
    outcome.json emulation.json validation.jsonl report.json logs/
<output>/<run name>/attempts/0002/           one simulation; that of a run has the journal and ledger of one, too
    scenario.json simulation.json jobs.csv            simulation.json is written last
    decisions.stream                                  of one that forecasts waits: what its scheduler heard and said
    scenario.json cells/<variant>-<seed>.json sweep.json            of a sweep; sweep.json is written last
    scenario.json trials.jsonl tuning.json                          of a search; tuning.json is written last
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from myriarch.errors import EnvironmentFault, UsageError
from myriarch.event.base import Value
from myriarch.event.ids import NodeId, PoolId
from myriarch.spec.run import ResolvedRun

DEFAULT_OUTPUT: Final = "runs"
"""`Run.output`'s default: where verbs look for a run that is called by its name."""

T = TypeVar("T")


class NodePlace(Value, frozen=True, kw_only=True):
    """Where the local engine puts a node."""

    node: NodeId
    pool: PoolId
    address: str
    """Its own loopback address."""
    devices: int
    fault_domain: str
    cpu_fraction: float | None = None
    """Share of one core that each of its devices may use; None: no limit."""
    memory_bytes: int | None = None
    """What its memory tier may hold; None: what the file system has."""


class Launch(Value, frozen=True, kw_only=True):
    """One launch of a run: what its processes must agree on besides the run itself."""

    run_id: str
    owner_pid: int
    shm_directory: str
    checkpoints: str
    """Absolute path of the run's durable checkpoints."""
    nodes: tuple[NodePlace, ...]
    zygote: tuple[str, ...] = ("-m", "myriarch.train.zygote")
    """Arguments to Python that start a node's zygote; the number of a socket follows."""

    def place(self, node: str) -> NodePlace:
        """The place of `node`; KeyError if it has none."""
        for place in self.nodes:
            if place.node == node:
                return place
        raise KeyError(node)


class Contact(Value, frozen=True, kw_only=True):
    """`controller.json`: where the controller listens."""

    url: str
    pid: int


class Outcome(Value, frozen=True, kw_only=True):
    """`outcome.json`: how the run ended, as `EndRun` says it."""

    outcome: str
    step: int
    detail: str = ""
    checkpoint: str = ""
    reason: str = ""


class Attempt:
    """The folder of one launch. Constructing it touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run.json"
        self.launch = path / "launch.json"
        self.journal = path / "journal.jsonl"
        self.ledger = path / "ledger.sqlite"
        self.contact = path / "controller.json"
        self.token = path / "token"
        self.certificate = path / "tls.pem"
        self.key = path / "tls.key"
        self.outcome = path / "outcome.json"
        self.emulation = path / "emulation.json"
        self.report = path / "report.json"
        self.validations = path / "validation.jsonl"
        self.logs = path / "logs"
        self.scenario = path / "scenario.json"
        self.simulation = path / "simulation.json"
        self.jobs = path / "jobs.csv"
        self.stream = path / "decisions.stream"
        self.cells = path / "cells"
        self.sweep = path / "sweep.json"
        self.trials = path / "trials.jsonl"
        self.tuning = path / "tuning.json"

    @property
    def evidence(self) -> Path | None:
        """The file that says what came of it; None: it has hardly begun."""
        return next((path for path in (self.journal, self.simulation, self.sweep, self.tuning) if path.is_file()), None)

    @property
    def run_name(self) -> str:
        """The name of the run that this is a launch of."""
        return self.path.parent.parent.name

    def resolved(self) -> ResolvedRun:
        """The run of this launch, with all defaults filled in."""
        return read_json(self.run, ResolvedRun)

    def places(self) -> Launch:
        """Run id, nodes and folders of this launch."""
        return read_json(self.launch, Launch)


class RunDirectory:
    """The folder of a run, over all its launches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attempts = path / "attempts"
        self.checkpoints = path / "checkpoints"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises UsageError when another launch of it is under way."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                raise UsageError(
                    f"run `{self.path.name}` in {self.path.parent} is under way in process {holder or 'unknown'}",
                    hint="end that one first, or give this one another `name` in its run file",
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def new_attempt(self) -> Attempt:
        """Make the folder of the next launch. Only under `lock`."""
        attempt = self.new_simulation()
        with writing(self.path):
            self.checkpoints.mkdir(exist_ok=True)
            attempt.logs.mkdir()
        return attempt

    def new_simulation(self) -> Attempt:
        """Make the folder of the next simulation, without logs and checkpoints. Only under `lock`."""
        with writing(self.path):
            self.attempts.mkdir(parents=True, exist_ok=True)
            taken = [int(entry.name) for entry in self.attempts.iterdir() if entry.name.isdigit()]
            attempt = Attempt(self.attempts / f"{max(taken, default=0) + 1:04d}")
            attempt.path.mkdir(mode=0o700)
        return attempt

    def simulations(self) -> list[Attempt]:
        """Every simulation that was begun, oldest first."""
        found = [Attempt(path.parent) for path in self.attempts.glob("*/scenario.json")]
        return sorted(found, key=lambda attempt: attempt.path.name)

    def set_checkpoints_aside(self) -> Path | None:
        """For a fresh start: rename the checkpoints, so that nothing resumes from them and nothing is lost."""
        if not self.checkpoints.is_dir() or not any(self.checkpoints.iterdir()):
            return None
        number = 1
        while (aside := self.path / f"checkpoints-before-{number:04d}").exists():
            number += 1
        self.checkpoints.rename(aside)
        return aside


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system has against writing into a run's folder becomes an EnvironmentFault."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be written: {error.strerror}",
            hint="name another folder with `output` in the run file, or make this one writable and not full",
        ) from error


def attempts_under(output: Path) -> list[Attempt]:
    """Every launch and simulation of every run in `output`, oldest first."""
    return _with_evidence(output.glob("*/attempts/*"))


def find_attempt(name: str = "", *, output: Path = Path(DEFAULT_OUTPUT), launched: bool = False) -> Attempt:
    """The launch that `name` means: a run's name, the folder of a run or of one launch; empty: the newest of all.

    `launched`: simulations do not count. Raises UsageError, with the runs that there are, when it means nothing.
    """
    if name and Attempt(Path(name)).evidence is not None:
        return Attempt(Path(name))
    if name and (Path(name) / "attempts").is_dir():
        found = attempts_under_run(Path(name))
    elif name:
        found = attempts_under_run(output / name)
    else:
        found = attempts_under(output)
    found = [attempt for attempt in found if not (launched and attempt.scenario.is_file())]
    if found:
        return found[-1]
    if name and not launched and (output / name).is_dir() and RunDirectory(output / name).simulations():
        hint = "the same `myriarch simulate` goes on where it was"
        raise UsageError(f"`{name}` in {output.resolve()} was stopped before there was an answer", hint=hint)
    known = sorted({attempt.run_name for attempt in attempts_under(output)})
    if not known:
        raise UsageError(f"there is no run in {output.resolve()}", hint="start one: myriarch train RUN")
    raise UsageError(f"`{name}` is no run in {output.resolve()}", hint=f"there are: {', '.join(known)}")


def attempts_under_run(run: Path) -> list[Attempt]:
    """Every launch and simulation of one run, oldest first."""
    return _with_evidence(run.glob("attempts/*"))


def _with_evidence(paths: Iterable[Path]) -> list[Attempt]:
    """Those that left something, by when that was last written."""
    dated = [
        (evidence.stat().st_mtime_ns, str(path), attempt)
        for path in paths
        if (evidence := (attempt := Attempt(path)).evidence) is not None
    ]
    return [attempt for _, _, attempt in sorted(dated, key=lambda one: one[:2])]


def write_json(path: Path, value: object, *, mode: int = 0o644) -> None:
    """Write atomically: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    temporary.replace(path)


def read_json(path: Path, kind: type[T]) -> T:
    """The inverse of `write_json`. Raises EnvironmentFault for a file that is missing or of another shape."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from error
