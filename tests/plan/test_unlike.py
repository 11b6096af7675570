"""Plans over unlike pools: against brute force through the cost model, and what has to hold for all."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import fits, memory
from myriarch.cost.silicon import machine
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Machine, Split
from myriarch.cost.step import step_time
from myriarch.errors import SpecError
from myriarch.plan.bridge import EVERY_STEP, Averaging, Bridges, quality
from myriarch.plan.unlike import Entrant, UnlikePlan, Way, unlike_plans
from myriarch.plan.unlike_fleet import Task, fleet_plans
from myriarch.plan.unlike_offers import Axes, pool_entrant, split_of
from myriarch.plan.unlike_pipelines import pair_entrant
from myriarch.plan.unlike_shares import UNLIMITED, Offers
from myriarch.spec.catalogue import lookup
from myriarch.spec.fleet import Fleet, Link, Pool, PoolLink

SMALL = Decoder(
    layers=8.0,
    width=2048.0,
    heads=16.0,
    kv_heads=16.0,
    head_width=128.0,
    feed_forward=8192.0,
    gated=0.0,
    vocabulary=32000.0,
)
SOFTWARE = LEVELS["megatron-core"]
CONSTANTS = CALIBRATED["all"]
H100, A100 = machine(lookup("h100-sxm")), machine(lookup("a100-sxm-80"))
FEW = Axes(tp=(1, 2), pp=(1, 2), cp=(1,), dp=(1, 2), micro_batch=(1, 2), virtual=(1,), zero_stage=(1,))
WIDE = Link(bandwidth_bytes_per_s=1e15)


def linked(bandwidth_bytes_per_s: float, *pools: str, latency_s: float = 0.0) -> Bridges:
    link = Link(bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_s=latency_s)
    return Bridges(links=dict.fromkeys(itertools.combinations(sorted(pools), 2), link))


def entrant(pool: str, slot_s: float, fixed_s: float = 0.0, *, quantum: int = 1) -> Entrant:
    """A pool with one way."""
    one = np.ones(1, dtype=np.int64)
    ways = Offers(
        quantum=quantum * one,
        slot_s=np.array([slot_s]),
        fixed_s=np.array([fixed_s]),
        least=one,
        most=UNLIMITED * one,
        multiple=one,
        window_s=np.zeros(1),
    )
    return Entrant(pools=(pool,), offers=ways, describe=lambda way: Way(split={}, devices={pool: 1}))


def best(entrants: Sequence[Entrant], bridges: Bridges, *, batch: int = 64, parameters: float = 1e9) -> UnlikePlan:
    return unlike_plans(entrants, batch=batch, parameters=parameters, bridges=bridges)[0]


def of_pool(name: str, own: Machine, devices: int, batch: int, axes: Axes = FEW) -> Entrant:
    return pool_entrant(
        name,
        SMALL,
        machine=own,
        devices=devices,
        batch=batch,
        sequence=2048,
        software=SOFTWARE,
        parameters=CONSTANTS,
        axes=axes,
    )


@functools.cache
def some_ways() -> Entrant:
    return of_pool("a", A100, 8, 64, Axes(cp=(1, 2), micro_batch=(1, 2)))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_offers_are_what_the_cost_model_says(pick: int, micro_batches: int) -> None:
    """A step is affine in its micro-batches: two evaluations are all of it."""
    ways = some_ways()
    way = pick % len(ways.offers)
    sequences = int(ways.offers.quantum[way]) * micro_batches
    split = split_of(ways.describe(way), sequences=sequences, sequence=2048, software=SOFTWARE)
    step = step_time(SMALL, machine=A100, split=split, software=SOFTWARE, parameters=CONSTANTS)
    assert ways.offers.step_s(way, micro_batches) == pytest.approx(float(step.total_s), rel=1e-9)


def alone(own: Machine, devices: int, sequences: int) -> float:
    """The fastest split of `FEW` for so many sequences, one evaluation each."""
    least = math.inf
    for tp, pp, dp, micro_batch in itertools.product(FEW.tp, FEW.pp, FEW.dp, FEW.micro_batch):
        for recompute, selective in FEW.recompute:
            split = Split(
                tp=float(tp),
                pp=float(pp),
                dp=float(dp),
                expert_tp=float(tp),
                sequence_parallel=float(tp > 1),
                zero_stage=1.0,
                batch=float(sequences),
                micro_batch=float(micro_batch),
                sequence=2048.0,
                recompute=recompute,
                selective=selective,
            )
            if tp * pp * dp > devices or tp * pp * dp < 1 or sequences % (dp * micro_batch):
                continue
            if fits(memory(SMALL, split=split, software=SOFTWARE), own.memory_bytes):
                step = step_time(SMALL, machine=own, split=split, software=SOFTWARE, parameters=CONSTANTS)
                least = min(least, float(step.total_s))
    return least


@pytest.mark.parametrize("batch", [2, 7])
def test_the_plan_is_the_optimum_of_all_splits_and_shares(batch: int) -> None:
    """Every split of both pools with every share, each by itself through `cost.step_time`."""
    entrants = [of_pool("h", H100, 4, batch), of_pool("a", A100, 4, batch)]
    bridges = linked(25e9, "h", "a")
    plan = unlike_plans(
        entrants, batch=batch, parameters=float(SMALL.parameters), bridges=bridges, averagings=(EVERY_STEP,)
    )[0]
    exchange_s = float(SMALL.parameters) * 4.0 / 25e9
    together = min(max(alone(H100, 4, share), alone(A100, 4, batch - share)) + exchange_s for share in range(1, batch))
    assert plan.step_s == pytest.approx(min(together, alone(H100, 4, batch), alone(A100, 4, batch)), rel=1e-9)


@settings(max_examples=40)
@given(st.lists(st.floats(0.1, 5.0), min_size=1, max_size=4), st.floats(0.1, 5.0), st.floats(1e8, 1e13))
def test_one_pool_more_is_never_slower(slots: list[float], more_s: float, bandwidth: float) -> None:
    """Subsets are considered, so what does not help is left out."""
    pools = [entrant(f"p{index}", slot) for index, slot in enumerate([*slots, more_s])]
    bridges = linked(bandwidth, *(each.pools[0] for each in pools))
    fewer, all_of_them = best(pools[:-1], bridges), best(pools, bridges)
    assert all_of_them.bridge.judged_s <= fewer.bridge.judged_s * (1.0 + 1e-12)


@settings(max_examples=40)
@given(st.lists(st.floats(0.1, 5.0), min_size=2, max_size=3), st.floats(1e7, 1e12), st.floats(1.0, 100.0))
def test_more_bandwidth_is_never_slower(slots: list[float], bandwidth: float, factor: float) -> None:
    """As judged; and in seconds for each averaging by itself."""
    pools = [entrant(f"p{index}", slot) for index, slot in enumerate(slots)]
    names = [each.pools[0] for each in pools]
    slow, fast = best(pools, linked(bandwidth, *names)), best(pools, linked(bandwidth * factor, *names))
    assert fast.bridge.judged_s <= slow.bridge.judged_s * (1.0 + 1e-12)
    for averaging in (EVERY_STEP, Averaging(mode="streamed", every_steps=30, value_bytes=0.5)):
        seconds = [
            unlike_plans(pools, batch=64, parameters=1e9, bridges=bridges, averagings=(averaging,))[0].step_s
            for bridges in (linked(bandwidth * factor, *names), linked(bandwidth, *names))
        ]
        # Judged like seconds, all families pay the same price but a pool alone, which pays none.
        assert seconds[0] <= seconds[1] * averaging.price * (1.0 + 1e-12)


@given(st.floats(0.01, 5.0), st.floats(0.0, 5.0), st.integers(1, 40))
def test_two_equal_pools_are_one_of_twice_the_replicas(slot_s: float, fixed_s: float, half: int) -> None:
    """Exactly, for an even batch and a link that takes no time: what one pool does in two replicas, two do in one."""
    two = unlike_plans(
        [entrant("a", slot_s, fixed_s), entrant("b", slot_s, fixed_s)],
        batch=2 * half,
        parameters=0.0,
        bridges=linked(1e30, "a", "b"),
        averagings=(EVERY_STEP,),
    )[0]
    one = best([entrant("ab", slot_s, fixed_s, quantum=2)], Bridges(links={}), batch=2 * half)
    assert two.step_s == pytest.approx(one.step_s, rel=1e-12)
    assert [group.sequences for group in two.groups] == [half, half]


def test_two_equal_pools_of_the_cost_model_are_nearly_one_of_the_sum() -> None:
    """16 and 16 H100 without a link's time against 32: apart from waiting for more devices and wider collectives."""
    plan = best([of_pool(name, H100, 16, 256, Axes()) for name in "ab"], linked(1e30, "a", "b"), batch=256)
    whole = best([of_pool("ab", H100, 32, 256, Axes())], Bridges(links={}), batch=256)
    assert plan.step_s == pytest.approx(whole.step_s, rel=0.02)
    assert plan.of_sum_of_solos is not None


