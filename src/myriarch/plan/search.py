"""The best splits of one model over devices of one kind: the exact optimum of the modelled space.

Meshes are taken in the order of a bound on their score, and a mesh's plans are worked out together in arrays (`Block`).
Only three things are left out, all proved to change nothing:

- Meshes whose plan that needs the least memory (`plan.miss`) does not fit.
- Plans that do not fit are not timed.
- Plans whose step would be too long even if it did nothing but pass every micro-batch through the slowest stage
  (`cost.step.least_seconds`) are not timed. The bound of a mesh is the least over its micro-batches, with the fastest
  recomputation, sequence parallelism and precision for each; it is not more than the bound of any of its plans, so once
  a mesh's bound is worse than the last of the best plans known, so is every plan of it and of the meshes behind it.

Scores do not fall with the seconds of a step (`Objective`), so what is proved of seconds holds for scores.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import Memory, memory, memory_by_stage
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import StepTime, least_seconds, step_time
from myriarch.event.base import Value
from myriarch.plan.block import Block, Mask
from myriarch.plan.comparison import Difference, difference
from myriarch.plan.miss import Leanest, Miss, leanest, nearest_miss
from myriarch.plan.objective import Objective, StepSeconds
from myriarch.plan.space import Mesh, Space
from myriarch.plan.tables import Question, Tables

Distinct = Literal["plan", "mesh"]
ANY: Final = Space()
FASTEST: Final = StepSeconds()


class Counts(Value, frozen=True, kw_only=True):
    """Plans of the space, each in exactly one of `timed`, `infeasible` and `slower`."""

    meshes: int
    plans: int
    timed: int
    """They fit, and their step's time was worked out."""
    infeasible: int
    """They do not fit, by their own memory or by that of their mesh's leanest plan."""
    slower: int
    """Proved to be slower than the plans found; of a search that is no census, without asking whether they fit."""
    feasible: int | None = None
    """All that fit: only a census knows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to train."""

    split: Split
    precision: str
    """Of the products; `split.narrow_share` of them, where it is narrow."""
    machine: Machine
    step: StepTime
    memory: Memory
    """Of the fullest device."""
    stages: tuple[Memory, ...]
    """Of a device of each pipeline stage."""
    score: float
    """By the search's objective; the least is the best."""
    next: Difference | None = None
    """How the plan behind it differs: why this one, and not that."""

    @property
    def step_s(self) -> float:
        return float(self.step.total_s)

    @property
    def devices(self) -> int:
        return int(self.split.devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The answer to a search."""

    objective: str
    plans: tuple[Plan, ...]
    """Best first; empty where nothing fits."""
    counts: Counts
    forbidden: Mapping[str, int]
    """How often which rule of the space forbade a mesh, or a value of an axis with all its meshes."""
    miss: Miss | None = None
    """Where nothing fits: what came nearest, and what would make it fit."""

    @property
    def best(self) -> Plan | None:
        return self.plans[0] if self.plans else None


def search(
    decoder: Decoder,
    *,
    machines: Mapping[str, Machine],
    devices: int,
    batch: int,
    sequence: int,
    software: Software,
    parameters: Parameters,
    space: Space = ANY,
    objective: Objective = FASTEST,
    top: int = 5,
    whole: bool = True,
    distinct: Distinct = "mesh",
    census: bool = False,
) -> Found:
    """The `top` best plans of the space on exactly (`whole`) or at most so many devices.

    `distinct`: the best plan of each of the best meshes, or simply the best plans, which often differ in little.
    `census`: works the memory of every plan out, also of those proved slower, to count all that fit.
    Raises SpecError where the question itself makes no sense; a model that fits nowhere is an answer.
    """
    space = space.beside(next(iter(machines.values()))) if machines else space
    question = Question(
        decoder=decoder,
        machines=machines,
        batch=batch,
        sequence=sequence,
        software=software,
        parameters=parameters,
        narrow_share=space.narrow_share,
        offloaded=space.offloaded[1],
    )
    domain = int(question.machine.link_domain_devices)
    meshes, forbidden = space.meshes(
        decoder, devices=devices, whole=whole, domain=domain, batch=batch, sequence=sequence
    )
    run = _Run(question=question, space=space, objective=objective, top=top, distinct=distinct, census=census)
    run.visit(meshes)
    plans = _ranked([run.plan(entry) for entry in run.best])
    miss = None
    if not plans:
        miss = nearest_miss(question, space, devices=devices, whole=whole, meshes=meshes, lean=run.lean)
    return Found(objective=objective.name, plans=plans, counts=run.counts(len(meshes)), forbidden=forbidden, miss=miss)


def _ranked(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """Each with its difference to the one behind it."""
    behind: list[Difference | None] = [
        difference((a.split, a.step), (b.split, b.step)) for a, b in itertools.pairwise(plans)
    ]
    return tuple(dataclasses.replace(plan, next=each) for plan, each in zip(plans, [*behind, None], strict=False))


@dataclasses.dataclass(frozen=True, order=True)
class _Entry:
    """One of the best plans; by score, then by memory, then by place."""

    score: float
    bytes: float
    mesh: Mesh
    at: tuple[int, int, int]
    split: Split = dataclasses.field(compare=False)
    precision: str = dataclasses.field(compare=False)


class _Run:
    """One search in progress."""

    def __init__(
        self, *, question: Question, space: Space, objective: Objective, top: int, distinct: Distinct, census: bool
    ) -> None:
        self.question = question
        self.space = space
        self.best: list[_Entry] = []
        """At most `top`, best first."""
        self.lean: Leanest | None = None
        """Of each mesh, once they are visited."""
        self._objective = objective
        self._top = top
        self._distinct = distinct
        self._census = census
        self._plans = self._timed = self._infeasible = self._slower = self._feasible = 0

    @property
    def _limit(self) -> float:
        """Scores above it are of no interest any more."""
        return self.best[-1].score if len(self.best) == self._top else np.inf

    def visit(self, meshes: Sequence[Mesh]) -> None:
        if not meshes:
            return
        self.lean = leanest(self.question, self.space, meshes)
        held = self._fits(self.lean.bytes)
        tables = _tables(self.question, self.space, meshes)
        bounds = self._bounds(tables, meshes)
        for index in np.argsort(bounds, kind="stable"):
            mesh = meshes[index]
            if held[index] and (self._census or bounds[index] <= self._limit):
                self._visit(Block.of(self.question, self.space, tables, mesh))
                continue
            number = plans_of(self.question, self.space, mesh)
            self._plans += number
            if held[index]:
                self._slower += number
            else:
                self._infeasible += number

    def _bounds(self, tables: Tables, meshes: Sequence[Mesh]) -> Array:
        """Of each mesh, a score that none of its plans is better than."""
        question, sizes = self.question, tuple(tables.micro_batches)
        own = np.array([tables.index[mesh.layer_axes] for mesh in meshes])
        tp, cp, pp, dp = np.array([(mesh.tp, mesh.cp, mesh.pp, mesh.dp) for mesh in meshes], dtype=np.float64).T

        def least(name: str) -> Array:
            fastest: Array = tables.least(name)[own].T
            return fastest

        micro_batch = np.array(sizes, dtype=np.float64)[:, None]
        split = Split(
            tp=tp, cp=cp, pp=pp, dp=dp, batch=question.batch, micro_batch=micro_batch, sequence=question.sequence
        )
        layer_s, head_s = least("layer_s"), least("head_s")
        compute_s = question.decoder.layers * least("layer_compute_s") + least("head_compute_s")
        scores = self._objective.score(
            least_seconds(question.setting(split), layer_s=layer_s, head_s=head_s),
            busy_s=split.micro_batches * compute_s / pp,
            devices=split.devices,
        )
        own_batch, which = np.unique(dp, return_inverse=True)
        cut = [[size in self.space.micro_batches(question.batch, int(each)) for each in own_batch] for size in sizes]
        bounds: Array = np.where(np.array(cut)[:, which], scores, np.inf).min(axis=0)
        return bounds

    def _visit(self, block: Block) -> None:
        number = block.plans
        self._plans += number
        hopeful = self._hopeful(block)
        if self._census:
            needed = block.bytes()
            self._feasible += int(self._fits(needed).sum())
            needed = needed[:, :, hopeful]
            block = block.only(hopeful)
        else:
            block = block.only(hopeful)
            needed = block.bytes()
        self._slower += number - block.plans
        fits = self._fits(needed)
        timed = int(fits.sum())
        self._timed += timed
        self._infeasible += block.plans - timed
        if timed:
            self._take(block, needed, fits)

    def _hopeful(self, block: Block) -> Mask:
        """(K,) Cells whose bound is not above the limit."""
        scores = self._objective.score(block.least_s(), busy_s=block.busy_s, devices=block.mesh.devices)
        return np.logical_and(np.less_equal(scores, self._limit), block.allowed.any(axis=0))

    def _fits(self, needed: Array) -> Mask:
        return np.less_equal(needed, self.question.machine.memory_bytes)

    def _take(self, block: Block, needed: Array, fits: Mask) -> None:
        """Time what fits, and keep the best."""
        some: Mask = np.asarray(fits.any(axis=(0, 1)))
        block, needed, fits = block.only(some), needed[:, :, some], fits[:, :, some]
        scores = self._objective.score(block.step_s(), busy_s=block.busy_s, devices=block.mesh.devices)
        scores = np.where(fits, scores, np.inf)
        number = 1 if self._distinct == "mesh" else min(self._top, int(fits.sum()))
        worst = np.partition(scores, number - 1, axis=None)[number - 1]
        places = np.argwhere(scores <= min(worst, self._limit))
        found = sorted(self._entry(block, scores, needed, place) for place in places.tolist())
        self.best = sorted([*self.best, *found[:number]])[: self._top]

    def _entry(self, block: Block, scores: Array, needed: Array, place: Sequence[int]) -> _Entry:
        at = (place[0], place[1], place[2])
        split, precision = block.plan(at)
        return _Entry(
            score=float(scores[at]), bytes=float(needed[at]), mesh=block.mesh, at=at, split=split, precision=precision
        )

    def plan(self, entry: _Entry) -> Plan:
        """The plan of an entry, with everything that a reader wants to know of it."""
        question, split = self.question, entry.split
        machine = question.machines[entry.precision]
        return Plan(
            split=split,
            precision=entry.precision,
            machine=machine,
            step=step_time(
                question.decoder,
                machine=machine,
                split=split,
                software=question.software,
                parameters=question.parameters,
            ),
            memory=memory(question.decoder, split=split, software=question.software),
            stages=memory_by_stage(question.decoder, split=split, software=question.software),
            score=entry.score,
        )

    def counts(self, meshes: int) -> Counts:
        return Counts(
            meshes=meshes,
            plans=self._plans,
            timed=self._timed,
            infeasible=self._infeasible,
            slower=self._slower,
            feasible=self._feasible if self._census else None,
        )


def _tables(question: Question, space: Space, meshes: Sequence[Mesh]) -> Tables:
    axes = dict.fromkeys(mesh.layer_axes for mesh in meshes)
    sizes = sorted({size for mesh in meshes for size in space.micro_batches(question.batch, mesh.dp)})
    return Tables.of(question, layer_axes=tuple(axes), micro_batches=sizes)


def plans_of(question: Question, space: Space, mesh: Mesh) -> int:
    """How many plans a mesh has, without making them."""
    most = -(-int(question.decoder.layers) // mesh.pp)
    schedules = space.schedules(most, mesh.pp)
    sizes = space.micro_batches(question.batch, mesh.dp)
    rounds = sum((question.batch // mesh.dp // size) % mesh.pp == 0 for size in sizes)
    plain = sum(virtual == 1 for virtual, _ in schedules)
    runs = len(sizes) * plain + rounds * (len(schedules) - plain)
    cells = len(space.kept(most)) * len(space.parallel(mesh.tp)) * len(question.precisions)
    return runs * cells * len(space.shardings(mesh, experts=bool(question.decoder.experts)))
