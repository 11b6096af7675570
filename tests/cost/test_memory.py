"""Memory of a device against the papers' formulas and tables."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import activation_bytes, memory
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Split

GIB = 2.0**30
GPT = Decoder(
    layers=48.0,
    width=6144.0,
    heads=64.0,
    kv_heads=64.0,
    head_width=96.0,
    feed_forward=24576.0,
    gated=0.0,
    vocabulary=51200.0,
    tied=1.0,
)
"""The 22B model of Korthikanti et al. 2022, Table 3."""
SPLIT = Split(tp=8.0, batch=4.0, micro_batch=4.0, sequence=2048.0)
MEGATRON = LEVELS["megatron-2022"]


@pytest.mark.parametrize(
    ("split", "bytes_per_token"),
    [
        (Split(tp=8.0, batch=4.0, micro_batch=4.0, sequence=2048.0), 10 + 24 / 8 + 5 * 64 * 2048 / (6144 * 8)),
        (dataclasses.replace(SPLIT, sequence_parallel=1.0), (34 + 5 * 64 * 2048 / 6144) / 8),
        (dataclasses.replace(SPLIT, sequence_parallel=1.0, selective=1.0), 34 / 8),
    ],
    ids=["tensor parallel", "sequence parallel", "selective"],
)
def test_korthikanti_table_2(split: Split, bytes_per_token: float) -> None:
    """Korthikanti et al. (MLSys 2023), Table 2: activations of a layer in units of s b h."""
    expected = bytes_per_token * 2048 * 4 * 6144
    assert float(activation_bytes(GPT, split=split, software=MEGATRON)) == pytest.approx(expected)


def test_korthikanti_figure_1() -> None:
    """22B on 8 A100: 59.25 GiB of activations without, 9.56 GiB with both techniques; about 46 GiB of states."""
    plain = memory(GPT, split=SPLIT, software=MEGATRON)
    both = memory(GPT, split=dataclasses.replace(SPLIT, sequence_parallel=1.0, selective=1.0), software=MEGATRON)
    assert float(plain.activations_bytes) / GIB == pytest.approx(59.25, rel=0.001)
    assert float(both.activations_bytes) / GIB == pytest.approx(9.5625, rel=0.001)
    assert float(plain.states_bytes) / GIB == pytest.approx(45.5625, rel=0.035)


@pytest.mark.parametrize(("stage", "expected_gb"), [(0.0, 120.0), (1.0, 31.4), (2.0, 16.6), (3.0, 1.9)])
def test_zero_figure_1(stage: float, expected_gb: float) -> None:
    """Rajbhandari et al. (SC'20), Figure 1: 7.5B parameters over 64 devices take 120, 31.4, 16.6 and 1.9 GB."""
    seven = Decoder(
        layers=36.0,
        width=4160.0,
        heads=32.0,
        kv_heads=32.0,
        head_width=130.0,
        feed_forward=16640.0,
        gated=0.0,
        vocabulary=1.0,
        tied=1.0,
    )
    assert float(seven.parameters) == pytest.approx(7.5e9, rel=0.01)
    fp16 = dataclasses.replace(MEGATRON, held_gradient_bytes=2.0)
    split = Split(dp=64.0, batch=64.0, micro_batch=1.0, sequence=2048.0, zero_stage=stage)
    assert float(memory(seven, split=split, software=fp16).states_bytes) == pytest.approx(expected_gb * 1e9, rel=0.02)


SPLITS = st.builds(
    Split,
    tp=st.sampled_from([1.0, 2.0, 8.0]),
    pp=st.sampled_from([1.0, 2.0, 8.0]),
    dp=st.sampled_from([1.0, 8.0, 64.0]),
    virtual=st.sampled_from([1.0, 3.0]),
    sequence_parallel=st.sampled_from([0.0, 1.0]),
    batch=st.just(4096.0),
    micro_batch=st.sampled_from([1.0, 4.0]),
    sequence=st.just(2048.0),
)


def total(split: Split, name: str) -> float:
    return float(memory(GPT, split=split, software=LEVELS[name]).total_bytes)


@given(SPLITS, st.sampled_from(sorted(LEVELS)))
def test_sharding_and_recomputing_more_never_need_more(split: Split, name: str) -> None:
    stages = [total(dataclasses.replace(split, zero_stage=float(stage)), name) for stage in range(4)]
    assert stages == sorted(stages, reverse=True)
    none, some, full = (
        total(dataclasses.replace(split, recompute=share, selective=cheap), name)
        for share, cheap in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0))
    )
    assert some <= none
    assert full <= none * 1.05  # a recomputed layer is there once while it runs
    bigger = total(dataclasses.replace(split, micro_batch=2.0 * split.micro_batch), name)
    assert bigger > total(split, name)
