"""What a measuring process writes on its stdout: one JSON object a line. No torch, so `cli` can read with it."""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from myriarch.spec.profile import CollectiveRate, Profile


class Progress(msgspec.Struct, tag="progress", frozen=True):
    """Words for the person who waits."""

    phase: str
    done: int
    of: int


class Measured(msgspec.Struct, tag="measured", frozen=True):
    """The last line of `train.measure`: everything but the collectives."""

    profile: Profile


class Reduced(msgspec.Struct, tag="reduced", frozen=True):
    """The last line of rank 0 of `train.measure_collectives`."""

    rows: tuple[CollectiveRate, ...]


Line = Progress | Measured | Reduced

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Line)


def say(line: Line) -> None:
    """Write one line, at once."""
    sys.stdout.write(_ENCODER.encode(line).decode() + "\n")
    sys.stdout.flush()


def read_line(text: bytes) -> Line | None:
    """The line's content; None for what a library printed in between."""
    try:
        line: Line = _DECODER.decode(text)
    except msgspec.DecodeError:
        return None
    return line
