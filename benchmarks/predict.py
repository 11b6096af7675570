"""Run times and queue waits, forecast on weeks that were never learnt from.

    python benchmarks/predict.py --traces FOLDER [--part durations|waits ...] [--case NAME ...] [--jobs N] [--json]

FOLDER holds Philly, Mira, ThetaGPU, PAI, SDSC and Lublin under the names in TRACES and WAITS, and `oracles/`. Events
are played in the order of time: every forecast is made at a submission, from what had happened before, by models that
are grown anew every week. What is scored is all jobs of weeks after the first quarter of the trace, or after two weeks.

`durations`, against the user's own estimate, the mean of the user's last two jobs (Tsafrir, Etsion and Feitelson,
IEEE TPDS 2007; of the tenant's where users are unknown) and the median of all so far: `error` is the median of
|log(forecast / run time)|, `tau` is Kendall's, `p50_cover` and `p90_cover` the shares that ran no longer.

`waits`, against the quantiles of the last 500 waits (after Brevik, Nurmi and Wolski, PPoPP'06). A P50 is right where at
most one half of the waits are below it and at least one half are no longer; where many are nothing at all these two
shares differ, and both are given. `p50_off` is how far 0.5 lies outside of them, in points; `p50_weeks` how many weeks,
of those with 50 jobs or more, are within 10 points. `p50_told` is the share of jobs that were told to wait (a P50 above
a second), `p50_within_of_told` how many of these waited no longer. `error` is the median of |log(1 + P50) -
log(1 + wait)|, `pinball` the mean quantile loss of log(1 + wait), P50 and P90 added up.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from scipy.stats import kendalltau  # noqa: E402

from myriarch.schedule.conservative import Conservative  # noqa: E402
from myriarch.schedule.counted import Counted  # noqa: E402
from myriarch.schedule.decision import Decision, Preempt, Start  # noqa: E402
from myriarch.schedule.durations import Durations  # noqa: E402
from myriarch.schedule.easy import Easy  # noqa: E402
from myriarch.schedule.in_order import InOrder  # noqa: E402
from myriarch.schedule.job import Job, JobId  # noqa: E402
from myriarch.schedule.layout import PoolLayout  # noqa: E402
from myriarch.schedule.myriarch import myriarch  # noqa: E402
from myriarch.schedule.placed import Placed  # noqa: E402
from myriarch.schedule.scheduler import Scheduler  # noqa: E402
from myriarch.schedule.waits import AT_ONCE_S, LEVELS, Waits  # noqa: E402
from myriarch.simulate.cluster import simulate_cluster  # noqa: E402
from myriarch.simulate.queueing import Task, simulate_queue  # noqa: E402
from myriarch.simulate.scenario_waits import loss, outcomes, quantile  # noqa: E402
from myriarch.simulate.workload.reading import read_trace  # noqa: E402
from myriarch.simulate.workload.tasks import resumable, tasks_of  # noqa: E402
from myriarch.simulate.workload.trace import TraceJob  # noqa: E402
from simulate import PHILLY, described_machine, schedule_of  # noqa: E402

Floats = npt.NDArray[np.float64]

WEEK_S: Final = 7 * 86_400.0
YEAR_S: Final = 365 * 86_400.0
TRACES: Final = {
    "philly": "philly_2017_jobs.csv.gz",
    "mira": "alcf_mira_2018.csv.gz",
    "thetagpu": "alcf_thetagpu_2023.csv.gz",
    "pai": "alibaba_pai2020_gaia_100k.csv.gz",
    "sdsc": "sdsc_sp2_5k.swf.gz",
}
SAMPLE: Final = 20_000
"""Jobs that Kendall's tau is of, at most."""
RECENT_WAITS: Final = 500
WEEK_JOBS: Final = 50
POINTS: Final = 0.1


class Played(NamedTuple):
    """A job of a real or a simulated schedule."""

    job: Job
    spells: tuple[tuple[float, float], ...]
    """When it started and stopped, each time."""
    run_s: float

    @property
    def start_s(self) -> float:
        """For the first time."""
        return self.spells[0][0]


Schedule = tuple[list[Played], int, bool]
"""Jobs, devices, and whether estimates are what people asked for."""
Reader = Callable[[Path, int | None], Schedule]
"""Of a folder's first so many jobs."""


