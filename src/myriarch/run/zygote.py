"""The agent's end of its zygote: forks on request, and news of every process that ended.

The zygote is the workers' parent, so it alone learns how they ended. It holds no state: one that dies takes its
children with it and is started anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from myriarch.errors import EnvironmentFault, WireError
from myriarch.run import procfs
from myriarch.wire.frames import AsyncChannel
from myriarch.wire.zygote import ForkDrain, Forked, ForkWorker, FromZygote, Reaped, ZygoteReady

log = logging.getLogger("myriarch.agent")

RESTART_LIMIT: Final = 3
"""Zygotes that may die in an agent's life. One that dies again and again says that the machine is unfit."""
UNCLAIMED_LIMIT: Final = 256
"""Ends that are remembered before anybody has asked for them."""


class Zygote:
    """Start with `run`, which lasts as long as the agent does."""

    def __init__(self, command: tuple[str, ...], *, log_path: Path) -> None:
        self._command = command
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: AsyncChannel[FromZygote] | None = None
        self._ready = asyncio.Event()
        self._forks: deque[asyncio.Future[int]] = deque()
        """Forks that were asked for and not yet answered, in order."""
        self._ends: dict[int, asyncio.Future[Reaped]] = {}
        self.torch_version = ""
        self._on_ready: Callable[[], None] = lambda: None
        self._send_order = asyncio.Lock()

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Keep a zygote alive; `on_ready` is called when it can fork. Raises EnvironmentFault if it died too often."""
        self._on_ready = on_ready
        for _ in range(RESTART_LIMIT + 1):
            await self._live()
            log.error("the zygote ended; its output is in %s", self._log_path)
        said = self._log_path.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise EnvironmentFault(
            f"the zygote ended {RESTART_LIMIT + 1} times; its last words: {said[-1]}", hint=f"see {self._log_path}"
        )

    @property
    def ready(self) -> bool:
        """Whether a fork is answered at once."""
        return self._ready.is_set()

    async def fork(self, request: ForkWorker | ForkDrain) -> int:
        """The new process's id. Waits until the zygote is ready.

        Raises EnvironmentFault if there is no room for another process, WireError if the zygote dies over it.
        """
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with self._send_order:
            await self._ready.wait()
            assert self._channel is not None
            self._forks.append(answer)
            await self._channel.send(request)
        return await answer

    def end_of(self, pid: int) -> asyncio.Future[Reaped]:
        """Done when the process has ended. Shield it: it is shared."""
        if pid not in self._ends:
            while len(self._ends) >= UNCLAIMED_LIMIT:
                self._ends.pop(next(iter(self._ends)))
            self._ends[pid] = asyncio.get_running_loop().create_future()
        return self._ends[pid]

    def forget(self, pid: int) -> None:
        """Nobody asks for this process's end any more."""
        self._ends.pop(pid, None)

    def kill(self) -> None:
        """End the zygote; its children die with it."""
        if self._process is not None:
            procfs.kill(self._process.pid)

    async def _live(self) -> None:
        """One zygote's life."""
        ours, theirs = socket.socketpair()
        with theirs, self._log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, *self._command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        channel = AsyncChannel[FromZygote](reader, writer, decode_type=FromZygote, peer="the zygote")
        self._channel = channel
        try:
            while (message := await channel.receive()) is not None:
                self._take(message)
        except WireError as error:
            log.error("%s", error)
        finally:
            self._ready.clear()
            self._channel = None
            self.kill()
            await asyncio.shield(asyncio.to_thread(self._process.wait))
            await channel.close()
            self._fail_all()

    def _take(self, message: FromZygote) -> None:
        match message:
            case ZygoteReady():
                log.info("the zygote has torch %s after %.2f s", message.torch_version, message.import_s)
                self.torch_version = message.torch_version
                self._ready.set()
                self._on_ready()
            case Forked():
                if self._forks and not (answer := self._forks.popleft()).done():
                    if message.error:
                        answer.set_exception(_cannot_fork(message.error))
                    else:
                        answer.set_result(message.pid)
            case Reaped():
                end = self.end_of(message.pid)
                if not end.done():
                    end.set_result(message)

    def _fail_all(self) -> None:
        """What was asked of a dead zygote gets an answer: forks fail, children are dead."""
        while self._forks:
            answer = self._forks.popleft()
            if not answer.done():
                answer.set_exception(WireError("the zygote died before it could fork"))
        for pid, end in self._ends.items():
            if not end.done():
                end.set_result(Reaped(pid=pid, signal=signal.SIGKILL, code=0))


def _cannot_fork(why: str) -> EnvironmentFault:
    return EnvironmentFault(why, hint="look at the limits on processes, memory and open files (ulimit -a, pids.max)")
