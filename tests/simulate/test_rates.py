"""Breakdowns drawn from rates: means, shapes, tails, lemons, racks; published sources; logs."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from myriarch.cost.failures import per_node_day
from myriarch.cost.spares import LANL_MEAN_S, LANL_MEDIAN_S
from myriarch.errors import SpecError
from myriarch.schedule.layout import PoolLayout
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.rates import (
    FAIL_SLOW,
    HARDWARE,
    LANL_SHAPE,
    SUPERBENCH_REPAIR,
    SWITCH,
    Cause,
    Duration,
    FaultRates,
    like_lanl,
    maintenance,
    plain,
)
from myriarch.simulate.rates_draw import draw, weibull_times
from myriarch.simulate.rates_log import read_breakdowns
from myriarch.simulate.rates_published import SOURCES, lemon_times, published
from myriarch.simulate.scenario import FaultModel, Lemons, Upkeep
from myriarch.simulate.scenario_faults import breakdowns_of
from myriarch.spec.fleet import Chip, Pool
from myriarch.units import S_PER_DAY

YEAR_S = 365 * S_PER_DAY
FLEET = {"a": (2000, 16)}


def within(count: float, mean: float, *, sigmas: float = 4.0) -> bool:
    """A Poisson count so far from its mean is one in 16,000."""
    return bool(abs(count - mean) <= sigmas * math.sqrt(mean))


def faults(found: tuple[Breakdown, ...]) -> list[Breakdown]:
    return [one for one in found if one.course not in ("slow", "maintenance") and one.cause != SWITCH.name]


def test_llama_3s_54_days() -> None:
    """Table 5: 419 unexpected and 47 planned interruptions; its causes in their proportions."""
    model = published("llama3_405b")
    found = [
        one
        for seed in range(20)
        for one in draw(model, {"a": (2048, 16)}, until_s=54 * S_PER_DAY, seed=seed, job_devices=16_384)
    ]
    by_cause = Counter(one.cause for one in found)
    assert within(len(faults(tuple(found))), 20 * 419)
    assert within(by_cause["planned maintenance"], 20 * 47)
    counts = {
        "Faulty GPU": 148, "GPU HBM3 Memory": 72, "Software Bug": 54, "Network Switch/Cable": 35,
        "Host Maintenance": 32, "NIC": 7, "Silent Data Corruption": 6,
    }  # fmt: skip
    for cause, count in counts.items():
        assert within(by_cause[cause], 20 * count), cause
    courses = {one.cause: one.course for one in found}
    assert courses["Software Bug"] == "in_place"
    assert courses["Faulty GPU"] == "repair"
    assert courses["Silent Data Corruption"] == "corrupt"
    # LANL's means by cause, as widely spread as all of its repairs: half of them are over by then.
    for cause, mean_min in (("Network Switch/Cable", 247), ("Host Maintenance", 163)):
        lasts_s = [one.duration_s for one in found if one.cause == cause]
        assert np.median(lasts_s) == pytest.approx(60 * mean_min * LANL_MEDIAN_S / LANL_MEAN_S, rel=0.25), cause


def test_large_jobs_fail_as_the_published_law_says() -> None:
    model = published("llama3_405b")
    for devices in (8, 16_384, 55_000, 98_304, 131_072):
        assert model.per_node_day(devices=devices) == pytest.approx(float(per_node_day(devices)), rel=1e-3)
    ft_hsdp = published("meta_ft_hsdp")
    mtbf_s = S_PER_DAY / (ft_hsdp.per_node_day(devices=98_304) * 98_304 / 8)
    assert mtbf_s == pytest.approx(18 * 60, rel=1e-3)
    drawn = faults(draw(ft_hsdp, {"a": (12_288, 16)}, until_s=30 * S_PER_DAY, seed=3, job_devices=98_304))
    assert within(len(drawn), 30 * S_PER_DAY / mtbf_s)


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_draws_what_it_says(name: str) -> None:
    model = published(name)
    model.check()
    found = faults(draw(model, FLEET, until_s=60 * S_PER_DAY, seed=5))
    assert within(len(found), model.per_node_day() * 2000 * 60)


def test_gaps_are_weibull_and_their_mean_is_the_rates() -> None:
    """LANL's shape: squared coefficient of variation 2.14 where Poisson has 1, at the same mean."""
    for shape, spread in ((1.0, 1.0), (LANL_SHAPE, 2.139)):
        rng = np.random.default_rng(7)
        times = weibull_times(rng, rate_per_s=1.0, shape=shape, until_s=200_000.0)
        gaps = np.diff(times)
        assert gaps.mean() == pytest.approx(1.0, rel=0.02)
        assert (gaps.std() / gaps.mean()) ** 2 == pytest.approx(spread, rel=0.05)
        # Stationary from the first instant on: short periods have the mean count, too.
        early = [
            len(weibull_times(np.random.default_rng(seed), rate_per_s=1.0, shape=shape, until_s=2.0))
            for seed in range(2000)
        ]
        assert np.mean(early) == pytest.approx(2.0, rel=0.06)


