"""Gavel as a scheduler: shares of unlike devices by a linear program, made up of rounds.

Narayanan et al., OSDI 2020: a policy (`heterogeneous`) gives every job a share of its time on each kind of device
(section 4); rounds of six minutes turn shares into who runs where (section 5, `rounds`). Here a kind is a pool. Shares
are worked out anew at the first round after the jobs or the devices changed. Between rounds nothing is decided: devices
of a job that ended stay free until the next one, as in the paper's simulator; the first jobs of an idle fleet start at
once. A job that stays on its pool from round to round stays on its nodes and is not stopped.

Jobs that may not be preempted have their devices to their end, once they run, and are left out of the program.

Gavel's jobs have one size. A mouldable one gets the size when it comes, for good: the largest of its sizes at which a
device still brings more than half of what it brings at best, as Pollux' "tuned" jobs were given theirs (Qiao et al.,
OSDI 2021: a speed-up between half and 80 % of the ideal one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

import msgspec

from myriarch.errors import SpecError
from myriarch.schedule.assignment import Assignment, Wanted
from myriarch.schedule.decision import Decision
from myriarch.schedule.heterogeneous import Allocation, Contender, Policy, agnostic, max_min
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.rounds import Rounds, Turn
from myriarch.schedule.speed import Rigid, Speeds

WORTH: Final = 0.5
"""Of the speed by the device."""
ROUND_S: Final = 360.0
"""Six minutes: Gavel's default (section 5), `-i 360` of its artefact."""


@final
class Gavel:
    """The machine. Invariants (`check`): those of `Assignment`; `_turns` are of jobs that run."""

    def __init__(
        self,
        machine: Placed,
        *,
        speeds: Speeds | None = None,
        policy: Policy = max_min,
        round_s: float = ROUND_S,
        weight: Callable[[Job], float] = lambda job: 1.0,
    ) -> None:
        if not round_s > 0:
            raise SpecError(f"round_s {round_s:g} is no length of a round; above 0")
        self.machine = machine
        self._policy = policy
        self._round_s = round_s
        self._weight = weight
        self._book = Assignment(machine, speeds or Rigid())
        self._rounds = Rounds()
        self._allocation: Allocation | None = None
        """None: jobs or devices changed since it was worked out."""
        self._shares: Allocation | None = None
        """That of the round that runs."""
        self._turns: tuple[Turn, ...] = ()
        self._there: tuple[str, ...] = ()
        """Jobs of the round that runs."""
        self._begun_s = -math.inf
        self._next_s = math.inf
        self._rates: dict[JobId, dict[str, float]] = {}
        """By pool, for each job."""
        self._sizes: dict[JobId, int] = {}

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._book.waiting

    @property
    def head(self) -> Job | None:
        """Who waits and came first."""
        return self._book.head

    @property
    def wake_s(self) -> float:
        """For the next round, while there are jobs."""
        return self._next_s

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more, in the next round."""
        if refused := self._book.submit(job, now_s=now_s):
            return refused
        self._sizes[job.id] = size = self._size_of(job)
        self._rates[job.id] = self._rates_of(job, size)
        self._allocation = None
        if math.isinf(self._next_s):
            self._next_s = now_s
        return ()

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._book.end(job, now_s=now_s)
        self._rounds.gone(job)
        del self._rates[job], self._sizes[job]
        self._allocation = None
        return ()

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A round."""
        self._count(now_s)
        if not self._book.standings:
            self._next_s = math.inf
            return ()
        self._next_s = now_s + self._round_s
        return self._round(now_s)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone; its jobs wait for the next round."""
        self._allocation = None
        decisions = self._book.lose(pool, node, now_s=now_s)
        stopped = {decision.job for decision in decisions}
        self._turns = tuple(turn for turn in self._turns if turn.job not in stopped)
        return decisions

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back, for the next round."""
        self.machine.restore(pool, node)
        self._allocation = None
        return ()

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        self.machine.drain(pool, node, from_s=from_s, now_s=now_s)
        return ()

    def check(self) -> None:
        """Assert the invariants."""
        self._book.check()
        self._rounds.check()

    def _count(self, now_s: float) -> None:
        """The round before is over."""
        there = tuple(job for job in self._there if job in self._book.standings)
        turns = tuple(turn for turn in self._turns if turn.job in self._book.standings)
        if there:
            self._rounds.passed(turns, jobs=there, round_s=now_s - self._begun_s, allocation=self._shares)

    def _round(self, now_s: float) -> list[Decision]:
        standings = self._book.standings
        fixed = {job: one for job, one in standings.items() if one.running and not one.job.preemptible}
        devices = {pool: self._book.devices(pool) for pool in self.machine.pools}
        for one in fixed.values():
            devices[one.placement.pool] -= one.held
        if self._allocation is None:
            self._allocation = self._allocate(fixed, devices, now_s)
        wanted = {job: self._sizes[JobId(job)] for job in self._allocation.shares}
        self._turns = self._rounds.next(self._allocation, wanted=wanted, devices=devices)
        self._shares = self._allocation
        self._begun_s, self._there = now_s, tuple(job for job in standings if job not in fixed)
        turns = {JobId(turn.job): turn for turn in self._turns}
        chosen = {job: Wanted(turn.kind, turn.devices) for job, turn in turns.items()}
        kept = {job: Wanted(one.placement.pool, one.held) for job, one in fixed.items()}
        decisions = self._book.realise({**kept, **chosen}, reason=lambda job: turns[job].reason, now_s=now_s)
        self._turns = tuple(turn for turn in self._turns if standings[JobId(turn.job)].running)
        if not all(standings[JobId(turn.job)].job.preemptible for turn in self._turns):
            self._allocation = None  # from now on they are fixed
        return decisions

    def _allocate(self, fixed: Mapping[JobId, object], devices: Mapping[str, int], now_s: float) -> Allocation:
        """Shares of those who compete; who fits on no kind as it is now has none."""
        usable = {pool: count for pool, count in devices.items() if count > 0}
        competing: dict[JobId, Contender] = {}
        for job in self._book.standings:
            if job not in fixed and (contender := self._contender(job, usable, now_s)) is not None:
                competing[job] = contender
        if not competing:
            return Allocation(shares={}, objective=0.0)
        if self._policy not in EQUAL_TO_EQUALS:
            return self._policy(tuple(competing.values()), usable)
        alike: dict[tuple[object, ...], list[JobId]] = {}
        for job, one in competing.items():
            alike.setdefault((one.devices, one.weight, *one.throughput_per_s.items()), []).append(job)
        found = self._policy(
            [msgspec.structs.replace(competing[jobs[0]], alike=len(jobs)) for jobs in alike.values()], usable
        )
        shares = {job: found.shares[jobs[0]] for jobs in alike.values() for job in jobs}
        return Allocation(shares={job: shares[job] for job in competing}, objective=found.objective)

    def _contender(self, job: JobId, devices: Mapping[str, int], now_s: float) -> Contender | None:
        standing = self._book.standings[job]
        one, rates, size = standing.job, self._rates[job], self._sizes[job]
        able = {pool: rate for pool, rate in rates.items() if devices.get(pool, 0) >= size}
        if not able:
            return None
        if self._policy in EQUAL_TO_EQUALS:
            return Contender(job=job, throughput_per_s=able, devices=size, weight=self._weight(one))
        return Contender(
            job=job,
            throughput_per_s=able,
            devices=size,
            weight=self._weight(one),
            steps_left=self._book.left_s(job, now_s=now_s),
            elapsed_s=now_s - one.submit_s,
            deadline_s=None if one.deadline_s is None else max(one.deadline_s - now_s, self._round_s),
        )

    def _size_of(self, job: Job) -> int:
        """What a mouldable job gets."""
        chosen, fastest, best = job.devices, 0.0, 0.0
        for size in sorted({job.devices, *job.sizes}) if job.sizes else ():
            rate = max(self._rates_of(job, size).values(), default=0.0)
            best = max(best, rate / size)
            if rate > fastest and rate / size > WORTH * best:
                chosen, fastest = size, rate
        return chosen

    def _rates_of(self, job: Job, size: int) -> dict[str, float]:
        """How fast a job of so many devices gets on in every pool that can take it."""
        found: dict[str, float] = {}
        sized = job if size == job.devices else msgspec.structs.replace(job, devices=size)
        for name, nodes in self.machine.pools.items():
            many, each = nodes.pool.gang(size)
            rate = 0.0 if nodes.pool.obstacle(sized) else self._book.speeds(job, pool=name, devices=many * each)
            if rate > 0:
                found[name] = rate
        return found


