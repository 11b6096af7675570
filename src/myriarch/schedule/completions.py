"""Elastic jobs on unlike devices: Sia's rounds, but with an eye on who is nearly done.

Sia (Jayaram Subramanya et al., SOSP 2023; `elastic`, `resizing`) shares speed-ups out fairly and does not ask how long
anybody still needs. Here a job counts by its index `g`, the seconds of run time for each such job that ends
(`gittins`), to a power: the weight of job i is `g[i]^-urgency`. With urgency 0 it is Sia's objective; the larger it is,
the more goes to those who end soon. A moderate one is right, since with speed-ups like k^p the allocation with the
least mean time favours the shortest, but leaves something to all (heSRPT: Berg, Vesilo and Harchol-Balter, Performance
Evaluation 144, 2020).

A change is worth what it leaves of the time until the next one, `horizon / (horizon + save + restart)`, with the
horizon at most what the job has left. A job that waits counts once more for every `guard_s` that it has waited.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

import msgspec

from myriarch.errors import SpecError
from myriarch.schedule.assignment import Assignment, Wanted
from myriarch.schedule.decision import Decision
from myriarch.schedule.elastic import Configuration, Elastic
from myriarch.schedule.gittins import Gittins, Learner
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.resizing import by_steps
from myriarch.schedule.speed import Speeds
from myriarch.schedule.standing import Standing

ROUND_S: Final = 60.0
"""Sia's (section 4); the first job of an idle fleet starts at once."""
REVIEW_S: Final = 300.0
"""While somebody waits and nothing happens: ages change what is known."""
FAIRNESS: Final = -0.1
URGENCY: Final = 0.3
HORIZON_S: Final = 400.0
"""These three by trial on four of Sia's workloads (4 and 5 of Saturn and of Philly); Sia's fairness is -0.5."""
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
        fairness: float = FAIRNESS,
        urgency: float = URGENCY,
        horizon_s: float = HORIZON_S,
        guard_s: float = GUARD_S,
    ) -> None:
        if not (round_s > 0 and horizon_s > 0 and guard_s > 0 and urgency >= 0 and fairness < 0):
            raise SpecError(
                f"round_s {round_s:g}, horizon_s {horizon_s:g}, guard_s {guard_s:g}, urgency {urgency:g}, "
                f"fairness {fairness:g}",
                hint="times above zero, the urgency not below, the fairness below",
            )
        self.machine = machine
        self._book = Assignment(machine, speeds)
        self._index = Gittins(learner, margin=0.0, exponent=0.0)
        self._round_s, self._horizon_s, self._guard_s = round_s, horizon_s, guard_s
        self._fairness, self._urgency = fairness, urgency
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
        return self.wake(now_s=now_s)

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
        wanted: dict[JobId, Wanted] = {}
        competing: list[Elastic] = []
        for job, standing in self._book.standings.items():
            if standing.running and not standing.job.preemptible:
                wanted[job] = Wanted(standing.placement.pool, standing.held)
                devices[standing.placement.pool] -= standing.held
            elif configurations := self._open(standing, devices):
                competing.append(self._competing(standing, configurations, now_s))
        chosen = {JobId(one.job): one for one in by_steps(competing, devices=devices, fairness=self._fairness)}
        for job, one in chosen.items():
            if one.configuration is not None:
                wanted[job] = self._choices[job][one.configuration]
        return self._book.realise(wanted, reason=lambda job: chosen[job].reason, now_s=now_s)

    def _open(self, standing: Standing, devices: Mapping[str, int]) -> tuple[Configuration, ...]:
        """What a job may have now: one that runs and is not elastic keeps its size."""
        keeps = standing.running and not standing.job.elastic
        return tuple(
            one
            for one in self._choices[standing.job.id]
            if one.devices <= devices[one.kind] and (not keeps or one.devices == standing.held)
        )

    def _competing(self, standing: Standing, configurations: Sequence[Configuration], now_s: float) -> Elastic:
        job, here = standing.job, (standing.placement.pool, standing.held)
        present = next(
            (at for at, one in enumerate(configurations) if standing.running and (one.kind, one.devices) == here), None
        )
        index_s = max(self._index.course(standing, now_s=now_s).rank, 1.0)
        guards = 0.0 if standing.running else (now_s - standing.since_s) // self._guard_s
        left_s = self._index.left_s(standing, now_s=now_s) / max(standing.speed, 1e-9)
        price_s = standing.switch_s
        return Elastic(
            job=job.id,
            configurations=tuple(configurations),
            present=present,
            age_s=max(min(self._horizon_s, left_s), price_s),
            restart_s=price_s,
            weight=float(index_s**-self._urgency) * (1.0 + guards),
        )
