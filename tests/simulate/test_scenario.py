"""Scenarios: what is read, what is refused, and that the sums of an answer are right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import layout_of
from myriarch.simulate.cluster_ledger import UNNAMED
from myriarch.simulate.scenario import (
    FaultModel,
    Generator,
    GeneratorName,
    Grid,
    ListedJob,
    Policy,
    PolicyName,
    RunTiming,
    Scaling,
    Scenario,
    Training,
    Trait,
    TuningPlan,
    Workload,
)
from myriarch.simulate.scenario_answer import Answer, metrics_of
from myriarch.simulate.scenario_around import OPTIONS
from myriarch.simulate.scenario_check import check_scenario
from myriarch.simulate.scenario_digest import digest_of
from myriarch.simulate.scenario_faults import breakdowns_of
from myriarch.simulate.scenario_jobs import tasks_for
from myriarch.simulate.scenario_play import play
from myriarch.simulate.scenario_policy import POLICIES, given, renamed
from myriarch.simulate.scenario_power import HOUR_S, Hourly, drawn, meter_of
from myriarch.simulate.scenario_speed import speeds_of
from myriarch.simulate.scenario_tuning import DEFAULTS, SPACES, present
from myriarch.simulate.sweep import axis_of, variants_of, varied
from myriarch.simulate.sweep_statistics import difference, estimate, student_t
from myriarch.simulate.workload.deep_learning import MIXES
from myriarch.spec.fleet import Chip, FailureRate, Fleet, Pool
from myriarch.spec.parse import parse
from myriarch.spec.site import Period, Site, Tariff

CHIP = Chip(id="c", rate_flops_per_s={"bf16": 1e14}, power_w=500.0)
SITE = Site(
    name="s",
    pue=1.25,
    carbon_kg_per_kwh=0.4,
    tariff=Tariff(price_per_kwh=0.1, periods=(Period(hours=(0, 1), price_per_kwh=0.5),), currency="USD"),
)


def fleet(**pool: Any) -> Fleet:
    """Four nodes of two devices."""
    made: dict[str, Any] = {"chip": CHIP, "nodes": 4, "devices_per_node": 2, "site": "s"} | pool
    return Fleet(name="f", pools=(Pool(name="p", **made),), sites=(SITE,))


def scenario(**fields: Any) -> Scenario:
    """Two jobs, of which the second waits for the first."""
    jobs = (
        ListedJob(id="a", devices=8, run_s=3600.0, tenant="x"),
        ListedJob(id="b", submit_s=600.0, devices=4, run_s=1800.0, tenant="y"),
    )
    return msgspec.structs.replace(Scenario(name="two", fleet=fleet(), workload=Workload(jobs=jobs)), **fields)


def answer(**fields: Any) -> Answer:
    return play(scenario(**fields)).answer


def problems(made: Scenario) -> list[str]:
    found: list[str] = []
    check_scenario(made, tell=lambda path, message: found.append(f"{path}: {message}"))
    return found


# --- answers ---------------------------------------------------------------------------------------------------------


def test_two_jobs_by_hand() -> None:
    made = answer()
    assert made.jobs is not None
    assert made.duration_s == 5400.0
    assert made.capacity_device_ns == 8 * 5400 * 10**9 == sum(made.leaves.values())
    assert made.leaves["useful_compute"] == (8 * 3600 + 4 * 1800) * 10**9
    assert made.jobs.utilisation == pytest.approx(36_000 / 43_200)
    summary = made.jobs.tenants["y"].summary
    assert summary is not None
    assert (summary.wait_s_mean, summary.completion_s_mean) == (3000.0, 4800.0)
    assert made.jobs.pools["p"].held_device_hours == 10.0
    assert made.factors.scheduling == pytest.approx(36_000 / 43_200)
    assert made.effective is None
    assert any("mfu" in note for note in made.notes)


def test_the_effective_number_closes_with_an_mfu() -> None:
    workload = scenario().workload
    assert workload is not None
    made = answer(workload=msgspec.structs.replace(workload, mfu=0.4))
    assert made.effective == pytest.approx(0.4 * 36_000 / 43_200)
    assert made.factors.compute == pytest.approx(0.4)


def test_bills_add_up() -> None:
    """Energy by state and hour; what tenants hold and what idles is the fleet's."""
    made = answer(fleet=fleet(price_per_device_hour=2.0, currency="USD"))
    assert made.jobs is not None
    meter = meter_of(fleet().pools[0], fleet=fleet(), grid=None)
    assert meter.busy_w is not None
    assert meter.idle_w is not None
    idle_kwh = (43_200 - 36_000) * meter.idle_w * 1.25 / 3.6e6
    busy_kwh = 36_000 * meter.busy_w * 1.25 / 3.6e6
    assert made.bill.energy_kwh == pytest.approx(busy_kwh + idle_kwh)
    assert made.bill.carbon_kg == pytest.approx(0.4 * (busy_kwh + idle_kwh))
    tenants = [of.bill for of in made.jobs.tenants.values()]
    assert math.fsum(bill.energy_kwh or 0.0 for bill in tenants) == pytest.approx(busy_kwh)
    energy = 8 * 3600 * meter.busy_w * 1.25 / 3.6e6 * 0.5
    energy += (4 * 1800 * meter.busy_w + 4 * 1800 * meter.idle_w) * 1.25 / 3.6e6 * 0.1
    assert made.bill.money["USD"] == pytest.approx(energy + 8 * 1.5 * 2.0)


