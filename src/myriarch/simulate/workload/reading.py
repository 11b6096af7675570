"""Trace files: opened, recognised, read."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from myriarch.errors import SpecError, UsageError
from myriarch.simulate.workload.philly import read_philly
from myriarch.simulate.workload.sia import COLUMNS as SIA_COLUMNS
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

GZIP_MAGIC: Final = b"\x1f\x8b"
HINT: Final = "give a trace file, plain or gzipped"

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
    """Read a trace file, gzipped or not, of a kind in READERS or of the one that it looks like.

    Raises UsageError for a file that cannot be read as text, SpecError for one that is no trace of the kind.
    """
    if kind is not None and kind not in READERS:
        raise SpecError(f"`{kind}` is no kind of trace", hint=f"kinds: {', '.join(READERS)}")
    lines = lines_of(path)
    try:
        return READERS[kind or recognise(lines)](lines)
    except SpecError as error:
        raise SpecError(error.message, source=str(path), hint=error.hint) from None


def lines_of(path: Path) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte order mark, gzipped or not, whatever it is called.

    Raises UsageError for a file that cannot be read as text."""
    with _opened(path) as text:
        return list(text)


def looks_like_sia(path: Path) -> bool:
    """Whether it is a file of Sia's workloads: their jobs are trainings with speeds, which no `Trace` has."""
    with _opened(path) as text:
        first = next((line.strip() for line in text if line.strip()), "")
    return first.split(",") == list(SIA_COLUMNS)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    if path.is_char_device():
        raise UsageError(f"{path} is a device, and has no end", hint=HINT)
    try:
        with path.open("rb") as file:
            zipped = file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file) if zipped else file)
            with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
                yield text
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise UsageError(f"{path} is no text in UTF-8: there is a byte {wrong:#04x}", hint=HINT) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint=HINT) from None


def recognise(lines: list[str]) -> str:
    """The kind that a trace looks like by its first lines."""
    first = next((line.strip() for line in lines if line.strip()), "")
    if not first:
        raise SpecError("is empty", hint="give a trace with jobs in it")
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
