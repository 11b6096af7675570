"""What stands around a policy, by what it does: lending, power, moves, spares by risk, and which pool is first."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.decision import Start
from myriarch.schedule.moving import Moving
from myriarch.schedule.sparing import Changing
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.scenario import (
    FaultModel,
    Generator,
    Grid,
    ListedJob,
    Policy,
    PolicyName,
    Scaling,
    Scenario,
    Trait,
    Workload,
)
from myriarch.simulate.scenario_answer import Answer
from myriarch.simulate.scenario_around import OPTIONS, _spans
from myriarch.simulate.scenario_check import check_scenario
from myriarch.simulate.scenario_cluster import ClusterRun, faults_for, setting_for
from myriarch.simulate.scenario_jobs import tasks_for
from myriarch.simulate.scenario_options import Defragment, Lend, PowerLimit, Service, SparesByRisk
from myriarch.simulate.scenario_play import play
from myriarch.simulate.scenario_policy import POLICIES, scheduler_of
from myriarch.simulate.scenario_power import HOUR_S, meter_of
from myriarch.simulate.sweep import varied
from myriarch.spec.fleet import Chip, FailureRate, Fleet, Pool
from myriarch.spec.parse import parse

CHIP = Chip(id="c", rate_flops_per_s={"bf16": 1e14}, power_w=500.0)
NIGHT = (0.25,) * 6 + (0.5,) * 2 + (1.0,) * 12 + (0.5,) * 4
STOPPABLE = Trait(preemptible=True, save_s=30.0, restart_s=60.0, saves_every_s=600.0)
DAY_S = 86_400.0


def pool(name: str, nodes: int = 4, **more: Any) -> Pool:
    told: dict[str, Any] = {"chip": CHIP, "nodes": nodes, "devices_per_node": 4} | more
    return Pool(name=name, **told)


def fleet(*pools: Pool) -> Fleet:
    return Fleet(name="f", pools=pools or (pool("p"),))


def chat(name: str = "serve", **more: Any) -> Lend:
    told: dict[str, Any] = {"name": "chat", "pool": name, "devices": 16, "load": NIGHT, "notice_s": 900.0} | more
    return Lend(services=(Service(**told),))


def drawn(jobs: int = 120, load: float = 1.0, **more: Any) -> Workload:
    return Workload(generator=Generator(name="philly", jobs=jobs, load=load), traits=(STOPPABLE,), **more)


def scenario(*, workload: Workload | None = None, on: Fleet | None = None, **fields: Any) -> Scenario:
    return Scenario(name="around", fleet=on or fleet(), workload=workload or drawn(), **fields)


def answer(**fields: Any) -> Answer:
    return play(scenario(**fields)).answer


def problems(**fields: Any) -> list[str]:
    found: list[str] = []
    check_scenario(scenario(**fields), tell=lambda path, message: found.append(f"{path}: {message}"))
    return found


def held(run: ClusterRun, name: str, instants_s: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Devices of a pool that jobs hold at each instant, from the stints alone."""
    bills = run.bills
    here = bills.pool == [each.name for each in run.fleet.pools].index(name)
    starts, ends, devices = bills.start_s[here], bills.end_s[here], bills.devices[here]
    inside = (starts[None, :] <= instants_s[:, None]) & (instants_s[:, None] < ends[None, :])
    return np.asarray((inside * devices[None, :]).sum(axis=1))


