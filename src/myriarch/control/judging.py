"""From an incident to a decision, over plain values: what `Control` and the simulator of large fleets both decide by.

`Control` knows every worker; the simulator of a fleet of 100,000 devices knows groups and nodes. What both know of an
incident is the same, and so is what follows from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

import msgspec

from myriarch.event.ids import GroupId
from myriarch.event.layout import GroupLayout
from myriarch.plan.shares import feasible
from myriarch.recover.decide import Budget, Decision, Situation, decide
from myriarch.recover.incident import Diagnosis, Incident
from myriarch.schedule.groups import Assignment
from myriarch.spec.run import Recovery

Forming = Literal["restart_workers", "replace_node", "shrink_group", "degrade"]

FORMING: Final[Mapping[str, Forming]] = {
    "restart_workers": "restart_workers",
    "replace_node": "replace_node",
    "shrink_group": "shrink_group",
    "degrade": "degrade",
}
"""Answers to an incident that begin an incarnation."""


def judge(
    incident: Incident,
    diagnosis: Diagnosis,
    assignment: Assignment,
    *,
    absent: Collection[GroupId],
    splits: bool,
    budget: Budget,
    newest_step: int,
    recovery: Recovery,
    now_s: float,
) -> Decision:
    """What to do about an incident, given how the groups would lie now.

    `absent`: groups that the run goes on without already. `splits`: whether the groups that can be formed can split the
    batch. `newest_step`: completed by anybody so far.
    """
    until_s = wait_until_s(incident, recovery)
    over = until_s is not None and now_s >= until_s
    since_s = now_s if incident.waiting_since_s is None else incident.waiting_since_s
    limit_s = recovery.wait_limit_s
    situation = Situation(
        diagnosis=diagnosis,
        replaced=tuple((one.lost, one.node) for one in assignment.replaced),
        shrunk=tuple(
            (one.group, one.from_devices, one.to_devices)
            for one in assignment.resized
            if one.to_devices < one.from_devices
        ),
        missing=tuple(group for group in assignment.missing if group not in absent),
        formable=len(assignment.layouts) if splits else 0,
        waited_s=limit_s if over else min(now_s - since_s, limit_s),
        restarts=budget.restarts,
        without_progress=budget.stuck(newest_step),
    )
    return decide(situation, recovery=recovery)


def going_on(recovery: Recovery) -> Recovery:
    """The policy while healthy groups go on: nobody waits for one that is missing."""
    return msgspec.structs.replace(recovery, healthy_groups="go_on", missing_group="degrade", wait_limit_s=0.0)


def wait_until_s(incident: Incident | None, recovery: Recovery) -> float | None:
    """When missing groups have been waited for long enough; None: nobody waits."""
    if incident is None or incident.waiting_since_s is None:
        return None
    return incident.waiting_since_s + recovery.wait_limit_s


def fits(sizes: Mapping[GroupId, int], *, sequences: int) -> bool:
    """Whether groups of these world sizes can split the batch."""
    return feasible(list(sizes.values()), sequences=sequences)


def grown(layouts: Mapping[GroupId, GroupLayout], after: Assignment) -> list[GroupId]:
    """Groups that would be larger than they are, or there at all."""
    return [
        layout.group
        for layout in after.layouts
        if layout.group not in layouts or layout.world_size > layouts[layout.group].world_size
    ]
