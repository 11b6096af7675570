"""What the catalogue of chips does not say and a step's time needs: processors, year, fabric.

Processors are the units that compute one tile of a matrix product at a time: from the vendors' white papers. Years are
those of first volume shipments. Where nothing is known, `UNKNOWN` says what is taken instead.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from myriarch.cost.kernels import UNTHROTTLED_W_PER_FLOPS
from myriarch.cost.split import Machine
from myriarch.errors import SpecError
from myriarch.spec.fleet import Chip


@dataclasses.dataclass(frozen=True)
class Silicon:
    """Facts about a family of chips."""

    processors: int
    launch_year: float
    network_bandwidth_bytes_per_s: float
    """Per device, of the vendor's own or most usual cluster: 25e9 is one 200 Gbit/s card for each device."""
    domain_devices: int = 8
    measured_share: float = 0.78
    """Best measured matrix rate over the peak, where nobody measured this chip: its twin's, else the median of the
    catalogue's measured chips."""
    axes: int = 1
    """Of the torus that its links form; 1: all on switches."""
    memory_bandwidth_bytes_per_s: float | None = None
    """Where the maker prints none: what somebody measured, over the share of the whole that copies reach."""
    throttles: bool = True
    """Clocks fall under load. False: large systolic arrays at a fixed clock."""


SYSTOLIC: Final = 0.97
"""What large systolic arrays reach of their peak: measured on Gaudi 2, 418.7 of 432 TFLOP/s (the catalogue's source);
nobody has published the like of TPUs, whose runs reach 89 % of the peak with everything else in them."""

SILICON: Final[dict[str, Silicon]] = {
    "v100": Silicon(80, 2017.7, 12.5e9),
    "a100": Silicon(108, 2020.4, 25e9),
    "a800": Silicon(108, 2020.4, 25e9, measured_share=0.869),
    "h100": Silicon(132, 2022.8, 50e9),
    "h800": Silicon(132, 2022.8, 50e9, measured_share=0.803),
    "h200": Silicon(132, 2022.8, 50e9),  # the libraries of the H100
    "h20": Silicon(78, 2022.8, 50e9),
    "gh200": Silicon(132, 2022.8, 25e9, domain_devices=4),
    "b200": Silicon(148, 2024.9, 50e9),
    "gb200": Silicon(148, 2024.9, 50e9, domain_devices=72),
    "b300": Silicon(148, 2025.3, 100e9),
    "gb300": Silicon(148, 2025.3, 100e9, domain_devices=72, measured_share=0.786),
    "mi250x": Silicon(220, 2021.9, 12.5e9),
    "mi300x": Silicon(304, 2023.9, 50e9),
    "mi325x": Silicon(304, 2023.9, 50e9),
    "mi350x": Silicon(256, 2025.5, 50e9),
    "mi355x": Silicon(256, 2025.5, 50e9),
    "gaudi2": Silicon(24, 2022.4, 37.5e9, throttles=False),
    "gaudi3": Silicon(64, 2024.7, 75e9),
    # Between slices, over the hosts' Ethernet: a chip's part of what a host sends (Austin et al., "How to Scale Your
    # Model", 2025, chapter 2).
    "tpu-v4": Silicon(8, 2021.4, 6.25e9, domain_devices=3072, measured_share=SYSTOLIC, throttles=False, axes=3),
    "tpu-v5e": Silicon(4, 2023.6, 3.125e9, domain_devices=256, measured_share=SYSTOLIC, throttles=False, axes=2),
    "tpu-v5p": Silicon(8, 2023.9, 6.25e9, domain_devices=6144, measured_share=SYSTOLIC, throttles=False, axes=3),
    "tpu-v6e": Silicon(4, 2024.9, 12.5e9, domain_devices=256, measured_share=SYSTOLIC, throttles=False, axes=2),
    # Cards for workstations: no maker's cluster; taken is one 10 Gbit/s Ethernet card for eight of them.
    "titan-rtx": Silicon(72, 2018.9, 0.16e9),
    "rtx-2080ti": Silicon(68, 2018.7, 0.16e9),
    "rtx-3090": Silicon(82, 2020.7, 0.16e9),
    "metax-c500": Silicon(104, 2023.0, 25e9),
    # FlagPerf measured 590 GB/s of copies, the way in which an A100 reaches four fifths of its memory's bandwidth.
    "iluvatar-bi-v150": Silicon(64, 2022.5, 15.6e9, memory_bandwidth_bytes_per_s=740e9),
    "ascend-910b": Silicon(24, 2022.8, 25e9),
    "ascend-910c": Silicon(48, 2024.7, 50e9, domain_devices=384),
}
"""By the first words of a chip's id; the longest that fits counts."""

UNKNOWN: Final = Silicon(108, 2022.0, 25e9)


@dataclasses.dataclass(frozen=True)
class Host:
    """What one device of a node gets of its host: rates of one direction, and its part of what a node shares."""

    link_bandwidth_bytes_per_s: float
    memory_bandwidth_bytes_per_s: float
    memory_bytes: float


