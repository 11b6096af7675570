"""What can be done against failures and against the limits of splitting, each measure alone and all but it.

Plain is published practice without the measure (sources in `cost.effective`): saves every hour that stop the work until
the object store has them, failures noticed by a time-out, the whole job started anew; spares it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.effective import (
    HOST,
    MYRIARCH,
    PEERS,
    STORE,
    STORE_BLOCKING,
    TIMEOUT,
    Effective,
    Tier,
    effective_compute,
)
from myriarch.event.base import Value

Wall = Literal["energy", "reliability", "parallelism"]

GROUP_DEVICES: Final = 2048
"""Of one replica group, which fails and restarts as a whole."""
FIXED_INTERVAL_S: Final = 3600.0
"""Between saves to the store: Kokolis et al. (arXiv:2410.21680) take an hour as usual."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """How the split is searched."""

    name: str
    schedules: bool = False
    """Interleaved and zero-bubble pipelines."""
    narrow: bool = False
    """8-bit products."""
    overlap: bool = False
    """Software whose collectives run beside compute."""
    batch: float = 1.0
    """Times the batch."""
    network: float = 1.0
    """Times the bandwidth between domains."""


PLAIN: Final = Variant(name="plain")
ALL: Final = Variant(name="all", schedules=True, narrow=True, overlap=True)
PARALLEL_MEASURES: Final = {
    "interleaved and zero-bubble pipelines": (
        dataclasses.replace(PLAIN, name="schedules", schedules=True),
        dataclasses.replace(ALL, name="without schedules", schedules=False),
    ),
    "8-bit products": (
        dataclasses.replace(PLAIN, name="narrow", narrow=True),
        dataclasses.replace(ALL, name="without narrow", narrow=False),
    ),
    "collectives beside compute": (
        dataclasses.replace(PLAIN, name="overlap", overlap=True),
        dataclasses.replace(ALL, name="without overlap", overlap=False),
    ),
    "twice the network": (dataclasses.replace(PLAIN, name="network", network=2.0), ALL),
    "four times the batch": (dataclasses.replace(PLAIN, name="batch", batch=4.0), ALL),
}
"""Each alone, and all without it. The last two are no part of "all": one is bought, the other costs tokens."""


class Outcome(Value, frozen=True, kw_only=True):
    """The best split that was found for some devices and a variant."""

    step_s: float
    mfu: float
    """Against the peak in 16 bits."""
    split: str
    state_bytes: float
    """Of one device: weights and optimizer."""
    exposed_share: float
    """Of the step: communication that nothing hides."""
    bubble_share: float


Best = Callable[[int, Variant], Outcome | None]
"""The best split of exactly so many devices; None where none fits."""


class Measure(Value, frozen=True, kw_only=True):
    """What a counter-measure is worth: effective compute, as a share of peak."""

    wall: Wall
    name: str
    alone: float
    """With it and nothing else."""
    without: float
    """With all but it."""


def mfu_of(outcome: Outcome | None) -> float:
    return 0.0 if outcome is None else outcome.mfu


class Splits:
    """Outcomes of all variants."""

    def __init__(
        self,
        found: Mapping[int, tuple[Outcome | None, Outcome | None]],
        best: Best,
    ) -> None:
        self.found, self.best = found, best
        self.known: dict[tuple[int, str], Outcome | None] = {}

    @property
    def top(self) -> tuple[float, float]:
        """The best MFU of all rows: with all measures, and plain."""
        plain, full = zip(*self.found.values(), strict=True)
        return max(map(mfu_of, full)) or max(map(mfu_of, plain)), max(map(mfu_of, plain))

    def pair(self, count: int) -> tuple[Outcome | None, Outcome | None]:
        """Plain, and with all measures: never worse than plain, which it may always fall back on."""
        plain, full = self.found[count]
        return plain, max((full, plain), key=mfu_of)

    def measures(self, count: int, *, plain: float, full: float) -> tuple[Measure, ...]:
        before, after = (mfu_of(outcome) for outcome in self.pair(count))
        found = []
        for name, (alone, without) in PARALLEL_MEASURES.items():
            waste = 2.0 / (1.0 + alone.batch)  # tokens: 1 + B/B_crit, of which the plain batch is at 1
            single = max(mfu_of(self._of(count, alone, before)) * waste, before)
            rest = min(max(mfu_of(self._of(count, without, after)), before), after)
            found.append(Measure(wall="parallelism", name=name, alone=single * plain, without=rest * full))
        return tuple(found)

    def _of(self, count: int, variant: Variant, known: float) -> Outcome | None:
        if variant in (PLAIN, ALL):
            return self.pair(count)[0 if variant == PLAIN else 1]
        key = count, variant.name
        if key not in self.known:
            self.known[key] = self.best(count, variant)
        return self.known[key]


KEPT_MEASURES: Final = {
    "best interval": "interval",
    "saves beside the work": "beside",
    "host memory": "host",
    "peers' memory": "peers",
    "detection by facts": "detect",
    "restart of processes kept warm": "restart",
    "spares": "spares",
    "groups that go on": "elastic",
}
"""Name and key of the counter-measures against failures."""


class Kept:
    """What failures leave, for all rows at once."""

    def __init__(
        self, devices: Sequence[int], parallel: Splits, *, devices_per_node: int, node_failures_per_day: float | None
    ) -> None:
        outcomes = [next(each for each in reversed(parallel.pair(count)) if each is not None) for count in devices]
        self.devices = np.array(devices, dtype=float)
        self.step_s = np.array([each.step_s for each in outcomes])
        self.state_bytes = np.array([each.state_bytes for each in outcomes])
        self.devices_per_node, self.rate = devices_per_node, node_failures_per_day
        plain, every = frozenset({"spares"}), frozenset(KEPT_MEASURES.values())
        self.plain, self.all = self._value(plain), self._value(every)
        self.alone = {name: self.share(self._value(plain | {key})) for name, key in KEPT_MEASURES.items()}
        self.without = {name: self.share(self._value(every - {key})) for name, key in KEPT_MEASURES.items()}

    @staticmethod
    def share(effective: Effective) -> Array:
        return effective.availability * effective.scheduling * effective.fault_handling

    def measures(self, index: int, *, plain: float, full: float) -> tuple[Measure, ...]:
        return tuple(
            Measure(
                wall="reliability",
                name=name,
                alone=float(self.alone[name][index]) * plain,
                without=float(self.without[name][index]) * full,
            )
            for name in KEPT_MEASURES
        )

    def _value(self, measures: frozenset[str]) -> Effective:
        recovery = dataclasses.replace(
            TIMEOUT,
            detect_s=MYRIARCH.detect_s if "detect" in measures else TIMEOUT.detect_s,
            restart_s=MYRIARCH.restart_s if "restart" in measures else TIMEOUT.restart_s,
            restart_s_per_device=0.0 if "restart" in measures else TIMEOUT.restart_s_per_device,
        )
        return effective_compute(
            devices=self.devices,
            step_s=self.step_s,
            state_bytes=self.state_bytes,
            devices_per_node=self.devices_per_node,
            node_failures_per_day=self.rate,
            tiers=_tiers(measures),
            recovery=recovery,
            spares=None if "spares" in measures else 0.0,
            groups=np.maximum(np.floor(self.devices / GROUP_DEVICES), 1.0),
            elastic="elastic" in measures,
        )


def _tiers(measures: frozenset[str]) -> tuple[Tier, ...]:
    """Memory is saved to as often as is best; the store every hour, unless its interval is chosen too."""
    store = STORE if "beside" in measures else STORE_BLOCKING
    if "interval" not in measures:
        store = dataclasses.replace(store, least_interval_s=FIXED_INTERVAL_S)
    return (*((HOST,) if "host" in measures else ()), *((PEERS,) if "peers" in measures else ()), store)
