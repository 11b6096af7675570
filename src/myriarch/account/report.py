"""The report: what a program reads, and what the table for people is drawn from. One function makes both.

Unknown is None in it, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

import msgspec

from myriarch.account.factors import (
    Factors,
    KeptWork,
    Peak,
    compute_of,
    integrals,
    kept_work,
    peaks,
    pools_of_groups,
)
from myriarch.account.facts import Snapshots
from myriarch.account.history import History, Intake
from myriarch.account.incidents import Evidence, Incident
from myriarch.account.ledger import Account, Ledger, build_ledger
from myriarch.cost.flops import flops_per_token
from myriarch.event.actions import GroupShare
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId, PoolId, Step
from myriarch.event.spans import LEAVES, Leaf
from myriarch.units import NS_PER_S

SCHEMA: Final = "myriarch.report/1"
CURVE_POINTS: Final = 512
"""The loss curve is thinned to at most so many points; first and last stay."""
WARNINGS: Final = 20
"""Of the run's warnings, the newest so many are in the report."""
UNATTRIBUTED_TARGET: Final = 0.02
"""A larger unexplained share of capacity is said in a note."""

MEANT: Final[frozenset[Leaf]] = frozenset(
    {"useful_compute", "idle_reserved_spare", "evaluation", "debug_hold", "preempted_by_policy", "maintenance"}
)
"""Leaves that somebody wanted: their value is shown, but they are not the first thing to fix."""


class IncidentSplit(Value, frozen=True, kw_only=True):
    """Where the time from the fault to the first step went. None: did not happen, or is unknown."""

    detect_s: float | None = None
    decide_s: float | None = None
    fork_s: float | None = None
    """From the decision until the worker that was ready last had been forked; with a fetch of its shards before."""
    rendezvous_s: float | None = None
    restore_s: float | None = None
    other_s: float | None = None
    """Building the model, attaching, waiting for the word of the controller."""
    first_step_s: float | None = None


class IncidentReport(Value, frozen=True, kw_only=True):
    """One incident. Times are seconds since the fault; None: did not happen (yet)."""

    fault: str
    detected_s: float | None
    decided_s: float | None
    restored_s: float | None
    first_step_s: float | None
    lost_steps: int | None
    reason: str
    number: int
    fault_ns: int
    fault_at_s: float
    """Since the run's first record."""
    evidence: Evidence
    """How the instant of the fault is known; see `myriarch.account.incidents`."""
    choices: tuple[str, ...]
    lost_nodes: tuple[NodeId, ...]
    lost_workers: tuple[str, ...]
    """`<group>/<rank>`."""
    split: IncidentSplit
    left_out: tuple[GroupId, ...] = ()
    """Groups that the others went on without."""
    rejoined_s: float | None = None
    """Until they stepped with the others again."""


class RunReport(Value, frozen=True, kw_only=True):
    """Which run, how far, how it ended."""

    name: str
    run_id: str
    outcome: str
    """`EndRun.outcome`; without one `running`, `unfinished` (killed before it could say so) or `not_started`."""
    detail: str
    start_ns: int
    end_ns: int
    duration_s: float
    steps_wanted: int
    steps_done: int
    """The newest step of the present line of descent."""
    devices: int


class PoolReport(Value, frozen=True, kw_only=True):
    """One pool."""

    chip: str
    devices: int
    peak: Peak
    emulated_cpu_fraction: float | None
    """Share of one core that each device may use; None: nothing is emulated."""
    emulation: str
    """How that was done, if anybody said."""
    capacity_device_ns: int
    leaves: dict[Leaf, int]
    tokens: int
    compute: float | None
    """MFU of kept time."""


class WorkReport(Value, frozen=True, kw_only=True):
    """What was learnt from, and how fast."""

    steps_kept: int
    """Provisional ones included."""
    steps_lost: int
    """Completed and lost."""
    steps_provisional: int
    tokens: int
    tokens_lost: int
    tokens_by_group: dict[GroupId, int]
    tokens_per_s: float | None
    """Over the whole run."""
    tokens_per_s_stepping: float | None
    """Over the time in kept steps."""
    flops_per_token: float
    model_flops: float


