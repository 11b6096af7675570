"""A scenario of any kind to its answer."""

from __future__ import annotations

import dataclasses

from myriarch.errors import SpecError
from myriarch.simulate.scenario import Scenario
from myriarch.simulate.scenario_answer import Answer
from myriarch.simulate.scenario_cluster import ClusterRun
from myriarch.simulate.scenario_run import RunPlayed
from myriarch.simulate.scenario_training import train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played:
    """The answer, and what it was worked out from."""

    answer: Answer
    cluster: ClusterRun | None = None
    run: RunPlayed | None = None


def play(scenario: Scenario) -> Played:
    """Simulate it with its first seed. Raises SpecError for what cannot be simulated."""
    if scenario.workload is not None:
        run = ClusterRun(scenario)
        return Played(answer=run.answer(), cluster=run)
    if scenario.training is not None:
        return Played(answer=train(scenario))
    if scenario.run:
        simulated = RunPlayed(scenario)
        return Played(answer=simulated.answer(), run=simulated)
    raise SpecError(
        f"scenario `{scenario.name}` asks for nothing", hint="give it a `workload`, a `training` or a `run`"
    )
