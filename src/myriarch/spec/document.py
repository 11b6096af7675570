"""Text of a spec file to plain values, and the line that each stands on.

YAML is read by the core schema of YAML 1.2, not by PyYAML's 1.1, which turns `no` into false, `1e-3` into text, `1:30`
into 90 and `010` into 8. Keys are text as written, duplicate keys are refused, tags too. JSON and TOML give the same
values; their duplicate keys are refused as well.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn

import yaml

from myriarch.errors import SpecError

Format = Literal["yaml", "json", "toml"]

VALUES_LIMIT: Final = 200_000
"""Values in one file, aliases expanded: far past any fleet, far below what an alias bomb needs."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a spec came from: the name of its file and, where known, the line of each value by its path."""

    name: str = ""
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def at(self, path: str) -> str:
        """`fleet.yaml:12`, or `fleet.yaml` when the line of neither `path` nor anything around it is known."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        line = self.lines.get(path)
        return self.name if line is None or not self.name else f"{self.name}:{line}"


@dataclasses.dataclass(frozen=True)
class Document:
    """A file's content as dicts, lists, text, numbers, booleans and None."""

    value: object
    source: Source


def join(path: str, key: str | int) -> str:
    """The path of a part: `pools`, `pools[1]`, `pools[1].chip`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def read_document(text: str, *, format: Format, source: str) -> Document:
    """Raises SpecError, with the line, for text that is not of this format."""
    try:
        if format == "yaml":
            return _read_yaml(text, source)
        value: object = _read_json(text, source) if format == "json" else _read_toml(text, source)
    except RecursionError:
        raise SpecError("is nested too deeply; a spec needs a handful of levels", source=source) from None
    return Document(value=value, source=Source(name=source))


# --- YAML ------------------------------------------------------------------------------------------------------------


class _CoreLoader(yaml.SafeLoader):
    """Only composes nodes; what a plain scalar means is the core schema of YAML 1.2 (section 10.3.2)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way


_PREFIX: Final = "tag:yaml.org,2002:"
_FLOAT: Final = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_CORE_SCHEMA: Final[tuple[tuple[str, str, list[str]], ...]] = (
    # tag, what it looks like, what it may start with ("": the empty scalar, which PyYAML looks up so)
    ("null", r"(~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    ("float", f"({_FLOAT})", list("-+.0123456789")),
)
for _tag, _pattern, _first in _CORE_SCHEMA:
    _CoreLoader.add_implicit_resolver(_PREFIX + _tag, re.compile(f"^{_pattern}$"), _first)


def _read_yaml(text: str, source: str) -> Document:
    try:
        loader = _CoreLoader(text)
        loader.name = source or "text"
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark is not None and source else source
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"is not valid YAML: {what}", source=where) from None
    except yaml.YAMLError as error:
        raise SpecError(f"is not valid YAML: {' '.join(str(error).split())}", source=source) from None
    tree = _YamlTree(source)
    value = None if root is None else tree.value(root, "")
    return Document(value=value, source=Source(name=source, lines=tree.lines))


class _YamlTree:
    """Turns nodes into values. `lines` has the line of every path seen; `count` never passes VALUES_LIMIT."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[str, int] = {}
        self.count = 0

    def value(self, node: yaml.Node, path: str) -> object:
        self.count += 1
        if self.count > VALUES_LIMIT:
            self._refuse(node, path, f"the file has more than {VALUES_LIMIT} values; aliases count each time")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, join(path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, path, "a key must be text")
            key: str = key_node.value
            below = join(path, key)
            if key in mapping:
                self._refuse(key_node, below, f"is given twice, first on line {self.lines[below]}; keep one")
            self.lines[below] = key_node.start_mark.line + 1
            mapping[key] = self.value(value_node, below)
        return mapping

    def _scalar(self, node: yaml.Node, path: str) -> object:
        text: str = node.value
        tag = node.tag.removeprefix(_PREFIX)
        try:
            match tag:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
                case "float":
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                case _:
                    self._refuse(node, path, f"has the tag `{node.tag}`, and tags are not used here; remove it")
        except ValueError as error:
            self._refuse(node, path, f"is not a number: {error}")

    def _refuse(self, node: yaml.Node, path: str, message: str) -> NoReturn:
        where = f"{self.source}:{node.start_mark.line + 1}" if self.source else ""
        raise SpecError(message, source=where, path=path)


# --- JSON and TOML ---------------------------------------------------------------------------------------------------


def _read_json(text: str, source: str) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for index, key in enumerate(keys) if key in keys[:index])
            raise SpecError(f"the key `{twice}` is given twice in one object; keep one", source=source)
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"{source}:{error.lineno}" if source else ""
        raise SpecError(f"is not valid JSON: {error.msg} (column {error.colno})", source=where) from None
    except ValueError as error:
        raise SpecError(f"is not valid JSON: {error}", source=source) from None


def _read_toml(text: str, source: str) -> object:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise SpecError(f"is not valid TOML: {error}", source=source) from None
