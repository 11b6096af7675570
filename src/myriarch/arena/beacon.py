"""Progress beacons: what each worker of a node is doing, readable without touching the worker.

One file per node: a 64-byte header, then one 64-byte record (a cache line) per worker. All that a beacon says is in
one aligned 8-byte word, so a reader can never see half of it, on any architecture, even if the writer was killed
between two instructions:

    bits 48..63  incarnation     16..47  step     12..15  phase     0..11  ticks (phase changes, modulo 4096)
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, get_args

from myriarch.errors import IntegrityError, UsageError
from myriarch.event.ids import Incarnation, Step

MAGIC: Final = b"MYRBEAC1"
RECORD_BYTES: Final = 64
SLOT_LIMIT: Final = 4096
"""Workers of one node."""

PhaseName = Literal["start", "compute", "collective", "bridge", "snapshot", "optimizer", "wait", "done"]
"""As in `WorkerBeat.phase`."""
PHASES: Final[tuple[PhaseName, ...]] = get_args(PhaseName)
_PHASE_BITS: Final[dict[PhaseName, int]] = {name: number << 12 for number, name in enumerate(PHASES)}

_TICKS: Final = 1 << 12
_STEP_MAX: Final = (1 << 32) - 1
_INCARNATION_MAX: Final = (1 << 16) - 1
_WORDS_PER_RECORD: Final = RECORD_BYTES // 8


class BeaconReading(NamedTuple):
    """What a beacon says now. `ticks` counts phase changes as far as the readings saw them."""

    incarnation: Incarnation
    step: Step
    phase: PhaseName
    ticks: int


class Beacon:
    """The worker's end. `set` costs about half a microsecond and never fails."""

    def __init__(self, path: str | Path, index: int) -> None:
        self._map, self._words = _map(Path(path), writable=True)
        self._word = (1 + index) * _WORDS_PER_RECORD
        if index < 0 or self._word >= len(self._words):
            self.close()
            raise UsageError(f"beacon {index} of {path} does not exist; the table is smaller")
        self._ticks = self._words[self._word] % _TICKS

    def set(self, incarnation: int, step: int, phase: PhaseName) -> None:
        """Say where the worker is. Numbers beyond their bits stay at the largest: a beacon must not stop training."""
        self._ticks = ticks = (self._ticks + 1) % _TICKS
        if incarnation > _INCARNATION_MAX or step > _STEP_MAX:
            incarnation, step = min(incarnation, _INCARNATION_MAX), min(step, _STEP_MAX)
        self._words[self._word] = incarnation << 48 | step << 16 | _PHASE_BITS[phase] | ticks

    def close(self) -> None:
        self._words.release()
        self._map.close()


class BeaconTable:
    """The agent's end: makes the file, reads the records, removes the file."""

    def __init__(self, path: str | Path, n_slots: int) -> None:
        """Create the file. Raises FileExistsError if there is one."""
        if not 1 <= n_slots <= SLOT_LIMIT:
            raise UsageError(f"a beacon table of {n_slots} slots; use 1 to {SLOT_LIMIT}")
        self.path = Path(path)
        self.n_slots = n_slots
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RECORD_BYTES * (1 + n_slots))
            os.pwrite(descriptor, MAGIC, 0)
        finally:
            os.close(descriptor)
        self._map, self._words = _map(self.path, writable=True)
        self._seen = [0] * n_slots

    def read(self, index: int) -> BeaconReading:
        """The newest reading. A beacon that was never set says `start` with no ticks."""
        word = self._words[self._at(index)]
        seen = self._seen[index]
        self._seen[index] = ticks = seen + (word - seen) % _TICKS
        return BeaconReading(
            incarnation=Incarnation(word >> 48),
            step=Step((word >> 16) & _STEP_MAX),
            phase=PHASES[(word >> 12) & 0b111],
            ticks=ticks,
        )

    def clear(self, index: int) -> None:
        """Forget what the last worker of this slot said. Only while no worker writes it."""
        self._words[self._at(index)] = 0
        self._seen[index] = 0

    def _at(self, index: int) -> int:
        if not 0 <= index < self.n_slots:
            raise UsageError(f"beacon {index} of {self.path} does not exist; the table has {self.n_slots}")
        return (1 + index) * _WORDS_PER_RECORD

    def close(self, *, remove: bool = True) -> None:
        self._words.release()
        self._map.close()
        if remove:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _map(path: Path, *, writable: bool) -> tuple[mmap.mmap, memoryview]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes < RECORD_BYTES or size_bytes % RECORD_BYTES or os.pread(descriptor, 8, 0) != MAGIC:
            raise IntegrityError(f"{path} is no beacon table of this version")
        mapping = mmap.mmap(descriptor, size_bytes)
    finally:
        os.close(descriptor)
    return mapping, memoryview(mapping).cast("Q")
