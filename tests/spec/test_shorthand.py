"""A fleet in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue, lookup
from myriarch.spec.consistency import check_fleet
from myriarch.spec.shorthand import fleet_of, is_shorthand, node_devices


def test_one_pool() -> None:
    fleet = fleet_of("h100-sxm:1024")
    (pool,) = fleet.pools
    assert (pool.name, pool.chip, pool.nodes, pool.devices_per_node) == ("h100-sxm", "h100-sxm", 128, 8)
    assert fleet.links == ()
    assert fleet.note == "h100-sxm:1024"


def test_pools_that_a_link_joins() -> None:
    fleet = fleet_of(" h100-sxm:512 + mi300x:256 + h100-sxm:8 @ 200 Gbit/s, 5ms ")
    assert [pool.name for pool in fleet.pools] == ["h100-sxm", "mi300x", "h100-sxm-pool-2"]
    assert [pool.devices for pool in fleet.pools] == [512, 256, 8]
    assert [link.between for link in fleet.links] == [
        ("h100-sxm", "mi300x"), ("h100-sxm", "h100-sxm-pool-2"), ("mi300x", "h100-sxm-pool-2"),
    ]  # fmt: skip
    assert {(link.bandwidth_bytes_per_s, link.latency_s) for link in fleet.links} == {(25e9, 0.005)}
    assert fleet_of("h20:8+h20:8@25e9").links[0].bandwidth_bytes_per_s == 25e9


@pytest.mark.parametrize(
    ("chip", "devices"),
    [("h100-sxm", 8), ("l40s", 8), ("gb200", 4), ("gh200-96", 4), ("tpu-v5p", 4), ("trainium2", 16), ("br104", 8)],
)
def test_nodes_are_as_such_chips_are_built(chip: str, devices: int) -> None:
    assert node_devices(lookup(chip)) == devices


def test_fewer_than_a_node_are_one_node() -> None:
    (pool,) = fleet_of("h100-sxm:2").pools
    assert (pool.nodes, pool.devices_per_node) == (1, 2)


FORM = "write `chip:devices`, like h100-sxm:1024 or h100-sxm:512+mi300x:256@25GB/s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h100-sxm", f"`h100-sxm` is not a pool; {FORM}"),
        ("h100-sxm:8+", f"`` is not a pool; {FORM}"),
        ("h100-sxm:0", f"`h100-sxm:0` has no devices; {FORM}"),
        (
            "h100-sxm:100",
            "`h100-sxm:100`: 100 devices are no whole number of nodes of 8; use 96 or 104, or a fleet file",
        ),
        ("h20:8+mi300x:8", "`h20:8+mi300x:8`: no link joins the pools; say its bandwidth, like h20:8+mi300x:8@25GB/s"),
        ("h20:8@25GB/s", "`h20:8@25GB/s`: `@25GB/s` is the link between pools, and there is one; leave it out"),
        ("h20:8+h20:8@0", "after `@`: `0` is nothing; use more than 0"),
        ("h20:8+h20:8@25GB", "after `@`: `25GB` is not a number and a unit; did you mean the unit `GB/s`?"),
        ("h20:8+h20:8@25GB/s,5MB", "after `@`: `5MB` is not a number and a unit;"),
        ("h100-smx:8", "chip `h100-smx` is not in the catalogue; did you mean `h100-sxm`?"),
    ],
)
def test_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        fleet_of(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "meant"), [("h100-sxm:8", True), (" h20 : 8+x", True), ("fleet.yaml", False), ("C:\\f.yaml", False)]
)
def test_tells_a_line_from_a_file(text: str, meant: bool) -> None:
    assert is_shorthand(text) == meant


@given(st.lists(st.tuples(st.sampled_from(sorted(catalogue())), st.integers(1, 9)), min_size=2, max_size=4))
def test_every_line_of_known_chips_is_a_fleet_that_fits_together(parts: list[tuple[str, int]]) -> None:
    counts = [(chip, nodes * node_devices(lookup(chip))) for chip, nodes in parts]
    fleet = fleet_of("+".join(f"{chip}:{devices}" for chip, devices in counts) + "@1GB/s")
    assert [pool.devices for pool in fleet.pools] == [devices for _, devices in counts]
    told: list[str] = []
    check_fleet(fleet, catalogue=catalogue(), tell=lambda path, message: told.append(f"{path}: {message}"))
    assert told == []
