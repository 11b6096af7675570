"""CPU-seconds that whole schedules take in virtual time, on one core, and whether they are right.

    python benchmarks/simulate.py [--case NAME ...] [--traces FOLDER] [--repeats 3] [--compare] [--json]
    python benchmarks/simulate.py --flatness OUT.svg [--json]

| case | what is scheduled |
| --- | --- |
| mira_easy | 22,508 jobs of ALCF Mira, 49,152 nodes, EASY backfilling |
| lublin_conservative | 10,000 Lublin-Feitelson jobs, 256 processors, conservative backfilling |
| sdsc_easy | 4,961 jobs of SDSC-SP2, 128 processors, EASY backfilling |
| philly_easy | 82,247 jobs of Philly on 512 devices: 64 nodes in 8 racks and 2 pods, gangs packed, EASY backfilling |
| devices_100k_90d | one job on 100,352 devices for 90 days, at FT-HSDP's failure rates, recovered as `Control` does |
| jobs_1m_100k | 1,000,000 generated jobs on 100,352 devices that break at Llama 3's rates: EASY, gangs packed; once |

FOLDER holds `oracles/*.csv.gz` (id, submit, procs, run, est, start: schedules by pyss) and `philly_2017_jobs.csv.gz`.
Without it, SDSC and Lublin come from `tests/data/schedules`, and Mira and Philly are replaced by generated jobs of
the same number and load, marked `generated`. Philly has no estimates: schedulers are told the run times.

`cpu_s` is of reading the file, scheduling and summing up, without the start of Python; the least of the repeats, each
in a process of its own. `peak_bytes` is the most memory that process ever held. `differing` counts jobs whose start
differs from pyss's. `--compare` does that for all schedules in FOLDER instead. stdout is a table, or JSON:

    {"machine", "command", "cases": {NAME: {"cpu_s", "events_per_s", "peak_bytes", ...}}, "peers": [...],
     "effective_at_98k": share, "effective_at_98k_is": {...}}

`effective_at_98k`: effective training time on 98,304 devices that fail every 18 minutes, with memory tiers, spares and
replica groups that go on (`benchmarks/simulate_fleet.py` has its assumptions, other policies and published jobs);
`effective_at_98k_is` also has what `Control` reaches as it is. Given with `--json` unless cases are chosen.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before numpy is imported

import numpy as np  # noqa: E402

from myriarch.schedule.conservative import Conservative  # noqa: E402
from myriarch.schedule.counted import Counted  # noqa: E402
from myriarch.schedule.easy import Easy  # noqa: E402
from myriarch.schedule.in_order import InOrder  # noqa: E402
from myriarch.schedule.job import Job, JobId  # noqa: E402
from myriarch.schedule.layout import PoolLayout  # noqa: E402
from myriarch.schedule.placed import Placed  # noqa: E402
from myriarch.schedule.scheduler import Scheduler  # noqa: E402
from myriarch.simulate.cluster_outcome import ClusterOutcome  # noqa: E402
from myriarch.simulate.outcome import Outcome  # noqa: E402
from myriarch.simulate.queueing import Task, simulate_queue  # noqa: E402
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning  # noqa: E402
from myriarch.simulate.workload.lublin import lublin  # noqa: E402
from myriarch.simulate.workload.reading import read_trace  # noqa: E402
from myriarch.simulate.workload.tasks import tasks_of  # noqa: E402
from simulate_cluster import flatness, million, picture  # noqa: E402
from simulate_fleet import devices_100k_90d, effective_at_98k  # noqa: E402

HERE: Final = Path(__file__).resolve().parent.parent / "tests" / "data" / "schedules"
DEVICES: Final = {"mira": 49_152, "lublin256": 256, "sdsc5k": 128}
POLICIES: Final[dict[str, Callable[[Counted], Scheduler]]] = {
    "fcfs": InOrder,
    "easy": Easy,
    "easy_sjbf": lambda machine: Easy(machine, shortest_first=True),
    "cons": Conservative,
}
PHILLY: Final = PoolLayout(name="philly", nodes=64, devices_per_node=8, nodes_per_rack=8, racks_per_pod=4)
PHILLY_JOBS: Final = 82_247
PHILLY_LOAD: Final = 0.73
MIRA_JOBS: Final = 22_508
MIRA_LOAD: Final = 0.86
PEERS: Final = [
    {"tool": tool, "case": case, "cpu_s": cpu_s, "measured": "elsewhere: on a shared 2-core machine"}
    for tool, case, cpu_s in (
        ("pyss, Python 2.7", "mira_easy", 54.7),
        ("pyss, Python 2.7", "lublin_conservative", 163.0),
        ("pyss, Python 2.7", "sdsc_easy", 0.89),
        ("AccaSim 1.1.3, Python 3.8", "sdsc_easy", 8.7),
    )
]


class Known(NamedTuple):
    """Tasks, and the starts they should have; None: nobody knows."""

    tasks: tuple[Task, ...]
    start_s: np.ndarray[Any, np.dtype[np.float64]] | None


def schedule_of(path: Path, column: str) -> Known:
    """A schedule by pyss: jobs in the order of (submit, id)."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rows.sort(key=lambda row: (float(row["submit"]), int(row["id"])))
    tasks = tuple(
        Task(
            job=Job(
                id=JobId(row["id"]),
                submit_s=float(row["submit"]),
                devices=int(row["procs"]),
                estimate_s=float(row["est"]),
            ),
            run_s=float(row["run"]),
        )
        for row in rows
    )
    return Known(tasks, np.array([float(row[column]) for row in rows]))


