"""Machines from profiles: measured before catalogue, each number with its origin; constants of shapes found again."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.kernels import Rates, product_s
from myriarch.cost.profiled import COPY_SHARE, apply_profiles, machine_from, streaming
from myriarch.cost.shapes import VALUE_BYTES, Shapes
from myriarch.cost.silicon import machine
from myriarch.cost.software import level
from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue
from myriarch.spec.fleet import Fleet, Link, Pool, Precision
from myriarch.spec.profile import (
    CollectiveRate,
    Device,
    HostRate,
    Launches,
    MemoryRate,
    PairRate,
    ProductRate,
    Profile,
)

P = CALIBRATED["all"]
H100 = catalogue()["h100-sxm"]
SIDES = (256, 1024, 4096)


def products(
    rate: float, *, depth_half: float = 147.0, kernel_s: float = 2e-6, precision: Precision = "bf16"
) -> tuple[ProductRate, ...]:
    """What a device of these constants would show."""
    rates = Rates(
        wide_flops_per_s=np.asarray(rate), narrow_flops_per_s=np.asarray(rate), memory_bytes_per_s=np.asarray(2.4e12),
        processors=132.0, kernel_s=kernel_s, depth_half=depth_half, wave_share=P.wave_share,
    )  # fmt: skip
    value_bytes = VALUE_BYTES[precision]

    def row(m: int, n: int, k: int) -> ProductRate:
        seconds = float(product_s(m, n, k, rates=rates, rate_flops_per_s=rate, value_bytes=value_bytes))
        return ProductRate(precision=precision, m=m, n=n, k=k, rate_flops_per_s=2.0 * m * n * k / seconds)

    return tuple(row(m, n, k) for m, n, k in itertools.product(SIDES, SIDES, (64, 256, 1024, 4096)))


def profile(**changed: object) -> Profile:
    whole = Profile(
        format="myriarch.profile/1",
        date="2026-03-01",
        device=Device(name="NVIDIA H100 80GB HBM3", kind="cuda", chip="h100-sxm", count=8, processors=132),
        products=products(6.5e14),
        memory=(MemoryRate(operation="triad", size_bytes=2**30, rate_bytes_per_s=2.7e12),),
        launches=Launches(host_s=1e-7, kernel_s=2e-6),
    )
    return msgspec.structs.replace(whole, **changed)


def test_constants_of_shape_are_found_again() -> None:
    shapes = Shapes.of(
        products(6.5e14, depth_half=100.0, kernel_s=6e-6), processors=132.0, memory_bytes_per_s=2.4e12,
        kernel_s=None, host_s=0.0, parameters=P,
    )  # fmt: skip
    assert shapes.rate_flops_per_s == pytest.approx(6.5e14)
    assert shapes.depth_half == pytest.approx(100.0)
    assert shapes.kernel_s == pytest.approx(6e-6)
    assert shapes.error < 1e-6


def test_few_products_give_a_rate_and_no_constants_of_shape() -> None:
    found = machine_from(profile(products=products(6.5e14)[-2:], launches=None), chip=H100)
    assert found.origin("matmul_flops_per_s").source == "measured"
    assert found.machine.depth_half == 0.0


def test_measured_before_catalogue_and_said_so() -> None:
    found = machine_from(profile(), chip=H100)
    sources = {origin.field: origin.source for origin in found.origins}
    assert set(sources) == {field.name for field in dataclasses.fields(found.machine)}
    measured = {field for field, source in sources.items() if source == "measured"}
    assert measured == {
        "matmul_flops_per_s", "ripe", "kernel_s", "depth_half", "memory_bandwidth_bytes_per_s", "processors",
        "narrow_flops_per_s",
    }  # fmt: skip
    assert {source for field, source in sources.items() if field not in measured} == {"catalogue"}
    assert found.machine.peak_flops_per_s == H100.rate_flops_per_s["bf16"]
    assert found.machine.memory_bandwidth_bytes_per_s == pytest.approx(2.7e12 / COPY_SHARE)
    assert found.machine.kernel_s == pytest.approx(2e-6)


def test_measured_rates_do_not_ripen() -> None:
    found = machine_from(profile(), chip=H100).machine
    early, late = (Rates.of(found, level("megatron-core", year=year), P).wide_flops_per_s for year in (2022.8, 2027.0))
    assert early == late
    catalogued = machine(H100)
    early, late = (Rates.of(catalogued, level("nemo", year=year), P).wide_flops_per_s for year in (2022.8, 2027.0))
    assert early < late


def test_links() -> None:
    pairs = tuple(
        PairRate(source=one, target=other, size_bytes=2**26, rate_bytes_per_s=3e11 if other else 2e11)
        for one, other in itertools.permutations(range(8), 2)
    )
    slowest = machine_from(profile(device_links=pairs), chip=H100)
    assert slowest.machine.link_bandwidth_bytes_per_s == pytest.approx(2e11 / COPY_SHARE)
    reduced = CollectiveRate(backend="nccl", devices=8, size_bytes=2**28, rate_bytes_per_s=3.6e11)
    hosts = (
        HostRate(direction="to_device", size_bytes=2**26, rate_bytes_per_s=5.5e10),
        HostRate(direction="from_device", size_bytes=2**26, rate_bytes_per_s=5.0e10),
    )
    found = machine_from(profile(device_links=pairs, collectives=(reduced,), host_links=hosts), chip=H100)
    # What the formulas make of it is what was measured.
    assert found.machine.link_bandwidth_bytes_per_s * P.link_share == pytest.approx(3.6e11)
    assert found.machine.host_link_bandwidth_bytes_per_s == 5.0e10


def test_a_device_that_no_catalogue_has() -> None:
    alone = profile(device=Device(name="Some CPU", kind="cpu", processors=2, memory_bytes=16e9))
    found = machine_from(alone, precision="fp8")
    assert found.origin("peak_flops_per_s").source == "assumed"
    assert found.machine.narrow_flops_per_s == found.machine.matmul_flops_per_s
    with pytest.raises(SpecError, match="has no streaming rates, and its chip is not in the catalogue"):
        machine_from(msgspec.structs.replace(alone, memory=()))


def test_narrow_products_keep_the_catalogue_s_ratio_unless_measured() -> None:
    base = machine(H100, precision="fp8")
    found = machine_from(profile(), chip=H100, precision="fp8")
    ratio = float(np.divide(base.narrow_flops_per_s, base.matmul_flops_per_s))
    assert found.machine.narrow_flops_per_s == pytest.approx(ratio * float(found.machine.matmul_flops_per_s))
    assert found.origin("narrow_flops_per_s").source == "catalogue"
    narrow = profile(products=products(6.5e14) + products(1.2e15, precision="fp8"))
    found = machine_from(narrow, chip=H100, precision="fp8")
    assert found.origin("narrow_flops_per_s").source == "measured"
    assert found.machine.narrow_flops_per_s == pytest.approx(1.2e15, rel=0.1)


@given(st.floats(1e3, 1e12))
def test_streaming_lies_between_the_sizes_measured(array_bytes: float) -> None:
    rows = [
        MemoryRate(operation="new", size_bytes=2**20, rate_bytes_per_s=2e10),
        MemoryRate(operation="new", size_bytes=2**26, rate_bytes_per_s=4e9),
        MemoryRate(operation="triad", size_bytes=2**26, rate_bytes_per_s=1e10),
    ]
    found, in_place = (streaming(rows, array_bytes=array_bytes, in_place=flag) for flag in (False, True))
    assert found is not None
    assert in_place is not None
    assert 4e9 * 0.999 <= found[0] <= 2e10 * 1.001
    assert in_place[0] == pytest.approx(1e10)


@pytest.mark.parametrize("faster", [0.5, 0.9, 1.1, 2.0])
def test_a_faster_device_is_never_slower(faster: float) -> None:
    plain, scaled = (machine_from(profile(products=products(rate)), chip=H100) for rate in (4e14, 4e14 * faster))
    more = float(scaled.machine.matmul_flops_per_s) / float(plain.machine.matmul_flops_per_s)
    assert (more - 1.0) * (faster - 1.0) >= -0.02


def fleet() -> Fleet:
    link = Link(bandwidth_bytes_per_s=25e9)
    return Fleet(
        name="two",
        pools=(
            Pool(name="hopper", chip="h100-sxm", nodes=2, link=link),
            Pool(name="ampere", chip="a100-sxm-80", nodes=2),
        ),
    )


def test_a_plan_takes_each_profile_for_its_pools() -> None:
    found = apply_profiles(fleet(), [profile()], chips=catalogue())
    assert list(found) == ["hopper"]
    assert found["hopper"].machine.network_bandwidth_bytes_per_s == 25e9
    assert found["hopper"].origin("network_bandwidth_bytes_per_s").source == "pool"


def test_profiles_that_fit_no_pool_or_the_same_one() -> None:
    stranger = profile(device=Device(name="Some CPU", kind="cpu"))
    with pytest.raises(SpecError, match="no pool has its chip, named `Some CPU`, but `h100-sxm`, `a100-sxm-80`; set"):
        apply_profiles(fleet(), [stranger], chips=catalogue())
    with pytest.raises(SpecError, match=r"pool `hopper`: both .* give one"):
        apply_profiles(fleet(), [profile(), profile(date="2026-03-02")], chips=catalogue())
