"""The ledger: every device-nanosecond of a run in exactly one leaf.

Painting (`paint`) gives each instant of each device to one claim. What remains is to judge steps: time in steps that
were lost moves to `lost_work`, and compute that took far longer than the same device needs for it moves to `throttled`.
Both move whole nanoseconds from leaf to leaf, so the sum stays the capacity, with `==`; `check` asserts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from myriarch.account.history import History, groups_of, step_level
from myriarch.account.lineage import Fate
from myriarch.account.paint import Segment, paint
from myriarch.errors import LedgerError
from myriarch.event.base import Value
from myriarch.event.ids import DeviceId, GroupId, Incarnation, NodeId, PoolId
from myriarch.event.spans import LEAVES, LEVEL_OF, Leaf, Level

SLOW_SCORE: Final = 0.7
"""Compute below this share of the device's own reference speed is slow. NVRx's default threshold for stragglers."""
REFERENCE_QUANTILE: Final = 0.25
"""A device's reference is the pace that it reached in this share of its steps: a speed it has, not a lucky shot."""
REFERENCE_STEPS: Final = 8
"""With fewer completed steps there is no reference."""

Name = TypeVar("Name", NodeId, PoolId)

StepKey = tuple[int, int]
"""`(incarnation, step)`."""


class Account(Value, frozen=True, kw_only=True):
    """Device-nanoseconds by leaf, of one device or of many."""

    capacity_device_ns: int
    leaves: dict[Leaf, int]
    """Without zeros."""

    def level_ns(self, level: Level) -> int:
        return sum(ns for leaf, ns in self.leaves.items() if LEVEL_OF[leaf] == level)


class Ledger(Value, frozen=True, kw_only=True):
    """The whole run, by device."""

    devices: dict[DeviceId, Account]
    nodes: dict[NodeId, Account]
    pools: dict[PoolId, Account]
    total: Account
    provisional_device_ns: int
    """Of the step level: steps that nobody knows yet to be kept or lost."""

    def check(self) -> None:
        """Raise LedgerError unless all sums are exact."""
        for name, account in (("fleet", self.total), *self.pools.items(), *self.nodes.items(), *self.devices.items()):
            total = sum(account.leaves.values())
            if total != account.capacity_device_ns or any(ns < 0 for ns in account.leaves.values()):
                raise LedgerError(
                    f"the leaves of `{name}` sum to {total} device-ns, its capacity is {account.capacity_device_ns}",
                    hint="this is a defect of myriarch.account: please report it with the journal and the ledger",
                )


def timeline_of_device(history: History, device: DeviceId) -> tuple[Segment, ...]:
    """A device's segments in order, before lost and slow steps are judged: what a page draws."""
    return paint(history.claims.get(device, ()), start_ns=history.start_ns, end_ns=history.end_ns)


def build_ledger(history: History) -> Ledger:
    """Account for every device of the run."""
    judge = _Judge(history)
    accounts: dict[DeviceId, Account] = {}
    provisional_ns = 0
    for device in history.devices:
        segments = timeline_of_device(history, device.id)
        leaves: dict[Leaf, int] = {}
        for segment in segments:
            leaf = judge.leaf(segment)
            leaves[leaf] = leaves.get(leaf, 0) + segment.duration_ns
            provisional_ns += segment.duration_ns * judge.is_provisional(segment)
        slow_ns = judge.slow_ns(device.id, segments)
        if slow_ns:
            leaves["useful_compute"] -= slow_ns
            leaves["throttled"] = leaves.get("throttled", 0) + slow_ns
        accounts[device.id] = Account(capacity_device_ns=history.duration_ns, leaves=_ordered(leaves))
    ledger = Ledger(
        devices=accounts,
        nodes={node: _sum(accounts, ids) for node, ids in _grouped((d.node, d.id) for d in history.devices).items()},
        pools={pool: _sum(accounts, ids) for pool, ids in _grouped((d.pool, d.id) for d in history.devices).items()},
        total=_sum(accounts, accounts),
        provisional_device_ns=provisional_ns,
    )
    ledger.check()
    return ledger


class _Judge:
    """Says of each segment of a step what became of it. Holds caches, decides nothing new."""

    def __init__(self, history: History) -> None:
        self._lineage = history.lineage
        self._fates: dict[StepKey, Fate] = {}
        self._groups = groups_of(history)
        self._tokens = {
            (fact.completed.group, fact.completed.incarnation, fact.step): fact.completed.group_tokens
            for fact in history.facts.steps
        }

    def leaf(self, segment: Segment) -> Leaf:
        return "lost_work" if self._fate(segment) == "lost" else segment.leaf

    def is_provisional(self, segment: Segment) -> bool:
        return self._fate(segment) == "provisional"

    def slow_ns(self, device: DeviceId, segments: Iterable[Segment]) -> int:
        """Nanoseconds of useful compute beyond what the device needed for as many tokens in its better steps.

        The reference is the device's own, so that a slow kind of device is not called slow; only a device that has
        become slow is.
        """
        compute_ns: dict[StepKey, int] = {}
        for segment in segments:
            if segment.leaf == "useful_compute" and segment.step is not None and self._fate(segment) != "lost":
                key = (segment.incarnation, segment.step)
                compute_ns[key] = compute_ns.get(key, 0) + segment.duration_ns
        tokens = {key: self._device_tokens(device, key) for key in compute_ns}
        known = [key for key in compute_ns if tokens[key] > 0]
        if len(known) < REFERENCE_STEPS:
            return 0
        paces = sorted(compute_ns[key] / tokens[key] for key in known)
        reference = paces[int(REFERENCE_QUANTILE * (len(paces) - 1))]
        excess_ns = 0
        for key in known:
            due_ns = round(reference * tokens[key])
            if compute_ns[key] * SLOW_SCORE > due_ns:
                excess_ns += compute_ns[key] - due_ns
        return excess_ns

    def _device_tokens(self, device: DeviceId, key: StepKey) -> int:
        incarnation, step = key
        group: GroupId | None = self._groups.get(device, {}).get(Incarnation(incarnation))
        if group is None:
            return 0
        return self._tokens.get((group, Incarnation(incarnation), step), 0)

    def _fate(self, segment: Segment) -> Fate | None:
        """None for time that was not spent in a step, or in one that nobody numbered."""
        if segment.step is None or not step_level(segment.leaf):
            return None
        key = (segment.incarnation, segment.step)
        if key not in self._fates:
            self._fates[key] = self._lineage.fate(*key)
        return self._fates[key]


def _grouped(pairs: Iterable[tuple[Name, DeviceId]]) -> dict[Name, list[DeviceId]]:
    grouped: dict[Name, list[DeviceId]] = {}
    for name, device in pairs:
        grouped.setdefault(name, []).append(device)
    return grouped


def _sum(accounts: Mapping[DeviceId, Account], devices: Iterable[DeviceId]) -> Account:
    capacity_ns = 0
    leaves: dict[Leaf, int] = {}
    for device in devices:
        capacity_ns += accounts[device].capacity_device_ns
        for leaf, ns in accounts[device].leaves.items():
            leaves[leaf] = leaves.get(leaf, 0) + ns
    return Account(capacity_device_ns=capacity_ns, leaves=_ordered(leaves))


def _ordered(leaves: Mapping[Leaf, int]) -> dict[Leaf, int]:
    return {leaf: leaves[leaf] for leaf in LEAVES if leaves.get(leaf)}
