"""A profile as the text of a file: a row a line, four digits, what says nothing left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from myriarch.spec.profile import Profile


def profile_text(profile: Profile, *, format: Literal["yaml", "json"]) -> str:
    """The file's text; `parse_profile` reads it back."""
    content = _told(msgspec.to_builtins(profile))
    if format == "json":
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return "\n".join(_lines(content)) + "\n"


def _told(value: Any) -> Any:
    """Without the empty and the unknown; rates to four digits, which is more than was measured."""
    if isinstance(value, dict):
        told = {key: _told(part) for key, part in value.items()}
        return {key: part for key, part in told.items() if part not in (None, "", [], {}, False)}
    if isinstance(value, (list, tuple)):
        return [_told(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _lines(content: dict[str, Any]) -> Iterator[str]:
    for key, part in content.items():
        if isinstance(part, list):
            yield f"{key}:"
            yield from (f"  - {_inline(row)}" for row in part)
        else:
            yield f"{key}: {_inline(part)}"


def _inline(value: Any) -> str:
    """One value in YAML's flow style. Text is in JSON's quotes, which YAML reads as they are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_inline(part)}" for key, part in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.isidentifier() else json.dumps(key, ensure_ascii=False)
