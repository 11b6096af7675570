"""What there is: pools of unlike devices, the links between them, how often they fail, what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from myriarch.spec.base import Count as Count
from myriarch.spec.base import Fraction as Fraction
from myriarch.spec.base import Name as Name
from myriarch.spec.base import NonNegative as NonNegative
from myriarch.spec.base import Positive as Positive
from myriarch.spec.base import Spec
from myriarch.spec.site import Site

Precision = Literal["fp64", "fp64_tc", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]
"""`fp64_tc`: FP64 on the matrix units, where they have it. `int8` rates count operations."""
Confidence = Literal["high", "medium", "low", "announced", "measured", "declared"]


class Chip(Spec, frozen=True, kw_only=True):
    """One kind of accelerator. Rates are dense peaks of one device; unknown is absent, never zero."""

    id: str
    vendor: str = ""
    alias: str = ""
    """What else it is called."""
    rate_flops_per_s: dict[Precision, Positive] = msgspec.field(default_factory=dict)
    """Peak dense rate by precision. Empty: measured on the device when the fleet starts."""
    memory_bytes: Positive | None = None
    memory_kind: str = ""
    """`HBM3`, `GDDR6`, ..."""
    memory_bandwidth_bytes_per_s: Positive | None = None
    link_bandwidth_bytes_per_s: Positive | None = None
    """One direction, per device, inside the scale-up domain."""
    link_domain_devices: Count | None = None
    """Devices that reach each other over that link."""
    link_kind: str = ""
    """`NVLink4`, `HCCS`, ..."""
    host_link: str = ""
    """Generation of PCIe, or what stands in for it."""
    power_w: Positive | None = None
    """Board power at full load."""
    matmul_measured_flops_per_s: dict[Precision, Positive] = msgspec.field(default_factory=dict)
    """Best matmul rate somebody measured; it bounds compute better than the peak does."""
    confidence: Confidence = "declared"
    """How far to trust the numbers. Catalogue: `high`, `medium`, `low`, `announced` (not shipping when read)."""
    uncertain_fields: tuple[str, ...] = ()
    """Fields that were recalled rather than read in a source, in the words of the catalogue: weigh them low."""
    sources: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_doubtful(self) -> bool:
        """Numbers that have to be shown with their label: `low` and `announced`."""
        return self.confidence in ("low", "announced")


class Link(Spec, frozen=True, kw_only=True):
    """What two ends can exchange: bandwidth in one direction and one-way latency.

    The ends of a pool's own `link` are two devices on different nodes: its bandwidth is one device's, a node's network
    cards divided among its devices. The ends of a link between pools are the pools: its bandwidth is all they share.
    """

    bandwidth_bytes_per_s: Positive
    latency_s: NonNegative = 0.0


class PoolLink(Link, frozen=True, kw_only=True):
    """The link between two pools: in one direction, all their devices together."""

    between: tuple[Name, Name]


class Emulation(Spec, frozen=True, kw_only=True):
    """Makes a pool of this machine's cores really slower. How it was done is said in the report."""

    cpu_fraction: Fraction
    """Share of one core that each device of the pool may use: by CPU quota, or by a duty cycle where no quota is
    permitted."""


class FailureRate(Spec, frozen=True, kw_only=True):
    """How often one node fails, and how long its repair takes."""

    per_node_day: NonNegative
    repair_s: NonNegative = 3600.0
    """Median; 1 h after LANL's repair times (Schroeder and Gibson, DSN 2006: median 54 min)."""
    source: str = ""


