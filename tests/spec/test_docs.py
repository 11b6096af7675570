"""`docs/specs.md` names every field that a file may have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from myriarch.spec.schema import KINDS, json_schema

DOCS = (Path(__file__).parents[2] / "docs" / "specs.md").read_text("utf-8")


@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_in_the_docs(name: str) -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", DOCS))
    fields = {field for struct in json_schema(name)["$defs"].values() for field in struct["properties"]}
    assert fields - {"$schema"} <= named
