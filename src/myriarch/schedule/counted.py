"""A machine of so many equal devices, with any of them as good as any other: what classic backfilling is defined on.

A job counts as gone when its estimate is over: batch systems end it then. So at one instant, submissions see the
devices of jobs that end exactly on time, whichever event is told first.
"""

from __future__ import annotations

from typing import Final

from myriarch.errors import SpecError
from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.machine import Hold
from myriarch.schedule.releases import Release, Releases

NOWHERE: Final = Placement()
"""Where a job runs when nobody counts nodes."""


class Counted:
    """`devices` equal devices. Invariant: free and used devices sum to `devices`; what runs is in `_releases` once."""

    def __init__(self, devices: int) -> None:
        if devices < 1:
            raise SpecError(f"`devices: {devices}` is no machine", hint="give at least one device")
        self.devices = devices
        self.free_devices = devices
        self.surprises = 0
        self._releases = Releases()
        self._running: dict[JobId, Release] = {}
        self._expired: set[JobId] = set()
        self._due: dict[int, JobId] = {}
        self._starts = 0

    @property
    def largest(self) -> int:
        """All that is free."""
        return self.free_devices

    def refusal(self, job: Job) -> str:
        """A job that is larger than the machine."""
        if job.devices > self.devices:
            return f"asks for {job.devices} devices, and all together there are {self.devices}"
        if job.devices < 1 or not job.estimate_s > 0:
            return f"asks for {job.devices} devices for {job.estimate_s} s: both must be above zero"
        return ""

    def shape(self, job: Job) -> int:
        """The number of devices is all there is to a shape."""
        return job.devices

    def place(self, job: Job, *, now_s: float, hold: Hold | None = None) -> Placement | None:
        """Whether the devices are there."""
        if job.devices > self.free_devices:
            return None
        if hold is None or now_s + job.estimate_s <= hold.at_s or job.devices <= hold.spare_devices:
            return NOWHERE
        return None

    def start(self, job: Job, placement: Placement, *, now_s: float, hold: Hold | None = None) -> None:
        """Take the devices."""
        until_s = now_s + job.estimate_s
        self._starts += 1
        release = (until_s, self._starts, job.devices)
        self._releases.add(release)
        self._running[job.id] = release
        self._due[self._starts] = job.id
        self.free_devices -= job.devices
        if hold is not None and until_s > hold.at_s:
            hold.spare_devices -= job.devices

    def end(self, job: JobId, *, now_s: float) -> bool:
        """Give the devices back, unless the estimate was over before."""
        if job in self._expired:
            self._expired.remove(job)
            return False
        release = self._running.pop(job)
        self.surprises += 1
        del self._due[release[1]]
        self._releases.remove(release)
        self.free_devices += release[2]
        return True

    def expire(self, *, now_s: float) -> bool:
        """Give back the devices of jobs whose estimate is over."""
        if self._releases.first_s > now_s:
            return False
        for _, number, devices in self._releases.pop_due(now_s):
            job = self._due.pop(number)
            del self._running[job]
            self._expired.add(job)
            self.free_devices += devices
        return True

    def hold(self, job: Job, *, now_s: float) -> Hold:
        """When enough will have come back."""
        at_s, back = self._releases.when(job.devices - self.free_devices)
        return Hold(job=job.id, at_s=at_s, spare_devices=self.free_devices + back - job.devices)

    def renew(self, hold: Hold, job: Job, *, now_s: float) -> Hold:
        """Worked out anew: it is one walk."""
        return self.hold(job, now_s=now_s)

    def beside(self, hold: Hold) -> int:
        """Those that it leaves."""
        return min(self.free_devices, hold.spare_devices)

    def check(self) -> None:
        """Assert the invariants."""
        self._releases.check()
        used = sum(release[2] for release in self._running.values())
        assert 0 <= self.free_devices == self.devices - used
        assert len(self._releases) == len(self._running) == len(self._due)