def test_a_slow_pool_over_a_slow_link_is_left_out() -> None:
    """With every-step averaging; and the plan says what it would cost."""
    pools = [entrant("fast", 0.1), entrant("slow", 5.0)]
    plan = unlike_plans(pools, batch=64, parameters=1e9, bridges=linked(1e9, "fast", "slow"), averagings=(EVERY_STEP,))[
        0
    ]
    assert [group.pools for group in plan.groups] == [("fast",)]
    assert plan.left_out[0].pool == "slow"
    assert plan.left_out[0].step_s is not None
    assert plan.left_out[0].step_s > plan.step_s
    assert "fast - slow" in plan.left_out[0].reason


def test_the_link_chooses_the_averaging() -> None:
    """4 GB each step: nothing at 1 TB/s, everything at 100 MB/s."""
    pools = [entrant("a", 0.1), entrant("b", 0.1)]
    assert best(pools, linked(1e12, "a", "b")).bridge.averaging == EVERY_STEP
    slow = best(pools, linked(1e8, "a", "b"))
    assert slow.bridge.averaging.every_steps > 1
    assert slow.bridge.judged_s == pytest.approx(slow.bridge.averaging.price * slow.step_s)
    assert any(each.averaging == EVERY_STEP and each.step_s > slow.step_s for each in slow.alternatives)
    assert "not printed" in slow.bridge.quality or "H = 30" in slow.bridge.quality


