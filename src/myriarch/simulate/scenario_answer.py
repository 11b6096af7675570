"""What came of a scenario: what programs read, tables are drawn from, and run directories keep.

Unknown is None, never zero. Nothing in it depends on the machine that worked it out or on the time that took: equal
scenario, seed and version give equal bytes.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from myriarch.account.factors import Factors
from myriarch.event.base import Value
from myriarch.event.spans import Leaf
from myriarch.simulate.cluster_outcome import ClusterSummary
from myriarch.simulate.scenario_faults import FaultIntake
from myriarch.simulate.scenario_jobs import Intake
from myriarch.simulate.scenario_waits import WaitsPart

SCHEMA: Final = "myriarch.simulate/1"
SWEEP_SCHEMA: Final = "myriarch.sweep/1"
REFUSED_SHOWN: Final = 50
"""Of jobs that were refused, so many are listed; all are counted."""

ScenarioKind = Literal["jobs", "training", "run"]


class Bill(Value, frozen=True, kw_only=True):
    """Energy, what it emits, and money by currency. None: nobody said what a device draws, or the grid emits."""

    energy_kwh: float | None = None
    """At the meter of the sites."""
    carbon_kg: float | None = None
    money: dict[str, float] = msgspec.field(default_factory=dict)
    """Rent or depreciation by device-hour, and energy by its price at that hour; by currency, where known."""


class JobsOf(Value, frozen=True, kw_only=True):
    """Of all jobs, or those of one tenant, kind or pool."""

    jobs: int
    ended: int
    refused: int = 0
    held_device_hours: float
    summary: ClusterSummary | None
    """Of those that ended; None when there are none."""
    bill: Bill
    """Of the devices they held."""


class Refused(Value, frozen=True, kw_only=True):
    """A job that could never start, however long it waited."""

    job: str
    reason: str


class LentPart(Value, frozen=True, kw_only=True):
    """A pool whose services lend."""

    kept_device_hours: float
    """That services had while there were jobs; in the ledger, idle on purpose."""
    lent_device_hours: float
    """That those jobs held which ran there last."""
    short_device_hours: float
    """That services needed and did not have, for a fault had taken them."""
    asked_back_nodes: int
    """How often a node was taken back."""
    stopped: int
    """Jobs that had to stop or move for it."""
    shrunk: int
    """Jobs that went on with fewer devices."""


class JobsPart(Value, frozen=True, kw_only=True):
    """What a scheduler made of many jobs."""

    policy: str
    placement: str
    all: JobsOf
    tenants: dict[str, JobsOf]
    kinds: dict[str, JobsOf]
    pools: dict[str, JobsOf]
    """Where they ran; a job that ran on two counts in both, with what it held there."""
    refused: tuple[Refused, ...] = ()
    """The first of them."""
    utilisation: float
    """Share of the device-time of all devices that jobs held."""
    fragmented: float
    """Share that was free and enough for the first in the queue, but scattered, or held for another."""
    fairness: float | None
    """Jain's index of the tenants' service over demand, 1/n..1; None without tenants that asked for anything."""
    finish_time_fairness_p95: float | None
    """Of rho (Themis): above 1 a job was worse off than on a share of the fleet of its own."""
    waiting_mean: float
    """Jobs in the queue, averaged over time."""
    waiting_most: int
    events: int
    decisions_digest: str
    """Of all decisions with their reasons, in order."""
    power_w_most: float | None = None
    """What all devices together drew at most, at the plug; None: unknown."""
    lending: dict[str, LentPart] = msgspec.field(default_factory=dict)
    """By pool that lends."""
    waits: WaitsPart | None = None
    """What jobs would have been told of their wait; None: the scenario did not ask (`forecasts`)."""


class TrainingPart(Value, frozen=True, kw_only=True):
    """What became of one training on all of a fleet."""

    ended: str
    """`until`: its time was over; else how it ended."""
    devices: int
    """That it works on when it is whole."""
    groups: int
    steps: int
    """Kept."""
    lost_steps: int
    step_s: float
    effective_time: float
    """Share of the allocated device time in kept steps: effective training time."""
    progress: float
    """Kept steps over those of a job that nothing disturbs."""
    mtbf_s: float | None
    """Between interruptions; None: there was none."""
    interruptions: int
    breakdowns: int
    """That hit a node which was there."""
    choices: dict[str, int]
    """What was decided, how often."""
    tiers: dict[str, int]
    """Where the state came from, how often."""
    decisions_digest: str


class RunPart(Value, frozen=True, kw_only=True):
    """What became of a run file's run; its report has more."""

    outcome: str
    """`EndRun.outcome`, or `unfinished`."""
    detail: str
    steps_done: int
    steps_wanted: int
    steps_lost: int
    """Completed and lost: done once more."""
    tokens: int
    incidents: int
    recovery_s_mean: float | None
    """From a fault to the next completed step."""
    control_digest: str
    """Of the control's state at the end."""


