"""The least memory that a mesh can do with; and of a model that fits nowhere, what came nearest and would make it fit.

Of all plans of a mesh, one of three needs the least memory (`leanest`):

- The smallest micro-batch. What a stage keeps is its layers times min(depth b, batch / dp) times what a sequence keeps,
  for micro-batches of b sequences: it does not fall when b grows. Logits grow with b.
- The fewest chunks: 1 + (pp - 1)/(pp v) is 1 without interleaving, and more with it.
- The highest stage of ZeRO over all replicas: each stage shards what the one before does and more, and a larger group
  leaves less to each. ZeRO-3's workspace is that of the others.
- With a share x of the layers recomputed everything is a line in x, so the least lies at an end of what is allowed; and
  selective recomputation is a case of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.memory import CONTEXT_BYTES, Memory, fullest_stages, memory, peak_bytes
from myriarch.cost.split import Split
from myriarch.plan.space import Mesh, Space
from myriarch.plan.tables import Question

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


@dataclasses.dataclass(frozen=True)
class Leanest:
    """The plan of each mesh that needs the least memory. Arrays have one entry for each mesh."""

    split: Split
    bytes: Array
    """Of the fullest device, the driver's part included; infinite where the mesh has no plan."""


def leanest(question: Question, space: Space, meshes: Sequence[Mesh]) -> Leanest:
    """All meshes at once."""
    axes = np.array([dataclasses.astuple(mesh) for mesh in meshes], dtype=np.float64).T[:, :, None, None, None]
    tp, cp, pp, dp, ep, expert_tp = axes
    chosen = np.array([_chosen(question, space, mesh) for mesh in meshes], dtype=np.float64)
    micro_batch, virtual, zero_stage, least, most, selective, possible = chosen.T[:, :, None, None, None]
    share, narrow_bytes = question.narrow
    zero = np.zeros_like(least)
    split = Split(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        ep=ep,
        expert_tp=expert_tp,
        virtual=virtual,
        zero_stage=zero_stage,
        batch=float(question.batch),
        micro_batch=micro_batch,
        sequence=float(question.sequence),
        sequence_parallel=np.array([float(max(space.parallel(mesh.tp))) for mesh in meshes])[:, None, None, None],
        recompute=np.concatenate([least, most, (1.0 - selective) * least], axis=1),
        selective=np.concatenate([zero, zero, selective], axis=1),
        narrow_share=share,
        narrow_bytes=narrow_bytes,
    )
    stages = fullest_stages(question.decoder, split=split, software=question.software)
    shape = (len(meshes), 3, 1, len(share))
    needed = np.broadcast_to(peak_bytes(stages), shape).reshape(len(meshes), -1) + CONTEXT_BYTES
    best = np.argmin(needed, axis=1)
    rows = np.arange(len(meshes))
    taken = {
        field.name: np.broadcast_to(getattr(split, field.name), shape).reshape(len(meshes), -1)[rows, best]
        for field in dataclasses.fields(Split)
    }
    return Leanest(Split(**taken), np.where(possible.ravel() > 0, needed[rows, best], np.inf))


def _chosen(question: Question, space: Space, mesh: Mesh) -> tuple[float, float, float, float, float, float, bool]:
    """Micro-batch, chunks, ZeRO stage, least and most recomputed, whether selectively, whether there is a plan."""
    layers = -(-int(question.decoder.layers) // mesh.pp)
    chunks = [virtual for virtual, _ in space.schedules(layers, mesh.pp)]
    plain = 1 in chunks
    sizes = [
        size
        for size in space.micro_batches(question.batch, mesh.dp)
        if plain or (question.batch // (mesh.dp * size)) % mesh.pp == 0
    ]
    recomputed = space.recomputed(layers)
    full = [share for share, selective in recomputed if not selective]
    some = len(full) < len(recomputed)
    stage = max(stage for stage, _ in space.shardings(mesh, experts=bool(question.decoder.experts)))
    possible = bool(sizes and chunks and recomputed)
    least, most = (min(full), max(full)) if full else (0.0, 0.0)
    return (
        float(min(sizes, default=1)),
        1.0 if plain else float(max(chunks, default=1)),
        float(stage),
        least,
        most,
        float(some),
        possible,
    )


def nearest_miss(
    question: Question, space: Space, *, devices: int, whole: bool, meshes: Sequence[Mesh], lean: Leanest | None
) -> Miss:
    """`lean` of all `meshes`, of which none has a plan that fits."""
    enough = _enough(question, space, devices=devices, whole=whole)
    if lean is None or not np.isfinite(lean.bytes).any():
        return Miss(
            split=None,
            memory=None,
            needed_bytes=None,
            excess_bytes=None,
            devices_needed=enough,
            text=_no_mesh(devices, question.batch, enough, whole=whole),
        )
    best = int(np.argmin(lean.bytes))
    values = {field.name: float(getattr(lean.split, field.name)[best]) for field in dataclasses.fields(Split)}
    split, needed = Split(**values), float(lean.bytes[best])
    held = memory(question.decoder, split=split, software=question.software)
    excess = needed - float(question.machine.memory_bytes)
    return Miss(
        split=split,
        memory=held,
        needed_bytes=needed,
        excess_bytes=excess,
        devices_needed=enough,
        text=_text(held, needed, excess, enough),
    )


def _enough(question: Question, space: Space, *, devices: int, whole: bool) -> int | None:
    """Doubled devices until something fits."""
    for doubling in range(1, DOUBLINGS + 1):
        meshes, _ = space.meshes(
            question.decoder,
            devices=devices << doubling,
            whole=whole,
            domain=int(question.machine.link_domain_devices),
            batch=question.batch,
            sequence=question.sequence,
        )
        if meshes and bool((leanest(question, space, meshes).bytes <= question.machine.memory_bytes).any()):
            return devices << doubling
    return None


def _no_mesh(devices: int, batch: int, enough: int | None, *, whole: bool) -> str:
    words = f"no split of {devices} devices divides the model and its batch of {batch} sequences"
    if whole:
        words += "; let some devices stay idle, or change the batch"
    return words + (f"; {enough} devices can be split, and hold the model" if enough else "")


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
        f" (in GB: {named}); {more}; so would devices of {np.ceil(needed / GB):.0f} GB"
    )