def test_hours_of_a_series_are_integrated_exactly() -> None:
    rng = np.random.default_rng(5)
    values = rng.uniform(-1, 3, 7)
    instants = np.sort(rng.uniform(0, 40 * HOUR_S, 30))
    fine = np.arange(0, 40 * HOUR_S, 1.0)
    by_second = values[(fine // HOUR_S).astype(int) % 7]
    for at_s in instants:
        whole = by_second[: int(at_s)].sum() + (at_s % 1) * by_second[int(at_s)]
        assert Hourly(values).integral(np.array([at_s]))[0] == pytest.approx(whole, abs=1e-6)


def test_unknown_power_is_unknown() -> None:
    made = answer(fleet=fleet(chip=Chip(id="dark")))
    assert made.bill.energy_kwh is None
    assert "energy_kwh" not in metrics_of(made)
    meter = meter_of(fleet(chip=Chip(id="dark")).pools[0], fleet=fleet(), grid=Grid(price_per_kwh=1.0, currency="USD"))
    assert drawn(meter, devices=np.ones(1), start_s=np.zeros(1), end_s=np.ones(1)).energy_price is None  # type: ignore[arg-type]


def test_a_job_larger_than_the_fleet_is_refused_with_its_reason() -> None:
    jobs = (ListedJob(id="big", devices=9, run_s=1.0), ListedJob(id="small", devices=1, run_s=5.0))
    made = answer(workload=Workload(jobs=jobs))
    assert made.jobs is not None
    assert (made.jobs.all.jobs, made.jobs.all.ended, made.jobs.all.refused) == (2, 1, 1)
    assert made.jobs.refused[0].job == "big"
    assert "8 devices" in made.jobs.refused[0].reason
    nothing = answer(workload=Workload(jobs=jobs[:1]))
    assert nothing.jobs is not None
    assert nothing.jobs.all.summary is None
    assert nothing.duration_s == 0.0


def test_a_deadline_that_passed_is_missed_by_who_never_ended() -> None:
    """The first ends in time, the second is cut off late, the third could never run, and the fourth's is to come."""
    jobs = (
        ListedJob(id="in time", devices=8, run_s=100.0),
        ListedJob(id="cut off", devices=8, run_s=1e6, estimate_s=1e6),
        ListedJob(id="refused", devices=9, run_s=1.0),
        ListedJob(id="to come", submit_s=50.0, devices=8, run_s=1e9),
    )
    workload = Workload(jobs=jobs, traits=(Trait(deadline_factor=1.0),))
    made = answer(workload=workload, policy=Policy(name="fifo"), until_s=1_000_050.0)
    assert made.jobs is not None
    summary = made.jobs.all.summary
    assert summary is not None
    assert (made.jobs.all.ended, summary.deadlines, summary.deadlines_missed) == (1, 2, 1)


def test_jobs_of_no_time_leave_no_trace() -> None:
    job = ListedJob(id="a", devices=1, run_s=1e-300)
    assert answer(workload=Workload(jobs=(job,))).capacity_device_ns == 0
    late = ListedJob(id="b", submit_s=1e15, devices=1, run_s=1e-10)
    made = answer(workload=Workload(jobs=(job, late)))
    assert made.jobs is not None
    assert made.jobs.all.ended == 2


def test_no_job_is_of_more_devices_than_are_counted() -> None:
    with pytest.raises(SpecError, match=r"devices.*use at least 1 and at most 2147483647"):
        parse("name: a\nfleet: h100-sxm:8\nworkload: {jobs: [{id: a, devices: 1e18, run_s: 1}]}", kind=Scenario)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("until_s: 1e300", "until_s: 1e.*300 is out of range; use more than 0"),
        ("workload: {jobs: [{id: a, devices: 1, run_s: 1e300}]}", "jobs.0..run_s"),
        ("workload: {generator: {name: lublin, jobs: 1e18}}", "generator.jobs.*at most 10000000"),
        ("policy: {name: gavel, round_s: 1e-9}", "policy.round_s.*at least 1"),
        ("tuning: {week_s: 1e-9}", "tuning.week_s.*at least 60"),
        ("power: {price_per_kwh: [1, 1e300]}", r"price_per_kwh\[1\].*at least -1000000 and at most 1000000"),
        ("policy: {spares: {review_s: 1}}", "policy.spares.review_s.*at least 60"),
        ("policy: {lending: {services: [], step_s: 1}}", "policy.lending.step_s.*at least 60"),
    ],
)
def test_numbers_that_would_take_for_ever_are_out_of_range(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse(f"name: a\nfleet: h100-sxm:8\n{text}", kind=Scenario)


def test_jobs_of_no_load_come_too_late() -> None:
    with pytest.raises(SpecError, match="comes, or runs, after"):
        tasks_for(Workload(generator=Generator(name="philly", jobs=10, load=1e-300)), devices=8, seed=1)


def test_so_many_are_promised_a_start_as_were_asked() -> None:
    """The last fits beside the others at once; with a depth of one nobody looks at it before its turn."""
    jobs = (
        ListedJob(id="a", devices=6, run_s=100.0),
        ListedJob(id="b", submit_s=1.0, devices=6, run_s=100.0),
        ListedJob(id="c", submit_s=2.0, devices=8, run_s=100.0),
        ListedJob(id="d", submit_s=3.0, devices=2, run_s=90.0),
    )

    def waits_s(depth: int) -> float:
        made = answer(workload=Workload(jobs=jobs), policy=Policy(name="conservative", depth=depth)).jobs
        assert made is not None
        assert made.all.summary is not None
        return made.all.summary.wait_s_max

    assert (waits_s(3), waits_s(1)) == (198.0, 297.0)


def test_numbers_are_a_machine_without_nodes() -> None:
    made = answer(placement="numbers", policy=msgspec.convert({"name": "conservative"}, type(scenario().policy)))
    assert made.jobs is not None
    assert set(made.jobs.pools) == set(made.pools) == {"p"}
    assert UNNAMED not in made.pools
    assert made.jobs.pools["p"].bill.energy_kwh == pytest.approx(made.jobs.all.bill.energy_kwh)


def test_spares_are_kept_back_and_stand_in() -> None:
    made = answer(fleet=fleet(spares=1))
    assert made.pools["p"].devices == 10
    assert made.leaves["idle_reserved_spare"] == 2 * 5400 * 10**9


def test_a_log_of_faults_is_replayed_and_its_problems_counted(tmp_path: Path) -> None:
    log = tmp_path / "faults.csv"
    log.write_text(
        "at_s,pool,node,cause,course,duration_s\n1800,p,0,GPU,repair,900\n5,q,0,GPU,repair,1\n-1,p,1,x,repair,1\n"
    )
    faults = parse(f"log: {log}", kind=type(_faults()))
    made = answer(faults=faults)
    assert made.faults is not None
    assert (made.faults.breakdowns, made.faults.problems) == (1, {"negative time": 1, "unknown pool": 1})
    assert "2 lines gave no breakdown" in made.faults.lines[0]
    assert made.leaves["repair"] == 2 * 900 * 10**9
    assert made.leaves["lost_work"] == 8 * 1800 * 10**9, "nothing was saved"
    assert sum(made.leaves.values()) == made.capacity_device_ns


def _faults() -> FaultModel:
    return FaultModel(per_node_day=50.0, repair_s=600.0)


def _alone(**training: Any) -> dict[str, Any]:
    """Fields of a scenario with one training and no jobs."""
    made = Training(**{"step_s": 20.0, "state_bytes": 1e9} | training)
    return {"workload": None, "until_s": 3600.0, "training": made}


def test_repairs_last_as_long_as_the_pool_says() -> None:
    """Its `repair_s` is the median; the scenario's goes before it, and without either it is a day in the mean."""
    own = fleet(failures=FailureRate(per_node_day=1.0, repair_s=60.0)).pools
    layouts = [layout_of(pool) for pool in own]

    def median_s(faults: FaultModel, pools: tuple[Pool, ...]) -> float:
        found = breakdowns_of(faults, pools, layouts, until_s=1e8, seed=1).breakdowns
        return float(np.median([one.duration_s for one in found if one.course == "repair"]))

    assert median_s(FaultModel(), own) == pytest.approx(60.0, rel=0.2)
    assert median_s(FaultModel(repair_s=355.0), own) == pytest.approx(54.0, rel=0.2)  # a mean, spread as LANL's
    assert median_s(FaultModel(per_node_day=1.0), fleet().pools) == pytest.approx(86_400 * 54 / 355, rel=0.2)


def test_rates_of_one_s_own_give_about_as_many_faults() -> None:
    from myriarch.schedule.layout import layout_of

    pool = fleet(nodes=100).pools[0]
    faulty = breakdowns_of(_faults(), [pool], [layout_of(pool)], until_s=10 * 86_400.0, seed=1)
    assert len(faulty.breakdowns) == pytest.approx(50_000, rel=0.02)
    twice = breakdowns_of(
        msgspec.structs.replace(_faults(), rate=2.0), [pool], [layout_of(pool)], until_s=86_400.0, seed=1
    )
    assert len(twice.breakdowns) == pytest.approx(10_000, rel=0.05)


# --- one training ----------------------------------------------------------------------------------------------------


def trained(**fields: Any) -> Answer:
    """Eight nodes in two groups, a day, a fault of some node every half hour."""
    training = Training(step_s=10.0, state_bytes=1e9, groups_per_pool=2, memory_every_steps=10, mfu=0.4)
    day = {"training": training, "workload": None, "until_s": 86_400.0, "fleet": fleet(nodes=8, spares=2)} | fields
    return answer(faults=FaultModel(per_node_day=4.8, repair_s=3600.0), **day)


def test_one_training_is_accounted_to_the_nanosecond() -> None:
    made = trained()
    assert made.training is not None
    assert sum(made.leaves.values()) == made.capacity_device_ns == 20 * 86_400 * 10**9
    assert (made.kind, made.training.devices, made.training.groups) == ("training", 16, 2)
    assert made.training.interruptions > 20
    assert 0.5 < made.training.progress <= made.training.effective_time < 1.0
    assert made.effective is not None
    assert made.factors.compute == pytest.approx(0.4)
    assert made == trained()
    assert metrics_of(made)["mtbf_s"] == made.training.mtbf_s


def test_a_training_without_faults_loses_saves_only() -> None:
    training = Training(step_s=10.0, state_bytes=1e9, memory_every_steps=100)
    made = play(scenario(training=training, workload=None, until_s=86_400.0)).answer
    assert made.training is not None
    assert made.training.interruptions == 0
    assert made.training.effective_time > 0.99
    assert made.training.step_s == pytest.approx(10.0)


def test_groups_divide_a_pool() -> None:
    with pytest.raises(SpecError, match="3 groups do not divide the 8 nodes"):
        trained(training=Training(step_s=10.0, state_bytes=1e9, groups_per_pool=3))
    assert any("how long it trains" in text for text in problems(scenario(training=Training(step_s=1, state_bytes=1))))


# --- workloads -------------------------------------------------------------------------------------------------------


def test_a_window_of_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    rows = ["job,submit_s,wait_s,run_s,req_s,nodes,gpus,procs,gpu_type,user,group,state"]
    rows += [f"{number},{number * 100},0,50,,,{1 + number % 2},,,u,g," for number in range(10)]
    rows += [
        "10,5,0,,,,1,,,u,g,",
        "3,5,0,7,,,1,,,u,g,",
        ",5,0,7,,,1,,,u,g,",
        "12,1,0,-7,,,1,,,u,g,",
        "13,1,0,7,,,0,,,u,g,",
    ]
    trace.write_text("\n".join(rows))
    taken = tasks_for(Workload(trace=str(trace), from_s=200.0, to_s=800.0, most_jobs=4), devices=8, seed=1)
    assert [task.job.id for task in taken.tasks] == ["2", "3", "4", "5"]
    assert taken.tasks[0].job.submit_s == 0.0, "the scenario begins with its first job"
    assert taken.intake.left_out == 6
    assert taken.intake.problems == {
        "did not run": 1, "missing field": 1, "negative time": 1, "no devices": 1, "repeated id": 1,
    }  # fmt: skip
    assert "5 lines gave no job" in taken.intake.lines[0]
    with pytest.raises(SpecError, match="no job to simulate"):
        tasks_for(Workload(trace=str(trace), from_s=5000.0), devices=8, seed=1)


@pytest.mark.parametrize("name", get_args(GeneratorName))
def test_every_generator_that_can_be_named_draws(name: Any) -> None:
    drawn = Workload(generator=Generator(name=name, jobs=20, load=0.9))
    assert len(tasks_for(drawn, devices=64, seed=1).tasks) == 20
    told = problems(scenario(workload=Workload(generator=Generator(name=name, jobs=20))))
    assert any("`load` is missing" in text for text in told) == (name in MIXES)


def test_traits_are_given_in_turn_and_by_lot() -> None:
    jobs = tuple(ListedJob(id=str(number), devices=1 + number % 4, run_s=60.0) for number in range(2000))
    traits = (
        Trait(preemptible=True, saves_every_s=600.0, deadline_factor=3.0),
        Trait(devices_least=4, within="rack", size_factors=(0.5, 2.0)),
        Trait(share=0.25, kind="hpc", precision="fp64"),
    )
    tasks = tasks_for(Workload(jobs=jobs, traits=traits), devices=8, seed=3).tasks
    assert all(task.job.preemptible and task.job.deadline_s == 180.0 for task in tasks)
    assert {task.job.sizes for task in tasks if task.job.within == "rack"} == {(2, 8)}
    assert sum(task.job.kind == "hpc" for task in tasks) == pytest.approx(500, abs=70)
    assert tasks == tasks_for(Workload(jobs=jobs, traits=traits), devices=8, seed=3).tasks
    assert tasks != tasks_for(Workload(jobs=jobs, traits=traits), devices=8, seed=4).tasks


# --- policies --------------------------------------------------------------------------------------------------------


def test_every_policy_that_can_be_named_runs_and_every_parameter_is_somebody_s() -> None:
    assert set(POLICIES) == set(get_args(PolicyName))
    fields = {field.name for field in msgspec.structs.fields(type(scenario().policy))} - {"name", *OPTIONS}
    assert fields == {name for known in POLICIES.values() for name in known.takes}
    for name, known in POLICIES.items():
        policy = msgspec.convert({"name": name}, type(scenario().policy))
        made = answer(policy=policy, placement=known.placements[0])
        assert made.jobs is not None
        assert made.jobs.all.ended == 2, name
        assert made.jobs.policy == name


@pytest.mark.parametrize("predictor", ["estimate", "user-means", "learned"])
def test_every_predictor_runs(predictor: Any) -> None:
    made = answer(policy=msgspec.convert({"name": "qssf", "predictor": predictor}, type(scenario().policy)))
    assert made.jobs is not None
    assert made.jobs.all.ended == 2


def test_parameters_of_other_policies_are_told_and_left_behind() -> None:
    policy = parse("{name: las, thresholds_device_s: [60, 600], spell: 1}", kind=type(scenario().policy))
    assert given(policy) == ("thresholds_device_s", "spell")
    assert given(renamed(policy, "qssf")) == ("spell",)
    wrong = problems(scenario(policy=msgspec.structs.replace(policy, name="easy")))
    assert wrong[0].startswith("policy.thresholds_device_s: has no meaning with `easy`; it takes `order`")
    assert any(
        "cannot do `placement: numbers`" in text for text in problems(scenario(placement="numbers", policy=policy))
    )


def test_what_is_tuned_is_what_policies_take() -> None:
    for name, space in SPACES.items():
        for path in space:
            parameter = path.removeprefix("policy.").partition(".")[0]
            assert parameter in POLICIES[name].takes, (name, path)
            assert present(scenario(), path) == DEFAULTS[path]


def test_speeds_of_unlike_pools_and_other_sizes() -> None:
    half = Pool(name="q", chip=Chip(id="d", rate_flops_per_s={"bf16": 5e13, "fp64": 1e12}), nodes=4)
    both = Fleet(name="f", pools=(fleet().pools[0], half))
    job = Job(id=JobId("a"), submit_s=0.0, devices=4, estimate_s=1.0)
    speed = speeds_of(Scaling(exponent=0.5), both)
    assert (speed(job, pool="p", devices=4), speed(job, pool="q", devices=5), speed(job, pool="p", devices=3)) == (
        1.0, 0.5, 0.0,
    )  # fmt: skip
    mouldable = msgspec.structs.replace(job, sizes=(1, 16))
    assert speed(mouldable, pool="q", devices=17) == pytest.approx(0.5 * 2.0)
    assert speed(mouldable, pool="p", devices=1) == pytest.approx(0.5)
    assert speeds_of(Scaling(by_pool={"q": 3.0, "p": 2.0}), both)(job, pool="q", devices=4) == 1.5
    with pytest.raises(SpecError, match="peak of pool `p` in fp64 is unknown"):
        speed(msgspec.structs.replace(job, precision="fp64"), pool="q", devices=4)
    assert speeds_of(None, both)(job, pool="q", devices=4) == 1.0


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"workload": None}, "asks for nothing"),
        ({"fleet": ""}, "fleet: is missing"),
        ({"workload": Workload()}, "has no jobs; give one of `trace`"),
        ({"workload": Workload(trace="x", jobs=(ListedJob(id="a", devices=1, run_s=1.0),))}, "`trace` and `jobs`"),
        ({"workload": Workload(jobs=(ListedJob(id="a", devices=1, run_s=1.0),) * 2)}, "`a` is jobs[0] already"),
        ({"workload": Workload(trace="x", from_s=9.0, to_s=3.0)}, "3 s is not after from_s"),
        ({"workload": Workload(trace="x", traits=(Trait(pools=("q",)),))}, "no pool is called `q`"),
        ({"workload": Workload(trace="x", traits=(Trait(precision="fp64"),))}, "no pool's chip has a rate for `fp64`"),
        ({"workload": Workload(trace="x", traits=(Trait(devices_least=4, devices_most=2),))}, "no job is both"),
        ({"workload": Workload(trace="x", scaling=Scaling(reference="q"))}, "workload.scaling.reference: no pool"),
        ({"power": Grid(price_per_kwh=1.0)}, "power.currency: is missing"),
        ({"power": Grid(carbon_kg_per_kwh=-1.0)}, "emits at least nothing"),
        ({"faults": _faults(), "placement": "numbers"}, "nodes fail"),
        ({"faults": msgspec.structs.replace(_faults(), source="lama3")}, "keep one"),
        ({"timing": RunTiming()}, "timing: is of a `run`"),
        ({"seeds": 20_000}, "more than anybody waits for"),
        ({"policy": Policy(name="las", review_s=0.5)}, "policy.review_s: 0.5 s lets time hardly pass"),
        ({"faults": FaultModel(noticed_s=60.0)}, "faults.noticed_s: is of silent corruption"),
        ({"faults": FaultModel(log="x", rate=3.0)}, "faults.rate: is of faults that are drawn"),
        ({"faults": FaultModel(log="x", fail_slow=True)}, "faults.fail_slow: is of faults that are drawn"),
        (_alone(merge_s=20.0), "training.merge_s: 20 s is all of a step of 20 s"),
        (_alone(speeds={"q": 1.0}), "training.speeds.q: no pool is called `q`"),
        (_alone() | {"policy": Policy(name="fifo")}, "policy: decides between jobs"),
        (_alone() | {"placement": "numbers"}, "placement: is of jobs"),
        (_alone() | {"tuning": TuningPlan()}, "tuning: is of a workload"),
        (_alone() | {"faults": FaultModel(detect_s=5.0)}, "faults.detect_s: is of a workload"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(fields: dict[str, Any], told: str) -> None:
    found = problems(scenario(**fields))
    assert any(told in text for text in found), found


def test_an_unknown_source_gets_a_suggestion() -> None:
    faults = parse("source: llama3_405", kind=type(_faults()))
    assert "did you mean `llama3_405b`" in problems(scenario(faults=faults))[0]


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_fields_are_varied_as_if_they_stood_in_the_file() -> None:
    made = varied(scenario(), {"policy.name": "las", "fleet.pools[0].nodes": "8", "until_s": "2 h", "faults.rate": "3"})
    assert isinstance(made.fleet, Fleet)
    assert (made.policy.name, made.fleet.pools[0].nodes, made.until_s) == ("las", 8, 7200.0)
    assert made.faults is not None
    assert made.faults.rate == 3.0
    axes = [axis_of("policy.name=easy, fifo"), axis_of("fleet.pools[0].nodes=4,8")]
    settings = [settings for settings, _ in variants_of(scenario(), axes)]
    assert [tuple(one.values()) for one in settings] == [("easy", "4"), ("easy", "8"), ("fifo", "4"), ("fifo", "8")]
    listed = axis_of("policy.thresholds_device_s=[1,2],[3,4]")
    assert listed.values == ("[1,2]", "[3,4]")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"policy.nam": "easy"}, "policy.nam: unknown key; a policy has `name`"),
        ({"policy.name": "esay"}, "did you mean `easy`"),
        ({"fleet.pools[7].nodes": "8"}, "no place in the scenario"),
        ({"fleet.pools[0": "8"}, "is no path"),
        ({"seed.x": "8"}, "no place in the scenario"),
        ({"until_s": "soon"}, "is not a number"),
        ({"policy.spell": "1"}, "has no meaning with `easy`"),
    ],
)
def test_values_that_cannot_be_are_refused(settings: dict[str, str], told: str) -> None:
    with pytest.raises(Exception, match="--vary") as caught:
        varied(scenario(), settings)
    assert told in str(caught.value)


def test_intervals_are_student_s() -> None:
    assert student_t(0.95, degrees=7) == pytest.approx(2.364624, abs=1e-6)
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.seeds) == (2.5, 4)
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert estimate([7.0]).half_width is None
    assert not estimate([7.0]).excludes_zero
    paired = difference({1: 5.0, 2: 9.0, 3: 1.0}, {1: 4.0, 2: 8.0})
    assert paired is not None
    assert (paired.mean, paired.half_width, paired.excludes_zero) == (1.0, 0.0, True)
    assert difference({1: 5.0}, {2: 5.0}) is None


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for values in rng.exponential(1.0, (2000, 20)).tolist():
        found = estimate(values)
        assert found.half_width is not None
        covered += abs(found.mean - 1.0) <= found.half_width
    assert covered / 2000 == pytest.approx(0.93, abs=0.03), "of a skewed distribution, slightly less than 95 %"


def test_a_digest_is_of_what_was_asked_and_of_the_files(tmp_path: Path) -> None:
    trace = tmp_path / "t"
    trace.write_text("1")
    made = scenario(workload=Workload(trace=str(trace)))
    first = digest_of(made)
    assert first == digest_of(msgspec.structs.replace(made, note="x", output="elsewhere"))
    assert first != digest_of(msgspec.structs.replace(made, seed=2))
    trace.write_text("2")
    assert first != digest_of(made)
