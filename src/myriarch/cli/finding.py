"""One line of `myriarch doctor`."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warn", "missing"]
"""`warn`: works, but less well than it could. `missing`: `myriarch train` cannot work without it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a probe found out."""

    name: str
    value: str
    """For people."""
    verdict: Verdict = "ok"
    remedy: str = ""
    """What to do about a verdict that is not `ok`."""
    numbers: dict[str, int | float | str | bool] = {}
    """For programs: SI units, named last in each key."""
