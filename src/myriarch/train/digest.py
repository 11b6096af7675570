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
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.train.layout import Run

_MASK: Final = 2**64 - 1
_BLOCK: Final = 1 << 14
"""Elements per pass: the 64-bit copies stay in the first two cache levels."""
_RAMP: Final = np.arange(_BLOCK, dtype=np.uint64)
_UNSIGNED: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def digest_of(values: npt.NDArray[np.uint8], *, item_bytes: int, runs: Iterable[Run]) -> int:
    """The sum's part for `values`: the bytes of the elements of `runs`, in order.

    With `b_j` the elements of a block that begins at index `s`: sum b_j (2(s+j)+1) = (2s+1) sum b_j + 2 sum j b_j.
    """
    words = values.view(_UNSIGNED[item_bytes])
    total = 0
    position = 0
    for run in runs:
        for start in range(run.start, run.stop, _BLOCK):
            count = min(_BLOCK, run.stop - start)
            block = words[position : position + count].astype(np.uint64)
            position += count
            plain = int(block.sum(dtype=np.uint64))
            ramp = int(np.dot(block, _RAMP[:count]))
            total += (2 * start + 1) * plain + 2 * ramp
    if position != words.size:
        raise ValueError(f"{words.size} elements do not fill runs of {position}")
    return total & _MASK


def combine(digests: Iterable[int]) -> int:
    """The digest of a whole from those of its parts."""
    return sum(digests) & _MASK


def to_hex(digest: int) -> str:
    """Sixteen hex digits."""
    return f"{digest & _MASK:016x}"
