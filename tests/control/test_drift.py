"""Shares follow the speeds that the steps show."""

from __future__ import annotations

import pytest

from myriarch.control.drift import WINDOW_STEPS, Drift, step_s
from myriarch.event.actions import Decide, GroupShare, HoldWorkers, StartSteps
from myriarch.event.events import StepCompleted
from myriarch.event.ids import GroupId, Incarnation, Step
from myriarch.simulate import Fault, Simulation, Timing, replay, simulate
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, ResolvedRun, Run

FAST, SLOW = GroupId("fast"), GroupId("slow")
SHARES = {
    FAST: GroupShare(group=FAST, world_size=2, first=0, count=12),
    SLOW: GroupShare(group=SLOW, world_size=2, first=12, count=4),
}


def step(group: GroupId, number: int, compute_s: float) -> StepCompleted:
    return StepCompleted(
        group=group, incarnation=Incarnation(1), step=Step(number), loss_sum=1.0, tokens=1, group_tokens=1,
        duration_s=compute_s, compute_s=compute_s,
    )  # fmt: skip


def observed(fast_s: float, slow_s: float, steps: int = WINDOW_STEPS) -> Drift:
    drift = Drift()
    for number in range(1, steps + 1):
        drift.completed(step(FAST, number, fast_s))
        drift.completed(step(SLOW, number, slow_s))
        drift.check()
    return drift


def test_speed_is_sequences_per_second_of_one_device() -> None:
    assert observed(0.6, 0.4).speeds(SHARES) == {FAST: pytest.approx(10.0), SLOW: pytest.approx(5.0)}


def test_one_disturbed_step_does_not_move_a_speed() -> None:
    drift = observed(0.6, 0.4)
    drift.completed(step(FAST, WINDOW_STEPS + 1, 30.0))
    assert drift.speeds(SHARES)[FAST] == pytest.approx(10.0)


def test_it_is_not_looked_before_every_window_is_full_nor_with_one_group() -> None:
    assert not observed(0.6, 0.4, steps=WINDOW_STEPS - 1).due(2)
    assert observed(0.6, 0.4).due(2)
    assert not observed(0.6, 0.4).due(1)
    assert not observed(0.6, 0.4).due(3)


def test_the_pause_doubles_with_each_change() -> None:
    drift = observed(0.6, 0.4)
    drift.changes = 1
    assert not drift.due(2)
    longer = observed(0.6, 0.4, steps=2 * WINDOW_STEPS)
    longer.changes = 1
    assert longer.due(2)


def test_a_step_takes_as_long_as_its_slowest_group() -> None:
    assert step_s(tuple(SHARES.values()), {FAST: 10.0, SLOW: 4.0}) == pytest.approx(0.6)
    assert step_s(tuple(SHARES.values()), {FAST: 10.0, SLOW: 2.0}) == pytest.approx(1.0)


def two_pools(*, steps: int = 80, shares: dict[str, int] | None = None) -> ResolvedRun:
    pools = tuple(Pool(name=name, chip=Chip(id="c"), nodes=2) for name in ("fast", "slow"))
    groups = tuple(Group(name=pool.name, pool=pool.name, nodes=2, mesh=Mesh(dp_shard=2)) for pool in pools)
    return ResolvedRun(
        run=Run(
            name="drifting", fleet="f", model="m", steps=steps, batch=Batch(sequences=24), groups=groups,
            shares=shares or "measured", checkpoint=Checkpoint(memory_every_steps=5),
        ),
        fleet=Fleet(name="f", pools=pools),
        model=Model(name="m", layers=2, width=64, heads=2, context_tokens=64),
    )  # fmt: skip


def run(resolved: ResolvedRun, *faults: Fault) -> Simulation:
    timing = Timing(sequence_s={"fast": 0.02, "slow": 0.04})  # type: ignore[dict-item]
    simulation = simulate(resolved, faults=faults, timing=timing, check=True)
    assert replay(simulation.records) == tuple(r.action for r in simulation.records if r.action is not None)
    return simulation


def choices(simulation: Simulation) -> list[Decide]:
    return [record.action for record in simulation.records if isinstance(record.action, Decide)]


def test_a_pool_that_slows_down_gets_a_smaller_share_and_no_step_is_lost() -> None:
    simulation = run(two_pools(), Fault(action="slow", target="fast-0", at_step=20, factor=0.4))
    assert [decide.choice for decide in choices(simulation)] == ["form", "rebalance"]
    rebalance = choices(simulation)[1]
    assert rebalance.incident == 0
    assert rebalance.to_step == rebalance.from_step
    starts = [record.action for record in simulation.records if isinstance(record.action, StartSteps)]
    before, after = ({share.group: share.count for share in start.shares} for start in starts)
    assert before[FAST] > after[FAST]
    assert sum(after.values()) == 24
    done = [record.event for record in simulation.records if isinstance(record.event, StepCompleted)]
    assert [event.step for event in done if event.group == "fast"] == list(range(1, 81)), "each step exactly once"
    assert simulation.end is not None
    assert simulation.end.outcome == "completed"


def test_shares_of_the_run_file_are_kept() -> None:
    simulation = run(
        two_pools(shares={"fast": 16, "slow": 8}), Fault(action="slow", target="fast-0", at_step=20, factor=0.4)
    )
    assert [decide.choice for decide in choices(simulation)] == ["form"]


def test_steady_speeds_change_nothing() -> None:
    simulation = run(two_pools())
    assert not any(isinstance(record.action, HoldWorkers) for record in simulation.records)


def test_near_the_end_a_new_split_no_longer_pays() -> None:
    simulation = run(two_pools(steps=30), Fault(action="slow", target="fast-0", at_step=12, factor=0.4))
    assert [decide.choice for decide in choices(simulation)] == ["form"]
