"""What a scheduler asks of the devices it gives out. Two answers: `counted` (mere numbers) and `placed` (nodes, racks, pods)."""

from __future__ import annotations

from typing import Protocol

from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job, JobId


class Hold:
    """Devices kept for one job from an instant on.

    Whoever starts now and is not over by then may use only what the hold leaves. It is a bound computed from the
    estimates of what runs, and stays right until something ends, returns or is lost.
    """

    __slots__ = ("at_s", "job", "spare_devices", "spare_on")

    def __init__(self, *, job: JobId, at_s: float, spare_devices: int, spare_on: dict[int, int] | None = None) -> None:
        self.job = job
        self.at_s = at_s
        self.spare_devices = spare_devices
        """Devices that somebody may use beyond `at_s`; on a placed machine an upper bound of it."""
        self.spare_on = spare_on or {}
        """The same on each node that the hold touches."""


class Machine(Protocol):
    """Devices of a fleet: which are free, and when the others will be."""

    @property
    def devices(self) -> int:
        """All that are usable."""

    @property
    def free_devices(self) -> int: ...

    def refusal(self, job: Job) -> str:
        """Why this job can never start; empty when it can."""

    def shape(self, job: Job) -> int:
        """Jobs of one shape fit or do not fit alike."""

    def place(self, job: Job, *, now_s: float, hold: Hold | None = None) -> Placement | None:
        """Where it can start at once without delaying `hold`; None: nowhere."""

    def start(self, job: Job, placement: Placement, *, now_s: float, hold: Hold | None = None) -> None:
        """Take the devices; `hold` is brought up to date."""

    def end(self, job: JobId) -> bool:
        """Give them back. False when they were back already, because the estimate was over."""

    def expire(self, *, now_s: float) -> bool:
        """Give back what counts as given back at this instant; whether there was any."""

    def hold(self, job: Job, *, now_s: float) -> Hold:
        """The earliest instant at which a job that does not fit now fits by the estimates, and what it leaves."""

    def check(self) -> None:
        """Assert the invariants."""
