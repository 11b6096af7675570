"""How many sequences of every batch each replica group takes.

All groups should finish a step together, so a group's share is proportional to its speed. But a share is a whole number
of sequences, and every worker of a group takes equally many: it is a positive multiple of the group's world size, its
*quantum*. And all shares sum exactly to the batch.

Groups with equal quanta are apportioned by largest remainder (Hamilton's method): each share is within one quantum of
proportional, unless the floor of one quantum per group forbids it. With unlike quanta a largest remainder may leave a
rest that no quantum fills; then an exact search over the few multiples around each proportional share takes the
smallest sum of squared deviations, counted in quanta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from myriarch.errors import SpecError
from myriarch.event.actions import GroupShare
from myriarch.event.base import Value
from myriarch.event.ids import GroupId

SEARCH_REACH_QUANTA: Final = 8
"""The search over unlike quanta begins with multiples at most so far from proportional; doubled until a sum fits."""


class ShareRequest(Value, frozen=True, kw_only=True):
    """A group that takes part, and what it weighs."""

    group: GroupId
    world_size: int
    speed: float
    """Sequences per second of the whole group, or any weight in the same unit for all groups. Positive and finite."""


def feasible(world_sizes: Sequence[int], *, sequences: int) -> bool:
    """Whether positive multiples of the world sizes can sum to `sequences`."""
    if not world_sizes:
        return False
    rest = sequences - sum(world_sizes)
    quantum = math.gcd(*world_sizes)
    if rest < 0 or rest % quantum:
        return False
    rest, sizes = rest // quantum, sorted({size // quantum for size in world_sizes})
    if sizes[0] == 1:
        return True
    reachable = 1  # bit n: n can be reached
    for size in sizes:
        step = size
        while step <= rest:  # doubling: after k rounds every multiple below 2**k of `size` is reached
            reachable |= reachable << step
            step *= 2
        reachable &= (1 << (rest + 1)) - 1
    return bool(reachable >> rest & 1)


def split_batch(requests: Sequence[ShareRequest], *, sequences: int) -> tuple[GroupShare, ...]:
    """Shares in proportion to speed, in the order of `requests`, each beginning where the one before ends.

    Raises SpecError when no split into positive multiples exists.
    """
    sizes = [request.world_size for request in requests]
    if not feasible(sizes, sequences=sequences):
        worlds = ", ".join(f"{request.group}: {request.world_size}" for request in requests)
        raise SpecError(
            f"{sequences} sequences cannot be split into positive multiples of the groups' world sizes ({worlds})",
            path="batch.sequences",
            hint=f"use a multiple of {math.lcm(*sizes)}" if sizes else "name at least one group",
        )
    total = sum(request.speed for request in requests)
    ideal = [sequences * request.speed / total for request in requests]
    quanta = _largest_remainder(ideal, sizes, sequences) if len(set(sizes)) == 1 else _search(ideal, sizes, sequences)
    return lay_out(requests, [number * size for number, size in zip(quanta, sizes, strict=True)])


def lay_out(requests: Sequence[ShareRequest], counts: Sequence[int]) -> tuple[GroupShare, ...]:
    """Put shares of these sizes one behind the other."""
    shares: list[GroupShare] = []
    first = 0
    for request, count in zip(requests, counts, strict=True):
        shares.append(GroupShare(group=request.group, world_size=request.world_size, first=first, count=count))
        first += count
    return tuple(shares)


def honour(
    requests: Sequence[ShareRequest], explicit: Mapping[str, int], *, sequences: int
) -> tuple[GroupShare, ...]:  # fmt: skip
    """The shares that the run file says, where they fit the groups as they are; else in proportion to them.

    They no longer fit when a group is missing or has shrunk: then the speed in each request, which the caller has
    scaled by the devices that remain, carries the file's wish.
    """
    counts = [explicit.get(request.group, 0) for request in requests]
    fits = sum(counts) == sequences and all(
        count > 0 and count % request.world_size == 0 for count, request in zip(counts, requests, strict=True)
    )
    return lay_out(requests, counts) if fits else split_batch(requests, sequences=sequences)


def _largest_remainder(ideal: Sequence[float], sizes: Sequence[int], sequences: int) -> list[int]:
    """Quanta per group, all of one size. The first group wins a tie."""
    size = sizes[0]
    total = sequences // size
    exact = [share / size for share in ideal]
    quanta = [max(1, math.floor(share)) for share in exact]
    order = sorted(range(len(exact)), key=lambda index: (quanta[index] - exact[index], index))
    given = sum(quanta)
    while given < total:  # at most one round: each floor takes less than one quantum away
        for index in order[: total - given]:
            quanta[index] += 1
        given = sum(quanta)
    while given > total:  # groups that were lifted to one quantum: those that are most above proportional give
        index = max((i for i in range(len(quanta)) if quanta[i] > 1), key=lambda i: (quanta[i] - exact[i], i))
        quanta[index] -= 1
        given -= 1
    return quanta


def _search(ideal: Sequence[float], sizes: Sequence[int], sequences: int) -> list[int]:
    """Quanta per group whose sequences sum exactly, with the least sum of squared deviations in quanta."""
    reach = SEARCH_REACH_QUANTA
    while True:
        best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
        for share, size in zip(ideal, sizes, strict=True):
            middle = round(share / size)
            grown: dict[int, tuple[float, tuple[int, ...]]] = {}
            for used, (cost, chosen) in best.items():
                for number in range(max(1, middle - reach), middle + reach + 1):
                    total = used + number * size
                    if total > sequences:
                        break
                    candidate = (cost + (number - share / size) ** 2, (*chosen, number))
                    if total not in grown or candidate < grown[total]:
                        grown[total] = candidate
            best = grown
        if sequences in best:
            return list(best[sequences][1])
        reach *= 2  # ends: `feasible` said that some multiples fit, and the reach grows to cover them
