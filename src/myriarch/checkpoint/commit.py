"""When a snapshot is safe: the machine of one run's snapshots in the memory tier.

A snapshot is one step's state, in shards: one for each worker of each group, sealed by its worker in its node's memory,
and copied to the nodes that the plan names. It is *committed*, and replaces the one before, when every shard is sealed,
every planned copy is made, and all groups hold the same state, which the sums of their shards' digests tell. Until
then it is *pending*. It is *dropped* when that can no longer come about: a worker skipped its part, digests differ, a
newer one was committed first, or its incarnation ended.

One snapshot is not dropped because a copy of it cannot be made: the one after which all workers stop. There is no next
one to wait for, and every shard lies whole in its owner's memory. It waits until all have stopped, and is then
committed with the copies that it has, loudly (`settle_for_less`).

Only pending snapshots of the present incarnation exist; the committed one may be of an older incarnation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from myriarch.event.actions import AnyAction, CommitSnapshot, DropSnapshot, Reason, Warn
from myriarch.event.events import HeldShard
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.event.layout import GroupLayout, ShardKey, node_order

PENDING_LIMIT_S: Final = 60.0
"""A pending snapshot older than this is given up when the next finds no free slot: a report about it was lost."""

DROPPED_LIMIT: Final = 64
"""Dropped steps of an incarnation that are remembered, to free the slots of those who seal them late."""

CAUSES_LIMIT: Final = 32
"""Causes of drops that are counted, each for itself; beyond that the oldest is forgotten."""

TOLD_EVERY: Final = 10
"""Of drops for the same cause people are told of the first and of every so many: it is a state by then, no event."""

_DIGEST_MODULUS: Final = 1 << 64

_DIGITS: Final = re.compile("[0-9]+")
"""What differs between two reports of one cause: names of nodes, sizes, ports."""


class Snapshot(msgspec.Struct, kw_only=True):
    """One step's state in the memory tier."""

    step: Step
    incarnation: Incarnation
    layouts: tuple[GroupLayout, ...]
    began_s: float
    holders: dict[ShardKey, dict[NodeId, HeldShard]]
    """Who holds which shard: its own node and copies, copies of it fetched by a restore included."""
    unsealed: int
    """Shards whose worker has not sealed them."""
    uncopied: int
    """Planned copies that are not made."""
    digests: dict[GroupId, int]
    """Sum of the digests of a group's sealed shards, mod 2**64."""
    unsealed_of: dict[GroupId, int]
    undigested: dict[ShardKey, None]
    """Sealed shards whose digest is unknown: their groups cannot be compared."""
    redundancy: int = 0
    """Set on commit: every shard was held by one more node than this."""
    losses: int = 0
    """Since the commit: nodes that held something of it and were lost, and shards found bad."""
    refused: dict[ShardKey, str] = {}
    """Sealed shards of which not every planned copy will be made, and why."""
    suspects: dict[tuple[NodeId, GroupId, Rank], None] = {}
    """Holders that failed to hand out a shard once."""

    @property
    def complete(self) -> bool:
        """Whether every shard of every group is still held by somebody."""
        return all(self.holders.get(key) for layout in self.layouts for key in layout.shard_keys())

    def nodes(self) -> tuple[NodeId, ...]:
        """Everybody who holds something of it."""
        return tuple(sorted({node for held in self.holders.values() for node in held}, key=node_order))

    def size_bytes(self) -> int:
        """Of one copy of every shard of every group."""
        return sum(next(iter(held.values())).size_bytes for held in self.holders.values() if held)


