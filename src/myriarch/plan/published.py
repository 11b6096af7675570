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
from myriarch.plan.frameworks import level_name, software
from myriarch.plan.hardware import as_built, chip_called, network_bandwidth_bytes_per_s, told
from myriarch.plan.layouts import Lacking, layout, names_split, precision_of
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
    measured_step_s: float | None = None
    measured_from: str = ""
    """The field that the measured time was worked out from."""
    measured_memory_bytes: float | None = None
    memory_kind: str = ""
    out_of_memory: bool = False


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
        measured_step_s=measured_s,
        measured_from=kind,
        measured_memory_bytes=memory_bytes,
        memory_kind=memory_kind,
        out_of_memory=bool(row.get("oom")),
        **common,
    )


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
    if row.get("hetero"):
        raise Lacking("unlike chips in one run: not modelled here yet")
    found = chip_called(str(row.get("chip", "")))
    if found is None:
        raise Lacking(f"chip `{row.get('chip')}` is not one kind of the catalogue")
    return found


def _machine(row: Mapping[str, Any], source: Mapping[str, Any], chip: Chip, precision: str) -> Machine:
    printed = str(row["chip"])
    network = network_bandwidth_bytes_per_s(source.get("hardware"), printed)
    try:
        found = machine(
            filled(chip), precision=precision, network_bandwidth_bytes_per_s=network, domain=SUPERCHIPS.get(chip.id)
        )
    except SpecError as error:
        raise Lacking(error.message) from None
    found = as_built(found, f"{printed}; {told(source.get('hardware'), printed)}")
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
        return float(row["step_s"]), "step_s"
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
