"""Text as bytes, and which sample each slot of each step consumes.

The corpus is cut into windows of `context_tokens + 1` bytes that share one byte with their neighbour; the last windows
are held out. Slot `k` of step `s` is position `s * sequences + k` of an endless list: epoch after epoch, each a keyed
permutation of all training windows. So the sample is a pure function of (seed, s, k): whatever fails or joins, none is
lost and none is seen twice before all were seen once.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.errors import SpecError
from myriarch.spec.run import Data
from myriarch.train.counter import key_of, permute

STDLIB: Final = "stdlib"
_STDLIB_LEFT_OUT: Final = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_HELD_OUT: Final = 64
"""One window in so many is held out for validation,"""
_HELD_OUT_MOST: Final = 64
"""and never more than this: a validation is to cost about one step."""

Bytes = npt.NDArray[np.uint8]


def read_corpus(data: Data) -> Bytes:
    """All text of `data`, in an order that depends on file names only.

    Raises SpecError when the source is missing, empty or not UTF-8.
    """
    own_choice = data.source != STDLIB
    files = _files_of(Path(data.source), data.pattern) if own_choice else _stdlib_files()
    parts: list[bytes] = []
    size = 0
    for file in files:
        content = _text_of(file, refuse_foreign=own_choice)
        parts.append(content)
        size += len(content)
        if data.max_bytes is not None and size >= data.max_bytes:
            break
    joined = b"".join(parts)[: data.max_bytes]
    if not joined:
        raise SpecError(
            f"`{data.source}` holds no text; name a UTF-8 file, a folder of them, or `{STDLIB}`", path="data.source"
        )
    return np.frombuffer(joined, dtype=np.uint8)


def _stdlib_files() -> list[Path]:
    """Python's own sources, without tests: some 12 MB on every machine."""
    root = sysconfig.get_paths()["stdlib"]
    found: list[Path] = []
    for folder, children, names in os.walk(root):
        children[:] = sorted(child for child in children if child not in _STDLIB_LEFT_OUT)
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def _files_of(source: Path, pattern: str) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise SpecError(
            f"there is no file or folder `{source}`; name a UTF-8 file, a folder of them, or `{STDLIB}`",
            path="data.source",
        )
    files = sorted(file for file in source.glob(pattern) if file.is_file())
    if not files:
        raise SpecError(f"no file in `{source}` matches `{pattern}`; `**/*` takes all", path="data.pattern")
    return files


def _text_of(file: Path, *, refuse_foreign: bool) -> bytes:
    """The file's bytes, proven to be UTF-8; without `refuse_foreign`, nothing where they are not.

    Python's own sources may declare other encodings: those few are skipped, as nobody chose them.
    """
    try:
        content = file.read_bytes()
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        if not refuse_foreign:
            return b""
        raise SpecError(
            f"`{file}` is not UTF-8 (byte {error.start}); convert it, or leave it out with `data.pattern`",
            path="data.source",
        ) from error
    except OSError as error:
        raise SpecError(
            f"`{file}` cannot be read: {error.strerror}; check its permissions", path="data.source"
        ) from error
    return content


class Corpus:
    """Windows of a text and the order in which steps consume them.

    `sequences` is the whole batch of a step, over all groups; it stays the same for the whole run.
    """

    def __init__(self, text: Bytes, *, context_tokens: int, sequences: int, seed: int, source: str = "") -> None:
        windows = (text.size - 1) // context_tokens
        held_out = min(_HELD_OUT_MOST, windows // _HELD_OUT) or min(1, max(0, windows - 1))
        if windows < 1:
            what = f"`{source}`" if source else "the text"
            raise SpecError(
                f"{what} has {text.size} bytes, too short for a sequence of {context_tokens} tokens and one more; "
                "use a longer text or a smaller `context_tokens`",
                path="data.source",
            )
        self.samples: Final = windows - held_out
        """Training windows; sample ids are `range(samples)`."""
        self.held_out: Final = held_out
        """Windows for validation; none where there is a single one to train on."""
        self._text: Final = text
        self._context: Final = context_tokens
        self._sequences: Final = sequences
        self._seed: Final = seed

    def sample_of(self, step: int, slot: int) -> int:
        """The id of the sample that slot `slot` of step `step` consumes."""
        if not 0 <= slot < self._sequences:
            raise ValueError(f"slot {slot} is outside a batch of {self._sequences} sequences")
        epoch, position = divmod(step * self._sequences + slot, self.samples)
        return permute(key_of("sample", self._seed, epoch), position, size=self.samples)

    def samples_of(self, step: int, slots: range) -> tuple[int, ...]:
        """The ids for several slots, in order."""
        return tuple(self.sample_of(step, slot) for slot in slots)

    def windows(self, samples: Sequence[int]) -> npt.NDArray[np.int64]:
        """Token ids of the samples, (len(samples), context_tokens + 1): inputs are `[:, :-1]`, targets `[:, 1:]`."""
        starts = np.asarray(samples, dtype=np.int64) * self._context
        tokens: npt.NDArray[np.int64] = self._text[starts[:, None] + np.arange(self._context + 1)].astype(np.int64)
        return tokens

    def held_out_windows(self, part: int, *, parts: int) -> npt.NDArray[np.int64]:
        """Every `parts`-th held-out window, beginning with `part`: how a group's ranks divide a validation."""
        return self.windows(range(self.samples + part, self.samples + self.held_out, parts))


def slots_of_rank(first: int, count: int, *, rank: int, world_size: int) -> range:
    """The slots of a group's `[first, first + count)` that `rank` computes: contiguous, the remainder to the first."""
    each, rest = divmod(count, world_size)
    begin = first + rank * each + min(rank, rest)
    return range(begin, begin + each + (1 if rank < rest else 0))
