"""A fleet in one line, for questions that need no file: `h100-sxm:1024`, `h100-sxm:512+mi300x:256@25GB/s,5ms`.

    fleet   =  pool ("+" pool)* ["@" bandwidth ["," latency]]
    pool    =  chip ":" devices                   a chip of the catalogue, and how many of its devices

What follows the `@` is the link between each two pools, in one direction, all their devices together; a fleet of one
pool has none. Its bandwidth and latency are written as in a fleet file (`25GB/s`, `200Gbit/s`; `5ms`).

Devices come in nodes as such chips usually do: as many as reach each other over the chip's own link, if these are 4 to
8; chips whose link spans racks in the nodes that they are sold in; 8 where the link joins fewer or is not known. Fewer
devices than a node has are one node. Everything else (network, prices, failures) takes its default; a file says more.
"""

from __future__ import annotations

import itertools
import re
from typing import Final

from myriarch.errors import SpecError
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Chip, Fleet, Pool, PoolLink
from myriarch.units import NUMBER_PATTERN, parse_quantity, units_of

USUAL_NODE_DEVICES: Final = 8
"""HGX, OAM and Atlas baseboards, and PCIe servers."""
LEAST_DOMAIN: Final = 4
"""A link that joins fewer devices is a bridge between cards of one server."""
RACK_NODES: Final = {
    # Devices of one host, where the link goes on beyond it.
    "gb200": 4,  # NVIDIA GB200 NVL72 data sheet: 18 trays of 4
    "gb300": 4,
    "rubin": 4,
    "tpu-v4": 4,  # Google Cloud TPU system architecture: chips of a host
    "tpu-v5e": 8,
    "tpu-v5p": 4,
    "tpu-v6e": 8,
    "tpu-v7x": 4,
    "trainium2": 16,  # a trn2.48xlarge
    "ascend-910c": 8,  # CloudMatrix 384 (arXiv:2506.12708): 48 nodes of 8
}

_POOL: Final = re.compile(r"\s*([A-Za-z0-9._-]+)\s*:\s*([0-9][0-9_]*)\s*")
_NUMBER: Final = re.compile(rf"\s*{NUMBER_PATTERN}\s*")
_FORM: Final = "write `chip:devices`, like h100-sxm:1024 or h100-sxm:512+mi300x:256@25GB/s"


def is_shorthand(text: str) -> bool:
    """Whether somebody meant a fleet in one line: a word, a colon and a number."""
    return re.match(r"\s*[A-Za-z0-9._-]+\s*:\s*[0-9]", text) is not None


def fleet_of(text: str) -> Fleet:
    """The fleet that the line describes. Raises SpecError that names the part which is wrong, and the remedy."""
    body, at, tail = text.partition("@")
    pools: list[Pool] = []
    for part in body.split("+"):
        pools.append(_pool(part, before=pools))
    pairs = list(itertools.combinations([pool.name for pool in pools], 2))
    if pairs and not at:
        raise SpecError(f"`{text}`: no link joins the pools; say its bandwidth, like {text.strip()}@25GB/s")
    if at and not pairs:
        raise SpecError(f"`{text}`: `@{tail}` is the link between pools, and there is one; leave it out")
    links = tuple(_link(tail, pair) for pair in pairs)
    return Fleet(name="shorthand", pools=tuple(pools), links=links, note=text.strip())


def node_devices(chip: Chip) -> int:
    """Devices of one node, as the chip is usually built in."""
    domain = chip.link_domain_devices or 0
    if chip.id in RACK_NODES:
        return RACK_NODES[chip.id]
    return domain if LEAST_DOMAIN <= domain <= USUAL_NODE_DEVICES else USUAL_NODE_DEVICES


def _pool(part: str, *, before: list[Pool]) -> Pool:
    """The pool that a part describes; a second one of a chip is called `h100-sxm-pool-2`."""
    match = _POOL.fullmatch(part)
    if match is None:
        raise SpecError(f"`{part.strip()}` is not a pool; {_FORM}")
    chip, devices = lookup(match[1]), int(match[2].replace("_", ""))
    if devices == 0:
        raise SpecError(f"`{part.strip()}` has no devices; {_FORM}")
    size = min(node_devices(chip), devices)
    if devices % size:
        lower = devices - devices % size
        why = f"{devices} devices are no whole number of nodes of {size}"
        raise SpecError(f"`{part.strip()}`: {why}; use {lower} or {lower + size}, or a fleet file")
    again = sum(pool.chip == chip.id for pool in before)
    name = f"{chip.id}-pool-{again + 1}" if again else chip.id
    return Pool(name=name, chip=chip.id, nodes=devices // size, devices_per_node=size)


def _link(text: str, between: tuple[str, str]) -> PoolLink:
    bandwidth, comma, latency = text.partition(",")
    return PoolLink(
        between=between,
        bandwidth_bytes_per_s=_quantity(bandwidth, "bandwidth_bytes_per_s"),
        latency_s=_quantity(latency, "latency_s") if comma else 0.0,
    )


def _quantity(text: str, field: str) -> float:
    """A quantity above zero, in SI."""
    try:
        value = float(text) if _NUMBER.fullmatch(text) else parse_quantity(text, units_of(field) or {})
    except ValueError as error:
        raise SpecError(f"after `@`: {error}") from None
    if value <= 0:
        raise SpecError(f"after `@`: `{text.strip()}` is nothing; use more than 0")
    return value
