"""How many nodes to keep back as spares: what a job loses that stands still against what idle nodes cost.

Of `n` nodes, each failing at `rate` and away for a repair of mean length `repair_s`, the number away is Poisson with
mean m = n rate repair_s (`cost.spares`). A gang of g nodes loses one every 1 / (g rate) seconds. With a spare it goes
on at once; without one all g nodes stand still until the next repaired node comes, after repair_s / (s + 1) on average
when s + 1 are away. So s spares cost, in nodes that do no work,

    s  +  P(more than s away) x repair_s / (s + 1) x sum over running gangs of g x g rate

and the s with the least is kept back. Gangs count while they run: a fleet of single nodes needs no spares, since
whoever waits takes a free node anyway. Holds where `cost.spares` does; it leaves out that a gang may displace others,
or shrink, so that it is an upper bound for such schedulers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, final, runtime_checkable

import numpy as np

from myriarch.cost.spares import DEFAULT_REPAIR_S, nodes_in_repair, shortage_chance
from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.decision import Decision, Refuse, Resize, Start
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Draining

REVIEW_S: Final = 3600.0
"""An hour: spares come from nodes that jobs leave, which takes about as long."""
MOST_SHARE: Final = 0.1
"""Of a pool's nodes, at most: our choice."""


class Spares(Value, frozen=True, kw_only=True):
    """How many, and why."""

    nodes: int
    idle_nodes: float
    """Nodes' worth of work lost to idle spares: their number."""
    standing_nodes: float
    """Nodes' worth of work lost, on average, by gangs that stand still all the same."""
    without_nodes: float
    """The same without any spare."""

    @property
    def reason(self) -> str:
        kept = f"{self.nodes} spares: gangs stand still for {self.standing_nodes:.3g} nodes' worth of work"
        return f"{kept} on average, without any spare for {self.without_nodes:.3g}"


def best(
    *, nodes: int, gangs: Iterable[int], failures_per_node_s: float, repair_s: float = DEFAULT_REPAIR_S, most: int
) -> Spares:
    """Spares of a pool of `nodes` on which gangs of so many nodes run; at most `most`, and of equals the fewest."""
    mean = min(float(nodes_in_repair(nodes * failures_per_node_s, repair_s=repair_s)), float(nodes))
    exposed = failures_per_node_s * sum(gang * gang for gang in gangs if gang > 1)
    counts = np.arange(max(most, 0) + 1, dtype=float)
    standing = shortage_chance(mean, spares=counts) * repair_s / (counts + 1.0) * exposed
    chosen = int(np.argmin(counts + standing))
    return Spares(
        nodes=chosen,
        idle_nodes=float(chosen),
        standing_nodes=float(standing[chosen]),
        without_nodes=float(standing[0]),
    )


def _by_pool(said: float | Mapping[str, float], pools: Iterable[str]) -> dict[str, float]:
    """Of each pool that something is said of, in the order of the pools."""
    if isinstance(said, Mapping):
        return {pool: said[pool] for pool in pools if pool in said}
    return dict.fromkeys(pools, said)


@runtime_checkable
class Changing(Draining, Protocol):
    """A scheduler on nodes that can be told that there are more or fewer of them: `Easy`, `InOrder`, `Ranked`."""

    def changed(self, *, now_s: float) -> Sequence[Decision]:
        """Nodes were withdrawn or restored."""


