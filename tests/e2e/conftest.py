"""Whole fleets on this machine: the command as a user types it, real processes, real kills."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from myriarch.event.actions import AnyAction
from myriarch.event.events import AnyEvent
from myriarch.event.journal import Record, actions_of, events_of, scan

START_LIMIT_S = 120.0
RUN_LIMIT_S = 150.0

FLEET: dict[str, Any] = {
    "name": "test-fleet",
    "pools": [
        {"name": "fast", "chip": {"id": "cpu-core"}, "nodes": 2, "spares": 1},
        {"name": "slow", "chip": {"id": "cpu-core"}, "nodes": 2},
    ],
}
MODEL: dict[str, Any] = {
    "name": "tiny", "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "context_tokens": 64,
}  # fmt: skip
RUN: dict[str, Any] = {
    "name": "e2e",
    "fleet": "fleet.yaml",
    "model": "model.yaml",
    "steps": 24,
    "seed": 7,
    "batch": {"sequences": 8, "micro_sequences": 2},
    "data": {"source": "text.txt"},
    "shares": {"fast": 6, "slow": 2},
    "checkpoint": {"memory_every_steps": 2, "disk_every_steps": 8},
}


def processes_with(mark: str) -> list[int]:
    """Ids of living processes whose environment at exec carried `mark`; forks keep it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (
                mark.encode() in (entry / "environ").read_bytes()
                and "Z" not in (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@dataclasses.dataclass
class Launched:
    """One `myriarch train` process and the files that it leaves."""

    process: subprocess.Popen[str]
    folder: Path
    mark: str
    name: str

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / self.name

    def attempt(self, index: int = -1) -> Path:
        return sorted((self.run_folder / "attempts").iterdir())[index]

    def attempts(self) -> int:
        return len(list((self.run_folder / "attempts").iterdir()))

    def records(self, index: int = -1) -> tuple[Record, ...]:
        path = self.attempt(index) / "journal.jsonl"
        return scan(path.read_bytes()).records if path.exists() else ()

    def events(self, kind: type[AnyEvent], index: int = -1) -> list[Any]:
        return [event for _, event in events_of(self.records(index)) if isinstance(event, kind)]

    def actions(self, kind: type[AnyAction], index: int = -1) -> list[Any]:
        return [action for _, action in actions_of(self.records(index)) if isinstance(action, kind)]

    def wait(self, limit_s: float = RUN_LIMIT_S) -> tuple[int, str, str]:
        """Exit code, stdout, stderr. A run that does not end in time fails the test with what it said."""
        try:
            out, err = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            pytest.fail(f"the run did not end within {limit_s} s\n{out}\n{err}")
        return self.process.returncode, out, err

    def until(self, seen: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
        """Wait for something to show in the journal."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if (self.run_folder / "attempts").exists() and list((self.run_folder / "attempts").iterdir()) and seen():
                return
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                pytest.fail(f"the run ended with {self.process.returncode} before {what}\n{out}\n{err}")
            time.sleep(0.05)
        pytest.fail(f"{what}: not seen within {limit_s} s")


Launch = Callable[..., Launched]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; None deletes a key."""
    result = {**base, **changes}
    return {key: value for key, value in result.items() if value is not None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the three files' company: a text to train on, from this very interpreter's sources."""
    source = Path(os.__file__).read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(source * 3, encoding="utf-8")
    return tmp_path


@pytest.fixture
def launch(folder: Path, tell: Callable[[Callable[[], Iterable[Record]]], None]) -> Iterator[Launch]:
    """Starts `myriarch train`; afterwards nothing that it started may be left, whatever the test did."""
    started: list[Launched] = []

    def start(
        *, fleet: dict[str, Any] | None = None, model: dict[str, Any] | None = None, fresh: bool = False,
        environment: dict[str, str] | None = None, **run: Any,
    ) -> Launched:  # fmt: skip
        mark = f"MYRIARCH_TEST_MARK={uuid.uuid4().hex}"
        spec = merged(RUN, run)
        (folder / "fleet.yaml").write_text(yaml.safe_dump(merged(FLEET, fleet or {})))
        (folder / "model.yaml").write_text(yaml.safe_dump(merged(MODEL, model or {})))
        file = folder / f"{spec['name']}.yaml"
        file.write_text(yaml.safe_dump(spec))
        key, value = mark.split("=")
        process = subprocess.Popen(
            [sys.executable, "-m", "myriarch.cli", "train", str(file), *(["--fresh"] if fresh else [])],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, **(environment or {}), key: value, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        launched = Launched(process, folder, mark, spec["name"])
        started.append(launched)
        return launched

    yield start
    left: dict[str, list[str]] = {}
    for launched in started:
        if launched.process.poll() is None:
            launched.process.send_signal(signal.SIGKILL)
            launched.process.wait()
            time.sleep(1.0)  # killed by the test's end: the owner pipe's EOF must end the others
        end = time.monotonic() + 10
        while (alive := processes_with(launched.mark)) and time.monotonic() < end:
            time.sleep(0.1)
        if alive:
            left[launched.name] = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in alive]
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        if (launched.run_folder / "attempts").exists():
            tell(launched.records)
        if launched.process.stdout and not launched.process.stdout.closed:
            launched.process.stdout.close()
        if launched.process.stderr and not launched.process.stderr.closed:
            launched.process.stderr.close()
    assert not left, f"processes outlived their run: {left}"


def shared_memory_of(launched: Launched) -> list[str]:
    """What is left of a run in shared memory."""
    base = Path(f"/dev/shm/myriarch-{os.getuid()}")
    return [str(path) for path in base.glob(f"*{launched.name}*")] if base.exists() else []


def report_of(launched: Launched) -> dict[str, Any]:
    """`myriarch report --json` of the newest run in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "myriarch.cli", "report", "--json"],
        cwd=launched.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed
