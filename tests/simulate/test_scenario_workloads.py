"""Workloads whose speeds were measured (Sia's, Gavel's), and faults that are written down, also in a run file's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from myriarch.cli.simulate_files import load_scenario
from myriarch.errors import SpecError
from myriarch.simulate.scenario import (
    FaultModel,
    Generator,
    ListedFault,
    ListedJob,
    Policy,
    Scaling,
    Scenario,
    Workload,
)
from myriarch.simulate.scenario_answer import Answer
from myriarch.simulate.scenario_check import check_scenario
from myriarch.simulate.scenario_jobs import tasks_for
from myriarch.simulate.scenario_play import play
from myriarch.simulate.workload.gavel import KINDS, MODELS, published_rates
from myriarch.simulate.workload.sia import CHOICES, drawn_rows, profiles, sia_workload
from myriarch.spec.fleet import Chip, Fleet, Pool

ROOT = Path(__file__).parents[2]
GAVEL = Path(__file__).parents[1] / "schedule" / "data" / "gavel_throughputs.json"
ROWS = """workload,name,time,application,num_replicas,batch_size
1,cifar10-1,528.0,cifar10,12,4096
1,imagenet-0,401.0,imagenet,14,3200
2,bert-0,10.0,bert,6,384
2,yolov3-1,20.0,yolov3,4,64
"""


def fleet(**devices: tuple[int, int]) -> Fleet:
    """Nodes and devices of each, by pool."""
    pools = (Pool(name=name, chip=Chip(id=name), nodes=n, devices_per_node=each) for name, (n, each) in devices.items())
    return Fleet(name="f", pools=tuple(pools))


SIA = fleet(**{kind: (each.nodes, each.devices_per_node) for kind, each in profiles().kinds.items()})
FEW = fleet(k80=(4, 1), p100=(4, 1), v100=(4, 1))


def drawn(name: Any, jobs: int = 30, **more: Any) -> Workload:
    return Workload(generator=Generator(name=name, jobs=jobs, **more))


def problems(made: Scenario) -> list[str]:
    found: list[str] = []
    check_scenario(made, tell=lambda path, message: found.append(f"{path}: {message}"))
    return found


def answer(workload: Workload, on: Fleet, **fields: Any) -> Answer:
    made = Scenario(name="w", fleet=on, workload=workload, **fields)
    assert not problems(made)
    return play(made).answer


def jct_s(made: Answer) -> float:
    assert made.jobs is not None
    assert made.jobs.all.summary is not None
    return made.jobs.all.summary.completion_s_mean


# --- speeds that were measured ---------------------------------------------------------------------------------------


def test_gavel_s_throughputs_are_shipped_whole() -> None:
    rates = published_rates()
    assert {model for model, _ in rates} == {model for model, _ in MODELS}
    assert {devices for _, devices in rates} == {1, 2, 4, 8}
    alone = msgspec.json.decode(GAVEL.read_bytes())["throughput_per_s"]
    for model, kinds in alone.items():
        assert rates[model, 1] == pytest.approx(kinds, rel=1e-4, abs=1e-4)
        assert set(rates[model, 1]) == set(KINDS)


def test_gavel_s_policy_uses_unlike_gpus_better_than_one_that_knows_no_speeds() -> None:
    workload = drawn("gavel", 20, load=1.0, multiple=True)
    policies = (Policy(name="gavel", round_s=3600.0), Policy(name="fifo"))
    aware, blind = (answer(workload, FEW, policy=policy, seed=2) for policy in policies)
    assert jct_s(aware) < 0.8 * jct_s(blind)
    assert aware.intake is not None
    assert (aware.intake.source, aware.intake.jobs) == ("gavel", 20)


def test_no_job_is_let_on_gpus_on_which_it_gets_nothing_done() -> None:
    taken = tasks_for(drawn("gavel", 400, multiple=True), devices=108, seed=0)
    assert taken.speeds is not None
    for task in taken.tasks:
        for kind in task.job.pools or KINDS:
            assert taken.speeds(task.job, pool=kind, devices=task.job.devices) > 0
    assert any(task.job.pools for task in taken.tasks)


@pytest.mark.parametrize("name", ["sia-philly", "sia-saturn", "gavel"])
def test_a_load_is_what_is_asked_for(name: Any) -> None:
    """Device-seconds on the GPUs that run times are of, over those until the last submission, on average."""
    taken = tasks_for(drawn(name, 600, load=0.5), devices=64, seed=1)
    asked = sum(task.job.devices * task.run_s for task in taken.tasks)
    assert asked / (64 * taken.tasks[-1].job.submit_s) == pytest.approx(0.5, rel=0.15)
    other = tasks_for(drawn(name, 600, load=0.5), devices=64, seed=2)
    assert other.tasks != taken.tasks


def test_sia_s_jobs_are_drawn_as_often_as_they_were_published() -> None:
    for mix, counts in CHOICES.items():
        assert sum(counts.values()) == 800
        rows = drawn_rows(8000, mix, every_s=180.0, seed=3)
        cifar = sum(row["application"] == "cifar10" for row in rows) / 8000
        assert cifar == pytest.approx(sum(n for (what, _, _), n in counts.items() if what == "cifar10") / 800, abs=0.02)
        assert float(rows[-1]["time"]) / 8000 == pytest.approx(180.0, rel=0.05)


def test_elastic_trainings_end_sooner_where_they_are_resized() -> None:
    ours = answer(drawn("sia-philly", 25), SIA, policy=Policy(name="myriarch"), seed=1)
    rigid = msgspec.structs.replace(drawn("sia-philly", 25), tuning="rigid")
    assert jct_s(ours) < 0.7 * jct_s(answer(rigid, SIA, policy=Policy(name="fifo"), seed=1))


def test_a_file_of_sia_s_is_known_by_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "sia.csv").write_text(ROWS)
    row = "    - {{name: {name}, chip: {{id: g}}, nodes: {nodes}, devices_per_node: {devices_per_node}}}"
    pools = "\n".join(row.format(**msgspec.structs.asdict(pool)) for pool in SIA.pools)
    text = f"name: s\nfleet:\n  name: f\n  pools:\n{pools}\nworkload: {{trace: sia.csv, part: 2}}\n"
    (tmp_path / "s.yaml").write_text(text)
    scenario = load_scenario(tmp_path / "s.yaml")
    assert scenario.workload is not None
    assert scenario.workload.kind == "sia"
    taken = tasks_for(scenario.workload, devices=64, seed=0)
    assert [task.job.id for task in taken.tasks] == ["bert-0", "yolov3-1"]
    assert taken.tasks[0].job.sizes
    made = sia_workload(drawn_rows(1, "philly", every_s=1.0, seed=0), tuning="rigid")
    assert not made.tasks[0].job.sizes
    with pytest.raises(SpecError, match="has workloads 1, 2, not 3"):
        tasks_for(msgspec.structs.replace(scenario.workload, part=3), devices=64, seed=0)
    for bad, told in (
        ("bert,six,384", "no number"),
        ("bert,0,384", r"devices and batch \[10.0, 0.0"),
        ("gpt,1,1", "trains `gpt`"),
    ):
        (tmp_path / "sia.csv").write_text(ROWS.replace("bert,6,384", bad))
        with pytest.raises(SpecError, match=told):
            tasks_for(scenario.workload, devices=64, seed=0)


@pytest.mark.parametrize(
    ("workload", "on", "told"),
    [
        (drawn("gavel"), SIA, "fleet.pools[0].name: the speeds of these jobs are known on `k80`"),
        (drawn("sia-philly"), FEW, "call pools so, not `k80`"),
        (drawn("sia-philly"), fleet(t4=(6, 8)), "known on nodes of 4, not of 8; use 4"),
        (msgspec.structs.replace(drawn("gavel"), scaling=Scaling()), FEW, "workload.scaling: says how fast jobs are"),
        (drawn("philly", load=1.0, multiple=True), FEW, "generator.multiple: is of `gavel`, not of `philly`"),
        (msgspec.structs.replace(drawn("gavel"), part=2), FEW, "workload.part: is of a file of Sia's"),
        (msgspec.structs.replace(drawn("gavel"), tuning="rigid"), FEW, "workload.tuning: is of Sia's jobs"),
    ],
)  # fmt: skip
def test_trainings_that_cannot_be_are_told(workload: Workload, on: Fleet, told: str) -> None:
    found = problems(Scenario(name="w", fleet=on, workload=workload))
    assert any(told in text for text in found), found


# --- faults one by one -----------------------------------------------------------------------------------------------


def run_with(*faults: ListedFault, **fields: Any) -> Scenario:
    made = load_scenario(ROOT / "examples/two-pools/run.yaml")
    return msgspec.structs.replace(made, faults=FaultModel(listed=faults), **fields)


def test_a_run_meets_listed_faults_beside_its_own() -> None:
    """A node that is away for some seconds, workers that die, and a slow node; fast-1 dies by the run's `chaos`."""
    made = run_with(
        ListedFault(at_s=5.0, node="fast-0", cause="GPU", duration_s=6.0),
        ListedFault(at_s=8.0, node="slow-1", course="in_place"),
        ListedFault(at_s=9.0, node="slow-0", course="slow", factor=0.5, duration_s=3.0),
    )
    assert not problems(made)
    with_faults, without = play(made), play(msgspec.structs.replace(made, faults=None))
    assert with_faults.answer.run is not None
    assert without.answer.run is not None
    assert (with_faults.answer.run.outcome, with_faults.answer.run.steps_done) == ("completed", 120)
    assert with_faults.answer.run.incidents >= without.answer.run.incidents + 2
    assert with_faults.answer.leaves["throttled"] > 0
    assert with_faults.answer.leaves["repair"] > without.answer.leaves["repair"]
    assert with_faults.answer.faults is not None
    assert with_faults.answer.faults.by_course == {"in_place": 1, "repair": 1, "slow": 1}
    for_good = play(msgspec.structs.replace(made, faults=FaultModel(listed=(ListedFault(at_s=5.0, node="fast-0"),))))
    assert for_good.answer.leaves["repair"] > with_faults.answer.leaves["repair"]