# --- lending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "begins"), [("easy", 0), ("gittins", 22)])
def test_services_have_their_devices_whenever_they_need_them(name: Any, begins: int) -> None:
    """By what jobs held alone: never a device that a service's curve asks for at that instant."""
    on = fleet(pool("train", 2), pool("serve", 4))
    asked = scenario(
        workload=drawn(90, 3.0),
        on=on,
        policy=Policy(name=name, lending=chat()),
        power=Grid(begins_hour=begins),
        until_s=2 * DAY_S,
        seed=4,
    )
    run = ClusterRun(asked)
    instants_s = np.arange(0.0, 2 * DAY_S, 300.0)
    need = np.array([-(-round(16 * NIGHT[int(at_s / HOUR_S + begins) % 24]) // 4) * 4 for at_s in instants_s])
    borrowed = held(run, "serve", instants_s)
    assert (borrowed + need <= 16).all()
    assert borrowed.max() > 8, "on all nodes but one by night"
    lent = run.answer().jobs
    assert lent is not None
    part = lent.lending["serve"]
    assert part.asked_back_nodes >= 3
    assert part.stopped > 0
    assert part.short_device_hours == 0.0
    assert part.lent_device_hours > 20.0


def test_lending_brings_jobs_forward() -> None:
    """Against the same jobs on the pool of their own alone."""
    on = fleet(pool("train", 2), pool("serve", 4))

    def jct_s(workload: Workload, lending: Lend | None) -> float:
        made = answer(workload=workload, on=on, policy=Policy(lending=lending), seed=4).jobs
        assert made is not None
        assert made.all.summary is not None
        return made.all.summary.completion_s_mean

    own = msgspec.structs.replace(drawn(80), traits=(STOPPABLE, Trait(devices_least=1, pools=("train",))))
    small = Trait(devices_least=1, sizes=())
    both = msgspec.structs.replace(own, traits=(STOPPABLE, small))
    assert jct_s(both, chat()) < 0.8 * jct_s(own, None)


def test_elastic_jobs_shrink_for_services() -> None:
    job = ListedJob(id="a", devices=12, run_s=8 * HOUR_S)
    elastic = Trait(elastic=True, sizes=(4,), preemptible=True, restart_s=60.0)
    made = answer(
        workload=Workload(jobs=(job,), traits=(elastic,), scaling=Scaling()),
        on=fleet(pool("serve")),
        policy=Policy(name="preemptive", lending=chat(load=(0.25,) * 6 + (0.75,) * 18)),
    ).jobs
    assert made is not None
    assert (made.lending["serve"].shrunk, made.lending["serve"].stopped, made.all.ended) == (1, 0, 1)
    assert made.all.summary is not None
    assert made.all.summary.completion_s_mean == pytest.approx(6 * HOUR_S + 60.0 + 3 * 2 * HOUR_S)


# --- power -----------------------------------------------------------------------------------------------------------


def power_at(run: ClusterRun, instants_s: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    meter = meter_of(run.fleet.pools[0], fleet=run.fleet, grid=None)
    assert meter.busy_w is not None
    assert meter.idle_w is not None
    return np.asarray(16 * meter.idle_w + held(run, "p", instants_s) * (meter.busy_w - meter.idle_w))


def test_the_cap_is_never_passed_at_any_instant() -> None:
    """At each start, against the cap of its hour; without it more is drawn."""
    caps_w = (11_000.0, 9_500.0, 8_000.0)
    asked = scenario(policy=Policy(name="easy", power=PowerLimit(cap_w=caps_w)), seed=3)
    run = ClusterRun(asked)
    instants_s = np.unique(np.concatenate((run.bills.start_s, np.arange(0.0, run.outcome.end_s, HOUR_S))))
    drawn_w = power_at(run, instants_s)
    cap_w = np.array([caps_w[int(at_s // HOUR_S) % 3] for at_s in instants_s])
    assert (drawn_w <= cap_w + 1e-6).all()
    assert (drawn_w > cap_w - 1_000.0).any(), "it is used as far as it goes"
    free = ClusterRun(msgspec.structs.replace(asked, policy=Policy(name="easy")))
    assert power_at(free, np.asarray(free.bills.start_s)).max() > 11_000.0
    made, without = run.answer().jobs, free.answer().jobs
    assert made is not None
    assert without is not None
    assert made.power_w_most == pytest.approx(drawn_w.max())
    assert without.power_w_most is not None
    assert without.power_w_most > 11_000.0
    assert made.all.ended + made.all.refused == without.all.ended == 120
    assert all("with all else idle" in one.reason for one in made.refused)
    assert run.ledger.total.leaves["idle_price_hold"] > 0


def test_a_job_for_which_there_is_never_power_is_refused_with_its_numbers() -> None:
    jobs = (ListedJob(id="big", devices=16, run_s=60.0), ListedJob(id="small", devices=4, run_s=60.0))
    made = answer(workload=Workload(jobs=jobs), policy=Policy(power=PowerLimit(cap_w=9_000.0))).jobs
    assert made is not None
    assert (made.all.ended, made.all.refused) == (1, 1)
    assert "W with all else idle, for 60 s: the caps, 9000 W at most, never leave it that" in made.refused[0].reason


def test_jobs_that_have_time_wait_for_cheaper_hours_and_no_longer_than_was_allowed() -> None:
    """What the wait saves, and what it costs: at most that share of each job's slack, and no deadline."""
    jobs = tuple(
        ListedJob(id=str(at), submit_s=1800.0 * at, devices=1 + at % 4, run_s=1800.0 + 600.0 * (at % 5))
        for at in range(40)
    )
    grid = Grid(price_per_kwh=(0.1,) * 8 + (1.0,) * 16, currency="CNY")
    workload = Workload(jobs=jobs, traits=(Trait(deadline_factor=20.0),))

    def played(share: float) -> ClusterRun:
        power = PowerLimit(slack_share=share) if share else None
        return ClusterRun(scenario(workload=workload, power=grid, policy=Policy(power=power), until_s=3 * DAY_S))

    at_once, shifted = played(0.0), played(0.6)
    before, after = at_once.answer(), shifted.answer()
    assert before.jobs is not None
    assert after.jobs is not None
    assert after.jobs.all.bill.money["CNY"] < 0.7 * before.jobs.all.bill.money["CNY"]
    assert after.jobs.all.bill.energy_kwh == pytest.approx(before.jobs.all.bill.energy_kwh)
    assert after.jobs.all.summary is not None
    assert (after.jobs.all.summary.deadlines, after.jobs.all.summary.deadlines_missed) == (40, 0)
    columns = shifted.outcome.columns
    slack_s = np.asarray(columns.deadline_s) - np.asarray(columns.submit_s) - np.asarray(columns.run_s)
    waited_s = np.asarray(columns.start_s) - np.asarray(columns.submit_s)
    assert (waited_s <= 0.6 * slack_s + 1e-6).all()
    assert waited_s.max() > 4 * HOUR_S
    held_s = sum(devices * wait_s for devices, wait_s in zip(columns.devices, waited_s.tolist(), strict=True))
    assert 0 < after.leaves["idle_price_hold"] <= held_s * 1e9, "no more than was asked for"


def test_equal_hours_are_one_and_the_last_go_on_for_ever() -> None:
    hours = _spans([1.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 3.0])
    assert [(hour.start_s, hour.price_per_kwh, hour.cap_w) for hour in hours] == [
        (0.0, 1.0, 5.0), (7200.0, 2.0, 5.0), (10_800.0, 2.0, 3.0), (14_400.0, 1.5, 3.0),
    ]  # fmt: skip
    assert hours[-1].end_s == float("inf")
    (always,) = _spans([0.0, 0.0], [7.0, 7.0])
    assert (always.start_s, always.end_s, always.cap_w) == (0.0, float("inf"), 7.0)


# --- moves, spares, pools --------------------------------------------------------------------------------------------


def test_a_gang_that_fits_by_count_does_not_wait_where_jobs_are_moved() -> None:
    jobs = (
        ListedJob(id="a", devices=2, run_s=9000.0),
        ListedJob(id="b", devices=2, run_s=100.0),
        ListedJob(id="c", devices=2, run_s=9000.0),
        ListedJob(id="d", submit_s=200.0, devices=4, run_s=600.0),
    )
    workload = Workload(jobs=jobs, traits=(STOPPABLE,))

    def wait_s(said: Any) -> float:
        made = answer(workload=workload, on=fleet(pool("p", 2)), policy=Policy(defragment=said)).jobs
        assert made is not None
        assert made.all.summary is not None
        return made.all.summary.wait_s_max

    assert (wait_s(True), wait_s(Defragment(price=1e6)), wait_s(False)) == (0.0, 8800.0, 8800.0)


def test_spares_are_held_by_risk() -> None:
    """While a large gang runs on nodes that often break; none for single nodes, none where nothing breaks."""
    gang = (ListedJob(id="g", devices=72, run_s=2 * DAY_S),)
    singles = tuple(ListedJob(id=str(at), devices=4, run_s=2 * DAY_S) for at in range(18))

    def spare_s(jobs: tuple[ListedJob, ...], per_node_day: float) -> float:
        on = fleet(pool("p", 20, failures=FailureRate(per_node_day=per_node_day, repair_s=43_200.0)))
        made = answer(workload=Workload(jobs=jobs), on=on, policy=Policy(spares=True))
        return made.leaves["idle_reserved_spare"] / 4e9

    assert spare_s(gang, 0.05) > DAY_S
    assert spare_s(singles, 0.05) == spare_s(gang, 0.0) == 0.0
    on = fleet(pool("p", 20))
    risky = Policy(spares=SparesByRisk(per_node_day=0.05, repair_s=DAY_S))
    made = answer(workload=Workload(jobs=gang), on=on, policy=risky)
    assert made.leaves["idle_reserved_spare"] > 0
    drawn_faults = FaultModel(per_node_day=0.05, repair_s=DAY_S)
    same = answer(workload=Workload(jobs=gang), on=on, faults=drawn_faults, policy=Policy(spares=True))
    assert same.leaves["idle_reserved_spare"] > 0


RIGHT = Chip(id="r", rate_flops_per_s={"fp64": 1e13, "fp32": 2e13, "bf16": 3e14}, power_w=500.0)
NEW = Chip(
    id="n", rate_flops_per_s={"fp64": 1e12, "fp32": 8e13, "tf32": 1e15, "bf16": 2e15, "fp8": 4e15}, power_w=900.0
)
OLD = Chip(id="o", rate_flops_per_s={"fp32": 1e13, "bf16": 1e14}, power_w=300.0)


def priced(**prices: float) -> Fleet:
    chips = {"right": RIGHT, "new": NEW, "old": OLD}
    return fleet(
        *(pool(name, chip=chips[name], price_per_device_hour=price, currency="USD") for name, price in prices.items())
    )


def test_jobs_go_where_their_precision_is_cheap_and_right() -> None:
    """FP64 to the chip that is built for it, though the other has it and fewer would; the rest by money for work."""
    jobs = tuple(ListedJob(id=f"{name}{at}", devices=4, run_s=600.0, tenant=name) for at in range(2) for name in "abc")
    precisions: dict[str, Any] = {"a": "fp64", "b": "bf16", "c": "fp8"}
    traits = tuple(Trait(tenants=(name,), precision=precision) for name, precision in precisions.items())
    workload = Workload(jobs=jobs, traits=traits)
    on = priced(new=8.0, old=1.0, right=2.0)

    def pools_of(policy: Policy) -> dict[str, set[str]]:
        rows = ClusterRun(scenario(workload=workload, on=on, policy=policy)).rows()
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(str(row[1]), set()).add(str(row[3]))
        return found

    assert pools_of(Policy(prefer="cheapest-right")) == {"a": {"right"}, "b": {"new"}, "c": {"new"}}
    assert pools_of(Policy()) == {"a": {"right"}, "b": {"old"}, "c": {"new"}}
    dear = msgspec.structs.replace(workload, jobs=jobs[:3])
    cheap = ClusterRun(
        scenario(workload=dear, on=priced(new=200.0, old=1.0, right=2.0), policy=Policy(prefer="cheapest-right"))
    )
    assert [row[3] for row in cheap.rows()] == ["right", "old", "new"]


# --- together, and what cannot be -------------------------------------------------------------------------------------


def test_all_of_it_together_through_faults() -> None:
    """Every invariant after every event."""
    on = fleet(*(pool(name, 6, price_per_device_hour=2.0, currency="USD") for name in ("train", "serve")))
    asked = scenario(
        workload=msgspec.structs.replace(drawn(40), traits=(STOPPABLE, Trait(share=0.5, deadline_factor=6.0))),
        on=on,
        policy=Policy(
            name="easy",
            lending=chat(),
            power=PowerLimit(cap_w=(30_000.0, 25_000.0), slack_share=0.3),
            defragment=True,
            spares=True,
            prefer="cheapest-right",
        ),
        power=Grid(price_per_kwh=(0.1, 0.3), currency="USD"),
        faults=FaultModel(per_node_day=0.2, repair_s=HOUR_S),
        until_s=DAY_S,
    )
    assert asked.workload is not None
    tasks = tasks_for(asked.workload, devices=48, seed=0).tasks
    faulty = faults_for(asked, tasks)
    assert faulty is not None
    starts: list[str] = []
    outcome = simulate_cluster(
        tasks,
        scheduler_of(asked.policy, setting_for(asked, tasks)),
        breakdowns=faulty.breakdowns,
        until_s=asked.until_s,
        observe=lambda one: starts.append(one.job) if isinstance(one, Start) else None,
        check=True,
    )
    assert len(set(starts)) > 30
    assert outcome.ledger.total.leaves["idle_price_hold"] > 0


@pytest.mark.parametrize("name", list(POLICIES))
def test_each_policy_takes_what_it_says(name: PolicyName) -> None:
    """Those that can be wrapped are `Moving`; the others refuse by name."""
    asked = scenario(workload=drawn(3), policy=Policy(name=name))
    assert asked.workload is not None
    made = scheduler_of(asked.policy, setting_for(asked, tasks_for(asked.workload, devices=16, seed=0).tasks))
    options = POLICIES[name].options
    assert isinstance(made, Moving) == ("lending" in options) == ("defragment" in options) == ("power" in options)
    assert isinstance(made, Changing) == ("spares" in options)
    for option in OPTIONS:
        told = {"prefer": "cheapest-right", "lending": chat("p"), "power": PowerLimit(cap_w=1e6)}.get(option, True)
        said = problems(
            policy=msgspec.structs.replace(asked.policy, **{option: told}),
            on=fleet(pool("p", price_per_device_hour=1.0)),
        )
        assert any(text.startswith(f"policy.{option}: cannot stand around `{name}`") for text in said) != (
            option in options
        )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"policy": Policy(lending=chat("surve"))}, "policy.lending.services[0].pool: no pool is called `surve`"),
        ({"policy": Policy(lending=chat("p", devices=17))}, "need 5 nodes, and it has 4"),
        ({"policy": Policy(lending=chat("p", load=NIGHT[:23]))}, "services[0].load: has 23 shares; give 24"),
        ({"policy": Policy(lending=Lend(services=()))}, "policy.lending.services: is empty"),
        ({"policy": Policy(lending=msgspec.structs.replace(chat("p"), step_s=700.0))}, "does not divide the hour"),
        ({"policy": Policy(lending=chat("p")), "on": fleet(pool("p", spares=1))}, "keeps 1 spares, and one that lends"),
        ({"policy": Policy(prefer="cheapest-right")}, "policy.prefer: pool `p` has no price"),
        (
            {
                "policy": Policy(prefer="cheapest-right"),
                "on": fleet(
                    pool("p", price_per_device_hour=1.0, currency="USD"),
                    pool("q", price_per_device_hour=1.0, currency="CNY"),
                ),
            },
            "policy.prefer: pools are priced in `CNY`, `USD`",
        ),
        ({"policy": Policy(power=PowerLimit())}, "policy.power: has neither `cap_w` nor `slack_share`"),
        ({"policy": Policy(power=PowerLimit(cap_w=()))}, "policy.power.cap_w: is empty"),
        ({"policy": Policy(spares=True), "placement": "numbers"}, "policy.spares: is of nodes, and with `placement"),
        ({"policy": Policy(name="las", thresholds_device_s=(9.0, 9.0))}, "thresholds_device_s[1]: 9 is not above 9"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_its_path(fields: dict[str, Any], told: str) -> None:
    found = problems(**fields)
    assert any(told in text for text in found), found


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"policy": Policy(power=PowerLimit(cap_w=100.0))}, r"policy.power.cap_w: .*idle, all devices draw"),
        ({"policy": Policy(power=PowerLimit(slack_share=0.5))}, "what energy costs in pool `p` is unknown"),
        (
            {"policy": Policy(power=PowerLimit(cap_w=1e5)), "on": fleet(pool("p", chip=Chip(id="dark")))},
            "policy.power: nobody knows what a device of pool `p` draws",
        ),
        (
            {"policy": Policy(name="myriarch", defragment=True), "workload": drawn(3, scaling=Scaling())},
            "policy.defragment: `myriarch` cannot move jobs",
        ),
    ],
)
def test_what_shows_only_with_the_fleet_is_told_with_its_path(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        answer(**fields)


def test_a_file_says_it_as_it_is_read() -> None:
    policy = parse(
        "{name: easy, defragment: true, spares: {most_share: 0.2}, power: {cap_w: 250 kW, slack_share: 0.5}}",
        kind=Policy,
    )
    assert policy.power == PowerLimit(cap_w=250_000.0, slack_share=0.5)
    assert (policy.defragment, policy.spares) == (True, SparesByRisk(most_share=0.2))
    made = varied(scenario(policy=policy), {"policy.name": "gittins", "policy.power.cap_w": "[1 MW, 2 MW]"})
    assert made.policy.power == PowerLimit(cap_w=(1e6, 2e6), slack_share=0.5)
    assert made.policy.defragment is True
    with pytest.raises(SpecError, match="cannot stand around `gavel`"):
        varied(scenario(policy=policy), {"policy.name": "gavel"})
