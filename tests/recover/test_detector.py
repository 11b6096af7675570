"""The failure detector: silence, stagnation, and no false alarms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from myriarch.event.events import Heartbeat, NodeSilent, WorkerBeat, WorkerStalled
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step
from myriarch.recover import FailureDetector
from myriarch.spec.run import Recovery

RECOVERY = Recovery(heartbeat_interval_s=0.2, heartbeat_timeout_s=4.0, hang_timeout_s=20.0)
NODE = NodeId("n-0")


def beat(
    ticks: int, *, step: int = 1, phase: str = "compute", stopped: bool = False, incarnation: int = 1, rank: int = 0
) -> WorkerBeat:
    return WorkerBeat(
        group=GroupId("g"),
        rank=Rank(rank),
        incarnation=Incarnation(incarnation),
        step=Step(step),
        phase=phase,
        ticks=ticks,
        stopped=stopped,
    )


def heartbeat(*beats: WorkerBeat, node: NodeId = NODE, boot: str = "a") -> Heartbeat:
    return Heartbeat(node=node, boot=boot, workers=beats)


class Bench:
    """A detector under a regular heartbeat, polled after each."""

    def __init__(self) -> None:
        self.detector = FailureDetector(RECOVERY)
        self.now_s = 100.0
        self.found: list[NodeSilent | WorkerStalled] = []

    def run(self, seconds: float, *beats: WorkerBeat, node: NodeId | None = NODE) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self.now_s += 0.2
            if node is not None:
                self.detector.observe(heartbeat(*beats, node=node), now_s=self.now_s)
            self.found += self.detector.poll(now_s=self.now_s)


def test_silence_is_found_once() -> None:
    bench = Bench()
    bench.run(1.0)
    bench.run(10.0, node=None)
    (found,) = bench.found
    assert isinstance(found, NodeSilent)
    assert (found.node, found.boot) == (NODE, "a")
    assert 4.0 <= found.silent_s < 4.3
    bench.run(1.0)
    bench.run(10.0, node=None)
    assert len(bench.found) == 2, "and again after it was heard"


def test_whoever_is_forgotten_is_not_missed() -> None:
    bench = Bench()
    bench.run(1.0)
    bench.detector.forget(NODE)
    assert bench.detector.deadline_s is None
    bench.run(10.0, node=None)
    assert bench.found == []


def test_a_new_boot_starts_anew() -> None:
    detector = FailureDetector(RECOVERY)
    detector.observe(heartbeat(boot="a"), now_s=0.0)
    detector.observe(heartbeat(boot="b"), now_s=1.0)
    found = [one for now_s in (1.5, 3.0, 4.5, 6.0) for one in detector.poll(now_s=now_s)]
    assert [one.boot for one in found if isinstance(one, NodeSilent)] == ["b"]


def test_a_worker_that_stands_still_is_found_and_those_who_wait_are_not() -> None:
    bench = Bench()
    victims = [
        beat(1, phase=phase, rank=rank) for rank, phase in enumerate(("wait", "bridge", "collective", "start"), 1)
    ]
    bench.run(30.0, beat(7), *victims)
    (found,) = bench.found
    assert isinstance(found, WorkerStalled)
    assert (found.rank, found.phase, found.stopped) == (0, "compute", False)
    assert 20.0 <= found.stalled_s < 20.5


def test_three_of_the_slowest_steps_are_allowed() -> None:
    bench = Bench()
    bench.run(0.2, beat(1, step=1))
    bench.run(12.0, beat(2, step=1))
    bench.run(0.2, beat(3, step=2))
    assert 36.0 <= bench.detector.stall_limit_s < 38.0
    bench.run(30.0, beat(3, step=2))
    assert bench.found == []
    bench.run(8.0, beat(3, step=2))
    assert len(bench.found) == 1


def test_a_stopped_process_is_found_whatever_it_was_doing() -> None:
    bench = Bench()
    bench.run(1.0, beat(1, phase="collective"))
    bench.run(6.0, beat(1, phase="collective", stopped=True))
    (found,) = bench.found
    assert isinstance(found, WorkerStalled)
    assert found.stopped


def test_a_short_stop_is_forgiven() -> None:
    bench = Bench()
    bench.run(3.0, beat(1, stopped=True))
    bench.run(1.0, beat(2))
    bench.run(3.0, beat(2, stopped=True))
    assert bench.found == []


def test_a_new_incarnation_starts_anew() -> None:
    bench = Bench()
    bench.run(15.0, beat(1))
    bench.run(15.0, beat(1, incarnation=2))
    assert bench.found == []


def test_the_detectors_own_absence_is_nobodys_silence() -> None:
    """The machine was suspended for a minute: everybody is a minute late, and alive."""
    detector = FailureDetector(RECOVERY)
    detector.observe(heartbeat(beat(1)), now_s=0.0)
    detector.poll(now_s=0.5)
    assert detector.poll(now_s=60.0) == ()
    detector.observe(heartbeat(beat(2)), now_s=60.1)
    assert detector.poll(now_s=61.0) == ()


def test_after_an_absence_silence_is_found_in_the_end() -> None:
    detector = FailureDetector(RECOVERY)
    detector.observe(heartbeat(), now_s=0.0)
    found: list[NodeSilent | WorkerStalled] = []
    now_s = 60.0
    while now_s < 70.0:
        found += detector.poll(now_s=now_s)
        deadline_s = detector.deadline_s
        assert deadline_s is not None
        assert deadline_s > now_s, "a deadline lies ahead"
        now_s = deadline_s
    assert len(found) == 1


@given(st.lists(st.floats(0.01, 0.9), min_size=1, max_size=60), st.integers(1, 3))
def test_no_false_alarm_while_everybody_is_heard(gaps: list[float], nodes: int) -> None:
    """Heartbeats within the time-out, progress within the hang limit: nothing is found, however irregular they are."""
    detector = FailureDetector(RECOVERY)
    now_s = 0.0
    for tick, gap_s in enumerate(gaps):
        now_s += gap_s
        for index in range(nodes):
            message = heartbeat(beat(tick, step=tick), node=NodeId(f"n-{index}"))
            detector.observe(message, now_s=now_s)
        assert detector.poll(now_s=now_s) == ()
