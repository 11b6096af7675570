"""The jobs of a scenario: read, drawn or listed, cut to a window, with the traits that the scenario gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.speed import Speeds
from myriarch.simulate.queueing import Task
from myriarch.simulate.scenario import Generator, ListedJob, Trait, Workload
from myriarch.simulate.workload.acme import acme
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning
from myriarch.simulate.workload.gavel import EVERY_S as GAVEL_EVERY_S
from myriarch.simulate.workload.gavel import KINDS, gavel, published_rates
from myriarch.simulate.workload.lublin import lublin
from myriarch.simulate.workload.reading import lines_of, looks_like_sia, read_trace
from myriarch.simulate.workload.sia import EVERY_S as SIA_EVERY_S
from myriarch.simulate.workload.sia import drawn_rows, profiles, read_sia, sia_workload
from myriarch.simulate.workload.tasks import Estimates, tasks_of, told_s
from myriarch.simulate.workload.trace import Problem, Trace

LONGEST_S: Final = 1e16
"""Beyond it instants are coarser than a second, and time stands still."""
PROBLEMS_SHOWN: Final = 20
"""Lines that are told one by one; all are counted."""
TRAITS: Final = 1
"""The random stream that draws which jobs have a trait: spawn key (TRAITS, index of the trait)."""
TAKEN_OVER: Final = (
    "kind", "within", "pools", "precision", "quality", "elastic", "preemptible", "save_s", "restart_s", "saves_every_s",
)  # fmt: skip
"""Fields of a trait that are fields of a job."""


class Intake(Value, frozen=True, kw_only=True):
    """What the workload was made of."""

    source: str
    """The trace file, the generator, or `listed`."""
    jobs: int
    """That are simulated."""
    left_out: int = 0
    """Sound, but outside the window or past the limit."""
    problems: dict[str, int] = msgspec.field(default_factory=dict)
    """Lines that gave no job, by kind."""
    examples: tuple[Problem, ...] = ()
    """The first of them."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is to be told about lines that gave no job."""
        total = sum(self.problems.values())
        if not total:
            return ()
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.problems.items()))
        first = self.examples[0]
        return (f"{self.source}: {total:,} lines gave no job: {kinds}; first: line {first.line}: {first.text}",)


class Taken(Value, frozen=True, kw_only=True):
    """Tasks in the order of submission."""

    tasks: tuple[Task, ...]
    intake: Intake
    speeds: Speeds | None = None
    """Of these very jobs, where they were measured."""


def tasks_for(workload: Workload, *, devices: int, seed: int) -> Taken:
    """The jobs, for a fleet of so many devices. Raises SpecError when there are none."""
    if workload.trace:
        taken = _traced(workload, seed=seed)
    elif workload.generator is not None:
        taken = _drawn(workload, workload.generator, devices=devices, seed=seed)
    else:
        taken = _listed(workload, seed=seed)
    if not taken.tasks:
        told = "; ".join(taken.intake.lines)
        raise SpecError(
            f"{taken.intake.source} has no job to simulate" + (f": {told}" if told else ""),
            path="workload",
            hint="name another file, or a wider window",
        )
    last_s = max(taken.tasks[-1].job.submit_s, *(task.run_s for task in taken.tasks))
    if not last_s <= LONGEST_S:
        raise SpecError(
            f"{taken.intake.source} has a job that comes, or runs, after {last_s:g} s",
            path="workload",
            hint="use a higher `load`, or drop what nobody waits for",
        )
    return taken


def _traced(workload: Workload, *, seed: int) -> Taken:
    if is_sia(workload):
        return _of_sia(workload, seed=seed)
    trace = read_trace(Path(workload.trace), kind=workload.kind)
    chosen = [job for job in trace.jobs if workload.from_s <= job.submit_s < (workload.to_s or math.inf)]
    chosen = chosen[: workload.most_jobs]
    inside = msgspec.structs.replace(trace, jobs=tuple(chosen))
    tasks = tasks_of(inside, estimates=workload.estimates or "asked")
    return Taken(
        tasks=_with_traits(_from_zero(tasks), workload.traits, words=[job.kind for job in chosen], seed=seed),
        intake=_intake(workload.trace, trace, taken=len(chosen)),
    )


