"""The time of a step: invariants, and cases that papers worked out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.arrays import stacked
from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.parameters import BOUNDS, Parameters
from myriarch.cost.silicon import machine
from myriarch.cost.software import LEVELS, level
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import StepTime, step_time
from myriarch.spec.catalogue import lookup

GPT3 = Decoder(
    layers=96.0,
    width=12288.0,
    heads=96.0,
    kv_heads=96.0,
    head_width=128.0,
    feed_forward=49152.0,
    gated=0.0,
    vocabulary=51200.0,
    tied=1.0,
)
DEEPSEEK_V3 = Decoder(
    layers=61.0,
    width=7168.0,
    heads=128.0,
    kv_heads=128.0,
    head_width=192.0,
    feed_forward=18432.0,
    gated=1.0,
    vocabulary=129280.0,
    experts=256.0,
    top_k=8.0,
    expert_feed_forward=2048.0,
    shared_experts=1.0,
    dense_layers=3.0,
    query_rank=1536.0,
    kv_rank=512.0,
    rope_width=64.0,
    value_width=128.0,
)
A100 = machine(lookup("a100-sxm-80"))
H100 = machine(lookup("h100-sxm"), precision="fp8")
SPLIT = Split(tp=8.0, pp=8.0, dp=2.0, batch=128.0, micro_batch=1.0, sequence=2048.0, recompute=1.0)
CONSTANTS = CALIBRATED["all"]


def seconds(
    decoder: Decoder = GPT3,
    *,
    machine: Machine = A100,
    split: Split = SPLIT,
    software: Software = LEVELS["megatron-2021"],
    parameters: Parameters = CONSTANTS,
) -> float:
    step = step_time(decoder, machine=machine, split=split, software=software, parameters=parameters)
    return float(step.total_s)


def test_gpt3_has_174_6_billion_parameters() -> None:
    """Narayanan et al. (SC'21), Table 2: 174.6 billion."""
    assert float(GPT3.parameters) == pytest.approx(174.6e9, rel=0.001)


def test_deepseek_v3_has_671_billion_parameters_of_which_37_work_on_a_token() -> None:
    """DeepSeek-V3 (arXiv:2412.19437), section 4.2: 671B in all, 37B activated for each token."""
    assert float(DEEPSEEK_V3.parameters) == pytest.approx(671e9, rel=0.002)
    assert float(DEEPSEEK_V3.active_parameters) == pytest.approx(37e9, rel=0.02)


def test_flops_of_megatron_s_equation_3() -> None:
    """96 B s l h^2 (1 + s/6h + V/16lh), Narayanan et al. (SC'21), with the second forward pass of the layers."""
    b, s, layers, h, v = 1536.0, 2048.0, 96.0, 12288.0, 51200.0
    paper = 96 * b * s * layers * h * h * (1 + s / (6 * h) + v / (16 * layers * h))
    whole = float(GPT3.flops_per_token(s, causal=False))
    head = 6 * v * h
    assert (whole + (whole - head) / 3) * b * s == pytest.approx(paper, rel=0.002)


def test_chinchilla_s_flops() -> None:
    """6 N D: 70B parameters and 1.4T tokens are 5.76e23 FLOPs (Hoffmann et al., arXiv:2203.15556, Table 3)."""
    chinchilla = Decoder(
        layers=80.0,
        width=8192.0,
        heads=64.0,
        kv_heads=64.0,
        head_width=128.0,
        feed_forward=32768.0,
        gated=0.0,
        vocabulary=32000.0,
    )
    assert 1.4e12 * float(chinchilla.flops_per_token(2048)) == pytest.approx(5.76e23, rel=0.06)


def test_the_textbook_bubble() -> None:
    """(pp - 1) / (v m) of the compute (SC'21, section 2.2), with stages alike and nothing else in the way."""
    even = dataclasses.replace(GPT3, vocabulary=1.0)
    for virtual in (1.0, 2.0):
        split = dataclasses.replace(SPLIT, virtual=virtual)
        step = step_time(even, machine=A100, split=split, software=LEVELS["xla"], parameters=CONSTANTS)
        work = step.total_s - step.bubble_s - step.pp_s - step.dp_s - step.optimizer_s - step.other_s
        # The last stage's norm, loss and gather remain.
        assert float(step.bubble_s / work) == pytest.approx(7.0 / (virtual * 64.0), rel=0.12)


def test_parts_sum_to_the_whole() -> None:
    step = step_time(GPT3, machine=A100, split=SPLIT, software=LEVELS["nemo"], parameters=CONSTANTS)
    parts = [float(getattr(step, field.name)) for field in dataclasses.fields(StepTime)]
    assert min(parts) >= 0.0
    assert sum(parts) == pytest.approx(float(step.total_s))


def test_many_at_once_are_as_one_by_one() -> None:
    splits = [
        SPLIT,
        dataclasses.replace(SPLIT, tp=4.0, dp=4.0, virtual=2.0),
        dataclasses.replace(SPLIT, tp=1.0, pp=1.0, dp=128.0, zero_stage=3.0),
        dataclasses.replace(SPLIT, cp=2.0, dp=1.0, recompute=0.0, selective=1.0),
    ]
    together = step_time(GPT3, machine=A100, split=stacked(splits), software=LEVELS["nemo"], parameters=CONSTANTS)
    alone = [seconds(split=split, software=LEVELS["nemo"]) for split in splits]
    assert together.total_s.tolist() == pytest.approx(alone, rel=1e-12)


DECODERS = st.sampled_from([GPT3, DEEPSEEK_V3])
SOFTWARE = st.sampled_from(sorted(LEVELS))


@st.composite
def splits(draw: st.DrawFn) -> Split:
    tp = draw(st.sampled_from([1.0, 2.0, 4.0, 8.0]))
    dp = draw(st.sampled_from([1.0, 4.0, 64.0]))
    micro_batch = draw(st.sampled_from([1.0, 2.0]))
    return Split(
        tp=tp,
        pp=draw(st.sampled_from([1.0, 2.0, 8.0])),
        dp=dp,
        cp=draw(st.sampled_from([1.0, 2.0])),
        ep=draw(st.sampled_from([size for size in (1.0, 4.0, 64.0) if size <= dp])),
        virtual=draw(st.sampled_from([1.0, 2.0])),
        sequence_parallel=draw(st.sampled_from([0.0, 1.0])) if tp > 1 else 0.0,
        zero_stage=draw(st.sampled_from([0.0, 1.0, 3.0])),
        batch=dp * micro_batch * draw(st.sampled_from([1.0, 8.0, 32.0])),
        micro_batch=micro_batch,
        sequence=draw(st.sampled_from([2048.0, 32768.0])),
        recompute=draw(st.sampled_from([0.0, 0.5, 1.0])),
        narrow_share=draw(st.sampled_from([0.0, 1.0])),
    )


@given(DECODERS, splits(), SOFTWARE, st.floats(1.0, 8.0))
def test_more_bandwidth_is_never_slower(decoder: Decoder, split: Split, name: str, factor: float) -> None:
    before = seconds(decoder, machine=H100, split=split, software=level(name))
    for field in (
        "link_bandwidth_bytes_per_s",
        "network_bandwidth_bytes_per_s",
        "memory_bandwidth_bytes_per_s",
        "matmul_flops_per_s",
        "narrow_flops_per_s",
    ):
        faster = dataclasses.replace(H100, **{field: getattr(H100, field) * factor})
        assert seconds(decoder, machine=faster, split=split, software=level(name)) <= before * (1 + 1e-9), field


@given(DECODERS, splits(), SOFTWARE)
def test_time_grows_with_tokens_and_not_faster_than_they(decoder: Decoder, split: Split, name: str) -> None:
    once = seconds(decoder, machine=H100, split=split, software=level(name))
    twice = dataclasses.replace(split, batch=2.0 * np.asarray(split.batch))
    doubled = seconds(decoder, machine=H100, split=twice, software=level(name))
    assert once < doubled <= 2.0 * once * (1 + 1e-9)


@given(DECODERS, splits(), SOFTWARE, st.floats(0.1, 10.0))
def test_units_do_not_matter(decoder: Decoder, split: Split, name: str, unit: float) -> None:
    """All rates in another unit of time: seconds in the same."""
    rates = {field.name: getattr(H100, field.name) for field in dataclasses.fields(Machine)}
    scaled = dataclasses.replace(
        H100,
        **{field: value * unit for field, value in rates.items() if field.endswith("_per_s")},
        power_w=H100.power_w * unit,
    )
    times = {field: getattr(CONSTANTS, field) / unit for field in BOUNDS if field.endswith("_s")}
    software = level(name)
    hosted = dataclasses.replace(software, host_seconds=software.host_seconds / unit)
    before = seconds(decoder, machine=H100, split=split, software=software)
    after = seconds(
        decoder, machine=scaled, split=split, software=hosted, parameters=dataclasses.replace(CONSTANTS, **times)
    )
    assert after * unit == pytest.approx(before, rel=1e-9)


@given(DECODERS, splits(), SOFTWARE)
def test_recomputing_more_is_slower(decoder: Decoder, split: Split, name: str) -> None:
    none, full = (dataclasses.replace(split, recompute=share, selective=0.0) for share in (0.0, 1.0))
    assert seconds(decoder, machine=H100, split=none, software=level(name)) < seconds(
        decoder, machine=H100, split=full, software=level(name)
    )


def test_zero_2_scatters_gradients_in_every_micro_batch() -> None:
    """It holds no whole gradient (Rajbhandari et al., SC'20, section 5.2), so it cannot wait for the last one."""
    once = dataclasses.replace(SPLIT, pp=1.0, dp=16.0, batch=16.0, zero_stage=1.0)
    often = dataclasses.replace(once, batch=128.0)
    software = LEVELS["megatron-2021"]
    gap = [
        seconds(split=dataclasses.replace(split, zero_stage=2.0), software=software)
        - seconds(split=split, software=software)
        for split in (once, often)
    ]
    assert gap[0] == 0.0
    assert gap[1] > 0.0


def test_more_heads_of_the_same_width_are_slower() -> None:
    """BLOOM's prequel, 78 layers x 13,824: 128 heads of 108 instead of 64 of 216 raised 103.5 s to 147.4 s."""
    few = dataclasses.replace(GPT3, width=13824.0, heads=64.0, kv_heads=64.0, head_width=216.0)
    many = dataclasses.replace(few, heads=128.0, kv_heads=128.0, head_width=108.0)
    assert seconds(many) > 1.03 * seconds(few)


def test_constants_lie_within_their_bounds() -> None:
    assert set(BOUNDS) == {field.name for field in dataclasses.fields(Parameters)}
    for parameters in (*CALIBRATED.values(), Parameters()):
        for name, (low, high) in BOUNDS.items():
            assert low <= getattr(parameters, name) <= high, name
