"""The local engine: a fleet as processes of this machine, each node with its own loopback address.

It starts the controller and the agents, sees how each of them ends, and removes what a dead node left: its memory is
gone with it. Every child leads a process group of its own and holds the owner pipe's end, so nothing survives this
process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from myriarch.errors import UsageError
from myriarch.event.ids import NodeId, PoolId
from myriarch.run import cgroups, procfs, sweep
from myriarch.run.directory import Attempt, Launch, NodePlace
from myriarch.run.owner import OWNER_VARIABLE
from myriarch.spec.fleet import Fleet

log = logging.getLogger("myriarch.launcher")

BOOT_BYTES: Final = 4
NODES_PER_POOL_LIMIT: Final = 254
"""Addresses 127.0.<pool>.1 to 127.0.<pool>.254."""
POOLS_LIMIT: Final = 255


def places_of(fleet: Fleet) -> tuple[NodePlace, ...]:
    """Every node of the fleet, spares included, with its loopback address.

    Raises UsageError for a fleet that one machine has no addresses for.
    """
    most = max(len(pool.node_names) for pool in fleet.pools)
    if most > NODES_PER_POOL_LIMIT or len(fleet.pools) > POOLS_LIMIT:
        raise UsageError(
            f"fleet `{fleet.name}` has {len(fleet.pools)} pools of up to {most} nodes; the local engine places "
            f"{POOLS_LIMIT} of {NODES_PER_POOL_LIMIT}",
            hint="a machine has cores for a few; larger fleets run on larger engines",
        )
    return tuple(
        NodePlace(
            node=NodeId(name),
            pool=PoolId(pool.name),
            address=f"127.0.{number}.{index}",
            devices=pool.devices_per_node,
            fault_domain=pool.fault_domain(name),
            cpu_fraction=pool.emulate.cpu_fraction if pool.emulate else None,
            memory_bytes=None if pool.host_memory_bytes is None else int(pool.host_memory_bytes),
        )
        for number, pool in enumerate(fleet.pools, start=1)
        for index, name in enumerate(pool.node_names, start=1)
    )


class Child:
    """One process that the engine started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], *, boot: str = "") -> None:
        self.name = name
        self.boot = boot
        self.process = process
        self.ended = asyncio.Event()
        self.how = ""
        """How it ended: `killed by SIGKILL`, `exit code 1`."""
        self.code = 0
        self.said = ""
        """The end of what it wrote to stderr, if it ended by itself."""

    @property
    def detail(self) -> str:
        """How it ended, and its last words if it left any."""
        return f"{self.how}: {self.said}" if self.said else self.how

    def kill_group(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal it and everything of its group. Only while it is not waited for: until then its number is its own."""
        if not self.ended.is_set():
            procfs.kill_group(self.process.pid, number)


class LocalEngine:
    """Start with `start_controller` and `start_agents`; end with `close`."""

    def __init__(
        self,
        attempt: Attempt,
        launch: Launch,
        *,
        on_agent_exit: Callable[[Child], None],
        on_controller_exit: Callable[[Child], None],
    ) -> None:
        self._attempt = attempt
        self._launch = launch
        self._on_agent_exit = on_agent_exit
        self._on_controller_exit = on_controller_exit
        self._owner_end, self._held_end = os.pipe()
        self.controller: Child | None = None
        self.agents: dict[str, Child] = {}
        self._cleaning: set[asyncio.Task[None]] = set()

    def start_controller(self, *, port: int = 0) -> None:
        """Start it, or start it again; it takes the port that it had."""
        self.controller = self._start(
            "controller", ["-m", "myriarch.run.controller", str(self._attempt.path), str(port)], self._controller_ended
        )

    def start_agents(self) -> None:
        """Start every node."""
        for place in self._launch.nodes:
            boot = secrets.token_hex(BOOT_BYTES)
            self.agents[place.node] = self._start(
                place.node, ["-m", "myriarch.run.agent", str(self._attempt.path), place.node, boot],
                self._agent_ended, boot=boot,
            )  # fmt: skip

    def resume(self, node: str) -> None:
        """Continue a stopped node."""
        if (agent := self.agents.get(node)) is not None:
            agent.kill_group(signal.SIGCONT)

    def resume_all(self) -> None:
        """Continue every node that is stopped; to the others it is nothing."""
        for agent in self.agents.values():
            agent.kill_group(signal.SIGCONT)

    def output_of(self, name: str, *, limit: int = 2000) -> str:
        """The end of what a child said on stderr."""
        try:
            return self._output_path(name).read_text(errors="replace")[-limit:].strip()
        except OSError:
            return ""

    async def wait_agents(self, limit_s: float) -> bool:
        """Whether all agents have ended within `limit_s`."""
        waits = [asyncio.create_task(child.ended.wait()) for child in self.agents.values()]
        if not waits:
            return True
        _, pending = await asyncio.wait(waits, timeout=limit_s)
        for wait in pending:
            wait.cancel()
        return not pending

    async def close(self) -> None:
        """Whatever is left is killed and waited for; the launch's shared memory and cgroups go."""
        children = [*self.agents.values(), *([self.controller] if self.controller else [])]
        for child in children:
            child.kill_group()
        for child in children:
            await child.ended.wait()
        await asyncio.gather(*self._cleaning)
        os.close(self._held_end)
        os.close(self._owner_end)
        await asyncio.to_thread(self._remove_everything)

    def _remove_everything(self) -> None:
        stayed = cgroups.remove(f"{sweep.cgroup_prefix(self._launch.run_id)}-")
        if stayed:
            log.error("cgroups could not be removed: %s", ", ".join(stayed))
        sweep.remove_directory(Path(self._launch.shm_directory))

    # --- children ---

    def _start(self, name: str, arguments: list[str], ended: Callable[[Child], None], *, boot: str = "") -> Child:
        with self._output_path(name).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, pass_fds=(self._owner_end,),
                env={**os.environ, OWNER_VARIABLE: str(self._owner_end), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        child = Child(name, process, boot=boot)
        self._watch(child, ended)
        return child

    def _output_path(self, name: str) -> Path:
        return self._attempt.logs / f"{name}.out"

    def _watch(self, child: Child, ended: Callable[[Child], None]) -> None:
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(child.process.pid)

        def exited() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            # The leader is a zombie until it is waited for: its group's number cannot be anybody else's yet.
            procfs.kill_group(child.process.pid)
            child.code = child.process.wait()
            child.how = _how(child.code)
            child.said = self.output_of(child.name) if child.code > 0 else ""  # killed, it had no time for any
            child.ended.set()
            ended(child)

        loop.add_reader(descriptor, exited)

    def _controller_ended(self, child: Child) -> None:
        log.info("the controller ended: %s", child.how)
        self._on_controller_exit(child)

    def _agent_ended(self, child: Child) -> None:
        log.info("%s ended: %s", child.name, child.how)
        self._on_agent_exit(child)
        task = asyncio.create_task(self._remove_node(child))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _remove_node(self, child: Child) -> None:
        await asyncio.to_thread(
            sweep.remove_node,
            Path(self._launch.shm_directory),
            run_id=self._launch.run_id,
            node=child.name,
            boot=child.boot,
        )


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
