"""All jobs of the simulated cluster that came and did not end: decisions and faults are carried out on them."""

from __future__ import annotations

import heapq
import math

from myriarch.errors import SpecError
from myriarch.schedule.decision import Decision, Placement, Preempt, Resize, Start
from myriarch.schedule.job import JobId
from myriarch.schedule.speed import Speeds
from myriarch.simulate.cluster_columns import Columns
from myriarch.simulate.cluster_ledger import Meter
from myriarch.simulate.cluster_life import Life, Phase
from myriarch.simulate.cluster_nodes import NodeKey, Nodes
from myriarch.simulate.timeline import Task


class Lives:
    """Invariant: every running job whose end is known is in `_ends` with that end."""

    def __init__(self, speeds: Speeds, meter: Meter, columns: Columns) -> None:
        self.meter = meter
        self.nodes = Nodes()
        self._speeds = speeds
        self._columns = columns
        self._spend = meter.spend
        self._lives: dict[JobId, Life] = {}
        self._ends: list[tuple[float, int, JobId]] = []
        """A heap: end, order of starting, job. Those whose end has changed since stay in it and are passed over."""
        self._starts = 0

    def __len__(self) -> int:
        return len(self._lives)

    @property
    def next_end_s(self) -> float:
        """When the next job ends; infinite: never, if nothing changes."""
        ends = self._ends
        while ends:
            end_s, number, job = ends[0]
            life = self._lives.get(job)
            if life is not None and life.number == number and life.end_s == end_s:
                return end_s
            heapq.heappop(ends)
        return math.inf

    def submit(self, task: Task) -> None:
        """A job comes. Raises SpecError when one with its id has not ended."""
        job = task.job
        if job.id in self._lives:
            raise SpecError(f"two jobs of the workload have one id, {job.id}", hint="give every job its own")
        self._lives[job.id] = Life(self._columns.submit(task), job, task.run_s, task.start_s)

    def end(self, *, now_s: float) -> JobId:
        """The job that ends next does so now."""
        _, _, job = heapq.heappop(self._ends)
        life = self._lives.pop(job)
        life.end(now_s, self._spend)
        self._columns.end(life, now_s)
        self._release(life, now_s)
        return job

    def apply(self, decision: Decision, *, now_s: float) -> None:
        """Carry out what was decided."""
        life = self._lives[decision.job]
        if isinstance(decision, Start):
            self._start(life, decision.placement, now_s)
        elif isinstance(decision, Preempt):
            self._preempt(life, decision.lost, now_s)
        elif isinstance(decision, Resize):
            self._resize(life, decision, now_s)
        else:
            assert not life.number, f"job {life.job.id} runs and is refused"
            self._columns.refuse(life, decision.reason)
            del self._lives[life.job.id]

    def on(self, node: NodeKey) -> list[Life]:
        """Who runs on a node, in the order of submission."""
        pool, index = node
        return [life for life in self._lives.values() if life.placement.pool == pool and index in life.placement.nodes]

    def stop_on(self, node: NodeKey, *, now_s: float) -> None:
        """A node is gone, and nobody knows yet: its jobs stand still."""
        for life in self.on(node):
            self._fall_back(life, now_s)
            life.restart([(math.inf, "detect")])

    def restart_on(self, node: NodeKey, *, now_s: float, detect_s: float) -> None:
        """The processes on a node die, and its jobs start again where they are."""
        for life in self.on(node):
            self._fall_back(life, now_s)
            if not life.stopped:
                self._restart(life, now_s, detect_s=detect_s)

    def pace_on(self, node: NodeKey, *, now_s: float) -> None:
        """A node has become slow, or faster again: a gang is as slow as its slowest node."""
        for life in self.on(node):
            life.settle(now_s, self._spend)
            life.slow_down(*self.nodes.pace(life.placement))
            self._foreseen(life)

    def taint_on(self, node: NodeKey, number: int, *, now_s: float) -> None:
        """A node computes wrong values from now on: no checkpoint of its jobs is good until somebody notices."""
        for life in self.on(node):
            life.settle(now_s, self._spend)
            life.taints.add(number)

    def notice(self, number: int, *, now_s: float) -> None:
        """The wrong values of a breakdown are found: what was computed with them is lost."""
        for life in [life for life in self._lives.values() if number in life.taints]:
            self._fall_back(life, now_s)
            life.taints = set(self.nodes.taints(life.placement))
            if life.number and not life.stopped:
                self._restart(life, now_s, detect_s=0.0)

    def close(self, now_s: float) -> int:
        """The simulation is over; how many jobs have not ended."""
        for life in self._lives.values():
            life.close(now_s, self._spend)
            self._columns.held(life, now_s)
        return len(self._lives)

    def check(self) -> None:
        """Assert the invariants."""
        waiting = {(end_s, number) for end_s, number, _ in self._ends}
        for life in self._lives.values():
            life.check()
            assert not life.number or life.end_s == math.inf or (life.end_s, life.number) in waiting
        for name, pool in self.meter.pools.items():
            held = [life.devices for life in self._lives.values() if life.placement.pool == name]
            assert sum(held) == pool.busy, f"pool `{name}`"

    def _start(self, life: Life, placement: Placement, now_s: float) -> None:
        assert not life.number, f"job {life.job.id} runs already"
        self._starts += 1
        if life.runs:
            self._columns.restarts[life.index] += 1
        else:
            self._columns.start(life, now_s)
        self._run_on(life, placement, self._starts, now_s)

    def _preempt(self, life: Life, lost: bool, now_s: float) -> None:
        assert life.number, f"job {life.job.id} does not run"
        if lost:
            self._fall_back(life, now_s)
        else:
            life.stop_in_order(now_s, self._spend)
            self._columns.preemptions[life.index] += 1
        life.again = "restart" if lost else "preempted_by_policy"
        self._release(life, now_s)

    def _resize(self, life: Life, resize: Resize, now_s: float) -> None:
        assert life.number, f"job {life.job.id} does not run"
        if resize.lost:
            self._fall_back(life, now_s)
            self._columns.restarts[life.index] += 1
        else:
            life.hand_over(now_s, self._spend)
            self._columns.resizes[life.index] += 1
        life.again = "restart" if resize.lost else "preempted_by_policy"
        number = life.number
        self._release(life, now_s)
        self._run_on(life, resize.placement, number, now_s)

    def _run_on(self, life: Life, placement: Placement, number: int, now_s: float) -> None:
        """Let it run on devices that it does not hold yet."""
        job, nodes = life.job, self.nodes
        speed = self._speeds(job, pool=placement.pool, devices=placement.devices or job.devices)
        if not speed > 0:
            raise SpecError(
                f"job {job.id} gets nothing done on {placement.devices} devices of pool `{placement.pool}`",
                hint="give the scheduler the same speeds as the simulator",
            )
        phases: list[Phase] = [(now_s + job.restart_s, life.again) if life.runs else (now_s + life.start_s, "warm_up")]
        if nodes.dies(placement):
            phases = [(math.inf, "detect")]
        life.number = number
        life.factor, life.slow_devices = nodes.pace(placement)
        life.start(placement, now_s=now_s, speed=speed, phases=phases)
        if nodes.corrupt:
            life.taints.update(nodes.taints(placement))
        self.meter.pools[placement.pool].busy += life.devices
        self._foreseen(life)

    def _restart(self, life: Life, now_s: float, *, detect_s: float) -> None:
        """Let it start again where it is."""
        self._columns.restarts[life.index] += 1
        found_s = now_s + detect_s
        life.restart([(found_s, "detect"), (found_s + life.job.restart_s, "restart")])
        self._foreseen(life)

    def _fall_back(self, life: Life, now_s: float) -> None:
        self._columns.lost_s[life.index] += life.fall_back(now_s, self._spend)

    def _release(self, life: Life, now_s: float) -> None:
        self.meter.pools[life.placement.pool].busy -= life.devices
        self._columns.held(life, now_s)
        life.leave()

    def _foreseen(self, life: Life) -> None:
        if life.end_s < math.inf:
            heapq.heappush(self._ends, (life.end_s, life.number, life.job.id))
