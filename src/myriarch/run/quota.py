"""Makes a device of this machine really slower: by CPU quota, or by a duty cycle where no quota is permitted.

Which of the two it is is said in `emulation.json`, in `/v1/state` and in the report.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from myriarch.errors import EnvironmentFault
from myriarch.run import cgroups, procfs
from myriarch.run.cgroups import Cgroup

DUTY_PERIOD_S: Final = 0.05
"""Of it, a device runs for its fraction and is stopped for the rest."""


class Limiter(Protocol):
    """Holds each device of one node to a share of one core."""

    method: str
    """For people: how it is done, and why not better."""

    def procs_path(self, device: int) -> str:
        """The `cgroup.procs` that a worker of `device` joins when it is forked; empty: none."""

    def limit(self, device: int, fraction: float | None) -> None:
        """Hold `device` to `fraction` of one core from now on; None: no limit."""

    def owns_stop(self, pid: int) -> bool:
        """Whether a stopped state of this process may be the limiter's own doing."""

    def close(self) -> None:
        """End the limits and remove what was made for them. The processes must be gone."""


Pids = Callable[[int], Iterable[int]]
"""The processes that are on a device now."""


def choose(prefix: str, *, pids: Pids, frozen: set[int]) -> Limiter:
    """The best limiter that is permitted here. `prefix` begins its cgroups' names.

    `frozen` are processes that somebody stopped on purpose: a duty cycle must not wake them.
    """
    try:
        base, version = cgroups.find_base()
    except EnvironmentFault as fault:
        return DutyCycle(pids=pids, frozen=frozen, why=str(fault))
    return CpuQuota(prefix, pids=pids, create=lambda name: Cgroup(base / name, version=version), version=version)


class CpuQuota:
    """One cgroup per limited device."""

    def __init__(self, prefix: str, *, pids: Pids, create: Callable[[str], Cgroup], version: int) -> None:
        self.method = f"CPU quota (cgroup v{version}, period {cgroups.PERIOD_US / 1000:g} ms)"
        self._prefix = prefix
        self._pids = pids
        self._create = create
        self._groups: dict[int, Cgroup] = {}

    def procs_path(self, device: int) -> str:
        group = self._groups.get(device)
        return str(group.procs) if group else ""

    def limit(self, device: int, fraction: float | None) -> None:
        group = self._groups.get(device)
        if group is None:
            if fraction is None:
                return
            group = self._create(f"{self._prefix}-{device}")
            group.create()
            self._groups[device] = group
        group.limit(fraction)
        for pid in self._pids(device):
            group.add(pid)

    def owns_stop(self, pid: int) -> bool:
        return False  # a throttled process is not a stopped one

    def close(self) -> None:
        if self._groups:
            cgroups.remove(f"{self._prefix}-")
            self._groups.clear()


class DutyCycle:
    """Stops and continues the processes of each limited device: `fraction` of every period they run."""

    def __init__(self, *, pids: Pids, frozen: set[int], why: str) -> None:
        self.method = f"duty cycle (SIGSTOP and SIGCONT, period {DUTY_PERIOD_S * 1e3:g} ms), because {why}"
        self._pids = pids
        self._frozen = frozen
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def procs_path(self, device: int) -> str:
        return ""

    def limit(self, device: int, fraction: float | None) -> None:
        if (task := self._tasks.pop(device, None)) is not None:
            task.cancel()
        if fraction is not None and fraction < 1.0:
            self._tasks[device] = asyncio.create_task(self._cycle(device, fraction), name=f"duty cycle {device}")

    def owns_stop(self, pid: int) -> bool:
        return pid not in self._frozen and any(pid in self._pids(device) for device in self._tasks)

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _cycle(self, device: int, fraction: float) -> None:
        try:
            while True:
                await asyncio.sleep(DUTY_PERIOD_S * fraction)
                self._signal(device, signal.SIGSTOP)
                await asyncio.sleep(DUTY_PERIOD_S * (1.0 - fraction))
                self._signal(device, signal.SIGCONT)
        finally:
            self._signal(device, signal.SIGCONT)

    def _signal(self, device: int, number: signal.Signals) -> None:
        for pid in self._pids(device):
            if pid not in self._frozen:
                procfs.kill(pid, number)