def test_repairs_have_the_published_mean_and_median() -> None:
    """LANL: mean 355 min, median 54 min; SuperBench: 38.1 % above a day, 10.3 % above two weeks."""
    model = plain(0.05, repair=like_lanl(LANL_MEAN_S), repair_share=1.0)
    lasts_s = np.array([one.duration_s for one in draw(model, FLEET, until_s=YEAR_S, seed=1)])
    assert len(lasts_s) > 35_000
    assert np.median(lasts_s) == pytest.approx(LANL_MEDIAN_S, rel=0.04)
    assert lasts_s.mean() == pytest.approx(LANL_MEAN_S, rel=0.1)
    model = plain(0.05, repair=SUPERBENCH_REPAIR, repair_share=1.0)
    days = np.array([one.duration_s for one in draw(model, FLEET, until_s=YEAR_S, seed=1)]) / S_PER_DAY
    assert (days > 1).mean() == pytest.approx(0.381, abs=0.01)
    assert (days > 14).mean() == pytest.approx(0.103, abs=0.01)
    assert HARDWARE.mean_s == S_PER_DAY


def test_lemons_fail_as_much_more_often_as_they_should() -> None:
    """RSC: without its lemons, large jobs fail with 4 % instead of 14 %."""
    times = lemon_times(share=0.013, before=0.14, after=0.04)
    part = 0.013 * times / (0.013 * times + 0.987)
    assert 1 - 0.86 ** (1 - part) == pytest.approx(0.04)
    model = published("meta_rsc_1")
    found = Counter(one.node for one in faults(draw(model, FLEET, until_s=YEAR_S, seed=2)))
    lemons = [node for node, count in found.items() if count > 60]
    assert len(lemons) == round(model.lemon_share * 2000)
    share = sum(found[node] for node in lemons) / found.total()
    lot = model.lemon_share * model.lemon_times
    assert share == pytest.approx(lot / (lot + 1 - model.lemon_share), abs=0.02)


def test_a_rack_and_a_row_break_down_at_one_instant() -> None:
    pool = PoolLayout(name="a", nodes=100, devices_per_node=8, nodes_per_rack=8, racks_per_pod=4)
    switch = Cause(name="switch", per_place_day=0.1, course="repair", lasts=HARDWARE, scope="rack")
    row = Cause(name="row", per_place_day=0.1, course="repair", lasts=HARDWARE, scope="row")
    found = draw(FaultRates(name="m", causes=(switch, row)), [pool], until_s=300 * S_PER_DAY, seed=4)
    events = {key: list(each) for key, each in itertools.groupby(found, key=lambda one: (one.at_s, one.cause))}
    racks = [nodes for (_, cause), nodes in events.items() if cause == "switch"]
    rows = [nodes for (_, cause), nodes in events.items() if cause == "row"]
    assert within(len(racks), 13 * 30)
    assert within(len(rows), 4 * 30)
    for size, places in ((8, racks), (32, rows)):
        for nodes in places:
            first = nodes[0].node
            assert first % size == 0
            assert [one.node for one in nodes] == list(range(first, min(first + size, 100)))
            assert len({one.duration_s for one in nodes}) == 1


