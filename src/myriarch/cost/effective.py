"""Expected effective compute of a plan: what failures, repairs, saves and restarts leave of the devices' peak.

The product of `docs/accounting.md`, expected before a run instead of counted after it:

    E = availability * scheduling * fault handling * compute

* availability: nodes not in repair. `nodes + spares` are owned; the number in repair is Poisson (`cost.spares`).
* scheduling: of the usable nodes, those that the job holds. The rest are idle spares; the job stands still, or runs
  degraded, while more nodes are away than there are spares.
* fault handling: kept steps over allocated time: the exact multi-level model (`cost.multilevel`), a level for each tier
  that a plan uses. A failure costs detection, restart, restoring the bytes, and the work since the tier's last save.
* compute: MFU of the kept steps, an input.

Every argument may be a number or an array; they broadcast, so that one call scores all plans of a search.

Validity. Failures are independent and exponential. Restart times of `MYRIARCH` were measured on five devices of one
machine (`benchmarks/recovery.py`), not on 100,000: what a restart adds per device there is not known, and is 0 in the
preset because only the failed replica group restarts. `INDUSTRY` has published times of whole jobs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from myriarch.cost.arrays import Array, Real
from myriarch.cost.failures import per_node_day
from myriarch.cost.multilevel import Level, Pattern, best_pattern, first_order_pattern
from myriarch.cost.spares import DEFAULT_REPAIR_S, DEFAULT_REPAIR_SHARE, nodes_in_repair, shortage, spares_needed
from myriarch.units import S_PER_DAY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tier:
    """Where a copy of the training state lies. Rates are per device, of its own share of the state."""

    name: str
    survives: Real
    """Share of all failures, in 0..1, that this tier and all cheaper ones together survive. The last tier: 1."""
    stop_s: Real = 0.0
    """A save stops the work so long, whatever its size..."""
    stop_bytes_per_s: Real = np.inf
    """...and so long as this rate takes for the state."""
    beside_bytes_per_s: Real = np.inf
    """The rest of a save runs beside the work at this rate; the next begins when it has ended."""
    restore_bytes_per_s: Real = np.inf
    least_interval_s: Real = 0.0
    """Between two saves, where somebody fixed it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """From a failure to the restoring of bytes."""

    name: str
    detect_s: Real
    restart_s: Real
    """Processes, rendezvous, communicators: the fixed part."""
    restart_s_per_device: Real = 0.0
    source: str = ""


HOST_SURVIVES: Final = 0.79
"""331 of 419 interruptions of Llama 3 (arXiv:2407.21783, table 5) left the host alive: GPUs (268) and software (63).
The others: switches and cables, maintenance, network cards and the host's own parts."""
PEERS_SURVIVE: Final = 0.995
"""All but one in 200: a judgement. Independent double failures within the minute that new copies take are one in a
million at 100,000 devices (`survival.window_probability`); what is left are racks, power and the whole job."""
DISKS_SURVIVE: Final = 0.998
"""Of the judgement's rest, more than half are outages after which the disks are there."""

HOST_LINK_BYTES_PER_S: Final = 40e9
"""A copy from device to pinned host memory over PCIe 5 x16: 63e9 by its data sheet."""
PEER_BYTES_PER_S: Final = 5e9
"""A tenth of a 400 Gbit/s card per device, so that training hardly notices."""
DISK_BYTES_PER_S: Final = 0.8e9
"""Per device of a node with eight: two NVMe drives of 3.2e9 each."""
STORE_BYTES_PER_S: Final = 0.05e9
"""Per device, so 5 TB/s at 100,000; published file systems: 2 TB/s sustained, 7 TB/s peak for 24,000 devices (The Llama
3 Herd of Models, section 3.3.1)."""

