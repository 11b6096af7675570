"""How long things take in a job on a large fleet, each figure with where it comes from.

Measured here means: on two cores without an accelerator, by `benchmarks/recovery.py` (README, "How it compares"). What
such a machine cannot show (hung devices, communicators of a thousand ranks, links of a data centre) is taken from
published sources, even where they are worse than what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec

from myriarch.cost.effective import (
    HOST_LINK_BYTES_PER_S,
    INDUSTRY,
    MYRIARCH,
    PEER_BYTES_PER_S,
    STORE_BYTES_PER_S,
)
from myriarch.event.base import Value
from myriarch.event.ids import PoolId

COMM_INIT_S: Final[tuple[tuple[float, float], ...]] = (
    (0.0, 0.0), (16_384.0, 17.0), (22_528.0, 30.0), (65_536.0, 100.0), (98_304.0, 200.0),
)  # fmt: skip
"""Devices, and seconds until their communicators stand: Fault-tolerant HSDP (arXiv:2602.00277). Linear between the
points and from none; beyond the last as between the last two."""

DETECT_S: Final[Mapping[str, float]] = {
    # ByteRobust (arXiv:2509.16293) with its inspections: link 30 s, switch 60 s, kernel 2 s; a lost GPU 10 s, the rest
    "Network Switch/Cable": 30.0,
    "NetworkError": 30.0,
    "NIC": 30.0,
    "nic": 30.0,
    "rack switch": 60.0,
    "Kernel Fault": 2.0,
    "System Reboot": 2.0,
    # a process that ends tells its agent: `benchmarks/recovery.py`
    "Software Bug": 0.051,
    "Dependency": 0.051,
    "process": 0.051,
    # a collective that hangs, or values that differ: `recovery.hang_timeout_s` of a run file
    "NCCL Watchdog Timeouts": 20.0,
    "NCCLTimeoutError": 20.0,
    "Silent Data Corruption": 20.0,
    "Numerics/Silent Data Corruption": 20.0,
}
DETECT_OTHER_S: Final = 10.0
"""ByteRobust: a lost or hung GPU, by inspection."""

REGROUP_S: Final = 0.3
"""Until groups whose processes live go over to the next incarnation: what a recovery takes beside detection, fork,
rendezvous, restore and the first step; measured here, 0.285 to 0.296 s."""
BESIDE_SHARE: Final = 0.1
"""By how much copies that go over the network beside the work slow it, at most: they take a tenth of a card's 400
Gbit/s (`PEER_BYTES_PER_S`), and no step is more than all network."""


class FleetTerms(Value, frozen=True, kw_only=True):
    """Durations and rates of one job."""

    device_speed: dict[PoolId, float]
    """Sequences per second of one device of each pool, all communication inside its group included."""
    state_bytes: float
    """Of one device's share of the training state."""
    merge_s: float = 0.0
    """What merging between groups adds to a step, beyond what is hidden behind it."""
    memory: bool = True
    """Whether there is a memory tier. Without it a save stops the work until the store has it."""
    live: bool = False
    """Whether healthy groups go on without one that was hit, and hand it their state when it is back: a run file's
    `recovery.healthy_groups: go_on`. Without it all groups begin anew from the newest committed snapshot."""
    whole_groups: bool = False
    """Whether a group that lacks a node does not go on smaller: a model whose tensors, context and layers are split
    over the group cannot. Without it `Control`'s rule holds, which spreads the shards over fewer devices. With `live`
    that is only done when no group is whole: one that starts beside others starts whole."""
    whole_job: bool = False
    """Whether all processes of the job are started anew after every fault."""
    stop_s: float = 0.05
    """A save stops the work so long, whatever its size (`cost.effective`)..."""
    host_bytes_per_s: float = HOST_LINK_BYTES_PER_S
    """...and so long as the copy to host memory takes."""
    peer_bytes_per_s: float = PEER_BYTES_PER_S
    store_bytes_per_s: float = STORE_BYTES_PER_S
    beside_share: float = BESIDE_SHARE
    detect_s: dict[str, float] = msgspec.field(default_factory=lambda: dict(DETECT_S))
    """By cause."""
    detect_other_s: float = DETECT_OTHER_S
    restart_s: float = float(MYRIARCH.restart_s)
    restart_s_per_device: float = 0.0
    """Of the devices that are started anew."""
    regroup_s: float = REGROUP_S
    comm_init: tuple[tuple[float, float], ...] = COMM_INIT_S
    """Empty: it is part of `restart_s`."""
    quarantine_s: float = 86_400.0
    """How long a node that computed wrong values stays out: until it was tested. As long as a repair."""

    def detection_s(self, cause: str) -> float:
        """From a fault to its notice."""
        return self.detect_s.get(cause, self.detect_other_s)

    @property
    def save_stop_s(self) -> float:
        """How long a save stops the work."""
        if not self.memory:
            return self.stop_s + self.state_bytes / self.store_bytes_per_s
        return self.stop_s + self.state_bytes / self.host_bytes_per_s

    @property
    def copy_s(self) -> float:
        """From a save's end until its copies are safe in other nodes' memory."""
        return self.state_bytes / self.peer_bytes_per_s if self.memory else 0.0

    @property
    def contention_s(self) -> float:
        """How much longer the steps beside one save's copies take, at most."""
        return self.beside_share * self.copy_s

    @property
    def drain_s(self) -> float:
        """From the commit of a snapshot until the store has it."""
        return self.state_bytes / self.store_bytes_per_s

    def begin_s(self, *, started: int, largest_group: int) -> float:
        """Processes and communicators of so many devices that are started anew; 0 of them: who lives goes over."""
        if not started:
            return self.regroup_s
        inside = started if self.whole_job else largest_group
        return self.restart_s + self.restart_s_per_device * started + comm_init_s(inside, self.comm_init)

    def restore_s(self, *, tier: str, remote: bool) -> float:
        """The bytes of the state, all devices at once. `remote`: some come from another node's memory."""
        if tier == "fresh":
            return 0.0
        if tier != "memory":
            return self.state_bytes / self.store_bytes_per_s
        return self.state_bytes / (self.peer_bytes_per_s if remote else self.host_bytes_per_s)


def comm_init_s(devices: float, points: tuple[tuple[float, float], ...] = COMM_INIT_S) -> float:
    """Seconds until the communicators of so many devices stand."""
    if len(points) < 2:
        return points[0][1] if points else 0.0
    pairs = list(pairwise(points))
    (left, low_s), (right, high_s) = next((pair for pair in pairs if devices <= pair[1][0]), pairs[-1])
    return low_s + (high_s - low_s) * (devices - left) / (right - left)


def as_others() -> dict[str, Any]:
    """Fields of terms under which the whole job starts anew from the object store: `cost.effective.INDUSTRY`."""
    return {
        "memory": False,
        "whole_job": True,
        "detect_s": {},
        "detect_other_s": float(INDUSTRY.detect_s),
        "restart_s": float(INDUSTRY.restart_s),
        "restart_s_per_device": float(INDUSTRY.restart_s_per_device),
        "comm_init": (),
    }
