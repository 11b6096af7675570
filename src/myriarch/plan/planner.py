"""The question of `myriarch plan`, answered: plans found, priced, compared and explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from myriarch.errors import SpecError
from myriarch.plan import one_pool, valuing
from myriarch.plan.answer import Answer, Answered, Left, NearestMiss
from myriarch.plan.asking import HEADROOM, Ask, Asked
from myriarch.plan.candidate import Candidate, shown
from myriarch.plan.many_pools import ManyPools
from myriarch.plan.search import Found
from myriarch.plan.trust import evidence_of, interval_of
from myriarch.units import S_PER_DAY


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
        self.asked: Final = Asked(ask)

    def answer(self) -> Answer:
        candidates, found, left = self.candidates()
        answered = self._ranked([(each, self._answered(each)) for each in candidates])[: self.ask.top]
        miss = None if answered else self._miss(found)
        return Answer(
            question=self.asked.question(),
            plans=tuple(msgspec.structs.replace(each, rank=at + 1) for at, each in enumerate(answered)),
            left_out=left,
            counts=found.counts if found else None,
            forbidden=dict(found.forbidden) if found else {},
            miss=miss,
            target_missed=self._target_missed(answered),
            notes=tuple(dict.fromkeys(self.asked.notes)),
        )

    def candidates(self) -> tuple[list[Candidate], Found | None, tuple[Left, ...]]:
        """Plans, best first, with the search of one pool, or the pools of several that are left out."""
        pools = self.ask.fleet.pools
        if len(pools) == 1:
            found = one_pool.searched(self.asked, pools[0], top=self.ask.top)
            return list(one_pool.candidates(self.asked, pools[0], found)), found, ()
        candidates, left = ManyPools(self.asked).candidates()
        return candidates, None, left

    def _answered(self, candidate: Candidate) -> Answered:
        effective, kept = valuing.effective_of(candidate, self.asked.work)
        bill = valuing.bill_of(candidate, self.asked.work, kept=kept, spare_nodes=effective.spare_nodes)
        self.asked.notes.extend(bill.notes)
        again = sum(valuing.repeated_flops(group, self.asked.work) for group in candidate.groups)
        rate = candidate.step_s * candidate.peak_flops_per_s
        tokens_per_s = self.asked.batch * self.asked.sequence / candidate.step_s
        low, high = interval_of(candidate, self.asked.decoder, measured=self.ask.measured)
        days = bill.run_s / S_PER_DAY
        flops = self.asked.work.step_flops
        return Answered(
            rank=0,
            groups=tuple(
                shown(
                    group,
                    flops=flops * group.sequences / self.asked.batch,
                    repeated_flops=valuing.repeated_flops(group, self.asked.work),
                    headroom=HEADROOM,
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
            steps=self.asked.work.steps,
            days=days,
            days_interval80=(days * low, days * high),
            device_hours=bill.device_hours,
            energy_kwh=bill.energy_kwh,
            money=bill.money,
            carbon_kg=bill.carbon_kg,
            effective=effective,
            evidence=evidence_of(candidate, self.asked.decoder, measured=self.ask.measured),
            meets=self._meets(days, bill),
            why=candidate.why,
            why_not_next=candidate.why_not_next,
        )

    def _meets(self, days: float, bill: valuing.Bill) -> bool:
        ask = self.ask
        in_time = ask.deadline_days is None or days <= ask.deadline_days * (1 + 1e-9)
        paid = sum(each.amount for each in bill.money)
        return in_time and (ask.budget is None or paid <= ask.budget * (1 + 1e-9))

    def _ranked(self, priced: Sequence[tuple[Candidate, Answered]]) -> list[Answered]:
        """The search of one pool ranked by the goal already; plans over pools are ranked here."""
        if len(self.ask.fleet.pools) == 1:
            return [each for _, each in priced]
        ranked = sorted(priced, key=lambda pair: self._place(*pair))
        behind = [*ranked[1:], None][: len(ranked)]
        return [
            msgspec.structs.replace(one[1], why_not_next="" if other is None else self._compared(one, other))
            for one, other in zip(ranked, behind, strict=True)
        ]

    def _place(self, candidate: Candidate, answered: Answered) -> tuple[bool, float, float]:
        """Plans that keep every promise by their value; then the others by how far they miss."""
        ask = self.ask
        paid = sum(each.amount for each in answered.money)
        late = answered.days / ask.deadline_days if ask.deadline_days else 0.0
        dear = paid / ask.budget if ask.budget else 0.0
        missed = 0.0 if answered.meets else max(late, dear)
        return not answered.meets, missed, self._value(candidate, answered)

    def _value(self, candidate: Candidate, answered: Answered) -> float:
        match self.ask.aim:
            case "time":  # an averaging that costs loss counts as slower
                return answered.days * candidate.judged / candidate.step_s
            case "cost":
                paid = sum(each.amount for each in answered.money)
                return (paid if answered.money else answered.device_hours) + 1e-9 * answered.days
            case "energy":
                return answered.device_hours if answered.energy_kwh is None else answered.energy_kwh
            case "devices":
                return float(answered.devices)
            case "effective":
                return -answered.effective.effective

    def _compared(self, one: tuple[Candidate, Answered], other: tuple[Candidate, Answered]) -> str:
        named = _pools_of(other[1])
        if not other[1].meets and one[1].meets:
            return f"{named}: {other[1].days:.3g} days: it does not keep the deadline or the budget"
        mine, its = self._value(*one), self._value(*other)
        return f"{named}: {(its - mine) / abs(mine):+.1%} in {self.ask.aim}".replace("%", " %")

    def _miss(self, found: Found | None) -> NearestMiss:
        """Why nothing fits. Of several pools: of the one where least is missing."""
        misses = [found.miss] if found else []
        if not found:
            for pool in self.ask.fleet.pools:
                try:
                    misses.append(one_pool.searched(self.asked, pool, top=1).miss)
                except SpecError as error:
                    self.asked.notes.append(error.message)
        known = [miss for miss in misses if miss is not None]
        if not known:
            return NearestMiss(
                needed_bytes=None, excess_bytes=None, devices_needed=None,
                text=f"no shares of {self.asked.batch} sequences give every pool whole micro-batches: change --batch",
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
                f"no plan of the fleet trains {self.asked.tokens:.3g} tokens in {ask.deadline_days:.3g} days; "
                f"the best takes {best.days:.3g}"
            )
        paid = sum(each.amount for each in best.money)
        if ask.budget is not None and paid > ask.budget:
            words.append(f"the best costs {paid:.4g} {self.asked.currency}, the budget is {ask.budget:.4g}")
        return "; ".join(words)


def _pools_of(answered: Answered) -> str:
    return ", ".join(" and ".join(group.pools) for group in answered.groups)
