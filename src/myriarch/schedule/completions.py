"""Elastic jobs on unlike devices, for the least mean completion time.

Sia (Jayaram Subramanya et al., SOSP 2023; `elastic`, `resizing`) shares speed-ups out fairly and does not ask how long
anybody still needs. The allocation with the least mean does, and yet leaves something to all, since speed-ups grow ever
less: with speed-ups like k^p and all jobs there, known sizes x[1] >= x[2] >= ... on the whole fleet add

    sum of w[i] x[i],     w[i] = (i^c - (i - 1)^c)^(1 - p),     c = 1 / (1 - p)

to the sum of completion times, and at each instant that allocation is right which lowers it fastest (heSRPT: Berg,
Vesilo and Harchol-Balter, Performance Evaluation 144, 2020). So here, too:

    maximise   sum of w[i] share[i] kept[i, c] speed[i, c] / speed[i, best]

over a configuration (pool, size) or nothing for each job, with the speeds that it really has there, solved by
`exchanges`. `share` is the part of the fleet that the best a job could have takes, to the power p, as if its speed went
on to grow up to the whole fleet, and `i` its place by what it needs there: the longest first. What it still needs is
not known, but learned: its Gittins index, the seconds of work for each such job that ends (`gittins`).

A job of one size shares time, not devices, and twice the time is twice the work: its p is near 1, where the weights
become those of shortest remaining first. So rigid and elastic jobs are weighed in one unit, in one queue.

Gangs have to fit into nodes, too: the program's rows are those of `footprints`.

A change is worth what it leaves of the time until the next one, `kept = horizon / (horizon + 2 (save + restart))`: most
changes are followed by one back. The horizon is how long the job has gone on without a change so far, on average, and
at most what it has left there; stopping loses the rest. So who was moved often is moved less. A job that waits counts
once more for every `guard_s` that it has waited. Who found no room, because what is free lies scattered, takes what
there is, and so does who comes between two rounds and may be stopped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.assignment import Assignment, Wanted
from myriarch.schedule.decision import Decision
from myriarch.schedule.elastic import Configuration
from myriarch.schedule.exchanges import Options, exchanged
from myriarch.schedule.footprints import Floats, Footprints
from myriarch.schedule.gittins import Gittins, Learner
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.speed import Speeds
from myriarch.schedule.standing import Standing

ROUND_S: Final = 60.0
"""Sia's (section 4); the first job of an idle fleet starts at once."""
REVIEW_S: Final = 300.0
"""While somebody waits and nothing happens: ages change what is known."""
EXPONENT: Final = 0.3
RIGID: Final = 0.9
"""Near 1, where the weight is the place itself and ages that are learned a little wrong count a lot: on the same
workloads with rigid jobs, .99 was 6 % longer; where one half of the jobs is rigid, 1 %."""
CHANGES: Final = 2.0
"""That one decision brings. The three by trial on Sia's workloads 4 and 5 of Saturn and of Philly, as they are and with
jobs permuted. The exponent matters little, from .2 to .5 the mean changes by 1 %. Against Sia's policy, with one change
the mean is lower by 4.3 % and the 95th percentile equal; with two by 3.3 and 2.4 %; with three 1.8 and 2.2 %."""
GUARD_S: Final = 4 * 3600.0
"""Our choice."""