class Pool(Spec, frozen=True, kw_only=True):
    """Nodes of one kind on one fast fabric."""

    name: Name
    chip: str | Chip
    """A catalogue name, or a chip described inline."""
    nodes: Count
    spares: Annotated[int, Meta(ge=0)] = 0
    """Further nodes of the same kind that are kept warm, without work."""
    devices_per_node: Count = 1
    nodes_per_rack: Count = 1
    """Nodes that share a fault domain (rack, power, switch). 1: each node is a domain of its own."""
    site: str = ""
    """A name in the fleet's `sites`, or any word where the fleet has none."""
    link: Link | None = None
    """Between nodes of the pool; its bandwidth is one device's."""
    oversubscription: Annotated[float, Meta(ge=1)] = 1.0
    """Bandwidth of all devices over what the network's spine carries. 1: all can talk at once (a full fat tree)."""
    failures: FailureRate | None = None
    price_per_device_hour: NonNegative | None = None
    """What a device costs besides energy, or all in all where no tariff is known: rent, or depreciation and staff."""
    currency: str = ""
    carbon_kg_per_kwh: NonNegative | None = None
    """None: that of its site."""
    power_per_device_w: Positive | None = None
    """Under load, with its share of the node and the network; None: estimated from the chip's board power."""
    host_memory_bytes: Positive | None = None
    """Host memory of a node that the memory tier and offload may use."""
    host_memory_bandwidth_bytes_per_s: Positive | None = None
    """Of a node's host memory."""
    host_link_bandwidth_bytes_per_s: Positive | None = None
    """Between a device and its host, one direction: PCIe, or a coherent link (450 GB/s for GH200). None: the chip's."""
    disk_bandwidth_bytes_per_s: Positive | None = None
    """To the local disks of a node, for checkpoints."""
    emulate: Emulation | None = None

    @property
    def node_names(self) -> tuple[str, ...]:
        """`<pool>-<index>`, spares last: which nodes are spare changes while a fleet lives, their names do not."""
        return tuple(f"{self.name}-{index}" for index in range(self.nodes + self.spares))

    @property
    def devices(self) -> int:
        """Devices of the nodes that work; spares not counted."""
        return self.nodes * self.devices_per_node

    @property
    def network_bandwidth_bytes_per_s(self) -> float | None:
        """Of one device to other nodes when all devices talk; None when unknown."""
        return None if self.link is None else self.link.bandwidth_bytes_per_s / self.oversubscription

    def fault_domain(self, node: str) -> str:
        """The rack that `node` of this pool stands in: `fast/rack-0`. Nodes fill racks in the order of their index."""
        index = int(node.rpartition("-")[2])
        return f"{self.name}/rack-{index // self.nodes_per_rack}"


class Fleet(Spec, frozen=True, kw_only=True):
    """All pools and the links between them."""

    name: Name
    pools: tuple[Pool, ...]
    links: tuple[PoolLink, ...] = ()
    sites: tuple[Site, ...] = ()
    """Where pools stand, with tariffs; `site` of a pool names one."""
    engine: Literal["local"] = "local"
    """What places the node agents. `local`: processes of this machine with their own loopback addresses."""
    note: str = ""

    def pool(self, name: str) -> Pool:
        """The pool called `name`; KeyError if there is none."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)

    def site_of(self, pool: Pool) -> Site | None:
        """Where the pool stands; None when the fleet does not say."""
        return next((site for site in self.sites if site.name == pool.site), None)

    def carbon_kg_per_kwh_of(self, pool: Pool) -> float | None:
        """kg CO2 per kWh of the pool's grid: its own figure, its site's or its site's region's; None when unknown."""
        if pool.carbon_kg_per_kwh is not None:
            return pool.carbon_kg_per_kwh
        site = self.site_of(pool)
        return None if site is None else site.carbon_kg_per_kwh_resolved

    @property
    def currencies(self) -> tuple[str, ...]:
        """The currencies that its prices are in, each once: money in two of them has no sum."""
        priced = [pool.currency for pool in self.pools if pool.price_per_device_hour is not None]
        tariffs = [site.tariff.currency for site in self.sites if site.tariff is not None]
        return tuple(dict.fromkeys(currency for currency in (*priced, *tariffs) if currency))

    @property
    def node_names(self) -> tuple[str, ...]:
        """Nodes and spares of all pools, in the order of the file."""
        return tuple(name for pool in self.pools for name in pool.node_names)

    @property
    def racks(self) -> dict[str, tuple[str, ...]]:
        """The nodes of each fault domain, in order."""
        racks: dict[str, list[str]] = {}
        for domain, node in self._placed():
            racks.setdefault(domain, []).append(node)
        return {domain: tuple(nodes) for domain, nodes in racks.items()}

    def pool_of(self, node: str) -> Pool:
        """The pool that `node` belongs to; KeyError if there is no such node."""
        pool = self.pool(node.rpartition("-")[0])
        if node not in pool.node_names:
            raise KeyError(node)
        return pool

    def fault_domain(self, node: str) -> str:
        """The rack that `node` stands in; KeyError if there is no such node."""
        return self.pool_of(node).fault_domain(node)

    def _placed(self) -> Iterator[tuple[str, str]]:
        for pool in self.pools:
            for node in pool.node_names:
                yield pool.fault_domain(node), node
