"""SI units inside, everything else at the edge.

Inside, a quantity is a plain float or int in SI base units, and its unit is the last word of its name:
`timeout_s`, `size_bytes`, `bandwidth_bytes_per_s`, `rate_flops_per_s`, `energy_j`. Instants and ledger spans
are integer nanoseconds (`at_ns`). This module reads quantities that people write and prints those they read.
"""

from __future__ import annotations

import re
from typing import Final

NS_PER_S: Final = 1_000_000_000

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

_QUANTITY: Final = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*([A-Za-zµ/]+)\s*$")


def units_of(field_name: str) -> dict[str, float] | None:
    """The units that the name's suffix allows, as {unit: factor to SI}; None for a name without a unit."""
    for suffix, units in SUFFIXES.items():
        if field_name.endswith(suffix):
            return units
    return None


def parse_quantity(text: str, units: dict[str, float]) -> float:
    """Read `"25 GB/s"`, `"20 ms"`, `"1.5h"` into SI.

    Raises ValueError, naming the text and the units that are known, when it is not a number and a unit.
    """
    match = _QUANTITY.match(text)
    if match is None or match[2] not in units:
        known = ", ".join(list(units)[:8])
        raise ValueError(f"`{text}` is not a number and a unit; use a plain SI number, or one of: {known}")
    return float(match[1].replace("_", "")) * units[match[2]]


def format_s(seconds: float) -> str:
    """A duration for people: `12 ms`, `3.42 s`, `4 min 05 s`, `2 h 03 min`, `3.1 d`."""
    if seconds < 0:
        return "-" + format_s(-seconds)
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1.0:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    if seconds < 48 * 3600:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h {rest:02d} min"
    return f"{seconds / 86400:.1f} d"


def format_bytes(size_bytes: float) -> str:
    """Binary prefixes, three digits: `512 B`, `6.29 MiB`."""
    return _scaled(size_bytes, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_rate(value: float, unit: str) -> str:
    """Decimal prefixes, three digits: `format_rate(3.35e12, "B/s")` is `3.35 TB/s`."""
    return _scaled(value, 1000.0, tuple(f"{p}{unit}" for p in ("", "k", "M", "G", "T", "P", "E")))


def _scaled(value: float, base: float, names: tuple[str, ...]) -> str:
    index = 0
    while abs(value) >= base and index < len(names) - 1:
        value /= base
        index += 1
    return f"{value:.0f} {names[index]}" if index == 0 else f"{value:.3g} {names[index]}"
