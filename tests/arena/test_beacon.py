"""Beacons: what a worker says is what its agent reads, whole, whatever happens to the worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.arena.beacon import PHASES, Beacon, BeaconReading, BeaconTable, PhaseName
from myriarch.errors import IntegrityError, UsageError
from myriarch.event.ids import Incarnation, Step


@pytest.fixture
def table(folder: Path) -> Iterator[BeaconTable]:
    with BeaconTable(folder / "beacons", 3) as table:
        yield table
    assert not table.path.exists()


def test_a_beacon_that_was_never_set(table: BeaconTable) -> None:
    assert table.read(0) == BeaconReading(Incarnation(0), Step(0), "start", 0)


def test_what_is_set_is_read(table: BeaconTable) -> None:
    first, last = Beacon(table.path, 0), Beacon(table.path, 2)
    first.set(3, 70_000, "bridge")
    last.set(65_535, 2**32 - 1, "done")
    assert table.read(0) == BeaconReading(Incarnation(3), Step(70_000), "bridge", 1)
    assert table.read(1).ticks == 0
    assert table.read(2) == BeaconReading(Incarnation(65_535), Step(2**32 - 1), "done", 1)
    first.close()
    last.close()


def test_equal_ticks_mean_no_progress(table: BeaconTable) -> None:
    beacon = Beacon(table.path, 1)
    seen = set()
    for step in range(3000):
        for phase in PHASES:
            beacon.set(1, step, phase)
        seen.add(table.read(1).ticks)
    assert len(seen) == 3000
    assert table.read(1).ticks == table.read(1).ticks == 3000 * len(PHASES)
    beacon.close()


def test_the_next_worker_of_a_slot_starts_afresh(table: BeaconTable) -> None:
    beacon = Beacon(table.path, 1)
    beacon.set(1, 50, "compute")
    beacon.close()
    table.clear(1)
    assert table.read(1) == BeaconReading(Incarnation(0), Step(0), "start", 0)


@given(st.integers(0, 2**70), st.integers(0, 2**70), st.sampled_from(PHASES))
def test_no_number_stops_training(
    tmp_path_factory: pytest.TempPathFactory, incarnation: int, step: int, phase: PhaseName
) -> None:
    with BeaconTable(tmp_path_factory.mktemp("beacon") / "b", 1) as table:
        beacon = Beacon(table.path, 0)
        beacon.set(incarnation, step, phase)
        assert table.read(0) == BeaconReading(
            Incarnation(min(incarnation, 2**16 - 1)), Step(min(step, 2**32 - 1)), phase, 1
        )
        beacon.close()


@pytest.mark.parametrize("index", [-1, 3])
def test_a_beacon_that_does_not_exist(table: BeaconTable, index: int) -> None:
    with pytest.raises(UsageError, match=f"beacon {index} of"):
        table.read(index)
    with pytest.raises(UsageError, match=f"beacon {index} of"):
        Beacon(table.path, index)


def test_what_is_no_table(folder: Path) -> None:
    (folder / "no-table").write_bytes(bytes(128))
    with pytest.raises(IntegrityError, match="is no beacon table"):
        Beacon(folder / "no-table", 0)


@pytest.mark.processes
def test_no_reading_is_ever_torn(table: BeaconTable) -> None:
    """A writer that says the same number in both fields is killed in the middle of it."""
    pid = os.fork()
    if pid == 0:
        beacon = Beacon(table.path, 0)
        number = 0
        while True:
            number = (number + 1) % 60_000
            beacon.set(number, number, PHASES[number % len(PHASES)])
    try:
        for _ in range(20_000):
            reading = table.read(0)
            assert int(reading.incarnation) == int(reading.step)
            assert reading.step == 0 or reading.phase == PHASES[reading.step % len(PHASES)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    reading = table.read(0)
    assert int(reading.incarnation) == int(reading.step)
