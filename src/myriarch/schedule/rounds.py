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
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from myriarch.event.base import Value
from myriarch.schedule.heterogeneous import Allocation

Floats = NDArray[np.float64]


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

    A job has a row in the tables from its first round to its end; rows are used again.

    Invariant (`check`): nobody has had more time than has passed since it came.
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._idle: list[int] = []
        """Rows of nobody, all zero."""
        self._kinds: dict[str, int] = {}
        self._had_s = np.zeros((0, 0))
        """[row, kind]"""
        self._due_s = np.zeros((0, 0))
        self._counted = np.zeros(0, dtype=np.bool_)
        """Whether what is due is counted, because shares change."""
        self._passed_s = np.zeros(0)
        self._laid: _Laid | None = None
        self._left = False
        """Whether a job of it is gone."""

    def next(
        self, allocation: Allocation, *, wanted: Mapping[str, int], devices: Mapping[str, int]
    ) -> tuple[Turn, ...]:
        """The round's places, the highest priority first. `wanted`: devices of each job; ties go by name."""
        if self._left:
            self._laid, self._left = None, False
        laid = self._lay(allocation)
        free = dict(devices)
        turns: list[Turn] = []
        placed: set[str] = set()
        had = self._fractions(self._had_s, laid)
        for at in self._urgent_first(laid, had):
            job, kind = laid.jobs[at], laid.kinds[at]
            if job in placed or free[kind] < wanted[job]:
                continue
            free[kind] -= wanted[job]
            placed.add(job)
            share = float(laid.shares[at])
            turns.append(Turn(job=job, kind=kind, devices=wanted[job], share=share, had=float(had[at])))
            if not any(free.values()):
                break
        return tuple(turns)

    def passed(
        self, turns: tuple[Turn, ...], *, jobs: tuple[str, ...], round_s: float, allocation: Allocation | None = None
    ) -> None:
        """So much time went by: for all jobs that are there, and as running time for those with a turn.

        `allocation`: that of the round; none: it is the same in all rounds, and `next` is told.
        """
        laid = None if allocation is None else self._lay(allocation)
        self._passed_s[[self._row(job) for job in jobs]] += round_s
        if laid is not None:
            there = set(jobs)
            due = np.array([job in there for job in laid.jobs], dtype=np.bool_)
            self._due_s[laid.rows[due], laid.columns[due]] += laid.shares[due] * round_s
            self._counted[laid.rows[due]] = True
        for turn in turns:
            self._had_s[self._row(turn.job), self._column(turn.kind)] += round_s

    def gone(self, job: str) -> None:
        """The job has ended."""
        row = self._rows.pop(job, None)
        if row is not None:
            self._had_s[row] = self._due_s[row] = self._passed_s[row] = 0.0
            self._counted[row] = False
            self._idle.append(row)
            self._left = True

    def check(self) -> None:
        """Raises AssertionError where somebody has had more time than has passed."""
        for job, row in self._rows.items():
            had_s = math.fsum(self._had_s[row])
            assert had_s <= self._passed_s[row] * (1 + 1e-9), f"{job} ran longer than it was there"

    def _fractions(self, table: Floats, laid: _Laid) -> Floats:
        """Of the time that has passed for each job."""
        passed_s = self._passed_s[laid.rows]
        found: Floats = np.divide(
            table[laid.rows, laid.columns], passed_s, out=np.zeros(len(passed_s)), where=passed_s > 0
        )
        return found

    def _urgent_first(self, laid: _Laid, had: Floats) -> list[int]:
        """Those that have had nothing yet, by their share; then by share over what they had."""
        due = np.where(self._counted[laid.rows], self._fractions(self._due_s, laid), laid.shares)
        urgency = np.divide(-due, had, out=np.full(len(had), -math.inf), where=had > 0)
        found: list[int] = np.lexsort((laid.order, -laid.shares, urgency)).tolist()
        return found

    def _lay(self, allocation: Allocation) -> _Laid:
        """An allocation's shares as arrays; that of the last time is kept."""
        if self._laid is None or self._laid.allocation is not allocation:
            entries = [
                (job, kind, share)
                for job, shares in allocation.shares.items()
                for kind, share in shares.items()
                if share > LEAST_SHARE
            ]
            self._laid = _Laid(
                allocation=allocation,
                jobs=[job for job, _, _ in entries],
                kinds=[kind for _, kind, _ in entries],
                rows=np.array([self._row(job) for job, _, _ in entries], dtype=np.int64),
                columns=np.array([self._column(kind) for _, kind, _ in entries], dtype=np.int64),
                shares=np.array([share for _, _, share in entries]),
                order=_ranks([(job, kind) for job, kind, _ in entries]),
            )
        return self._laid

    def _row(self, job: str) -> int:
        row = self._rows.get(job)
        if row is None:
            if not self._idle:
                self._grow(rows=max(len(self._passed_s), 16))
            row = self._rows[job] = self._idle.pop()
        return row

    def _column(self, kind: str) -> int:
        if kind not in self._kinds:
            self._kinds[kind] = len(self._kinds)
            self._had_s, self._due_s = (np.pad(table, ((0, 0), (0, 1))) for table in (self._had_s, self._due_s))
        return self._kinds[kind]

    def _grow(self, *, rows: int) -> None:
        begin = len(self._passed_s)
        self._idle.extend(range(begin + rows - 1, begin - 1, -1))
        self._had_s, self._due_s = (np.pad(table, ((0, rows), (0, 0))) for table in (self._had_s, self._due_s))
        self._passed_s, self._counted = np.pad(self._passed_s, (0, rows)), np.pad(self._counted, (0, rows))


LEAST_SHARE: Final = 1e-9
"""Shares below it are a solver's noise."""


class _Laid(NamedTuple):
    """The shares of an allocation, one entry for each job and kind. The row of a job that is gone is another's."""

    allocation: Allocation
    jobs: list[str]
    kinds: list[str]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shares: Floats
    order: NDArray[np.int64]
    """By name: what decides between equals."""


def _ranks(names: list[tuple[str, str]]) -> NDArray[np.int64]:
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return ranks
