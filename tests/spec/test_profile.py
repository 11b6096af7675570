"""Profiles: what is read, what is refused and in which words, and that what is written can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue
from myriarch.spec.profile import Device, MemoryRate, ProductRate, Profile, parse_profile
from myriarch.spec.profile_text import profile_text
from myriarch.spec.recognise import recognised

HEAD = "format: myriarch.profile/1\ndate: 2026-03-01\ndevice: {name: H100, kind: cuda, count: 2}\n"
PRODUCT = "{precision: bf16, m: 4096, n: 4096, k: 4096, rate_flops_per_s: 700 TFLOP/s}"
WHOLE = f"{HEAD}products: [{PRODUCT}]\n"


def test_a_profile_written_by_hand() -> None:
    profile = parse_profile(f"{HEAD}products: [{PRODUCT}]\n")
    assert profile.products[0].rate_flops_per_s == 7e14
    assert profile.products[0].product_s == pytest.approx(2 * 4096**3 / 7e14)
    assert (profile.confidence, profile.provenance, profile.label) == (
        "measured", "measured by hand", "H100, 2026-03-01",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f"{HEAD}products: [{PRODUCT.replace('700 T', '1e30 ')}]",
            "products[0].rate_flops_per_s: 1e+30 is out of range",
        ),
        (f"{HEAD}products: [{PRODUCT.replace('700 TFLOP/s', '-1')}]", "is out of range; use more than 0"),
        (f"{HEAD}products: [{PRODUCT.replace('700 TFLOP/s', '700 TFLOPS')}]", "did you mean the unit `TFLOP/s`"),
        (f"{HEAD}products: [{PRODUCT.replace('bf16', 'bf61')}]", "did you mean `bf16`"),
        (f"{HEAD}product: [{PRODUCT}]", "did you mean `products`"),
        (HEAD, "neither `products` nor `memory`"),
        (HEAD.replace("/1", "/2"), "another version of profiles than this Myriarch reads, `myriarch.profile/1`"),
        (HEAD.replace("myriarch.profile/1", "fleet"), "`fleet` is not a profile; name a file"),
        (f"{HEAD}products: [{PRODUCT[:-1]}, rate_p10_flops_per_s: 8e14}}]", "not in this order"),
        (
            f"{WHOLE}device_links: [{{source: 0, target: 2, size_bytes: 1, rate_bytes_per_s: 1}}]",
            "device_links[0]: joins device 0 to 2; name two different ones of 2",
        ),
        (
            f"{WHOLE}collectives: [{{backend: nccl, devices: 8, size_bytes: 1, rate_bytes_per_s: 1}}]",
            "collectives[0].devices: 8 is more than `device.count`, 2",
        ),
    ],
)
def test_refused_with_place_and_remedy(text: str, told: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_profile(text, source="p.yaml")
    assert told in str(refused.value)
    assert str(refused.value).startswith("p.yaml")


rates = st.floats(1e6, 1e15)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(st.integers(1, 1 << 20), rates, rates, rates), min_size=1, max_size=4),
    texts,
    st.sampled_from(["yaml", "json"]),
)
def test_what_is_written_is_read_back(rows: list[tuple[int, float, float, float]], name: str, format: str) -> None:
    def memory(size: int, three: tuple[float, float, float]) -> MemoryRate:
        low, middle, high = sorted(three)
        return MemoryRate(
            operation="triad", size_bytes=size, repeats=3, doubtful=size % 2 == 0,
            rate_bytes_per_s=middle, rate_p10_bytes_per_s=low, rate_p90_bytes_per_s=high,
        )  # fmt: skip

    profile = Profile(
        format="myriarch.profile/1",
        date="2026-03-01",
        device=Device(name=name, kind="cpu", processors=2),
        software={"torch": "2.13.0+cpu", name: "x"},
        products=(ProductRate(precision="fp32", m=1, n=2, k=3, rate_flops_per_s=1e9),),
        memory=tuple(memory(size, three) for size, *three in rows),  # type: ignore[arg-type]
        left_out=(name,),
    )
    kind = "yaml" if format == "yaml" else "json"
    again = parse_profile(profile_text(profile, format=kind), format=kind)  # type: ignore[arg-type]
    assert (again.device, again.software, again.left_out) == (profile.device, profile.software, profile.left_out)
    for one, other in zip(again.memory, profile.memory, strict=True):
        assert one.rate_bytes_per_s == pytest.approx(other.rate_bytes_per_s, rel=1e-3)
        assert (one.size_bytes, one.doubtful) == (other.size_bytes, other.doubtful)


@pytest.mark.parametrize(
    ("name", "memory_gib", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", 79.6, "h100-sxm"),
        ("NVIDIA H100 PCIe", 79.6, "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-sxm-80"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-sxm-40"),
        ("NVIDIA A100-PCIE-40GB", 39.4, ""),  # the catalogue has only the one with NVLink
        ("NVIDIA GeForce RTX 2080 Ti", 10.8, "rtx-2080ti"),
        ("NVIDIA GH200 480GB", 95.0, "gh200-96"),
        ("AMD Instinct MI300X", 192.0, "mi300x"),
        ("MTT S4000", 48.0, "mtt-s4000"),
        ("Intel(R) Xeon(R) Processor", 24.0, ""),
    ],
)
def test_drivers_names(name: str, memory_gib: float, chip: str) -> None:
    assert recognised(name, memory_gib * 2**30, chips=catalogue()) == chip
