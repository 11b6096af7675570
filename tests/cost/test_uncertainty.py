"""Intervals widen where less is known; grades of evidence say how near measurements are."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from myriarch.cost.calibrated import CALIBRATED, WIDTHS
from myriarch.cost.decoder import Decoder
from myriarch.cost.evidence import Run, chips_seen, evidence, published
from myriarch.cost.silicon import machine
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Split
from myriarch.cost.step import StepTime, step_time
from myriarch.cost.uncertainty import CONFIDENCE, UNMEASURED, WIDTH_BOUNDS, Widths, chip_reach, interval
from myriarch.spec.catalogue import catalogue, lookup

LLAMA_8B = Decoder(
    layers=32.0,
    width=4096.0,
    heads=32.0,
    kv_heads=8.0,
    head_width=128.0,
    feed_forward=14336.0,
    gated=1.0,
    vocabulary=128256.0,
)
MIXTURE = dataclasses.replace(LLAMA_8B, experts=64.0, top_k=4.0, expert_feed_forward=2048.0)
H100 = lookup("h100-sxm")
SPLIT = Split(tp=2.0, pp=1.0, dp=32.0, batch=256.0, micro_batch=1.0, sequence=8192.0, zero_stage=1.0)


def step(decoder: Decoder = LLAMA_8B, split: Split = SPLIT) -> StepTime:
    return step_time(decoder, machine=machine(H100), split=split, software=LEVELS["nemo"], parameters=CALIBRATED["all"])


def reach_of(decoder: Decoder = LLAMA_8B, split: Split = SPLIT, *, chip: float = 0.0) -> float:
    low, high = interval(decoder, split=split, step=step(decoder, split), widths=WIDTHS["all"], chip=chip)
    assert float(low) * float(high) == pytest.approx(1.0)
    return float(np.log(high))


def test_less_known_is_wider() -> None:
    plain = reach_of()
    assert 0.05 < plain < 0.2
    assert reach_of(MIXTURE) > plain
    narrow = dataclasses.replace(SPLIT, narrow_share=1.0, narrow_bytes=0.5)
    eight = dataclasses.replace(SPLIT, narrow_share=1.0, narrow_bytes=1.0)
    assert reach_of(split=narrow) > reach_of(split=eight) > plain
    assert reach_of(split=dataclasses.replace(SPLIT, dp=50_000.0, batch=400_000.0)) > plain
    assert reach_of(split=dataclasses.replace(SPLIT, batch=32.0)) > plain
    assert reach_of(chip=0.2) > 0.2


def test_chips_by_what_is_known_of_them() -> None:
    assert chip_reach(H100, profiled=False, seen=True) == 0.0
    tpu, huawei = lookup("tpu-v5e"), lookup("ascend-910b")
    assert chip_reach(tpu, profiled=True, seen=False) == 0.0
    assert chip_reach(tpu, profiled=False, seen=False) >= UNMEASURED
    announced = lookup("rubin")
    assert chip_reach(announced, profiled=False, seen=False) > chip_reach(tpu, profiled=False, seen=False)
    assert chip_reach(huawei, profiled=False, seen=False) > 0.15
    assert {chip.confidence for chip in catalogue().values()} <= set(CONFIDENCE)


def test_unmeasured_is_the_spread_of_the_measured() -> None:
    shares = np.array(
        [
            chip.matmul_measured_flops_per_s["bf16"] / chip.rate_flops_per_s["bf16"]
            for chip in catalogue().values()
            if "bf16" in chip.matmul_measured_flops_per_s and "bf16" in chip.rate_flops_per_s
        ]
    )
    assert np.quantile(np.abs(np.log(shares / np.median(shares))), 0.8) == pytest.approx(UNMEASURED, abs=0.02)


def test_widths_lie_within_their_bounds() -> None:
    assert set(WIDTH_BOUNDS) == {field.name for field in dataclasses.fields(Widths)}
    for widths in (*WIDTHS.values(), Widths()):
        for name, (low, high) in WIDTH_BOUNDS.items():
            assert low <= getattr(widths, name) <= high, name


def test_a_published_configuration_has_the_best_grade() -> None:
    """NVIDIA's recipe of Llama 3.1 8B in 8 bits on one node of H100 is in the table."""
    split = Split(dp=8.0, batch=128.0, micro_batch=1.0, sequence=8192.0, narrow_share=1.0)
    found = evidence(LLAMA_8B, chip=H100, split=split)
    assert found.grade == "A"
    assert found.nearest[0].differs == ()


@pytest.mark.parametrize(
    ("chip", "changed", "grade"),
    [
        ("h100-sxm", {}, "AB"),
        ("h100-sxm", {"dp": 4096.0, "batch": 32768.0}, "C"),
        ("mi300x", {}, "D"),
        ("tpu-v5p", {}, "E"),
        ("rubin", {}, "E"),
    ],
)
def test_grades(chip: str, changed: dict[str, float], grade: str) -> None:
    found = evidence(LLAMA_8B, chip=lookup(chip), split=dataclasses.replace(SPLIT, **changed))
    assert found.grade in grade
    assert found.reason
    assert len(found.nearest) == 3


def test_a_profile_stands_for_the_chip() -> None:
    split = Split(dp=8.0, batch=128.0, micro_batch=1.0, sequence=8192.0, narrow_share=1.0)
    tpu = lookup("tpu-v5p")
    assert evidence(LLAMA_8B, chip=tpu, split=split, profiled=True).grade == "A"
    assert evidence(LLAMA_8B, chip=tpu, split=split).grade == "E"


def test_the_table_of_runs_is_whole() -> None:
    assert len(published()) == 434
    assert {"a100-sxm-80", "h100-sxm", "b200", "gb300"} <= chips_seen()
    assert all(isinstance(run, Run) and run.devices > 0 and run.measured_s > 0 for run in published())
    found = evidence(LLAMA_8B, chip=H100, split=SPLIT)
    assert msgspec.json.decode(msgspec.json.encode(found))["grade"] == found.grade
