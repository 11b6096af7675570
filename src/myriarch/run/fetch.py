"""Brings to this node the shards that a restore needs, each once, verified block by block."""

from __future__ import annotations

import asyncio
import logging
import time

from myriarch.errors import MyriarchError
from myriarch.event.actions import FromMemory, ShardSource, WorkerPlan
from myriarch.event.events import FetchFailed, HeldShard, Role, ShardFetched
from myriarch.run.node import Node
from myriarch.wire.shards import fetch_shard

log = logging.getLogger("myriarch.agent")


class Fetcher:
    """Fetches under way; two workers that need the same shard wait for the same fetch."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._under_way: dict[tuple[HeldShard, Role], asyncio.Task[str]] = {}

    async def bring(self, plan: WorkerPlan) -> tuple[str, ...] | None:
        """Paths of the local slots that hold the plan's shards, in order. None: one failed, and that was reported."""
        if not isinstance(plan.restore, FromMemory):
            return ()
        results = await asyncio.gather(
            *(self._one(source, self._role(source, plan)) for source in plan.restore.shards), return_exceptions=True
        )
        paths: list[str] = []
        for source, result in zip(plan.restore.shards, results, strict=True):
            if isinstance(result, str):
                paths.append(result)
            elif isinstance(result, MyriarchError | OSError):
                self._failed(plan, source, result)
                return None
            else:
                raise result
        return tuple(paths)

    def _role(self, source: ShardSource, plan: WorkerPlan) -> Role:
        """A worker's own shard goes where the worker's own snapshots go; those of others are copies."""
        shard = source.shard
        own = (shard.group, shard.rank, shard.world_size) == (plan.group, plan.rank, plan.world_size)
        return "own" if own else "copy"

    async def _one(self, source: ShardSource, role: Role) -> str:
        key = (source.shard, role)
        if key not in self._under_way:
            task = asyncio.create_task(
                self._bring_one(source, role), name=f"fetch {source.shard.group}/{source.shard.rank}"
            )
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(self._under_way[key])

    async def _bring_one(self, source: ShardSource, role: Role) -> str:
        node, shard = self._node, source.shard
        if (path := await self._local(shard)) is not None:
            return path
        peer = node.peers.get(source.node)
        if peer is None:
            raise MyriarchError(f"no address of {source.node} is known, and the shard is not in this node's memory")
        start_s = time.monotonic()
        await node.in_transfer(fetch_shard, peer.address, peer.port, node.token, shard, into=node.memory, role=role)
        duration_s = time.monotonic() - start_s
        path = await self._local(shard)
        if path is None:
            raise MyriarchError("the shard was fetched and replaced at once; a newer snapshot is in its place")
        node.link.report(ShardFetched(node=node.id, shard=shard, source=source.node, duration_s=duration_s))
        return path

    async def _local(self, shard: HeldShard) -> str | None:
        path = await self._node.in_lane(self._node.memory.path, shard)
        return None if path is None else str(path)

    def _failed(self, plan: WorkerPlan, source: ShardSource, error: Exception) -> None:
        log.error("shard %s/%s from %s: %s", source.shard.group, source.shard.rank, source.node, error)
        self._node.link.report(
            FetchFailed(
                node=self._node.id, incarnation=plan.incarnation, group=source.shard.group, rank=source.shard.rank,
                step=source.shard.step, source=source.node, why=str(error),
            )
        )  # fmt: skip
