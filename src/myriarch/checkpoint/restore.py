"""What every worker of the next incarnation starts from.

All workers start from one step: the newest that is whole. In memory that is the committed snapshot, as long as every
group finds all its shards, each from its nearest intact copy:

    its own slot -> a copy on another node -> the same shard of a twin group with the same layout
    -> all shards of some group's complete copy, from which DCP reshards

Groups that nobody doubts may also keep the state that they have (`plan_to_keep`); others then take theirs from a
snapshot of the same step.

On disk it is the newest durable checkpoint; and where there is none, the initial weights, which are a pure function of
the run's seed.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence

from myriarch.checkpoint.commit import Snapshot
from myriarch.event.actions import Fresh, FromDisk, FromMemory, Keep, Restore, ShardSource
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, Step
from myriarch.event.layout import GroupLayout, ShardKey, node_order


class Durable(Value, frozen=True, kw_only=True):
    """A checkpoint on disk."""

    step: Step
    path: str


class RestorePlan(Value, frozen=True, kw_only=True):
    """From where each worker takes the state of `step`."""

    step: Step
    tier: str
    """`memory`, `disk` or `fresh`; `live`: all keep the state that they have."""
    text: str
    """Why this one."""
    by_worker: Mapping[ShardKey, Restore]
    remote_shards: int = 0
    """Shards that have to be fetched from another node, each counted once for each node that needs it."""


def plan_restore(
    layouts: Sequence[GroupLayout], *, committed: Snapshot | None, durable: Durable | None
) -> RestorePlan:  # fmt: skip
    """The newest step that is whole for all of `layouts`."""
    on_disk = durable.step if durable is not None else Step(0)
    if committed is not None and committed.step >= on_disk:
        by_worker = _from_memory(layouts, committed)
        if by_worker is not None:
            text = f"step {committed.step} is the newest committed one and whole in memory"
            remote = len(set(_fetches(layouts, by_worker)))
            return RestorePlan(step=committed.step, tier="memory", text=text, by_worker=by_worker, remote_shards=remote)
    lost = f"step {committed.step} is no longer whole in memory, " if committed is not None else ""
    source: Restore = Fresh() if durable is None else FromDisk(step=durable.step, path=durable.path)
    text = f"{lost}step {on_disk} is the newest on disk" if durable else f"{lost}nothing was saved: initial weights"
    return RestorePlan(
        step=on_disk,
        tier="fresh" if durable is None else "disk",
        text=text,
        by_worker={key: source for layout in layouts for key in layout.shard_keys()},
    )


def plan_to_keep(
    layouts: Sequence[GroupLayout],
    keeps: Collection[GroupId],
    *,
    step: Step,
    committed: Snapshot | None,
    durable: Durable | None,
) -> RestorePlan | None:
    """Groups of `keeps` go on from the state of `step`, which they have; the others of `layouts` take it from a
    snapshot. None: there is none of that step that is whole for them."""
    by_worker: dict[ShardKey, Restore] = {
        key: Keep() for layout in layouts if layout.group in keeps for key in layout.shard_keys()
    }
    others = [layout for layout in layouts if layout.group not in keeps]
    text = kept_text(len(layouts) - len(others), step=step)
    if not others:
        return RestorePlan(step=step, tier="live", text=text, by_worker=by_worker)
    saved = plan_restore(others, committed=committed, durable=durable)
    if saved.step != step:
        return None
    return RestorePlan(
        step=step,
        tier=saved.tier,
        text=text if by_worker else saved.text,
        by_worker={**by_worker, **saved.by_worker},
        remote_shards=saved.remote_shards,
    )


def kept_text(groups: int, *, step: int) -> str:
    """What is said of groups that go on from the state that they have."""
    return f"{groups} healthy {'group goes' if groups == 1 else 'groups go'} on with step {step}"


def complete_copy(
    snapshot: Snapshot,
    *,
    first: GroupId | None = None,
    near: Sequence[NodeId] = (),
    without: Container[NodeId] = (),
) -> tuple[ShardSource, ...] | None:
    """All shards of one group: of `first` if it is whole, else of the first one that is; None when none is.

    Holders in `near` are preferred, those in `without` do not count.
    """
    for layout in sorted(snapshot.layouts, key=lambda other: other.group != first):
        sources = [_nearest(snapshot, key, near, without) for key in layout.shard_keys()]
        found = tuple(source for source in sources if source is not None)
        if len(found) == layout.world_size:
            return found
    return None


def _from_memory(layouts: Sequence[GroupLayout], snapshot: Snapshot) -> dict[ShardKey, Restore] | None:
    plans: dict[ShardKey, Restore] = {}
    for layout in layouts:
        kin = _kin(layout, snapshot)
        whole: tuple[ShardSource, ...] | None = None
        for key, node in layout.seats():
            source = _same_shard(kin, snapshot, key, node)
            if source is not None:
                plans[key] = FromMemory(step=snapshot.step, shards=(source,), same_layout=True)
                continue
            whole = whole or complete_copy(snapshot, first=layout.group, near=layout.nodes)
            if whole is None:
                return None
            plans[key] = FromMemory(step=snapshot.step, shards=whole, same_layout=False)
    return plans


def _kin(layout: GroupLayout, snapshot: Snapshot) -> list[GroupLayout]:
    """Groups whose shard of a rank is this group's shard of that rank: itself first, then twins of the same mesh."""
    same = [other for other in snapshot.layouts if other.mesh == layout.mesh]
    return sorted(same, key=lambda other: other.group != layout.group)


def _same_shard(
    kin: Sequence[GroupLayout], snapshot: Snapshot, key: ShardKey, node: NodeId
) -> ShardSource | None:  # fmt: skip
    for other in kin:
        source = _nearest(snapshot, (other.group, key[1]), (node,))
        if source is not None:
            return source
    return None


def _nearest(
    snapshot: Snapshot, key: ShardKey, near: Sequence[NodeId], without: Container[NodeId] = ()
) -> ShardSource | None:  # fmt: skip
    """The holder to take a shard from: one of `near`, else its own node, else a copy; then by name."""
    held = {node: shard for node, shard in snapshot.holders.get(key, {}).items() if node not in without}
    if not held:
        return None
    node = min(
        held,
        key=lambda other: (
            (other, *key) in snapshot.suspects,
            other not in near,
            held[other].role != "own",
            node_order(other),
        ),
    )
    return ShardSource(node=node, shard=held[node])


def _fetches(
    layouts: Sequence[GroupLayout], by_worker: Mapping[ShardKey, Restore]
) -> Iterator[tuple[NodeId, ShardKey]]:  # fmt: skip
    for layout in layouts:
        for key, node in layout.seats():
            restore = by_worker[key]
            if isinstance(restore, FromMemory):
                for source in restore.shards:
                    if source.node != node:
                        yield node, (source.shard.group, source.shard.rank)
