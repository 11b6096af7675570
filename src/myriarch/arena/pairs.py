"""What a node's memory is made of: cells (a slot and who uses it), in pairs of one key and layout."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from myriarch.arena.slot import Slot, SlotState
from myriarch.errors import IntegrityError
from myriarch.event.events import HeldShard, Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

_LOG: Final = logging.getLogger("myriarch.arena")

PENDING: Final = (SlotState.SEALED, SlotState.REPLICATED)
"""Complete, and not yet decided upon."""

Key = tuple[GroupId, Rank, Role]


class Layout(NamedTuple):
    """What makes two pairs interchangeable."""

    world_size: int
    layout_hash: str
    payload_bytes: int
    index_bytes: int


@dataclass(eq=False)
class Cell:
    """One slot and who is using it."""

    slot: Slot
    pins: int = 0
    """Readers: drains and fetches."""
    filling: bool = False
    """A connection of this node's byte server, or a fetch of its agent, writes it."""
    obsolete: bool = False
    """To be released when the last pin goes."""

    @property
    def in_use(self) -> bool:
        return self.filling or self.pins > 0


@dataclass(eq=False)
class Pair:
    """Two slots of one key and layout; a retired pair has only its committed one left."""

    key: Key
    layout: Layout
    cells: list[Cell] = field(default_factory=list)
    retired: bool = False

    def committed(self) -> int:
        for index, cell in enumerate(self.cells):
            if state_of(cell.slot) is SlotState.COMMITTED and not cell.obsolete:
                return index
        return -1


def choose(pair: Pair, shard: HeldShard, *, give_up_stale: bool) -> Cell | None:
    """The cell to fill: one that holds nothing, else a pending one that this shard replaces."""
    candidates = [cell for cell in pair.cells if not cell.in_use and not cell.obsolete]
    for cell in candidates:
        state = state_of(cell.slot)
        if state is None:
            cell.slot.release()
        if state is None or state < SlotState.SEALED:
            return cell
    for cell in candidates:
        if state_of(cell.slot) in PENDING:
            content = cell.slot.content
            replaced = (content.step, content.incarnation) == (shard.step, shard.incarnation)
            if replaced or (give_up_stale and content.incarnation < shard.incarnation):
                return cell
    return None


def state_of(slot: Slot) -> SlotState | None:
    """None: damaged, in its state word or in what a sealed slot says of its content."""
    try:
        state = slot.state
        if state >= SlotState.SEALED:
            _ = slot.content
    except IntegrityError as error:
        _LOG.warning("%s", error)
        return None
    return state


def step_of(slot: Slot) -> int:
    """-1: not to be known."""
    try:
        return slot.content.step
    except IntegrityError:
        return -1


def is_snapshot(slot: Slot, step: Step, incarnation: Incarnation | None) -> bool:
    """Whether a sealed slot holds this step, of this incarnation or of any."""
    content = slot.content
    return content.step == step and incarnation in (None, content.incarnation)
