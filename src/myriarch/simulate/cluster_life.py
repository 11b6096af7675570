"""A job's life in the cluster simulator: what it has done, what it has saved, and where its device time went.

Work is counted in seconds of run time as the job would need with the devices it asked for. It gets done at `speed`
times `factor` a second: how fast those devices are for it, and what its slowest node leaves of that. A checkpoint is
taken after every `saves_every_s` of running, at no cost (it is written beside the training). What was done since the
newest one is *provisional*: useful if the job gets there, lost if a fault takes it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from myriarch.event.spans import Leaf
from myriarch.schedule.decision import Placement
from myriarch.schedule.job import Job
from myriarch.units import NS_PER_S

Spend = Callable[[str, Leaf, int], None]
"""Pool, leaf, device-nanoseconds."""

Phase = tuple[float, Leaf]
"""Without progress until an instant, and why."""

NOBODY: Final = Placement()


def instant_ns(at_s: float) -> int:
    """The ledger's clock."""
    return round(at_s * NS_PER_S)


class Life:
    """One job from its submission to its end.

    Invariant: `saved_s <= done_s <= work_s`; while it runs, every device-nanosecond before `at_s` is either spent or
    among `_provisional`.
    """

    __slots__ = (
        "_begin_s",
        "_commits",
        "_phases",
        "_provisional",
        "again",
        "at_s",
        "devices",
        "done_s",
        "end_s",
        "factor",
        "from_s",
        "index",
        "job",
        "number",
        "placement",
        "runs",
        "saved_s",
        "slow_devices",
        "speed",
        "start_s",
        "taints",
        "work_s",
    )

    def __init__(self, index: int, job: Job, work_s: float, start_s: float = 0.0) -> None:
        self.index = index
        self.job = job
        self.work_s = work_s
        self.start_s = start_s
        """Of its first start."""
        self.done_s = 0.0
        self.saved_s = 0.0
        """Work that is in a checkpoint which would be used."""
        self.runs = 0
        """How often it was started or moved."""
        self.number = 0
        """Place in the order of starts, while it runs; 0: it does not."""
        self.placement = NOBODY
        self.devices = 0
        """Those it holds."""
        self.speed = 0.0
        self.factor = 1.0
        self.slow_devices = 0
        """Devices on the nodes that make it slow."""
        self.at_s = 0.0
        """Settled until then."""
        self.from_s = 0.0
        """When it got the devices that it holds."""
        self.again: Leaf = "restart"
        """What starting again is the price of."""
        self.end_s = math.inf
        """When it ends if nothing changes; infinite: it does not get on."""
        self.taints: set[int] = set()
        """Nodes that compute wrong values for it, which nobody knows yet: no checkpoint of it is good meanwhile."""
        self._begin_s = 0.0
        self._commits = 0
        """Checkpoints since it began."""
        self._phases: list[Phase] = []
        self._provisional: dict[tuple[str, Leaf], int] = {}

    @property
    def stopped(self) -> bool:
        """Whether it waits for somebody to decide what becomes of it."""
        return bool(self._phases) and self._phases[-1][0] == math.inf

    def start(self, placement: Placement, *, now_s: float, speed: float, phases: Sequence[Phase] = ()) -> None:
        """Hold devices from now on, and run after the phases."""
        self.runs += 1
        self.placement = placement
        self.devices = placement.devices or self.job.devices
        self.speed = speed
        self.at_s = self.from_s = now_s
        self._run_after(phases)

    def restart(self, phases: Sequence[Phase]) -> None:
        """Run on the same devices after the phases."""
        self._run_after(phases)

    def slow_down(self, factor: float, slow_devices: int) -> None:
        """Its slowest node leaves so much of its speed. Settled until now."""
        self.factor, self.slow_devices = factor, slow_devices
        self._foresee()

    def settle(self, now_s: float, spend: Spend) -> None:
        """Bring everything up to an instant, if it runs."""
        if not self.number:
            return
        while self._phases and self.at_s < now_s:
            until_s, leaf = self._phases[0]
            stop_s = min(until_s, now_s)
            spend(self.placement.pool, leaf, self.devices * (instant_ns(stop_s) - instant_ns(self.at_s)))
            self.at_s = stop_s
            if until_s <= now_s:
                del self._phases[0]
        if self.at_s >= now_s:
            return
        every_s = self.job.saves_every_s
        if every_s != math.inf and not self.taints:
            commits = math.floor((now_s - self._begin_s) / every_s)
            if commits > self._commits:
                self._commits = commits
                self._advance(self._begin_s + commits * every_s)
                self._keep(spend)
        self._advance(now_s)

    def stop_in_order(self, now_s: float, spend: Spend) -> None:
        """Give the devices back, after a last save: what was done before it is kept."""
        self.settle(max(now_s - self.job.save_s, self.at_s), spend)
        if not self._phases:
            stall_ns = instant_ns(now_s) - instant_ns(self.at_s)
            spend(self.placement.pool, "checkpoint_stall", self.devices * stall_ns)
            self.at_s = now_s
            if not self.taints:
                self._keep(spend)
        self.settle(now_s, spend)

    def hand_over(self, now_s: float, spend: Spend) -> None:
        """Go on elsewhere: all that was done goes along."""
        self.settle(now_s, spend)
        if not self.taints:
            self._keep(spend)

    def fall_back(self, now_s: float, spend: Spend) -> float:
        """A fault takes it back to its newest good checkpoint; how much work is lost."""
        self.settle(now_s, spend)
        for (pool, _), device_ns in self._provisional.items():
            spend(pool, "lost_work", device_ns)
        self._provisional.clear()
        lost_s, self.done_s = self.done_s - self.saved_s, self.saved_s
        return lost_s

    def leave(self) -> None:
        """It holds no devices any more."""
        self.number, self.devices, self.end_s = 0, 0, math.inf
        self.placement, self._phases = NOBODY, []

    def end(self, now_s: float, spend: Spend) -> None:
        """It is done: so all of it was useful."""
        self.settle(now_s, spend)
        self.done_s = self.work_s
        self._keep(spend)

    def close(self, now_s: float, spend: Spend) -> None:
        """The simulation is over before it is: what is provisional counts as useful."""
        self.settle(now_s, spend)
        for (pool, leaf), device_ns in self._provisional.items():
            spend(pool, leaf, device_ns)
        self._provisional.clear()

    def check(self) -> None:
        """Assert the invariants."""
        assert -1e-6 <= self.saved_s <= self.done_s + 1e-6 <= self.work_s + 2e-6 * max(1.0, self.work_s)
        assert bool(self.number) == bool(self.devices)
        assert all(device_ns >= 0 for device_ns in self._provisional.values())
        assert [until_s for until_s, _ in self._phases] == sorted(until_s for until_s, _ in self._phases)

    def _run_after(self, phases: Sequence[Phase]) -> None:
        self._phases = [phase for phase in phases if phase[0] > self.at_s]
        self._begin_s = self._phases[-1][0] if self._phases else self.at_s
        self._commits = 0
        self._foresee()

    def _foresee(self) -> None:
        pace = self.speed * self.factor
        from_s = max(self.at_s, self._begin_s)
        self.end_s = from_s + (self.work_s - self.done_s) / pace if pace > 0 else math.inf

    def _advance(self, to_s: float) -> None:
        """Run until an instant, without looking at checkpoints."""
        if to_s <= self.at_s:
            return
        duration_ns = instant_ns(to_s) - instant_ns(self.at_s)
        self.done_s = min(self.done_s + (to_s - self.at_s) * self.speed * self.factor, self.work_s)
        self.at_s = to_s
        useful_ns = round(duration_ns * self.factor)
        self._add("useful_compute", self.devices * useful_ns)
        if useful_ns < duration_ns:
            self._add("throttled", self.slow_devices * (duration_ns - useful_ns))
            self._add("straggler_wait", (self.devices - self.slow_devices) * (duration_ns - useful_ns))

    def _add(self, leaf: Leaf, device_ns: int) -> None:
        key = (self.placement.pool, leaf)
        self._provisional[key] = self._provisional.get(key, 0) + device_ns

    def _keep(self, spend: Spend) -> None:
        """Everything that was done is in a checkpoint."""
        self.saved_s = self.done_s
        for (pool, leaf), device_ns in self._provisional.items():
            spend(pool, leaf, device_ns)
        self._provisional.clear()
