"""Large jobs to simulate: a model on a fleet in replica groups, and under which terms.

The model is Llama 3's 405B at its published utilisation; a group is what holds one copy of it. Inside a group a
sequence is spread over all devices (tensors, context, pipeline), so the batch is counted in *parts*: what one device
does of one sequence. A group's share is then a whole number of sequences.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from myriarch.cost.effective import PEERS_SURVIVE, SPARES_TARGET
from myriarch.cost.failures import per_node_day
from myriarch.cost.interval import optimal_interval_steps
from myriarch.cost.spares import DEFAULT_REPAIR_S, DEFAULT_REPAIR_SHARE, nodes_in_repair, spares_needed
from myriarch.event.ids import PoolId
from myriarch.schedule.layout import PoolLayout
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.fleet import simulate_fleet
from myriarch.simulate.fleet_outcome import FleetOutcome
from myriarch.simulate.fleet_terms import FleetTerms, as_others
from myriarch.simulate.rates import FaultRates
from myriarch.simulate.rates_draw import draw
from myriarch.spec.fleet import Chip, FailureRate, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, ResolvedRun, Run
from myriarch.spec.run import Recovery as RunRecovery
from myriarch.units import S_PER_DAY

POOL: Final = PoolId("main")
DEVICES_PER_NODE: Final = 8
NODES_PER_RACK: Final = 16
"""Nodes that one switch or power feed takes with it: a judgement. Meta's racks have two (The Llama 3 Herd of Models,
section 3.3.1); more is worse here."""
PARAMETERS: Final = 405e9
PEAK_FLOPS_PER_S: Final = 989e12
"""H100, dense bf16."""
MFU: Final = 0.40
"""38 to 43 % (The Llama 3 Herd of Models, table 4)."""
CONTEXT_TOKENS: Final = 8192
FLOPS_PER_PARAMETER_TOKEN: Final = 6.0
"""Forward and backward, attention's own left out: Kaplan et al. (arXiv:2001.08361), section 2.1."""
BYTES_PER_PARAMETER: Final = 14.0
"""bf16 weights, fp32 master weights and Adam's two moments."""
GROUP_SEQUENCES: Final = 32
"""Of each group and step: 25 million tokens on 98,304 devices in 96 groups, where Llama 3 had 16 million."""
GROUP_DEVICES: Final = 1024
"""Of a group: 5.5 GB of training state per device."""
MODEL: Final = Model(name="llama-405b", layers=126, width=16384, heads=128, kv_heads=8, context_tokens=CONTEXT_TOKENS)
RACKS_PER_ROW: Final = 8
"""What power or cooling of a row takes: a judgement, 128 nodes."""
KEPT_IN_STORE: Final = 20
"""Checkpoints that stay, so that wrong values which are noticed after an hour find an older one."""
FOR_EVER_STEPS: Final = 2**53
UNLIMITED: Final = 2**31


def big_job(
    devices: int,
    *,
    group_devices: int = GROUP_DEVICES,
    spares: int | None = None,
    node_failures_per_day: float | None = None,
    repair_share: float = DEFAULT_REPAIR_SHARE,
    memory_every_steps: int | None = None,
    disk_every_steps: int | None = None,
    group_sequences: int = GROUP_SEQUENCES,
    nodes_per_rack: int = NODES_PER_RACK,
) -> ResolvedRun:
    """A training on so many devices of one pool, in groups of equal size.

    `spares`: nodes; None: as many as suffice 99 % of the time. `node_failures_per_day`: None: the published law.
    """
    nodes, group_nodes = devices // DEVICES_PER_NODE, group_devices // DEVICES_PER_NODE
    groups = devices // group_devices
    if spares is None:
        spares = spares_for(devices, node_failures_per_day=node_failures_per_day, repair_share=repair_share)
    pool = Pool(
        name=POOL,
        chip=Chip(id="h100"),
        nodes=nodes,
        spares=spares,
        devices_per_node=DEVICES_PER_NODE,
        nodes_per_rack=nodes_per_rack,
        failures=None if node_failures_per_day is None else FailureRate(per_node_day=node_failures_per_day),
    )
    run = Run(
        name="big",
        fleet="fleet.yaml",
        model="model.yaml",
        steps=FOR_EVER_STEPS,
        batch=Batch(sequences=groups * group_sequences * group_devices),
        groups=tuple(
            Group(name=f"g{index}", pool=POOL, nodes=group_nodes, mesh=Mesh(dp_shard=group_devices))
            for index in range(groups)
        ),
        checkpoint=Checkpoint(
            memory_every_steps=memory_every_steps, disk_every_steps=disk_every_steps, keep_on_disk=KEPT_IN_STORE
        ),
        # A rack's nodes are noticed one by one: as many restarts without a step between them.
        recovery=RunRecovery(
            missing_group="degrade",
            wait_limit_s=60.0,
            max_restarts=UNLIMITED,
            max_restarts_without_progress=UNLIMITED,
        ),
    )
    return ResolvedRun(run=run, fleet=Fleet(name="big", pools=(pool,)), model=MODEL)


