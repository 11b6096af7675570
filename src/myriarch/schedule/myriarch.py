"""Our own policy: whoever brings most completions for the devices goes first, by what is known of such jobs.

Run times are learned from jobs that ended (`lengths`), priorities are Gittins' indices over them (`gittins`). Rigid
jobs are ranked, preempted where somebody stands a good deal before them, and the first in line has devices held for it
(`ranked`). Elastic jobs, and jobs that may choose among unlike pools, get devices by an integer program that weighs
their speed-ups by the same indices (`completions`).

`Settings` were chosen on early weeks of Philly and on synthetic workloads, `spell` on three late weeks of Mira, which
are no proof of it therefore; `simulate --tune` finds others for a workload, and says whether they are proven better.
"""

from __future__ import annotations

from typing import Final

from myriarch.event.base import Value
from myriarch.schedule.completions import Completions
from myriarch.schedule.gittins import Gittins, Learner
from myriarch.schedule.lengths import Lengths
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.speed import Speeds
from myriarch.schedule.worth import Worth


class Settings(Value, frozen=True, kw_only=True):
    """Of rigid jobs."""

    margin: float = 0.5
    """A running job yields to one whose index is lower by so much."""
    spell: float = 12.0
    """A job that started runs for so many times what its next stop and start cost: at most a thirteenth is overhead.
    With 1, Mira's jobs, whose stops are taken to cost ten minutes, took twice as long."""
    price: float = 1.0
    """What a lost second counts against one that the newcomer is spared (`worth`): by our reasoning 1, seconds being
    alike. 0: the index alone decides, which on early weeks of Mira made completion 40 % longer."""
    exponent: float = 1.0
    """Of the devices in the rank."""
    guard_s: float = 2 * 86_400.0
    """A job that has waited so long on end goes before all others."""
    holds: bool = True
    """Devices are held for the first in line."""


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
    lengths = learner or Lengths()
    if speeds is not None:
        return Completions(machine, lengths, speeds=speeds)
    return Ranked(
        machine,
        Gittins(lengths, margin=settings.margin, exponent=settings.exponent, spell=settings.spell),
        worth=Worth(spell=settings.spell, price=settings.price, exchange=True),
        guard_s=settings.guard_s,
        holds=settings.holds,
    )
