"""How a published run was split, out of its row: parallel sizes, stages, sharding, recomputation, precision, batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from myriarch.cost.split import Software, Split
from myriarch.plan.frameworks import recomputes_half
from myriarch.plan.unlike_rows import Lacking, NamedStage
from myriarch.spec.fleet import Chip

NARROW: Final[tuple[tuple[str, str, float], ...]] = (("fp4", "fp4", 0.5), ("fp8", "fp8", 1.0), ("int8", "int8", 1.0))
"""Words for a precision, its name, bytes of a value."""
ASSUMED_MICRO_BATCHES: Final = 8
"""Of each replica, where a row prints a rate and no batch."""
HALF: Final = 0.5
"""Share of the layers' products that selective recomputation repeats where it takes every second one."""
FIRST_PRODUCT: Final = 1.0 / 3.0
"""Share of a layer's products that MaxText repeats when it keeps all but the MLP's first: 8 of 24 h^2."""
OFFLOADED: Final = ("offload", "offload_ratio", "offload_alpha", "alpha")
"""What rows call the share of the activations that goes to the host's memory."""


def precision_of(row: Mapping[str, Any]) -> str:
    """`bf16` for all of 16 and 32 bits, `fp8`, `int8`, `fp4`."""
    printed = str(row.get("prec") or "bf16").lower()
    return next((name for word, name, _ in NARROW if word in printed), "bf16")


def names_split(row: Mapping[str, Any]) -> bool:
    """Whether a row says how its model was split, or that it was sharded over all devices."""
    return _sharded(row) or any(row.get(key) is not None for key in ("tp", "pp", "dp"))


