"""Who should run before whom: a number for each job that waits or runs, the lowest first, equal ones by arrival.

A rank may change with time, and then along a straight line: what remains of a running job falls by a second each
second. So a ranking says where a job's rank is now, how fast it moves, and when to ask again; nobody is asked in
between.

    ByArrival            first come, first served
    ByPriority           Slurm's multi-factor priority with fair share (`priority.MultiFactor`)
    LeastService         Tiresias' discretised two-dimensional LAS (the rule of `las.LeastAttained`)
    ShortestRemaining    what remains by a prediction: seconds (SRTF), or device-seconds (SRSF of Tiresias, QSSF of
                         Helios: Hu et al., SC 2021, section 4.2)
    EarliestDeadline     whose deadline is next (EDF), jobs without one last
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol, final

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.las import THRESHOLDS_DEVICE_S, Attained, Queues, tick_of
from myriarch.schedule.priority import MultiFactor
from myriarch.schedule.standing import Standing

Predictor = Callable[[Job], float]
"""Seconds that a job will run for, on the devices it asked for; asked when it is submitted."""


class Learn(Protocol):
    """Told of jobs that ended: `UserMeans.learn`, `durations.Durations.ended`."""

    def __call__(self, job: Job, run_s: float, /, *, now_s: float) -> None: ...


STEADY: Final = 0.0
NEVER: Final = math.inf
MARGIN: Final = 0.25
"""A running job yields to one that has so much less left: our choice, between no hysteresis and halves."""


class Course(NamedTuple):
    """A job's rank from now on, while it goes on as it does."""

    rank: float
    """Now. The lowest goes first."""
    per_s: float = STEADY
    """How it moves with time."""
    until_s: float = NEVER
    """When to ask again."""


class Hysteresis(NamedTuple):
    """How far behind a running job has to stand before it yields: `times` the waiting one's rank, `plus` so much."""

    times: float = 1.0
    plus: float = 0.0

    def above(self, rank: float) -> float:
        """Running jobs that stand above it yield to a waiting one of this rank."""
        return rank * self.times + self.plus

    def below(self, rank: float) -> float:
        """Waiting jobs that stand below it could have a running one of this rank yield."""
        return (rank - self.plus) / self.times


class Ranking(Protocol):
    """An order of jobs that wait and run. Told of all that happens to them."""

    name: str
    urgent: bool
    """Whether ranks that change call for a decision at that instant; else the next event will do."""
    hysteresis: Hysteresis

    def submitted(self, standing: Standing, *, now_s: float) -> None:
        """A new job."""

    def started(self, standing: Standing, *, now_s: float) -> None:
        """It began to run; `standing` says so already."""

    def stopped(self, standing: Standing, *, now_s: float) -> None:
        """It waits again."""

    def ended(self, standing: Standing, *, now_s: float) -> None:
        """It is done; `standing` is as it was while it ran."""

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """Where it stands."""

    def left_s(self, standing: Standing, *, now_s: float) -> float | None:
        """How long it still has to run, by a prediction; None: there is none."""

    def spent_s(self, standing: Standing, *, now_s: float) -> float | None:
        """How long a waiting job would run for each such job that ends, stopped where that is best: what those wait
        for it who make room. Its `left_s`, where a prediction is one number."""

    def words(self, rank: float) -> str:
        """A rank in words, for reasons."""


