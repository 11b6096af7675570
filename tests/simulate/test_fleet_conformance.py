"""The same faults on small fleets, through the full `Control` in `World` and through the simulator of large fleets:
the same decisions, word by word."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from myriarch.event.actions import Decide
from myriarch.simulate import Fault, Timing, simulate
from myriarch.simulate.fleet import Fleet
from myriarch.simulate.fleet_terms import FleetTerms
from myriarch.spec.fleet import Chip, Pool
from myriarch.spec.fleet import Fleet as FleetSpec
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, Recovery, ResolvedRun, Run

MODEL = Model(name="m", layers=2, width=64, heads=2, context_tokens=64)
SEQUENCE_S = 0.2
"""Steps are long beside everything else, so that a fault finds both simulators between the same saves."""

Told = tuple[str, tuple[str, ...], tuple[str, ...], int, int | None, int | None, str]


def job(
    *,
    groups: int,
    nodes: int,
    spares: int,
    devices: int = 1,
    rack: int = 1,
    every: int = 3,
    disk: int = 6,
    copies: int = 1,
    batch: int = 24,
    steps: int = 40,
    recovery: Recovery | None = None,
) -> ResolvedRun:
    """Equal groups on one pool."""
    pool = Pool(
        name="a",
        chip=Chip(id="c"),
        nodes=groups * nodes,
        spares=spares,
        devices_per_node=devices,
        nodes_per_rack=rack,
    )
    return ResolvedRun(
        run=Run(
            name="r",
            fleet="fleet.yaml",
            model="model.yaml",
            steps=steps,
            batch=Batch(sequences=batch),
            groups=tuple(
                Group(name=f"g{index}", pool="a", nodes=nodes, mesh=Mesh(dp_shard=nodes * devices))
                for index in range(groups)
            ),
            checkpoint=Checkpoint(memory_every_steps=every, disk_every_steps=disk, copies=copies),
            recovery=recovery or Recovery(heartbeat_timeout_s=1.0),
        ),
        fleet=FleetSpec(name="f", pools=(pool,)),
        model=MODEL,
    )


def by_control(resolved: ResolvedRun, faults: list[Fault]) -> tuple[list[Told], str, int]:
    """What `Control` decides in `World`, how the run ends, and the step that it leaves behind."""
    simulation = simulate(resolved, faults=faults, timing=Timing(default_sequence_s=SEQUENCE_S, disk_bytes_per_s=1e8))
    told: list[Told] = [
        (
            each.action.choice,
            tuple(each.action.lost_nodes),
            tuple(each.action.groups),
            int(each.action.incarnation),
            each.action.from_step,
            each.action.to_step,
            each.action.reason.text,
        )
        for each in simulation.records
        if isinstance(each.action, Decide)
    ]
    assert simulation.end is not None
    return told, simulation.end.outcome, simulation.end.step


def going_on(resolved: ResolvedRun) -> ResolvedRun:
    """The same job, whose healthy groups go on."""
    recovery = replace(resolved.run.recovery, healthy_groups="go_on")
    return replace(resolved, run=replace(resolved.run, recovery=recovery))


def by_fleet(resolved: ResolvedRun, faults: list[Fault]) -> tuple[list[Told], str, int]:
    """The same by the simulator of large fleets."""
    terms = FleetTerms(
        live=resolved.run.recovery.healthy_groups == "go_on",
        device_speed={"a": 1.0 / SEQUENCE_S},  # type: ignore[dict-item]
        state_bytes=1e5,
        detect_s={"signal 9": 0.022},
        detect_other_s=0.02,
        restart_s=0.3,
        comm_init=(),
        regroup_s=0.01,
        stop_s=0.0005,
        peer_bytes_per_s=1e9,
        store_bytes_per_s=1e7,
    )
    fleet = Fleet(resolved, terms=terms, until_s=1e5, faults=faults)
    outcome = fleet.run()
    fleet.check()
    told: list[Told] = [
        (
            one.choice,
            tuple(one.lost_nodes),
            tuple(one.groups),
            one.incarnation,
            one.from_step,
            one.to_step,
            one.text,
        )
        for one in outcome.decisions
    ]
    return told, outcome.ended, outcome.steps


def kill(target: str, *, at_step: int) -> Fault:
    return Fault(action="kill", target=target, at_step=at_step)


def back(target: str, *, at_step: int | None = None, at_s: float | None = None) -> Fault:
    return Fault(action="return", target=target, at_step=at_step, at_s=at_s)


DEGRADE = Recovery(heartbeat_timeout_s=1.0, missing_group="degrade", wait_limit_s=5.0)
PLAYS: dict[str, tuple[ResolvedRun, list[Fault]]] = {
    "nothing": (job(groups=2, nodes=2, spares=1), []),
    "a spare takes over": (job(groups=2, nodes=2, spares=1), [kill("a-1", at_step=7)]),
    "a worker dies": (job(groups=2, nodes=2, spares=1, devices=2), [kill("g1/2", at_step=8)]),
    "two in a row": (job(groups=2, nodes=2, spares=2), [kill("a-1", at_step=7), kill("a-2", at_step=17)]),
    "two at once": (job(groups=3, nodes=2, spares=2), [kill("a-0", at_step=7), kill("a-3", at_step=7)]),
    "two of one group at once": (job(groups=2, nodes=3, spares=2), [kill("a-0", at_step=8), kill("a-1", at_step=8)]),
    "a rack": (job(groups=2, nodes=4, spares=2, rack=2), [kill("a-2", at_step=10), kill("a-3", at_step=10)]),
    "a group and its copies": (
        job(groups=2, nodes=1, spares=2, copies=1),
        [kill("a-0", at_step=8), kill("a-1", at_step=8)],
    ),
    "all copies of a shard, no twin": (
        job(groups=1, nodes=2, spares=2, copies=1, disk=3),
        [kill("a-0", at_step=11), kill("a-1", at_step=11), kill("a-2", at_step=11)],
    ),
    "no spare: the group shrinks": (job(groups=2, nodes=2, spares=0, batch=24), [kill("a-1", at_step=7)]),
    "no spare: it grows again": (
        job(groups=2, nodes=2, spares=0, batch=24),
        [kill("a-1", at_step=7), back("a-1", at_step=14)],
    ),
    "a group is waited for": (
        job(groups=2, nodes=1, spares=0, recovery=Recovery(heartbeat_timeout_s=1.0)),
        [kill("a-1", at_step=7), back("a-1", at_s=30.0)],
    ),
    "nobody comes back": (job(groups=2, nodes=1, spares=0), [kill("a-1", at_step=7)]),
    "the others go on": (job(groups=3, nodes=1, spares=0, recovery=DEGRADE), [kill("a-1", at_step=7)]),
    "the others go on, then it is back": (
        job(groups=3, nodes=1, spares=0, recovery=DEGRADE),
        [kill("a-1", at_step=7), back("a-1", at_step=15)],
    ),
    "another group takes the node that is back": (
        job(groups=3, nodes=1, spares=0, recovery=DEGRADE),
        [kill("a-0", at_step=5), kill("a-1", at_step=13), back("a-1", at_s=40.0)],
    ),
    "a spare with copies dies": (job(groups=2, nodes=2, spares=1), [kill("a-4", at_step=7)]),
    "a lost node is back as a spare": (
        job(groups=2, nodes=2, spares=1),
        [kill("a-1", at_step=7), back("a-1", at_step=12), kill("a-4", at_step=20)],
    ),
    "four groups, three faults": (
        job(groups=4, nodes=2, spares=2),
        [kill("a-7", at_step=5), kill("g0/1", at_step=13), kill("a-2", at_step=22)],
    ),
    "a spare takes the place of a node that fails again": (
        job(groups=3, nodes=2, spares=1, devices=2, batch=48),
        [kill("g1/2", at_step=7), kill("g1/3", at_step=16), kill("g1/0", at_step=24), kill("a-3", at_step=30)],
    ),
    "hit as it joins": (job(groups=3, nodes=1, spares=1), [kill("g1/0", at_step=7), kill("g1/0", at_step=8)]),
    "nodes are back while all stop for one of them": (
        job(groups=2, nodes=2, spares=0, recovery=DEGRADE),
        [
            kill("a-2", at_step=7),
            kill("a-3", at_step=7),
            kill("a-1", at_step=7),
            back("a-1", at_step=15),
            back("a-2", at_step=15),
            back("a-3", at_step=21),
        ],
    ),
    "two groups had the node that is back": (
        job(
            groups=3,
            nodes=1,
            spares=0,
            recovery=Recovery(heartbeat_timeout_s=1.0, missing_group="degrade", wait_limit_s=60.0),
        ),
        [
            kill("a-0", at_step=5),
            kill("a-1", at_step=8),
            kill("a-2", at_step=11),
            back("a-2", at_s=60.0),
            kill("a-2", at_step=14),
            back("a-1", at_s=120.0),
            back("a-2", at_s=130.0),
        ],
    ),
    "a node that rested takes its old place": (  # where an older snapshot still lies
        job(groups=2, nodes=2, spares=1),
        [kill("g0/1", at_step=step) for step in (7, 13, 21, 30)],
    ),
    "a node that fails again and again rests": (
        job(groups=3, nodes=1, spares=0, steps=80),
        [kill("g1/0", at_step=step) for step in (7, 14, 30, 48)],
    ),
    "a node that is lost again and again rests": (
        job(groups=3, nodes=1, spares=0, steps=80, recovery=DEGRADE),
        [
            kill("a-1", at_step=7),
            back("a-1", at_step=9),
            kill("a-1", at_step=14),
            back("a-1", at_step=16),
            kill("a-1", at_step=34),
            back("a-1", at_step=37),
        ],
    ),
    "again and again without progress": (
        job(groups=2, nodes=4, spares=4),
        [kill(f"a-{index}", at_step=7) for index in range(4)],
    ),
}


@pytest.mark.parametrize("name", list(PLAYS))
def test_the_same_decisions(name: str) -> None:
    resolved, faults = PLAYS[name]
    assert by_fleet(resolved, faults) == by_control(resolved, faults)


@pytest.mark.parametrize("name", list(PLAYS))
def test_the_same_decisions_while_healthy_groups_go_on(name: str) -> None:
    resolved, faults = PLAYS[name]
    assert by_fleet(going_on(resolved), faults) == by_control(going_on(resolved), faults)


def test_what_is_waited_for_in_vain_ends_whatever_the_instants_last_digit() -> None:
    """Found by a seed: an instant in nanoseconds lay a hair before the same one in seconds, and the wait was never
    over."""
    resolved = job(groups=1, nodes=1, spares=0, recovery=Recovery(wait_limit_s=60.1))
    assert by_fleet(resolved, [Fault(action="kill", target="a-0", at_s=12.2)])[1] == "failed"


def drawn(seed: int) -> tuple[ResolvedRun, list[Fault]]:
    """A job and faults between its saves, some at one instant. What strikes where nobody is strikes nobody."""
    dice = random.Random(seed)
    groups, nodes = dice.choice([(2, 2), (2, 3), (3, 2), (4, 2), (4, 1)])
    spares, devices = dice.choice([0, 1, 2]), dice.choice([1, 2])
    recovery = Recovery(heartbeat_timeout_s=1.0, missing_group="degrade", wait_limit_s=2.0)
    resolved = job(
        groups=groups, nodes=nodes, spares=spares, devices=devices, batch=24 * devices, rack=dice.choice([1, 2]),
        copies=dice.choice([1, 2]), steps=60, recovery=recovery,
    )  # fmt: skip
    names = [f"a-{index}" for index in range(groups * nodes + spares)]
    faults: list[Fault] = []
    for step in range(4, 50, dice.choice([6, 9])):
        target = dice.choice([*names, f"g{dice.randrange(groups)}/{dice.randrange(nodes * devices)}"])
        faults.append(kill(target, at_step=step))
        if dice.random() < 0.3:
            faults.append(kill(dice.choice(names), at_step=step))
        if dice.random() < 0.6:
            faults.append(back(dice.choice(names), at_step=step + 3))
    return resolved, faults


@pytest.mark.parametrize("seed", range(16))
def test_the_same_decisions_on_drawn_faults(seed: int) -> None:
    resolved, faults = drawn(seed)
    assert by_fleet(resolved, faults) == by_control(resolved, faults)


@pytest.mark.parametrize("seed", range(100, 112))
def test_the_same_decisions_on_drawn_faults_while_healthy_groups_go_on(seed: int) -> None:
    resolved, faults = drawn(seed)
    assert by_fleet(going_on(resolved), faults) == by_control(going_on(resolved), faults)


def test_healthy_groups_lose_no_step() -> None:
    """What going on is for: no step is done twice, whoever is hit while somebody is whole."""
    resolved, faults = PLAYS["four groups, three faults"]
    told, outcome, _ = by_control(going_on(resolved), faults)
    assert outcome == "completed"
    assert [one[0] for one in told[1:]] == [
        "replace_node", "readmit_group", "restart_workers", "readmit_group", "replace_node", "readmit_group",
    ]  # fmt: skip
    assert all(before == after for *_, before, after, _ in told[1:])
