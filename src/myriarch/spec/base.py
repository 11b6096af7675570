"""What all spec structs share: frozen, keyword-only, unknown keys rejected."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct that a fleet, model or run file may contain.

    `kw_only=True` is repeated on each subclass: msgspec does not inherit it.
    """