class LossReport(Value, frozen=True, kw_only=True):
    """Mean loss per valid token of the steps that were not lost, in nats."""

    first: float | None = None
    last: float | None = None
    lowest: float | None = None
    curve: tuple[tuple[Step, float], ...] = ()
    """`(step, loss)`."""


class Fix(Value, frozen=True, kw_only=True):
    """What the effective number would be if one leaf were zero: the same work on less device time.

    A simple what-if: the rest of the run is taken as it was. Values of several fixes do not add up.
    """

    leaf: Leaf
    device_ns: int
    share: float
    """Of capacity, in device time."""
    effective: float | None
    gain: float | None
    """Difference to the run's effective number."""
    meant: bool
    """Somebody wanted this: a spare, an evaluation."""


class Report(Value, frozen=True, kw_only=True):
    """Where every device-second of a run went."""

    schema: str = SCHEMA
    capacity_device_ns: int
    leaves: dict[Leaf, int]
    """All leaves, in the order of their levels; they sum to `capacity_device_ns` exactly."""
    factors: Factors
    effective: float | None
    """Model FLOPs of kept steps over what all devices could have done at their peaks."""
    incidents: tuple[IncidentReport, ...]
    run: RunReport
    pools: dict[PoolId, PoolReport]
    nodes: dict[NodeId, dict[Leaf, int]]
    """Leaves without zeros."""
    work: WorkReport
    loss: LossReport
    snapshots: Snapshots
    shares: tuple[GroupShare, ...]
    provisional_device_ns: int
    """Of the step leaves: nobody knows yet whether it will be kept."""
    intake: Intake
    fixes: tuple[Fix, ...]
    """Best first."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader of the numbers has to know."""
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """Where journal, ledger and checkpoint lie."""


def build_report(
    history: History,
    *,
    files: Mapping[str, str] | None = None,
    emulation: Mapping[str, str] | None = None,
) -> Report:
    """Account for a run.

    `files`: where its files lie. `emulation`: by node, how devices were made slower. Both are passed on as they are.
    """
    ledger = build_ledger(history)
    rates = peaks(history)
    work = kept_work(history)
    per_token = flops_per_token(history.resolved.model)
    model_flops = Fraction(per_token) * work.tokens
    total = integrals(ledger, rates, model_flops=model_flops)
    factors = total.factors() if total is not None else Factors()
    effective = total.effective() if total is not None else None
    return Report(
        capacity_device_ns=ledger.total.capacity_device_ns,
        leaves={leaf: ledger.total.leaves.get(leaf, 0) for leaf in LEAVES},
        factors=factors,
        effective=effective,
        incidents=tuple(_incident(incident, history) for incident in history.faults.incidents),
        run=_run(history),
        pools=_pools(history, ledger, rates, work, Fraction(per_token), emulation or {}),
        nodes={node: account.leaves for node, account in ledger.nodes.items()},
        work=_work(history, work, float(per_token), float(model_flops)),
        loss=_loss(history),
        snapshots=history.facts.snapshots,
        shares=history.facts.shares,
        provisional_device_ns=ledger.provisional_device_ns,
        intake=history.intake,
        fixes=_fixes(ledger, rates, model_flops, effective),
        warnings=history.facts.warnings[-WARNINGS:],
        notes=_notes(history, ledger, rates, factors),
        files=dict(files or {}),
    )


def _run(history: History) -> RunReport:
    done = [
        fact.completed.step
        for fact in history.facts.steps
        if history.lineage.fate(fact.completed.incarnation, fact.step) != "lost"
    ]
    end = history.end
    if end is not None:
        outcome: str = end.outcome
    elif history.running:
        outcome = "running"
    else:
        outcome = "unfinished" if history.run_id else "not_started"
    return RunReport(
        name=history.resolved.run.name,
        run_id=history.run_id,
        outcome=outcome,
        detail=end.detail if end is not None else "",
        start_ns=history.start_ns,
        end_ns=history.end_ns,
        duration_s=history.duration_ns / NS_PER_S,
        steps_wanted=history.resolved.run.steps,
        steps_done=max(done, default=history.facts.resume_step),
        devices=len(history.devices),
    )


# --- incidents -------------------------------------------------------------------------------------------------------


