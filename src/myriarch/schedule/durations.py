"""How long a job will run, learnt from jobs that have ended: what QSSF orders by (Hu et al., Helios, SC'21).

`estimate_s` bounds a job; what it will use is another number, and people know neither well. A forecast is a
distribution of the logarithm of the run time,

    log run = origin + middle + spread x shape

- `origin`: the last run of the narrowest group of alike jobs, since people repeat themselves;
- `middle`, `spread`: two forests, of the median and of the way from there to the 90th percentile, grown from jobs that
  had ended, each with the row that was made of it at its submission (`durations_history`);
- `shape`: where past jobs really came out on the scale that had been forecast for them. It puts right what the
  forests get wrong (conformal recalibration on a local scale: Lei et al., JASA 113(523), 2018).

The mean is Duan's smearing estimate (JASA 78(383), 1983), the mean of exp over the shape, with two changes for tails as
heavy as these, where a few jobs hold most of the time: beyond its 90th percentile, of which the forests say nothing,
a job counts as if it ended there; and one factor for all jobs makes up for that, the ratio of what the jobs that were
learnt from ran to what is expected of such jobs now. Without the first, Kendall's tau over Philly's jobs is 0.18 and
not 0.46. What had been expected of those jobs at the time says nothing of the means of these forests: where a queue is
long, what ends was forecast by other ones, or by none (of Lublin's jobs in order, means of a third of what was real).

A forecast is made when a job is submitted and kept until it has ended. Forests are grown anew once a week, and sooner
while there are few jobs. Virtual time only: equal events give equal forecasts.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Final, final

import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.boosted import Floats, Forest
from myriarch.schedule.boosted_learner import Growth, grown
from myriarch.schedule.durations_history import History, Row
from myriarch.schedule.job import Job, JobId

WEEK_S: Final = 7 * 86_400.0
WINDOW_JOBS: Final = 10_000
"""What is learnt from: the last that ended. On Mira, errors from 10,000 and from 40,000 are the same."""
FIRST_JOBS: Final = 200
"""The first forest; further ones when there are twice as many, until a week has as many as that."""
SHAPE_JOBS: Final = 2_000
"""What the shape is of: the last that ended."""
LEVELS: Final = (np.arange(100) + 0.5) / 100
"""A distribution is kept as so many quantiles, each standing for one hundredth of the jobs."""
PRIOR_SHARE: Final = 0.5
"""Of the estimate, before anything has ended: the shares that jobs use are spread about evenly (Mu'alem and Feitelson,
IEEE TPDS 12(6), 2001)."""
PRIOR_S: Final = 874.0
"""Where there are no estimates either: the median GPU job of Philly (Acme's summary of clusters, NSDI'24)."""
PRIOR_SPREAD: Final = 2.6
"""Log of the 90th percentile over the median, of all jobs of a trace: Mira 1.8, Philly 2.3, PAI 3.6; their mean."""
UPPER: Final = 0.9
"""The percentile that the second forest is of."""
LEAST_SPREAD: Final = 0.02
"""A log run time is not known better than by 2 %."""
REFRESH_JOBS: Final = 50
"""After so many ends the quantiles of the shape are worked out anew."""
COARSE: Final = slice(2, None, 5)
"""Every fifth of LEVELS: enough for the sum of many means."""

_MIDDLE: Final = Growth(quantile=0.5, trees=50, leaves=16, depth=6)
_UPPER: Final = Growth(quantile=UPPER, trees=50, leaves=16, depth=6)


class Forecast(Value, frozen=True, kw_only=True):
    """How long, in seconds."""

    mean_s: float
    p50_s: float
    """As likely longer as shorter."""
    p90_s: float
    """Nine of ten are over by then."""


@dataclasses.dataclass(slots=True)
class _Pending:
    """A job that has not ended."""

    row: Row
    way: _Way
    """How it was forecast."""
    middle: float
    """Log seconds."""
    spread: float
    log_run_s: Floats
    """At LEVELS."""
    plain_s: float
    """The mean before the common factor."""
    forecast: Forecast


class _Way:
    """One way to forecast: where jobs came out that were forecast so. Of the guesses before there are forests, and of
    these, shapes and sums are different things."""

    def __init__(self) -> None:
        self.outcomes: deque[float] = deque(maxlen=SHAPE_JOBS)
        """On the scale of the forecast: (log run - middle) / spread."""
        self.sums: deque[tuple[float, float]] = deque(maxlen=SHAPE_JOBS)
        """Seconds that were expected, before the common factor, and that were run."""
        self.shape = _LOGISTIC
        self.factor = 1.0

    def ended(self, pending: _Pending, log_run_s: float) -> None:
        """A job that had been forecast so."""
        self.outcomes.append((log_run_s - pending.middle) / pending.spread)
        self.sums.append((pending.plain_s, math.exp(log_run_s)))

    def correct(self) -> None:
        """By what has ended since, if that is enough."""
        if len(self.outcomes) >= REFRESH_JOBS:
            self.shape = np.quantile(np.array(self.outcomes), LEVELS)
            expected_s, ran_s = np.array(self.sums).sum(axis=0)
            self.factor = float(ran_s / expected_s)


@final
class Durations:
    """A machine: submissions and ends in, forecasts out. Instants never go back.

    Invariant: `_pending` has the jobs that were submitted and have not ended; `_rows` and `_log_run_s` are of the
    last ones that ended, in that order.
    """

    def __init__(self, *, estimates: bool, every_s: float = WEEK_S, window_jobs: int = WINDOW_JOBS) -> None:
        """`estimates`: whether `Job.estimate_s` is what people asked for. Where it was made up from run times, as for
        traces without estimates, it has to be False: it would tell the answer."""
        if every_s <= 0 or window_jobs < FIRST_JOBS:
            raise SpecError(
                f"`every_s: {every_s:g}` and `window_jobs: {window_jobs}` cannot be learnt with",
                hint=f"learn after more than 0 s, from {FIRST_JOBS} jobs or more",
            )
        self._estimates = estimates
        self._every_s = every_s
        self._history = History(estimates=estimates)
        self._pending: dict[JobId, _Pending] = {}
        self._rows: deque[Row] = deque(maxlen=window_jobs)
        self._log_run_s: deque[float] = deque(maxlen=window_jobs)
        self._ways = [_Way() for _ in range(3)]
        """Without any job that ended; by the last one that did; by forests."""
        self._forests: tuple[Forest, Forest] | None = None
        self._learnt: tuple[Floats, Floats, float] | None = None
        """Of the jobs that the forests were grown from: middles and spreads by these forests; seconds that all ran."""
        self._ended = 0
        self._grown_s = -math.inf
        self._grown_at = 0
        self._longest = math.log(PRIOR_S) + 2 * PRIOR_SPREAD

    @property
    def ended_jobs(self) -> int:
        """How many it has learnt of."""
        return self._ended

    def __call__(self, job: Job) -> float:
        """The mean, in seconds, by what was known at submission, without the common factor: an order for QSSF. The
        factor changes from day to day, and jobs of different days wait together."""
        self.submitted(job, now_s=job.submit_s)
        return self._pending[job.id].plain_s

    def submitted(self, job: Job, *, now_s: float) -> Forecast:
        """A job more. Told again, as when it was preempted, it stands as it was."""
        if job.id in self._pending:
            return self._pending[job.id].forecast
        self._learn(now_s)
        row = self._history.row(job, now_s=now_s)
        self._history.submitted(job, now_s=now_s)
        way, middle, spread = self._scale(job, row)
        log_run_s = np.clip(middle + spread * way.shape, 0.0, self._longest)
        run_s = np.exp(log_run_s)
        plain_s = _mean(run_s)
        forecast = Forecast(mean_s=plain_s * way.factor, p50_s=_at(run_s, 0.5), p90_s=_at(run_s, UPPER))
        pending = _Pending(row, way, middle, spread, log_run_s, plain_s, forecast)
        self._pending[job.id] = pending
        return pending.forecast

    def forecast(self, job: Job, *, now_s: float) -> Forecast:
        """What its submission made one expect; a job that was not submitted is, by that."""
        return self.submitted(job, now_s=now_s)

    def likely(self, job: Job, *, now_s: float) -> Floats:
        """A hundred equally likely run times in seconds, ascending, by what its submission made one expect: none longer
        than the user's estimate, and their mean is the forecast's. Where it is more than theirs, it lies in the tail,
        which is known least: what is beyond the median is stretched, or moved towards the estimate, and if that does
        not suffice all of it is."""
        self.submitted(job, now_s=now_s)
        pending = self._pending[job.id]
        bound_s = job.estimate_s if self._estimates else math.inf
        run_s = np.minimum(np.exp(pending.log_run_s), bound_s)
        missing_s = min(pending.forecast.mean_s, bound_s) - float(run_s.mean())
        if missing_s <= 0:
            return run_s * (1.0 + missing_s / float(run_s.mean()))
        room_s = bound_s - run_s if self._estimates else np.maximum(run_s - _at(run_s, 0.5), 0.0)
        upper_s = np.where(LEVELS > 0.5, room_s, 0.0)
        if missing_s > float(upper_s.mean()) and self._estimates:
            upper_s = room_s
        most_s = float(upper_s.mean())
        stretched_s = run_s + upper_s * (missing_s / most_s) if most_s else run_s
        # Where all comes to lie at the estimate, rounding leaves neighbours out of order.
        ascending_s: Floats = np.minimum(np.maximum.accumulate(stretched_s), bound_s)
        return ascending_s

    def remaining(self, job: Job, *, age_s: float, now_s: float) -> Forecast:
        """What is left of it when it has run for `age_s`: the part of its distribution that lies beyond.

        Beyond all of it, a job that has lasted t lasts another t with probability one half: lifetimes with
        P(T > t) ~ 1/t (Harchol-Balter and Downey, ACM TOCS 15(3), 1997; their mean is infinite, so the median stands
        for it). Nothing is left beyond a user's estimate.
        """
        self.submitted(job, now_s=now_s)
        run_s = np.exp(self._pending[job.id].log_run_s)
        longer_s = run_s[run_s > age_s] - age_s
        left = Forecast(mean_s=age_s, p50_s=age_s, p90_s=9 * age_s)
        if len(longer_s):
            left = Forecast(mean_s=_mean(longer_s), p50_s=_at(longer_s, 0.5), p90_s=_at(longer_s, UPPER))
        if not self._estimates:
            return left
        most_s = max(job.estimate_s - age_s, 1.0)
        return Forecast(mean_s=min(left.mean_s, most_s), p50_s=min(left.p50_s, most_s), p90_s=min(left.p90_s, most_s))

    def ended(self, job: Job, run_s: float, *, now_s: float) -> None:
        """A job ended, after `run_s` of running. One that was never submitted here counts as submitted now."""
        self.submitted(job, now_s=now_s)
        pending = self._pending.pop(job.id)
        log_run_s = math.log(max(run_s, 1.0))
        self._history.ended(job, run_s, now_s=now_s)
        self._rows.append(pending.row)
        self._log_run_s.append(log_run_s)
        pending.way.ended(pending, log_run_s)
        self._longest = max(self._longest, log_run_s)
        self._ended += 1
        if self._ended % REFRESH_JOBS == 0:
            for way in self._ways:
                way.correct()
            self._level()

    def dropped(self, job: Job) -> None:
        """A job was refused or withdrawn before it ran: nothing is learnt from it."""
        if self._pending.pop(job.id, None):
            self._history.dropped(job)

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._rows) == len(self._log_run_s)
        for way in self._ways:
            assert len(way.outcomes) == len(way.sums) <= self._ended
            assert bool(np.all(np.diff(way.shape) >= 0))

    def _scale(self, job: Job, row: Row) -> tuple[_Way, float, float]:
        """How it is forecast, and middle and spread of the log run time."""
        unknown, last, learnt = self._ways
        if self._forests is None or math.isnan(row.origin):
            if not math.isnan(row.origin):
                return last, row.origin, PRIOR_SPREAD
            prior_s = max(job.estimate_s * PRIOR_SHARE, 1.0) if self._estimates else PRIOR_S
            return unknown, math.log(prior_s), PRIOR_SPREAD
        middle, upper = (forest.one(row.values) for forest in self._forests)
        return learnt, row.origin + middle, max(upper - middle, LEAST_SPREAD)

    def _learn(self, now_s: float) -> None:
        """Grow forests, where it is time."""
        due = now_s >= self._grown_s + self._every_s and self._ended > self._grown_at
        doubled = self._ended >= 2 * self._grown_at and self._grown_at < len(self._rows)
        if self._ended < FIRST_JOBS or not (due or doubled):
            return
        kept = [index for index, row in enumerate(self._rows) if not math.isnan(row.origin)]
        if len(kept) < FIRST_JOBS // 2:
            return
        rows = np.array([row.values for row in self._rows])[kept]
        origins = np.array([row.origin for row in self._rows])[kept]
        targets = np.array(self._log_run_s)[kept] - origins
        self._forests = (grown(rows, targets, growth=_MIDDLE), grown(rows, targets, growth=_UPPER))
        self._grown_s, self._grown_at = now_s, self._ended
        middle, upper = (forest.many(rows) for forest in self._forests)
        self._learnt = (
            origins + middle,
            np.maximum(upper - middle, LEAST_SPREAD),
            float(np.exp(targets + origins).sum()),
        )
        self._level()

    def _level(self) -> None:
        """The factor of all means by forests: what past jobs ran over what would be expected of them now."""
        if self._learnt is None:
            return
        way = self._ways[-1]
        middle, spread, ran_s = self._learnt
        shape = np.minimum(way.shape[COARSE], _at(way.shape, UPPER))
        log_run_s = np.clip(middle[:, None] + spread[:, None] * shape, 0.0, self._longest)
        way.factor = ran_s / float(np.exp(log_run_s).mean(axis=1).sum())


_LOGISTIC: Final[Floats] = np.log(LEVELS / (1 - LEVELS)) / math.log(9.0)
"""The shape before there are outcomes: the 90th percentile at 1, as of a spread."""


def _at(run_s: Floats, level: float) -> float:
    """The quantile of equally likely values, ascending."""
    return float(run_s[int(level * (len(run_s) - 1))])


def _mean(run_s: Floats) -> float:
    """Of the same, each at most the 90th percentile."""
    return float(np.minimum(run_s, _at(run_s, UPPER)).mean())
