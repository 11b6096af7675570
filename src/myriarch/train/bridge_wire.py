"""What travels over the bridge, byte for byte. Any vendor, any version of torch: the format is ours and versioned.

A connection begins with wire's mutual authentication (purpose `bridge`) and one frame each way: `Hello`, in which the
dialling worker says who it is and what it believes about both layouts, and `Welcome`, which accepts it or says why not.
From then on each side sends, once per step:

    magic "MYRB" | version u16 | flags u16 | incarnation u32 | group u32 | rank u32 | step u64
    | tokens i64 | loss sum f64 | payload bytes u64 | xxh3-64 of the payload u64           little-endian, 60 bytes
    payload: fp32 elements that both hold, in canonical order
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

from myriarch.errors import WireError
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

MAGIC: Final = b"MYRB"
VERSION: Final = 1
PURPOSE: Final = "bridge"
HELLO_LIMIT_BYTES: Final = 4096

_HEADER: Final = struct.Struct("<4sHHIIIQqdQQ")
HEADER_BYTES: Final = _HEADER.size
_FLAG_HOLD: Final = 1


class BridgeError(WireError):
    """The other end of the bridge broke the protocol, or did not come in time."""


class PeerLost(BridgeError):
    """A connection of the bridge ended. That decides nothing: the agent will say what happens."""


class Hello(Value, frozen=True, kw_only=True):
    """The dialling worker's first frame."""

    version: int
    incarnation: Incarnation
    group: GroupId
    rank: Rank
    own_layout: str
    """Fingerprint of the runs that the sender holds,"""
    peer_layout: str
    """and of those that it believes the receiver to hold."""


class Welcome(Value, frozen=True, kw_only=True):
    """The answer. `refusal` is empty where the caller is accepted."""

    refusal: str = ""


class Header(NamedTuple):
    """One step's message of one worker to one other."""

    incarnation: Incarnation
    group: int
    """Place of the sender's group in the order of summation."""
    rank: Rank
    step: Step
    tokens: int
    """Valid tokens of the sender's whole group."""
    loss_sum: float
    """Summed over them."""
    hold: bool
    """Somebody in the sender's group was asked to stop after this step."""
    payload_bytes: int
    payload_hash: int

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC, VERSION, _FLAG_HOLD if self.hold else 0, self.incarnation, self.group, self.rank, self.step,
            self.tokens, self.loss_sum, self.payload_bytes, self.payload_hash,
        )  # fmt: skip


def unpack_header(data: bytes | bytearray, peer: str) -> Header:
    """Raises BridgeError for anything that is not a header of this version."""
    magic, version, flags, incarnation, group, rank, step, tokens, loss_sum, size, checksum = _HEADER.unpack(data)
    if magic != MAGIC:
        raise BridgeError(f"{peer} sent garbage over the bridge: its message begins with {magic!r}, not {MAGIC!r}")
    if version != VERSION:
        raise BridgeError(
            f"{peer} speaks version {version} of the bridge's format, this worker version {VERSION}",
            hint="run versions of Myriarch with the same bridge format in all pools",
        )
    return Header(incarnation, group, rank, step, tokens, loss_sum, bool(flags & _FLAG_HOLD), size, checksum)


_encoder: Final = msgspec.msgpack.Encoder()
_hello_decoder: Final = msgspec.msgpack.Decoder(Hello)
_welcome_decoder: Final = msgspec.msgpack.Decoder(Welcome)


def encode(message: Hello | Welcome) -> bytes:
    return _encoder.encode(message)


def decode_hello(body: bytes, peer: str) -> Hello:
    try:
        return _hello_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BridgeError(f"{peer} opened the bridge with something that is no greeting: {error}") from error


def decode_welcome(body: bytes, peer: str) -> Welcome:
    try:
        return _welcome_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BridgeError(f"{peer} answered the bridge's greeting with something else: {error}") from error
