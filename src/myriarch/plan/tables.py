"""What one micro-batch costs, for every value of the axes that a layer's time depends on.

A `Question` is a model, machines, a batch and software: all that a split is asked about. Its `Tables` hold, for each
(tp, cp, ep, expert_tp), an array over micro-batch, recomputation, sequence parallelism and precision.

Recomputation has three entries for each share of activations that is offloaded: nothing, selectively, everything. A
share x of the layers in full, of which nothing is offloaded, lies on the line between the first and the last: the
seconds of the repeated pass are homogeneous of degree one in its work (sums, minima and the hypotenuse of times that
are all multiplied by x), and activations are (1 - x) kept and x not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.decoder import Decoder
from myriarch.cost.layer import Setting
from myriarch.cost.memory import Footprint
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.table import Table
from myriarch.errors import SpecError

NARROW_BYTES: Final[dict[str, float]] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp4": 0.5}
"""Of a value in the products' precision; two means that they are not narrow."""
COLUMNS: Final = (
    "layer_s",
    "layer_compute_s",
    "head_s",
    "head_compute_s",
    "kept_bytes",
    "again_bytes",
    "offloaded_bytes",
)
"""Of the mean layer and of the head: all seconds, and those in which the device computes (neither communication nor
waiting for the host). Of a layer: `cost.memory.Footprint`."""
RECOMPUTED: Final = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0))
"""(share in full, selectively) of the tables' entries, for each offloaded share."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be split, on which devices."""

    decoder: Decoder
    machines: Mapping[str, Machine]
    """By precision. One kind of device: they differ in nothing but `narrow_flops_per_s`."""
    batch: int
    """Sequences of a step."""
    sequence: int
    """Tokens."""
    software: Software
    parameters: Parameters
    narrow_share: float = 1.0
    offloaded: tuple[float, ...] = (0.0,)
    """Shares of activations that may be."""

    def __post_init__(self) -> None:
        for name in ("batch", "sequence"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise SpecError(f"`{name}: {value}` is not a positive whole number", path=name)
        if not self.machines:
            raise SpecError("no machine is given", path="machines", hint='give one by its precision, {"bf16": ...}')
        first = self.machine
        for precision, machine in self.machines.items():
            if precision not in NARROW_BYTES:
                known = ", ".join(NARROW_BYTES)
                raise SpecError(f"precision `{precision}` is unknown", path="machines", hint=f"use one of {known}")
            if dataclasses.replace(machine, narrow_flops_per_s=first.narrow_flops_per_s) != first:
                raise SpecError(
                    f"the machine of `{precision}` is another than that of `{next(iter(self.machines))}`",
                    path="machines",
                    hint="search one kind of device at a time",
                )

    @property
    def machine(self) -> Machine:
        """For all that does not depend on the precision."""
        return next(iter(self.machines.values()))

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(self.machines)

    @property
    def narrow(self) -> tuple[Array, Array]:
        """(share of products, bytes of a value) by precision."""
        sizes = np.array([NARROW_BYTES[name] for name in self.precisions])
        return np.where(sizes < 2.0, self.narrow_share, 0.0), sizes

    def weights(self, kept: Array) -> Array:
        """Of the tables' entries in each of some (share in full, selectively, offloaded): one row for each."""
        full, selective, offloaded = kept.T
        own = np.stack([(1.0 - full) * (1.0 - selective), selective * (1.0 - full), full], axis=1)
        return np.concatenate([own * (offloaded == share)[:, None] for share in self.offloaded], axis=1)

    def setting(self, split: Split, machine: Machine | None = None) -> Setting:
        return Setting(
            decoder=self.decoder,
            machine=machine or self.machine,
            split=split,
            software=self.software,
            parameters=self.parameters,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """What one micro-batch costs, by column."""

    index: Mapping[tuple[int, int, int, int], int]
    """Of (tp, cp, ep, expert_tp) on the first axis."""
    micro_batches: Mapping[int, int]
    """Of a micro-batch on the second."""
    values: Array
    """Shape (layer axes, column, micro-batch, recomputation, sequence parallelism, precision); columns as `COLUMNS`."""

    def least(self, name: str) -> Array:
        """(layer axes, micro-batch) A column's least over the rest."""
        least: Array = self.values[:, COLUMNS.index(name)].min(axis=(2, 3, 4))
        return least

    @classmethod
    def of(
        cls, question: Question, *, layer_axes: Sequence[tuple[int, int, int, int]], micro_batches: Sequence[int]
    ) -> Tables:
        """Everything at once: the arrays of one axis each broadcast against each other."""
        tp, cp, ep, expert_tp = np.array(layer_axes, dtype=np.float64).reshape(-1, 4).T[:, :, None, None, None, None]
        entries = [(*each, share) for share in question.offloaded for each in RECOMPUTED]
        full, selective, offloaded = np.array(entries).T[:, :, None, None]
        share, size = question.narrow
        rates = np.array([machine.narrow_flops_per_s for machine in question.machines.values()])
        split = Split(
            tp=tp,
            cp=cp,
            ep=ep,
            expert_tp=expert_tp,
            batch=1.0,
            micro_batch=np.array(micro_batches, dtype=np.float64)[:, None, None, None],
            sequence=float(question.sequence),
            sequence_parallel=np.array([0.0, 1.0])[:, None],
            recompute=full,
            selective=selective,
            offload_activations=offloaded,
            narrow_share=share,
            narrow_bytes=size,
        )
        machine = dataclasses.replace(question.machine, narrow_flops_per_s=rates)
        table = Table.of(question.setting(split, machine))
        footprint = Footprint.of(question.decoder, split=split, software=question.software)
        columns: dict[str, Array] = {
            "layer_s": table.layer_s,
            "layer_compute_s": table.layer.compute_s + table.again.compute_s,
            "head_s": table.head_s,
            "head_compute_s": table.head.compute_s,
            "kept_bytes": footprint.kept_bytes,
            "again_bytes": footprint.again_bytes,
            "offloaded_bytes": footprint.offloaded_bytes,
        }
        shape = (len(layer_axes), len(micro_batches), len(entries), 2, len(share))
        return cls(
            index={axes: position for position, axes in enumerate(layer_axes)},
            micro_batches={size: position for position, size in enumerate(micro_batches)},
            values=np.stack([np.broadcast_to(columns[name], shape) for name in COLUMNS], axis=1),
        )
