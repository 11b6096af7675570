"""The search against brute force over the same space, and what must hold of any search."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.cost.arrays import Array, Real
from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.layer import Setting
from myriarch.cost.memory import fits, memory
from myriarch.cost.offload import fits_host
from myriarch.cost.silicon import machine
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Machine, Split
from myriarch.cost.step import StepTime, step_time
from myriarch.cost.table import Table
from myriarch.errors import SpecError
from myriarch.plan.miss import leanest
from myriarch.plan.objective import DeviceSeconds, Joules, Objective, StepSeconds
from myriarch.plan.search import ANY, FASTEST, Distinct, Found, search
from myriarch.plan.space import Mesh, Space
from myriarch.plan.tables import Question
from myriarch.spec.catalogue import lookup

CONSTANTS = CALIBRATED["all"]
SOFTWARE = LEVELS["megatron-core"]
H100 = {precision: machine(lookup("h100-sxm"), precision=precision) for precision in ("bf16", "fp8")}
DENSE = Decoder(
    layers=6.0,
    width=4096.0,
    heads=32.0,
    kv_heads=8.0,
    head_width=128.0,
    feed_forward=14336.0,
    gated=1.0,
    vocabulary=128256.0,
)
MIXTURE = dataclasses.replace(
    DENSE, layers=4.0, experts=8.0, top_k=2.0, expert_feed_forward=7168.0, shared_experts=1.0, dense_layers=1.0
)
LATENT = dataclasses.replace(
    MIXTURE, head_width=192.0, kv_heads=32.0, query_rank=1536.0, kv_rank=512.0, rope_width=64.0, value_width=128.0
)


OFFLOADING = Space(offload_optimizer=(0.0, 1.0), offload_activations=(0.0, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    decoder: Decoder
    devices: int
    batch: int
    sequence: int = 4096
    whole: bool = True
    memory_bytes: float = 20e9
    host_memory_bytes: float = 8e9
    precisions: tuple[str, ...] = ("bf16", "fp8")

    @property
    def machines(self) -> dict[str, Machine]:
        own = {"memory_bytes": self.memory_bytes, "host_memory_bytes": self.host_memory_bytes}
        return {name: dataclasses.replace(H100[name], **own) for name in self.precisions}

    def search(
        self,
        *,
        objective: Objective = FASTEST,
        top: int = 5,
        distinct: Distinct = "plan",
        census: bool = False,
        space: Space = OFFLOADING,
    ) -> Found:
        return search(
            self.decoder,
            machines=self.machines,
            devices=self.devices,
            batch=self.batch,
            sequence=self.sequence,
            software=SOFTWARE,
            parameters=CONSTANTS,
            space=space,
            objective=objective,
            top=top,
            whole=self.whole,
            distinct=distinct,
            census=census,
        )


NAMES = (
    "tp",
    "cp",
    "pp",
    "dp",
    "ep",
    "expert_tp",
    "zero_stage",
    "shard",
    "offload_optimizer",
    "virtual",
    "zero_bubble",
    "micro_batch",
    "recompute",
    "selective",
    "offload_activations",
    "sequence_parallel",
    "narrow_share",
    "narrow_bytes",
)


def divides(small: Real, large: Real) -> bool:
    return bool(np.remainder(large, small) == 0)


def every_split(case: Case) -> Iterator[tuple[float, ...]]:
    """All plans by the rules of `plan.space`, written once more in the plainest way. Columns as `NAMES`."""
    d = case.decoder
    layers, experts = int(d.layers), int(d.experts)
    precise = [(0.0, 2.0) if name == "bf16" else (1.0, 1.0) for name in case.precisions]
    for tp, cp, pp, dp in itertools.product((1, 2, 4, 8), (1, 2, 4, 8), range(1, layers + 1), range(1, 65)):
        devices = tp * cp * pp * dp
        if devices > case.devices or (case.whole and devices != case.devices):
            continue
        most = math.ceil(layers / pp)
        if not (divides(tp, d.heads) and divides(tp, d.feed_forward) and divides(dp, case.batch)):
            continue
        if (pp - 1) * most >= layers or (cp > 1 and (case.sequence % (2 * cp) or case.sequence // cp < 2048)):
            continue
        own = case.batch // dp
        sizes = [size for size in range(1, min(own, 16) + 1) if divides(size, own)]
        schedules = [(1, 0)]
        if pp > 1:
            schedules = [(1, 0), (1, 1), *((size, 0) for size in range(2, most + 1) if divides(size, most))]
        recomputed = [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), *((number / most, 0.0, 0.0) for number in range(1, most + 1))]
        recomputed += [(0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)]
        for ep, expert_tp in itertools.product(range(1, experts + 1), {1, tp}) if experts else [(1, 1)]:
            if experts and not (
                divides(ep, experts)
                and divides(expert_tp, d.expert_feed_forward)
                and divides(ep * expert_tp, tp * cp * dp)
            ):
                continue
            zero = [(0, 0)]
            if dp * cp > 1 or (experts and tp > ep * expert_tp):
                groups = [size for size in range(2, dp * cp) if divides(size, dp * cp)]
                zero = [(0, 0), (1, 0), (2, 0), (3, 0), *((3, size) for size in groups)]
            hosted = [(*each, share) for each in zero for share in (0.0, 1.0)]
            for sharding, schedule, size, again, parallel, precision in itertools.product(
                hosted, schedules, sizes, recomputed, {0, int(tp > 1)}, precise
            ):
                if schedule[0] == 1 or divides(pp, own // size):
                    yield (tp, cp, pp, dp, ep, expert_tp, *sharding, *schedule, size, *again, parallel, *precision)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brute:
    """Every plan that fits, the fastest first."""

    plans: int
    """With those that do not fit."""
    split: Split
    step_s: Array
    compute_s: Array


@cache
def brute_force(case: Case) -> Brute:
    columns = np.array(list(every_split(case)), dtype=np.float64).reshape(-1, len(NAMES)).T
    named = dict(zip(NAMES, columns, strict=True))
    split = Split(batch=float(case.batch), sequence=float(case.sequence), **named)
    needed = memory(case.decoder, split=split, software=SOFTWARE)
    device = next(iter(case.machines.values()))
    held = np.logical_and(fits(needed, case.memory_bytes), fits_host(needed.host_bytes, device) > 0)
    split = Split(
        batch=float(case.batch), sequence=float(case.sequence), **{name: values[held] for name, values in named.items()}
    )
    rates = {precision: device.narrow_flops_per_s for precision, device in case.machines.items()}
    narrow = np.where(np.less(split.narrow_bytes, 2.0), rates.get("fp8", 0.0), rates.get("bf16", 0.0))
    device = dataclasses.replace(device, narrow_flops_per_s=narrow)
    step = step_time(case.decoder, machine=device, split=split, software=SOFTWARE, parameters=CONSTANTS)
    table = Table.of(
        Setting(decoder=case.decoder, machine=device, split=split, software=SOFTWARE, parameters=CONSTANTS)
    )
    layers_s = case.decoder.layers * (table.layer.compute_s + table.again.compute_s)
    compute_s = split.micro_batches * (layers_s + table.head.compute_s) / split.pp
    return Brute(plans=columns.shape[1], split=split, step_s=step.total_s, compute_s=compute_s)


CASES = {
    "dense": Case(decoder=DENSE, devices=16, batch=32),
    "dense, little memory": Case(decoder=DENSE, devices=16, batch=32, memory_bytes=12e9),
    "stages that do not divide evenly": Case(decoder=dataclasses.replace(DENSE, layers=7.0), devices=12, batch=24),
    "long sequences": Case(decoder=DENSE, devices=16, batch=4, sequence=16384, memory_bytes=30e9),
    "mixture": Case(decoder=MIXTURE, devices=8, batch=8, precisions=("fp8",)),
    "latent attention": Case(decoder=LATENT, devices=4, batch=8, memory_bytes=40e9),
    "idle devices": Case(decoder=DENSE, devices=11, batch=12, whole=False, precisions=("bf16",)),
    "idle devices, mixture": Case(
        decoder=MIXTURE, devices=5, batch=6, whole=False, precisions=("fp8",), memory_bytes=40e9
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "objective", [StepSeconds(), DeviceSeconds(), Joules(idle_w=200.0, busy_w=700.0)], ids=lambda each: each.name
)
def test_the_best_plans_are_those_of_brute_force(name: str, objective: Objective) -> None:
    case, brute = CASES[name], brute_force(CASES[name])
    expected = objective.score(brute.step_s, busy_s=brute.compute_s, devices=brute.split.devices)
    found = case.search(objective=objective, top=8)
    assert found.counts.plans == brute.plans
    assert [plan.score for plan in found.plans] == pytest.approx(np.sort(expected)[:8].tolist(), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_best_of_each_mesh(name: str) -> None:
    case, brute = CASES[name], brute_force(CASES[name])
    meshes = np.stack([np.asarray(getattr(brute.split, axis)) for axis in NAMES[:6]], axis=1)
    best: dict[tuple[float, ...], float] = {}
    for mesh, step_s in zip(map(tuple, meshes.tolist()), brute.step_s.tolist(), strict=True):
        best[mesh] = min(best.get(mesh, math.inf), step_s)
    found = case.search(top=5, distinct="mesh")
    assert [plan.step_s for plan in found.plans] == pytest.approx(sorted(best.values())[:5], rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_census_counts_all_that_fit(name: str) -> None:
    found = CASES[name].search(census=True)
    assert found.counts.feasible == brute_force(CASES[name]).step_s.size
    assert found.counts.timed + found.counts.infeasible + found.counts.slower == found.counts.plans


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    experts = draw(st.sampled_from([0.0, 4.0]))
    decoder = Decoder(
        layers=float(draw(st.integers(1, 5))),
        width=float(draw(st.sampled_from([512, 2048]))),
        heads=8.0,
        kv_heads=float(draw(st.sampled_from([1, 4, 8]))),
        head_width=128.0,
        feed_forward=float(draw(st.sampled_from([1024, 8192]))),
        gated=float(draw(st.booleans())),
        vocabulary=float(draw(st.sampled_from([256, 64000]))),
        tied=float(draw(st.booleans())),
        experts=experts,
        top_k=min(experts, 2.0),
        expert_feed_forward=1024.0 if experts else 0.0,
    )
    return Case(
        decoder=decoder,
        devices=draw(st.sampled_from([1, 2, 4])),
        batch=draw(st.sampled_from([4, 6])),
        whole=draw(st.booleans()),
        memory_bytes=draw(st.sampled_from([4.2e9, 5e9, 8e9, 80e9])),
        precisions=("bf16",),
    )


@settings(max_examples=15, deadline=None)
@given(small_cases())
def test_small_models_against_brute_force(case: Case) -> None:
    brute, found = brute_force(case), case.search()
    assert found.counts.plans == brute.plans
    assert [plan.step_s for plan in found.plans] == pytest.approx(np.sort(brute.step_s)[:5].tolist(), rel=1e-12)
    assert (found.miss is None) == bool(found.plans)


GPT3 = Decoder(
    layers=96.0,
    width=12288.0,
    heads=96.0,
    kv_heads=96.0,
    head_width=128.0,
    feed_forward=49152.0,
    gated=0.0,
    vocabulary=51200.0,
    tied=1.0,
)
A100 = machine(lookup("a100-sxm-80"))


def gpt3(
    *, devices: int = 64, device: Machine = A100, batch: int = 64, whole: bool = True, space: Space = ANY
) -> Found:
    return search(
        GPT3,
        machines={"bf16": device},
        devices=devices,
        batch=batch,
        sequence=2048,
        software=SOFTWARE,
        parameters=CONSTANTS,
        whole=whole,
        space=space,
    )


def best_s(found: Found) -> float:
    assert found.best is not None
    return found.best.step_s


@pytest.mark.parametrize(
    "field",
    [
        "matmul_flops_per_s",
        "memory_bandwidth_bytes_per_s",
        "link_bandwidth_bytes_per_s",
        "network_bandwidth_bytes_per_s",
        "memory_bytes",
    ],
)
@pytest.mark.parametrize("factor", [1.01, 1.5, 8.0])
def test_better_devices_never_make_the_best_plan_slower(field: str, factor: float) -> None:
    better = dataclasses.replace(A100, **{field: getattr(A100, field) * factor})
    assert best_s(gpt3(device=better)) <= best_s(gpt3())


def test_more_memory_never_makes_fewer_plans_fit() -> None:
    feasible = []
    for memory_bytes in (10e9, 15e9, 20e9, 30e9, 80e9):
        found = dataclasses.replace(CASES["mixture"], memory_bytes=memory_bytes).search(census=True)
        feasible.append(found.counts.feasible or 0)
    assert feasible == sorted(feasible)
    assert feasible[0] < feasible[-1]


def test_permission_to_leave_devices_idle_is_never_slower() -> None:
    times = [best_s(gpt3(devices=devices, whole=False)) for devices in (60, 64, 80, 96, 100)]
    assert times == sorted(times, reverse=True)
    assert times[1] <= best_s(gpt3(devices=64))


def test_a_larger_space_is_never_slower() -> None:
    small = gpt3(space=Space(zero_bubble=(False,), virtual=(1,), zero_stage=(0, 1)))
    assert best_s(gpt3()) <= best_s(small)


def test_time_grows_with_tokens_and_not_faster_than_they() -> None:
    once, twice = best_s(gpt3()), best_s(gpt3(batch=128))
    assert once < twice <= 2.0 * once


@given(st.sampled_from([0.25, 1.0, 4.0, 1024.0]))
def test_a_unit_of_time_changes_no_plan(unit: float) -> None:
    """All rates in another unit of time: the same plans, seconds in the same unit."""
    rates = {
        field.name: getattr(A100, field.name) * unit
        for field in dataclasses.fields(Machine)
        if field.name.endswith("_per_s")
    }
    scaled = dataclasses.replace(A100, **rates, power_w=A100.power_w * unit)
    times = {
        field.name: getattr(CONSTANTS, field.name) / unit
        for field in dataclasses.fields(CONSTANTS)
        if field.name.endswith("_s")
    }
    narrow = Space(virtual=(1, 2), micro_batch=(1, 2), offload_optimizer=(0.0, 1.0), offload_activations=(0.0,))
    found = search(
        GPT3,
        machines={"bf16": scaled},
        devices=64,
        batch=64,
        sequence=2048,
        software=dataclasses.replace(SOFTWARE, host_seconds=SOFTWARE.host_seconds / unit),
        parameters=dataclasses.replace(CONSTANTS, **times),
        space=narrow,
    )
    plain = gpt3(space=narrow)
    assert [plan.split for plan in found.plans] == [plan.split for plan in plain.plans]
    assert best_s(found) * unit == pytest.approx(best_s(plain), rel=1e-9)


def test_axes_multiply_to_the_devices_and_steps_tell_the_batch() -> None:
    for plan in gpt3().plans:
        split = plan.split
        assert split.tp * split.pp * split.cp * split.dp == plan.devices == 64
        assert float(split.micro_batches) * split.micro_batch * split.dp == split.batch


def test_a_plan_tells_its_memory_stage_by_stage() -> None:
    for plan in gpt3().plans:
        assert len(plan.stages) == plan.split.pp
        assert max(float(stage.total_bytes) for stage in plan.stages) == pytest.approx(float(plan.memory.total_bytes))


def test_each_plan_says_what_the_next_does_differently() -> None:
    plans = gpt3().plans
    for plan, behind in itertools.pairwise(plans):
        assert plan.next is not None
        assert plan.next.step_s == pytest.approx(behind.step_s - plan.step_s)
        assert sum(plan.next.parts_s.values()) == pytest.approx(plan.next.step_s, abs=1e-9)
        assert set(plan.next.parts_s) == {field.name for field in dataclasses.fields(StepTime)}
        assert plan.next.axes
        for axis, (here, there) in plan.next.axes.items():
            assert (here, there) == (getattr(plan.split, axis), getattr(behind.split, axis))
    assert plans[-1].next is None


def test_a_model_that_fits_nowhere_has_a_nearest_miss() -> None:
    """175B parameters need 16 bytes each when nothing is replicated: 2.8 TB, on 8 devices of 86 GB."""
    found = gpt3(devices=8, batch=8)
    assert not found.plans
    miss = found.miss
    assert miss is not None
    assert miss.split is not None
    assert miss.excess_bytes is not None
    assert 250e9 < miss.excess_bytes < 350e9
    assert not miss.offload_helps
    assert miss.devices_needed == 64
    assert gpt3(devices=64, batch=8).plans
    between = gpt3(devices=32, batch=8)
    assert between.miss is not None
    assert between.miss.offload_helps
    assert gpt3(devices=32, batch=8, space=OFFLOADING).plans
    assert "optimizer" in miss.text
    assert "64 devices hold it" in miss.text


def test_a_device_with_what_the_nearest_miss_asks_for_holds_it() -> None:
    miss = gpt3(devices=8, batch=8).miss
    assert miss is not None
    assert miss.needed_bytes is not None
    assert gpt3(devices=8, batch=8, device=dataclasses.replace(A100, memory_bytes=miss.needed_bytes)).plans
    smaller = dataclasses.replace(A100, memory_bytes=miss.needed_bytes * 0.999)
    assert not gpt3(devices=8, batch=8, device=smaller).plans


def test_a_batch_that_no_split_divides() -> None:
    found = gpt3(devices=1009, batch=64)  # a prime
    assert not found.plans
    assert found.miss is not None
    assert found.miss.split is None
    assert "idle" in found.miss.text
    assert gpt3(devices=1009, batch=64, whole=False).plans


def test_machines_of_two_kinds_are_refused() -> None:
    with pytest.raises(SpecError, match="another"):
        search(
            GPT3,
            machines={"bf16": A100, "fp8": H100["fp8"]},
            devices=64,
            batch=64,
            sequence=2048,
            software=SOFTWARE,
            parameters=CONSTANTS,
        )


@pytest.mark.parametrize("name", CASES)
def test_the_leanest_plan_of_a_mesh_needs_the_least(name: str) -> None:
    """With memory for everything, the smallest of a mesh's plans by brute force."""
    case = dataclasses.replace(CASES[name], memory_bytes=1e15)
    brute = brute_force(case)
    needed = np.broadcast_to(
        memory(case.decoder, split=brute.split, software=SOFTWARE).device_bytes, brute.step_s.shape
    )
    axes = np.stack([np.asarray(getattr(brute.split, axis)) for axis in NAMES[:6]], axis=1)
    least: dict[Mesh, float] = {}
    for sizes, size_bytes in zip(axes.astype(int).tolist(), needed.tolist(), strict=True):
        tp, cp, pp, dp, ep, expert_tp = sizes
        mesh = Mesh(tp, cp, pp, dp, ep, expert_tp)
        least[mesh] = min(least.get(mesh, math.inf), size_bytes)
    question = Question(
        decoder=case.decoder,
        machines=case.machines,
        batch=case.batch,
        sequence=case.sequence,
        software=SOFTWARE,
        parameters=CONSTANTS,
        offloaded=OFFLOADING.offloaded[1],
    )
    assert leanest(question, OFFLOADING, tuple(least)).bytes.tolist() == pytest.approx(list(least.values()), rel=1e-12)


def test_values_that_are_given_are_the_only_ones_tried() -> None:
    given_space = Space(tp=(4,), pp=(8, 16), micro_batch=(2,), virtual=(1,), zero_bubble=(False,), zero_stage=(1,))
    found = gpt3(space=given_space)
    assert found.plans
    for plan in found.plans:
        split = plan.split
        assert (split.tp, split.micro_batch, split.virtual, split.zero_bubble) == (4, 2, 1, 0)
        assert split.pp in (8, 16)
        assert split.zero_stage in (0, 1)


def test_what_the_rules_forbid_is_counted() -> None:
    found = gpt3(space=Space(tp=(5,)))
    assert not found.plans
    assert found.forbidden == {"tp does not divide heads or MLP": 1}
    assert gpt3(batch=48, space=Space(micro_batch=(5,))).forbidden["no micro-batch divides a replica's batch"] > 0
