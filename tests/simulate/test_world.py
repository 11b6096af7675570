"""The simulated world: what happens to a run, fault by fault."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from myriarch.errors import IntegrityError
from myriarch.event.actions import Decide, HoldWorkers, StartSteps
from myriarch.event.events import StepCompleted, WorkerForked
from myriarch.event.journal import digest, encode_line, scan
from myriarch.simulate import Fault, Simulation, Timing, replay, simulate
from myriarch.spec.run import Checkpoint, Recovery, ResolvedRun

Make = Callable[..., ResolvedRun]
Verify = Callable[[ResolvedRun, Simulation], None]


def choices(simulation: Simulation) -> list[str]:
    return [record.action.choice for record in simulation.records if isinstance(record.action, Decide)]


def events(simulation: Simulation, kind: type) -> list[Any]:
    return [record.event for record in simulation.records if isinstance(record.event, kind)]


def losses(simulation: Simulation) -> dict[int, float]:
    return {event.step: event.loss_sum / event.tokens for event in events(simulation, StepCompleted)}


CASES: dict[str, tuple[list[Fault], dict[str, Any], list[str], str]] = {
    "undisturbed": ([], {}, ["form"], "completed"),
    "worker killed": (
        [Fault(action="kill", target="slow/0", at_step=11)], {}, ["form", "restart_workers"], "completed",
    ),
    "worker stopped": (
        [Fault(action="stop", target="fast/0", at_step=11)], {}, ["form", "restart_workers"], "completed",
    ),
    "node killed": ([Fault(action="kill", target="fast-1", at_step=11)], {}, ["form", "replace_node"], "completed"),
    "node stopped": ([Fault(action="stop", target="fast-1", at_step=11)], {}, ["form", "replace_node"], "completed"),
    "no spare": ([Fault(action="kill", target="slow-1", at_step=11)], {}, ["form", "shrink_group"], "completed"),
    "grown back": (
        [Fault(action="kill", target="slow-1", at_step=11), Fault(action="return", target="slow-1", at_step=15)],
        {}, ["form", "shrink_group", "readmit_group"], "completed",
    ),
    "group lost, degraded": (
        [Fault(action="kill", target="slow-0", at_step=11)],
        {"slow": (1, 0), "recovery": Recovery(missing_group="degrade", wait_limit_s=0.5)},
        ["form", "wait_for_group", "degrade"], "degraded",
    ),
    "group lost, waited for": (
        [Fault(action="kill", target="slow-0", at_step=11), Fault(action="return", target="slow-0", at_s=8.0)],
        {"slow": (1, 0)}, ["form", "wait_for_group", "replace_node"], "completed",
    ),
    "group readmitted": (
        [Fault(action="kill", target="slow-0", at_step=11), Fault(action="return", target="slow-0", at_step=20)],
        {"slow": (1, 0), "recovery": Recovery(missing_group="degrade", wait_limit_s=0.5)},
        ["form", "wait_for_group", "degrade", "readmit_group"], "completed",
    ),
    "spare with copies killed": (
        [Fault(action="kill", target="fast-2", at_step=11)], {}, ["form", "form"], "completed",
    ),
    "user error": (
        [Fault(action="user_error", target="fast/1", at_step=11)], {}, ["form", "stop_user_error"], "user_error",
    ),
    "short disconnect": (
        [Fault(action="disconnect", target="fast-0", at_step=11, duration_s=0.3)], {}, ["form"], "completed",
    ),
    "long disconnect": (
        [Fault(action="disconnect", target="fast-0", at_step=11, duration_s=2.0)],
        {}, ["form", "replace_node"], "completed",
    ),
    "controller killed": (
        [Fault(action="kill", target="controller", at_step=11, duration_s=0.4)], {}, ["form"], "completed",
    ),
    "snapshot skipped": ([Fault(action="skip_snapshot", target="fast/0", at_step=5)], {}, ["form"], "completed"),
    "write fails once": ([Fault(action="drain_error", target="fast-0", at_step=5)], {}, ["form"], "completed"),
    "stopped by request": ([Fault(action="request_stop", at_step=11)], {}, ["form"], "interrupted"),
    "stopped before it began": ([Fault(action="request_stop", at_s=0.1)], {}, [], "interrupted"),
    "bad shard, copy good": (
        [Fault(action="bad_shard", target="fast-0", at_step=29), Fault(action="kill", target="controller", at_step=29)],
        {}, ["form"], "completed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, make: Make, timing: Timing, verified: Verify) -> None:
    faults, options, expected, outcome = CASES[name]
    resolved = make(**options)
    simulation = simulate(resolved, faults=faults, timing=timing, check=True)
    verified(resolved, simulation)
    assert choices(simulation) == expected
    assert simulation.end is not None
    assert simulation.end.outcome == outcome


def test_a_fault_changes_no_loss(make: Make, timing: Timing) -> None:
    undisturbed = losses(simulate(make(), timing=timing))
    assert (
        losses(simulate(make(), faults=[Fault(action="kill", target="fast-1", at_step=11)], timing=timing))
        == undisturbed
    )


def test_a_controllers_death_restarts_nobody(make: Make, timing: Timing) -> None:
    fault = Fault(action="kill", target="controller", at_step=11, duration_s=1.5)
    simulation = simulate(make(), faults=[fault], timing=timing)
    assert {event.incarnation for event in events(simulation, WorkerForked)} == {1}
    assert [event.step for event in events(simulation, StepCompleted) if event.group == "fast"] == list(range(1, 31))


def test_a_node_that_dies_while_the_controller_is_away_is_missed(make: Make, timing: Timing, verified: Verify) -> None:
    faults = [
        Fault(action="kill", target="controller", at_step=11, duration_s=1.0),
        Fault(action="kill", target="fast-1", at_step=11),
    ]
    resolved = make()
    simulation = simulate(resolved, faults=faults, timing=timing, check=True)
    verified(resolved, simulation)
    assert choices(simulation) == ["form", "replace_node"]


def test_readmission_loses_no_step(make: Make, timing: Timing) -> None:
    faults, options, _, _ = CASES["group readmitted"]
    simulation = simulate(make(**options), faults=faults, timing=timing)
    (readmission,) = [
        record.action
        for record in simulation.records
        if isinstance(record.action, Decide) and record.action.choice == "readmit_group"
    ]
    assert readmission.from_step == readmission.to_step
    assert sum(isinstance(record.action, HoldWorkers) for record in simulation.records) == 1


def test_shares_are_the_same_again_when_the_groups_are(make: Make, timing: Timing) -> None:
    """Else a recovered run would not repeat the undisturbed one bit for bit."""
    faults, options, _, _ = CASES["group readmitted"]
    simulation = simulate(make(**options), faults=faults, timing=timing)
    starts = [record.action for record in simulation.records if isinstance(record.action, StartSteps)]
    assert starts[0].shares == starts[-1].shares
    assert [share.count for share in starts[1].shares] == [24]


def test_the_interval_follows_from_speed_and_failures(make: Make, timing: Timing) -> None:
    """No interval in the file: what the formula says, at least one step and at most the whole run."""
    simulation = simulate(make(checkpoint=Checkpoint(), steps=12), timing=timing)
    (start,) = [record.action for record in simulation.records if isinstance(record.action, StartSteps)]
    assert 1 <= start.memory_every_steps <= 12
    assert start.disk_every_steps == 10 * start.memory_every_steps
    assert "optimal interval" in start.reason.text


def test_a_resume_goes_on_from_disk(make: Make, timing: Timing) -> None:
    simulation = simulate(make(), timing=timing, resume=(20, "checkpoints/step-00000020"))  # type: ignore[arg-type]
    assert [event.step for event in events(simulation, StepCompleted) if event.group == "fast"] == list(range(21, 31))


def test_spans_lie_inside_the_run_and_do_not_overlap(make: Make, timing: Timing) -> None:
    simulation = simulate(make(), faults=[Fault(action="kill", target="fast-1", at_step=11)], timing=timing)
    by_device: dict[str, list[tuple[int, int]]] = {}
    for span in simulation.spans:
        assert span.start_ns < span.end_ns
        by_device.setdefault(span.device, []).append((span.start_ns, span.end_ns))
    for spans in by_device.values():
        for before, after in pairwise(sorted(spans)):
            assert before[1] <= after[0]
    assert len(by_device) == 5, "the spare worked as well"


def test_the_journal_is_a_journal(make: Make, timing: Timing) -> None:
    simulation = simulate(make(), faults=[Fault(action="kill", target="fast-1", at_step=11)], timing=timing)
    data = b"".join(map(encode_line, simulation.records))
    assert scan(data).records == simulation.records
    assert digest(scan(data).records) == digest(simulation.records)


def test_a_replay_notices_what_was_changed(make: Make, timing: Timing) -> None:
    records = simulate(make(), timing=timing).records
    assert replay(records)
    position = next(i for i, record in enumerate(records) if record.action is not None)
    with pytest.raises(IntegrityError, match="the replay says"):
        replay((*records[:position], *records[position + 1 :]))
    with pytest.raises(IntegrityError, match="the replay says nothing"):
        replay((*records[: position + 1], *records[position:]))


@pytest.mark.parametrize("stopped", [False, True])
def test_no_step_is_lost_at_the_end_where_copies_cannot_be_made(
    stopped: bool, make: Make, timing: Timing, verified: Verify
) -> None:
    """Found on a real fleet: a full shared memory refused a copy of the last snapshot, and 43 steps were lost."""
    faults = [Fault(action="no_room", target=f"fast-{index}", at_s=0.1) for index in range(3)]
    faults += [Fault(action="request_stop", at_step=23)] if stopped else []
    resolved = make()
    simulation = simulate(resolved, faults=faults, timing=timing, check=True)
    verified(resolved, simulation)
    assert simulation.end is not None
    assert simulation.end.outcome == ("interrupted" if stopped else "completed")
    done = max(event.step for event in events(simulation, StepCompleted))
    assert simulation.end.step == done
    assert simulation.end.checkpoint.endswith(f"step-{done:08d}")
