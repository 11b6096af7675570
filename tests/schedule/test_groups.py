"""Groups onto nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.event.layout import GroupLayout, node_order
from myriarch.schedule.groups import Assignment, Fits, Shrinkage, assign, smaller_meshes
from myriarch.spec.run import Group, Mesh

FAST = Group(name="fast", pool="fast", nodes=4, mesh=Mesh(dp_replicate=2, dp_shard=2))
SLOW = Group(name="slow", pool="slow", nodes=2, mesh=Mesh(dp_shard=2))


def names(pool: str, *indexes: int) -> list[NodeId]:
    return [NodeId(f"{pool}-{index}") for index in indexes]


def go(
    groups: list[Group],
    idle: Mapping[str, list[NodeId]],
    *,
    previous: Assignment | None = None,
    lost: set[str] = frozenset(),  # type: ignore[assignment]
    holds: Callable[[GroupId, int, NodeId], bool] = lambda group, place, node: False,
    warm: Callable[[NodeId], bool] = lambda node: True,
    fits: Fits = lambda sizes: True,
) -> Assignment:
    return assign(
        groups,
        idle={PoolId(group.pool): idle.get(group.pool, []) for group in groups},
        previous={layout.group: layout for layout in previous.layouts} if previous else {},
        lost=lambda group, node: node in lost,
        holds=holds,
        warm=warm,
        fits=fits,
    )


START = go([FAST, SLOW], {"fast": names("fast", 0, 1, 2, 3), "slow": names("slow", 1, 0)})


def test_first_by_name() -> None:
    assert [layout.nodes for layout in START.layouts] == [tuple(names("fast", 0, 1, 2, 3)), tuple(names("slow", 0, 1))]
    assert START.missing == ()
    assert START.resized == ()


def test_ten_comes_after_nine() -> None:
    assert sorted(names("a", 10, 9, 2), key=node_order) == names("a", 2, 9, 10)


def test_a_spare_takes_the_very_place() -> None:
    after = go([FAST, SLOW], {"fast": names("fast", 4)}, previous=START, lost={"fast-1"})
    assert after.layouts[0].nodes == tuple(names("fast", 0, 4, 2, 3))
    assert after.layouts[1] == START.layouts[1]
    assert [(one.lost, one.node) for one in after.replaced] == [("fast-1", "fast-4")]


def test_the_spare_that_has_the_bytes_is_taken_first_then_the_namesake() -> None:
    idle = {"fast": names("fast", 1, 4, 5)}
    after = go([FAST], idle, previous=START, lost={"fast-1"}, holds=lambda group, place, node: node == "fast-5")
    assert after.layouts[0].nodes[1] == "fast-5"
    after = go([FAST], idle, previous=START, lost={"fast-1"})
    assert after.layouts[0].nodes[1] == "fast-1"


def test_a_warm_spare_is_taken_before_a_cold_one_that_has_all_else() -> None:
    idle = {"fast": names("fast", 1, 4, 5)}
    holds = {"holds": lambda group, place, node: node == "fast-1"}
    after = go([FAST], idle, previous=START, lost={"fast-1"}, warm=lambda node: node == "fast-5", **holds)  # type: ignore[arg-type]
    assert after.layouts[0].nodes[1] == "fast-5"
    after = go([FAST], idle, previous=START, lost={"fast-1"}, warm=lambda node: False, **holds)  # type: ignore[arg-type]
    assert after.layouts[0].nodes[1] == "fast-1"


def test_copies_of_the_model_go_before_shards() -> None:
    assert list(smaller_meshes(Mesh(dp_replicate=2, dp_shard=2), devices=3)) == [Mesh(dp_shard=2), Mesh(dp_shard=1)]
    after = go([FAST, SLOW], {}, previous=START, lost={"fast-1"})
    assert after.layouts[0].mesh == Mesh(dp_shard=2)
    assert after.layouts[0].nodes == tuple(names("fast", 0, 2)), "the third one is idle"
    assert after.resized == (Shrinkage(group=GroupId("fast"), from_devices=4, to_devices=2),)


def test_it_shrinks_until_the_batch_divides() -> None:
    group = Group(name="fast", pool="fast", nodes=4, mesh=Mesh(dp_shard=4))
    start = go([group], {"fast": names("fast", 0, 1, 2, 3)})
    after = go([group], {}, previous=start, lost={"fast-3"}, fits=lambda sizes: 8 % sizes[GroupId("fast")] == 0)
    assert after.layouts[0].world_size == 2, "8 sequences do not divide by 3"


def test_without_nodes_it_is_missing_and_it_comes_back() -> None:
    after = go([FAST, SLOW], {}, previous=START, lost={"slow-0", "slow-1"})
    assert after.missing == ("slow",)
    assert [layout.group for layout in after.layouts] == ["fast"]
    back = go([FAST, SLOW], {"slow": names("slow", 0)}, previous=START, lost={"slow-0", "slow-1"})
    assert back.missing == ()
    assert back.layouts[1].world_size == 1


def test_a_shrunk_group_grows_back() -> None:
    small = go([SLOW], {}, previous=go([SLOW], {"slow": names("slow", 0, 1)}), lost={"slow-0"})
    after = go([SLOW], {"slow": names("slow", 0)}, previous=small)
    assert after.layouts[0].world_size == 2
    assert set(after.layouts[0].nodes) == {"slow-0", "slow-1"}


def test_groups_of_one_pool_share_its_nodes() -> None:
    one = Group(name="one", pool="p", nodes=2, mesh=Mesh(dp_shard=2))
    two = Group(name="two", pool="p", nodes=1, mesh=Mesh(dp_shard=1))
    after = go([one, two], {"p": names("p", 0, 1, 2, 3)})
    assert [layout.nodes for layout in after.layouts] == [("p-0", "p-1"), ("p-2",)]


def test_ranks_lie_on_nodes_in_order() -> None:
    layout = GroupLayout(
        group=GroupId("g"),
        pool=PoolId("p"),
        mesh=Mesh(dp_shard=4),
        devices_per_node=2,
        nodes=tuple(names("p", 3, 1)),
    )
    assert [(node, layout.device_of(key[1])) for key, node in layout.seats()] == [
        ("p-3", 0), ("p-3", 1), ("p-1", 0), ("p-1", 1),
    ]  # fmt: skip


@given(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 3)), st.integers(1, 24))
def test_every_node_is_in_one_place_and_every_mesh_fits(spares: set[int], dead: set[int], batch: int) -> None:
    lost = {f"fast-{index}" for index in dead}
    idle = [node for index in sorted(spares) for node in names("fast", index) if index > 3 or node in lost]
    after = go(
        [FAST],
        {"fast": idle},
        previous=START,
        lost=lost,
        fits=lambda sizes: all(batch % size == 0 for size in sizes.values()),
    )
    for layout in after.layouts:
        assert len(set(layout.nodes)) == len(layout.nodes) == layout.mesh.devices
        assert all(node not in lost or node in idle for node in layout.nodes)
        assert layout.mesh == FAST.mesh or batch % layout.world_size == 0
    assert len(after.layouts) + len(after.missing) == 1
