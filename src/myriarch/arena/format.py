"""The bytes of a slot file: regions, header page, state word. `Slot` gives them life.

    offset 0        header page, 4 KiB
                      0     magic, format version, lengths of the two parts
                      24    identity, MessagePack, zero-padded: written once, when the slot is made
                      2040  xxh3-64 of bytes 0 to 2040
                      2048  content, MessagePack, zero-padded: written by every begin and seal
                      4080  xxh3-64 of bytes 2048 to 4080
                      4088  state word
    4096            index: what lies where in the payload (MessagePack, written by the checkpoint adapter)
    page boundary   block table: xxh3-64 of each 256 KiB block of the payload, little-endian
    page boundary   payload

The identity is apart from the content so that a writer killed in the middle of the header leaves a slot that can still
be opened and filled again. The words of SEALED and above are hashes over both checksums; the content holds the root of
the block table and the hash of the index. So the state word vouches for every byte of the slot: a flipped bit, a header
of another seal or a stale word match no state at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np
import xxhash

from myriarch.errors import IntegrityError, UsageError
from myriarch.event.base import Value
from myriarch.event.events import Role
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

MAGIC: Final = b"MYRISLOT"
FORMAT_VERSION: Final = 1
PAGE_BYTES: Final = 4096
BLOCK_BYTES: Final = 256 * 1024
"""Small enough to be hashed while still in the L2 cache, large enough that Python's cost per block is noise."""

STATE_WORD: Final = 511
"""The state word's place, counted in 8-byte words."""

T = TypeVar("T")

_PREFIX: Final = struct.Struct("<8sIII4x")
_IDENTITY_END: Final = 2040
_CONTENT_START: Final = 2048
_CONTENT_END: Final = 4080


class SlotState(IntEnum):
    """How far a slot's content can be trusted. Only SEALED and above may be read."""

    EMPTY = 1
    FILLING = 2
    SEALED = 3
    REPLICATED = 4
    COMMITTED = 5


_UNBOUND_WORDS: Final = {
    int.from_bytes(b"MYRempty", "little"): SlotState.EMPTY,
    int.from_bytes(b"MYRfilln", "little"): SlotState.FILLING,
}
UNBOUND_WORD_OF: Final = {state: word for word, state in _UNBOUND_WORDS.items()}
"""EMPTY and FILLING vouch for nothing and are the same in every slot."""


class SlotIdentity(Value, frozen=True, kw_only=True):
    """Whose slot it is, and how large."""

    run_id: str
    group: GroupId
    rank: Rank
    world_size: int
    role: Role
    layout_hash: str
    payload_bytes: int
    index_bytes: int
    """Room for the index."""


class SlotContent(Value, frozen=True, kw_only=True):
    """What is, or is being, put into it."""

    step: Step = Step(0)
    incarnation: Incarnation = Incarnation(0)
    index_used_bytes: int = 0
    index_hash: str = ""
    """Hex xxh3-128 of the index."""
    root: str = ""
    """Hex xxh3-128 over the block table; empty until sealed."""
    digest: str = ""
    """What the worker says of its state, as in `ShardSealed`."""


class SlotHeader(SlotIdentity, frozen=True, kw_only=True):
    """Both in one. The state is not in here: it is the word that vouches for this."""

    step: Step
    incarnation: Incarnation
    index_used_bytes: int
    index_hash: str
    root: str
    digest: str


