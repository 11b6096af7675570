"""What the words of a published row are taken to mean: chips, clusters, frameworks, splits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from myriarch.cost.silicon import machine
from myriarch.cost.software import LEVELS
from myriarch.plan.completion import completed
from myriarch.plan.frameworks import level_name, software
from myriarch.plan.hardware import as_built, chip_called
from myriarch.plan.published import PublishedRun, read_published
from myriarch.spec.catalogue import lookup

H100 = machine(lookup("h100-sxm"))


@pytest.mark.parametrize(
    ("printed", "chip"),
    [
        ("A100-40", "a100-sxm-40"),
        ("A100-SXM4-80GB", "a100-sxm-80"),
        ("A100 PCIe", "a100-pcie-80"),
        ("H100-SXM-96GB-500W", "h100-sxm"),
        ("H100 PCIe", "h100-pcie"),
        ("H20", "h20"),
        ("GB200 NVL72", "gb200"),
        ("B300", "b300"),
        ("MI300X", "mi300x"),
        ("AMD Instinct MI355X 288GB", "mi355x"),
        ("TPUv5e", "tpu-v5e"),
        ("TPU v5p-1024", "tpu-v5p"),
        ("Trillium (v6e)", "tpu-v6e"),
        ("Gaudi 2", "gaudi2"),
        ("Intel Gaudi3", "gaudi3"),
        ("MetaX C500", "metax-c500"),
        ("BI-V150", "iluvatar-bi-v150"),
        ("Ascend 910B", "ascend-910b"),
    ],
)
def test_a_chip_by_what_sources_call_it(printed: str, chip: str) -> None:
    found = chip_called(printed)
    assert found is not None
    assert found.id == chip


@pytest.mark.parametrize("printed", ["abacus", "MI325X-or-MI355X", ""])
def test_a_chip_that_nobody_can_tell(printed: str) -> None:
    assert chip_called(printed) is None


def test_a_power_limit_and_slow_memory_are_read() -> None:
    words = "H100 96GB HBM2e 2.4 TB/s, 500 W power limit, 400 Gb/s per GPU"
    found = as_built(H100, words)
    assert (found.power_w, found.memory_bandwidth_bytes_per_s) == (500.0, 2.4e12)
    assert found.memory_bytes == 96 * 2.0**30
    assert as_built(H100, "DGX H100, NVLink4 450 GB/s/dir") == H100


@pytest.mark.parametrize(
    ("row", "source", "expected"),
    [
        ({"framework": "torchtitan", "compile": True}, {}, "fsdp-compiled"),
        ({"framework": "torchtitan", "compile": False}, {}, "fsdp-eager"),
        ({"src": "torchtitan_2412"}, {}, "fsdp-compiled"),
        ({"chip": "TPU v4"}, {"repo": "somebody/megatron"}, "xla"),
        ({}, {"repo": "AI-Hypercomputer/maxtext"}, "xla"),
        ({"src": "mlperf"}, {"repo": "mlcommons/training_results_v4.0"}, "nemo"),
        ({}, {"repo": "mosaicml/llm-foundry"}, "fsdp-2023"),
        ({}, {"repo": "kwai/Megatron-Kwai"}, "megatron-core"),
        ({"framework": "FlagScale"}, {}, "megatron-core"),
        ({"framework": "DeepSpeed ZeRO-3"}, {}, "fsdp-2023"),
        ({}, {"paper": "An unknown framework, OSDI 2021"}, "megatron-2021"),
        ({}, {"paper": "An unknown framework, 2027"}, "megatron-core"),
        ({"where": "26.08 on DGX-GB200"}, {"repo": "NVIDIA-NeMo/Megatron-Bridge"}, "megatron-bridge-graphs"),
        ({"where": "25.11 on DGX-GB200"}, {"repo": "NVIDIA-NeMo/Megatron-Bridge"}, "megatron-bridge"),
    ],
)
def test_a_framework_by_its_words(row: dict[str, Any], source: dict[str, Any], expected: str) -> None:
    assert level_name(row, source) == expected
    assert expected in LEVELS


def test_years_of_versions_and_flash_attention_taken_in() -> None:
    found = software({"src": "torchtitan_2412"}, {}, "fsdp-compiled", H100)
    assert found.year == pytest.approx(2024 + 11 / 12)
    of_a_round = software({"where": "mlperf v5.1 closed"}, {}, "nemo", H100)
    assert of_a_round.year == pytest.approx(2025.9)
    plain = software({}, {}, "megatron-deepspeed", H100)
    flash = software({"framework": "Megatron-DeepSpeed with flash attention 2"}, {}, "megatron-deepspeed", H100)
    assert (plain.flash_attention, flash.flash_attention) == (0.0, 1.0)


def _run(**changed: Any) -> PublishedRun:
    model = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "act": "swiglu"}
    row = {"id": "x-1", "src": "x", "model": "m", "chip": "H100-SXM", "gpus": 64, "gbs": 256, "seq": 8192}
    rest = {"prec": "bf16", "mbs": 1, "tp": 1, "pp": 1, "dp": 64, "tokens_per_gpu_s": 9000.0}
    document = {"format": 1, "sources": {"x": {}}, "models": {"m": model}, "rows": [{**row, **rest, **changed}]}
    (run,) = read_published(document)
    return run


def test_a_split_that_is_not_named_is_looked_for() -> None:
    run = _run(tp=None, pp=None, dp=None)
    assert not run.split_known
    split = completed(run).split
    assert split is not None
    assert float(split.devices) == 64


def test_a_slice_of_tpus_shards_over_all_of_it() -> None:
    run = _run(chip="TPUv5e", gpus=512, tp=None, pp=None, dp=None, gbs=1024)
    assert run.split is not None
    assert (run.split.zero_stage, float(run.split.sharded_over)) == (3.0, 256.0)


def test_a_batch_that_a_rate_hardly_depends_on_is_assumed() -> None:
    assert _run(gbs=None).split is not None
    assert "batch not given" in _run(gbs=None, pp=2, dp=32).reason


def test_fp32_is_half_as_many_values_at_the_rate_of_tf32() -> None:
    wide, single = _run().machine, _run(prec="fp32").machine
    assert wide is not None
    assert single is not None
    assert single.memory_bandwidth_bytes_per_s == wide.memory_bandwidth_bytes_per_s / 2
    assert single.matmul_flops_per_s == pytest.approx(wide.matmul_flops_per_s / 2, rel=0.01)


def test_selective_recomputation_is_half_of_all_in_torchtitan() -> None:
    ours, theirs = _run(recompute="selective").split, _run(recompute="selective", framework="torchtitan").split
    assert ours is not None
    assert theirs is not None
    assert (ours.recompute, ours.selective) == (0.0, 1.0)
    assert (theirs.recompute, theirs.selective) == (0.5, 0.0)


def test_offloaded_activations_are_read() -> None:
    for changed, share in (({"offload": 0.63}, 0.63), ({"recompute": "minimal_offloaded"}, 1.0), ({}, 0.0)):
        split = _run(**changed).split
        assert split is not None
        assert split.offload_activations == share


def test_a_share_of_the_peak_makes_a_time() -> None:
    rate, share = _run(), _run(tokens_per_gpu_s=None, mfu=45.0)
    assert rate.measured_step_s is not None
    assert share.measured_step_s is not None
    assert share.measured_from == "mfu"
    assert share.measured_step_s == pytest.approx(rate.measured_step_s, rel=0.35)
    assert dataclasses.replace(rate, measured_step_s=None).measured_from == "tokens_per_gpu_s"
