"""Copies over fault domains."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from myriarch.checkpoint.placement import Place, place_copies
from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.event.layout import GroupLayout
from myriarch.spec.run import Mesh


def layout(pool: str, indexes: list[int], devices_per_node: int = 1) -> GroupLayout:
    nodes = tuple(NodeId(f"{pool}-{index}") for index in indexes)
    mesh = Mesh(dp_shard=len(nodes) * devices_per_node)
    return GroupLayout(
        group=GroupId(pool), pool=PoolId(pool), mesh=mesh, devices_per_node=devices_per_node, nodes=nodes
    )


def place(pool: str, index: int, *, per_rack: int = 1, spare: bool = False) -> Place:
    return Place(
        node=NodeId(f"{pool}-{index}"), pool=PoolId(pool), fault_domain=f"{pool}/{index // per_rack}", spare=spare
    )


def test_two_nodes_hold_each_others_shard() -> None:
    copies = place_copies([layout("a", [0, 1])], places=[place("a", 0), place("a", 1)], copies=1)
    assert copies == {("a", 0): ("a-1",), ("a", 1): ("a-0",)}


def test_four_nodes_pair_up() -> None:
    copies = place_copies([layout("a", [0, 1, 2, 3])], places=[place("a", i) for i in range(4)], copies=1)
    assert list(copies.values()) == [("a-1",), ("a-0",), ("a-3",), ("a-2",)]


def test_three_nodes_make_a_ring() -> None:
    copies = place_copies([layout("a", [0, 1, 2])], places=[place("a", i) for i in range(3)], copies=1)
    assert copies == {("a", 0): ("a-1",), ("a", 1): ("a-2",), ("a", 2): ("a-0",)}


def test_never_in_the_owners_rack() -> None:
    places = [place("a", i, per_rack=2) for i in range(4)]
    copies = place_copies([layout("a", [0, 1, 2, 3])], places=places, copies=1)
    assert copies == {("a", 0): ("a-2",), ("a", 1): ("a-3",), ("a", 2): ("a-0",), ("a", 3): ("a-1",)}


def test_another_pool_where_the_own_has_no_second_node() -> None:
    copies = place_copies([layout("a", [0]), layout("b", [0])], places=[place("a", 0), place("b", 0)], copies=1)
    assert copies == {("a", 0): ("b-0",), ("b", 0): ("a-0",)}


def test_another_pool_rather_than_the_own_rack() -> None:
    places = [place("a", 0, per_rack=2), place("a", 1, per_rack=2), place("b", 0)]
    copies = place_copies([layout("a", [0, 1])], places=places, copies=1)
    assert set(copies.values()) == {("b-0",)}


def test_a_spare_holds_copies_and_wins_ties() -> None:
    places = [place("a", 0), place("a", 1), place("a", 2, spare=True)]
    assert set(place_copies([layout("a", [0, 1])], places=places, copies=1).values()) == {("a-2",)}


def test_alone_there_is_nowhere_to_copy_to() -> None:
    assert place_copies([layout("a", [0])], places=[place("a", 0)], copies=2) == {("a", 0): ()}


@given(
    nodes=st.integers(1, 9),
    spares=st.integers(0, 3),
    per_rack=st.integers(1, 3),
    devices=st.integers(1, 3),
    copies=st.integers(0, 3),
    other=st.integers(0, 4),
)
def test_the_rules(nodes: int, spares: int, per_rack: int, devices: int, copies: int, other: int) -> None:
    mine = [place("a", i, per_rack=per_rack, spare=i >= nodes) for i in range(nodes + spares)]
    theirs = [place("b", i) for i in range(other)]
    layouts = [layout("a", list(range(nodes)), devices)] + ([layout("b", list(range(other)))] if other else [])
    placed = place_copies(layouts, places=[*mine, *theirs], copies=copies)
    assert placed == place_copies(layouts, places=[*theirs, *mine], copies=copies), "the order of nodes does not matter"
    domain = {one.node: one.fault_domain for one in [*mine, *theirs]}
    pool = {one.node: one.pool for one in [*mine, *theirs]}
    domains = set(domain.values())
    for group in layouts:
        for key, owner in group.seats():
            chosen = placed[key]
            assert owner not in chosen
            assert len(set(chosen)) == len(chosen) == min(copies, len(domain) - 1)
            if len(domains) > 1:
                assert chosen == () or domain[chosen[0]] != domain[owner], "out of the owner's domain"
            spread = {domain[owner], *(domain[node] for node in chosen)}
            assert len(spread) == min(1 + len(chosen), len(domains)), "as many domains as there are"
            at_home = {domain[node] for node in pool if pool[node] == group.pool} - {domain[owner]}
            if chosen and at_home:
                assert pool[chosen[0]] == group.pool, "the own pool first"


@given(nodes=st.integers(2, 12), devices=st.integers(1, 4), copies=st.integers(1, 2))
def test_balance(nodes: int, devices: int, copies: int) -> None:
    placed = place_copies(
        [layout("a", list(range(nodes)), devices)], places=[place("a", i) for i in range(nodes)], copies=copies
    )
    held = Counter(node for chosen in placed.values() for node in chosen)
    counts = [held[NodeId(f"a-{i}")] for i in range(nodes)]
    assert max(counts) - min(counts) <= 1
