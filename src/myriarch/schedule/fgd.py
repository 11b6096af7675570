"""Packing of tasks that need parts of a device, whole devices or none: the least fragmentation grows (FGD).

Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC
2023. A node's fragmentation is measured against the tasks that are expected (`Typical`, with their shares p_m):

    F_n(m) = all of n's free device parts, if n cannot run a task m at all, or m needs no device;
             else the free parts of those devices that are each too little for m
    F_n    = sum over m of p_m F_n(m)

and a task goes where it raises the sum of F_n least. The rivals of the paper's table are here too: they choose by what
is free, not by what is to come. `benchmarks/packing.py` prints that table.

Arrays over all nodes; a node's scores change only when it is given a task, so for each kind of task they are kept and
only the nodes that changed since are scored again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MILLI: Final = 1000
"""Parts of a device."""
_NONE: Final = -1
"""Where a node has no such device."""

STEPS: Final = 100
"""Scores are whole numbers up to it, as in Kubernetes, where the paper's results were had. This is no detail: on the
paper's trace, unrounded descent gives out 94.3 % of the devices (mean of four seeds), rounded 95.4 %."""

Rule = Literal["fgd", "best-fit", "packing", "clustering", "dot-product", "random"]


@dataclasses.dataclass(frozen=True)
class Task:
    """What one task needs: host cores, host memory, and devices, or a part of one."""

    cores_milli: int
    memory_mib: int = 0
    devices: int = 0
    parts: int = 0
    """Of each device, in thousandths; less than `MILLI` only with one device."""
    models: frozenset[str] = frozenset()
    """Kinds of device that it takes; empty: any."""

    @property
    def parts_total(self) -> int:
        return self.devices * self.parts


@dataclasses.dataclass(frozen=True)
class Host:
    """A node of the cluster."""

    cores_milli: int
    memory_mib: int
    devices: int
    model: str = ""


@dataclasses.dataclass(frozen=True)
class Typical:
    """The tasks that are to be expected, each with its share of all."""

    tasks: tuple[Task, ...]
    shares: Floats

    @classmethod
    def of(cls, tasks: Iterable[Task], *, covered: float = 0.95) -> Typical:
        """The most frequent kinds, as many as it takes to cover so much of a workload (95 %: the authors' setting)."""
        # Memory is no part of a kind: fragmentation is one of devices and cores.
        counted = Counter(dataclasses.replace(task, memory_mib=0) for task in tasks)
        ranked = sorted(counted.items(), key=lambda each: (-each[1], _key(each[0])))
        wanted, kept, held = covered * counted.total(), [], 0
        for task, count in ranked:
            kept.append((task, count))
            held += count
            if held >= wanted:
                break
        return cls(tuple(task for task, _ in kept), np.array([count / held for _, count in kept]))


def _key(task: Task) -> tuple[int, int, int, str]:
    return task.devices, task.parts, task.cores_milli, "|".join(sorted(task.models))


