"""Loopback connections, and proof that nothing is left open."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected sockets."""
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Private, in shared memory where there is some, removed with all its content."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="wire-test-", dir=shared if shared.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """As many threads and open files afterwards as before; threads that are about to end get a moment."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if threading.active_count() <= threads and len(os.listdir("/proc/self/fd")) <= files:
            return
        time.sleep(0.01)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)


Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until something holds; fail if it never does."""

    def wait(holds: Callable[[], bool], limit_s: float = 10.0) -> None:
        until = time.monotonic() + limit_s
        while not holds():
            assert time.monotonic() < until, "it never happened"
            time.sleep(0.005)

    return wait
