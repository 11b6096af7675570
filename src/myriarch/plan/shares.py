"""How many sequences of every batch each replica group takes.

All groups should finish a step together, so a group's share is proportional to its speed. But a share is a whole number
of sequences, and every worker of a group takes equally many: it is a positive multiple of the group's world size, its
*quantum*. And all shares sum exactly to the batch.

Groups with equal quanta are apportioned by largest remainder (Hamilton's method): each share is within one quantum of
proportional, unless the floor of one quantum per group forbids it. With unlike quanta a largest remainder may leave a
rest that no quantum fills; then an exact search over the few multiples around each proportional share takes the
smallest sum of squared deviations, counted in quanta. Of many groups, those with equal quanta are searched as one: what
they take together is divided among them best by single quanta, each where it costs least, for the deviations are convex
(Ibaraki and Katoh, Resource Allocation Problems, 1988).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from myriarch.errors import SpecError
from myriarch.event.actions import GroupShare
from myriarch.event.base import Value
from myriarch.event.ids import GroupId

SEARCH_REACH_QUANTA: Final = 8
"""The search over unlike quanta begins with multiples at most so far from proportional; doubled until a sum fits."""


FEW_GROUPS: Final = 8
"""More than these are searched by size."""
SIZE_REACH_QUANTA: Final = 128
"""That search begins with so many quanta more or less, divided by the number of sizes, for all groups of a size
together; doubled until a sum fits."""


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
    if len(set(sizes)) == 1:
        quanta = _largest_remainder(ideal, sizes, sequences)
    else:
        quanta = (_search if len(sizes) <= FEW_GROUPS else _search_by_size)(ideal, sizes, sequences)
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


def _search_by_size(ideal: Sequence[float], sizes: Sequence[int], sequences: int) -> list[int]:
    """The same for many groups of few sizes."""
    members: dict[int, list[int]] = {}
    for index, size in enumerate(sizes):
        members.setdefault(size, []).append(index)
    reach = max(1, SIZE_REACH_QUANTA // len(members))
    while True:
        tables = {size: _together([ideal[i] / size for i in indices], reach) for size, indices in members.items()}
        numbers = _cheapest_sum({size: table.costs for size, table in tables.items()}, sequences)
        if numbers is not None:
            quanta = [0] * len(sizes)
            for (size, indices), number in zip(members.items(), numbers, strict=True):
                for index, each in zip(indices, tables[size].quanta(number), strict=True):
                    quanta[index] = each
            return quanta
        reach *= 2  # ends, as above


class _Together(NamedTuple):
    """What groups of one size may take together."""

    costs: dict[int, float]
    """By quanta of all: the least sum of squared deviations."""
    middle: list[int]
    """By group: what it takes where nothing constrains it, in quanta."""
    more: list[int]
    """Which group takes each further quantum."""
    less: list[int]
    """Which group gives each quantum up."""

    def quanta(self, number: int) -> list[int]:
        """By group, where all together take so many."""
        quanta, change = list(self.middle), number - sum(self.middle)
        for index in self.more[: max(change, 0)]:
            quanta[index] += 1
        for index in self.less[: max(-change, 0)]:
            quanta[index] -= 1
        return quanta


def _together(exact: Sequence[float], reach: int) -> _Together:
    """Up to `reach` quanta more or less than groups take that are `exact`ly proportional."""
    middle = [max(1, round(share)) for share in exact]
    total, cost = sum(middle), sum((number - share) ** 2 for number, share in zip(middle, exact, strict=True))
    costs = {total: cost}
    more: list[int] = []
    less: list[int] = []
    for taken, step in ((more, 1), (less, -1)):
        quanta, now = list(middle), cost
        heap = [(_dearer(quanta[i], exact[i], step), i) for i in range(len(exact)) if quanta[i] + step >= 1]
        heapq.heapify(heap)
        while heap and len(taken) < reach:
            dearer, index = heapq.heappop(heap)
            quanta[index] += step
            now += dearer
            taken.append(index)
            costs[total + step * len(taken)] = now
            if quanta[index] + step >= 1:
                heapq.heappush(heap, (_dearer(quanta[index], exact[index], step), index))
    return _Together(costs, middle, more, less)


def _dearer(number: int, exact: float, step: int) -> float:
    """By how much the squared deviation grows with a quantum more or less."""
    return (number + step - exact) ** 2 - (number - exact) ** 2


def _cheapest_sum(costs: Mapping[int, Mapping[int, float]], sequences: int) -> tuple[int, ...] | None:
    """By size: how many quanta, so that the sequences sum exactly at the least cost. None: no sum fits."""
    *first, last = costs
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for size in first:
        grown: dict[int, tuple[float, tuple[int, ...]]] = {}
        for used, (cost, chosen) in best.items():
            for number, more in costs[size].items():
                total, candidate = used + number * size, (cost + more, (*chosen, number))
                if total < sequences and (total not in grown or candidate < grown[total]):
                    grown[total] = candidate
        best = grown
    whole = [
        (cost + costs[last][number], (*chosen, number))
        for used, (cost, chosen) in best.items()
        if (sequences - used) % last == 0 and (number := (sequences - used) // last) in costs[last]
    ]
    return min(whole)[1] if whole else None