def _intake(source: str, trace: Trace, *, taken: int) -> Intake:
    return Intake(
        source=source,
        jobs=taken,
        left_out=len(trace.jobs) - taken,
        problems=trace.problem_counts,
        examples=trace.problems[:PROBLEMS_SHOWN],
    )


def is_sia(workload: Workload) -> bool:
    """Whether its trace is a file of Sia's, which has several workloads and speeds of its own."""
    return workload.kind == "sia" or (workload.kind is None and looks_like_sia(Path(workload.trace)))


def _of_sia(workload: Workload, *, seed: int) -> Taken:
    path = Path(workload.trace)
    try:
        parts = read_sia(lines_of(path))
    except SpecError as error:
        raise SpecError(error.message, source=str(path), hint=error.hint) from None
    part = workload.part or min(parts, default=1)
    if part not in parts:
        has = f"has workloads {', '.join(map(str, parts))}" if parts else "has no jobs"
        raise SpecError(f"{path} {has}, not {part}", path="workload.part", hint="name one of them")
    return _trainings(parts[part], workload, source=str(path), seed=seed)


def _trainings(rows: Sequence[Mapping[str, str]], workload: Workload, *, source: str, seed: int) -> Taken:
    """Of rows as in Sia's files."""
    made = sia_workload(rows, tuning=workload.tuning or "elastic", estimates=workload.estimates or "exact")
    tasks = [_where_able(task, made.speeds, profiles().kinds) for task in made.tasks]
    return _taken(tasks, workload, source=source, seed=seed, speeds=made.speeds)


def _where_able(task: Task, speeds: Speeds, kinds: Iterable[str]) -> Task:
    """Only pools where it gets on with the devices it asks for: most schedulers know no speeds."""
    job, known = task.job, tuple(kinds)
    able = tuple(kind for kind in known if speeds(job, pool=kind, devices=job.devices) > 0)
    if len(able) == len(known):
        return task
    return msgspec.structs.replace(task, job=msgspec.structs.replace(job, pools=able))


def _drawn(workload: Workload, generator: Generator, *, devices: int, seed: int) -> Taken:
    own = seed if generator.seed is None else generator.seed
    if generator.name == "gavel":
        return _gavel(workload, generator, devices=devices, own=own, seed=seed)
    if generator.name in ("sia-philly", "sia-saturn"):
        mix = generator.name.removeprefix("sia-")
        rows = drawn_rows(generator.jobs, mix, every_s=SIA_EVERY_S, seed=own)
        if generator.load is not None:
            asked = sia_workload(rows, tuning=workload.tuning or "elastic").tasks
            every_s = _gap_s(asked, devices=devices, load=generator.load)
            rows = drawn_rows(generator.jobs, mix, every_s=every_s, seed=own)
        return _trainings(rows, workload, source=generator.name, seed=seed)
    tasks = _generated(generator, devices=devices, seed=own, estimates=workload.estimates or "usual")
    return _taken(tasks, workload, source=generator.name, seed=seed)


def _gavel(workload: Workload, generator: Generator, *, devices: int, own: int, seed: int) -> Taken:
    rates, multiple = published_rates(), bool(generator.multiple)
    made = gavel(generator.jobs, rates, every_s=GAVEL_EVERY_S, seed=own, multiple=multiple)
    if generator.load is not None:
        every_s = _gap_s(made.tasks, devices=devices, load=generator.load)
        made = gavel(generator.jobs, rates, every_s=every_s, seed=own, multiple=multiple)
    estimates = workload.estimates or "exact"
    told = [
        msgspec.structs.replace(
            task,
            job=msgspec.structs.replace(
                task.job, estimate_s=told_s(task.run_s, None, estimates), tenant=made.model(task)
            ),
        )
        for task in made.tasks
    ]
    tasks = [_where_able(task, made.speeds, KINDS) for task in told]
    return _taken(tasks, workload, source=generator.name, seed=seed, speeds=made.speeds)


def _gap_s(tasks: Sequence[Task], *, devices: int, load: float) -> float:
    """Between two submissions, so that so much is asked for."""
    return math.fsum(task.job.devices * task.run_s for task in tasks) / (len(tasks) * devices * load)


