"""How long a job that is submitted now will wait: P50 and P90, for one pool under whatever schedules it.

The scheduler is not asked; it is watched. Each submission is a row of numbers about the queue (`waits_queue`), each
start says what became of it. In logarithms of one second more, a quantile of the wait is

    origin + forest + offset

- `origin`: all work before the job, by what its owner `expected`, shared by all devices: where a queue only grows, as
  under FIFO and too much load, trees alone could never say more than they have seen;
- `forest`: quantile regression by boosted trees on what a past wait was above or below its origin;
- `offset`: online conformal recalibration (`waits_calibration`), apart for jobs that should start at once: many waits
  are nothing at all, and say nothing of the others.

Two biases of looking at waits that are over are taken out. A job that still waits is learnt from as one that will wait
as long as it has, or as was forecast, whichever is longer (the censored quantile regression of Powell, J. Econometrics
32, 1986, by imputation). And a forecast is judged when its own time is up, if the job has not started until then: that
a forecast was exceeded is known no later than that it was not.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Final, final

import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.boosted import Forest, Growth, grown
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.waits_calibration import Tracker
from myriarch.schedule.waits_queue import QueueState, Row

WEEK_S: Final = 7 * 86_400.0
WINDOW_JOBS: Final = 6_000
"""What is learnt from: the last that started."""
FIRST_JOBS: Final = 200
"""The first forests; further ones when there are twice as many, and every week."""
LEVELS: Final = (0.5, 0.9)
AT_ONCE_S: Final = 1.0
"""A shorter wait is none."""
LONGEST_S: Final = 100 * 365 * 86_400.0
"""No forecast says more than a century."""
PRIOR: Final = (0.0, math.log(3.0))
"""Above the origin, before anything is learnt: P90 at three times P50, which the offset soon puts right."""

_GROWTHS: Final = tuple(Growth(loss="quantile", quantile=level, trees=40, leaves=16, depth=6) for level in LEVELS)


class WaitForecast(Value, frozen=True, kw_only=True):
    """How long until it starts, in seconds. 0: at once."""

    p50_s: float
    """As likely longer as shorter."""
    p90_s: float
    """Nine of ten have started by then."""
    work_ahead_s: float
    """What it rests on: the expected work before it, in seconds of the whole pool; 0 where it fits and nobody waits."""
    learnt_from: int
    """Waits that the forests were grown from; 0: none yet, and the work ahead is all there is to go by."""


@dataclasses.dataclass(slots=True)
class _Asked:
    """A job that waits."""

    number: int
    """Of the submission."""
    submit_s: float
    row: Row
    plain: tuple[float, ...]
    """By level, above the row's origin: what the forests said."""
    trackers: tuple[Tracker, ...]
    limits_s: tuple[float, ...]
    """A wait beyond these exceeds the forecast."""
    judged: list[bool]


