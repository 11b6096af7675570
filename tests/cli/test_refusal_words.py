"""Refusals in Chinese: every reason that a scheduler can give is known, and keeps its numbers."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from myriarch.cli.refusal_words import refusal
from myriarch.schedule.counted import Counted
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.machine import Machine
from myriarch.schedule.placed import Placed
from myriarch.simulate.scenario import ListedJob, Policy, Scenario, Trait, Workload
from myriarch.simulate.scenario_cluster import ClusterRun
from myriarch.simulate.scenario_options import Lend, PowerLimit, Service
from myriarch.spec.fleet import Chip, Fleet, Pool

POOLS = (
    PoolLayout(name="a", nodes=4, devices_per_node=4, nodes_per_rack=2, precisions=("bf16",)),
    PoolLayout(name="b", nodes=2, devices_per_node=8, precisions=("bf16",)),
)
JOB = Job(id=JobId("one of mine"), submit_s=0.0, devices=17, estimate_s=10.0)
LENDING = Policy(
    lending=Lend(services=(Service(name="chat", pool="serve", devices=8, load=(0.5,) * 24, notice_s=60.0),))
)


def sparing() -> Placed:
    machine = Placed(POOLS)
    machine.reserve("a", nodes=1)
    machine.reserve("b", nodes=1)
    return machine


def chinese(reason: str) -> str:
    """It, having made sure that nothing of the sentence is English any more and no number is lost."""
    said = refusal(reason, "zh")
    assert refusal(reason, "en") == reason
    own = re.sub(r"`[^`]*`|one of mine|\bW\b|fp64|Pod", "", said)
    assert not re.search(r"[A-Za-z]{2,}", own), said
    assert sorted(re.findall(r"\d+", said)) == sorted(re.findall(r"\d+", reason))
    return said


@pytest.mark.parametrize("machine", [Counted(16), Placed(POOLS), sparing()], ids=["counted", "placed", "sparing"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"devices": 0},
        {"devices": 12, "within": "node"},
        {"devices": 12, "within": "rack", "pools": ("a",)},
        {"devices": 16, "pools": ("c",)},
        {"devices": 1, "precision": "fp64"},
        {"devices": 16},
        {"estimate_s": 0.0},
    ],
)
def test_what_machines_refuse(machine: Machine, changes: dict[str, Any]) -> None:
    job = msgspec.structs.replace(JOB, **changes)
    if reason := machine.refusal(job):
        assert chinese(reason)
        assert chinese(f"job {job.id} {reason}").startswith("作业 one of mine 需要")
    else:
        assert changes.get("devices") is not None
        assert not isinstance(machine, Counted) or changes["devices"] <= 16


@pytest.mark.parametrize(
    ("policy", "trait", "devices", "said"),
    [
        (Policy(power=PowerLimit(cap_w=6_000.0)), Trait(), 8, "功率上限"),
        (LENDING, Trait(pools=("serve",)), 8, "不可抢占"),
        (LENDING, Trait(pools=("serve",), preemptible=True, save_s=1e6), 8, "收回"),
        (LENDING, Trait(pools=("serve",), preemptible=True), 8, "至多出借"),
        (LENDING, Trait(), 16, "；且其"),
    ],
)
def test_what_surroundings_refuse(policy: Policy, trait: Trait, devices: int, said: str) -> None:
    chip = Chip(id="chip", rate_flops_per_s={"bf16": 1e14}, power_w=500.0)
    pools = tuple(Pool(name=name, chip=chip, nodes=2, devices_per_node=4) for name in ("serve", "train"))
    jobs = (ListedJob(id="one of mine", devices=devices, run_s=60.0),)
    scenario = Scenario(
        name="refused",
        fleet=Fleet(name="f", pools=pools),
        policy=policy,
        workload=Workload(jobs=jobs, traits=(trait,)),
    )
    (reason,) = ClusterRun(scenario).outcome.refused.values()
    assert said in chinese(reason)


def test_what_is_not_known_stays_as_it_is() -> None:
    assert refusal("job 1 has a bad name", "zh") == "job 1 has a bad name"
    assert refusal("job 1 asks for 2 devices: pool `a` is closed", "zh").endswith("is closed")
