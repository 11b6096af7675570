"""Plans on one pool: the exact search, with the goal that the question sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from myriarch.plan import valuing
from myriarch.plan.asking import Asked
from myriarch.plan.candidate import Candidate, Worked
from myriarch.plan.goal import Goal, by_devices
from myriarch.plan.search import Found, Plan, search
from myriarch.plan.space import Space
from myriarch.plan.unlike_fleet import doubts
from myriarch.spec.catalogue import chip_of
from myriarch.spec.fleet import Pool
from myriarch.units import S_PER_DAY

PART_SHOWN: Final = 0.02
"""Share of a step below which a part is no reason."""


def searched(asked: Asked, pool: Pool, *, top: int, space: Space | None = None) -> Found:
    """The best plans on one pool by the question's goal. `space`: another than the question's."""
    ask = asked.ask
    machines = asked.machines(pool)
    goal = _goal(asked, pool)
    # A whole fleet, unless there is a reason to take fewer: speed, or a promise that fewer keep.
    fewer = ask.aim == "time" or goal.deadline_s is not None or goal.budget is not None

    def run(*, whole: bool) -> Found:
        return search(
            asked.decoder,
            machines=machines,
            devices=pool.devices,
            batch=asked.batch,
            sequence=asked.sequence,
            software=asked.software,
            parameters=asked.parameters,
            space=space or ask.space,
            objective=goal,
            top=top,
            whole=whole,
        )

    if fewer:
        return run(whole=False)
    asked.notes.append(f"{asked.ask.aim}: of the whole fleet; say --deadline to let devices stay idle")
    found = run(whole=True)
    if found.plans:
        return found
    asked.notes.append(f"no split of all {pool.devices} devices fits; some stay idle")
    return run(whole=False)


def _goal(asked: Asked, pool: Pool) -> Goal:
    ask = asked.ask
    board_w, power = valuing.power_of(pool)
    pue = valuing.pue_of(ask.fleet, pool)
    site = ask.fleet.site_of(pool)
    price = pool.price_per_device_hour
    tariff = site.tariff.mean_price_per_kwh if site is not None and site.tariff is not None else 0.0
    if price is None and ask.aim == "cost" and not tariff:
        asked.notes.append("no prices are known: `cost` counts device-hours")
        price = 1.0
    watts = board_w or 1.0
    if board_w is None and ask.aim == "energy":
        asked.notes.append(f"the power of {chip_of(pool).id} is unknown: `energy` counts device-seconds")
    kept = by_devices(valuing.kept_share(asked.work, pool))
    owned = by_devices(valuing.owned_devices(asked.work, pool))
    return Goal(
        aim=ask.aim,
        steps=float(asked.work.steps),
        kept=kept,
        owned=owned,
        price_per_device_hour=price or 0.0,
        idle_w=float(power.drawn_w("waiting", board_w=watts)) * pue,
        busy_w=float(power.drawn_w("computing", board_w=watts)) * pue,
        price_per_kwh=tariff,
        deadline_s=None if ask.deadline_days is None else ask.deadline_days * S_PER_DAY,
        budget=ask.budget,
    )


def candidates(asked: Asked, pool: Pool, found: Found) -> Iterator[Candidate]:
    for each in found.plans:
        yield Candidate(
            groups=(worked(asked, pool, each),),
            step_s=each.step_s,
            averaging=None,
            judged=each.step_s,
            why=tuple(_why(each, found)),
            why_not_next=each.next.text if each.next else "",
        )


def worked(asked: Asked, pool: Pool, found: Plan) -> Worked:
    return Worked(
        pools=(pool,),
        machines=(found.machine,),
        used=(found.devices,),
        split=found.split,
        precision=found.precision,
        sequences=asked.batch,
        step_s=found.step_s,
        slack_s=0.0,
        step=found.step,
        stages=found.stages,
        memory_bytes=float(found.memory.device_bytes),
        doubts=() if pool.name in asked.ask.measured else doubts(pool),
    )


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
    held, capacity = float(found.memory.device_bytes), float(found.machine.memory_bytes)
    yield f"the fullest device holds {held / 1e9:.1f} of the {capacity / 1e9:.1f} GB that a plan may fill"