def test_a_log_is_replayed_in_a_run(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("at_s,pool,node,cause,course,duration_s\n5,fast,0,GPU,repair,6\n6,none,0,GPU,repair,6\n")
    made = msgspec.structs.replace(run_with(), faults=FaultModel(log=str(log)))
    listed = run_with(ListedFault(at_s=5.0, node="fast-0", cause="GPU", duration_s=6.0))
    one, other = play(made).answer, play(listed).answer
    assert one.leaves == other.leaves
    assert one.faults is not None
    assert one.faults.problems == {"unknown pool": 1}


def test_listed_faults_of_jobs() -> None:
    job = ListedJob(id="a", devices=2, run_s=1000.0)
    fault = ListedFault(at_s=500.0, node="k80-0", duration_s=300.0)
    made = answer(Workload(jobs=(job,)), fleet(k80=(2, 1)), faults=FaultModel(listed=(fault,)))
    assert made.leaves["lost_work"] == 2 * 500 * 10**9
    assert made.leaves["repair"] == 300 * 10**9
    assert made.duration_s == 1800.0


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ListedFault(at_s=1.0, node="fats-1"), "faults.listed[0].node: `fats-1` is not known; did you mean `fast-1`?"),
        (ListedFault(at_s=1.0, node="fast-1", course="slow"), "`factor` is missing"),
        (ListedFault(at_s=1.0, node="fast-1", factor=0.5), "has no meaning with `repair`"),
        (ListedFault(at_s=1.0, node="fast-1", course="corrupt"), "`corrupt` cannot happen in a run"),
    ],
)
def test_listed_faults_that_cannot_be_are_told(fault: ListedFault, told: str) -> None:
    found = problems(run_with(fault))
    assert any(told in text for text in found), found


def test_faults_of_a_run_are_not_drawn() -> None:
    drawn_ones = msgspec.structs.replace(run_with(), faults=FaultModel(source="acme"))
    assert any("of a run are written down" in text for text in problems(drawn_ones))
    job = Workload(jobs=(ListedJob(id="a", devices=1, run_s=1.0),))
    endless = Scenario(
        name="w", fleet=FEW, workload=job, faults=FaultModel(listed=(ListedFault(at_s=1, node="k80-0"),))
    )
    assert any("`duration_s` is missing" in text for text in problems(endless))
