"""Tasks for the simulator: of a trace, or of arrays that a generator drew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId, Within
from myriarch.simulate.queueing import Task
from myriarch.simulate.workload.trace import Trace, TraceJob

Estimates = Literal["asked", "exact", "usual", "limit"]
"""What schedulers are told. `asked`: what the user asked for, or the run time where that is unknown; never below the
run time, since a trace does not say what an ended job would have done. `exact`: the run time. `usual`: the least
limit that people write which is not below it. `limit`: the same for all, so nothing."""

HOUR_S: Final = 3600.0
USUAL_LIMITS_S: Final = tuple(
    hours * HOUR_S for hours in (0.25, 0.5, 1, 2, 4, 8, 12, 24, 48, 72, 120, 168, 336, 720, 1440, 2880)
)
"""Estimates are round numbers, a few of which make up nearly all (Tsafrir, Etsion, Feitelson, JSSPP'05)."""


def tasks_of(
    trace: Trace,
    *,
    estimates: Estimates = "asked",
    within: Callable[[TraceJob], Within] = lambda job: "pool",
) -> tuple[Task, ...]:
    """The trace's jobs, in its order: what a scheduler sees of them, and how long they ran."""
    return tuple(
        Task(
            job=Job(
                id=JobId(one.id),
                submit_s=one.submit_s,
                devices=one.devices,
                estimate_s=told_s(one.run_s, one.estimate_s, estimates),
                within=within(one),
                tenant=one.tenant,
                user=one.user,
                kind="gang" if one.devices > 1 else "experiment",
            ),
            run_s=one.run_s,
        )
        for one in trace.jobs
    )


def tasks_drawn(
    *,
    submit_s: NDArray[np.float64],
    run_s: NDArray[np.float64],
    devices: NDArray[np.int64],
    tenants: Iterable[str],
    estimates: Estimates,
) -> tuple[Task, ...]:
    """Tasks of what a generator drew, in whole seconds, numbered from 1."""
    columns = zip(np.floor(submit_s).tolist(), np.maximum(np.rint(run_s), 1.0).tolist(), devices.tolist(), strict=True)
    return tuple(
        Task(
            job=Job(
                id=JobId(str(number)),
                submit_s=submitted_s,
                devices=count,
                estimate_s=told_s(ran_s, None, estimates),
                tenant=tenant,
                kind="gang" if count > 1 else "experiment",
            ),
            run_s=ran_s,
        )
        for number, ((submitted_s, ran_s, count), tenant) in enumerate(zip(columns, tenants, strict=True), start=1)
    )


def told_s(run_s: float, asked_s: float | None, estimates: Estimates) -> float:
    """What a scheduler is told of a run time."""
    match estimates:
        case "asked":
            return max(run_s, asked_s or 0.0)
        case "exact":
            return run_s
        case "usual":
            return next((limit_s for limit_s in USUAL_LIMITS_S if limit_s >= run_s), run_s)
        case "limit":
            return max(run_s, USUAL_LIMITS_S[-1])
    raise SpecError(f"`estimates: {estimates}` is unknown", hint="use asked, exact, usual or limit")


def resumable(tasks: Iterable[Task], *, save_s: float, restart_s: float, saves_every_s: float) -> tuple[Task, ...]:
    """The same jobs, as if each could save its state and go on from it: traces do not say which could."""
    return tuple(
        msgspec.structs.replace(
            task,
            job=msgspec.structs.replace(
                task.job, preemptible=True, save_s=save_s, restart_s=restart_s, saves_every_s=saves_every_s
            ),
        )
        for task in tasks
    )
