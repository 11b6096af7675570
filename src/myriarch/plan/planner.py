"""The question of `myriarch plan`, answered: the searches put together, their plans priced, compared and explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.memory import memory_by_stage
from myriarch.cost.parameters import Parameters
from myriarch.cost.pools import machine_of
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Machine, Software, Split
from myriarch.cost.step import step_time
from myriarch.errors import SpecError
from myriarch.plan import valuing
from myriarch.plan.answer import (
    Answer,
    Answered,
    Averaging,
    Left,
    NearestMiss,
    Question,
)
from myriarch.plan.candidate import Candidate, Worked, chip_of, shown
from myriarch.plan.defaults import TOKENS_PER_PARAMETER, batch_for, tokens_for
from myriarch.plan.goal import Aim, Goal, by_devices
from myriarch.plan.search import ANY, Found, Plan, search
from myriarch.plan.sizing import steps_of
from myriarch.plan.space import Space
from myriarch.plan.trust import evidence_of, interval_of
from myriarch.plan.unlike import GroupPlan, UnlikePlan
from myriarch.plan.unlike_fleet import Task, doubts, fleet_plans
from myriarch.plan.valuing import Work
from myriarch.spec.catalogue import described
from myriarch.spec.fleet import Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.problems import did_you_mean, listed
from myriarch.units import S_PER_DAY

DEFAULT_SOFTWARE: Final = "megatron-core"
FAMILIES: Final = 24
"""Plans over unlike pools that are priced, fastest first, when something else than time is asked for."""
NARROW: Final = ("fp8", "fp4")
"""Precisions that change what is learnt, however little: used when they are named."""
PART_SHOWN: Final = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What somebody wants to know. None: a default, which the answer states."""

    model: Model
    fleet: Fleet
    label: str = ""
    """What the fleet is called in the answer; empty: its name."""
    aim: Aim = "time"
    tokens: float | None = None
    batch: int | None = None
    """Sequences."""
    sequence: int | None = None
    """Tokens; None: the model's context."""
    deadline_days: float | None = None
    budget: float | None = None
    currency: str = ""
    precisions: tuple[str, ...] = ("bf16",)
    software: str = DEFAULT_SOFTWARE
    top: int = 5
    space: Space = ANY
    measured: Mapping[str, Mapping[str, Machine]] = dataclasses.field(default_factory=dict)
    """Machines from profiles, by pool and precision: they go before the catalogue's."""

    @property
    def peak_flops_per_s(self) -> float:
        """Of the whole fleet, 16 bits. Raises SpecError when a chip's is unknown."""
        return sum(pool.devices * float(machine_of(pool).peak_flops_per_s) for pool in self.fleet.pools)


def plan(ask: Ask) -> Answer:
    """The best plans. Raises SpecError when the question makes no sense; what cannot be done is an answer."""
    return _Planner(ask).answer()


def candidates_of(ask: Ask) -> tuple[Candidate, ...]:
    """The plans alone, best first, unpriced."""
    return tuple(_Planner(ask).candidates()[0])


