"""Toy fleets: real controller, agents and zygotes, workers without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from myriarch.cli.train import EXIT_OF_OUTCOME
from myriarch.event.actions import AnyAction
from myriarch.event.events import AnyEvent, StepCompleted
from myriarch.event.journal import Record, actions_of, events_of, scan
from myriarch.run.api import ControllerClient
from myriarch.run.directory import Attempt, Outcome
from myriarch.run.journal_file import JournalFile
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, Recovery, ResolvedRun, Run

E = TypeVar("E", bound=AnyEvent)
A = TypeVar("A", bound=AnyAction)

LIMIT_S = 60.0
NUMBERS = 1 << 14
FACTOR = 6364136223846793005


def toy(name: str, folder: Path, *, pools: dict[str, tuple[int, int]], **run: Any) -> ResolvedRun:
    """A run of the toy: `pools` is name to (nodes, spares), one group over each."""
    settings: dict[str, Any] = {
        "steps": 30,
        "batch": Batch(sequences=2 * len(pools)),
        "groups": tuple(
            Group(name=pool, pool=pool, nodes=nodes, mesh=Mesh(dp_shard=nodes)) for pool, (nodes, _) in pools.items()
        ),
        "shares": dict.fromkeys(pools, 2),
        "checkpoint": Checkpoint(memory_every_steps=2, disk_every_steps=10),
        "recovery": Recovery(start_timeout_s=30.0, heartbeat_timeout_s=0.8),
        "output": str(folder / "runs"),
        **run,
    }
    host_memory_bytes = settings.pop("host_memory_bytes", None)
    emulate = settings.pop("emulate", None)
    return ResolvedRun(
        run=Run(name=name, fleet="fleet.yaml", model="model.yaml", **settings),
        fleet=Fleet(
            name="toys",
            pools=tuple(
                Pool(
                    name=pool,
                    chip=Chip(id="cpu-core"),
                    nodes=nodes,
                    spares=spares,
                    host_memory_bytes=host_memory_bytes,
                    emulate=emulate,
                )
                for pool, (nodes, spares) in pools.items()
            ),
        ),
        model=Model(name="toy", layers=1, width=8, heads=1, context_tokens=8),
    )


def expected_state(steps: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """What every history of so many steps must end with."""
    state = np.arange(NUMBERS, dtype=np.uint64)
    for step in range(steps):
        state = state * np.uint64(FACTOR) + np.uint64(step)
    return state


class ToyLaunch:
    """One launcher process and what it leaves."""

    def __init__(self, resolved: ResolvedRun, process: subprocess.Popen[str]) -> None:
        self.resolved = resolved
        self.process = process
        self.folder = Path(resolved.run.output) / resolved.run.name

    def attempt(self, index: int = -1) -> Attempt:
        return Attempt(sorted((self.folder / "attempts").iterdir())[index])

    def client(self) -> ControllerClient:
        return ControllerClient(self.attempt())

    def records(self) -> tuple[Record, ...]:
        try:
            return scan(self.attempt().journal.read_bytes()).records
        except (OSError, IndexError):
            return ()

    def events(self, kind: type[E]) -> list[E]:
        return [event for _, event in events_of(self.records()) if isinstance(event, kind)]

    def actions(self, kind: type[A]) -> list[A]:
        return [action for _, action in actions_of(self.records()) if isinstance(action, kind)]

    def until(self, seen: Callable[[], object], what: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not seen():
            if self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode} before {what}: {self.process.communicate()}")
            if time.monotonic() > end:
                pytest.fail(f"{what}: not within {LIMIT_S} s\n{self.logs()}")
            time.sleep(0.02)

    def until_step(self, step: int) -> None:
        self.until(lambda: any(event.step >= step for event in self.events(StepCompleted)), f"step {step}")

    def end(self) -> Outcome:
        """How it ended; anything but an orderly end, with the exit code that says so, fails the test."""
        out, err = self.wait()
        assert out, f"{err}\n{self.logs()}"
        outcome = msgspec.json.decode(out, type=Outcome)
        assert self.process.returncode == EXIT_OF_OUTCOME[outcome.outcome], f"{err}\n{self.logs()}"
        return outcome

    def wait(self) -> tuple[str, str]:
        """stdout and stderr."""
        try:
            return self.process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {LIMIT_S} s\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.attempt().logs.iterdir())

    def final_state(self, step: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        files = sorted((self.folder / "checkpoints" / f"step-{step:08d}").glob("*.bin"))
        return np.concatenate([np.fromfile(file, dtype=np.uint64) for file in files])


def leftovers(name: str) -> list[str]:
    """What is left of a run in shared memory, cgroups and processes."""
    base = Path(f"/dev/shm/myriarch-{os.getuid()}")
    found = [str(path) for path in base.glob(f"{name}-*")] if base.exists() else []
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/myriarch-{os.getuid()}-{name}-*")]
    return found + [f"process {pid}: {command}" for pid, command in processes_of(name)]


def processes_of(name: str) -> list[tuple[int, str]]:
    """Living processes of toy launches of this name: they, or who forked them, were started with the mark."""
    found = []
    mark = f"TOY_MARK={name}\0".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and mark in (entry / "environ").read_bytes():
                found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue
    return found


def wait_for_nothing(name: str, limit_s: float = 10.0) -> list[str]:
    """What is still left after a while."""
    end = time.monotonic() + limit_s
    while (left := leftovers(name)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


LaunchToy = Callable[..., ToyLaunch]


@pytest.fixture
def launch(tmp_path: Path, tell: Callable[[Callable[[], Iterable[Record]]], None]) -> Iterator[LaunchToy]:
    """Starts toy launches. After the test nothing of them may be left."""
    started: list[ToyLaunch] = []

    def start(resolved: ResolvedRun, *arguments: str, **environment: str) -> ToyLaunch:
        file = tmp_path / f"{resolved.run.name}-{len(started)}.json"
        file.write_bytes(msgspec.json.encode(resolved))
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launch_toy.py")), str(file), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={
                **os.environ, "TOY_MARK": resolved.run.name, "FAKE_FOLDER": str(tmp_path / "meet"), **environment,
            },
        )  # fmt: skip
        started.append(ToyLaunch(resolved, process))
        return started[-1]

    yield start
    left: list[str] = []
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        tell(one.records)
        for stream in (one.process.stdout, one.process.stderr):
            if stream is not None:
                stream.close()
        left += wait_for_nothing(one.resolved.run.name)
        for pid, _ in processes_of(one.resolved.run.name):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"left behind: {left}"


@pytest.fixture(name="toy")
def _toy() -> Callable[..., ResolvedRun]:
    """`toy`, for test modules: with import mode `importlib` they cannot import this one."""
    return toy


@pytest.fixture
def state_after() -> Callable[[int], np.ndarray[Any, np.dtype[np.uint64]]]:
    return expected_state


@pytest.fixture
def nothing_left() -> Callable[[str], list[str]]:
    return wait_for_nothing


@pytest.fixture
def fill_disk() -> Callable[[JournalFile], None]:
    """The disk under an open journal has no room from now on."""

    def fill(journal: JournalFile) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, journal._descriptor)
        os.close(full)

    return fill
