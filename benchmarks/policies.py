"""All policies on the same workloads, in weeks that no setting was chosen on, but for Mira's unless `--weeks` says so.

    python benchmarks/policies.py [--traces FOLDER] [--workload NAME ...] [--policy NAME ...] [--jobs N] [--json]
                                  [--weeks WARM,FIRST,LAST] [--nodes N]

| workload | what it is |
| --- | --- |
| philly | Microsoft Philly 2017, weeks 9 to 11 of 16 (week 8 before them), 512 GPUs in 64 nodes, racks and pods |
| mira | ALCF Mira 2018, weeks 12 to 14 of 18 (weeks 10, 11 before them), 49,152 nodes as 96 midplanes of 512 |
| thetagpu | ALCF ThetaGPU 2023, weeks 15 to 43 (week 14 before them), 24 nodes; see THETAGPU |
| acme | 6,000 jobs fitted to Kalos' published aggregates (`simulate.workload.acme`), 2,416 GPUs, load 0.9; synthetic |
| sia-philly, sia-saturn | Sia's workloads 1 to 3 on 64 GPUs of three kinds, speeds fitted to its profiles |

`--weeks` measures other weeks of a trace, `--weeks 13,15,17` those from 15 to 17 with 13 and 14 before them; `--nodes`
has the same jobs on fewer nodes. FOLDER holds `philly_2017_jobs.csv.gz`, `alcf_mira_2018.csv.gz`,
`alcf_thetagpu_2023.csv.gz` and `sia_*_workloads.csv.gz`; without it, `acme` alone.

Nobody is told run times but rows that say so (`told`): on Philly and Acme all estimates are one and the same limit, on
Mira and ThetaGPU they are what users asked for; users of Sia's jobs know how many epochs they train. Traces do not say
which jobs could be stopped and go on: here all can, for the seconds of saving and restarting in COSTS, under policies
that stop jobs. Rows: jobs that came in the measured weeks. `jain`: of tenants' service over demand. `rho`: finish-time
fairness (Themis), 95th percentile. `gain`: ln of mean completion time over ours, by day of submission, with its 95 %
interval. `mean_ratio`, `p95_ratio`: of all those jobs over ours, with what drawing the days anew gives (bootstrap).
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before numpy is imported

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from myriarch.schedule.durations import Durations  # noqa: E402
from myriarch.schedule.easy import Easy  # noqa: E402
from myriarch.schedule.gavel_scheduler import Gavel  # noqa: E402
from myriarch.schedule.in_order import InOrder  # noqa: E402
from myriarch.schedule.job import Job  # noqa: E402
from myriarch.schedule.las import THRESHOLDS_DEVICE_S  # noqa: E402
from myriarch.schedule.layout import PoolLayout  # noqa: E402
from myriarch.schedule.lengths import Lengths  # noqa: E402
from myriarch.schedule.myriarch import Settings, myriarch  # noqa: E402
from myriarch.schedule.placed import Placed  # noqa: E402
from myriarch.schedule.ranked import Ranked  # noqa: E402
from myriarch.schedule.rankings import LeastService, ShortestRemaining, UserMeans  # noqa: E402
from myriarch.schedule.resizing import Resizing  # noqa: E402
from myriarch.schedule.scheduler import Scheduler  # noqa: E402
from myriarch.schedule.speed import Speeds  # noqa: E402
from myriarch.schedule.worth import FREE_OF_CHARGE  # noqa: E402
from myriarch.simulate.cluster import simulate_cluster  # noqa: E402
from myriarch.simulate.cluster_outcome import ClusterOutcome  # noqa: E402
from myriarch.simulate.queueing import Task  # noqa: E402
from myriarch.simulate.sweep_statistics import estimate  # noqa: E402
from myriarch.simulate.workload.acme import acme  # noqa: E402
from myriarch.simulate.workload.arrivals import DAY_S, WEEK_S  # noqa: E402
from myriarch.simulate.workload.reading import read_trace  # noqa: E402
from myriarch.simulate.workload.sia import PUBLISHED_HOURS, profiles, read_sia, sia_workload  # noqa: E402
from myriarch.simulate.workload.tasks import Estimates, resumable, tasks_of  # noqa: E402

Floats = NDArray[np.float64]

PHILLY: Final = PoolLayout(name="philly", nodes=64, devices_per_node=8, nodes_per_rack=8, racks_per_pod=4)
MIRA: Final = PoolLayout(name="mira", nodes=96, devices_per_node=512, nodes_per_rack=2, racks_per_pod=16)
ACME: Final = PoolLayout(name="kalos", nodes=302, devices_per_node=8, nodes_per_rack=8, racks_per_pod=4)
THETAGPU: Final = PoolLayout(name="thetagpu", nodes=24, devices_per_node=1, nodes_per_rack=24, racks_per_pod=1)
"""The trace does not say whether it counts nodes or GPUs. It is nodes: jobs as they really ran never had more than 29
at once, and more than 24 (jobs of a single GPU share nodes) for 2.4 of 209 days."""
COSTS: Final = {"philly": (30.0, 60.0), "mira": (300.0, 300.0), "acme": (30.0, 120.0), "thetagpu": (30.0, 60.0)}
"""Seconds of saving and of restarting: our assumptions. Sia's are in its profiles, 25 to 250 s."""
SAVES_EVERY_S: Final = 1800.0
BOOTSTRAPS: Final = 1_000