class _Unchanging:
    """Rankings that learn nothing and predict nothing."""

    urgent = False
    hysteresis = Hysteresis()

    def submitted(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def started(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def stopped(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def ended(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def left_s(self, standing: Standing, *, now_s: float) -> float | None:
        """Unknown."""
        return None

    def spent_s(self, standing: Standing, *, now_s: float) -> float | None:
        """Unknown."""
        return None


@final
class ByArrival(_Unchanging):
    """First come, first served: a job that was backfilled yields to one that came before it."""

    name = "arrival"

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """For ever where it came."""
        return Course(standing.job.submit_s)

    def words(self, rank: float) -> str:
        return f"came at {rank:g} s"


@final
class EarliestDeadline(_Unchanging):
    """Earliest deadline first, optimal on one device (Jackson 1955); jobs without a deadline last, by arrival."""

    name = "deadline"

    def __init__(self, *, slack_s: float = 3600.0) -> None:
        self.hysteresis = Hysteresis(plus=slack_s)
        """A running job yields to whose deadline is so much earlier: our choice."""

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """Its deadline."""
        deadline_s = standing.job.deadline_s
        return Course(NO_DEADLINE + standing.job.submit_s if deadline_s is None else deadline_s)

    def words(self, rank: float) -> str:
        return f"is due at {rank:g} s" if rank < NO_DEADLINE else "has no deadline"


NO_DEADLINE: Final = 2.0**40
"""Seconds: later than any deadline, and small enough that a sum with an instant keeps microseconds."""


@final
class ByPriority(_Unchanging):
    """Slurm's priority. `margin`: a running job yields to one whose priority is so much higher."""

    name = "priority"

    def __init__(self, factors: MultiFactor, *, margin: float = 1000.0) -> None:
        self._factors = factors
        self.hysteresis = Hysteresis(plus=margin)
        """By default the whole weight of age in `priority.DEFAULT_WEIGHTS`: waiting alone preempts nobody."""

    def started(self, standing: Standing, *, now_s: float) -> None:
        """Its account is charged from now on."""
        self._factors.started(standing.job, now_s=now_s)

    def stopped(self, standing: Standing, *, now_s: float) -> None:
        """Charged to here."""
        self._factors.ended(standing.job.id, now_s=now_s)

    def ended(self, standing: Standing, *, now_s: float) -> None:
        """Charged to the end."""
        self._factors.ended(standing.job.id, now_s=now_s)

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """As of now, until fair shares are worked out anew."""
        return Course(self._factors.key(standing.job, now_s=now_s), STEADY, now_s + self._factors.refresh_s)

    def words(self, rank: float) -> str:
        return f"has priority {-rank:.1f}"


@final
class LeastService(_Unchanging):
    """Tiresias (Gu et al., NSDI 2019, section 3): queues by attained service; in a queue by the first start, those not
    yet started last and by arrival. The rule of `las.LeastAttained`, told by the job instead of over all jobs.

    With `FREE_OF_CHARGE`, no holds and no guard all jobs end when they do there, with promotion and without (tested):
    what a job has had is counted in the same ticks by both (`las.Attained`), so no rounding decides who falls first.
    """

    name = "least attained service"
    urgent = True

    def __init__(self, *, thresholds: tuple[float, ...] = THRESHOLDS_DEVICE_S, starve_factor: float = math.inf) -> None:
        self._queues = Queues(thresholds, starve_factor)
        self._queue: dict[JobId, int] = {}
        self._attained: dict[JobId, Attained] = {}
        """Since each last came to the first queue."""
        self._first: dict[JobId, int] = {}
        """Numbers of first starts."""
        self._starts = 0

    def submitted(self, standing: Standing, *, now_s: float) -> None:
        """In the first queue."""
        self._queue[standing.job.id] = 0
        self._attained[standing.job.id] = Attained(tick_of(now_s))

    def started(self, standing: Standing, *, now_s: float) -> None:
        """First starts order the jobs of one queue."""
        self._attained[standing.job.id].count(tick_of(now_s), held=standing.held)
        if standing.job.id not in self._first:
            self._first[standing.job.id] = self._starts
            self._starts += 1

    def stopped(self, standing: Standing, *, now_s: float) -> None:
        """What it had is counted."""
        self._attained[standing.job.id].count(tick_of(now_s), held=0)

    def ended(self, standing: Standing, *, now_s: float) -> None:
        """Forgotten."""
        del self._queue[standing.job.id], self._attained[standing.job.id]
        self._first.pop(standing.job.id, None)

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """Its queue, and its place in it, until it falls or is promoted."""
        job = standing.job.id
        attained = self._attained[job]
        attained.count(tick_of(now_s), held=attained.held)
        waits = not standing.running and now_s > standing.since_s
        if waits and self._queue[job] and self._queues.starves(attained):
            attained = self._attained[job] = Attained(attained.until)
            self._queue[job] = 0
        queue = self._queue[job] = max(self._queue[job], self._queues.of(attained))
        place = self._first.get(job, NOT_STARTED + standing.number)
        return Course(queue * QUEUE_APART + place, STEADY, self._queues.next_s(attained, queue))

    def words(self, rank: float) -> str:
        return f"stands in queue {int(rank // QUEUE_APART)} of {len(self._queues.thresholds) + 1} by attained service"


QUEUE_APART: Final = 2.0**46
NOT_STARTED: Final = 2.0**45
"""Ranks of `LeastService` are a queue, and a number below 2^46 in it: exact in a double up to 127 queues."""


@final
class ShortestRemaining:
    """What remains by a prediction. One that a job outlives is doubled, as often as it takes: of long-tailed run times
    those that lasted long last as long again. Estimates are upper bounds, and no prediction goes beyond them."""

    urgent = False

    def __init__(
        self,
        predictor: Predictor,
        *,
        by: Literal["service", "time"] = "service",
        margin: float = MARGIN,
        learn: Learn | None = None,
    ) -> None:
        if margin < 0:
            raise SpecError(f"margin {margin:g} is below zero: waiting jobs of less worth would preempt")
        self.name = "shortest remaining service" if by == "service" else "shortest remaining time"
        self._predictor = predictor
        self._learn = learn
        """Told of jobs that ended, with the work that was done: what `UserMeans` and other learners take."""
        self._by_service = by == "service"
        self.hysteresis = Hysteresis(times=1.0 + margin)
        self._predicted_s: dict[JobId, float] = {}

    def submitted(self, standing: Standing, *, now_s: float) -> None:
        """The prediction is made once."""
        job = standing.job
        predicted_s = self._predictor(job)
        if not predicted_s >= 0:
            raise SpecError(f"job {job.id} is predicted to run for {predicted_s} s; give a number from 0 up")
        self._predicted_s[job.id] = min(max(predicted_s, LEAST_S), job.estimate_s)

    def started(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def stopped(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def ended(self, standing: Standing, *, now_s: float) -> None:
        """Learned from."""
        del self._predicted_s[standing.job.id]
        if self._learn is not None:
            self._learn(standing.job, standing.done_by(now_s), now_s=now_s)

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """What is left, which falls while the job runs, until the prediction is over."""
        left_s = self.left_s(standing, now_s=now_s)
        devices = standing.job.devices if self._by_service else 1
        if not standing.running:
            return Course(devices * left_s)
        startup_s = max(standing.since_s + standing.startup_s - now_s, 0.0)
        speed = standing.speed or 1.0
        return Course(devices * left_s, -devices * speed, now_s + startup_s + left_s / speed)

    def left_s(self, standing: Standing, *, now_s: float) -> float:
        """Work that is left, in seconds."""
        done_s = standing.done_by(now_s)
        predicted_s, most_s = self._predicted_s[standing.job.id], standing.job.estimate_s
        while predicted_s - done_s < LEAST_S and predicted_s < most_s:
            predicted_s = min(2.0 * predicted_s, most_s)
        self._predicted_s[standing.job.id] = predicted_s
        return max(predicted_s - done_s, LEAST_S)

    def spent_s(self, standing: Standing, *, now_s: float) -> float:
        """What is left."""
        return self.left_s(standing, now_s=now_s)

    def words(self, rank: float) -> str:
        return f"has {rank:.0f} {'device-seconds' if self._by_service else 's'} left by its prediction"


LEAST_S: Final = 1.0
"""Seconds that a job is taken to have left at least."""


@final
class UserMeans:
    """Mean run time of a user's jobs so far, as a predictor that learns: `ShortestRemaining(means, learn=means.learn)`.

    Exponentially weighted, so that the newest jobs count most; jobs of one size apart from the user's others (Helios,
    SC 2021, section 4.2: its history-based estimate); without any, the mean over all.
    """

    def __init__(self, *, weight: float = 0.5, prior_s: float = 3600.0) -> None:
        if not 0 < weight <= 1:
            raise SpecError(f"weight {weight:g} of the newest job is not above 0 and at most 1")
        self._weight = weight
        self._means: dict[tuple[str, str, int], float] = {}
        self._users: dict[tuple[str, str], float] = {}
        self._all = prior_s
        """Before any job ended: an hour, no measurement."""

    def __call__(self, job: Job) -> float:
        """Seconds."""
        user = (job.tenant, job.user)
        found = self._means.get((*user, job.devices))
        return min(found if found is not None else self._users.get(user, self._all), job.estimate_s)

    def learn(self, job: Job, run_s: float, *, now_s: float = 0.0) -> None:
        """A job of so much work ended; when is of no concern."""
        user = (job.tenant, job.user)
        sized = (*user, job.devices)
        self._means[sized] = self._mixed(self._means.get(sized), run_s)
        self._users[user] = self._mixed(self._users.get(user), run_s)
        self._all += ALL_WEIGHT * (run_s - self._all)

    def _mixed(self, mean: float | None, run_s: float) -> float:
        return run_s if mean is None else mean + self._weight * (run_s - mean)


ALL_WEIGHT: Final = 0.01
"""Of the newest job in the mean over all: about the last hundred count."""


def by_estimate(job: Job) -> float:
    """What the user asked for, as a prediction."""
    return job.estimate_s
