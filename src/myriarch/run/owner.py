"""Whether the launcher that owns this process still lives.

It holds the writing end of a pipe and never writes: the end of the stream is its death, whatever it died of.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

from myriarch.errors import EnvironmentFault

OWNER_VARIABLE: Final = "MYRIARCH_OWNER_FD"


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
