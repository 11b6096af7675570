"""Joules of a step and of a run, from what the devices do and what surrounds them.

    energy = PUE / supply x devices x (sum over states of share x board power x time  +  rest of the node x time)

A device draws power by its state: computing (matrix products keep it at its limit), streaming (memory-bound kernels),
waiting (collectives, the bubble, the host: it spins, its memory stays on), idle (no job). The rest of a node (CPUs,
memory, NICs, switches, fans) is a share of the devices' board power; the supply loses a few percent; PUE is the site's
(ISO/IEC 30134-2).

Calibrated on MLPerf Training v4.0 of Sustainable Metal Cloud, H100 under immersion, metered by the node:

    GPT-3 175B, 512 devices                        415.2 kWh AC, 408.7 DC in 3,412 s     856 W AC a device
    Llama 2 70B LoRA, 8, 64 and 512 devices        6.741, 5.847, 4.745 kW DC a node

The three LoRA runs do the same work ever less efficiently, 100, 67 and 22 % by their times: what a device draws while
it waits shows there, 45 % of its rating. Air-cooled nodes add fans and a poorer supply; 8 H100 in one reached 8.4 kW of
the 10.2 that it is rated at (Latif et al., IEEE Access 2025, abstract).

Not evidence: energies printed as rated power times device-hours (BLOOM's 433 MWh are 1,082,990 h x 400 W; Llama's
700 W an H100-hour likewise): no meter was read for them.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

import numpy as np

from myriarch.cost.arrays import Array, Real
from myriarch.cost.step import StepTime
from myriarch.errors import SpecError

JOULES_PER_KWH: Final = 3.6e6

State = Literal["computing", "streaming", "waiting", "idle"]

STATE_OF: Final[dict[str, State]] = {
    "matmul_s": "computing",
    "attention_s": "computing",
    "recompute_s": "computing",
    "stream_s": "streaming",
    "optimizer_s": "streaming",
    "launch_s": "waiting",
    "tp_s": "waiting",
    "pp_s": "waiting",
    "cp_s": "waiting",
    "ep_s": "waiting",
    "dp_s": "waiting",
    "bubble_s": "waiting",
    "offload_s": "waiting",
    "other_s": "waiting",
}
"""What a device does in each part of a step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power:
    """What a device draws, in shares of its board power, and what its node adds."""

    computing: Real = 1.0
    """Power-limited: an H100 runs its large products at its limit, with the clock down."""
    streaming: Real = 0.75
    """Between the two that were measured; a guess within 10 %, of a state that is a tenth of most steps."""
    waiting: Real = 0.45
    idle: Real = 0.12
    """An H100 without work shows 70 to 90 W of 700."""
    rest: Real
    """Of the node, by device."""
    supply: Real
    """Power that reaches the node's parts over power drawn."""

    def share(self, state: State) -> Array:
        """Of the board power, in this state."""
        return np.asarray(getattr(self, state), dtype=np.float64)

    def drawn_w(self, state: State, *, board_w: Real) -> Array:
        """Watts of one device with its part of the node, at the node's plug."""
        drawn: Array = (self.share(state) + self.rest) * board_w / self.supply
        return drawn

    def board_w(self, load_w: Real) -> Array:
        """Board power of a device that draws `load_w` with its part of the node under full load: for a pool whose
        power was metered (`Pool.power_per_device_w`) rather than read in a data sheet."""
        board: Array = np.multiply(load_w, self.supply) / (self.share("computing") + self.rest)
        return board


IMMERSED: Final = Power(rest=0.31, supply=0.985)
"""Calibrated: no fans; supply as metered, 408.7 of 415.2 kWh."""
AIR: Final = Power(rest=0.45, supply=0.95)
"""Calibrated on the node's highest, 8.4 kW; a supply of 80 PLUS Titanium has 94 to 96 % at load."""
DEFAULT_PUE: Final = 1.25
"""What China's plan of 2021 allows its large data centres in the hubs at most; a site's own figure goes before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules by where they go; the parts sum to `total_j`."""

    computing_j: Array
    streaming_j: Array
    waiting_j: Array
    idle_j: Array
    rest_j: Array
    """CPUs, memory, network, fans."""
    supply_j: Array
    """Lost between plug and parts."""
    cooling_j: Array
    """What the site adds: PUE - 1 of all the others."""

    @property
    def total_j(self) -> Array:
        parts = [getattr(self, field.name) for field in dataclasses.fields(self)]
        total: Array = np.sum(np.broadcast_arrays(*parts), axis=0)
        return total

    @property
    def total_kwh(self) -> Array:
        return self.total_j / JOULES_PER_KWH

    @property
    def plugged_j(self) -> Array:
        """At the nodes' plugs: what a meter on the racks shows."""
        plugged: Array = self.total_j - self.cooling_j
        return plugged

    def __add__(self, other: Energy) -> Energy:
        return Energy(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self)}
        )

    def times(self, count: Real) -> Energy:
        """So many of them: steps, nodes."""
        return Energy(**{field.name: getattr(self, field.name) * count for field in dataclasses.fields(self)})


