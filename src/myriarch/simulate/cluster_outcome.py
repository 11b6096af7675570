"""What came of a workload on a fleet that breaks: waits, completion times, lost work, fairness, the ledger.

Fairness is said twice. *Jain's index* (Jain, Chiu and Hawe, DEC-TR-301, 1984) of tenants' service over demand: of the
device-seconds that a tenant's jobs asked for while they were there, from submission to end, the share that they held;
`(sum x)^2 / (n sum x^2)`, 1 when all tenants have the same share. *Finish-time fairness* (Themis, NSDI'20):
`rho = T_shared / T_isolated`, with `T_shared` from submission to end and `T_isolated` the time that the job would take
on a share `1 / N` of the fleet of its own, `N` being how many jobs were there on average while it was. A rigid job of
`d` devices gets on there at the rate `min(1, C / (N d))` on a fleet of `C`: so `T_isolated = run max(1, N d / C)`.
Above 1 a job was worse off than alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from myriarch.account.ledger import Ledger
from myriarch.event.base import Value
from myriarch.event.spans import Leaf
from myriarch.schedule.job import JobId
from myriarch.simulate.cluster_columns import Columns
from myriarch.simulate.outcome import SECONDS_PER_HOUR, SLOWDOWN_BOUND_S
from myriarch.units import NS_PER_S

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Chosen = NDArray[np.bool_]
Group = Literal["tenant", "kind", "pool"]


class ClusterSummary(Value, frozen=True, kw_only=True):
    """Of the jobs that ended. Times in seconds."""

    jobs: int
    device_hours: float
    """Devices asked for times run time."""
    wait_s_mean: float
    """From submission to the first start."""
    wait_s_p50: float
    wait_s_p95: float
    wait_s_max: float
    completion_s_mean: float
    """From submission to end (JCT)."""
    completion_s_p50: float
    completion_s_p95: float
    slowdown_mean: float
    """Bounded: (end - submission) / max(run, 10 s), at least 1."""
    slowdown_p95: float
    preemptions: int
    restarts: int
    resizes: int
    lost_hours: float
    """Run time that was done and had to be done again."""
    deadlines: int
    """Of those that ended, and of those that did not though it has passed."""
    deadlines_missed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOutcome:
    """Arrays are in the order of the workload; what did not happen is NaN."""

    columns: Columns
    ledger: Ledger
    """Every device-nanosecond of the fleet, by pool."""
    start_s: float
    end_s: float
    waiting_job_s: float
    """Length of the queue, integrated."""
    waiting_most: int
    unfinished: int
    """Jobs that ran or waited when the simulation was over."""
    events: int
    digest: str
    """Of all decisions with their reasons, in order."""

    @property
    def submit_s(self) -> Floats:
        """When each job came."""
        return np.asarray(self.columns.submit_s)

    @property
    def run_s(self) -> Floats:
        """Work of each job: its run time with the devices it asked for, undisturbed."""
        return np.asarray(self.columns.run_s)

    @property
    def devices(self) -> Ints:
        """Devices asked for."""
        return np.asarray(self.columns.devices)

    @property
    def first_start_s(self) -> Floats:
        """When each job ran for the first time."""
        return np.asarray(self.columns.start_s)

    @property
    def ended_s(self) -> Floats:
        """When each job was done."""
        return np.asarray(self.columns.end_s)

    @property
    def completed(self) -> Chosen:
        """Which jobs ended."""
        return ~np.isnan(self.ended_s)

    @property
    def wait_s(self) -> Floats:
        """From submission to the first start."""
        return self.first_start_s - self.submit_s

    @property
    def completion_s(self) -> Floats:
        """From submission to end (JCT)."""
        return self.ended_s - self.submit_s

    @property
    def slowdown(self) -> Floats:
        """Bounded slowdown."""
        slowdowns: Floats = np.maximum(self.completion_s / np.maximum(self.run_s, SLOWDOWN_BOUND_S), 1.0)
        return slowdowns

    @property
    def missed(self) -> Chosen:
        """Which jobs were late, or did not end by their deadline."""
        deadline_s = np.asarray(self.columns.deadline_s)
        ended_s = np.where(self.completed, self.ended_s, np.inf)
        return (ended_s > deadline_s) & (deadline_s <= self.end_s)

    @property
    def refused(self) -> Mapping[JobId, str]:
        """Who could never run, and why."""
        return {self.columns.ids[index]: why for index, why in sorted(self.columns.refused.items())}

    @property
    def utilisation(self) -> float:
        """Share of the fleet's device-time that jobs held."""
        idle = sum(self.ledger.total.level_ns(level) for level in ("unusable", "unscheduled"))
        capacity = self.ledger.total.capacity_device_ns
        return 1.0 - idle / capacity if capacity else 0.0

    @property
    def fragmented(self) -> float:
        """Share of the fleet's device-time that was free and enough for the first in the queue, but scattered."""
        return self.share("idle_fragmented")

    def share(self, leaf: Leaf) -> float:
        """Share of the fleet's device-time in a leaf."""
        capacity = self.ledger.total.capacity_device_ns
        return self.ledger.total.leaves.get(leaf, 0) / capacity if capacity else 0.0

    def summary(self, chosen: Chosen | None = None) -> ClusterSummary | None:
        """Of all jobs that ended, or of the chosen ones; None when there are none."""
        which = self.completed if chosen is None else self.completed & chosen
        if not which.any():
            return None
        wait_s, completion_s, slowdown = self.wait_s[which], self.completion_s[which], self.slowdown[which]
        columns = self.columns
        deadline_s = np.asarray(columns.deadline_s)
        due = self.completed | (deadline_s <= self.end_s)  # whose deadline was met or missed
        due[list(columns.refused)] = False
        due &= ~np.isnan(deadline_s) & (True if chosen is None else chosen)

        def total(column: Any) -> int:
            return int(np.asarray(column)[which].sum())

        return ClusterSummary(
            jobs=len(wait_s),
            device_hours=float(self.devices[which] @ self.run_s[which]) / SECONDS_PER_HOUR,
            wait_s_mean=float(wait_s.mean()),
            wait_s_p50=float(np.quantile(wait_s, 0.5)),
            wait_s_p95=float(np.quantile(wait_s, 0.95)),
            wait_s_max=float(wait_s.max()),
            completion_s_mean=float(completion_s.mean()),
            completion_s_p50=float(np.quantile(completion_s, 0.5)),
            completion_s_p95=float(np.quantile(completion_s, 0.95)),
            slowdown_mean=float(slowdown.mean()),
            slowdown_p95=float(np.quantile(slowdown, 0.95)),
            preemptions=total(columns.preemptions),
            restarts=total(columns.restarts),
            resizes=total(columns.resizes),
            lost_hours=float(np.asarray(columns.lost_s)[which].sum()) / SECONDS_PER_HOUR,
            deadlines=int(due.sum()),
            deadlines_missed=int((self.missed & due).sum()),
        )

    def by(self, group: Group) -> dict[str, ClusterSummary]:
        """Summaries by tenant, kind, or pool where it ran last: groups in alphabetical order."""
        codes, words = np.asarray(getattr(self.columns, group)), self.columns.names.words
        named = sorted((words[code], code) for code in set(codes.tolist()) if code >= 0)
        found = {name: self.summary(codes == code) for name, code in named}
        return {name: summary for name, summary in found.items() if summary is not None}

    @property
    def jain_index(self) -> float | None:
        """Of tenants' service over demand; None without tenants that asked for anything."""
        accepted = np.ones(len(self.columns.ids), dtype=bool)
        accepted[list(self.columns.refused)] = False
        until_s = np.where(self.completed, self.ended_s, self.end_s)
        demand = np.where(accepted, self.devices * (until_s - self.submit_s), 0.0)
        tenants = np.asarray(self.columns.tenant)
        held = np.bincount(tenants, weights=np.asarray(self.columns.held_device_s)) if len(tenants) else np.zeros(0)
        asked = np.bincount(tenants, weights=demand) if len(tenants) else np.zeros(0)
        shares = held[asked > 0] / asked[asked > 0]
        squares = float((shares**2).sum())
        return float(shares.sum()) ** 2 / (len(shares) * squares) if squares else None

    @property
    def finish_time_fairness(self) -> Floats:
        """Rho of each job; NaN of those that did not end, and of those over within the instant they came."""
        accepted = ~np.isnan(self.first_start_s)
        until_s = np.where(self.completed, self.ended_s, self.end_s)[accepted]
        instants_s = np.concatenate([self.submit_s[accepted], until_s])
        changes = np.concatenate([np.ones(len(until_s)), -np.ones(len(until_s))])
        order = np.argsort(instants_s, kind="stable")
        instants_s, there = instants_s[order], np.cumsum(changes[order])
        passed = np.concatenate(([0.0], np.cumsum(there[:-1] * np.diff(instants_s)))) if len(there) else there
        rho = np.full(len(self.columns.ids), np.nan)
        which = self.completed & (self.ended_s > self.submit_s)
        if which.any() and self.fleet_devices:
            life_s = self.completion_s[which]
            jobs = np.interp(self.ended_s[which], instants_s, passed)
            jobs -= np.interp(self.submit_s[which], instants_s, passed)
            contention = jobs / life_s
            alone_s = self.run_s[which] * np.maximum(1.0, contention * self.devices[which] / self.fleet_devices)
            rho[which] = life_s / alone_s
        return rho

    @property
    def fleet_devices(self) -> int:
        """All devices, broken ones too."""
        duration_ns = round(self.end_s * NS_PER_S) - round(self.start_s * NS_PER_S)
        return self.ledger.total.capacity_device_ns // duration_ns if duration_ns else 0
