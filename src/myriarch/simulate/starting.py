"""From a launch or a rejoin to readiness: fetch, fork, rendezvous, build, restore."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from myriarch.event.actions import Fresh, FromMemory, Keep, ShardSource, WorkerPlan
from myriarch.event.events import FetchFailed, Phase, ShardFetched, WorkerForked, WorkerReady
from myriarch.event.ids import Incarnation, Step
from myriarch.event.layout import ShardKey
from myriarch.event.spans import Leaf
from myriarch.simulate.node import SimNode, SimWorker
from myriarch.units import NS_PER_S

if TYPE_CHECKING:
    from myriarch.simulate.work import Work
    from myriarch.simulate.world import World


class Starting:
    """Brings workers to readiness."""

    def __init__(self, world: World, work: Work) -> None:
        self.world = world
        self.work = work
        self._pids = 1000
        self._gathered: dict[tuple[str, Incarnation], list[tuple[SimWorker, int]]] = {}
        """Forked workers of a group that wait for the rest of it, and since when."""

    def launch(self, node: SimNode, plans: Sequence[WorkerPlan]) -> None:
        """Fetch what the plans need, then fork."""
        node.memory.begin()
        for plan in plans:
            node.launching[plan.group, plan.rank] = plan.incarnation
            self._fetch(node, plan, partial(self._fork, node, plan))

    def rejoin(self, node: SimNode, plans: Sequence[WorkerPlan]) -> None:
        """Tell live workers to go over to a new incarnation."""
        node.memory.begin()
        for plan in plans:
            worker = node.workers.get((plan.group, plan.rank))
            if worker is None:
                continue  # it died meanwhile, and its exit is on its way
            self.work.stepping.leave(worker)
            worker.plan, worker.state = plan, "starting"
            self._fetch(node, plan, partial(self._restore_in_place, worker, plan))

    def _fetch(self, node: SimNode, plan: WorkerPlan, then: partial[None]) -> None:
        """Get the shards of the restore that are elsewhere, one after the other."""
        if not isinstance(plan.restore, FromMemory):
            then()
            return
        remote = []
        for source in plan.restore.shards:
            shard = source.shard
            if node.memory.has(shard.group, shard.rank, shard.step, shard.incarnation):
                continue
            remote.append(source)
        self._fetch_next(node, plan, remote, then)

    def _fetch_next(self, node: SimNode, plan: WorkerPlan, left: list[ShardSource], then: partial[None]) -> None:
        if not node.alive:
            return
        if not left:
            then()
            return
        source, *rest = left
        delay_s = source.shard.size_bytes / self.world.timing.network_bytes_per_s + self.world.timing.latency_s
        if self.world.nodes[source.node].stopped:
            delay_s = self.world.timing.fetch_timeout_s
        self.world.clock.after(delay_s, partial(self._fetched, node, plan, source, rest, then, delay_s))

    def _fetched(
        self,
        node: SimNode,
        plan: WorkerPlan,
        source: ShardSource,
        rest: list[ShardSource],
        then: partial[None],
        delay_s: float,
    ) -> None:
        shard = source.shard
        giver = self.world.nodes[source.node]
        there = giver.alive and not giver.stopped and giver is not node and delay_s < self.world.timing.fetch_timeout_s
        if not (there and giver.memory.has(shard.group, shard.rank, shard.step, shard.incarnation)):
            self.world.report(
                node,
                FetchFailed(
                    node=node.name,
                    incarnation=plan.incarnation,
                    group=shard.group,
                    rank=shard.rank,
                    step=shard.step,
                    source=source.node,
                    why="not there, or not intact" if there or giver is node else "no answer",
                ),
            )
            return
        own = (shard.group, shard.rank) == (plan.group, plan.rank)
        kept = node.memory.store_for_restore(shard, own=own)
        event = ShardFetched(node=node.name, shard=kept, source=source.node, duration_s=round(delay_s, 9))
        self.world.report(node, event)
        self._fetch_next(node, plan, rest, then)

    def _fork(self, node: SimNode, plan: WorkerPlan) -> None:
        key = (plan.group, plan.rank)
        if node.launching.get(key) == plan.incarnation:
            begun_ns = self.world.clock.now_ns
            self.world.clock.after(self.world.timing.fork_s, partial(self._forked, node, plan, begun_ns))

    def _forked(self, node: SimNode, plan: WorkerPlan, begun_ns: int) -> None:
        key: ShardKey = (plan.group, plan.rank)
        if not node.alive or node.launching.get(key) != plan.incarnation:
            return
        del node.launching[key]
        self._pids += 1
        worker = SimWorker(key=key, node=node, plan=plan, pid=self._pids)
        node.workers[key] = worker
        forked = WorkerForked(
            node=node.name, group=plan.group, rank=plan.rank, incarnation=plan.incarnation, pid=worker.pid
        )
        self.world.report(node, forked)
        self._gather(worker, begun_ns)

    def _gather(self, worker: SimWorker, begun_ns: int) -> None:
        """The rendezvous needs all workers of the group."""
        plan = worker.plan
        waiting = self._gathered.setdefault((plan.group, plan.incarnation), [])
        waiting.append((worker, begun_ns))
        if len(waiting) < plan.world_size:
            return
        del self._gathered[plan.group, plan.incarnation]
        for one, since_ns in waiting:
            self.build(one, since_ns=since_ns, met_ns=self.world.clock.now_ns)

    def wait_for_rest(self, worker: SimWorker, *, since_ns: int) -> None:
        """A worker that was forked already waits for the rest of its group."""
        self._gather(worker, since_ns)

    def build(self, worker: SimWorker, *, since_ns: int, met_ns: int) -> None:
        """A worker whose group met at an instant: it builds its model and restores its state."""
        timing, plan = self.world.timing, worker.plan
        parts: list[tuple[Leaf, int, int]] = [("rendezvous", since_ns, met_ns)]
        stages: tuple[tuple[Leaf, float], ...] = (
            ("rendezvous", timing.rendezvous_s),
            ("model_build", timing.model_build_s),
            ("model_build" if isinstance(plan.restore, Fresh) else "restore", self._restore_s(plan)),
            ("warm_up", timing.calibrate_s if plan.calibrate else 0.0),
        )
        for leaf, part_s in stages:
            parts.append((leaf, parts[-1][2], parts[-1][2] + round(part_s * NS_PER_S)))
        self.world.clock.at(parts[-1][2], partial(self._ready, worker, plan, parts))

    def _restore_in_place(self, worker: SimWorker, plan: WorkerPlan) -> None:
        now_ns = self.world.clock.now_ns
        leaf: Leaf = "restart" if isinstance(plan.restore, Keep) else "restore"
        parts: list[tuple[Leaf, int, int]] = [(leaf, now_ns, now_ns + round(self._restore_s(plan) * NS_PER_S))]
        self.world.clock.at(parts[-1][2], partial(self._ready, worker, plan, parts))

    def _restore_s(self, plan: WorkerPlan) -> float:
        timing, shard_bytes = self.world.timing, self.work.saving.shard_bytes(plan)
        if isinstance(plan.restore, Keep):
            return 0.0
        if isinstance(plan.restore, FromMemory):
            total = sum(source.shard.size_bytes for source in plan.restore.shards)
            return timing.restore_s + total / timing.memory_bytes_per_s
        return timing.restore_s + shard_bytes / timing.disk_bytes_per_s

    def _ready(self, worker: SimWorker, plan: WorkerPlan, parts: Sequence[tuple[Leaf, int, int]]) -> None:
        if not worker.able or worker.plan is not plan:
            return
        worker.state = "ready"
        if not isinstance(plan.restore, Keep):
            worker.step = restored_step(plan)
        step = worker.step
        for leaf, start_ns, end_ns in parts:
            self.work.spend(
                worker.node, worker.key, plan.device_index, leaf, start_ns, end_ns, incarnation=plan.incarnation
            )
        calibrated = plan.calibrate
        sequence_s = self.world.timing.device_sequence_s(worker.node.pool) / plan.world_size
        shard_bytes = self.work.saving.shard_bytes(plan)
        event = WorkerReady(
            node=worker.node.name,
            group=plan.group,
            rank=plan.rank,
            incarnation=plan.incarnation,
            step=step,
            bridge_host="127.0.0.1",
            bridge_port=9000 + plan.rank,
            state_bytes=shard_bytes,
            digest="" if isinstance(plan.restore, Keep) else self.work.saving.digest(step, plan.rank),
            sequence_s=sequence_s if calibrated else None,
            snapshot_s=shard_bytes / self.world.timing.memory_bytes_per_s if calibrated else None,
            phases=tuple(Phase(leaf=leaf, start_ns=start, end_ns=end) for leaf, start, end in parts),
        )
        self.world.report(worker.node, event)


def restored_step(plan: WorkerPlan) -> Step:
    """The step that a plan's restore is of."""
    return getattr(plan.restore, "step", Step(0))
