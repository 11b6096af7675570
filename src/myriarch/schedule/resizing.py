"""Jobs that may have several sizes, on pools of unlike chips: who gets how many devices, of which kind, by goodput.

A round is decided at most every `round_s`, when jobs or devices changed, and now and then because jobs grow older. Each
job that may change has a few configurations, one for each pool that can take it and each of its sizes: a waiting one
all of its `sizes` (mouldable), a running one too if it is `elastic`, and its present size in other pools if it is
`preemptible`. What each is worth is Sia's (Jayaram Subramanya et al., SOSP 2023; `elastic`): the goodput over the job's
least one, to a power p < 0 that favours who has least, and for a running job's changes less the share of its life that
restarts take. So the cost of resizing is counted, and who has just been moved is not moved again.

Two solvers of the same objective:

    program     Sia's integer program, exact, by HiGHS; for hundreds of jobs
    marginal    `exchanges`: one or two jobs at a time go over to what lowers the objective most; fast. Above the
                program's objective on random instances like those of `tests/schedule/test_resizing.py` by

                    jobs    devices    instances    mean     90th percentile    most
                      5     8 + 16         60        0.6 %         2.0 %        6.9 %
                     10     8 + 16         60        1.0 %         2.9 %        4.9 %
                     40    32 + 64         12        2.0 %         3.0 %        8.5 %

                What counts more: it begins with what jobs have, so that it does not shuffle them among equals. On
                Sia's workloads 4 and 5 the mean completion times of both differ by 1 %; those of steps from nothing,
                which come as near to the objective, were 15 % longer, with twice as many restarts.

A job that waits weighs more the longer it has waited in all (twice as much after `guard_s`), so that nobody starves
while jobs may be preempted. Jobs that may neither be preempted nor resized keep what they have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, final

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.schedule.assignment import Assignment, Wanted
from myriarch.schedule.decision import Decision
from myriarch.schedule.elastic import FAIRNESS, UNPLACED, Configuration, Elastic, Resize, choose
from myriarch.schedule.exchanges import Options, exchanged, needs
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.placed import Placed
from myriarch.schedule.speed import Speeds
from myriarch.schedule.standing import Standing

ROUND_S: Final = 60.0
"""Sia's round (section 4)."""
REVIEW_ROUNDS: Final = 10
"""Without news, so many rounds pass before jobs that are older are looked at anew: ten minutes."""
GUARD_S: Final = 86_400.0
"""A day: our choice."""


class _Choice(NamedTuple):
    """A configuration, and what is asked for to get it."""

    configuration: Configuration
    asked: int


