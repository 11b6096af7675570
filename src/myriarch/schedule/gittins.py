"""Who should run first when nobody knows how long jobs run, but how long such jobs ran: the Gittins index.

A job of age `a` (work done) whose run time X has a known distribution has the rank

    rank(a) = devices x  min over b > a of  E[min(X, b) - a | X > a] / P(X <= b | X > a)

device-seconds spent for each job that ends, if it is run until b at most and b is chosen best. On one server, serving
the lowest rank minimises the mean time in the system over all policies that do not know run times (Gittins 1989; Aalto,
Ayesta and Righter, Queueing Systems 63, 2009), and with many servers in heavy traffic (Scully, Grosof and
Harchol-Balter, SIGMETRICS 2021); Tiresias uses it as one of its two rules (Gu et al., NSDI 2019, section 3). With exact
knowledge it is shortest remaining first; with a falling hazard rate (long ones last long) least attained service. So it
needs no choice between the two.

A job that cannot be preempted is run to its end once it started: b is infinite, and its rank what it is expected to
take. Where stops cost time, as told by `spell` (`worth`), so between the two: whoever starts is let run for `spell`
times what its next stop and start cost, so b lies beyond that, and a job that is stopped at b costs them as well,

    rank(a) = devices x  min over b >= a + spell x switch of
                         (E[min(X, b) - a | X > a] + switch x P(X > b | X > a)) / P(X <= b | X > a)

and a running job, which has had that time, is ranked without the bound. So a waiting job stands behind a running one
that is as old: indices of bandits that cost something to switch to do so (Asawa and Teneketzis, IEEE Trans. Automatic
Control 41(3), 1996; theirs is optimal under conditions that many servers do not meet). Without it a start of which two
hours must follow was ranked as if a minute could be tried.

Distributions are those of `lengths`; a rank changes when the age passes into another bin.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.lengths import BINS, EDGES_S, MIDDLES_S, bin_of
from myriarch.schedule.rankings import Course, Hysteresis
from myriarch.schedule.standing import Standing

Floats = NDArray[np.float64]

MARGIN: Final = 0.5
"""A running job yields to one whose rank is lower by so much."""
LEAST_MASS: Final = 1e-9
ROUNDING: Final = 1e-9
"""An age this near below a bin is in it: instants are doubles, and a bin must be over when it was said to be."""


class Learner(Protocol):
    """Distributions that learn: `lengths.Lengths`."""

    def distribution(self, job: Job) -> Floats:
        """The probability of each bin of `lengths`."""

    def learn(self, job: Job, run_s: float) -> None:
        """A job ended."""


class _Known(NamedTuple):
    """Of a job, by its age in bins, in seconds. Float64 [BINS] each."""

    waiting_s: Floats
    """The index while it waits."""
    running_s: Floats
    """The index while it runs."""
    left_s: Floats
    """What is expected to be left."""


@final
class Gittins:
    """A ranking of `ranked`. Invariant: every job that waits or runs has a distribution, as of its submission."""

    urgent = False
    name = "Gittins index"

    def __init__(
        self, learner: Learner, *, margin: float = MARGIN, exponent: float = 1.0, spell: float | None = None
    ) -> None:
        """spell: of `Worth`, where indices are to know what stops cost; None: as if they were free."""
        if margin < 0 or not 0 <= exponent <= 2:
            raise SpecError(f"margin {margin:g} is not below zero, and the exponent {exponent:g} from 0 to 2")
        self.hysteresis = Hysteresis(times=1.0 + margin)
        self._learner = learner
        self._exponent = exponent
        """Of the devices: 1 minimises the mean, less favours large jobs."""
        self._spell = spell
        self._known: dict[JobId, _Known] = {}

    def submitted(self, standing: Standing, *, now_s: float) -> None:
        """What is known now stays what is known of this job."""
        job = standing.job
        mass = self._learner.distribution(job)
        left_s = expected_left_s(mass)
        if not job.preemptible:
            self._known[job.id] = _Known(left_s, left_s, left_s)
            return
        switch_s = standing.switch_s if self._spell is not None else 0.0
        running_s = waiting_s = index_s(mass, switch_s=switch_s)
        if switch_s and self._spell:
            waiting_s = index_s(mass, switch_s=switch_s, least_s=self._spell * switch_s)
        self._known[job.id] = _Known(waiting_s, running_s, left_s)

    def started(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def stopped(self, standing: Standing, *, now_s: float) -> None:
        """Nothing to learn."""

    def ended(self, standing: Standing, *, now_s: float) -> None:
        """Learned from."""
        del self._known[standing.job.id]
        self._learner.learn(standing.job, max(standing.done_by(now_s), EDGES_S[0]))

    def course(self, standing: Standing, *, now_s: float) -> Course:
        """The rank of its age, until it is a bin older."""
        done_s = standing.done_by(now_s)
        at = bin_of(done_s * (1.0 + ROUNDING))
        known = self._known[standing.job.id]
        index = known.running_s if standing.running else known.waiting_s
        rank = float(index[at]) * standing.job.devices**self._exponent
        if not standing.running or at == BINS - 1:
            return Course(rank)
        startup_s = max(standing.since_s + standing.startup_s - now_s, 0.0)
        older_s = (float(EDGES_S[at + 1]) - done_s) / (standing.speed or 1.0)
        return Course(rank, until_s=now_s + startup_s + max(older_s, 1e-3))

    def left_s(self, standing: Standing, *, now_s: float) -> float:
        """The mean of what is left, at this age."""
        done_s = standing.done_by(now_s)
        at = bin_of(done_s * (1.0 + ROUNDING))
        return min(float(self._known[standing.job.id].left_s[at]), max(standing.job.estimate_s - done_s, 1.0))

    def spent_s(self, standing: Standing, *, now_s: float) -> float:
        """Seconds that it runs for each such job that ends, begun now."""
        at = bin_of(standing.done_by(now_s) * (1.0 + ROUNDING))
        return float(self._known[standing.job.id].waiting_s[at])

    def words(self, rank: float) -> str:
        return f"costs {rank:.0f} device-seconds for each such job that ends"


def index_s(mass: Floats, *, switch_s: float = 0.0, least_s: float = 0.0) -> Floats:
    """Seconds for each job that ends, by the bin of the age. Float64 [BINS].

    At the begin of bin k those of bins k and later are left; run until the end of bin b it costs the sum over bins of
    (probability that it is still there) x (the bin's length), bins counted where their jobs are taken to end. Who has
    not ended by then costs `switch_s` more. Nobody is stopped before it has run for `least_s`.
    """
    alive = mass[::-1].cumsum()[::-1]
    cost_s, done = np.zeros(BINS + 1), np.zeros(BINS + 1)
    np.cumsum(alive * _STEPS_S, out=cost_s[1:])
    np.cumsum(mass, out=done[1:])
    ended = np.maximum(done[1:] - done[:-1, None], LEAST_MASS)
    stops_s = switch_s * np.append(alive[1:], 0.0)
    ratio = (cost_s[1:] - cost_s[:-1, None] + stops_s) / ended + _BELOW
    if least_s:
        first = np.minimum(np.searchsorted(EDGES_S[1:], _AGES_S + least_s), BINS - 1)
        ratio[np.arange(BINS) < first[:, None]] = math.inf
    found: Floats = ratio.min(axis=1)
    gone = alive <= LEAST_MASS
    found[gone] = MIDDLES_S[gone]  # older than any: as long again
    return found


_STEPS_S: Final = np.diff(MIDDLES_S, prepend=0.0)
_BELOW: Final = np.where(np.tri(BINS, k=-1, dtype=np.bool_), math.inf, 0.0)
"""An end before the age is none."""


def expected_left_s(mass: Floats) -> Floats:
    """What is left on average, by the bin of the age. Float64 [BINS]."""
    alive = mass[::-1].cumsum()[::-1]
    ahead_s = (mass * MIDDLES_S)[::-1].cumsum()[::-1]
    left_s: Floats = np.where(alive > LEAST_MASS, ahead_s / np.maximum(alive, LEAST_MASS) - _AGES_S, MIDDLES_S)
    return np.maximum(left_s, 1.0)


_AGES_S: Final = np.concatenate(([0.0], EDGES_S[1:-1]))
