"""The constants of the performance model: few, global, each something that could be measured by itself."""

from __future__ import annotations

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """Constants that hold for every model, machine and split. `BOUNDS` has what is physical."""

    matmul_sustained: float = 0.96
    """Share of the best measured matmul rate that products of good shape keep up in a run of hours..."""
    throttling: float = 0.20
    """...and what a chip loses of it that had no power at all, relative to an A100's per FLOP/s: falling clocks."""
    immaturity: float = 0.40
    """Share of that rate that libraries lack in the year a chip appears..."""
    maturing_years: float = 0.8
    """...and the time in which this lack falls to 1/e."""
    wave_share: float = 0.5
    """Share of the loss by tiles that do not fill the last wave which schedulers (stream-K, split-K) leave."""
    depth_half: float = 160.0
    """Length of the inner dimension that costs a tile as much to fill and drain as to compute."""
    memory_share: float = 0.80
    """Share of the memory's bandwidth that streaming kernels reach."""
    eager_passes: float = 1.8
    """How often kernels that are not fused touch memory, relative to fused ones."""
    eager_softmax_passes: float = 4.0
    """The same for the square of scores."""
    attention_share: float = 0.72
    """Share of the sustained matmul rate that fused attention reaches at head width 128."""
    attention_aging_years: float = 4.5
    """Attention kernels run on a chip by so many years younger than they are reach 1/e of that."""
    batched_share: float = 0.40
    """Share that the batched products of attention reach when it is not fused."""
    kernel_s: float = 3.0e-6
    """Ramp and tail of a kernel on the device."""
    host_scale: float = 1.25
    """Of all levels' `host_seconds`: hosts are not the fastest."""
    link_share: float = 0.75
    """Share of the link's bandwidth that collectives reach."""
    network_share: float = 0.75
    """Share of the network's."""
    link_latency_s: float = 1.5e-5
    """Of one collective over the link."""
    network_latency_s: float = 1.5e-5
    """Of each node that a collective passes."""
    overlap_reach: float = 0.85
    """Share of the time beside it that overlapped communication can hide in."""
    contention: float = 0.25
    """Share of hidden communication's time that the compute beside it loses: shared memory bandwidth and processors."""
    narrow_passes: float = 1.0
    """Quantising for products in 8 bits: passes over the operands, relative to one read and two writes."""
    scatter_passes: float = 6.0
    """Mixture layers: passes over the routed tokens for permuting, padding and weighing."""
    imbalance: float = 1.10
    """Tokens of the busiest expert rank over the mean."""
    jitter: float = 0.004
    """Growth of the step per doubling of the devices: each step waits for the slowest."""
    optimizer_passes: float = 1.3
    """Traffic of the optimizer's step over the least, 28 bytes a parameter: norm of the gradient, unscaling, casts."""
    step_s: float = 0.010
    """Of each step, whatever its size: data, loss, logging."""


BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "matmul_sustained": (0.80, 1.0),
    "throttling": (0.0, 0.5),
    "immaturity": (0.0, 0.5),
    "maturing_years": (0.5, 3.0),
    "wave_share": (0.0, 1.0),
    "depth_half": (16.0, 512.0),
    "memory_share": (0.6, 0.95),
    "eager_passes": (1.0, 3.0),
    "eager_softmax_passes": (1.0, 6.0),
    "attention_share": (0.3, 0.95),
    "attention_aging_years": (2.0, 10.0),
    "batched_share": (0.15, 0.7),
    "kernel_s": (1e-6, 6e-6),
    "host_scale": (0.4, 2.5),
    "link_share": (0.5, 0.92),
    "network_share": (0.4, 0.95),
    "link_latency_s": (3e-6, 5e-5),
    "network_latency_s": (3e-6, 6e-5),
    "overlap_reach": (0.5, 1.0),
    "contention": (0.0, 0.6),
    "narrow_passes": (0.5, 3.0),
    "scatter_passes": (2.0, 16.0),
    "imbalance": (1.0, 1.4),
    "jitter": (0.0, 0.012),
    "optimizer_passes": (1.0, 3.0),
    "step_s": (0.0, 0.05),
}
"""What each constant can be in nature; calibration stays inside."""
