"""How long a job that is submitted now will wait: P50 and P90, for one pool under whatever schedules it.

The scheduler is not asked; it is watched. Each submission is a row of numbers about the queue (`waits_queue`), each
start says what became of it. In logarithms of one second more, a quantile of the wait is

    origin + forest + offset

- `origin`: all work before the job, by what its owner `expected`, shared by all devices: where a queue only grows, as
  under FIFO and too much load, trees alone could never say more than they have seen;
- `forest`: quantile regression by boosted trees on what a past wait was above or below its origin;
- `offset`: online conformal recalibration (`waits_calibration`), apart for jobs that should start at once: many waits
  are nothing at all, and say nothing of the others.

Where jobs are seen to start in the order in which they came, there is a second opinion: the queue is drained in that
order, in worlds with run times drawn from what is expected of each job (`waits_drain`). Each opinion has its own
offsets, and the one speaks that has lost less of late: trees learn badly from an overloaded FIFO queue, where all jobs
of a week share the errors of one queue and there are few weeks; the drain knows nothing of unwritten rules.

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
from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.boosted import Floats, Forest
from myriarch.schedule.boosted_learner import Growth, grown
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.waits_calibration import Tracker
from myriarch.schedule.waits_drain import Drain
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
ORDER_JOBS: Final = 50
"""A start counts for one of so many in the share of starts out of turn; those where nobody else waits do not count."""
DISORDER: Final = 0.05
"""Share of starts out of turn below which a queue counts as served in order; 0 under FIFO, 0.66 in Mira's and 0.92 in
Lublin's under EASY."""
LOST_JOBS: Final = 1_000
"""How long opinions are compared: over the last so many jobs, about."""
LEAST_SCALE: Final = 0.1
"""Offsets are in units of how far P90 is above P50, in logarithms, within this and 1: what was learnt where much was
unknown moves sharp forecasts less."""

_GROWTHS: Final = tuple(Growth(quantile=level, trees=40, leaves=16, depth=6) for level in LEVELS)


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
class _Claim:
    """That a job will have started by then."""

    level: float
    tracker: Tracker
    log_wait: float
    """What was said."""
    limit_s: float
    """A wait beyond this exceeds it."""
    judged: bool = False

    def came_out(self, *, exceeded: bool) -> None:
        """Only the first time counts."""
        if not self.judged:
            self.judged = True
            self.tracker.came_out(exceeded=exceeded)

    def loss(self, log_wait: float) -> float:
        """Of a quantile."""
        error = log_wait - self.log_wait
        return max(self.level * error, (self.level - 1.0) * error)


class _Opinion:
    """One way to forecast: its offsets, and what it has lost of late."""

    def __init__(self, *, shared: bool) -> None:
        """`shared`: whether those who wait together err together."""
        self.trackers = tuple(
            (Tracker(level=level, floor=0.0), Tracker(level=level, floor=-math.inf, shared=shared)) for level in LEVELS
        )
        """By level: of jobs that should start at once, and of the others."""
        self.lost = 0.0
        self.heard = 0

    def claims(self, logs: Sequence[float]) -> tuple[_Claim, ...]:
        """`logs`: by level, what it makes of a job, before its offsets."""
        scale = min(max(logs[-1] - logs[0], LEAST_SCALE), 1.0)
        found: list[_Claim] = []
        for level, log_wait, (once, later) in zip(LEVELS, logs, self.trackers, strict=True):
            waits = log_wait > math.log1p(AT_ONCE_S)
            tracker = later if waits else once
            said = log_wait + tracker.offset * (scale if waits else 1.0)
            said = min(max(said, 0.0), math.log(LONGEST_S))
            said = max(said if said > math.log1p(AT_ONCE_S) else 0.0, found[-1].log_wait if found else 0.0)
            limit_s = max(math.expm1(said), AT_ONCE_S)
            found.append(_Claim(level, tracker, said, limit_s))
        return tuple(found)

    def came_out(self, claims: Sequence[_Claim], log_wait: float) -> None:
        """How long a job waited of which it had said so."""
        self.heard += 1
        loss = sum(claim.loss(log_wait) for claim in claims)
        self.lost += (loss - self.lost) / min(self.heard, LOST_JOBS)

    @property
    def open(self) -> int:
        return sum(tracker.open for pair in self.trackers for tracker in pair)


