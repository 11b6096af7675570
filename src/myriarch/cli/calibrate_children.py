"""Measuring processes: started with torch, listened to, and ended whatever happens."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Final, Self

from myriarch.errors import EnvironmentFault
from myriarch.train.measure_lines import Line, Progress, read_line

ENDING_LIMIT_S: Final = 5.0
"""From SIGTERM to SIGKILL."""


class Children:
    """Processes that measure together. All are ended when the block is left, and after `limit_s` at the latest."""

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s: Final = limit_s
        self._processes: Final[list[subprocess.Popen[bytes]]] = []
        self._complaints: Final[list[IO[bytes]]] = []
        self._late = threading.Event()
        self._timer: Final = threading.Timer(limit_s, self._end_late)

    def __enter__(self) -> Self:
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        self._terminate()
        for process in self._processes:
            try:
                process.wait(ENDING_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for file in self._complaints:
            file.close()

    def start(self, arguments: Sequence[str]) -> None:
        """`python -m MODULE ARGUMENTS`. It ends itself when its stdin closes, as it does if this process dies.

        In a session of its own: Ctrl-C at the terminal is for this process, which ends the others.
        """
        complaint = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit; a pipe that nobody reads could fill up
        self._complaints.append(complaint)
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaint,
            start_new_session=True,
        )
        self._processes.append(process)

    def result(self, watch: Callable[[Progress], None]) -> Line | None:
        """The last line that the first process writes; its progress goes to `watch`.

        Raises EnvironmentFault when one of them fails or the limit is over.
        """
        last: Line | None = None
        stdout = self._processes[0].stdout
        assert stdout is not None
        for text in stdout:
            line = read_line(text)
            if isinstance(line, Progress):
                watch(line)
            elif line is not None:
                last = line
        for index, process in enumerate(self._processes):
            if process.wait() != 0 and not self._late.is_set():
                raise self._failure(index)
        if self._late.is_set():
            hint = "run it while the machine is idle, or with fewer --seconds"
            raise EnvironmentFault(f"measuring was not over after {self._limit_s:.0f} s", hint=hint)
        return last

    def _failure(self, index: int) -> EnvironmentFault:
        self._complaints[index].seek(0)
        lines = self._complaints[index].read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit status {self._processes[index].returncode}"
        if "No module named 'torch'" in last:
            return EnvironmentFault(
                "calibrating needs PyTorch, which is not installed", hint="pip install 'myriarch[train]'"
            )
        return EnvironmentFault(
            f"the measuring process failed: {last}", hint="see what `myriarch doctor` says of torch"
        )

    def _end_late(self) -> None:
        self._late.set()
        self._terminate()

    def _terminate(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
