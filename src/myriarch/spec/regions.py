"""Emission factors of grids that ship inside: the 30 Chinese provinces of the official table for 2023.

`data/china_provincial_emissions.json` is CodeCarbon's file (MIT, its licence beside it) of Announcement 2025 No. 47 of
China's Ministry of Ecology and Environment, table 3: kg CO2 per kWh used, means over all generation, trade between
provinces accounted for; CO2 only. Tibet, Hong Kong, Macao and Taiwan are not in that table, and have no factor here.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from myriarch.spec.base import Spec
from myriarch.spec.problems import did_you_mean

_TAILS: Final = (" province", " municipality", " autonomous region")


class Region(Spec, frozen=True, kw_only=True):
    """A grid."""

    code: str
    """ISO 3166-2: `CN-NM`."""
    name: str
    carbon_kg_per_kwh: float
    year: int
    """That the factor is of."""
    source: str


class _Row(msgspec.Struct, frozen=True):
    emission_factor: float
    description: str
    year: int
    names: tuple[str, ...]


class _Metadata(msgspec.Struct, frozen=True):
    source: str


class _File(msgspec.Struct, frozen=True):
    metadata: _Metadata
    data: dict[str, _Row]


@functools.cache
def regions() -> Mapping[str, Region]:
    """All regions by code, in the order of the file. Read once, on the first call."""
    file = _file()
    return MappingProxyType(
        {
            code: Region(
                code=code,
                name=row.description,
                carbon_kg_per_kwh=row.emission_factor / 1000.0,
                year=row.year,
                source=file.metadata.source,
            )
            for code, row in file.data.items()
        }
    )


def find_region(text: str) -> Region | None:
    """The region of this code or name (`CN-NM`, `Inner Mongolia`); None when there is none."""
    code = _names().get(_folded(text))
    return None if code is None else regions()[code]


def unknown_region(text: str) -> str:
    """What to tell somebody who wrote a region whose grid is not known here."""
    near = did_you_mean(_folded(text), _names())
    return f"`{text}` has no emission factor here;{near} give the site's `carbon_kg_per_kwh`"


@functools.cache
def _file() -> _File:
    path = importlib.resources.files("myriarch.spec").joinpath("data", "china_provincial_emissions.json")
    return msgspec.json.decode(path.read_bytes(), type=_File)


@functools.cache
def _names() -> Mapping[str, str]:
    """Codes by everything that a region may be called."""
    return {_folded(name): code for code, row in _file().data.items() for name in (code, row.description, *row.names)}


def _folded(text: str) -> str:
    folded = " ".join(text.casefold().split())
    for tail in _TAILS:
        folded = folded.removesuffix(tail)
    return folded
