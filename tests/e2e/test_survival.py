"""A run that loses a worker or a node ends with the weights of the run that did not, bit for bit."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from myriarch.account.history import History
from myriarch.event.actions import Decide, EndRun, StartSteps
from myriarch.event.events import NodeExited, RunStarted, ShardSealed, StepCompleted, WorkerExited, WorkerForked
from myriarch.event.journal import digest

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def final_state(launched: Any, into: Path) -> dict[str, Any]:
    """The run's last durable checkpoint, read by plain PyTorch."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    newest = sorted((launched.run_folder / "checkpoints").glob("step-*"))[-1]
    target = into / f"{launched.name}.pt"
    dcp_to_torch_save(newest, target)
    loaded: dict[str, Any] = torch.load(target, weights_only=True)
    return loaded


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): state}


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    a, b = flat(left), flat(right)
    assert a.keys() == b.keys()
    assert any(isinstance(value, torch.Tensor) for value in a.values())
    return [
        key
        for key, value in a.items()
        if not (torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key])
    ]


def losses(launched: Any) -> dict[int, float]:
    """Mean loss of each step that was kept; a step that was redone counts once, as it was the last time."""
    return {event.step: event.loss_sum / event.tokens for event in launched.events(StepCompleted)}


def test_kills_leave_no_trace_in_the_weights(launch: Any, tmp_path: Path) -> None:
    undisturbed = launch(name="undisturbed")
    code, _, err = undisturbed.wait()
    assert code == 0, err
    expected = final_state(undisturbed, tmp_path)
    expected_losses = losses(undisturbed)
    assert list(expected_losses) == list(range(1, 25))

    for name, target in (("node-lost", "fast-1"), ("worker-lost", "slow/0")):
        launched = launch(name=name, chaos=[{"at_step": 11, "action": "kill", "target": target}])
        code, _, err = launched.wait()
        assert code == 0, err
        choices = [decision.choice for decision in launched.actions(Decide)]
        if target == "fast-1":
            assert [event.node for event in launched.events(NodeExited)][:1] == ["fast-1"]
            assert "replace_node" in choices
            forked = {event.node for event in launched.events(WorkerForked) if event.incarnation > 1}
            assert "fast-2" in forked, "the spare took the lost node's place"
        else:
            assert next(event.code for event in launched.events(WorkerExited) if event.cause == "signal") == 9
            assert "restart_workers" in choices
        assert differences(expected, final_state(launched, tmp_path)) == []
        assert losses(launched) == expected_losses


def test_a_smaller_group_ends_with_the_same_loss(launch: Any) -> None:
    """No spare: the group goes on with what remains, with other sums' rounding but no other samples."""
    whole = launch(name="whole", fleet={"pools": _without_spare()})
    assert whole.wait()[0] == 0
    smaller = launch(
        name="smaller", fleet={"pools": _without_spare()},
        chaos=[{"at_step": 9, "action": "kill", "target": "fast-1"}],
    )  # fmt: skip
    code, _, err = smaller.wait()
    assert code in (0, 3), err
    assert "shrink_group" in [decision.choice for decision in smaller.actions(Decide)]
    assert smaller.actions(StartSteps)[-1].shares[0].world_size == 1
    expected, seen = losses(whole), losses(smaller)
    assert expected.keys() == seen.keys()
    for step, loss in expected.items():
        assert seen[step] == pytest.approx(loss, rel=2e-3)


def test_a_lost_group_degrades_and_its_samples_are_taken_over(launch: Any) -> None:
    pools = [{**pool, "nodes": 1, "spares": 0} for pool in _without_spare()]
    launched = launch(
        name="degraded", fleet={"pools": pools}, steps=20,
        recovery={"missing_group": "degrade", "wait_limit_s": 1.0},
        chaos=[{"at_step": 7, "action": "kill", "target": "slow-0"}],
    )  # fmt: skip
    code, _, err = launched.wait()
    assert code == 3, err
    assert "degrade" in [decision.choice for decision in launched.actions(Decide)]
    last = launched.actions(StartSteps)[-1]
    assert [(share.group, share.count) for share in last.shares] == [("fast", 8)], "the whole batch"
    assert list(losses(launched)) == list(range(1, 21))
    assert all(event.tokens == 8 * 64 for event in launched.events(StepCompleted))


