"""A simulated node's memory tier: two slots for each shard and role, as in `arena`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

SLOTS = 2
"""One committed, one to fill."""


class SimMemory:
    """What a node holds. `bad` shards are there and fail when they are read."""

    def __init__(self) -> None:
        self._cells: dict[tuple[GroupId, Rank, Role], list[HeldShard]] = {}
        self._foreign: list[HeldShard] = []
        self.bad: set[str] = set()
        self.refuses_copies = False
        """There is no room for what others send."""

    def store(self, shard: HeldShard) -> bool:
        """Put a shard into a free slot. False when both are taken."""
        cell = self._cells.setdefault((shard.group, shard.rank, shard.role), [])
        if any((held.step, held.incarnation) == (shard.step, shard.incarnation) for held in cell):
            return True
        if len(cell) >= SLOTS:
            return False
        cell.append(shard)
        return True

    def store_for_restore(self, shard: HeldShard, *, own: bool) -> HeldShard:
        """Put a fetched shard where the restore finds it; a worker's own takes the place of what was there."""
        if not own:
            self._foreign.append(shard)
            return shard
        mine = msgspec.structs.replace(shard, role="own", committed=True)
        self._cells[shard.group, shard.rank, "own"] = [mine]
        return mine

    def begin(self) -> None:
        """A new restore: what an earlier one had fetched for resharding may go."""
        self._foreign = []

    def commit(self, step: Step, incarnation: Incarnation) -> None:
        """This snapshot is safe everywhere: what is older goes."""
        for cell in self._cells.values():
            if any((held.step, held.incarnation) == (step, incarnation) for held in cell):
                cell[:] = [
                    msgspec.structs.replace(held, committed=True)
                    for held in cell
                    if (held.step, held.incarnation) >= (step, incarnation) and held.incarnation >= incarnation
                ]

    def drop(self, step: Step, incarnation: Incarnation) -> None:
        """This snapshot will never be committed."""
        for cell in self._cells.values():
            cell[:] = [held for held in cell if (held.step, held.incarnation) != (step, incarnation)]

    def has(self, group: GroupId, rank: Rank, step: Step, incarnation: Incarnation) -> bool:
        """Whether a shard is here and intact."""
        return any(
            (held.group, held.rank, held.step, held.incarnation) == (group, rank, step, incarnation)
            and held.root not in self.bad
            for held in self.all()
        )

    def has_own(self, group: GroupId, rank: Rank, step: Step, incarnation: Incarnation) -> bool:
        """Whether its worker's own shard of a snapshot is here."""
        cell = self._cells.get((group, rank, "own"), ())
        return any((held.step, held.incarnation) == (step, incarnation) for held in cell)

    def put(self, shard: HeldShard) -> None:
        """Somebody else says that this shard is here: it is, and what it displaced is not."""
        if not self.store(shard):
            cell = self._cells[shard.group, shard.rank, shard.role]
            cell.remove(min(cell, key=lambda held: (held.committed, held.incarnation, held.step)))
            cell.append(shard)

    def all(self) -> Iterator[HeldShard]:
        """Everything, fetched shards of other groups included."""
        for cell in self._cells.values():
            yield from cell
        yield from self._foreign

    def held(self) -> tuple[HeldShard, ...]:
        """What a rejoining agent says it holds."""
        return tuple(shard for cell in self._cells.values() for shard in cell)

    def spoil(self) -> None:
        """Every shard that is here now no longer matches its hashes."""
        self.bad.update(held.root for held in self.all())
