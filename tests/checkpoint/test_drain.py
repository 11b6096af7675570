"""The disk tier's machine: corners. Its way through failures is in `tests/control/scenarios/drain*.txt`."""

from __future__ import annotations

from myriarch.checkpoint.commit import Snapshot
from myriarch.checkpoint.drain import DRAIN_LIMIT_S, DRAIN_TRIES, Drain
from myriarch.checkpoint.restore import Durable
from myriarch.event.actions import AnyAction, DrainShards, FinishDrain, Warn
from myriarch.event.events import DrainFailed, HeldShard, ShardDrained, SnapshotDrained
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.layout import GroupLayout
from myriarch.spec.run import Mesh

NODE = NodeId("n-0")
KEY = (GroupId("g"), Rank(0))


def snapshot(step: int) -> Snapshot:
    layout = GroupLayout(
        group=KEY[0], pool=PoolId("n"), mesh=Mesh(), devices_per_node=1, nodes=(NODE,)
    )  # fmt: skip
    shard = HeldShard(
        group=KEY[0], rank=KEY[1], world_size=1, step=Step(step), incarnation=Incarnation(1), role="own", size_bytes=1,
        root="r",
    )  # fmt: skip
    return Snapshot(
        step=Step(step),
        incarnation=Incarnation(1),
        layouts=(layout,),
        began_s=0.0,
        holders={KEY: {NODE: shard}},
        unsealed=0,
        uncopied=0,
        digests={},
        unsealed_of={KEY[0]: 0},
        undigested={},
    )


def written(step: int) -> ShardDrained:
    return ShardDrained(
        node=NODE, step=Step(step), incarnation=Incarnation(1), shards=(KEY,), size_bytes=1, duration_s=0.1
    )


def go(drain: Drain, step: int, *, final: bool = False) -> list[str]:
    """A whole drain, without trouble. Returns the folders to delete."""
    drain.start(snapshot(step), final=final, now_s=0.0)
    (finish,) = drain.written(written(step), now_s=0.0)
    assert isinstance(finish, FinishDrain)
    drain.finished(SnapshotDrained(step=Step(step), incarnation=Incarnation(1), path=finish.final_path), now_s=0.0)
    drain.check()
    return [path.rpartition("/")[2] for path in finish.delete_paths]


def kinds(actions: list[AnyAction]) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_only_so_many_are_kept_and_the_oldest_go() -> None:
    drain = Drain(root="c", keep=2)
    assert [go(drain, step) for step in (10, 20, 30, 40)] == [[], [], ["step-00000010"], ["step-00000020"]]
    assert [one.step for one in drain.durable] == [30, 40]
    drain = Drain(root="c", keep=1)
    assert [go(drain, step) for step in (10, 20)] == [[], ["step-00000010"]]


def test_the_checkpoint_of_a_resume_counts() -> None:
    drain = Drain(root="c", keep=2, durable=[Durable(step=Step(10), path="c/step-00000010")])
    assert drain.newest is not None
    assert go(drain, 20) == []
    assert go(drain, 30) == ["step-00000010"]


def test_what_is_on_disk_is_not_written_again() -> None:
    drain = Drain(root="c", keep=2, durable=[Durable(step=Step(10), path="p")])
    assert drain.start(snapshot(10), final=True, now_s=0.0) == []
    assert not drain.busy


def test_tries_are_bounded_and_have_folders_of_their_own() -> None:
    drain = Drain(root="c", keep=2)
    (first,) = drain.start(snapshot(10), final=True, now_s=0.0)
    assert isinstance(first, DrainShards)
    failed = DrainFailed(node=NODE, step=Step(10), incarnation=Incarnation(1), why="full")
    paths = {first.path}
    for _ in range(DRAIN_TRIES - 1):
        (again,) = drain.fail(failed, now_s=0.0)
        assert isinstance(again, DrainShards)
        paths.add(again.path)
    assert len(paths) == DRAIN_TRIES
    (given_up,) = drain.fail(failed, now_s=0.0)
    assert isinstance(given_up, Warn)
    assert "full" in drain.failed
    assert not drain.busy
    assert set(go(drain, 20)) == {path.rpartition("/")[2] for path in paths}, "their folders go with the next one"


def test_a_lost_message_is_a_failed_try() -> None:
    drain = Drain(root="c", keep=2)
    drain.start(snapshot(10), final=False, now_s=5.0)
    assert drain.deadline_s == 5.0 + DRAIN_LIMIT_S
    assert drain.expire(now_s=5.0) == []
    assert kinds(drain.expire(now_s=5.0 + DRAIN_LIMIT_S)) == ["DrainShards"]


def test_a_lost_node_takes_the_only_copy_with_it() -> None:
    drain = Drain(root="c", keep=2)
    drain.start(snapshot(10), final=True, now_s=0.0)
    assert kinds(drain.lose(NODE, now_s=0.0)) == ["Warn"]
    assert not drain.busy


def test_the_last_one_waits_and_others_give_way() -> None:
    drain = Drain(root="c", keep=2)
    drain.start(snapshot(10), final=False, now_s=0.0)
    assert kinds(drain.start(snapshot(20), final=False, now_s=0.0)) == ["Warn"]
    assert drain.start(snapshot(30), final=True, now_s=0.0) == []
    drain.check()
    drain.written(written(10), now_s=0.0)
    done = SnapshotDrained(step=Step(10), incarnation=Incarnation(1), path="c/step-00000010")
    (action,) = drain.finished(done, now_s=0.0)
    assert isinstance(action, DrainShards)
    assert action.step == 30


def test_answers_to_another_drain_are_ignored() -> None:
    drain = Drain(root="c", keep=2)
    drain.start(snapshot(10), final=False, now_s=0.0)
    assert drain.written(written(9), now_s=0.0) == []
    stranger = DrainFailed(node=NodeId("x"), step=Step(10), incarnation=Incarnation(1), why="full")
    assert drain.fail(stranger, now_s=0.0) == []
    assert drain.busy
