"""The chips that ship inside: 61 kinds, each number with its confidence and source.

`data/chips.yaml` is in the units of data sheets (TFLOP/s, GB, GB/s); here it becomes `Chip` structs in SI. Nothing is
guessed: what the file leaves out stays unknown.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec
import yaml

from myriarch.errors import SpecError
from myriarch.spec.base import Spec
from myriarch.spec.fleet import Chip, Confidence, Pool, Precision
from myriarch.spec.problems import did_you_mean, listed

_TERA: Final = 1e12
_GIGA: Final = 1e9


class _Link(Spec, frozen=True, kw_only=True):
    name: str | None
    gbs_one_way: float | None
    domain_cards: int | None


class _Row(Spec, frozen=True, kw_only=True):
    """One chip as the file has it."""

    id: str
    vendor: str
    alias: str = ""
    tflops: dict[Precision, float | None]
    mem_gb: float | None
    mem_type: str | None
    mem_gbs: float | None
    link: _Link
    pcie: str | None
    tdp_w: float | None
    matmul_bf16_tflops_measured: float | None
    matmul_fp8_tflops_measured: float | None
    confidence: Confidence
    sources: tuple[str, ...]
    memory_fields: tuple[str, ...] = ()
    note: str = ""


class _Fabric(Spec, frozen=True, kw_only=True):
    id: str
    per_card_gbs_one_way: float
    nics: str
    src: str


class _File(Spec, frozen=True, kw_only=True):
    format: Literal[1]
    sources: dict[str, str]
    fabrics: tuple[_Fabric, ...]
    chips: tuple[_Row, ...]


@functools.cache
def catalogue() -> Mapping[str, Chip]:
    """All chips by id, in the order of the file. Read once, on the first call."""
    text = importlib.resources.files("myriarch.spec").joinpath("data", "chips.yaml").read_text("utf-8")
    # libyaml where it is there: ten times faster. The file is ours and has none of YAML 1.1's traps.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    file = msgspec.convert(yaml.load(text, loader), _File)
    return MappingProxyType({row.id: _chip(row, file.sources) for row in file.chips})


def lookup(name: str, *, chips: Mapping[str, Chip] | None = None) -> Chip:
    """The chip called `name`. Raises SpecError with the nearest names when the catalogue has none such."""
    known = catalogue() if chips is None else chips
    if name not in known:
        raise SpecError(unknown_chip(name, chips=known))
    return known[name]


def chip_of(pool: Pool) -> Chip:
    """The pool's chip, looked up where the file only names it. Raises SpecError as `lookup` does."""
    return pool.chip if isinstance(pool.chip, Chip) else lookup(pool.chip)


def unknown_chip(name: str, *, chips: Mapping[str, Chip]) -> str:
    """What to tell somebody who wrote the name of a chip that is not there."""
    by_alias = {chip.alias.casefold(): chip.id for chip in chips.values() if chip.alias}
    if name.casefold() in by_alias:
        return f"chip `{name}` goes by another name here; use `{by_alias[name.casefold()]}`"
    family = [chip for chip in chips if chip.startswith(name.casefold() + "-")]
    known = f" use one of {listed(family)}, or" if family else did_you_mean(name, chips)
    return f"chip `{name}` is not in the catalogue;{known} describe it inline: {{id: {name}, ...}}"


def described(chip: Chip) -> str:
    """The chip's name, with its label where its numbers must not be shown without one: `rubin (announced)`."""
    return f"{chip.id} ({chip.confidence})" if chip.is_doubtful else chip.id


def _chip(row: _Row, sources: Mapping[str, str]) -> Chip:
    measured: dict[Precision, float | None] = {
        "bf16": row.matmul_bf16_tflops_measured,
        "fp8": row.matmul_fp8_tflops_measured,
    }
    return Chip(
        id=row.id,
        vendor=row.vendor,
        alias=row.alias,
        rate_flops_per_s=_known(row.tflops),
        memory_bytes=_scaled(row.mem_gb),
        memory_kind=row.mem_type or "",
        memory_bandwidth_bytes_per_s=_scaled(row.mem_gbs),
        link_bandwidth_bytes_per_s=_scaled(row.link.gbs_one_way),
        link_domain_devices=row.link.domain_cards,
        link_kind=row.link.name or "",
        host_link=row.pcie or "",
        power_w=row.tdp_w,
        matmul_measured_flops_per_s=_known(measured),
        confidence=row.confidence,
        uncertain_fields=row.memory_fields,
        sources=tuple(sources[key] for key in row.sources),
        note=row.note,
    )


def _known(rates_tera: Mapping[Precision, float | None]) -> dict[Precision, float]:
    return {precision: rate * _TERA for precision, rate in rates_tera.items() if rate is not None}


def _scaled(value_giga: float | None) -> float | None:
    return None if value_giga is None else value_giga * _GIGA
