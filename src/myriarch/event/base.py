"""What all events and actions share."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A part of an event or an action: immutable, comparable, and its JSON is the journal's.

    Every subclass repeats `frozen=True, kw_only=True`: msgspec does not inherit `kw_only`.
    """
