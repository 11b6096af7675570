"""The rolling broker against other ways to choose a pool, on pools that replay real traces.

    python benchmarks/broker.py --traces FOLDER [--case NAME ...] [--seed N ...] [--price CNY ...] [--json]

FOLDER holds traces: ALCF Mira, Philly and Acme's Kalos for the cases `three`, `four` and `six`, SDSC SP2, Lublin's
model, NASA iPSC, ThetaGPU and Alibaba PAI for `other`, `five` and `rigid`. A case has three to six pools. Each replays
some weeks of one trace through its own EASY queue, thinned or repeated to a load, with a tariff or a spot market of its
own and a voucher for some. The broker's jobs are of a later week of two or three traces, as many device-hours of each
as far as there are; they come over four days, after three in which the pools fill up. A seed draws prices, thinning and
limits, and takes another week. The same jobs go through every way to choose:

    static POOL   all to one pool
    list price    SkyPilot's rule: pools by list price, the first that can start the job now; else the cheapest's queue,
                  and every ten minutes, its provision timeout, the others are asked again
    multikueue    Incremental: three clusters more every five minutes, in the order of the configuration; the first that
                  starts it wins
    broker        `schedule.broker_shifting`: on arrival, what waits every quarter of an hour, what runs every hour; who
                  finds no room anywhere waits in all queues, and older jobs of its own may make room
    broker P      with --price P: `schedule.broker_rolling`, which stops nobody, with P CNY for a unit of bounded
                  slowdown: on arrival, again every quarter of an hour, as a batch every hour

**What is known.** Pools tell who runs and waits now, by the limits that users asked for; nobody knows who comes later.
Run times are forecasts, learnt from jobs of the same trace that ended before the broker's first one (`Durations`; where
a trace has the users' limits, with them). Limits that a trace lacks, and queues need, are drawn: as much over the run
as one of Mira's 50 jobs of the nearest run times. Prices of the next 24 hours are known, as on a day-ahead market, and
hours after that are taken to repeat them.

`broker` is `schedule.broker_shifting`: training jobs (Philly's, Kalos' and PAI's) may be stopped, saved and moved while
they run, at the cost of `PAUSE`; the others may not. `nobody below` is a lower bound (`broker_bound`).

**What is counted.** Cost: energy at the price of every hour, cooling included, less vouchers in the order of starts.
Slowdown: (wait + run) / max(shortest run in any pool, 10 s), at least 1. `owners` is the mean slowdown of the pools'
own jobs. All prices are synthetic (`simulate.market_draw`). Jobs over `devices_most` or five days are left out.

`best static` is the pool with the least cost plus 30 CNY for each job and unit of slowdown (`PRICE`).

A run takes 30 to 120 CPU-seconds, some 30 of them to learn forecasts of a week, once for all cases; without `--case`
and `--seed` it is twelve runs, a quarter of an hour.

stdout is a table, or JSON: {"machine", "command", "cpu_s", "over_runs": {...}, "runs": [{"case", "seed", "jobs",
"ways": {...}, "compared": {...}}]}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from broker_bound import bound, left_by_owners
from myriarch.schedule.broker_hours import Lifetimes, Stops
from myriarch.schedule.broker_market import Market, Offer, Request, Voucher, Window
from myriarch.schedule.broker_rolling import Action, Recall, Rolling, Send
from myriarch.schedule.broker_shifting import Shifting, Stop, View
from myriarch.schedule.calendar import Floats, instant_text
from myriarch.schedule.durations import Durations
from myriarch.schedule.durations_slowness import BOUND_S, Slowness, slowness_per_s
from myriarch.schedule.job import Job, JobId
from myriarch.simulate.market_draw import spot_hours, tariff_hours
from myriarch.simulate.market_energy import Held, Plant, Watts, spent, watts_of
from myriarch.simulate.market_hours import SiteHours
from myriarch.simulate.market_pools import Errand, Pause, Placed, Policy, World
from myriarch.simulate.queueing import Task
from myriarch.simulate.sweep_statistics import estimate
from myriarch.simulate.workload.reading import read_trace
from myriarch.simulate.workload.trace import TraceJob
from myriarch.spec.catalogue import lookup

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
OPENS_S: Final = 1_796_054_400.0
"""2026-12-01T00:00+08:00, instant 0 of every run."""
OFFSET_S: Final = 28_800.0
WARM_S: Final = 3 * DAY_S
"""The pools fill up before the broker's first job."""
BROKER_S: Final = 4 * DAY_S
SERIES_S: Final = 40 * DAY_S
OPENED: Final = Market(opens="2026-12-01T00:00+08:00", horizon_s=SERIES_S, currency="CNY", offers=())
RUN_MOST_S: Final = 5 * DAY_S
SHIFT_S: Final = 4 * DAY_S

