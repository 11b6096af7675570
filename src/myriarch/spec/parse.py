"""A spec file's text to its struct."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Generic, TypeVar

from myriarch.spec.base import Spec
from myriarch.spec.document import Document, Format, Source, read_document
from myriarch.spec.shape import shaped

T = TypeVar("T", bound=Spec)

FORMATS: Final[dict[str, Format]] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
"""What the end of a file's name says it is."""


@dataclasses.dataclass(frozen=True)
class Parsed(Generic[T]):
    """A struct and where its parts stand, so that later checks can name the line too."""

    spec: T
    source: Source


def parse(text: str, *, kind: type[T], format: Format = "yaml", source: str = "") -> T:
    """Read a Fleet, Model or Run.

    A quantity may be a plain number in SI, or text with a unit that its field's name allows: `bandwidth_bytes_per_s:
    25 GB/s`. Raises SpecError with everything that is wrong, each with file, line (YAML), path, value and remedy.
    """
    return parse_located(text, kind=kind, format=format, source=source).spec


def parse_located(text: str, *, kind: type[T], format: Format = "yaml", source: str = "") -> Parsed[T]:
    """`parse` that keeps the lines."""
    document = read_document(text, format=format, source=source)
    content = _without_schema_key(document.value)
    return Parsed(spec=shaped(Document(value=content, source=document.source), kind), source=document.source)


def _without_schema_key(value: object) -> object:
    """Editors find a file's JSON Schema by its top-level key `$schema`; to us it says nothing."""
    if not isinstance(value, dict):
        return value
    content: dict[str, Any] = {key: part for key, part in value.items() if key != "$schema"}
    return content
