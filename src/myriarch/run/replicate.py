"""Sends copies of sealed shards to the memory of other nodes."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from myriarch.errors import MyriarchError
from myriarch.event.actions import PeerAddress, WorkerPlan
from myriarch.event.events import HeldShard, SnapshotSkipped
from myriarch.event.ids import NodeId
from myriarch.run.node import Node
from myriarch.wire.shards import push_shard

log = logging.getLogger("myriarch.agent")

TRIES: Final = 2
"""A transfer that failed twice is given up: the next snapshot comes soon, and training does not wait for this one."""


class Replicator:
    """One task per shard; the receiving agents report what has arrived, this one only what has not."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, shard: HeldShard, plan: WorkerPlan) -> None:
        """Copy a shard of this node's to the plan's copy nodes."""
        task = asyncio.create_task(self._copy(shard, plan.copy_nodes), name=f"copy {shard.group}/{shard.rank}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _copy(self, shard: HeldShard, copy_nodes: tuple[NodeId, ...]) -> None:
        problems = [why for why in await asyncio.gather(*(self._push(shard, to) for to in copy_nodes)) if why]
        if not problems:
            await self._node.in_lane(
                self._node.memory.replicated, shard.group, shard.rank, step=shard.step, incarnation=shard.incarnation
            )
            return
        log.warning("snapshot of step %d, shard %s/%d: %s", shard.step, shard.group, shard.rank, "; ".join(problems))
        self._node.link.report(
            SnapshotSkipped(
                node=self._node.id, group=shard.group, rank=shard.rank, incarnation=shard.incarnation, step=shard.step,
                why="; ".join(problems),
            )
        )  # fmt: skip

    async def _push(self, shard: HeldShard, to: NodeId) -> str:
        """Why it failed, or empty."""
        peer = self._node.peers.get(to)
        if peer is None:
            return f"no address of {to} is known"
        why = ""
        for _ in range(TRIES):
            try:
                await self._node.in_transfer(self._push_now, shard, peer)
            except (MyriarchError, OSError) as error:
                why = f"the copy to {to} failed: {error}"
            else:
                return ""
        return why

    def _push_now(self, shard: HeldShard, peer: PeerAddress) -> None:
        copy = msgspec.structs.replace(shard, role="copy")
        with self._node.memory.reading(shard) as slot:
            push_shard(peer.address, peer.port, self._node.token, copy, slot)
