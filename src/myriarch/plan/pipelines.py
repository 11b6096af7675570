"""One pipeline over two unlike pools: how many layers each stage holds.

Stages 1..p lie on the front pool, p+1..p+q on the back pool. Stage s with its layers takes t_s for one micro-batch,
forward and backward; then 1F1B takes

    sum_s t_s + sends  +  (m - 1) * max(max_s t_s, link)                                              seconds

for m micro-batches: the first one's passage, and every further one behind the slowest. The link between the pools is a
stage of its own: it carries one micro-batch's activations forward while another's gradients go back. (The formula is an
upper bound when the slowest stage is not the last, by the passage of the stages behind it; tests play the schedule.)

Memory. 1F1B holds as many micro-batches in flight in a stage as stages are left from it on, itself counted (Narayanan
et al., SC'21, section 2.2), and the link counts as a stage, so that its time can be hidden. So many are taken, whatever
m is.

The exact optimum over integer layers. Layers are contiguous. For a fixed number k of layers on the front pool the first
sum is the same whatever the cuts, so for every m the best cuts are those that minimise the slowest stage; and as
memory and ends (embedding, head) make stages unlike, it is found by dynamic programming over (stage, layers so far),
the two pools apart:

    slowest[s][j] = min over i < j of max(slowest[s-1][i], time of layers i..j in stage s, or inf where they do not fit)

All k from 1 to L - 1 are kept: each is a line in m, and which is lowest depends on m.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.plan.unlike_shares import Ints

LINK_STAGES: Final = 1
"""Stages that the link between the pools counts as, for micro-batches in flight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """What one device of a pool does and holds of a pipeline's micro-batches."""

    layer_s: Array
    """Forward and backward of one micro-batch, of each layer of the model; shape (L,)."""
    end_s: float
    """Of embedding (front) or head and loss (back), in the outermost stage."""
    states_bytes: Array
    """Weights, gradients and optimizer states of each layer; shape (L,)."""
    kept_bytes: Array
    """Activations of each layer for one micro-batch in flight; shape (L,)."""
    end_bytes: float
    """States of embedding or head, and logits, in the outermost stage."""
    other_bytes: float
    """Held whatever the layers: driver, workspaces, a layer that is computed again."""
    memory_bytes: float
    send_s: float = 0.0
    """Of one micro-batch's activations to the next stage of the same pool, where it is not hidden."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuts:
    """The best cuts for each number of front layers k = 1..L-1; those that do not fit are left out."""

    front_layers: Ints
    slowest_s: Array
    """max over stages and link: what one more micro-batch costs."""
    passage_s: Array
    """The first micro-batch's way through all stages and back."""
    stages: Ints
    """Layers of each stage, front to back; shape (ways, stages)."""

    def step_s(self, at: int, micro_batches: int) -> float:
        """Seconds of so many micro-batches."""
        return float(self.passage_s[at] + (micro_batches - 1) * self.slowest_s[at])


def cut(front: Side, back: Side, *, front_stages: int, back_stages: int, link_s: float) -> Cuts:
    """Layers of each stage for every possible boundary.

    link_s: seconds of one micro-batch's activations over the link between the pools, one direction.
    """
    layers = len(front.layer_s)
    stages = front_stages + back_stages + LINK_STAGES
    ahead = _Slowest(front, [stages - index for index in range(front_stages)])
    # The back pool is solved from the last stage towards the boundary: there the micro-batches in flight do not depend
    # on the front.
    behind = _Slowest(_reversed(back), [1 + index for index in range(back_stages)])
    counts = np.arange(1, layers)
    pace = np.maximum(np.maximum(ahead.total[counts], behind.total[layers - counts]), link_s)
    counts, pace = counts[np.isfinite(pace)], pace[np.isfinite(pace)]
    before = np.concatenate(([0.0], np.cumsum(front.layer_s)))
    after = np.concatenate(([0.0], np.cumsum(back.layer_s[::-1])))
    sends = 2.0 * link_s + 2.0 * (front_stages - 1) * front.send_s + 2.0 * (back_stages - 1) * back.send_s
    return Cuts(
        front_layers=counts,
        slowest_s=pace,
        passage_s=before[counts] + front.end_s + after[layers - counts] + back.end_s + sends,
        stages=np.concatenate([ahead.layers(counts), behind.layers(layers - counts)[:, ::-1]], axis=1),
    )


def stages_bytes(front: Side, back: Side, *, front_layers: Sequence[int], back_layers: Sequence[int]) -> list[float]:
    """What a device of each stage holds, front to back."""
    stages, first = len(front_layers) + len(back_layers), 0
    held = []
    for index, count in enumerate((*front_layers, *back_layers)):
        on_front = index < len(front_layers)
        side, own = (front if on_front else back), slice(first, first + count)
        flights = stages - index + (LINK_STAGES if on_front else 0)
        end = side.end_bytes if index in (0, stages - 1) else 0.0
        layers_bytes = side.states_bytes[own].sum() + flights * side.kept_bytes[own].sum()
        held.append(float(layers_bytes + end + side.other_bytes))
        first += count
    return held


def _reversed(side: Side) -> Side:
    return dataclasses.replace(
        side, layer_s=side.layer_s[::-1], states_bytes=side.states_bytes[::-1], kept_bytes=side.kept_bytes[::-1]
    )


class _Slowest:
    """The slowest stage of the best cuts of the first j layers of a side over its stages, outermost stage first."""

    def __init__(self, side: Side, in_flight: list[int]) -> None:
        count = len(side.layer_s)
        seconds = _between(side.layer_s) + 2.0 * side.send_s * (len(in_flight) > 1)
        seconds[np.tril_indices(count + 1)] = np.inf  # a stage has a layer: i < j
        states, kept = _between(side.states_bytes), _between(side.kept_bytes)
        best = np.full(count + 1, np.inf)
        best[0] = 0.0
        self._from: list[Ints] = []
        for index, flights in enumerate(in_flight):
            outermost = index == 0
            room = side.memory_bytes - side.other_bytes - outermost * side.end_bytes
            time = np.where(states + flights * kept <= room, seconds + outermost * side.end_s, np.inf)
            paths = np.maximum(best[:, None], time)
            origin = np.argmin(paths, axis=0)
            self._from.append(origin)
            best = paths[origin, np.arange(count + 1)]
        self.total: Array = best

    def layers(self, counts: Ints) -> Ints:
        """Of each stage, outermost first, when together they hold so many; shape (counts, stages)."""
        found: list[Ints] = []
        for before in reversed(self._from):
            starts = before[counts]
            found.append(counts - starts)
            counts = starts
        return np.stack(found[::-1], axis=1)


def _between(values: Array) -> Array:
    """Sum of values i..j-1 at [i, j]."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    between: Array = sums[None, :] - sums[:, None]
    return between


def stages_step_s(stage_s: Array, *, micro_batches: float, send_s: Array) -> float:
    """Seconds of 1F1B over given stages, each with its seconds for one micro-batch, and sends between neighbours.

    The formula of this module for cuts that somebody else made: published runs, a running job. `send_s` is what of a
    send is not hidden: both ends are busy with it, forward and backward.
    """
    edges = np.concatenate([[0.0], send_s, [0.0]])
    slowest = float(np.max(stage_s + edges[:-1] + edges[1:]))
    return float(np.sum(stage_s) + 2.0 * np.sum(send_s) + (micro_batches - 1.0) * slowest)
