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
    if "tpu" in str(row.get("chip", "")).lower():
        return "xla"
    own = _joined(row.get("framework"), row.get("where"), row.get("src"))
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
        # Its optimizer for bf16, written for BLOOM, adds gradients up and reduces them in fp32 (arXiv:2211.05100, 3.4).
        found = dataclasses.replace(found, gradient_bytes=4.0, accumulation_bytes=10.0)
    # Whoever trained on a chip had software that ran on it.
    return dataclasses.replace(found, year=max(float(found.year), float(hardware.launch_year) + FIRST_SOFTWARE_YEARS))


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
