"""Sia's workloads: 160 trainings each, of five applications, on 64 unlike GPUs, rigid or elastic.

Jayaram Subramanya et al., "Sia: Heterogeneity-aware, goodput-optimized ML-cluster scheduling", SOSP 2023. How fast an
application steps and learns is in `simulate/data/sia_profiles.yaml`: parameters of `schedule.goodput`, fitted by
`benchmarks/fit_sia.py` to the profiles of Sia's artefact. Steps are met within 4 to 29 % (`error` there), the number
of iterations that a whole training takes at another batch within 2 %.

What differs from Sia's simulator: the noise scale is one number for the whole training, where there it grows from epoch
to epoch; times come from the formula, where there they are interpolated between measurements; schedulers know the
formula from the start, where Sia's learns it while the job runs.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Final, Literal

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.elastic import node_configurations
from myriarch.schedule.goodput import Learning, StepTime, best_setting
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.tasks import Estimates, told_s

Tuning = Literal["rigid", "elastic"]
"""`rigid`: devices and batch as the user chose them (Sia's "TunedJobs", which its Gavel runs). `elastic`: any size, and
the batch with the most goodput for it."""

REFERENCE: Final = "rtx2080ti"
"""Work is counted in seconds on these; Sia's simulator calibrates on them too."""
PUBLISHED_HOURS: Final = {
    "philly": {"sia": 0.6, "pollux": 1.0, "gavel": 1.9},
    "saturn": {"sia": 0.7, "pollux": 1.0, "gavel": 2.5},
}
"""Mean completion times of Sia's Table 3 (Saturn is its sample of Helios)."""
COLUMNS: Final = ("workload", "name", "time", "application", "num_replicas", "batch_size")


EVERY_S: Final = 180.0
"""Mean gap between submissions: 160 jobs in 8 hours."""
CHOICES: Final[Mapping[str, Mapping[tuple[str, int, int], int]]] = {
    "philly": {
        ("bert", 6, 384): 14, ("bert", 8, 384): 8, ("bert", 12, 384): 11, ("bert", 16, 384): 14,
        ("cifar10", 6, 2048): 164, ("cifar10", 8, 2048): 155, ("cifar10", 12, 4096): 172, ("cifar10", 16, 4096): 142,
        ("deepspeech2", 6, 320): 21, ("deepspeech2", 8, 320): 21, ("deepspeech2", 12, 640): 27,
        ("imagenet", 10, 1600): 8, ("imagenet", 12, 3200): 3, ("imagenet", 14, 3200): 4, ("yolov3", 4, 64): 36,
    },
    "saturn": {
        ("bert", 6, 384): 9, ("bert", 8, 384): 4, ("bert", 12, 384): 8, ("bert", 16, 384): 9,
        ("cifar10", 4, 2048): 77, ("cifar10", 6, 2048): 143, ("cifar10", 8, 2048): 60, ("cifar10", 8, 4096): 53,
        ("cifar10", 10, 4096): 100, ("cifar10", 12, 4096): 145, ("cifar10", 16, 4096): 89,
        ("deepspeech2", 6, 320): 13, ("deepspeech2", 8, 320): 19, ("deepspeech2", 12, 640): 13,
        ("imagenet", 10, 1600): 4, ("imagenet", 12, 3200): 6, ("imagenet", 14, 3200): 11, ("yolov3", 4, 64): 37,
    },
}  # fmt: skip
"""Of the 800 jobs of each of the artefact's two tables: what is trained, devices and batch, and how often."""


class Cluster(Value, frozen=True, kw_only=True):
    """GPUs of one kind."""

    profile: str
    """Its name in the artefact."""
    nodes: int
    devices_per_node: int


class Steps(StepTime, frozen=True, kw_only=True):
    """An application's step on one kind, and what its memory and profile allow."""

    samples_least: float
    samples_most: float
    measured: int
    """Steps that it was fitted to."""
    error: float
    """Root mean square of the logarithm of predicted over measured."""


class Application(Value, frozen=True, kw_only=True):
    """What is trained."""

    batch: float
    batch_most: float
    iterations: float
    """At `batch`, until the end."""
    noise_scale: float
    noise_scale_error: float
    restart_s: float
    slowdown: float
    """Of real runs over the profile."""
    steps: dict[str, Steps]

    def rate_per_s(self, kind: str, *, devices: int, nodes: int, batch: float | None) -> float:
        """Iterations by the second, each worth one at the smallest batch. batch None: the best for these devices.

        0 where it cannot run: less than the least samples for each device.
        """
        step = self.steps[kind]
        if devices * step.samples_least > (self.batch_most if batch is None else max(batch, self.batch)) * (1 + 1e-9):
            return 0.0
        learning = Learning(
            batch=self.batch,
            noise_scale=self.noise_scale,
            batch_most=self.batch_most,
            samples_most=step.samples_most,
        )
        if batch is None:
            goodput = best_setting(step, learning, devices=devices, nodes=nodes).goodput
        else:
            accumulated = math.ceil(batch / devices / step.samples_most - 1e-9) - 1
            samples = batch / devices / (accumulated + 1)
            seconds = step.iteration_s(devices, nodes=nodes, samples=samples, accumulated=accumulated)
            goodput = batch / seconds * learning.efficiency(batch)
        return goodput / self.batch / self.slowdown


class Profiles(Value, frozen=True, kw_only=True):
    """The data file."""

    source: str
    licence: str
    kinds: dict[str, Cluster]
    applications: dict[str, Application]

    @property
    def layouts(self) -> tuple[PoolLayout, ...]:
        """The 64 GPUs of Table 3."""
        return tuple(
            PoolLayout(name=kind, nodes=each.nodes, devices_per_node=each.devices_per_node)
            for kind, each in self.kinds.items()
        )


@functools.cache
def profiles() -> Profiles:
    """As they are shipped."""
    text = resources.files("myriarch.simulate").joinpath("data", "sia_profiles.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=Profiles)


class Trained(Value, frozen=True, kw_only=True):
    """A job of a workload file: what it trains, and what its user chose."""

    application: str
    devices: int
    batch: float


class SiaSpeeds:
    """Progress of the jobs of a workload, by kind of GPU and number of devices: a `schedule.speed.Speeds`."""

    def __init__(self, trained: Mapping[JobId, Trained], *, tuning: Tuning) -> None:
        self._trained = trained
        self._tuning = tuning

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        """Against the devices that its user chose, on the reference."""
        about = self._trained[job.id]
        return _speed(about, pool, devices, self._tuning == "elastic")


@functools.cache
def _rate_per_s(application: str, kind: str, devices: int, batch: float | None) -> float:
    known = profiles()
    cluster = known.kinds[kind]
    nodes = -(-devices // cluster.devices_per_node)
    if nodes > cluster.nodes:
        return 0.0
    return known.applications[application].rate_per_s(kind, devices=devices, nodes=nodes, batch=batch)


@functools.cache
def _speed(about: Trained, kind: str, devices: int, tuned: bool) -> float:
    if not tuned and devices < about.devices:
        return 0.0
    used = devices if tuned else about.devices
    batch = None if tuned else about.batch
    return _rate_per_s(about.application, kind, used, batch) / _reference_per_s(about, tuned)


def _reference_per_s(about: Trained, tuned: bool) -> float:
    return _rate_per_s(about.application, REFERENCE, about.devices, None if tuned else about.batch)


class SiaWorkload(Value, frozen=True, kw_only=True):
    """One of a file's workloads, ready to be run on `profiles().layouts`."""

    tasks: tuple[Task, ...]
    speeds: SiaSpeeds


def read_sia(lines: Iterable[str]) -> dict[int, tuple[dict[str, str], ...]]:
    """Rows of `workload,name,time,application,num_replicas,batch_size` by workload, in order of submission."""
    table = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
        raise SpecError(f"the table lacks `{'`, `'.join(missing)}`", hint="is it a workload of Sia's?")
    found: dict[int, list[dict[str, str]]] = {}
    for row in table:
        if row["application"] not in profiles().applications:
            known = ", ".join(profiles().applications)
            raise SpecError(f"`{row['name']}` trains `{row['application']}`", hint=f"profiles are of {known}")
        try:
            number, numbers = int(row["workload"]), [float(row[name]) for name in COLUMNS[2:] if name != "application"]
        except (TypeError, ValueError):
            raise SpecError(f"job `{row['name']}` has a cell that is no number", hint="mend or drop its line") from None
        if not (numbers[0] >= 0 and all(1 <= one < math.inf for one in numbers[1:]) and numbers[0] < math.inf):
            hint = "times from 0 up, at least one device and one sample; mend or drop its line"
            raise SpecError(f"job `{row['name']}` has time, devices and batch {numbers}", hint=hint)
        found.setdefault(number, []).append(row)
    return {number: tuple(sorted(rows, key=lambda row: float(row["time"]))) for number, rows in sorted(found.items())}


def drawn_rows(jobs: int, mix: str, *, every_s: float, seed: int) -> tuple[dict[str, str], ...]:
    """Rows as in a workload file: what is trained is drawn from one of the published tables, and jobs come by a Poisson
    process, one `every_s` on average. (Those of the tables come in waves of a day.) Synthetic."""
    if jobs < 1 or not every_s > 0:
        raise SpecError(f"{jobs} jobs, one every {every_s:g} s: both must be above zero")
    draw = np.random.default_rng(np.random.SeedSequence(seed))
    choices = list(CHOICES[mix].items())
    counts = np.array([count for _, count in choices], dtype=float)
    chosen = draw.choice(len(choices), size=jobs, p=counts / counts.sum()).tolist()
    submit_s = np.floor(np.cumsum(draw.exponential(every_s, jobs))).tolist()
    rows = []
    for number, (choice, at_s) in enumerate(zip(chosen, submit_s, strict=True)):
        application, devices, batch = choices[choice][0]
        values = ("1", f"{application}-{number}", repr(at_s), application, str(devices), str(batch))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return tuple(rows)


def sia_workload(
    rows: Iterable[Mapping[str, str]], *, tuning: Tuning = "elastic", estimates: Estimates = "exact"
) -> SiaWorkload:
    """Tasks and speeds of a workload's rows.

    A job's first start takes as long as later ones, as in Sia's simulator, on whatever devices. Exact
    estimates are what a user knows who trains a set number of epochs and has a profile.
    """
    elastic = tuning == "elastic"
    trained: dict[JobId, Trained] = {}
    tasks = []
    for row in rows:
        about = Trained(
            application=row["application"], devices=int(row["num_replicas"]), batch=float(row["batch_size"])
        )
        application = profiles().applications[about.application]
        run_s = application.iterations / _reference_per_s(about, elastic)
        trained[JobId(row["name"])] = about
        job = Job(
            id=JobId(row["name"]),
            submit_s=float(row["time"]),
            devices=about.devices,
            estimate_s=told_s(run_s, None, estimates),
            sizes=_sizes(application, about.devices) if elastic else (),
            elastic=elastic,
            preemptible=True,
            restart_s=application.restart_s,
            tenant=about.application,
        )
        tasks.append(Task(job=job, run_s=run_s, start_s=application.restart_s))
    return SiaWorkload(tasks=tuple(tasks), speeds=SiaSpeeds(trained, tuning=tuning))


def _sizes(application: Application, asked: int) -> tuple[int, ...]:
    """Sia's sizes on any of the kinds, but for the one asked for."""
    sizes: set[int] = set()
    for kind, cluster in profiles().kinds.items():
        most = int(application.batch_most // application.steps[kind].samples_least)
        devices = min(cluster.nodes * cluster.devices_per_node, most)
        if devices:
            sizes |= set(node_configurations(devices=devices, devices_per_node=cluster.devices_per_node))
    return tuple(sorted(sizes - {asked}))
