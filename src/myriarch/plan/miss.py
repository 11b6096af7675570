"""A model that fits nowhere: what came nearest, and what would make it fit."""

from __future__ import annotations

import dataclasses
from typing import Final

from myriarch.cost.memory import CONTEXT_BYTES, Memory, memory
from myriarch.cost.split import Split
from myriarch.plan.block import Block
from myriarch.plan.space import Mesh, Space
from myriarch.plan.tables import Question, Tables

DOUBLINGS: Final = 10
"""Of the devices, that are tried to find how many would do."""
GB: Final = 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Miss:
    """Why nothing fits. Without `split` there is not even a mesh that the rules allow."""

    split: Split | None
    """The split that needs the least memory."""
    memory: Memory | None
    """Of its fullest device, by kind."""
    needed_bytes: float | None
    """By that device, the driver's part included."""
    excess_bytes: float | None
    """What it lacks."""
    devices_needed: int | None
    """So many, a power of two times as many as asked for, hold the model; None: more of the same do not help."""
    text: str
    """What is too large, and what would make it fit."""


def nearest_miss(question: Question, space: Space, *, devices: int, whole: bool, nearest: Split | None) -> Miss:
    """`nearest`: the split that needs the least, None where the rules allow none."""
    enough = _enough(question, space, devices=devices, whole=whole)
    if nearest is None:
        return Miss(
            split=None,
            memory=None,
            needed_bytes=None,
            excess_bytes=None,
            devices_needed=enough,
            text=_no_mesh(devices, question.batch, enough, whole=whole),
        )
    held = memory(question.decoder, split=nearest, software=question.software)
    needed = float(held.total_bytes) + CONTEXT_BYTES
    excess = needed - float(question.machine.memory_bytes)
    return Miss(
        split=nearest,
        memory=held,
        needed_bytes=needed,
        excess_bytes=excess,
        devices_needed=enough,
        text=_text(held, needed, excess, enough),
    )


def _enough(question: Question, space: Space, *, devices: int, whole: bool) -> int | None:
    """Doubled devices until something fits. Meshes that have most of the axes that shard a model come first."""
    for doubling in range(1, DOUBLINGS + 1):
        number = devices << doubling
        meshes, _ = space.meshes(
            question.decoder,
            devices=number,
            whole=whole,
            domain=int(question.machine.link_domain_devices),
            batch=question.batch,
            sequence=question.sequence,
        )
        if any(_fits(question, space, mesh) for mesh in sorted(meshes, key=lambda mesh: -mesh.tp * mesh.pp * mesh.ep)):
            return number
    return None


def _fits(question: Question, space: Space, mesh: Mesh) -> bool:
    sizes = space.micro_batches(question.batch, mesh.dp)[:1]  # a smaller micro-batch never needs more memory
    if not sizes:
        return False
    tables = Tables.of(question, layer_axes=(mesh.layer_axes,), micro_batches=sizes)
    smallest = dataclasses.replace(space, micro_batch=sizes)
    needed = Block.of(question, smallest, tables, mesh).bytes()
    return bool((needed <= question.machine.memory_bytes).any())


def _no_mesh(devices: int, batch: int, enough: int | None, *, whole: bool) -> str:
    words = f"no split of {devices} devices divides the model and its batch of {batch} sequences"
    if whole:
        words += "; let some devices stay idle, or change the batch"
    return words + (f"; {enough} devices can be split" if enough else "")


def _text(held: Memory, needed: float, excess: float, enough: int | None) -> str:
    kinds: dict[str, float] = {
        "weights": float(held.weights_bytes),
        "gradients": float(held.gradients_bytes),
        "optimizer": float(held.optimizer_bytes),
        "activations": float(held.activations_bytes + held.fragments_bytes),
        "logits": float(held.logits_bytes),
        "workspace": float(held.workspace_bytes),
        "driver and libraries": CONTEXT_BYTES,
    }
    named = ", ".join(f"{name} {size / GB:.1f}" for name, size in sorted(kinds.items(), key=lambda kind: -kind[1]))
    more = f"{enough} devices hold it" if enough else "more devices of the kind do not help"
    return (
        f"the smallest split needs {needed / GB:.1f} GB of a device, {excess / GB:.1f} GB more than it has"
        f" (in GB: {named}); {more}, and so do devices of {needed / GB:.0f} GB"
    )