def even(contenders: Sequence[Contender], devices: Mapping[str, int]) -> Allocation:
    """Max-min shares that take all kinds for equal, spread over the kinds in proportion to their devices.

    `heterogeneous.agnostic` has many optima, and a solver's corner gives each job one kind for good; this one, which an
    interior-point solver comes near to, is the one that treats equals alike. By water-filling: a share of
    `min(1, level w / z)` of the time for a job of weight w on z devices, the level such that all devices are used.
    """
    if not contenders:
        return Allocation(shares={}, objective=math.inf)
    total = sum(devices.values())
    level = _level([(job.weight, job.devices) for job in contenders for _ in range(job.alike)], total)
    shares = {
        job.job: {
            kind: min(1.0, level * job.weight / job.devices) * count / total if job.throughput_per_s.get(kind) else 0.0
            for kind, count in sorted(devices.items())
        }
        for job in sorted(contenders, key=lambda each: each.job)
    }
    return Allocation(shares=shares, objective=level)


def _level(jobs: Sequence[tuple[float, int]], total: int) -> float:
    """The level at which the sum of min(z, level w) is `total`; infinite where all fit at once."""
    if sum(devices for _, devices in jobs) <= total:
        return math.inf
    left, weight = float(total), sum(each for each, _ in jobs)
    for each, devices in sorted(jobs, key=lambda job: job[1] / job[0]):
        if devices / each * weight >= left:
            return left / weight
        left -= devices
        weight -= each
    return math.inf


EQUAL_TO_EQUALS: Final[tuple[Policy, ...]] = (max_min, agnostic, even)
"""Policies that tell jobs apart by throughput, devices and weight alone: one entry stands for all that are alike."""
