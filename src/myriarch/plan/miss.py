"""The least memory that a mesh can do with; and of a model that fits nowhere, what came nearest and would make it fit.

Of all plans of a mesh, one of three needs the least memory (`leanest`):

- The smallest micro-batch. What a stage keeps is its layers times min(depth b, batch / dp) times what a sequence keeps,
  for micro-batches of b sequences: it does not fall when b grows. Logits grow with b.
- The fewest chunks: 1 + (pp - 1)/(pp v) is 1 without interleaving, and more with it.
- The highest stage of ZeRO over all replicas: each stage shards what the one before does and more, and a larger group
  leaves less to each. ZeRO-3's workspace is that of the others.
- With a share x of the layers recomputed everything is a line in x, so the least lies at an end of what is allowed; and
  selective recomputation is a case of its own. So is each share that may be offloaded; all of the above takes least of
  the host's memory, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.memory import Memory, fullest_stages, memory, peak_bytes, peak_host_bytes
from myriarch.cost.offload import fits_host
from myriarch.cost.split import Split
from myriarch.plan.space import Mesh, Space
from myriarch.plan.tables import Question

DOUBLINGS: Final = 10
"""Of the devices, that are tried to find how many would do."""
OFFLOADED: Final = (0.0, 0.5, 1.0)
"""Shares that are tried to find whether offload would do."""
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
    offload_helps: bool
    """With the optimizer's states or activations in the host's memory it would fit."""
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
    """All meshes at once. Axes: mesh, what is kept, offloaded share of the optimizer's states, precision."""
    sizes = [(mesh.tp, mesh.cp, mesh.pp, mesh.dp, mesh.ep, mesh.expert_tp) for mesh in meshes]
    tp, cp, pp, dp, ep, expert_tp = np.array(sizes, dtype=np.float64).T[:, :, None, None, None]
    chosen = [_chosen(question, space, mesh) for mesh in meshes]
    micro_batch, virtual, zero_stage, parallel = np.array([each.axes for each in chosen]).T[:, :, None, None, None]
    full, selective, offloaded = np.array([each.kept for each in chosen]).transpose(2, 0, 1)[..., None, None]
    share, narrow_bytes = question.narrow
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
        sequence_parallel=parallel,
        recompute=full,
        selective=selective,
        offload_activations=offloaded,
        offload_optimizer=np.array(space.offloaded[0])[:, None],
        narrow_share=share,
        narrow_bytes=narrow_bytes,
    )
    stages = fullest_stages(question.decoder, split=split, software=question.software)
    held = (fits_host(peak_host_bytes(stages), question.machine) > 0) & np.array(
        [each.possible for each in chosen]
    ).reshape(-1, 1, 1, 1)
    shape = np.broadcast_shapes(np.shape(full), np.shape(split.offload_optimizer), np.shape(share))
    needed = np.broadcast_to(np.where(held, peak_bytes(stages), np.inf), shape).reshape(len(meshes), -1)
    best = np.argmin(needed, axis=1)
    rows = np.arange(len(meshes))
    taken = {
        field.name: np.broadcast_to(getattr(split, field.name), shape).reshape(len(meshes), -1)[rows, best]
        for field in dataclasses.fields(Split)
    }
    return Leanest(Split(**taken), needed[rows, best])


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What one mesh has at its disposal for the least memory."""

    axes: tuple[float, float, float, float]
    """Micro-batch, chunks, ZeRO stage, sequence parallelism."""
    kept: tuple[tuple[float, float, float], ...]
    """Ends of what `Space.kept` allows; as many for every mesh."""
    possible: bool
    """Whether it has a plan at all."""


def _chosen(question: Question, space: Space, mesh: Mesh) -> _Chosen:
    layers = -(-int(question.decoder.layers) // mesh.pp)
    chunks = [virtual for virtual, _ in space.schedules(layers, mesh.pp)]
    plain = 1 in chunks
    sizes = [
        size
        for size in space.micro_batches(question.batch, mesh.dp)
        if plain or (question.batch // (mesh.dp * size)) % mesh.pp == 0
    ]
    stage = max(stage for stage, _, _ in space.shardings(mesh, experts=bool(question.decoder.experts)))
    kept = space.kept(layers)
    return _Chosen(
        axes=(
            float(min(sizes, default=1)),
            1.0 if plain else float(max(chunks, default=1)),
            float(stage),
            float(max(space.parallel(mesh.tp))),
        ),
        kept=_ends(kept or ((0.0, 0.0, 0.0),), space.offloaded[1]),
        possible=bool(sizes and chunks and kept),
    )


@cache
def _ends(
    kept: tuple[tuple[float, float, float], ...], offloaded: tuple[float, ...]
) -> tuple[tuple[float, float, float], ...]:
    """Of each offloaded share: the least and the most recomputed in full, and selectively. A case that is not there is
    replaced by one that is."""
    found: list[tuple[float, float, float]] = []
    for share in offloaded:
        own = [each for each in kept if each[2] == share] or [kept[0]]
        full = [each for each in own if not each[1]] or own
        found += [min(full), max(full), next((each for each in own if each[1]), own[0])]
    return tuple(found)


def nearest_miss(
    question: Question, space: Space, *, devices: int, whole: bool, meshes: Sequence[Mesh], lean: Leanest | None
) -> Miss:
    """`lean` of all `meshes`, of which none has a plan that fits."""
    enough = _enough(question, space, devices=devices, whole=whole)
    offloading = dataclasses.replace(space, offload_optimizer=OFFLOADED, offload_activations=OFFLOADED)
    helps = bool(meshes) and _any_fits(question, offloading, meshes)
    if lean is None or not np.isfinite(lean.bytes).any():
        return Miss(
            split=None,
            memory=None,
            needed_bytes=None,
            excess_bytes=None,
            offload_helps=False,
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
        offload_helps=helps,
        devices_needed=enough,
        text=_text(held, needed, excess, enough, helps=helps),
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
        if meshes and _any_fits(question, space, meshes):
            return devices << doubling
    return None


def _any_fits(question: Question, space: Space, meshes: Sequence[Mesh]) -> bool:
    return bool((leanest(question, space, meshes).bytes <= question.machine.memory_bytes).any())


def _no_mesh(devices: int, batch: int, enough: int | None, *, whole: bool) -> str:
    words = f"no split of {devices} devices divides the model and its batch of {batch} sequences"
    if whole:
        words += "; let some devices stay idle, or change the batch"
    return words + (f"; {enough} devices can be split, and hold the model" if enough else "")


def _text(held: Memory, needed: float, excess: float, enough: int | None, *, helps: bool) -> str:
    kinds: dict[str, float] = {
        "weights": float(held.weights_bytes),
        "gradients": float(held.gradients_bytes),
        "optimizer": float(held.optimizer_bytes),
        "activations": float(held.activations_bytes + held.fragments_bytes),
        "logits": float(held.logits_bytes),
        "workspace": float(held.workspace_bytes),
        "driver and libraries": float(held.context_bytes),
    }
    named = ", ".join(f"{name} {size / GB:.1f}" for name, size in sorted(kinds.items(), key=lambda kind: -kind[1]))
    more = f"{enough} devices hold it" if enough else "more devices of the kind do not help"
    more += "; so does offload to the host's memory" if helps else ""
    return (
        f"the smallest split needs {needed / GB:.1f} GB of a device, {excess / GB:.1f} GB more than it has"
        f" (in GB: {named}); {more}; so would devices of {np.ceil(needed / GB):.0f} GB"
    )
