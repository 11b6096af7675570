"""What a scheduler asks of the devices it gives out.

Two machines answer: `counted.Counted` (mere numbers) and `placed.Placed` (nodes in racks, pods and pools).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job, JobId


class Hold:
    """Devices kept for one job from an instant on.

    Whoever starts now and is not over by then may use only what the hold leaves. It is a bound computed from the
    estimates of what runs, and stands until something ends at another instant than was estimated.
    """

    __slots__ = ("_bits", "at_s", "job", "pool", "spare_devices", "spare_on")

    def __init__(
        self,
        *,
        job: JobId,
        at_s: float,
        spare_devices: int,
        pool: str = "",
        spare_on: dict[int, int] | None = None,
    ) -> None:
        self.job = job
        self.at_s = at_s
        """Infinite: never, with the nodes that are there now."""
        self.spare_devices = spare_devices
        """Devices that are left beyond `at_s`; where nodes are held, those of its own nodes are in `spare_on`."""
        self.pool = pool
        """Where the hold lies."""
        self.spare_on = spare_on or {}
        """What it leaves on each node that it touches: always the same nodes."""
        self._bits: int | None = None

    @property
    def bits(self) -> int:
        """The nodes that it touches, as the bits of an integer."""
        if self._bits is None:
            self._bits = bits_of(self.spare_on)
        return self._bits


def bits_of(nodes: Iterable[int]) -> int:
    """A set of nodes as the bits of one integer."""
    bits = 0
    for node in nodes:
        bits |= 1 << node
    return bits


class Machine(Protocol):
    """Devices of a fleet: which are free, and when the others will be."""

    devices: int
    """All that are usable."""
    free_devices: int
    surprises: int
    """How often something came back or went at another instant than was estimated. A hold stands until the next one."""

    @property
    def largest(self) -> int:
        """No job that asks for more devices fits now; not every smaller one does."""

    def refusal(self, job: Job) -> str:
        """Why this job can never start; empty when it can."""

    def shape(self, job: Job) -> int:
        """Jobs of one shape fit or do not fit alike."""

    def place(self, job: Job, *, now_s: float, hold: Hold | None = None) -> Placement | None:
        """Where it can start at once without delaying `hold`; None: nowhere."""

    def start(self, job: Job, placement: Placement, *, now_s: float, hold: Hold | None = None) -> None:
        """Take the devices; `hold` is brought up to date."""

    def end(self, job: JobId, *, now_s: float) -> bool:
        """Give them back. False when they were back already, because the estimate was over."""

    def expire(self, *, now_s: float) -> bool:
        """Give back what counts as given back at this instant; whether there was any."""

    def hold(self, job: Job, *, now_s: float) -> Hold:
        """The earliest instant at which a job that does not fit now fits by the estimates, and what it leaves."""

    def renew(self, hold: Hold, job: Job, *, now_s: float) -> Hold:
        """The hold as it is after surprises; the same one, brought up to date, where nothing better came of them."""

    def beside(self, hold: Hold) -> int:
        """Free devices that jobs which outlast the hold may use now, all together."""

    def check(self) -> None:
        """Assert the invariants."""


@runtime_checkable
class Breakable(Machine, Protocol):
    """A machine of nodes that go and come back."""

    def running_on(self, pool: str, node: int) -> tuple[JobId, ...]:
        """Who runs on a node, in the order of starting."""

    def planned(self, pool: str, node: int, *, now_s: float) -> bool:
        """Whether the node was drained, some time ago, for this instant."""

    def drain(self, pool: str, node: int, *, from_s: float, now_s: float) -> None:
        """Nobody whose estimate reaches beyond an instant may start on a node any more."""

    def elsewhere(self, job: Job, node: int, *, now_s: float) -> Placement | None:
        """Where a running job can go on at once without a node of its own, the others staying where they are."""

    def run(self, job: JobId) -> tuple[Placement, float]:
        """Where a job runs, and until when by its estimate."""

    def move(self, job: Job, placement: Placement, *, now_s: float) -> Placement:
        """A running job goes over to other nodes, with another estimate; where it was."""

    def withdraw(self, pool: str, node: int) -> tuple[JobId, ...]:
        """Take out a node, when nothing runs on it; else the jobs that have to end first, in the order of starting."""

    def restore(self, pool: str, node: int) -> None:
        """A node is back."""
