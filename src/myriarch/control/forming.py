"""Forming incarnations: who lies where, who keeps what, who is launched."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Literal

from myriarch.checkpoint.placement import place_copies
from myriarch.checkpoint.restore import RestorePlan, plan_restore, plan_to_keep
from myriarch.control.formation import Formation, start_workers, stop_workers
from myriarch.control.judging import fits
from myriarch.control.saving import saved
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, Decide, Fresh, Keep, Reason
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Rank, Step
from myriarch.event.layout import GroupLayout, ShardKey
from myriarch.recover.incident import Incident
from myriarch.schedule.groups import Assignment, assign
from myriarch.spec.run import Group

Choice = Literal[
    "form", "restart_workers", "replace_node", "shrink_group", "degrade", "readmit_group", "rebalance",
]  # fmt: skip


def assign_groups(
    state: State,
    groups: Sequence[Group] | None = None,
    *,
    whole: bool = False,
    without: Container[NodeId] = (),
) -> Assignment:
    """How the groups would lie now: on the nodes that they have, and on idle ones in place of lost ones.

    Of `groups`, or of all. `whole`: none goes on smaller than it is to be. `without`: nodes that nobody is to have.
    """
    members, committed, previous = state.members, state.snapshots.committed, state.crew.last
    lost = state.incident.nodes if state.incident is not None else {}

    group_of = state.crew.group_of

    def gone(group: GroupId, node: NodeId) -> bool:
        # A lost node may be back under its name, with nothing of what it had; and another group may have it since.
        return node not in members.nodes or node in lost or node in without or group_of[node] != group

    busy = {node for layout in previous.values() for node in layout.nodes if not gone(layout.group, node)}
    pools = [PoolId(group.pool) for group in state.resolved.run.groups]
    idle = members.idle(busy, pools=pools, fleet=state.resolved.fleet)

    def holds(group: GroupId, place: int, node: NodeId) -> bool:
        layout = previous.get(group)
        if committed is None or layout is None:
            return False
        ranks = range(place * layout.devices_per_node, (place + 1) * layout.devices_per_node)
        return all(node in committed.holders.get((group, Rank(rank)), {}) for rank in ranks)

    def warm(node: NodeId) -> bool:
        # At the start nobody waits for an import that is not needed, so nodes go by name, whoever is faster by chance.
        return state.crew.incarnation == 0 or members.nodes[node].warm

    return assign(
        state.resolved.run.groups if groups is None else groups,
        idle={pool: [node for node in nodes if node not in without] for pool, nodes in idle.items()},
        previous=previous,
        lost=gone,
        holds=holds,
        warm=warm,
        fits=lambda sizes: splits(state, sizes),
        whole=whole,
    )


def splits(state: State, sizes: Mapping[GroupId, int]) -> bool:
    """Whether groups of these world sizes can split the run's batch."""
    return fits(sizes, sequences=state.resolved.run.batch.sequences)


