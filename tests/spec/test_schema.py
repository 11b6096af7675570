"""The published JSON Schemas: valid, complete, and of one mind with the parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from myriarch.errors import UsageError
from myriarch.spec.document import read_document
from myriarch.spec.schema import KINDS, json_schema

EXAMPLES = sorted(path for path in (Path(__file__).parents[2] / "examples").glob("*/*.yaml") if path.stem in KINDS)


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema(name))


@pytest.mark.parametrize("name", KINDS)
def test_is_a_schema_that_says_what_each_struct_is(name: str) -> None:
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(definition["description"] for definition in schema["$defs"].values())
    assert msgspec.json.decode(msgspec.json.encode(schema)) == schema


def test_says_what_fields_mean_inherited_ones_too() -> None:
    definitions = json_schema("fleet")["$defs"]
    assert definitions["Pool"]["properties"]["chip"]["description"] == "A catalogue name, or a chip described inline."
    memory = definitions["Chip"]["properties"]["link_bandwidth_bytes_per_s"]
    assert memory["description"] == "One direction, per device, inside the scale-up domain."


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_accepts_the_examples(path: Path) -> None:
    document = read_document(path.read_text("utf-8"), format="yaml", source=str(path)).value
    validator(path.stem).validate(document)


@pytest.mark.parametrize(
    ("bandwidth", "fits"),
    [
        (1e9, True),
        ("1 GB/s", True),
        ("200Gbit/s", True),
        (" 1_000 B/s ", True),
        (0, False),
        ("1 GB", False),
        ("GB/s", False),
    ],
)
def test_a_quantity_may_be_a_number_or_text_with_its_units(bandwidth: object, fits: bool) -> None:
    link: dict[str, Any] = {"between": ["a", "b"], "bandwidth_bytes_per_s": bandwidth}
    assert validator("fleet").is_valid({"name": "f", "pools": [], "links": [link]}) == fits


def test_quantities_in_tables_and_optional_ones_may_be_text_too() -> None:
    chip = {"id": "c", "rate_flops_per_s": {"bf16": "96 TFLOP/s"}, "power_w": "250 W", "memory_bytes": None}
    fleet = {"name": "f", "pools": [{"name": "p", "chip": chip, "nodes": 1}]}
    assert validator("fleet").is_valid(fleet)
    assert not validator("fleet").is_valid({"name": "f", "pools": [{"name": "p", "chip": chip, "nodes": "1 W"}]})


def test_unknown_keys_are_refused_but_for_the_editors_own() -> None:
    assert validator("fleet").is_valid({"$schema": "fleet.json", "name": "f", "pools": []})
    assert not validator("fleet").is_valid({"name": "f", "pools": [], "polls": []})


def test_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="no spec file is called `fleeet`; did you mean `fleet`"):
        json_schema("fleeet")
