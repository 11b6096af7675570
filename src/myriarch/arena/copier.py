"""Copy live state into a slot, and back, without Python per tensor.

A *span* says where some bytes of the payload live in this process. The list of memmoves per 256 KiB block is made once
per layout; a snapshot then runs through it and hashes each block while it is still in the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Final

import xxhash

from myriarch.arena.slot import BLOCK_BYTES, Slot, block_count
from myriarch.errors import IntegrityError, UsageError

Span = tuple[int, int, int]
"""Offset in the payload, address in this process, number of bytes."""

_memmove: Final = ctypes.memmove
_hash: Final = xxhash.xxh3_64_intdigest


class SpanCopier:
    """Gather lists of one layout. The addresses must stay valid as long as it is used.

    Spans may come in any order and must not overlap. Bytes of the payload that no span covers are left as they are:
    zero in a new slot.
    """

    def __init__(self, spans: Sequence[Span], payload_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self.spans = _merge(spans, payload_bytes)
        self._blocks = _split(self.spans, payload_bytes)

    def copy_into(self, slot: Slot) -> list[int]:
        """Fill the payload. Returns the hashes that `slot.seal` wants. The slot must be FILLING."""
        self._check_fits(slot)
        base = slot.payload_address
        hashes: list[int] = []
        with slot.payload as payload:
            for start, moves in zip(range(0, self.payload_bytes, BLOCK_BYTES), self._blocks, strict=True):
                for offset, address, count in moves:
                    _memmove(base + offset, address, count)
                hashes.append(_hash(payload[start : start + BLOCK_BYTES]))
        return hashes

    def copy_out(self, slot: Slot) -> None:
        """The way back, for a restore in place: each block is verified, then copied while in cache.

        Raises IntegrityError at the first bad block; the live state is then part old, part restored, and of no use.
        """
        self._check_fits(slot)
        base = slot.payload_address
        hashes = slot.block_hashes
        with slot.payload as payload:
            for number, moves in enumerate(self._blocks):
                start = number * BLOCK_BYTES
                if _hash(payload[start : start + BLOCK_BYTES]) != hashes[number]:
                    raise IntegrityError(
                        f"{slot.path}: block {number} of {len(hashes)} does not match its hash",
                        hint="take this shard from another holder",
                    )
                for offset, address, count in moves:
                    _memmove(address, base + offset, count)

    def _check_fits(self, slot: Slot) -> None:
        if slot.payload_bytes != self.payload_bytes:
            raise UsageError(
                f"{slot.path} has a payload of {slot.payload_bytes} bytes, the layout has {self.payload_bytes}; "
                "ask for new slots"
            )


def _merge(spans: Iterable[Span], payload_bytes: int) -> list[Span]:
    """In order of offset, empty spans dropped, neighbours in both payload and memory joined. Raises UsageError."""
    merged: list[Span] = []
    end = 0
    for offset, address, count in sorted(span for span in spans if span[2] != 0):
        if count < 0 or offset < end or offset + count > payload_bytes:
            raise UsageError(
                f"span of {count} bytes at offset {offset} overlaps the one before, which ends at {end}, "
                f"or leaves the payload of {payload_bytes} bytes"
            )
        end = offset + count
        if merged:
            last_offset, last_address, last_count = merged[-1]
            if last_offset + last_count == offset and last_address + last_count == address:
                merged[-1] = (last_offset, last_address, last_count + count)
                continue
        merged.append((offset, address, count))
    return merged


def _split(spans: Iterable[Span], payload_bytes: int) -> list[list[Span]]:
    """The moves of each block."""
    blocks: list[list[Span]] = [[] for _ in range(block_count(payload_bytes))]
    for offset, address, count in spans:
        while count:
            number = offset // BLOCK_BYTES
            part = min(count, (number + 1) * BLOCK_BYTES - offset)
            blocks[number].append((offset, address, part))
            offset, address, count = offset + part, address + part, count - part
    return blocks
