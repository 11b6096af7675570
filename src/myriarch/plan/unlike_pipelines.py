"""The ways in which two unlike pools can hold one replica group together: pipelines with stages on both.

What a layer takes and holds on each pool comes from `cost.step_time` and `cost.memory` of models of one and two layers,
by difference: both are sums over layers and what does not depend on them. Mixtures' dense first layers are told apart
from the others, so all layers have their own times.

Pipelines of both pools have as many replicas and the same micro-batch; tensor and expert parallelism and recomputation
are each pool's own. Activations cross the link between the pools for all replicas at once.

Combinations are looked at in the order of a bound on the step that trains the whole batch,

    min over k of  (m - 1) * max(link, ceil(k / p) * t, ceil((L - k) / q) * u)  +  k t + (L - k) u

t and u being a layer's seconds on either pool, which no cut goes below (`_bound_s`). Those whose bound exceeds `REACH`
times the best step found are left: for the two pools alone, the optimum is never among them, as long as no limit below
is reached. (With a third pool at work a group's share is smaller; then a way beyond `REACH` could matter and is not
seen.)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array
from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import SLACK, memory
from myriarch.cost.network import Network
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import step_time
from myriarch.plan.bridge import Bridges
from myriarch.plan.pipelines import LINK_STAGES, Cuts, Side, cut, stages_bytes
from myriarch.plan.unlike import Entrant, Way
from myriarch.plan.unlike_shares import UNLIMITED, Ints, Offers

REACH: Final = 1.03
COMBINATIONS_LIMIT: Final = 400
"""Cut at most, in the order of their bounds; one takes 2 to 10 milliseconds."""
SETTINGS_LIMIT: Final = 2000
"""Whose bound is worked out for each number of stages, in the order of a coarser one: as if layers were divisible."""
STAGE_PARTS: Final = 8
"""Numbers of stages of a pool: eighths of what its devices allow, so all of them up to eight; where there are many
settings, quarters. In the formula more stages are never slower but for the sends; they need more memory."""
MANY_SETTINGS: Final = 4096
STAGES_LIMIT: Final = 64
"""Of one pool."""
WORK_LEAST: Final = 0.25
"""Of a pool's devices: settings that cannot put so many to work are not tried."""
MICRO_BATCHES: Final = (1, 2, 4)
RECOMPUTED: Final = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sides:
    """All settings of one pool; arrays have one row for each."""

    tp: Ints
    dp: Ints
    micro_batch: Ints
    ep: Ints
    recompute: Array
    selective: Array
    layer_s: Array
    """Shape (settings, layers)."""
    front_end_s: Array
    back_end_s: Array
    states_bytes: Array
    """(settings, layers)"""
    kept_bytes: Array
    """(settings, layers)"""
    front_end_bytes: Array
    back_end_bytes: Array
    other_bytes: Array
    memory_bytes: float
    send_s: Array
    fixed_s: Array
    """Exposed gradients and optimizer by layers of the fullest stage; shape (settings, numbers of layers)."""

    def side(self, index: int, *, front: bool) -> Side:
        return Side(
            layer_s=self.layer_s[index],
            end_s=float((self.front_end_s if front else self.back_end_s)[index]),
            states_bytes=self.states_bytes[index],
            kept_bytes=self.kept_bytes[index],
            end_bytes=float((self.front_end_bytes if front else self.back_end_bytes)[index]),
            other_bytes=float(self.other_bytes[index]),
            memory_bytes=self.memory_bytes,
            send_s=float(self.send_s[index]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    decoder: Decoder
    batch: int
    sequence: int
    software: Software
    parameters: Parameters
    narrow_share: float

    @property
    def layers(self) -> int:
        return int(self.decoder.layers)


def _settings(task: _Task, machine: Machine, *, devices: int, replicas: tuple[int, ...]) -> Array:
    """Rows of tp, dp, micro-batch, ep, recompute, selective."""
    heads, experts = int(task.decoder.heads), int(task.decoder.experts)
    least = WORK_LEAST * devices / min(STAGES_LIMIT, task.layers - 1)
    tensor = [size for size in _powers(min(int(machine.link_domain_devices), 16)) if heads % size == 0]
    rows = [
        (tp, dp, micro_batch, ep, *recomputed)
        for tp, dp, micro_batch in itertools.product(tensor, replicas, MICRO_BATCHES)
        if least <= tp * dp <= devices and dp * micro_batch <= task.batch
        for ep in (_powers(experts) if experts else (1,))
        if (tp * dp) % ep == 0 and (not experts or experts % ep == 0)
        for recomputed in RECOMPUTED
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def _sides(task: _Task, machine: Machine, rows: Array, *, stages: Array) -> _Sides:
    """The settings in `rows`; the fixed parts of a step for fullest stages of so many layers."""
    d, columns = task.decoder, rows.T[:, :, None, None, None]
    tp, dp, micro_batch, ep, recompute, selective = columns
    split = Split(
        tp=tp,
        dp=dp,
        ep=ep,
        expert_tp=np.where(ep > 1, 1.0, tp),
        sequence_parallel=np.greater(tp, 1).astype(np.float64),
        zero_stage=1.0,
        batch=dp * micro_batch,
        micro_batch=micro_batch,
        sequence=float(task.sequence),
        recompute=recompute,
        selective=selective,
        narrow_share=task.narrow_share,
    )
    # Axes: setting, kind of layer (mixture or, of dense models, the only one; dense), layers (1, 2), micro-batches.
    counts = np.array([1.0, 2.0])
    experts = np.array([float(d.experts), 0.0])[None, :, None, None]
    kinds = dataclasses.replace(d, layers=counts[None, None, :, None], experts=experts, dense_layers=0.0)
    quiet = dataclasses.replace(task.parameters, jitter=0.0, step_s=0.0)

    def seconds(decoder: Decoder, micro_batches: Array) -> Array:
        many = dataclasses.replace(split, batch=split.batch * micro_batches)
        step = step_time(decoder, machine=machine, split=many, software=task.software, parameters=quiet)
        return step.total_s

    slots = np.diff(seconds(kinds, counts[None, None, None, :]), axis=-1)[..., 0]  # setting, kind, layers
    layer_s = slots[:, :, 1] - slots[:, :, 0]
    end_s = slots[:, 0, 0] - layer_s[:, 0]
    held = memory(kinds, split=split, software=task.software)
    shape = slots.shape
    states = np.broadcast_to(held.states_bytes[..., 0], shape)
    active = np.broadcast_to(held.activations_bytes[..., 0], shape)
    state = states[:, :, 1] - states[:, :, 0]
    kept = active[:, :, 1] - active[:, :, 0]
    again = active[:, 0, 0] - kept[:, 0]
    ends = (states[:, 0, 0] - state[:, 0]) / (2.0 - float(d.tied))
    logits = np.broadcast_to(held.logits_bytes[..., 0], shape)[:, 0, 0]
    workspace = np.broadcast_to(held.workspace_bytes[..., 0], shape).max(axis=(1, 2))
    # Gradients and optimizer of a stage of n layers: what of a step does not grow with the micro-batches.
    stage = stages[None, None, :, None]
    fullest = dataclasses.replace(d, layers=stage, dense_layers=0.0)
    once, twice = seconds(fullest, np.ones((1, 1, 1, 1))), seconds(fullest, np.full((1, 1, 1, 1), 2.0))
    fixed_s = (2.0 * once - twice)[:, 0, :, 0]
    dense_first = np.where(np.arange(task.layers) < (float(d.dense_layers) if float(d.experts) else 0.0), 1, 0)
    network = Network.of(machine, task.parameters)
    flat_tp, flat_dp, flat_micro, flat_ep = (column[:, 0, 0, 0] for column in (tp, dp, micro_batch, ep))
    shown = 1.0 - float(task.software.pp_overlap) * task.parameters.overlap_reach
    send_s = shown * network.send_s(
        2.0 * flat_micro * task.sequence * float(d.width) / flat_tp, stride=flat_tp * flat_dp
    )
    # The model's embedding is a look-up: the front end takes no time of its own beside the head's.
    return _Sides(
        tp=flat_tp.astype(np.int64),
        dp=flat_dp.astype(np.int64),
        micro_batch=flat_micro.astype(np.int64),
        ep=flat_ep.astype(np.int64),
        recompute=rows[:, 4],
        selective=rows[:, 5],
        layer_s=layer_s[:, dense_first],
        front_end_s=np.zeros(len(rows)),
        back_end_s=end_s,
        states_bytes=state[:, dense_first],
        kept_bytes=(1.0 + SLACK) * kept[:, dense_first],
        front_end_bytes=ends,
        back_end_bytes=ends + logits,
        other_bytes=workspace + (1.0 + SLACK) * again + float(task.software.context_bytes),
        memory_bytes=float(machine.memory_bytes),
        send_s=np.asarray(send_s),
        fixed_s=fixed_s,
    )


def stage_terms(
    decoder: Decoder,
    machine: Machine,
    *,
    tp: int,
    dp: int,
    layers: int,
    micro_batch: int,
    sequence: int,
    software: Software,
    parameters: Parameters,
    recompute: float = 0.0,
) -> tuple[float, float, float]:
    """Of a stage in one setting: seconds of the mean layer and of head and loss for one micro-batch, and of what ends
    the step. Not multiplied by the waiting for the slowest device."""
    task = _Task(
        decoder=decoder,
        batch=dp * micro_batch,
        sequence=sequence,
        software=software,
        parameters=parameters,
        narrow_share=0.0,
    )
    rows = np.array([[tp, dp, micro_batch, 1.0, recompute, 0.0]])
    sides = _sides(task, machine, rows, stages=np.array([float(layers)]))
    return float(sides.layer_s[0].mean()), float(sides.back_end_s[0]), float(sides.fixed_s[0, 0])


def _worthwhile(task: _Task, machine: Machine, *, devices: int, replicas: tuple[int, ...]) -> _Sides:
    """The settings of a pool that no other beats."""
    rows = _settings(task, machine, devices=devices, replicas=replicas)
    whole = np.array([float(task.layers)])
    kept = _undominated(_sides(task, machine, rows, stages=whole)) if len(rows) else np.zeros(0, dtype=np.int64)
    return _sides(task, machine, rows[kept], stages=np.arange(1.0, task.layers + 1.0))


def _undominated(sides: _Sides) -> Ints:
    """Settings that no other of the same tp, dp and micro-batch beats in time and memory at once."""
    kept: list[int] = []
    keys = np.stack([sides.tp, sides.dp, sides.micro_batch])
    _, group_of = np.unique(keys, axis=1, return_inverse=True)
    costs = np.stack(
        [
            sides.layer_s.mean(axis=1),
            sides.back_end_s,
            sides.states_bytes.mean(axis=1),
            sides.kept_bytes.mean(axis=1),
            sides.other_bytes,
            sides.fixed_s[:, -1],
        ]
    )
    for group in range(int(group_of.max()) + 1 if len(group_of) else 0):
        members = np.flatnonzero(group_of == group)
        own = costs[:, members]
        for at, member in enumerate(members):
            beaten = np.all(own <= own[:, at : at + 1], axis=0) & np.any(own < own[:, at : at + 1], axis=0)
            if not beaten.any():
                kept.append(int(member))
    return np.array(kept, dtype=np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Combination:
    """Settings of both pools and stages on each; `front` says which pool is first."""

    settings: tuple[int, int]
    stages: tuple[int, int]
    front: int
    bound_s: float


def pair_entrant(
    pools: tuple[str, str],
    decoder: Decoder,
    *,
    machines: tuple[Machine, Machine],
    devices: tuple[int, int],
    batch: int,
    sequence: int,
    software: Software,
    parameters: Parameters,
    bridges: Bridges,
    narrow_share: float = 0.0,
    doubts: tuple[str, ...] = (),
) -> Entrant:
    """All pipelines over two pools that are worth a look; none where the model does not fit or no link joins them."""
    task = _Task(
        decoder=decoder,
        batch=batch,
        sequence=sequence,
        software=software,
        parameters=parameters,
        narrow_share=narrow_share,
    )
    replicas = _replicas(min(*devices, batch))
    both = (
        _worthwhile(task, machines[0], devices=devices[0], replicas=replicas),
        _worthwhile(task, machines[1], devices=devices[1], replicas=replicas),
    )
    found = _Lines()
    best_s = np.inf
    ordered = _combinations(task, both, devices, pools, bridges)
    for combination in itertools.islice(ordered, COMBINATIONS_LIMIT):
        if combination.bound_s > REACH * best_s:
            break
        cuts = _cut(task, both, combination, pools, bridges)
        if not len(cuts.front_layers):
            continue
        slot_s, fixed_s = _step(task, both, combination, cuts)
        quantum = int(both[0].dp[combination.settings[0]] * both[0].micro_batch[combination.settings[0]])
        found.add(combination, cuts, quantum, slot_s, fixed_s)
        best_s = min(best_s, float(np.min(fixed_s + slot_s * (batch / quantum))))
    return Entrant(
        pools=pools,
        offers=found.offers(),
        describe=lambda way: _describe(both, pools, *found.at(way)),
        doubts=doubts,
    )


def _send_s(task: _Task, sides: _Sides, at: Ints | int, pools: tuple[str, str], bridges: Bridges) -> Array:
    """Seconds of one micro-batch of all replicas over the link: one transfer, its latency once."""
    size = 2.0 * sides.dp[at] * sides.micro_batch[at] * task.sequence * float(task.decoder.width)
    latency_s = bridges.send_s(0.0, *pools)
    return np.asarray((bridges.send_s(1.0, *pools) - latency_s) * size + latency_s)


def _combinations(
    task: _Task, sides: tuple[_Sides, _Sides], devices: tuple[int, int], pools: tuple[str, str], bridges: Bridges
) -> Iterator[_Combination]:
    """In the order of their bounds."""
    if bridges.link(*pools) is None:
        return
    settings = _alike(*sides)
    most = [
        np.minimum(own // (each.tp[at] * each.dp[at]), min(STAGES_LIMIT, task.layers - 1))
        for each, at, own in zip(sides, settings, devices, strict=True)
    ]
    usable = (most[0] > 0) & (most[1] > 0)
    settings, most = (settings[0][usable], settings[1][usable]), [each[usable] for each in most]
    count = task.batch / (sides[0].dp[settings[0]] * sides[0].micro_batch[settings[0]])
    link_s = _send_s(task, sides[0], settings[0], pools, bridges)
    layer_s = [each.layer_s.min(axis=1)[at] for each, at in zip(sides, settings, strict=True)]
    room = [_Room(each) for each in sides]
    parts = STAGE_PARTS if len(count) < MANY_SETTINGS else STAGE_PARTS // 2
    columns = []
    for one, two, front in itertools.product(range(1, parts + 1), range(1, parts + 1), (0, 1)):
        stages = [most[0] * one // parts, most[1] * two // parts]
        # As many stages as with a smaller part are not looked at again.
        new = (stages[0] > most[0] * (one - 1) // parts) & (stages[1] > most[1] * (two - 1) // parts)
        back = 1 - front
        held = [np.zeros(0), np.zeros(0)]
        held[front] = room[front].layers(settings[front], stages[front], stages[back] + LINK_STAGES)
        held[back] = room[back].layers(settings[back], stages[back], 0 * stages[back])
        at = np.flatnonzero(new & (stages[0] + stages[1] <= task.layers) & (held[0] + held[1] >= task.layers))
        slowest_s = np.maximum(
            task.layers / (stages[0][at] / layer_s[0][at] + stages[1][at] / layer_s[1][at]), link_s[at]
        )
        bound_s = np.maximum(count[at] - 1.0, 0.0) * slowest_s + task.layers * np.minimum(
            layer_s[0][at], layer_s[1][at]
        )
        at = at[np.argsort(bound_s, kind="stable")[:SETTINGS_LIMIT]]
        if len(at):
            bound_s = _bound_s(
                task.layers,
                [each[at] for each in stages],
                [each[at] for each in layer_s],
                [each[at] for each in held],
                count=count[at],
                link_s=link_s[at],
            )
            where = (settings[0][at], settings[1][at], stages[0][at], stages[1][at], np.full(len(at), front))
            columns.append(np.stack([*where, bound_s]))
    found = np.concatenate(columns, axis=1) if columns else np.zeros((6, 0))
    for at in np.lexsort(found):
        own = [int(value) for value in found[:5, at]]
        yield _Combination(
            settings=(own[0], own[1]), stages=(own[2], own[3]), front=own[4], bound_s=float(found[-1, at])
        )


def _bound_s(
    layers: int, stages: list[Ints], layer_s: list[Array], held: list[Array], *, count: Array, link_s: Array
) -> Array:
    """Of the step, over all numbers k of layers on the first pool: by pigeonhole, a stage of p holds at least
    ceil(k / p) of k layers, each at least as long as the shortest."""
    first = np.arange(1, layers)[None, :]
    own = [first, layers - first]
    slowest = [
        -(-each // some[:, None]) * seconds[:, None] for each, some, seconds in zip(own, stages, layer_s, strict=True)
    ]
    slowest_s = np.maximum(np.maximum(slowest[0], slowest[1]), link_s[:, None])
    passage_s = own[0] * layer_s[0][:, None] + own[1] * layer_s[1][:, None]
    step_s = np.maximum(count - 1.0, 0.0)[:, None] * slowest_s + passage_s
    fits = (own[0] <= held[0][:, None]) & (own[1] <= held[1][:, None])
    least: Array = np.where(fits, step_s, np.inf).min(axis=1)
    return least


def _alike(one: _Sides, two: _Sides) -> tuple[Ints, Ints]:
    """Pairs of settings with the same replicas and micro-batch."""
    first, second = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(one.dp)), np.arange(len(two.dp)), indexing="ij")
    )
    alike = (one.dp[first] == two.dp[second]) & (one.micro_batch[first] == two.micro_batch[second])
    return first[alike], second[alike]


class _Room:
    """How many layers the stages of a side hold at most: each as if all its layers were the smallest."""

    def __init__(self, sides: _Sides) -> None:
        flights = np.arange(1, 2 * STAGES_LIMIT + LINK_STAGES + 1)
        each = sides.states_bytes.min(axis=1)[:, None] + flights * sides.kept_bytes.min(axis=1)[:, None]
        room_bytes = np.maximum(sides.memory_bytes - sides.other_bytes, 0.0)
        layers = np.floor(room_bytes[:, None] / each)
        self._summed = np.concatenate([np.zeros((len(layers), 1)), np.cumsum(layers, axis=1)], axis=1)

    def layers(self, setting: Ints, stages: Ints, behind: Ints) -> Array:
        """At most, in so many stages with so many behind them."""
        held: Array = self._summed[setting, behind + stages] - self._summed[setting, behind]
        return held


def _cut(
    task: _Task, sides: tuple[_Sides, _Sides], made: _Combination, pools: tuple[str, str], bridges: Bridges
) -> Cuts:
    front, back = made.front, 1 - made.front
    link_s = float(_send_s(task, sides[0], made.settings[0], pools, bridges))
    return cut(
        sides[front].side(made.settings[front], front=True),
        sides[back].side(made.settings[back], front=False),
        front_stages=made.stages[front],
        back_stages=made.stages[back],
        link_s=link_s,
    )


def _step(task: _Task, sides: tuple[_Sides, _Sides], made: _Combination, cuts: Cuts) -> tuple[Array, Array]:
    """Seconds of a micro-batch and of the rest of a step, for each boundary."""
    front, back = made.front, 1 - made.front
    border = made.stages[front]
    fullest = [cuts.stages[:, :border].max(axis=1) - 1, cuts.stages[:, border:].max(axis=1) - 1]
    # Both pools reduce gradients and step their optimizers at the same time.
    ending_s = np.maximum(
        sides[front].fixed_s[made.settings[front], fullest[0]], sides[back].fixed_s[made.settings[back], fullest[1]]
    )
    count = sum(_devices(sides, made).values())
    waiting = 1.0 + task.parameters.jitter * max(np.log2(count / 8.0), 0.0)
    slot_s = cuts.slowest_s * waiting
    return slot_s, (cuts.passage_s + ending_s) * waiting - slot_s + task.parameters.step_s


def _devices(sides: tuple[_Sides, _Sides], made: _Combination) -> dict[int, int]:
    return {
        at: int(sides[at].tp[made.settings[at]] * sides[at].dp[made.settings[at]]) * made.stages[at] for at in (0, 1)
    }


class _Lines:
    """Ways found: a line in the micro-batches for each combination and boundary, those that are lowest somewhere."""

    def __init__(self) -> None:
        self._made: list[tuple[_Combination, tuple[int, ...]]] = []
        self._numbers: list[tuple[int, float, float]] = []

    def add(self, made: _Combination, cuts: Cuts, quantum: int, slot_s: Array, fixed_s: Array) -> None:
        order = np.lexsort((fixed_s, slot_s))
        least = np.inf
        for at in order:
            if fixed_s[at] < least:
                least = float(fixed_s[at])
                self._made.append((made, tuple(int(count) for count in cuts.stages[at])))
                self._numbers.append((quantum, float(slot_s[at]), least))

    def at(self, way: int) -> tuple[_Combination, tuple[int, ...]]:
        return self._made[way]

    def offers(self) -> Offers:
        count = len(self._numbers)
        quantum, slot_s, fixed_s = np.array(self._numbers, dtype=np.float64).reshape(-1, 3).T
        ones = np.ones(count, dtype=np.int64)
        return Offers(
            quantum=quantum.astype(np.int64),
            slot_s=slot_s,
            fixed_s=fixed_s,
            least=ones,
            most=np.full(count, UNLIMITED),
            multiple=ones,
            window_s=np.zeros(count),
        )


def _describe(sides: tuple[_Sides, _Sides], pools: tuple[str, str], made: _Combination, layers: tuple[int, ...]) -> Way:
    order = (made.front, 1 - made.front)
    used = _devices(sides, made)
    split = {
        "dp": float(sides[0].dp[made.settings[0]]),
        "micro_batch": float(sides[0].micro_batch[made.settings[0]]),
        "pp": float(sum(made.stages)),
    }
    for at in order:
        own, setting = sides[at], made.settings[at]
        split |= {
            f"{pools[at]}.tp": float(own.tp[setting]),
            f"{pools[at]}.pp": float(made.stages[at]),
            f"{pools[at]}.ep": float(own.ep[setting]),
            f"{pools[at]}.recompute": float(own.recompute[setting]),
            f"{pools[at]}.selective": float(own.selective[setting]),
        }
    front, back = order
    border = made.stages[front]
    held = stages_bytes(
        sides[front].side(made.settings[front], front=True),
        sides[back].side(made.settings[back], front=False),
        front_layers=layers[:border],
        back_layers=layers[border:],
    )
    stage_pools = tuple(pools[at] for at in order for _ in range(made.stages[at]))
    return Way(
        split=split,
        devices={pools[at]: used[at] for at in order},
        stage_layers=layers,
        stage_pools=stage_pools,
        memory_bytes=max(held),
    )


def _replicas(most: int) -> tuple[int, ...]:
    """Powers of two and three times them."""
    return tuple(sorted({size for power in _powers(most) for size in (power, 3 * power) if size <= most}))


def _powers(most: int) -> list[int]:
    return [1 << bit for bit in range(max(most, 1).bit_length())]
