"""Everything that is wrong with a file, told at once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from myriarch.errors import SpecError
from myriarch.spec.document import Source

SHOWN_LIMIT: Final = 20
"""Problems of one reading that are printed; the rest is counted."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what to do about it."""

    source: Source
    path: str
    message: str

    @property
    def line(self) -> str:
        return str(SpecError(self.message, source=self.source.at(self.path), path=self.path))


class Problems:
    """Collects problems while a file is read."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, source: Source, path: str, message: str) -> None:
        self.found.append(Problem(source=source, path=path, message=message))

    def raise_any(self) -> None:
        """Raise one SpecError that tells them all, located at the first; nothing when there are none."""
        if not self.found:
            return
        first, *rest = self.found
        lines = [first.message, *(problem.line for problem in rest[: SHOWN_LIMIT - 1])]
        if len(self.found) > SHOWN_LIMIT:
            lines.append(f"... and {len(self.found) - SHOWN_LIMIT} more problems")
        raise SpecError("\n".join(lines), source=first.source.at(first.path), path=first.path)


@contextmanager
def collected() -> Iterator[Problems]:
    """Problems found in the block are raised together at its end."""
    problems = Problems()
    yield problems
    problems.raise_any()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` did you mean `x`?`, or nothing when no known word is near."""
    near = nearest(word, known)
    return f" did you mean `{near}`?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like this one, or nothing. Ties go to the first in order of the alphabet."""
    by_folded = {name.casefold(): name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(word.casefold(), sorted(by_folded), n=1, cutoff=0.6)
    return by_folded[near[0]] if near else ""


def listed(words: Iterable[str], *, limit: int = 12) -> str:
    """`` `a`, `b`, `c` ``, cut after `limit` words."""
    all_words = list(words)
    shown = ", ".join(f"`{word}`" for word in all_words[:limit])
    return shown if len(all_words) <= limit else f"{shown} and {len(all_words) - limit} more"
