"""Recorded decisions: replayed to the byte, and nothing damaged is taken for a stream."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from myriarch.errors import IntegrityError, MyriarchError, UsageError
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.conservative_nodes import ConservativeNodes
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.in_order import InOrder
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.order import SHORTEST
from myriarch.schedule.placed import Placed
from myriarch.schedule.scheduler import Scheduler
from myriarch.schedule.stream import MAGIC, Recorder, Withdrawn, feed, intact_bytes, read, replay
from myriarch.simulate.breakdowns import Breakdown, Course
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import simulate_queue
from myriarch.simulate.workload.lublin import lublin

POOLS = (
    PoolLayout(name="a", nodes=8, devices_per_node=4, nodes_per_rack=2, racks_per_pod=2),
    PoolLayout(name="b", nodes=4, devices_per_node=8),
)
SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "in order": lambda: InOrder(Counted(64)),
    "easy": lambda: Easy(Counted(64)),
    "conservative": lambda: Conservative(Counted(64)),
    "easy on nodes": lambda: Easy(Placed(POOLS), order=SHORTEST),
}


def recorded(make: Callable[[], Scheduler], *, jobs: int = 150, close: bool = True) -> tuple[bytes, str]:
    """A stream of a generated workload, and the simulator's own digest of the decisions."""
    data = bytearray()
    recorder = Recorder(make(), data.extend)
    outcome = simulate_queue(lublin(jobs, devices=64, seed=3, load=1.2), recorder, check=jobs < 200)
    if close:
        recorder.close()
    return bytes(data), outcome.digest


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_recorded_stream_is_replayed_byte_for_byte(name: str) -> None:
    make = SCHEDULERS[name]
    data, digest = recorded(make)
    assert digest == simulate_queue(lublin(150, devices=64, seed=3, load=1.2), make()).digest, (
        "recording changes nothing"
    )
    again = replay(data, make())
    assert (again.decisions, again.closed) == (150, True)
    assert again.stimuli >= 150
    assert again == replay(read(data), make())


def test_another_policy_is_told_by_the_first_record_that_differs() -> None:
    data, _ = recorded(SCHEDULERS["easy"])
    with pytest.raises(IntegrityError, match=r"stream record \d+ says Start\(job=.*, the replay says") as first:
        replay(data, SCHEDULERS["conservative"]())
    number = int(str(first.value).split()[2])
    assert read(data)[number - 1].start is not None
    with pytest.raises(UsageError, match="of 64 devices, the scheduler has 65 devices"):
        replay(data, Easy(Counted(65)))
    with pytest.raises(UsageError, match="a: 8 x 4, b: 4 x 8"):
        replay(recorded(SCHEDULERS["easy on nodes"], jobs=5)[0], Easy(Counted(64)))


def test_a_cut_stream_is_refused_or_read_as_far_as_it_goes() -> None:
    make = SCHEDULERS["easy"]
    data, _ = recorded(make, jobs=4)
    whole = read(data)
    for end in range(len(data)):
        with pytest.raises(IntegrityError):
            read(data[:end])
        part = read(data[:end], growing=True)
        assert part == whole[: len(part)]
        assert intact_bytes(part) <= max(end, len(MAGIC))
    assert intact_bytes(whole) == len(data)


def test_no_byte_can_change_unnoticed() -> None:
    data, _ = recorded(SCHEDULERS["easy"], jobs=3)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(IntegrityError):
            read(bytes(damaged))
    with pytest.raises(IntegrityError, match="follows the closing record"):
        read(data + data[len(MAGIC) :])


def test_a_writer_that_died_goes_on() -> None:
    """Killed after any byte: the stream is cut to what is intact, and together with what comes later it is whole."""
    make = SCHEDULERS["easy on nodes"]
    data, _ = recorded(make, jobs=12, close=False)
    done = read(data, growing=True)
    for end in range(intact_bytes(done[:1]), len(data), 97):
        entries = read(data[:end], growing=True)
        stream = bytearray(data[: intact_bytes(entries)])
        recorder = Recorder.resumed(entries, make(), stream.extend)
        for entry in done[len(read(bytes(stream), growing=True)) :]:
            if entry.submitted is not None:
                recorder.submit(entry.submitted.job, now_s=entry.submitted.at_s)
            elif entry.ended is not None:
                recorder.end(entry.ended.job, now_s=entry.ended.at_s)
        assert bytes(stream) == data
        recorder.close()
        assert replay(bytes(stream), make()).closed
    with pytest.raises(UsageError, match="was closed"):
        Recorder.resumed(read(bytes(stream)), make(), stream.extend)


def test_faults_are_part_of_it() -> None:
    """A whole cluster with breakdowns, drains among them: recorded in virtual time, replayed without it."""
    tasks = lublin(60, devices=64, seed=3, load=1.2)
    courses: list[Course] = ["repair", "maintenance", "in_place", "repair"]
    breakdowns = [
        Breakdown(
            at_s=1000.0 * number, pool="a", node=number % 8, cause="test", course=course, duration_s=700.0,
            announced_s=300.0 if course == "maintenance" else 0.0,
        )
        for number, course in enumerate(courses * 10, start=1)
    ]  # fmt: skip
    for make in (SCHEDULERS["easy on nodes"], lambda: ConservativeNodes(Placed(POOLS))):
        data = bytearray()
        recorder = Recorder(make(), data.extend)
        outcome = simulate_cluster(tasks, recorder, breakdowns=breakdowns)
        recorder.close()
        assert outcome.digest == simulate_cluster(tasks, make(), breakdowns=breakdowns).digest
        kinds = {field for entry in read(bytes(data)) for field in ("lost", "drained") if getattr(entry, field)}
        assert kinds == {"lost", "drained"}
        assert replay(bytes(data), make()).closed


def test_a_job_may_be_called_off() -> None:
    data = bytearray()
    recorder = Recorder(Easy(Counted(4)), data.extend)
    for name in ("runs", "waits"):
        recorder.submit(Job(id=JobId(name), submit_s=0.0, devices=4, estimate_s=9.0), now_s=0.0)
    recorder.withdraw(JobId("waits"), now_s=1.0)
    recorder.close()
    assert replay(bytes(data), Easy(Counted(4))).stimuli == 3
    with pytest.raises(UsageError, match=r"Conservative cannot be told Withdrawn\(job='waits'"):
        feed(Conservative(Counted(4)), Withdrawn(job=JobId("waits"), at_s=1.0))


def test_what_is_infinite_stays_so() -> None:
    data = bytearray()
    machine = Placed([PoolLayout(name="a", nodes=2, devices_per_node=4)])
    machine.withdraw("a", 1)
    recorder = Recorder(Easy(machine), data.extend)
    for name, devices in (("gang", 8), ("small", 4)):
        recorder.submit(Job(id=JobId(name), submit_s=0.0, devices=devices, estimate_s=9.0), now_s=0.0)
    recorder.close()
    (start,) = [entry.start for entry in read(bytes(data)) if entry.start is not None]
    assert start.reason.hold_s == math.inf


@pytest.mark.parametrize("data", [b"", b"{}", b"myrsch2\n"])
def test_what_is_no_stream(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="begins with"):
        read(data)


def test_a_fault_needs_a_scheduler_that_hears_of_it() -> None:
    recorder = Recorder(Conservative(Counted(4)), bytearray().extend)
    with pytest.raises(MyriarchError, match="Conservative cannot be told"):
        recorder.lose("a", 1, now_s=0.0)
