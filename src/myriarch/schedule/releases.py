"""When running jobs give their devices back, by their estimates: sorted, with sums.

Sorted chunks with the sum of each: adding, removing and finding the instant at which so many devices have come back
cost about the square root of the number of running jobs, and for less than a chunk of them one short walk.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

from myriarch.errors import SpecError

CHUNK_LENGTH: Final = 512
"""A chunk is cut in two at twice this length."""

Release = tuple[float, int, int]
"""End by the estimate in seconds, number that breaks ties, devices."""


class Releases:
    """A multiset of releases. Invariant: chunks are sorted, none empty, `_sums` are theirs, `_lasts` their last."""

    def __init__(self) -> None:
        self._chunks: list[list[Release]] = []
        self._sums: list[int] = []
        self._lasts: list[Release] = []

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    @property
    def first_s(self) -> float:
        """The earliest end; infinite when nothing runs."""
        return self._chunks[0][0][0] if self._chunks else float("inf")

    def add(self, release: Release) -> None:
        """One more."""
        if not self._chunks:
            self._chunks, self._sums, self._lasts = [[release]], [release[2]], [release]
            return
        at = min(bisect_left(self._lasts, release), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, release)
        self._sums[at] += release[2]
        if len(chunk) > 2 * CHUNK_LENGTH:
            self._cut(at)
        else:
            self._lasts[at] = chunk[-1]

    def remove(self, release: Release) -> None:
        """One less; ValueError when it is not there."""
        at = bisect_left(self._lasts, release)
        chunk = self._chunks[at] if at < len(self._chunks) else []
        index = bisect_left(chunk, release)
        if index == len(chunk) or chunk[index] != release:
            raise ValueError(f"no such release: {release}")
        self._take(at, index)

    def pop_due(self, now_s: float) -> list[Release]:
        """Take out all whose estimate is over, in order."""
        due = []
        while self._chunks and self._chunks[0][0][0] <= now_s:
            due.append(self._chunks[0][0])
            self._take(0, 0)
        return due

    def when(self, devices: int) -> tuple[float, int]:
        """The instant at which so many devices have come back, and how many have by then, equal instants included."""
        back = skipped = 0
        for total in self._sums:
            if back + total >= devices:
                break
            back += total
            skipped += 1
        else:
            raise SpecError(f"{devices} devices never come back: only {back} are in use", hint="check the refusals")
        until_s: float | None = None
        for chunk in self._chunks[skipped:]:
            for end_s, _, released in chunk:
                if until_s is not None and end_s > until_s:
                    return until_s, back
                back += released
                if until_s is None and back >= devices:
                    until_s = end_s
        assert until_s is not None
        return until_s, back

    def check(self) -> None:
        """Assert the invariant."""
        flat = [release for chunk in self._chunks for release in chunk]
        assert flat == sorted(flat)
        assert all(self._chunks)
        assert self._sums == [sum(release[2] for release in chunk) for chunk in self._chunks]
        assert self._lasts == [chunk[-1] for chunk in self._chunks]

    def _take(self, at: int, index: int) -> None:
        chunk = self._chunks[at]
        self._sums[at] -= chunk.pop(index)[2]
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._sums[at], self._lasts[at]

    def _cut(self, at: int) -> None:
        chunk = self._chunks[at]
        halves = [chunk[:CHUNK_LENGTH], chunk[CHUNK_LENGTH:]]
        self._chunks[at : at + 1] = halves
        self._sums[at : at + 1] = [sum(release[2] for release in half) for half in halves]
        self._lasts[at : at + 1] = [half[-1] for half in halves]
