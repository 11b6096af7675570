"""The best split for each number of devices and variant, from the search over the modelled space."""

from __future__ import annotations

import dataclasses

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.parameters import Parameters
from myriarch.cost.silicon import machine
from myriarch.cost.software import level
from myriarch.cost.split import Machine, Software
from myriarch.plan.countermeasures import Best, Outcome, Variant
from myriarch.plan.search import Plan, search
from myriarch.plan.space import Space
from myriarch.spec.fleet import Chip

EXPOSED = ("tp_s", "pp_s", "cp_s", "ep_s", "dp_s")


def searched(
    decoder: Decoder,
    *,
    chip: Chip,
    batch_tokens: float,
    sequence: int,
    software: Software | None = None,
    parameters: Parameters = CALIBRATED["all"],
) -> Best:
    """`Best` of one model on one chip. The batch is the largest power of two of sequences within `batch_tokens`.

    `software`: with overlap; without, its collectives of tensor, data, expert and pipeline parallelism are all exposed.
    """
    full = software or level("nemo")
    exposed = dataclasses.replace(full, tp_overlap=0.0, dp_overlap=0.0, ep_overlap=0.0, pp_overlap=0.0)

    def best(devices: int, variant: Variant) -> Outcome | None:
        batch = batch_sequences(batch_tokens * variant.batch, sequence=sequence)
        precisions = ("bf16", "fp8") if variant.narrow and _has_narrow(chip) else ("bf16",)
        found = search(
            decoder,
            machines={name: _machine(chip, name, variant.network) for name in precisions},
            devices=devices,
            batch=batch,
            sequence=sequence,
            software=full if variant.overlap else exposed,
            parameters=parameters,
            space=_space(variant),
            top=1,
        )
        if found.best is None:
            return None
        return _outcome(found.best, flops=float(decoder.flops_per_token(sequence)) * batch * sequence)

    return best


def batch_sequences(batch_tokens: float, *, sequence: int) -> int:
    """The largest power of two of sequences that holds no more tokens; one at least."""
    return 1 << max(int(batch_tokens // sequence).bit_length() - 1, 0)


def _space(variant: Variant) -> Space:
    space = Space(micro_batch=(1, 2, 4), zero_stage=(1, 3))
    if not variant.schedules:
        space = dataclasses.replace(space, virtual=(1,), zero_bubble=(False,))
    return space


def _machine(chip: Chip, precision: str, network: float) -> Machine:
    usual = machine(chip, precision=precision)
    return dataclasses.replace(usual, network_bandwidth_bytes_per_s=usual.network_bandwidth_bytes_per_s * network)


def _has_narrow(chip: Chip) -> bool:
    return "fp8" in chip.rate_flops_per_s or "fp8" in chip.matmul_measured_flops_per_s


def _outcome(plan: Plan, *, flops: float) -> Outcome:
    step_s = plan.step_s
    exposed_s = sum(float(getattr(plan.step, name)) for name in EXPOSED)
    return Outcome(
        step_s=step_s,
        mfu=flops / (step_s * plan.devices * float(plan.machine.peak_flops_per_s)),
        split=_told(plan),
        state_bytes=float(plan.memory.weights_bytes + plan.memory.optimizer_bytes),
        exposed_share=exposed_s / step_s,
        bubble_share=float(plan.step.bubble_s) / step_s,
    )


def _told(plan: Plan) -> str:
    """`tp 8, pp 16 x 2, dp 128, fp8`."""
    split = plan.split
    axes = [f"{name} {int(getattr(split, name))}" for name in ("tp", "cp", "ep", "dp") if getattr(split, name) > 1]
    if split.pp > 1:
        chunks = f" x {int(split.virtual)}" if split.virtual > 1 else ", zero-bubble" if split.zero_bubble else ""
        axes.insert(1 if split.tp > 1 else 0, f"pp {int(split.pp)}{chunks}")
    return ", ".join([*axes, plan.precision])
