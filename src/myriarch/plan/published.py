"""Published, measured training runs: the format of `published_configs.yaml` to configurations of the cost model.

A row says what its source printed. What it leaves out is filled in by the rules below, the same for all sources; a row
that cannot be predicted keeps the reason. Nothing here looks at what was measured, but for `measured_step_s`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from myriarch.cost.decoder import Decoder
from myriarch.cost.silicon import filled, machine
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Machine, Software, Split
from myriarch.errors import SpecError
from myriarch.plan.frameworks import drops_tokens, evaluation_share, interleaves, level_name, software
from myriarch.plan.hardware import as_built, chip_called, in_node, network_bandwidth_bytes_per_s, told
from myriarch.plan.layouts import layout, names_split, precision_of, unlike_layout
from myriarch.plan.unlike_rows import Lacking, NamedStage, is_unlike, named_pipelines
from myriarch.plan.unlike_runs import RunStage
from myriarch.spec.fleet import Chip

WIDE: Final = ("fp32", "tf32", "float32")
"""Words for products of values in four bytes."""
SUPERCHIPS: Final = {"gh200-96": 4}
"""Devices of a node, where it is built otherwise than the chip's largest domain: four GH200 (Sailor's clusters)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One row: what was run, what was measured, and why it cannot be predicted, if so."""

    id: str
    source: str
    level: str
    reason: str = ""
    """Empty: it can be predicted."""
    chip: Chip | None = None
    decoder: Decoder | None = None
    machine: Machine | None = None
    split: Split | None = None
    software: Software | None = None
    split_known: bool = True
    """False: the row names no split; completion takes the fastest that fits."""
    batch_known: bool = True
    recompute_known: bool = False
    micro_batch_known: bool = False
    chunks_known: bool = True
    """False: a pipeline of interleaved chunks, nobody says how many."""
    measured_step_s: float | None = None
    measured_from: str = ""
    """The field that the measured time was worked out from."""
    measured_memory_bytes: float | None = None
    memory_kind: str = ""
    out_of_memory: bool = False
    pipelines: tuple[tuple[RunStage, ...], ...] = ()
    """Of a run over unlike devices; empty: all are `machine`. Then `chip`, `machine` and `split` are those of its
    nearest run over one kind: all devices as slow as the slowest kind, pipelines as deep as the deepest."""
    chips: tuple[Chip, ...] = ()
    """The kinds of a run over unlike devices."""
    value_bytes: float = 2.0
    """Of a weight and an activation; told of runs over unlike devices only."""


def read_published(document: Mapping[str, Any]) -> tuple[PublishedRun, ...]:
    """All rows of a file. Raises SpecError when the file is not of this format."""
    if document.get("format") != 1 or not isinstance(document.get("rows"), list):
        raise SpecError("not a file of published configurations; it needs `format: 1`, `sources`, `models` and `rows`")
    sources = document.get("sources") or {}
    models = document.get("models") or {}
    return tuple(_run(row, sources.get(str(row.get("src")), {}), models) for row in document["rows"])


def _run(row: Mapping[str, Any], source: Mapping[str, Any], models: Mapping[str, Any]) -> PublishedRun:
    name = level_name(row, source)
    common: dict[str, Any] = {"id": str(row.get("id", "?")), "source": str(row.get("src", "?")), "level": name}
    try:
        return _predictable(row, source, models, name, common)
    except Lacking as lacking:
        return PublishedRun(reason=str(lacking), **common)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        return PublishedRun(reason=f"a value of the row is not of its kind: {error}", **common)


def _predictable(
    row: Mapping[str, Any], source: Mapping[str, Any], models: Mapping[str, Any], name: str, common: dict[str, Any]
) -> PublishedRun:
    shape = models.get(str(row.get("model"))) or {}
    decoder = _decoder(row, shape)
    if decoder.experts and not decoder.capacity_factor and drops_tokens(row, source, name):
        decoder = dataclasses.replace(decoder, capacity_factor=1.0)
    if is_unlike(row):
        return _unlike(row, source, shape, decoder, name, common)
    chip = _chip(row)
    precision = precision_of(row)
    split = layout(row, source, shape, precision=precision, software=LEVELS[name], chip=chip)
    hardware = _machine(row, source, chip, precision)
    measured_s, kind = _measured_s(row, decoder, split, hardware)
    memory_bytes, memory_kind = _measured_memory(row)
    if measured_s is None and memory_bytes is None and not row.get("oom"):
        raise Lacking("nothing that was measured can be turned into a step's time: no batch, time or rate")
    return PublishedRun(
        chip=chip,
        decoder=decoder,
        machine=hardware,
        split=split,
        software=software(row, source, name, hardware),
        split_known=names_split(row) or chip.id.startswith("tpu"),
        batch_known=bool(row.get("gbs") or row.get("grad_accum")),
        recompute_known=row.get("recompute") is not None,
        micro_batch_known=bool(row.get("mbs")),
        chunks_known=split.pp == 1
        or any(row.get(key) for key in ("vpp", "vpp_layers"))
        or not interleaves(row, source),
        measured_step_s=measured_s,
        measured_from=kind,
        measured_memory_bytes=memory_bytes,
        memory_kind=memory_kind,
        out_of_memory=bool(row.get("oom")),
        **common,
    )


def _unlike(
    row: Mapping[str, Any],
    source: Mapping[str, Any],
    shape: Mapping[str, Any],
    decoder: Decoder,
    name: str,
    common: dict[str, Any],
) -> PublishedRun:
    """A run over several kinds of devices, in pipelines that the row lays out."""
    named = named_pipelines(row, layers=int(decoder.layers))
    known = {stage.chip: _called(stage.chip) for stages in named for stage in stages}
    split = unlike_layout(row, source, shape, named)
    row = {**row, "prec": _common_format(row, name, tuple(known.values()))}
    if precision_of(row) != "bf16":
        raise Lacking(f"{row['prec']} on unlike chips: not modelled")
    pipelines = tuple(tuple(_stage(row, source, known[stage.chip], stage) for stage in stages) for stages in named)
    kinds = [known[stage.chip] for stages in named for stage in stages]
    placed = zip((stage for stages in pipelines for stage in stages), kinds, strict=True)
    slowest, chip = min(placed, key=lambda each: each[0].machine.matmul_flops_per_s)
    measured_s, kind = _measured_s(row, decoder, split, slowest.machine)
    memory_bytes, memory_kind = _measured_memory(row)
    if measured_s is None and memory_bytes is None and not row.get("oom"):
        raise Lacking("nothing that was measured can be turned into a step's time: no batch, time or rate")
    found, wide = software(row, source, name, slowest.machine), str(row["prec"]).lower() in WIDE
    # The machine of `_in_four_bytes` moves two bytes in the time of four: so does a gradient in four.
    return PublishedRun(
        chip=chip,
        decoder=decoder,
        machine=slowest.machine,
        split=split,
        split_known=bool(row.get("pipelines") or row.get("stages")),
        batch_known=bool(row.get("gbs")),
        software=dataclasses.replace(found, gradient_bytes=2.0) if wide else found,
        recompute_known=row.get("recompute") is not None,
        micro_batch_known=bool(row.get("mbs")),
        measured_step_s=measured_s,
        measured_from=kind,
        measured_memory_bytes=memory_bytes,
        memory_kind=memory_kind,
        out_of_memory=bool(row.get("oom")),
        pipelines=pipelines,
        chips=tuple({each.id: each for each in kinds}.values()),
        value_bytes=4.0 if wide else 2.0,
        **common,
    )


def _common_format(row: Mapping[str, Any], level: str, chips: tuple[Chip, ...]) -> str:
    """What all devices computed in. Where a row says nothing and a kind has no bf16, it was not that: plain PyTorch
    then computes in fp32, frameworks made for large models in fp16."""
    if row.get("prec"):
        return str(row["prec"])
    if all("bf16" in chip.rate_flops_per_s or "bf16" in chip.matmul_measured_flops_per_s for chip in chips):
        return "bf16"
    return "fp32" if LEVELS[level].eager else "fp16"


def _stage(row: Mapping[str, Any], source: Mapping[str, Any], chip: Chip, said: NamedStage) -> RunStage:
    own = {**row, "chip": said.chip}
    words = told(source.get("hardware"), said.chip)
    found = in_node(_as_told(own, source, chip, "bf16"), chip, words, tp=said.tp, devices=row.get("gpus_per_node"))
    return RunStage(machine=_in_values(own, found, chip), tp=said.tp, layers=said.layers)


def _decoder(row: Mapping[str, Any], shape: Mapping[str, Any]) -> Decoder:
    needed = ("layers", "hidden", "heads", "ffn", "vocab")
    if any(key not in shape for key in needed):
        why = shape.get("note", "not in the file's `models`")
        raise Lacking(f"shape of model `{row.get('model')}` unknown: {why}")
    moe = shape.get("moe") or {}
    latent = shape.get("attn") == "mla"
    width, heads = float(shape["hidden"]), float(shape["heads"])
    head_width = float(shape.get("head_dim") or _noted(shape, r"head_dim (\d+)") or width / heads)
    if latent:
        head_width = float(shape["qk_nope"] + shape["qk_rope"])
    elif str(row.get("model", "")).startswith("qwen3"):
        head_width = 128.0  # Qwen3's configuration files; not width / heads
    return Decoder(
        layers=float(shape["layers"]),
        width=width,
        heads=heads,
        kv_heads=float(shape.get("kv_heads", heads)),
        head_width=head_width,
        feed_forward=float(shape["ffn"]),
        gated=float(shape.get("act", "gelu") in ("swiglu", "geglu")),
        vocabulary=float(shape["vocab"]),
        experts=float(moe.get("experts", 0)),
        top_k=float(moe.get("topk", 0)),
        expert_feed_forward=float(moe.get("expert_ffn", 0)),
        shared_experts=float(moe.get("shared", 0)),
        dense_layers=float(shape.get("dense_layers", 0)),
        query_rank=float(shape.get("q_lora", 0)) if latent else 0.0,
        kv_rank=float(shape.get("kv_lora", 0)) if latent else 0.0,
        rope_width=float(shape.get("qk_rope", 0)) if latent else 0.0,
        value_width=float(shape.get("v_head", 0)) if latent else 0.0,
        unfused_activation=float("gpt-oss" in str(row.get("model", "")).lower()),
        capacity_factor=float(moe.get("capacity") or 0.0),
        window_tokens=float(shape.get("window") or _noted(shape, r"(\d+)-token window") or 0),
    )


def _noted(shape: Mapping[str, Any], pattern: str) -> float | None:
    found = re.search(pattern, str(shape.get("note", "")))
    return float(found[1]) if found else None


def _chip(row: Mapping[str, Any]) -> Chip:
    return _called(str(row.get("chip", "")))


def _called(printed: str) -> Chip:
    found = chip_called(printed)
    if found is None:
        raise Lacking(f"chip `{printed}` is not one kind of the catalogue")
    return found


def _machine(row: Mapping[str, Any], source: Mapping[str, Any], chip: Chip, precision: str) -> Machine:
    return _in_values(row, _as_told(row, source, chip, precision), chip)


def _as_told(row: Mapping[str, Any], source: Mapping[str, Any], chip: Chip, precision: str) -> Machine:
    printed = str(row["chip"])
    network = network_bandwidth_bytes_per_s(source.get("hardware"), printed)
    try:
        found = machine(
            filled(chip), precision=precision, network_bandwidth_bytes_per_s=network, domain=SUPERCHIPS.get(chip.id)
        )
    except SpecError as error:
        raise Lacking(error.message) from None
    return as_built(found, f"{printed}; {told(source.get('hardware'), printed)}")


def _in_values(row: Mapping[str, Any], found: Machine, chip: Chip) -> Machine:
    return _in_four_bytes(found, chip) if str(row.get("prec", "")).lower() in WIDE else found


def _in_four_bytes(found: Machine, chip: Chip) -> Machine:
    """The machine for values in four bytes, seen as one for two: products at the rate of tf32 (or of fp32 without it),
    and half as many values for the same bytes."""
    peak = chip.rate_flops_per_s.get("tf32") or chip.rate_flops_per_s.get("fp32")
    if peak is None:
        raise Lacking(f"the rate of chip `{chip.id}` in fp32 is unknown")
    rate = float(found.matmul_flops_per_s) / float(found.peak_flops_per_s) * peak
    rates = ("memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s", "network_bandwidth_bytes_per_s")
    halves = {name: float(getattr(found, name)) / 2.0 for name in (*rates, "host_link_bandwidth_bytes_per_s")}
    return dataclasses.replace(found, matmul_flops_per_s=rate, narrow_flops_per_s=rate, **halves)


def _measured_s(row: Mapping[str, Any], decoder: Decoder, split: Split, hardware: Machine) -> tuple[float | None, str]:
    """Measured seconds of a step; rates are turned by the conventions that the row's `tflops_kind` names."""
    tokens = float(split.batch) * float(split.sequence)
    if row.get("step_s"):
        return float(row["step_s"]) / (1.0 + evaluation_share(row)), "step_s"
    if row.get("tokens_per_gpu_s"):
        return tokens / (row["tokens_per_gpu_s"] * row["gpus"]), "tokens_per_gpu_s"
    if row.get("tokens_per_s"):
        return tokens / row["tokens_per_s"], "tokens_per_s"
    if row.get("tflops"):
        return tokens * _flops_by_convention(row, decoder, split) / (row["tflops"] * 1e12 * row["gpus"]), "tflops"
    if row.get("mfu") and row.get("gbs") and not float(split.narrow_share):
        # PaLM's convention (arXiv:2204.02311, appendix B): no recomputation, the whole square of attention.
        rate = row["mfu"] / 100.0 * float(hardware.peak_flops_per_s) * row["gpus"]
        return tokens * float(decoder.flops_per_token(split.sequence, causal=False)) / rate, "mfu"
    return None, ""


def _flops_by_convention(row: Mapping[str, Any], decoder: Decoder, split: Split) -> float:
    """Of one token. The whole square of attention, as Megatron-LM counts; with a second forward pass of the layers if
    the source counts hardware FLOPs (Narayanan et al. 2021, equation 3)."""
    whole = float(decoder.flops_per_token(split.sequence, causal=False))
    if row.get("tflops_kind") != "hardware":
        return whole
    head = 6.0 * float(decoder.vocabulary) * float(decoder.width)
    return whole + (whole - head) / 3.0 * float(split.recompute)


def _measured_memory(row: Mapping[str, Any]) -> tuple[float | None, str]:
    for key, unit, kind in (("mem_gib", 2.0**30, "peak"), ("mem_gb", 1e9, "peak"), ("mem_bytes", 1.0, "device")):
        if row.get(key):
            return float(row[key]) * unit, kind
    if row.get("mem_states_gib") and row.get("mem_act_gib"):
        return (row["mem_states_gib"] + row["mem_act_gib"]) * 2.0**30, "states+activations"
    return None, ""
