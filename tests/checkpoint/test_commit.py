"""Snapshots: sealed, copied, committed, lost. As a state machine under losses and reordered reports."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from myriarch.checkpoint.commit import CAUSES_LIMIT, PENDING_LIMIT_S, Snapshots
from myriarch.checkpoint.placement import Place, place_copies
from myriarch.checkpoint.restore import RestorePlan, complete_copy, plan_restore
from myriarch.event.actions import AnyAction, CommitSnapshot, DropSnapshot, Fresh, FromMemory, Warn
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.layout import GroupLayout, ShardKey
from myriarch.spec.run import Mesh


def layout(group: str, nodes: int) -> GroupLayout:
    names = tuple(NodeId(f"{group}-{index}") for index in range(nodes))
    return GroupLayout(
        group=GroupId(group), pool=PoolId(group), mesh=Mesh(dp_shard=nodes), devices_per_node=1, nodes=names
    )


def shard(key: ShardKey, step: int, *, incarnation: int = 1, role: Role = "own", committed: bool = False) -> HeldShard:
    return HeldShard(
        group=key[0],
        rank=key[1],
        world_size=2,
        step=Step(step),
        incarnation=Incarnation(incarnation),
        role=role,
        size_bytes=10,
        root=f"{key}{step}{incarnation}",
        committed=committed,
    )


FAST, SLOW = layout("fast", 2), layout("slow", 2)
A, B = (GroupId("fast"), Rank(0)), (GroupId("fast"), Rank(1))
C, D = (GroupId("slow"), Rank(0)), (GroupId("slow"), Rank(1))
COPIES = {
    A: (NodeId("fast-1"),),
    B: (NodeId("fast-0"),),
    C: (NodeId("slow-1"),),
    D: (NodeId("slow-0"),),
}
OWNER = {A: NodeId("fast-0"), B: NodeId("fast-1"), C: NodeId("slow-0"), D: NodeId("slow-1")}


def begun() -> Snapshots:
    snapshots = Snapshots()
    snapshots.begin(Incarnation(1), layouts=(FAST, SLOW), copies=COPIES)
    return snapshots


def seal(snapshots: Snapshots, key: ShardKey, step: int, digest: str = "0", now_s: float = 0.0) -> list[AnyAction]:
    return snapshots.seal(OWNER[key], shard(key, step), digest=digest, now_s=now_s)


def copy(snapshots: Snapshots, key: ShardKey, step: int) -> list[AnyAction]:
    actions: list[AnyAction] = []
    for node in snapshots.copies[key]:
        actions += snapshots.copy(node, shard(key, step, role="copy"), now_s=0.0)
    return actions


def commit(snapshots: Snapshots, step: int) -> list[AnyAction]:
    actions: list[AnyAction] = []
    for key in COPIES:
        actions += [*seal(snapshots, key, step), *copy(snapshots, key, step)]
    return actions


def settle(snapshots: Snapshots, step: int) -> list[AnyAction]:
    return snapshots.settle_for_less(Step(step), since="all stopped after it", at_once=False, now_s=0.0)


def test_a_commit_needs_every_shard_and_every_copy() -> None:
    snapshots = begun()
    assert [seal(snapshots, key, 4) for key in (A, B, C, D)] == [[], [], [], []]
    assert [copy(snapshots, key, 4) for key in (A, B, C)] == [[], [], []]
    (action,) = copy(snapshots, D, 4)
    assert isinstance(action, CommitSnapshot)
    assert action.nodes == ("fast-0", "fast-1", "slow-0", "slow-1")
    assert snapshots.committed is not None
    assert snapshots.committed.redundancy == 1


def test_the_order_of_reports_does_not_matter() -> None:
    snapshots = begun()
    for key in COPIES:
        assert copy(snapshots, key, 4) == []
    assert [len(seal(snapshots, key, 4)) for key in COPIES] == [0, 0, 0, 1]
    assert seal(snapshots, A, 4) == [], "and a repeated one is nothing new"


def test_a_newer_commit_drops_what_is_older() -> None:
    snapshots = begun()
    seal(snapshots, A, 4)
    actions = commit(snapshots, 8)
    assert [type(action) for action in actions] == [CommitSnapshot, DropSnapshot, Warn]
    assert isinstance(actions[1], DropSnapshot)
    assert actions[1].step == 4
    (late,) = seal(snapshots, B, 4)
    assert isinstance(late, DropSnapshot)
    assert late.nodes == ("fast-1",)


def test_groups_must_agree_and_unlike_layouts_can() -> None:
    snapshots = begun()
    seal(snapshots, A, 4, "ffffffffffffffff")
    seal(snapshots, B, 4, "2")
    seal(snapshots, C, 4, "1")
    assert seal(snapshots, D, 4, "0") == [], "ff..ff + 2 is 1 modulo 2**64"
    for key in (A, B, C):
        seal(snapshots, key, 8, "1")
    drop, _ = seal(snapshots, D, 8, "2")
    assert isinstance(drop, DropSnapshot)
    assert "silently corrupt" in drop.reason.text


def test_a_digest_that_comes_later_still_counts() -> None:
    snapshots = begun()
    for key in (A, B, C):
        seal(snapshots, key, 4, "1")
    assert seal(snapshots, D, 4, "") == []
    drop, _ = seal(snapshots, D, 4, "2")
    assert isinstance(drop, DropSnapshot)


def test_a_skip_drops_but_a_copy_for_a_lost_node_does_not() -> None:
    snapshots = begun()
    seal(snapshots, A, 4)
    snapshots.lose(NodeId("fast-1"), now_s=0.0)
    assert snapshots.skip(A, incarnation=Incarnation(1), step=Step(4), why="refused", last=False, now_s=0.0) == []
    drop, _ = snapshots.skip(C, incarnation=Incarnation(1), step=Step(4), why="no slot", last=False, now_s=0.0)
    assert isinstance(drop, DropSnapshot)
    assert snapshots.skip(C, incarnation=Incarnation(1), step=Step(4), why="no slot", last=False, now_s=0.0) == []


def test_the_last_snapshot_does_with_fewer_copies_and_no_other_does() -> None:
    snapshots = begun()
    for key in COPIES:
        seal(snapshots, key, 4)
    for key in (A, B, C):
        copy(snapshots, key, 4)
    assert settle(snapshots, 4) == [], "a copy is still on its way"
    assert snapshots.skip(D, incarnation=Incarnation(1), step=Step(4), why="no room", last=True, now_s=0.0) == []
    snapshots.check()
    warn, action = settle(snapshots, 4)
    assert isinstance(warn, Warn)
    assert "1 of 4 shards lack some (slow/1: no room)" in warn.reason.text
    assert isinstance(action, CommitSnapshot)
    assert snapshots.committed is not None
    assert snapshots.committed.redundancy == 0
    (told,) = snapshots.copy(NodeId("slow-0"), shard(D, 4, role="copy"), now_s=0.0)
    assert isinstance(told, CommitSnapshot)
    assert told.nodes == ("slow-0",), "a copy that is made after all is committed as well"
    assert snapshots.copy(NodeId("slow-0"), shard(D, 4, role="copy"), now_s=0.0) == []


def test_the_last_snapshot_needs_every_shard() -> None:
    snapshots = begun()
    for key in (A, B, C):
        seal(snapshots, key, 4)
    assert snapshots.settle_for_less(Step(4), since="the run ends", at_once=True, now_s=0.0) == []
    drop, _ = snapshots.skip(D, incarnation=Incarnation(1), step=Step(4), why="no slot", last=True, now_s=0.0)
    assert isinstance(drop, DropSnapshot), "its own part is missing: nothing can be made of it"


def test_what_lacks_a_copy_is_dropped_once_the_workers_went_on() -> None:
    snapshots = begun()
    seal(snapshots, A, 4)
    assert snapshots.skip(A, incarnation=Incarnation(1), step=Step(4), why="no room", last=True, now_s=0.0) == []
    assert snapshots.passed(Step(4)) == []
    drop, _ = snapshots.passed(Step(5))
    assert isinstance(drop, DropSnapshot)
    assert drop.nodes == ("fast-0",)


def test_a_stale_pending_snapshot_is_given_up_with_the_next_skip() -> None:
    snapshots = begun()
    seal(snapshots, A, 4, now_s=0.0)
    late_s = PENDING_LIMIT_S + 1
    actions = snapshots.skip(A, incarnation=Incarnation(1), step=Step(8), why="no slot", last=False, now_s=late_s)
    assert [action.step for action in actions if isinstance(action, DropSnapshot)] == [8, 4]


def test_a_dropped_snapshot_is_told_of_once_and_a_cause_that_stays_now_and_then() -> None:
    snapshots = begun()
    told: list[str] = []
    for step in range(4, 104, 4):
        actions = seal(snapshots, A, step) + copy(snapshots, A, step)
        for key in (B, C, D):
            why = f"no room on node-{step % 3} for {step} bytes"
            actions += snapshots.skip(
                key, incarnation=Incarnation(1), step=Step(step), why=why, last=False, now_s=0.0
            )  # fmt: skip
        actions += seal(snapshots, D, step)
        told += [action.reason.text for action in actions if isinstance(action, Warn)]
    assert len(told) == 3, "25 drops of 4 shards each: the first, the 10th and the 20th"
    assert told[0] == (
        "the snapshot of step 4 is dropped: fast/1 could not take part: no room on node-1 for 4 bytes; "
        "1 of its 4 shards were sealed, 1 of 4 copies made"
    )
    assert told[1].endswith("; for the 10th time")
    assert "step 80 is dropped" in told[2]
    snapshots.skip(B, incarnation=Incarnation(1), step=Step(200), why="something else", last=False, now_s=0.0)
    assert sorted(snapshots.causes.values()) == [1, 25]


def test_the_end_of_an_incarnation_is_no_news_about_its_snapshots() -> None:
    snapshots = begun()
    seal(snapshots, A, 4)
    actions = snapshots.begin(Incarnation(2), layouts=(FAST, SLOW), copies=COPIES)
    assert [type(action) for action in actions] == [DropSnapshot]


def test_causes_are_not_remembered_without_end() -> None:
    snapshots = begun()
    for step in range(1, CAUSES_LIMIT + 9):
        why = "x" * step
        snapshots.skip(A, incarnation=Incarnation(1), step=Step(step), why=why, last=False, now_s=0.0)
    snapshots.check()
    assert len(snapshots.causes) == CAUSES_LIMIT


def test_an_old_incarnations_shard_is_fenced() -> None:
    snapshots = begun()
    snapshots.begin(Incarnation(2), layouts=(FAST, SLOW), copies=COPIES)
    (drop,) = seal(snapshots, A, 4)
    assert isinstance(drop, DropSnapshot)
    assert "incarnation 1" in drop.reason.text
    assert not snapshots.pending


def test_what_a_node_says_it_holds_is_believed() -> None:
    snapshots = begun()
    for key in (A, B, C):
        seal(snapshots, key, 4)
        copy(snapshots, key, 4)
    copy(snapshots, D, 4)
    held = [shard(D, 4), shard(C, 4, role="copy")]
    (action,) = snapshots.rejoin(NodeId("slow-1"), held, now_s=0.0)
    assert isinstance(action, CommitSnapshot)
    (again,) = snapshots.rejoin(NodeId("slow-1"), held, now_s=0.0)
    assert isinstance(again, CommitSnapshot)
    assert again.nodes == ("slow-1",), "it had not heard of the commit"
    assert snapshots.rejoin(NodeId("slow-0"), [], now_s=0.0) == []
    assert snapshots.committed is not None
    assert NodeId("slow-0") not in snapshots.committed.nodes(), "it holds nothing any more"


def test_a_commit_that_a_rejoin_brings_about_forgets_nobody() -> None:
    """Found by the swarm: the controller was away for the whole of the last snapshot of a run on one node."""
    layout_alone = layout("fast", 1)
    snapshots = Snapshots()
    snapshots.begin(Incarnation(1), layouts=(layout_alone,), copies={A: ()})
    snapshots.rejoin(NodeId("fast-0"), [shard(A, 4)], now_s=0.0)
    assert snapshots.committed is not None
    assert snapshots.committed.complete


def test_a_doubtful_holder_is_asked_last_and_then_never() -> None:
    snapshots = begun()
    commit(snapshots, 4)
    assert snapshots.committed is not None
    assert not snapshots.suspect(NodeId("fast-0"), A, Step(4), at_once=False)
    plan = plan_restore((FAST, SLOW), committed=snapshots.committed, durable=None)
    restore = plan.by_worker[A]
    assert isinstance(restore, FromMemory)
    assert restore.shards[0].node == "fast-1"
    assert snapshots.suspect(NodeId("fast-0"), A, Step(4), at_once=False)
    assert NodeId("fast-0") not in snapshots.committed.holders[A]


# --- a state machine -------------------------------------------------------------------------------------------------


class SnapshotMachine(RuleBasedStateMachine):
    """Workers seal, agents copy, nodes die, incarnations change, in any order that reports can take.

    The model keeps which steps each node's shards really are of; what the machine says is compared with that.
    """

    @initialize(
        nodes=st.sampled_from([(2, 2), (3, 1), (1, 1), (2,)]), copies=st.integers(0, 2), spares=st.integers(0, 2)
    )
    def start(self, nodes: tuple[int, ...], copies: int, spares: int) -> None:
        self.layouts = tuple(layout(f"g{index}", count) for index, count in enumerate(nodes))
        self.alive = {node: one.pool for one in self.layouts for node in one.nodes}
        self.alive |= {NodeId(f"g0-{10 + index}"): PoolId("g0") for index in range(spares)}
        self.copies = copies
        self.incarnation = 0
        self.step = 0
        self.snapshots = Snapshots()
        self.committed: tuple[int, int] | None = None
        self.waiting: list[tuple[str, ShardKey, NodeId, int]] = []
        self.begin()

    def begin(self) -> None:
        self.incarnation += 1
        active = {node for one in self.layouts for node in one.nodes}
        places = [
            Place(node=node, pool=pool, fault_domain=node, spare=node not in active)
            for node, pool in self.alive.items()
        ]
        self.plan = place_copies(self.layouts, places=places, copies=self.copies)
        self.seen(self.snapshots.begin(Incarnation(self.incarnation), layouts=self.layouts, copies=self.plan))
        self.waiting = []

    def seen(self, actions: list[AnyAction]) -> None:
        for action in actions:
            if isinstance(action, CommitSnapshot):
                at = (action.step, action.incarnation)
                assert self.committed is None or at > self.committed, "commits go forward"
                assert at[1] == self.incarnation, "of the present incarnation"
                self.committed = at

    @rule()
    def take_a_snapshot(self) -> None:
        self.step += 1
        for one in self.layouts:
            for key, owner in one.seats():
                self.waiting.append(("own", key, owner, self.step))
                self.waiting += [("copy", key, node, self.step) for node in self.plan[key]]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), digest=st.booleans())
    def report(self, data: Any, digest: bool) -> None:
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        role, key, node, step = self.waiting.pop(index)
        if node not in self.alive:
            return
        held = shard(key, step, incarnation=self.incarnation, role="own" if role == "own" else "copy")
        if role == "own":
            self.seen(self.snapshots.seal(node, held, digest="0" if digest else "", now_s=0.0))
        else:
            self.seen(self.snapshots.copy(node, held, now_s=0.0))

    @precondition(lambda self: self.waiting)
    @rule()
    def report_all(self) -> None:
        while self.waiting:
            role, key, node, step = self.waiting.pop(0)
            if node not in self.alive:
                continue
            held = shard(key, step, incarnation=self.incarnation, role="own" if role == "own" else "copy")
            seal_it = role == "own"
            self.seen(
                self.snapshots.seal(node, held, digest="0", now_s=0.0)
                if seal_it
                else self.snapshots.copy(node, held, now_s=0.0)
            )

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def skip(self, data: Any) -> None:
        _, key, _, step = data.draw(st.sampled_from(self.waiting))
        last = data.draw(st.booleans())
        self.seen(
            self.snapshots.skip(
                key, incarnation=Incarnation(self.incarnation), step=Step(step), why="no slot", last=last, now_s=0.0
            )
        )

    @rule(at_once=st.booleans())
    def stop_here(self, at_once: bool) -> None:
        """All stopped after the newest step: its snapshot may do with fewer copies."""
        before = self.snapshots.pending.get(Step(self.step))
        actions = self.snapshots.settle_for_less(Step(self.step), since="all stopped", at_once=at_once, now_s=0.0)
        self.seen(actions)
        if actions:
            assert before is not None
            assert before.unsealed == 0
            assert self.snapshots.committed is before

    @rule()
    def go_on(self) -> None:
        self.seen(self.snapshots.passed(Step(self.step)))

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def lose_a_node(self, data: Any) -> None:
        node = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[node]
        self.seen(self.snapshots.lose(node, now_s=0.0))

    @rule()
    def form_anew(self) -> None:
        """Groups go on with what is left of them; one without nodes is missing; nobody left: a new machine each."""
        layouts = []
        for one in self.layouts:
            nodes = tuple(node for node in one.nodes if node in self.alive)
            if nodes:
                layouts.append(
                    GroupLayout(
                        group=one.group, pool=one.pool, mesh=Mesh(dp_shard=len(nodes)), devices_per_node=1, nodes=nodes
                    )
                )
        if not layouts:
            self.alive |= {node: one.pool for one in self.layouts for node in one.nodes}
            layouts = list(self.layouts)
        self.layouts = tuple(layouts)
        plan = plan_restore(self.layouts, committed=self.snapshots.committed, durable=None)
        self.check_restore(plan)
        if plan.tier != "memory":
            self.snapshots.forget_committed("gone")
            self.step, self.committed = 0, None
        else:
            self.step = plan.step
        self.begin()

    def check_restore(self, plan: RestorePlan) -> None:
        committed = self.snapshots.committed
        sources = [restore for restore in plan.by_worker.values() if not isinstance(restore, Fresh)]
        if plan.tier != "memory":
            assert not sources
            assert committed is None or complete_copy(committed) is None, "memory is left alone only if it is broken"
            return
        assert committed is not None
        for restore in sources:
            assert isinstance(restore, FromMemory)
            assert restore.step == committed.step == plan.step
            for source in restore.shards:
                at = (source.shard.step, source.shard.incarnation)
                assert at == (committed.step, committed.incarnation) == self.committed, "never a mixed step"
                assert source.node in self.alive, "from nobody who is gone"
        for one in self.layouts:
            for key in one.shard_keys():
                mine = plan.by_worker[key]
                assert isinstance(mine, FromMemory)
                taken = [(source.shard.group, source.shard.rank) for source in mine.shards]
                if mine.same_layout:
                    assert [rank for _, rank in taken] == [key[1]]
                else:
                    (group,) = {group for group, _ in taken}
                    (whole,) = [other for other in committed.layouts if other.group == group]
                    assert taken == list(whole.shard_keys()), "all shards of one group"

    @invariant()
    def newest_commit_stays_reconstructable(self) -> None:
        if not hasattr(self, "snapshots"):
            return
        self.snapshots.check()
        committed = self.snapshots.committed
        at = None if committed is None else (committed.step, committed.incarnation)
        assert at == self.committed
        if committed is not None and committed.losses <= committed.redundancy:
            plan = plan_restore(self.layouts, committed=committed, durable=None)
            assert plan.tier == "memory", "up to as many losses as there are copies"
            self.check_restore(plan)


TestSnapshotMachine = SnapshotMachine.TestCase
TestSnapshotMachine.settings = settings(max_examples=60, stateful_step_count=40)
