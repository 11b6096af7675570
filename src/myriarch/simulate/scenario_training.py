"""One training on all of a fleet: the scenario becomes a run of replica groups, and `simulate.fleet` lets it happen.

The run is made up: its batch has a sequence for each device, so that a device's speed is one sequence in a step's time,
and its model is none in particular, since nothing of it is asked but the bytes of state.
"""

from __future__ import annotations

from typing import Final

import msgspec

from myriarch.errors import SpecError
from myriarch.event.ids import PoolId
from myriarch.event.spans import LEAVES
from myriarch.simulate.fleet import simulate_fleet
from myriarch.simulate.fleet_outcome import FleetOutcome
from myriarch.simulate.fleet_terms import FleetTerms
from myriarch.simulate.scenario import Scenario, Training
from myriarch.simulate.scenario_answer import Answer, PoolPart, TrainingPart
from myriarch.simulate.scenario_cluster import effective_of, layout_with_spares, owned_devices
from myriarch.simulate.scenario_digest import digest_of
from myriarch.simulate.scenario_faults import Faulty, breakdowns_of
from myriarch.simulate.scenario_run import bill_of
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, Recovery, ResolvedRun, Run

PATIENT: Final = Recovery(
    max_restarts=10**9,
    max_restarts_without_progress=10**6,
    wait_limit_s=1e9,
    heartbeat_timeout_s=5.0,
)
"""Nobody gives up: the question is what a long time brings, not when somebody loses patience."""
MODEL: Final = Model(name="any", layers=1, width=64, heads=1, context_tokens=1)


def train(scenario: Scenario) -> Answer:
    """Simulate it. Raises SpecError where the fleet cannot be split into the groups."""
    training, fleet, until_s = scenario.training, scenario.fleet, scenario.until_s
    if training is None or not isinstance(fleet, Fleet) or until_s is None:
        raise SpecError("a training has a fleet and a time", source=scenario.name, path="training")
    resolved = resolved_run(training, fleet, until_s=until_s)
    faulty = _faulty(scenario, fleet, until_s=until_s)
    outcome = simulate_fleet(
        resolved,
        terms=terms_of(training, fleet),
        until_s=until_s,
        breakdowns=() if faulty is None else faulty.breakdowns,
    )
    factors, effective = effective_of(outcome.ledger, fleet, mfu=training.mfu)
    return Answer(
        scenario=scenario.name,
        kind="training",
        seed=scenario.seed,
        digest=digest_of(scenario),
        duration_s=outcome.duration_s,
        capacity_device_ns=outcome.ledger.total.capacity_device_ns,
        leaves={leaf: outcome.ledger.total.leaves.get(leaf, 0) for leaf in LEAVES},
        factors=factors,
        effective=effective,
        pools={
            pool.name: PoolPart(
                chip=pool.chip.id if isinstance(pool.chip, Chip) else pool.chip,
                devices=owned_devices(pool),
                capacity_device_ns=outcome.ledger.pools[PoolId(pool.name)].capacity_device_ns,
                leaves=outcome.ledger.pools[PoolId(pool.name)].leaves,
            )
            for pool in fleet.pools
        },
        bill=bill_of(fleet, scenario.power, duration_s=outcome.duration_s),
        faults=None if faulty is None else faulty.intake,
        training=_part(outcome, groups=len(resolved.run.groups)),
        notes=(
            () if effective is not None else ("effective compute is unknown: say `training.mfu`, or the chip's peak",)
        ),
    )


def _part(outcome: FleetOutcome, *, groups: int) -> TrainingPart:
    counts = outcome.counts
    return TrainingPart(
        ended=outcome.ended,
        devices=outcome.devices,
        groups=groups,
        steps=outcome.steps,
        lost_steps=counts.lost_steps,
        step_s=outcome.step_s,
        effective_time=outcome.effective,
        progress=outcome.progress,
        mtbf_s=outcome.mtbf_s,
        interruptions=counts.interruptions,
        breakdowns=counts.strikes,
        choices=dict(sorted(counts.choices.items())),
        tiers=dict(sorted(counts.tiers.items())),
        decisions_digest=outcome.digest,
    )


def _faulty(scenario: Scenario, fleet: Fleet, *, until_s: float) -> Faulty | None:
    if scenario.faults is None:
        return None
    layouts = [layout_with_spares(pool) for pool in fleet.pools]
    devices = sum(pool.devices for pool in fleet.pools)
    return breakdowns_of(
        scenario.faults, fleet.pools, layouts, until_s=until_s, seed=scenario.seed, job_devices=devices
    )


def resolved_run(training: Training, fleet: Fleet, *, until_s: float) -> ResolvedRun:
    """The run file that such a training would have."""
    return ResolvedRun(
        run=Run(
            name="training",
            fleet="",
            model="",
            steps=2 * round(until_s / training.step_s) + 1,
            batch=Batch(sequences=sum(pool.devices for pool in fleet.pools)),
            groups=tuple(group for pool in fleet.pools for group in _groups(pool, training.groups_per_pool)),
            checkpoint=Checkpoint(
                copies=training.copies,
                memory_every_steps=training.memory_every_steps,
                disk_every_steps=training.disk_every_steps,
            ),
            recovery=PATIENT,
        ),
        fleet=fleet,
        model=MODEL,
    )


def _groups(pool: Pool, count: int) -> list[Group]:
    if pool.nodes % count:
        raise SpecError(
            f"{count} groups do not divide the {pool.nodes} nodes of pool `{pool.name}`",
            path="training.groups_per_pool",
            hint="use a divisor, or more nodes as spares",
        )
    nodes = pool.nodes // count
    mesh = Mesh(dp_shard=nodes * pool.devices_per_node)
    return [Group(name=f"{pool.name}-{number}", pool=pool.name, nodes=nodes, mesh=mesh) for number in range(count)]


def terms_of(training: Training, fleet: Fleet) -> FleetTerms:
    """What was said, and `fleet_terms` for the rest."""
    said = {
        "store_bytes_per_s": training.store_bandwidth_bytes_per_s,
        "restart_s": training.restart_s,
    }
    speeds = {pool.name: training.speeds.get(pool.name, 1.0) for pool in fleet.pools}
    mean = sum(speeds[pool.name] * pool.devices for pool in fleet.pools) / sum(pool.devices for pool in fleet.pools)
    each_per_s = 1.0 / (max(training.step_s - training.merge_s, 1e-9) * mean)
    terms = FleetTerms(
        device_speed={PoolId(pool): speed * each_per_s for pool, speed in speeds.items()},
        state_bytes=training.state_bytes,
        merge_s=training.merge_s,
        memory=training.memory,
        live=training.healthy_groups == "go_on",
        whole_job=training.whole_job,
    )
    return msgspec.structs.replace(terms, **{name: value for name, value in said.items() if value is not None})
