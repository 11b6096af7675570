"""`myriarch schema`: valid JSON Schemas that accept what we ship and write, and refuse what the loader refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from myriarch.cli.schema import SCHEMAS, document
from myriarch.event.actions import FenceNode, Reason
from myriarch.event.events import NodeSilent
from myriarch.event.ids import NodeId
from myriarch.event.journal import Record

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))


def _kind(path: Path) -> str:
    """The schema that an example is of: its name, but for scenarios, which have names of their own."""
    return "scenario" if path.parent.name == "simulate" else path.stem


def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(document(name))


@pytest.mark.parametrize("name", SCHEMAS)
def test_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(document(name))


def test_is_printed_as_data(myriarch: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = myriarch("schema", "fleet")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == document("fleet")
    names = myriarch("schema")
    assert (names.returncode, names.stdout.split()) == (0, list(SCHEMAS))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_fit_the_schema_of_their_name(path: Path) -> None:
    _validator(_kind(path)).validate(yaml.safe_load(path.read_text()))


def test_examples_are_of_every_kind_that_people_write() -> None:
    assert {_kind(path) for path in EXAMPLES} == {"fleet", "model", "run", "market", "jobs", "scenario"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_unknown_keys_are_refused(path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    with pytest.raises(jsonschema.ValidationError, match="naem"):
        _validator(_kind(path)).validate({**content, "naem": 1})


def test_journal_lines_fit() -> None:
    reason = Reason(text="silent", numbers={"silent_s": 6.0})
    records = [
        Record(seq=1, at_ns=1, event=NodeSilent(node=NodeId("fast-1"), boot="b", silent_s=6.0)),
        Record(seq=2, at_ns=1, action=FenceNode(node=NodeId("fast-1"), boot="b", reason=reason)),
    ]
    for record in records:
        _validator("journal").validate(msgspec.to_builtins(record))
    _validator("event").validate(msgspec.to_builtins(records[0].event))
    _validator("action").validate(msgspec.to_builtins(records[1].action))
    with pytest.raises(jsonschema.ValidationError):
        _validator("event").validate({**msgspec.to_builtins(records[0].event), "event": "NodeSilnet"})
