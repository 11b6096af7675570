"""The agent of one node: `python -m myriarch.run.agent <attempt folder> <node> <boot>`.

It owns the node's memory tier and outlives its workers. It does what the controller's actions say, reports what it
sees, and ends when the run ends, when it is told to, or when its launcher is gone. Leader of its own session: killing
its process group is the death of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from myriarch.arena.beacon import BeaconTable
from myriarch.arena.memory import Flip, NodeMemory, make_private_directory, node_directory
from myriarch.errors import EXIT_FAILED, EXIT_OK, MyriarchError
from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    DrainShards,
    DropSnapshot,
    EndRun,
    FenceNode,
    FinishDrain,
    HoldWorkers,
    LaunchWorkers,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
    WorkerPlan,
)
from myriarch.event.events import HeldShard, NodeJoined, NodeWarmed, ShardReplicated
from myriarch.event.ids import GroupId, Incarnation, Step
from myriarch.run import quota, sweep
from myriarch.run.directory import Attempt
from myriarch.run.door import Door
from myriarch.run.drains import Drains
from myriarch.run.fetch import Fetcher
from myriarch.run.heartbeat import beat_for_ever
from myriarch.run.identity import client_context, read_token
from myriarch.run.inflict import Inflictor
from myriarch.run.link import ControllerLink
from myriarch.run.messages import Do, Inflict
from myriarch.run.node import Node
from myriarch.run.owner import Owner
from myriarch.run.replicate import Replicator
from myriarch.run.worker import Worker
from myriarch.run.workers import WorkerTable
from myriarch.run.zygote import Zygote
from myriarch.wire.shards import ByteServer
from myriarch.wire.store import KeyValueStore
from myriarch.wire.worker import Attach

log = logging.getLogger("myriarch.agent")

GENTLE_END_S: Final = 2.0
"""For workers to end by themselves when the run is over; they hold no work by then."""
FAREWELL_S: Final = 2.0
"""For the controller to take the last reports."""


class Agent:
    """One boot of a node: created, run once, closed. A fenced node runs another."""

    def __init__(self, attempt: Attempt, node: str, boot: str) -> None:
        self.attempt = attempt
        self.launch = attempt.places()
        self.resolved = attempt.resolved()
        self.place = self.launch.place(node)
        self.boot = boot
        self._token = read_token(attempt)
        self._store = KeyValueStore()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why this boot ends: `end`, `fenced`, `owner`."""
        self._incarnations: dict[GroupId, Incarnation] = {}
        """Of each group whose rendezvous store is here: the incarnation in which its workers were last launched."""
        self._emulation = ""
        self._error: BaseException | None = None
        """What broke this boot."""
        self._node: Node
        self._workers: WorkerTable
        self._drains: Drains
        self._replicator: Replicator
        self._server: ByteServer

    async def run(self) -> str:
        """Until this boot is over; returns why."""
        async with self._open():
            self._spawn(self._node.zygote.run(on_ready=self._warmed))
            self._spawn(self._node.link.run())
            self._spawn(beat_for_ever(self._node, lambda: self._workers))
            why = await self._over
            log.info("this boot ends: %s", why)
            if why == "end":
                await self._workers.end_all(gently_s=GENTLE_END_S)
                await self._node.link.drained(FAREWELL_S)
            else:
                await self._workers.end_all(gently_s=0)
        if isinstance(self._error, MyriarchError):
            raise self._error
        return why

    def end(self, why: str) -> None:
        """End this boot. The first reason stays."""
        if not self._over.done():
            self._over.set_result(why)

    # --- parts ---

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """All parts, open; afterwards, nothing of them is left."""
        directory = node_directory(self.launch.run_id, self.place.node, self.boot)
        prefix = sweep.cgroup_prefix(self.launch.run_id, self.place.node, self.boot)
        socket_path = str(directory.parent / f"{self.boot}.sock")
        memory = NodeMemory(directory, self.launch.run_id, limit_bytes=self.place.memory_bytes)
        self._server = ByteServer(
            self.place.address, self._token, self._store, memory, on_received=self._received_in_thread
        )
        make_private_directory(directory)
        frozen: set[int] = set()
        limiter = quota.choose(prefix, pids=self._pids_of, frozen=frozen)
        self._node = node = Node(
            attempt=self.attempt, launch=self.launch, resolved=self.resolved, place=self.place, boot=self.boot,
            token=self._token, socket_path=socket_path, memory=memory,
            beacons=BeaconTable(directory / "beacons", self.place.devices),
            zygote=Zygote(self.launch.zygote, log_path=self.attempt.logs / f"{self.place.node}-zygote.log"),
            limiter=limiter, link=self._make_link(), frozen=frozen,
        )  # fmt: skip
        self._drains = Drains(node)
        self._replicator = Replicator(node)
        self._workers = WorkerTable(node, fetcher=Fetcher(node), replicator=self._replicator)
        self._inflictor = Inflictor(node, self._workers)
        try:
            self._emulate()
            with self._server:
                async with Door(socket_path, token=self._token, find_worker=self._expected, drains=self._drains):
                    yield
        finally:
            await self._close(directory, socket_path)

    async def _close(self, directory: Path, socket_path: str) -> None:
        node = self._node
        self._drains.cancel()
        self._replicator.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        node.lane.shutdown(wait=False, cancel_futures=True)
        node.transfers.shutdown(wait=False, cancel_futures=True)
        node.limiter.close()
        node.beacons.close()
        node.memory.close()
        Path(socket_path).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)

    def _make_link(self) -> ControllerLink:
        return ControllerLink(
            self.attempt, token=self._token, tls=client_context(self.attempt), run_id=self.launch.run_id,
            joined=self._joined, on_action=self._do, on_inflict=self._inflict, emulation=lambda: self._emulation,
        )  # fmt: skip

    def _emulate(self) -> None:
        """Make the devices as slow as the fleet file says."""
        fraction = self.place.cpu_fraction
        if fraction is None:
            return
        for device in range(self.place.devices):
            self._node.limiter.limit(device, fraction)
        self._emulation = f"{fraction:.0%} of one core per device, by {self._node.limiter.method}"
        log.info("devices are held to %s", self._emulation)

    async def _joined(self) -> NodeJoined:
        place = self.place
        shards = await self._node.in_lane(self._node.memory.held)
        return NodeJoined(
            node=place.node, pool=place.pool, boot=self.boot, address=place.address, port=self._server.port,
            devices=place.devices, fault_domain=place.fault_domain, workers=self._workers.running(),
            shards=shards, warm=self._node.zygote.ready,
        )  # fmt: skip

    def _warmed(self) -> None:
        """Workers are forked at once from now on. A `NodeJoined` that is sent later says so, too."""
        self._node.link.report(NodeWarmed(node=self.place.node, boot=self.boot))

    def _pids_of(self, device: int) -> list[int]:
        return self._workers.pids_of(device)

    def _expected(self, attach: Attach) -> Worker | None:
        worker = self._workers.find(attach.group, attach.rank)
        if worker is None or worker.plan.incarnation != attach.incarnation or worker.pid not in (0, attach.pid):
            return None
        return worker

    def _received_in_thread(self, shard: HeldShard) -> None:
        """A copy from another node has arrived; called by the byte server's threads."""
        event = ShardReplicated(node=self.place.node, shard=shard)
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the node
            self._over.get_loop().call_soon_threadsafe(self._node.link.report, event)

    # --- actions ---

    def _do(self, do: Do) -> None:
        log.info("%s: %s", type(do.action).__name__, do.action.reason.text)
        try:
            self._dispatch(do.action)
        except MyriarchError as error:
            log.exception("action %d failed: %s", do.seq, error)

    def _dispatch(self, action: AnyAction) -> None:
        match action:
            case LaunchWorkers():
                self._form(action)
            case RejoinWorkers():
                self._form(action)
            case StopWorkers():
                self._workers.stop(action.workers)
            case StartSteps():
                self._workers.go(action)
            case HoldWorkers():
                self._workers.hold(action.incarnation)
            case CommitSnapshot():
                self._settle(self._node.memory.commit, action)
            case DropSnapshot():
                self._settle(self._node.memory.drop, action)
            case DrainShards() | FinishDrain():
                self._drains.start(action)
            case FenceNode():
                if action.boot == self.boot:
                    self.end("fenced")
            case EndRun():
                self.end("end")
            case _:
                log.error("%s is nothing that an agent does", type(action).__name__)

    def _form(self, action: LaunchWorkers | RejoinWorkers) -> None:
        """A new incarnation: what the one before left half done is void."""
        self._node.learn(action.peers)
        for plan in action.workers:
            self._node.in_lane(self._node.memory.discard_stale, plan.incarnation)
            if isinstance(action, LaunchWorkers):
                self._fence_store(plan)
                self._workers.launch(plan)
            else:
                self._workers.rejoin(plan)

    def _fence_store(self, plan: WorkerPlan) -> None:
        """Nobody meets in the rendezvous of an older launch any more: whoever waits there is let go."""
        if plan.store_node != self.place.node:
            return
        before = self._incarnations.get(plan.group)
        if before is not None and before < plan.incarnation:
            self._store.drop_prefix(f"{plan.group}/{before}/")
        self._incarnations[plan.group] = plan.incarnation

    def _settle(
        self, call: Callable[[Step, Incarnation], tuple[Flip, ...]], action: CommitSnapshot | DropSnapshot
    ) -> None:
        """Commit or drop a snapshot in this node's memory, and tell its workers which slot is free."""
        done = self._node.in_lane(call, action.step, action.incarnation)

        async def tell() -> None:
            for flip in await done:
                if flip.role == "own":
                    self._workers.slot_free(flip.group, flip.rank, committed=flip.committed, step=action.step)

        self._spawn(tell())

    def _inflict(self, order: Inflict) -> None:
        self._node.link.answer(self._inflictor.inflict(order))

    # --- tasks ---

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of this boot. One that fails ends the node: half an agent is worse than none."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of this agent failed", exc_info=error)
            self._error = self._error or error
            self.end("broken")


