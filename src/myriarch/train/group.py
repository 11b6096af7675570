"""The few small numbers that a group agrees on each step: one collective each, fp64 or int64, nothing rounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


class Group:
    """This worker's replica group. A group of one needs no process group and makes no collective."""

    def __init__(self, *, rank: int, world_size: int, device: torch.device) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Everybody's values, in the order of ranks."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        rows = own.new_empty(self.world_size * own.numel())
        dist.all_gather_into_tensor(rows, own)
        return rows.view(self.world_size, -1).tolist()

    def maxima(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over the group. None of them may be NaN."""
        if self.world_size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [float(value) for value in largest.tolist()]

    def add(self, values: Sequence[int]) -> list[int]:
        """The group's sums of 64-bit integers: the same in any order."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(total)
        return [int(value) for value in total.tolist()]