def at_once(job: Job, start_s: float, run_s: float) -> Played:
    """It is never stopped."""
    return Played(job, ((start_s, start_s + run_s),), run_s)


def job_of(one: TraceJob) -> Job:
    """As it was submitted; an estimate of a year where there is none, which bounds nothing."""
    return Job(
        id=JobId(one.id),
        submit_s=one.submit_s,
        devices=one.devices,
        estimate_s=one.estimate_s or YEAR_S,
        tenant=one.tenant,
        user=one.user,
        kind="gang" if one.devices > 1 else "experiment",
    )


def held_out(submit_s: Floats) -> npt.NDArray[np.bool_]:
    """After the first quarter, or two weeks; in a short trace, after the first quarter."""
    last_s = float(submit_s[-1])
    chosen: npt.NDArray[np.bool_] = submit_s >= min(max(2 * WEEK_S, last_s / 4), last_s / 2)
    return chosen


# Run times


def durations(name: str, folder: Path, count: int | None = None) -> dict[str, Any]:
    """One trace, or its first `count` jobs, in the order of submissions and ends; where waits are unknown, every job
    starts at once."""
    jobs = read_trace(folder / TRACES[name]).jobs[:count]
    asked = any(one.estimate_s for one in jobs)
    machine = Durations(estimates=asked)
    begin = time.process_time()
    forecasts = []
    ends: list[tuple[float, int, Job]] = []
    for index, one in enumerate(jobs):
        while ends and ends[0][0] <= one.submit_s:
            end_s, which, ended = heapq.heappop(ends)
            machine.ended(ended, jobs[which].run_s, now_s=end_s)
        job = job_of(one)
        forecasts.append(machine.submitted(job, now_s=one.submit_s))
        heapq.heappush(ends, (one.submit_s + (one.wait_s or 0.0) + one.run_s, index, job))
    cpu_s = time.process_time() - begin
    machine.check()
    submit_s, run_s = np.array([one.submit_s for one in jobs]), np.array([one.run_s for one in jobs])
    chosen = held_out(submit_s)
    p50_s, p90_s, mean_s = np.array([(each.p50_s, each.p90_s, each.mean_s) for each in forecasts])[chosen].T
    run_s = run_s[chosen]
    scored = {"learnt": p50_s, "learnt mean": mean_s}
    scored |= {label: guess[chosen] for label, guess in guesses(jobs).items() if np.isfinite(guess[chosen]).all()}
    return {
        "jobs": len(jobs),
        "scored": len(run_s),
        "cpu_s": cpu_s,
        "p50_cover": float((run_s <= p50_s).mean()),
        "p90_cover": float((run_s <= p90_s).mean()),
        "mean_ratio": float(mean_s.mean() / run_s.mean()),
        "by": {label: accuracy(guess, run_s) for label, guess in scored.items()},
    }


def guesses(jobs: Sequence[TraceJob]) -> dict[str, Floats]:
    """What others would say at each submission; NaN: nothing."""
    last_two: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=2))
    logs: list[float] = []
    found: dict[str, list[float]] = {"estimate": [], "last two": [], "median": []}
    ends: list[tuple[float, int]] = []
    median_s = math.nan
    for index, one in enumerate(jobs):
        while ends and ends[0][0] <= one.submit_s:
            ended = jobs[heapq.heappop(ends)[1]]
            last_two[f"{ended.tenant}/{ended.user}"].append(ended.run_s)
            logs.append(ended.run_s)
            if len(logs) & (len(logs) - 1) == 0 or len(logs) % 1000 == 0:
                median_s = float(np.median(logs))
        found["estimate"].append(one.estimate_s or math.nan)
        mine = last_two.get(f"{one.tenant}/{one.user}")
        found["last two"].append(sum(mine) / len(mine) if mine else one.estimate_s or median_s)
        found["median"].append(median_s)
        heapq.heappush(ends, (one.submit_s + (one.wait_s or 0.0) + one.run_s, index))
    return {label: np.array(values) for label, values in found.items()}