def test_pools_without_a_link_do_not_train_together() -> None:
    pools = [entrant("a", 0.1), entrant("b", 0.1)]
    plan = best(pools, Bridges(links={}))
    assert len(plan.groups) == 1
    assert "no link between" in plan.left_out[0].reason


def test_quality_is_what_is_published() -> None:
    """Charles et al. (arXiv:2503.09799): table 4, 2.4B with two replicas -0.1 %; table 5, 10B with four +0.29 %."""
    cadence = Averaging(mode="every_h_steps", every_steps=30)
    assert "loss -0.1% at 2.4B with 2 equal groups" in quality(cadence, parameters=2.4e9, groups=2)
    assert "+0.3% at 10B" in quality(cadence, parameters=10e9, groups=4)
    assert quality(cadence, parameters=10e9, groups=3).startswith("not known")
    assert quality(cadence, parameters=1e12, groups=2).startswith("not known at 1e+03B")
    assert quality(EVERY_STEP, parameters=1e12, groups=2).startswith("none")


def test_streaming_needs_the_bandwidth_that_was_published() -> None:
    """Order of magnitude of arXiv:2503.09799, table 6: a 10B model with steps of 0.8 s, averaged every 100 steps, is
    at 50 % of its compute with 1.4 Gbit/s, by the simulator of arXiv:2501.18512 and its bytes."""
    exchange_s = Bridges(links={("a", "b"): Link(bandwidth_bytes_per_s=1.4e9 / 8.0)}).send_s(10e9 * 2.0, "a", "b")
    added_s = Averaging(mode="every_h_steps", every_steps=100, value_bytes=2.0).added_s(exchange_s)
    assert 0.8 / (0.8 + added_s) == pytest.approx(0.5, abs=0.1)


def pair(decoder: Decoder, machines: tuple[Machine, Machine], devices: int, batch: int) -> Entrant:
    return pair_entrant(
        ("a", "b"),
        decoder,
        machines=machines,
        devices=(devices, devices),
        batch=batch,
        sequence=2048,
        software=SOFTWARE,
        parameters=CONSTANTS,
        bridges=Bridges(links={("a", "b"): WIDE}),
    )


LARGE = Decoder(
    layers=24.0,
    width=8192.0,
    heads=64.0,
    kv_heads=64.0,
    head_width=128.0,
    feed_forward=32768.0,
    gated=0.0,
    vocabulary=32000.0,
)