class _Planner:
    """One question on its way to its answer."""

    def __init__(self, ask: Ask) -> None:
        self.ask: Final = ask
        self.decoder: Final = Decoder.of(ask.model)
        self.software: Final = _level(ask.software)
        self.parameters: Final[Parameters] = CALIBRATED["all"]
        self._notes: list[str] = []
        self._assumed: list[str] = []
        self.sequence: Final = ask.sequence or ask.model.context_tokens
        self.tokens: Final = ask.tokens or self._usual_tokens()
        self.batch: Final = ask.batch or self._usual_batch()
        steps = steps_of(self.tokens, batch_tokens=float(self.batch * self.sequence))
        self.work: Final = Work(
            decoder=self.decoder, fleet=ask.fleet, batch=self.batch, sequence=self.sequence, steps=steps
        )
        self.currency: Final = self._currency()

    # --- what was not said ---

    def _usual_tokens(self) -> float:
        tokens = tokens_for(float(self.decoder.active_parameters))
        self._assumed.append(
            f"tokens: {tokens:.3g}, {TOKENS_PER_PARAMETER:g} for each active parameter (Chinchilla); say --tokens"
        )
        return tokens

    def _usual_batch(self) -> int:
        flops = float(self.decoder.flops_per_token(self.sequence)) * self.tokens
        batch = batch_for(flops, sequence_tokens=self.sequence)
        self._assumed.append(
            f"batch: {batch} sequences, {batch * self.sequence / 1e6:.3g} M tokens "
            "(DeepSeek LLM's law, at most 16 Mi); say --batch"
        )
        return batch

    def _currency(self) -> str:
        """That money is compared in. Raises SpecError when a comparison would need a rate of exchange."""
        known = self.ask.fleet.currencies
        wanted = self.ask.currency
        needed = self.ask.budget is not None or self.ask.aim == "cost"
        if needed and len(known) > 1:
            raise SpecError(
                f"the fleet's prices are in {listed(known)}, which have no sum",
                path="pools",
                hint="give all prices in one currency",
            )
        if wanted and known and wanted not in known:
            raise SpecError(f"the budget is in {wanted}, the fleet's prices in {listed(known)}", path="budget")
        if self.ask.budget is not None and not any(pool.price_per_device_hour for pool in self.ask.fleet.pools):
            raise SpecError(
                "a budget needs prices, and no pool of the fleet has one",
                path="pools",
                hint="give `price_per_device_hour` and `currency` of each pool in a fleet file",
            )
        return known[0] if known else ""

    # --- the answer ---

    def answer(self) -> Answer:
        candidates, found, left = self.candidates()
        answered = [self._answered(candidate) for candidate in candidates]
        answered = self._ranked(answered)[: self.ask.top]
        miss = None if answered else self._miss(found)
        return Answer(
            question=self._question(),
            plans=tuple(msgspec.structs.replace(each, rank=at + 1) for at, each in enumerate(answered)),
            left_out=left,
            counts=found.counts if found else None,
            forbidden=dict(found.forbidden) if found else {},
            miss=miss,
            target_missed=self._target_missed(answered),
            notes=tuple(dict.fromkeys(self._notes)),
        )

    def candidates(self) -> tuple[list[Candidate], Found | None, tuple[Left, ...]]:
        """Plans, best first, with the search of one pool, or the pools of several that are left out."""
        pools = self.ask.fleet.pools
        if len(pools) == 1:
            found = self._searched(pools[0], top=self.ask.top)
            return list(self._of_search(pools[0], found)), found, ()
        candidates, left = self._unlike()
        return candidates, None, left

    def _question(self) -> Question:
        ask = self.ask
        return Question(
            model=ask.model.name,
            parameters=float(self.decoder.parameters),
            active_parameters=float(self.decoder.active_parameters),
            fleet=ask.label or ask.fleet.name,
            devices=sum(pool.devices for pool in ask.fleet.pools),
            tokens=self.tokens,
            batch_sequences=self.batch,
            sequence_tokens=self.sequence,
            software=ask.software,
            precisions=ask.precisions,
            objective=ask.aim,
            deadline_days=ask.deadline_days,
            budget=ask.budget,
            currency=self.currency,
            assumed=tuple(self._assumed),
        )

    # --- one pool: the exact search ---

    def _machines(self, pool: Pool) -> dict[str, Machine]:
        """By precision. Raises SpecError when the chip has none of those asked for, or lacks a number."""
        measured = self.ask.measured.get(pool.name, {})
        chip = chip_of(pool)
        found: dict[str, Machine] = {}
        for precision in self.ask.precisions:
            known = {*chip.rate_flops_per_s, *chip.matmul_measured_flops_per_s, *measured}
            if precision in NARROW and precision not in known:
                self._notes.append(f"pool `{pool.name}`: {chip.id} has no {precision} rate; left out")
                continue
            found[precision] = measured.get(precision) or machine_of(pool, precision=precision)
        if not found:
            raise SpecError(
                f"chip `{chip.id}` of pool `{pool.name}` has no rate in {listed(self.ask.precisions)}",
                path="pools",
                hint=f"it has {listed(chip.rate_flops_per_s)}; say --precision",
            )
        return found

    def _searched(self, pool: Pool, *, top: int, goal: Goal | None = None) -> Found:
        ask = self.ask
        machines = self._machines(pool)
        goal = goal or self._goal(pool)
        # A whole fleet, unless there is a reason to take fewer: speed, or a promise that fewer keep.
        fewer = ask.aim == "time" or goal.deadline_s is not None or goal.budget is not None

        def run(*, whole: bool) -> Found:
            return search(
                self.decoder,
                machines=machines,
                devices=pool.devices,
                batch=self.batch,
                sequence=self.sequence,
                software=self.software,
                parameters=self.parameters,
                space=ask.space,
                objective=goal,
                top=top,
                whole=whole,
            )

        if fewer:
            return run(whole=False)
        found = run(whole=True)
        if found.plans:
            return found
        self._notes.append(f"no split of all {pool.devices} devices fits; some stay idle")
        return run(whole=False)

    def _goal(self, pool: Pool) -> Goal:
        ask = self.ask
        board_w, power = valuing.power_of(pool)
        pue = valuing.pue_of(ask.fleet, pool)
        site = ask.fleet.site_of(pool)
        price = pool.price_per_device_hour
        tariff = site.tariff.mean_price_per_kwh if site is not None and site.tariff is not None else 0.0
        if price is None and ask.aim == "cost" and not tariff:
            self._notes.append("no prices are known: `cost` counts device-hours")
            price = 1.0
        watts = board_w or 1.0
        if board_w is None and ask.aim == "energy":
            self._notes.append(f"the power of {chip_of(pool).id} is unknown: `energy` counts device-seconds")
        kept = by_devices(valuing.kept_share(self.work, pool))
        owned = by_devices(valuing.owned_devices(self.work, pool))
        return Goal(
            aim=ask.aim,
            steps=float(self.work.steps),
            kept=kept,
            owned=owned,
            price_per_device_hour=price or 0.0,
            idle_w=float(power.drawn_w("waiting", board_w=watts)) * pue,
            busy_w=float(power.drawn_w("computing", board_w=watts)) * pue,
            price_per_kwh=tariff,
            deadline_s=None if ask.deadline_days is None else ask.deadline_days * S_PER_DAY,
            budget=ask.budget,
        )

    def _of_search(self, pool: Pool, found: Found) -> Iterator[Candidate]:
        for each in found.plans:
            yield Candidate(
                groups=(self._worked(pool, each),),
                step_s=each.step_s,
                averaging=None,
                judged=each.score,
                why=tuple(_why(each, found)),
                why_not_next=each.next.text if each.next else "",
            )

    def _worked(self, pool: Pool, found: Plan) -> Worked:
        return Worked(
            pools=(pool,),
            machines=(found.machine,),
            used=(found.devices,),
            split=found.split,
            precision=found.precision,
            sequences=self.batch,
            step_s=found.step_s,
            slack_s=0.0,
            step=found.step,
            stages=found.stages,
            memory_bytes=float(found.memory.total_bytes),
            doubts=() if pool.name in self.ask.measured else doubts(pool),
        )

    # --- several pools ---

    def _unlike(self) -> tuple[list[Candidate], tuple[Left, ...]]:
        candidates: list[Candidate] = []
        left: tuple[Left, ...] = ()
        top = self.ask.top if self.ask.aim == "time" and self.ask.budget is None else max(self.ask.top, FAMILIES)
        for precision in self.ask.precisions:
            task = Task(
                decoder=self.decoder,
                batch=self.batch,
                sequence=self.sequence,
                software=self.software,
                parameters=self.parameters,
                precision=precision,
            )
            measured = {
                name: machines[precision] for name, machines in self.ask.measured.items() if precision in machines
            }
            plans = fleet_plans(task, self.ask.fleet, machines=measured, top=top)
            candidates += [self._of_unlike(each, task, measured) for each in plans]
            if plans and not left:
                left = tuple(Left(pool=each.pool, reason=each.reason) for each in plans[0].left_out)
        return sorted(candidates, key=lambda candidate: candidate.judged), left

    def _of_unlike(self, found: UnlikePlan, task: Task, measured: Mapping[str, Machine]) -> Candidate:
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
        following = [reason for reason in found.reasons if reason.startswith("next plan")]
        return Candidate(
            groups=tuple(self._group(group, task, measured) for group in found.groups),
            step_s=found.step_s,
            averaging=averaging,
            judged=bridge.judged_s,
            why=tuple(reason for reason in found.reasons if reason not in following),
            why_not_next=following[0].removeprefix("next plan: ") if following else "",
        )

    def _group(self, group: GroupPlan, task: Task, measured: Mapping[str, Machine]) -> Worked:
        pools = tuple(self.ask.fleet.pool(name) for name in group.pools)
        machines = tuple(measured.get(pool.name) or machine_of(pool, precision=task.precision) for pool in pools)
        split = self._split(group, task)
        alone = len(pools) == 1
        step = (
            step_time(
                self.decoder, machine=machines[0], split=split, software=self.software, parameters=self.parameters
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
            stages=memory_by_stage(self.decoder, split=split, software=self.software) if alone else (),
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

    # --- one plan's numbers ---

    def _answered(self, candidate: Candidate) -> Answered:
        effective, kept = valuing.effective_of(candidate, self.work)
        bill = valuing.bill_of(candidate, self.work, kept=kept, spare_nodes=effective.spare_nodes)
        self._notes += bill.notes
        again = sum(valuing.repeated_flops(group, self.work) for group in candidate.groups)
        rate = candidate.step_s * candidate.peak_flops_per_s
        tokens_per_s = self.batch * self.sequence / candidate.step_s
        low, high = interval_of(candidate, self.decoder, measured=self.ask.measured)
        days = bill.run_s / S_PER_DAY
        flops = self.work.step_flops
        return Answered(
            rank=0,
            groups=tuple(
                shown(
                    group,
                    flops=flops * group.sequences / self.batch,
                    repeated_flops=valuing.repeated_flops(group, self.work),
                )
                for group in candidate.groups
            ),
            averaging=candidate.averaging,
            devices=candidate.devices,
            step_s=candidate.step_s,
            step_interval80_s=(candidate.step_s * low, candidate.step_s * high),
            tokens_per_s=tokens_per_s,
            mfu=flops / rate,
            hfu=(flops + again) / rate,
            steps=self.work.steps,
            days=days,
            days_interval80=(days * low, days * high),
            device_hours=bill.device_hours,
            energy_kwh=bill.energy_kwh,
            money=bill.money,
            carbon_kg=bill.carbon_kg,
            effective=effective,
            evidence=evidence_of(candidate, self.decoder, measured=self.ask.measured),
            meets=self._meets(days, bill),
            why=candidate.why,
            why_not_next=candidate.why_not_next,
        )

    def _meets(self, days: float, bill: valuing.Bill) -> bool:
        ask = self.ask
        in_time = ask.deadline_days is None or days <= ask.deadline_days * (1 + 1e-9)
        paid = sum(each.amount for each in bill.money)
        return in_time and (ask.budget is None or paid <= ask.budget * (1 + 1e-9))

    def _ranked(self, answered: Sequence[Answered]) -> list[Answered]:
        """The search of one pool ranked by the goal already; families over pools come by their step's seconds."""
        ask = self.ask
        if len(ask.fleet.pools) == 1:
            return list(answered)
        if ask.aim == "time" and ask.deadline_days is None and ask.budget is None:
            return list(answered)
        ranked = sorted(answered, key=lambda each: (not each.meets, self._value(each)))
        words = []
        for one, other in zip(ranked, [*ranked[1:], None], strict=True):
            words.append("" if other is None else f"{_pools_of(other)}: {self._compared(one, other)}")
        return [msgspec.structs.replace(each, why_not_next=text) for each, text in zip(ranked, words, strict=True)]

    def _value(self, answered: Answered) -> float:
        match self.ask.aim:
            case "time":
                return answered.days
            case "cost":
                return sum(each.amount for each in answered.money) or answered.device_hours
            case "energy":
                return answered.device_hours if answered.energy_kwh is None else answered.energy_kwh
            case "devices":
                return float(answered.devices)
            case "effective":
                return -answered.effective.effective

    def _compared(self, one: Answered, other: Answered) -> str:
        if not other.meets and one.meets:
            return f"{other.days:.3g} days: it does not keep the deadline or the budget"
        mine, its = self._value(one), self._value(other)
        return f"{(its - mine) / abs(mine):+.1%} in {self.ask.aim}".replace("%", " %")

    # --- what cannot be done ---

    def _miss(self, found: Found | None) -> NearestMiss:
        """Why nothing fits. Of several pools: of the one where least is missing."""
        misses = [found.miss] if found else []
        if not found:
            for pool in self.ask.fleet.pools:
                try:
                    misses.append(self._searched(pool, top=1).miss)
                except SpecError as error:
                    self._notes.append(error.message)
        known = [miss for miss in misses if miss is not None]
        if not known:
            return NearestMiss(
                needed_bytes=None, excess_bytes=None, devices_needed=None,
                text=f"no shares of {self.batch} sequences give every pool whole micro-batches: change --batch",
            )  # fmt: skip
        nearest = min(known, key=lambda miss: float("inf") if miss.excess_bytes is None else miss.excess_bytes)
        return NearestMiss(
            needed_bytes=nearest.needed_bytes,
            excess_bytes=nearest.excess_bytes,
            devices_needed=nearest.devices_needed,
            text=nearest.text,
        )

    def _target_missed(self, answered: Sequence[Answered]) -> str:
        ask = self.ask
        if not answered or any(each.meets for each in answered):
            return ""
        best = answered[0]
        words = []
        if ask.deadline_days is not None and best.days > ask.deadline_days:
            words.append(
                f"no plan of the fleet trains {self.tokens:.3g} tokens in {ask.deadline_days:.3g} days; "
                f"the best takes {best.days:.3g}"
            )
        paid = sum(each.amount for each in best.money)
        if ask.budget is not None and paid > ask.budget:
            words.append(f"the best costs {paid:.4g} {self.currency}, the budget is {ask.budget:.4g}")
        return "; ".join(words)


def _pools_of(answered: Answered) -> str:
    return ", ".join(" and ".join(group.pools) for group in answered.groups)


def _level(name: str) -> Software:
    if name not in LEVELS:
        remedy = did_you_mean(name, LEVELS) or f" use one of {listed(LEVELS)}"
        raise SpecError(f"software level `{name}` is unknown;{remedy}", path="software")
    return LEVELS[name]


def _why(found: Plan, all_found: Found) -> Iterator[str]:
    """Why this plan: what was looked at, where its step goes, what bounds it."""
    counts = all_found.counts
    yield (
        f"least {all_found.objective} of {counts.plans:,} plans on {counts.meshes:,} meshes: {counts.timed:,} were "
        f"timed, {counts.infeasible:,} do not fit, {counts.slower:,} are proved worse without being timed"
    )
    total = found.step_s
    parts = {
        field.name.removesuffix("_s"): float(getattr(found.step, field.name))
        for field in dataclasses.fields(found.step)
    }
    losses = sorted(
        ((name, seconds) for name, seconds in parts.items() if name not in ("matmul", "attention")),
        key=lambda part: -part[1],
    )
    named = [
        f"{name} {seconds / total:.1%}".replace("%", " %") for name, seconds in losses if seconds > PART_SHOWN * total
    ]
    if named:
        yield f"beside products and attention the step goes to {', '.join(named)}"
    capacity = float(found.machine.memory_bytes)
    yield f"the fullest device holds {float(found.memory.total_bytes) / 1e9:.1f} of {capacity / 1e9:.1f} GB"


def doubtful(fleet: Fleet) -> tuple[str, ...]:
    """Pools whose chips' numbers have to be shown with their label."""
    return tuple(f"{pool.name}: {described(chip_of(pool))}" for pool in fleet.pools if chip_of(pool).is_doubtful)
