"""A run's journal replayed, and virtual time from where it ended."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from myriarch.cli.simulate_live import LiveOptions, check_alone, from_live_run, question_of
from myriarch.errors import IntegrityError, MyriarchError, SpecError, UsageError
from myriarch.event.actions import Decide
from myriarch.event.events import FaultInjected, NodeExited, StepCompleted
from myriarch.event.ids import PoolId
from myriarch.event.journal import Record, encode_line, scan
from myriarch.simulate import Fault, Simulation, Timing, decisions, simulate
from myriarch.simulate.from_live import Question, WhatIf, read_live, what_if
from myriarch.simulate.from_live_fleet import read_fleet, world_of
from myriarch.simulate.from_live_timing import read_timing
from myriarch.spec.run import Checkpoint, Recovery, ResolvedRun

Make = Callable[..., ResolvedRun]
Verify = Callable[[ResolvedRun, Simulation], None]

JOURNAL = Path(__file__).parent.parent / "data" / "journals" / "two-pools.jsonl.gz"
HARD = [
    Fault(action="kill", target="fast-1", at_step=5),
    Fault(action="kill", target="slow/0", at_step=9),
    Fault(action="skip_snapshot", target="fast/0", at_step=12),
    Fault(action="disconnect", target="slow-1", at_step=14, duration_s=0.2),
]


@pytest.fixture(scope="module")
def real() -> tuple[Record, ...]:
    """A run of real processes: see the README beside it."""
    return scan(gzip.decompress(JOURNAL.read_bytes())).records


def until_fault(records: Sequence[Record]) -> tuple[Record, ...]:
    """What was recorded before somebody killed a node."""
    at = next(at for at, record in enumerate(records) if isinstance(record.event, FaultInjected))
    return tuple(records[:at])


# --- the proof -------------------------------------------------------------------------------------------------------


def test_a_real_run_is_replayed_byte_for_byte(real: tuple[Record, ...]) -> None:
    live = read_live(real)
    assert live.records == real
    assert live.replay.actions == sum(record.action is not None for record in real) > 40
    assert (live.replay.completed_actions, live.view.phase, live.view.outcome) == (0, "ended", "completed")
    assert read_live(real).replay == live.replay, "and to the same state"


@pytest.mark.parametrize("field", ["text", "incarnation", "missing", "more"])
def test_a_difference_names_its_record(real: tuple[Record, ...], field: str) -> None:
    at = next(at for at, record in enumerate(real) if isinstance(record.action, Decide) and record.action.incident)
    action = real[at].action
    assert isinstance(action, Decide)
    changed = list(real)
    if field == "text":
        reason = msgspec.structs.replace(action.reason, text=action.reason.text + "!")
        changed[at] = msgspec.structs.replace(real[at], action=msgspec.structs.replace(action, reason=reason))
    elif field == "incarnation":
        changed[at] = msgspec.structs.replace(real[at], action=msgspec.structs.replace(action, incarnation=7))
    elif field == "missing":
        del changed[at]
    else:
        changed.insert(at, real[at])
    number = real[at].seq + (field == "missing")
    with pytest.raises(IntegrityError, match=f"journal record {number} says .*, the replay says"):
        read_live(changed)


def test_a_journal_that_is_being_written_is_read_as_far_as_it_goes(real: tuple[Record, ...]) -> None:
    """Cut at any byte of the lines of one event: what the controller had said and not written is said again."""
    begin = next(at for at, record in enumerate(real) if isinstance(record.event, NodeExited))
    data = b"".join(map(encode_line, real[: begin + 6]))
    seen = set()
    for end in range(len(b"".join(map(encode_line, real[:begin]))) + 1, len(data), 211):
        live = read_live(scan(data[:end]).records)
        seen.add(live.replay.completed_actions)
        assert live.records[: begin + 1] == real[: len(live.records)][: begin + 1]
    assert len(seen) > 4
    whole = read_live(real[: begin + 1])
    assert whole.records == real[: len(whole.records)], "the same as was written then"


# --- going on --------------------------------------------------------------------------------------------------------


def test_it_goes_on_as_it_really_did(real: tuple[Record, ...]) -> None:
    """From the instant before the node was killed: what was decided then is decided again, in the same words."""
    live = read_live(until_fault(real))
    answer = what_if(live, Question(faults=(Fault(action="kill", target="fast-1", at_s=0.0),), seeds=5))
    really = next(record.action for record in real if isinstance(record.action, Decide) and record.action.incident)
    assert isinstance(really, Decide)
    changed = answer.changed
    assert changed is not None
    assert [(one.choice, one.text, one.seeds) for one in changed.decisions] == [(really.choice, really.reason.text, 5)]
    fault_ns = next(record.at_ns for record in real if isinstance(record.event, FaultInjected))
    stepped_ns = next(
        record.at_ns
        for record in real
        if isinstance(record.event, StepCompleted) and record.event.incarnation == really.incarnation
    )
    assert changed.next_step_s is not None
    assert 0.5 * changed.next_step_s.p10 < (stepped_ns - fault_ns) / 1e9 < 2.0 * changed.next_step_s.p90
    assert changed.lost_steps is not None
    assert changed.lost_steps.p50 == 1.0
    assert answer.undisturbed.outcomes == {"completed": 5}
    assert answer.undisturbed.decisions == ()
    assert answer.later_s is not None
    assert answer.later_s.p10 > 0.0


@pytest.mark.parametrize(("devices", "healthy_groups"), [(1, "wait"), (2, "wait"), (1, "go_on")])
def test_from_any_record_on_it_comes_to_a_good_end(
    make: Make, timing: Timing, verified: Verify, devices: int, healthy_groups: Literal["wait", "go_on"]
) -> None:
    recovery = Recovery(heartbeat_timeout_s=1.0, healthy_groups=healthy_groups)
    resolved = make(devices=devices, steps=18 if healthy_groups == "wait" else 30, slow=(2, 1), recovery=recovery)
    whole = simulate(resolved, faults=HARD, timing=timing)
    for cut in range(1 + devices, len(whole.records), 17):
        control, fleet, records = read_fleet(whole.records[:cut])
        world = world_of(control, fleet, records, faults=(), timing=timing, speeds={}, spares={}, check=True)
        world.go_on()
        end = Simulation(
            records=tuple(world.records),
            spans=tuple(world.work.spans),
            end=world.end,
            digest=world.control.digest(),
            duration_s=0.0,
        )
        verified(resolved, end)
        assert end.end is not None
        assert end.end.outcome == "completed"


def test_where_nothing_more_happens_the_rest_is_decided_alike(make: Make, timing: Timing) -> None:
    whole = simulate(make(slow=(2, 1)), faults=HARD[:1], timing=timing)
    known = next(record.seq for record in whole.records if isinstance(record.event, NodeExited))
    for cut in range(known, len(whole.records), 23):
        control, fleet, records = read_fleet(whole.records[:cut])
        world = world_of(control, fleet, records, faults=(), timing=timing, speeds={}, spares={})
        world.go_on()
        assert decisions(world.records) == decisions(whole.records)
        assert abs(world.records[-1].at_ns - whole.records[-1].at_ns) < 1e9 / 2


# --- durations -------------------------------------------------------------------------------------------------------


def test_durations_are_measured_from_the_journal(make: Make) -> None:
    """A simulated journal shows the durations that it was made with, up to the time that messages take."""
    timing = Timing(
        sequence_s={PoolId("fast"): 0.03, PoolId("slow"): 0.05}, fork_s=0.2, rendezvous_s=0.4, model_build_s=0.3,
        memory_bytes_per_s=5e6, network_bytes_per_s=3e6, disk_bytes_per_s=4e6, bridge_s=0.02, exit_s=0.09,
        bytes_per_parameter=10.0,
    )  # fmt: skip
    fault = Fault(action="kill", target="fast-1", at_step=11)
    found = read_timing(simulate(make(), faults=[fault], timing=timing).records).timing()
    assert found.rendezvous_s == pytest.approx(0.4 + 0.2), "simulated workers count their fork to it"
    for name in ("fork_s", "model_build_s", "bridge_s", "exit_s"):
        assert getattr(found, name) == pytest.approx(getattr(timing, name), abs=0.005), name
    for name in ("memory_bytes_per_s", "network_bytes_per_s", "disk_bytes_per_s", "bytes_per_parameter"):
        assert getattr(found, name) == pytest.approx(getattr(timing, name), rel=0.06), name
    assert found.sequence_s == pytest.approx(timing.sequence_s)
    assert found.latency_s == Timing().latency_s


def test_a_slow_group_of_a_pool_stays_slow(make: Make, timing: Timing) -> None:
    slow = [Fault(action="slow", target="slow-0", factor=0.5, at_s=0.0)]
    live = read_live(simulate(make(slow=(2, 0), shares={"fast": 16, "slow": 8}), faults=slow, timing=timing).records)
    assert live.timing.timing().sequence_s[PoolId("slow")] == pytest.approx(0.08)
    assert live.timing.speeds() == {}, "it is all that the pool has"
    evidence = {one.name: one.samples for one in live.timing.evidence()}
    assert evidence["sequence_s of slow"] == 30
    assert evidence["collective_s"] == 0


# --- questions -------------------------------------------------------------------------------------------------------


def stopped_at(records: Sequence[Record], step: int) -> tuple[Record, ...]:
    at = next(
        at for at, one in enumerate(records) if isinstance(one.event, StepCompleted) and one.event.step == step
    )  # fmt: skip
    return tuple(records[: at + 1])


def ask(resolved: ResolvedRun, timing: Timing, *, step: int, question: Question) -> WhatIf:
    return what_if(read_live(stopped_at(simulate(resolved, timing=timing).records, step)), question)


def kill(node: str, **when: float) -> tuple[Fault, ...]:
    return (Fault(action="kill", target=node, at_s=when.get("at_s", 0.0)),)


def test_a_spare_more_is_worth_what_it_saves(make: Make, timing: Timing) -> None:
    resolved = make(fast=(2, 0))
    alone = ask(resolved, timing, step=9, question=Question(faults=kill("fast-0"), seeds=2)).changed
    helped = ask(
        resolved, timing, step=9, question=Question(faults=kill("fast-0"), spares={PoolId("fast"): 1}, seeds=2)
    ).changed
    assert alone is not None
    assert helped is not None
    assert [one.choice for one in alone.decisions] == ["shrink_group"]
    assert [one.choice for one in helped.decisions] == ["replace_node"]
    assert alone.end_s is not None
    assert helped.end_s is not None
    assert helped.end_s.p50 < alone.end_s.p50
    assert alone.step_s is not None
    assert helped.step_s is not None
    assert helped.step_s.p50 < alone.step_s.p50


def test_a_node_that_is_replaced_comes_back(make: Make, timing: Timing) -> None:
    question = Question(faults=kill("fast-0"), repair_s=1.0, seeds=1)
    changed = ask(make(fast=(2, 0), steps=60), timing, step=9, question=question).changed
    assert changed is not None
    assert [one.choice for one in changed.decisions] == ["shrink_group", "readmit_group"]
    silent = Question(faults=(Fault(action="stop", target="slow-0", at_s=0.0),), seeds=1)
    stopped = ask(make(slow=(2, 1)), timing, step=9, question=silent).changed
    assert stopped is not None
    assert stopped.detected_s is not None
    assert stopped.detected_s.p50 == pytest.approx(1.0, abs=0.01), "the heartbeat's time-out"


def test_long_runs_end_when_their_pace_says(make: Make, timing: Timing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myriarch.simulate.from_live_course.WINDOW_STEPS", 18)
    resolved = make(checkpoint=Checkpoint(memory_every_steps=3, disk_every_steps=30), steps=120)
    records = stopped_at(simulate(resolved, timing=timing).records, 10)
    longer = msgspec.structs.replace(resolved, run=msgspec.structs.replace(resolved.run, steps=100_000))
    started = msgspec.structs.replace(records[0], event=msgspec.structs.replace(records[0].event, resolved=longer))  # type: ignore[type-var]
    live = read_live((started, *records[1:]))
    answer = what_if(live, Question(faults=kill("fast-0"), seeds=2))
    undisturbed, changed = answer.undisturbed, answer.changed
    assert changed is not None
    assert (undisturbed.extrapolated, undisturbed.steps_simulated) == (True, 18)
    assert undisturbed.end_s is not None
    assert undisturbed.step_s is not None
    assert undisturbed.end_s.p50 == pytest.approx(99_990 * undisturbed.step_s.p50, rel=0.01)
    assert answer.later_s is not None
    assert 0.0 < answer.later_s.p50 < 5.0
    drawn = what_if(live, Question(rate_per_node_s=1e-5, repair_s=60.0, seeds=3)).changed
    assert drawn is not None
    assert drawn.faults is not None
    hours = undisturbed.end_s.p50 / 3600
    assert drawn.faults.p50 == pytest.approx(5 * 1e-5 * 3600 * hours, abs=2)
    assert drawn.end_s is not None
    assert drawn.end_s.p90 >= undisturbed.end_s.p90


def test_faults_are_drawn_over_a_run_that_is_short(make: Make, timing: Timing) -> None:
    question = Question(rate_per_node_s=0.05, spares={PoolId("fast"): 2, PoolId("slow"): 2}, seeds=4)
    answer = ask(make(), timing, step=3, question=question)
    again = ask(make(), timing, step=3, question=question)
    assert answer == again
    assert answer.changed is not None
    assert answer.changed.faults is not None
    assert answer.changed.faults.p90 > 0
    assert sum(one.seeds for one in answer.changed.decisions) > 0


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (Question(faults=kill("fast-7")), "`fast-7` is no node of the run now"),
        (Question(faults=(Fault(action="kill", target="fast-0", at_step=2),)), "step 2 is not ahead: the run is at 9"),
        (Question(faults=(Fault(action="kill", target="fast-0", at_step=99),)), "step 99 is not ahead"),
        (Question(spares={PoolId("x"): 1}), "`x` is no pool of the run"),
    ],
)
def test_what_cannot_be_asked(make: Make, timing: Timing, question: Question, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        ask(make(), timing, step=9, question=question)


def test_what_nothing_can_be_asked_of(real: tuple[Record, ...]) -> None:
    with pytest.raises(UsageError, match="has ended"):
        what_if(read_live(real), Question())
    with pytest.raises(UsageError, match="still empty"):
        read_live([])


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path: Path, real: tuple[Record, ...]) -> Path:
    """A run that is at step 20 and writes a line just now."""
    attempt = tmp_path / "attempts" / "0001"
    attempt.mkdir(parents=True)
    data = b"".join(map(encode_line, until_fault(real)))
    (attempt / "journal.jsonl").write_bytes(data + b"deadbeef 400 {torn")
    return tmp_path


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_people_are_told(run_folder: Path, capsys: pytest.CaptureFixture[str], lang: str) -> None:
    before = (run_folder / "attempts" / "0001" / "journal.jsonl").read_bytes()
    options = LiveOptions(run=str(run_folder), kill=("fast-1",), at_step=30, spares=("+1",), faults="9", seeds=2)
    assert from_live_run(options, lang=lang) == 0
    told = capsys.readouterr().out
    words = ("byte for byte", "replace_node", "running") if lang == "en" else ("逐字节相同", "替换节点", "运行")
    for part in (*words, "fast-1", "30", "slow"):
        assert part in told
    assert (run_folder / "attempts" / "0001" / "journal.jsonl").read_bytes() == before
    assert [path.name for path in (run_folder / "attempts" / "0001").iterdir()] == ["journal.jsonl"]


def test_programs_are_told(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert from_live_run(LiveOptions(run=str(run_folder), as_of_step=12, seeds=1), json_output=True) == 0
    told = msgspec.json.decode(capsys.readouterr().out, type=WhatIf)
    assert (told.run, told.step, told.steps, told.changed) == ("recorded", 12, 48, None)
    assert json.loads(msgspec.json.encode(told))["replay"]["digest"] == told.replay.digest
    with pytest.raises(UsageError, match="has not completed step 40"):
        from_live_run(LiveOptions(run=str(run_folder), as_of_step=40))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"at_step": 3, "after_s": 1.0, "kill": ("fast-0",)}, "two instants"),
        ({"at_step": 3}, "when, but not what"),
        ({"after_s": -1.0, "kill": ("fast-0",)}, "no time from now"),
        ({"faults": "often"}, "`often` is no rate"),
        ({"faults": "-1"}, "`-1` is no rate"),
        ({"spares": ("3",)}, "`3` is no number of nodes"),
        ({"seeds": 0}, "out of range"),
    ],
)
def test_options_that_make_no_sense(make: Make, options: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        question_of(LiveOptions(run="x", **options), make())  # type: ignore[arg-type]


def test_options_become_a_question(make: Make) -> None:
    question = question_of(
        LiveOptions(run="x", kill=("a",), after_s=2.0, faults="fleet", spares=("+2", "fast+1")), make()
    )
    assert question.faults == (Fault(action="kill", target="a", at_s=2.0),)
    assert question.rate_per_node_s == pytest.approx(3.79e-3 / 86_400)
    assert question.spares == {"fast": 3, "slow": 2}
    source = question_of(LiveOptions(run="x", faults="meta_rsc_1"), make())
    assert source.rate_per_node_s == pytest.approx(6.5e-3 / 86_400, rel=0.02), "6.50 failures per 1000 node-days"
    for run, scenario, sweeps in (("", "", {}), ("r", "s", {}), ("r", "", {"--vary": ["a=1"]})):
        with pytest.raises(MyriarchError):
            check_alone(LiveOptions(run=run), scenario=scenario, sweeps=sweeps)
    with pytest.raises(UsageError, match="--kill: only with --from-live"):
        check_alone(LiveOptions(run="", kill=("a",)), scenario="s", sweeps={})
