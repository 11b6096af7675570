"""The placement that the runtime uses, counted: as good as Gemini's group placement, and checked by enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from myriarch.checkpoint.placement import Place, place_copies
from myriarch.checkpoint.survival import survival
from myriarch.cost.survival import group_probability, mixed_probability
from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.event.layout import GroupLayout, ShardKey
from myriarch.spec.run import Mesh

Placed = tuple[GroupLayout, dict[ShardKey, tuple[NodeId, ...]], list[NodeId]]


def placed(nodes: int, *, copies: int, per_rack: int = 1, spares: int = 0, devices: int = 8) -> Placed:
    names = [NodeId(f"a-{index}") for index in range(nodes + spares)]
    layout = GroupLayout(
        group=GroupId("a"),
        pool=PoolId("a"),
        mesh=Mesh(dp_shard=nodes * devices),
        devices_per_node=devices,
        nodes=tuple(names[:nodes]),
    )
    places = [
        Place(node=name, pool=PoolId("a"), fault_domain=f"a/{index // per_rack}", spare=index >= nodes)
        for index, name in enumerate(names)
    ]
    return layout, place_copies([layout], places=places, copies=copies), names


def sets(layout: GroupLayout, copies: dict[ShardKey, tuple[NodeId, ...]]) -> set[frozenset[NodeId]]:
    return {frozenset((owner, *copies[key])) for key, owner in layout.seats()}


@pytest.mark.parametrize(
    ("nodes", "copies", "per_rack", "spares"),
    [(8, 1, 1, 0), (8, 1, 2, 0), (9, 1, 1, 0), (8, 2, 1, 0), (8, 1, 1, 2), (12, 1, 4, 0), (9, 2, 3, 0)],
)
def test_our_placement_is_counted_as_it_lies(nodes: int, copies: int, per_rack: int, spares: int) -> None:
    layout, where, names = placed(nodes, copies=copies, per_rack=per_rack, spares=spares)
    fatal = sets(layout, where)
    for failed in range(5):
        downs = [set(down) for down in itertools.combinations(names, failed)]
        harmless = sum(not any(each <= down for each in fatal) for down in downs) / len(downs)
        found = survival([layout], copies=where, nodes=len(names), failed=failed)
        assert found.exact
        assert found.probability == pytest.approx(harmless, abs=1e-12)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("nodes", [2, 8, 64, 128, 512])
def test_one_copy_survives_as_well_as_gemini_s_groups(nodes: int, devices: int) -> None:
    layout, where, _ = placed(nodes, copies=1, devices=devices)
    assert len(sets(layout, where)) == nodes // 2
    for failed in range(min(nodes, 6) + 1):
        found = survival([layout], copies=where, nodes=nodes, failed=failed)
        assert found.exact
        assert found.probability == pytest.approx(group_probability(nodes, replicas=2, failed=failed), abs=1e-12)


@pytest.mark.parametrize("nodes", [3, 9, 127])
def test_an_odd_node_makes_gemini_s_mixed_strategy(nodes: int) -> None:
    layout, where, _ = placed(nodes, copies=1)
    assert len(sets(layout, where)) == (nodes - 3) // 2 + 3
    for failed in range(min(nodes, 6) + 1):
        found = survival([layout], copies=where, nodes=nodes, failed=failed)
        assert found.exact
        assert found.probability == pytest.approx(mixed_probability(nodes, replicas=2, failed=failed), abs=1e-12)


def test_two_failures_of_128_nodes_lose_something_in_eight_cases_of_a_thousand() -> None:
    layout, where, _ = placed(128, copies=1)
    found = survival([layout], copies=where, nodes=128, failed=2)
    assert found.probability == pytest.approx(1 - 64 / math.comb(128, 2), abs=1e-12)
    assert 1 - found.probability == pytest.approx(0.00787, abs=5e-6)


def test_whole_racks_may_fail_where_copies_lie_in_others() -> None:
    layout, where, names = placed(16, copies=1, per_rack=4)
    for first in range(0, 16, 4):
        assert not any(each <= set(names[first : first + 4]) for each in sets(layout, where))


def test_many_nodes_against_chance() -> None:
    layout, where, names = placed(128, copies=1, per_rack=8, spares=4)
    fatal = sets(layout, where)
    draw = np.random.default_rng(2)
    rounds, failed = 3000, 8
    lost = 0
    for _ in range(rounds):
        down = {names[index] for index in draw.choice(len(names), failed, replace=False)}
        lost += any(each <= down for each in fatal)
    found = survival([layout], copies=where, nodes=len(names), failed=failed)
    spread = math.sqrt(found.probability * (1 - found.probability) / rounds)
    if found.exact:
        assert abs(1 - lost / rounds - found.probability) < 4 * spread
    else:
        assert found.probability <= 1 - lost / rounds + 4 * spread