def counted(name: str, folder: Path | None) -> tuple[Known, Outcome]:
    """`<trace>_<policy>`, on a machine of equal devices."""
    trace, _, policy = name.partition("_")
    if folder is not None:
        known = schedule_of(folder / "oracles" / f"{name}.csv.gz", "start")
    elif trace == "mira":
        known = Known(lublin(MIRA_JOBS, devices=DEVICES[trace], seed=1, load=MIRA_LOAD), None)
    else:
        known = schedule_of(HERE / f"{trace}.csv.gz", {"cons": "conservative"}.get(policy, policy))
    return known, simulate_queue(known.tasks, POLICIES[policy](Counted(DEVICES[trace])))


def philly(folder: Path | None) -> tuple[Known, Outcome]:
    """Gangs on nodes, racks and pods."""
    if folder is not None:
        tasks = tasks_of(read_trace(folder / "philly_2017_jobs.csv.gz"), estimates="exact")
    else:
        tasks = deep_learning(
            PHILLY_JOBS, MIXES["philly"], devices=PHILLY.devices, load=PHILLY_LOAD, seed=1, estimates="exact"
        )
    return Known(tasks, None), simulate_queue(tasks, Easy(Placed([PHILLY])))


CASES: Final[dict[str, Callable[[Path | None], tuple[Known, Outcome | ClusterOutcome]]]] = {
    "mira_easy": lambda folder: counted("mira_easy", folder),
    "lublin_conservative": lambda folder: counted("lublin256_cons", folder),
    "sdsc_easy": lambda folder: counted("sdsc5k_easy", folder),
    "philly_easy": philly,
    "jobs_1m_100k": lambda folder: (Known((), None), million()),
}
GENERATED: Final = frozenset({"mira_easy", "philly_easy", "jobs_1m_100k"})
FLEET: Final = "devices_100k_90d"
NAMES: Final = [*CASES, FLEET]
ONCE: Final = frozenset({"jobs_1m_100k"})
"""Minutes long: not repeated."""


