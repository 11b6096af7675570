"""Runs that nobody wrote by hand: the real control under a virtual clock, with drawn faults."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from msgspec.structs import replace

from myriarch.account import History, Report, build_ledger, build_report
from myriarch.account.paint import paint
from myriarch.cli.files import load_run
from myriarch.event.ids import DeviceId
from myriarch.event.spans import LEVEL_OF
from myriarch.simulate import Fault, Simulation, simulate
from myriarch.simulate.faults import FaultAction
from myriarch.spec.run import ResolvedRun
from myriarch.units import NS_PER_S

STEPS = 60
RUN = Path(__file__).parents[2] / "examples" / "two-pools" / "run.yaml"


@pytest.fixture(scope="module")
def resolved() -> ResolvedRun:
    """The demo's run, shorter, with a snapshot every fifth step, and without the fault that it inflicts on itself."""
    loaded = load_run(RUN)
    checkpoint = replace(loaded.run.checkpoint, memory_every_steps=5, disk_every_steps=20)
    return replace(loaded, run=replace(loaded.run, steps=STEPS, checkpoint=checkpoint, chaos=()))


def accounted(simulation: Simulation) -> Report:
    history = History.from_records(simulation.records, simulation.spans)
    ledger = build_ledger(history)
    assert sum(ledger.total.leaves.values()) == ledger.total.capacity_device_ns == 5 * history.duration_ns
    return build_report(history)


def test_without_faults_nothing_is_lost(resolved: ResolvedRun) -> None:
    report = accounted(simulate(resolved))
    assert report.incidents == ()
    assert {leaf for leaf, ns in report.leaves.items() if ns} <= {
        "idle_reserved_spare", "queue_to_start", "rendezvous", "comm_init", "model_build", "warm_up", "data_open",
        "useful_compute", "exposed_comm", "straggler_wait", "data_stall", "host_sync", "checkpoint_stall",
        "unattributed",
    }  # fmt: skip
    assert report.work.steps_kept == STEPS
    assert report.leaves["unattributed"] < 0.01 * report.capacity_device_ns


NODES = ["fast-0", "fast-1", "fast-2", "slow-0", "slow-1"]
WORKERS = ["fast/0", "fast/1", "slow/0", "slow/1"]


def drawn(dice: random.Random) -> Fault:
    """Kills mostly, and everything else that the simulator can do."""
    action: FaultAction = dice.choice(
        ["kill", "kill", "kill", "stop", "slow", "return", "disconnect", "user_error", "bad_shard", "skip_snapshot",
         "drain_error", "request_stop"]
    )  # fmt: skip
    if action in ("disconnect", "return", "bad_shard", "drain_error"):
        target = dice.choice(NODES)
    elif action in ("user_error", "skip_snapshot"):
        target = dice.choice(WORKERS)
    else:
        target = dice.choice([*NODES, *WORKERS, *(["controller"] if action == "kill" else [])])
    at_step = dice.randrange(2, STEPS)
    return Fault(action=action, target=target, at_step=at_step, duration_s=dice.choice([0.2, 2.0]), factor=0.5)


@pytest.mark.parametrize(
    ("healthy_groups", "seed"), [*(("wait", seed) for seed in range(30)), *(("go_on", seed) for seed in range(30, 42))]
)
def test_drawn_faults(resolved: ResolvedRun, healthy_groups: Literal["wait", "go_on"], seed: int) -> None:
    """Every kept step counts once, every lost one is charged to an incident, and nearly nothing is unexplained."""
    dice = random.Random(seed)
    recovery = replace(
        resolved.run.recovery,
        missing_group=dice.choice(["wait", "degrade"]),
        wait_limit_s=dice.choice([1.0, 30.0]),
        healthy_groups=healthy_groups,
    )
    faults = tuple(drawn(dice) for _ in range(dice.randrange(1, 5)))
    simulation = simulate(replace(resolved, run=replace(resolved.run, recovery=recovery)), faults=faults)
    report = accounted(simulation)
    end = simulation.end
    assert end is not None
    assert report.leaves["unattributed"] < 0.02 * report.capacity_device_ns, faults
    assert report.work.steps_kept == end.step
    assert report.work.tokens == end.step * resolved.run.batch.sequences * resolved.model.context_tokens
    for incident in report.incidents:
        times = [incident.detected_s, incident.decided_s, incident.restored_s, incident.first_step_s]
        known = [time for time in times if time is not None]
        assert known == sorted(known), incident
        assert known[0] >= 0
    if end.outcome in ("completed", "degraded"):
        assert sum(incident.lost_steps or 0 for incident in report.incidents) == report.work.steps_lost, faults


def test_a_kill_is_charged_to_its_instant(resolved: ResolvedRun) -> None:
    """The incident of an injected fault begins when it was injected, and its parts sum to the whole."""
    fault = Fault(action="kill", target="fast-1", at_step=23)
    (incident,) = accounted(simulate(resolved, faults=(fault,))).incidents
    assert incident.evidence == "injected"
    assert incident.lost_nodes == ("fast-1",)
    assert incident.choices == ("replace_node",)
    assert incident.lost_steps == 3
    parts = [part for part in msgspec.structs.astuple(incident.split) if part is not None]
    assert len(parts) == 7
    assert sum(parts) == pytest.approx(incident.first_step_s, abs=1e-6)


def test_healthy_groups_pay_for_a_word_and_the_group_that_was_hit_for_its_way_back(resolved: ResolvedRun) -> None:
    recovery = replace(resolved.run.recovery, healthy_groups="go_on")
    fault = Fault(action="kill", target="fast-1", at_step=23)
    simulation = simulate(replace(resolved, run=replace(resolved.run, recovery=recovery)), faults=(fault,))
    history = History.from_records(simulation.records, simulation.spans)
    (incident,) = accounted(simulation).incidents
    assert (incident.lost_steps, incident.left_out, incident.choices) == (0, ("fast",), ("replace_node",))
    assert incident.first_step_s is not None
    assert incident.rejoined_s is not None
    assert incident.first_step_s < incident.rejoined_s
    spent_s: dict[str, float] = {}
    for device in ("fast-2/0", "slow-0/0"):
        painted = paint(history.claims[DeviceId(device)], start_ns=incident.fault_ns, end_ns=history.end_ns)
        spent_s[device] = sum(one.duration_ns for one in painted if LEVEL_OF[one.leaf] == "fault") / NS_PER_S
    assert spent_s["slow-0/0"] < 0.1 < 0.3 < spent_s["fast-2/0"] <= incident.rejoined_s
