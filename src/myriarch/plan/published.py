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
from myriarch.cost.silicon import machine
from myriarch.cost.software import LEVELS, level
from myriarch.cost.split import Machine, Software, Split
from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue
from myriarch.spec.fleet import Chip

CHIPS: Final[tuple[tuple[str, str], ...]] = (
    (r"a100.?(sxm.?)?40.*", "a100-sxm-40"),
    (r"a100.*pcie.*", "a100-pcie-80"),
    (r"a100.*", "a100-sxm-80"),
    (r"a800.*", "a800-sxm-80"),
    (r"h800.*", "h800-sxm"),
    (r"h100.*pcie.*", "h100-pcie"),
    (r"h100.*", "h100-sxm"),
    (r"h200.*", "h200-sxm"),
    (r"gh.?(200)?.?96.*|gh200.*", "gh200-96"),
    (r"v100.*", "v100-sxm2-32"),
    (r"tpu.?(v\d\w?)", r"tpu-\1"),
    (r"(mi\d+x)(.?\d+ ?gb)?", r"\1"),
    (r"gaudi.?(\d)", r"gaudi\1"),
    (r"(metax.?)?c500", "metax-c500"),
    (r"(iluvatar.?)?bi.?v?150.*", "iluvatar-bi-v150"),
    (r"titan.?rtx", "titan-rtx"),
)
"""What sources call a chip, and what the catalogue does."""

SOFTWARE: Final[tuple[tuple[str, str], ...]] = (
    (r"maxtext|tpu|palm|xla|jax", "xla"),
    (r"zero-?3|deepspeed zero", "deepspeed-zero3-2021"),
    (r"mbridge|megatron.?bridge", "megatron-bridge"),
    (r"nemo|dgxc|mlperf|megatron_h100", "nemo"),
    (r"torchtitan|fms.?fsdp|compile", "fsdp-compiled"),
    (r"llm.?foundry|fsdp", "fsdp-2023"),
    (r"sailor", "torch-eager"),
    (r"korthikanti", "megatron-2022"),
    (r"bloom|vtrain|megatron.?deepspeed|mt.?nlg", "megatron-deepspeed"),
    (r"sc21|sc'21|narayanan", "megatron-2021"),
    (r"megatron.?lm", "megatron-core"),
    (r"megascale", "nemo"),
    (r"megatron|simumax|kwai|primus|llama3", "megatron-core"),
)
"""Words of a row and its source, and the level of software they tell; the first that fits counts."""
GRAPHS_SINCE: Final = 2026.4
"""Megatron-Bridge 26.06."""
FIRST_SOFTWARE_YEARS: Final = 0.3
"""From a chip's first shipments to the first frameworks that ran on it in public."""
FALLBACK_LEVEL: Final = "megatron-core"

