"""A recipe as options of Megatron-LM and overrides of Megatron Bridge, and back.

Names checked in the sources: Megatron-LM at d98e8a6 (2026-08-22: `megatron/training/arguments.py`, and the options made
from `core/model_parallel_config.py` and `core/transformer/transformer_config.py`), Megatron Bridge at 067f987
(2026-08-22: `scripts/translate_mlm_to_bridge.py`, `docs/megatron-lm-to-megatron-bridge.md`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from myriarch.errors import SpecError
from myriarch.plan.recipe import Precision, Recipe, even_chunks

Options = dict[str, str]
"""Option, without dashes, to its value; empty: a switch."""

SHARDING: Final = {2: "optim_grads", 3: "optim_grads_params"}

BRIDGE: Final[dict[str, tuple[str, ...]]] = {
    "tensor-model-parallel-size": ("model.tensor_model_parallel_size",),
    "pipeline-model-parallel-size": ("model.pipeline_model_parallel_size",),
    "num-virtual-stages-per-pipeline-rank": ("model.virtual_pipeline_model_parallel_size",),
    "pipeline-model-parallel-layout": ("model.pipeline_model_parallel_layout",),
    "context-parallel-size": ("model.context_parallel_size",),
    "sequence-parallel": ("model.sequence_parallel",),
    "expert-model-parallel-size": ("model.expert_model_parallel_size",),
    "expert-tensor-parallel-size": ("model.expert_tensor_parallel_size",),
    "micro-batch-size": ("train.micro_batch_size",),
    "global-batch-size": ("train.global_batch_size",),
    "seq-length": ("model.seq_length", "dataset.seq_length"),
    "use-distributed-optimizer": ("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer"),
    "use-megatron-fsdp": ("ddp.use_megatron_fsdp", "dist.use_megatron_fsdp"),
    "data-parallel-sharding-strategy": ("ddp.data_parallel_sharding_strategy",),
    "num-distributed-optimizer-instances": ("ddp.num_distributed_optimizer_instances",),
    "ckpt-format": ("checkpoint.ckpt_format",),
    "recompute-granularity": ("model.recompute_granularity",),
    "recompute-method": ("model.recompute_method",),
    "recompute-num-layers": ("model.recompute_num_layers",),
    "recompute-modules": ("model.recompute_modules",),
    "optimizer-cpu-offload": ("optimizer.optimizer_cpu_offload",),
    "optimizer-offload-fraction": ("optimizer.optimizer_offload_fraction",),
    "use-precision-aware-optimizer": ("optimizer.use_precision_aware_optimizer",),
}
MIXED: Final[dict[Precision, str]] = {
    "bf16": "bf16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "fp4": "bf16_with_nvfp4_mixed",
}
NARROW: Final[dict[Precision, Options]] = {
    "bf16": {},
    "fp8": {"fp8-format": "hybrid", "fp8-recipe": "tensorwise"},
    "fp4": {"fp4-format": "e2m1", "fp4-recipe": "nvfp4"},
}
QUOTED: Final = re.compile(r'^"(.*)"$')


def options_of(recipe: Recipe) -> Options:
    """Megatron-LM's options. Raises SpecError for what it has no option for."""
    _refuse(recipe)
    options: Options = {
        "tensor-model-parallel-size": str(recipe.tp),
        "pipeline-model-parallel-size": str(recipe.pp),
        "context-parallel-size": str(recipe.cp),
        "micro-batch-size": str(recipe.micro_batch),
        "global-batch-size": str(recipe.batch),
        "seq-length": str(recipe.sequence),
        "bf16": "",
        **NARROW[recipe.precision],
    }
    if recipe.pp > 1 and not recipe.is_even:
        options["pipeline-model-parallel-layout"] = layout_of(recipe.chunks)
    elif recipe.virtual > 1:
        options["num-virtual-stages-per-pipeline-rank"] = str(recipe.virtual)
    if recipe.sequence_parallel:
        options["sequence-parallel"] = ""
    if recipe.ep > 1 or recipe.expert_tp > 1:
        options["expert-model-parallel-size"] = str(recipe.ep)
        options["expert-tensor-parallel-size"] = str(recipe.expert_tp)
    if recipe.zero_stage >= 1:
        options["use-distributed-optimizer"] = ""
    if recipe.zero_stage >= 2:
        options["use-megatron-fsdp"] = ""
        options["data-parallel-sharding-strategy"] = SHARDING[recipe.zero_stage]
        options["ckpt-format"] = "fsdp_dtensor"
    if recipe.zero_stage and recipe.shard < recipe.dp * recipe.cp:
        options["num-distributed-optimizer-instances"] = str(recipe.dp * recipe.cp // recipe.shard)
    if recipe.recomputed == -1:
        options |= {"recompute-granularity": "full", "recompute-method": "uniform", "recompute-num-layers": "1"}
    elif recipe.recomputed:
        options |= {
            "recompute-granularity": "full",
            "recompute-method": "block",
            "recompute-num-layers": str(recipe.recomputed),
        }
    elif recipe.selective:
        options |= {"recompute-granularity": "selective", "recompute-modules": "core_attn"}
    if recipe.offload_optimizer:
        options |= {
            "optimizer-cpu-offload": "",
            "optimizer-offload-fraction": f"{recipe.offload_optimizer:g}",
            "use-precision-aware-optimizer": "",
        }
    return options


def _refuse(recipe: Recipe) -> None:
    if recipe.zero_bubble:
        raise SpecError("Megatron-LM has 1F1B and interleaved 1F1B only; plan without", path="zero_bubble")
    if recipe.zero_stage and (recipe.dp * recipe.cp) % recipe.shard:
        raise SpecError(f"{recipe.shard} does not divide {recipe.dp * recipe.cp} replicas", path="shard")
    if recipe.recomputed > 0 and recipe.selective:
        raise SpecError(
            "Megatron-LM recomputes in full or selectively, not some layers so and the others so; take one",
            path="selective",
        )
    if recipe.sequence_parallel and recipe.tp == 1:
        raise SpecError("Megatron-LM shards sequences over tp, which is 1; plan without", path="sequence_parallel")
    if recipe.ep > 1 and recipe.tp > 1 and not recipe.sequence_parallel:
        raise SpecError("Megatron-LM wants it with experts and tp > 1; plan with it", path="sequence_parallel")


def recipe_of_options(options: Mapping[str, str], *, devices: int, layers: int) -> Recipe:
    """What options say, on so many devices, of a model of so many layers."""

    def number(name: str, default: int = 1) -> int:
        return int(options.get(name, default))

    tp, pp, cp = (number(f"{axis}-parallel-size") for axis in ("tensor-model", "pipeline-model", "context"))
    dp = devices // (tp * pp * cp)
    layout = options.get("pipeline-model-parallel-layout")
    chunks = (
        even_chunks(layers, pp * number("num-virtual-stages-per-pipeline-rank"))
        if layout is None
        else chunks_of(layout)
    )
    strategy = options.get("data-parallel-sharding-strategy")
    stages = {name: stage for stage, name in SHARDING.items()}
    zero_stage = stages[strategy] if strategy is not None else int("use-distributed-optimizer" in options)
    full = options.get("recompute-granularity") == "full"
    uniform = options.get("recompute-method") == "uniform"
    precision: Precision = "fp8" if "fp8-format" in options else "fp4" if "fp4-format" in options else "bf16"
    return Recipe(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=number("expert-model-parallel-size"),
        expert_tp=number("expert-tensor-parallel-size"),
        chunks=chunks,
        zero_bubble=False,
        sequence_parallel="sequence-parallel" in options,
        zero_stage=zero_stage,
        shard=dp * cp // number("num-distributed-optimizer-instances"),
        batch=number("global-batch-size"),
        micro_batch=number("micro-batch-size"),
        sequence=number("seq-length"),
        recomputed=(-1 if uniform else number("recompute-num-layers")) if full else 0,
        selective=options.get("recompute-granularity") == "selective",
        precision=precision,
        offload_optimizer=float(options.get("optimizer-offload-fraction", 0.0)),
    )


def layout_of(chunks: Sequence[int]) -> str:
    """Megatron's layout: `E` embedding, `t` a layer, `L` the loss, `|` between chunks: `Et*13|t*13|t*12L`."""
    return "|".join(
        ("E" if index == 0 else "") + f"t*{layers}" + ("L" if index == len(chunks) - 1 else "")
        for index, layers in enumerate(chunks)
    )


def chunks_of(layout: str) -> tuple[int, ...]:
    """Layers of each chunk of a layout that `layout_of` wrote."""
    return tuple(int(part.strip("EL").removeprefix("t*")) for part in layout.split("|"))


def arguments_of(options: Mapping[str, str]) -> tuple[str, ...]:
    """As a command line has them."""
    return tuple(word for name, value in options.items() for word in (f"--{name}", *([value] if value else [])))


def options_of_arguments(arguments: Sequence[str]) -> Options:
    """A command line read back."""
    options: Options = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name = word.removeprefix("--")
            options[name] = ""
        else:
            options[name] = word
    return options


def overrides_of(options: Mapping[str, str]) -> tuple[str, ...]:
    """Megatron Bridge's overrides, in the syntax of Hydra."""
    narrowed = (name for name, narrow in NARROW.items() if narrow and narrow.items() <= options.items())
    precision: Precision = next(narrowed, "bf16")
    words = [f"mixed_precision={MIXED[precision]}"]
    for name, value in options.items():
        written = {"recompute-modules": f"[{value}]", "pipeline-model-parallel-layout": f'"{value}"'}.get(name, value)
        words.extend(f"{key}={written or 'true'}" for key in BRIDGE.get(name, ()))
    return tuple(words)


def options_of_overrides(overrides: Sequence[str]) -> Options:
    """Overrides read back as options."""
    names = {key: name for name, keys in BRIDGE.items() for key in keys}
    options: Options = {"bf16": ""}
    for word in overrides:
        key, _, value = word.partition("=")
        if key == "mixed_precision":
            options |= NARROW[next(precision for precision, name in MIXED.items() if name == value)]
        else:
            plain = QUOTED.sub(r"\1", value).strip("[]")
            options[names[key]] = "" if plain == "true" else plain
    return options
