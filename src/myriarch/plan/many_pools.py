"""Plans over several pools: every family of them with its shares, then each group's split from the whole space."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Final

from myriarch.cost.memory import memory_by_stage
from myriarch.cost.split import Machine, Split
from myriarch.cost.step import step_time
from myriarch.errors import SpecError
from myriarch.plan import one_pool
from myriarch.plan.answer import Averaging, Left
from myriarch.plan.asking import NARROW, Asked
from myriarch.plan.candidate import Candidate, Worked
from myriarch.plan.search import Plan, search
from myriarch.plan.unlike import GroupPlan, UnlikePlan
from myriarch.plan.unlike_fleet import Task, fleet_plans

FAMILIES: Final = 24
"""Plans over unlike pools that are priced, fastest first, when something else than time is asked for."""


class ManyPools:
    """One question about a fleet of several pools."""

    def __init__(self, asked: Asked) -> None:
        self.asked: Final = asked
        self._searches: dict[tuple[str, int, str], Plan | None] = {}

    def candidates(self) -> tuple[list[Candidate], tuple[Left, ...]]:
        candidates: list[Candidate] = []
        left: tuple[Left, ...] = ()
        top = (
            self.asked.ask.top
            if self.asked.ask.aim == "time" and self.asked.ask.budget is None
            else max(self.asked.ask.top, FAMILIES)
        )
        for precision in self.asked.ask.precisions:
            task = Task(
                decoder=self.asked.decoder,
                batch=self.asked.batch,
                sequence=self.asked.sequence,
                software=self.asked.software,
                parameters=self.asked.parameters,
                precision=precision,
            )
            machines: dict[str, Machine] = {}
            for pool in self.asked.ask.fleet.pools:
                with contextlib.suppress(SpecError):  # refused there, with the reason
                    machines[pool.name] = self.asked.machine(pool, precision)
            plans = fleet_plans(
                task, self.asked.ask.fleet, machines=machines, measured=self.asked.ask.measured, top=top
            )
            candidates += [self._of_unlike(each, task, machines) for each in plans]
            if plans and not left:
                left = tuple(Left(pool=each.pool, reason=each.reason) for each in plans[0].left_out)
        candidates = [self._refined(each) for each in candidates if self._is_joint(each)]
        for pool in self.asked.ask.fleet.pools:
            try:
                alone = one_pool.searched(self.asked, pool, top=1)
            except SpecError:  # `left_out` says why
                continue
            candidates += one_pool.candidates(self.asked, pool, alone)
        return candidates, left

    def _is_joint(self, candidate: Candidate) -> bool:
        """More than one pool: those that train alone are searched for in the whole space."""
        return sum(len(group.pools) for group in candidate.groups) > 1

    def _refined(self, candidate: Candidate) -> Candidate:
        """Each group's split from the whole space, for the share that it has: never slower than what the shares were
        made for."""
        groups = tuple(self._faster(group) for group in candidate.groups)
        slowest = max(group.step_s for group in groups)
        exposed_s = candidate.step_s - max(group.step_s for group in candidate.groups)
        step_s = slowest + max(exposed_s, 0.0)
        groups = tuple(dataclasses.replace(group, slack_s=slowest - group.step_s) for group in groups)
        price = candidate.judged / candidate.step_s
        pace = max(groups, key=lambda group: group.step_s)
        shares = (
            "shares are the exact optimum over the splits tried for them, each split the best of its pool for its "
            "share; "
            f"{' and '.join(pool.name for pool in pace.pools)} sets the pace, the others wait at most "
            f"{max(group.slack_s for group in groups):.3g} s"
        )
        why = (shares, *candidate.why)
        return dataclasses.replace(candidate, groups=groups, step_s=step_s, judged=step_s * price, why=why)

    def _faster(self, group: Worked) -> Worked:
        if len(group.pools) > 1:
            return group
        pool = group.pools[0]
        key = (pool.name, group.sequences, group.precision)
        if key not in self._searches:
            self._searches[key] = search(
                self.asked.decoder,
                machines={group.precision: group.machines[0]},
                devices=pool.devices,
                batch=group.sequences,
                sequence=self.asked.sequence,
                software=self.asked.software,
                parameters=self.asked.parameters,
                space=self.asked.ask.space,
                top=1,
                whole=False,
            ).best
        best = self._searches[key]
        if best is None or best.step_s >= group.step_s:
            return group
        found = one_pool.worked(self.asked, pool, best)
        return dataclasses.replace(found, sequences=group.sequences, doubts=group.doubts)

    def _of_unlike(self, found: UnlikePlan, task: Task, machines: Mapping[str, Machine]) -> Candidate:
        bridge = found.bridge
        averaging = None
        if len(found.groups) > 1:
            other = found.alternatives[0] if found.alternatives else None
            averaging = Averaging(
                mode=bridge.averaging.mode,
                every_steps=bridge.averaging.every_steps,
                label=bridge.averaging.label,
                exposed_s=bridge.exposed_s,
                quality=bridge.quality,
                alternative=f"{other.averaging.label}: {other.step_s:.4g} s a step; {other.quality}" if other else "",
            )
        return Candidate(
            groups=tuple(self._group(group, task, machines) for group in found.groups),
            step_s=found.step_s,
            averaging=averaging,
            judged=bridge.judged_s,
            why=tuple(
                reason for reason in found.reasons if not reason.startswith(("next plan", "rests on", "shares are"))
            ),
            why_not_next="",
        )

    def _group(self, group: GroupPlan, task: Task, known: Mapping[str, Machine]) -> Worked:
        pools = tuple(self.asked.ask.fleet.pool(name) for name in group.pools)
        machines = tuple(known[pool.name] for pool in pools)
        split = self._split(group, task)
        alone = len(pools) == 1
        step = (
            step_time(
                self.asked.decoder,
                machine=machines[0],
                split=split,
                software=self.asked.software,
                parameters=self.asked.parameters,
            )
            if alone
            else None
        )
        return Worked(
            pools=pools,
            machines=machines,
            used=tuple(group.way.devices[name] for name in group.pools),
            split=split,
            precision=task.precision,
            sequences=group.sequences,
            step_s=group.step_s,
            slack_s=group.slack_s,
            step=step,
            stages=memory_by_stage(self.asked.decoder, split=split, software=self.asked.software) if alone else (),
            memory_bytes=group.way.memory_bytes,
            stage_layers=group.way.stage_layers,
            stage_pools=group.way.stage_pools,
            doubts=group.doubts,
        )

    def _split(self, group: GroupPlan, task: Task) -> Split:
        fields = {field.name for field in dataclasses.fields(Split)}
        values = {name: value for name, value in group.way.split.items() if name in fields}
        values["sequence_parallel"] = float(values.get("tp", 1.0) > 1)
        values["narrow_share"] = 1.0 if task.precision in NARROW else 0.0
        return Split(**{**values, "batch": float(group.sequences), "sequence": float(task.sequence)})
