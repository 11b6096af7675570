"""How fast groups are, and what follows: shares of the batch and intervals between snapshots.

Speeds are measured before a group's first step and kept per device until a rebalance (`drift`) takes better ones: the
same groups on the same devices get the same shares, so that a recovered run repeats the undisturbed one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from myriarch.cost.failures import mtbf_s
from myriarch.cost.interval import optimal_interval_steps
from myriarch.event.actions import GroupShare
from myriarch.event.events import WorkerReady
from myriarch.event.ids import GroupId
from myriarch.event.layout import GroupLayout
from myriarch.plan.shares import ShareRequest, honour, split_batch
from myriarch.spec.run import ResolvedRun

DISK_INTERVALS: Final = 10
"""Memory intervals per disk interval: `Checkpoint.disk_every_steps`' default."""

UNKNOWN_MEMORY_EVERY_STEPS: Final = 10
"""Where neither the file nor a calibration says anything: DLRover's published interval in memory (65B, 1,536 GPUs)."""


class Pace(msgspec.Struct, kw_only=True):
    """What was measured, and the intervals that came out of it."""

    device_speed: dict[GroupId, float] = {}
    """Sequences per second of one device of the group."""
    snapshot_s: float = 0.0
    """The longest that a snapshot stopped a worker while it calibrated."""
    memory_every_steps: int | None = None
    """Set at the first start, and kept."""
    disk_every_steps: int | None = None
    """A multiple of `memory_every_steps`."""
    why: str = ""
    """Where the intervals come from."""

    def measured(self, event: WorkerReady, *, devices: int) -> None:
        """A worker calibrated. A group is as fast as its slowest worker says."""
        if event.sequence_s:
            speed = 1.0 / (event.sequence_s * devices)
            self.device_speed[event.group] = min(speed, self.device_speed.get(event.group, math.inf))
        if event.snapshot_s is not None:
            self.snapshot_s = max(self.snapshot_s, event.snapshot_s)

    def unmeasured(self, layouts: Iterable[GroupLayout]) -> set[GroupId]:
        """The groups of which no worker has calibrated yet."""
        return {layout.group for layout in layouts if layout.group not in self.device_speed}

    def shares(
        self,
        resolved: ResolvedRun,
        layouts: Mapping[GroupId, GroupLayout],
        device_speed: Mapping[GroupId, float] | None = None,
    ) -> tuple[GroupShare, ...]:
        """Each group's part of the batch, by its own speeds or by others. Raises SpecError where it cannot be split."""
        run = resolved.run
        speeds = self.device_speed if device_speed is None else device_speed
        full = {GroupId(group.name): group.mesh.devices for group in run.groups}
        typical = _middle(list(speeds.values()))
        weights = {
            name: (
                speeds.get(name, typical) * layout.world_size
                if run.shares == "measured"
                else run.shares[name] * layout.world_size / full[name]
            )
            for name, layout in layouts.items()
        }
        requests = [
            ShareRequest(group=name, world_size=layout.world_size, speed=weights[name])
            for name, layout in layouts.items()
        ]
        if run.shares == "measured":
            return split_batch(requests, sequences=run.batch.sequences)
        return honour(requests, run.shares, sequences=run.batch.sequences)

    def set_intervals(self, resolved: ResolvedRun, shares: tuple[GroupShare, ...]) -> None:
        """Once, at the first start: what the file says, else what loses least at the fleet's failure rate."""
        if self.memory_every_steps is not None:
            return
        checkpoint = resolved.run.checkpoint
        if checkpoint.memory_every_steps is not None:
            memory, self.why = checkpoint.memory_every_steps, "the run file"
        else:
            memory, self.why = self._computed(resolved, shares)
        disk = checkpoint.disk_every_steps or DISK_INTERVALS * memory
        self.memory_every_steps = memory
        self.disk_every_steps = -(-disk // memory) * memory

    def step_s(self, shares: tuple[GroupShare, ...]) -> float | None:
        """Expected seconds of a step: its slowest group's; None when nothing was measured."""
        times = [
            share.count / (self.device_speed[share.group] * share.world_size)
            for share in shares
            if share.group in self.device_speed
        ]
        return max(times, default=None)

    def _computed(self, resolved: ResolvedRun, shares: tuple[GroupShare, ...]) -> tuple[int, str]:
        step_s = self.step_s(shares)
        if step_s is None:
            return UNKNOWN_MEMORY_EVERY_STEPS, "nothing was measured"
        between_s = mtbf_s(resolved)
        steps = optimal_interval_steps(step_s, save_s=self.snapshot_s, mtbf_s=between_s, limit_steps=resolved.run.steps)
        return steps, (
            f"the optimal interval for a snapshot of {self.snapshot_s:.3g} s, a step of {step_s:.3g} s "
            f"and a failure every {between_s:.3g} s"
        )

    def check(self) -> None:
        """Invariants."""
        if self.memory_every_steps is not None:
            assert self.memory_every_steps >= 1
            assert self.disk_every_steps is not None
            assert self.disk_every_steps % self.memory_every_steps == 0


def _middle(values: list[float]) -> float:
    """The median; 1 where there is nothing, so that all weigh the same."""
    return sorted(values)[len(values) // 2] if values else 1.0
