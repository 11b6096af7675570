"""Splits in the words of frameworks: written, read back, refused."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.cost.split import Split
from myriarch.errors import SpecError
from myriarch.plan.flags import FRAMEWORKS, Framework, Launch, launch, read
from myriarch.plan.flags_megatron import chunks_of, layout_of
from myriarch.plan.recipe import recipe_of

LAYERS = 96


def split(**fields: float) -> Split:
    """GPT-3 on 1,024 devices, with what a test changes."""
    plain = Split(
        tp=8.0,
        pp=8.0,
        dp=16.0,
        virtual=4.0,
        sequence_parallel=1.0,
        zero_stage=1.0,
        batch=1536.0,
        micro_batch=1.0,
        sequence=2048.0,
        selective=1.0,
    )
    return dataclasses.replace(plain, **fields)


def test_megatron_lm() -> None:
    made = launch(split(), framework="megatron-lm", layers=LAYERS)
    assert " ".join(made.arguments) == (
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 8 --context-parallel-size 1 "
        "--micro-batch-size 1 --global-batch-size 1536 --seq-length 2048 --bf16 "
        "--num-virtual-stages-per-pipeline-rank 4 --sequence-parallel --use-distributed-optimizer "
        "--recompute-granularity selective --recompute-modules core_attn"
    )
    assert made.launcher == ("--nnodes=128", "--nproc-per-node=8")


def test_megatron_bridge() -> None:
    made = launch(
        split(narrow_share=1.0, zero_stage=3.0, shard=8.0), framework="megatron-bridge", layers=LAYERS, precision="fp8"
    )
    assert "mixed_precision=bf16_with_fp8_current_scaling_mixed" in made.arguments
    assert "model.virtual_pipeline_model_parallel_size=4" in made.arguments
    assert "ddp.data_parallel_sharding_strategy=optim_grads_params" in made.arguments
    assert "ddp.num_distributed_optimizer_instances=2" in made.arguments
    assert "dataset.seq_length=2048" in made.arguments


def test_torchtitan() -> None:
    made = launch(split(zero_stage=3.0, shard=8.0, selective=0.0, recompute=1.0), framework="torchtitan", layers=LAYERS)
    assert tomllib.loads(made.file) == {
        "training": {"local_batch_size": 96, "global_batch_size": 1536, "seq_len": 2048},
        "parallelism": {
            "data_parallel_replicate_degree": 2,
            "data_parallel_shard_degree": 8,
            "tensor_parallel_degree": 8,
            "pipeline_parallel_degree": 8,
            "context_parallel_degree": 1,
            "fsdp_reshard_after_forward": "always",
            "pipeline_parallel_schedule": "Interleaved1F1B",
            "pipeline_parallel_microbatch_size": 1,
            "pipeline_parallel_layers_per_stage": 3,
            "pipeline_parallel_first_stage_less_layers": 0,
            "pipeline_parallel_last_stage_less_layers": 0,
        },
        "activation_checkpoint": {"mode": "full"},
    }


@st.composite
def splits(draw: st.DrawFn) -> tuple[Split, str, bool]:
    tp, pp, cp = (draw(st.sampled_from([1, 2, 4, 8])) for _ in range(3))
    dp = draw(st.sampled_from([1, 2, 3, 16]))
    mixture = draw(st.booleans())
    virtual = draw(st.sampled_from([1, 2, 3])) if pp > 1 else 1
    recompute = draw(st.sampled_from([0.0, 0.5, 1.0]))
    precision = draw(st.sampled_from(["bf16", "fp8", "fp4"]))
    zero_stage = draw(st.sampled_from([0, 1, 2, 3]))
    made = Split(
        tp=float(tp),
        pp=float(pp),
        dp=float(dp),
        cp=float(cp),
        ep=float(draw(st.sampled_from([1, 2, 8]))),
        expert_tp=float(draw(st.sampled_from([1, tp]))),
        virtual=float(virtual),
        first_layers=float(draw(st.sampled_from([0, 0, 9])) if pp > 1 else 0),
        zero_bubble=float(draw(st.booleans())),
        sequence_parallel=float(draw(st.booleans())),
        zero_stage=float(zero_stage),
        shard=float(draw(st.sampled_from([0, cp, 2 * cp])) if zero_stage else 0),
        batch=float(48 * dp),
        micro_batch=float(draw(st.sampled_from([1, 2]))),
        sequence=4096.0,
        recompute=recompute,
        selective=float(draw(st.booleans())),
        narrow_share=float(precision != "bf16"),
        offload_optimizer=draw(st.sampled_from([0.0, 0.0, 0.5])),
    )
    return made, precision, mixture


def attempt(made: Split, framework: Framework, precision: str, mixture: bool) -> Launch | None:
    """None: refused."""
    try:
        return launch(
            made, framework=framework, layers=LAYERS, precision=precision, mixture=mixture, devices_per_node=1
        )
    except SpecError:
        return None


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_was_written_reads_back_the_same(framework: Framework) -> None:
    written = 0

    @settings(max_examples=600)  # few of them are in torchtitan's words
    @given(drawn=splits())
    def check(drawn: tuple[Split, str, bool]) -> None:
        nonlocal written
        made, precision, mixture = drawn
        launched = attempt(made, framework, precision, mixture)
        if launched is not None:
            written += 1
            assert read(launched, layers=LAYERS) == recipe_of(made, layers=LAYERS, precision=precision, mixture=mixture)

    check()
    assert written > 3


def test_uneven_stages() -> None:
    """126 layers in 4 stages, as even as they go; and 96 with a smaller first stage."""
    even = recipe_of(split(pp=4.0, virtual=1.0), layers=126)
    assert even.chunks == (32, 32, 31, 31)
    first = recipe_of(split(pp=4.0, virtual=1.0, stage_layers=25.0, first_layers=21.0), layers=96)
    assert first.chunks == (21, 25, 25, 25)
    assert layout_of(first.chunks) == "Et*21|t*25|t*25|t*25L"
    assert chunks_of(layout_of((3, 2, 1))) == (3, 2, 1)
    for framework in FRAMEWORKS:
        made = launch(split(pp=4.0, virtual=1.0, zero_stage=3.0), framework=framework, layers=126)
        assert read(made, layers=126).chunks == (32, 32, 31, 31)
    with pytest.raises(SpecError, match="do not lie in"):
        recipe_of(split(pp=4.0, virtual=1.0, stage_layers=20.0), layers=96)


def test_chunks_go_round_the_stages() -> None:
    """Two chunks on each of two stages of 5 and 3 layers: stage 0 has chunks 0 and 2."""
    recipe = recipe_of(split(pp=2.0, virtual=2.0, stage_layers=5.0), layers=8)
    assert recipe.chunks == (3, 2, 2, 1)
    assert recipe.virtual == 2


@pytest.mark.parametrize(
    ("framework", "fields", "precision", "path"),
    [
        ("megatron-lm", {"zero_bubble": 1.0, "virtual": 1.0}, "bf16", "zero_bubble"),
        ("megatron-lm", {"recompute": 0.5, "virtual": 1.0}, "bf16", "selective"),
        ("megatron-lm", {"recompute": 0.4, "virtual": 1.0}, "bf16", "recompute"),
        ("megatron-lm", {"narrow_share": 0.5}, "fp8", "narrow_share"),
        ("megatron-lm", {"tp": 1.0}, "bf16", "sequence_parallel"),
        ("megatron-lm", {"offload_activations": 0.5}, "bf16", "offload_activations"),
        ("megatron-lm", {"zero_stage": 1.0, "shard": 5.0}, "bf16", "shard"),
        ("megatron-lm", {"tp": 2.5}, "bf16", "tp"),
        ("torchtitan", {}, "bf16", "zero_stage"),
        ("torchtitan", {"zero_stage": 0.0}, "bf16", "zero_stage"),
        ("torchtitan", {"zero_stage": 3.0, "sequence_parallel": 0.0}, "bf16", "sequence_parallel"),
        ("torchtitan", {"zero_stage": 3.0, "zero_bubble": 1.0, "virtual": 1.0}, "bf16", "zero_bubble"),
        ("torchtitan", {"zero_stage": 3.0, "narrow_share": 1.0}, "fp4", "precision"),
        ("torchtitan", {"zero_stage": 3.0, "offload_optimizer": 1.0}, "bf16", "offload_optimizer"),
        ("torchtitan", {"zero_stage": 3.0, "sequence": 2050.0}, "bf16", "sequence"),
    ],
)
def test_what_a_framework_cannot_say_is_refused(
    framework: Framework, fields: dict[str, float], precision: str, path: str
) -> None:
    with pytest.raises(SpecError) as refused:
        launch(split(**fields), framework=framework, layers=LAYERS, precision=precision)
    assert refused.value.path == path
