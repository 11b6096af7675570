"""A worker killed with SIGKILL before any line of the code that takes a snapshot: what was committed stays intact."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from myriarch.arena.memory import NodeMemory
from myriarch.arena.slot import BLOCK_BYTES, Slot, SlotState
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

Fill = Callable[..., str]

OLD, NEW = b"\1" * (2 * BLOCK_BYTES + 5), b"\2" * (2 * BLOCK_BYTES + 5)


def killed_before_line(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a fork that kills itself before the `number`-th line of the arena's code; False: it got through."""
    pid = os.fork()
    if pid == 0:
        left = number

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if "/myriarch/arena/" not in frame.f_code.co_filename:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


@pytest.mark.processes
def test_a_worker_killed_at_every_line_of_its_snapshot(folder: Path, fill: Fill) -> None:
    with NodeMemory(folder / "node", "run") as memory:
        pair = memory.ensure(
            GroupId("g"), Rank(0), world_size=1, role="own", layout_hash="", payload_bytes=len(OLD), index_bytes=99
        )
        with Slot.open(pair.paths[0], writable=True) as slot:
            fill(slot, OLD, step=1, index=b"old")
        assert [flip.committed for flip in memory.commit(Step(1))] == [0]

        def snapshot() -> None:
            with Slot.open(pair.paths[1], writable=True) as slot:
                fill(slot, NEW, step=2, index=b"new")

        with Slot.open(pair.paths[1], writable=True) as mirror:
            line = 1
            outcomes = set()
            while killed_before_line(line, snapshot):
                committed = memory.find(GroupId("g"), Rank(0), Step(1))
                assert committed is not None
                committed.verify()
                assert committed.state is SlotState.COMMITTED
                assert bytes(committed.payload) == OLD
                outcomes.add(mirror.state)
                if mirror.sealed:
                    mirror.verify()
                    assert (bytes(mirror.payload), mirror.index, mirror.header.step) == (NEW, b"new", 2)
                else:
                    assert all(shard.step == 1 for shard in memory.held())
                mirror.release()
                line += 1
        assert outcomes == {SlotState.EMPTY, SlotState.FILLING, SlotState.SEALED}
        assert line > 50
        snapshot()
        assert memory.commit(Step(2), Incarnation(1))
        assert [(shard.step, shard.committed) for shard in memory.held()] == [(2, True)]
