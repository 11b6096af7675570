"""What to do about an incident. One function: the situation in, the choice and its reason out."""

from __future__ import annotations

from typing import Literal

import msgspec

from myriarch.event.actions import Number, Reason
from myriarch.event.base import Value
from myriarch.event.ids import GroupId, NodeId
from myriarch.recover.incident import Diagnosis
from myriarch.spec.run import Recovery

Choice = Literal[
    "restart_workers", "replace_node", "shrink_group", "wait_for_group", "degrade", "stop_user_error", "give_up"
]


class Budget(msgspec.Struct, kw_only=True):
    """How often the run was restarted, and whether it gets anywhere."""

    restarts: int = 0
    without_progress: int = 0
    """Restarts in a row without a step that was never completed before."""
    best_step: int = 0
    """The newest step that was completed when the run was last restarted."""

    def spend(self, newest_step: int) -> None:
        """The run is restarted."""
        self.restarts += 1
        self.without_progress = 1 if newest_step > self.best_step else self.without_progress + 1
        self.best_step = max(self.best_step, newest_step)

    def stuck(self, newest_step: int) -> int:
        """Restarts in a row without progress, if nothing more is completed than `newest_step`."""
        return 0 if newest_step > self.best_step else self.without_progress


class Situation(Value, frozen=True, kw_only=True):
    """All that the choice rests on."""

    diagnosis: Diagnosis
    replaced: tuple[tuple[NodeId | None, NodeId], ...]
    """Lost nodes and the nodes that can take their places."""
    shrunk: tuple[tuple[GroupId, int, int], ...]
    """Groups that can go on with fewer devices: from, to."""
    missing: tuple[GroupId, ...]
    """Groups that cannot be formed now, without those that the run goes on without already."""
    formable: int
    """Groups that can be formed now."""
    waited_s: float
    """How long the missing groups have been waited for."""
    restarts: int
    without_progress: int


class Decision(Value, frozen=True, kw_only=True):
    choice: Choice
    reason: Reason


def decide(situation: Situation, *, recovery: Recovery) -> Decision:
    """The mildest thing that brings the run on."""
    diagnosis = situation.diagnosis
    if diagnosis.kind == "user_error":
        return _say("stop_user_error", f"{diagnosis.text}: an error of the script is not restarted")
    refusal = _over_budget(situation, recovery)
    if refusal is not None:
        return refusal
    if situation.missing or situation.formable == 0:
        return _about_missing(situation, recovery)
    if situation.shrunk:
        group, before, after = situation.shrunk[0]
        text = f"{diagnosis.text}; no spare is left, and group {group} goes on with {after} of {before} devices"
        return _say("shrink_group", text, from_devices=before, to_devices=after)
    if situation.replaced:
        pairs = ", ".join(f"{node} takes the place of {lost}" for lost, node in situation.replaced)
        return _say("replace_node", f"{diagnosis.text}; {pairs}", replaced=len(situation.replaced))
    return _say("restart_workers", f"{diagnosis.text}; all nodes are there", workers=len(diagnosis.lost_workers))


def _over_budget(situation: Situation, recovery: Recovery) -> Decision | None:
    limits: tuple[tuple[str, int, int], ...] = (
        ("max_restarts", situation.restarts, recovery.max_restarts),
        ("max_restarts_without_progress", situation.without_progress, recovery.max_restarts_without_progress),
    )
    for name, spent, limit in limits:
        if spent >= limit:
            text = f"{situation.diagnosis.text}; the run was restarted {spent} times, `recovery.{name}` allows {limit}"
            return _say("give_up", text, restarts=spent, limit=limit)
    return None


def _about_missing(situation: Situation, recovery: Recovery) -> Decision:
    names = ", ".join(situation.missing) or "every group"
    waited_s, limit_s = round(situation.waited_s, 6), recovery.wait_limit_s
    if situation.waited_s < limit_s:
        text = f"{situation.diagnosis.text}; {names} cannot be formed, and is waited for"
        return _say("wait_for_group", text, waited_s=waited_s, limit_s=limit_s)
    if recovery.missing_group == "degrade" and situation.formable > 0:
        text = f"{names} did not come back within {limit_s} s: the others go on with the whole batch"
        if recovery.healthy_groups == "go_on" and limit_s == 0:
            text = f"{situation.diagnosis.text}; {names} cannot be formed: the others go on with the whole batch"
        return _say("degrade", text, waited_s=waited_s, limit_s=limit_s)
    why = "no group is left" if situation.formable == 0 else "`recovery.missing_group: wait`"
    text = f"{situation.diagnosis.text}; {names} did not come back within {limit_s} s, and {why}"
    return _say("give_up", text, waited_s=waited_s, limit_s=limit_s)


def _say(choice: Choice, text: str, **numbers: Number) -> Decision:
    return Decision(choice=choice, reason=Reason(text=text, numbers=dict(numbers)))
