"""Copies over fault domains."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from myriarch.checkpoint.placement import Place, place_copies
from myriarch.event.ids import GroupId, NodeId, PoolId, Rank
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
    assert max(counts) - min(counts) <= devices, "no more than one node's worth"


def test_the_shards_of_a_node_stay_together() -> None:
    copies = place_copies([layout("a", [0, 1, 2], 8)], places=[place("a", i) for i in range(3)], copies=1)
    assert [copies[GroupId("a"), Rank(rank)] for rank in range(24)] == 8 * [("a-1",)] + 8 * [("a-2",)] + 8 * [("a-0",)]


def test_a_node_with_idle_devices_pairs_up_like_any_other() -> None:
    nodes = tuple(NodeId(f"a-{index}") for index in range(4))
    shrunk = GroupLayout(
        group=GroupId("a"), pool=PoolId("a"), mesh=Mesh(dp_shard=26), devices_per_node=8, nodes=nodes
    )  # fmt: skip
    copies = place_copies([shrunk], places=[place("a", i) for i in range(4)], copies=1)
    assert {(owner, *copies[key]) for key, owner in shrunk.seats()} == {
        ("a-0", "a-1"), ("a-1", "a-0"), ("a-2", "a-3"), ("a-3", "a-2"),
    }  # fmt: skip


def test_a_full_node_pairs_up_with_a_lighter_one() -> None:
    heavy = layout("a", [0, 2], 8)
    light = GroupLayout(
        group=GroupId("b"),
        pool=PoolId("a"),
        mesh=Mesh(dp_shard=8),
        devices_per_node=4,
        nodes=(NodeId("a-1"), NodeId("a-3")),
    )
    copies = place_copies([heavy, light], places=[place("a", i) for i in range(4)], copies=1)
    pairs = {frozenset((owner, *copies[key])) for group in (heavy, light) for key, owner in group.seats()}
    assert pairs == {frozenset(("a-0", "a-1")), frozenset(("a-2", "a-3"))}


def test_groups_on_one_node_have_their_copies_together() -> None:
    groups = [
        GroupLayout(group=GroupId(name), pool=PoolId("a"), mesh=Mesh(dp_shard=8), devices_per_node=2, nodes=nodes)
        for name, nodes in [
            ("x", tuple(NodeId(f"a-{index}") for index in (0, 1, 2, 3))),
            ("y", tuple(NodeId(f"a-{index}") for index in (3, 2, 1, 0))),
        ]
    ]
    copies = place_copies(groups, places=[place("a", i) for i in range(4)], copies=1)
    found = {(owner, *copies[key]) for group in groups for key, owner in group.seats()}
    assert found == {("a-0", "a-1"), ("a-1", "a-0"), ("a-2", "a-3"), ("a-3", "a-2")}


@given(
    nodes=st.permutations(list(range(9))),
    size=st.integers(1, 9),
    devices=st.sampled_from([2, 3, 8]),
    per_rack=st.integers(1, 4),
    copies=st.integers(1, 3),
)
def test_as_if_each_node_were_one_device(
    nodes: list[int], size: int, devices: int, per_rack: int, copies: int
) -> None:  # fmt: skip
    """In any order of nodes, with what is left of nine as spares."""
    places = [place("a", i, per_rack=per_rack, spare=i not in nodes[:size]) for i in range(9)]
    single = place_copies([layout("a", nodes[:size])], places=places, copies=copies)
    several = place_copies([layout("a", nodes[:size], devices)], places=places, copies=copies)
    assert list(several) == [("a", rank) for rank in range(size * devices)]
    assert all(chosen == single[group, Rank(rank // devices)] for (group, rank), chosen in several.items())


@given(heavy=st.integers(1, 6), light=st.integers(1, 6), devices=st.integers(2, 8), small=st.integers(1, 8))
def test_unlike_groups_are_balanced_within_one_node_s_worth(heavy: int, light: int, devices: int, small: int) -> None:
    total = heavy + light
    second = GroupLayout(
        group=GroupId("b"),
        pool=PoolId("a"),
        mesh=Mesh(dp_shard=light * small),
        devices_per_node=small,
        nodes=tuple(NodeId(f"a-{index}") for index in range(heavy, total)),
    )
    groups = [layout("a", list(range(heavy)), devices), second]
    copies = place_copies(groups, places=[place("a", i) for i in range(total)], copies=1)
    held = Counter(node for chosen in copies.values() for node in chosen)
    held.update(owner for group in groups for _, owner in group.seats())
    loads = [held[NodeId(f"a-{index}")] for index in range(total)]
    assert max(loads) - min(loads) <= max(devices, small)
    where: dict[NodeId, set[tuple[NodeId, ...]]] = {}
    for group in groups:
        for key, owner in group.seats():
            where.setdefault(owner, set()).add(copies[key])
    assert all(len(chosen) == 1 for chosen in where.values())
