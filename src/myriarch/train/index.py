"""What lies where in a slot's payload: enough to rebuild DCP's metadata, and nothing that could be executed.

A slot's index is MessagePack, a list of entries. Values that are no tensors are MessagePack too, never pickle: the
bytes may come from a peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec
import xxhash

from myriarch.errors import IntegrityError
from myriarch.event.base import Value

ALIGNMENT_BYTES: Final = 64
"""A cache line, and what torch aligns its own allocations to."""


class Entry(Value, frozen=True, kw_only=True, array_like=True):
    """One tensor's part, or one value."""

    name: str
    """The path's parts joined by dots: DCP's fully qualified name."""
    path: tuple[str, ...]
    """The keys of the nested state dict."""
    kind: Literal["tensor", "value"]
    dtype: str = ""
    """As torch names it: `float32`."""
    shape: tuple[int, ...] = ()
    """Of the whole tensor."""
    offsets: tuple[int, ...] = ()
    """Where the part begins in the whole,"""
    sizes: tuple[int, ...] = ()
    """and its own shape."""
    offset_bytes: int
    size_bytes: int
    primary: bool = True
    """This rank is the first of those that hold the same part: it counts in digests and goes to disk."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[Entry, ...])


def encode_index(entries: Iterable[Entry]) -> bytes:
    return _encoder.encode(tuple(entries))


def decode_index(index: bytes, *, source: str) -> tuple[Entry, ...]:
    """Raises IntegrityError when the bytes are no index of this version."""
    try:
        return _decoder.decode(index)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{source}: the index is intact but not of this version: {error}") from error


def layout_hash(entries: Iterable[Entry]) -> str:
    """Hex xxh3-128: equal where a payload can be copied back as it lies. Sizes of values may differ."""
    layout = tuple(msgspec.structs.replace(e, size_bytes=0) if e.kind == "value" else e for e in entries)
    return xxhash.xxh3_128_hexdigest(_encoder.encode(layout))


def encode_value(value: Any, *, name: str) -> bytes:
    """Raises TypeError, naming the entry, for what MessagePack cannot hold."""
    try:
        return msgspec.msgpack.encode(value, enc_hook=_refuse)
    except (TypeError, OverflowError, ValueError) as error:
        raise TypeError(
            f"state entry `{name}` cannot be saved: {error}; use tensors, numbers, text, bytes, lists and dicts of them"
        ) from error


def _refuse(value: Any) -> Any:
    raise TypeError(f"it holds a {type(value).__name__}")


def decode_value(data: bytes, *, name: str) -> Any:
    """Raises IntegrityError for bytes that are no value."""
    try:
        return msgspec.msgpack.decode(data)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"state entry `{name}` holds no value of this version: {error}") from error


def aligned(offset_bytes: int) -> int:
    """The next offset where an entry may begin."""
    return -(-offset_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
