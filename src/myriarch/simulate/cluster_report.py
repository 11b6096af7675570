"""What came of a workload on a fleet that breaks, as one value: for `--json`, run directories and comparisons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from myriarch.account.factors import Factors, Peak, integrals
from myriarch.account.ledger import Account
from myriarch.event.base import Value
from myriarch.event.ids import PoolId
from myriarch.schedule.job import JobId
from myriarch.simulate.cluster_outcome import ClusterOutcome, ClusterSummary


class Fairness(Value, frozen=True, kw_only=True):
    """See `cluster_outcome`. None: nobody ended, or asked for anything."""

    jain_index: float | None
    """Of tenants' service over demand."""
    rho_mean: float | None
    """Finish-time fairness (Themis, NSDI'20); above 1 a job was worse off than on a fleet share of its own."""
    rho_p95: float | None
    rho_worst: float | None
    worse_off: float | None
    """Share of jobs with rho above 1."""


class ClusterReport(Value, frozen=True, kw_only=True):
    """Times in seconds, the ledger in device-nanoseconds."""

    start_s: float
    end_s: float
    submitted: int
    refused: dict[JobId, str]
    unfinished: int
    wrong: int
    """Jobs that ended with wrong values which nobody had noticed."""
    all: ClusterSummary | None
    by_tenant: dict[str, ClusterSummary]
    by_kind: dict[str, ClusterSummary]
    by_pool: dict[str, ClusterSummary]
    utilisation: float
    fragmented: float
    waiting_mean: float
    """Jobs in the queue, over all time."""
    waiting_most: int
    fairness: Fairness
    factors: Factors
    total: Account
    pools: dict[PoolId, Account]
    events: int
    digest: str


def report(outcome: ClusterOutcome, *, rates: Mapping[PoolId, Peak] | None = None) -> ClusterReport:
    """Sum an outcome up.

    rates: peak rates of unlike pools, by which the factors weigh them. Without them the factors of several pools are
    unknown.
    """
    duration_s = outcome.end_s - outcome.start_s
    whole = integrals(outcome.ledger, rates or {pool: Peak() for pool in outcome.ledger.pools}, model_flops=None)
    return ClusterReport(
        start_s=outcome.start_s,
        end_s=outcome.end_s,
        submitted=len(outcome.columns.ids),
        refused=dict(outcome.refused),
        unfinished=outcome.unfinished,
        wrong=len(outcome.columns.wrong),
        all=outcome.summary(),
        by_tenant=outcome.by("tenant"),
        by_kind=outcome.by("kind"),
        by_pool=outcome.by("pool"),
        utilisation=outcome.utilisation,
        fragmented=outcome.fragmented,
        waiting_mean=outcome.waiting_job_s / duration_s if duration_s else 0.0,
        waiting_most=outcome.waiting_most,
        fairness=_fairness(outcome),
        factors=Factors() if whole is None else whole.factors(),
        total=outcome.ledger.total,
        pools=outcome.ledger.pools,
        events=outcome.events,
        digest=outcome.digest,
    )


def _fairness(outcome: ClusterOutcome) -> Fairness:
    rho = outcome.finish_time_fairness
    rho = rho[~np.isnan(rho)]
    some = len(rho) > 0
    return Fairness(
        jain_index=outcome.jain_index,
        rho_mean=float(rho.mean()) if some else None,
        rho_p95=float(np.quantile(rho, 0.95)) if some else None,
        rho_worst=float(rho.max()) if some else None,
        worse_off=float((rho > 1.0).mean()) if some else None,
    )
