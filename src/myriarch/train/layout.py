"""Where elements lie: one canonical order of all elements of a model, and the runs of it that a worker holds.

The canonical index of an element is its tensor's base plus its row-major position in the *whole* tensor, tensors in the
order of their names. It does not depend on how a group splits the model, so two groups of unlike meshes can say which
elements both hold, and a digest over it is the same for every layout.

A *run* is a half-open range `[start, stop)` of canonical indices. A worker's *local buffer* is the concatenation of its
runs in rising order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import xxhash

from myriarch.spec.run import Mesh

Shape = tuple[int, ...]


class Run(NamedTuple):
    """Canonical indices `[start, stop)`."""

    start: int
    stop: int


class Overlap(NamedTuple):
    """Elements that two workers both hold: slices of the first one's local buffer, in canonical order."""

    slices: tuple[tuple[int, int], ...]
    elements: int


def bases_of(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The canonical index of each tensor's first element."""
    bases: dict[str, int] = {}
    total = 0
    for name in sorted(shapes):
        bases[name] = total
        total += math.prod(shapes[name])
    return bases


def runs_of_chunk(base: int, shape: Shape, offsets: Shape, sizes: Shape) -> Iterator[Run]:
    """The runs of one box of a tensor, rising.

    Trailing dimensions that the box spans whole make one run together with the dimension before them.
    """
    if math.prod(sizes) == 0:
        return
    split = len(shape)
    while split > 0 and sizes[split - 1] == shape[split - 1]:
        split -= 1
    inner = math.prod(shape[split:])
    if split == 0:
        yield Run(base, base + inner)
        return
    strides = [math.prod(shape[axis + 1 :]) for axis in range(split)]
    length = sizes[split - 1] * inner
    outer = sizes[: split - 1]
    for flat in range(math.prod(outer)):
        start, rest = base + offsets[split - 1] * strides[split - 1], flat
        for axis in range(split - 2, -1, -1):
            rest, position = divmod(rest, outer[axis])
            start += (offsets[axis] + position) * strides[axis]
        yield Run(start, start + length)


def shard_rows(rows: int, *, parts: int, part: int) -> tuple[int, int]:
    """First row and number of rows that FSDP2 gives to `part`: `torch.chunk`'s rule, so later parts may be empty."""
    size = -(-rows // parts)
    first = min(part * size, rows)
    return first, min(size, rows - first)


def runs_of_rank(shapes: Mapping[str, Shape], *, mesh: Mesh, rank: int) -> tuple[Run, ...]:
    """What `rank` of a group with this mesh holds of tensors that FSDP2 shards over their first dimension.

    Ranks are row-major over (`dp_replicate`, `dp_shard`); replicas hold the same runs.
    """
    runs: list[Run] = []
    for name, base in bases_of(shapes).items():
        shape = shapes[name]
        first, rows = shard_rows(shape[0], parts=mesh.dp_shard, part=rank % mesh.dp_shard)
        runs += runs_of_chunk(base, shape, (first, *(0 for _ in shape[1:])), (rows, *shape[1:]))
    return joined(runs)


def joined(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The same elements in as few runs as possible. Raises ValueError if runs overlap or fall."""
    result: list[Run] = []
    for run in runs:
        if result and run.start < result[-1].stop:
            raise ValueError(f"run {run} begins before the end of {result[-1]}")
        if result and run.start == result[-1].stop:
            result[-1] = Run(result[-1].start, run.stop)
        else:
            result.append(run)
    return tuple(result)


def intersection(one: Sequence[Run], other: Sequence[Run]) -> list[Run]:
    """Elements in both; each argument's runs rise."""
    result: list[Run] = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, stop = max(one[i].start, other[j].start), min(one[i].stop, other[j].stop)
        if start < stop:
            result.append(Run(start, stop))
        if one[i].stop <= other[j].stop:
            i += 1
        else:
            j += 1
    return result


def overlap(own: Sequence[Run], peer: Sequence[Run]) -> Overlap:
    """Which slices of `own`'s local buffer a worker that holds `peer` also has.

    Both ends list the same elements in the same order, so a message needs no indices.
    """
    shared = intersection(own, peer)
    slices: list[tuple[int, int]] = []
    position = index = 0
    for run in shared:
        while own[index].stop <= run.start:
            position += own[index].stop - own[index].start
            index += 1
        start = position + run.start - own[index].start
        stop = start + run.stop - run.start
        if slices and slices[-1][1] == start:
            slices[-1] = (slices[-1][0], stop)
        else:
            slices.append((start, stop))
    return Overlap(tuple(slices), sum(stop - start for start, stop in shared))


def elements_of(runs: Sequence[Run]) -> int:
    """How many elements the runs hold."""
    return sum(stop - start for start, stop in runs)


def fingerprint(runs: Sequence[Run]) -> str:
    """Hex xxh3-64 of the runs: two workers compare it before they trust each other's layout."""
    return xxhash.xxh3_64_hexdigest(",".join(f"{start}-{stop}" for start, stop in runs).encode())


def covers(parts: Sequence[tuple[int, int]], elements: int) -> bool:
    """Whether the slices are a partition of `[0, elements)`."""
    ordered = sorted(part for part in parts if part[0] < part[1])
    edges = [(0, 0), *ordered, (elements, elements)]
    return all(one[1] == other[0] for one, other in pairwise(edges))
