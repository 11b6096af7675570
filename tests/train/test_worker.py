"""Real workers over gloo, told by a fake agent: they train, agree, fail and recover."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myriarch.event.actions import Fresh
from myriarch.spec.run import Data, Group, Mesh
from myriarch.train.data import Corpus, read_corpus
from myriarch.wire.worker import Failed, Ready, Rejoin, Sealed, Skipped, Spans, StepDone, Validated

pytestmark = pytest.mark.processes

Fleet = Any
MakeFleet = Callable[..., Any]
TWO = [("a", 5), ("b", 3)]


def run_to_hold(
    fleet: Fleet, shares: Sequence[tuple[str, int]], sizes: Mapping[str, int], *, memory_every: int = 0
) -> int:
    """Launch fresh groups, let them step, wait until all hold. Returns the step."""
    for group, size in sizes.items():
        fleet.launch(group, size)
    fleet.go(fleet.ready(), shares, memory_every=memory_every)
    return int(fleet.held())


def start_two(make_fleet: MakeFleet, *, memory_every: int, commits_up_to: int = 10**9) -> Fleet:
    """Eight steps of two groups of two and one workers, begun."""
    fleet = make_fleet(steps=8, sequences=8)
    fleet.commits_up_to = commits_up_to
    for group, size in {"a": 2, "b": 1}.items():
        fleet.launch(group, size)
    fleet.go(fleet.ready(), TWO, memory_every=memory_every)
    return fleet


def wait_for_step(fleet: Fleet, group: str, step: int) -> None:
    fleet.workers[group, 0].next(StepDone, where=lambda done: done.step == step)


def wait_for_snapshot(fleet: Fleet, step: int) -> None:
    for worker in fleet.workers.values():
        worker.next(Sealed, where=lambda sealed: sealed.step == step)


def test_a_worker_trains_alone(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=4, validate_every_steps=2)
    assert run_to_hold(fleet, [("a", 6)], {"a": 1}) == 4
    losses = fleet.losses("a")
    assert list(losses) == [1, 2, 3, 4]
    assert 5.0 < losses[1] < 6.0  # ln 256 = 5.55
    assert losses[4] < losses[1]
    validated = fleet.workers["a", 0].all(Validated)
    assert [said.step for said in validated] == [2, 4]
    assert all(said.tokens == 64 * 32 for said in validated)
    ends = fleet.end()
    assert ends["a", 0].code == ends["a", 0].signal == 0


def test_two_groups_with_uneven_shares_have_the_gradient_of_one_process(make_fleet: MakeFleet) -> None:
    alone = make_fleet(steps=1, sequences=7, clip_norm=None)
    run_to_hold(alone, [("a", 7)], {"a": 1})
    pair = make_fleet(steps=1, sequences=7, clip_norm=None, micro_sequences=2)
    run_to_hold(pair, [("a", 4), ("b", 3)], {"a": 1, "b": 2})
    one, other = alone.tensors("a", 1), pair.tensors("a", 1)
    means = [name for name in one if name.endswith(".exp_avg")]  # after one step, (1 - beta1) times the gradient
    assert len(means) == 2 * 9 + 2
    for name in means:
        assert np.abs(one[name] - other[name]).max() <= 1e-6 * np.abs(one[name]).max(), name


@pytest.mark.parametrize(
    "sizes",
    [{"a": 2, "b": 2}, {"b": 1, "a": 2}, {"a": 2, "b": 3}, {"a": 1, "b": 1, "c": 1}],
    ids=lambda sizes: str(sizes),
)
def test_groups_stay_bit_identical(make_fleet: MakeFleet, sizes: Mapping[str, int]) -> None:
    shares = dict(zip(("a", "b", "c"), (4, 3, 1) if "c" in sizes else (5, 3), strict=False))
    fleet = make_fleet(steps=6, sequences=8)
    run_to_hold(fleet, [(group, shares[group]) for group in sizes], sizes)
    assert len({fleet.digest(group, 6) for group in sizes}) == 1
    assert all(fleet.losses(group) == fleet.losses("a") for group in sizes)


def test_replicas_inside_a_group(make_fleet: MakeFleet) -> None:
    """HSDP: two replicas of one shard each, against a group that shards over two."""
    groups = [Group(name="a", pool="a", nodes=2, mesh=Mesh(dp_replicate=2, dp_shard=1)),
              Group(name="b", pool="b", nodes=2, mesh=Mesh(dp_shard=2))]  # fmt: skip
    fleet = make_fleet(steps=3, sequences=8, groups=groups)
    run_to_hold(fleet, TWO, {"a": 2, "b": 2})
    assert fleet.digest("a", 3) == fleet.digest("b", 3)


def test_a_group_with_fewer_sequences_than_workers(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=2, sequences=6)
    run_to_hold(fleet, [("a", 5), ("b", 1)], {"a": 1, "b": 2})
    assert fleet.digest("a", 2) == fleet.digest("b", 2)


def test_calibration_changes_nothing(make_fleet: MakeFleet) -> None:
    plain = make_fleet(steps=3)
    run_to_hold(plain, [("a", 6)], {"a": 2})
    measured = make_fleet(steps=3)
    measured.launch("a", 2, calibrate=True)
    ready = measured.ready()
    for said in ready.values():
        assert said.sequence_s is not None
        assert said.sequence_s > 0
        assert said.snapshot_s is not None
        assert said.rate_flops_per_s is not None
        assert said.rate_flops_per_s > 1e6
    measured.go(ready, [("a", 6)])
    measured.held()
    assert measured.digest("a", 3) == plain.digest("a", 3)


# --- recovery --------------------------------------------------------------------------------------------------------


_UNDISTURBED: dict[str, str] = {}


@pytest.fixture
def undisturbed(make_fleet: MakeFleet) -> str:
    """The digest of eight steps of two groups of two and one workers."""
    if not _UNDISTURBED:
        fleet = make_fleet(steps=8, sequences=8)
        run_to_hold(fleet, TWO, {"a": 2, "b": 1}, memory_every=3)
        _UNDISTURBED["digest"] = str(fleet.digest("a", 8))
    return _UNDISTURBED["digest"]


def lose(fleet: Fleet, key: tuple[str, int], *, restore_from: int | None) -> None:
    """A worker is killed; control rolls all groups back to a step and lets them form anew."""
    fleet.forget(key)
    fleet.memory.discard_stale(2)
    for group in ("a", "b"):
        size = {"a": 2, "b": 1}[group]
        restores = () if restore_from is None else fleet.from_memory(group, size, step=restore_from, incarnation=1)
        (fleet.launch if group == key[0] else fleet.rejoin)(group, size, incarnation=2, restores=restores)
    fleet.commits_up_to = 10**9


def test_a_run_that_lost_a_group_ends_bit_identical(make_fleet: MakeFleet, undisturbed: str) -> None:
    fleet = start_two(make_fleet, memory_every=3, commits_up_to=3)
    wait_for_snapshot(fleet, 3)
    lose(fleet, ("b", 0), restore_from=3)
    ready = fleet.ready()
    assert {said.step for said in ready.values()} == {3}
    fleet.go(ready, TWO, step=3, memory_every=3)
    assert fleet.held() == 8
    assert fleet.digest("a", 8) == fleet.digest("b", 8) == undisturbed


def test_a_rollback_before_the_first_snapshot_goes_to_step_0(make_fleet: MakeFleet, undisturbed: str) -> None:
    fleet = start_two(make_fleet, memory_every=100)
    wait_for_step(fleet, "a", 2)
    lose(fleet, ("b", 0), restore_from=None)
    fleet.go(fleet.ready(), TWO, memory_every=3)
    assert fleet.held() == 8
    assert fleet.digest("a", 8) == fleet.digest("b", 8) == undisturbed


def test_one_called_away_worker_takes_its_group_along(make_fleet: MakeFleet, undisturbed: str) -> None:
    """All groups are alive; only one worker of one group hears of the new incarnation at first."""
    fleet = start_two(make_fleet, memory_every=3, commits_up_to=3)
    wait_for_snapshot(fleet, 3)
    fleet.memory.discard_stale(2)
    plans = fleet.plans("a", 2, incarnation=2, restores=fleet.from_memory("a", 2, step=3, incarnation=1))
    first, second = (fleet.workers["a", rank] for rank in (0, 1))
    first.plan = plans[0]
    first.tell(Rejoin(plan=plans[0], slot_paths=fleet.slot_paths_of(plans[0].restore)))
    assert first.next(Ready).step == 3
    second.plan = plans[1]
    second.tell(Rejoin(plan=plans[1], slot_paths=fleet.slot_paths_of(plans[1].restore)))
    assert second.next(Ready).step == 3
    fleet.rejoin("b", 1, incarnation=2, restores=fleet.from_memory("b", 1, step=3, incarnation=1))
    fleet.workers["b", 0].next(Ready)
    fleet.commits_up_to = 10**9
    fleet.go({key: worker.all(Ready)[-1] for key, worker in fleet.workers.items()}, TWO, step=3, memory_every=3)
    assert fleet.held() == 8
    assert fleet.digest("a", 8) == fleet.digest("b", 8) == undisturbed


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_a_group_restores_at_another_size(make_fleet: MakeFleet, before: int, after: int) -> None:
    fleet = make_fleet(steps=2)
    run_to_hold(fleet, [("a", 6)], {"a": before})
    restores = fleet.from_memory("a", before, step=2, incarnation=1, ranks=after)
    sealed = fleet.digest("a", 2)
    fleet.forget(*fleet.workers)
    fleet.launch("b", after, incarnation=2, restores=restores)
    ready = fleet.ready()
    assert {said.step for said in ready.values()} == {2}
    total = sum(int(said.digest, 16) for said in ready.values()) % 2**64
    assert f"{total:016x}" == sealed


def test_hold_stops_all_groups_at_the_same_step(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=300, sequences=2)
    for group, size in {"a": 2, "b": 1}.items():
        fleet.launch(group, size)
    shares = [("a", 1), ("b", 1)]
    fleet.go(fleet.ready(), shares)
    wait_for_step(fleet, "b", 2)
    fleet.hold()
    step = fleet.held()
    assert 2 <= step < 300
    assert fleet.digest("a", step) == fleet.digest("b", step)


def test_snapshots_that_nobody_commits_are_skipped_and_said(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=5)
    fleet.commits_up_to = 0
    fleet.launch("a", 1)
    fleet.go(fleet.ready(), [("a", 6)], memory_every=1)
    worker = fleet.workers["a", 0]
    wait_for_snapshot(fleet, 2)
    assert worker.next(Skipped).step == 3
    assert worker.next(Skipped).step == 4
    fleet.memory.drop(1, 1)  # the last one waits for its slot
    assert worker.next(Sealed).step == 5
    fleet.held()


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_missing_corpus_is_a_user_error(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(data=Data(source="/nowhere/text"))
    (worker,) = fleet.launch("a", 1)
    end = fleet.zygote.end_of(worker.pid)
    assert (end.signal, end.code) == (0, 1)
    (failed,) = worker.all(Failed)
    assert failed.cause == "user_error"
    assert "there is no file or folder `/nowhere/text`" in failed.detail


def test_a_dead_mate_is_a_collective_error(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=10_000)
    fleet.launch("a", 2)
    fleet.go(fleet.ready(), [("a", 6)])
    wait_for_step(fleet, "a", 1)
    survivor = fleet.workers["a", 0]
    fleet.forget(("a", 1))
    end = fleet.zygote.end_of(survivor.pid)
    assert (end.signal, end.code) == (0, 1)
    assert survivor.all(Failed)[0].cause == "collective_error"


def test_spans_have_no_gaps(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(steps=6, validate_every_steps=3)
    run_to_hold(fleet, [("a", 3), ("b", 3)], {"a": 1, "b": 1}, memory_every=2)
    fleet.end()
    for worker in fleet.workers.values():
        spans = [span for said in worker.all(Spans) for span in said.spans]
        assert spans[0].leaf == "rendezvous"
        assert all(one.end_ns == other.start_ns for one, other in pairwise(spans))
        assert {span.device for span in spans} == {f"{worker.plan.group}-0/{worker.plan.device_index}"}
        leaves = {span.leaf for span in spans}
        assert leaves >= {
            "comm_init",
            "model_build",
            "data_open",
            "restore",
            "useful_compute",
            "exposed_comm",
            "checkpoint_stall",
        }
        stepped = {span.step for span in spans if span.leaf == "useful_compute"}
        assert stepped == set(range(6))
        phases = worker.all(Ready)[0].phases
        assert phases[0].start_ns == spans[0].start_ns
        assert all(one.end_ns == other.start_ns for one, other in pairwise(phases))


# --- data ------------------------------------------------------------------------------------------------------------


def consumed(fleet: Fleet) -> Counter[tuple[int, int]]:
    """(step, sample) of all steps that counted, by the workers' logs: of each step, what its last incarnation used."""
    lines: dict[int, dict[int, list[int]]] = {}
    for path in Path(fleet.folder).glob("*.log"):
        for step, incarnation, samples in re.findall(
            r"step (\d+) of incarnation (\d+): .* samples ([\d ]*)", path.read_text()
        ):
            lines.setdefault(int(step), {}).setdefault(int(incarnation), []).extend(map(int, samples.split()))
    return Counter((step, sample) for step, by in lines.items() for sample in by[max(by)])


def test_consumed_samples_are_the_planned_ones_whatever_fails(make_fleet: MakeFleet) -> None:
    fleet = start_two(make_fleet, memory_every=2, commits_up_to=2)
    wait_for_snapshot(fleet, 2)
    wait_for_step(fleet, "a", 4)
    lose(fleet, ("b", 0), restore_from=2)
    fleet.go(fleet.ready(), [("a", 3), ("b", 5)], step=2)
    fleet.held()
    run = fleet.resolved.run
    corpus = Corpus(read_corpus(run.data), context_tokens=32, sequences=8, seed=run.seed)
    planned = Counter((step, corpus.sample_of(step, slot)) for step in range(8) for slot in range(8))
    assert consumed(fleet) == planned
    assert max(planned.values()) == 1


def test_fresh_is_what_plans_say_by_default(make_fleet: MakeFleet) -> None:
    assert all(isinstance(plan.restore, Fresh) for plan in make_fleet().plans("a", 2))
