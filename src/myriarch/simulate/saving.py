"""Snapshots, copies and drains of simulated workers and agents."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import xxhash

from myriarch.event.actions import DrainShards, FinishDrain, WorkerPlan
from myriarch.event.events import (
    DrainFailed,
    HeldShard,
    ShardDrained,
    ShardReplicated,
    ShardSealed,
    SnapshotDrained,
    SnapshotSkipped,
)
from myriarch.event.ids import Incarnation, NodeId, Step
from myriarch.event.layout import ShardKey
from myriarch.simulate.node import SimNode, SimWorker, Stride
from myriarch.units import NS_PER_S

if TYPE_CHECKING:
    from myriarch.simulate.work import Work
    from myriarch.simulate.world import World


class Saving:
    """Takes snapshots and moves them on."""

    def __init__(self, world: World, work: Work) -> None:
        self.world = world
        self.work = work
        self.on_disk: dict[Step, str] = {}
        self.states: dict[Step, int] = {}
        """Digests of states that others saved: the sum over a group's shards."""
        self.parts: dict[tuple[ShardKey, Step, Incarnation], int] = {}
        """Digests of shards that are missing in a snapshot of which others were sealed already."""

        self.settled: set[tuple[ShardKey, Step, Incarnation]] = set()
        """Parts of snapshots that were skipped or dropped before this world began: nobody takes them again."""

    def unsaved(self, stride: Stride) -> list[SimWorker]:
        """Workers that have to take their part of the newest step's snapshot: all of them, or in a world that went on
        from a journal, those that had not done so."""
        step, incarnation = stride.step, stride.incarnation
        return [
            worker
            for key, worker in stride.workers.items()
            if not worker.node.memory.has_own(*key, step, incarnation) and (key, step, incarnation) not in self.settled
        ]

    def shard_bytes(self, plan: WorkerPlan) -> int:
        """Size of one worker's part of the state."""
        whole = self.world.resolved.model.parameters * self.world.timing.bytes_per_parameter
        return max(1, round(whole / plan.world_size))

    def digest(self, step: Step, rank: int) -> str:
        """A shard's digest: the group's sum is the same whatever its layout."""
        whole = self.states.get(step)
        if whole is None:
            whole = xxhash.xxh3_64_intdigest(b"state of step %d" % step)
        return f"{whole if rank == 0 else 0:016x}"

    def snapshot(self, worker: SimWorker, step: Step, *, final: bool) -> float:
        """A worker takes its part. Returns how long that stops it, in seconds."""
        node, plan = worker.node, worker.plan
        if worker.skips and not final:
            worker.skips -= 1
            self._skip(worker, step, "both slots are taken (injected)")
            return 0.0
        shard = HeldShard(
            group=plan.group,
            rank=plan.rank,
            world_size=plan.world_size,
            step=step,
            incarnation=plan.incarnation,
            role="own",
            size_bytes=self.shard_bytes(plan),
            root=xxhash.xxh3_128_hexdigest(
                f"{plan.group}/{plan.rank}/{plan.world_size}/{step}/{plan.incarnation}".encode()
            ),
        )
        if not node.memory.store(shard):
            self._skip(worker, step, "both slots are taken")
            return 0.0
        stall_s = shard.size_bytes / self.world.timing.memory_bytes_per_s
        self.world.clock.after(stall_s, partial(self._sealed, worker, plan, shard, stall_s))
        now_ns = self.world.clock.now_ns
        self.work.spend(
            node,
            worker.key,
            plan.device_index,
            "checkpoint_stall",
            now_ns,
            now_ns + round(stall_s * NS_PER_S),
            incarnation=plan.incarnation,
            step=Step(step - 1),
        )
        return stall_s

    def _skip(self, worker: SimWorker, step: Step, why: str) -> None:
        event = SnapshotSkipped(
            node=worker.node.name,
            group=worker.key[0],
            rank=worker.key[1],
            incarnation=worker.incarnation,
            step=step,
            why=why,
        )
        self.world.report(worker.node, event)

    def _sealed(self, worker: SimWorker, plan: WorkerPlan, shard: HeldShard, stall_s: float) -> None:
        node = worker.node
        if not worker.alive:
            if node.alive:
                node.memory.drop(shard.step, shard.incarnation)
            return
        part = self.parts.get((worker.key, shard.step, shard.incarnation))
        digest = self.digest(shard.step, plan.rank) if part is None else f"{part:016x}"
        sealed = ShardSealed(node=node.name, shard=shard, digest=digest, stall_s=round(stall_s, 9))
        self.world.report(node, sealed)
        for target in plan.copy_nodes:
            self.send_copy(worker, shard, target)

    def send_copy(self, worker: SimWorker, shard: HeldShard, target: NodeId) -> None:
        """A sealed shard goes to another node's memory."""
        delay_s = shard.size_bytes / self.world.timing.network_bytes_per_s + self.world.timing.latency_s
        self.world.clock.after(delay_s, partial(self._copied, worker, shard, target))

    def _copied(self, worker: SimWorker, shard: HeldShard, target: NodeId) -> None:
        giver, taker = worker.node, self.world.nodes[target]
        if not giver.alive or giver.stopped:
            return
        copy = msgspec.structs.replace(shard, role="copy")
        if not taker.alive or taker.stopped:
            self._skip(worker, shard.step, f"its copy to {target} failed: connection refused")
        elif taker.memory.refuses_copies:
            self._skip(worker, shard.step, f"its copy to {target} failed: no room (injected)")
        elif not taker.memory.store(copy):
            self._skip(worker, shard.step, f"its copy to {target} failed: both slots are taken")
        else:
            self.world.report(taker, ShardReplicated(node=target, shard=copy))

    # --- disk -------------------------------------------------------------------------------------------------------

    def drain(self, node: SimNode, action: DrainShards) -> None:
        """Write shards to disk."""
        held = {(one.group, one.rank): one for one in node.memory.all() if one.step == action.step}
        size = sum(held[key].size_bytes for key in action.shards if key in held)
        delay_s = size / self.world.timing.disk_bytes_per_s
        self.world.clock.after(delay_s, partial(self._written, node, action, size, delay_s))

    def _written(self, node: SimNode, action: DrainShards, size_bytes: int, duration_s: float) -> None:
        intact = all(node.memory.has(*key, action.step, action.incarnation) for key in action.shards)
        if node.drain_errors or not intact:
            node.drain_errors = max(0, node.drain_errors - 1)
            why = "no space left on device" if intact else "a shard is not intact"
            self.world.report(
                node, DrainFailed(node=node.name, step=action.step, incarnation=action.incarnation, why=why)
            )
            return
        event = ShardDrained(
            node=node.name,
            step=action.step,
            incarnation=action.incarnation,
            shards=action.shards,
            size_bytes=size_bytes,
            duration_s=round(duration_s, 9),
        )
        self.world.report(node, event)

    def finish_drain(self, node: SimNode, action: FinishDrain) -> None:
        """Rename the folder into place."""
        self.on_disk[action.step] = action.final_path
        for step in [step for step, path in self.on_disk.items() if path in action.delete_paths]:
            del self.on_disk[step]
        event = SnapshotDrained(step=action.step, incarnation=action.incarnation, path=action.final_path)
        self.world.report(node, event)
