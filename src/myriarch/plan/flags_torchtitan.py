"""A recipe as a job file of torchtitan, and back.

Names checked in the sources of v0.2.2 (2026-02-20, `torchtitan/config/job_config.py`), the last release that reads
TOML. Later versions take the same names as fields of `ParallelismConfig`, `TrainingConfig`, ... in a Python function,
except the batch, which they count in tokens.
"""

from __future__ import annotations

import tomllib
from typing import Any, Final, Literal

from myriarch.errors import SpecError
from myriarch.plan.recipe import Recipe, even_chunks

Section = dict[str, str | int | bool | list[str] | list[list[str]]]
Job = dict[str, Section]

SCHEDULES: Final[dict[tuple[bool, bool], str]] = {
    (False, False): "1F1B",
    (True, False): "Interleaved1F1B",
    (True, True): "InterleavedZeroBubble",
}
"""By (several chunks on a stage, zero-bubble), as `torch.distributed.pipelining` names them."""
RESHARD: Final[dict[int, Literal["never", "always"]]] = {2: "never", 3: "always"}
"""What FSDP2 does with gathered weights after the forward pass."""
FLOAT8: Final = "quantize.linear.float8"


def job_of(recipe: Recipe) -> Job:
    """The sections that a split decides. Raises SpecError for what torchtitan cannot do."""
    _refuse(recipe)
    replicate = recipe.dp * recipe.cp // recipe.shard if recipe.zero_stage else recipe.dp
    parallelism: Section = {
        "data_parallel_replicate_degree": replicate,
        "data_parallel_shard_degree": recipe.dp // replicate,
        "tensor_parallel_degree": recipe.tp,
        "pipeline_parallel_degree": recipe.pp,
        "context_parallel_degree": recipe.cp,
    }
    if recipe.zero_stage:
        parallelism["fsdp_reshard_after_forward"] = RESHARD[recipe.zero_stage]
    if recipe.ep > 1:
        parallelism["expert_parallel_degree"] = recipe.ep
    if recipe.ep > 1 or recipe.expert_tp > 1:
        parallelism["expert_tensor_parallel_degree"] = recipe.expert_tp
    if recipe.pp > 1:
        parallelism["pipeline_parallel_schedule"] = SCHEDULES[recipe.virtual > 1, recipe.zero_bubble]
        parallelism["pipeline_parallel_microbatch_size"] = recipe.micro_batch
        if recipe.is_even:
            parallelism["pipeline_parallel_layers_per_stage"] = recipe.chunks[0]
            parallelism["pipeline_parallel_first_stage_less_layers"] = 0
            parallelism["pipeline_parallel_last_stage_less_layers"] = 0
        else:
            parallelism["module_fqns_per_model_part"] = _modules(recipe)
    local = recipe.micro_batch if recipe.pp == 1 else recipe.batch // recipe.dp
    job: Job = {
        "training": {
            "local_batch_size": local,
            "global_batch_size": recipe.batch,
            "seq_len": recipe.sequence,
        },
        "parallelism": parallelism,
        "activation_checkpoint": _checkpointing(recipe),
    }
    if recipe.precision == "fp8":
        job["model"] = {"converters": [FLOAT8]}
        job[FLOAT8] = {"recipe_name": "rowwise"}
    return job


