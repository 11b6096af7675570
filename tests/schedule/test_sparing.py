"""Spares by risk: more where large gangs run on nodes that fail, none where nothing would stand still."""

from __future__ import annotations

import msgspec
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.decision import Refuse, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.sparing import Sparing, best

DAY_S = 86_400.0
POOL = PoolLayout(name="p", nodes=40, devices_per_node=8)


def job(name: str, nodes: int) -> Job:
    return Job(id=JobId(name), submit_s=0.0, devices=8 * nodes, estimate_s=30 * DAY_S)


def test_the_number_of_spares_is_the_cheapest() -> None:
    """One node in twenty days fails, away for a day: two of 40 are away on average."""
    plan = best(nodes=40, gangs=[30], failures_per_node_s=1 / (20 * DAY_S), repair_s=DAY_S, most=10)
    costs = [
        best(nodes=40, gangs=[30], failures_per_node_s=1 / (20 * DAY_S), repair_s=DAY_S, most=most)
        for most in range(11)
    ]
    assert plan.nodes == costs[plan.nodes].nodes
    assert plan.idle_nodes + plan.standing_nodes <= min(cost.idle_nodes + cost.standing_nodes for cost in costs) + 1e-12
    assert 2 <= plan.nodes <= 6
    assert plan.standing_nodes < plan.without_nodes
    assert best(nodes=40, gangs=[1] * 40, failures_per_node_s=1e-3, most=10).nodes == 0
    assert best(nodes=40, gangs=[30], failures_per_node_s=0.0, most=10).nodes == 0


def test_spares_follow_what_runs_and_refuse_nobody() -> None:
    sparing = Sparing(Easy(Placed([POOL])), failures_per_node_s=1 / (20 * DAY_S), repair_s=DAY_S, review_s=600.0)
    assert isinstance(sparing.submit(job("gang", 30), now_s=0.0)[0], Start)
    assert sparing.wake_s == 600.0
    sparing.wake(now_s=600.0)
    sparing.check()
    kept = sparing.plans["p"].nodes
    assert kept >= 2
    assert sparing.machine.free_devices == 8 * (10 - kept)
    assert f"{kept} spares" in sparing.plans["p"].reason
    waits = sparing.submit(job("all", 40), now_s=700.0)
    assert not [one for one in waits if isinstance(one, Refuse)], "the whole pool may be asked for: spares are let go"
    assert sparing.machine.free_devices == 80
    sparing.end(JobId("gang"), now_s=800.0)
    sparing.wake(now_s=1200.0)
    sparing.check()
    assert sparing.plans["p"].nodes == 0


def test_no_more_nodes_are_away_than_there_are() -> None:
    """Rates that nobody has give an answer, too: the most that may be kept."""
    assert best(nodes=8, gangs=[4], failures_per_node_s=1e6, repair_s=1e9, most=2).nodes == 2


def test_pools_have_risks_of_their_own_and_others_are_let_alone() -> None:
    pools = [msgspec.structs.replace(POOL, name=name) for name in ("often", "seldom", "lent")]
    machine = Placed(pools)
    rates = {"often": 1 / (20 * DAY_S), "seldom": 1 / (20_000 * DAY_S)}
    sparing = Sparing(Easy(machine), failures_per_node_s=rates, repair_s=dict.fromkeys(rates, DAY_S), review_s=600.0)
    machine.keep("lent", 0, now_s=0.0)
    for name in rates:
        sparing.submit(msgspec.structs.replace(job(name, 30), pools=(name,)), now_s=0.0)
    sparing.wake(now_s=600.0)
    sparing.check()
    assert sparing.plans.keys() == rates.keys()
    assert sparing.plans["often"].nodes > sparing.plans["seldom"].nodes
    assert len(machine.pools["often"].spares) == sparing.plans["often"].nodes
    assert machine.pools["lent"].spares == {0}


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match="most_share"):
        Sparing(Easy(Placed([POOL])), failures_per_node_s=1e-6, most_share=1.0)
