"""Says at a fixed interval that the node lives and how far its workers are, without touching them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from myriarch.event.events import Heartbeat, WorkerBeat
from myriarch.run import procfs
from myriarch.run.node import Node
from myriarch.run.worker import Worker


async def beat_for_ever(node: Node, workers: Callable[[], Iterable[Worker]]) -> None:
    """Until cancelled."""
    interval_s = node.resolved.run.recovery.heartbeat_interval_s
    while True:
        beats = tuple(beat_of(node, worker) for worker in workers() if worker.attached)
        node.link.beat(Heartbeat(node=node.id, boot=node.boot, workers=beats))
        await asyncio.sleep(interval_s)


def beat_of(node: Node, worker: Worker) -> WorkerBeat:
    """What the worker's beacon and the kernel say."""
    reading = node.beacons.read(worker.plan.device_index)
    stopped = procfs.state(worker.pid) == "T" and not node.limiter.owns_stop(worker.pid)
    return WorkerBeat(
        group=worker.plan.group,
        rank=worker.plan.rank,
        incarnation=reading.incarnation or worker.plan.incarnation,
        step=reading.step,
        phase=reading.phase,
        ticks=reading.ticks,
        stopped=stopped,
    )
