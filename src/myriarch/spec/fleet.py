"""What there is: pools of unlike devices, the links between them, how often they fail, what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from myriarch.spec.base import Spec

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
NAME_LENGTH_LIMIT: Final = 40
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=NAME_LENGTH_LIMIT)]

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
    """What two ends can exchange: bandwidth in one direction and one-way latency."""

    bandwidth_bytes_per_s: Positive
    latency_s: NonNegative = 0.0


class PoolLink(Link, frozen=True, kw_only=True):
    """The link between two pools."""

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
    link: Link | None = None
    """Between nodes of the pool."""
    failures: FailureRate | None = None
    price_per_device_hour: NonNegative | None = None
    currency: str = ""
    carbon_kg_per_kwh: NonNegative | None = None
    host_memory_bytes: Positive | None = None
    """Host memory of a node that the memory tier may use."""
    emulate: Emulation | None = None

    @property
    def node_names(self) -> tuple[str, ...]:
        """`<pool>-<index>`, spares last: which nodes are spare changes while a fleet lives, their names do not."""
        return tuple(f"{self.name}-{index}" for index in range(self.nodes + self.spares))

    @property
    def devices(self) -> int:
        """Devices of the nodes that work; spares not counted."""
        return self.nodes * self.devices_per_node

    def fault_domain(self, node: str) -> str:
        """The rack that `node` of this pool stands in: `fast/rack-0`. Nodes fill racks in the order of their index."""
        index = int(node.rpartition("-")[2])
        return f"{self.name}/rack-{index // self.nodes_per_rack}"


class Fleet(Spec, frozen=True, kw_only=True):
    """All pools and the links between them."""

    name: Name
    pools: tuple[Pool, ...]
    links: tuple[PoolLink, ...] = ()
    engine: Literal["local"] = "local"
    """What places the node agents. `local`: processes of this machine with their own loopback addresses."""
    note: str = ""

    def pool(self, name: str) -> Pool:
        """The pool called `name`; KeyError if there is none."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)

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
