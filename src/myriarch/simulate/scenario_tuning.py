"""Self-tuning of a scenario's policy: its parameters searched on past weeks, the gain proven on held-out ones.

The search and the proof are `tuning`'s; here is what a policy's parameters may be, and what a setting is worth in a
week: the loss is the mean completion time of the week's jobs, the harm the reciprocal of Jain's index of the tenants'
service over demand. Every week is simulated to the end of its jobs, with the days around it (`workload.weeks`), and
with those of the scenario's faults that fall into it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Final

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.gittins import MARGIN as GITTINS_MARGIN
from myriarch.schedule.myriarch import SETTINGS
from myriarch.schedule.priority import AGE_MOST_S, DEFAULT_WEIGHTS
from myriarch.schedule.rankings import MARGIN
from myriarch.schedule.shares import HALF_LIFE_S
from myriarch.schedule.speed import Speeds
from myriarch.schedule.turns import GUARD_S, GUARD_SHARE
from myriarch.schedule.worth import Worth
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.scenario import PolicyName, Scenario, TuningPlan
from myriarch.simulate.scenario_cluster import faults_for, setting_for
from myriarch.simulate.scenario_jobs import tasks_for
from myriarch.simulate.scenario_policy import scheduler_of
from myriarch.simulate.sweep import varied
from myriarch.simulate.tuning import Choice, Range, Scalar, Score, Setting, Space, Trial, TuningReport, tune
from myriarch.simulate.workload.weeks import AROUND_S, Period, split_weeks
from myriarch.spec.fleet import Fleet
from myriarch.spec.problems import listed

TUNING_SCHEMA: Final = "myriarch.tuning/1"
_ORDER: Final[Space] = {"policy.order": Choice(values=("arrival", "shortest", "smallest", "smallest-area"))}
_PRIORITY: Final[Space] = {
    "policy.weights.age": Range(low=100.0, high=100_000.0, log=True),
    "policy.weights.fair_share": Range(low=100.0, high=100_000.0, log=True),
    "policy.weights.size": Range(low=1.0, high=100_000.0, log=True),
    "policy.half_life_s": Range(low=3600.0, high=30 * 86_400.0, log=True),
    "policy.favour_small": Choice(values=(False, True)),
}
_SPELL: Final = Range(low=1.0, high=32.0, log=True)
"""From one: with less, jobs can be stopped before they have done anything, and hold each other up for days (Mira)."""
_STOPS: Final[Space] = {
    "policy.spell": _SPELL,
    "policy.price": Range(low=0.05, high=20.0, log=True),
    "policy.guard_s": Range(low=3600.0, high=14 * 86_400.0, log=True),
    "policy.guard_share": Range(low=0.0, high=0.5),
}
_MARGIN: Final[Space] = {"policy.margin": Range(low=0.0, high=4.0)}

SPACES: Final[Mapping[PolicyName, Space]] = {
    "fifo": _ORDER,
    "easy": _ORDER,
    "sjbf": _ORDER,
    "priority": _PRIORITY,
    "preemptive": _STOPS,
    "fair": {**_PRIORITY, **_STOPS},
    "las": {"policy.starve_factor": Range(low=0.5, high=100.0, log=True), **_STOPS},
    "srtf": {**_MARGIN, **_STOPS},
    "srsf": {**_MARGIN, **_STOPS},
    "qssf": {**_MARGIN, **_STOPS},
    "gittins": {**_MARGIN, "policy.exponent": Range(low=0.0, high=2.0), **_STOPS},
    "myriarch": {
        **_MARGIN,
        "policy.exponent": Range(low=0.0, high=2.0),
        "policy.spell": _SPELL,
        "policy.price": Range(low=0.0, high=4.0),
        "policy.guard_s": _STOPS["policy.guard_s"],
    },
    "deadline": {"policy.slack_s": Range(low=60.0, high=86_400.0, log=True), **_STOPS},
}
"""What is searched. Ranges span what anybody would try; they are our choice."""

DEFAULTS: Final[Mapping[str, Scalar]] = {
    "policy.order": "arrival",
    "policy.weights.age": DEFAULT_WEIGHTS.age,
    "policy.weights.fair_share": DEFAULT_WEIGHTS.fair_share,
    "policy.weights.size": 1.0,
    "policy.half_life_s": HALF_LIFE_S,
    "policy.age_most_s": AGE_MOST_S,
    "policy.favour_small": False,
    "policy.spell": Worth().spell,
    "policy.price": Worth().price,
    "policy.guard_s": GUARD_S,
    "policy.guard_share": GUARD_SHARE,
    "policy.margin": MARGIN,
    "policy.exponent": 1.0,
    "policy.starve_factor": 100.0,
    "policy.slack_s": 3600.0,
}
"""What a policy does when the scenario does not say (Tiresias' promotion, which is off, at its weakest)."""


OWN_DEFAULTS: Final[Mapping[tuple[PolicyName, str], Scalar]] = {
    ("gittins", "policy.margin"): GITTINS_MARGIN,
    **{
        ("myriarch", f"policy.{name}"): getattr(SETTINGS, name)
        for name in ("margin", "exponent", "spell", "price", "guard_s")
    },
}
"""Where a policy has another."""


class Tuning(Value, frozen=True, kw_only=True):
    """The answer of `--tune`."""

    schema: str = TUNING_SCHEMA
    scenario: str
    digest: str
    policy: PolicyName
    report: TuningReport
    files: dict[str, str] = msgspec.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a setting is worth in a week. Can be pickled, for a pool of processes."""

    scenario: Scenario
    breakdowns: tuple[Breakdown, ...]
    speeds: Speeds | None = None
    """Of these very jobs."""

    def __call__(self, setting: Setting, period: Period) -> Score:
        scenario = varied(self.scenario, {path: _text(value) for path, value in setting.items()})
        first_s = period.tasks[0].job.submit_s
        made_for = setting_for(scenario, period.tasks, speeds=self.speeds)
        outcome = simulate_cluster(
            period.tasks,
            scheduler_of(scenario.policy, made_for),
            speeds=made_for.speeds,
            breakdowns=[one for one in self.breakdowns if one.at_s - one.announced_s >= first_s],
            detect_s=0.0 if scenario.faults is None else scenario.faults.detect_s,
        )
        chosen = np.zeros(len(period.tasks), dtype=bool)
        chosen[period.first : period.last] = True
        summary = outcome.summary(chosen)
        if summary is None:
            raise SpecError(f"no job of {period.name} ended", hint="are they larger than the fleet?")
        return Score(loss=max(summary.completion_s_mean, 1e-9), harm=1.0 / (outcome.jain_index or 1.0))


def tuned(
    scenario: Scenario,
    *,
    executor: Executor | None = None,
    known: Iterable[Trial] = (),
    observe: Callable[[Trial], None] | None = None,
) -> TuningReport:
    """Search the parameters of the scenario's policy, and prove what was found.

    Raises SpecError for a policy without parameters, and for a workload of fewer than two weeks.
    """
    plan = scenario.tuning or TuningPlan()
    space = _space(scenario.policy.name, plan.parameters)
    if scenario.workload is None or not isinstance(scenario.fleet, Fleet):
        raise SpecError("only policies of a workload are tuned", path="workload", hint="give the scenario one")
    devices = sum(pool.devices for pool in scenario.fleet.pools)
    taken = tasks_for(scenario.workload, devices=devices, seed=scenario.seed)
    tasks = tuple(task for task in taken.tasks if task.job.submit_s < (scenario.until_s or math.inf))
    weeks = split_weeks(tasks, past=plan.past, week_s=plan.week_s, around_s=min(AROUND_S, plan.week_s / 2))
    faulty = faults_for(scenario, tasks)
    return tune(
        Evaluation(scenario=scenario, breakdowns=() if faulty is None else faulty.breakdowns, speeds=taken.speeds),
        space=space,
        present={path: present(scenario, path) for path in space},
        past=weeks.past,
        held_out=weeks.held_out,
        seed=scenario.seed,
        candidates=plan.candidates,
        refinements=plan.refinements,
        executor=executor,
        known=known,
        observe=observe,
    )


def _space(policy: PolicyName, chosen: tuple[str, ...]) -> Space:
    """What is searched of a policy's parameters."""
    space = SPACES.get(policy)
    if space is None:
        raise SpecError(f"`{policy}` has no parameters to tune", path="policy.name", hint=f"try {listed(SPACES)}")
    for name in chosen:
        if f"policy.{name}" not in space:
            hint = f"it has {listed(each.removeprefix('policy.') for each in space)}"
            raise SpecError(f"`{policy}` has no `{name}` to tune", path="tuning.parameters", hint=hint)
    return {f"policy.{name}": space[f"policy.{name}"] for name in chosen} or space


def present(scenario: Scenario, path: str) -> Scalar:
    """What a parameter is now: what the scenario says, else what the policy does without it."""
    value: object = scenario
    for name in path.split("."):
        value = getattr(value, name, None)
    if isinstance(value, (bool, int, float, str)):
        return value
    return OWN_DEFAULTS.get((scenario.policy.name, path), DEFAULTS[path])


def _text(value: Scalar) -> str:
    """As it would be written in the file."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{value} is no parameter", hint="ranges are finite")
    return str(value).lower() if isinstance(value, bool) else str(value)
