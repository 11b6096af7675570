"""DESIGN section 3: the same faults through real processes and through the simulator give the same decisions."""

from __future__ import annotations

from typing import Any

import pytest

from myriarch.event.events import RunStarted
from myriarch.simulate import decisions, replay, simulate

pytest.importorskip("torch")

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SCENARIOS: dict[str, dict[str, Any]] = {
    "nothing": {"chaos": []},
    "node-to-spare": {"chaos": [{"at_step": 9, "action": "kill", "target": "fast-1"}]},
    "worker": {"chaos": [{"at_step": 9, "action": "kill", "target": "slow/1"}]},
    "two-in-a-row": {
        "steps": 40,
        "chaos": [
            {"at_step": 9, "action": "kill", "target": "fast/0"},
            {"at_step": 25, "action": "kill", "target": "slow-1"},
        ],
    },
    "group-gone": {
        "fleet": {"pools": [{"name": name, "chip": {"id": "cpu-core"}, "nodes": 1} for name in ("fast", "slow")]},
        "recovery": {"missing_group": "degrade", "wait_limit_s": 1.0},
        "chaos": [{"at_step": 9, "action": "kill", "target": "slow-0"}],
    },
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_real_run_and_the_simulated_one_decide_alike(launch: Any, name: str) -> None:
    launched = launch(name=f"like-{name}", **SCENARIOS[name])
    code, _, err = launched.wait()
    assert code in (0, 3), err
    real = launched.records()
    started = real[0].event
    assert isinstance(started, RunStarted)
    simulated = simulate(started.resolved).records
    assert decisions(simulated) == decisions(real)
    assert list(replay(real)) == [record.action for record in real if record.action is not None]
