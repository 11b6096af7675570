"""Seeded swarms: fleets, policies and faults drawn at random; safety after every event, liveness at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from myriarch.simulate import Fault, Simulation, Timing, simulate
from myriarch.simulate.faults import FaultAction
from myriarch.spec.run import Checkpoint, Recovery, ResolvedRun

ON_WORKERS = ("kill", "stop", "user_error", "skip_snapshot", "slow")
ON_NODES = tuple(
    action for action in get_args(FaultAction) if action not in ("user_error", "skip_snapshot", "request_stop")
)


@st.composite
def fault(draw: st.DrawFn, *, fast: int, slow: int, devices: int) -> Fault:
    when: dict[str, float | int] = (
        {"at_s": draw(st.integers(0, 8000)) / 1000} if draw(st.booleans()) else {"at_step": draw(st.integers(1, 30))}
    )
    duration_s = draw(st.sampled_from([0.1, 0.4, 1.0, 3.0]))
    kind = draw(st.sampled_from(["worker", "node", "node", "node", "run"]))
    if kind == "run":
        if draw(st.booleans()):
            return Fault(action="request_stop", **when)  # type: ignore[arg-type]
        return Fault(action="kill", target="controller", duration_s=duration_s, **when)  # type: ignore[arg-type]
    pool, count = draw(st.sampled_from([("fast", fast), *([("slow", slow)] if slow else [])]))
    if kind == "worker":
        target = f"{pool}/{draw(st.integers(0, count * devices - 1))}"
        action = draw(st.sampled_from(ON_WORKERS))
    else:
        target = f"{pool}-{draw(st.integers(0, count))}"
        action = draw(st.sampled_from(ON_NODES))
    return Fault(action=action, target=target, duration_s=duration_s, factor=0.5, **when)  # type: ignore[arg-type]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_swarm(
    data: st.DataObject,
    make: Callable[..., ResolvedRun],
    timing: Timing,
    verified: Callable[[ResolvedRun, Simulation], None],
) -> None:
    draw = data.draw
    fast, slow, devices = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 2))
    resolved = make(
        fast=(fast, draw(st.integers(0, 2))),
        slow=(slow, draw(st.integers(0, 1))),
        devices=devices,
        replicate=draw(st.sampled_from([1, 2])) if fast * devices % 2 == 0 and slow * devices % 2 == 0 else 1,
        nodes_per_rack=draw(st.sampled_from([1, 2])),
        steps=draw(st.sampled_from([10, 30])),
        checkpoint=Checkpoint(
            memory_every_steps=draw(st.sampled_from([None, 1, 3, 5])),
            copies=draw(st.sampled_from([0, 1, 1, 2])),
            disk_every_steps=draw(st.sampled_from([None, 10])),
            keep_on_disk=draw(st.sampled_from([1, 2])),
        ),
        recovery=Recovery(
            missing_group=draw(st.sampled_from(["wait", "degrade"])),
            healthy_groups=draw(st.sampled_from(["wait", "go_on"])),
            wait_limit_s=draw(st.sampled_from([0.0, 0.5, 3.0])),
            heartbeat_timeout_s=draw(st.sampled_from([0.5, 2.0])),
            start_timeout_s=10.0,
        ),
    )
    faults = draw(st.lists(fault(fast=fast, slow=slow, devices=devices), max_size=8))
    simulation = simulate(resolved, faults=faults, timing=timing, check=True)
    verified(resolved, simulation)
    assert simulation.end is not None
    event(simulation.end.outcome)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    at_s=st.integers(0, 4000),
    targets=st.lists(
        st.sampled_from(["fast-0", "fast-1", "slow-0", "slow-1", "fast/0", "slow/1"]), min_size=1, max_size=2
    ),
    absence_s=st.sampled_from([None, 0.1, 0.4]),
    healthy_groups=st.sampled_from(["wait", "go_on"]),
)
def test_one_blow_is_always_survived(
    at_s: int,
    targets: list[str],
    absence_s: float | None,
    healthy_groups: Literal["wait", "go_on"],
    make: Callable[..., ResolvedRun],
    timing: Timing,
    verified: Callable[[ResolvedRun, Simulation], None],
) -> None:
    """Liveness: up to two losses at one instant, at any time, even with the controller away, and the run completes."""
    faults = [Fault(action="kill", target=target, at_s=at_s / 1000) for target in targets]
    if absence_s is not None:
        faults.append(Fault(action="kill", target="controller", at_s=at_s / 1000, duration_s=absence_s))
    recovery = Recovery(start_timeout_s=5.0, heartbeat_timeout_s=1.0, healthy_groups=healthy_groups)
    resolved = make(fast=(2, 2), slow=(2, 2), recovery=recovery)
    simulation = simulate(resolved, faults=faults, timing=timing, check=True)
    verified(resolved, simulation)
    assert simulation.end is not None
    late = healthy_groups == "go_on" and simulation.end.outcome == "degraded"  # the last steps were done without one
    assert late or simulation.end.outcome == "completed"