@final
class Resizing:
    """The machine. Invariants (`check`): those of `Assignment`."""

    def __init__(
        self,
        machine: Placed,
        speeds: Speeds,
        *,
        solver: Literal["program", "marginal"] = "marginal",
        round_s: float = ROUND_S,
        fairness: float = FAIRNESS,
        unplaced: float = UNPLACED,
        guard_s: float = GUARD_S,
    ) -> None:
        if not round_s > 0 or not guard_s > 0 or not fairness < 0 < unplaced:
            numbers = f"round_s {round_s:g}, guard_s {guard_s:g}, fairness {fairness:g}, unplaced {unplaced:g}"
            raise SpecError(f"{numbers}: all above zero but the fairness, which is below")
        self.machine = machine
        self._book = Assignment(machine, speeds)
        self._solver = solver
        self._round_s = round_s
        self._fairness = fairness
        self._unplaced = unplaced
        self._guard_s = guard_s
        self._choices: dict[JobId, tuple[_Choice, ...]] = {}
        """All that a job could have, by pool and size."""
        self._next_s = math.inf
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
        """For the next round."""
        return self._next_s

    def submit(self, job: Job, *, now_s: float) -> Sequence[Decision]:
        """A job more."""
        if refused := self._book.submit(job, now_s=now_s):
            return refused
        self._choices[job.id] = self._choices_of(job)
        self._due(now_s)
        return ()

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """A running job ended."""
        self._book.end(job, now_s=now_s)
        del self._choices[job]
        self._due(now_s)
        return ()

    def wake(self, *, now_s: float) -> Sequence[Decision]:
        """A round."""
        self._news = False
        if not self._book.standings:
            self._next_s = math.inf
            return ()
        self._decided_s = now_s
        self._next_s = now_s + REVIEW_ROUNDS * self._round_s
        return self._round(now_s)

    def lose(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is gone; its jobs wait for the next round."""
        decisions = self._book.lose(pool, node, now_s=now_s)
        self._due(now_s)
        return decisions

    def regain(self, pool: str, node: int, *, now_s: float) -> Sequence[Decision]:
        """A node is back."""
        self.machine.restore(pool, node)
        self._due(now_s)
        return ()

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> Sequence[Decision]:
        """A node will be gone."""
        self.machine.drain(pool, node, from_s=from_s, now_s=now_s)
        return ()

    def check(self) -> None:
        """Assert the invariants."""
        self._book.check()
        assert self._choices.keys() == self._book.standings.keys()

    def _due(self, now_s: float) -> None:
        """Something is new: there is to be a round, not sooner than a round after the last one."""
        if not self._news:
            self._news = True
            self._next_s = max(now_s, self._decided_s + self._round_s)

    def _choices_of(self, job: Job) -> tuple[_Choice, ...]:
        found: dict[tuple[str, int], _Choice] = {}
        for size in sorted({job.devices, *job.sizes}):
            for name, nodes in self.machine.pools.items():
                many, each = nodes.pool.gang(size)
                if nodes.pool.obstacle(_sized(job, size)):
                    continue
                speed = self._book.speeds(job, pool=name, devices=many * each)
                if speed > 0 and (name, many * each) not in found:
                    configuration = Configuration(kind=name, devices=many * each, goodput=speed)
                    found[name, many * each] = _Choice(configuration, size)
        return tuple(found.values())

    def _round(self, now_s: float) -> list[Decision]:
        devices = {pool: self._book.devices(pool) for pool in self.machine.pools}
        kept: dict[JobId, Wanted] = {}
        competing: list[Elastic] = []
        choices: dict[JobId, tuple[_Choice, ...]] = {}
        for job, standing in self._book.standings.items():
            if _fixed(standing):
                kept[job] = Wanted(standing.placement.pool, standing.held)
                devices[standing.placement.pool] -= standing.held
        for job, standing in self._book.standings.items():  # by what all who keep theirs leave
            if job not in kept and (open_to := self._open_to(standing, devices)):
                choices[job] = open_to
                competing.append(self._elastic(standing, open_to, now_s))
        solve = self._by_program if self._solver == "program" else self._by_exchanges
        chosen = {JobId(one.job): one for one in solve(competing, devices)}
        wanted = {
            job: Wanted(one.configuration.kind, _asked(choices[job], one.configuration))
            for job, one in chosen.items()
            if one.configuration is not None
        }
        stays = {job: Wanted(one.placement.pool, one.held) for job, one in self._stuck(wanted)}
        decisions = self._book.realise({**kept, **stays, **wanted}, reason=lambda job: chosen[job].reason, now_s=now_s)
        return decisions + self._fill(choices, now_s)

    def _stuck(self, wanted: Mapping[JobId, Wanted]) -> list[tuple[JobId, Standing]]:
        """Running jobs that got nothing, but may not be preempted: they keep what they have."""
        return [
            (job, one)
            for job, one in self._book.standings.items()
            if one.running and job not in wanted and not one.job.preemptible
        ]

    def _open_to(self, standing: Standing, devices: Mapping[str, int]) -> tuple[_Choice, ...]:
        """What a job may have now."""
        found = []
        for choice in self._choices[standing.job.id]:
            kind, size = choice.configuration.kind, choice.configuration.devices
            if size > devices[kind]:
                continue
            if standing.running:
                same_pool, same_size = kind == standing.placement.pool, size == standing.held
                if not ((same_pool and same_size) or standing.job.elastic or same_size):
                    continue
                if not same_pool and not standing.job.preemptible:
                    continue
            found.append(choice)
        return tuple(found)

    def _elastic(self, standing: Standing, choices: Sequence[_Choice], now_s: float) -> Elastic:
        present = None
        if standing.running:
            here = (standing.placement.pool, standing.held)
            present = next(
                (at for at, one in enumerate(choices) if (one.configuration.kind, one.configuration.devices) == here),
                None,
            )
        return Elastic(
            job=standing.job.id,
            configurations=tuple(choice.configuration for choice in choices),
            present=present,
            age_s=now_s - standing.job.submit_s,
            restarts=max(standing.starts - 1, 0),
            restart_s=standing.switch_s,
            weight=1.0 + standing.waited_by(now_s) / self._guard_s,
        )

    def _by_program(self, jobs: Sequence[Elastic], devices: Mapping[str, int]) -> Sequence[Resize]:
        return choose(jobs, devices=devices, fairness=self._fairness, unplaced=self._unplaced)

    def _by_exchanges(self, jobs: Sequence[Elastic], devices: Mapping[str, int]) -> Sequence[Resize]:
        return by_exchanges(jobs, devices=devices, fairness=self._fairness, unplaced=self._unplaced)

    def _fill(self, choices: Mapping[JobId, Sequence[_Choice]], now_s: float) -> list[Decision]:
        """Who got nothing takes what is left over, what lies well and is fastest."""
        decisions: list[Decision] = []
        for job, standing in self._book.standings.items():
            if standing.running or not self.machine.free_devices:
                continue
            for choice in sorted(choices.get(job, ()), key=lambda one: -one.configuration.goodput):
                want = Wanted(choice.configuration.kind, choice.asked)
                if started := self._book.start(job, want, reason=lambda job: "devices are left over", now_s=now_s):
                    decisions.append(started)
                    break
        return decisions


def by_exchanges(
    jobs: Sequence[Elastic], *, devices: Mapping[str, int], fairness: float = FAIRNESS, unplaced: float = UNPLACED
) -> tuple[Resize, ...]:
    """A configuration for each job, in the order of their names; the objective is that of `choose`, the way
    `exchanges`: from what they have, one or two jobs at a time."""
    ordered = sorted(jobs, key=lambda each: each.job)
    kinds = {kind: number for number, kind in enumerate(sorted(devices))}
    offered = [
        Options(
            job.weight * np.array([unplaced, *_values(job, fairness)]),
            needs([(one.kind, one.devices) for one in job.configurations], kinds),
        )
        for job in ordered
    ]
    present = [0 if job.present is None else job.present + 1 for job in ordered]
    found = exchanged(offered, present=present, devices=np.array([float(devices[kind]) for kind in kinds]))
    return tuple(_resized(job, at) for job, at in zip(ordered, found, strict=True))


def objective(
    jobs: Sequence[Elastic], chosen: Sequence[Resize], *, fairness: float = FAIRNESS, unplaced: float = UNPLACED
) -> float:
    """What `choose` and `by_exchanges` minimise, of an answer."""
    total = 0.0
    for job, one in zip(sorted(jobs, key=lambda each: each.job), chosen, strict=True):
        at = None if one.configuration is None else job.configurations.index(one.configuration)
        total += job.weight * (unplaced if at is None else _values(job, fairness)[at])
    return total


def _values(job: Elastic, fairness: float) -> list[float]:
    """What each configuration counts for; the less the better."""
    least = min(each.goodput for each in job.configurations)
    kept = max(job.restart_factor, 1e-6)
    return [
        ((1.0 if index == job.present else kept) * each.goodput / least) ** fairness
        for index, each in enumerate(job.configurations)
    ]


def _resized(job: Elastic, at: int) -> Resize:
    configuration = job.configurations[at - 1] if at else None
    before = None if job.present is None else job.configurations[job.present]
    had = "nothing" if before is None else f"{before.devices} of {before.kind} at {before.goodput:.4g}"
    gets = (
        "nothing"
        if configuration is None
        else f"{configuration.devices} of {configuration.kind} at {configuration.goodput:.4g}"
    )
    cost = (
        f", a restart leaves {job.restart_factor:.2f} of it" if before is not None and configuration != before else ""
    )
    return Resize(
        job=job.job,
        configuration=configuration,
        changed=configuration != before,
        reason=f"gets {gets}, had {had}{cost}",
    )


def _fixed(standing: Standing) -> bool:
    """Whether it keeps what it has to its end."""
    return standing.running and not (standing.job.preemptible or standing.job.elastic)


def _asked(choices: Sequence[_Choice], configuration: Configuration) -> int:
    return next(choice.asked for choice in choices if choice.configuration == configuration)


def _sized(job: Job, devices: int) -> Job:
    """The job with another number of devices, for what a pool says to it."""
    return job if devices == job.devices else msgspec.structs.replace(job, devices=devices)