def _taken(tasks: Sequence[Task], workload: Workload, *, source: str, seed: int, speeds: Speeds | None = None) -> Taken:
    """What of the jobs is inside the window."""
    chosen = [task for task in tasks if workload.from_s <= task.job.submit_s < (workload.to_s or math.inf)]
    chosen = chosen[: workload.most_jobs]
    return Taken(
        tasks=_with_traits(_from_zero(chosen), workload.traits, words=[""] * len(chosen), seed=seed),
        intake=Intake(source=source, jobs=len(chosen), left_out=len(tasks) - len(chosen)),
        speeds=speeds,
    )


def _generated(generator: Generator, *, devices: int, seed: int, estimates: Estimates) -> tuple[Task, ...]:
    jobs, load = generator.jobs, generator.load
    match generator.name:
        case "lublin":
            return lublin(jobs, devices=devices, seed=seed, load=load, estimates=estimates)
        case "acme-seren" | "acme-kalos":
            cluster = generator.name.removeprefix("acme-")
            return acme(jobs, cluster, seed=seed, devices=devices, load=load, estimates=estimates)
        case mix:
            return deep_learning(jobs, MIXES[mix], devices=devices, load=load or 0.0, seed=seed, estimates=estimates)


def _listed(workload: Workload, *, seed: int) -> Taken:
    jobs = sorted(workload.jobs, key=lambda job: job.submit_s)
    tasks = tuple(_task(job, workload.estimates or "asked") for job in jobs)
    return Taken(
        tasks=_with_traits(tasks, workload.traits, words=[""] * len(tasks), seed=seed),
        intake=Intake(source="listed", jobs=len(tasks)),
    )


def _task(job: ListedJob, estimates: Estimates) -> Task:
    asked_s = job.run_s if estimates == "exact" else max(job.run_s, job.estimate_s or 0.0)
    return Task(
        job=Job(
            id=JobId(job.id),
            submit_s=job.submit_s,
            devices=job.devices,
            estimate_s=asked_s,
            tenant=job.tenant,
            user=job.user,
            kind="gang" if job.devices > 1 else "experiment",
        ),
        run_s=job.run_s,
    )


def _from_zero(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The scenario begins with the first submission."""
    shifted = tuple(tasks)
    first_s = shifted[0].job.submit_s if shifted else 0.0
    if not first_s:
        return shifted
    replace = msgspec.structs.replace
    return tuple(replace(task, job=replace(task.job, submit_s=task.job.submit_s - first_s)) for task in shifted)


# --- traits ----------------------------------------------------------------------------------------------------------


def _with_traits(
    tasks: tuple[Task, ...], traits: Sequence[Trait], *, words: Sequence[str], seed: int
) -> tuple[Task, ...]:
    """Each trait in turn, so that a later one goes before an earlier."""
    if not traits:
        return tasks
    jobs = [task.job for task in tasks]
    for index, trait in enumerate(traits):
        draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(TRAITS, index)))
        lots = draw.random(len(jobs)).tolist()
        fixed = _fixed(trait)
        jobs = [
            msgspec.structs.replace(job, **fixed, **_relative(trait, job))
            if lot < trait.share and _has(trait, job, word)
            else job
            for job, word, lot in zip(jobs, words, lots, strict=True)
        ]
    return tuple(msgspec.structs.replace(task, job=job) for task, job in zip(tasks, jobs, strict=True))


def _has(trait: Trait, job: Job, word: str) -> bool:
    return (
        (trait.devices_least or 0) <= job.devices <= (trait.devices_most or math.inf)
        and (not trait.tenants or job.tenant in trait.tenants)
        and (not trait.words or word in trait.words)
    )


def _fixed(trait: Trait) -> Mapping[str, Any]:
    """What does not depend on the job."""
    said = {name: getattr(trait, name) for name in TAKEN_OVER if getattr(trait, name) is not None}
    return said if trait.sizes is None else {**said, "sizes": trait.sizes}


def _relative(trait: Trait, job: Job) -> Mapping[str, Any]:
    """What does."""
    found: dict[str, Any] = {}
    if trait.size_factors is not None:
        sizes = {max(1, round(job.devices * factor)) for factor in trait.size_factors} - {job.devices}
        found["sizes"] = tuple(sorted(sizes))
    if trait.deadline_factor is not None:
        found["deadline_s"] = job.submit_s + trait.deadline_factor * job.estimate_s
    return found
