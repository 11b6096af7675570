"""All plans of one mesh, in arrays.

Axes: sharding, schedule, and a *cell*: micro-batch, recomputation, sequence parallelism and precision in one, last, so
that the longest run of numbers is contiguous. What depends on few of them is worked out in few numbers: the layers'
seconds by cell, states by sharding, activations by schedule and cell; only sums have the full shape.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.cost.arrays import Array
from myriarch.cost.memory import Footprint, fullest_stages, peak_bytes, peak_host_bytes
from myriarch.cost.offload import fits_host
from myriarch.cost.split import Split
from myriarch.cost.step import compose, least_seconds
from myriarch.plan.space import Mesh, Space
from myriarch.plan.tables import COLUMNS, Question, Tables

Mask = npt.NDArray[np.bool_]
BY_CELL: Final = (
    "micro_batch",
    "recompute",
    "selective",
    "offload_activations",
    "sequence_parallel",
    "narrow_share",
    "narrow_bytes",
)
"""Fields of a split that differ between cells."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Plans of one mesh. Shapes: K cells, (V, 1) schedules, (Z, 1, 1) shardings."""

    question: Question
    mesh: Mesh
    split: Split
    precision: npt.NDArray[np.intp]
    """(K,) Index into the question's precisions."""
    allowed: Mask
    """(V, K) Schedules that may run these cells."""
    layer_s: Array
    head_s: Array
    busy_s: Array
    """(K,) In which a device computes, on average over the stages."""
    footprint: Footprint

    @classmethod
    def of(cls, question: Question, space: Space, tables: Tables, mesh: Mesh) -> Block:
        layers = int(question.decoder.layers)
        most = -(-layers // mesh.pp)
        sizes = space.micro_batches(question.batch, mesh.dp)
        kept = np.array(space.kept(most))
        full, selective, offloaded = kept.T
        weights = question.weights(kept)
        parallel = np.array(space.parallel(mesh.tp), dtype=np.float64)
        share, narrow_bytes = question.narrow
        shape = (len(sizes), len(full), len(parallel), len(share))

        def cells(values: npt.ArrayLike, axis: int) -> Array:
            """One axis' values, spread over the cells."""
            own = np.asarray(values, dtype=np.float64).reshape([-1 if each == axis else 1 for each in range(4)])
            return np.broadcast_to(own, shape).ravel()

        rows = [tables.micro_batches[size] for size in sizes]
        columns = parallel.astype(np.intp)

        picked = tables.values[tables.index[mesh.layer_axes]][:, rows][:, :, :, columns]
        looked_up = np.tensordot(weights, picked, axes=(1, 2)).transpose(1, 2, 0, 3, 4).reshape(len(COLUMNS), -1)
        own = dict(zip(COLUMNS, looked_up, strict=True))
        micro_batch = cells(sizes, 0)
        micro_batches = question.batch / (mesh.dp * micro_batch)
        virtual, zero_bubble = np.array(space.schedules(most, mesh.pp), dtype=np.float64).T[:, :, None]
        shardings = space.shardings(mesh, experts=bool(question.decoder.experts))
        zero_stage, shard, hosted = np.array(shardings, dtype=np.float64).T[:, :, None, None]
        split = Split(
            tp=float(mesh.tp),
            pp=float(mesh.pp),
            dp=float(mesh.dp),
            cp=float(mesh.cp),
            ep=float(mesh.ep),
            expert_tp=float(mesh.expert_tp),
            virtual=virtual,
            zero_bubble=zero_bubble,
            sequence_parallel=cells(parallel, 2),
            zero_stage=zero_stage,
            shard=shard,
            offload_optimizer=hosted,
            batch=float(question.batch),
            micro_batch=micro_batch,
            sequence=float(question.sequence),
            recompute=cells(full, 1),
            selective=cells(selective, 1),
            offload_activations=cells(offloaded, 1),
            narrow_share=cells(share, 3),
            narrow_bytes=cells(narrow_bytes, 3),
        )
        compute_s = layers * own["layer_compute_s"] + own["head_compute_s"]
        return cls(
            question=question,
            mesh=mesh,
            split=split,
            precision=cells(np.arange(len(share)), 3).astype(np.intp),
            allowed=(virtual == 1) | (micro_batches % mesh.pp == 0),
            layer_s=own["layer_s"],
            head_s=own["head_s"],
            busy_s=micro_batches * compute_s / mesh.pp,
            footprint=Footprint(
                kept_bytes=own["kept_bytes"],
                again_bytes=own["again_bytes"],
                offloaded_bytes=own["offloaded_bytes"],
            ),
        )

    @property
    def shardings(self) -> int:
        return np.size(self.split.zero_stage)

    @property
    def plans(self) -> int:
        """How many there are."""
        return int(self.allowed.sum()) * self.shardings

    def least_s(self) -> Array:
        """(K,) Seconds that a step of any plan of the cell takes at least."""
        return least_seconds(self.question.setting(self.split), layer_s=self.layer_s, head_s=self.head_s)

    def bytes(self) -> Array:
        """(Z, V, K) Of the fullest device, the driver's part included.

        Infinite where the schedule is not allowed, or the host lacks the memory for what is offloaded.
        """
        stages = fullest_stages(
            self.question.decoder, split=self.split, software=self.question.software, footprint=self.footprint
        )
        held = self.allowed
        if np.any(self.split.offload_optimizer) or np.any(self.split.offload_activations):
            held = held & (fits_host(peak_host_bytes(stages), self.question.machine) > 0)
        return np.where(held, peak_bytes(stages), np.inf)

    def step_s(self) -> Array:
        """(Z, V, K) Seconds of a step."""
        return compose(self.question.setting(self.split), layer_s=self.layer_s, head_s=self.head_s).total_s

    def only(self, cells: Mask) -> Block:
        """The plans of these cells."""
        if cells.all():
            return self

        def kept(values: Array) -> Array:
            return values[cells]

        return dataclasses.replace(
            self,
            split=dataclasses.replace(self.split, **{name: kept(getattr(self.split, name)) for name in BY_CELL}),
            precision=self.precision[cells],
            allowed=self.allowed[:, cells],
            layer_s=kept(self.layer_s),
            head_s=kept(self.head_s),
            busy_s=kept(self.busy_s),
            footprint=Footprint(
                kept_bytes=kept(self.footprint.kept_bytes),
                again_bytes=kept(self.footprint.again_bytes),
                offloaded_bytes=kept(self.footprint.offloaded_bytes),
            ),
        )

    def plan(self, at: tuple[int, int, int]) -> tuple[Split, str]:
        """One plan in plain numbers, and its precision."""
        shape = (self.shardings, *self.allowed.shape)
        values = {
            field.name: float(np.broadcast_to(getattr(self.split, field.name), shape)[at])
            for field in dataclasses.fields(Split)
        }
        return Split(**values), self.question.precisions[self.precision[at[2]]]
