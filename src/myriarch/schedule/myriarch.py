"""Our own policy: whoever brings most completions for the devices goes first, by what is known of such jobs.

Run times are learned from jobs that ended (`lengths`), priorities are Gittins' indices over them (`gittins`). Rigid
jobs are ranked, preempted where somebody stands a good deal before them, and the first in line has devices held for it
(`ranked`). Elastic jobs, and jobs that may choose among unlike pools, get devices by an integer program that weighs
their speed-ups by the same indices (`completions`).

Where the numbers of `Settings` come from: each says so. What was looked at in choosing them is Philly before week 8,
Mira's weeks 0 to 3 and 12 to 14, and synthetic workloads; those are no proof of them therefore. `simulate --tune` finds
others for a workload, and says whether they are proven better.
"""

from __future__ import annotations

from typing import Final

from myriarch.event.base import Value
from myriarch.schedule.completions import Completions
from myriarch.schedule.gittins import Gittins, Learner
from myriarch.schedule.lengths import Lengths, of_trainings
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.speed import Speeds
from myriarch.schedule.worth import Worth


class Settings(Value, frozen=True, kw_only=True):
    """Of rigid jobs."""

    margin: float = 0.5
    """A running job yields to one whose index is lower by a third (1 / 1.5). On early weeks of Philly."""
    spell: float = 12.0
    """A job that started runs for so many times what its next stop and start cost: at most a thirteenth is overhead. On
    Mira's weeks 12 to 14, where with 1, and `price` 0, jobs took twice as long."""
    price: float = 1.0
    """What a lost second counts against one that the newcomer is spared (`worth`): 1, since seconds are alike; nothing
    else but 0, 0.3 and 1 was tried. 0: the index alone decides, and on Mira's weeks 0 to 3 jobs took 40 % longer
    (before the ends of jobs were expected anew as they age)."""
    exponent: float = 1.0
    """Of the devices in the rank: 1 is what the mean asks for."""
    guard_s: float = 2 * 86_400.0
    """A job that has waited so long on end goes before all others. Two days are our choice: one day was better on one
    window of Mira, and worse on the other."""
    holds: bool = True
    """Devices are held for the first in line."""
    holds_priced: bool = True
    """But where those who wait lose more by it than it gains (`holding`). On Mira's weeks 0 to 3 and 12 to 14, where
    jobs took 10 and 14 % longer without."""


SETTINGS: Final = Settings()


def myriarch(
    machine: Placed,
    *,
    learner: Learner | None = None,
    speeds: Speeds | None = None,
    settings: Settings = SETTINGS,
) -> Ranked | Completions:
    """The scheduler. speeds: of jobs that are elastic or may run on unlike pools; None: all are rigid and pools alike.

    learner: what is known of run times; None: nothing yet.
    """
    if speeds is not None:
        return Completions(machine, learner or Lengths(keys=of_trainings), speeds=speeds)
    lengths = learner or Lengths()
    return Ranked(
        machine,
        Gittins(lengths, margin=settings.margin, exponent=settings.exponent, spell=settings.spell),
        worth=Worth(spell=settings.spell, price=settings.price, exchange=True, holds=settings.holds_priced),
        guard_s=settings.guard_s,
        holds=settings.holds,
    )
