"""Whether the launcher that owns this process still lives.

It holds the writing end of a pipe and never writes: the end of the stream is its death, whatever it died of. A process
that is stopped (SIGSTOP) would not see it, and would stay for ever: the kernel wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

from myriarch.errors import EnvironmentFault

OWNER_VARIABLE: Final = "MYRIARCH_OWNER_FD"
_PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that this process gets when the one that started it dies."""


class Owner:
    """A context manager; enter it on the event loop's thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gone = False
        self._callbacks: list[Callable[[], None]] = []

    @classmethod
    def from_environment(cls) -> Owner:
        """EnvironmentFault when nobody owns this process: it would never end."""
        try:
            descriptor = int(os.environ[OWNER_VARIABLE])
            os.set_inheritable(descriptor, False)  # its children have this process to watch
        except (KeyError, ValueError, OSError) as error:
            raise EnvironmentFault(
                f"{OWNER_VARIABLE} names no open pipe: this process is started by `myriarch train`, not by hand"
            ) from error
        # Where it is refused, only what is stopped at that moment outlives the owner: no reason to give up the run.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
        return cls(descriptor)

    def __enter__(self) -> Owner:
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def call_when_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the owner is gone, now if it is. Returns what takes it back."""
        self._callbacks.append(callback)
        if self._gone:
            callback()
        return lambda: self._callbacks.remove(callback)

    def declare_gone(self) -> None:
        """Behave as if it were: on SIGTERM."""
        self._gone = True
        for callback in tuple(self._callbacks):
            callback()

    def _read(self) -> None:
        if not os.read(self._descriptor, 1):
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self.declare_gone()
