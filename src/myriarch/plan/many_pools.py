"""Plans over several pools: every family of them with its shares, then each group's split from the whole space."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from myriarch.cost.memory import memory_by_stage
from myriarch.cost.split import Machine, Split
from myriarch.cost.step import step_time
from myriarch.errors import SpecError
from myriarch.event.ids import GroupId
from myriarch.plan import one_pool
from myriarch.plan.answer import Averaging, Left
from myriarch.plan.asking import NARROW, Asked
from myriarch.plan.candidate import Candidate, Worked
from myriarch.plan.search import ANY, Found, Plan, search
from myriarch.plan.shares import ShareRequest, split_batch
from myriarch.plan.space import Space
from myriarch.plan.unlike import GroupPlan, UnlikePlan
from myriarch.plan.unlike_fleet import Task, fleet_plans
from myriarch.plan.unlike_offers import Axes
from myriarch.spec.fleet import Pool

FAMILIES: Final = 24
"""Plans over unlike pools that are priced, fastest first, when something else than time is asked for."""

WORTH: Final = 0.05
"""Share of a step that a group may wait before the shares are looked at again."""
ROUNDS: Final = 1
"""Of looking at the shares of the best plan again, each with a search for each pool."""
MOST: Final = 0.8
"""Of a pool's devices, that plans use which have it as one of several; where none does, any number."""
PIECES: Final = 128
"""That a batch is cut into at least when shares are looked at again."""


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
                task,
                self.asked.ask.fleet,
                axes=axes_of(self.asked.ask.space),
                machines=machines,
                measured=self.asked.ask.measured,
                pipelines=self.asked.ask.space == ANY,  # which have no other axes to fix
                top=top,
            )
            candidates += [self._of_unlike(each, task, machines) for each in plans]
            if plans and not left:
                left = tuple(Left(pool=each.pool, reason=each.reason) for each in plans[0].left_out)
        joint = sorted(filter(self._is_joint, candidates), key=lambda each: each.judged)
        refined = [self._refined(each, rounds=ROUNDS if at == 0 else 0) for at, each in enumerate(joint)]
        candidates = [each for each in refined if each is not None]
        for pool in self.asked.ask.fleet.pools:
            try:
                alone = self._alone(pool)
            except SpecError:  # `left_out` says why
                continue
            candidates += one_pool.candidates(self.asked, pool, alone)
        return candidates, left

    def _alone(self, pool: Pool) -> Found:
        """The best plan of one pool by itself; where time is all that counts, with most of its devices."""
        ask = self.asked.ask
        if ask.aim == "time" and ask.deadline_days is None and ask.budget is None:
            found = one_pool.searched(self.asked, pool, top=1, space=_mostly(ask.space, pool))
            if found.plans:
                return found
        return one_pool.searched(self.asked, pool, top=1)

    def _is_joint(self, candidate: Candidate) -> bool:
        """More than one pool: those that train alone are searched for in the whole space."""
        return sum(len(group.pools) for group in candidate.groups) > 1

    def _refined(self, candidate: Candidate, *, rounds: int) -> Candidate | None:
        """Each group's split from the whole space for the share that it has, and shares that follow the speeds which
        that gives; never slower than what it was made from. None: what was fixed leaves a group no split."""
        faster = [self._faster(group) for group in candidate.groups]
        groups = tuple(group for group in faster if group is not None)
        if len(groups) < len(faster):
            return None
        if all(len(group.pools) == 1 for group in groups):
            groups = self._balanced(groups, rounds=rounds)
        slowest = _slowest(groups)
        exposed_s = max(candidate.step_s - _slowest(candidate.groups).step_s, 0.0)
        step_s = slowest.step_s + exposed_s
        groups = tuple(dataclasses.replace(group, slack_s=slowest.step_s - group.step_s) for group in groups)
        price = candidate.judged / candidate.step_s
        shares = (
            "shares follow the speed of each group's best split, from the exact optimum over fewer splits on; "
            f"{' and '.join(pool.name for pool in slowest.pools)} sets the pace, the others wait at most "
            f"{max(group.slack_s for group in groups):.3g} s"
        )
        why = (shares, *candidate.why)
        return dataclasses.replace(candidate, groups=groups, step_s=step_s, judged=step_s * price, why=why)

    def _balanced(self, groups: tuple[Worked, ...], *, rounds: int) -> tuple[Worked, ...]:
        """Shares in proportion to speed, while that makes the slowest group faster."""
        unit = self._unit()
        best = groups
        for _ in range(rounds):
            slack = 1.0 - min(group.step_s for group in groups) / _slowest(groups).step_s
            if slack < WORTH:
                break
            requests = [
                ShareRequest(group=GroupId(f"{at}"), world_size=unit, speed=group.sequences / group.step_s)
                for at, group in enumerate(groups)
            ]
            shares = split_batch(requests, sequences=self.asked.batch)
            moved = [self._sharing(group, share.count) for group, share in zip(groups, shares, strict=True)]
            found = tuple(group for group in moved if group is not None)
            if len(found) < len(groups):
                break
            groups = found
            if _slowest(groups).step_s < _slowest(best).step_s:
                best = groups
        return best

    def _unit(self) -> int:
        """Sequences that shares are multiples of: the batch in pieces small enough, each a power of two if it can be,
        so that they divide well."""
        unit = 1
        while self.asked.batch % (2 * unit) == 0 and self.asked.batch // (2 * unit) >= PIECES:
            unit *= 2
        return unit

    def _faster(self, group: Worked) -> Worked | None:
        if len(group.pools) > 1:
            return group
        found = self._sharing(group, group.sequences)
        if self.asked.ask.space != ANY:
            return found
        return group if found is None or found.step_s >= group.step_s else found

    def _sharing(self, group: Worked, sequences: int) -> Worked | None:
        """The group with its best split for so many sequences; None where nothing fits."""
        pool = group.pools[0]
        key = (pool.name, sequences, group.precision)
        if key not in self._searches:
            self._searches[key] = self._best(group, sequences, _mostly(self.asked.ask.space, pool)) or self._best(
                group, sequences, self.asked.ask.space
            )
        best = self._searches[key]
        if best is None:
            return None
        found = one_pool.worked(self.asked, pool, best)
        return dataclasses.replace(found, sequences=sequences, doubts=group.doubts)

    def _best(self, group: Worked, sequences: int, space: Space) -> Plan | None:
        return search(
            self.asked.decoder,
            machines={group.precision: group.machines[0]},
            devices=group.pools[0].devices,
            batch=sequences,
            sequence=self.asked.sequence,
            software=self.asked.software,
            parameters=self.asked.parameters,
            space=space,
            top=1,
            whole=False,
        ).best

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
            step_s=group.step_s if step is None else float(step.total_s),
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


def _mostly(space: Space, pool: Pool) -> Space:
    """The same, with most of the pool's devices."""
    return dataclasses.replace(space, devices_least=int(MOST * pool.devices))


def axes_of(space: Space) -> Axes:
    """What of a space decides which splits shares are made for; the whole space decides the splits themselves."""
    usual = Axes()
    return Axes(
        tp=space.tp or usual.tp,
        pp=space.pp or usual.pp,
        cp=space.cp or usual.cp,
        ep=space.ep or usual.ep,
        dp=space.dp or usual.dp,
        micro_batch=space.micro_batch or usual.micro_batch,
        virtual=space.virtual or usual.virtual,
        zero_stage=usual.zero_stage if space.zero_stage == ANY.zero_stage else space.zero_stage,
    )


def _slowest(groups: Sequence[Worked]) -> Worked:
    return max(groups, key=lambda group: group.step_s)