def layout(
    row: Mapping[str, Any],
    source: Mapping[str, Any],
    shape: Mapping[str, Any],
    *,
    precision: str,
    software: Software,
    chip: Chip,
) -> Split:
    """The split of a row. Raises Lacking when it cannot be told."""
    devices = row.get("gpus")
    sequence = row.get("seq") or shape.get("seq")
    if not devices or not sequence:
        raise Lacking("number of devices or length of the sequence not given")
    tp, pp, cp = (int(row.get(key) or 1) for key in ("tp", "pp", "cp"))
    dp = int(row.get("dp") or devices // (tp * pp * cp))
    # On TPUs, where a row does not say otherwise, weights are sharded over all chips of a slice (MaxText's default).
    sharded = _sharded(row) or (chip.id.startswith("tpu") and not names_split(row))
    batch = _batch(row, dp=dp, pp=pp, sharded=sharded)
    if tp * pp * cp * dp != devices:
        raise Lacking(f"tp {tp} x pp {pp} x cp {cp} x dp {dp} is not {devices} devices")
    ep = int(row.get("ep") or 1)
    recompute, selective = _recompute(row, source)
    stages = _stages(row, shape, pp)
    virtual = int(row.get("vpp") or (_layers_per_chunk(row, shape, pp) if row.get("vpp_layers") else 1))
    return Split(
        tp=float(tp),
        pp=float(pp),
        dp=float(dp),
        cp=float(cp),
        ep=float(ep),
        expert_tp=float(row.get("etp") or (1 if ep > 1 else tp)),
        virtual=float(min(virtual, -(-shape["layers"] // pp))),
        stage_layers=float(max(stages)),
        first_layers=float(stages[0]),
        sequence_parallel=_given(row, "sp", software.default_sequence_parallel) if tp > 1 else 0.0,
        zero_stage=3.0 if sharded else _given(row, "zero", software.default_zero_stage),
        shard=_shard(row, chip) if sharded else 0.0,
        batch=batch,
        micro_batch=float(row.get("mbs") or 1),
        sequence=float(sequence),
        recompute=recompute,
        selective=selective,
        narrow_share=0.0 if precision == "bf16" else 1.0,
        narrow_bytes=next((size for _, name, size in NARROW if name == precision), 2.0),
        offload_activations=_offloaded(row),
    )


def unlike_layout(
    row: Mapping[str, Any],
    source: Mapping[str, Any],
    shape: Mapping[str, Any],
    pipelines: Sequence[Sequence[NamedStage]],
) -> Split:
    """The nearest split over one kind of devices. Raises Lacking when the run cannot be told.

    As many replicas, pipelines as deep as the deepest, stages as wide and as full as the widest and the fullest.
    """
    stages = [stage for each in pipelines for stage in each]
    devices, sequence, dp = sum(stage.tp for stage in stages), row.get("seq") or shape.get("seq"), len(pipelines)
    if not sequence:
        raise Lacking("length of the sequence not given")
    if row.get("gpus") and row["gpus"] != devices:
        raise Lacking(f"stages of {devices} devices together are not the run's {row['gpus']}")
    if any(int(row.get(key) or 1) > 1 for key in ("cp", "ep", "vpp")) or _sharded(row):
        raise Lacking("context or expert parallelism, chunks or sharded weights on unlike chips: not modelled")
    depth = max(len(each) for each in pipelines)
    batch, micro_batch = _batch(row, dp=dp, pp=depth, sharded=False), float(row.get("mbs") or 1)
    if micro_batch < 1 or batch < 1 or batch % (dp * micro_batch):
        raise Lacking(f"{batch:g} sequences are not whole micro-batches of {micro_batch:g} on {dp} pipelines")
    return Split(
        tp=float(max(stage.tp for stage in stages)),
        pp=float(depth),
        dp=float(dp),
        expert_tp=float(max(stage.tp for stage in stages)),
        stage_layers=float(max(stage.layers for stage in stages)),
        first_layers=float(max(each[0].layers for each in pipelines)),
        batch=batch,
        micro_batch=micro_batch,
        sequence=float(sequence),
        recompute=_recompute(row, source)[0],
    )


def _sharded(row: Mapping[str, Any]) -> bool:
    return bool(row.get("fsdp")) or row.get("zero") == 3


def _shard(row: Mapping[str, Any], chip: Chip) -> float:
    """Devices over which weights are sharded; 0: all."""
    if row.get("shard_size"):
        return float(row["shard_size"])
    if row.get("shard") == "HSDP":
        return 8.0
    return float(chip.link_domain_devices or 0) if chip.id.startswith("tpu") else 0.0


def _batch(row: Mapping[str, Any], *, dp: int, pp: int, sharded: bool) -> float:
    """Sequences of a step. Plain FSDP makes one micro-batch a step; a rate hardly depends on how many there are,
    unless a pipeline has to be filled."""
    if row.get("gbs"):
        return float(row["gbs"])
    rate = row.get("tokens_per_gpu_s") or row.get("tokens_per_s") or row.get("tflops")
    if not row.get("mbs") or pp > 1 or not (row.get("grad_accum") or sharded or rate):
        raise Lacking("batch not given")
    micro_batches = row.get("grad_accum") or (1 if sharded else ASSUMED_MICRO_BATCHES)
    return float(row["mbs"] * dp * micro_batches)


def _given(row: Mapping[str, Any], key: str, default: Any) -> float:
    """What the row says; null is nothing said."""
    return float(default if row.get(key) is None else row[key])


def _stages(row: Mapping[str, Any], shape: Mapping[str, Any], pp: int) -> list[int]:
    """Layers of each stage. Some sources count embedding and head as one layer each."""
    layers, given = int(shape["layers"]), row.get("layers_per_stage")
    if not given:
        return [-(-layers // pp)] * pp
    if sum(given) == layers + 2:
        given = [*given[:-1], given[-1] - 1]
        given[0] -= 1
    if sum(given) != layers or min(given) < 0:
        raise Lacking(f"stages of {sum(given)} layers do not hold the model's {layers}")
    return list(given)


def _layers_per_chunk(row: Mapping[str, Any], shape: Mapping[str, Any], pp: int) -> int:
    return max(1, -(-int(shape["layers"]) // pp) // int(row["vpp_layers"]))


def _recompute(row: Mapping[str, Any], source: Mapping[str, Any]) -> tuple[float, float]:
    """Share of layers recomputed in full, and whether the rest is selectively.

    HFU over MFU, where a source prints both, is what share was recomputed: a full pass is a third more.
    """
    printed = str(row.get("recompute", "none")).lower()
    if printed == "selective" and row.get("hfu") and row.get("mfu"):
        return min(max(3.0 * (row["hfu"] / row["mfu"] - 1.0), 0.0), 1.0), 0.0
    if "ffn1" in printed or "mlpwi" in printed:
        return FIRST_PRODUCT, 0.0
    if "minimal" in printed or "save_dot" in printed:
        return 0.0, 1.0
    if "full" in printed or printed in ("true", "yes"):
        return 1.0, 0.0
    if "sel" in printed and recomputes_half(row, source):
        return HALF, 0.0
    return 0.0, float("sel" in printed)


def _offloaded(row: Mapping[str, Any]) -> float:
    """Share of the kept activations that goes to the host's memory."""
    for key in OFFLOADED:
        if isinstance(row.get(key), (int, float)):
            return float(row[key])
    return float("offload" in str(row.get("recompute", "")).lower())