class Cluster:
    """Nodes and what is free on them. Invariant (`check`): nothing is below zero or above what the node has."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        widest = max(host.devices for host in hosts)
        self.hosts = tuple(hosts)
        self.models = np.array([host.model for host in hosts])
        self.cores: Ints = np.array([host.cores_milli for host in hosts], dtype=np.int64)
        self.memory: Ints = np.array([host.memory_mib for host in hosts], dtype=np.int64)
        self.devices: Ints = np.array([host.devices for host in hosts], dtype=np.int64)
        present = np.arange(widest)[None, :] < self.devices[:, None]
        self.parts: Ints = np.where(present, MILLI, _NONE)
        """[node, device]: free parts; -1 where there is no such device."""
        self._all = self.parts.copy(), self.cores.copy(), self.memory.copy()
        self.kinds = [Counter[str]() for _ in hosts]
        """Of each node: how many tasks of which kind of need it runs (for `clustering`)."""
        self.changes: list[int] = []
        """Nodes that were given a task, in order."""

    @property
    def parts_total(self) -> int:
        return int(self.devices.sum()) * MILLI

    @property
    def parts_used(self) -> int:
        return self.parts_total - int(np.maximum(self.parts, 0).sum())

    def fits(self, task: Task, nodes: Ints) -> Bools:
        """Which of the nodes could run it now."""
        able = (self.cores[nodes] >= task.cores_milli) & (self.memory[nodes] >= task.memory_mib)
        if task.devices:
            able &= (self.parts[nodes] >= task.parts).sum(axis=1) >= task.devices
            able &= self.takes(task)[nodes]
        return able

    def takes(self, task: Task) -> Bools:
        """Which nodes have a kind of device that the task runs on."""
        if not task.models:
            return np.ones(len(self.hosts), dtype=np.bool_)
        return np.isin(self.models, sorted(task.models))

    def place(self, task: Task, node: int, devices: Sequence[int]) -> None:
        """Give a task its node and devices."""
        self.cores[node] -= task.cores_milli
        self.memory[node] -= task.memory_mib
        self.parts[node, list(devices)] -= task.parts
        self.kinds[node][affinity(task)] += 1
        self.changes.append(node)

    def check(self) -> None:
        """Raises AssertionError where more was given out than there is."""
        parts, cores, memory = self._all
        present = parts != _NONE
        assert (self.parts[present] >= 0).all(), "a device is overbooked"
        assert (self.parts[~present] == _NONE).all(), "a device was given out that is not there"
        assert ((self.cores >= 0) & (self.cores <= cores)).all(), "cores are overbooked"
        assert ((self.memory >= 0) & (self.memory <= memory)).all(), "memory is overbooked"


def affinity(task: Task) -> str:
    """Tasks of like need, for `clustering`: those that share a device, and those of one, two, ... whole ones."""
    if not task.devices:
        return ""
    return "share" if task.devices == 1 and task.parts < MILLI else str(task.devices)


def fragmentation(parts: Ints, cores: Ints, takes: Bools, typical: Typical) -> Floats:
    """F_n of nodes in any state: `parts` [state, device], `cores` [state], `takes` [state, kind of task]."""
    free = np.maximum(parts, 0).sum(axis=1)
    total = np.zeros(len(parts))
    # Free parts sorted with their sums: what is too little for a task is a prefix.
    ordered = np.sort(np.maximum(parts, 0), axis=1)
    sums = np.concatenate((np.zeros((len(parts), 1), dtype=np.int64), np.cumsum(ordered, axis=1)), axis=1)
    by_parts: dict[int, tuple[Ints, Ints]] = {}
    for index, (task, share) in enumerate(zip(typical.tasks, typical.shares, strict=True)):
        if not task.parts:
            total += share * free
            continue
        if task.parts not in by_parts:
            short = (ordered < task.parts).sum(axis=1)
            by_parts[task.parts] = short, np.take_along_axis(sums, short[:, None], axis=1)[:, 0]
        short, stranded = by_parts[task.parts]
        able = takes[:, index] & (cores >= task.cores_milli) & (parts.shape[1] - short >= task.devices)
        total += share * np.where(able, stranded, free)
    return total


@dataclasses.dataclass
class _Scores:
    """Of one kind of task on every node: 0 to `STEPS`, the higher the better; and which device, for a shared one."""

    scores: Floats
    device: Ints
    fits: Bools
    seen: int
    """So many of the cluster's changes are in."""


