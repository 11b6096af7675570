"""The ledger against a run that was added up by hand, and the rules that decide what a nanosecond was."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from myriarch.account import build_ledger, build_report
from myriarch.event.ids import DeviceId
from myriarch.units import NS_PER_S

if TYPE_CHECKING:
    from tests.account.conftest import Story

    from myriarch.account import History


def seconds(history: History, device: str) -> dict[str, float]:
    """A device's leaves in seconds."""
    account = build_ledger(history).devices[DeviceId(f"{device}/0")]
    return {leaf: ns / NS_PER_S for leaf, ns in account.leaves.items()}


def test_a_lost_node_added_up_by_hand(story_of_a_lost_node: Story) -> None:
    history = story_of_a_lost_node.history()
    start = {"queue_to_start": 3, "rendezvous": 1, "model_build": 2}
    assert seconds(history, "fast-1") == {
        **start, "useful_compute": 24, "exposed_comm": 6,
        "lost_work": 10 + 4,  # step 3, and what it had done of step 4 when it was killed
        "repair": 45,
    }  # fmt: skip
    assert seconds(history, "fast-0") == {
        **start, "useful_compute": 48, "exposed_comm": 12, "lost_work": 10 + 4,
        "detect": 1, "diagnose": 2, "replace": 1, "restart": 2 + 1, "restore": 2 + 1,
        "checkpoint_stall": 5,
    }  # fmt: skip
    assert seconds(history, "fast-2") == {
        "idle_reserved_spare": 53, "replace": 1, "restart": 2 + 1, "restore": 3,
        "useful_compute": 24, "exposed_comm": 6, "checkpoint_stall": 5,
    }  # fmt: skip
    assert seconds(history, "slow-0") == {
        **start, "useful_compute": 54, "exposed_comm": 6,
        "lost_work": 10 + 9,  # it went on computing step 4 until it had to wait
        "restart": 1 + 1, "restore": 1 + 1 + 1, "checkpoint_stall": 5,
    }  # fmt: skip
    ledger = build_ledger(history)
    assert ledger.total.capacity_device_ns == 4 * 95 * NS_PER_S
    assert sum(ledger.total.leaves.values()) == ledger.total.capacity_device_ns
    assert "unattributed" not in ledger.total.leaves
    assert ledger.provisional_device_ns == 0


def test_the_incident_of_a_lost_node(story_of_a_lost_node: Story) -> None:
    (incident,) = build_report(story_of_a_lost_node.history()).incidents
    assert incident.evidence == "injected"
    times = (incident.detected_s, incident.decided_s, incident.restored_s, incident.first_step_s)
    assert list(times) == [1, 3, 10, 20]
    assert incident.lost_steps == 1
    assert incident.choices == ("replace_node",)
    split = incident.split
    assert [split.detect_s, split.decide_s, split.fork_s, split.rendezvous_s] == [1, 2, 1, 1]
    assert [split.restore_s, split.other_s, split.first_step_s] == [3, 2, 10]


def test_without_an_injection_the_last_sign_of_life_is_the_fault(story_of_a_lost_node: Story) -> None:
    story = story_of_a_lost_node
    story.records = [r for r in story.records if type(r.event).__name__ != "FaultInjected"]
    (incident,) = build_report(story.history()).incidents
    assert incident.evidence == "last_sign_of_life"
    assert incident.fault_at_s == 46
    assert incident.detected_s == 5


def test_spans_that_never_arrived_are_counted_from_the_steps(story_of_a_lost_node: Story) -> None:
    """The killed worker's spans are gone; the steps that its group completed were done all the same."""
    story = story_of_a_lost_node
    told = seconds(story.history(), "fast-1")
    story.spans = [span for span in story.spans if not span.device.startswith("fast-1")]
    assert seconds(story.history(), "fast-1") == told