class Weeks(NamedTuple):
    """From the first, measured from the second until before the third."""

    warm: float
    first: float
    end: float


class Trace(NamedTuple):
    """A trace of rigid jobs."""

    file: str
    pool: PoolLayout
    estimates: Estimates
    weeks: Weeks


TRACES: Final = {
    "philly": Trace("philly_2017_jobs.csv.gz", PHILLY, "limit", Weeks(8.0, 9.0, 12.0)),
    "mira": Trace("alcf_mira_2018.csv.gz", MIRA, "asked", Weeks(10.0, 12.0, 15.0)),
    "thetagpu": Trace("alcf_thetagpu_2023.csv.gz", THETAGPU, "asked", Weeks(14.0, 15.0, 44.0)),
}
"""Weeks count from 0. Settings and rules were chosen on Philly before week 8 and on Mira's weeks 0 to 3 and 12 to 14,
which are these: Philly's `--weeks 8,9,14` and Mira's `2,4,6`, `5,7,9` and `13,15,17` are held out."""
ACME_JOBS: Final = 6_000
ACME_SEED: Final = 2024
SIA_NUMBERS: Final = (1, 2, 3)
"""Settings were looked for on workloads 4 and 5."""


class Work(NamedTuple):
    """One workload, ready to run."""

    name: str
    pools: Sequence[PoolLayout]
    tasks: Sequence[Task]
    speeds: Speeds | None
    measured: NDArray[np.bool_]


class Entry(NamedTuple):
    """A policy."""

    make: Callable[[Work], Scheduler]
    told: bool = False
    """It is told the run times."""
    stops: bool = True
    """It may stop running jobs."""


class Chosen(NamedTuple):
    """What of a trace, if not all that is said."""

    jobs: int | None = None
    weeks: Weeks | None = None
    nodes: int | None = None


def rigid(name: str, traces: Path | None, entry: Entry, part: Chosen) -> Work:
    """A trace or Acme, with what the policy may know and do."""
    if name == "acme":
        told: Estimates = "exact" if entry.told else "limit"
        tasks = acme(part.jobs or ACME_JOBS, "kalos", seed=ACME_SEED, load=0.9, estimates=told)
        pool, from_s, first_s, to_s = ACME, 0.0, 0.0, np.inf
    else:
        assert traces is not None
        trace = TRACES[name]
        tasks = tasks_of(read_trace(traces / trace.file), estimates="exact" if entry.told else trace.estimates)
        pool = msgspec.structs.replace(trace.pool, nodes=part.nodes or trace.pool.nodes)
        from_s, first_s, to_s = (week * WEEK_S for week in part.weeks or trace.weeks)
    tasks = tuple(task for task in tasks if from_s <= task.job.submit_s < to_s)[: part.jobs]
    if entry.stops:
        save_s, restart_s = COSTS[name]
        tasks = resumable(tasks, save_s=save_s, restart_s=restart_s, saves_every_s=SAVES_EVERY_S)
    measured = np.array([task.job.submit_s >= first_s for task in tasks])
    return Work(name, (pool,), tasks, None, measured)


