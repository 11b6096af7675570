"""SI units inside, everything else at the edge.

Inside, a quantity is a plain float or int in SI base units, and its unit is the last word of its name:
`timeout_s`, `size_bytes`, `bandwidth_bytes_per_s`, `rate_flops_per_s`, `energy_j`. Instants and ledger spans
are integer nanoseconds (`at_ns`). This module reads quantities that people write and prints those they read.
"""

from __future__ import annotations

import decimal
import difflib
import math
import re
from typing import Final

NS_PER_S: Final = 1_000_000_000
S_PER_DAY: Final = 86_400

_DECIMAL: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}

_TIME_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_BYTES: Final = {f"{p}B": v for p, v in {**_DECIMAL, **_BINARY}.items()}
_BANDWIDTH: Final = {
    **{f"{p}B/s": v for p, v in {**_DECIMAL, **_BINARY}.items()},
    **{f"{p}bit/s": v / 8 for p, v in _DECIMAL.items()},
}
_RATE: Final = {f"{p}FLOP/s": v for p, v in _DECIMAL.items()}
_POWER: Final = {f"{p}W": v for p, v in _DECIMAL.items()}

SUFFIXES: Final[dict[str, dict[str, float]]] = {
    # longest first: the suffix of a field's name says which units its text may use
    "_bytes_per_s": _BANDWIDTH,
    "_flops_per_s": _RATE,
    "_bytes": _BYTES,
    "_s": _TIME_S,
    "_w": _POWER,
}

NUMBER_PATTERN: Final = r"[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_QUANTITY: Final = re.compile(rf"\s*({NUMBER_PATTERN})\s*([A-Za-zµ/]+)\s*")
_EXACT: Final = decimal.Context(prec=60)
"""Enough digits that a number times a unit's factor is rounded once, on the way to float: `9 ms` is exactly 0.009."""


def units_of(field_name: str) -> dict[str, float] | None:
    """The units that the name's suffix allows, as {unit: factor to SI}; None for a name without a unit."""
    for suffix, units in SUFFIXES.items():
        if field_name.endswith(suffix):
            return units
    return None


def parse_quantity(text: str, units: dict[str, float]) -> float:
    """Read `"25 GB/s"`, `"20 ms"`, `"1.5h"` into SI, correctly rounded.

    Raises ValueError, naming the text and the units that are known, when it is not a number and a unit.
    """
    match = _QUANTITY.fullmatch(text.replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}"))
    if match is None or match[2] not in units:
        raise ValueError(_not_a_quantity(text, match[2] if match else "", units))
    number = decimal.Decimal(match[1].replace("_", ""))
    value = float(_EXACT.multiply(number, decimal.Decimal(repr(units[match[2]]))))
    if not math.isfinite(value):
        raise ValueError(f"`{text}` is too large for a number; use a smaller one")
    return value


_MISSPELT: Final = (("bps", "bit/s"), ("b/s", "bit/s"), ("Bps", "B/s"), ("FLOPS", "FLOP/s"), ("FLOPs", "FLOP/s"))
"""Endings that people write for others. Told, never taken: `Gb/s` for `GB/s` would be eight times off."""


def _not_a_quantity(text: str, unit: str, units: dict[str, float]) -> str:
    meant = [unit.removesuffix(wrong) + right for wrong, right in _MISSPELT if unit.endswith(wrong)]
    folded = {each.casefold() for each in (*meant, unit)}
    near = [name for name in units if name.casefold() in folded] or difflib.get_close_matches(unit, units, 1, 0.5)
    guess = f"did you mean the unit {' or '.join(f'`{name}`' for name in near)}? " if near else ""
    known = ", ".join(f"`{name}`" for name in units if not name.startswith(("P", "E", "Ki", "Ti")))
    return f"`{text}` is not a number and a unit; {guess}use a plain number in SI, or a number and one of: {known}"


def format_s(seconds: float) -> str:
    """A duration for people: `12 ms`, `3.42 s`, `4 min 05 s`, `2 h 03 min`, `3.1 d`, `∞`."""
    if math.isnan(seconds):
        return "unknown"
    if seconds < 0:
        return "-" + format_s(-seconds)
    if math.isinf(seconds):
        return "∞"
    # Each bound is where the next unit's rounding starts, so that no part ever reads `1000 ms` or `60 s`.
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    if seconds < 48 * 3600 - 30:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h {rest:02d} min"
    return f"{seconds / S_PER_DAY:.1f} d"


def format_bytes(size_bytes: float) -> str:
    """Binary prefixes, three digits: `512 B`, `6.29 MiB`, `1020 KiB`."""
    return _scaled(size_bytes, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_rate(value: float, unit: str) -> str:
    """Decimal prefixes, three digits: `format_rate(3.35e12, "B/s")` is `3.35 TB/s`."""
    return _scaled(value, 1000.0, tuple(f"{p}{unit}" for p in ("", "k", "M", "G", "T", "P", "E")))


def _scaled(value: float, base: float, names: tuple[str, ...]) -> str:
    index = 0
    # What is printed is rounded: 999.6 kB/s has to become `1 MB/s`, not `1e+03 kB/s`.
    while round(abs(value)) >= base and index < len(names) - 1:
        value /= base
        index += 1
    digits = f"{value:.0f}" if index == 0 or abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {names[index]}"
