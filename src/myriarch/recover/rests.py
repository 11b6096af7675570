"""Nodes that fail again and again rest for longer after every failure (`recovery.healthy_groups: go_on`).

While healthy groups go on, a fault is no restart of the run and counts against no limit of it. What has to be limited
is how often one bad node makes the others stop for its group: after its first failure the group starts again at once,
after the second the node rests for 10 s, then for 20 s, and so on up to an hour. A node that rests is passed over: a
spare takes its place, or its group stays away until the rest is over.

Base and factor are those of Kubernetes' `CrashLoopBackOff` (kubernetes.io, "Pod Lifecycle": 10 s, doubled after every
failure), which stops at 5 min, and forgets after twice that. Here a start that fails costs all other groups a stop, not
one pod, so the longest rest is an hour: a node that never works takes less than 1 % of a run whose groups stop for half
a minute at each of its faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from myriarch.event.ids import NodeId
from myriarch.event.layout import ShardKey
from myriarch.recover.incident import Incident

REST_S: Final = 10.0
"""After the second failure in a row; twice as long after each further one."""
REST_MOST_S: Final = 3600.0
FORGET_S: Final = 2 * REST_MOST_S
"""A node that did not fail for so long, its last rest not counted, is as good as new."""
TOLD_LIMIT: Final = 4
"""Nodes that a reason's text names one by one."""


class Failures(msgspec.Struct, kw_only=True):
    """Of one node, in a row."""

    count: int
    rested_s: float
    """When its last rest is over; without one, when it last failed."""


class Rests(msgspec.Struct, kw_only=True):
    """Which nodes failed lately, and which of them rest."""

    failures: dict[NodeId, Failures] = {}
    resting: dict[NodeId, None] = {}
    """Until `over` finds that they have rested. All of them are in `failures`."""

    def failed(self, nodes: Iterable[NodeId], *, now_s: float) -> str:
        """They failed. Returns what to say about those that rest now; empty: none of them does."""
        told: list[str] = []
        for node in nodes:
            before = self.failures.get(node)
            count = 1 if before is None or now_s >= before.rested_s + FORGET_S else before.count + 1
            rest_s = rest_after_s(count)
            self.failures[node] = Failures(count=count, rested_s=now_s + rest_s)
            if rest_s:
                self.resting[node] = None
                told.append(f"{node} failed {count} times in a row and rests for {rest_s:g} s")
        return ", ".join(
            told if len(told) <= TOLD_LIMIT else [*told[:TOLD_LIMIT], f"and {len(told) - TOLD_LIMIT} more"]
        )

    @property
    def deadline_s(self) -> float | None:
        """When the first of them has rested."""
        return min((self.failures[node].rested_s for node in self.resting), default=None)

    def over(self, now_s: float) -> bool:
        """Whether somebody has rested by now, who may be used again."""
        done = [node for node in self.resting if now_s >= self.failures[node].rested_s]
        for node in done:
            del self.resting[node]
        return bool(done)

    def check(self) -> None:
        """Invariants."""
        assert self.resting.keys() <= self.failures.keys()
        assert all(self.failures[node].count > 1 for node in self.resting), "who failed once starts again at once"


def rest_after_s(count: int) -> float:
    """How long a node rests after so many failures in a row."""
    doublings = min(count - 2, 64)
    return 0.0 if count < 2 else min(REST_S * 2.0**doublings, REST_MOST_S)


def culprits(incident: Incident, *, node_of: Callable[[ShardKey], NodeId | None]) -> tuple[NodeId, ...]:
    """The nodes that an incident is put down to: those that are lost, and those of workers that were lost by a fact.
    Where nobody was, those of the workers that failed without a cause in sight."""
    facts = bool(incident.nodes or incident.workers)
    workers = incident.workers if facts else {**incident.symptoms, **incident.user_errors}
    found = (*incident.nodes, *(node for key in workers if (node := node_of(key)) is not None))
    return tuple(dict.fromkeys(found))