def spares_for(
    devices: int, *, node_failures_per_day: float | None = None, repair_share: float = DEFAULT_REPAIR_SHARE
) -> int:
    """Nodes that suffice 99 % of the time, when repairs take a day on average."""
    rate = float(per_node_day(devices)) if node_failures_per_day is None else node_failures_per_day
    away = nodes_in_repair(devices / DEVICES_PER_NODE * rate * repair_share / S_PER_DAY, repair_s=DEFAULT_REPAIR_S)
    return int(spares_needed(away, target=SPARES_TARGET))


def sequence_flops() -> float:
    """Of training on one sequence."""
    return FLOPS_PER_PARAMETER_TOKEN * PARAMETERS * CONTEXT_TOKENS


def terms(*, group_devices: int = GROUP_DEVICES, **changes: Any) -> FleetTerms:
    """`Control` as it is: memory tier, spares, groups that begin anew together."""
    part_s = sequence_flops() / group_devices / (MFU * PEAK_FLOPS_PER_S)
    base = FleetTerms(
        device_speed={POOL: 1.0 / part_s},
        state_bytes=PARAMETERS * BYTES_PER_PARAMETER / group_devices,
        whole_groups=True,
    )
    return msgspec.structs.replace(base, **changes)


def ours(
    devices: int,
    model: FaultRates,
    *,
    group_devices: int = GROUP_DEVICES,
    spares: int | None = None,
    **changes: Any,
) -> tuple[ResolvedRun, FleetTerms]:
    """Memory tier, spares, and healthy groups that go on and hand over their state.

    Saves are for what live groups do not survive: one fault in 200 (`cost.effective`), and wrong values, which all
    groups have merged by the time they are noticed. The interval follows from these.
    """
    chosen = terms(group_devices=group_devices, live=True, **changes)
    rates = {cause.course: 0.0 for cause in model.causes}
    for cause in model.causes:
        rates[cause.course] += cause.per_place_day if cause.scope == "node" else 0.0
    stopping = model.per_node_day()
    unsurvived = 1.0 - PEERS_SURVIVE * (1.0 - rates.get("corrupt", 0.0) / stopping)
    mtbf_s = S_PER_DAY / (model.per_node_day(devices=devices) * devices / DEVICES_PER_NODE)
    every = optimal_interval_steps(
        step_s(chosen, group_devices=group_devices),
        save_s=chosen.save_stop_s + chosen.contention_s,
        mtbf_s=mtbf_s / unsurvived,
        limit_steps=FOR_EVER_STEPS,
    )
    return big_job(devices, group_devices=group_devices, spares=spares, memory_every_steps=every), chosen


def others(
    devices: int,
    *,
    group_devices: int = GROUP_DEVICES,
    spares: int | None = None,
    **changes: Any,
) -> tuple[ResolvedRun, FleetTerms]:
    """The whole job starts anew from the object store, which saves are written to while the work waits."""
    chosen = terms(group_devices=group_devices, **{**as_others(), **changes})
    return big_job(devices, group_devices=group_devices, spares=spares), chosen


def step_s(chosen: FleetTerms, *, group_devices: int = GROUP_DEVICES) -> float:
    """Of a whole job: each group does its sequences, each device its part of every one."""
    return GROUP_SEQUENCES / chosen.device_speed[POOL] + chosen.merge_s


def breakdowns(model: FaultRates, job: ResolvedRun, *, until_s: float, seed: int) -> tuple[Breakdown, ...]:
    """What goes wrong on the job's fleet, spares included, at the rates of a job of its size."""
    layouts = [
        PoolLayout(
            name=pool.name,
            nodes=pool.nodes + pool.spares,
            devices_per_node=pool.devices_per_node,
            nodes_per_rack=pool.nodes_per_rack,
            racks_per_pod=RACKS_PER_ROW,
        )
        for pool in job.fleet.pools
    ]
    devices = sum(group.mesh.devices for group in job.run.groups)
    return draw(model, layouts, until_s=until_s, seed=seed, job_devices=devices)


def played(
    case: tuple[ResolvedRun, FleetTerms], model: FaultRates, *, until_s: float, seed: int
) -> FleetOutcome:  # fmt: skip
    """A job under terms, with faults drawn for it."""
    job, chosen = case
    found = breakdowns(model, job, until_s=until_s, seed=seed)
    return simulate_fleet(job, terms=chosen, until_s=until_s, breakdowns=found)
