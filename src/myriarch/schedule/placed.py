"""A machine of nodes in racks, pods and pools: gangs lie together, and jobs get the pool that they need.

A job that fits on a node runs on one; a larger one takes as few nodes as possible, the same number of devices on each,
all or none. Of the pools that will do, the one that can least is tried first, so that a pool with FP64 is left to those
who need it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout, check_layouts
from myriarch.schedule.machine import Hold, bits_of
from myriarch.schedule.nodes import MANY, NOBODY, Drain, PoolNodes

Prefer = Callable[[Job, PoolLayout], tuple[float, float]]
"""The pool with the lowest is tried first; by what makes a job's shape only: devices, domain, pools, precision."""


def _fewest_precisions(job: Job, pool: PoolLayout) -> tuple[float, float]:
    return (len(pool.precisions), 0.0)


class Supply(Protocol):
    """What a start needs beside devices, like power."""

    def admits(self, job: Job, placement: Placement, *, now_s: float, without: Sequence[Placement] = ()) -> bool:
        """Whether there is enough for a job to start there now, once those on some placements are gone."""

    def earliest_s(self, job: Job, *, pool: str, devices: int, now_s: float) -> float:
        """From when on there is enough for it, by estimates."""

    def lacks(self, job: Job) -> bool:
        """Whether nothing else was missing when the job, first in the queue, last found no place."""


class _Way(NamedTuple):
    """How jobs of one shape lie in one pool."""

    nodes: PoolNodes
    many: int
    """Nodes."""
    each: int
    """Devices on each."""


class _Found(NamedTuple):
    """The earliest instant for a job, and how it would lie there."""

    at_s: float
    way: _Way


class _Running(NamedTuple):
    nodes: PoolNodes
    placement: Placement
    until_s: float
    number: int