def form(
    state: State,
    layouts: Sequence[GroupLayout],
    *,
    choice: Choice,
    reason: Reason,
    incident: Incident | None,
    now_s: float,
    keep: RestorePlan | None = None,
    starts: Sequence[GroupLayout] = (),
) -> Iterator[AnyAction]:
    """Begin the next incarnation, of `layouts`.

    `keep`: what they start from, where some keep the state that they have (`restore_keeping`); otherwise the newest
    step that is whole. `starts`: groups that start beside them.
    """
    crew, members, snapshots, beside = state.crew, state.members, state.snapshots, state.beside
    restore = keep or plan_restore(layouts, committed=snapshots.committed, durable=state.drain.newest)
    incarnation = Incarnation(crew.incarnation + 1)
    kept = [layout.group for layout in layouts if crew.whole(layout) or beside.whole(layout)]
    active = {node for layout in layouts for node in layout.nodes}
    copies = place_copies(layouts, places=members.places(active), copies=state.resolved.run.checkpoint.copies)
    numbers = {**reason.numbers, "restore_step": restore.step, "remote_shards": restore.remote_shards}
    decided = Reason(text=f"{reason.text}; {restore.text}", numbers={**numbers, "restarts": state.budget.restarts})
    yield Decide(
        incident=incident.number if incident is not None else 0,
        choice=choice,
        lost_nodes=tuple(incident.nodes) if incident is not None else (),
        lost_workers=lost_workers(incident),
        groups=tuple(layout.group for layout in layouts),
        incarnation=incarnation,
        from_step=None if crew.incarnation == 0 else state.progress.current,
        to_step=restore.step,
        reason=decided,
    )
    state.story.tell(incident.number if incident is not None else 0, choice, decided.text, at_s=now_s)
    if restore.tier not in ("memory", "live"):
        yield from snapshots.forget_committed(restore.text)
    over = [group for group in beside.starts if keep is None or group in _named(layouts) or group in beside.hit]
    alive = [
        *(one for group in crew.layouts if group not in (*kept, *beside.starts) for one in crew.alive_of(group)),
        *beside.alive(group for group in over if group not in kept),
    ]
    yield from stop_workers(alive, members, why=f"incarnation {incarnation} takes the place of theirs")
    dropped = snapshots.begin(incarnation, layouts=tuple(layouts), copies=copies)
    yield from saved(state, dropped, now_s=now_s)
    joined = {key: worker for start in beside.leave(over).values() for key, worker in start.workers.items()}
    keeps = _keeping(layouts, restore)
    crew.begin(incarnation, step=restore.step, layouts=layouts, kept=kept, keeps=keeps, joined=joined)
    state.progress.begin(restore.step)
    state.drift.begin()
    yield from start_workers(
        Formation(
            incarnation=incarnation,
            layouts=layouts,
            kept=kept,
            restore=restore,
            copies=copies,
            calibrate=state.pace.unmeasured(layouts),
        ),
        members,
    )
    yield from start_beside(state, starts, now_s=now_s)
    yield from members.set_roles({*active, *beside.nodes()}, why=f"incarnation {incarnation} was formed")
    state.incident = None
    state.course.phase = "forming"
    state.course.limit_s = now_s + state.recovery.start_timeout_s


def start_beside(state: State, layouts: Sequence[GroupLayout], *, now_s: float) -> Iterator[AnyAction]:
    """Start groups that take the others' state once they are ready."""
    if not layouts:
        return
    crew, since = state.crew, state.crew.incarnation
    state.beside.begin(layouts, since=since, limit_s=now_s + state.recovery.start_timeout_s)
    crew.give(layouts)
    initial = RestorePlan(
        step=Step(0),
        tier="fresh",
        text="",
        by_worker={key: Fresh() for layout in layouts for key in layout.shard_keys()},
    )
    yield from start_workers(
        Formation(
            incarnation=since,
            layouts=layouts,
            kept=(),
            restore=initial,
            copies={},
            calibrate=state.pace.unmeasured(layouts),
            beside=True,
        ),
        state.members,
    )


def restore_keeping(
    state: State, layouts: Sequence[GroupLayout], keeps: Collection[GroupId]
) -> RestorePlan | None:  # fmt: skip
    """What `layouts` start from if groups of `keeps` keep the newest state; None: others of them cannot have it."""
    return plan_to_keep(
        layouts, keeps, step=state.progress.current, committed=state.snapshots.committed, durable=state.drain.newest
    )


def lost_workers(incident: Incident | None) -> tuple[ShardKey, ...]:
    """All whose loss is part of an incident."""
    if incident is None:
        return ()
    return (*incident.workers, *incident.symptoms, *incident.user_errors)


def _keeping(layouts: Sequence[GroupLayout], restore: RestorePlan) -> list[GroupId]:
    return [layout.group for layout in layouts if isinstance(restore.by_worker[layout.group, Rank(0)], Keep)]


def _named(layouts: Sequence[GroupLayout]) -> set[GroupId]:
    return {layout.group for layout in layouts}