@final
class Sparing:
    """Another scheduler, with spares kept back in every pool by what runs now.

    No job is refused for want of spares: a pool keeps back no more than the largest job that is there leaves.
    Invariant: `_nodes` has exactly the jobs that run, and `_needs` those that were submitted and are not over.
    """

    def __init__(
        self,
        scheduler: Changing,
        *,
        failures_per_node_s: float | Mapping[str, float],
        repair_s: float | Mapping[str, float] = DEFAULT_REPAIR_S,
        review_s: float = REVIEW_S,
        most_share: float = MOST_SHARE,
    ) -> None:
        """`failures_per_node_s` and `repair_s`: of all pools, or by pool; a pool without a rate is let alone."""
        if not isinstance(scheduler.machine, Placed):
            raise SpecError("spares are nodes, and this scheduler only counts devices", hint="give it a `Placed`")
        rates = _by_pool(failures_per_node_s, scheduler.machine.pools)
        repairs_s = _by_pool(repair_s, rates)
        least_s = min((*repairs_s.values(), review_s))
        if not (min(rates.values(), default=0.0) >= 0 and least_s > 0 and 0 <= most_share < 1):
            raise SpecError(
                f"failures_per_node_s {failures_per_node_s}, repair_s {repair_s}, review_s {review_s:g}, "
                f"most_share {most_share:g} are no numbers of failures, repairs and shares",
                hint="rates from 0 up, times above 0, the share from 0 to below 1",
            )
        self._scheduler = scheduler
        self._placed = scheduler.machine
        self._rates = rates
        self._repairs_s = repairs_s
        self._review_s = review_s
        self._most_share = most_share
        self._nodes: dict[JobId, tuple[str, int]] = {}
        self._needs: dict[JobId, Job] = {}
        self._review_at_s = math.inf
        self.plans: dict[str, Spares] = {}
        """Of the last review, by pool."""

    @property
    def machine(self) -> Placed:
        """The scheduler's own."""
        return self._placed

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
        """For the scheduler, or for a review."""
        return min(self._scheduler.wake_s, self._review_at_s)

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more. One for which the spares are too many is made room for."""
        if math.isinf(self._review_at_s):
            self._review_at_s = now_s + self._review_s
        self._needs[job.id] = job
        if self.machine.refusal(job):
            for pool in self._rates:
                self.machine.reserve(pool, nodes=min(self._most(pool), self._kept(pool)))
        return self._noted(self._scheduler.submit(job, now_s=now_s))

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._nodes.pop(job, None)
        self._needs.pop(job, None)
        return self._noted(self._scheduler.end(job, now_s=now_s))

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A review, or what the scheduler waits for."""
        decisions: list[Decision] = []
        if now_s >= self._review_at_s:
            self._review_at_s = now_s + self._review_s if self._needs else math.inf
            self._review()
            decisions += self._noted(self._scheduler.changed(now_s=now_s))
        if self._scheduler.wake_s <= now_s:
            decisions += self._noted(self._scheduler.wake(now_s=now_s))
        return decisions

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone."""
        return self._noted(self._scheduler.lose(pool, node, now_s=now_s))

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        return self._noted(self._scheduler.regain(pool, node, now_s=now_s))

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        return self._noted(self._scheduler.drain(pool, node, from_s=from_s, now_s=now_s))

    def check(self) -> None:
        """Assert the invariants."""
        self._scheduler.check()
        assert self._nodes.keys() <= self._needs.keys()

    def _review(self) -> None:
        """Keep back what is best now."""
        for pool, rate in self._rates.items():
            self.plans[pool] = best(
                nodes=self.machine.pools[pool].pool.nodes,
                gangs=[count for where, count in self._nodes.values() if where == pool],
                failures_per_node_s=rate,
                repair_s=self._repairs_s[pool],
                most=self._most(pool),
            )
            self.machine.reserve(pool, nodes=self.plans[pool].nodes)

    def _most(self, pool: str) -> int:
        """Spares that leave every job its place, and most of the pool to work."""
        layout = self.machine.pools[pool].pool
        able = [job for job in self._needs.values() if job.devices > 0 and not layout.obstacle(job)]
        room = [layout.domain_nodes(job.within) - layout.gang(job.devices)[0] for job in able]
        return max(min([int(self._most_share * layout.nodes), layout.nodes - 1, *room]), 0)

    def _kept(self, pool: str) -> int:
        return self.plans[pool].nodes if pool in self.plans else 0

    def _noted(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """Remember who runs where."""
        for decision in decisions:
            if isinstance(decision, Start | Resize):
                self._nodes[decision.job] = (decision.placement.pool, len(decision.placement.nodes))
            else:
                self._nodes.pop(decision.job, None)
                if isinstance(decision, Refuse):
                    self._needs.pop(decision.job, None)
        return decisions
