"""Restore plans: the newest whole step, each shard from its nearest intact copy."""

from __future__ import annotations

from myriarch.checkpoint.commit import Snapshots
from myriarch.checkpoint.restore import Durable, RestorePlan, plan_restore
from myriarch.event.actions import Fresh, FromDisk, FromMemory
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.layout import GroupLayout, ShardKey
from myriarch.spec.run import Mesh


def layout(group: str, *nodes: str, mesh: Mesh | None = None) -> GroupLayout:
    return GroupLayout(
        group=GroupId(group),
        pool=PoolId(group),
        mesh=mesh or Mesh(dp_shard=len(nodes)),
        devices_per_node=1,
        nodes=tuple(map(NodeId, nodes)),
    )


def key(group: str, rank: int) -> ShardKey:
    return GroupId(group), Rank(rank)


def shard(owner: ShardKey, role: Role) -> HeldShard:
    return HeldShard(
        group=owner[0], rank=owner[1], world_size=2, step=Step(8), incarnation=Incarnation(1), role=role, size_bytes=1,
        root="r",
    )  # fmt: skip


FAST, SLOW = layout("fast", "f0", "f1"), layout("slow", "s0", "s1")
COPIES = {key("fast", 0): "f1", key("fast", 1): "f0", key("slow", 0): "s1", key("slow", 1): "s0"}


def committed(*lost: str) -> Snapshots:
    snapshots = Snapshots()
    snapshots.begin(Incarnation(1), layouts=(FAST, SLOW), copies={one: (NodeId(node),) for one, node in COPIES.items()})
    for group in (FAST, SLOW):
        for owner, seat in group.seats():
            snapshots.seal(seat, shard(owner, "own"), digest="0", now_s=0.0)
            snapshots.copy(NodeId(COPIES[owner]), shard(owner, "copy"), now_s=0.0)
    for node in lost:
        snapshots.lose(NodeId(node), now_s=0.0)
    return snapshots


def sources(plan: RestorePlan, group: str, rank: int) -> list[str]:
    restore = plan.by_worker[key(group, rank)]
    assert isinstance(restore, FromMemory)
    assert restore.same_layout == (len(restore.shards) == 1)
    return [f"{one.shard.group}/{one.shard.rank}@{one.node}" for one in restore.shards]


def test_own_memory_first() -> None:
    plan = plan_restore((FAST, SLOW), committed=committed().committed, durable=None)
    assert (plan.tier, plan.step, plan.remote_shards) == ("memory", 8, 0)
    assert sources(plan, "fast", 1) == ["fast/1@f1"]


def test_then_a_copy_on_another_node() -> None:
    after = layout("fast", "f0", "f2")
    plan = plan_restore((after, SLOW), committed=committed("f1").committed, durable=None)
    assert sources(plan, "fast", 1) == ["fast/1@f0"]
    assert plan.remote_shards == 1


def test_then_the_same_shard_of_a_twin_group() -> None:
    after = layout("fast", "f2", "f3")
    plan = plan_restore((after, SLOW), committed=committed("f0", "f1").committed, durable=None)
    assert sources(plan, "fast", 0) == ["slow/0@s0"]
    assert sources(plan, "fast", 1) == ["slow/1@s1"]


def test_another_layout_takes_a_complete_copy_of_its_own_group() -> None:
    after = layout("fast", "f0")
    plan = plan_restore((after, SLOW), committed=committed("f1").committed, durable=None)
    assert sources(plan, "fast", 0) == ["fast/0@f0", "fast/1@f0"]
    other_mesh = layout("fast", "f0", "f1", mesh=Mesh(dp_replicate=2))
    plan = plan_restore((other_mesh, SLOW), committed=committed().committed, durable=None)
    assert sources(plan, "fast", 0) == ["fast/0@f0", "fast/1@f1"], "another mesh is another layout"


def test_or_of_its_twin() -> None:
    after = layout("fast", "f2")
    plan = plan_restore((after, SLOW), committed=committed("f0", "f1").committed, durable=None)
    assert sources(plan, "fast", 0) == ["slow/0@s0", "slow/1@s1"]


def test_then_disk_for_everybody_and_then_nothing() -> None:
    broken = committed("f0", "f1", "s0", "s1").committed
    durable = Durable(step=Step(4), path="checkpoints/step-4")
    plan = plan_restore((FAST, SLOW), committed=broken, durable=durable)
    assert (plan.tier, plan.step) == ("disk", 4)
    assert set(plan.by_worker.values()) == {FromDisk(step=Step(4), path="checkpoints/step-4")}
    plan = plan_restore((FAST, SLOW), committed=broken, durable=None)
    assert (plan.tier, plan.step) == ("fresh", 0)
    assert set(plan.by_worker.values()) == {Fresh()}


def test_the_newest_step_wins_and_memory_a_tie() -> None:
    memory = committed().committed
    assert plan_restore((FAST,), committed=memory, durable=Durable(step=Step(8), path="d")).tier == "memory"
    assert plan_restore((FAST,), committed=memory, durable=Durable(step=Step(9), path="d")).tier == "disk"


def test_one_group_alone_can_be_restored_from_what_the_other_left() -> None:
    """The whole slow group died; the fast one goes on degraded, from its own memory."""
    plan = plan_restore((FAST,), committed=committed("s0", "s1").committed, durable=None)
    assert sources(plan, "fast", 0) == ["fast/0@f0"]
