"""Gavel's pair: fairness that knows unlike devices against fairness that does not, on the very jobs of its artefact.

    PYTHONPATH=src python benchmarks/gavel.py --throughputs FILE [--seeds N] [--json]

FILE is `scheduler/simulation_throughputs.json` of stanford-futuredata/gavel (plain or gzip). 36 V100, 36 P100 and 36
K80, one job every 600 s on average, mean completion time of the first 200 jobs, rounds of 360 s, later jobs going on to
come. The artefact (`simulate_scheduler_with_generated_jobs.py -c 36:36:36 -l 600 -s 0 -e 200 --seed 0 -i 360`) gives
21.58 h for `max_min_fairness` and 15.02 h for `max_min_fairness_perf`: 1.44 times as long. Our blind policy spreads
every job evenly over the kinds; theirs takes what an interior-point solver returns, and shuffles the kinds.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from myriarch.schedule.decision import Decision
from myriarch.schedule.gavel_scheduler import Gavel, even
from myriarch.schedule.heterogeneous import Policy, max_min
from myriarch.schedule.job import JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.workload.gavel import GavelWorkload, gavel, read_rates

KINDS: Final = ("k80", "p100", "v100")
EACH: Final = 36
MEASURED: Final = 200
JOBS: Final = 5000
"""Enough that jobs still come when the last of the first 200 ends."""
PUBLISHED_H: Final = {"blind": 77_694.64 / 3600, "aware": 54_064.62 / 3600}
POLICIES: Final[dict[str, Policy]] = {"blind": even, "aware": max_min}


class _Over(Exception):
    """The last of the measured jobs ended."""


class _Watched:
    """A scheduler whose ends are noted."""

    def __init__(self, scheduler: Gavel, measured: set[JobId]) -> None:
        self._scheduler = scheduler
        self._left = measured
        self.ended_s: dict[JobId, float] = {}
        self.machine = scheduler.machine
        self.submit, self.wake, self.check = scheduler.submit, scheduler.wake, scheduler.check

    waiting = property(lambda self: self._scheduler.waiting)
    head = property(lambda self: self._scheduler.head)
    wake_s = property(lambda self: self._scheduler.wake_s)

    def end(self, job: JobId, *, now_s: float) -> Sequence[Decision]:
        """Note it, and stop when all have ended."""
        if job in self._left:
            self._left.remove(job)
            self.ended_s[job] = now_s
            if not self._left:
                raise _Over
        return self._scheduler.end(job, now_s=now_s)


def measured(workload: GavelWorkload, policy: Policy) -> tuple[float, float]:
    """Mean completion time of the first jobs, in hours, and CPU-seconds."""
    begin = time.process_time()
    first = {task.job.id: task.job.submit_s for task in workload.tasks[:MEASURED]}
    machine = Placed([PoolLayout(name=kind, nodes=EACH, devices_per_node=1) for kind in KINDS])
    watched = _Watched(Gavel(machine, speeds=workload.speeds, policy=policy), set(first))
    with contextlib.suppress(_Over):
        simulate_cluster(workload.tasks, watched, speeds=workload.speeds)
    assert max(watched.ended_s.values()) < workload.tasks[-1].job.submit_s, "jobs stopped coming too soon"
    mean_s = sum(watched.ended_s[job] - submit_s for job, submit_s in first.items()) / len(first)
    return mean_s / 3600, time.process_time() - begin


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throughputs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    opened = gzip.open if given.throughputs.suffix == ".gz" else open
    with opened(given.throughputs, "rb") as file:
        rates = read_rates(file.read())
    hours: dict[str, list[float]] = {name: [] for name in POLICIES}
    rows = []
    for seed in range(given.seeds):
        workload = gavel(JOBS, rates, every_s=600.0, seed=seed)
        for name, policy in POLICIES.items():
            mean_h, cpu_s = measured(workload, policy)
            hours[name].append(mean_h)
            rows.append({"seed": seed, "policy": name, "completion_h_mean": mean_h, "cpu_s": cpu_s})
            print(f"seed {seed}  {name:6}  {mean_h:6.2f} h  {cpu_s:5.1f} CPU-s", file=sys.stderr)
    means = {name: sum(each) / len(each) for name, each in hours.items()}
    ratio = means["blind"] / means["aware"]
    answer = {"rows": rows, "ratio": ratio, "published_h": PUBLISHED_H}
    published = PUBLISHED_H["blind"] / PUBLISHED_H["aware"]
    print(json.dumps(answer) if given.json else f"blind / aware: {ratio:.2f}; published, seed 0: {published:.2f}")


if __name__ == "__main__":
    main()