VERSION: Final = re.compile(r"(?<!\d)(2[3-9])\.?(0[1-9]|1[0-2])(?!\d)")
"""`26.04`, `2502`: a version that is a year and a month."""
NARROW: Final[tuple[tuple[str, str, float], ...]] = (("fp4", "fp4", 0.5), ("fp8", "fp8", 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One row: what was run, what was measured, and why it cannot be predicted, if so."""

    id: str
    source: str
    level: str
    reason: str = ""
    """Empty: it can be predicted."""
    decoder: Decoder | None = None
    machine: Machine | None = None
    split: Split | None = None
    software: Software | None = None
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


class _Lacking(Exception):
    """A row cannot be predicted; the message says why."""


def _run(row: Mapping[str, Any], source: Mapping[str, Any], models: Mapping[str, Any]) -> PublishedRun:
    name = _level(row, source)
    year = _year(row, source, name)
    if name == "megatron-bridge" and year is not None and year >= GRAPHS_SINCE:
        name = "megatron-bridge-graphs"
    common: dict[str, Any] = {"id": str(row.get("id", "?")), "source": str(row.get("src", "?")), "level": name}
    try:
        return _predictable(row, source, models, name, common)
    except _Lacking as lacking:
        return PublishedRun(reason=str(lacking), **common)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        return PublishedRun(reason=f"a value of the row is not of its kind: {error}", **common)


def _predictable(
    row: Mapping[str, Any], source: Mapping[str, Any], models: Mapping[str, Any], name: str, common: dict[str, Any]
) -> PublishedRun:
    shape = models.get(str(row.get("model"))) or {}
    decoder = _decoder(row, shape)
    chip = _chip(row)
    precision = _precision(row)
    split = _split(row, shape, precision, LEVELS[name])
    domain = 4 if chip.id == "gh200-96" else None
    try:
        hardware = machine(
            chip,
            precision=precision,
            network_bandwidth_bytes_per_s=network_bandwidth_bytes_per_s(source.get("hardware"), str(row["chip"])),
            domain=domain,
        )
    except SpecError as error:
        raise _Lacking(error.message) from None
    measured_s, kind = _measured_s(row, decoder, split)
    memory_bytes, memory_kind = _measured_memory(row)
    if measured_s is None and memory_bytes is None and not row.get("oom"):
        raise _Lacking("nothing that was measured can be turned into a step's time: no batch, time or rate")
    return PublishedRun(
        decoder=decoder,
        machine=hardware,
        split=split,
        software=_software(row, source, name, hardware),
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
        raise _Lacking(f"shape of model `{row.get('model')}` unknown: {why}")
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
        window_tokens=float(shape.get("window") or _noted(shape, r"(\d+)-token window") or 0),
    )


def _noted(shape: Mapping[str, Any], pattern: str) -> float | None:
    found = re.search(pattern, str(shape.get("note", "")))
    return float(found[1]) if found else None


def _chip(row: Mapping[str, Any]) -> Chip:
    if row.get("hetero"):
        raise _Lacking("unlike chips in one run: not modelled here yet")
    printed = str(row.get("chip", "")).lower()
    known = catalogue()
    if printed in known:
        return known[printed]
    for pattern, name in CHIPS:
        found = re.fullmatch(pattern, printed)
        if found and found.expand(name) in known:
            return known[found.expand(name)]
    raise _Lacking(f"chip `{row.get('chip')}` is not one kind of the catalogue")


def _precision(row: Mapping[str, Any]) -> str:
    printed = str(row.get("prec", "bf16")).lower()
    return next((name for word, name, _ in NARROW if word in printed), "bf16")


def _split(row: Mapping[str, Any], shape: Mapping[str, Any], precision: str, software: Software) -> Split:
    devices = row.get("gpus")
    sequence = row.get("seq") or shape.get("seq")
    if not devices or not sequence:
        raise _Lacking("number of devices or length of the sequence not given")
    sharded = bool(row.get("fsdp")) or row.get("zero") == 3
    if not sharded and "tp" not in row and "dp" not in row:
        raise _Lacking("how the model is split is not given (tp, pp)")
    tp, pp, cp = (int(row.get(key) or 1) for key in ("tp", "pp", "cp"))
    dp = int(row.get("dp") or devices // (tp * pp * cp))
    batch = row.get("gbs")
    if not batch and row.get("mbs") and pp == 1 and (row.get("grad_accum") or sharded):
        batch = row["mbs"] * dp * (row.get("grad_accum") or 1)  # plain FSDP makes one micro-batch a step
    if not batch:
        raise _Lacking("batch not given")
    if tp * pp * cp * dp != devices:
        raise _Lacking(f"tp {tp} x pp {pp} x cp {cp} x dp {dp} is not {devices} devices")
    ep = int(row.get("ep") or 1)
    recompute, selective = _recompute(row)
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
        zero_stage=3.0 if row.get("fsdp") else _given(row, "zero", software.default_zero_stage),
        shard=8.0 if row.get("shard") == "HSDP" else 0.0,
        batch=float(batch),
        micro_batch=float(row.get("mbs") or 1),
        sequence=float(sequence),
        recompute=recompute,
        selective=selective,
        narrow_share=0.0 if precision == "bf16" else 1.0,
        narrow_bytes=next((size for _, name, size in NARROW if name == precision), 2.0),
    )


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
        raise _Lacking(f"stages of {sum(given)} layers do not hold the model's {layers}")
    return list(given)


def _layers_per_chunk(row: Mapping[str, Any], shape: Mapping[str, Any], pp: int) -> int:
    return max(1, -(-int(shape["layers"]) // pp) // int(row["vpp_layers"]))


def _recompute(row: Mapping[str, Any]) -> tuple[float, float]:
    """Share of layers recomputed in full, and whether the rest is selectively.

    HFU over MFU, where a source prints both, is what share was recomputed: a full pass is a third more.
    """
    printed = str(row.get("recompute", "none")).lower()
    if printed == "selective" and row.get("hfu") and row.get("mfu"):
        return min(max(3.0 * (row["hfu"] / row["mfu"] - 1.0), 0.0), 1.0), 0.0
    if "full" in printed or printed in ("true", "yes"):
        return 1.0, 0.0
    return 0.0, float("sel" in printed)


def _level(row: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    own = [row.get("framework"), row.get("where"), row.get("src")]
    if row.get("zero") == 3 and str(row.get("src", "")).startswith("sc21"):
        return "deepspeed-zero3-2021"
    if str(row.get("chip", "")).lower().startswith("tpu"):
        return "xla"
    told = [source.get("repo"), source.get("paper"), source.get("caveat")]
    for words in (own, told):
        text = " ".join(str(word) for word in words if word).lower()
        for pattern, name in SOFTWARE:
            if re.search(pattern, text):
                return name
    return FALLBACK_LEVEL


def _software(row: Mapping[str, Any], source: Mapping[str, Any], name: str, hardware: Machine) -> Software:
    found = level(name, year=_year(row, source, name))
    # Whoever trained on a chip had software that ran on it.
    return dataclasses.replace(found, year=max(float(found.year), float(hardware.launch_year) + FIRST_SOFTWARE_YEARS))


def _year(row: Mapping[str, Any], source: Mapping[str, Any], name: str) -> float | None:
    """The year of the version that a row or its source's name carries, for levels that have versions."""
    if LEVELS[name].year < 2024:
        return None
    for text in (str(row.get("where", "")), str(row.get("src", ""))):
        found = VERSION.search(text)
        if found:
            return 2000.0 + int(found[1]) + (int(found[2]) - 1) / 12.0
    return None


def network_bandwidth_bytes_per_s(hardware: object, chip: str) -> float | None:
    """Per device, as a source's description of its hardware says it; None when it does not.

    Reads `25 GB/s per GPU`, `400 Gb/s per GPU`, `1600 Gb/s RoCE per node` (over 8), and of several clusters
    (a mapping, or text with `;`) the one that names the chip.
    """
    family = re.sub(r"[^a-z0-9]", "", chip.lower())[:4]
    if isinstance(hardware, Mapping):
        entries = [f"{key} {value}" for key, value in hardware.items()]
        exact = re.sub(r"[^a-z0-9]", "", chip.lower())
        chosen = [text for text in entries if exact in re.sub(r"[^a-z0-9]", "", text.lower())]
        text = (chosen or [text for text in entries if family in text.lower()] or [""])[0]
    else:
        parts = str(hardware or "").split(";")
        text = " ".join([part for part in parts if family in part.lower()] or parts)
    whole_node = "per node" in text or "per node" in str(hardware)
    found = re.search(r"([\d.]+) GB/s per GPU", text)
    if found:
        return float(found[1]) * 1e9
    found = re.search(r"(?:(\d+) ?x ?)?(\d+) Gb/s( per GPU)?", text)
    if not found:
        return None
    rate = float(found[2]) * 1e9 / 8.0
    if found[3]:
        return rate
    cards = float(found[1] or 1)
    return rate * cards / 8.0 if whole_node or found[1] else rate


def _measured_s(row: Mapping[str, Any], decoder: Decoder, split: Split) -> tuple[float | None, str]:
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
