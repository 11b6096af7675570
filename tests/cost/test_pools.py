"""Pools as machines: what a fleet file says comes before what such chips are usually built with."""

from __future__ import annotations

import pytest

from myriarch.cost.pools import machine_of
from myriarch.cost.silicon import machine
from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue, lookup
from myriarch.spec.fleet import Chip, Link, Pool
from myriarch.spec.shorthand import fleet_of


def test_a_pool_that_says_nothing_is_its_chip() -> None:
    (pool,) = fleet_of("h100-sxm:64").pools
    assert machine_of(pool) == machine(lookup("h100-sxm"))


def test_what_the_file_says_counts() -> None:
    pool = Pool(
        name="p", chip=lookup("h100-sxm"), nodes=4, devices_per_node=4, link=Link(bandwidth_bytes_per_s=40e9),
        oversubscription=2, host_memory_bytes=1e12, host_memory_bandwidth_bytes_per_s=400e9,
        host_link_bandwidth_bytes_per_s=450e9,
    )  # fmt: skip
    found = machine_of(pool)
    assert found.network_bandwidth_bytes_per_s == 20e9
    assert found.link_domain_devices == 4
    assert (found.host_memory_bytes, found.host_memory_bandwidth_bytes_per_s) == (250e9, 100e9)
    assert found.host_link_bandwidth_bytes_per_s == 450e9


@pytest.mark.parametrize(
    ("line", "domain"), [("gb200:144", 72), ("gb200:16", 16), ("h100-sxm:64", 8), ("h100-sxm:2", 2), ("l40s:16", 1)]
)
def test_a_link_ends_with_its_node_unless_it_joins_nodes(line: str, domain: int) -> None:
    assert machine_of(fleet_of(line).pools[0]).link_domain_devices == domain


def test_a_chip_that_lacks_numbers_is_refused_with_what_is_missing() -> None:
    lacking = [chip for chip in catalogue().values() if _lacks(chip)]
    assert len(lacking) > 5
    for chip in lacking:
        with pytest.raises(SpecError) as caught:
            machine_of(Pool(name="p", chip=chip, nodes=1))
        assert str(caught.value).startswith(f"pool `p`: chip `{chip.id}` lacks ")
        assert "describe it inline" in str(caught.value)


def _lacks(chip: Chip) -> bool:
    rates = {"bf16", "fp16"} & set(chip.rate_flops_per_s)
    return not rates or chip.memory_bytes is None or chip.memory_bandwidth_bytes_per_s is None
