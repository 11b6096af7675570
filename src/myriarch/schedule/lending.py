"""Devices of inference services that are lent to jobs while their load is low, and given back before it comes.

After Lyra (Li et al., EuroSys'23), which lends whole servers of an inference cluster to training jobs that may be
preempted. A *lending pool* belongs to services. What they need by their daily curve is kept for them, on whole nodes;
the rest is lent. A pool's notice is the longest of its services'. Every `step_s` the needs from now to the end of the
notice are compared with the nodes that are kept:

    short in so many steps    nodes are *claimed*: drained now, so that nobody whose estimate reaches into it starts
                              there, and taken at the instant at which they are needed, never sooner than the notice
    more than any step needs  claims are dropped, then kept nodes are lent, the lowest first

so no node is lent that will be needed within the notice, and as the curve is known that far ahead, services never lack
devices, but after a fault: a node that breaks is replaced at once by an empty one, or else after the notice.

Which nodes are claimed (Lyra, section 4, counts a server's preemption cost): one after the other, the node with the
fewest device-seconds lost, by what it runs at the instant of the claim,

    0                                     by its estimate the job is over when the node is taken
    devices x restart                     an elastic job: it shrinks to those of its nodes that stay lent
    devices x (save + restart)            any other: it moves or waits again

A gang on several nodes counts on each with the part that falls on it, and no more than once. Nodes where somebody has
to stop come after all where jobs end or shrink. Work since the last checkpoint is never lost: a job saves within the
notice, and one that takes longer to save than the notice, or may not be preempted, is not lent to.

In the ledger kept nodes are idle on purpose (`idle_reserved_spare`): they do no job's work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

import msgspec

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision, Placement, Preempt, Refuse, Resize
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.moving import Moving, nodes_of
from myriarch.schedule.speed import Rigid, Speeds

DAY_S: Final = 86_400.0
HOURS: Final = 24
STEP_S: Final = 300.0
"""Five minutes: our choice. It divides the hour, so that no hourly share begins between two steps."""

Load = tuple[float, ...] | Callable[[float], float]


class Service(Value, frozen=True, kw_only=True):
    """An inference service on a pool."""

    name: str
    pool: str
    devices: int
    """At its peak."""
    load: Load
    """Share of them that it needs: by hour of the day (24 of them; instant 0 is midnight), or at an instant in
    seconds; looked at once every step, and it holds for the step."""
    notice_s: float
    """How long before they are needed devices are asked back."""

    def __post_init__(self) -> None:
        if self.devices < 1 or not 0 < self.notice_s < math.inf:
            raise SpecError(
                f"service {self.name}: {self.devices} devices at a notice of {self.notice_s} s",
                hint="at least one device, and a notice above 0",
            )
        if isinstance(self.load, tuple) and (len(self.load) != HOURS or not all(0 <= one <= 1 for one in self.load)):
            raise SpecError(f"service {self.name}: load {self.load}", hint="24 shares from 0 to 1, one for each hour")

    def devices_at(self, at_s: float) -> int:
        """Devices that it needs then."""
        if isinstance(self.load, tuple):
            share = self.load[int(at_s % DAY_S // 3600.0)]
        else:
            share = self.load(at_s)
        if not 0 <= share <= 1:
            raise SpecError(f"service {self.name} has load {share} at {at_s:g} s", hint="a share from 0 to 1")
        return math.ceil(self.devices * share - 1e-9)


class Lent(Value, frozen=True, kw_only=True):
    """What a pool's services had, while there were jobs."""

    kept_node_s: float
    """Node-seconds that were kept for them."""
    short_node_s: float
    """That they needed beside, and did not have: what faults took."""
    asked_back: int
    """Nodes that jobs had to leave, or had left, for them."""
    stopped: int
    """Jobs that had to stop or move for it."""
    shrunk: int
    """Jobs that went on with fewer devices."""


class _Claim(NamedTuple):
    """A lent node that is asked back."""

    at_s: float
    """When it is taken."""
    said_s: float
    loss_device_s: float
    """Of its jobs, as it was reckoned then."""


