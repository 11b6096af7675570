"""The way of a state into a slot of the memory tier, and back in place.

Which bytes lie where is planned once per layout; a snapshot then is one pass of memmoves with a hash per block, without
Python per tensor and without a collective. What a tensor on an accelerator adds is a copy into pinned memory first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from myriarch.arena.copier import SpanCopier
from myriarch.arena.slot import Slot, SlotState
from myriarch.errors import IntegrityError
from myriarch.event.ids import Incarnation, Step
from myriarch.train.digest import combine, digest_of, to_hex
from myriarch.train.index import (
    Entry,
    aligned,
    decode_index,
    decode_value,
    encode_index,
    encode_value,
    layout_hash,
)
from myriarch.train.layout import bases_of, runs_of_chunk
from myriarch.train.parallel import box_of, is_primary, local_of
from myriarch.train.state import Leaf

_VALUE_ROOM: Final = 2
"""A value may grow to so many times its first size before the layout has to be made anew,"""
_VALUE_ROOM_BYTES: Final = 256
"""and has at least this much room."""
_INDEX_ROOM_BYTES: Final = 4096

Buffer = npt.NDArray[np.uint8]


class Sealed(NamedTuple):
    """A snapshot that is complete in a slot."""

    slot: int
    root: str
    digest: str
    stall_s: float


class SnapshotPlan:
    """Where each leaf's bytes go. Valid as long as `fits` says so."""

    def __init__(self, leaves: Mapping[str, Leaf], *, rank: int) -> None:
        self._pointers = _pointers(leaves)
        self._rank = rank
        self._sources: dict[str, Tensor] = {}
        """Contiguous host memory of each tensor's part: its own, or a staging copy."""
        self._staged: dict[str, Tensor] = {}
        """Live local tensors whose source is a staging copy."""
        self._buffers: dict[str, Buffer] = {}
        """Encoded values."""
        entries: list[Entry] = []
        spans: list[tuple[int, int, int]] = []
        offset = 0
        for name, leaf in leaves.items():
            entry = self._plan_leaf(name, leaf, offset)
            if entry is None:
                continue
            entries.append(entry)
            room, address = self._room_of(entry)
            spans.append((offset, address, room))
            offset = aligned(offset + room)
        self._entries: Final = tuple(entries)
        shapes = {name: tuple(leaf.content.shape) for name, leaf in leaves.items() if isinstance(leaf.content, Tensor)}
        self._bases: Final = bases_of(shapes)
        self.payload_bytes: Final = offset
        self.layout_hash: Final = layout_hash(entries)
        self.index_room_bytes: Final = len(encode_index(entries)) + _INDEX_ROOM_BYTES
        self._copier: Final = SpanCopier(spans, offset)

    def _plan_leaf(self, name: str, leaf: Leaf, offset: int) -> Entry | None:
        if not isinstance(leaf.content, Tensor):
            data = encode_value(leaf.content, name=name)
            self._buffers[name] = np.zeros(max(_VALUE_ROOM_BYTES, aligned(_VALUE_ROOM * len(data))), dtype=np.uint8)
            return Entry(
                name=name,
                path=leaf.path,
                kind="value",
                offset_bytes=offset,
                size_bytes=len(data),
                primary=self._rank == 0,
            )
        local = local_of(leaf.content)
        if local.numel() == 0:
            return None
        source = local
        if local.device.type != "cpu" or not local.is_contiguous():
            pinned = local.device.type != "cpu"
            source = torch.empty(local.shape, dtype=local.dtype, pin_memory=pinned)
            self._staged[name] = local
        self._sources[name] = source
        offsets, sizes = box_of(leaf.content)
        return Entry(
            name=name,
            path=leaf.path,
            kind="tensor",
            dtype=str(local.dtype).removeprefix("torch."),
            shape=tuple(leaf.content.shape),
            offsets=offsets,
            sizes=sizes,
            offset_bytes=offset,
            size_bytes=source.numel() * source.element_size(),
            primary=is_primary(leaf.content, rank=self._rank),
        )

    def _room_of(self, entry: Entry) -> tuple[int, int]:
        if entry.kind == "value":
            buffer = self._buffers[entry.name]
            return buffer.nbytes, int(buffer.ctypes.data)
        return entry.size_bytes, self._sources[entry.name].data_ptr()

    def fits(self, leaves: Mapping[str, Leaf]) -> bool:
        """Whether the state still lies where the plan says and its values have room."""
        if _pointers(leaves) != self._pointers:
            return False
        return all(
            len(encode_value(leaves[name].content, name=name)) <= buffer.nbytes
            for name, buffer in self._buffers.items()
        )

    def refresh(self, leaves: Mapping[str, Leaf]) -> None:
        """Bring host memory up to date with the live state: staging copies and values."""
        for name, local in self._staged.items():
            self._sources[name].copy_(local, non_blocking=True)
        if self._staged and torch.accelerator.is_available():
            torch.accelerator.synchronize()
        for name, buffer in self._buffers.items():
            data = encode_value(leaves[name].content, name=name)
            buffer[: len(data)] = np.frombuffer(data, dtype=np.uint8)

    def index_of(self, leaves: Mapping[str, Leaf]) -> bytes:
        """The index of a snapshot of the present values."""
        return encode_index(
            Entry(**{**_fields(e), "size_bytes": len(encode_value(leaves[e.name].content, name=e.name))})
            if e.kind == "value"
            else e
            for e in self._entries
        )

    def digest(self) -> int:
        """This rank's part of the state's digest: tensors only, each element counted by one rank. After `refresh`."""
        return combine(self._digest_of(entry) for entry in self._entries if entry.kind == "tensor" and entry.primary)

    def _digest_of(self, entry: Entry) -> int:
        source = self._sources[entry.name]
        return digest_of(
            source.view(-1).view(torch.uint8).numpy(),
            item_bytes=source.element_size(),
            runs=runs_of_chunk(self._bases[entry.name], entry.shape, entry.offsets, entry.sizes),
        )

    def write(self, slot: Slot, leaves: Mapping[str, Leaf], *, step: Step, incarnation: Incarnation) -> tuple[str, str]:
        """Fill and seal. Returns root and digest."""
        self.refresh(leaves)
        slot.begin(step=step, incarnation=incarnation, index=self.index_of(leaves))
        hashes = self._copier.copy_into(slot)
        digest = to_hex(self.digest())
        return slot.seal(hashes, digest=digest), digest

    def rehearse(self, slot: Slot, leaves: Mapping[str, Leaf]) -> float:
        """Do all that a snapshot does but publish it. Returns the seconds it took; the slot is empty after."""
        started = time.monotonic()
        self.refresh(leaves)
        slot.begin(step=Step(0), incarnation=Incarnation(0), index=self.index_of(leaves))
        self._copier.copy_into(slot)
        self.digest()
        took_s = time.monotonic() - started
        slot.release()
        return took_s

    def read(self, slot: Slot) -> dict[str, Any]:
        """Restore all tensors in place, every block verified. Returns the values.

        Raises IntegrityError: the state is then part old, part new, and of no use.
        """
        self._copier.copy_out(slot)
        for name, local in self._staged.items():
            local.copy_(self._sources[name])
        entries = decode_index(slot.index, source=str(slot.path))
        return {
            entry.name: decode_value(bytes(self._buffers[entry.name][: entry.size_bytes]), name=entry.name)
            for entry in entries
            if entry.kind == "value"
        }


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _pointers(leaves: Mapping[str, Leaf]) -> tuple[tuple[str, int, int], ...]:
    """What a plan rests on: which leaves there are, and where the tensors lie."""
    return tuple(
        (name, local_of(leaf.content).data_ptr(), leaf.content.numel())
        if isinstance(leaf.content, Tensor)
        else (name, 0, 0)
        for name, leaf in leaves.items()
    )


class SlotPair:
    """This worker's two slots, as its agent made them. Which of them may be filled is in their state words."""

    def __init__(self, paths: tuple[str, str]) -> None:
        self._slots: Final = tuple(Slot.open(path, writable=True) for path in paths)

    def free(self) -> tuple[int, Slot] | None:
        """A slot that nobody needs."""
        for number, slot in enumerate(self._slots):
            if slot.state < SlotState.SEALED:
                return number, slot
        return None

    def close(self) -> None:
        for slot in self._slots:
            slot.close()


def open_verified(path: str, *, layout: str) -> Slot:
    """The slot that a restore in place is to be taken from. Raises IntegrityError if it is of another layout."""
    slot = Slot.open(path)
    if not slot.sealed or slot.layout_hash != layout:
        slot.close()
        raise IntegrityError(f"{path} is no snapshot of this worker's layout; it cannot be restored in place")
    return slot
