"""Jobs that may be preempted are moved together, so that a gang that would fit by count fits inside its domain.

The first in the queue waits although a pool has as many free devices as it needs: they lie on too few whole nodes, or
in several racks or pods. For every domain of the pool (a node, a rack, a pod, the pool) the nodes that are cheapest to
clear are chosen; who runs there, may be preempted and stands in the way goes to free devices elsewhere in the pool,
inside its own domain. Of the domains where everybody finds a place the cheapest plan is taken. It is carried out if

    devices of the first x (earliest start by estimates - now)  >  price x sum over moved jobs of devices x restart

that is, if the device-seconds that it is spared are worth more than those in which the moved jobs make no progress
(`worth.Worth` asks the same of preemptions). A moved job hands over all that it did; starting again is what it pays. A
job that should be over before its restart pays off, because it ends within `restart_s`, is not moved.

All moves of a plan happen at one instant, one plan at a time, and for `pause_s` there is no other, so that nobody is
moved all the time. Which nodes are cheapest is chosen one by one, and places are found largest job first: a heuristic,
exact where every job that moves lies on one node and there is room.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Refuse, Resize
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.moving import Moving, nodes_of
from myriarch.schedule.nodes import PoolNodes
from myriarch.schedule.packing import choose

PAUSE_S: Final = 600.0
"""Ten minutes: our choice."""

Ints = NDArray[np.int64]


class _Mover(NamedTuple):
    """A running job that may be moved."""

    job: Job
    placement: Placement
    until_s: float

    @property
    def cost_device_s(self) -> float:
        return self.placement.devices * self.job.restart_s


class _Plan(NamedTuple):
    """Moves that open a place."""

    cost_device_s: float
    nodes: tuple[int, ...]
    """Where the first in the queue then fits."""
    moves: tuple[tuple[JobId, Placement], ...]


@final
class Defragmenting:
    """Another scheduler, whose running jobs are moved together for the first in the queue.

    Invariant: `_jobs` has all jobs that wait or run. `price`: what a lost device-second counts against a gained one.
    """

    def __init__(self, scheduler: Moving, *, pause_s: float = PAUSE_S, price: float = 1.0) -> None:
        if not (pause_s > 0 and 0 <= price < math.inf):
            raise SpecError(f"pause_s {pause_s:g} and price {price:g}", hint="a pause above 0, a price from 0 up")
        self.machine = nodes_of(scheduler)
        """The scheduler's own."""
        self._scheduler = scheduler
        self._pause_s = pause_s
        self._price = price
        self._jobs: dict[JobId, Job] = {}
        self._next_s = -math.inf
        """No plan before."""
        self._again_s = math.inf
        """When to look again, because a pause was on."""

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._scheduler.waiting

    @property
    def head(self) -> Job | None:
        """Who is first in the queue."""
        return self._scheduler.head

    @property
    def wake_s(self) -> float:
        """For the scheduler, or when the pause is over."""
        return min(self._scheduler.wake_s, self._again_s)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        self._jobs[job.id] = job
        decisions = self._scheduler.submit(job, now_s=now_s)
        if any(isinstance(decision, Refuse) for decision in decisions):
            del self._jobs[job.id]
        return self._after(decisions, now_s)

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended. Others may end at this instant too: a plan waits until they have."""
        self._jobs.pop(job, None)
        decisions = self._scheduler.end(job, now_s=now_s)
        if self._scheduler.waiting:
            self._again_s = max(now_s, self._next_s)
        return decisions

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A plan, or what the scheduler waits for."""
        decisions: list[Decision] = []
        if self._scheduler.wake_s <= now_s:
            decisions += self._scheduler.wake(now_s=now_s)
        if self._again_s <= now_s:
            self._again_s = math.inf
            decisions += self._open(now_s)
        return decisions

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """There are other nodes or more power."""
        return self._after(self._scheduler.changed(now_s=now_s), now_s)

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on elsewhere."""
        return self._scheduler.move(job, placement, now_s=now_s, reason=reason)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone."""
        return self._after(self._scheduler.lose(pool, node, now_s=now_s), now_s)

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        return self._after(self._scheduler.regain(pool, node, now_s=now_s), now_s)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        return self._scheduler.drain(pool, node, from_s=from_s, now_s=now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self._scheduler.check()
        assert set(self.machine.running()) <= self._jobs.keys()

    # --- a plan -------------------------------------------------------------------------------------------------------

    def _after(self, decisions: Sequence[Decision], now_s: float) -> Sequence[Decision]:
        """Look for a plan once everything of this instant has happened, and no pause is on."""
        if self._scheduler.waiting:
            self._again_s = max(now_s, self._next_s)
        return decisions

    def _open(self, now_s: float) -> list[Decision]:
        """Move jobs, if that is worth it, and start whom it makes room for."""
        head = self._scheduler.head
        if head is None or self.machine.place(head, now_s=now_s) is not None:
            return []
        if self.machine.supply is not None and self._has_room(head, now_s):  # it is not devices that it lacks
            return []
        wait_s = max(min(nodes.when(many, each, head.within) for nodes, many, each in self.machine.ways(head)), now_s)
        wait_s -= now_s
        plans = [
            (plan, nodes, many * each)
            for nodes, many, each in self.machine.ways(head)
            for plan in self._plans(nodes, head, many, each, now_s)
            if many * each * wait_s > self._price * plan.cost_device_s
        ]
        if not plans:
            return []
        plan, nodes, devices = min(plans, key=lambda one: (one[0].cost_device_s, one[0].nodes))
        self._next_s = now_s + self._pause_s
        place = ", ".join(f"{nodes.pool.name}-{node}" for node in plan.nodes)
        reason = (
            f"makes room for job {head.id} on {place}: {devices} devices spared {wait_s:g} s;"
            f" {len(plan.moves)} moved for {plan.cost_device_s:g} device-seconds of restarting"
        )
        decisions: list[Decision] = [
            self._scheduler.move(job, placement, now_s=now_s, reason=reason) for job, placement in plan.moves
        ]
        return [*decisions, *self._scheduler.changed(now_s=now_s)]

    def _has_room(self, head: Job, now_s: float) -> bool:
        """Whether it would start if it took no more than devices."""
        for nodes, many, each in self.machine.ways(head):
            if choose(nodes.pool, self._free(nodes, head, now_s) >= each, nodes.free, many, head.within) is not None:
                return True
        return False

    def _free(self, nodes: PoolNodes, job: Job, now_s: float) -> Ints:
        """Free devices of each node that a job may use from now on."""
        free = nodes.free.copy()
        free[list(nodes.barred(now_s + job.estimate_s))] = 0
        return free

    def _plans(self, nodes: PoolNodes, head: Job, many: int, each: int, now_s: float) -> Iterator[_Plan]:
        """The cheapest way to open each domain of a pool."""
        if int(self._free(nodes, head, now_s).sum()) < many * each:
            return
        movers = self._movers(nodes, now_s)
        barred = nodes.barred(now_s + head.estimate_s)
        ways = {
            node: way
            for node in range(nodes.pool.nodes)
            if node not in barred and (way := _clear(nodes, node, each, movers.get(node, ()))) is not None
        }
        size = nodes.pool.domain_nodes(head.within) if many > 1 else 1
        for begin in range(0, nodes.pool.nodes, size):
            inside = sorted(
                (node for node in range(begin, min(begin + size, nodes.pool.nodes)) if node in ways),
                key=lambda node: (sum(mover.cost_device_s for mover in ways[node]), -int(nodes.free[node]), node),
            )
            if len(inside) >= many:
                chosen = sorted(inside[:many])
                going = {mover.job.id: mover for node in chosen for mover in ways[node]}
                moves = self._rehouse(nodes, list(going.values()), set(chosen), now_s)
                if moves:
                    cost_device_s = sum(mover.cost_device_s for mover in going.values())
                    yield _Plan(cost_device_s, tuple(chosen), moves)

    def _movers(self, nodes: PoolNodes, now_s: float) -> dict[int, list[_Mover]]:
        """Who may be moved, by the nodes of a pool that they use."""
        movers: dict[int, list[_Mover]] = {}
        for job in self.machine.running():
            placement, until_s = self.machine.run(job)
            asked = self._jobs[job]
            if placement.pool == nodes.pool.name and asked.preemptible and until_s > now_s + asked.restart_s:
                for node in placement.nodes:
                    movers.setdefault(node, []).append(_Mover(asked, placement, until_s))
        return movers

    def _rehouse(
        self, nodes: PoolNodes, going: Sequence[_Mover], cleared: set[int], now_s: float
    ) -> tuple[tuple[JobId, Placement], ...]:
        """Another place for each, off the nodes that are cleared; none for anybody if one finds none."""
        free, moves = nodes.free.copy(), list[tuple[JobId, Placement]]()
        free[list(cleared)] = 0
        for mover in sorted(going, key=lambda one: (-one.placement.devices, one.job.id)):
            each, was = mover.placement.devices_per_node, [one for one in mover.placement.nodes if one not in cleared]
            free[was] += each  # its own
            usable = free >= each
            usable[list(nodes.barred(mover.until_s + mover.job.restart_s))] = False
            found = choose(nodes.pool, usable, free, len(mover.placement.nodes), mover.job.within)
            if found is None:
                return ()
            free[found] -= each
            placement = Placement(pool=nodes.pool.name, nodes=tuple(found.tolist()), devices_per_node=each)
            moves.append((mover.job.id, placement))
        return _in_turn(nodes, going, moves)


def _clear(nodes: PoolNodes, node: int, each: int, movers: Sequence[_Mover]) -> list[_Mover] | None:
    """Who has to leave a node so that it has so many devices free: the cheapest first, and nobody needlessly."""
    missing = each - int(nodes.free[node])
    if missing <= 0:
        return []
    here = sorted(
        movers,
        key=lambda one: (one.cost_device_s / one.placement.devices_per_node, one.job.id),
    )
    leaving: list[_Mover] = []
    for mover in here:
        if missing > 0:
            leaving.append(mover)
            missing -= mover.placement.devices_per_node
    if missing > 0:
        return None
    for mover in sorted(leaving, key=lambda one: (-one.cost_device_s, one.job.id)):
        if missing + mover.placement.devices_per_node <= 0:
            leaving.remove(mover)
            missing += mover.placement.devices_per_node
    return leaving


def _in_turn(
    nodes: PoolNodes, going: Sequence[_Mover], moves: Sequence[tuple[JobId, Placement]]
) -> tuple[tuple[JobId, Placement], ...]:
    """The moves in an order in which each finds its place free; none if there is no such order."""
    was = {mover.job.id: mover.placement for mover in going}
    free, left, turn = nodes.free.copy(), list(moves), list[tuple[JobId, Placement]]()
    while left:
        for one in left:
            job, placement = one
            before = was[job]
            free[list(before.nodes)] += before.devices_per_node
            if int(free[list(placement.nodes)].min()) >= placement.devices_per_node:
                free[list(placement.nodes)] -= placement.devices_per_node
                left.remove(one)
                turn.append(one)
                break
            free[list(before.nodes)] -= before.devices_per_node
        else:
            return ()
    return tuple(turn)