@final
class _Estate:
    """One lending pool. Invariant: kept and claimed nodes are there, and none is both."""

    def __init__(self, pool: str, services: Sequence[Service], *, nodes: int, devices_per_node: int) -> None:
        self.pool = pool
        self.services = services
        self.nodes = nodes
        self.notice_s = max(service.notice_s for service in services)
        self.kept: set[int] = set()
        self.claims: dict[int, _Claim] = {}
        self.away: set[int] = set()
        """Nodes that are broken or in maintenance."""
        self.announced: dict[int, float] = {}
        """When nodes will be taken for maintenance."""
        self.lends_most = nodes
        """Nodes that are free at the lowest load of the first day."""
        self.short_until_s = -math.inf
        """Until then services may lack what a fault took."""
        self.since_s = 0.0
        """Counted until then."""
        self.kept_node_s = self.short_node_s = 0.0
        self.asked_back = self.stopped = self.shrunk = 0
        self._devices_per_node = devices_per_node

    def need(self, at_s: float) -> int:
        """Nodes that the services need, each its own."""
        return sum(-(-service.devices_at(at_s) // self._devices_per_node) for service in self.services)

    def count(self, now_s: float) -> None:
        """What the services had until now, with what they needed when it was last looked at."""
        passed_s = now_s - self.since_s
        self.kept_node_s += passed_s * len(self.kept)
        self.short_node_s += passed_s * max(self.need(self.since_s) - len(self.kept), 0)
        self.since_s = now_s

    def will_be(self, node: int, at_s: float) -> bool:
        """Whether a node is still there then, by what was announced."""
        return self.announced.get(node, math.inf) > at_s

    def assured(self, at_s: float, *, claimed_until_s: float) -> int:
        """Nodes that the services have then, with claims that are due until an instant."""
        kept = sum(self.will_be(node, at_s) for node in self.kept)
        return kept + sum(
            claim.at_s <= claimed_until_s and self.will_be(node, at_s) for node, claim in self.claims.items()
        )


@final
class Lending:
    """Another scheduler, on a fleet of which some pools belong to services.

    Invariants (`check`): kept nodes are empty and nobody can start on them; since the last step the services have all
    the nodes that they need, unless a fault took one within the notice, or no more are there.
    """

    def __init__(
        self,
        scheduler: Moving,
        services: Sequence[Service],
        *,
        step_s: float = STEP_S,
        speeds: Speeds | None = None,
    ) -> None:
        """`speeds`: how fast elastic jobs are on fewer devices; none: nobody shrinks. Raises SpecError for services
        that do not fit on their pool, and for a pool that keeps spares."""
        if not 0 < step_s <= 3600.0 or 3600.0 % step_s:
            raise SpecError(f"step_s {step_s:g} does not divide the hour", hint="300, for example")
        self.machine = nodes_of(scheduler)
        """The scheduler's own."""
        self._scheduler = scheduler
        self._step_s = step_s
        self._speeds = speeds or Rigid()
        self._jobs: dict[JobId, Job] = {}
        self._estates = {pool: self._estate(pool, services) for pool in dict.fromkeys(one.pool for one in services)}
        self._reviewed_s = -math.inf

    # --- what a scheduler is ----------------------------------------------------------------------------------------

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
        """For the scheduler, for a claim, or for the next step while there are jobs."""
        if not self._jobs:
            return self._scheduler.wake_s
        claims = (claim for estate in self._estates.values() for claim in estate.claims.values())
        due_s = min((claim.at_s for claim in claims), default=math.inf)
        return min(self._scheduler.wake_s, due_s, self._next_step_s(self._reviewed_s))

    def owned(self, pool: str) -> tuple[int, ...]:
        """Nodes that the services of a pool have now, ascending."""
        return tuple(sorted(self._estates[pool].kept))

    def lent(self, pool: str) -> Lent:
        """What the services of a pool had until the last event."""
        estate = self._estates[pool]
        return Lent(
            kept_node_s=estate.kept_node_s,
            short_node_s=estate.short_node_s,
            asked_back=estate.asked_back,
            stopped=estate.stopped,
            shrunk=estate.shrunk,
        )

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more. One that cannot give devices back in time does not get them in lending pools."""
        self._count(now_s)
        if not self._jobs:  # nobody asked to be woken since the last one ended
            assert not self._take(now_s)
            self._review(now_s)
        pools, why = self._allowed(job)
        if not pools:
            return (Refuse(job=job.id, at_s=now_s, reason=f"job {job.id} {why}"),)
        allowed = msgspec.structs.replace(job, pools=pools) if why else job
        self._jobs[job.id] = allowed
        decisions = self._noted(self._scheduler.submit(allowed, now_s=now_s))
        if why and any(isinstance(one, Refuse) for one in decisions):
            return (Refuse(job=job.id, at_s=now_s, reason=f"{self._refused(job, allowed)}; it {why}"),)
        return decisions

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._count(now_s)
        self._jobs.pop(job, None)
        return self._noted(self._scheduler.end(job, now_s=now_s))

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A step, a claim, or what the scheduler waits for."""
        self._count(now_s)
        decisions = self._take(now_s)
        lent = False
        if decisions or now_s >= self._next_step_s(self._reviewed_s) or self._due(now_s):
            lent = self._review(now_s)
        if lent:
            decisions += self._noted(self._scheduler.changed(now_s=now_s))
        if self._scheduler.wake_s <= now_s:
            decisions += self._noted(self._scheduler.wake(now_s=now_s))
        return decisions

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """Nodes or power changed."""
        return self._noted(self._scheduler.changed(now_s=now_s))

    def move(self, job: JobId, placement: Placement, *, now_s: float, reason: str) -> Resize:
        """A running job goes on elsewhere."""
        return self._scheduler.move(job, placement, now_s=now_s, reason=reason)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone. One that services have, or will have, is replaced."""
        self._count(now_s)
        decisions = self._noted(self._scheduler.lose(pool, node, now_s=now_s))
        if (estate := self._estates.get(pool)) is not None:
            estate.away.add(node)
            estate.announced.pop(node, None)
            if node in estate.kept or node in estate.claims:
                estate.kept.discard(node)
                estate.claims.pop(node, None)
                estate.short_until_s = now_s + estate.notice_s
                self._replan(estate, now_s)
        return decisions

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back: for the services, if they lack one."""
        self._count(now_s)
        estate = self._estates.get(pool)
        if estate is None:
            return self._noted(self._scheduler.regain(pool, node, now_s=now_s))
        estate.away.discard(node)
        self.machine.drain(pool, node, from_s=now_s, now_s=now_s)  # nobody starts on it yet
        decisions = list(self._noted(self._scheduler.regain(pool, node, now_s=now_s)))
        self._keep(estate, node, now_s)
        if self._replan(estate, now_s):
            decisions += self._noted(self._scheduler.changed(now_s=now_s))
        return decisions

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        self._count(now_s)
        decisions = self._noted(self._scheduler.drain(pool, node, from_s=from_s, now_s=now_s))
        if (estate := self._estates.get(pool)) is not None:
            estate.announced[node] = min(from_s, estate.announced.get(node, math.inf))
            if node in estate.kept or node in estate.claims:
                if from_s < now_s + estate.notice_s:
                    estate.short_until_s = now_s + estate.notice_s
                self._replan(estate, now_s)
        return decisions

    def check(self) -> None:
        """Assert the invariants."""
        self._scheduler.check()
        for estate in self._estates.values():
            assert not estate.kept & estate.claims.keys()
            assert not estate.away & (estate.kept | estate.claims.keys())
            assert estate.kept == self.machine.pools[estate.pool].spares
            there = estate.nodes - len(estate.away | (estate.announced.keys() - estate.kept))
            if self._jobs and self._reviewed_s >= estate.short_until_s:
                assert len(estate.kept) >= min(estate.need(self._reviewed_s), there), (
                    f"pool `{estate.pool}` lacks nodes"
                )

    # --- what is lent -------------------------------------------------------------------------------------------------

    def _estate(self, pool: str, services: Sequence[Service]) -> _Estate:
        nodes = self.machine.pools.get(pool)
        mine = [service for service in services if service.pool == pool]
        if nodes is None:
            hint = f"pools: {', '.join(self.machine.pools)}"
            raise SpecError(f"service {mine[0].name} is on pool `{pool}`, which is not there", hint=hint)
        estate = _Estate(pool, mine, nodes=nodes.pool.nodes, devices_per_node=nodes.pool.devices_per_node)
        estate.lends_most = estate.nodes - min(
            estate.need(step * self._step_s) for step in range(round(DAY_S / self._step_s))
        )
        peak = sum(-(-service.devices // nodes.pool.devices_per_node) for service in mine)
        if peak > nodes.pool.nodes:
            hint = "give it more, or them less; each service has whole nodes"
            raise SpecError(f"the services of pool `{pool}` need {peak} nodes, it has {nodes.pool.nodes}", hint=hint)
        if nodes.spares or nodes.free_devices < nodes.pool.devices:
            hint = "keep no spares in a pool that lends, and begin with an empty one"
            raise SpecError(f"not all nodes of pool `{pool}` are free", hint=hint)
        return estate

    def _refused(self, job: Job, allowed: Job) -> str:
        """Why pools that do not lend to a job cannot take it either."""
        layouts = [self.machine.pools[name].pool for name in allowed.pools]
        obstacles = (f"pool `{layout.name}` {layout.obstacle(job) or 'keeps spares'}" for layout in layouts)
        return f"job {job.id} asks for {job.devices} devices: {'; '.join(obstacles)}"

    def _allowed(self, job: Job) -> tuple[tuple[str, ...], str]:
        """The pools that a job may use, and why it may not use a lending one; empty: it may use all it names."""
        pools, why = job.pools or tuple(self.machine.pools), ""
        allowed: list[str] = []
        for name in pools:
            estate = self._estates.get(name)
            if estate is None:
                allowed.append(name)
            elif not job.preemptible:
                why = f"may not be preempted, and pool `{name}` only lends"
            elif job.save_s > estate.notice_s:
                why = f"saves for {job.save_s:g} s, and pool `{name}` asks back within {estate.notice_s:g} s"
            elif (needs := self.machine.pools[name].pool.gang(job.devices)[0]) > estate.lends_most:
                why = f"needs {needs} nodes, and pool `{name}` never lends more than {estate.lends_most}"
            else:
                allowed.append(name)
        return tuple(allowed), why

    def _count(self, now_s: float) -> None:
        """Time in which there were jobs; nobody looks at services in any other."""
        for estate in self._estates.values():
            if self._jobs:
                estate.count(now_s)
            else:
                estate.since_s = now_s

    def _next_step_s(self, after_s: float) -> float:
        return (math.floor(after_s / self._step_s) + 1) * self._step_s if math.isfinite(after_s) else after_s

    def _review(self, now_s: float) -> bool:
        """A step; whether something more is lent."""
        self._reviewed_s = now_s
        lent = [self._replan(estate, now_s) for estate in self._estates.values()]  # all of them
        return any(lent)

    def _replan(self, estate: _Estate, now_s: float) -> bool:
        """Claim what will be needed, lend what will not be; whether something more is lent."""
        soonest_s = now_s + estate.notice_s
        window = [now_s]
        while window[-1] < soonest_s:
            window.append(self._next_step_s(window[-1]))
        for at_s in window:
            due_s = max(at_s, soonest_s)
            missing = estate.need(at_s) - estate.assured(at_s, claimed_until_s=due_s)
            if missing > 0 and at_s < soonest_s:
                missing -= self._keep_empty(estate, missing, now_s)
            if missing > 0:
                self._claim(estate, missing, due_s, now_s)
        spare = {at_s: estate.assured(at_s, claimed_until_s=at_s) - estate.need(at_s) for at_s in window}
        for node, claim in sorted(estate.claims.items(), key=lambda one: (-one[1].at_s, one[0])):
            after = [at_s for at_s in window if at_s >= claim.at_s]
            if after and all(spare[at_s] > 0 for at_s in after):
                self._drop(estate, node, now_s)
                for at_s in after:
                    spare[at_s] -= 1
        lend = sorted(node for node in estate.kept if node not in estate.announced)[: max(min(spare.values()), 0)]
        for node in lend:
            estate.kept.remove(node)
            self.machine.release(estate.pool, node)
        return bool(lend)

    def _keep_empty(self, estate: _Estate, most: int, now_s: float) -> int:
        """Take empty nodes at once; how many."""
        nodes = self.machine.pools[estate.pool]
        whole = nodes.pool.devices_per_node
        empty = [
            node
            for node in range(estate.nodes - 1, -1, -1)
            if nodes.free[node] == whole and node not in estate.announced and node not in estate.claims
        ][:most]
        for node in empty:
            self._keep(estate, node, now_s)
        return len(empty)

    def _keep(self, estate: _Estate, node: int, now_s: float) -> None:
        self.machine.undrain(estate.pool, node)
        self.machine.keep(estate.pool, node, now_s=now_s)
        estate.kept.add(node)

    def _drop(self, estate: _Estate, node: int, now_s: float) -> None:
        """A claim is no longer needed."""
        del estate.claims[node]
        self.machine.undrain(estate.pool, node)
        if node in estate.announced:
            self.machine.drain(estate.pool, node, from_s=estate.announced[node], now_s=now_s)

    def _claim(self, estate: _Estate, count: int, at_s: float, now_s: float) -> None:
        """Ask back the nodes on which least is lost, one after the other."""
        free = [
            node
            for node in range(estate.nodes)
            if node not in estate.kept
            and node not in estate.claims
            and node not in estate.away
            and node not in estate.announced
        ]
        paid = {job for node in estate.claims for job in self.machine.running_on(estate.pool, node)}
        while count and free:
            prices = {node: self._price(estate, node, free, count, paid, at_s) for node in free}
            node = min(free, key=lambda one: (prices[one], -one))
            free.remove(node)
            paid.update(self.machine.running_on(estate.pool, node))
            estate.claims[node] = _Claim(at_s, now_s, prices[node][1])
            self.machine.drain(estate.pool, node, from_s=at_s, now_s=now_s)
            count -= 1

    def _price(
        self, estate: _Estate, node: int, free: Sequence[int], count: int, paid: set[JobId], at_s: float
    ) -> tuple[bool, float]:
        """Whether somebody has to stop, and the device-seconds that are lost."""
        stops, loss = False, 0.0
        for job in self.machine.running_on(estate.pool, node):
            placement, until_s = self.machine.run(job)
            if job in paid or until_s <= at_s:
                continue
            asked = self._jobs[job]
            shrinks = self._shrunk(estate, asked, placement, {node}) is not None
            lost_s = asked.restart_s if shrinks else asked.save_s + asked.restart_s
            shared = min(sum(one in free for one in placement.nodes), count)
            stops |= not shrinks
            loss += placement.devices * lost_s / shared
        return stops, loss

    def _shrunk(self, estate: _Estate, job: Job, placement: Placement, without: set[int]) -> Placement | None:
        """The largest size that an elastic job has on the nodes that it keeps."""
        left = tuple(node for node in placement.nodes if node not in without and node not in estate.claims)
        layout = self.machine.pools[estate.pool].pool
        if not job.elastic or not left:
            return None
        for size in sorted({job.devices, *job.sizes}, reverse=True):
            many, each = layout.gang(size)
            if size >= placement.devices or many > len(left) or each > placement.devices_per_node:
                continue
            if self._speeds(job, pool=estate.pool, devices=many * each) > 0:
                return Placement(pool=estate.pool, nodes=left[:many], devices_per_node=each)
        return None

    # --- what is asked back -----------------------------------------------------------------------------------------

    def _due(self, now_s: float) -> bool:
        return any(claim.at_s <= now_s for estate in self._estates.values() for claim in estate.claims.values())

    def _take(self, now_s: float) -> list[Decision]:
        """Give the services the nodes that are due: elastic jobs shrink, the others move or wait again."""
        decisions: list[Decision] = []
        for estate in self._estates.values():
            due = {node: claim for node, claim in sorted(estate.claims.items()) if claim.at_s <= now_s}
            why = f"the services of pool `{estate.pool}` need {estate.need(now_s)} nodes at {now_s:g} s"
            for node, claim in due.items():
                text = f"{why}; {estate.pool}-{node}, asked back at {claim.said_s:g} s, was where least is lost:"
                text = f"{text} {claim.loss_device_s:g} device-seconds"
                for job in self.machine.running_on(estate.pool, node):
                    placement, _ = self.machine.run(job)
                    smaller = self._shrunk(estate, self._jobs[job], placement, set())
                    if smaller is not None:
                        devices = f"it shrinks from {placement.devices} to {smaller.devices} devices"
                        reason = f"{text}; {devices}"
                        estate.shrunk += 1
                        decisions.append(self._scheduler.move(job, smaller, now_s=now_s, reason=reason))
            for node, claim in due.items():
                text = f"{why}; {estate.pool}-{node}, asked back at {claim.said_s:g} s, was where least is lost:"
                decisions += self._vacate(estate, node, f"{text} {claim.loss_device_s:g} device-seconds", now_s)
        return decisions

    def _vacate(self, estate: _Estate, node: int, text: str, now_s: float) -> list[Decision]:
        """A node goes from the jobs on it to the services."""
        pool, decisions = estate.pool, list[Decision]()
        there = set(self.machine.running_on(pool, node))
        if there:
            for decision in self._noted(self._scheduler.lose(pool, node, now_s=now_s)):
                if isinstance(decision, Preempt | Resize) and decision.job in there:
                    there.remove(decision.job)
                    estate.stopped += 1
                    decision = msgspec.structs.replace(decision, reason=text)
                decisions.append(decision)
            self.machine.restore(pool, node)
        del estate.claims[node]
        estate.asked_back += 1
        self._keep(estate, node, now_s)
        return decisions

    def _noted(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """Forget whom the scheduler refuses."""
        for decision in decisions:
            if isinstance(decision, Refuse):
                self._jobs.pop(decision.job, None)
        return decisions
