"""How far a plan's numbers can be trusted: the interval around them, and the measurements behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

import numpy as np

from myriarch.cost.calibrated import WIDTHS
from myriarch.cost.decoder import Decoder
from myriarch.cost.evidence import chips_seen, evidence
from myriarch.cost.step import StepTime
from myriarch.cost.uncertainty import chip_reach, interval
from myriarch.plan.answer import Evidence
from myriarch.plan.candidate import Candidate, Worked
from myriarch.spec.catalogue import chip_of
from myriarch.spec.fleet import Pool

FACTORS: Final = {"t": "tp", "p": "pp", "c": "cp", "e": "ep", "s": "sharded weights"}
"""Letters of the evidence's axes."""


def interval_of(candidate: Candidate, decoder: Decoder, *, measured: Collection[str]) -> tuple[float, float]:
    """Factors on the seconds of a step that hold four of five predictions; of several groups, those of the one that is
    known least. `measured`: pools with a profile."""
    bounds = [
        _interval(group, pool, decoder, profiled=pool.name in measured)
        for group in candidate.groups
        for pool in group.pools
    ]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _interval(group: Worked, pool: Pool, decoder: Decoder, *, profiled: bool) -> tuple[float, float]:
    chip = chip_of(pool)
    reach = chip_reach(chip, profiled=profiled, seen=chip.id in chips_seen())
    step = group.step or _untold(group.step_s)
    low, high = interval(decoder, split=group.split, step=step, widths=WIDTHS["all"], chip=reach)
    return float(low), float(high)


def _untold(step_s: float) -> StepTime:
    """A step of which nobody knows the parts: none of it counts as products, the part that is known best."""
    parts = dict.fromkeys((field.name for field in dataclasses.fields(StepTime)), np.zeros(()))
    return StepTime(**{**parts, "stream_s": np.asarray(step_s)})


def evidence_of(candidate: Candidate, decoder: Decoder, *, measured: Collection[str]) -> Evidence:
    """The worst grade of the plan's groups, with its reasons and the nearest published runs."""
    found = [
        (pool, evidence(decoder, chip=chip_of(pool), split=group.split, profiled=pool.name in measured))
        for group in candidate.groups
        for pool in group.pools
    ]
    worst = max(each.grade for _, each in found)
    named = len(found) > 1
    return Evidence(
        grade=worst,
        reasons=tuple(dict.fromkeys(f"{pool.name}: {each.reason}" if named else each.reason for pool, each in found)),
        nearest=tuple(
            f"{run.source} {run.id}: off by {run.error:+.1%}".replace("%", " %")
            + (f"; differs in {', '.join(_spelt(each) for each in run.differs)}" if run.differs else "")
            for run in max(found, key=lambda each: each[1].grade)[1].nearest
        ),
    )


def _spelt(difference: str) -> str:
    """`without t` is `without tp`."""
    words = difference.split(" ")
    return " ".join([*words[:-1], FACTORS.get(words[-1], words[-1])])