HOST: Final = Tier(
    name="host memory",
    survives=HOST_SURVIVES,
    stop_s=0.05,
    stop_bytes_per_s=HOST_LINK_BYTES_PER_S,
    restore_bytes_per_s=HOST_LINK_BYTES_PER_S,
)
PEERS: Final = Tier(
    name="peers' memory",
    survives=PEERS_SURVIVE,
    stop_s=0.05,
    stop_bytes_per_s=HOST_LINK_BYTES_PER_S,
    beside_bytes_per_s=PEER_BYTES_PER_S,
    restore_bytes_per_s=PEER_BYTES_PER_S,
)
DISK: Final = Tier(
    name="local disk",
    survives=DISKS_SURVIVE,
    stop_s=0.05,
    stop_bytes_per_s=HOST_LINK_BYTES_PER_S,
    beside_bytes_per_s=DISK_BYTES_PER_S,
    restore_bytes_per_s=DISK_BYTES_PER_S,
)
STORE: Final = Tier(
    name="object store",
    survives=1.0,
    stop_s=0.05,
    stop_bytes_per_s=HOST_LINK_BYTES_PER_S,
    beside_bytes_per_s=STORE_BYTES_PER_S,
    restore_bytes_per_s=STORE_BYTES_PER_S,
)
STORE_BLOCKING: Final = dataclasses.replace(
    STORE, stop_s=1.0, stop_bytes_per_s=STORE_BYTES_PER_S, beside_bytes_per_s=np.inf
)
"""Work waits until all is stored: what a plain checkpoint does."""

SPARES_TARGET: Final = 0.99
"""Share of time for which the spares suffice when none are given: what ByteRobust sizes its warm standbys by."""

MEMORY_TIERS: Final = (HOST, PEERS, STORE)
STORE_ONLY: Final = (STORE_BLOCKING,)

