"""Multi-factor priority with fair share: Slurm's formula (documentation, "Multifactor Priority Plugin").

    priority = w_age * age + w_fair_share * fair share + w_size * size + w_quality * quality,   each factor 0..1

age: time in the queue over `age_most_s`, at most 1. size: devices asked for over the machine's (or one less that,
where small jobs are favoured). Site factor, partition, association, TRES and nice of Slurm's formula are not
modelled. As with Slurm, the keys of who waits are worked out anew every `refresh_s`, and a new job's at once.
"""

from __future__ import annotations

from typing import Final, final

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.shares import Algorithm, Shares

REFRESH_S: Final = 300.0
"""PriorityCalcPeriod of slurm.conf: 5 minutes."""
AGE_MOST_S: Final = 7 * 86_400.0
"""PriorityMaxAge of slurm.conf: 7 days."""


class Weights(Value, frozen=True, kw_only=True):
    """Weights of the factors; in Slurm they are integers of some thousands, all 0 by default."""

    age: float = 1000.0
    fair_share: float = 10000.0
    size: float = 0.0
    quality: float = 0.0


DEFAULT_WEIGHTS: Final = Weights()


class Factors(Value, frozen=True, kw_only=True):
    """A job's factors, each 0..1, and what they come to."""

    age: float
    fair_share: float
    size: float
    quality: float
    priority: float


@final
class MultiFactor:
    """An order of the queue, highest priority first. Usage is charged as jobs end, and for those that run at every
    refresh.

    Accounts are tenants, or users under tenants where the tree names them as `tenant/user`; a job of neither has no
    share, and its fair-share factor is 0.
    """

    by_arrival = False

    def __init__(
        self,
        shares: Shares,
        *,
        devices: int,
        weights: Weights = DEFAULT_WEIGHTS,
        algorithm: Algorithm = "fair tree",
        age_most_s: float = AGE_MOST_S,
        refresh_s: float = REFRESH_S,
        favour_small: bool = False,
    ) -> None:
        if devices < 1 or not age_most_s > 0 or not refresh_s > 0:
            raise SpecError("devices, `age_most_s` and `refresh_s` must be above zero")
        self.refresh_s = refresh_s
        self._shares = shares
        self._leaves = frozenset(shares.leaves)
        self._devices = devices
        self._weights = weights
        self._algorithm = algorithm
        self._age_most_s = age_most_s
        self._favour_small = favour_small
        self._running: dict[JobId, tuple[str, int, float]] = {}
        """Account, devices, and until when it was charged."""
        self._fair: dict[str, float] = {}
        self._fair_at_s = float("-inf")

    def key(self, job: Job, *, now_s: float) -> float:
        """The priority, negative: the lowest key goes first."""
        return -self.factors(job, now_s=now_s).priority

    def factors(self, job: Job, *, now_s: float) -> Factors:
        """Why a job has its priority."""
        self._refresh(now_s)
        age = min((now_s - job.submit_s) / self._age_most_s, 1.0)
        size = job.devices / self._devices
        size = 1.0 - size if self._favour_small else size
        fair = self._fair.get(self._account(job), 0.0)
        weights = self._weights
        priority = weights.age * age + weights.fair_share * fair + weights.size * size + weights.quality * job.quality
        return Factors(age=age, fair_share=fair, size=size, quality=job.quality, priority=priority)

    def started(self, job: Job, *, now_s: float) -> None:
        """From now on its account is charged."""
        account = self._account(job)
        if account in self._leaves:
            self._running[job.id] = (account, job.devices, now_s)

    def ended(self, job: JobId, *, now_s: float) -> None:
        """Charged to the end."""
        if (one := self._running.pop(job, None)) is not None:
            account, devices, since_s = one
            self._shares.charge(account, devices * (now_s - since_s), at_s=now_s)

    def _account(self, job: Job) -> str:
        user = f"{job.tenant}/{job.user}"
        return user if user in self._leaves else job.tenant

    def _refresh(self, now_s: float) -> None:
        if now_s < self._fair_at_s + self.refresh_s:
            return
        self._fair_at_s = now_s
        for job, (account, devices, since_s) in self._running.items():
            self._shares.charge(account, devices * (now_s - since_s), at_s=now_s)
            self._running[job] = (account, devices, now_s)
        self._fair = self._shares.factors(self._algorithm)
