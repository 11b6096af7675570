"""On what a published run ran, out of the words that its source prints: the chip, its power limit, its network.

Sources name chips in many ways, and some run them below their data sheet: a power limit, less or slower memory. What
they say overrides the catalogue; what they do not say stays as usually built.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Final

from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine
from myriarch.spec.catalogue import catalogue
from myriarch.spec.fleet import Chip

CHIPS: Final[tuple[tuple[str, str], ...]] = (
    (r"a100.?(sxm.?)?40.*", "a100-sxm-40"),
    (r"a100.*pcie.*", "a100-pcie-80"),
    (r"a100.*", "a100-sxm-80"),
    (r"a800.*", "a800-sxm-80"),
    (r"h800.*", "h800-sxm"),
    (r"h100.*pcie.*", "h100-pcie"),
    (r"h100.*", "h100-sxm"),
    (r"h200.*", "h200-sxm"),
    (r"gh.?(200)?.?96.*|gh200.*", "gh200-96"),
    (r"v100.*", "v100-sxm2-32"),
    (r"(g?b[23]00).*", r"\1"),
    (r"h20.*", "h20"),
    (r"(google.?)?tpu.?(v\d\w?).*", r"tpu-\2"),
    (r".*trillium.*", "tpu-v6e"),
    (r"(amd.?)?(instinct.?)?(mi\d+x).*", r"\3"),
    (r"(intel.?|habana.?)?gaudi.?(\d).*", r"gaudi\2"),
    (r"(huawei.?)?(ascend.?)?(910[a-c]).*", r"ascend-\3"),
    (r"(metax.?)?c5([05])0.*", r"metax-c5\g<2>0"),
    (r"(iluvatar.?)?bi.?v?1([05])0.*", r"iluvatar-bi-v1\g<2>0"),
    (r"(nvidia.?)?titan.?rtx", "titan-rtx"),
    (r"(nvidia.?)?(geforce.?)?(rtx.?)?(3090|4090)", r"rtx-\4"),
    (r"(nvidia.?)?(geforce.?)?(rtx.?)?2080.*", "rtx-2080ti"),  # Sailor's `RTX-2080` have the 11 GiB of the Ti
)
"""What sources call a chip, and what the catalogue does."""


def chip_called(printed: str) -> Chip | None:
    """The chip that a source calls so; None when it is none of the catalogue, or one of several."""
    known, called = catalogue(), printed.strip().lower()
    if called in known:
        return known[called]
    for pattern, name in CHIPS:
        found = re.fullmatch(pattern, called)
        if found and "-or-" not in called and found.expand(name) in known:
            return known[found.expand(name)]
    return None


NODE_DEVICES: Final = 8
"""Of a node, where nothing else is said."""
LINK: Final = re.compile(r"([\d.]+) GB/s between (\d+)")
"""`10.8 GB/s between 2`: what each device of so many that talk at once was measured to send inside its node."""
NODE_LINK: Final = re.compile(r"([\d.]+) GB/s between nodes")
"""`2.86 GB/s between nodes`: what a node was measured to send, whatever the number of its devices that do."""


def in_node(machine: Machine, chip: Chip, words: str, *, tp: int, devices: int | None) -> Machine:
    """The machine as its node is wired, for a group of `tp`; `devices`: that the run uses of a node and that share its
    network.

    Cards that have no link, or a bridge between two of them, reach the others over PCIe: their link is then the
    slowest part of the way, and the domain is the node. Measured rates come first; they are what copies reach, where
    the model takes a link's own rate and works out what is reached.
    """
    usual, used = Parameters(), max(devices or NODE_DEVICES, 1)
    rates = sorted((int(count), float(rate) * 1e9 / usual.link_share) for rate, count in LINK.findall(words))
    link, domain = float(machine.link_bandwidth_bytes_per_s), float(machine.link_domain_devices)
    network = float(machine.network_bandwidth_bytes_per_s)
    if rates:
        link, domain = next((rate for count, rate in rates if count >= tp), rates[-1][1]), float(used)
    elif tp > domain and (chip.link_domain_devices or NODE_DEVICES) < NODE_DEVICES:
        link, domain = min(link, float(machine.host_link_bandwidth_bytes_per_s)), float(max(tp, used))
    found = NODE_LINK.search(words)
    if found:
        network = float(found[1]) * 1e9 / usual.network_share / used
    return dataclasses.replace(
        machine, link_bandwidth_bytes_per_s=link, link_domain_devices=domain, network_bandwidth_bytes_per_s=network
    )


def as_built(machine: Machine, words: str) -> Machine:
    """The machine with the power limit and the memory that the words name: `96GB HBM2e 2.4 TB/s, 500 W power limit`."""
    changed: dict[str, float] = {}
    power = re.search(r"\b(\d{3,4}) ?W\b", words)
    if power:
        changed["power_w"] = float(power[1])
    rate = re.search(r"\b(\d+(?:\.\d+)?) ?TB/s", words)
    if rate:
        changed["memory_bandwidth_bytes_per_s"] = float(rate[1]) * 1e12
    size = re.search(r"\b(\d{2,3}) ?GB\b(?!/)", words)
    if size and 0.5 < float(size[1]) * 2**30 / float(machine.memory_bytes) < 2.0:
        changed["memory_bytes"] = float(size[1]) * 2.0**30
    return dataclasses.replace(machine, **changed)


def told(hardware: object, chip: str) -> str:
    """What a description of one or several clusters (a mapping, or text with `;`) says of the one with this chip."""
    exact = re.sub(r"[^a-z0-9]", "", chip.lower())
    family = exact[:4]
    if isinstance(hardware, Mapping):
        entries = [f"{key} {value}" for key, value in hardware.items()]
        chosen = [text for text in entries if exact in re.sub(r"[^a-z0-9]", "", text.lower())]
        return (chosen or [text for text in entries if family in text.lower()] or [""])[0]
    parts = str(hardware or "").split(";")
    return " ".join([part for part in parts if family in part.lower()] or parts)


def network_bandwidth_bytes_per_s(hardware: object, chip: str) -> float | None:
    """Per device, as a source's description of its hardware says it; None when it does not.

    Reads `25 GB/s per GPU`, `400 Gb/s per GPU`, `4 links of 100 Gb/s per node`, `1600 Gb/s RoCE per node` (over 8).
    """
    text = told(hardware, chip)
    whole_node = "per node" in text or "per node" in str(hardware)
    found = re.search(r"([\d.]+) GB/s per GPU", text)
    if found:
        return float(found[1]) * 1e9
    found = re.search(r"(?:(\d+) ?(?:x|(?:\S+ )?links? of) ?)?(\d+) ?Gb/s(.*per GPU)?", text)
    if not found:
        return None
    rate = float(found[2]) * 1e9 / 8.0
    if found[3]:
        return rate
    cards = float(found[1] or 1)
    return rate * cards / 8.0 if whole_node or found[1] else rate
