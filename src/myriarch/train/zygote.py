"""The zygote: a process that has torch imported, and forks workers and drains in milliseconds.

    python -m myriarch.train.zygote <fd>          fd: one end of a socket pair with the agent

It holds no device and runs no thread, or a fork would be unsafe: it imports, and never computes. When the agent's
end of the socket closes, it kills its children and ends.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from myriarch.errors import MyriarchError
from myriarch.wire.frames import Channel
from myriarch.wire.zygote import DrainResult, ForkDrain, Forked, ForkWorker, Reaped, ToZygote, ZygoteReady

THREADS_ENV: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DRAIN_NICENESS: Final = 10
"""Drains give way to training."""
_PR_SET_PDEATHSIG: Final = 1


def import_everything() -> str:
    """Import all that workers and drains use, so that no child does it again. Returns torch's version.

    `torch._dynamo` is what the first call of `fully_shard` would import, in 0.7 s; `fsspec` is what DCP's reader
    would. One thread each: two OpenMP threads on a busy machine are three to ten times slower, as they spin for
    each other, and numpy would start its own in this process.
    """
    for name in THREADS_ENV:
        os.environ.setdefault(name, "1")
    importlib.import_module("fsspec.core")
    import torch
    import torch._dynamo.utils
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.utils.serialization

    import myriarch.train.drain
    import myriarch.train.worker  # noqa: F401

    torch.set_num_threads(1)
    return str(torch.__version__)


class Zygote:
    """Forks on request, reaps, reports."""

    def __init__(self, channel: Channel[ToZygote]) -> None:
        self._channel: Final = channel
        self._children: Final[dict[int, int]] = {}
        """Process ids by their pidfd."""

    def serve(self) -> None:
        """Until the agent hangs up."""
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        try:
            while True:
                for descriptor, _ in poller.poll():
                    if descriptor in self._children:
                        poller.unregister(descriptor)
                        self._reap(descriptor)
                    elif (order := self._channel.receive()) is None:
                        return
                    elif (child := self._obey(order)) is not None:
                        poller.register(child, select.POLLIN)
        finally:
            self._kill_all()

    def _obey(self, order: ToZygote) -> int | None:
        """Fork, and say so. Returns the child's pidfd; None when the machine has no room for another process."""
        forked_ns = time.time_ns()
        work: Callable[[], int] = (
            (lambda: _work(order, forked_ns)) if isinstance(order, ForkWorker) else (lambda: _drain(order))
        )
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, no memory: the children that there are go on
            self._channel.send(Forked(pid=0, error=f"the zygote cannot fork: {error}"))
            return None
        if pid == 0:
            self._become_child(order, work, parent)
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as error:  # a child whose end cannot be watched is better not there
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._channel.send(Forked(pid=0, error=f"the zygote cannot watch what it forked: {error}"))
            return None
        self._children[descriptor] = pid
        self._channel.send(Forked(pid=pid))
        return descriptor

    def _become_child(self, order: ToZygote, work: Callable[[], int], parent: int) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent)
            redirect_output(order.log_path)
            if isinstance(order, ForkWorker) and order.cgroup_procs:
                Path(order.cgroup_procs).write_text(str(os.getpid()))
            for descriptor in (self._channel.fileno(), *self._children):
                os.close(descriptor)
            code = work()
        except BaseException:  # noqa: BLE001 - the edge of the process: the log is all that is left
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def _reap(self, descriptor: int) -> None:
        pid = self._children.pop(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._channel.send(Reaped(pid=pid, signal=max(0, -code), code=max(0, code)))

    def _kill_all(self) -> None:
        for descriptor, pid in self._children.items():
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.waitpid(pid, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. Raises OSError when it is dead already."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise OSError("the parent died during the fork")


def redirect_output(log_path: str) -> None:
    """Standard output and error go to the end of the log, standard input is empty."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)


def _work(order: ForkWorker, forked_ns: int) -> int:
    from myriarch.train.worker import main

    return main(order, forked_ns=forked_ns)


def _drain(order: ForkDrain) -> int:
    from myriarch.train.drain import run_job

    os.nice(DRAIN_NICENESS)
    started = time.monotonic()
    size_bytes, error = 0, ""
    try:
        size_bytes = run_job(order.job)
    except (MyriarchError, OSError) as failure:
        error = str(failure)
    result = DrainResult(
        token=order.token, job=order.job, size_bytes=size_bytes, duration_s=time.monotonic() - started, error=error
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(order.socket_path)
        Channel[ToZygote](sock, decode_type=ToZygote).send(result)
    return 0 if not error else 1


def main() -> None:
    """Serve the agent at the other end of the socket whose number is the first argument."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the launcher's; here the end comes as the end of the socket
    channel: Channel[ToZygote] = Channel(socket.socket(fileno=int(sys.argv[1])), decode_type=ToZygote)
    started = time.monotonic()
    version = import_everything()
    gc.collect()
    gc.freeze()  # children then share these pages instead of copying them at their first collection
    channel.send(ZygoteReady(torch_version=version, import_s=time.monotonic() - started))
    Zygote(channel).serve()


if __name__ == "__main__":
    main()