@final
class Waits:
    """A machine: submissions, starts and ends in, forecasts out. Instants never go back. A job that is preempted ends,
    and is submitted again.

    Invariant: `_waiting` has the jobs that were submitted and have not started; each of their forecasts that was not
    judged is in `_due` once, and counts as open in its tracker.
    """

    def __init__(
        self,
        *,
        devices: int,
        expected: Callable[[Job], float] | None = None,
        every_s: float = WEEK_S,
        window_jobs: int = WINDOW_JOBS,
    ) -> None:
        """`devices`: of the pool. `expected`: how many seconds a job will run, such as `Durations`, asked once, at
        its submission; its estimate, where nobody knows better."""
        if devices < 1 or every_s <= 0 or window_jobs < FIRST_JOBS:
            raise SpecError(
                f"`devices: {devices}`, `every_s: {every_s:g}`, `window_jobs: {window_jobs}` cannot be learnt with",
                hint=f"give at least one device, a time above 0 s, and {FIRST_JOBS} jobs or more",
            )
        self._expected = expected or (lambda job: job.estimate_s)
        self._every_s = every_s
        self._queue = QueueState(devices=devices)
        self._waiting: dict[JobId, _Asked] = {}
        self._rows: deque[Row] = deque(maxlen=window_jobs)
        self._log_waits: deque[float] = deque(maxlen=window_jobs)
        self._due: list[tuple[float, int, int, JobId]] = []
        """A heap: when a forecast's time is up, number of the submission, which level, whose."""
        self._trackers = tuple(
            (Tracker(level=level, floor=0.0), Tracker(level=level, floor=-math.inf)) for level in LEVELS
        )
        """By level: of jobs that should start at once, and of the others."""
        self._forests: tuple[Forest, ...] = ()
        self._number = 0
        self._started = 0
        self._grown_s = -math.inf
        self._grown_at = 0

    @property
    def started_jobs(self) -> int:
        """How many it has seen start."""
        return self._started

    def forecast(self, job: Job, *, now_s: float) -> WaitForecast:
        """For a job as if it were submitted now; nothing is remembered."""
        row = self._queue.row(job, expected_s=self._expected_s(job), now_s=now_s)
        return self._said(row, self._plain(row))

    def submitted(self, job: Job, *, now_s: float) -> WaitForecast:
        """A job more, and what it should expect. Raises ValueError for one that waits already."""
        if job.id in self._waiting:
            raise ValueError(f"job {job.id} waits already")
        self._judge(now_s)
        self._learn(now_s)
        expected_s = self._expected_s(job)
        row = self._queue.row(job, expected_s=expected_s, now_s=now_s)
        self._queue.submitted(job, expected_s=expected_s, now_s=now_s)
        plain = self._plain(row)
        forecast = self._said(row, plain)
        self._number += 1
        asked = _Asked(
            number=self._number,
            submit_s=now_s,
            row=row,
            plain=plain,
            trackers=self._tracked(row, plain),
            limits_s=tuple(max(limit_s, AT_ONCE_S) for limit_s in (forecast.p50_s, forecast.p90_s)),
            judged=[False] * len(LEVELS),
        )
        self._waiting[job.id] = asked
        for index, (tracker, limit_s) in enumerate(zip(asked.trackers, asked.limits_s, strict=True)):
            tracker.asked()
            heapq.heappush(self._due, (now_s + limit_s, self._number, index, job.id))
        return forecast

    def started(self, job: Job, *, now_s: float) -> None:
        """It runs: what was forecast for it is known to be right or wrong."""
        self._judge(now_s)
        wait_s = self._queue.started(job, now_s=now_s)
        asked = self._waiting.pop(job.id)
        for index, tracker in enumerate(asked.trackers):
            if not asked.judged[index]:
                tracker.came_out(exceeded=wait_s > asked.limits_s[index])
        self._rows.append(asked.row)
        self._log_waits.append(math.log1p(wait_s))
        self._started += 1

    def ended(self, job: Job, *, now_s: float) -> None:
        """It gave its devices back."""
        self._judge(now_s)
        self._queue.ended(job)

    def dropped(self, job: Job, *, now_s: float) -> None:
        """It left the queue without running: nothing is learnt from it."""
        self._judge(now_s)
        self._queue.dropped(job)
        asked = self._waiting.pop(job.id)
        for tracker, judged in zip(asked.trackers, asked.judged, strict=True):
            if not judged:
                tracker.withdrawn()

    def check(self) -> None:
        """Assert the invariants."""
        self._queue.check()
        assert len(self._rows) == len(self._log_waits)
        open_forecasts = sum(asked.judged.count(False) for asked in self._waiting.values())
        assert open_forecasts == sum(tracker.open for pair in self._trackers for tracker in pair)

    def _expected_s(self, job: Job) -> float:
        return max(self._expected(job), 1.0)

    def _plain(self, row: Row) -> tuple[float, ...]:
        """By level, above the row's origin; never below no wait at all."""
        said = tuple(forest.one(row.values) for forest in self._forests) or PRIOR
        if not self._forests and not row.origin:
            said = (0.0,) * len(LEVELS)
        return tuple(max(each, -row.origin) for each in said)

    def _tracked(self, row: Row, plain: tuple[float, ...]) -> tuple[Tracker, ...]:
        once = math.log1p(AT_ONCE_S)
        return tuple(pair[row.origin + each > once] for pair, each in zip(self._trackers, plain, strict=True))

    def _said(self, row: Row, plain: tuple[float, ...]) -> WaitForecast:
        trackers = self._tracked(row, plain)
        logs = [row.origin + each + tracker.offset for each, tracker in zip(plain, trackers, strict=True)]
        p50_s, p90_s = (math.expm1(min(max(each, 0.0), math.log(LONGEST_S))) for each in logs)
        p50_s = p50_s if p50_s > AT_ONCE_S else 0.0
        p90_s = max(p90_s if p90_s > AT_ONCE_S else 0.0, p50_s)
        work_s = math.expm1(row.origin)
        return WaitForecast(
            p50_s=p50_s, p90_s=p90_s, work_ahead_s=work_s, learnt_from=min(self._grown_at, len(self._rows))
        )

    def _judge(self, now_s: float) -> None:
        """Forecasts whose time is up, and whose jobs still wait, were exceeded."""
        while self._due and self._due[0][0] < now_s:
            _, number, index, job = heapq.heappop(self._due)
            asked = self._waiting.get(job)
            if asked is not None and asked.number == number:
                asked.judged[index] = True
                asked.trackers[index].came_out(exceeded=True)

    def _learn(self, now_s: float) -> None:
        """Grow forests, where it is time."""
        due = now_s >= self._grown_s + self._every_s and self._started > self._grown_at
        doubled = self._started >= 2 * self._grown_at and self._grown_at < len(self._rows)
        if self._started < FIRST_JOBS or not (due or doubled):
            return
        rows = [*self._rows, *(asked.row for asked in self._waiting.values())]
        values = np.array([row.values for row in rows])
        origins = np.array([row.origin for row in rows])
        self._forests = tuple(
            grown(values, np.array([*self._log_waits, *self._still(index, now_s)]) - origins, growth=growth)
            for index, growth in enumerate(_GROWTHS)
        )
        self._grown_s, self._grown_at = now_s, self._started

    def _still(self, index: int, now_s: float) -> list[float]:
        """Log waits of those that wait still, as far as one can tell."""
        return [
            max(math.log1p(now_s - asked.submit_s), asked.row.origin + asked.plain[index])
            for asked in self._waiting.values()
        ]