def accuracy(guess_s: Floats, run_s: Floats) -> dict[str, float | None]:
    """How near, and how well ordered."""
    sample = np.random.default_rng(0).permutation(len(run_s))[:SAMPLE]
    constant = bool(np.ptp(guess_s[sample]) == 0)
    tau = None if constant else float(kendalltau(guess_s[sample], run_s[sample])[0])
    errors = np.abs(np.log(np.maximum(guess_s, 1.0) / np.maximum(run_s, 1.0)))
    return {"error": float(np.median(errors)), "error_mean": float(errors.mean()), "tau": tau}


# Waits


def recorded(name: str, devices: int) -> Reader:
    """What the file says, of the real system or of a simulation."""

    def read(folder: Path, count: int | None) -> Schedule:
        jobs = [one for one in read_trace(folder / name).jobs if one.wait_s is not None][:count]
        played = [at_once(job_of(one), one.submit_s + (one.wait_s or 0.0), one.run_s) for one in jobs]
        return played, devices, any(one.estimate_s for one in jobs)

    return read


def oracle(name: str, devices: int) -> Reader:
    """A schedule by pyss, which ours equal start by start."""

    def read(folder: Path, count: int | None) -> Schedule:
        known = schedule_of(folder / "oracles" / f"{name}.csv.gz", "start")
        assert known.start_s is not None
        starts = known.start_s.tolist()
        played = [at_once(task.job, start, task.run_s) for task, start in zip(known.tasks, starts, strict=True)]
        return played[:count], devices, True

    return read


def usual(path: Path, count: int | None, devices: int) -> list[Task]:
    """A trace's jobs; schedulers are told the next usual limit above the run time, `Durations` are not."""
    return [task for task in tasks_of(read_trace(path), estimates="usual") if task.job.devices <= devices][:count]


def simulated(name: str, make: Callable[[Counted], Scheduler], devices: int) -> Reader:
    """Our own schedule of a trace."""

    def read(folder: Path, count: int | None) -> Schedule:
        tasks = usual(folder / name, count, devices)
        starts = simulate_queue(tasks, make(Counted(devices))).start_s.tolist()
        played = [at_once(task.job, start, task.run_s) for task, start in zip(tasks, starts, strict=True)]
        return played, devices, False

    return read


def preemptive(name: str, pool: PoolLayout) -> Reader:
    """The same under our own policy on nodes, which stops jobs that can go on later: 30 s to save, 60 s to restart, a
    checkpoint each half hour."""

    def read(folder: Path, count: int | None) -> Schedule:
        tasks = resumable(usual(folder / name, count, pool.devices), save_s=30.0, restart_s=60.0, saves_every_s=1800.0)
        starts: dict[JobId, list[float]] = defaultdict(list)
        stops: dict[JobId, list[float]] = defaultdict(list)

        def observe(decision: Decision) -> None:
            if isinstance(decision, Start | Preempt):
                (starts if isinstance(decision, Start) else stops)[decision.job].append(decision.at_s)

        outcome = simulate_cluster(tasks, myriarch(Placed([pool])), observe=observe)
        for task, end_s in zip(tasks, outcome.ended_s.tolist(), strict=True):
            stops[task.job.id].append(end_s)
        played = [
            Played(task.job, tuple(zip(starts[task.job.id], stops[task.job.id], strict=True)), task.run_s)
            for task in tasks
        ]
        return played, pool.devices, False

    return read


WAITS: Final[dict[str, Reader]] = {
    "mira, recorded": recorded(TRACES["mira"], 49_152),
    "thetagpu, recorded": recorded(TRACES["thetagpu"], 24),
    "philly attempts, FIFO": recorded("philly_2017_attempts.csv.gz", 2_490),
    "mira, EASY": oracle("mira_easy", 49_152),
    "mira, FIFO": oracle("mira_fcfs", 49_152),
    "sdsc, EASY": oracle("sdsc5k_easy", 128),
    "sdsc, FIFO": oracle("sdsc5k_fcfs", 128),
    "sdsc, conservative": oracle("sdsc5k_cons", 128),
    "lublin, FIFO": simulated("lublin_256.swf.gz", InOrder, 256),
    "lublin, EASY": oracle("lublin256_easy", 256),
    "lublin, conservative": oracle("lublin256_cons", 256),
    "philly, EASY": simulated(TRACES["philly"], Easy, 512),
    "philly, FIFO": simulated(TRACES["philly"], InOrder, 512),
    "philly, conservative": simulated(TRACES["philly"], Conservative, 512),
    "philly, myriarch": preemptive(TRACES["philly"], PHILLY),
    "pai, EASY": simulated(TRACES["pai"], Easy, 128),
    "pai, FIFO": simulated(TRACES["pai"], InOrder, 128),
    "pai, conservative": simulated(TRACES["pai"], Conservative, 128),
}
"""The waits in the file of Philly's attempts are not Philly's: all 151,816 starts are those of a queue served in
order by 2,490 devices, to the second. ThetaGPU has 24 nodes. PAI's jobs, as they were
resampled, would keep 115 devices busy on average: 128 are a load of 0.9; its few larger jobs are left out."""


