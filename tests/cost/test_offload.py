"""Offload to the host: invariants, and what papers measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import memory
from myriarch.cost.offload import Host, activations_s, fits_host, host_bytes, optimizer_s
from myriarch.cost.silicon import HOSTS, host, machine
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Machine, Split
from myriarch.cost.step import StepTime, step_time
from myriarch.spec.catalogue import lookup

LLAMA_70B = Decoder(
    layers=80.0,
    width=8192.0,
    heads=64.0,
    kv_heads=8.0,
    head_width=128.0,
    feed_forward=28672.0,
    gated=1.0,
    vocabulary=128256.0,
)
H100, GH200 = machine(lookup("h100-sxm")), machine(lookup("gh200-96"))
CONSTANTS = CALIBRATED["all"]
SOFTWARE = LEVELS["megatron-core"]
SPLIT = Split(tp=4.0, pp=4.0, dp=4.0, batch=128.0, micro_batch=1.0, sequence=8192.0, zero_stage=1.0)


def step(split: Split = SPLIT, *, on: Machine = H100) -> StepTime:
    return step_time(LLAMA_70B, machine=on, split=split, software=SOFTWARE, parameters=CONSTANTS)


def test_nothing_offloaded_changes_nothing() -> None:
    assert float(step().offload_s) == 0.0
    host_of = Host.of(H100)
    assert float(optimizer_s(1e9, 0.02, share=0.0, window_s=1.0, host=host_of, p=CONSTANTS)) == pytest.approx(0.02)


def test_the_host_s_adam_takes_what_zero_offload_measured() -> None:
    """Ren et al. (arXiv:2101.06840), table 4: 2.57 s for 10 billion parameters on a DGX-2's host."""
    dgx2 = dataclasses.replace(H100, host_memory_bandwidth_bytes_per_s=256e9, host_link_bandwidth_bytes_per_s=1e12)
    found = optimizer_s(10e9, 0.0, share=1.0, window_s=10.0, host=Host.of(dgx2), p=CONSTANTS)
    assert float(found) == pytest.approx(2.57, rel=0.1)


def test_a_coherent_link_has_what_its_data_sheet_says() -> None:
    assert host(lookup("gh200-96")) == HOSTS["gh200"]
    assert GH200.host_link_bandwidth_bytes_per_s == 450e9
    assert machine(lookup("gb200")).host_link_bandwidth_bytes_per_s == 225e9
    assert H100.host_link_bandwidth_bytes_per_s == 64e9
    assert machine(lookup("a100-sxm-80")).host_link_bandwidth_bytes_per_s == 32e9


def test_what_leaves_the_device_is_in_the_host() -> None:
    whole = memory(LLAMA_70B, split=SPLIT, software=SOFTWARE)
    for field, kind in (("offload_optimizer", "optimizer_bytes"), ("offload_activations", "activations_bytes")):
        half, all_of_it = (
            memory(LLAMA_70B, split=dataclasses.replace(SPLIT, **{field: share}), software=SOFTWARE)
            for share in (0.5, 1.0)
        )
        assert getattr(all_of_it, kind) < getattr(half, kind) < getattr(whole, kind)
        assert float(all_of_it.total_bytes) < float(whole.total_bytes)
    assert (
        float(
            memory(
                LLAMA_70B, split=dataclasses.replace(SPLIT, offload_optimizer=1.0), software=SOFTWARE
            ).optimizer_bytes
        )
        == 0.0
    )
    needed = host_bytes(1e9, 5e9, split=dataclasses.replace(SPLIT, offload_optimizer=0.5))
    assert float(needed) == pytest.approx(0.5 * 14e9 + 5e9)
    assert bool(fits_host(needed, H100))
    assert not bool(fits_host(1e12, H100))


def test_a_coherent_link_hides_what_pcie_shows() -> None:
    """SuperOffload (arXiv:2509.21271): what NVLink-C2C is for."""
    offloaded = dataclasses.replace(SPLIT, offload_activations=1.0)
    slow = dataclasses.replace(GH200, host_link_bandwidth_bytes_per_s=16e9)
    assert float(step(offloaded, on=GH200).offload_s) < 0.2 * float(step(offloaded, on=slow).offload_s)


@given(st.floats(0.0, 1.0), st.floats(1.0, 8.0), st.sampled_from(["offload_optimizer", "offload_activations"]))
def test_a_faster_host_is_never_slower(share: float, factor: float, field: str) -> None:
    split = dataclasses.replace(SPLIT, **{field: share})
    before = float(step(split).total_s)
    for name in (
        "host_link_bandwidth_bytes_per_s",
        "host_memory_bandwidth_bytes_per_s",
        "memory_bandwidth_bytes_per_s",
    ):
        faster = dataclasses.replace(H100, **{name: getattr(H100, name) * factor})
        assert float(step(split, on=faster).total_s) <= before * (1 + 1e-9), name


@given(st.floats(1e6, 1e11), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_copies_never_save_time(kept: float, forward_s: float, backward_s: float) -> None:
    lost = activations_s(
        kept, forward_s=forward_s, backward_s=backward_s, machine=H100, memory_bytes_per_s=2.5e12, p=CONSTANTS
    )
    assert 0.0 <= float(lost) <= 2.0 * kept / float(Host.of(H100).link_bytes_per_s) + 2.0 * kept / 2.5e12
    assert np.isfinite(lost)
