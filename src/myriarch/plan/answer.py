"""What `myriarch plan` answers: every number with its unit in its name, every choice with its reason."""

from __future__ import annotations

from typing import Literal

import msgspec

from myriarch.event.base import Value
from myriarch.plan.goal import Aim
from myriarch.plan.search import Counts

SCHEMA = "myriarch.plan/1"


class Question(Value, frozen=True, kw_only=True):
    """What was asked, with every default filled in."""

    model: str
    parameters: float
    active_parameters: float
    fleet: str
    devices: int
    """Of the fleet, spares not counted."""
    tokens: float
    batch_sequences: int
    sequence_tokens: int
    software: str
    precisions: tuple[str, ...]
    """That plans may use."""
    objective: Aim
    deadline_days: float | None = None
    budget: float | None = None
    currency: str = ""
    assumed: tuple[str, ...] = ()
    """What was not said, and what was taken instead."""


class Layout(Value, frozen=True, kw_only=True):
    """How one group's devices divide its work: the axes of the mesh, and what one mesh can still choose."""

    tp: int
    pp: int
    dp: int
    cp: int
    ep: int
    expert_tp: int
    schedule: Literal["none", "1f1b", "interleaved", "zero-bubble"]
    virtual: int
    """Model chunks of a stage."""
    zero_stage: int
    shard: int
    """Devices over which ZeRO shards."""
    sequence_parallel: bool
    micro_batch: int
    """Sequences."""
    micro_batches: int
    """Of each replica and step."""
    recompute: Literal["none", "selective", "full", "some layers"]
    recomputed_share: float
    """Of the layers, computed anew in full."""
    precision: str
    narrow_share: float
    """Share of the layers' products in that precision; the rest are in 16 bits."""
    offload_optimizer: float = 0.0
    """Share of the optimizer's states in host memory."""
    offload_activations: float = 0.0
    stage_layers: tuple[int, ...] = ()
    """Of a pipeline over two pools, where they are uneven."""
    stage_pools: tuple[str, ...] = ()


class StageMemory(Value, frozen=True, kw_only=True):
    """Bytes of a device of one pipeline stage, by kind."""

    stage: int
    total_bytes: float
    """With the driver's part."""
    by_kind: dict[str, float]


class Group(Value, frozen=True, kw_only=True):
    """The devices of one kind at work, or of two pools with one pipeline."""

    pools: tuple[str, ...]
    chips: tuple[str, ...]
    """With their label where their numbers are doubtful."""
    devices: int
    layout: Layout
    sequences: int
    """Its share of the batch."""
    step_s: float
    """Its own, without the bridge."""
    slack_s: float
    """It waits so long for the slowest group."""
    breakdown_s: dict[str, float]
    """Seconds of its step by what the devices do; sums to `step_s`. Empty for a pipeline over two pools."""
    memory_bytes: float
    """Of the fullest device, with the driver's part."""
    capacity_bytes: float
    """That a device has."""
    memory: tuple[StageMemory, ...]
    mfu: float
    hfu: float
    doubts: tuple[str, ...] = ()
    """Numbers of its chips that nobody vouches for."""


class Averaging(Value, frozen=True, kw_only=True):
    """How groups keep one model."""

    mode: str
    every_steps: int
    label: str
    exposed_s: float
    """Seconds that it adds to a step."""
    quality: str
    """What it is known to cost in loss."""
    alternative: str = ""
    """The next best, and its price."""


class Saves(Value, frozen=True, kw_only=True):
    """A tier of checkpoints that pays."""

    tier: str
    every_s: float


class EffectiveCompute(Value, frozen=True, kw_only=True):
    """The four factors, expected; their product is `effective`. Peaks are those of the precision in use: of 8-bit plans
    `compute` is less than the MFU, which is counted against 16 bits as is usual."""

    availability: float
    scheduling: float
    fault_handling: float
    compute: float
    effective: float
    mtbf_s: float
    """Between two failures of the run."""
    recover_s: float
    """From a failure to the restored state, on average; lost steps come on top."""
    spare_nodes: int
    saves: tuple[Saves, ...]


class Evidence(Value, frozen=True, kw_only=True):
    """How far measurements reach."""

    grade: str
    """A (measured next to it) to E (guess); docs/performance-model.md."""
    reasons: tuple[str, ...]
    nearest: tuple[str, ...] = ()
    """Published runs most like it."""


class Money(Value, frozen=True, kw_only=True):
    """An amount in one currency; amounts in two have no sum."""

    amount: float
    currency: str
    what: str


class Answered(Value, frozen=True, kw_only=True):
    """One plan."""

    rank: int
    groups: tuple[Group, ...]
    averaging: Averaging | None
    devices: int
    """At work."""
    step_s: float
    step_interval80_s: tuple[float, float]
    """Four of five such predictions lie within; docs/performance-model.md."""
    tokens_per_s: float
    mfu: float
    """Model FLOPs over the peaks of all devices at work, 16 bits."""
    hfu: float
    steps: int
    days: float
    """To the last token, failures included."""
    days_interval80: tuple[float, float]
    device_hours: float
    energy_kwh: float | None
    """At the site's meter; None where a device's power is not known."""
    money: tuple[Money, ...]
    carbon_kg: float | None
    """CO2; None where the grid is not known."""
    effective: EffectiveCompute
    evidence: Evidence
    meets: bool
    """Deadline and budget, where there are any."""
    why: tuple[str, ...]
    why_not_next: str
    """What the plan behind it does otherwise, and what that costs; empty behind the last."""


class Left(Value, frozen=True, kw_only=True):
    """A pool that no group works on, and why."""

    pool: str
    reason: str


class NearestMiss(Value, frozen=True, kw_only=True):
    """What came nearest to fitting."""

    needed_bytes: float | None
    excess_bytes: float | None
    devices_needed: int | None
    text: str


class Answer(Value, frozen=True, kw_only=True):
    """Everything `myriarch plan` says."""

    schema: str = SCHEMA
    question: Question
    plans: tuple[Answered, ...]
    """Best first."""
    left_out: tuple[Left, ...] = ()
    counts: Counts | None = None
    """Of the search of one pool."""
    forbidden: dict[str, int] = msgspec.field(default_factory=dict)
    """How often which rule forbade a mesh."""
    miss: NearestMiss | None = None
    """Where nothing fits."""
    target_missed: str = ""
    """Why no plan keeps the deadline or the budget, and the best there is."""
    notes: tuple[str, ...] = ()