class Placed:
    """Invariant: every running job holds its devices on its nodes, and nobody else does."""

    def __init__(self, pools: Sequence[PoolLayout], *, prefer: Prefer | None = None) -> None:
        """`prefer`: which pool jobs of a shape try first (`preference`); none: the one with fewest precisions."""
        check_layouts(pools)
        self._prefer: Prefer = prefer or _fewest_precisions
        self.pools = {pool.name: PoolNodes(pool) for pool in pools}
        self.supply: Supply | None = None
        """Asked before a place is given or held; none: devices are all that it takes."""
        self.held_back_devices = 0
        """Asked for by jobs that somebody around the scheduler holds back (`capped`)."""
        self._running: dict[JobId, _Running] = {}
        self._shapes: dict[tuple[int, Within, tuple[str, ...], str | None], int] = {}
        self._ways: list[tuple[Within, tuple[_Way, ...]]] = []
        self._starts = 0
        self._numbers: dict[int, JobId] = {}
        """Who runs, by the order of starting."""
        self._spares = dict.fromkeys(self.pools, 0)
        """How many nodes should be kept back."""
        self.devices = self.free_devices = sum(pool.devices for pool in pools)
        self.surprises = 0
        self._early: list[_Running] | None = []
        """What ended before its time since the last hold; None: nodes went or came, so that no hold stands."""

    @property
    def largest(self) -> int:
        """What the pool with most room could take at best."""
        return max([nodes.largest for nodes in self.pools.values()])

    def refusal(self, job: Job) -> str:
        """Why no pool can ever take it."""
        if job.devices < 1 or not job.estimate_s > 0:
            return f"asks for {job.devices} devices for {job.estimate_s} s: both must be above zero"
        within, ways = self._ways[self.shape(job)]
        if ways and (
            not self._keeps_back
            or any(nodes.room(within, self._spares[nodes.pool.name]) >= many for nodes, many, _ in ways)
        ):
            return ""
        obstacles = (f"pool `{name}` {self._obstacle(job, nodes)}" for name, nodes in self.pools.items())
        return f"asks for {job.devices} devices: " + "; ".join(obstacles)

    def shape(self, job: Job) -> int:
        """Jobs of one size and with the same demands."""
        demands = (job.devices, job.within, job.pools, job.precision)
        shape = self._shapes.get(demands)
        if shape is None:
            shape = self._shapes[demands] = len(self._ways)
            able = [nodes for nodes in self.pools.values() if not nodes.pool.obstacle(job)]
            able.sort(key=lambda nodes: self._prefer(job, nodes.pool))
            self._ways.append((job.within, tuple(_Way(nodes, *nodes.pool.gang(job.devices)) for nodes in able)))
        return shape

    def ways(self, job: Job) -> tuple[_Way, ...]:
        """How it would lie in each pool that will do, in the order in which they are tried."""
        return self._ways[self.shape(job)][1]

    @property
    def shapes(self) -> int:
        """How many there were so far: they are numbered from 0."""
        return len(self._ways)

    def gangs(self, pool: str) -> list[tuple[int, int] | None]:
        """Of each shape: how many nodes of a pool it takes, and devices on each; None: it may not go there."""
        return [
            next(((many, each) for nodes, many, each in ways if nodes.pool.name == pool), None)
            for _, ways in self._ways
        ]

    def place(self, job: Job, *, now_s: float, hold: Hold | None = None) -> Placement | None:
        """Nodes for it, in the first pool that has them."""
        within, ways = self._ways[self.shape(job)]
        late = hold is not None and now_s + job.estimate_s > hold.at_s
        for nodes, many, each in ways:
            spare, bits = NOBODY, 0
            if late and hold is not None and hold.pool == nodes.pool.name:
                spare, bits = hold.spare_on, hold.bits
            if nodes.drains:
                barred = nodes.barred(now_s + job.estimate_s)
                spare, bits = {**spare, **barred}, bits | bits_of(barred)
            found = nodes.find(many, each, within, spare=spare, bits=bits)
            if found is not None:
                placement = Placement(pool=nodes.pool.name, nodes=found, devices_per_node=each)
                if self.supply is None or self.supply.admits(job, placement, now_s=now_s):
                    return placement
        return None

    def start(self, job: Job, placement: Placement, *, now_s: float, hold: Hold | None = None) -> None:
        """Take the devices."""
        self._starts += 1
        nodes, until_s = self.pools[placement.pool], now_s + job.estimate_s
        nodes.take(placement.nodes, placement.devices_per_node, until_s, self._starts)
        self.free_devices -= placement.devices
        self._running[job.id] = _Running(nodes, placement, until_s, self._starts)
        self._numbers[self._starts] = job.id
        if hold is not None and until_s > hold.at_s and hold.pool == placement.pool:
            for node in placement.nodes:
                if node in hold.spare_on:
                    hold.spare_on[node] -= placement.devices_per_node

    def end(self, job: JobId, *, now_s: float) -> bool:
        """Give them back."""
        nodes, placement, until_s, number = self._running.pop(job)
        del self._numbers[number]
        self.free_devices += placement.devices
        if until_s != now_s:
            self.surprises += 1
            if self._early is not None:
                self._early.append(_Running(nodes, placement, until_s, number))
        nodes.give(placement.nodes, placement.devices_per_node, until_s, number)
        return True

    def expire(self, *, now_s: float) -> bool:
        """Devices come back when their job has ended, not when it should have."""
        return False

    def hold(self, job: Job, *, now_s: float) -> Hold:
        """The earliest place in any pool. What is overdue may come back at any time: it counts as coming back now."""
        return self._held(job, self._earliest(job), now_s)

    def renew(self, hold: Hold, job: Job, *, now_s: float) -> Hold:
        """Where no earlier place came of it the nodes stay the same; of those that were to be busy more is left."""
        if self._early is None or not self._stands(hold, job):
            return self._held(job, self._earliest(job), now_s)
        for nodes, placement, until_s, _ in self._early:
            if nodes.pool.name == hold.pool and until_s > hold.at_s:
                for node in placement.nodes:
                    if node in hold.spare_on:
                        hold.spare_on[node] += placement.devices_per_node
        self._early = []
        return hold

    def _stands(self, hold: Hold, job: Job) -> bool:
        """Whether the earliest instant for a job is still the hold's, in its pool: what `_earliest` would say."""
        at_s, tried = hold.at_s, False
        for nodes, many, each in self._ways[self.shape(job)][1]:
            own = nodes.pool.name == hold.pool
            sooner_s = math.nextafter(at_s, -math.inf) if own or tried else at_s
            if nodes.ready_by(sooner_s, many, each, job.within):
                return False
            if own:
                tried = True
                if not nodes.ready_by(at_s, many, each, job.within):
                    return False
        return tried

    def _earliest(self, job: Job) -> _Found:
        _, ways = self._ways[self.shape(job)]
        within = job.within
        instants = [nodes.when(many, each, within) for nodes, many, each in ways]
        at_s = min(instants)
        return _Found(at_s, ways[instants.index(at_s)])

    def _held(self, job: Job, found: _Found, now_s: float) -> Hold:
        self._early = []
        at_s, (nodes, many, each) = found
        if self.supply is not None and at_s < float("inf"):
            begin_s = max(at_s, now_s)
            at_s = max(at_s, self.supply.earliest_s(job, pool=nodes.pool.name, devices=many * each, now_s=begin_s))
        if at_s == float("inf"):  # too few nodes are there; others go on meanwhile
            return Hold(job=job.id, at_s=at_s, spare_devices=self.free_devices)
        spare_on = nodes.spare_at(at_s, many, each, job.within)
        held = Hold(job=job.id, at_s=max(at_s, now_s), spare_devices=0, pool=nodes.pool.name, spare_on=spare_on)
        held.spare_devices = self.beside(held)
        return held

    def beside(self, hold: Hold) -> int:
        """All that is free but what is held on its nodes."""
        count = len(hold.spare_on)
        if not count:
            return self.free_devices
        free = self.pools[hold.pool].free
        if count < MANY:
            return self.free_devices - sum(max(int(free[node]) - left, 0) for node, left in hold.spare_on.items())
        left = np.fromiter(hold.spare_on.values(), np.int64, count)
        return self.free_devices - int((free[np.fromiter(hold.spare_on, np.int64, count)] - left).clip(0).sum())

    def running_on(self, pool: str, node: int) -> tuple[JobId, ...]:
        """Who runs on a node, in the order of starting."""
        return tuple(self._numbers[number] for number in self._nodes_of(pool, node).numbers_on(node))

    def withdraw(self, pool: str, node: int) -> tuple[JobId, ...]:
        """Take out a node, when nothing runs on it; else the jobs that have to end first, in the order of starting."""
        on_it = self.running_on(pool, node)
        if not on_it:
            self._nodes_of(pool, node).withdraw(node)
            self._recount()
        return on_it

    def restore(self, pool: str, node: int) -> None:
        """A node is back: as a spare, if one is missing."""
        nodes = self._nodes_of(pool, node)
        nodes.restore(node)
        if len(nodes.spares) < self._spares[pool]:
            nodes.keep_back(node)
        self._recount()

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> None:
        """Nobody whose estimate reaches beyond an instant may start on a node any more, and no hold counts on it."""
        self._nodes_of(pool, node).drain(node, Drain(from_s, now_s))
        self._recount()

    def undrain(self, pool: str, node: int) -> None:
        """A node that was drained will stay after all."""
        self._nodes_of(pool, node).undrain(node)
        self._recount()

    def keep(self, pool: str, node: int, *, now_s: float) -> None:
        """An empty node is from now on somebody's who is no job: nobody starts on it, or moves to it."""
        nodes = self._nodes_of(pool, node)
        nodes.keep_back(node)
        nodes.drain(node, Drain(now_s, now_s))
        self._recount()

    def release(self, pool: str, node: int) -> None:
        """A node that was kept is a node like others, undrained."""
        nodes = self._nodes_of(pool, node)
        nodes.let_go(node)
        nodes.undrain(node)
        self._recount()

    def run(self, job: JobId) -> tuple[Placement, float]:
        """Where a job runs, and until when by its estimate."""
        _, placement, until_s, _ = self._running[job]
        return placement, until_s

    def running(self) -> tuple[JobId, ...]:
        """Who runs, in the order of starting."""
        return tuple(self._numbers.values())

    def planned(self, pool: str, node: int, *, now_s: float) -> bool:
        """Whether the node was drained, some time ago, for this instant."""
        drain = self._nodes_of(pool, node).drains.get(node)
        return drain is not None and drain.said_s < drain.from_s <= now_s

    def reserve(self, pool: str, *, nodes: int) -> None:
        """Keep so many empty nodes of a pool back as spares, spread over its racks; as many as are empty now, and more
        as lost ones come back. Raises SpecError when no node would be left."""
        of = self._nodes_of(pool, 0)
        if not 0 <= nodes < of.pool.nodes:
            raise SpecError(f"{nodes} spare nodes of the {of.pool.nodes} in pool `{pool}`", hint="keep fewer back")
        self._spares[pool] = nodes
        for node in sorted(of.spares)[nodes:]:
            of.let_go(node)
        while len(of.spares) < nodes and (empty := of.empty()):
            of.keep_back(_loneliest(of, empty))
        self._recount()

    def elsewhere(self, job: Job, node: int, *, now_s: float) -> Placement | None:
        """Where a running job can go on at once without a node of its own, the others staying where they are."""
        nodes, placement, _, _ = self._running[job.id]
        keeps = [one for one in placement.nodes if one != node]
        each = placement.devices_per_node
        found = nodes.instead_of(node, each, keeps=keeps, within=job.within, until_s=now_s + job.estimate_s)
        if found is None:
            return None
        return Placement(pool=placement.pool, nodes=tuple(sorted([*keeps, found])), devices_per_node=each)

    def move(self, job: Job, placement: Placement, *, now_s: float) -> Placement:
        """A running job goes over to other nodes, with another estimate; where it was. Spares are used up."""
        nodes, before, until_s, number = self._running[job.id]
        nodes.give(before.nodes, before.devices_per_node, until_s, number)
        for node in nodes.spares.intersection(placement.nodes):
            nodes.let_go(node)
        until_s = now_s + job.estimate_s
        nodes.take(placement.nodes, placement.devices_per_node, until_s, number)
        self._running[job.id] = _Running(nodes, placement, until_s, number)
        self._recount()
        return before

    @property
    def _keeps_back(self) -> bool:
        return any(self._spares.values())

    def _obstacle(self, job: Job, nodes: PoolNodes) -> str:
        if obstacle := nodes.pool.obstacle(job):
            return obstacle
        room, (many, _) = nodes.room(job.within, self._spares[nodes.pool.name]), nodes.pool.gang(job.devices)
        return f"has {room} nodes to a {job.within} beside its spares, and it needs {many} in one"

    def _recount(self) -> None:
        self.devices = sum(nodes.usable_devices for nodes in self.pools.values())
        self.free_devices = sum(nodes.free_devices for nodes in self.pools.values())
        self.surprises += 1
        self._early = None

    def check(self) -> None:
        """Assert the invariants."""
        for nodes in self.pools.values():
            nodes.check()
        assert self.free_devices == sum(nodes.free_devices for nodes in self.pools.values())
        assert {number: job for job, one in self._running.items() for number in [one.number]} == self._numbers
        used = sum(one.placement.devices for one in self._running.values())
        assert used + self.free_devices == self.devices

    def _nodes_of(self, pool: str, node: int) -> PoolNodes:
        nodes = self.pools.get(pool)
        if nodes is None or not 0 <= node < nodes.pool.nodes:
            raise SpecError(f"there is no node {node} in pool `{pool}`", hint=f"pools: {', '.join(self.pools)}")
        return nodes


def _loneliest(nodes: PoolNodes, empty: Sequence[int]) -> int:
    """The next spare: the last node of a rack with fewest of them."""
    per_rack = nodes.pool.nodes_per_rack
    spares = Counter(node // per_rack for node in nodes.spares)
    return min(empty, key=lambda node: (spares[node // per_rack], node // per_rack, -node))
