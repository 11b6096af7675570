"""What a scheduler decides, and why, in numbers."""

from __future__ import annotations

from typing import Literal

from myriarch.event.base import Value
from myriarch.schedule.job import JobId

Rule = Literal["in order", "before the hold", "beside the hold", "promised", "ranked"]
"""`in order`: it was first in the queue and fitted. `before the hold`: by its estimate it ends before the devices
held for the first job are needed. `beside the hold`: it uses devices that the hold leaves. `promised`: its time has
come. `ranked`: a policy that also stops and resizes jobs put it among those that run; `text` says why."""


class Reason(Value, frozen=True, kw_only=True):
    """Why a job starts now."""

    rule: Rule
    waited_s: float
    head: JobId | None = None
    """The first in the queue, for which devices are held."""
    hold_s: float | None = None
    """When the first in the queue can start at the latest, by the estimates of running jobs."""
    spare_devices: int | None = None
    """Devices left at that time, before this job took some."""
    promised_s: float | None = None
    """The first promise that was made to this job."""
    text: str = ""
    """What `ranked` rests on, in numbers; with the other rules, what else was weighed."""

    @property
    def sentence(self) -> str:
        """For people."""
        words = self._words
        return f"{words}; {self.text}" if self.text and self.rule != "ranked" else words

    @property
    def _words(self) -> str:
        waited = f"after {self.waited_s:g} s in the queue"
        match self.rule:
            case "in order":
                return f"first in the queue, and its devices are free, {waited}"
            case "before the hold":
                return f"backfilled {waited}: over before job {self.head} can start at {self.hold_s:g} s"
            case "beside the hold":
                return f"backfilled {waited}: job {self.head}, held for {self.hold_s:g} s, leaves {self.spare_devices}"
            case "promised":
                return f"promised for {self.promised_s:g} s at the latest, {waited}"
            case "ranked":
                return f"{self.text}, {waited}"


class Placement(Value, frozen=True, kw_only=True):
    """Where a job runs: the same number of devices on some nodes of one pool. Empty where only devices are counted."""

    pool: str = ""
    nodes: tuple[int, ...] = ()
    """Indices of the pool's nodes, ascending: `<pool>-<index>`."""
    devices_per_node: int = 0

    @property
    def devices(self) -> int:
        """Devices taken; it may be more than was asked for, where a gang does not divide among its nodes."""
        return len(self.nodes) * self.devices_per_node


class Start(Value, frozen=True, kw_only=True):
    """Start a job now."""

    job: JobId
    at_s: float
    until_s: float
    """When its estimate is over."""
    placement: Placement
    reason: Reason


class Refuse(Value, frozen=True, kw_only=True):
    """A job that could never start, however long it waited."""

    job: JobId
    at_s: float
    reason: str


class Preempt(Value, frozen=True, kw_only=True):
    """A running job gives its devices back now and waits again; what it saved stays."""

    job: JobId
    at_s: float
    lost: bool = False
    """A fault took a node of it, so that it could not save first."""
    reason: str


class Resize(Value, frozen=True, kw_only=True):
    """A running job goes on elsewhere, or with more or fewer devices, from now on."""

    job: JobId
    at_s: float
    until_s: float
    """When it should be over there."""
    placement: Placement
    lost: bool = False
    """A fault took a node of it: it goes on from its newest checkpoint."""
    reason: str


Decision = Start | Refuse | Preempt | Resize
