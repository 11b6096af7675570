"""JSON Schemas (draft 2020-12) of the three files, for editors and for other programs.

msgspec writes the shape. Added here: what each field means, from the docstring under it in the source, and that a
quantity whose name ends in a unit may also be text with a unit.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any, Final

import msgspec

from myriarch.errors import UsageError
from myriarch.spec.base import Spec
from myriarch.spec.fleet import Fleet
from myriarch.spec.model import Model
from myriarch.spec.problems import did_you_mean, listed
from myriarch.spec.profile import Profile
from myriarch.spec.run import Run
from myriarch.units import NUMBER_PATTERN, units_of

KINDS: Final[dict[str, type[Spec]]] = {"fleet": Fleet, "model": Model, "run": Run, "profile": Profile}

Schema = dict[str, Any]


def json_schema(name: str) -> Schema:
    """The schema of `fleet`, `model` or `run`. Raises UsageError for another name."""
    if name not in KINDS:
        raise UsageError(f"no spec file is called `{name}`;{did_you_mean(name, KINDS)} there are {listed(KINDS)}")
    return schema_of(KINDS[name])


def schema_of(kind: type[Spec]) -> Schema:
    """The schema of a file that a person writes, with the words of its fields."""
    schema: Schema = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(kind)))
    structs = {struct.__name__: struct for struct in _subclasses(Spec)}
    for struct_name, definition in schema["$defs"].items():
        meanings = _field_docs(structs[struct_name])
        for field, part in definition["properties"].items():
            definition["properties"][field] = _field_schema(field, part, meanings.get(field, ""))
    schema["$defs"][kind.__name__]["properties"]["$schema"] = {
        "type": "string",
        "description": "Where editors find this.",
    }
    return schema


def _field_schema(field: str, part: Schema, meaning: str) -> Schema:
    units = units_of(field)
    described = {"description": meaning} if meaning else {}
    return described | (part if units is None else _with_text(part, list(units)))


def _with_text(part: Schema, units: list[str]) -> Schema:
    """`part`, with text like `25 GB/s` allowed wherever it allows a number."""
    if part.get("type") in ("number", "integer"):
        outer = {key: value for key, value in part.items() if key == "default"}
        number = {key: value for key, value in part.items() if key != "default"}
        return {"anyOf": [number, {"type": "string", "pattern": _quantity_pattern(units)}], **outer}
    result = dict(part)
    if "anyOf" in part:
        result["anyOf"] = [_with_text(member, units) for member in part["anyOf"]]
    for inner in ("additionalProperties", "items"):
        if isinstance(part.get(inner), dict):
            result[inner] = _with_text(part[inner], units)
    return result


def _quantity_pattern(units: list[str]) -> str:
    return rf"^\s*{NUMBER_PATTERN}\s*({'|'.join(units)})\s*$"


def _subclasses(kind: type[Spec]) -> list[type[Spec]]:
    below = [each for child in kind.__subclasses__() for each in (child, *_subclasses(child))]
    return list(dict.fromkeys(below))


def _field_docs(struct: type[Spec]) -> dict[str, str]:
    """The docstrings under a struct's fields, inherited ones included. Empty where the source is not at hand."""
    docs: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        if issubclass(owner, Spec) and owner is not Spec:
            docs |= _own_field_docs(owner)
    return docs


def _own_field_docs(struct: type[Spec]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(struct)))
    except (OSError, TypeError):
        return {}
    docs: dict[str, str] = {}
    field = ""
    for statement in tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                field = name
            case ast.Expr(value=ast.Constant(value=str(text))) if field:
                docs[field] = " ".join(text.split())
                field = ""
            case _:
                field = ""
    return docs
