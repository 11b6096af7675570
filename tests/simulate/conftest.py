"""Runs to simulate, and what every simulated run must satisfy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from myriarch.event.actions import StartSteps
from myriarch.event.events import StepCompleted
from myriarch.simulate import Simulation, Timing
from myriarch.simulate.replay import replayed
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, Recovery, ResolvedRun, Run

TIMING = Timing(sequence_s={"fast": 0.02, "slow": 0.04})  # type: ignore[dict-item]
MODEL = Model(name="m", layers=2, width=64, heads=2, context_tokens=64)


def two_pools(
    *,
    fast: tuple[int, int] = (2, 1),
    slow: tuple[int, int] = (2, 0),
    devices: int = 1,
    replicate: int = 1,
    nodes_per_rack: int = 1,
    steps: int = 30,
    batch: int = 24,
    checkpoint: Checkpoint | None = None,
    recovery: Recovery | None = None,
    **run: Any,
) -> ResolvedRun:
    """Two pools, `(nodes, spares)` each, one group on each; a pool of no nodes is left out."""
    pools, groups = [], []
    for name, (nodes, spares) in (("fast", fast), ("slow", slow)):
        if nodes:
            pools.append(
                Pool(
                    name=name,
                    chip=Chip(id="c"),
                    nodes=nodes,
                    spares=spares,
                    devices_per_node=devices,
                    nodes_per_rack=nodes_per_rack,
                )
            )
            mesh = Mesh(dp_replicate=replicate, dp_shard=nodes * devices // replicate)
            groups.append(Group(name=name, pool=name, nodes=nodes, mesh=mesh))
    return ResolvedRun(
        run=Run(
            name="simulated",
            fleet="fleet.yaml",
            model="model.yaml",
            steps=steps,
            batch=Batch(sequences=batch),
            groups=tuple(groups),
            checkpoint=checkpoint or Checkpoint(memory_every_steps=3),
            recovery=recovery or Recovery(heartbeat_timeout_s=1.0),
            **run,
        ),
        fleet=Fleet(name="f", pools=tuple(pools)),
        model=MODEL,
    )


def verify(resolved: ResolvedRun, simulation: Simulation) -> None:
    """Safety and liveness of one simulated run."""
    end = simulation.end
    assert end is not None, "it ends, and says how"
    control, _ = replayed(simulation.records)
    assert control.digest() == simulation.digest, "the journal is the state"
    if end.outcome in ("completed", "degraded"):
        assert end.step == resolved.run.steps
    if end.outcome != "failed" or end.step:
        assert end.checkpoint.endswith(f"step-{end.step:08d}") or end.step == 0, "what it ends with is on disk"
    kept = kept_steps(simulation)
    if end.outcome in ("completed", "degraded", "interrupted"):
        assert set(kept) >= set(range(1, end.step + 1)), "every step was done"
    shares = {int(start.incarnation): start.shares for start in starts(simulation)}
    for incarnation in set(kept.values()):
        slots = [slot for one in shares[incarnation] for slot in range(one.first, one.first + one.count)]
        assert slots == list(range(resolved.run.batch.sequences)), "every slot of every step, once"


def starts(simulation: Simulation) -> list[StartSteps]:
    return [record.action for record in simulation.records if isinstance(record.action, StartSteps)]


def kept_steps(simulation: Simulation) -> dict[int, int]:
    """`{step: incarnation that did it}` of the history that was kept. An incarnation goes on from what was done."""
    kept: dict[int, int] = {}
    for record in simulation.records:
        if isinstance(record.action, StartSteps):
            kept = {step: incarnation for step, incarnation in kept.items() if step <= record.action.start_step}
            assert set(kept) == set(range(1, record.action.start_step + 1)), "no step is left out"
        if isinstance(record.event, StepCompleted):
            kept[record.event.step] = record.event.incarnation
    return kept


@pytest.fixture
def make() -> Callable[..., ResolvedRun]:
    return two_pools


@pytest.fixture
def timing() -> Timing:
    return TIMING


@pytest.fixture
def verified() -> Callable[[ResolvedRun, Simulation], None]:
    return verify


@pytest.fixture
def kept() -> Callable[[Simulation], dict[int, int]]:
    return kept_steps
