"""Does the memory tier survive k simultaneous failures: Gemini's placement probability, exactly.

Wang et al., "Gemini: Fast Failure Recovery in Distributed Training with In-Memory Checkpoints", SOSP 2023, section 4: a
shard lives in the memory of m machines, its own among them; it is lost when all m fail at once. Their strategies:

* *group*, for N a multiple of m: machines in groups of m, each of which holds all shards of its members. Optimal
  (theorem 1). Corollary 1 gives the chance that k random failures lose nothing as 1 - (N/m) C(N-m, k-m)/C(N, k) for
  m <= k < 2m, and 1 for k < m. From 2m on it is a bound only (two groups may be lost at once: 0.600 for N = 16, m = 2,
  k = 4 where 0.615 is right); the counting here is exact for every k.
* *ring*: machine i's shard also on the m - 1 machines after it.
* *mixed*, for other N: groups, and one ring of the last m + N mod m machines.

Counting. Failed machines lose nothing when in each block of machines that share no shard with others the failed ones
hold no whole redundancy set. A block's polynomial has, as coefficient of x^j, the number of harmless ways to lose j of
its machines; the product over blocks has at x^k those of the fleet, of C(N, k). Integers, so exact at any size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from fractions import Fraction
from typing import Final

BLOCK_LIMIT: Final = 20
"""Machines of a block whose subsets are listed: a million of them."""


def group_probability(machines: int, *, replicas: int, failed: int) -> float:
    """Group placement: `machines` must be a multiple of `replicas` (copies of a shard, the owner's included)."""
    _require(machines, replicas, failed)
    if machines % replicas:
        raise ValueError(f"machines: {machines} is not a multiple of {replicas} replicas; use mixed_probability")
    return _probability(_power(_group(replicas), machines // replicas, failed), machines, failed)


def ring_probability(machines: int, *, replicas: int, failed: int) -> float:
    """Ring placement over all machines."""
    _require(machines, replicas, failed)
    return float(Fraction(_ring_ways(machines, replicas, failed), math.comb(machines, failed)))


def mixed_probability(machines: int, *, replicas: int, failed: int) -> float:
    """Gemini's mixed strategy: groups, and a ring of the rest where `machines` is no multiple of `replicas`."""
    _require(machines, replicas, failed)
    rest = machines % replicas
    if not rest:
        return group_probability(machines, replicas=replicas, failed=failed)
    ring = replicas + rest
    ring_block = [_ring_ways(ring, replicas, lost) for lost in range(min(ring, failed) + 1)]
    groups = _power(_group(replicas), (machines - ring) // replicas, failed)
    return _probability(_times(groups, ring_block, failed), machines, failed)


def corollary_probability(machines: int, *, replicas: int, failed: int) -> float:
    """Gemini's corollary 1 as printed, for contrast: exact for k < 2m, a lower bound from there."""
    _require(machines, replicas, failed)
    if failed < replicas:
        return 1.0
    fatal = Fraction(machines, replicas) * math.comb(machines - replicas, failed - replicas)
    return max(float(1 - fatal / math.comb(machines, failed)), 0.0)


def sets_probability(
    machines: int, *, redundancy_sets: Iterable[Collection[Hashable]], failed: int
) -> tuple[float, bool]:
    """Any placement, by the machines that hold each shard: `(probability, exact)`.

    Exact while no block is larger than `BLOCK_LIMIT` machines. Where one is, the union bound: never too high.
    """
    _require(machines, 1, failed)
    sets = _minimal({frozenset(each) for each in redundancy_sets})
    blocks = _blocks(sets)
    if any(len(frozenset().union(*block)) > BLOCK_LIMIT for block in blocks):
        ways = math.comb(machines, failed)
        fatal = sum(math.comb(machines - len(each), failed - len(each)) for each in sets if len(each) <= failed)
        return max(float(1 - Fraction(fatal, ways)), 0.0), False
    product = [1]
    held = 0
    for block in blocks:
        members = frozenset().union(*block)
        held += len(members)
        product = _times(product, _listed(members, block, failed), failed)
    free = machines - held
    product = _times(product, [math.comb(free, lost) for lost in range(min(free, failed) + 1)], failed)
    return _probability(product, machines, failed), True


def window_probability(
    machines: int, *, replicas: int, failures_per_s: float, window_s: float, more_limit: int = 6
) -> float:
    """Chance that a failure loses nothing, when others may come within `window_s`: until the copies are placed anew.

    Group placement, independent failures: 1 + Poisson(rate * window) machines are down at once. `more_limit`: further
    failures than that count as a loss.
    """
    more = failures_per_s * window_s
    survived, chance = 0.0, math.exp(-more)
    usable = machines - machines % replicas
    for others in range(min(more_limit, usable - 1) + 1):
        survived += chance * group_probability(usable, replicas=replicas, failed=1 + others)
        chance *= more / (others + 1)
    return min(survived, 1.0)


def _group(replicas: int) -> list[int]:
    """Of one group: any failures but all."""
    return [math.comb(replicas, lost) for lost in range(replicas)]


def _ring_ways(machines: int, replicas: int, failed: int) -> int:
    """Ways to lose `failed` of a ring without `replicas` neighbours among them.

    The n - k survivors leave n - k gaps of 0 to m - 1 failures each: by inclusion and exclusion over gaps of m or more,
    and n/(n - k) rotations of each necklace that begins with a survivor.
    """
    alive = machines - failed
    if alive == 0:
        return 0
    gaps: int = sum(
        (-1) ** full * math.comb(alive, full) * math.comb(failed - full * replicas + alive - 1, alive - 1)
        for full in range(failed // replicas + 1)
        if full <= alive
    )
    return machines * gaps // alive


def _listed(members: frozenset[Hashable], sets: Sequence[frozenset[Hashable]], failed: int) -> list[int]:
    """Harmless ways to lose 0, 1, ... of a small block's machines."""
    bits = {member: 1 << place for place, member in enumerate(sorted(members, key=repr))}
    fatal = [sum(bits[member] for member in each) for each in sets]
    return [
        sum(
            all(down & mask != mask for mask in fatal) for down in map(sum, itertools.combinations(bits.values(), lost))
        )
        for lost in range(min(len(members), failed) + 1)
    ]


def _minimal(sets: set[frozenset[Hashable]]) -> list[frozenset[Hashable]]:
    """Without sets that contain another: those are lost whenever the smaller is."""
    by_member: dict[Hashable, list[frozenset[Hashable]]] = {}
    kept = []
    for each in sorted(sets, key=lambda one: (len(one), sorted(map(repr, one)))):
        if not any(smaller <= each for member in each for smaller in by_member.get(member, ())):
            kept.append(each)
            for member in each:
                by_member.setdefault(member, []).append(each)
    return kept


def _blocks(sets: Sequence[frozenset[Hashable]]) -> list[list[frozenset[Hashable]]]:
    """Sets that hang together through shared machines."""
    of: dict[Hashable, list[frozenset[Hashable]]] = {}
    for each in sets:
        for member in each:
            of.setdefault(member, []).append(each)
    seen: set[frozenset[Hashable]] = set()
    blocks = []
    for first in sets:
        if first in seen:
            continue
        seen.add(first)
        block, queue = [], [first]
        while queue:
            each = queue.pop()
            block.append(each)
            fresh = [other for member in each for other in of[member] if other not in seen]
            seen.update(fresh)
            queue.extend(dict.fromkeys(fresh))
        blocks.append(block)
    return blocks


def _times(first: Sequence[int], second: Sequence[int], degree: int) -> list[int]:
    """Product of two polynomials, up to x**degree."""
    product = [0] * (min(len(first) + len(second) - 2, degree) + 1)
    for i, a in enumerate(first[: degree + 1]):
        for j, b in enumerate(second[: degree + 1 - i]):
            product[i + j] += a * b
    return product


def _power(block: Sequence[int], times: int, degree: int) -> list[int]:
    """By repeated squaring."""
    product, square = [1], list(block)
    while times:
        if times & 1:
            product = _times(product, square, degree)
        square = _times(square, square, degree)
        times >>= 1
    return product


def _probability(harmless: Sequence[int], machines: int, failed: int) -> float:
    ways = harmless[failed] if failed < len(harmless) else 0
    return float(Fraction(ways, math.comb(machines, failed)))


def _require(machines: int, replicas: int, failed: int) -> None:
    if not 1 <= replicas <= machines:
        raise ValueError(f"replicas: {replicas} of a shard on {machines} machines; give from 1 to as many as machines")
    if not 0 <= failed <= machines:
        raise ValueError(f"failed: {failed} of {machines} machines; give from 0 to all of them")
