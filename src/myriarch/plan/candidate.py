"""Plans of the one search and of the other in one form, before they are priced."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal, get_args

from myriarch.cost.memory import Memory
from myriarch.cost.split import Machine, Split
from myriarch.cost.step import StepTime
from myriarch.plan.answer import Averaging, Group, Layout, StageMemory
from myriarch.spec.catalogue import chip_of, described
from myriarch.spec.fleet import Pool, Precision

KINDS: Final = ("weights", "gradients", "optimizer", "activations", "logits", "workspace", "fragments")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worked:
    """One group of a plan, and what the formulas say of it."""

    pools: tuple[Pool, ...]
    machines: tuple[Machine, ...]
    """Of the pools; their memory is what a plan may fill."""
    used: tuple[int, ...]
    """Devices at work, of each pool."""
    split: Split
    precision: str
    sequences: int
    step_s: float
    slack_s: float
    step: StepTime | None
    """None for a pipeline over two pools, whose parts are not told apart."""
    stages: tuple[Memory, ...]
    """Of a device of each stage; of a pipeline over two pools empty."""
    memory_bytes: float
    """Of the fullest device, with the driver's part."""
    stage_layers: tuple[int, ...] = ()
    stage_pools: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        return sum(self.used)

    @property
    def peak_flops_per_s(self) -> float:
        """Of all its devices, 16 bits."""
        return sum(
            number * float(machine.peak_flops_per_s) for number, machine in zip(self.used, self.machines, strict=True)
        )

    @property
    def job_peak_flops_per_s(self) -> float:
        """Of all its devices, in the precision that its products use."""
        rates = [
            chip_of(pool).rate_flops_per_s.get(_named(self.precision), float(machine.peak_flops_per_s))
            if self.precision in ("fp8", "fp4") and float(self.split.narrow_share) > 0
            else float(machine.peak_flops_per_s)
            for pool, machine in zip(self.pools, self.machines, strict=True)
        ]
        return sum(number * rate for number, rate in zip(self.used, rates, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan that can be trained."""

    groups: tuple[Worked, ...]
    step_s: float
    averaging: Averaging | None
    judged: float
    """What the search compared it by: the less the better."""
    why: tuple[str, ...]
    why_not_next: str

    @property
    def devices(self) -> int:
        return sum(group.devices for group in self.groups)

    @property
    def peak_flops_per_s(self) -> float:
        return sum(group.peak_flops_per_s for group in self.groups)


def _named(precision: str) -> Precision:
    known: tuple[Precision, ...] = get_args(Precision)
    return next(name for name in known if name == precision)


def shown(group: Worked, *, flops: float, repeated_flops: float, headroom: float) -> Group:
    """The group as the answer has it. `flops`: model FLOPs of its share of a step; `repeated_flops`: of its share, a
    second time. `headroom`: share of a device's memory that plans leave free."""
    capacity = min(float(machine.memory_bytes) for machine in group.machines) / (1.0 - headroom)
    rate = group.step_s * group.peak_flops_per_s
    return Group(
        pools=tuple(pool.name for pool in group.pools),
        chips=tuple(described(chip_of(pool)) for pool in group.pools),
        devices=group.devices,
        layout=layout(group),
        sequences=group.sequences,
        step_s=group.step_s,
        slack_s=group.slack_s,
        breakdown_s=_breakdown(group.step),
        memory_bytes=group.memory_bytes,
        capacity_bytes=capacity,
        memory=tuple(_stage(index, each) for index, each in enumerate(group.stages)),
        mfu=flops / rate,
        hfu=(flops + repeated_flops) / rate,
        doubts=group.doubts,
    )


def layout(group: Worked) -> Layout:
    """The axes of a group's split, as whole numbers and words."""
    s = group.split
    share = float(s.recompute)
    return Layout(
        tp=int(s.tp),
        pp=int(s.pp),
        dp=int(s.dp),
        cp=int(s.cp),
        ep=int(s.ep),
        expert_tp=int(s.expert_tp),
        schedule=_schedule(s),
        virtual=int(s.virtual),
        zero_stage=int(s.zero_stage),
        shard=int(s.sharded_over) if int(s.zero_stage) else 1,
        sequence_parallel=bool(s.sequence_parallel),
        micro_batch=int(s.micro_batch),
        micro_batches=round(float(s.micro_batches)),
        recompute="full" if share == 1 else "some layers" if share > 0 else "selective" if s.selective else "none",
        recomputed_share=share,
        precision=group.precision,
        narrow_share=float(s.narrow_share),
        offload_optimizer=float(s.offload_optimizer),
        offload_activations=float(s.offload_activations),
        stage_layers=group.stage_layers,
        stage_pools=group.stage_pools,
    )


def _schedule(split: Split) -> Literal["none", "1f1b", "interleaved", "zero-bubble"]:
    if int(split.pp) == 1:
        return "none"
    if split.zero_bubble:
        return "zero-bubble"
    return "interleaved" if int(split.virtual) > 1 else "1f1b"


def _breakdown(step: StepTime | None) -> dict[str, float]:
    if step is None:
        return {}
    return {field.name.removesuffix("_s"): float(getattr(step, field.name)) for field in dataclasses.fields(StepTime)}


def _stage(index: int, memory: Memory) -> StageMemory:
    kinds = {kind: float(getattr(memory, f"{kind}_bytes")) for kind in KINDS}
    return StageMemory(
        stage=index,
        total_bytes=float(memory.device_bytes),
        by_kind={**kinds, "driver": float(memory.context_bytes)},
    )
