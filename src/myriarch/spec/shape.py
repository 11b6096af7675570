"""Plain values against the shape of a spec struct: what msgspec would check, with every problem, its place and remedy.

msgspec stops at the first problem and knows no units, no lines and no "did you mean". So the values are walked along
the struct's type first; what comes out converts without a complaint.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeGuard, TypeVar, cast

import msgspec
import msgspec.inspect as mi

from myriarch.errors import SpecError
from myriarch.spec.base import NAME_LENGTH_LIMIT, NAME_PATTERN, Spec
from myriarch.spec.document import Document, Source, join
from myriarch.spec.problems import Problems, collected, did_you_mean, listed, nearest
from myriarch.units import parse_quantity, units_of

T = TypeVar("T", bound=Spec)
Units = dict[str, float] | None

_FAULTY: Final = object()
"""Stands for a value whose problem has been told already."""

_Number = mi.IntType | mi.FloatType
_LIMIT: Final = {True: 2**63 - 1, False: 1e300}
"""Largest magnitude of whole numbers (what the journal's readers in other languages can hold) and of others."""
_TEXT_SHOWN_LIMIT: Final = 80


def shaped(document: Document, kind: type[T]) -> T:
    """The struct that the document describes. Raises SpecError with everything that is wrong with it."""
    with collected() as problems:
        struct = cast("mi.StructType", mi.type_info(kind))
        value = _Shaper(document.source, problems).struct(document.value, struct, "")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise SpecError(str(error), source=document.source.name) from error


class _Shaper:
    """Walks a value along a type. Every method returns what the type wants, or _FAULTY after telling the problem."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self.source = source
        self.problems = problems

    def struct(self, value: object, kind: mi.StructType, path: str) -> object:
        what = _article(kind.cls.__name__)
        required = [field.name for field in kind.fields if field.required]
        if not isinstance(value, dict):
            wanted = f"; it needs {listed(required)}" if required else ""
            return self._tell(path, f"{_described(value)} is not {what}{wanted}")
        fields = {field.name: field for field in kind.fields}
        unknown = {key: nearest(key, set(fields) - set(value)) for key in value if key not in fields}
        for key, guess in unknown.items():
            remedy = f"did you mean `{guess}`? " if guess else ""
            self._tell(join(path, key), f"unknown key; {remedy}{what} has {listed(fields, limit=40)}")
        for name in required:
            if name not in value and name not in unknown.values():
                self._tell(path, f"`{name}` is missing; {what} needs {listed(required)}")
        return {
            key: self.any(part, fields[key].type, join(path, key), units_of(key))
            for key, part in value.items()
            if key in fields
        }

    def any(self, value: object, kind: mi.Type, path: str, units: Units) -> object:
        """`units`: those that the name of the field allows; they hold for all numbers in its lists and tables."""
        match kind:
            case mi.Metadata():
                return self.any(value, kind.type, path, units)
            case mi.UnionType():
                return self._union(value, kind, path, units)
            case mi.StructType():
                return self.struct(value, kind, path)
            case mi.DictType():
                return self._table(value, kind, path, units)
            case mi.VarTupleType() | mi.TupleType():
                return self._list(value, kind, path, units)
            case mi.LiteralType():
                return self._literal(value, kind, path)
            case mi.BoolType():
                return self._boolean(value, path)
            case mi.StrType():
                return self._text(value, kind, path)
            case mi.IntType() | mi.FloatType():
                return self._number(value, kind, path, units)
            case _:  # pragma: no cover - a field of a type that no spec has had yet
                raise TypeError(f"{path}: specs have no {kind!r}")

    def _union(self, value: object, kind: mi.UnionType, path: str, units: Units) -> object:
        if value is None and any(isinstance(member, mi.NoneType) for member in kind.types):
            return None
        members = [member for member in kind.types if not isinstance(member, mi.NoneType)]
        fitting = [member for member in members if _fits(value, member)] or members
        return self.any(value, fitting[0], path, units)

    def _table(self, value: object, kind: mi.DictType, path: str, units: Units) -> object:
        if not isinstance(value, dict):
            return self._tell(path, f"{_described(value)} is not a table of keys and values")
        for key in value:
            self.any(key, kind.key_type, join(path, key), None)
        return {key: self.any(part, kind.value_type, join(path, key), units) for key, part in value.items()}

    def _list(self, value: object, kind: mi.VarTupleType | mi.TupleType, path: str, units: Units) -> object:
        if not isinstance(value, list):
            return self._tell(path, f"{_described(value)} is not a list; put it in [brackets]")
        kinds: Sequence[mi.Type]
        if isinstance(kind, mi.TupleType):
            kinds = kind.item_types
            if len(value) != len(kinds):
                return self._tell(path, f"has {len(value)} entries; give exactly {len(kinds)}")
        else:
            kinds = [kind.item_type] * len(value)
        return [
            self.any(item, item_kind, join(path, index), units)
            for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True))
        ]

    def _literal(self, value: object, kind: mi.LiteralType, path: str) -> object:
        words = [str(word) for word in kind.values]
        if isinstance(value, str) and value in words:
            return value
        if not isinstance(value, str):
            return self._tell(path, f"{_described(value)} is not one of {listed(words)}")
        return self._tell(path, f"`{value}` is not known;{did_you_mean(value, words)} it is one of {listed(words)}")

    def _boolean(self, value: object, path: str) -> object:
        if isinstance(value, bool):
            return value
        return self._tell(path, f"{_described(value)} is not a yes or no; write true or false")

    def _text(self, value: object, kind: mi.StrType, path: str) -> object:
        if not isinstance(value, str):
            quoted = f'; put it in quotes: "{value}"' if isinstance(value, (int, float)) else ""
            return self._tell(path, f"{_described(value)} is not text{quoted}")
        if not _is_unicode(value):
            return self._tell(path, f"{value!r} has half of a surrogate pair; write the whole character")
        if kind.pattern == NAME_PATTERN and not _is_name(value):
            remedy = f"use lower-case letters, digits and inner hyphens, at most {NAME_LENGTH_LIMIT}"
            return self._tell(path, f"`{value}` is not a name; {remedy}")
        return value

    def _number(self, value: object, kind: _Number, path: str, units: Units) -> object:
        whole = isinstance(kind, mi.IntType)
        wanted = "a whole number" if whole else "a number"
        if isinstance(value, str) and units is not None:
            try:
                value = parse_quantity(value, units)
            except ValueError as error:
                return self._tell(path, str(error))
        if isinstance(value, str):
            return self._tell(path, f"{_described(value)} is not {wanted}{_number_remedy(value)}")
        if not _is_number(value):
            return self._tell(path, f"{_described(value)} is not {wanted}")
        if isinstance(value, float) and not math.isfinite(value):
            return self._tell(path, f"{value} is not {wanted}; use a finite one")
        if abs(value) > _LIMIT[whole]:
            return self._tell(path, f"is too large for {wanted}; use at most {_LIMIT[whole]:g}")
        if whole and value != int(value):
            return self._tell(path, f"{value} is not a whole number; use {math.floor(value)} or {math.ceil(value)}")
        return self._bounded(value, kind, path)

    def _bounded(self, value: float, kind: _Number, path: str) -> object:
        bounds: tuple[tuple[float | None, str, Callable[[float, float], bool]], ...] = (
            (kind.gt, "more than", operator.gt),
            (kind.ge, "at least", operator.ge),
            (kind.lt, "less than", operator.lt),
            (kind.le, "at most", operator.le),
        )
        stated = [(bound, words, holds) for bound, words, holds in bounds if bound is not None]
        if not all(holds(value, bound) for bound, _, holds in stated):
            remedy = " and ".join(f"{words} {_plain(bound)}" for bound, words, _ in stated)
            return self._tell(path, f"{_plain(value)} is out of range; use {remedy}")
        return int(value) if isinstance(kind, mi.IntType) else float(value)

    def _tell(self, path: str, message: str) -> object:
        self.problems.add(self.source, path, message)
        return _FAULTY


def _article(name: str) -> str:
    """`FailureRate` as a reader says it: `a failure rate`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_unicode(text: str) -> bool:
    """JSON's escapes can write lone surrogates, which no UTF-8 file, journal or terminal takes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_name(text: str) -> bool:
    """Stricter than msgspec by one case: `$` alone would let a final line break pass."""
    return len(text) <= NAME_LENGTH_LIMIT and re.fullmatch(NAME_PATTERN, text) is not None


def _fits(value: object, kind: mi.Type) -> bool:
    """Whether a union's member is the one that was meant: tables for tables, lists for lists, the rest for the rest."""
    if isinstance(value, dict):
        return isinstance(kind, (mi.StructType, mi.DictType))
    if isinstance(value, list):
        return isinstance(kind, (mi.VarTupleType, mi.TupleType))
    return not isinstance(kind, (mi.StructType, mi.DictType, mi.VarTupleType, mi.TupleType))


def _described(value: object) -> str:
    match value:
        case None:
            return "an empty value"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f"the text `{value[:_TEXT_SHOWN_LIMIT]}`"
        case int() | float():
            return f"the number {_plain(value)}"
        case dict():
            return "a table of keys and values"
        case list():
            return "a list"
        case _:
            return f"the date or time `{value}`"


def _number_remedy(text: str) -> str:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return ""
    return f"; write it without quotes or underscores: {_plain(number)}"


def _plain(number: float) -> str:
    """As a person would write it: 8 for 8.0."""
    return str(int(number)) if abs(number) < 1e15 and number == int(number) else str(number)