def test_slow_nodes_and_maintenance() -> None:
    planned = maintenance(every_s=30 * S_PER_DAY, duration_s=3600.0, announced_s=600.0)
    found = draw(plain(0.0).with_causes(FAIL_SLOW, planned), FLEET, until_s=YEAR_S / 4, seed=6, job_devices=98_304)
    slow = [one for one in found if one.course == "slow"]
    assert within(len(slow), FAIL_SLOW.per_place_day * 2000 * 365 / 4)
    assert {one.factor for one in slow} == {0.9}
    lasts = np.array([one.duration_s for one in slow])
    assert ((lasts > 30) & (lasts < 36_000)).mean() == pytest.approx(0.95, abs=0.01)
    kept = [one for one in found if one.course == "maintenance"]
    assert within(len(kept), 2000 * 365 / 4 / 30)
    assert {(one.duration_s, one.announced_s) for one in kept} == {(3600.0, 600.0)}


def test_a_scenario_has_them_all_at_their_rates() -> None:
    """What a scenario file can ask for, counted on one fleet: switches as Alibaba HPN has them (0.051 % a month), rows
    twice a year, slow nodes as on the 504 B200, lemons, bursts, maintenance."""
    asked = FaultModel(
        per_node_day=0.002, shape=LANL_SHAPE, lemons=Lemons(share=0.02, times=20.0), switches=True, rows=True,
        fail_slow=True, maintenance=Upkeep(every_s=90 * S_PER_DAY, duration_s=1800.0, announced_s=600.0),
    )  # fmt: skip
    layout = PoolLayout(name="a", nodes=3000, devices_per_node=8, nodes_per_rack=2, racks_per_pod=50)
    pool = Pool(name="a", chip=Chip(id="c"), nodes=3000, devices_per_node=8)
    found = breakdowns_of(asked, [pool], [layout], until_s=2 * YEAR_S, seed=12).breakdowns
    events = Counter({(one.cause, one.at_s) for one in found})
    by_cause = Counter(cause for cause, _ in events)
    rates = {"rack switch": 1500 * 5.1e-4 / 30, "power or cooling of a row": 30 * 2 / 365, "fail-slow": 3000 * 5 / 4599}
    rates |= {"planned maintenance": 3000 / 90, "node": 3000 * 0.002 * 0.78, "process": 3000 * 0.002 * 0.22}
    assert by_cause.keys() == rates.keys()
    bursts = {"node": 2.2, "process": 2.2}  # of Weibull gaps with this shape the counts vary more
    for cause, per_day in rates.items():
        assert within(by_cause[cause], 730 * per_day, sigmas=4.0 * bursts.get(cause, 1.0)), cause
    unplanned = Counter(one.node for one in found if one.cause in ("node", "process"))
    worst = sum(count for _, count in unplanned.most_common(60))
    assert worst / unplanned.total() == pytest.approx(0.02 * 20 / (0.02 * 20 + 0.98), abs=0.03)


def test_silence_may_last() -> None:
    late = published("meta_ft_hsdp", noticed_s=600.0)
    found = [one for one in draw(late, FLEET, until_s=YEAR_S, seed=8) if one.course == "corrupt"]
    assert np.mean([one.duration_s for one in found]) == pytest.approx(600.0, rel=0.25)


