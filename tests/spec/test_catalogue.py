"""The chips that ship inside."""

from __future__ import annotations

import importlib.resources

import pytest
import yaml

from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue, described, lookup
from myriarch.spec.document import read_document


def test_has_all_chips_in_si() -> None:
    chips = catalogue()
    assert len(chips) == 61
    assert all(name == chip.id for name, chip in chips.items())
    h100 = chips["h100-sxm"]
    assert h100.rate_flops_per_s["bf16"] == 989e12
    assert h100.rate_flops_per_s["fp64_tc"] == 67e12
    assert h100.matmul_measured_flops_per_s == {"bf16": 794.5e12, "fp8": 1402.6e12}
    assert (h100.memory_bytes, h100.memory_bandwidth_bytes_per_s) == (80e9, 3350e9)
    assert (h100.link_bandwidth_bytes_per_s, h100.link_domain_devices, h100.link_kind) == (450e9, 8, "NVLink4")
    assert h100.power_w == 700


def test_what_is_unknown_is_absent_and_never_zero() -> None:
    ascend = catalogue()["ascend-910b"]
    assert ascend.rate_flops_per_s == {}
    assert ascend.matmul_measured_flops_per_s == {"bf16": 304.3e12}
    assert ascend.power_w is None
    assert ascend.memory_bandwidth_bytes_per_s is None


def test_keeps_confidence_and_sources() -> None:
    chips = catalogue().values()
    assert {chip.confidence for chip in chips} == {"high", "medium", "low", "announced"}
    assert sum(bool(chip.uncertain_fields) for chip in chips) == 37
    for chip in chips:
        assert chip.sources, chip.id
        assert all(len(source) > 10 for source in chip.sources), "keys of the file are resolved to what they stand for"
    assert catalogue()["rtx-4090"].sources == ("recalled, NOT read in a source: weigh it low",)


@pytest.mark.parametrize(
    ("name", "label"),
    [("h100-sxm", "h100-sxm"), ("h20", "h20"), ("ascend-910b", "ascend-910b (low)"), ("rubin", "rubin (announced)")],
)
def test_doubtful_numbers_carry_their_label(name: str, label: str) -> None:
    assert described(lookup(name)) == label


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100-sxmm", "chip `h100-sxmm` is not in the catalogue; did you mean `h100-sxm`?"),
        ("H100-SXM", "chip `H100-SXM` is not in the catalogue; did you mean `h100-sxm`?"),
        ("h100", "chip `h100` is not in the catalogue; use one of `h100-sxm`, `h100-pcie`, or describe it"),
        ("my-card", "chip `my-card` is not in the catalogue; describe it inline: {id: my-card, ...}"),
        ("Trillium", "chip `Trillium` goes by another name here; use `tpu-v6e`"),
    ],
)
def test_an_unknown_chip_is_told_its_neighbours(name: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        lookup(name)
    assert str(caught.value).startswith(message)


def test_the_file_means_the_same_in_yaml_1_1_and_1_2() -> None:
    """It is read by libyaml's 1.1 for speed: none of the words that the two read differently may be in it."""
    text = importlib.resources.files("myriarch.spec").joinpath("data", "chips.yaml").read_text("utf-8")
    assert yaml.safe_load(text) == read_document(text, format="yaml", source="chips.yaml").value


def test_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        catalogue()["h100-sxm"] = lookup("h20")  # type: ignore[index]