@dataclasses.dataclass(slots=True)
class _Asked:
    """A job that waits."""

    number: int
    """Of the submission."""
    submit_s: float
    row: Row
    plain: tuple[float, ...]
    """By level, above the row's origin: what the forests said."""
    claims: tuple[tuple[_Claim, ...], ...]
    """By opinion: the trees', and the drain's where there is one."""


@final
class Waits:
    """A machine: submissions, starts and ends in, forecasts out. A job that is preempted ends, and is submitted again.

    Clocks differ, and one begins to watch while much goes on: an instant before the last one counts as that, a job that
    starts and was never submitted counts as submitted now, and the end of one that was never seen says nothing.

    Invariant: `_waiting` has the jobs that were submitted and have not started; each of their claims that was not
    judged is in `_due` once, and counts as open in its tracker.
    """

    def __init__(
        self,
        *,
        devices: int,
        expected: Callable[[Job], float] | None = None,
        likely: Callable[[Job], Floats] | None = None,
        every_s: float = WEEK_S,
        window_jobs: int = WINDOW_JOBS,
    ) -> None:
        """`devices`: of the pool. `expected`: how many seconds a job will run, such as `Durations`, asked once, at
        its submission; its estimate, where nobody knows better. `likely`: equally likely seconds, ascending, such as
        `Durations.likely`; what is expected and nothing else, where nobody knows better."""
        if every_s <= 0 or window_jobs < FIRST_JOBS:
            raise SpecError(
                f"`every_s: {every_s:g}` and `window_jobs: {window_jobs}` cannot be learnt with",
                hint=f"give a time above 0 s, and {FIRST_JOBS} jobs or more",
            )
        _some(devices)
        self._expected = expected or (lambda job: job.estimate_s)
        self._likely = likely or (lambda job: np.array([self._expected_s(job)]))
        self._every_s = every_s
        self._queue = QueueState(devices=devices)
        self._drain = Drain(devices=devices)
        self._disorder = 1.0
        self._waiting: dict[JobId, _Asked] = {}
        self._rows: deque[Row] = deque(maxlen=window_jobs)
        self._log_waits: deque[float] = deque(maxlen=window_jobs)
        self._due: list[tuple[float, int, int, int, JobId]] = []
        """A heap: when a claim's time is up, number of the submission, which opinion, which level, whose."""
        self._trees, self._in_order = _Opinion(shared=False), _Opinion(shared=True)
        self._forests: tuple[Forest, ...] = ()
        self._number = 0
        self._now_s = -math.inf
        self._started = 0
        self._grown_s = -math.inf
        self._grown_at = 0

    @property
    def started_jobs(self) -> int:
        """How many it has seen start."""
        return self._started

    def running(self, job: Job) -> bool:
        """Whether it was started and has not ended."""
        return self._queue.runs(job)

    def forecast(self, job: Job, *, now_s: float) -> WaitForecast:
        """For a job as if it were submitted now; nothing is remembered."""
        now_s = max(now_s, self._now_s)
        row = self._queue.row(job, expected_s=self._expected_s(job), now_s=now_s)
        return self._said(row, self._claims(job, row, self._plain(row), now_s))

    def resized(self, devices: int, *, now_s: float) -> None:
        """The pool has so many devices from now on, at least one; who runs goes on."""
        self._judge(now_s)
        self._queue.devices = _some(devices)
        self._drain.resized(devices)

    def submitted(self, job: Job, *, now_s: float) -> WaitForecast:
        """A job more, and what it should expect. Raises ValueError for one that waits or runs already."""
        if job.id in self._waiting or self._queue.runs(job):
            raise ValueError(f"job {job.id} {'waits' if job.id in self._waiting else 'runs'} already")
        now_s = self._judge(now_s)
        self._learn(now_s)
        expected_s = self._expected_s(job)
        row = self._queue.row(job, expected_s=expected_s, now_s=now_s)
        plain = self._plain(row)
        claims = self._claims(job, row, plain, now_s)
        self._queue.submitted(job, expected_s=expected_s, now_s=now_s)
        self._drain.submitted(job, run_s=np.maximum(self._likely(job), 1.0))
        self._number += 1
        self._waiting[job.id] = _Asked(number=self._number, submit_s=now_s, row=row, plain=plain, claims=claims)
        for opinion, said in enumerate(claims):
            for index, claim in enumerate(said):
                claim.tracker.asked()
                heapq.heappush(self._due, (now_s + claim.limit_s, self._number, opinion, index, job.id))
        return self._said(row, claims)

    def started(self, job: Job, *, now_s: float) -> None:
        """It runs: what was forecast for it is known to be right or wrong."""
        if job.id not in self._waiting:
            self.submitted(job, now_s=now_s)
        now_s = self._judge(now_s)
        alone = len(self._waiting) == 1
        wait_s = self._queue.started(job, now_s=now_s)
        in_order = self._drain.started(job, now_s=now_s)
        if not alone:
            self._disorder += ((0.0 if in_order else 1.0) - self._disorder) / ORDER_JOBS
        asked = self._waiting.pop(job.id)
        for opinion, claims in zip((self._trees, self._in_order), asked.claims, strict=False):
            for claim in claims:
                claim.came_out(exceeded=wait_s > claim.limit_s)
            if len(asked.claims) > 1:
                opinion.came_out(claims, math.log1p(wait_s))
        self._rows.append(asked.row)
        self._log_waits.append(math.log1p(wait_s))
        self._started += 1

    def ended(self, job: Job, *, now_s: float) -> None:
        """It gave its devices back."""
        self._judge(now_s)
        if not self._queue.runs(job):
            return
        self._queue.ended(job)
        self._drain.ended(job)

    def dropped(self, job: Job, *, now_s: float) -> None:
        """It left the queue without running: nothing is learnt from it."""
        self._judge(now_s)
        if job.id not in self._waiting:
            return
        self._queue.dropped(job)
        self._drain.dropped(job)
        for claims in self._waiting.pop(job.id).claims:
            for claim in claims:
                if not claim.judged:
                    claim.tracker.withdrawn()

    def check(self) -> None:
        """Assert the invariants."""
        self._queue.check()
        assert len(self._rows) == len(self._log_waits)
        self._drain.check()
        claims = [claim for asked in self._waiting.values() for said in asked.claims for claim in said]
        assert sum(not claim.judged for claim in claims) == self._trees.open + self._in_order.open

    def _expected_s(self, job: Job) -> float:
        return max(self._expected(job), 1.0)

    def _plain(self, row: Row) -> tuple[float, ...]:
        """By level, above the row's origin; never below no wait at all."""
        said = tuple(forest.one(row.values) for forest in self._forests) or PRIOR
        if not self._forests and not row.origin:
            said = (0.0,) * len(LEVELS)
        return tuple(max(each, -row.origin) for each in said)

    def _claims(self, job: Job, row: Row, plain: tuple[float, ...], now_s: float) -> tuple[tuple[_Claim, ...], ...]:
        """By opinion. The drain has one where fewer than so many start out of turn."""
        trees = self._trees.claims([row.origin + each for each in plain])
        if self._disorder > DISORDER:
            return (trees,)
        logs = np.log1p(np.quantile(self._drain.waits(job, now_s=now_s), LEVELS))
        return trees, self._in_order.claims(logs.tolist())

    def _said(self, row: Row, claims: tuple[tuple[_Claim, ...], ...]) -> WaitForecast:
        """Of the opinion that lost less of late; until that is known, the drain's."""
        best = claims[-1] if self._in_order.lost <= self._trees.lost else claims[0]
        p50_s, p90_s = (math.expm1(claim.log_wait) for claim in best)
        return WaitForecast(
            p50_s=p50_s,
            p90_s=p90_s,
            work_ahead_s=math.expm1(row.origin),
            learnt_from=min(self._grown_at, len(self._rows)),
        )

    def _judge(self, now_s: float) -> float:
        """Forecasts whose time is up, and whose jobs still wait, were exceeded. Back comes the instant that it is: none
        goes back."""
        self._now_s = now_s = max(now_s, self._now_s)
        while self._due and self._due[0][0] < now_s:
            _, number, opinion, index, job = heapq.heappop(self._due)
            asked = self._waiting.get(job)
            if asked is not None and asked.number == number:
                asked.claims[opinion][index].came_out(exceeded=True)
        return now_s

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


def _some(devices: int) -> int:
    """Raises SpecError for none."""
    if devices < 1:
        raise SpecError(f"`devices: {devices}` can run nothing", hint="give at least one")
    return devices
