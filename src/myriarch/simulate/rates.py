"""How often what goes wrong, and for how long: the model that breakdowns are drawn from (`rates_draw`).

The theory. Causes have rates, shares of the published counts. What strikes single nodes comes as one stream of events
over a whole pool, whose gaps are Weibull: shape 1 is a Poisson process, a shape below 1 (LANL: 0.7 to 0.8) brings
bursts and lulls at the same mean. Each event draws its cause by the rates, its node evenly, or with some *lemons* that
are hit many times as often as the others, and its duration. What takes a rack or a row at once (a switch, a bus bar) is
a process of its own over these places: all nodes of the place break down at one instant, for one duration.

In large jobs rates grow faster than the number of nodes (`cost.failures`): unplanned rates are multiplied by
`growth(devices of the job)`. Maintenance is planned by people and does not grow.

Durations are log-normal by mean and median, as LANL's repairs are (Schroeder and Gibson, DSN 2006, section 6:
log-normal fits best), or exponential where only a mean is known.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from myriarch.cost.failures import DEFAULT_PER_NODE_DAY, LARGE_DEVICES, LARGE_EXPONENT
from myriarch.cost.spares import DEFAULT_REPAIR_S, DEFAULT_REPAIR_SHARE, LANL_MEAN_S, LANL_MEDIAN_S
from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.simulate.breakdowns import Course

Scope = Literal["node", "rack", "row"]
"""What an event of a cause takes. A row: several racks behind one bus bar, cooling loop or spine (a pool's pod)."""

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
LANL_SHAPE: Final = 0.7
"""Weibull shape of the gaps between failures of LANL's systems: 0.7 to 0.8 (Schroeder and Gibson, DSN 2006, section
5.3). Their repairs by cause, means in minutes: hardware 342, software 369, network 247, people 163, environment 572."""


class Duration(Value, frozen=True, kw_only=True):
    """How long something lasts. Log-normal when both are given; constant when they are equal."""

    mean_s: float
    median_s: float | None = None
    """None: exponential."""

    @property
    def sigma(self) -> float:
        """Of the logarithm: mean / median = exp(sigma^2 / 2)."""
        if self.median_s is None or self.mean_s == 0:
            return 0.0
        return math.sqrt(2.0 * math.log(self.mean_s / self.median_s))

    def check(self, what: str) -> None:
        """Raise SpecError for a duration that cannot be."""
        median_s = self.mean_s if self.median_s is None else self.median_s
        if not (0.0 <= median_s <= self.mean_s < math.inf) or (median_s == 0.0 < self.mean_s):
            raise SpecError(
                f"{what}: mean {self.mean_s} s, median {self.median_s} s",
                hint="a log-normal's median is above 0 and at most its mean",
            )


def like_lanl(mean_s: float) -> Duration:
    """Log-normal with this mean, as widely spread as LANL's repairs."""
    return Duration(mean_s=mean_s, median_s=mean_s * LANL_MEDIAN_S / LANL_MEAN_S)


HARDWARE: Final = like_lanl(DEFAULT_REPAIR_S)
"""A day on average, half of them within 3.7 h: see `cost.spares.DEFAULT_REPAIR_S`."""
SUPERBENCH_REPAIR: Final = Duration(mean_s=18.7 * 86_400.0, median_s=10.5 * HOUR_S)
"""Log-normal through SuperBench's two quantiles (arXiv:2402.06194: 38.1 % of incidents above a day, 10.3 % above two
weeks): sigma 2.74. Its tail makes the mean 18.7 days; for contrast."""
NETWORK: Final = like_lanl(247 * MINUTE_S)
ENVIRONMENT: Final = like_lanl(572 * MINUTE_S)
PEOPLE: Final = like_lanl(163 * MINUTE_S)
REBOOT: Final = Duration(mean_s=600.0, median_s=600.0)
"""Of a server with eight accelerators, its memory test and a first collective included: a judgement."""
AT_ONCE: Final = Duration(mean_s=0.0)

MONTHS_A_DAY: Final = 1.0 / 30.0
SWITCH_PER_RACK_DAY: Final = 5.1e-4 * MONTHS_A_DAY
"""Critical errors and crashes of top-of-rack switches: 0.051 % a month (Alibaba HPN, SIGCOMM 2024). One a rack."""
ROW_PER_DAY: Final = 2.0 / 365.0
"""Twice a year for a row of racks (power, cooling): a judgement; nobody publishes it."""

SLOW_PER_NODE_DAY: Final = 5 / (63 * 73)
"""5 degradations on 63 nodes in 73 days ("From Detection to Recovery: 504 B200"). A small sample."""
SLOW_FACTOR: Final = 0.9
"""MegaScale (arXiv:2402.15627): stragglers, 0.5 % of machines, take 10 % longer."""
SLOW: Final = Duration(mean_s=5336.0, median_s=1039.0)
"""Log-normal whose middle 95 % reach from 30 s to 10 h: fail-slow lasts "tens of seconds to ten hours" (Falcon,
arXiv:2410.12588)."""


class Cause(Value, frozen=True, kw_only=True):
    """One thing that goes wrong."""

    name: str
    per_place_day: float
    """Events of one place (a node, a rack, a row) and day, on average over lemons and others."""
    course: Course
    lasts: Duration = AT_ONCE
    scope: Scope = "node"
    factor: float = 1.0
    """With `slow`: share of its speed that is left."""
    announced_s: float = 0.0
    """With `maintenance`."""


SWITCH: Final = Cause(
    name="rack switch", per_place_day=SWITCH_PER_RACK_DAY, course="repair", lasts=NETWORK, scope="rack"
)
ROW: Final = Cause(
    name="power or cooling of a row", per_place_day=ROW_PER_DAY, course="repair", lasts=ENVIRONMENT, scope="row"
)
FAIL_SLOW: Final = Cause(
    name="fail-slow", per_place_day=SLOW_PER_NODE_DAY, course="slow", lasts=SLOW, factor=SLOW_FACTOR
)


class FaultRates(Value, frozen=True, kw_only=True):
    """A fault model: everything that goes wrong with the nodes of a fleet."""

    name: str
    causes: tuple[Cause, ...]
    grows_from_devices: float | None = None
    """Unplanned rates grow as (devices / this)^0.947 in larger jobs (`cost.failures`); None: they do not."""
    shape: float = 1.0
    """Of the Weibull gaps between events; 1: exponential."""
    lemon_share: float = 0.0
    """Of the nodes."""
    lemon_times: float = 1.0
    """How many times as often as the other nodes they fail."""
    source: str = ""

    def growth(self, devices: int | None) -> float:
        """What unplanned rates are multiplied by in a job of so many devices; None: in small ones."""
        if devices is None or self.grows_from_devices is None:
            return 1.0
        return max(1.0, math.pow(devices / self.grows_from_devices, LARGE_EXPONENT))

    def per_node_day(self, *, devices: int | None = None) -> float:
        """Unplanned events of one node and day that stop whoever works on it, without racks and rows."""
        stops = (one for one in self.causes if one.scope == "node" and one.course not in ("slow", "maintenance"))
        return self.growth(devices) * sum(one.per_place_day for one in stops)

    def scaled(self, times: float) -> FaultRates:
        """So many times as often, all causes."""
        causes = tuple(msgspec.structs.replace(one, per_place_day=one.per_place_day * times) for one in self.causes)
        return msgspec.structs.replace(self, causes=causes)

    def with_causes(self, *causes: Cause) -> FaultRates:
        """These as well: `FAIL_SLOW`, `SWITCH`, `ROW`, maintenance, causes of one's own."""
        return msgspec.structs.replace(self, causes=(*self.causes, *causes))

    def check(self) -> None:
        """Raise SpecError for rates that cannot be."""
        for one in self.causes:
            where = f"cause `{one.name}` of `{self.name}`"
            if not (0.0 <= one.per_place_day < math.inf and one.announced_s >= 0.0 and 0.0 < one.factor <= 1.0):
                raise SpecError(
                    f"{where}: {one.per_place_day} a day, factor {one.factor}, announced {one.announced_s} s before",
                    hint="rates and times from 0, a factor above 0 and up to 1",
                )
            one.lasts.check(where)
        if not (self.shape > 0.0 and 0.0 <= self.lemon_share < 1.0 and self.lemon_times >= 1.0):
            raise SpecError(
                f"`{self.name}`: shape {self.shape}, lemons {self.lemon_share} of the nodes, {self.lemon_times} times",
                hint="a shape above 0, a share from 0 to below 1, at least once as often",
            )


GROWS_FROM_DEVICES: Final = LARGE_DEVICES * (DEFAULT_PER_NODE_DAY / 2.3e-3) ** (1.0 / LARGE_EXPONENT)
"""Where the two branches of `cost.failures.per_node_day` meet: 55,500 devices."""


def plain(
    per_node_day: float,
    *,
    repair: Duration = HARDWARE,
    repair_share: float = DEFAULT_REPAIR_SHARE,
    name: str = "plain",
    source: str = "",
) -> FaultRates:
    """Rates of one's own: so many failures of a node and day, of which a share takes the node away for a repair and
    the rest only its processes."""
    return FaultRates(
        name=name,
        causes=(
            Cause(name="node", per_place_day=per_node_day * repair_share, course="repair", lasts=repair),
            Cause(name="process", per_place_day=per_node_day * (1.0 - repair_share), course="in_place"),
        ),
        source=source,
    )


def maintenance(*, every_s: float, duration_s: float, announced_s: float) -> Cause:
    """Planned: each node once every so often on average, away for so long, told so long before."""
    lasts = Duration(mean_s=duration_s, median_s=duration_s or None)
    return Cause(
        name="planned maintenance",
        per_place_day=86_400.0 / every_s,
        course="maintenance",
        lasts=lasts,
        announced_s=announced_s,
    )