def test_a_killed_controller_replays_its_journal_and_nothing_restarts(launch: Any) -> None:
    launched = launch(name="controller-lost", steps=60)
    launched.until(lambda: len(launched.events(StepCompleted)) > 10, "ten steps")
    import json

    pid = json.loads((launched.attempt() / "controller.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    code, _, err = launched.wait()
    assert code == 0, err
    assert {event.incarnation for event in launched.events(WorkerForked)} == {1}, "no worker was forked anew"
    assert [decision.choice for decision in launched.actions(Decide)] == ["form"]
    assert list(losses(launched)) == list(range(1, 61)), "no step was lost or done twice in the journal"
    assert launched.actions(EndRun)[-1].outcome == "completed"


def test_replay_gives_the_same_actions_and_digest(launch: Any) -> None:
    from myriarch.control import Control
    from myriarch.event.journal import actions_of, events_of

    launched = launch(name="replayed", chaos=[{"at_step": 8, "action": "kill", "target": "fast/1"}])
    assert launched.wait()[0] == 0
    records = launched.records()
    states = []
    for _ in range(2):
        control = Control()
        again = [
            action
            for at_ns, event in events_of(records)
            for action in control.step(event, now_s=at_ns / 1e9)
        ]  # fmt: skip
        control.check()
        assert again == [action for _, action in actions_of(records)]
        states.append(control.digest())
    assert states[0] == states[1]
    assert digest(records) == digest(records)


def test_healthy_groups_go_on_and_the_lost_one_takes_their_state(launch: Any) -> None:
    """A worker is killed, then a node. No step is lost or done twice, no sample left out; all end with one state."""
    launched = launch(
        name="going-on", steps=5000, recovery={"healthy_groups": "go_on"},
        chaos=[
            {"at_step": 6, "action": "kill", "target": "slow/0"},
            {"at_step": 40, "action": "kill", "target": "fast-1"},
        ],
    )  # fmt: skip
    hits = [("restart_workers", ["fast"]), ("replace_node", ["slow"])]
    launched.until(lambda: len(launched.actions(StartSteps)) == 5, "both groups are back")
    launched.until(lambda: launched.events(StepCompleted)[-1].incarnation == 5, "they step")
    launched.process.send_signal(signal.SIGINT)
    code, _, err = launched.wait()
    end = launched.actions(EndRun)[-1]
    assert (end.outcome, code) == ("interrupted", 130), err
    decided = launched.actions(Decide)
    assert [(one.choice, list(one.groups)) for one in decided[1::2]] == hits
    assert [(one.choice, list(one.groups)) for one in decided[2::2]] == [("readmit_group", ["fast", "slow"])] * 2
    starts = launched.actions(StartSteps)
    assert [[(share.group, share.count) for share in one.shares] for one in starts[1:4:2]] == [
        [("fast", 8)],
        [("slow", 8)],
    ], "the others take the whole batch"
    done = Counter((event.group, event.step) for event in launched.events(StepCompleted))
    assert set(done.values()) == {1}, "no step was done twice"
    assert {step for _, step in done} == set(range(1, end.step + 1))
    assert consumed(launched)
    kept = [*consumed(launched), *unlogged(launched, "slow", starts[:2]), *unlogged(launched, "fast", starts[2:4])]
    assert Counter(kept) == Counter(planned(launched, end.step))
    sums: Counter[str] = Counter()
    for event in launched.events(ShardSealed):
        if event.shard.step == end.step:
            sums[event.shard.group] += int(event.digest, 16)
    assert len({total % 2**64 for total in sums.values()}) == 1, "one state"
    incidents = History.from_records(launched.records(), ()).faults.incidents
    assert [(one.left_out, one.lost_steps) for one in incidents] == [(("slow",), 0), (("fast",), 0)]
    assert all(one.first_step_ns < one.rejoined_ns for one in incidents if one.first_step_ns and one.rejoined_ns)


def corpus_of(launched: Any) -> tuple[Any, range]:
    """The run's data, as its seed has them, and the slots of a whole batch."""
    from myriarch.train.data import Corpus, read_corpus

    resolved = next(event.resolved for event in launched.events(RunStarted))
    run, context_tokens = resolved.run, resolved.model.context_tokens
    sequences = run.batch.sequences
    corpus = Corpus(read_corpus(run.data), context_tokens=context_tokens, sequences=sequences, seed=run.seed)
    return corpus, range(sequences)


def planned(launched: Any, steps: int) -> list[int]:
    """Sample ids of so many steps."""
    corpus, batch = corpus_of(launched)
    return [sample for step in range(steps) for sample in corpus.samples_of(step, batch)]


def logged(launched: Any) -> dict[int, dict[int, list[tuple[int, ...]]]]:
    """By step and incarnation: the sample ids that each worker logged as it applied a step."""
    said: dict[int, dict[int, list[tuple[int, ...]]]] = {}
    line = re.compile(r"step (\d+) of incarnation (\d+): slots \S+, samples ([\d ]+)")
    for log in (launched.attempt() / "logs").glob("*.log"):
        for step, incarnation, samples in line.findall(log.read_text()):
            parts = said.setdefault(int(step), {}).setdefault(int(incarnation), [])
            parts.append(tuple(int(one) for one in samples.split()))
    return said


def consumed(launched: Any) -> list[int]:
    """Sample ids of the kept history. A step that was rolled back is logged again by the incarnation that redid it: the
    newest counts."""
    return [sample for by in logged(launched).values() for part in by[max(by)] for sample in part]


def unlogged(launched: Any, group: str, starts: Sequence[StartSteps]) -> list[int]:
    """Sample ids of the last step before a group was hit, of those of its workers that did not come to log them.

    Their gradients were in it, the others have done it, and go on: nobody does it again. `starts`: of the incarnation,
    and of the next one.
    """
    from myriarch.train.data import slots_of_rank

    began, then = starts
    step, (corpus, _) = then.start_step - 1, corpus_of(launched)
    share = next(one for one in began.shares if one.group == group)
    said = logged(launched)[step].get(began.incarnation, [])
    ranks = range(share.world_size)
    slots = [slots_of_rank(share.first, share.count, rank=rank, world_size=share.world_size) for rank in ranks]
    parts = [corpus.samples_of(step, part) for part in slots]
    return [sample for part in parts if part not in said for sample in part]


def test_every_sample_is_consumed_exactly_once(launch: Any) -> None:
    """With a lost worker and a lost node, the multiset of consumed sample ids equals the planned one."""
    launched = launch(
        name="samples",
        chaos=[
            {"at_step": 6, "action": "kill", "target": "fast/0"},
            {"at_step": 15, "action": "kill", "target": "slow-1"},
        ],
    )
    code, _, err = launched.wait()
    assert code in (0, 3), err
    assert Counter(consumed(launched)) == Counter(planned(launched, 24))


def _without_spare() -> list[dict[str, Any]]:
    return [
        {"name": "fast", "chip": {"id": "cpu-core"}, "nodes": 2},
        {"name": "slow", "chip": {"id": "cpu-core"}, "nodes": 2},
    ]
