"""Slots to try things on, in shared memory where there is some, and nothing left behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myriarch.arena.copier import SpanCopier
from myriarch.arena.slot import Slot
from myriarch.event.ids import GroupId, Incarnation, Rank, Step

MakeSlot = Callable[..., Slot]
Fill = Callable[..., str]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Private, in shared memory, removed with all its content."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="arena-test-", dir=shared if shared.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def make_slot(folder: Path) -> Iterator[MakeSlot]:
    """`make_slot(payload_bytes)`: a new slot of shard g/0; all are closed and removed at the end."""
    made: list[Slot] = []

    def make(payload_bytes: int, *, index_bytes: int = 4096, **changes: Any) -> Slot:
        arguments: dict[str, Any] = {
            "run_id": "run",
            "group": GroupId("g"),
            "rank": Rank(0),
            "world_size": 1,
            "role": "own",
            "layout_hash": "layout",
        }
        path = folder / f"slot-{len(made)}"
        slot = Slot.create(path, payload_bytes=payload_bytes, index_bytes=index_bytes, **(arguments | changes))
        made.append(slot)
        return slot

    yield make
    for slot in made:
        slot.close()
        slot.path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def fill() -> Fill:
    """`fill(slot, content)`: one sealed snapshot; returns its root."""

    def fill_slot(
        slot: Slot, content: bytes, *, step: int = 1, incarnation: int = 1, index: bytes = b"index", digest: str = ""
    ) -> str:
        source = np.frombuffer(content, dtype=np.uint8)
        copier = SpanCopier([(0, int(source.ctypes.data), len(content))], len(content))
        slot.begin(step=Step(step), incarnation=Incarnation(incarnation), index=index)
        return slot.seal(copier.copy_into(slot), digest=digest)

    return fill_slot