class Packer:
    """Places tasks one by one by a rule. `draw` gives a number in [0, 1), for `random` alone."""

    def __init__(
        self, cluster: Cluster, *, rule: Rule, typical: Typical | None = None, draw: Callable[[], float] | None = None
    ) -> None:
        if rule == "fgd" and typical is None:
            raise ValueError("rule `fgd` measures fragmentation against typical tasks; give `typical`")
        if rule == "random" and draw is None:
            raise ValueError("rule `random` takes its numbers from the caller; give `draw`")
        self.cluster = cluster
        self.rule = rule
        self._typical = typical
        self._draw = draw
        self._kept: dict[Task, _Scores] = {}
        self._most_cores = max(host.cores_milli for host in cluster.hosts)
        self._most_parts = cluster.parts.shape[1] * MILLI
        if typical is not None:
            self._takes = np.array([cluster.takes(task) for task in typical.tasks]).T.reshape(-1, len(typical.tasks))
            self._fragmented = fragmentation(cluster.parts, cluster.cores, self._takes, typical)
            self._known = len(cluster.changes)

    def place(self, task: Task) -> tuple[int, tuple[int, ...]] | None:
        """The node and devices that a task gets; None where none fits.

        Of equals the first node, as in the authors' scheduler (they changed `selectHost` of Kubernetes, which draws).
        Equals are many, so the order of the nodes counts; the authors draw it anew for every run, by a random number
        before each name (`syncClusterResourceList` of github.com/hkust-adsl/kubernetes-scheduler-simulator).
        """
        scores = self._scores(task)
        if not scores.fits.any():
            return None
        if self.rule == "random" and self._draw is not None:
            able = np.flatnonzero(scores.fits)
            node = int(able[int(self._draw() * len(able))])
        else:
            node = int(np.argmax(np.where(scores.fits, scores.scores, -np.inf)))
        devices = self._devices(task, node, int(scores.device[node]))
        self.cluster.place(task, node, devices)
        return node, devices

    def _scores(self, task: Task) -> _Scores:
        cluster = self.cluster
        kept = self._kept.get(task)
        if kept is None:
            count = len(cluster.hosts)
            kept = _Scores(np.zeros(count), np.full(count, _NONE), np.zeros(count, dtype=np.bool_), 0)
            nodes = np.arange(count)
            self._kept[task] = kept
        else:
            nodes = np.unique(np.array(cluster.changes[kept.seen :], dtype=np.int64))
        if len(nodes):
            kept.fits[nodes] = cluster.fits(task, nodes)
            able = nodes[kept.fits[nodes]]
            if len(able):
                scores, kept.device[able] = self._score(task, able)
                kept.scores[able] = np.floor(scores + 1e-9)
        kept.seen = len(cluster.changes)
        return kept

    def _score(self, task: Task, nodes: Ints) -> tuple[Floats, Ints]:
        any_device = np.full(len(nodes), _NONE)
        match self.rule:
            case "fgd":
                return self._descent(task, nodes)
            case "best-fit":
                return self._fitting(task, nodes), any_device
            case "packing":
                return self._packed(task, nodes), any_device
            case "clustering":
                return self._clustered(task, nodes), any_device
            case "dot-product":
                return self._crossed(task, nodes), any_device
            case "random":
                return np.zeros(len(nodes)), any_device

    def _descent(self, task: Task, nodes: Ints) -> tuple[Floats, Ints]:
        """How little a task raises F_n; of a shared device the best one."""
        assert self._typical is not None
        now = self._current(nodes)
        cores = self.cluster.cores[nodes] - task.cores_milli
        parts = self.cluster.parts[nodes]
        if task.devices != 1 or task.parts == MILLI:
            after = parts.copy()
            if task.devices:
                free = after == MILLI
                after[free & (np.cumsum(free, axis=1) <= task.devices)] = 0
            growth = fragmentation(after, cores, self._takes[nodes], self._typical) - now
            return STEPS * _sigmoid(-growth / MILLI), np.full(len(nodes), _NONE)
        rows, devices = np.nonzero(parts >= task.parts)
        after = parts[rows]
        after[np.arange(len(rows)), devices] -= task.parts
        growth = fragmentation(after, cores[rows], self._takes[nodes[rows]], self._typical) - now[rows]
        scores = np.floor(STEPS * _sigmoid(-growth / MILLI))
        best = np.full(len(nodes), -1.0)
        np.maximum.at(best, rows, scores)
        # The first of a node's best devices: they are written from the last to the first.
        chosen = np.full(len(nodes), _NONE)
        winners = np.flatnonzero(scores == best[rows])[::-1]
        chosen[rows[winners]] = devices[winners]
        return best, chosen

    def _current(self, nodes: Ints) -> Floats:
        """F_n of nodes as they are, kept until they change."""
        assert self._typical is not None
        stale = np.unique(np.array(self.cluster.changes[self._known :], dtype=np.int64))
        if len(stale):
            cluster = self.cluster
            self._fragmented[stale] = fragmentation(
                cluster.parts[stale], cluster.cores[stale], self._takes[stale], self._typical
            )
        self._known = len(self.cluster.changes)
        found: Floats = self._fragmented[nodes]
        return found

    # --- its rivals ---------------------------------------------------------------------------------------------------

    def _fitting(self, task: Task, nodes: Ints) -> Floats:
        """Best fit: the least that is left, half by cores and half by devices, each over the largest node's."""
        cores = (self.cluster.cores[nodes] - task.cores_milli) / self._most_cores
        parts = (self._free(nodes) - task.parts_total) / self._most_parts
        scores: Floats = STEPS * (1.0 - (cores + parts) / 2)
        return scores

    def _packed(self, task: Task, nodes: Ints) -> Floats:
        """Packing (MLaaS in the wild, NSDI 2022): devices in use, then free ones of nodes in use, then free nodes."""
        if not task.devices:
            return np.zeros(len(nodes))
        parts = self.cluster.parts[nodes]
        free = (parts == MILLI).sum(axis=1)
        chosen = np.sort(np.where(parts >= task.parts, parts, 10 * MILLI), axis=1)[:, : task.devices]
        whole = (chosen == MILLI).sum(axis=1)
        shared = np.maximum(STEPS - (chosen * STEPS // MILLI).sum(axis=1) // 10, STEPS // 2)
        opened = np.maximum(STEPS // 2 - whole, STEPS // 3)
        untouched = np.maximum(STEPS // 3 - free, free)
        is_free = free == self.cluster.devices[nodes]
        scores: Floats = np.where(is_free, untouched, np.where(whole > 0, opened, shared)).astype(np.float64)
        return scores

    def _clustered(self, task: Task, nodes: Ints) -> Floats:
        """Clustering (Gandiva, OSDI 2018): beside tasks of like need, then on free nodes; the fuller the better."""
        if not task.devices:
            return np.zeros(len(nodes))
        mine = affinity(task)
        quarter = STEPS // 4
        fullness = quarter * (self._most_parts - self._free(nodes)) // self._most_parts
        tiers = np.array([_tier(self.cluster.kinds[node], mine) for node in nodes])
        scores: Floats = (tiers * quarter + fullness).astype(np.float64)
        return scores

    def _crossed(self, task: Task, nodes: Ints) -> Floats:
        """Dot product (Tetris, SIGCOMM 2014): the smallest product of need and free; a full node is taken first."""
        cores = self.cluster.cores[nodes] / self._most_cores * (task.cores_milli / self._most_cores)
        parts = self._free(nodes) / self._most_parts * (task.parts_total / self._most_parts)
        scores: Floats = STEPS * (1.0 - (cores + parts) / 2)
        return scores

    def _free(self, nodes: Ints) -> Ints:
        free: Ints = np.maximum(self.cluster.parts[nodes], 0).sum(axis=1)
        return free

    def _devices(self, task: Task, node: int, device: int) -> tuple[int, ...]:
        """Whole devices: the first free ones. A shared one: the rule's own, or the fullest that has room."""
        parts = self.cluster.parts[node]
        if not task.devices:
            return ()
        if device != _NONE:
            return (device,)
        able = np.flatnonzero(parts >= task.parts)
        if self.rule == "random" and task.parts < MILLI and self._draw is not None:
            return (int(able[int(self._draw() * len(able))]),)
        return tuple(int(each) for each in able[np.argsort(parts[able], kind="stable")][: task.devices])


def _tier(kinds: Counter[str], mine: str) -> int:
    held = {kind for kind in kinds if kind}
    if mine in held:
        return 3 if len(held) == 1 else 2
    return 0 if held else 1


def _sigmoid(x: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-x))
    return found
