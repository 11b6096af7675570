"""Which batches can be divided among replica groups.

Every worker of a group takes equally many sequences of a step, and every group at least one per worker. So a group of
`w` workers takes a positive multiple of `w`, and a batch can be divided when it is a sum of such multiples: the coin
problem, with the world sizes as coins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def can_divide(sequences: int, world_sizes: Sequence[int]) -> bool:
    """Whether `sequences` is a sum of one positive multiple of each world size."""
    unit = math.gcd(*world_sizes)
    rest, beyond = divmod(sequences - sum(world_sizes), unit)
    least = _least_sums([size // unit for size in world_sizes])
    return not beyond and least[rest % len(least)] <= rest


def nearest_batches(sequences: int, world_sizes: Sequence[int]) -> tuple[int, ...]:
    """The batches nearest to `sequences`, below and above, that can be divided; only above where none is below."""
    unit, base = math.gcd(*world_sizes), sum(world_sizes)
    least = _least_sums([size // unit for size in world_sizes])
    rest = max(sequences - base, 0)
    # Per residue: the largest reachable amount not above `rest`, and the least not below it.
    below = [rest // unit - (rest // unit - residue) % len(least) for residue in range(len(least))]
    lower = [amount for amount, reach in zip(below, least, strict=True) if amount >= reach]
    upper = [
        max(amount if amount * unit >= rest else amount + len(least), reach)
        for amount, reach in zip(below, least, strict=True)
    ]
    nearest = {min(upper), *([max(lower)] if lower and sequences > base else [])}
    return tuple(sorted(base + amount * unit for amount in nearest))


def _least_sums(coins: Sequence[int]) -> list[int]:
    """For each residue of the smallest coin: the least sum of coins that has it. The coins have no common factor.

    Round robin over residues (Boecker and Liptak, Algorithmica 2007): smallest coin times number of coins steps.
    """
    modulus = min(coins)
    none_yet = modulus * max(coins) + 1  # above every least sum: those stay below smallest times largest coin
    least = [0] + [none_yet] * (modulus - 1)
    for coin in sorted(set(coins) - {modulus}):
        cycles = math.gcd(coin, modulus)
        for start in range(cycles):
            residue = min(range(start, modulus, cycles), key=least.__getitem__)
            for _ in range(modulus // cycles - 1):
                following = (residue + coin) % modulus
                least[following] = min(least[following], least[residue] + coin)
                residue = following
    return least