@final
class Completions:
    """The machine. Invariants (`check`): those of `Assignment`; every job there has configurations and an index."""

    def __init__(
        self,
        machine: Placed,
        learner: Learner,
        *,
        speeds: Speeds,
        round_s: float = ROUND_S,
        exponent: float = EXPONENT,
        guard_s: float = GUARD_S,
    ) -> None:
        if not (round_s > 0 and guard_s > 0 and 0 <= exponent < 1):
            raise SpecError(
                f"round_s {round_s:g}, guard_s {guard_s:g}, exponent {exponent:g}",
                hint="times above zero, the exponent of speed-ups from 0 to below 1",
            )
        self.machine = machine
        self._book = Assignment(machine, speeds)
        self._footprints = Footprints(nodes.pool for nodes in machine.pools.values())
        self._index = Gittins(learner, margin=0.0, exponent=0.0)
        self._round_s, self._guard_s = round_s, guard_s
        self._exponent = exponent
        self._choices: dict[JobId, dict[Configuration, Wanted]] = {}
        """What a job could have, and what is asked for to get it."""
        self._decided_s = -math.inf
        self._news = False

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
        """A round after the last one, if something happened; a review, if somebody waits."""
        if self._book.standings and (self._news or self._book.waiting):
            return self._decided_s + (self._round_s if self._news else REVIEW_S)
        return math.inf

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more: a round now, if the last one is long enough ago."""
        if refused := self._book.submit(job, now_s=now_s):
            return refused
        self._choices[job.id] = dict(self._possible(job))
        self._index.submitted(self._book.standings[job.id], now_s=now_s)
        return self._told(now_s)

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._index.ended(self._book.standings[job], now_s=now_s)
        self._book.end(job, now_s=now_s)
        del self._choices[job]
        return self._told(now_s)

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A round."""
        return self._round(now_s) if now_s >= self.wake_s else ()

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone; its jobs wait for the round that follows at once."""
        return [*self._book.lose(pool, node, now_s=now_s), *self._round(now_s)]

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        self.machine.restore(pool, node)
        return self._told(now_s)

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        self.machine.drain(pool, node, from_s=from_s, now_s=now_s)
        return ()

    def check(self) -> None:
        """Assert the invariants."""
        self._book.check()
        assert self._choices.keys() == self._book.standings.keys()

    def _told(self, now_s: float) -> Sequence[Decision]:
        self._news = True
        return self._round(now_s) if now_s >= self.wake_s else self._fill(now_s, for_good=False)

    def _possible(self, job: Job) -> Iterator[tuple[Configuration, Wanted]]:
        """Every size on every pool that will do and is not slower than a smaller one there."""
        for name, nodes in self.machine.pools.items():
            best = 0.0
            for size in sorted({job.devices, *job.sizes}):
                if nodes.pool.obstacle(msgspec.structs.replace(job, devices=size)):
                    continue
                many, each = nodes.pool.gang(size)
                speed = self._book.speeds(job, pool=name, devices=many * each)
                if speed > best * (1 + 1e-9):
                    best = speed
                    yield Configuration(kind=name, devices=many * each, goodput=speed), Wanted(name, size)

    def _round(self, now_s: float) -> Sequence[Decision]:
        self._decided_s, self._news = now_s, False
        devices = {pool: self._book.devices(pool) for pool in self.machine.pools}
        room = self._footprints.room(devices)
        wanted: dict[JobId, Wanted] = {}
        for job, standing in self._book.standings.items():
            if standing.running and not standing.job.preemptible:
                here = standing.placement
                wanted[job] = Wanted(here.pool, standing.held)
                devices[here.pool] -= standing.held
                room -= self._footprints.of(here.pool, nodes=len(here.nodes), each=here.devices_per_node)
        competing = [one for job, one in self._book.standings.items() if job not in wanted]
        reasons: dict[JobId, str] = {}
        for contender, configuration in self._settled(self._contenders(competing, devices, now_s), room):
            job = contender.standing.job.id
            reasons[job] = contender.reason(configuration)
            if configuration is not None:
                wanted[job] = self._choices[job][configuration]
        decisions = self._book.realise(wanted, reason=reasons.__getitem__, now_s=now_s)
        return decisions + self._fill(now_s)

    def _contenders(self, standings: Sequence[Standing], devices: Mapping[str, int], now_s: float) -> list[_Contender]:
        """Those that could have something, with their weights; the longest first."""
        found = []
        for standing in standings:
            if configurations := self._open(standing, devices):
                index_s = max(self._index.course(standing, now_s=now_s).rank, 1.0)
                best = max(self._choices[standing.job.id], key=lambda one: one.goodput)
                share = (best.devices / self.machine.devices) ** self._grows(standing.job)
                found.append((index_s / best.goodput * share, standing, configurations, best.goodput, share))
        found.sort(key=lambda one: (-one[0], one[1].number))
        contenders = []
        for place, (needs_s, standing, configurations, best_speed, share) in enumerate(found, start=1):
            guards = 0.0 if standing.running else (now_s - standing.since_s) // self._guard_s
            contenders.append(
                _Contender(
                    standing=standing,
                    configurations=configurations,
                    best=best_speed,
                    needs_s=needs_s,
                    left_s=self._index.left_s(standing, now_s=now_s),
                    every_s=(now_s - standing.job.submit_s) / max(standing.starts, 1),
                    weight=weight(place, exponent=self._grows(standing.job)) * share * (1.0 + guards),
                )
            )
        return contenders

    def _settled(
        self, contenders: Sequence[_Contender], room: Floats
    ) -> Iterator[tuple[_Contender, Configuration | None]]:
        """What each is to have."""
        options = [
            Options(
                np.array([one.stop(), *(-one.value(each) for each in one.configurations)]),
                np.array([np.zeros(self._footprints.rows), *(self._footprint(each) for each in one.configurations)]),
            )
            for one in contenders
        ]
        chosen = exchanged(options, present=[one.present for one in contenders], devices=room)
        for one, at in zip(contenders, chosen, strict=True):
            yield one, one.configurations[at - 1] if at else None

    def _grows(self, job: Job) -> float:
        """The power of what it gets with which a job gets on: of devices, or of time where it has one size."""
        return self._exponent if job.sizes else RIGID

    def _footprint(self, configuration: Configuration) -> Floats:
        nodes, each = self.machine.pools[configuration.kind].pool.gang(configuration.devices)
        return self._footprints.of(configuration.kind, nodes=nodes, each=each)

    def _open(self, standing: Standing, devices: Mapping[str, int]) -> tuple[Configuration, ...]:
        """What a job may have now: one that runs and is not elastic keeps its size."""
        keeps = standing.running and not standing.job.elastic
        return tuple(
            one
            for one in self._choices[standing.job.id]
            if one.devices <= devices[one.kind] and (not keeps or one.devices == standing.held)
        )

    def _fill(self, now_s: float, *, for_good: bool = True) -> list[Decision]:
        """Who got nothing takes what is left over and lies well, the fastest of it. for_good: also who may not be
        stopped, and so would keep it."""
        decisions: list[Decision] = []
        for job, standing in self._book.standings.items():
            if standing.running or not (for_good or standing.job.preemptible) or not self.machine.free_devices:
                continue
            for configuration in sorted(self._choices[job], key=lambda one: -one.goodput):
                want = self._choices[job][configuration]
                if started := self._book.start(job, want, reason=lambda job: "devices are left over", now_s=now_s):
                    decisions.append(started)
                    break
        return decisions


def weight(place: int, *, exponent: float) -> float:
    """What a second of a job's work on the whole fleet adds to all completion times; place 1: the longest job."""
    power = 1.0 / (1.0 - exponent)
    found: float = (place**power - (place - 1) ** power) ** (1.0 - exponent)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Contender:
    """A job, and what it could have."""

    standing: Standing
    configurations: tuple[Configuration, ...]
    best: float
    """Its speed on the best that it could have with the fleet to itself."""
    needs_s: float
    """Of the whole fleet's time, by its index."""
    left_s: float
    every_s: float
    """Mean time between its changes so far."""
    weight: float

    @property
    def present(self) -> int:
        """Number of what it has, from 1; 0: nothing."""
        if not self.standing.running:
            return 0
        here = (self.standing.placement.pool, self.standing.held)
        return next((at for at, one in enumerate(self.configurations, start=1) if (one.kind, one.devices) == here), 0)

    def value(self, configuration: Configuration) -> float:
        """What is gained by the second."""
        present = self.present
        stays = present and self.configurations[present - 1] == configuration
        kept = 1.0 if stays or not self.standing.starts else self._kept(configuration)  # all pay for a first start
        return self.weight * kept * configuration.goodput / self.best

    def stop(self) -> float:
        """What stopping it loses, by the second: it will start again and go on as now."""
        if not self.present:
            return 0.0
        here = self.configurations[self.present - 1]
        return self.weight * (1.0 - self._kept(here)) * here.goodput / self.best

    def _kept(self, configuration: Configuration) -> float:
        """The share of the time to come that a change leaves."""
        if not self.standing.switch_s:
            return 1.0
        lost_s = CHANGES * self.standing.switch_s
        horizon_s = min(max(self.every_s, self.standing.switch_s), self.left_s / configuration.goodput)
        return horizon_s / (horizon_s + lost_s)

    def reason(self, configuration: Configuration | None) -> str:
        """In numbers."""
        now = self.standing
        had = f"{now.held} of {now.placement.pool} at {now.speed:.4g}" if now.running else "nothing"
        if configuration is None:
            gets = "nothing"
        else:
            gets = f"{configuration.devices} of {configuration.kind} at {configuration.goodput:.4g}"
        return f"gets {gets}, had {had}; needs {self.needs_s:.0f} s of the fleet, counts {self.weight:.3g}"