class PoolPart(Value, frozen=True, kw_only=True):
    """One pool."""

    chip: str
    devices: int
    """Spares counted."""
    capacity_device_ns: int
    leaves: dict[Leaf, int]


class Answer(Value, frozen=True, kw_only=True):
    """What came of one scenario with one seed."""

    schema: str = SCHEMA
    scenario: str
    """Its name."""
    kind: ScenarioKind
    seed: int
    digest: str
    """Of the scenario with all it names, and of the version: equal digests, equal answers."""
    duration_s: float
    """Virtual time."""
    capacity_device_ns: int
    leaves: dict[Leaf, int]
    """All leaves in the order of their levels; they sum to the capacity exactly."""
    factors: Factors
    effective: float | None
    """None: nobody said what share of the peak kept time becomes (`workload.mfu`)."""
    pools: dict[str, PoolPart]
    bill: Bill
    """Of all devices, used or not."""
    jobs: JobsPart | None = None
    intake: Intake | None = None
    faults: FaultIntake | None = None
    """None: nothing goes wrong, or the run file says what."""
    training: TrainingPart | None = None
    run: RunPart | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the numbers has to know."""
    files: dict[str, str] = msgspec.field(default_factory=dict)


METRICS: Final[dict[str, str]] = {
    "effective": "higher",
    "availability": "higher",
    "scheduling": "higher",
    "fault_handling": "higher",
    "wait_s_mean": "lower",
    "wait_s_p95": "lower",
    "completion_s_mean": "lower",
    "completion_s_p95": "lower",
    "slowdown_mean": "lower",
    "slowdown_p95": "lower",
    "utilisation": "higher",
    "fragmented": "lower",
    "fairness": "higher",
    "finish_time_fairness_p95": "lower",
    "restarts": "lower",
    "lost_hours": "lower",
    "deadlines_missed": "lower",
    "ended": "higher",
    "duration_s": "lower",
    "energy_kwh": "lower",
    "carbon_kg": "lower",
    "effective_time": "higher",
    "progress": "higher",
    "steps": "higher",
    "mtbf_s": "higher",
    "interruptions": "lower",
    "lost_steps": "lower",
    "steps_done": "higher",
    "steps_lost": "lower",
    "incidents": "lower",
    "recovery_s_mean": "lower",
}
"""What a sweep compares, and which is better. Money is added, by currency: `money USD`."""


def metrics_of(answer: Answer) -> dict[str, float]:
    """The numbers of an answer by name; those that are unknown are left out."""
    found: dict[str, Any] = {
        "effective": answer.effective,
        **msgspec.structs.asdict(answer.factors),
        "duration_s": answer.duration_s,
        "energy_kwh": answer.bill.energy_kwh,
        "carbon_kg": answer.bill.carbon_kg,
    }
    if answer.jobs is not None:
        found |= msgspec.structs.asdict(answer.jobs) | msgspec.structs.asdict(answer.jobs.all)
        if answer.jobs.all.summary is not None:
            found |= msgspec.structs.asdict(answer.jobs.all.summary)
    if answer.training is not None:
        found |= msgspec.structs.asdict(answer.training)
    if answer.run is not None:
        found |= msgspec.structs.asdict(answer.run)
    known = {name: float(value) for name in METRICS if isinstance(value := found.get(name), (int, float))}
    return known | {f"money {currency}": amount for currency, amount in answer.bill.money.items()}
