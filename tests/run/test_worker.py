"""A worker's life is over exactly once, whenever it is stopped."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from myriarch.event.actions import Fresh, WorkerPlan
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank
from myriarch.run.worker import Worker
from myriarch.spec.run import Mesh

LIMIT_S = 10.0
"""Only a worker whose end is never said comes near it."""


def worker_of(incarnation: int) -> Worker:
    plan = WorkerPlan(
        group=GroupId("g"), rank=Rank(0), world_size=1, mesh=Mesh(), incarnation=Incarnation(incarnation),
        device_index=0, store_node=NodeId("n-0"), store_address="127.0.0.1", store_port=1, copy_nodes=(),
        restore=Fresh(),
    )  # fmt: skip
    unused: Any = SimpleNamespace()  # it never comes to be forked
    return Worker(plan, node=unused, fetcher=unused, replicator=unused)


@pytest.mark.parametrize("turns", [0, 1, 2], ids=["before its first turn", "while it waits", "later"])
@pytest.mark.parametrize("stops", [1, 2, 3])
def test_a_worker_that_waits_for_another_ends_when_stopped(turns: int, stops: int) -> None:
    """Its name and its device are free only when those before it have ended, too."""

    async def play() -> tuple[bool, bool]:
        before, worker = worker_of(1), worker_of(2)
        worker.start([before])
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(stops):
            worker.stop()
            await asyncio.sleep(0)
        early = worker.ended.is_set()
        before.ended.set()
        await asyncio.wait_for(worker.ended.wait(), LIMIT_S)
        return early, worker.ordered_to_end

    early, ordered = asyncio.run(play())
    assert ordered
    assert not early
