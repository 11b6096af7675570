"""Offload to the host's memory: what it frees on the device, and what of its time shows.

**Optimizer states** (ZeRO-Offload, Ren et al., USENIX ATC 2021, arXiv:2101.06840, sections 3 and 4): the share that
lives in the host's memory is stepped by the host. Its gradients go down, two bytes each, while the backward pass still
runs; the host's Adam follows, bound by the host's memory; the new weights come up tile by tile while it runs. The
device steps the rest of the states meanwhile (DeepSpeed's Twin-Flow does so), so a step waits for the longer of the
two. The host's Adam is the floor that no link lifts: with 450 GB/s between Hopper and Grace it is what remains
(SuperOffload, arXiv:2509.21271, which hides part of it by stepping speculatively; that is not modelled here).

**Activations**: the share of what a layer keeps goes down during the forward pass and comes back up during the backward
pass; each copy has that pass to hide in, up to `overlap_reach` of it as all communication. A hidden copy takes its
bytes of the device's memory bandwidth from the kernels beside it. Two layers' worth stays as a buffer
(`cost.activations`).

All functions take numbers or arrays. Nothing is offloaded where the shares are 0, and then nothing changes.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real, choose
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Split

HOST_LINK_SHARE: Final = 0.80
"""Of the host link's rate that pinned copies reach: 25 to 26 of 32 GB/s over PCIe 4.0 x16 (NVIDIA's bandwidthTest), and
370 of 450 GB/s over NVLink-C2C (Fusco et al., "Understanding Data Movement in Tightly Coupled Heterogeneous Systems",
arXiv:2408.11556)."""
HOST_MEMORY_SHARE: Final = 0.45
"""Of the host's memory bandwidth that a vectorised Adam reaches: ZeRO-Offload's table 4 has 2.57 s for 10 billion
parameters on two sockets of six DDR4-2666 channels, 256 GB/s; at `ADAM_BYTES` that is 0.43 of them."""
ADAM_BYTES: Final = 28.0
"""Gradient read (4), weight and two moments read (12) and written (12), as on the device."""
TRANSFER_BYTES: Final = 2.0
"""Of a gradient that goes down, and of a weight that comes up."""
STATE_BYTES: Final = 12.0
"""Weight and two moments in four bytes: what the host holds of one parameter."""
HOST_MEMORY_USABLE: Final = 0.8
"""The rest is for the system, the data and the snapshots of checkpoints."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """What a device gets of its host, sustained."""

    link_bytes_per_s: Array
    """One direction; the two do not share."""
    adam_parameters_per_s: Array

    @classmethod
    def of(cls, machine: Machine) -> Host:
        memory = np.multiply(machine.host_memory_bandwidth_bytes_per_s, HOST_MEMORY_SHARE)
        return cls(
            link_bytes_per_s=np.multiply(machine.host_link_bandwidth_bytes_per_s, HOST_LINK_SHARE),
            adam_parameters_per_s=memory / ADAM_BYTES,
        )


def optimizer_s(held: Real, device_s: Real, *, share: Real, window_s: Real, host: Host, p: Parameters) -> Array:
    """Seconds from the last gradient to the last weight.

    `held`: parameters whose states the device is to keep; `device_s`: what stepping all of them would take there;
    `window_s`: backward time of the last micro-batch, beside which gradients go down.
    """
    moved = np.multiply(held, share)
    copy_s = moved * TRANSFER_BYTES / host.link_bytes_per_s
    down_s = np.maximum(copy_s - p.overlap_reach * np.asarray(window_s), 0.0)
    # Weights come up behind the Adam that makes them; the last tile, and a slower link, show.
    step_s = np.maximum(moved / host.adam_parameters_per_s, copy_s)
    whole: Array = np.maximum(down_s + step_s, np.multiply(device_s, 1.0 - np.asarray(share)))
    return whole


def activations_s(
    kept_bytes: Real, *, forward_s: Real, backward_s: Real, machine: Machine, memory_bytes_per_s: Real, p: Parameters
) -> Array:
    """Seconds that one micro-batch loses when a stage sends `kept_bytes` to the host and takes them back."""
    copy_s = np.divide(kept_bytes, Host.of(machine).link_bytes_per_s)
    beside_s = np.divide(kept_bytes, memory_bytes_per_s)

    def shown(window_s: Real) -> Array:
        hidden_s = np.minimum(copy_s, p.overlap_reach * np.asarray(window_s))
        lost: Array = copy_s - hidden_s + beside_s * np.divide(hidden_s, np.maximum(copy_s, 1e-30))
        return lost

    return shown(forward_s) + shown(backward_s)


def host_bytes(held: Real, offloaded_bytes: Real, *, split: Split) -> Array:
    """Bytes of the host's memory that one device takes: states of `held` parameters, by their share, with gradients
    that wait there in two bytes; and `offloaded_bytes` of activations in flight (`Footprint.offloaded_bytes`, of all
    layers and micro-batches)."""
    states = np.multiply(held, STATE_BYTES + TRANSFER_BYTES) * split.offload_optimizer
    total: Array = states + np.asarray(offloaded_bytes)
    return total


def fits_host(needed_bytes: Real, machine: Machine) -> Array:
    """Whether the host holds it."""
    return choose(np.less_equal(needed_bytes, HOST_MEMORY_USABLE * np.asarray(machine.host_memory_bytes)), 1.0, 0.0)