def test_a_step_is_provisional_until_the_run_goes_on_from_it(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.solo_steps(0, 0, 10)
    ledger = build_ledger(run.history())
    assert ledger.provisional_device_ns == 100 * NS_PER_S
    run.decide(100, "restart_workers", 2, lost_workers=(("p", 0),), from_step=10, to_step=8)
    ledger = build_ledger(run.history())
    assert ledger.provisional_device_ns == 0
    assert ledger.total.leaves == {"useful_compute": 80 * NS_PER_S, "lost_work": 20 * NS_PER_S}


def test_a_failed_run_keeps_what_is_durable(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.solo_steps(0, 0, 10)
    run.end(100, 6, "failed")
    assert build_ledger(run.history()).total.leaves == {
        "useful_compute": 60 * NS_PER_S,
        "lost_work": 40 * NS_PER_S,
    }


def test_degraded_running_is_paid_by_the_missing_group(
    story: Callable[..., Story], make_pool: Callable[..., object]
) -> None:
    """The group `slow` lost one of its two nodes and the run goes on without the group."""
    run = story(make_pool("fast", nodes=1), make_pool("slow", nodes=2))
    fast, slow0, slow1 = ("fast-0", "fast", 0), ("slow-0", "slow", 0), ("slow-1", "slow", 1)
    run.join(0, **{"fast-0": "active", "slow-0": "active", "slow-1": "active"})
    run.decide(0, "form", 1)
    run.launch(0, 1, [fast, slow0, slow1])
    run.fork(0, 1, [fast, slow0, slow1])
    run.start(0, 1, 0, ["fast", "slow"])
    run.kill(10, "slow-1")
    run.exited(10, "slow-1")
    run.decide(11, "wait_for_group", 1, lost_nodes=("slow-1",))
    run.decide(20, "degrade", 2, groups=("fast",), to_step=0)
    run.launch(20, 2, [fast], rejoin=True)
    run.start(21, 2, 0, ["fast"])
    run.span("fast-0", 21, 50, "useful_compute", step=0, incarnation=2)
    history = run.history(end=50)
    waiting = {"lost_work": 10, "diagnose": 1, "replace": 9, "restart": 1}
    assert seconds(history, "fast-0") == {"useful_compute": 29, **waiting}
    assert seconds(history, "slow-0") == {**waiting, "degraded": 29}
    assert seconds(history, "slow-1") == {"lost_work": 10, "repair": 40}


def test_a_worker_that_dies_leaves_its_node_in_use(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.solo_steps(0, 0, 3)
    run.worker_exited(34, ("p-0", "p", 0), 1)
    run.decide(35, "restart_workers", 2, lost_workers=(("p", 0),), from_step=3, to_step=3)
    run.launch(35, 2, [("p-0", "p", 0)])
    run.fork(36, 2, [("p-0", "p", 0)])
    run.ready(39, 2, ("p-0", "p", 0), ("restore", 37, 39))
    run.start(40, 2, 3, ["p"])
    run.solo_steps(40, 3, 2, incarnation=2)
    run.end(60, 5)
    history = run.history()
    assert seconds(history, "p-0") == {
        "useful_compute": 50,
        "detect": 4,  # since the last sign of life: the end of step 2
        "diagnose": 1,
        "restart": 1 + 1 + 1,
        "restore": 2,
    }
    (incident,) = build_report(history).incidents
    assert incident.lost_steps == 0
    assert incident.lost_workers == ("p/0",)


def test_stopped_workers_are_no_incident_of_their_own(story_of_a_lost_node: Story) -> None:
    story = story_of_a_lost_node
    story.records = story.records[:-1]
    story.worker_exited(91, ("fast-0", "fast", 0), 1)  # an old incarnation's
    story.worker_exited(91, ("fast-0", "fast", 0), 2, "finished")
    assert len(build_report(story.history()).incidents) == 1


def test_an_unanswered_death_is_an_incident_without_a_decision(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.solo_steps(0, 0, 3)
    run.worker_exited(31, ("p-0", "p", 0), 1)
    history = run.history(end=40)
    assert seconds(history, "p-0") == {"useful_compute": 30, "detect": 1, "diagnose": 9}
    (incident,) = build_report(history).incidents
    assert [incident.decided_s, incident.restored_s, incident.lost_steps] == [None, None, None]


def test_a_connection_that_comes_back_is_no_incident(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.disconnected(5, "p-0")
    run.join(6, **{"p-0": "active"})
    run.solo_steps(0, 0, 3)
    assert build_report(run.history()).incidents == ()


def test_a_device_that_becomes_slow_is_throttled_and_a_slow_kind_is_not(
    story: Callable[..., Story], solo_pool: object
) -> None:
    run = story(solo_pool)
    run.solo()
    end = run.solo_steps(0, 0, 20)
    run.solo_steps(end, 20, 5, duration=30.0)
    assert seconds(run.history(), "p-0") == {"useful_compute": 250, "throttled": 100}
    slow = story(solo_pool)
    slow.solo()
    slow.solo_steps(0, 0, 25, duration=30.0)
    assert seconds(slow.history(), "p-0") == {"useful_compute": 750}


def test_what_is_wrong_with_spans_is_counted(story: Callable[..., Story], solo_pool: object) -> None:
    run = story(solo_pool)
    run.solo()
    run.solo_steps(0, 0, 3)
    run.span("p-0", -5, 5, "useful_compute", step=0, incarnation=1)
    run.span("p-0", 9, 8, "useful_compute", step=0, incarnation=1)
    run.span("q-0", 1, 2, "useful_compute", step=0, incarnation=1)
    run.spans.append(run.spans[0])
    history = run.history()
    intake = history.intake
    assert (intake.taken, intake.clipped, intake.negative, intake.foreign, intake.duplicates) == (4, 1, 1, 1, 1)
    assert seconds(history, "p-0") == {"useful_compute": 30}


def test_a_worker_waits_for_the_way_back_and_the_journal_knows_which_part(story_of_a_lost_node: Story) -> None:
    """A worker that is stuck calls its time `detect` until it rejoins, and `restart` until the go."""
    story = story_of_a_lost_node
    told = seconds(story.history(), "slow-0")
    story.span("slow-0", 55, 57, "detect", incarnation=1)
    story.span("slow-0", 58, 60, "restart", incarnation=2)
    story.span("slow-0", 90, 95, "host_sync", incarnation=2)  # between the last step and the end: the last drain
    assert seconds(story.history(), "slow-0") == told


def test_a_group_that_is_taken_back_pays_restart_and_is_no_incident(
    story: Callable[..., Story], make_pool: Callable[..., object]
) -> None:
    run = story(make_pool("fast", nodes=1), make_pool("slow", nodes=1))
    fast, slow = ("fast-0", "fast", 0), ("slow-0", "slow", 0)
    run.join(0, **{"fast-0": "waiting", "slow-0": "waiting"})
    run.decide(0, "form", 1, groups=("fast", "slow"))
    run.launch(0, 1, [fast, slow])
    run.start(0, 1, 0, ["fast", "slow"])
    run.kill(10, "slow-0")
    run.exited(10, "slow-0")
    run.lost(10, "slow-0")
    run.decide(10, "degrade", 2, groups=("fast",), to_step=0, lost_nodes=("slow-0",))
    run.launch(10, 2, [fast], rejoin=True)
    run.start(11, 2, 0, ["fast"])
    run.span("fast-0", 11, 20, "useful_compute", step=0, incarnation=2)
    run.join(15, **{"slow-0": "spare"})
    run.held(20, fast, 2, 1)
    run.decide(22, "readmit_group", 3, incident=0, groups=("fast", "slow"), to_step=1)
    run.launch(22, 3, [slow])
    run.launch(22, 3, [fast], rejoin=True)
    run.start(24, 3, 1, ["fast", "slow"])
    for node in ("fast-0", "slow-0"):
        run.span(node, 24, 30, "useful_compute", step=1, incarnation=3)
    history = run.history(end=30)
    assert seconds(history, "slow-0") == {
        "lost_work": 10, "repair": 5, "degraded": 7, "restart": 2, "useful_compute": 6,
    }  # fmt: skip
    assert seconds(history, "fast-0") == {
        "lost_work": 10, "restart": 1 + 2, "checkpoint_stall": 2, "useful_compute": 9 + 6,
    }  # fmt: skip
    assert [incident.choices for incident in build_report(history).incidents] == [("degrade",)]


def test_a_spare_is_one_from_the_beginning(story: Callable[..., Story], make_pool: Callable[..., object]) -> None:
    """Nodes join as `waiting`; who is a spare is known when the groups are formed."""
    run = story(make_pool("p", nodes=1, spares=1))
    run.join(1, **{"p-0": "waiting", "p-1": "waiting"})
    run.launch(2, 1, [("p-0", "p", 0)])
    run.join(2, **{"p-0": "active", "p-1": "spare"})
    history = run.history(end=5)
    assert seconds(history, "p-1") == {"idle_reserved_spare": 5}
    assert seconds(history, "p-0") == {"queue_to_start": 5}


def test_a_cause_is_told_before_its_symptoms(story_of_a_lost_node: Story) -> None:
    """Peers notice a death first, by their failing collectives: that is when it was detected, not what it was."""
    story = story_of_a_lost_node
    index = next(i for i, r in enumerate(story.records) if type(r.event).__name__ == "NodeDisconnected")
    later = story.records[index:]
    del story.records[index:]
    story.worker_exited(50.5, ("fast-0", "fast", 0), 1, "collective_error")
    story.records += [replace(record, seq=record.seq + 1) for record in later]
    (incident,) = build_report(story.history()).incidents
    assert incident.fault == "node fast-1: killed by SIGKILL"
    assert incident.detected_s == 0.5


def test_a_spare_that_dies_is_repaired_and_interrupts_nobody(
    story: Callable[..., Story], make_pool: Callable[..., object]
) -> None:
    run = story(make_pool("p", nodes=1, spares=1))
    run.solo()
    run.join(0, **{"p-1": "spare"})
    run.kill(15, "p-1")
    run.exited(16, "p-1")
    run.lost(16, "p-1")
    run.solo_steps(0, 0, 3)
    history = run.history(end=40)
    assert seconds(history, "p-1") == {"idle_reserved_spare": 15, "repair": 25}
    assert seconds(history, "p-0") == {"useful_compute": 30, "unattributed": 10}
    assert build_report(history).incidents == ()