def test_streams_are_apart() -> None:
    model = published("llama3_405b").with_causes(FAIL_SLOW)
    both = {"a": (200, 8), "b": (100, 8)}
    found = draw(model, both, until_s=100 * S_PER_DAY, seed=9)
    assert found == draw(model, both, until_s=100 * S_PER_DAY, seed=9)
    assert found != draw(model, both, until_s=100 * S_PER_DAY, seed=10)
    assert list(found) == sorted(found, key=lambda one: (one.at_s, one.pool, one.node))
    alone = draw(model, {"a": (200, 8)}, until_s=100 * S_PER_DAY, seed=9)
    assert alone == tuple(one for one in found if one.pool == "a"), "another pool changes nothing"
    longer = draw(model, both, until_s=200 * S_PER_DAY, seed=9)
    assert longer[: len(found)] == found, "a longer time begins with the same"


def test_the_same_under_another_hash_seed() -> None:
    program = (
        "import hashlib; from myriarch.simulate.rates_draw import draw; "
        "from myriarch.simulate.rates_published import published; "
        "found = draw(published('meta_rsc_1'), {'b': (64, 8), 'a': (64, 8)}, until_s=1e7, seed=3); "
        "print(hashlib.sha256(repr(found).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_rates_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="`nobody` is no published source"):
        published("nobody")
    with pytest.raises(SpecError, match=r"cause `node` of `plain`: -0\.78 a day"):
        draw(plain(-1.0), FLEET, until_s=1.0, seed=0)
    with pytest.raises(SpecError, match=r"median 2\.0 s"):
        draw(plain(1.0, repair=Duration(mean_s=1.0, median_s=2.0)), FLEET, until_s=1.0, seed=0)
    with pytest.raises(SpecError, match=r"shape 0\.0"):
        FaultRates(name="m", causes=(), shape=0.0).check()
    assert draw(plain(0.0), FLEET, until_s=YEAR_S, seed=0) == ()


LOG = """# one week of a fleet
time_s,pool,node,cause,course,duration_s,factor,announced_s
20,a,3,Faulty GPU,repair,3600,,
10,a,a-1,fail-slow,slow,60,0.5,
10,a,0,Software Bug,in_place,,,
30,a,9,NIC,repair,1,,
30,c,0,NIC,repair,1,,
-1,a,0,NIC,repair,1,,
5,a,0,NIC,explodes,1,,
5,a,zero,NIC,repair,1,,
5,a,0,NIC,repair,nan,,
,a,0,NIC,repair,1,,
5,a,0,,repair,1,,
5,a,0,NIC,slow,1,0,
20,a,3,Faulty GPU,repair,3600,,
"""


def test_a_log_is_replayed_and_its_bad_lines_are_counted() -> None:
    log = read_breakdowns(LOG.splitlines(), nodes={"a": 4, "b": 2})
    assert [(one.at_s, one.node, one.course) for one in log.breakdowns] == [
        (10.0, 0, "in_place"), (10.0, 1, "slow"), (20.0, 3, "repair"),
    ]  # fmt: skip
    assert log.breakdowns[1].factor == 0.5
    assert log.problem_counts == {
        "bad factor": 1, "missing field": 2, "negative time": 1, "no such node": 1, "not a number": 2,
        "repeated": 1, "unknown course": 1, "unknown pool": 1,
    }  # fmt: skip
    assert log.problems[0].line == 6
    assert read_breakdowns([]).breakdowns == ()
    with pytest.raises(SpecError, match="without the columns course, at_s"):
        read_breakdowns(["pool,node,cause"])


def test_more_breakdowns_than_can_be_kept_are_refused_before_any_is_drawn() -> None:
    """With the rate, the nodes and the time, and what could be done about it."""
    model = published("llama3_405b").scaled(1e6)
    with pytest.raises(SpecError, match=r"`llama3_405b` gives each of 2,048 nodes .* 4[0-9]{3} a day") as raised:
        draw(model, {"main": (2048, 16)}, until_s=10 * 86_400.0, seed=1)
    assert "5,000,000 can be kept" in raised.value.message
    assert "864000 s" in raised.value.message
    assert raised.value.hint == "lower the rates, take fewer nodes, or at most 4.99e+04 s"