FILES: Final = {
    "mira": "alcf_mira_2018.csv.gz",
    "philly": "philly_2017_jobs.csv.gz",
    "kalos": "acme_kalos_llm_completed.csv.gz",
    "sdsc": "sdsc_sp2_5k.swf.gz",
    "lublin": "lublin_256.swf.gz",
    "nasa": "nasa_ipsc_1993.swf.gz",
    "theta": "alcf_thetagpu_2023.csv.gz",
    "pai": "alibaba_pai2020_gaia_100k.csv.gz",
}
ASKED: Final = ("mira", "sdsc", "theta")
"""Traces that say what users asked for."""
PRICE: Final = 30.0
"""CNY for a unit of bounded slowdown: of 0.1, 1, 5, 30 and 200 the first, on case three with seed 0, whose slowdown is
below that of the list price; the other cases and seeds did not choose it."""
MIRA_NODES_PER_DEVICE: Final = 64
"""Mira's 49,152 nodes become 768 devices; its jobs are multiples of 512 nodes, but for the smallest."""
H800_SPEED: Final = 2.2
"""Over an A100 in BF16 training: an assumption; the ratio of peak rates is 3.2. FP64 jobs of Mira do not run there."""
PAUSED: Final = ("philly", "kalos", "pai")
"""Training jobs save their state anyway; of the others' it is not known."""
PAUSE: Final = Pause(save_s=60.0, load_s=300.0, move_s=1800.0)
"""Assumptions: a minute to save, five to start and load again; between pools half an hour, in which a line of 10 Gb/s
carries 2.2 TB, 35 GB from each of 64 devices. The line has no price by the byte."""
PROMISE: Final = 0.05
"""Of mean slowdown that waiting for prices may add: the issue's 5 %, of a slowdown of 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """A pool of a case."""

    name: str
    source: str
    week: int
    devices: int
    load: float
    hours: Callable[[np.random.Generator], SiteHours]
    chip: str = "a100-sxm-80"
    speed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By source of a job: its speed there over an A100; absent: 1; 0: it cannot run."""
    rent_per_device_hour: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    sites: tuple[Site, ...]
    vouchers: tuple[Voucher, ...]
    demand: float
    """Of the broker's jobs, as a share of all devices."""
    devices_most: int
    jobs: tuple[str, ...] = ("mira", "philly", "kalos")
    """Traces of the broker's jobs."""
    weeks: tuple[int, ...] = (9, 10, 8, 11, 12)
    """Of these, by seed; later than those of the pools' own jobs."""


SERIES_HOURS: Final = int(SERIES_S / HOUR_S)


def tariff(shape: str, flat: float, carbon: float) -> Callable[[np.random.Generator], SiteHours]:
    return lambda rng: tariff_hours(
        shape, shape=shape, flat_per_kwh=flat, hours=SERIES_HOURS, rng=rng, carbon_kg_per_kwh=carbon
    )


def spot(base: float, carbon: float, sun: float = 0.8, wind: float = 0.4) -> Callable[[np.random.Generator], SiteHours]:
    return lambda rng: spot_hours(
        "spot", base_per_kwh=base, hours=SERIES_HOURS, rng=rng, sun=sun, wind=wind, carbon_kg_per_kwh=carbon
    )


def cases() -> dict[str, Case]:
    """Three to six pools. Flat prices and voucher are examples; see `market_draw` for the tariffs."""
    coast = Site(name="coast", source="mira", week=2, devices=768, load=0.80, hours=tariff("guangdong", 0.62, 0.44))
    east = Site(name="east", source="philly", week=4, devices=640, load=0.75, hours=tariff("shandong", 0.58, 0.64))
    north = Site(name="north", source="kalos", week=6, devices=320, load=0.60, hours=spot(0.55, 0.65))
    hydro = Site(name="hydro", source="mira", week=5, devices=384, load=0.75, hours=tariff("yunnan", 0.45, 0.15))
    inland = Site(
        name="inland",
        source="philly",
        week=6,
        devices=256,
        load=0.70,
        hours=tariff("jiangsu", 0.60, 0.58),
        chip="h800-sxm",
        speed={"philly": H800_SPEED, "kalos": H800_SPEED, "mira": 0.0},
    )
    desert = Site(name="desert", source="kalos", week=2, devices=320, load=0.60, hours=spot(0.42, 0.55, 1.0, 0.5))
    delta = Site(name="delta", source="lublin", week=1, devices=384, load=0.70, hours=tariff("guangdong", 0.62, 0.44))
    lake = Site(name="lake", source="sdsc", week=1, devices=256, load=0.75, hours=tariff("jiangsu", 0.60, 0.58))
    plain = Site(name="plain", source="pai", week=3, devices=512, load=0.70, hours=spot(0.50, 0.65))
    gorge = Site(name="gorge", source="nasa", week=2, devices=256, load=0.65, hours=tariff("yunnan", 0.45, 0.15))
    cape = Site(name="cape", source="theta", week=19, devices=192, load=0.60, hours=spot(0.48, 0.60, 0.5, 0.8))

    def coupon(pool: str) -> Voucher:
        return Voucher(
            name=f"{pool}-2026",
            currency="CNY",
            share=0.3,
            valid_from="2026-12-05T00:00",
            valid_until="2026-12-07T00:00",
            cap_total=1000.0,
            offers=(pool,),
        )

    made = (
        Case(name="three", sites=(coast, east, north), vouchers=(coupon("north"),), demand=0.12, devices_most=256),
        Case(
            name="four", sites=(coast, hydro, east, north), vouchers=(coupon("hydro"),), demand=0.12, devices_most=256
        ),
        Case(
            name="six",
            sites=(coast, east, inland, north, hydro, desert),
            vouchers=(coupon("desert"), coupon("east")),
            demand=0.15,
            devices_most=256,
        ),
        Case(
            name="other",
            sites=(delta, lake, plain, gorge),
            vouchers=(coupon("lake"),),
            demand=0.12,
            devices_most=128,
            jobs=("pai", "sdsc", "lublin"),
            weeks=(5, 6, 4),
        ),
        Case(
            name="five",
            sites=(delta, plain, gorge, cape, lake),
            vouchers=(coupon("plain"),),
            demand=0.12,
            devices_most=128,
            jobs=("pai", "nasa"),
            weeks=(8, 7, 6, 9, 10),
        ),
        Case(
            name="rigid",
            sites=(delta, lake, gorge),
            vouchers=(coupon("delta"),),
            demand=0.12,
            devices_most=64,
            jobs=("nasa", "sdsc", "lublin"),
            weeks=(5, 6, 4),
        ),
    )
    return {case.name: case for case in made}


