"""Shares of time into rounds: who runs where next, so that in the long run everybody gets its share.

Gavel's mechanism (OSDI 2020, section 5): the priority of job m on kind j is its share X[m,j] over the share of rounds
that it has had there. Where shares change, as jobs come and go, that is time due over time had, due being the sum of
what was allocated while the job was there: a job that had a large share while few were there does not pay for it later
(Gavel's artefact starts counting anew instead, and keeps deficits for ties). Each round takes the highest priority
first and places it where its devices are free; a job runs on one kind at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from myriarch.event.base import Value
from myriarch.schedule.heterogeneous import Allocation


class Turn(Value, frozen=True, kw_only=True):
    """A job's place in one round."""

    job: str
    kind: str
    devices: int
    share: float
    """Of the allocation."""
    had: float
    """Of the time since it came, on this kind."""

    @property
    def reason(self) -> str:
        return f"{self.job} is due {self.share:.3f} of its time on {self.kind} and has had {self.had:.3f}"


class Rounds:
    """Counts the time that jobs have had. `next` decides a round, `passed` tells that it is over.

    Invariant (`check`): nobody has had more time than has passed since it came.
    """

    def __init__(self) -> None:
        self._had_s: dict[str, dict[str, float]] = {}
        self._passed_s: dict[str, float] = {}
        self._due_s: dict[str, dict[str, float]] = {}

    def next(
        self, allocation: Allocation, *, wanted: Mapping[str, int], devices: Mapping[str, int]
    ) -> tuple[Turn, ...]:
        """The round's places, the highest priority first. `wanted`: devices of each job; ties go by name."""
        free = dict(devices)
        turns: list[Turn] = []
        placed: set[str] = set()
        for _, job, kind in sorted(self._priorities(allocation)):
            if job in placed or free[kind] < wanted[job]:
                continue
            free[kind] -= wanted[job]
            placed.add(job)
            share, had = allocation.shares[job][kind], self._fraction(job, kind)
            turns.append(Turn(job=job, kind=kind, devices=wanted[job], share=share, had=had))
        return tuple(turns)

    def passed(
        self, turns: tuple[Turn, ...], *, jobs: tuple[str, ...], round_s: float, allocation: Allocation | None = None
    ) -> None:
        """So much time went by: for all jobs that are there, and as running time for those with a turn.

        `allocation`: that of the round; none: it is the same in all rounds, and `next` is told.
        """
        for job in jobs:
            self._passed_s[job] = self._passed_s.get(job, 0.0) + round_s
            if allocation is not None and job in allocation.shares:
                due = self._due_s.setdefault(job, {})
                for kind, share in allocation.shares[job].items():
                    due[kind] = due.get(kind, 0.0) + share * round_s
        for turn in turns:
            had = self._had_s.setdefault(turn.job, {})
            had[turn.kind] = had.get(turn.kind, 0.0) + round_s

    def gone(self, job: str) -> None:
        """The job has ended."""
        self._had_s.pop(job, None)
        self._passed_s.pop(job, None)
        self._due_s.pop(job, None)

    def check(self) -> None:
        """Raises AssertionError where somebody has had more time than has passed."""
        for job, had in self._had_s.items():
            assert math.fsum(had.values()) <= self._passed_s[job] * (1 + 1e-9), f"{job} ran longer than it was there"

    def _fraction(self, job: str, kind: str) -> float:
        passed_s = self._passed_s.get(job, 0.0)
        return self._had_s.get(job, {}).get(kind, 0.0) / passed_s if passed_s else 0.0

    def _priorities(self, allocation: Allocation) -> list[tuple[tuple[float, float], str, str]]:
        """The most urgent first: those that have had nothing yet, by their share; then by share over what they had."""
        found: list[tuple[tuple[float, float], str, str]] = []
        for job, shares in allocation.shares.items():
            for kind, share in shares.items():
                if share > 1e-9:
                    had = self._fraction(job, kind)
                    due = self._due_s[job].get(kind, 0.0) / self._passed_s[job] if job in self._due_s else share
                    found.append(((-due / had if had else -math.inf, -share), job, kind))
        return found