def test_a_model_too_big_for_either_pool_lies_on_both() -> None:
    """26 billion parameters on 4 + 4 A100: neither four hold it."""
    model = dataclasses.replace(LARGE, layers=32.0)
    both = pair(model, (A100, A100), 4, 64)
    entrants = [
        pool_entrant(
            name,
            model,
            machine=A100,
            devices=4,
            batch=64,
            sequence=2048,
            software=SOFTWARE,
            parameters=CONSTANTS,
        )
        for name in "ab"
    ]
    assert [len(each.offers) for each in entrants] == [0, 0]
    plan = best([*entrants, both], Bridges(links={("a", "b"): WIDE}))
    way = plan.groups[0].way
    assert plan.groups[0].pools == ("a", "b")
    assert sum(way.stage_layers) == 32
    assert set(way.stage_pools) == {"a", "b"}
    assert 0.0 < way.memory_bytes <= A100.memory_bytes


def test_a_pipeline_over_two_equal_pools_is_that_of_one_pool_of_the_sum() -> None:
    """Plain 1F1B with the same number of stages, within the formulas' different bubble: 5 %."""
    both = best([pair(LARGE, (H100, H100), 8, 128)], Bridges(links={}), batch=128)
    way = both.groups[0].way
    split = Split(
        tp=way.split["a.tp"],
        pp=way.split["pp"],
        dp=way.split["dp"],
        expert_tp=way.split["a.tp"],
        sequence_parallel=float(way.split["a.tp"] > 1),
        zero_stage=1.0,
        batch=128.0,
        micro_batch=way.split["micro_batch"],
        sequence=2048.0,
        recompute=way.split["a.recompute"],
        selective=way.split["a.selective"],
    )
    step = step_time(LARGE, machine=H100, split=split, software=SOFTWARE, parameters=CONSTANTS)
    assert way.split["a.tp"] == way.split["b.tp"]
    assert both.step_s == pytest.approx(float(step.total_s), rel=0.05)


def test_layers_follow_the_faster_pool() -> None:
    """An H100 does more layers than an A100."""
    both = best([pair(LARGE, (H100, A100), 8, 128)], Bridges(links={}), batch=128)
    way = both.groups[0].way
    each = {
        pool: sum(count for count, own in zip(way.stage_layers, way.stage_pools, strict=True) if own == pool)
        for pool in "ab"
    }
    assert each["a"] > each["b"]


def fleet(*chips: str, bandwidth_bytes_per_s: float = 1e12) -> Fleet:
    pools = tuple(Pool(name=f"p{index}", chip=chip, nodes=2, devices_per_node=8) for index, chip in enumerate(chips))
    links = tuple(
        PoolLink(between=(one.name, two.name), bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_s=1e-3)
        for one, two in itertools.combinations(pools, 2)
    )
    return Fleet(name="f", pools=pools, links=links)


TASK = Task(decoder=SMALL, batch=128, sequence=2048, software=SOFTWARE, parameters=CONSTANTS)


def test_a_chip_without_numbers_is_refused_by_name() -> None:
    """Nobody published the Ascend 910B's bandwidth: it is not guessed, and the others go on."""
    plan = fleet_plans(TASK, fleet("h100-sxm", "ascend-910b"), pipelines=False)[0]
    assert [group.pools for group in plan.groups] == [("p0",)]
    assert "ascend-910b" in plan.left_out[0].reason
    with pytest.raises(SpecError, match="none of the 1 pools"):
        fleet_plans(TASK, fleet("ascend-910b"))


def test_doubtful_numbers_are_said() -> None:
    plan = fleet_plans(TASK, fleet("h100-sxm", "rtx-4090"), pipelines=False)[0]
    doubts = {group.pools[0]: group.doubts for group in plan.groups}
    assert doubts["p0"] == ()
    if "p1" in doubts:
        assert any("recalled" in doubt for doubt in doubts["p1"])


def test_three_kinds_end_together() -> None:
    """H100, A100 and MI300X: everybody works, and nobody waits longer than one of his micro-batches."""
    plan = fleet_plans(TASK, fleet("h100-sxm", "a100-sxm-80", "mi300x"), pipelines=False)[0]
    assert len(plan.groups) == 3
    assert sum(group.sequences for group in plan.groups) == 128
    assert min(group.slack_s for group in plan.groups) == 0.0
    assert plan.of_best_solo is not None
    assert plan.of_best_solo > 1.0
    assert plan.reasons
