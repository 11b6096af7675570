"""One incident: what was found, and what it means.

A death has many witnesses. The dead worker's peers fail in their collectives, and what a script raises then may look
like an error of its own. Facts (a process or a node is gone, or hangs) are causes. A failed collective is a symptom: it
waits a settling time for its cause. A script's own exception is a symptom, too, when somebody of its incarnation was
lost by a fact before it or within the settling time; when nobody was, it is the user's error, which no restart cures.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from myriarch.event.base import Value
from myriarch.event.ids import NodeId
from myriarch.event.layout import ShardKey

SETTLE_S: Final = 0.5
"""How long a symptom waits for its cause. As long as `reconnect_grace_s`'s default: by then a lost node is known."""


class Diagnosis(Value, frozen=True, kw_only=True):
    """What an incident is."""

    kind: Literal["fault", "user_error"]
    text: str
    detail: str = ""
    """A traceback, or what was reported."""
    lost_nodes: tuple[NodeId, ...] = ()
    lost_workers: tuple[ShardKey, ...] = ()


class Incident(msgspec.Struct, kw_only=True):
    """Findings since the last decision. All are of one incarnation."""

    number: int
    opened_s: float
    nodes: dict[NodeId, str] = {}
    """Nodes lost by a fact, and how."""
    workers: dict[ShardKey, str] = {}
    """Workers lost by a fact, and how."""
    symptoms: dict[ShardKey, str] = {}
    """Workers that failed because somebody else did, most likely. A worker is in at most one of these three."""
    user_errors: dict[ShardKey, str] = {}
    """Workers whose script raised, with the traceback."""
    failures: list[str] = []
    """What else went wrong that only a new incarnation puts right: a time limit, states that differ."""
    doubts: list[str] = []
    """The same, of what a loss that is still to be noticed may explain: a fetch from a node that is dying."""
    waiting_since_s: float | None = None
    """Since when a group has been waited for, once that was decided."""
    looked: tuple[int, int, bool] | None = None
    """What the last look at it rested on: membership, findings, whether the run is to stop."""

    @property
    def findings(self) -> int:
        """How many there are."""
        lost = len(self.nodes) + len(self.workers) + len(self.symptoms) + len(self.user_errors)
        return lost + len(self.failures) + len(self.doubts)

    def settle_deadline_s(self) -> float | None:
        """When symptoms without a cause are believed; None when there is a cause."""
        return None if self.nodes or self.workers or self.failures else self.opened_s + SETTLE_S

    def lose_worker(self, key: ShardKey, how: str) -> None:
        """A fact about a worker. What it said before, itself, about its end stands."""
        if key not in self.user_errors and key not in self.symptoms:
            self.workers.setdefault(key, how)

    def check(self) -> None:
        """Invariants."""
        assert self.findings, "an incident has something that was found"
        kinds = [self.workers.keys(), self.symptoms.keys(), self.user_errors.keys()]
        assert len(kinds[0] | kinds[1] | kinds[2]) == sum(map(len, kinds)), "a worker is lost in one way"


def diagnose(incident: Incident, *, now_s: float) -> Diagnosis | None:
    """What happened; None while a symptom still waits for its cause."""
    deadline_s = incident.settle_deadline_s()
    if deadline_s is not None and now_s < deadline_s:
        return None
    nodes = tuple(incident.nodes)
    workers = (*incident.workers, *incident.symptoms, *incident.user_errors)
    raised = next(iter(incident.user_errors.items()), None)
    if raised is not None and deadline_s is not None:
        (group, rank), traceback = raised
        text = f"the script of worker {group}/{rank} raised, and nobody else was lost within {SETTLE_S} s"
        return Diagnosis(kind="user_error", text=text, detail=traceback, lost_workers=tuple(incident.user_errors))
    detail = raised[1] if raised is not None else next(iter(incident.symptoms.values()), "")
    return Diagnosis(
        kind="fault", text="; ".join(_told(incident)), detail=detail, lost_nodes=nodes, lost_workers=workers
    )


_TOLD_LIMIT: Final = 4
"""Losses that a reason's text names one by one."""


def _told(incident: Incident) -> list[str]:
    told = [f"node {node} is lost ({how})" for node, how in incident.nodes.items()]
    told += [f"worker {group}/{rank} is lost ({how})" for (group, rank), how in incident.workers.items()]
    told += [*incident.failures, *incident.doubts]
    if not told:
        told = [
            f"worker {group}/{rank} failed in a collective, without a cause in sight"
            for group, rank in incident.symptoms
        ]
    return told if len(told) <= _TOLD_LIMIT else [*told[:_TOLD_LIMIT], f"and {len(told) - _TOLD_LIMIT} more"]
