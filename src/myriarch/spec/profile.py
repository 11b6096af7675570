"""What was measured on the devices themselves: the file that `myriarch doctor --calibrate` writes.

A profile is evidence, not configuration: each row says what was timed, how often and how far the timings spread. Plans
take its numbers before those of the catalogue (`cost.profiled`). Rates are of medians; p10 and p90 are of the same
timings, the slow end first. A person may write one by hand from measurements of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from myriarch.errors import SpecError
from myriarch.spec.base import Spec
from myriarch.spec.document import Document, Format, read_document
from myriarch.spec.fleet import Count, NonNegative, Positive, Precision
from myriarch.spec.parse import parse_located
from myriarch.spec.problems import collected

FORMAT: Final = "myriarch.profile/1"
DOUBTFUL_SPREAD: Final = 0.3
"""A row is marked doubtful where its p10 and p90 lie further apart than this share of the median."""

FlopRate = Annotated[float, Meta(gt=0, le=1e17)]
"""FLOP/s of one device. The bound is six times the fastest chip of 2026 in its narrowest precision: past it, the
unit is wrong."""
ByteRate = Annotated[float, Meta(gt=0, le=1e15)]
"""bytes/s. The bound is past every memory and cache on a chip of 2026."""
Seconds = Annotated[float, Meta(gt=0, le=1e3)]

Layout = Literal["forward", "input_gradient", "weight_gradient"]
"""How a linear layer's product reads its operands, row-major: (x, W^T), (g, W) or (g^T, x)."""


class Row(Spec, frozen=True, kw_only=True):
    """What every measurement says of itself."""

    repeats: Count = 1
    """Timings that the median is of."""
    doubtful: bool = False
    """The timings spread widely: something else ran on the device, or its clock moved."""


class ProductRate(Row, frozen=True, kw_only=True):
    """One matrix product, (m x k) (k x n), `2 m n k` operations."""

    precision: Precision
    layout: Layout = "forward"
    m: Count
    n: Count
    k: Count
    rate_flops_per_s: FlopRate
    rate_p10_flops_per_s: FlopRate | None = None
    rate_p90_flops_per_s: FlopRate | None = None

    @property
    def product_s(self) -> float:
        """Seconds of the median product."""
        return 2.0 * self.m * self.n * self.k / self.rate_flops_per_s


class Transfer(Row, frozen=True, kw_only=True):
    """Bytes moved over time."""

    size_bytes: Count
    """Of one array, or of one message."""
    rate_bytes_per_s: ByteRate
    rate_p10_bytes_per_s: ByteRate | None = None
    rate_p90_bytes_per_s: ByteRate | None = None


class MemoryRate(Transfer, frozen=True, kw_only=True):
    """Streaming through the device's memory; the rate counts each array once for each read and each write."""

    operation: Literal["copy", "triad", "new"]
    """`copy`: a = b. `triad`: a = b + s c (McCalpin, STREAM, 1995). `new`: the triad into memory asked for anew, as
    frameworks do for every intermediate result."""


class HostRate(Transfer, frozen=True, kw_only=True):
    """Between pinned host memory and a device."""

    direction: Literal["to_device", "from_device"]
    device: Annotated[int, Meta(ge=0)] = 0


class PairRate(Transfer, frozen=True, kw_only=True):
    """From one device of the node to another, one direction."""

    source: Annotated[int, Meta(ge=0)]
    target: Annotated[int, Meta(ge=0)]


class CollectiveRate(Transfer, frozen=True, kw_only=True):
    """An all-reduce over devices of the node. The rate is of the bytes that a ring sends over each link,
    `2 (devices - 1) / devices * size_bytes`, over time."""

    operation: Literal["all_reduce"] = "all_reduce"
    backend: str
    devices: Annotated[int, Meta(ge=2)]

    @property
    def collective_s(self) -> float:
        """Seconds of the median all-reduce."""
        return 2.0 * (self.devices - 1) / self.devices * self.size_bytes / self.rate_bytes_per_s


class Launches(Row, frozen=True, kw_only=True):
    """What a kernel costs however small it is."""

    host_s: Seconds
    """Of the host for each kernel of a long queue."""
    host_p10_s: Seconds | None = None
    host_p90_s: Seconds | None = None
    kernel_s: Seconds | None = None
    """Of the device for each kernel of a captured graph, where it can capture one."""


