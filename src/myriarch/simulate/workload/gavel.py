"""The workload of Gavel's continuous experiments (Narayanan et al., OSDI 2020, section 7.1), draw by draw.

Jobs come by a Poisson process. Each is one of 26 training jobs (7 models at several batch sizes) with a duration on the
reference device: 10^x minutes with x uniform in 1.5..3 for four of five, in 3..4 for the fifth; with several devices,
1, 2, 4 or 8 for 70, 10, 15 and 5 % of the jobs whose model is distributed. On other devices it lasts as much longer
as its measured throughput there is lower.

Rules and the order of draws are those of stanford-futuredata/gavel at c4fa4009 (`scheduler/utils.py`,
`scheduler/job_table.py`, `scheduler/scheduler.py`; MIT licence): jobs from Python's generator seeded with `seed + 2`,
arrivals from one seeded with `seed + 3`. So equal seeds give the very jobs of the published runs.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from importlib import resources
from typing import Final, NamedTuple

import msgspec

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId
from myriarch.simulate.queueing import Task

REFERENCE: Final = "v100"
KINDS: Final = ("k80", "p100", "v100")
EVERY_S: Final = 600.0
"""Mean gap of the published run that `benchmarks/gavel.py` compares with, on 36 of each kind."""
MODELS: Final = (
    *((f"ResNet-18 (batch size {batch})", True) for batch in (16, 32, 64, 128, 256)),
    *((f"ResNet-50 (batch size {batch})", True) for batch in (16, 32, 64, 128)),
    *((f"Transformer (batch size {batch})", True) for batch in (16, 32, 64, 128, 256)),
    *((f"LM (batch size {batch})", True) for batch in (5, 10, 20, 40, 80)),
    *((f"Recommendation (batch size {batch})", False) for batch in (512, 1024, 2048, 4096, 8192)),
    ("A3C", False),
    ("CycleGAN", False),
)
"""Jobs, and whether they run on several devices, in the order of Gavel's table."""
LONG_SHARE: Final = 0.2
LONG, SHORT = (3.0, 4.0), (1.5, 3.0)
"""Powers of ten of minutes."""

Rates = Mapping[tuple[str, int], Mapping[str, float]]
"""Steps by the second, by (model, devices) and kind of device."""


class _Throughputs(Value, frozen=True, kw_only=True):
    """The data file."""

    source: str
    licence: str
    kinds: tuple[str, ...]
    steps_per_s: tuple[tuple[str, int, float, float, float], ...]
    """Model, devices, and by kind."""


@functools.cache
def published_rates() -> Rates:
    """Gavel's measured throughputs, as they are shipped: of K80, P100 and V100."""
    text = resources.files("myriarch.simulate").joinpath("data", "gavel_throughputs.yaml").read_bytes()
    known = msgspec.yaml.decode(text, type=_Throughputs)
    return {(model, devices): dict(zip(known.kinds, each, strict=True)) for model, devices, *each in known.steps_per_s}


class GavelSpeeds:
    """`Speeds` of the jobs that were drawn: their throughput over that on the reference device."""

    def __init__(self, rates: Rates, models: Mapping[JobId, str]) -> None:
        self._rates = rates
        self.models = models

    def __call__(self, job: Job, *, pool: str, devices: int) -> float:
        """Progress by the second in the pool named after its kind of device."""
        if devices < job.devices:
            return 0.0
        rates = self._rates[self.models[job.id], job.devices]
        return rates.get(pool, 0.0) / rates[REFERENCE]


class GavelWorkload(NamedTuple):
    """Jobs in the order of their arrival, and how fast they are."""

    tasks: tuple[Task, ...]
    speeds: GavelSpeeds

    def model(self, task: Task) -> str:
        """What a job trains: `ResNet-50 (batch size 64)`."""
        return self.speeds.models[task.job.id]


def gavel(jobs: int, rates: Rates, *, every_s: float, seed: int, multiple: bool = False) -> GavelWorkload:
    """So many jobs, one `every_s` on average; `multiple`: on several devices too.

    Their estimates are their run times; all may be preempted and save and restart in no time, as in Gavel's simulator.
    """
    if jobs < 1 or not every_s > 0:
        raise SpecError(f"{jobs} jobs, one every {every_s:g} s: both must be above zero")
    draw, arrivals = random.Random(seed + 2), random.Random(seed + 3)
    tasks: list[Task] = []
    models: dict[JobId, str] = {}
    submit_s = 0.0
    for number in range(jobs):
        devices = _devices(draw.uniform(0, 1))
        run_s = _run_s(draw)
        if not multiple:
            devices = 1
        model, distributed = draw.choice(MODELS)
        while devices > 1 and not distributed:
            model, distributed = draw.choice(MODELS)
        job = Job(
            id=JobId(f"{number:05d}"),
            submit_s=submit_s,
            devices=devices,
            estimate_s=run_s,
            preemptible=True,
            kind="gang" if devices > 1 else "experiment",
        )
        tasks.append(Task(job=job, run_s=run_s))
        models[job.id] = model
        submit_s -= math.log(1.0 - arrivals.random()) * every_s
    return GavelWorkload(tuple(tasks), GavelSpeeds(rates, models))


def read_rates(text: bytes) -> dict[tuple[str, int], dict[str, float]]:
    """Gavel's file of throughputs: by kind and "('model', devices)", alone (`null`) and beside others (left out)."""
    table = msgspec.json.decode(text, type=dict[str, dict[str, dict[str, msgspec.Raw]]])
    rates: dict[tuple[str, int], dict[str, float]] = {}
    for kind, jobs in table.items():
        for key, beside in jobs.items():
            model, _, devices = key.strip("()").rpartition(", ")
            found = rates.setdefault((model.strip("'"), int(devices)), {})
            alone: float = msgspec.json.decode(beside["null"], type=float)
            found[kind] = alone
    return rates


def _devices(uniform: float) -> int:
    if uniform < 0.7:
        return 1
    if uniform <= 0.8:
        return 2
    return 4 if uniform < 0.95 else 8


def _run_s(draw: random.Random) -> float:
    low, high = LONG if draw.random() >= 1.0 - LONG_SHARE else SHORT
    return 60.0 * math.pow(10.0, draw.uniform(low, high))