async def serve(attempt: Attempt, node: str, boot: str, owner: Owner) -> int:
    """Run boot after boot: a node that was fenced comes back empty, under a new name. Returns the exit code."""
    number = 0
    while True:
        agent = Agent(attempt, node, boot if number == 0 else f"{boot}.{number}")
        release = owner.call_when_gone(lambda agent=agent: agent.end("owner"))  # type: ignore[misc]
        try:
            why = await agent.run()
        finally:
            release()
        if why != "fenced":
            return EXIT_OK if why in ("end", "owner") else EXIT_FAILED
        number += 1


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    folder, node, boot = arguments
    attempt = Attempt(Path(folder))
    logging.basicConfig(
        filename=attempt.logs / f"{node}-agent.log", level=logging.INFO,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s", datefmt="%H:%M:%S",
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to answer
    shm = Path(attempt.places().shm_directory)
    try:
        return asyncio.run(_main(attempt, node, boot))
    except (MyriarchError, OSError) as error:
        log.critical("%s", error)
        hint = error.hint if isinstance(error, MyriarchError) else ""
        sys.stderr.write(f"{error}\n" + (f"hint: {hint}\n" if hint else ""))
        return EXIT_FAILED
    finally:
        sweep.leave(shm)


async def _main(attempt: Attempt, node: str, boot: str) -> int:
    with Owner.from_environment() as owner:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, owner.declare_gone)
        return await serve(attempt, node, boot, owner)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads of transfers under way must not hold up a node that is over
