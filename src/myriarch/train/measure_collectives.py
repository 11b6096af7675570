"""`python -m myriarch.train.measure_collectives ...`: one rank of all-reduces over the devices of this machine.

`myriarch doctor --calibrate` starts one such process for each device; they meet at a file. Rank 0 writes the rows.
"""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from myriarch.spec.profile import CollectiveRate
from myriarch.train.measure import end_with_parent
from myriarch.train.measure_lines import Progress, Reduced, say
from myriarch.train.stopwatch import FEWEST_TIMINGS, MOST_TIMINGS, Spread

SIZES_MIB: Final = (1, 16, 64, 256)
MEETING_LIMIT_S: Final = 60.0
"""As long as importing torch may take on a slow disk."""


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--meet", required=True, help="A file that is not there yet.")
    parser.add_argument("--kind", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    device = torch.device("cpu") if options.kind == "cpu" else torch.device(options.kind, options.rank)
    if device.type != "cpu":
        torch.accelerator.set_device_index(options.rank)
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(
        backend,
        init_method=f"file://{options.meet}",
        rank=options.rank,
        world_size=options.world,
        timeout=timedelta(seconds=MEETING_LIMIT_S),
    )
    try:
        rows = [
            _row(mib * 2**20, device=device, backend=backend, seconds=options.seconds / len(SIZES_MIB))
            for mib in SIZES_MIB
        ]
        if options.rank == 0:
            say(Reduced(rows=tuple(rows)))
    finally:
        dist.destroy_process_group()


def _row(size_bytes: int, *, device: torch.device, backend: str, seconds: float) -> CollectiveRate:
    """All ranks do the same number of all-reduces: as many as the slowest has time for."""
    if dist.get_rank() == 0:
        say(Progress("collectives", SIZES_MIB.index(size_bytes // 2**20), len(SIZES_MIB)))
    value = torch.ones(size_bytes // 4, device=device)
    _timing(value)
    once_s = torch.tensor([_timing(value)], device=device)
    dist.all_reduce(once_s, op=dist.ReduceOp.MAX)
    repeats = max(FEWEST_TIMINGS, min(MOST_TIMINGS, int(seconds / float(once_s))))
    spread = Spread.of([_timing(value) for _ in range(repeats)])
    world = dist.get_world_size()
    rate, low, high = spread.rates(2.0 * (world - 1) / world * size_bytes)
    return CollectiveRate(
        backend=backend, devices=world, size_bytes=size_bytes,
        rate_bytes_per_s=rate, rate_p10_bytes_per_s=low, rate_p90_bytes_per_s=high,
        repeats=spread.repeats, doubtful=spread.doubtful,
    )  # fmt: skip


def _timing(value: torch.Tensor) -> float:
    dist.barrier()
    start = time.perf_counter()
    dist.all_reduce(value)
    if value.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
