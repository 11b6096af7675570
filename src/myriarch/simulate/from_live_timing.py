"""How long things take, by what a journal recorded: the durations of a simulated world that goes on from it.

Every duration of `Timing` that the journal shows is measured from it; the others keep their defaults, and `evidence`
says which is which. A drawn timing takes one recorded sample where one decides (a fork), and the mean of a resample
where many add up (steps): Efron's bootstrap, 1979. So ranges come from what this very fleet did, and a run that has
recorded one fault gives narrow ones by accident.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from numpy.random import Generator

from myriarch.event.actions import Fresh, FromMemory, GroupShare, LaunchWorkers, RejoinWorkers, StartSteps, WorkerPlan
from myriarch.event.base import Value
from myriarch.event.events import (
    FaultInjected,
    NodeExited,
    RunStarted,
    ShardDrained,
    ShardFetched,
    ShardReplicated,
    ShardSealed,
    StepCompleted,
    WorkerExited,
    WorkerForked,
    WorkerReady,
)
from myriarch.event.ids import GroupId, Incarnation, NodeId, PoolId, Step
from myriarch.event.journal import Record
from myriarch.event.layout import ShardKey
from myriarch.simulate.timing import Timing
from myriarch.units import NS_PER_S

STEPS_KEPT: Final = 256
"""Newest steps of each group that its speed is measured from: a device that became slower is slow from now on."""
SAMPLES_KEPT: Final = 1024
"""Newest samples of any other duration."""
DEFAULT: Final = Timing()
LEAST_S: Final = 1e-9
SUMMED: Final = frozenset({"bridge_s"})
"""Durations of which many add up."""
SUMMED_RATES: Final = frozenset({"memory_bytes_per_s"})
"""The same of rates: one for each snapshot."""


class Measured(Value, frozen=True, kw_only=True):
    """One duration or rate of `Timing`."""

    name: str
    value: float
    samples: int
    """0: nothing of the kind was recorded, the default of `Timing` is taken."""


@dataclass(eq=False)
class LiveTiming:
    """Samples of a journal. `samples` has fields of `Timing`, by name."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    compute: dict[GroupId, list[float]] = field(default_factory=dict)
    """Device-seconds per sequence of the newest steps."""
    pools: dict[GroupId, PoolId] = field(default_factory=dict)
    nodes: dict[GroupId, dict[NodeId, None]] = field(default_factory=dict)
    """Of the newest incarnation."""

    def timing(self, *, draw: Generator | None = None) -> Timing:
        """The usual durations (medians; for steps means), or drawn ones."""
        values = {name: _drawn(name, samples, draw) for name, samples in sorted(self.samples.items()) if samples}
        sequence_s = {pool: max(LEAST_S, one) for pool, one in self._pools_s(draw).items()}
        return msgspec.structs.replace(Timing(), sequence_s=sequence_s, **values)

    def speeds(self) -> dict[NodeId, float]:
        """Share of its pool's speed that each node of a slower group has: two groups of a pool may differ."""
        groups, pools = self._groups_s(None), self._pools_s(None)
        return {
            node: pools[self.pools[group]] / per_sequence_s
            for group, per_sequence_s in groups.items()
            for node in self.nodes.get(group, ())
            if per_sequence_s > pools[self.pools[group]]
        }

    def evidence(self) -> tuple[Measured, ...]:
        """Every duration and where it comes from."""
        timing = self.timing()
        found = [
            Measured(name=name, value=getattr(timing, name), samples=len(self.samples.get(name, ())))
            for name in Timing.__struct_fields__
            if name not in ("sequence_s", "default_sequence_s")
        ]
        counts: dict[PoolId, int] = {}
        for group, times in self.compute.items():
            counts[self.pools[group]] = counts.get(self.pools[group], 0) + len(times)
        found += [
            Measured(name=f"sequence_s of {pool}", value=value, samples=counts[pool])
            for pool, value in sorted(timing.sequence_s.items())
        ]
        return tuple(found)

    def _groups_s(self, draw: Generator | None) -> dict[GroupId, float]:
        return {group: _mean(times, draw) for group, times in self.compute.items() if times}

    def _pools_s(self, draw: Generator | None) -> dict[PoolId, float]:
        """A pool is as fast as its fastest group."""
        found: dict[PoolId, float] = {}
        for group, per_sequence_s in self._groups_s(draw).items():
            pool = self.pools[group]
            found[pool] = min(found.get(pool, per_sequence_s), per_sequence_s)
        return found


