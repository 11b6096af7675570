"""A split in whole numbers, as a framework is told it: what `plan.flags` writes and reads back.

The cost model keeps a split in numbers or arrays, with shares where a framework counts layers. A recipe is one split,
with the layers of every pipeline chunk spelt out. What has no whole number is refused here; what a framework has no
word for is refused by its writer.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from myriarch.cost.split import Split
from myriarch.errors import SpecError
from myriarch.event.base import Value

Precision = Literal["bf16", "fp8", "fp4"]


class Recipe(Value, frozen=True, kw_only=True):
    """One split. `tp * pp * cp * dp` is the number of devices."""

    tp: int
    pp: int
    dp: int
    cp: int
    ep: int
    expert_tp: int
    """Of a dense model 1, and so is `ep`."""
    chunks: tuple[int, ...]
    """Layers of each pipeline chunk in the model's order: `pp * virtual` of them; chunk i is on stage i % pp."""
    zero_bubble: bool
    sequence_parallel: bool
    zero_stage: int
    """0 where there is nothing to shard over."""
    shard: int
    """Devices that ZeRO shards over, of the `dp * cp` there are."""
    batch: int
    micro_batch: int
    sequence: int
    recomputed: int
    """Layers of each chunk that are computed anew in full; -1: all of them."""
    selective: bool
    precision: Precision
    offload_optimizer: float = 0.0
    """Share of the optimizer's states in the host's memory."""

    @property
    def devices(self) -> int:
        return self.tp * self.pp * self.cp * self.dp

    @property
    def layers(self) -> int:
        return sum(self.chunks)

    @property
    def virtual(self) -> int:
        return len(self.chunks) // self.pp

    @property
    def is_even(self) -> bool:
        return len(set(self.chunks)) == 1


def recipe_of(split: Split, *, layers: int, precision: str = "bf16", mixture: bool = False) -> Recipe:
    """The split as whole numbers. `mixture`: the model has experts. Raises SpecError, naming the field, when a number
    is not whole, or what it asks for cannot be laid out."""
    tp, pp, dp, cp = (_whole(split, name) for name in ("tp", "pp", "dp", "cp"))
    chunks = _chunks(split, layers=layers, pp=pp, virtual=_whole(split, "virtual"))
    replicas = dp * cp
    zero_stage = _whole(split, "zero_stage") if replicas > 1 else 0
    shard = _whole(split, "shard") or replicas
    return Recipe(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=_whole(split, "ep") if mixture else 1,
        expert_tp=_whole(split, "expert_tp") if mixture else 1,
        chunks=chunks,
        zero_bubble=_flag(split, "zero_bubble"),
        sequence_parallel=_flag(split, "sequence_parallel"),
        zero_stage=zero_stage,
        shard=min(shard, replicas) if zero_stage else replicas,
        batch=_whole(split, "batch"),
        micro_batch=_whole(split, "micro_batch"),
        sequence=_whole(split, "sequence"),
        recomputed=_recomputed(split, chunks),
        selective=_flag(split, "selective") and _number(split, "recompute") < 1,
        precision=_precision(split, precision),
        offload_optimizer=_offloaded(split),
    )


def even_chunks(layers: int, count: int) -> tuple[int, ...]:
    """As even as they go, the larger ones first."""
    return tuple(layers // count + (index < layers % count) for index in range(count))


def _number(split: Split, name: str) -> float:
    value = np.asarray(getattr(split, name), dtype=np.float64)
    if value.size != 1:
        raise SpecError(f"{value.size} splits at once; give one", path=name)
    return float(value.reshape(()))


def _whole(split: Split, name: str) -> int:
    value = _number(split, name)
    if value != round(value) or value < 0:
        raise SpecError(f"{value:g} is not a whole number; a framework takes none else", path=name)
    return round(value)


def _flag(split: Split, name: str) -> bool:
    value = _number(split, name)
    if value not in (0.0, 1.0):
        raise SpecError(f"{value:g} is neither all nor none; a framework does it or does not", path=name)
    return value == 1.0


def _chunks(split: Split, *, layers: int, pp: int, virtual: int) -> tuple[int, ...]:
    most, first = _whole(split, "stage_layers"), _whole(split, "first_layers")
    if pp == 1:
        stages: tuple[int, ...] = (layers,)
    elif not most and not first:
        stages = even_chunks(layers, pp)
    else:
        most = most or max(-(-layers // pp), first)
        inner = [first or most, *[most] * (pp - 2)]
        stages = (*inner, layers - sum(inner))
    if min(stages) < virtual or (most and max(stages) > most):
        raise SpecError(
            f"{layers} layers do not lie in {pp} stages of {virtual} chunks as {list(stages)}: every chunk needs one, "
            "and no stage has more than the fullest",
            path="stage_layers",
        )
    # Chunk a of stage b is number a * pp + b of the model.
    cut = [even_chunks(stage, virtual) for stage in stages]
    return tuple(itertools.chain.from_iterable(zip(*cut, strict=True)))


def _recomputed(split: Split, chunks: tuple[int, ...]) -> int:
    share = _number(split, "recompute")
    if share == 1.0:
        return -1
    layers = share * max(chunks)
    if abs(layers - round(layers)) > 1e-6:
        raise SpecError(
            f"{share:g} of {max(chunks)} layers is not a number of layers; use a multiple of {1 / max(chunks):.4g}",
            path="recompute",
        )
    return round(layers)


def _precision(split: Split, precision: str) -> Precision:
    share = _number(split, "narrow_share")
    if precision in ("bf16", "fp16") or share == 0.0:
        if precision == "fp16":
            raise SpecError("fp16 needs loss scaling, which is not planned; use bf16", path="precision")
        return "bf16"
    if share != 1.0:
        raise SpecError(
            f"{share:g} of the products in {precision}: a framework's recipe takes those of all layers; use 1",
            path="narrow_share",
        )
    if precision == "fp8":
        return "fp8"
    if precision == "fp4":
        return "fp4"
    raise SpecError(f"`{precision}` is not bf16, fp8 or fp4", path="precision")


def _offloaded(split: Split) -> float:
    if _number(split, "offload_activations"):
        raise SpecError(
            "frameworks offload the activations of named modules, not a share of all; take 0 and set it by hand",
            path="offload_activations",
        )
    return _number(split, "offload_optimizer")
