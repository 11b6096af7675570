"""Trace files: opened, recognised, read."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from myriarch.errors import SpecError, UsageError
from myriarch.simulate.workload.philly import read_philly
from myriarch.simulate.workload.swf import read_swf
from myriarch.simulate.workload.tables import (
    COMPACT_COLUMNS,
    read_acme,
    read_compact,
    read_helios,
    read_openb,
    read_pai,
)
from myriarch.simulate.workload.trace import Trace

READERS: Final[dict[str, Callable[[Iterable[str]], Trace]]] = {
    "swf": read_swf,
    "compact": read_compact,
    "philly": read_philly,
    "helios": read_helios,
    "acme": read_acme,
    "openb": read_openb,
    "pai": read_pai,
}


def read_trace(path: Path, *, kind: str | None = None) -> Trace:
    """Read a trace file, gzipped or not, of a kind in READERS or of the one that it looks like."""
    if kind is not None and kind not in READERS:
        raise SpecError(f"`{kind}` is no kind of trace", hint=f"kinds: {', '.join(READERS)}")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            lines = list(file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="give a trace file, plain or gzipped") from None
    try:
        return READERS[kind or recognise(lines)](lines)
    except SpecError as error:
        raise SpecError(error.message, source=str(path), hint=error.hint) from None


def recognise(lines: list[str]) -> str:
    """The kind that a trace looks like by its first lines."""
    first = next((line.strip() for line in lines if line.strip()), "")
    columns = first.split(",")
    if first.startswith(";") or len(first.split()) == 18:
        return "swf"
    if first.startswith("["):
        return "philly"
    if set(COMPACT_COLUMNS[:4]) <= set(columns):
        return "compact"
    if "gpu_num" in columns:
        return "helios" if "vc" in columns else "acme"
    if "num_gpu" in columns:
        return "openb"
    if len(columns) == 10:
        return "pai"
    raise SpecError(f"begins with `{first[:60]}`: no trace that is known", hint=f"kinds: {', '.join(READERS)}")
