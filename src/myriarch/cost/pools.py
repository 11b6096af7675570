"""A pool of a fleet file as the formulas need it: its chip, and what the file says of nodes, network and hosts."""

from __future__ import annotations

import dataclasses
from typing import Final

from myriarch.cost.silicon import machine, silicon
from myriarch.cost.split import Machine
from myriarch.errors import SpecError
from myriarch.spec.catalogue import chip_of
from myriarch.spec.fleet import Chip, Pool

BASEBOARD_DEVICES: Final = 8
"""The largest link domain that ends with its node: HGX and OAM baseboards. Wider ones join nodes (GB200 NVL72, TPU)."""


def machine_of(pool: Pool, *, precision: str = "bf16") -> Machine:
    """The pool's devices. What its file leaves out is the chip's: what such chips are usually built with.

    Raises SpecError, with the name of the pool, when the chip lacks a number that the formulas need.
    """
    chip = chip_of(pool)
    try:
        usual = machine(
            chip,
            precision=precision,
            network_bandwidth_bytes_per_s=pool.network_bandwidth_bytes_per_s,
            domain=link_domain_devices(pool, chip),
        )
    except SpecError as error:
        raise SpecError(f"pool `{pool.name}`: {error.message}", hint=error.hint) from None
    devices = pool.devices_per_node
    said = {
        "host_link_bandwidth_bytes_per_s": pool.host_link_bandwidth_bytes_per_s,
        "host_memory_bandwidth_bytes_per_s": _each(pool.host_memory_bandwidth_bytes_per_s, devices),
        "host_memory_bytes": _each(pool.host_memory_bytes, devices),
    }
    if pool.link is not None:
        usual = dataclasses.replace(usual, network_latency_s=pool.link.latency_s)
    return dataclasses.replace(usual, **{field: value for field, value in said.items() if value is not None})


def link_domain_devices(pool: Pool, chip: Chip) -> int:
    """Devices of the pool that reach each other over the chip's own link.

    No more than a node's, unless the chip's link joins nodes; no more than the pool has.
    """
    widest = chip.link_domain_devices or silicon(chip.id).domain_devices
    if widest <= BASEBOARD_DEVICES:
        widest = min(widest, pool.devices_per_node)
    return min(widest, pool.devices)


def _each(of_node: float | None, devices: int) -> float | None:
    """A device's part of what its node has."""
    return None if of_node is None else of_node / devices
