"""The ways in which one pool can hold a replica group: its splits, as seconds over micro-batches.

A group that takes a share of the batch needs other rules than one that trains it alone: how many replicas it has need
not divide the batch, but the shares of all have to sum to it. So besides as many replicas as fit, rounder numbers of
them are tried, which leave devices idle: 625, 624, 608, 576, 512 of 625.

Each split's step is evaluated with as few micro-batches as it can take, and with twice as many; from there on a step
is affine in their number (`cost.step`: every part is constant or proportional to m, or to m - 1), so this is all of it.
A deep pipeline may hold fewer micro-batches than its depth where memory is short: how many, is found by bisection,
since memory does not fall with them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from myriarch.cost.arrays import Array
from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import fits, memory
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import step_time
from myriarch.plan.unlike import Entrant, Way
from myriarch.plan.unlike_shares import UNLIMITED, Ints, Offers

ROUNDED_BITS: Final = 8
"""Low bits of the number of replicas that are cleared, one after the other: at most so many devices idle as 2**8
replicas have, and never more than `IDLE_MOST`."""
IDLE_MOST: Final = 0.25
"""Of a pool's devices."""
RECOMPUTED: Final = ((0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.0))
"""Share of the layers recomputed in full, and whether the rest is selectively."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axes:
    """What is tried. Empty: what the axis' own rule says."""

    tp: tuple[int, ...] = ()
    """Powers of two up to the link domain, that divide the heads."""
    pp: tuple[int, ...] = ()
    """Powers of two, three times them, and divisors of the layers."""
    cp: tuple[int, ...] = ()
    """Powers of two that leave a device 4,096 tokens of a sequence."""
    ep: tuple[int, ...] = ()
    """Powers of two and divisors of the experts."""
    dp: tuple[int, ...] = ()
    """As many as fit, and rounder numbers below."""
    micro_batch: tuple[int, ...] = (1, 2, 4)
    virtual: tuple[int, ...] = (1, 2, 4)
    """Chunks of a stage: divisors of its layers."""
    zero_stage: tuple[int, ...] = (1, 3)
    recompute: tuple[tuple[float, float], ...] = RECOMPUTED


_NAMES: Final = (
    "tp",
    "pp",
    "cp",
    "ep",
    "expert_tp",
    "dp",
    "micro_batch",
    "virtual",
    "zero_stage",
    "recompute",
    "selective",
)
"""Of a split, what differs between the ways of a pool."""


def pool_entrant(
    pool: str,
    decoder: Decoder,
    *,
    machine: Machine,
    devices: int,
    batch: int,
    sequence: int,
    software: Software,
    parameters: Parameters,
    axes: Axes | None = None,
    narrow_share: float = 0.0,
    overlap: float = 0.0,
    doubts: tuple[str, ...] = (),
) -> Entrant:
    """All ways of `devices` devices of one kind that memory permits; none when the model does not fit.

    overlap: share of the last micro-batch's backward pass beside which the bridge may exchange gradients; 0, as the
    trainer's bridge begins when all gradients are there.
    """
    rows = _rows(decoder, machine, devices=devices, batch=batch, sequence=sequence, axes=axes or Axes())
    columns = rows.T
    split = _split(columns, sequence=sequence, software=software, narrow_share=narrow_share)
    most = _most(decoder, machine, split, software)
    held = np.flatnonzero(most > 0)
    columns, most = columns[:, held], most[held]
    split = _split(columns, sequence=sequence, software=software, narrow_share=narrow_share)

    def seconds(micro_batches: Array) -> Array:
        many = _batched(split, micro_batches)
        step = step_time(decoder, machine=machine, split=many, software=software, parameters=parameters)
        return np.broadcast_to(step.total_s, most.shape)

    named = dict(zip(_NAMES, columns, strict=True))
    # Interleaved stages take micro-batches by as many as there are stages.
    multiple = np.where(named["virtual"] > 1, named["pp"], 1.0)
    first_s = seconds(multiple)
    slot_s = (seconds(2.0 * multiple) - first_s) / multiple
    ones = np.ones(len(most), dtype=np.int64)
    offers = Offers(
        quantum=(named["dp"] * named["micro_batch"]).astype(np.int64),
        slot_s=slot_s,
        fixed_s=first_s - multiple * slot_s,
        least=ones,
        most=most,
        multiple=multiple.astype(np.int64),
        # Two thirds of a micro-batch's time are its backward pass.
        window_s=2.0 / 3.0 * overlap * slot_s,
    )

    def describe(way: int) -> Way:
        values = {name: float(column[way]) for name, column in named.items()}
        own = _split(columns[:, way], sequence=sequence, software=software, narrow_share=narrow_share)
        held = memory(decoder, split=_batched(own, min(int(most[way]), 1024)), software=software)
        used = int(values["tp"] * values["pp"] * values["cp"] * values["dp"])
        return Way(split=values, devices={pool: used}, memory_bytes=float(held.device_bytes))

    return Entrant(pools=(pool,), offers=offers, describe=describe, doubts=doubts)