def state_seconds(step: StepTime) -> dict[State, Array]:
    """Seconds of a step by what a device does; idle is none of a step."""
    zero = np.zeros_like(step.total_s)
    seconds: dict[State, Array] = {"computing": zero, "streaming": zero, "waiting": zero, "idle": zero}
    for field in dataclasses.fields(step):
        state = STATE_OF[field.name]
        seconds[state] = seconds[state] + getattr(step, field.name)
    return seconds


def step_energy(
    step: StepTime, *, devices: Real, board_w: Real | None, power: Power = AIR, pue: Real = DEFAULT_PUE
) -> Energy:
    """Joules of one step on all devices. Arguments may hold arrays. Raises SpecError when the power is unknown."""
    return _spent(state_seconds(step), devices=devices, board_w=board_w, power=power, pue=pue)


def held_energy(
    seconds: Real,
    *,
    state: State,
    devices: Real,
    board_w: Real | None,
    power: Power = AIR,
    pue: Real = DEFAULT_PUE,
) -> Energy:
    """Joules of devices that are held without stepping: waiting for a restart, or idle as spares."""
    zero = np.zeros_like(np.asarray(seconds, dtype=np.float64))
    held: dict[State, Array] = {"computing": zero, "streaming": zero, "waiting": zero, "idle": zero}
    held[state] = np.asarray(seconds, dtype=np.float64)
    return _spent(held, devices=devices, board_w=board_w, power=power, pue=pue)


def run_energy(
    step: StepTime,
    *,
    steps: Real,
    run_s: Real,
    devices: Real,
    board_w: Real | None,
    spares: Real = 0.0,
    power: Power = AIR,
    pue: Real = DEFAULT_PUE,
) -> Energy:
    """Joules of a run: its steps, lost ones too, the rest of its time waiting (saves, faults, restarts), and warm
    spares idle throughout."""
    rest_s = np.maximum(np.subtract(run_s, np.multiply(steps, step.total_s)), 0.0)
    stepping = step_energy(step, devices=devices, board_w=board_w, power=power, pue=pue).times(steps)
    waiting = held_energy(rest_s, state="waiting", devices=devices, board_w=board_w, power=power, pue=pue)
    idle = held_energy(run_s, state="idle", devices=spares, board_w=board_w, power=power, pue=pue)
    return stepping + waiting + idle


def _spent(seconds: dict[State, Array], *, devices: Real, board_w: Real | None, power: Power, pue: Real) -> Energy:
    if board_w is None:
        raise SpecError(
            "the power of the device is unknown", path="power_w", hint="give `power_w` of the chip, from its data sheet"
        )
    board = np.multiply(devices, board_w)
    by_state = {state: time * power.share(state) * board for state, time in seconds.items()}
    total_s = sum(seconds.values(), start=np.zeros(()))
    rest = total_s * np.multiply(power.rest, board)
    inside = sum(by_state.values(), start=np.zeros(())) + rest
    supply = inside * (1.0 / np.asarray(power.supply) - 1.0)
    return Energy(
        computing_j=by_state["computing"],
        streaming_j=by_state["streaming"],
        waiting_j=by_state["waiting"],
        idle_j=by_state["idle"],
        rest_j=rest,
        supply_j=supply,
        cooling_j=(inside + supply) * (np.asarray(pue) - 1.0),
    )


def carbon_kg(energy_j: Real, *, kg_per_kwh: Real) -> Array:
    """kg CO2 of energy from a grid with this factor."""
    carbon: Array = np.multiply(energy_j, kg_per_kwh) / JOULES_PER_KWH
    return carbon