def read_timing(records: Sequence[Record]) -> LiveTiming:
    """Measure what a journal shows."""
    reading = _Reading()
    for record in records:
        if record.event is not None:
            reading.saw(record.event, record.at_ns / NS_PER_S)
        else:
            reading.told(record.action, record.at_ns / NS_PER_S)
    return reading.timing


class _Reading:
    """Pairs of records whose distance is a duration."""

    def __init__(self) -> None:
        self.timing = LiveTiming()
        self._parameters = 0
        self._shares: dict[GroupId, GroupShare] = {}
        self._incarnation = Incarnation(0)
        self._launched: dict[ShardKey, tuple[float, WorkerPlan]] = {}
        self._rejoined: dict[ShardKey, tuple[float, WorkerPlan]] = {}
        self._forked: dict[ShardKey, tuple[float, WorkerPlan]] = {}
        self._sealed: dict[tuple[ShardKey, Step, Incarnation], float] = {}
        self._steps: dict[Step, dict[GroupId, StepCompleted]] = {}
        self._met: dict[tuple[GroupId, Incarnation], list[float]] = {}
        """Seconds of rendezvous of a group's workers, while they come to be ready."""
        self._rebuilt = False
        """Whether a worker was started with a state to restore."""
        self._kills: dict[str, float] = {}

    def told(self, action: object, at_s: float) -> None:
        """An action."""
        match action:
            case LaunchWorkers():
                for plan in action.workers:
                    self._launched[plan.group, plan.rank] = (at_s, plan)
                    self._place(plan, action.node)
            case RejoinWorkers():
                for plan in action.workers:
                    self._rejoined[plan.group, plan.rank] = (at_s, plan)
                    self._place(plan, action.node)
            case StartSteps():
                self._shares = {share.group: share for share in action.shares}
                self._incarnation = action.incarnation
                self._steps.clear()
            case _:
                pass

    def saw(self, event: object, at_s: float) -> None:
        """An event."""
        match event:
            case RunStarted():
                self._parameters = event.resolved.model.parameters
                self.timing.pools = {GroupId(group.name): PoolId(group.pool) for group in event.resolved.run.groups}
            case StepCompleted():
                self._step(event)
            case ShardSealed():
                shard = event.shard
                self._sealed[(shard.group, shard.rank), shard.step, shard.incarnation] = at_s
                self._rate("memory_bytes_per_s", shard.size_bytes, event.stall_s)
                if self._parameters:
                    self._sample("bytes_per_parameter", shard.size_bytes * shard.world_size / self._parameters)
            case ShardReplicated():
                shard = event.shard
                sealed_s = self._sealed.get(((shard.group, shard.rank), shard.step, shard.incarnation))
                if sealed_s is not None:
                    self._rate("network_bytes_per_s", shard.size_bytes, at_s - sealed_s)
            case ShardFetched():
                self._rate("network_bytes_per_s", event.shard.size_bytes, event.duration_s)
            case ShardDrained():
                self._rate("disk_bytes_per_s", event.size_bytes, event.duration_s)
            case WorkerForked() | WorkerReady():
                self._started(event, at_s)
            case FaultInjected() if event.action == "kill":
                self._kills = dict.fromkeys((*event.nodes, event.target), at_s)
            case NodeExited() | WorkerExited():
                self._exited(event, at_s)
            case _:
                pass

    # --- steps ------------------------------------------------------------------------------------------------------

    def _step(self, event: StepCompleted) -> None:
        share = self._shares.get(event.group)
        if share is None or event.incarnation != self._incarnation or event.compute_s <= 0.0:
            return
        times = self.timing.compute.setdefault(event.group, [])
        times.append(event.compute_s * share.world_size / share.count)
        del times[:-STEPS_KEPT]
        of_step = self._steps.setdefault(event.step, {})
        of_step[event.group] = event
        if len(of_step) == len(self._shares):
            del self._steps[event.step]
            slowest_s = max(one.compute_s for one in of_step.values())
            whole_s = max(one.duration_s for one in of_step.values())
            self._sample("bridge_s", max(0.0, whole_s - slowest_s))

    # --- starts -----------------------------------------------------------------------------------------------------

    def _started(self, event: WorkerForked | WorkerReady, at_s: float) -> None:
        key = (event.group, event.rank)
        if isinstance(event, WorkerForked):
            told = self._launched.pop(key, None)
            if told is None or told[1].incarnation != event.incarnation:
                return
            self._forked[key] = (at_s, told[1])
            if told[1].incarnation > 1 and not _remote(told[1]):
                # The first launch waits for imports, and one with a fetch for its bytes.
                self._sample("fork_s", max(0.0, at_s - told[0] - 2 * DEFAULT.latency_s))
            return
        forked, rejoined = self._forked.pop(key, None), self._rejoined.pop(key, None)
        if rejoined is not None and rejoined[1].incarnation == event.incarnation:
            self._restored(at_s - rejoined[0], rejoined[1])
        elif forked is not None and forked[1].incarnation == event.incarnation:
            self._built(event, forked[1])

    def _built(self, event: WorkerReady, plan: WorkerPlan) -> None:
        parts: dict[str, float] = {}
        for phase in event.phases:
            parts[phase.leaf] = parts.get(phase.leaf, 0.0) + (phase.end_ns - phase.start_ns) / NS_PER_S
        if not parts:
            return
        met = self._met.setdefault((plan.group, plan.incarnation), [])
        met.append(parts.get("rendezvous", 0.0) + parts.get("comm_init", 0.0))
        if len(met) == plan.world_size:  # who came last waited for nobody
            self._sample("rendezvous_s", min(met))
        fresh = isinstance(plan.restore, Fresh)
        if not fresh and not self._rebuilt:  # fresh ones also draw initial weights: from now on they do not count
            self._rebuilt = True
            self.timing.samples.pop("model_build_s", None)
        if not (fresh and self._rebuilt):
            self._sample("model_build_s", parts.get("model_build", 0.0) + parts.get("data_open", 0.0))
        if plan.calibrate:
            self._sample("calibrate_s", parts.get("warm_up", 0.0))
        if not fresh and "restore" in parts:
            self._restored(parts["restore"], plan)

    def _restored(self, duration_s: float, plan: WorkerPlan) -> None:
        """What a restore took beside moving bytes at the speed of snapshots; remote bytes are fetched before it."""
        if not isinstance(plan.restore, FromMemory) or _remote(plan):
            return
        rates = self.timing.samples.get("memory_bytes_per_s")
        moved = sum(source.shard.size_bytes for source in plan.restore.shards)
        moving_s = moved / statistics.median(rates) if rates else 0.0
        self._sample("restore_s", max(0.0, duration_s - moving_s))

    def _exited(self, event: NodeExited | WorkerExited, at_s: float) -> None:
        if isinstance(event, WorkerExited) and event.cause == "collective_error":
            if self._kills:
                said_s = at_s - next(iter(self._kills.values())) - DEFAULT.exit_s - DEFAULT.latency_s
                self._sample("collective_s", max(0.0, said_s))
            return
        names = (event.node,) if isinstance(event, NodeExited) else (event.node, f"{event.group}/{event.rank}")
        for name in names:
            if name in self._kills:
                self._sample("exit_s", at_s - self._kills.pop(name))
                return

    # --- samples ----------------------------------------------------------------------------------------------------

    def _place(self, plan: WorkerPlan, node: NodeId) -> None:
        nodes = self.timing.nodes.setdefault(plan.group, {})
        if plan.rank == 0:
            nodes.clear()
        nodes[node] = None

    def _sample(self, name: str, value: float) -> None:
        samples = self.timing.samples.setdefault(name, [])
        samples.append(value)
        del samples[:-SAMPLES_KEPT]

    def _rate(self, name: str, size_bytes: int, duration_s: float) -> None:
        if duration_s > 0.0 and size_bytes > 0:
            self._sample(name, size_bytes / duration_s)


def _remote(plan: WorkerPlan) -> bool:
    """Whether its restore needs shards of other groups or sizes."""
    return isinstance(plan.restore, FromMemory) and not plan.restore.same_layout


def _drawn(name: str, samples: Sequence[float], draw: Generator | None) -> float:
    if name in SUMMED:
        return _mean(samples, draw)
    if name in SUMMED_RATES:
        return 1.0 / _mean([1.0 / rate for rate in samples], draw)
    return statistics.median(samples) if draw is None else samples[int(draw.integers(len(samples)))]


def _mean(samples: Sequence[float], draw: Generator | None) -> float:
    """For sums of many: the mean, or that of a resample."""
    if draw is None:
        return statistics.fmean(samples)
    return statistics.fmean(samples[at] for at in draw.integers(len(samples), size=len(samples)).tolist())
