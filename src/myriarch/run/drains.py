"""Writes snapshots to the disk tier, by forked drains of the zygote at low priority."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

from myriarch.errors import MyriarchError, WireError
from myriarch.event.actions import DrainShards, FinishDrain
from myriarch.event.events import DrainFailed, ShardDrained, SnapshotDrained
from myriarch.run import procfs
from myriarch.run.node import Node
from myriarch.run.resume import run_hash
from myriarch.wire.zygote import DrainJob, DrainResult, ForkDrain

log = logging.getLogger("myriarch.agent")

LAST_WORDS_S: Final = 0.5
"""A drain that ended: for its result to come out of the socket."""


class Drains:
    """Drains under way, by their jobs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._results: dict[DrainJob, asyncio.Future[DrainResult]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pids: set[int] = set()

    def start(self, action: DrainShards | FinishDrain) -> None:
        """Begin; the result is reported."""
        task = asyncio.create_task(self._drain(action), name=f"drain step {action.step}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def result(self, result: DrainResult) -> None:
        """A drain's only message. WireError if nobody waits for it."""
        waiting = self._results.get(result.job)
        if waiting is None or waiting.done():
            raise WireError("the result of a drain that nobody started")
        waiting.set_result(result)

    def cancel(self) -> None:
        """End them all: what they wrote is not a checkpoint until it is renamed."""
        for pid in self._pids:
            procfs.kill(pid)
        for task in self._tasks:
            task.cancel()

    async def _drain(self, action: DrainShards | FinishDrain) -> None:
        node = self._node
        pinned: list[str] = []
        try:
            if isinstance(action, DrainShards):
                result = await self._run(await node.in_lane(self._shards_job, action, pinned))
            else:
                result = await self._run(self._finish_job(action))
            if result.error:
                raise MyriarchError(result.error)
        except MyriarchError as error:
            log.error("drain of step %d: %s", action.step, error)
            node.link.report(
                DrainFailed(node=node.id, step=action.step, incarnation=action.incarnation, why=str(error))
            )
        else:
            self._report(action, result)
        finally:
            for path in pinned:
                await node.in_lane(node.memory.unpin, path)

    def _report(self, action: DrainShards | FinishDrain, result: DrainResult) -> None:
        node = self._node
        if isinstance(action, DrainShards):
            node.link.report(
                ShardDrained(
                    node=node.id, step=action.step, incarnation=action.incarnation, shards=action.shards,
                    size_bytes=result.size_bytes, duration_s=result.duration_s,
                )
            )  # fmt: skip
        else:
            node.link.report(
                SnapshotDrained(
                    step=action.step, incarnation=action.incarnation, path=self._absolute(action.final_path)
                )
            )  # fmt: skip

    def _shards_job(self, action: DrainShards, pinned: list[str]) -> DrainJob:
        for group, rank in action.shards:
            path = self._node.memory.pin_shard(group, rank, action.step, action.incarnation)
            if path is None:
                raise MyriarchError(f"shard {group}/{rank} of step {action.step} is not in this node's memory")
            pinned.append(str(path))
        return DrainJob(
            kind="shards", step=action.step, incarnation=action.incarnation, path=self._absolute(action.path),
            slot_paths=tuple(pinned), shards=action.shards, run_hash=run_hash(self._node.resolved),
        )  # fmt: skip

    def _finish_job(self, action: FinishDrain) -> DrainJob:
        return DrainJob(
            kind="finish", step=action.step, incarnation=action.incarnation, path=self._absolute(action.path),
            final_path=self._absolute(action.final_path),
            delete_paths=tuple(map(self._absolute, action.delete_paths)), run_hash=run_hash(self._node.resolved),
        )  # fmt: skip

    def _absolute(self, path: str) -> str:
        """Control names the folder; where the run keeps its checkpoints is this launch's matter."""
        return str(Path(self._node.launch.checkpoints) / Path(path).name)

    async def _run(self, job: DrainJob) -> DrainResult:
        """Fork a drain for the job and wait for its result."""
        node = self._node
        waiting: asyncio.Future[DrainResult] = asyncio.get_running_loop().create_future()
        self._results[job] = waiting
        pid = 0
        try:
            pid = await node.zygote.fork(
                ForkDrain(
                    socket_path=node.socket_path, token=node.token, job=job,
                    log_path=str(node.attempt.logs / f"{node.id}-drain.log"),
                )
            )  # fmt: skip
            self._pids.add(pid)
            end = node.zygote.end_of(pid)
            ends: set[asyncio.Future[Any]] = {waiting, end}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await asyncio.wait({waiting}, timeout=LAST_WORDS_S)
            if not waiting.done():
                how = end.result()
                raise MyriarchError(
                    f"the drain ended without a result (signal {how.signal}, exit code {how.code})",
                    hint=f"see {node.attempt.logs}",
                )
            return waiting.result()
        finally:
            self._results.pop(job, None)
            self._pids.discard(pid)
            node.zygote.forget(pid)
