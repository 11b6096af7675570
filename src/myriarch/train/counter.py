"""Counter-based random numbers: each is a pure function of a key and an index.

The order of samples and the initial weights come from here, not from a generator with a state, so that any worker
of any layout can compute any element by itself, and the result does not depend on the versions of numpy or torch
(numpy promises no stable streams for its distributions: NEP 19). The mixer is SplitMix64's finaliser (Steele, Lea,
Flood, OOPSLA 2014), integer arithmetic modulo 2**64 throughout.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

_MASK: Final = 2**64 - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_FEISTEL_ROUNDS: Final = 6
"""Four make a pseudorandom permutation of ideal round functions (Luby and Rackoff 1988); two more for a cheap one."""


def key_of(*parts: int | str) -> int:
    """A 64-bit key for a named stream: equal parts, equal key."""
    return xxhash.xxh3_64_intdigest("\x1f".join(str(part) for part in parts).encode())


def mix(key: int, index: int) -> int:
    """The 64-bit number at `index` of the stream `key`."""
    value = (key + (index + 1) * _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def mix_range(key: int, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """`mix(key, i)` for `i` in `[start, stop)`, vectorised."""
    value = np.arange(start + 1, stop + 1, dtype=np.uint64)
    value *= np.uint64(_GAMMA)
    value += np.uint64(key)
    value ^= value >> np.uint64(30)
    value *= np.uint64(_MIX_1)
    value ^= value >> np.uint64(27)
    value *= np.uint64(_MIX_2)
    value ^= value >> np.uint64(31)
    return value


def uniform_range(key: int, start: int, stop: int, *, deviation: float) -> npt.NDArray[np.float32]:
    """Symmetric uniform numbers of the given standard deviation, for `i` in `[start, stop)`.

    Exact in every step but the last multiplication, so equal on every machine: the upper 24 bits of the counter's hash,
    centred, times the width `sqrt(12) * deviation`.
    """
    centred = (mix_range(key, start, stop) >> np.uint64(40)).astype(np.float32)
    centred += np.float32(0.5)
    centred *= np.float32(2.0**-24)
    centred -= np.float32(0.5)
    centred *= np.float32(12.0**0.5 * deviation)
    return centred


def permute(key: int, index: int, *, size: int) -> int:
    """Where a keyed permutation of `range(size)` sends `index`.

    A balanced Feistel network over the next even power of two, walked until it lands inside (cycle walking: Black and
    Rogaway, CT-RSA 2002): a bijection for every size, in constant memory, fewer than four rounds of walking on average.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} is outside a permutation of {size}")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for round_index in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (mix(key ^ round_index, right) & mask)
        value = (left << half) | right
        if value < size:
            return value
