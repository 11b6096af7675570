"""Gangs on nodes, racks, pods and pools."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.decision import Placement, Start
from myriarch.schedule.easy import Easy
from myriarch.schedule.fragmentation import fragmentation, stranded_devices
from myriarch.schedule.job import Job, JobId, Within
from myriarch.schedule.layout import PoolLayout, layouts_of
from myriarch.schedule.nodes import MANY, PoolNodes
from myriarch.schedule.packing import choose, earliest
from myriarch.schedule.placed import Placed
from myriarch.spec.fleet import Fleet, Pool, Precision

POOL = PoolLayout(name="a", nodes=12, devices_per_node=8, nodes_per_rack=3, racks_per_pod=2)


def job(
    name: str,
    devices: int,
    *,
    estimate_s: float = 100.0,
    within: Within = "pool",
    precision: Precision | None = None,
    pools: tuple[str, ...] = (),
) -> Job:
    return Job(
        id=JobId(name),
        submit_s=0.0,
        devices=devices,
        estimate_s=estimate_s,
        within=within,
        precision=precision,
        pools=pools,
    )


def started(easy: Easy, one: Job, *, now_s: float = 0.0) -> Start | None:
    found = [decision for decision in easy.submit(one, now_s=now_s) if decision.job == one.id]
    easy.check()
    assert not found or isinstance(found[0], Start)
    return found[0] if found else None  # type: ignore[return-value]


def nodes(easy: Easy, one: Job) -> tuple[int, ...]:
    start = started(easy, one)
    assert start is not None
    return start.placement.nodes


def test_small_jobs_fill_nodes_up() -> None:
    easy = Easy(Placed([POOL]))
    assert nodes(easy, job("1", 5)) == (0,)
    assert nodes(easy, job("2", 4)) == (1,), "4 do not fit beside 5"
    assert nodes(easy, job("3", 4)) == (1,), "the fullest node with room"
    assert nodes(easy, job("4", 2)) == (0,)
    assert nodes(easy, job("5", 1)) == (0,)
    assert nodes(easy, job("6", 8)) == (2,)


def test_gangs_lie_in_one_rack_then_in_one_pod_then_in_few() -> None:
    easy = Easy(Placed([POOL]))
    assert nodes(easy, job("one", 8)) == (0,)
    assert nodes(easy, job("pair", 16)) == (1, 2), "the fullest rack with room, racks of three left whole"
    assert nodes(easy, job("rack", 24)) == (3, 4, 5)
    assert nodes(easy, job("pod", 32)) == (6, 7, 8, 9), "racks 2 and 3 are pod 1"


def test_a_gang_over_pods_takes_the_roomiest_first() -> None:
    usable = np.array([1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0], dtype=np.bool_)
    free = np.where(usable, 8, 0).astype(np.int64)
    chosen = choose(POOL, usable, free, 6, "pool")
    assert chosen is not None
    assert chosen.tolist() == [0, 1, 6, 7, 8, 10], "pod 1 whole, then the fullest rack of pod 0 with room for two"
    assert choose(POOL, usable, free, 6, "pod") is None
    assert choose(POOL, usable, free, 4, "rack") is None
    assert choose(POOL, usable, free, 8, "pool") is None


def test_a_gang_that_does_not_divide_takes_a_little_more() -> None:
    easy = Easy(Placed([POOL]))
    start = started(easy, job("9", 9))
    assert start is not None
    assert (start.placement.nodes, start.placement.devices_per_node, start.placement.devices) == ((0, 1), 5, 10)


def test_a_gang_that_must_be_in_a_rack_waits_for_one() -> None:
    easy = Easy(Placed([POOL]))
    for rack in range(4):
        place = Placement(pool="a", nodes=(3 * rack,), devices_per_node=8)
        easy.machine.start(job(str(rack), 8, estimate_s=100.0 - rack), place, now_s=0.0)
    assert started(easy, job("gang", 24, within="rack")) is None
    assert started(easy, job("long", 16)) is not None, "beside the hold"
    assert easy.hold is not None
    assert (easy.hold.at_s, easy.hold.pool, sorted(easy.hold.spare_on)) == (97.0, "a", [9, 10, 11])
    assert started(easy, job("too long", 16 * 3)) is None
    assert started(easy, job("short", 16, estimate_s=97.0, within="rack")) is not None
    (start,) = easy.end(JobId("3"), now_s=97.0)
    assert start.job == "gang"


def test_earliest_within_a_domain() -> None:
    ready_s = np.array([9, 1, 1, 9, 9, 2, 3, 9, 3, 9, 9, 9], dtype=np.float64)
    assert earliest(POOL, ready_s, 3, "pool") == 2.0
    assert earliest(POOL, ready_s, 2, "rack") == 1.0
    assert earliest(POOL, ready_s, 3, "rack") == 9.0
    assert earliest(POOL, ready_s, 3, "pod") == 2.0
    odd = PoolLayout(name="odd", nodes=4, devices_per_node=8, nodes_per_rack=3)
    assert earliest(odd, np.array([5.0, 5.0, 7.0, 1.0]), 2, "rack") == 5.0, "the last rack has one node"


def test_the_pool_that_can_least_comes_first_and_precision_is_met() -> None:
    hpc = PoolLayout(name="hpc", nodes=1, devices_per_node=4, precisions=("fp64", "bf16"))
    ai = PoolLayout(name="ai", nodes=1, devices_per_node=4, precisions=("bf16",))
    easy = Easy(Placed([hpc, ai]))
    first, second = started(easy, job("1", 4, precision="bf16")), started(easy, job("2", 4, precision="fp64"))
    assert first is not None
    assert second is not None
    assert (first.placement.pool, second.placement.pool) == ("ai", "hpc")
    assert started(easy, job("3", 4)) is None
    third = easy.end(JobId("1"), now_s=1.0)
    assert [decision.job for decision in third] == ["3"]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (job("x", 97), "job x asks for 97 devices: pool `a` has 96 devices"),
        (
            job("x", 32, within="rack"),
            "job x asks for 32 devices: pool `a` has 3 nodes to a rack, and it needs 4 in one",
        ),
        (job("x", 1, pools=("b",)), "job x asks for 1 devices: pool `a` is not among the pools it names"),
        (job("x", 0), "job x asks for 0 devices for 100.0 s: both must be above zero"),
    ],
)
def test_what_never_fits_is_refused(one: Job, why: str) -> None:
    decisions = Easy(Placed([POOL])).submit(one, now_s=0.0)
    assert [decision.reason for decision in decisions] == [why]


def test_a_precision_nobody_has() -> None:
    machine = Placed([PoolLayout(name="a", nodes=1, devices_per_node=1, precisions=("bf16",))])
    assert machine.refusal(job("x", 1, precision="fp64")) == "asks for 1 devices: pool `a` has no fp64"


@given(st.randoms(use_true_random=False))
@settings(max_examples=8)
def test_free_devices_are_counted_alike_for_small_gangs_and_large(random: Random) -> None:
    """By `check`, node by node."""
    nodes, runs = (
        PoolNodes(PoolLayout(name="a", nodes=2 * MANY, devices_per_node=4)),
        dict[int, tuple[list[int], int]](),
    )
    for number in range(30):
        room = np.flatnonzero(nodes.free).tolist()
        if runs and (not room or random.random() < 0.4):
            gone = random.choice(list(runs))
            nodes.give(*runs.pop(gone), float(gone), gone)
        elif room:
            gang = sorted(random.sample(room, random.randint(1, len(room))))
            each = random.randint(1, int(nodes.free[gang].min()))
            runs[number] = gang, each
            nodes.take(gang, each, float(number), number)
        nodes.check()


def test_nodes_go_and_come_back() -> None:
    pool = PoolLayout(name="a", nodes=2, devices_per_node=4)
    machine = Placed([pool])
    easy = Easy(machine)
    assert nodes(easy, job("1", 4)) == (0,)
    assert machine.withdraw("a", 0) == ("1",), "it has to end first"
    easy.end(JobId("1"), now_s=1.0)
    assert machine.withdraw("a", 0) == ()
    assert machine.devices == machine.free_devices == 4
    assert started(easy, job("2", 8), now_s=1.0) is None, "it waits for the node"
    assert started(easy, job("3", 4), now_s=1.0) is not None, "nobody knows when, so others go on"
    assert easy.hold is not None
    assert easy.hold.at_s == float("inf")
    machine.restore("a", 0)
    assert list(easy.changed(now_s=2.0)) == []
    assert [decision.job for decision in easy.end(JobId("3"), now_s=3.0)] == ["2"]
    with pytest.raises(SpecError, match="no node 7"):
        machine.withdraw("a", 7)


def test_stranded() -> None:
    pool = PoolLayout(name="a", nodes=4, devices_per_node=8, nodes_per_rack=2)
    free = np.array([8, 3, 3, 2])
    assert stranded_devices(pool, free, 1) == 0
    assert stranded_devices(pool, free, 2) == 2, "one of each three"
    assert stranded_devices(pool, free, 8) == 8
    assert stranded_devices(pool, free, 16) == 16, "no second empty node: nothing is of use"
    assert fragmentation(pool, free, {1: 3.0, 8: 1.0}) == 0.125
    assert fragmentation(pool, np.zeros(4, dtype=np.int64), {1: 1.0}) == 0.0


def test_layouts_of_a_fleet_file() -> None:
    fleet = Fleet(name="f", pools=(Pool(name="h", chip="h100-sxm", nodes=8, devices_per_node=8, nodes_per_rack=4),))
    (layout,) = layouts_of(fleet)
    assert (layout.nodes, layout.devices, layout.nodes_per_rack) == (8, 64, 4)
    assert "bf16" in layout.precisions


@pytest.mark.parametrize("pools", [[], [POOL, POOL], [PoolLayout(name="z", nodes=0, devices_per_node=1)]])
def test_pools_that_are_none(pools: list[PoolLayout]) -> None:
    with pytest.raises(SpecError):
        Placed(pools)