class Device(Spec, frozen=True, kw_only=True):
    """What was measured: devices of one kind in one node."""

    name: str
    """As its driver calls it: `NVIDIA H100 80GB HBM3`."""
    kind: str
    """As PyTorch calls it: `cuda` (also ROCm), `npu`, `musa`, `xpu`, `mps`, or `cpu`: all cores are one device."""
    chip: str = ""
    """The catalogue's id, where it is known. A plan gives the profile to pools of this chip."""
    count: Count = 1
    memory_bytes: Positive | None = None
    processors: Count | None = None
    """Units that each compute one tile of a product at a time: SMs, compute units; threads of a CPU."""
    power_w: Positive | None = None
    """Limit of the board, as its tool says."""
    power_drawn_w: NonNegative | None = None
    """Drawn at the end of a long product."""


class Profile(Spec, frozen=True, kw_only=True):
    """Measured rates of one kind of device."""

    format: Literal["myriarch.profile/1"]
    date: str
    """When it was measured: `2026-03-01`."""
    device: Device
    software: dict[str, str] = msgspec.field(default_factory=dict)
    """Versions of what ran: `torch`, `cuda`, `python`, ..."""
    products: tuple[ProductRate, ...] = ()
    memory: tuple[MemoryRate, ...] = ()
    launches: Launches | None = None
    host_links: tuple[HostRate, ...] = ()
    device_links: tuple[PairRate, ...] = ()
    collectives: tuple[CollectiveRate, ...] = ()
    left_out: tuple[str, ...] = ()
    """What could not be measured, or not in the time given, and why."""
    provenance: str = "measured by hand"
    """By which command."""
    confidence: Literal["measured"] = "measured"
    note: str = ""

    @property
    def label(self) -> str:
        """How a plan cites it: `NVIDIA H100 80GB HBM3, 2026-03-01`."""
        return f"{self.device.name}, {self.date}"


def parse_profile(text: str, *, format: Format = "yaml", source: str = "") -> Profile:
    """Read a profile. Raises SpecError with everything that is wrong, each with place, value and remedy."""
    _check_format(read_document(text, format=format, source=source))
    parsed = parse_located(text, kind=Profile, format=format, source=source)
    with collected() as problems:
        for path, message in _faults(parsed.spec):
            problems.add(parsed.source, path, message)
    return parsed.spec


def _check_format(document: Document) -> None:
    """First of all: a file of another version has other keys, and complaints about each of them help nobody."""
    given = document.value.get("format") if isinstance(document.value, dict) else None
    if given in (None, FORMAT):
        return
    known = isinstance(given, str) and given.startswith("myriarch.profile/")
    message = (
        f"`{given}` is another version of profiles than this Myriarch reads, `{FORMAT}`; measure anew with "
        "`myriarch doctor --calibrate`"
        if known
        else f"`{given}` is not a profile; name a file that `myriarch doctor --calibrate` wrote"
    )
    raise SpecError(message, source=document.source.at("format"), path="format")


def _faults(profile: Profile) -> Iterator[tuple[str, str]]:
    if not (profile.products or profile.memory):
        yield "", "has neither `products` nor `memory`; measure anew with `myriarch doctor --calibrate`"
    for path, row in _rows(profile):
        yield from _disordered(path, row)
    for index, pair in enumerate(profile.device_links):
        if pair.source == pair.target or max(pair.source, pair.target) >= profile.device.count:
            message = f"joins device {pair.source} to {pair.target}; name two different ones of {profile.device.count}"
            yield f"device_links[{index}]", message
    for index, row in enumerate(profile.collectives):
        if row.devices > profile.device.count:
            yield f"collectives[{index}].devices", f"{row.devices} is more than `device.count`, {profile.device.count}"


def _rows(profile: Profile) -> Iterator[tuple[str, Row]]:
    for table in ("products", "memory", "host_links", "device_links", "collectives"):
        for index, row in enumerate(getattr(profile, table)):
            yield f"{table}[{index}]", row


def _disordered(path: str, row: Row) -> Iterator[tuple[str, str]]:
    """p10 is the slow end, p90 the fast one, the median between."""
    unit = "flops" if isinstance(row, ProductRate) else "bytes"
    low, middle, high = (getattr(row, f"rate{part}_{unit}_per_s") for part in ("_p10", "", "_p90"))
    known = [value for value in (low, middle, high) if value is not None]
    if known != sorted(known):
        told = ", ".join(f"{value:g}" for value in known)
        yield path, f"p10, median and p90 are {told}, not in this order; give rates, the slow end first"