MYRIARCH: Final = Recovery(
    name="Myriarch",
    detect_s=0.06,
    restart_s=1.2,
    source="measured on five devices of one machine: detected 0.05 s, replaced 0.18 s, restarted 1.02 s",
)
INDUSTRY: Final = Recovery(
    name="industry",
    detect_s=60.0,
    restart_s=50.0,
    restart_s_per_device=9e-3,
    source="restart: fit of 200 s at 16,384 and 900 s at 98,304 devices (FT-HSDP, arXiv:2602.00277); detection: "
    "2-60 s with probes (ByteRobust, arXiv:2509.16293)",
)
TIMEOUT: Final = dataclasses.replace(
    INDUSTRY,
    name="time-outs",
    detect_s=600.0,
    source="restart as industry; detection by a collective's time-out, 10 min (ByteRobust without probes)",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effective:
    """The factors and what they come from. Arrays of one shape."""

    availability: Array
    scheduling: Array
    fault_handling: Array
    compute: Array
    mtbf_s: Array
    """Mean time between failures of the job."""
    recover_s: Array
    """Detection, restart and restoring after the mean failure; lost work not counted."""
    spares: Array
    pattern: Pattern
    tiers: tuple[str, ...]
    """Names of the pattern's levels."""

    @property
    def effective(self) -> Array:
        """Share of the peak of all devices owned that becomes kept model FLOPs."""
        return self.availability * self.scheduling * self.fault_handling * self.compute


def effective_compute(
    *,
    devices: Real,
    step_s: Real,
    state_bytes: Real,
    mfu: Real = 1.0,
    devices_per_node: Real = 8.0,
    tiers: Sequence[Tier] = MEMORY_TIERS,
    recovery: Recovery = MYRIARCH,
    node_failures_per_day: Real | None = None,
    repair_s: Real = DEFAULT_REPAIR_S,
    repair_share: Real = DEFAULT_REPAIR_SHARE,
    spares: Real | None = None,
    groups: Real = 1.0,
    elastic: bool = False,
    demand: Real = 1.0,
    search: Literal["best", "first order"] = "best",
) -> Effective:
    """Expected effective compute.

    `state_bytes`: weights, optimizer and the rest that one device must get back. `node_failures_per_day`: interruptions
    of one node; None: the published law (`cost.failures`), of nodes of eight devices. `spares`: nodes beside the job's;
    None: the fewest that suffice 99 % of the time. `groups`: replica groups. `elastic`: they go on without one that
    failed, which takes the state of a healthy one: lost are the step under way, and its share until it is back.
    `demand`: scheduling share of a cluster whose queue this job does not fill; 1 for a single training. `search`: of
    the pattern of saves; "first order" values two patterns instead of some hundred, for scoring many plans.
    """
    nodes = np.asarray(devices, dtype=float) / devices_per_node
    if node_failures_per_day is None:
        rate_per_s = per_node_day(devices) * np.asarray(devices, dtype=float) / (8.0 * S_PER_DAY)
    else:
        rate_per_s = nodes * node_failures_per_day / S_PER_DAY
    names = tuple(tier.name for tier in tiers)
    live, degraded = np.zeros(()), np.zeros(())
    if elastic:
        live = np.where(np.greater(groups, 1), PEERS_SURVIVE, 0.0)
        degraded = _away(
            recovery, rate_per_s=live * rate_per_s, state_bytes=state_bytes, devices=devices, groups=groups
        )
    levels = tier_levels(
        tiers, rate_per_s=rate_per_s, state_bytes=state_bytes, recovery=recovery, devices=devices, survived=live
    )
    if elastic:
        # Healthy groups hold the state of the last step: a level that costs nothing to fill, every step.
        levels = (Level(rate_per_s=live * rate_per_s, save_s=0.0, restore_s=recovery.detect_s), *levels)
        names = ("live replicas", *names)
    find = best_pattern if search == "best" else first_order_pattern
    pattern = find(levels, least_interval_s=step_s)

    away = nodes_in_repair(rate_per_s * repair_share, repair_s=repair_s)
    kept_spares = spares_needed(away, target=SPARES_TARGET) if spares is None else np.asarray(spares, dtype=float)
    group_nodes = np.maximum(nodes / groups, 1.0) if elastic else 1.0
    lack = shortage(away, spares=kept_spares, nodes=nodes, group_nodes=group_nodes)
    owned = nodes + kept_spares
    usable = owned - np.minimum(away, owned)
    held = nodes * (1.0 - (lack.degraded_share if elastic else lack.chance))
    mean_restore_s = sum((level.rate_per_s * level.restore_s for level in levels), start=np.zeros(()))
    parts = np.broadcast_arrays(
        usable / owned,
        np.minimum(held / np.maximum(usable, 1e-300), 1.0) * demand,
        pattern.efficiency * (1.0 - degraded),
        mfu,
        1.0 / np.maximum(rate_per_s, 1e-300),
        mean_restore_s / np.maximum(rate_per_s, 1e-300),
        kept_spares,
    )
    availability, scheduling, fault_handling, compute, mtbf_s, recover_s, spares_kept = parts
    return Effective(
        availability=availability,
        scheduling=scheduling,
        fault_handling=fault_handling,
        compute=compute,
        mtbf_s=mtbf_s,
        recover_s=recover_s,
        spares=spares_kept,
        pattern=pattern,
        tiers=names,
    )


def tier_levels(
    tiers: Sequence[Tier],
    *,
    rate_per_s: Real,
    state_bytes: Real,
    recovery: Recovery,
    devices: Real,
    survived: Real = 0.0,
) -> tuple[Level, ...]:
    """The tiers as levels of the Markov model, for a job with so many failures a second.

    A save that goes on beside the work is not there yet when a failure comes meanwhile: the work since it began is lost
    as well, which counts as part of the restore. `survived`: share of the failures that needs none of the tiers.
    """
    begin_s = _begin_s(recovery, devices)
    size = np.asarray(state_bytes, dtype=float)
    levels = []
    below = np.asarray(survived, dtype=float)
    for tier in tiers:
        beside_s = size / tier.beside_bytes_per_s
        levels.append(
            Level(
                rate_per_s=np.maximum(tier.survives - below, 0.0) * rate_per_s,
                save_s=tier.stop_s + size / tier.stop_bytes_per_s,
                restore_s=begin_s + size / tier.restore_bytes_per_s + beside_s,
                least_interval_s=np.maximum(beside_s, tier.least_interval_s),
            )
        )
        below = np.maximum(tier.survives, below)
    return tuple(levels)


def _begin_s(recovery: Recovery, devices: Real) -> Array:
    begin: Array = recovery.detect_s + recovery.restart_s + np.multiply(recovery.restart_s_per_device, devices)
    return begin


def _away(recovery: Recovery, *, rate_per_s: Array, state_bytes: Real, devices: Real, groups: Real) -> Array:
    """Share of the devices that is away on average, while one group restarts and takes over a healthy one's state."""
    back_s = _begin_s(recovery, np.divide(devices, groups)) + np.divide(state_bytes, PEER_BYTES_PER_S)
    away: Array = np.minimum(rate_per_s * back_s / np.maximum(groups, 1.0), 1.0)
    return away