def measured(name: str, folder: Path | None) -> dict[str, Any]:
    """One case, in this process."""
    if name == FLEET:
        found = devices_100k_90d()
        return {**found, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    begin = time.process_time()
    known, outcome = CASES[name](folder)
    summary = outcome.summary()
    cpu_s = time.process_time() - begin
    assert summary is not None
    result = {
        "cpu_s": cpu_s,
        "events_per_s": outcome.events / cpu_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "jobs": summary.jobs,
        "events": outcome.events,
        "generated": name in GENERATED and (folder is None or name in ONCE),
        "wait_s_mean": summary.wait_s_mean,
        "slowdown_mean": summary.slowdown_mean,
        "utilisation": outcome.utilisation,
        "idle_fragmented": outcome.fragmented,
        "digest": outcome.digest,
    }
    if isinstance(outcome, ClusterOutcome):
        result["restarts"] = sum(outcome.columns.restarts)
        result["waiting_most"] = outcome.waiting_most
        result["unfinished"] = outcome.unfinished
    elif known.start_s is not None:
        result["differing"] = int((outcome.start_s != known.start_s).sum())
    return result


def fresh(name: str, folder: Path | None) -> dict[str, Any]:
    """The same in a process of its own, for its peak of memory."""
    command = [sys.executable, __file__, "--here", name, *(["--traces", str(folder)] if folder else [])]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def compare(folder: Path) -> int:
    """Every schedule of the folder, job by job; how many starts differ."""
    total = 0
    print(f"{'schedule':18}{'jobs':>8}{'differing':>11}{'wait s':>14}{'slowdown':>12}{'CPU s':>8}")
    for path in sorted((folder / "oracles").glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        begin = time.process_time()
        known, outcome = counted(name, folder)
        summary = outcome.summary()
        assert summary is not None
        assert known.start_s is not None
        differing = int((outcome.start_s != known.start_s).sum())
        total += differing
        print(
            f"{name:18}{summary.jobs:8,}{differing:11,}{summary.wait_s_mean:14,.3f}{summary.slowdown_mean:12,.4f}"
            f"{time.process_time() - begin:8.2f}"
        )
    return total


def described_machine() -> str:
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{processor}, one of {os.cpu_count()} cores, Python {platform.python_version()}"


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [
        result["machine"],
        f"{'case':22}{'CPU s':>8}{'events/s':>11}{'MB':>7}{'jobs':>11}{'differing':>11}   peers",
    ]
    for name, case in result["cases"].items():
        peers = ", ".join(f"{peer['tool']}: {peer['cpu_s']} s" for peer in result["peers"] if peer["case"] == name)
        differing = case.get("differing", "generated" if case["generated"] else "-")
        lines.append(
            f"{name:22}{case['cpu_s']:8.2f}{case['events_per_s']:11,.0f}{case['peak_bytes'] / 1e6:7.0f}"
            f"{case['jobs']:11,}{differing:>11}   {peers or '-'}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=NAMES)
    parser.add_argument("--traces", type=Path, help="folder with `oracles/` and the Philly trace")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compare", action="store_true", help="all schedules of the folder, job by job")
    parser.add_argument("--flatness", type=Path, metavar="OUT.svg", help="cost per event over jobs and devices")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measured(options.here, options.traces)))
        return
    if options.flatness:
        rows = flatness()
        options.flatness.write_text(picture(rows, machine=described_machine()), encoding="utf-8")
        print(json.dumps(rows, indent=2))
        return
    if options.compare:
        if options.traces is None:
            parser.error("--compare needs --traces FOLDER")
        sys.exit(1 if compare(options.traces) else 0)
    cases = {
        name: min(
            (fresh(name, options.traces) for _ in range(1 if name in ONCE else options.repeats)),
            key=lambda each: float(each["cpu_s"]),
        )
        for name in options.case or NAMES
    }
    result = {
        "machine": described_machine(),
        "command": " ".join(["python", *sys.argv]),
        "cases": cases,
        "peers": PEERS,
    }
    if options.json and not options.case:
        shares = effective_at_98k()
        result |= {"effective_at_98k": shares["live"]["effective"], "effective_at_98k_is": shares}
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