def sia(name: str, number: int, traces: Path, entry: Entry, *, elastic: bool) -> Work:
    """One of Sia's; rigid ones are as their users tuned them."""
    with gzip.open(traces / f"{name.replace('-', '_')}_workloads.csv.gz", "rt", encoding="utf-8") as file:
        rows = read_sia(file)[number]
    made = sia_workload(rows, tuning="elastic" if elastic else "rigid")
    return Work(name, profiles().layouts, made.tasks, made.speeds, np.ones(len(made.tasks), dtype=np.bool_))


def speeds_of(work: Work) -> Speeds:
    """Of a workload that has some."""
    assert work.speeds is not None
    return work.speeds


def qssf(work: Work) -> ShortestRemaining:
    """Helios' QSSF, by the learned forecasts."""
    durations = Durations(estimates=work.name in TRACES and TRACES[work.name].estimates == "asked")
    return ShortestRemaining(durations, learn=durations.ended)


def means() -> ShortestRemaining:
    """The same by the mean of a user's jobs."""
    learned = UserMeans()
    return ShortestRemaining(learned, learn=learned.learn)


def tiresias(work: Work) -> LeastService:
    """Queues up to one hour and ten hours of the least that can be had: a GPU, or Mira's midplane of 512 nodes."""
    each = MIRA.devices_per_node if work.name == "mira" else 1
    return LeastService(thresholds=tuple(each * threshold for threshold in THRESHOLDS_DEVICE_S))


def everybody(job: Job) -> tuple[object, ...]:
    """One group: nothing is known of a job but its age."""
    return (0,)


RIGID: Final[dict[str, Entry]] = {
    "fifo": Entry(lambda work: InOrder(Placed(work.pools)), stops=False),
    "easy": Entry(lambda work: Easy(Placed(work.pools)), stops=False),
    "easy, told": Entry(lambda work: Easy(Placed(work.pools)), told=True, stops=False),
    "sjbf, told": Entry(lambda work: Easy(Placed(work.pools), shortest_first=True), told=True, stops=False),
    "qssf": Entry(lambda work: Ranked(Placed(work.pools), qssf(work)), stops=False),
    "srsf, user means": Entry(lambda work: Ranked(Placed(work.pools), means())),
    "tiresias": Entry(lambda work: Ranked(Placed(work.pools), tiresias(work), worth=FREE_OF_CHARGE)),
    "myriarch": Entry(lambda work: myriarch(Placed(work.pools))),
    "- preemption": Entry(lambda work: myriarch(Placed(work.pools)), stops=False),
    "- prediction": Entry(lambda work: myriarch(Placed(work.pools), learner=Lengths(keys=everybody))),
    "- price": Entry(lambda work: myriarch(Placed(work.pools), settings=Settings(price=0.0))),
    "- guard": Entry(lambda work: myriarch(Placed(work.pools), settings=Settings(guard_s=math.inf))),
    "- price of holds": Entry(lambda work: myriarch(Placed(work.pools), settings=Settings(holds_priced=False))),
    "- holds": Entry(lambda work: myriarch(Placed(work.pools), settings=Settings(holds=False))),
    "- fragments": Entry(lambda work: myriarch(Placed([_loose(pool) for pool in work.pools]))),
}
"""`- price`: whoever stands before displaces, whatever it costs, and holds cost nothing. `- price of holds`: only that.
`- guard`: nobody has a turn; what a hold spares is then unknown, and it is always made.
`- holds`: nothing is kept for the first in line. `- fragments`: nodes of one device, so that any will do: what
packing and defragmentation could bring at most (Mira: nodes of 64)."""

UNLIKE: Final[dict[str, Entry]] = {
    "gavel": Entry(lambda work: Gavel(Placed(work.pools), speeds=speeds_of(work))),
    "sia": Entry(lambda work: Resizing(Placed(work.pools), speeds_of(work))),
    "myriarch": Entry(lambda work: myriarch(Placed(work.pools), speeds=work.speeds)),
    "- prediction": Entry(
        lambda work: myriarch(Placed(work.pools), speeds=work.speeds, learner=Lengths(keys=everybody))
    ),
    "- elasticity": Entry(lambda work: myriarch(Placed(work.pools), speeds=work.speeds)),
}
FIXED_SIZE: Final = ("gavel", "- elasticity")
"""Rows whose jobs keep the devices and the batch that their users chose."""