NEW, STOP, START = range(3)
"""What happens first at one instant."""


def events(played: Sequence[Played]) -> Iterator[tuple[float, int, int, int]]:
    """Instant, NEW, STOP or START, which job, for which time."""
    found = []
    for index, each in enumerate(played):
        found.append((each.job.submit_s, NEW, index, 0))
        for turn, (start_s, stop_s) in enumerate(each.spells):
            found += [(start_s, START, index, turn), (stop_s, STOP, index, turn)]
    yield from sorted(found)


class Lengths:
    """Run times as `Durations` learns them on the way; of a job that was stopped, what is left of it."""

    def __init__(self, *, estimates: bool) -> None:
        self.known = Durations(estimates=estimates)
        self.done_s: dict[JobId, float] = defaultdict(float)

    def expected(self, job: Job) -> float:
        done_s = self.done_s.get(job.id)
        if done_s is None:
            return self.known.forecast(job, now_s=job.submit_s).mean_s
        return self.known.remaining(job, age_s=done_s, now_s=job.submit_s).mean_s

    def likely(self, job: Job) -> Floats:
        likely_s, done_s = self.known.likely(job, now_s=job.submit_s), self.done_s.get(job.id, 0.0)
        left_s = likely_s[likely_s > done_s] - done_s
        return left_s if len(left_s) else np.array([self.expected(job)])


