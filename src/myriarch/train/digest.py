"""A digest of a state that does not depend on how it is split.

    digest = sum over elements of bits(x_i) * (2 i + 1), modulo 2**64

`bits` reads an element's bytes as an unsigned little-endian integer and `i` is its canonical index (`layout`). It
is a sum, so the digests of a group's shards add up to the digest of the whole, and groups of unlike meshes that
hold the same bits have equal sums. The weights are odd, hence invertible: a change in a single element of at most
eight bytes is always seen, and so are any two flipped bits in 32-bit elements, whose terms `±2**a (2i+1)` cancel
only if a and i agree. It guards against faults, not against adversaries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from myriarch.train.layout import Run

_MASK: Final = 2**64 - 1
_BLOCK: Final = 1 << 14
"""Elements per pass: the 64-bit sums stay in the first two cache levels."""
_RAMP: Final = np.arange(_BLOCK, dtype=np.uint64)
_UNSIGNED: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def digest_of(values: npt.NDArray[np.uint8], *, item_bytes: int, runs: Iterable[Run]) -> int:
    """The sum's part for `values`: the bytes of the elements of `runs`, in order."""
    words = values.view(_UNSIGNED[item_bytes])
    total = 0
    position = 0
    for run in runs:
        count = run.stop - run.start
        rows = count // _BLOCK
        middle, end = position + rows * _BLOCK, position + count
        total += _of_rows(words[position:middle].reshape(rows, _BLOCK), run.start) if rows else 0
        total += _of_block(words[middle:end], run.start + rows * _BLOCK)
        position = end
    if position != words.size:
        raise ValueError(f"{words.size} elements do not fill runs of {position}")
    return total & _MASK


def _of_block(words: npt.NDArray[Any], start: int) -> int:
    """Elements b_j from index s on: sum b_j (2(s+j)+1) = (2s+1) sum b_j + 2 sum j b_j."""
    block = words.astype(np.uint64)
    return (2 * start + 1) * int(block.sum(dtype=np.uint64)) + 2 * int(np.dot(block, _RAMP[: block.size]))


def _of_rows(rows: npt.NDArray[Any], start: int) -> int:
    """The same for R rows of C elements, by additions alone: the sum of all rows so far, added up after every row, has
    row r in it R - r times. With `plain` and `late` their sums at the end,

        sum b_rc (2(s+rC+c)+1) = (2s+1) sum plain_c + 2C (R sum plain_c - sum late_c) + 2 sum c plain_c
    """
    plain, late = np.zeros(_BLOCK, dtype=np.uint64), np.zeros(_BLOCK, dtype=np.uint64)
    for row in rows:
        np.add(plain, row, out=plain)
        np.add(late, plain, out=late)
    whole = int(plain.sum(dtype=np.uint64))
    below = len(rows) * whole - int(late.sum(dtype=np.uint64))
    return (2 * start + 1) * whole + 2 * _BLOCK * below + 2 * int(np.dot(plain, _RAMP))


def combine(digests: Iterable[int]) -> int:
    """The digest of a whole from those of its parts."""
    return sum(digests) & _MASK


def to_hex(digest: int) -> str:
    """Sixteen hex digits."""
    return f"{digest & _MASK:016x}"