class Snapshots(msgspec.Struct, kw_only=True):
    """Which snapshots there are and who holds what of them."""

    incarnation: Incarnation = Incarnation(0)
    layouts: tuple[GroupLayout, ...] = ()
    owners: dict[ShardKey, NodeId] = {}
    copies: dict[ShardKey, tuple[NodeId, ...]] = {}
    """Planned copies of the present incarnation, without those on nodes that were lost since."""
    pending: dict[Step, Snapshot] = {}
    committed: Snapshot | None = None
    dropped: dict[Step, str] = {}
    """Steps of the present incarnation that were dropped, and why. At most `DROPPED_LIMIT`."""
    differ: str = ""
    """How the groups' states differed in a snapshot of the present incarnation; empty: they did not."""
    causes: dict[str, int] = {}
    """How often snapshots were dropped, by cause, over all incarnations. At most `CAUSES_LIMIT`."""
    short: int = 0
    """Copies of the present incarnation's plan that were lost with their node."""

    def begin(
        self,
        incarnation: Incarnation,
        *,
        layouts: tuple[GroupLayout, ...],
        copies: Mapping[ShardKey, tuple[NodeId, ...]],
    ) -> list[AnyAction]:
        """A new incarnation: pending snapshots of the old one are dropped, for their workers are gone or roll back."""
        why = f"incarnation {self.incarnation} ended before it was safe"
        actions: list[AnyAction] = [self._drop_quietly(step, why) for step in list(self.pending)]
        self.incarnation = incarnation
        self.layouts = layouts
        self.owners = {key: node for layout in layouts for key, node in layout.seats()}
        self.copies = dict(copies)
        self.dropped, self.differ = {}, ""
        self.short = 0
        return actions

    # --- what happens -----------------------------------------------------------------------------------------------

    def seal(self, node: NodeId, shard: HeldShard, *, digest: str, now_s: float) -> list[AnyAction]:
        """A worker sealed its shard."""
        key = (shard.group, shard.rank)
        refusal = self._refuse(node, shard)
        if refusal is not None:
            return [] if refusal == "" else [self._free(node, shard, refusal)]
        snapshot = self._pending(shard.step, now_s)
        held = snapshot.holders.setdefault(key, {})
        if self.owners.get(key) != node or (node in held and not (digest and key in snapshot.undigested)):
            return []
        if node not in held:
            held[node] = shard
            snapshot.unsealed -= 1
            snapshot.unsealed_of[shard.group] -= 1
        snapshot.undigested[key] = None
        if digest:
            del snapshot.undigested[key]
            snapshot.digests[shard.group] = (snapshot.digests.get(shard.group, 0) + int(digest, 16)) % _DIGEST_MODULUS
        return self._settle(snapshot, now_s)

    def copy(self, node: NodeId, shard: HeldShard, *, now_s: float) -> list[AnyAction]:
        """A copy of a shard is complete on `node`."""
        key = (shard.group, shard.rank)
        if self._is_committed(shard):
            assert self.committed is not None
            held = self.committed.holders.setdefault(key, {})
            if node in held:
                return []
            held[node] = shard
            return [self._commit_action(self.committed, (node,), f"{node}'s copy was made after it was committed")]
        refusal = self._refuse(node, shard)
        if refusal is not None:
            return [] if refusal == "" else [self._free(node, shard, refusal)]
        snapshot = self._pending(shard.step, now_s)
        held = snapshot.holders.setdefault(key, {})
        if node not in held and node in self.copies.get(key, ()):
            held[node] = shard
            snapshot.uncopied -= 1
        return self._settle(snapshot, now_s)

    def fetched(self, node: NodeId, shard: HeldShard) -> None:
        """A restore put a shard of the committed snapshot into `node`'s memory.

        Only what a worker fetched of its own is counted on: what resharding needed of others is not kept.
        """
        if self._is_committed(shard) and self.owners.get((shard.group, shard.rank)) == node:
            assert self.committed is not None
            self.committed.holders.setdefault((shard.group, shard.rank), {}).setdefault(node, shard)

    def skip(
        self, key: ShardKey, *, incarnation: Incarnation, step: Step, why: str, last: bool, now_s: float
    ) -> list[AnyAction]:  # fmt: skip
        """A worker's part of a snapshot, or a copy of it, could not be made.

        With `last` the workers may stop after this step: what only lacks a copy is kept until that is known.
        """
        if incarnation != self.incarnation or step in self.dropped or not self._newer(step):
            return []
        snapshot = self._pending(step, now_s)
        held = snapshot.holders.get(key, {})
        if self.owners.get(key) in held and all(node in held for node in self.copies.get(key, ())):
            return []  # a copy to a node that was lost meanwhile: it is no longer planned
        if last and self.owners.get(key) in held:
            snapshot.refused = {**snapshot.refused, key: why}
            return []
        actions = self._drop(step, f"{key[0]}/{key[1]} could not take part: {why}", cause=why)
        for one in [one for one in self.pending.values() if now_s - one.began_s > PENDING_LIMIT_S]:
            actions += self._drop(one.step, f"it was not safe {now_s - one.began_s:.0f} s after it began", cause="late")
        return actions

    def passed(self, step: Step) -> list[AnyAction]:
        """Workers went on past a snapshot of which copies cannot be made: it is not the one that they stop after."""
        over = [one for one in self.pending.values() if one.refused and one.step < step]
        return [
            action
            for one in over
            for action in self._drop(one.step, _refusals(one), cause=next(iter(one.refused.values())))
        ]

    def settle_for_less(self, step: Step, *, since: str, at_once: bool, now_s: float) -> list[AnyAction]:
        """No other snapshot is to come, `since` says why. If it only lacks copies that cannot be made, it is committed.

        With `at_once` copies that are still on their way are not waited for either.
        """
        snapshot = self.pending.get(step)
        if snapshot is None or snapshot.unsealed or not snapshot.complete:
            return []
        lacking = [
            key
            for key, nodes in self.copies.items()
            if any(node not in snapshot.holders.get(key, {}) for node in nodes)
        ]
        if not at_once and any(key not in snapshot.refused for key in lacking):
            return []
        why = _refusals(snapshot) if snapshot.refused else "they are still on their way"
        text = (
            f"the snapshot of step {step} is kept with fewer copies than planned, since {since}: "
            f"{len(lacking)} of {len(self.owners)} shards lack some ({why})"
        )
        numbers = {"step": step, "shards": len(self.owners), "lacking": len(lacking)}
        return [Warn(reason=Reason(text=text, numbers={**numbers})), *self._commit(snapshot, now_s)]

    def lose(self, node: NodeId, *, now_s: float) -> list[AnyAction]:
        """A node is gone with its memory. Copies that were planned on it are no longer waited for."""
        planned = [key for key, nodes in self.copies.items() if node in nodes]
        for snapshot in list(self.pending.values()):
            snapshot.uncopied -= sum(node not in snapshot.holders.get(key, {}) for key in planned)
            for held in snapshot.holders.values():
                held.pop(node, None)
        for key in planned:
            self.copies[key] = tuple(other for other in self.copies[key] if other != node)
        self.short += len(planned)
        if self.committed is not None:
            removed = [held.pop(node, None) for held in self.committed.holders.values()]
            self.committed.losses += any(shard is not None for shard in removed)
        return [action for pending in list(self.pending.values()) for action in self._settle(pending, now_s)]

    def suspect(self, node: NodeId, shard_of: ShardKey, step: Step, *, at_once: bool) -> bool:
        """A holder could not hand out its shard of the committed snapshot. True when it is believed no longer.

        The first time may be the network's fault, and another holder is asked if there is one; the second time, and
        with `at_once` the first, the shard counts as lost.
        """
        snapshot = self.committed
        if snapshot is None or snapshot.step != step or node not in snapshot.holders.get(shard_of, {}):
            return False
        suspect = (node, *shard_of)
        if suspect not in snapshot.suspects and not at_once:
            snapshot.suspects[suspect] = None
            return False
        del snapshot.holders[shard_of][node]
        snapshot.losses += 1
        return True

    def digest_of(self, step: Step) -> str:
        """The digest of the committed snapshot's state, in hex; empty when it is of another step, or unknown."""
        committed = self.committed
        if committed is None or committed.step != step or committed.undigested or not committed.digests:
            return ""
        return f"{next(iter(committed.digests.values())):016x}"

    def distrust(self, group: GroupId) -> bool:
        """Shards of this group's part of the committed snapshot are believed no longer. False: there were none."""
        if self.committed is None:
            return False
        found = [held for (owner, _), held in self.committed.holders.items() if owner == group and held]
        self.committed.losses += sum(map(len, found))
        for held in found:
            held.clear()
        return bool(found)

    def rejoin(self, node: NodeId, shards: Iterable[HeldShard], *, now_s: float) -> list[AnyAction]:
        """A node came back with its memory: believe what it holds, and catch up on what was missed meanwhile."""
        actions: list[AnyAction] = []
        present: dict[ShardKey, HeldShard] = {}
        tell, known = False, self.committed
        for shard in shards:
            if self._is_committed(shard):
                present[shard.group, shard.rank] = shard
                tell |= not shard.committed and self.committed is known
            elif shard.role == "own":
                actions += self.seal(node, shard, digest="", now_s=now_s)
            else:
                actions += self.copy(node, shard, now_s=now_s)
        if known is not None and self.committed is known:
            self._believe(known, node, present)
            if tell:
                actions.append(self._commit_action(known, (node,), f"{node} was away when it was committed"))
        return actions

    def forget_committed(self, why: str) -> list[AnyAction]:
        """The committed snapshot can no longer be restored: free what is left of it."""
        if self.committed is None:
            return []
        gone, self.committed = self.committed, None
        return [self._drop_action(gone, why)] if gone.nodes() else []

    # --- inside -----------------------------------------------------------------------------------------------------

    def _is_committed(self, shard: HeldShard) -> bool:
        return self.committed is not None and (shard.step, shard.incarnation) == (
            self.committed.step,
            self.committed.incarnation,
        )

    def _refuse(self, node: NodeId, shard: HeldShard) -> str | None:
        """Why a shard is of no use; empty when it is known already; None when it belongs to a pending snapshot."""
        if self._is_committed(shard):
            return ""
        if shard.incarnation != self.incarnation:
            return f"it is of incarnation {shard.incarnation}, the present one is {self.incarnation}"
        if shard.step in self.dropped:
            return self.dropped[shard.step]
        if self.committed is not None and not self._newer(shard.step):
            return f"step {self.committed.step} is committed"
        return None

    def _newer(self, step: Step) -> bool:
        """Whether a snapshot of the present incarnation is newer than the committed one. The same step in a newer
        incarnation counts: all stopped before they had gone one step further."""
        committed = self.committed
        return committed is None or (step, self.incarnation) > (committed.step, committed.incarnation)

    def _pending(self, step: Step, now_s: float) -> Snapshot:
        if step not in self.pending:
            self.pending[step] = Snapshot(
                step=step,
                incarnation=self.incarnation,
                layouts=self.layouts,
                began_s=now_s,
                holders={},
                unsealed=len(self.owners),
                uncopied=sum(map(len, self.copies.values())),
                digests={},
                unsealed_of={layout.group: layout.world_size for layout in self.layouts},
                undigested={},
            )
        return self.pending[step]

    def _settle(self, snapshot: Snapshot, now_s: float) -> list[AnyAction]:
        """Commit or drop, if either is due."""
        if snapshot.step not in self.pending:
            return []
        unknown = {group for group, _ in snapshot.undigested}
        whole = {
            group: digest
            for group, digest in snapshot.digests.items()
            if snapshot.unsealed_of[group] == 0 and group not in unknown
        }
        if len(set(whole.values())) > 1:
            seen = ", ".join(f"{group}: {digest:016x}" for group, digest in whole.items())
            why = f"the groups' states differ ({seen}): one of them is silently corrupt"
            self.differ = f"of step {snapshot.step} {why}"
            return self._drop(snapshot.step, why, cause="differ")
        if snapshot.unsealed or snapshot.uncopied or not snapshot.complete:
            return []
        return self._commit(snapshot, now_s)

    def _commit(self, snapshot: Snapshot, now_s: float) -> list[AnyAction]:
        del self.pending[snapshot.step]
        self.committed = snapshot
        snapshot.redundancy = min(map(len, snapshot.holders.values())) - 1
        took_s = round(now_s - snapshot.began_s, 6)
        text = "every shard of every group is sealed and "
        text += f"{snapshot.uncopied} copies are not made" if snapshot.uncopied else "every copy is made"
        if self.short:
            text += f", but {self.short} copies were lost with their node"
        actions: list[AnyAction] = [
            self._commit_action(snapshot, snapshot.nodes(), text, copies=snapshot.redundancy, took_s=took_s)
        ]
        for step in [step for step in self.pending if step < snapshot.step]:
            actions += self._drop(step, f"step {snapshot.step} was committed before it", cause="older")
        return actions

    def _commit_action(
        self, snapshot: Snapshot, nodes: tuple[NodeId, ...], text: str, **numbers: float
    ) -> CommitSnapshot:  # fmt: skip
        return CommitSnapshot(
            step=snapshot.step,
            incarnation=snapshot.incarnation,
            nodes=nodes,
            reason=Reason(text=text, numbers={"shards": len(snapshot.holders), **numbers}),
        )

    def _drop(self, step: Step, why: str, *, cause: str) -> list[AnyAction]:
        """Drop it, and tell people once for all its shards; what is reported of it later is freed without a word."""
        snapshot = self.pending[step]
        dropped = self._drop_quietly(step, why)
        times = self._count(_DIGITS.sub("#", cause))
        if times > 1 and times % TOLD_EVERY:
            return [dropped]
        sealed, copies = len(self.owners) - snapshot.unsealed, sum(map(len, self.copies.values()))
        text = (
            f"{dropped.reason.text}; {sealed} of its {len(self.owners)} shards were sealed, "
            f"{copies - snapshot.uncopied} of {copies} copies made"
        )
        text += f"; for the {times}th time" if times > 1 else ""
        numbers = {"step": step, "shards": len(self.owners), "sealed": sealed, "times": times}
        return [dropped, Warn(reason=Reason(text=text, numbers={**numbers}))]

    def _count(self, cause: str) -> int:
        """How often this cause was met, this time included."""
        if cause not in self.causes and len(self.causes) >= CAUSES_LIMIT:
            del self.causes[next(iter(self.causes))]
        self.causes[cause] = self.causes.get(cause, 0) + 1
        return self.causes[cause]

    def _drop_quietly(self, step: Step, why: str) -> DropSnapshot:
        snapshot = self.pending.pop(step)
        while len(self.dropped) >= DROPPED_LIMIT:
            del self.dropped[next(iter(self.dropped))]
        self.dropped[step] = why
        return self._drop_action(snapshot, why)

    def _drop_action(self, snapshot: Snapshot, why: str) -> DropSnapshot:
        numbers = {"unsealed": snapshot.unsealed, "uncopied": snapshot.uncopied}
        return DropSnapshot(
            step=snapshot.step,
            incarnation=snapshot.incarnation,
            nodes=snapshot.nodes(),
            reason=Reason(text=f"the snapshot of step {snapshot.step} is dropped: {why}", numbers={**numbers}),
        )

    def _free(self, node: NodeId, shard: HeldShard, why: str) -> DropSnapshot:
        text = f"{node}'s shard {shard.group}/{shard.rank} of step {shard.step} is of no use: {why}"
        return DropSnapshot(
            step=shard.step, incarnation=shard.incarnation, nodes=(node,), reason=Reason(text=text, numbers={})
        )

    def _believe(self, snapshot: Snapshot, node: NodeId, present: Mapping[ShardKey, HeldShard]) -> None:
        lost = 0
        for key, held in snapshot.holders.items():
            if key in present:
                held.setdefault(node, present[key])
            else:
                lost += held.pop(node, None) is not None
        snapshot.losses += bool(lost)

    def check(self) -> None:
        """Invariants."""
        for step, snapshot in self.pending.items():
            assert (step, self.incarnation) == (snapshot.step, snapshot.incarnation), "pending is of this incarnation"
            assert step not in self.dropped, "a step is pending or dropped"
            due = [(key, node) for key, nodes in self.copies.items() for node in nodes]
            missing = sum(node not in snapshot.holders.get(key, {}) for key, node in due)
            assert snapshot.uncopied == missing, "uncopied counts the planned copies that are not made"
            assert 0 <= snapshot.unsealed <= len(self.owners)
        assert len(self.dropped) <= DROPPED_LIMIT
        assert len(self.causes) <= CAUSES_LIMIT
        if self.committed is not None:
            assert self.committed.incarnation <= self.incarnation
            assert all(self._newer(step) for step in self.pending), "a commit supersedes what is older"
            if self.committed.losses <= self.committed.redundancy:
                assert self.committed.complete, "up to `redundancy` losses leave the committed step whole"


def _refusals(snapshot: Snapshot) -> str:
    """Why copies of it cannot be made: the first reason stands for all."""
    (group, rank), why = next(iter(snapshot.refused.items()))
    more = f", and {len(snapshot.refused) - 1} more" if len(snapshot.refused) > 1 else ""
    return f"{group}/{rank}: {why}{more}"
