"""Conservative backfilling on nodes: every waiting job is promised an instant and its nodes, and promises only ever
become earlier.

The rule of `conservative` (Feitelson and Weil, IPPS'98; Mu'alem and Feitelson, IEEE TPDS 12(6), 2001), where devices
lie on nodes in racks, pods and pools: a promise names the nodes, near each other as `placed` would lay the gang, so
that it cannot come to nothing for being scattered. In a pool where everybody takes whole nodes anywhere in it, nodes
are as good as numbers: promises are made in numbers, and are then those of the counted machine.

When a job ends before its estimate, all who wait are offered an earlier place, in order of arrival. Most offers come to
nothing, and it is known beforehand (`plans`): a promise was the earliest possible one, so an earlier one must use nodes
that were given back since, and fit into a gap there; or begin before its own place on one of them. An end therefore
costs what it takes to compare all who wait with those nodes, as arrays, and what there is of promises that move.

When a job outlasts its estimate, or nodes come and go, nothing can be kept: all who wait are promised anew, in order of
arrival. A job that is overdue is taken to go on for as long again as it is late (of Tsafrir, Etsion and Feitelson's
corrections, IEEE TPDS 18(6), 2007, the kind that grows).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, final

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Preempt, Reason, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import Line, Waiting
from myriarch.schedule.placed import Placed
from myriarch.schedule.plans import Asked, Claim, GivenBack, Plan
from myriarch.schedule.promises import Promises, WholeNodes
from myriarch.schedule.runs import Runs
from myriarch.schedule.scheduler import refusal

SLURM_DEPTH: Final = 500
"""How many waiting jobs Slurm's backfilling looks at: the default of `bf_max_job_test` (slurm.conf(5), Slurm 24)."""
OVERDUE_LEAST_S: Final = 60.0
"""An overdue job is taken to go on for so long at least: `OverTimeLimit` and its kin are in minutes."""
NEVER: Final = float("inf")


