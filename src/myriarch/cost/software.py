"""Named levels of software maturity: which mechanisms a framework of some year has.

A level says what is fused, overlapped and captured, as its documentation of that year has it; how much that is worth
follows from the model's global constants. Nothing here is fitted to a run.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from myriarch.cost.split import Software

EAGER_HOST_S: Final = 2.5e-5
"""Of one kernel that PyTorch launches from a tree of modules: the interpreter, the dispatcher and autograd's record of
it; a compiled or captured program has less."""

_MEGATRON_2021: Final = Software(
    year=2021.3,
    flash_attention=0.0,
    eager=0.0,
    host_seconds=EAGER_HOST_S,
    tp_overlap=0.0,
    dp_overlap=0.0,
    ep_overlap=0.0,
    ep_once=0.0,
    pp_overlap=0.0,
    flat_collectives=0.0,
    gradient_bytes=2.0,
    accumulation_bytes=6.0,  # fp16: read both, write one
    dropout=1.0,
)
_FSDP: Final = dataclasses.replace(
    _MEGATRON_2021,
    year=2023.5,
    flash_attention=1.0,
    eager=1.0,
    dp_overlap=1.0,
    held_gradient_bytes=2.0,
    accumulation_bytes=0.0,  # sharded gradients are scattered in every micro-batch
    dropout=0.0,
    attention_year=2019.0,
    default_sequence_parallel=1.0,
    weight_casts=1.0,  # sharded weights are gathered in 16 bits, and cast where they arrive
)
_FSDP2: Final = dataclasses.replace(
    _FSDP,
    year=2024.3,
    attention_year=2020.5,
    held_gradient_bytes=4.0,  # of those that wait for other micro-batches of a pipeline: the precision of the reduction
    # torchtitan's `fsdp_reshard_after_forward`, and torch.distributed.pipelining's stage.py for FSDP modules.
    whole_in_pipelines=1.0,
    logit_bytes=10.0,  # of the product (2), in fp32 for the loss (4), its gradient (4)
)
_MEGATRON_CORE: Final = dataclasses.replace(
    _MEGATRON_2021,
    year=2024.2,
    flash_attention=1.0,
    host_seconds=6e-6,
    dp_overlap=1.0,
    pp_overlap=1.0,
    gradient_bytes=4.0,
    accumulation_bytes=10.0,  # two bytes read, four read and written
    dropout=0.0,
    default_zero_stage=1.0,
    default_sequence_parallel=1.0,
)

_MEGATRON_2023: Final = dataclasses.replace(_MEGATRON_CORE, year=2023.4, dp_overlap=0.0, pp_overlap=0.0)
_NEMO: Final = dataclasses.replace(
    _MEGATRON_CORE, tp_overlap=1.0, gradient_bytes=2.0, held_gradient_bytes=2.0, accumulation_bytes=4.0
)
"""Its recipes hold gradients in bf16."""

_BRIDGE: Final = dataclasses.replace(_NEMO, year=2025.7, ep_once=1.0)

LEVELS: Final[dict[str, Software]] = {
    # Megatron-LM of the SC'21 paper (arXiv:2104.04473): fused soft-max, no flash attention, collectives exposed.
    "megatron-2021": _MEGATRON_2021,
    # ...of Korthikanti et al. (arXiv:2205.05198): the backward all-reduce runs beside the weight gradient's product.
    "megatron-2022": dataclasses.replace(_MEGATRON_2021, year=2022.3, tp_overlap=0.3),
    # Megatron-DeepSpeed (BLOOM, vTrain): the kernels of 2021.
    "megatron-deepspeed": dataclasses.replace(_MEGATRON_2021, year=2021.8),
    # Intel's fork of it for Gaudi (MLPerf Training 3.0 to 4.0): graphs compiled ahead, optimizer states sharded.
    "megatron-deepspeed-gaudi": dataclasses.replace(
        _MEGATRON_2021, year=2023.8, flash_attention=1.0, host_seconds=0.0, default_zero_stage=1.0, dropout=0.0
    ),
    # DeepSpeed ZeRO-3 as SC'21 measured it: each tensor gathered by itself, by one network card of the node.
    "deepspeed-zero3-2021": dataclasses.replace(_MEGATRON_2021, dp_overlap=1.0, flat_collectives=1.0),
    # PyTorch FSDP, eager, with a portable flash attention in Triton and a fused loss (llm-foundry).
    "fsdp-2023": _FSDP,
    # PyTorch FSDP under torch.compile, FlashAttention-2 (fms-fsdp, torchtitan).
    "fsdp-compiled": dataclasses.replace(_FSDP2, eager=0.0, host_seconds=5e-6),
    # ...without torch.compile.
    "fsdp-eager": _FSDP2,
    # Pipelines and tensor parallelism of plain PyTorch modules (Sailor): nothing fused.
    "torch-eager": dataclasses.replace(
        _MEGATRON_2021, year=2024.0, eager=1.0, host_seconds=EAGER_HOST_S, gradient_bytes=4.0, logit_bytes=12.0
    ),
    # Megatron-LM of 2023, with flash attention and sequence parallelism: gradients and sends not overlapped yet
    # (--overlap-grad-reduce and --overlap-param-gather came with Megatron-Core 0.5).
    "megatron-2023": _MEGATRON_2023,
    # Megatron-Core with Transformer Engine and cuDNN's attention: gradients and sends overlapped.
    "megatron-core": _MEGATRON_CORE,
    # NeMo with user buffers: tensor-parallel collectives in pieces beside the products.
    # Gradients are added up in the products' epilogue.
    "nemo": dataclasses.replace(_NEMO, year=2024.5),
    # Megatron-Bridge 25.09 to 26.04: dropless mixtures, one launch for each expert's product, DeepEP's dispatch.
    "megatron-bridge": _BRIDGE,
    # ...from 26.06: whole iterations captured in graphs, experts grouped, all-to-all beside compute.
    "megatron-bridge-graphs": dataclasses.replace(_BRIDGE, year=2026.4, host_seconds=0.0, ep_overlap=1.0),
    # MaxText: one program compiled by XLA, no launches.
    "xla": dataclasses.replace(_NEMO, year=2025.0, host_seconds=0.0, context_bytes=0.5e9),
}
"""What each level is called and can do, oldest first."""


def level(name: str, *, year: float | None = None) -> Software:
    """The level called `name`, at another year if given: its libraries have come further."""
    found = LEVELS[name]
    return found if year is None else dataclasses.replace(found, year=year)