def _loose(pool: PoolLayout) -> PoolLayout:
    each = 64 if pool.name == "mira" else 1
    return PoolLayout(name=pool.name, nodes=pool.devices // each, devices_per_node=each)


class Row(NamedTuple):
    """What came of one policy on one workload."""

    values: dict[str, float]
    by_day: dict[int, Floats]
    """Completion times by day of submission, in seconds; of Sia's, the mean by workload."""


def measured(work: Work, entry: Entry) -> tuple[ClusterOutcome, float]:
    begin = time.process_time()
    outcome = simulate_cluster(work.tasks, entry.make(work), speeds=work.speeds)
    return outcome, time.process_time() - begin


def row(work: Work, entry: Entry) -> Row:
    """Run it."""
    outcome, cpu_s = measured(work, entry)
    chosen = work.measured & outcome.completed
    summary = outcome.summary(chosen)
    assert summary is not None
    rho = outcome.finish_time_fairness[chosen]
    values = {
        "jobs": float(summary.jobs),
        "jct_h_mean": summary.completion_s_mean / 3600,
        "jct_h_p50": summary.completion_s_p50 / 3600,
        "jct_h_p95": summary.completion_s_p95 / 3600,
        "slowdown_p95": summary.slowdown_p95,
        "utilisation": outcome.utilisation,
        "jain": jain(outcome, chosen),
        "rho_p95": float(np.quantile(rho, 0.95)),
        "rho_max": float(rho.max()),
        "preemptions": float(summary.preemptions),
        "resizes": float(summary.resizes),
        "cpu_s": cpu_s,
    }
    days = (outcome.submit_s // DAY_S).astype(int)
    by_day = {int(day): outcome.completion_s[chosen & (days == day)] for day in np.unique(days[chosen])}
    return Row(values, by_day)


def ratios(one: Row, ours: Row) -> dict[str, float]:
    """Mean and 95th percentile over ours, with 95 % intervals: days are drawn anew, for both alike."""
    days = sorted(ours.by_day.keys() & one.by_day.keys())

    def of(drawn: Iterable[int]) -> tuple[float, float]:
        theirs, mine = (np.concatenate([row.by_day[day] for day in drawn]) for row in (one, ours))
        return float(theirs.mean() / mine.mean()), float(np.quantile(theirs, 0.95) / np.quantile(mine, 0.95))

    draw = np.random.default_rng(0)
    again = np.array([of(draw.choice(days, size=len(days)).tolist()) for _ in range(BOOTSTRAPS)])
    low, high = np.quantile(again, (0.025, 0.975), axis=0)
    found: dict[str, float] = {}
    for at, name in enumerate(("mean_ratio", "p95_ratio")):
        found |= {name: of(days)[at], f"{name}_low": float(low[at]), f"{name}_high": float(high[at])}
    return found


def jain(outcome: ClusterOutcome, chosen: NDArray[np.bool_]) -> float:
    """Of tenants' service over demand, over the chosen jobs."""
    tenants = np.asarray(outcome.columns.tenant)[chosen]
    held = np.bincount(tenants, weights=np.asarray(outcome.columns.held_device_s)[chosen])
    asked = np.bincount(tenants, weights=(outcome.devices * outcome.completion_s)[chosen])
    shares = held[asked > 0] / asked[asked > 0]
    return float(shares.sum() ** 2 / (len(shares) * (shares**2).sum()))


def mean_row(rows: Sequence[Row]) -> Row:
    """Of several workloads of one kind."""
    values = {name: float(np.mean([one.values[name] for one in rows])) for name in rows[0].values}
    return Row(values, {number: np.array([one.values["jct_h_mean"]]) for number, one in enumerate(rows)})


def table(name: str, traces: Path | None, chosen: Sequence[str] | None, part: Chosen) -> dict[str, dict[str, Any]]:
    """All policies on one workload, ours last compared with."""
    unlike = name.startswith("sia-")
    entries = UNLIKE if unlike else RIGID
    rows: dict[str, Row] = {}
    for policy, entry in entries.items():
        if chosen and policy not in chosen and policy != "myriarch":
            continue
        if unlike:
            assert traces is not None
            works = [sia(name, number, traces, entry, elastic=policy not in FIXED_SIZE) for number in SIA_NUMBERS]
            rows[policy] = mean_row([row(work, entry) for work in works])
        else:
            rows[policy] = row(rigid(name, traces, entry, part), entry)
        print_row(name, policy, rows[policy])
    ours = rows["myriarch"]
    found: dict[str, dict[str, Any]] = {}
    for policy, one in rows.items():
        days = sorted(ours.by_day.keys() & one.by_day.keys())
        gain = estimate([float(np.log(one.by_day[day].mean() / ours.by_day[day].mean())) for day in days])
        found[policy] = {**one.values, "gain": gain.mean, "gain_half_width": gain.half_width, "gain_over": len(days)}
        if not unlike:
            found[policy] |= ratios(one, ours)
    return found


COLUMNS: Final = {
    "jct_h_mean": "{:9.2f}",
    "jct_h_p50": "{:9.3f}",
    "jct_h_p95": "{:9.2f}",
    "slowdown_p95": "{:9.1f}",
    "utilisation": "{:7.3f}",
    "jain": "{:7.3f}",
    "rho_p95": "{:8.2f}",
    "rho_max": "{:8.1f}",
    "preemptions": "{:8.0f}",
    "resizes": "{:7.0f}",
    "cpu_s": "{:7.1f}",
}

SHORT: Final = {
    "jct_h_mean": "   mean h",
    "jct_h_p50": "    p50 h",
    "jct_h_p95": "    p95 h",
    "slowdown_p95": "slow p95",
    "utilisation": "   used",
    "jain": "   jain",
    "rho_p95": " rho p95",
    "rho_max": " rho max",
    "preemptions": " preempt",
    "resizes": " resize",
    "cpu_s": "  cpu s",
}


def print_row(workload: str, policy: str, one: Row) -> None:
    """As soon as it is there."""
    if not quiet:
        cells = " ".join(text.format(one.values[name]) for name, text in COLUMNS.items())
        print(f"{workload:12}{policy:18}{cells}", flush=True)


quiet = False


def spans(values: dict[str, Any]) -> str:
    """Ratios with their intervals."""
    return "".join(
        f"   {name} x {values[key]:.3f} ({values[f'{key}_low']:.3f} to {values[f'{key}_high']:.3f})"
        for name, key in (("mean", "mean_ratio"), ("P95", "p95_ratio"))
        if key in values
    )


def weeks_of(text: str) -> Weeks:
    """`13,15,17`."""
    warm, first, last = (float(part) for part in text.split(","))
    if not 0 <= warm <= first <= last:
        raise ValueError(text)
    return Weeks(warm, first, last + 1)


def main() -> None:
    global quiet
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--workload", nargs="+", choices=[*TRACES, "acme", *(f"sia-{n}" for n in PUBLISHED_HOURS)])
    parser.add_argument("--policy", nargs="+", help="these, and ours")
    parser.add_argument("--jobs", type=int, help="the first so many of each workload (not Sia's)")
    parser.add_argument("--weeks", type=weeks_of, metavar="WARM,FIRST,LAST", help="of a trace, from 0")
    parser.add_argument("--nodes", type=int, help="of a trace's fleet, instead of all")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    quiet = given.json
    names = given.workload or (["acme"] if given.traces is None else [*TRACES, "acme", "sia-philly", "sia-saturn"])
    if given.traces is None and names != ["acme"]:
        parser.error("these workloads need --traces")
    if not quiet:
        print(f"{'workload':12}{'policy':18}" + " ".join(SHORT[name] for name in COLUMNS))
    part = Chosen(given.jobs, given.weeks, given.nodes)
    tables = {name: table(name, given.traces, given.policy, part) for name in names}
    if quiet:
        published = {f"sia-{name}": hours for name, hours in PUBLISHED_HOURS.items()}
        print(json.dumps({"workloads": tables, "published_jct_h_mean": published}, indent=1))
        return
    for name, found in tables.items():
        print(f"\n{name}: ln(mean completion time / ours), by {'workload' if name.startswith('sia-') else 'day'}")
        for policy, values in found.items():
            half = values["gain_half_width"]
            print(
                f"  {policy:18}{values['gain']:+7.3f} +- {half:.3f}{spans(values)}"
                if half is not None
                else f"  {policy}"
            )
        if name.startswith("sia-"):
            print(f"  published: {PUBLISHED_HOURS[name.removeprefix('sia-')]}")


if __name__ == "__main__":
    main()
