"""What a schedule drew, paid and emitted: the energy of every device, busy or idle, at the price of every hour."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from myriarch.cost.energy import AIR, JOULES_PER_KWH, Power
from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.calendar import Steps
from myriarch.simulate.market_hours import SiteHours
from myriarch.spec.fleet import Chip


class Watts(NamedTuple):
    """Of one device with its part of the node, at the plug; cooling is the site's."""

    busy_w: float
    idle_w: float


def watts_of(chip: Chip, *, power: Power = AIR) -> Watts:
    """Computing and idle power of a chip, from its board power in the catalogue and `cost.energy`'s calibrated shares.

    Raises SpecError where the board power is unknown.
    """
    if chip.power_w is None:
        raise SpecError(f"the power of {chip.id} is unknown; give `power_w`, from its data sheet", path="power_w")
    computing, idle = (power.drawn_w(state, board_w=chip.power_w) for state in ("computing", "idle"))
    return Watts(busy_w=float(computing), idle_w=float(idle))


class Held(NamedTuple):
    """Devices that a job held in a pool."""

    pool: str
    start_s: float
    end_s: float
    devices: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plant:
    """A pool as a consumer of power."""

    devices: int
    watts: Watts
    hours: SiteHours


class Spent(Value, frozen=True, kw_only=True):
    """Of one pool. Energy is the site's, cooling included."""

    busy_j: float
    idle_j: float
    busy_cost: float
    idle_cost: float
    carbon_kg: float | None
    """None: the grid is unknown."""

    @property
    def energy_j(self) -> float:
        return self.busy_j + self.idle_j

    @property
    def cost(self) -> float:
        return self.busy_cost + self.idle_cost


def spent(held: Iterable[Held], plants: Mapping[str, Plant], *, start_s: float, end_s: float) -> dict[str, Spent]:
    """By pool, between two instants: what jobs drew while they held devices, and all other devices idle.

    Raises SpecError for a pool that is not there, or one that gave out more than it has.
    """
    rows: dict[str, list[Held]] = {name: [] for name in sorted(plants)}
    for each in held:
        if each.pool not in rows:
            raise SpecError(f"`{each.pool}` is no pool; there are: {', '.join(rows)}")
        rows[each.pool].append(each)
    return {name: _spent(name, rows[name], plants[name], start_s, end_s) for name in rows}


def _spent(name: str, held: list[Held], plant: Plant, start_s: float, end_s: float) -> Spent:
    busy = _busy(name, held, plant.devices, start_s, end_s)
    idle = Steps(busy.edges, plant.devices - busy.values)
    carbon = plant.hours.carbon()

    def over(devices: Steps, watts: float, by: Steps) -> float:
        joules = devices.times(by).scaled(watts).over(np.array([start_s]), np.array([end_s]))
        return float(joules[0])

    price = plant.hours.price().scaled(1.0 / JOULES_PER_KWH)
    pairs = ((busy, plant.watts.busy_w), (idle, plant.watts.idle_w))
    return Spent(
        busy_j=over(*pairs[0], plant.hours.energy()),
        idle_j=over(*pairs[1], plant.hours.energy()),
        busy_cost=over(*pairs[0], price),
        idle_cost=over(*pairs[1], price),
        carbon_kg=None if carbon is None else sum(over(*pair, carbon) for pair in pairs) / JOULES_PER_KWH,
    )


def _busy(name: str, held: list[Held], devices: int, start_s: float, end_s: float) -> Steps:
    """Devices that are held, over time."""
    changes: dict[float, int] = {start_s: 0, end_s: 0}
    for each in held:
        begin, end = max(each.start_s, start_s), min(each.end_s, end_s)
        if begin < end:
            changes[begin] = changes.get(begin, 0) + each.devices
            changes[end] = changes.get(end, 0) - each.devices
    edges = np.array(sorted(changes))
    values = np.cumsum([changes[edge] for edge in edges[:-1]]).astype(np.float64)
    if values.max(initial=0.0) > devices:
        raise SpecError(f"`{name}` has {devices} devices, and {values.max():.0f} are held at once; check the schedule")
    return Steps(edges, values)