# --- from traces ------------------------------------------------------------------------------------------------------


class Traces:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[str, Sequence[TraceJob]] = {}
        mira = [job for job in self.jobs("mira") if job.estimate_s]
        order = np.argsort([job.run_s for job in mira])
        self._run_s = np.array([mira[i].run_s for i in order])
        self._asked = np.array([max(mira[i].estimate_s or 0.0, mira[i].run_s) / mira[i].run_s for i in order])

    def jobs(self, source: str) -> Sequence[TraceJob]:
        if source not in self._jobs:
            self._jobs[source] = read_trace(self._folder / FILES[source]).jobs
        return self._jobs[source]

    def devices(self, source: str, job: TraceJob) -> int:
        return -(-job.devices // MIRA_NODES_PER_DEVICE) if source == "mira" else job.devices

    def asked_s(self, source: str, job: TraceJob, rng: np.random.Generator) -> float:
        """What its user asked for; where a trace does not say, as much more than the run as one of Mira's 50 jobs with
        the nearest run times asked."""
        if source in ASKED and job.estimate_s:
            return max(job.estimate_s, job.run_s)
        at = int(np.searchsorted(self._run_s, job.run_s))
        near = int(np.clip(at + rng.integers(-25, 25), 0, len(self._run_s) - 1))
        return job.run_s * float(self._asked[near])

    def between(self, source: str, from_s: float, until_s: float) -> list[TraceJob]:
        return [job for job in self.jobs(source) if from_s <= job.submit_s < until_s]


def owned(site: Site, traces: Traces, rng: np.random.Generator) -> list[Task]:
    """The owners' jobs: of the site's weeks, as many as make its load."""
    from_s = site.week * WEEK_S
    span_s = WARM_S + BROKER_S + SHIFT_S
    jobs = [
        j
        for j in traces.between(site.source, from_s, from_s + span_s)
        if traces.devices(site.source, j) <= site.devices
    ]
    work = sum(j.run_s * traces.devices(site.source, j) for j in jobs) / span_s / site.devices
    copies = site.load / work
    tasks: list[tuple[float, Task]] = []
    for number, job in enumerate(jobs):
        count = int(copies) + (rng.random() < copies - int(copies))
        for copy in range(count):
            submit_s = math.floor(job.submit_s - from_s + (0.0 if copy == 0 else rng.uniform(-DAY_S, DAY_S) % span_s))
            asked = math.ceil(traces.asked_s(site.source, job, rng))
            run_s = max(job.run_s, 1.0)
            tasks.append(
                (
                    submit_s,
                    Task(
                        job=Job(
                            id=JobId(f"{site.name}/{number}.{copy}"),
                            submit_s=submit_s,
                            devices=traces.devices(site.source, job),
                            estimate_s=max(asked, run_s),
                        ),
                        run_s=run_s,
                    ),
                )
            )
    return [task for _, task in sorted(tasks, key=lambda each: (each[0], each[1].job.id))]


@dataclasses.dataclass(frozen=True)
class Known:
    errand: Errand
    source: str
    history: Job


def errands(case: Case, traces: Traces, week: int, rng: np.random.Generator) -> list[Known]:
    found: list[tuple[str, TraceJob]] = []
    from_s = week * WEEK_S
    for source in case.jobs:
        found += [
            (source, job)
            for job in traces.between(source, from_s, from_s + BROKER_S)
            if traces.devices(source, job) <= case.devices_most and 0 < job.run_s <= RUN_MOST_S
        ]
    # Each source brings an equal part of the demand.
    total = sum(site.devices for site in case.sites)
    made: list[Known] = []
    for source in case.jobs:
        mine = [job for each, job in found if each == source]
        budget = case.demand * total * BROKER_S / len(case.jobs)
        for index in rng.permutation(len(mine)).tolist():
            job = mine[index]
            devices = traces.devices(source, job)
            if budget <= 0:
                break
            budget -= devices * job.run_s
            asked = traces.asked_s(source, job, rng)
            submit_s = WARM_S + math.floor(job.submit_s - week * WEEK_S)
            speeds = {site.name: site.speed.get(source, 1.0) for site in case.sites}
            run_s = {name: max(job.run_s / speed, 1.0) for name, speed in speeds.items() if speed > 0}
            history = Job(
                id=JobId(f"{source}-{job.id}"),
                submit_s=submit_s,
                devices=devices,
                estimate_s=max(asked, job.run_s),
                tenant=job.tenant,
                user=job.user,
            )
            made.append(
                Known(
                    Errand(
                        job=history,
                        run_s=run_s,
                        estimate_s={name: max(math.ceil(asked / speeds[name]), run_s[name]) for name in run_s},
                        pause=PAUSE if source in PAUSED else None,
                    ),
                    source,
                    history,
                )
            )
    return sorted(made, key=lambda each: (each.errand.job.submit_s, each.errand.job.id))


class Forecast(NamedTuple):
    """Of an errand, at speed 1."""

    expected_s: float
    slowness_per_s: float
    """By how much a second of waiting slows it down, as it came out for past jobs of the same forecast."""
    runs_s: Floats
    """Equally likely run times."""


@dataclasses.dataclass
class Learnt:
    """The learners of one source."""

    durations: Durations
    slowness: Slowness = dataclasses.field(default_factory=Slowness)

    def forecast(self, job: Job, *, now_s: float) -> tuple[float, float]:
        """Expected run time, and by how much a second of waiting slows the job down: as forecast."""
        forecast = self.durations.submitted(job, now_s=now_s)
        p50_s = max(forecast.p50_s, 1.0)
        return max(forecast.mean_s, 1.0), slowness_per_s(p50_s, max(forecast.p90_s, p50_s))


class Forecasts:
    """What the jobs that ended before the broker's first one teach about the run time of the next, source by source."""

    def __init__(self, traces: Traces, *, weeks: int = 3) -> None:
        self._traces = traces
        self._weeks = weeks
        self._learners: dict[tuple[str, int], Learnt] = {}

    def of(self, known: Known, week: int) -> Forecast:
        key = known.source, week
        if key not in self._learners:
            self._learners[key] = self._learnt(*key)
        learnt = self._learners[key]
        expected_s, slowness = learnt.forecast(known.history, now_s=known.history.submit_s)
        runs_s = learnt.durations.likely(known.history, now_s=known.history.submit_s)
        return Forecast(expected_s, learnt.slowness.calibrated(slowness), runs_s)

    def _learnt(self, source: str, week: int) -> Learnt:
        """Submissions and ends in the order in which they happened; what had not ended is not known."""
        until_s = week * WEEK_S
        learnt = Learnt(Durations(estimates=source in ASKED))
        foreseen: dict[JobId, float] = {}
        events: list[tuple[float, int, int, Job, float]] = []
        for number, job in enumerate(self._traces.between(source, until_s - self._weeks * WEEK_S, until_s)):
            at_s = job.submit_s - until_s + WARM_S
            past = Job(
                id=JobId(f"past-{number}"),
                submit_s=at_s,
                devices=self._traces.devices(source, job),
                estimate_s=max(job.estimate_s or 0.0, job.run_s, 1.0),
                tenant=job.tenant,
                user=job.user,
            )
            events.append((at_s, 0, number, past, job.run_s))
            events.append((at_s + (job.wait_s or 0.0) + job.run_s, 1, number, past, job.run_s))
        for at_s, kind, _, past, run_s in sorted(events, key=lambda each: each[:3]):
            if at_s >= WARM_S:
                break
            if kind == 0:
                foreseen[past.id] = learnt.forecast(past, now_s=at_s)[1]
            else:
                learnt.durations.ended(past, run_s, now_s=at_s)
                learnt.slowness.ended(foreseen.pop(past.id), run_s)
        return learnt


# --- ways to choose a pool --------------------------------------------------------------------------------------------


class Static:
    """All to one pool."""

    period_s = DAY_S

    def __init__(self, pool: str) -> None:
        self.pool = pool

    def arrive(self, errand: Errand, world: World) -> None:
        world.send(errand.job.id, self.pool if self.pool in errand.run_s else next(iter(errand.run_s)))

    def started(self, job: JobId, pool: str, world: World) -> None: ...

    def stopped(self, job: JobId, pool: str, world: World) -> None: ...

    def ended(self, job: JobId, pool: str, world: World) -> None: ...

    def wake(self, world: World) -> None: ...


class ListPrice(Static):
    """SkyPilot's rule: pools in the order of their list price, the first that can start it now; else the cheapest's
    queue, and every ten minutes (its provision timeout) the others are asked again."""

    period_s = 600.0

    def __init__(self, order: Sequence[str]) -> None:
        self.order = order
        self.waiting: dict[JobId, str] = {}
        self.errands: dict[JobId, Errand] = {}

    def arrive(self, errand: Errand, world: World) -> None:
        able = [pool for pool in self.order if pool in errand.run_s]
        job = errand.job.id
        pool = next((pool for pool in able if world.starts_now(job, pool)), able[0])
        self.errands[job] = errand
        self.waiting[job] = pool
        world.send(job, pool)

    def started(self, job: JobId, pool: str, world: World) -> None:
        self.waiting.pop(job, None)

    def wake(self, world: World) -> None:
        for job, at in list(self.waiting.items()):
            if job not in self.waiting:
                continue
            able = [pool for pool in self.order if pool in self.errands[job].run_s]
            pool = next((pool for pool in able if pool != at and world.starts_now(job, pool)), None)
            if pool is not None:
                world.recall(job, at)
                self.waiting[job] = pool
                world.send(job, pool)


class MultiKueue(Static):
    """Three clusters more every five minutes, in the order of the configuration; the first that admits it wins."""

    period_s = 300.0
    step = 3

    def __init__(self, order: Sequence[str]) -> None:
        self.order = order
        self.waiting: dict[JobId, tuple[Errand, int]] = {}

    def arrive(self, errand: Errand, world: World) -> None:
        self.waiting[errand.job.id] = errand, 0
        self._more(errand.job.id, world)

    def started(self, job: JobId, pool: str, world: World) -> None:
        self.waiting.pop(job, None)

    def wake(self, world: World) -> None:
        for job in list(self.waiting):
            self._more(job, world)

    def _more(self, job: JobId, world: World) -> None:
        if job not in self.waiting:
            return
        errand, reached = self.waiting[job]
        able = [pool for pool in self.order if pool in errand.run_s]
        self.waiting[job] = errand, reached + self.step
        for pool in able[reached : reached + self.step]:
            if job in self.waiting:
                world.send(job, pool)


class Broker(Static):
    """Ours: `schedule.broker_rolling`, told what pools foresee and what the next 24 hours cost."""

    period_s = 900.0
    replan_every = 4
    horizon_s = 4 * DAY_S

    def __init__(
        self,
        case: Case,
        hours: Mapping[str, SiteHours],
        known: Sequence[Known],
        forecasts: Mapping[JobId, Forecast],
        *,
        price_per_slowdown: float,
    ) -> None:
        self.case, self.hours, self.forecasts = case, hours, forecasts
        self.known = {each.errand.job.id: each for each in known}
        self.rolling = Rolling(price_per_slowdown=price_per_slowdown)
        self.watts = {site.name: watts_of(lookup(site.chip)).busy_w for site in case.sites}
        self.woken = 0

    def arrive(self, errand: Errand, world: World) -> None:
        known = self.known[errand.job.id]
        expected_s, slowness, _ = self.forecasts[errand.job.id]
        speeds = {pool: known.history.estimate_s / errand.estimate_s[pool] for pool in errand.run_s}
        request = Request(
            name=errand.job.id,
            devices=errand.job.devices,
            device_hours={
                p: min(expected_s / speeds[p], errand.estimate_s[p]) / HOUR_S * errand.job.devices for p in errand.run_s
            },
        )
        self._act(
            self.rolling.submit(
                request,
                self.market(world, slot_s=900.0),
                slowness_per_s=slowness,
                now_s=world.now_s,
                starts_now=lambda job, pool: world.starts_now(JobId(job), pool),
            ),
            world,
        )

    def started(self, job: JobId, pool: str, world: World) -> None:
        self.rolling.started(job)

    def ended(self, job: JobId, pool: str, world: World) -> None: ...

    def wake(self, world: World) -> None:
        self.woken += 1
        if not self.rolling.open:
            return
        if self.woken % self.replan_every == 0:
            self._act(self.rolling.replan(self.market(world, slot_s=HOUR_S), now_s=world.now_s), world)
        else:
            waiting = [name for name, job in self.rolling.open.items() if job.pool is not None]
            if waiting:
                self._act(
                    self.rolling.retry(
                        waiting,
                        self.market(world, slot_s=900.0),
                        now_s=world.now_s,
                        starts_now=lambda job, pool: world.starts_now(JobId(job), pool),
                    ),
                    world,
                )
        self._act(self.rolling.due(now_s=world.now_s + 1.0), world)

    def _act(self, actions: Iterable[Action], world: World) -> None:
        for action in actions:
            match action:
                case Send():
                    world.send(JobId(action.job), action.pool)
                case Recall():
                    world.recall(JobId(action.job), action.pool)

    def market(self, world: World, *, slot_s: float) -> Market:
        mine = frozenset(JobId(name) for name, job in self.rolling.open.items() if job.pool is not None)
        offers = tuple(
            Offer(
                name=site.name,
                chip=site.chip,
                currency="CNY",
                rent_per_device_hour=site.rent_per_device_hour,
                energy_per_kwh=self.hours[site.name].day_ahead(world.now_s),
                power_per_device_w=self.watts[site.name],
                windows=world.windows(site.name, horizon_s=self.horizon_s, without=mine),
            )
            for site in self.case.sites
        )
        return Market(
            opens=instant_text(OPENS_S + world.now_s, utc_offset_s=OFFSET_S),
            horizon_s=self.horizon_s,
            slot_s=slot_s,
            currency="CNY",
            offers=tuple(o for o in offers if o.windows),
            vouchers=self.case.vouchers,
        )


class Shifter(Static):
    """Ours for jobs that may be stopped: `schedule.broker_shifting`."""

    period_s = 900.0
    horizon_s = 5 * DAY_S

    def __init__(
        self,
        case: Case,
        hours: Mapping[str, SiteHours],
        known: Sequence[Known],
        forecasts: Mapping[JobId, Forecast],
        *,
        promise: float = PROMISE,
        stops: bool = True,
    ) -> None:
        self.case, self.hours, self.forecasts, self.stops = case, hours, forecasts, stops
        self.known = {each.errand.job.id: each for each in known}
        self.broker = Shifting(promise=promise)
        self.watts = {site.name: watts_of(lookup(site.chip)).busy_w for site in case.sites}
        self.left = {voucher.name: voucher.cap_total or math.inf for voucher in case.vouchers}
        self.woken_s = -math.inf

    def arrive(self, errand: Errand, world: World) -> None:
        known, forecast = self.known[errand.job.id], self.forecasts[errand.job.id]
        source = known.source
        speed = {s.name: s.speed.get(source, 1.0) for s in self.case.sites if s.name in errand.run_s}
        limit_s = max(errand.estimate_s[name] * speed[name] for name in speed)
        pause = errand.pause if self.stops else None
        lives = Lifetimes(np.minimum(forecast.runs_s, limit_s), most_s=limit_s)
        actions = self.broker.submit(
            Request(name=errand.job.id, devices=errand.job.devices),
            self.view(world),
            speed=speed,
            limit_s=limit_s,
            lives=lives,
            slowness_per_s=forecast.slowness_per_s,
            stops=None if pause is None else Stops(save_s=pause.save_s, load_s=pause.load_s, move_s=pause.move_s),
            now_s=world.now_s,
        )
        self._act(actions, world)

    def started(self, job: JobId, pool: str, world: World) -> None:
        self._act(self.broker.started(job, pool, now_s=world.now_s), world)

    def stopped(self, job: JobId, pool: str, world: World) -> None:
        self._paid(job, world)
        self.broker.stopped(job, now_s=world.now_s)

    def ended(self, job: JobId, pool: str, world: World) -> None:
        self._paid(job, world)
        self.broker.ended(job, ran_s=min(self.known[job].errand.run_s.values()), now_s=world.now_s)

    def wake(self, world: World) -> None:
        running = int(world.now_s // HOUR_S) > int(self.woken_s // HOUR_S) if self.woken_s >= 0 else True
        self.woken_s = world.now_s
        if self.broker.jobs:
            self._act(self.broker.wake(self.view(world), now_s=world.now_s, running=running), world)

    def _act(self, actions: Iterable[Any], world: World) -> None:
        for action in actions:
            job = JobId(action.job)
            match action:
                case Send():
                    world.send(job, action.pool)
                case Recall():
                    world.recall(job, action.pool)
                case Stop():
                    world.pause(job)

    def _paid(self, job: JobId, world: World) -> None:
        """By vouchers, for the stretch that has ended."""
        one = world.stretches[job][-1]
        site = next(site for site in self.case.sites if site.name == one.pool)
        cost = paid(site, self.hours[one.pool], self.known[job].errand.job.devices, one.start_s, world.now_s)
        for voucher in self.case.vouchers:
            valid = OPENED.interval_s(voucher)
            share = max(min(valid[1], world.now_s) - max(valid[0], one.start_s), 0.0) / max(
                world.now_s - one.start_s, 1.0
            )
            if one.pool in voucher.offers:
                self.left[voucher.name] -= max(cost, 0.0) * share * voucher.share

    def view(self, world: World) -> View:
        mine = frozenset(JobId(name) for name, job in self.broker.jobs.items() if job.planned)
        offers = tuple(
            Offer(
                name=site.name,
                chip=site.chip,
                currency="CNY",
                rent_per_device_hour=site.rent_per_device_hour,
                energy_per_kwh=self.hours[site.name].day_ahead(world.now_s),
                power_per_device_w=self.watts[site.name],
                windows=(Window(start_s=0.0, end_s=self.horizon_s, devices=site.devices),),
            )
            for site in self.case.sites
        )
        free = {
            site.name: [
                (window.start_s, window.end_s, window.devices)
                for window in world.windows(site.name, horizon_s=self.horizon_s, without=mine)
            ]
            for site in self.case.sites
        }
        market = Market(
            opens=instant_text(OPENS_S + world.now_s, utc_offset_s=OFFSET_S),
            horizon_s=self.horizon_s,
            currency="CNY",
            offers=offers,
            vouchers=tuple(voucher for voucher in self.case.vouchers if self.left[voucher.name] > 0),
        )
        return View(
            market=market,
            free=free,
            begins_now=lambda job, pool, without: world.starts_now(
                JobId(job), pool, without=frozenset(JobId(name) for name in without)
            ),
            slot_end_s=HOUR_S - world.now_s % HOUR_S,
        )


# --- what it cost -----------------------------------------------------------------------------------------------------


def bill(
    case: Case, hours: Mapping[str, SiteHours], placed: Mapping[JobId, Sequence[Placed]], known: Sequence[Known]
) -> Floats:
    """Of each errand: rent and energy as they were, less vouchers in the order of starting."""
    sites = {site.name: site for site in case.sites}
    left = {voucher.name: voucher.cap_total or math.inf for voucher in case.vouchers}
    cost = np.zeros(len(known))
    stretches = [(one.start_s, index, one) for index, k in enumerate(known) for one in placed[k.errand.job.id]]
    for _, index, one in sorted(stretches, key=lambda each: each[:2]):
        devices = known[index].errand.job.devices
        cost[index] += paid(sites[one.pool], hours[one.pool], devices, one.start_s, one.end_s)
        for voucher in case.vouchers:
            valid = OPENED.interval_s(voucher)
            start_s, end_s = max(valid[0], one.start_s), min(valid[1], one.end_s)
            if one.pool in voucher.offers and start_s < end_s:
                covered = max(paid(sites[one.pool], hours[one.pool], devices, start_s, end_s), 0.0)
                benefit = min(covered * voucher.share, left[voucher.name])
                left[voucher.name] -= benefit
                cost[index] -= benefit
    return cost


def paid(site: Site, hours: SiteHours, devices: int, start_s: float, end_s: float) -> float:
    """Rent and energy of devices for a time, in CNY."""
    kwh_per_s = watts_of(lookup(site.chip)).busy_w * devices / 3.6e6
    energy = float(hours.price().over(np.array([start_s]), np.array([end_s]))[0]) * kwh_per_s
    return energy + site.rent_per_device_hour * devices * (end_s - start_s) / HOUR_S


def measure(case: Case, hours: Mapping[str, SiteHours], world: World, known: Sequence[Known]) -> dict[str, Any]:
    wait = np.array([world.placed[k.errand.job.id].start_s - k.errand.job.submit_s for k in known])
    end = np.array([world.placed[k.errand.job.id].end_s - k.errand.job.submit_s for k in known])
    run = np.array([min(k.errand.run_s.values()) for k in known])
    slow = np.maximum(end / np.maximum(run, BOUND_S), 1.0)
    cost = bill(case, hours, world.stretches, known)
    owners = np.array([max((w + r) / max(r, BOUND_S), 1.0) for _, w, r in world.owned_waits])
    plants = {
        site.name: Plant(
            devices=site.devices, watts=Watts(watts_of(lookup(site.chip)).busy_w, idle_w=0.0), hours=hours[site.name]
        )
        for site in case.sites
    }
    held = [
        Held(pool=one.pool, start_s=one.start_s, end_s=one.end_s, devices=k.errand.job.devices)
        for k in known
        for one in world.stretches[k.errand.job.id]
    ]
    drawn = spent(held, plants, start_s=0.0, end_s=SERIES_S).values()
    where = [world.placed[k.errand.job.id].pool for k in known]
    return {
        "cost": float(cost.sum()),
        "slowdown_mean": float(slow.mean()),
        "wait_s_mean": float(wait.mean()),
        "wait_s_p99": float(np.quantile(wait, 0.99)),
        "owners_slowdown_mean": float(owners.mean()),
        "energy_kwh": sum(one.busy_j for one in drawn) / 3.6e6,
        "carbon_kg": sum(one.carbon_kg or 0.0 for one in drawn),
        "stops": sum(len(world.stretches[k.errand.job.id]) - 1 for k in known),
        "jobs_by_pool": {site.name: where.count(site.name) for site in case.sites},
    }


def play(case: Case, seed: int, traces: Traces, forecasts: Forecasts, *, prices: Sequence[float]) -> dict[str, Any]:
    """One case under every way to choose."""
    streams = np.random.SeedSequence([seed, 11]).spawn(len(case.sites) * 2 + 1)
    rngs = [np.random.default_rng(stream) for stream in streams]
    hours = {site.name: site.hours(rngs[2 * index]) for index, site in enumerate(case.sites)}
    tasks = {site.name: owned(site, traces, rngs[2 * index + 1]) for index, site in enumerate(case.sites)}
    week = case.weeks[seed % len(case.weeks)]
    known = errands(case, traces, week, rngs[-1])
    expected = {each.errand.job.id: forecasts.of(each, week) for each in known}
    listed = {site.name: list_price(site, hours[site.name]) for site in case.sites}
    ways: dict[str, Policy] = {f"static {site.name}": Static(site.name) for site in case.sites}
    ways["list price"] = ListPrice(sorted(listed, key=lambda name: (listed[name], name)))
    ways["multikueue"] = MultiKueue([site.name for site in case.sites])
    for price in prices:
        ways[f"broker {price:g}"] = Broker(case, hours, known, expected, price_per_slowdown=price)
    ways["broker"] = Shifter(case, hours, known, expected)
    measured: dict[str, dict[str, Any]] = {}
    for name, way in ways.items():
        begin = time.process_time()
        world = World({site.name: site.devices for site in case.sites}, tasks)
        world.run([each.errand for each in known], way)
        measured[name] = {**measure(case, hours, world, known), "cpu_s": time.process_time() - begin}
        print(row(name, measured[name]), file=sys.stderr, flush=True)
    lowest = least(case, hours, tasks, known, slowdown=measured["list price"]["slowdown_mean"])
    print(f"  {'nobody below':16}{lowest:10,.0f} CNY", file=sys.stderr, flush=True)
    return {
        "case": case.name,
        "lower_bound": lowest,
        "seed": seed,
        "week": week,
        "jobs": len(known),
        "list_price_per_device_hour": listed,
        "ways": measured,
        "compared": {name: compared(measured, name, jobs=len(known)) for name in measured if name.startswith("broker")},
    }


def least(
    case: Case,
    hours: Mapping[str, SiteHours],
    tasks: Mapping[str, Sequence[Task]],
    known: Sequence[Known],
    *,
    slowdown: float,
) -> float:
    """What the jobs would cost at least (`broker_bound`), in CNY."""
    kilowatts = {site.name: watts_of(lookup(site.chip)).busy_w / 1e3 for site in case.sites}
    return bound(
        jobs=[(k.errand.job.submit_s, k.errand.job.devices, k.errand.run_s) for k in known],
        prices={
            site.name: hours[site.name].price_per_kwh * hours[site.name].pue_hourly * kilowatts[site.name]
            + site.rent_per_device_hour
            for site in case.sites
        },
        free={site.name: left_by_owners(tasks[site.name], site.devices, SERIES_HOURS) for site in case.sites},
        vouchers=[
            (pool, one.share, one.cap_total or math.inf, first_s / HOUR_S, last_s / HOUR_S)
            for one in case.vouchers
            for pool in one.offers
            for first_s, last_s in [OPENED.interval_s(one)]
        ],
        slowdown=slowdown,
    )


def list_price(site: Site, hours: SiteHours) -> float:
    """What a price list says of a device and an hour: rent, and energy at its mean price."""
    return site.rent_per_device_hour + hours.list_price() * watts_of(lookup(site.chip)).busy_w / 1e3


def compared(ways: Mapping[str, dict[str, Any]], name: str, *, jobs: int) -> dict[str, float | str]:
    """Ours over the others: shares of cost saved, ratios of mean slowdown and of the 99th percentile of waits."""
    ours = ways[name]
    static = [name for name in ways if name.startswith("static")]
    best = min(static, key=lambda name: ways[name]["cost"] + PRICE * jobs * ways[name]["slowdown_mean"])
    cheapest = min(static, key=lambda name: ways[name]["cost"])
    found: dict[str, float | str] = {"best_static": best, "cheapest_static": cheapest}
    for label, other in (("best_static", best), ("cheapest_static", cheapest), ("list_price", "list price")):
        found[f"saved_against_{label}"] = 1.0 - ours["cost"] / ways[other]["cost"]
        found[f"slowdown_over_{label}"] = ours["slowdown_mean"] / ways[other]["slowdown_mean"]
    found["wait_p99_over_multikueue"] = ours["wait_s_p99"] / max(ways["multikueue"]["wait_s_p99"], 1.0)
    found["saved_against_multikueue"] = 1.0 - ours["cost"] / ways["multikueue"]["cost"]
    return found


def intervals(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the broker over all runs: [mean, low, high] with a 95 % interval (Student's t; of one run there is none), of
    ratios in their logarithms; and in how many runs the 99th percentile of waits is at most half of MultiKueue's."""
    ours = [run["compared"]["broker"] for run in runs]
    found: dict[str, Any] = {"runs": len(runs)}
    for other in ("list_price", "best_static", "cheapest_static"):
        saved = [one[f"saved_against_{other}"] for one in ours]
        ratio = [one[f"slowdown_over_{other}"] for one in ours]
        found[other] = {
            "saved": interval(saved),
            "saved_least": min(saved),
            "slowdown": [None if each is None else math.exp(each) for each in interval([math.log(r) for r in ratio])],
            "slowdown_most": max(ratio),
        }
    found["wait_p99_met"] = sum(one["wait_p99_over_multikueue"] <= 0.5 for one in ours)
    found["wait_p99_below"] = sum(one["wait_p99_over_multikueue"] < 1.0 for one in ours)
    return found


def interval(values: Sequence[float]) -> list[float | None]:
    found = estimate(values)
    half = found.half_width
    return [found.mean, None, None] if half is None else [found.mean, found.mean - half, found.mean + half]


def row(name: str, one: Mapping[str, Any]) -> str:
    return (
        f"  {name:16}{one['cost']:10,.0f} CNY{one['slowdown_mean']:9.3f}{one['wait_s_mean'] / HOUR_S:8.2f} h"
        f"{one['wait_s_p99'] / HOUR_S:8.2f} h{one['owners_slowdown_mean']:9.2f}{one['cpu_s']:8.1f} s"
    )


def table(result: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"  {'way':16}{'cost':>14}{'slowdown':>9}{'mean wait':>10}{'P99 wait':>10}{'owners':>9}{'CPU':>10}"]
    for run in result["runs"]:
        lines.append(f"{run['case']}, seed {run['seed']}: {run['jobs']:,} jobs of week {run['week']}")
        lines += [row(name, one) for name, one in run["ways"].items()]
        lines.append(f"  {'nobody below':16}{run['lower_bound']:10,.0f} CNY")
        for ours, one in run["compared"].items():
            lines.append(f"  {ours}: saved; and slowdown over theirs:")
            for label in ("best_static", "cheapest_static", "list_price"):
                name = f"{label} ({one[label]})" if label in one else label
                saved, ratio = one[f"saved_against_{label}"], one[f"slowdown_over_{label}"]
                lines.append(f"    {name:34}{saved:7.1%}   x {ratio:.3f}")
            lines.append(f"    P99 wait over multikueue's: x {one['wait_p99_over_multikueue']:.2f}")
    over = result["over_runs"]
    lines.append(f"broker over {over['runs']} runs, with 95 % intervals and the worst run:")
    for label in ("list_price", "best_static", "cheapest_static"):
        (saved, low, high), (ratio, least, most) = over[label]["saved"], over[label]["slowdown"]
        spans = ("one run", "one run") if low is None else (f"{low:.1%} to {high:.1%}", f"{least:.3f} to {most:.3f}")
        lines.append(
            f"  {label:16} saved {saved:6.1%} ({spans[0]}; {over[label]['saved_least']:.1%})"
            f"   slowdown x {ratio:.3f} ({spans[1]}; {over[label]['slowdown_most']:.3f})"
        )
    lines.append(
        f"  P99 wait at most half of multikueue's in {over['wait_p99_met']} runs, below it in {over['wait_p99_below']}"
    )
    lines.append(f"{result['cpu_s']:.0f} CPU-seconds")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=list(cases()))
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument(
        "--price",
        type=float,
        action="append",
        help="also `schedule.broker_rolling`, at so many CNY for a unit of slowdown",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kept = os.dup(1)
    os.dup2(2, 1)  # some versions of HiGHS write lines of their own to descriptor 1
    traces = Traces(options.traces)
    forecasts = Forecasts(traces)
    runs = [
        play(cases()[name], seed, traces, forecasts, prices=options.price or [])
        for name in options.case or list(cases())
        for seed in options.seed or [0, 1]
    ]
    sys.stdout.flush()
    os.dup2(kept, 1)
    result = {
        "machine": platform.processor() or platform.machine(),
        "command": " ".join(sys.argv),
        "cpu_s": time.process_time(),
        "over_runs": intervals(runs),
        "runs": runs,
    }
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
