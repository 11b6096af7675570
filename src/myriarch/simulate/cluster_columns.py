"""What is kept of every job for the whole simulation: a row of numbers, a few dozen bytes each."""

from __future__ import annotations

from array import array

from myriarch.schedule.job import JobId
from myriarch.simulate.cluster_life import Life
from myriarch.simulate.timeline import Task

UNKNOWN = float("nan")


class Names:
    """Words by number. Invariant: `words[codes[word]] == word`."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, word: str) -> int:
        """A word's number."""
        code = self._codes.get(word)
        if code is None:
            code = self._codes[word] = len(self.words)
            self.words.append(word)
        return code


class Columns:
    """Invariant: all columns are as long as `ids`; what has not happened is NaN, -1 or 0."""

    def __init__(self) -> None:
        self.ids: list[JobId] = []
        self.refused: dict[int, str] = {}
        self.wrong: list[int] = []
        """Who ended with wrong values that nobody had noticed."""
        self.names = Names()
        self.tenant, self.kind, self.pool = array("i"), array("i"), array("i")
        """Codes of `names`; the pool is where it ran last."""
        self.devices = array("i")
        self.submit_s, self.run_s, self.deadline_s = array("d"), array("d"), array("d")
        self.start_s, self.end_s = array("d"), array("d")
        self.held_device_s, self.lost_s = array("d"), array("d")
        self.preemptions, self.restarts, self.resizes = array("i"), array("i"), array("i")

    def submit(self, task: Task) -> int:
        """A job comes; its row."""
        job, code = task.job, self.names.code
        self.ids.append(job.id)
        self.tenant.append(code(job.tenant))
        self.kind.append(code(job.kind))
        self.devices.append(job.devices)
        self.submit_s.append(job.submit_s)
        self.run_s.append(task.run_s)
        self.deadline_s.append(UNKNOWN if job.deadline_s is None else job.deadline_s)
        for unknown in (self.start_s, self.end_s):
            unknown.append(UNKNOWN)
        for zero in (self.held_device_s, self.lost_s):
            zero.append(0.0)
        self.pool.append(-1)
        for none in (self.preemptions, self.restarts, self.resizes):
            none.append(0)
        return len(self.ids) - 1

    def start(self, life: Life, now_s: float) -> None:
        """It runs for the first time."""
        self.start_s[life.index] = now_s

    def held(self, life: Life, now_s: float) -> None:
        """It held its devices until now."""
        if life.number:
            self.held_device_s[life.index] += life.devices * (now_s - life.from_s)
            self.pool[life.index] = self.names.code(life.placement.pool)

    def end(self, life: Life, now_s: float) -> None:
        """It is done."""
        self.end_s[life.index] = now_s
        if life.taints:
            self.wrong.append(life.index)

    def refuse(self, life: Life, reason: str) -> None:
        """It will never run."""
        self.refused[life.index] = reason