@final
class ConservativeNodes:
    """Keys of the line are promised starts; infinite: no promise yet.

    Invariant: each pool's promises are its nodes less what runs (until its estimate) and less what is promised. The
    first `depth` who wait have a promise, but for those who need nodes that are gone.
    """

    def __init__(self, machine: Placed, *, depth: int | None = None) -> None:
        if depth is not None and depth < 1:
            raise SpecError(f"`depth: {depth}` promises nothing", hint="promise at least the first a start")
        self.machine = machine
        self.depth = depth
        self._line = Line()
        self._runs = Runs()
        self._plans: dict[str, Plan] = {}
        self._claims: dict[JobId, Claim] = {}
        """Of those who wait and have a promise."""
        self._running: dict[JobId, Claim] = {}
        self._beyond: deque[JobId] = deque()
        """Who has no promise yet for there being `depth` before."""
        self._first_promise_s: dict[JobId, float] = {}
        self._promises: list[tuple[float, int, JobId]] = []
        """A heap: start, order of promising, job. Promises that were replaced are still in it."""
        self._promised = 0
        self._given_back: list[GivenBack] = []
        """Since everybody was last looked at."""
        self._now_s = float("-inf")

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._line.count

    @property
    def head(self) -> Job | None:
        """Who came first."""
        return self._line.job(self._line.first) if self._line.count else None

    @property
    def wake_s(self) -> float:
        """The next promised start."""
        while self._promises and not self._stands(*self._promises[0]):
            heapq.heappop(self._promises)
        return self._promises[0][0] if self._promises else NEVER

    def promise(self, job: JobId) -> Claim | None:
        """When and where a waiting job starts at the latest."""
        return self._claims.get(job)

    # --- events -----------------------------------------------------------------------------------------------------

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """Promise it the earliest place that delays nobody; `wake` then starts it."""
        if refused := refusal(self.machine, job, now_s=now_s):
            return (refused,)
        self._pass_to(now_s)
        self._line.append(job, shape=self.machine.shape(job), key=NEVER)
        if self.depth is not None and (self._beyond or len(self._claims) >= self.depth):
            self._beyond.append(job.id)
        else:
            self._promise(job, now_s)
        return ()

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """What it does not need any more is offered to all who wait."""
        self._pass_to(now_s)
        self.machine.end(job, now_s=now_s)
        self._runs.end(job)
        claim = self._running.pop(job)
        if claim.until_s > now_s and claim.pool in self._plans:
            self._give(claim, now_s)
        if self._given_back:
            self._offer(now_s)
        return ()

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """Start those whose promised time has come, in the order of promising."""
        self._pass_to(now_s)
        starts: list[Decision] = []
        while self.wake_s <= now_s:
            name = self._promises[0][2]
            at = self._line.find(name)
            assert at is not None
            nodes = self._there(self._line.job(at), self._claims[name])
            if nodes is None:
                self._replan(now_s)
                continue
            heapq.heappop(self._promises)
            starts.append(self._start(at, nodes, now_s))
            self._promise_more(now_s)
        return starts

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone: its jobs go on from what they saved on other nodes, or wait again where they stood; and all
        promises are made anew."""
        machine, decisions = self.machine, list[Decision]()
        planned = machine.planned(pool, node, now_s=now_s)
        for job in machine.running_on(pool, node):
            moved = self._runs.move(job, machine, pool, node, planned=planned, now_s=now_s)
            if moved is not None:
                self._running[job] = _claim_of(moved.placement, now_s, moved.until_s)
            decisions.append(moved or self._wait_again(job, pool, node, planned, now_s))
        left = machine.withdraw(pool, node)
        assert not left
        self._replan(now_s)
        return [*decisions, *self.wake(now_s=now_s)]

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        self.machine.restore(pool, node)
        return self.changed(now_s=now_s)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone: nobody whose estimate reaches into that starts there."""
        self.machine.drain(pool, node, from_s=from_s, now_s=now_s)
        return self.changed(now_s=now_s)

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """Nodes were withdrawn or restored."""
        self._pass_to(now_s)
        self._replan(now_s)
        return self.wake(now_s=now_s)

    def check(self) -> None:
        """Assert the invariants."""
        self._line.check()
        self.machine.check()
        for name, plan in self._plans.items():
            plan.check()
            assert plan.whole is None or all(not claim.nodes for claim in self._claims.values() if claim.pool == name)
        for job, claim in self._claims.items():
            at = self._line.find(job)
            assert at is not None
            assert self._line.key(at) == claim.start_s <= self._first_promise_s[job]
            assert len(claim.nodes) in (0, claim.many)
        assert self.depth is None or len(self._claims) <= self.depth

    # --- promises ---------------------------------------------------------------------------------------------------

    def _pass_to(self, now_s: float) -> None:
        if now_s > self._now_s:
            self._now_s = now_s
            for plan in self._plans.values():
                plan.forget(now_s)

    def _promise(self, job: Job, now_s: float) -> bool:
        """Promise somebody who has none the earliest place. False: there is none on the nodes that are there."""
        at = self._line.find(job.id)
        assert at is not None
        claim = self._earliest(job, now_s)
        if claim is None:
            return False
        self._first_promise_s.setdefault(job.id, claim.start_s)
        self._settle(at, claim)
        return True

    def _earliest(self, job: Job, now_s: float, *, before_s: float = NEVER) -> Claim | None:
        """The earliest place in the pools that will do; of equal ones in the pool that can least."""
        found: Claim | None = None
        for nodes, many, each in self.machine.ways(job):
            name = nodes.pool.name
            plan = self._plan(name, job, each, now_s)
            seat = plan.earliest(job, many, each, before_s=before_s)
            if seat is not None and seat.start_s < before_s:
                before_s = seat.start_s
                found = Claim(name, many, each, seat.start_s, seat.start_s + job.estimate_s, seat.nodes)
        return found

    def _settle(self, at: int, claim: Claim) -> None:
        job = self._line.job(at).id
        self._plans[claim.pool].take(claim)
        self._plans[claim.pool].seat(job, claim)
        self._claims[job] = claim
        self._line.set_key(at, claim.start_s)
        self._promised += 1
        heapq.heappush(self._promises, (claim.start_s, self._promised, job))

    def _stands(self, start_s: float, _: int, job: JobId) -> bool:
        claim = self._claims.get(job)
        return claim is not None and claim.start_s == start_s

    def _promise_more(self, now_s: float) -> None:
        """Others come into the depth."""
        while self._beyond and self.depth is not None and len(self._claims) < self.depth:
            at = self._line.find(self._beyond.popleft())
            assert at is not None
            self._promise(self._line.job(at), now_s)

    def _there(self, job: Job, claim: Claim) -> tuple[int, ...] | None:
        """Nodes for a promise that is due; None when somebody is still on them."""
        nodes = self.machine.pools[claim.pool]
        if claim.nodes:
            return claim.nodes if min(int(nodes.free[node]) for node in claim.nodes) >= claim.each else None
        return nodes.find(claim.many, claim.each, job.within)

    def _start(self, at: int, nodes: tuple[int, ...], now_s: float) -> Start:
        job, claim = self._line.job(at), self._claims.pop(self._line.job(at).id)
        self._runs.start(job, arrival=self._line.arrival(at), now_s=now_s)
        self._line.remove(at)
        placement = Placement(pool=claim.pool, nodes=nodes, devices_per_node=claim.each)
        self.machine.start(job, placement, now_s=now_s)
        self._plans[claim.pool].unseat(job.id, claim)
        self._running[job.id] = claim._replace(nodes=nodes)
        promised_s = self._first_promise_s.pop(job.id)
        reason = Reason(rule="promised", waited_s=now_s - job.submit_s, promised_s=promised_s)
        return Start(job=job.id, at_s=now_s, until_s=claim.until_s, placement=placement, reason=reason)

    # --- offers -----------------------------------------------------------------------------------------------------

    def _give(self, claim: Claim, now_s: float) -> None:
        """Nobody needs this any more, from now on."""
        self._plans[claim.pool].give(claim)
        self._given_back.append(GivenBack(claim, max(claim.start_s, now_s)))

    def _offer(self, now_s: float) -> None:
        """Offer everybody, in order of arrival, an earlier start."""
        given_back = [
            one._replace(from_s=max(one.from_s, now_s)) for one in self._given_back if one.claim.until_s > now_s
        ]
        self._given_back = []
        if not given_back or not self._claims:
            return
        waiting = self._line.promised(after_s=now_s)
        asked = Asked(self._gainers(given_back, waiting))
        for at in asked:
            if self._move(at, now_s):  # who was looked at before may use it next time
                asked.add(self._gainers(self._given_back[-1:], waiting.after(at)))

    def _gainers(self, given_back: Sequence[GivenBack], waiting: Waiting) -> Iterator[int]:
        """Places of those who may find an earlier start by what was given back; all others will not."""
        for one in given_back:
            yield from self._plans[one.claim.pool].gainers(one, waiting, self._line)

    def _move(self, at: int, now_s: float) -> bool:
        """Promise a job an earlier start if there is one."""
        job = self._line.job(at)
        old = self._claims[job.id]
        self._plans[old.pool].give(old)
        new = self._earliest(job, now_s, before_s=old.start_s)
        if new is None:
            self._plans[old.pool].take(old)
            return False
        self._plans[old.pool].unseat(job.id, old)
        self._settle(at, new)
        again = new.pool == old.pool and new.nodes == old.nodes
        self._given_back.append(GivenBack(old, max(old.start_s, new.until_s) if again else old.start_s))
        return True

    # --- disturbances -----------------------------------------------------------------------------------------------

    def _wait_again(self, gone: JobId, pool: str, node: int, planned: bool, now_s: float) -> Preempt:
        cut = self._runs.cut(gone, planned=planned, moves=False, now_s=now_s)
        job = cut.left
        self.machine.end(gone, now_s=now_s)
        self._runs.end(gone)
        del self._running[gone]
        self._line.insert(job, shape=self.machine.shape(job), arrival=cut.arrival, key=NEVER)
        self._runs.returned(gone)
        reason = f"{cut.why(pool, node)}; nowhere is room for it now, so it waits where it stood"
        return Preempt(job=gone, at_s=now_s, lost=cut.lost, reason=reason)

    def _replan(self, now_s: float) -> None:
        """Promise everybody anew, in order of arrival."""
        for running, claim in self._running.items():
            if claim.until_s <= now_s:
                late_s = now_s - claim.until_s
                self._running[running] = claim._replace(until_s=now_s + max(OVERDUE_LEAST_S, late_s))
        self._plans.clear()
        self._claims.clear()
        self._promises.clear()
        self._beyond.clear()
        self._given_back.clear()
        for at in self._line.waiting().tolist():
            job = self._line.job(at)
            self._line.set_key(at, NEVER)
            if self.depth is not None and len(self._claims) >= self.depth:
                self._beyond.append(job.id)
                continue
            before_s = self._first_promise_s.pop(job.id, None)
            if self._promise(job, now_s) and before_s is not None:
                self._first_promise_s[job.id] = max(before_s, self._first_promise_s[job.id])

    # --- plans of pools ---------------------------------------------------------------------------------------------

    def _plan(self, pool: str, job: Job, each: int, now_s: float) -> Plan:
        """The promises of a pool, of the kind that this job needs."""
        plan = self._plans.get(pool)
        nodes = self.machine.pools[pool]
        whole = each == nodes.pool.devices_per_node and nodes.pool.domain_nodes(job.within) >= nodes.pool.nodes
        if plan is None:
            plan = self._plans[pool] = self._whole_plan(pool, now_s) if whole else self._pinned_plan(pool, now_s)
        elif plan.whole is not None and not whole:
            plan = self._plans[pool] = self._pinned_plan(pool, now_s)
        return plan

    def _whole_plan(self, pool: str, now_s: float) -> Plan:
        """In numbers, if all who run there have whole nodes and none will be gone."""
        nodes = self.machine.pools[pool]
        running = [claim for claim in self._running.values() if claim.pool == pool]
        usable = nodes.usable_devices // nodes.pool.devices_per_node
        if nodes.drains or not usable or any(claim.each != nodes.pool.devices_per_node for claim in running):
            return self._pinned_plan(pool, now_s)
        plan = Plan(self.machine, pool, WholeNodes(nodes.pool, usable))
        plan.forget(now_s)
        for claim in running:
            if claim.until_s > now_s:
                plan.take(claim)
        return plan

    def _pinned_plan(self, pool: str, now_s: float) -> Plan:
        """By node. Promises in numbers that stand get their nodes now: in the order of their starts there are some."""
        nodes = self.machine.pools[pool]
        running = [claim for claim in self._running.values() if claim.pool == pool]
        room = nodes.free.copy()
        for claim in running:
            room[list(claim.nodes)] += claim.each
        promises = Promises(nodes.pool, room, now_s=now_s)
        promises.closed = {node: drain.from_s for node, drain in nodes.drains.items()}
        for claim in running:
            promises.take(claim.nodes, claim.each, now_s, max(claim.until_s, now_s))
        standing = [
            (claim.start_s, at, job, claim)
            for at, (job, claim) in enumerate(self._claims.items())
            if claim.pool == pool
        ]
        plan = Plan(self.machine, pool, promises)
        for start_s, _, job, claim in sorted(standing):
            seat = promises.place_at(start_s, claim.many, claim.each, "pool", claim.until_s - start_s)
            assert seat is not None, "whole nodes that were counted are there"
            plan.take(laid := claim._replace(nodes=seat.nodes))
            plan.seat(job, laid)
            self._claims[job] = laid
        return plan


def _claim_of(placement: Placement, start_s: float, until_s: float) -> Claim:
    return Claim(placement.pool, len(placement.nodes), placement.devices_per_node, start_s, until_s, placement.nodes)
