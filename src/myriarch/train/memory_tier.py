"""A worker's view of the memory tier: its state, the plan of its bytes, and its two slots."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import torch

from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.actions import FromDisk, FromMemory, Keep, Restore
from myriarch.event.ids import Incarnation, Step
from myriarch.train.agent_link import Link
from myriarch.train.digest import to_hex
from myriarch.train.restore import OWN_PREFIX, load_from_folder, load_from_slots
from myriarch.train.snapshot import SlotPair, SnapshotPlan, open_verified
from myriarch.train.state import Leaf, LiveState
from myriarch.wire.worker import SlotRequest

FREE_SLOT_LIMIT_S: Final = 60.0
"""How long the snapshot before a hold waits for a slot; others do not wait."""
_FREE_SLOT_POLL_S: Final = 0.01


class NoSlot(Exception):
    """A snapshot that is due cannot be taken. Training goes on without it."""


class MemoryTier:
    """The state that a script named, and where its snapshots go."""

    def __init__(
        self, state: MutableMapping[str, Any], *, rank: int, link: Link, reset: Callable[[], None] | None
    ) -> None:
        self._live: Final = LiveState(state)
        self._rank: Final = rank
        self._link: Final = link
        self._reset: Final = reset
        self._random_name: Final = f"{OWN_PREFIX}random.{rank}"
        self._pair: SlotPair | None = None
        self._why_none = ""
        self.plan = SnapshotPlan(self._leaves(), rank=rank)
        self._ask_slots()

    def _leaves(self) -> dict[str, Leaf]:
        """The script's leaves, and this rank's random state: one more value."""
        random_state = torch.get_rng_state().numpy().tobytes()
        return self._live.leaves() | {self._random_name: Leaf(("myriarch", f"random.{self._rank}"), random_state)}

    def _accept(self, values: dict[str, Any]) -> None:
        random_state = values.pop(self._random_name, None)
        if random_state is not None:
            torch.set_rng_state(torch.frombuffer(bytearray(random_state), dtype=torch.uint8))
        self._live.accept(values)

    def _ask_slots(self) -> None:
        self.close()
        answer = self._link.ask_slots(
            SlotRequest(
                payload_bytes=self.plan.payload_bytes,
                index_bytes=self.plan.index_room_bytes,
                layout_hash=self.plan.layout_hash,
            )
        )
        self._why_none = answer.error
        if not answer.error:
            self._pair = SlotPair(answer.paths)

    # --- restoring ---

    def restore(self, restore: Restore, slot_paths: tuple[str, ...], *, in_new_process: bool) -> Step:
        """Bring the state to what a plan says. Returns the number of steps done.

        Raises IntegrityError when the bytes do not hold; the state is then of no use.
        """
        if isinstance(restore, FromMemory):
            self._accept(self._from_slots(slot_paths, same_layout=restore.same_layout))
            return restore.step
        if isinstance(restore, FromDisk):
            self._accept(load_from_folder(restore.path, self._leaves()))
            return restore.step
        if isinstance(restore, Keep):
            raise UsageError("a worker that keeps its state restores nothing")
        if not in_new_process:
            if self._reset is None:
                raise IntegrityError("the script cannot go back to step 0 in this process; it begins anew in another")
            self._reset()
        return Step(0)

    def _from_slots(self, paths: tuple[str, ...], *, same_layout: bool) -> dict[str, Any]:
        leaves = self._leaves()
        if not same_layout or len(paths) != 1:
            return load_from_slots(paths, leaves)
        if not self.plan.fits(leaves):
            self.plan = SnapshotPlan(leaves, rank=self._rank)
        with open_verified(paths[0], layout=self.plan.layout_hash) as slot:
            return self.plan.read(slot)

    def digest(self) -> str:
        """Hex digest of this rank's part of the present state."""
        leaves = self._leaves()
        if not self.plan.fits(leaves):
            self.plan = SnapshotPlan(leaves, rank=self._rank)
        self.plan.refresh(leaves)
        return to_hex(self.plan.digest())

    # --- saving ---

    def save(self, *, step: Step, incarnation: Incarnation, wait: bool) -> tuple[int, str, str]:
        """Snapshot into a free slot. Returns its number, root and digest. Raises NoSlot."""
        leaves = self._leaves()
        if not self.plan.fits(leaves):
            self.plan = SnapshotPlan(leaves, rank=self._rank)
            self._ask_slots()
        number, slot = self._free_slot(FREE_SLOT_LIMIT_S if wait else 0.0)
        try:
            root, digest = self.plan.write(slot, leaves, step=step, incarnation=incarnation)
        except UsageError as error:  # the agent took the slot meanwhile: no doing of the script's
            raise EnvironmentFault(error.message, hint=error.hint) from error
        return number, root, digest

    def rehearse(self) -> float | None:
        """Seconds that a snapshot takes; None where there is no slot for one."""
        free = None if self._pair is None else self._pair.free()
        return None if free is None else self.plan.rehearse(free[1], self._leaves())

    def _free_slot(self, limit_s: float) -> Any:
        if self._pair is None:
            raise NoSlot(self._why_none)
        until = time.monotonic() + limit_s
        while True:
            free = self._pair.free()
            if free is not None:
                return free
            if time.monotonic() >= until or self._link.pump():
                raise NoSlot("both slots hold snapshots that are still needed; the one before is not committed yet")
            time.sleep(_FREE_SLOT_POLL_S)

    def close(self) -> None:
        if self._pair is not None:
            self._pair.close()
            self._pair = None