def waits(name: str, folder: Path, count: int | None = None) -> dict[str, Any]:
    """One schedule, or its first `count` jobs, watched. Of jobs that are stopped, the first wait is scored."""
    played, devices, asked = WAITS[name](folder, count)
    lengths = Lengths(estimates=asked)
    machine = Waits(devices=devices, expected=lengths.expected, likely=lengths.likely)
    begin = time.process_time()
    said = np.zeros((2, len(played)))
    plain = np.zeros((2, len(played)))
    recent: deque[float] = deque(maxlen=RECENT_WAITS)
    for now_s, kind, index, turn in events(played):
        job, spells, run_s = played[index]
        if kind == NEW:
            lengths.known.submitted(job, now_s=now_s)
            forecast = machine.submitted(job, now_s=now_s)
            said[:, index] = forecast.p50_s, forecast.p90_s
            plain[:, index] = np.quantile(recent, (0.5, 0.9)) if recent else 0.0
        elif kind == START:
            machine.started(job, now_s=now_s)
            if not turn:
                recent.append(now_s - job.submit_s)
        else:
            machine.ended(job, now_s=now_s)
            if turn + 1 < len(spells):
                lengths.done_s[job.id] += now_s - spells[turn][0]
                machine.submitted(job, now_s=now_s)
            else:
                lengths.known.ended(job, run_s, now_s=now_s)
    cpu_s = time.process_time() - begin
    machine.check()
    submit_s = np.array([each.job.submit_s for each in played])
    wait_s = np.array([each.start_s for each in played]) - submit_s
    chosen = held_out(submit_s)
    weeks = (submit_s[chosen] // WEEK_S).astype(np.int64)
    result: dict[str, Any] = {
        "jobs": len(played),
        "scored": int(chosen.sum()),
        "cpu_s": cpu_s,
        "stops": sum(len(each.spells) - 1 for each in played),
        "at_once": float((wait_s[chosen] <= AT_ONCE_S).mean()),
    }
    for label, quantiles in (("learnt", said), ("recent", plain)):
        result[label] = calibration(quantiles[:, chosen], wait_s[chosen], weeks)
    return result


def calibration(said_s: Floats, wait_s: Floats, weeks: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Of P50 and P90."""
    result: dict[str, Any] = {"pinball": loss((said_s[0], said_s[1]), wait_s)}
    for level, forecast_s in zip(LEVELS, said_s, strict=True):
        name, found = f"p{100 * level:.0f}", quantile(level, forecast_s, wait_s)
        below, within = outcomes(forecast_s, wait_s)
        off = [
            outside(level, below[weeks == week], within[weeks == week])
            for week in np.unique(weeks)
            if (weeks == week).sum() >= WEEK_JOBS
        ]
        result[f"{name}_below"], result[f"{name}_within"] = found.below, found.within
        result[f"{name}_told"], result[f"{name}_within_of_told"] = found.told, found.told_within
        result[f"{name}_off"] = 100 * outside(level, below, within)
        result[f"{name}_weeks"] = [int((np.array(off) <= POINTS).sum()), len(off)]
    result["error"] = float(np.median(np.abs(np.log1p(wait_s) - np.log1p(said_s[0]))))
    return result


def outside(level: float, below: npt.NDArray[np.bool_], within: npt.NDArray[np.bool_]) -> float:
    """How far a level lies outside of what was found."""
    return float(max(below.mean() - level, level - within.mean(), 0.0))


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [result["machine"]]
    if result["durations"]:
        lines.append(
            f"{'run times':12}{'scored':>8}{'CPU s':>7}{'<=P50':>7}{'<=P90':>7}{'mean':>6}   median error / tau"
        )
    for name, case in result["durations"].items():
        by = ", ".join(
            f"{label} {each['error']:.2f}/{'-' if each['tau'] is None else format(each['tau'], '.2f')}"
            for label, each in case["by"].items()
        )
        lines.append(
            f"{name:12}{case['scored']:8,}{case['cpu_s']:7.1f}{case['p50_cover']:7.2f}{case['p90_cover']:7.2f}"
            f"{case['mean_ratio']:6.2f}   {by}"
        )
    if result["waits"]:
        lines.append(
            f"{'waits':22}{'scored':>8}{'CPU s':>7}{'at once':>8}{'<P50':>7}{'<=P50':>7}{'told':>6}{'of it':>6}"
            f"{'<P90':>7}{'<=P90':>7}{'weeks P50':>11}{'P90':>7}{'error':>7}{'pinball':>9}"
            "   of recent waits: <=P50, <=P90, error, pinball"
        )
    for name, case in result["waits"].items():
        ours, recent = case["learnt"], case["recent"]
        fifty, ninety = ("{}/{}".format(*ours[key]) for key in ("p50_weeks", "p90_weeks"))
        lines.append(
            f"{name:22}{case['scored']:8,}{case['cpu_s']:7.1f}{case['at_once']:8.2f}{ours['p50_below']:7.2f}"
            f"{ours['p50_within']:7.2f}{ours['p50_told']:6.2f}{ours['p50_within_of_told'] or math.nan:6.2f}"
            f"{ours['p90_below']:7.2f}{ours['p90_within']:7.2f}{fifty:>11}{ninety:>7}"
            f"{ours['error']:7.2f}{ours['pinball']:9.2f}   {recent['p50_within']:.2f} {recent['p90_within']:.2f} "
            f"{recent['error']:.2f} {recent['pinball']:.2f}"
        )
    return "\n".join(lines)


PARTS: Final[dict[str, tuple[Callable[[str, Path, int | None], dict[str, Any]], Sequence[str]]]] = {
    "durations": (durations, tuple(TRACES)),
    "waits": (waits, tuple(WAITS)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, help="folder with the traces and `oracles/`")
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--case", action="append", choices=[name for _, names in PARTS.values() for name in names])
    parser.add_argument("--jobs", type=int, help="the first so many of every case; all, if not said")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": described_machine(), "command": " ".join(["python", *sys.argv])}
    for part, (measure, names) in PARTS.items():
        chosen = [name for name in names if not options.case or name in options.case]
        result[part] = {
            name: measure(name, options.traces, options.jobs)
            for name in chosen
            if not options.part or part in options.part
        }
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