def split_of(way: Way, *, sequences: int, sequence: int, software: Software, narrow_share: float = 0.0) -> Split:
    """The split that a way of one pool stands for, with its share of the batch: what `cost.step_time` takes."""
    columns = np.array([way.split[name] for name in _NAMES])
    split = _split(columns, sequence=sequence, software=software, narrow_share=narrow_share)
    return dataclasses.replace(split, batch=float(sequences))


def _split(columns: Array, *, sequence: int, software: Software, narrow_share: float) -> Split:
    named = dict(zip(_NAMES, columns, strict=True))
    return Split(
        **named,
        sequence_parallel=np.greater(named["tp"], 1).astype(np.float64),
        batch=named["dp"] * named["micro_batch"],
        sequence=float(sequence),
        narrow_share=narrow_share,
    )


def _batched(split: Split, micro_batches: float | Array) -> Split:
    return dataclasses.replace(split, batch=split.dp * split.micro_batch * micro_batches)


def _most(decoder: Decoder, machine: Machine, split: Split, software: Software) -> Ints:
    """Most micro-batches of each split that memory permits: 0, some below the depth of the pipeline, or any."""
    shape = np.shape(split.tp)
    deep = 2.0 * np.broadcast_to(split.pp, shape)  # no schedule has more in flight

    def held(at: Ints, micro_batches: Array) -> npt.NDArray[np.bool_]:
        some = _batched(_taken(split, at), micro_batches)
        fine = fits(memory(decoder, split=some, software=software), machine.memory_bytes)
        return np.broadcast_to(fine, at.shape).astype(np.bool_)

    every = np.arange(shape[0])
    most = np.where(held(every, deep), UNLIMITED, 0)
    short = np.flatnonzero(most == 0)
    short = short[held(short, np.ones(len(short)))]  # one fits; so many as `deep` do not
    low, high = np.ones(len(short)), deep[short].copy()
    while np.any(high - low > 1.0):
        middle = np.floor((low + high) / 2.0)
        fine = held(short, middle)
        low, high = np.where(fine, middle, low), np.where(fine, high, middle)
    most[short] = low
    return most


def _taken(split: Split, at: Ints) -> Split:
    """Some of the splits."""
    values = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
    return Split(**{name: value[at] if np.ndim(value) else value for name, value in values.items()})


def _rows(decoder: Decoder, machine: Machine, *, devices: int, batch: int, sequence: int, axes: Axes) -> Array:
    """One row for each split; columns as `_NAMES`."""
    layers, heads, experts = int(decoder.layers), int(decoder.heads), int(decoder.experts)
    meshes: list[tuple[float, ...]] = []
    for tp, cp, pp in itertools.product(
        axes.tp or _tp(int(machine.link_domain_devices), heads),
        axes.cp or _powers(max(sequence // 4096, 1)),
        axes.pp or _pp(layers),
    ):
        fits_most = min(devices // (tp * cp * pp), batch)
        # Every stage has a layer.
        if fits_most < 1 or -(-layers // pp) * (pp - 1) >= layers:
            continue
        fullest = -(-layers // pp)
        for dp, micro_batch, virtual in itertools.product(
            axes.dp or _rounder(fits_most), axes.micro_batch, axes.virtual if pp > 1 else (1,)
        ):
            if dp > fits_most or dp * micro_batch > batch or (virtual > 1 and fullest % virtual):
                continue
            for ep, zero, recomputed in itertools.product(
                (axes.ep or _ep(experts)) if experts else (1,), axes.zero_stage, axes.recompute
            ):
                if (dp * cp * tp) % ep or (experts and experts % ep) or (zero == 3 and pp > 1):
                    continue
                expert_tp = 1 if ep > 1 else tp
                meshes.append((tp, pp, cp, ep, expert_tp, dp, micro_batch, virtual, zero, *recomputed))
    return np.array(meshes, dtype=np.float64).reshape(-1, len(_NAMES))


def _tp(domain: int, heads: int) -> Sequence[int]:
    return [size for size in _powers(domain) if heads % size == 0 and size <= 64]


def _pp(layers: int) -> Sequence[int]:
    powers = _powers(layers)
    return sorted({*powers, *(3 * size for size in powers if 3 * size <= layers), *_divisors(layers)})


def _ep(experts: int) -> Sequence[int]:
    return [size for size in _powers(experts) if experts % size == 0]


def _powers(most: int) -> list[int]:
    return [1 << bit for bit in range(max(most, 1).bit_length())]


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _rounder(most: int) -> Sequence[int]:
    cleared = {most >> bit << bit for bit in range(ROUNDED_BITS + 1)}
    return sorted(size for size in cleared if size >= (1.0 - IDLE_MOST) * most)
