"""By which software a published run ran: framework, version and year out of its source's words, to a named level."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from myriarch.cost.software import LEVELS, level
from myriarch.cost.split import Machine, Software

SOFTWARE: Final[tuple[tuple[str, str], ...]] = (
    (r"maxtext|tpu|palm|xla|jax|paxml|t5x", "xla"),
    (r"zero-?3 2021", "deepspeed-zero3-2021"),
    (r"mbridge|megatron.?bridge", "megatron-bridge"),
    (r"nemo(?!tron)|dgxc|mlperf|mlcommons|megatron_h100", "nemo"),
    (r"torchtitan|fms.?fsdp|compile|torchtune", "fsdp-compiled"),
    (r"llm.?foundry|fsdp|composer|hugging.?face|accelerate|llama.?factory", "fsdp-2023"),
    (r"sailor|nanotron|picotron", "torch-eager"),
    (r"korthikanti", "megatron-2022"),
    (r"bloom|vtrain|megatron.?deepspeed|mt.?nlg|gpt.?neox", "megatron-deepspeed"),
    (r"sc21|sc'21|narayanan", "megatron-2021"),
    (r"megatron.?lm|megatron.?core", "megatron-core"),
    (r"megascale", "nemo"),
    (r"megatron|flagscale|simumax|kwai|primus|mindspeed|mindspore|paddle|llama3", "megatron-core"),
    (r"deepspeed|zero-?3|colossal", "fsdp-2023"),
)
"""Words of a row and its source, and the level of software they tell; the first that fits counts."""
BY_YEAR: Final[tuple[tuple[float, str], ...]] = ((2022.0, "megatron-2021"), (2023.5, "megatron-2022"))
"""What frameworks unknown were like before the years; after them, `FALLBACK_LEVEL`."""
GRAPHS_SINCE: Final = 2026.4
"""Megatron-Bridge 26.06."""
BEFORE_OVERLAP: Final = r"megatron.?lm|baseline|\bptb\b|\bswa\b"
"""Rows of MegaScale's tables (arXiv:2402.15627, section 6.1) without its overlap: Megatron-LM at commit 285068c8, and
with a parallel block or a window only."""
INTERLEAVING: Final = (
    r"llama.?3 herd|2407\.21783|^llama3$|megascale|sc21_t1|mlperf|mlcommons|training_results|dgxc|nemo(?!tron)"
    r"|megatron.?bridge|mbridge"
)
"""Sources that ran pipelines interleaved: their papers say so (Llama 3, 3.3.2; MegaScale, 6.1; SC'21, 5.1), or the
recipes of their framework are (NeMo's)."""
EVALUATED: Final = (("gpt3", 5660 / 24576), ("405b", 5760 / 46080), ("8b", 1024 / 12288))
"""Sequences evaluated for each that MLPerf trains on (training_rules.adoc): a forward pass, a third of the work."""
RECIPES_SINCE: Final = 2025.2
"""NeMo 25.04, whose recipes of mixtures drop what is over a capacity of 1 (scripts/performance/llm/*.py,
`MegatronTokenDropCallback`); Megatron-Bridge's of 25.09 do where its table says so."""
FIRST_SOFTWARE_YEARS: Final = 0.3
"""From a chip's first shipments to the first frameworks that ran on it in public."""
FALLBACK_LEVEL: Final = "megatron-core"
FLASH_YEAR: Final = 2020.5
"""FlashAttention 2's kernels, taken into a framework that had none: those of the A100."""

VERSION: Final = re.compile(r"(?<!\d)(?:20)?(2[3-9])[-.]?(0[1-9]|1[0-2])(?!\d)")
"""`26.04`, `2502`, `202412`, `2025-06`: a version that is a year and a month."""
ROUND: Final = re.compile(r"(?:mlperf|training_results)\S*?[ _]?v?(\d)\.(\d)")
"""`training_results_v5.1`: a round of MLPerf Training; those of a year end in June (.0) and November (.1)."""
YEAR: Final = re.compile(r"(?<![\d.])(20[12]\d)(?!\d)|(?:'|NSDI|SOSP|ATC|OSDI|SC|MLSys|ICML) ?'?(\d\d)\b")


def level_name(row: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """The level of software that a row's words tell, else its source's, else its year."""
    if row.get("zero") == 3 and str(row.get("src", "")).startswith("sc21"):
        return "deepspeed-zero3-2021"
    chip = str(row.get("chip", "")).lower()
    if "tpu" in chip:
        return "xla"
    if "gaudi" in chip:
        return "megatron-deepspeed-gaudi"
    own = _joined(row.get("framework"), row.get("where"), row.get("src"))
    if "megascale" in own and re.search(BEFORE_OVERLAP, own):
        return "megatron-2023"
    words = (own, _joined(source.get("repo"), source.get("paper"), source.get("caveat")))
    found = next((name for text in words for pattern, name in SOFTWARE if re.search(pattern, text)), None)
    if found is None:
        year = _printed_year(_joined(source.get("paper"), source.get("repo")))
        found = next((name for before, name in BY_YEAR if year is not None and year < before), FALLBACK_LEVEL)
    if found == "fsdp-compiled" and row.get("compile") is False:
        found = "fsdp-eager"
    version = _version(row, source, found)
    return f"{found}-graphs" if found == "megatron-bridge" and version and version >= GRAPHS_SINCE else found


def software(row: Mapping[str, Any], source: Mapping[str, Any], name: str, hardware: Machine) -> Software:
    """The level at the year of the row's version, on this machine."""
    found = level(name, year=_version(row, source, name))
    words = _joined(row.get("framework"), row.get("where"), row.get("note"))
    if not found.flash_attention and re.search(r"flash.?att", words):
        found = dataclasses.replace(found, flash_attention=1.0, attention_year=FLASH_YEAR)
    if name == "megatron-deepspeed" and "bf16" in str(row.get("prec", "")).lower():
        # Its optimizer for bf16, written for BLOOM, adds gradients up in fp32 (arXiv:2211.05100, 3.4) by a cast (2
        # bytes read, 4 written) and an addition (8 and 4), and all-reduces all of them for sharded states (DeepSpeed
        # 0.8, bf16_optimizer.py, `update_hp_grads`; pipe/engine.py, `_bf16_reduce_grads`).
        found = dataclasses.replace(found, gradient_bytes=4.0, accumulation_bytes=18.0, whole_gradients=1.0)
    if name == "xla" and "int8" in str(row.get("prec", "")).lower():
        # AQT, which MaxText quantises with on TPUs, scales both operands anew in every pass (aqt_dot_general.py).
        found = dataclasses.replace(found, weight_casts=1.0)
    # Whoever trained on a chip had software that ran on it.
    return dataclasses.replace(found, year=max(float(found.year), float(hardware.launch_year) + FIRST_SOFTWARE_YEARS))


def interleaves(row: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Whether a pipeline whose chunks the row does not name had several of them on each rank."""
    own = (row.get("src"), row.get("framework"), row.get("where"), source.get("repo"), source.get("paper"))
    return any(re.search(INTERLEAVING, _joined(text)) for text in own)


def evaluation_share(row: Mapping[str, Any]) -> float:
    """Seconds of evaluation for one of training, in a row of MLPerf that has its step from the time of a run."""
    if not re.search(r"evaluation|run[ _]?(time|st)|wall|duration|total", str(row.get("step_from", "")).lower()):
        return 0.0
    model = str(row.get("model", "")).lower()
    return next((share for name, share in EVALUATED if name in model), 0.0) / 3.0


def drops_tokens(row: Mapping[str, Any], source: Mapping[str, Any], name: str) -> bool:
    """Whether a mixture's experts took as many tokens as they have room for, and no more."""
    if re.search(r"token.?drop", _joined(row.get("where"), row.get("note"))):
        return True
    version = _version(row, source, name)
    return name == "nemo" and version is not None and version >= RECIPES_SINCE


def recomputes_half(row: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Whether the framework's selective recomputation repeats every second matrix product: torchtitan's does, by its
    default policy (its paper, arXiv:2410.06511, section 2.3.1)."""
    return "torchtitan" in _joined(row.get("framework"), row.get("src"), source.get("repo"))


def _joined(*words: object) -> str:
    return " ".join(str(word) for word in words if word).lower()


def _version(row: Mapping[str, Any], source: Mapping[str, Any], name: str) -> float | None:
    """The year of the version that a row or its source's name carries, for levels that have versions."""
    if LEVELS[name].year < 2024 and name != "fsdp-2023":
        return None
    for text in (str(row.get("where", "")), str(row.get("src", "")), str(source.get("repo", ""))):
        round_ = ROUND.search(text.lower())
        if round_:
            return 2020.4 + int(round_[1]) + int(round_[2]) / 2.0
        found = VERSION.search(text)
        if found:
            return 2000.0 + int(found[1]) + (int(found[2]) - 1) / 12.0
    return None


def _printed_year(text: str) -> float | None:
    found = YEAR.search(text)
    if found is None:
        return None
    return float(found[1]) if found[1] else 2000.0 + float(found[2])