def _incident(incident: Incident, history: History) -> IncidentReport:
    def since_fault(instant_ns: int | None) -> float | None:
        return _span_s(incident.fault_ns, instant_ns)

    return IncidentReport(
        fault=incident.what,
        detected_s=since_fault(incident.detected_ns),
        decided_s=since_fault(incident.decided_ns),
        restored_s=since_fault(incident.restored_ns),
        first_step_s=since_fault(incident.first_step_ns),
        lost_steps=incident.lost_steps,
        reason=_reason(incident, history),
        number=incident.number,
        fault_ns=incident.fault_ns,
        fault_at_s=(incident.fault_ns - history.start_ns) / NS_PER_S,
        evidence=incident.evidence,
        choices=tuple(decision.choice for decision in incident.decisions),
        lost_nodes=incident.lost_nodes,
        lost_workers=tuple(f"{group}/{rank}" for group, rank in incident.lost_workers),
        split=_split(incident),
        left_out=incident.left_out,
        rejoined_s=since_fault(incident.rejoined_ns),
    )


def _reason(incident: Incident, history: History) -> str:
    if incident.decisions:
        return incident.decisions[-1].reason
    return history.end.reason.text if history.end is not None else "no decision yet"


def _split(incident: Incident) -> IncidentSplit:
    decided_ns, forked_ns, restored_ns = incident.decided_ns, incident.forked_ns, incident.restored_ns
    way_ns = None
    if decided_ns is not None and restored_ns is not None:
        way_ns = restored_ns - (forked_ns if forked_ns is not None else decided_ns)
    told = bool(incident.phases)
    rendezvous_ns = _phases_ns(incident, "rendezvous", "comm_init") if told else None
    restore_ns = _phases_ns(incident, "restore", "reshard") if told else None
    other_ns = None if way_ns is None else max(0, way_ns - (rendezvous_ns or 0) - (restore_ns or 0))
    return IncidentSplit(
        detect_s=_span_s(incident.fault_ns, incident.detected_ns),
        decide_s=_span_s(incident.detected_ns, decided_ns),
        fork_s=_span_s(decided_ns, forked_ns),
        rendezvous_s=_span_s(0, rendezvous_ns),
        restore_s=_span_s(0, restore_ns),
        other_s=_span_s(0, other_ns),
        first_step_s=_span_s(restored_ns, incident.first_step_ns),
    )


