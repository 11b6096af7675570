"""What all spec structs share: frozen, keyword-only, unknown keys rejected; and the kinds of numbers in them."""

from __future__ import annotations

from typing import Annotated, Final, dataclass_transform

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
NAME_LENGTH_LIMIT: Final = 40
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=NAME_LENGTH_LIMIT)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct that a fleet, model or run file may contain.

    `kw_only=True` is repeated on each subclass: msgspec does not inherit it.
    """