def _refuse(recipe: Recipe) -> None:
    sharded = recipe.dp * recipe.cp
    if recipe.tp > 1 and not recipe.sequence_parallel:
        raise SpecError(
            "torchtitan's tensor parallelism always shards norms too; plan with it", path="sequence_parallel"
        )
    if recipe.sequence_parallel and recipe.tp == 1:
        raise SpecError("torchtitan shards sequences over tp, which is 1; plan without", path="sequence_parallel")
    if recipe.zero_stage == 1:
        raise SpecError(
            "torchtitan has FSDP2: ZeRO 2 or 3, or plain replicas; plan with one of these", path="zero_stage"
        )
    if sharded > 1 and not recipe.zero_stage and recipe.tp * recipe.pp * recipe.cp > 1:
        raise SpecError("torchtitan replicates without sharding only where dp is all there is", path="zero_stage")
    if recipe.zero_stage and (sharded % recipe.shard or recipe.shard % recipe.cp):
        raise SpecError(
            f"torchtitan shards over cp and a part of dp: {recipe.shard} of {sharded} is no such group", path="shard"
        )
    if recipe.zero_bubble and recipe.virtual == 1:
        raise SpecError("torchtitan's zero-bubble schedules need two chunks on a stage", path="zero_bubble")
    if recipe.recomputed > 0 and (
        recipe.selective or len({*recipe.chunks}) > 1 or recipe.chunks[0] % recipe.recomputed
    ):
        raise SpecError("torchtitan recomputes every n-th layer: take a share of 1/n, not selective", path="recompute")
    if recipe.expert_tp not in (1, recipe.tp):
        raise SpecError(f"torchtitan splits an expert over 1 or all {recipe.tp} of tp", path="expert_tp")
    if recipe.precision == "fp4":
        raise SpecError("torchtitan trains in bf16, fp8 and MXFP8; plan with one of these", path="precision")
    if recipe.precision == "fp8" and recipe.ep > 1:
        raise SpecError("torchtitan's fp8 of experts is a prototype; plan those in bf16", path="precision")
    if recipe.offload_optimizer:
        raise SpecError(
            "torchtitan offloads weights and gradients with the states, or nothing", path="offload_optimizer"
        )
    if recipe.sequence % (recipe.tp * 2 * recipe.cp):
        raise SpecError(f"torchtitan wants a multiple of tp x 2 cp = {recipe.tp * 2 * recipe.cp}", path="sequence")


def _checkpointing(recipe: Recipe) -> Section:
    if recipe.recomputed == -1:
        return {"mode": "full"}
    if recipe.recomputed:
        return {"mode": "selective", "selective_ac_option": str(recipe.chunks[0] // recipe.recomputed)}
    return {"mode": "selective", "selective_ac_option": "op"} if recipe.selective else {"mode": "none"}


def _modules(recipe: Recipe) -> list[list[str]]:
    parts: list[list[str]] = []
    first = 0
    for layers in recipe.chunks:
        parts.append([f"layers.{index}" for index in range(first, first + layers)])
        first += layers
    parts[0].insert(0, "tok_embeddings")
    parts[-1].extend(["norm", "output"])
    return parts


def toml_of(job: Job) -> str:
    """The file's text."""
    lines: list[str] = []
    for section, fields in job.items():
        lines += [f"[{section}]", *(f"{name} = {_written(value)}" for name, value in fields.items()), ""]
    return "\n".join(lines)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_written(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def recipe_of_toml(text: str, *, layers: int) -> Recipe:
    """What a file says of a model of so many layers."""
    job = tomllib.loads(text)
    parallelism, training = job["parallelism"], job["training"]
    tp, pp, cp = (int(parallelism[f"{axis}_parallel_degree"]) for axis in ("tensor", "pipeline", "context"))
    replicate, shard = (int(parallelism[f"data_parallel_{way}_degree"]) for way in ("replicate", "shard"))
    dp = replicate * shard
    reshard = parallelism.get("fsdp_reshard_after_forward")
    zero_stage = next((stage for stage, name in RESHARD.items() if name == reshard), 0)
    chunks = _chunks_of(parallelism, layers)
    mode, option = job["activation_checkpoint"]["mode"], job["activation_checkpoint"].get("selective_ac_option", "")
    return Recipe(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=int(parallelism.get("expert_parallel_degree", 1)),
        expert_tp=int(parallelism.get("expert_tensor_parallel_degree", 1)),
        chunks=chunks,
        zero_bubble=parallelism.get("pipeline_parallel_schedule") == SCHEDULES[True, True],
        sequence_parallel=tp > 1,
        zero_stage=zero_stage,
        shard=shard * cp if zero_stage else dp * cp,
        batch=int(training["global_batch_size"]),
        micro_batch=int(parallelism.get("pipeline_parallel_microbatch_size", training["local_batch_size"])),
        sequence=int(training["seq_len"]),
        recomputed=-1 if mode == "full" else chunks[0] // int(option) if option.isdecimal() else 0,
        selective=option == "op",
        precision="fp8" if FLOAT8 in job.get("model", {}).get("converters", ()) else "bf16",
    )


def _chunks_of(parallelism: dict[str, Any], layers: int) -> tuple[int, ...]:
    parts = parallelism.get("module_fqns_per_model_part")
    if parts is not None:
        return tuple(sum(name.startswith("layers.") for name in part) for part in parts)
    return even_chunks(layers, layers // int(parallelism.get("pipeline_parallel_layers_per_stage", layers)))