def _span_s(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / NS_PER_S


def _phases_ns(incident: Incident, *leaves: Leaf) -> int:
    return sum(max(0, phase.end_ns - phase.start_ns) for phase in incident.phases if phase.leaf in leaves)


# --- pools and work --------------------------------------------------------------------------------------------------


def _pools(
    history: History,
    ledger: Ledger,
    rates: Mapping[PoolId, Peak],
    work: KeptWork,
    flops_each: Fraction,
    emulation: Mapping[str, str],
) -> dict[PoolId, PoolReport]:
    pool_of = pools_of_groups(history)
    reports: dict[PoolId, PoolReport] = {}
    for pool in history.resolved.fleet.pools:
        name = PoolId(pool.name)
        account: Account = ledger.pools[name]
        tokens = sum(count for group, count in work.tokens_by_group.items() if pool_of.get(group) == name)
        reports[name] = PoolReport(
            chip=pool.chip if isinstance(pool.chip, str) else pool.chip.id,
            devices=(pool.nodes + pool.spares) * pool.devices_per_node,
            peak=rates[name],
            emulated_cpu_fraction=pool.emulate.cpu_fraction if pool.emulate is not None else None,
            emulation=_emulation(history, name, emulation),
            capacity_device_ns=account.capacity_device_ns,
            leaves=account.leaves,
            tokens=tokens,
            compute=compute_of(account, rates[name], flops_each * tokens),
        )
    return reports


def _emulation(history: History, pool: PoolId, emulation: Mapping[str, str]) -> str:
    """What the pool's nodes say; usually all say the same."""
    told = {emulation.get(device.node, ""): None for device in history.devices if device.pool == pool}
    return "; ".join(text for text in told if text)


def _work(history: History, work: KeptWork, per_token: float, model_flops: float) -> WorkReport:
    durations: dict[int, float] = {}
    for fact in history.facts.steps:
        if history.lineage.fate(fact.completed.incarnation, fact.step) != "lost":
            durations[fact.step] = max(durations.get(fact.step, 0.0), fact.completed.duration_s)
    stepping_s = sum(durations.values())
    duration_s = history.duration_ns / NS_PER_S
    return WorkReport(
        steps_kept=work.steps,
        steps_lost=work.lost_steps,
        steps_provisional=work.provisional_steps,
        tokens=work.tokens,
        tokens_lost=work.lost_tokens,
        tokens_by_group=work.tokens_by_group,
        tokens_per_s=work.tokens / duration_s if duration_s > 0 else None,
        tokens_per_s_stepping=work.tokens / stepping_s if stepping_s > 0 else None,
        flops_per_token=per_token,
        model_flops=model_flops,
    )


def _loss(history: History) -> LossReport:
    losses: dict[Step, float] = {}
    for fact in history.facts.steps:
        done = fact.completed
        if done.tokens > 0 and history.lineage.fate(done.incarnation, fact.step) != "lost":
            losses[done.step] = done.loss_sum / done.tokens
    if not losses:
        return LossReport()
    curve = [(step, losses[step]) for step in sorted(losses)]
    return LossReport(
        first=curve[0][1], last=curve[-1][1], lowest=min(losses.values()), curve=_thinned(curve, CURVE_POINTS)
    )


def _thinned(curve: Sequence[tuple[Step, float]], limit: int) -> tuple[tuple[Step, float], ...]:
    if len(curve) <= limit:
        return tuple(curve)
    last = len(curve) - 1
    return tuple(curve[index * last // (limit - 1)] for index in range(limit))


# --- what to do about it ---------------------------------------------------------------------------------------------


def _fixes(
    ledger: Ledger, rates: Mapping[PoolId, Peak], model_flops: Fraction, effective: float | None
) -> tuple[Fix, ...]:
    """Every leaf that cost something, by what its absence would be worth; by device time where peaks are unknown."""
    total = ledger.total
    weights = {pool: rates[pool].rate_flops_per_s for pool in ledger.pools}
    fixes: list[Fix] = []
    for leaf, device_ns in total.leaves.items():
        if leaf == "useful_compute":
            continue
        better = None
        if effective is not None:
            left = sum(
                (
                    Fraction(weights[pool] or 0) * (account.capacity_device_ns - account.leaves.get(leaf, 0))
                    for pool, account in ledger.pools.items()
                ),
                Fraction(0),
            )
            better = float(model_flops * NS_PER_S / left) if left else None
        fixes.append(
            Fix(
                leaf=leaf,
                device_ns=device_ns,
                share=device_ns / total.capacity_device_ns,
                effective=better,
                gain=better - effective if better is not None and effective is not None else None,
                meant=leaf in MEANT,
            )
        )
    return tuple(sorted(fixes, key=lambda fix: (-(fix.gain or 0.0), -fix.device_ns)))


def first_to_fix(report: Report) -> Fix | None:
    """The leaf whose absence would be worth most, of those that nobody wanted."""
    return next((fix for fix in report.fixes if not fix.meant), None)


def _notes(history: History, ledger: Ledger, rates: Mapping[PoolId, Peak], factors: Factors) -> tuple[str, ...]:
    notes: list[str] = []
    unknown = [pool for pool, peak in rates.items() if peak.source == "unknown"]
    if unknown:
        notes.append(
            f"peak rate of pool {', '.join(unknown)} unknown, neither declared nor measured: "
            "what depends on it is unknown"
        )
    measured = [pool for pool, peak in rates.items() if peak.source == "measured"]
    if measured:
        notes.append(f"peak rate of pool {', '.join(measured)}: best matmul rate measured on its devices at the start")
    if factors.compute is not None and factors.compute > 1:
        notes.append("compute is above 1: the peak rate was measured too low, probably beside other work")
    capacity_ns = ledger.total.capacity_device_ns
    unattributed_ns = ledger.total.leaves.get("unattributed", 0)
    if capacity_ns and unattributed_ns > UNATTRIBUTED_TARGET * capacity_ns:
        notes.append(f"{unattributed_ns / capacity_ns:.1%} of capacity is unattributed: spans or records are missing")
    if history.intake.unknown_nodes:
        notes.append(f"not in the fleet file, so not accounted for: {', '.join(history.intake.unknown_nodes)}")
    return tuple(notes)