class Geometry(NamedTuple):
    """Where the regions of a slot lie."""

    blocks: int
    table_start: int
    payload_start: int
    total_bytes: int

    @classmethod
    def of(cls, *, payload_bytes: int, index_bytes: int) -> Geometry:
        if payload_bytes < 0 or index_bytes < 0:
            raise UsageError(f"a slot of {payload_bytes} payload and {index_bytes} index bytes: sizes are not negative")
        blocks = block_count(payload_bytes)
        table_start = PAGE_BYTES + _whole_pages(index_bytes)
        payload_start = table_start + _whole_pages(8 * blocks)
        return cls(blocks, table_start, payload_start, payload_start + _whole_pages(payload_bytes))


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def block_count(payload_bytes: int) -> int:
    """Number of blocks of a payload; the last one may be short."""
    return -(-payload_bytes // BLOCK_BYTES)


def slot_bytes(*, payload_bytes: int, index_bytes: int) -> int:
    """Size of the file of a slot with this payload and this room for the index."""
    return Geometry.of(payload_bytes=payload_bytes, index_bytes=index_bytes).total_bytes


def root_of(block_hashes: Sequence[int]) -> str:
    """Hex xxh3-128 over the block table: equal roots mean equal payloads."""
    return xxhash.xxh3_128_hexdigest(table_bytes(block_hashes))


def table_bytes(block_hashes: Sequence[int]) -> bytes:
    """The block table as it lies in the file."""
    return np.asarray(block_hashes, dtype="<u8").tobytes()


# --- the header page -------------------------------------------------------------------------------------------------

_encoder: Final = msgspec.msgpack.Encoder()
_identity_decoder: Final = msgspec.msgpack.Decoder(SlotIdentity)
_content_decoder: Final = msgspec.msgpack.Decoder(SlotContent)


def write_identity(page: memoryview, identity: SlotIdentity) -> None:
    """Raises UsageError when the names in it are too long."""
    body = _encoder.encode(identity)
    text = _padded(_PREFIX.pack(MAGIC, FORMAT_VERSION, len(body), 0) + body, _IDENTITY_END)
    page[:_IDENTITY_END] = text
    page[_IDENTITY_END:_CONTENT_START] = _checksum(text)


def write_content(page: memoryview, content: SlotContent) -> None:
    """Raises UsageError when the digest in it is too long."""
    body = _encoder.encode(content)
    text = _padded(len(body).to_bytes(4, "little") + body, _CONTENT_END - _CONTENT_START)
    page[_CONTENT_START:_CONTENT_END] = text
    page[_CONTENT_END : _CONTENT_END + 8] = _checksum(text)


def read_identity(page: bytes, source: object) -> SlotIdentity:
    """Raises IntegrityError for what is no slot, of another version, or damaged; `source` is what it names."""
    if not page.startswith(MAGIC):
        raise IntegrityError(f"{source} is no slot: it begins with {page[:8]!r}, not {MAGIC!r}")
    if page[_IDENTITY_END:_CONTENT_START] != _checksum(page[:_IDENTITY_END]):
        raise IntegrityError(f"{source}: the header does not match its checksum; this slot cannot be trusted")
    _, version, length, _ = _PREFIX.unpack_from(page)
    if version != FORMAT_VERSION:
        raise IntegrityError(
            f"{source} has slot format {version}, this version reads {FORMAT_VERSION}",
            hint="run the same version of Myriarch in all processes of a run",
        )
    return _decoded(_identity_decoder, page[_PREFIX.size : _PREFIX.size + length], source)


def read_content(page: bytes, source: object) -> SlotContent:
    """Raises IntegrityError when it is damaged, or torn by a writer that was killed."""
    text = page[_CONTENT_START:_CONTENT_END]
    if page[_CONTENT_END : _CONTENT_END + 8] != _checksum(text):
        raise IntegrityError(f"{source}: the header does not match its checksum; this slot cannot be trusted")
    length = int.from_bytes(text[:4], "little")
    return _decoded(_content_decoder, text[4 : 4 + length], source)


def checksums(page: memoryview) -> bytes:
    """Both checksums as they stand: what a bound state word is made of."""
    return bytes(page[_IDENTITY_END:_CONTENT_START]) + bytes(page[_CONTENT_END : _CONTENT_END + 8])


def state_of_word(word: int, sums: bytes) -> SlotState | None:
    """The state that `word` stands for in a slot with these checksums; None for none."""
    if word in _UNBOUND_WORDS:
        return _UNBOUND_WORDS[word]
    for state in (SlotState.SEALED, SlotState.REPLICATED, SlotState.COMMITTED):
        if word == bound_word(sums, state):
            return state
    return None


def bound_word(sums: bytes, state: SlotState) -> int:
    """The word of SEALED, REPLICATED or COMMITTED in a slot with these checksums."""
    return xxhash.xxh3_64_intdigest(sums, seed=state)


def _padded(text: bytes, size_bytes: int) -> bytes:
    if len(text) > size_bytes:
        raise UsageError(f"a slot header part of {len(text)} bytes does not fit into {size_bytes}; use shorter names")
    return text.ljust(size_bytes, b"\0")


def _checksum(text: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(text).to_bytes(8, "little")


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes, source: object) -> T:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{source}: the header is intact but cannot be read: {error}") from error