HOSTS: Final[dict[str, Host]] = {
    # By generation of PCIe, 16 lanes (PCI-SIG), with the two-socket servers of its time and eight devices: six channels
    # of DDR4-2666 (DGX-2), eight of DDR4-3200 (DGX A100 data sheet: 1 TB), eight of DDR5-4800 (DGX H100: 2 TB), twelve
    # of DDR5-6400.
    "3.0": Host(16e9, 32e9, 96e9),
    "4.0": Host(32e9, 51e9, 128e9),
    "5.0": Host(64e9, 77e9, 256e9),
    "6.0": Host(128e9, 154e9, 384e9),
    # NVLink-C2C: a Grace of 480 GB LPDDR5X (up to 512 GB/s) for one Hopper (GH200 data sheet: 900 GB/s both ways), and
    # for two Blackwells, which share it (GB200 NVL72 data sheet).
    "gh200": Host(450e9, 384e9, 480e9),
    "gb200": Host(225e9, 256e9, 240e9),
    "gb300": Host(225e9, 256e9, 240e9),
}
"""By the first words of a chip's id, else by its host link."""
USUAL_HOST: Final = HOSTS["4.0"]
"""Where the host link is unknown."""
TYPICAL_POWER_SHARE: Final = 0.55
"""Of `UNTHROTTLED_W_PER_FLOPS`, for chips whose power is unknown: an H100's."""
MARKETED: Final = 2**30 / 1e9
"""Makers of accelerators print GiB as GB: an 80 GB H100 shows its driver 79.6 GiB, a 141 GB H200 140.4."""
NARROW: Final = {"fp8": ("fp8",), "fp4": ("fp4", "fp8"), "int8": ("int8", "fp8")}
"""Rates that serve for a precision, best first."""


def silicon(chip_id: str) -> Silicon:
    """Facts about the chip, or about chips unknown."""
    fits = [name for name in SILICON if chip_id == name or chip_id.startswith(name + "-")]
    return SILICON[max(fits, key=len)] if fits else UNKNOWN


def host(chip: Chip) -> Host:
    """The host of a chip as usually built."""
    family = chip.id.split("-")[0]
    return HOSTS.get(family) or HOSTS.get(chip.host_link) or USUAL_HOST


def filled(chip: Chip) -> Chip:
    """The chip with what somebody measured in place of what its maker does not print. For runs that were measured, not
    for plans: there, unknown stays unknown."""
    facts, rates = silicon(chip.id), dict(chip.rate_flops_per_s)
    measured = chip.matmul_measured_flops_per_s.get("bf16")
    if measured is not None and not {"bf16", "fp16"} & rates.keys():
        rates["bf16"] = measured / facts.measured_share
    bandwidth = chip.memory_bandwidth_bytes_per_s or facts.memory_bandwidth_bytes_per_s
    return msgspec.structs.replace(chip, rate_flops_per_s=rates, memory_bandwidth_bytes_per_s=bandwidth)


def machine(
    chip: Chip,
    *,
    precision: str = "bf16",
    network_bandwidth_bytes_per_s: float | None = None,
    domain: int | None = None,
) -> Machine:
    """A chip of the catalogue as the formulas need it. Raises SpecError when a number that they need is unknown."""
    facts, beside = silicon(chip.id), host(chip)
    measured = chip.matmul_measured_flops_per_s
    peak = chip.rate_flops_per_s.get("bf16") or chip.rate_flops_per_s.get("fp16")
    memory_bandwidth = chip.memory_bandwidth_bytes_per_s
    lacking = [
        name
        for name, value in (
            ("rate_flops_per_s.bf16", peak),
            ("memory_bytes", chip.memory_bytes),
            ("memory_bandwidth_bytes_per_s", memory_bandwidth),
        )
        if value is None
    ]
    if lacking or peak is None or chip.memory_bytes is None or memory_bandwidth is None:
        remedy = "describe it inline in a fleet file with them, or measure it: `myriarch doctor --calibrate`"
        raise SpecError(f"chip `{chip.id}` lacks {', '.join(lacking)}; {remedy}")
    wide = measured.get("bf16", facts.measured_share * peak)
    narrow = next((_narrow(chip, name, wide / peak) for name in NARROW.get(precision, ()) if _has(chip, name)), wide)
    return Machine(
        matmul_flops_per_s=wide,
        narrow_flops_per_s=narrow,
        peak_flops_per_s=peak,
        memory_bytes=chip.memory_bytes * MARKETED,
        memory_bandwidth_bytes_per_s=memory_bandwidth,
        processors=float(facts.processors),
        link_bandwidth_bytes_per_s=chip.link_bandwidth_bytes_per_s or facts.network_bandwidth_bytes_per_s,
        link_domain_devices=float(domain or chip.link_domain_devices or facts.domain_devices),
        network_bandwidth_bytes_per_s=network_bandwidth_bytes_per_s or facts.network_bandwidth_bytes_per_s,
        link_axes=float(facts.axes),
        power_w=_power_w(chip, facts, peak),
        launch_year=facts.launch_year,
        host_link_bandwidth_bytes_per_s=beside.link_bandwidth_bytes_per_s,
        host_memory_bandwidth_bytes_per_s=beside.memory_bandwidth_bytes_per_s,
        host_memory_bytes=beside.memory_bytes,
    )


def _power_w(chip: Chip, facts: Silicon, peak_flops_per_s: float) -> float:
    """Board power, or that of a chip of this rate that never has to slow down."""
    ample = UNTHROTTLED_W_PER_FLOPS * peak_flops_per_s
    return max(chip.power_w or 0.0, ample) if not facts.throttles else chip.power_w or ample * TYPICAL_POWER_SHARE


def _has(chip: Chip, precision: str) -> bool:
    return precision in chip.matmul_measured_flops_per_s or precision in chip.rate_flops_per_s


def _narrow(chip: Chip, precision: str, wide_share: float) -> float:
    """Best measured rate in a narrow precision, else its peak by the share that wide products reach of theirs."""
    measured: dict[str, float] = dict(chip.matmul_measured_flops_per_s.items())
    rates: dict[str, float] = dict(chip.rate_flops_per_s.items())
    return measured.get(precision, rates.get(precision, 0.0) * wide_share)
