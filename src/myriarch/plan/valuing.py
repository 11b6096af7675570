"""A plan's price in days, joules, money and carbon, and what failures leave of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from myriarch.cost import energy, money
from myriarch.cost.arrays import Array
from myriarch.cost.decoder import Decoder
from myriarch.cost.effective import Effective, effective_compute
from myriarch.cost.failures import per_node_day
from myriarch.cost.spares import DEFAULT_REPAIR_S, mean_repair_s
from myriarch.plan.answer import EffectiveCompute, Saves
from myriarch.plan.answer import Money as Paid
from myriarch.plan.candidate import Candidate, Worked
from myriarch.spec.catalogue import chip_of
from myriarch.spec.fleet import Fleet, Pool

LAW_NODE_DEVICES: Final = 8.0
"""Devices of a node of the published law of failures."""
STATE_BYTES: Final = 12.0
"""Of a parameter in a snapshot: its fp32 weight and Adam's two moments."""
TYPICAL_STEP_S: Final = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, whatever the plan."""

    decoder: Decoder
    fleet: Fleet
    batch: int
    """Sequences of a step."""
    sequence: int
    """Tokens."""
    steps: int

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one step."""
        return float(self.decoder.flops_per_token(self.sequence)) * self.batch * self.sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bill:
    """What a plan costs, whatever it is paid in."""

    run_s: float
    device_hours: float
    energy_kwh: float | None
    money: tuple[Paid, ...]
    carbon_kg: float | None
    notes: tuple[str, ...]


def failures_per_node_day(pools: dict[str, tuple[Pool, float]]) -> float:
    """Mean over the nodes at work; `pools` has each with its devices at work. Without figures in the fleet file the
    published law holds, for nodes of eight devices, by the size of the whole run."""
    devices = sum(number for _, number in pools.values())
    nodes = sum(number / pool.devices_per_node for pool, number in pools.values())
    law = float(per_node_day(devices))
    total = sum(
        number / LAW_NODE_DEVICES * law
        if pool.failures is None
        else number / pool.devices_per_node * pool.failures.per_node_day
        for pool, number in pools.values()
    )
    return total / nodes


def longest_repair_s(pools: dict[str, tuple[Pool, float]]) -> float:
    """Mean repair time, of the pool where it is longest. Fleet files say medians, and what spares are sized by is the
    mean (`cost.spares`)."""
    said = (float(mean_repair_s(pool.failures.repair_s)) for pool, _ in pools.values() if pool.failures is not None)
    return max(said, default=DEFAULT_REPAIR_S)


def kept_share(work: Work, pool: Pool) -> Callable[[Array], Array]:
    """Devices to the share of time that becomes kept steps, on one pool; for scoring many plans."""

    def share(devices: Array) -> Array:
        found = _scored(work, pool, devices)
        return found.fault_handling * _running(found, devices / pool.devices_per_node)

    return share


def owned_devices(work: Work, pool: Pool) -> Callable[[Array], Array]:
    """Devices at work to devices owned: with the spares of the file, or as many as suffice."""

    def owned(devices: Array) -> Array:
        return devices + _scored(work, pool, devices).spares * pool.devices_per_node

    return owned


def _scored(work: Work, pool: Pool, devices: Array) -> Effective:
    """Of many numbers of devices, quickly; the state sharded over all of them."""
    rates = [failures_per_node_day({pool.name: (pool, number)}) for number in devices.tolist()]
    return effective_compute(
        devices=devices,
        step_s=TYPICAL_STEP_S,
        state_bytes=STATE_BYTES * float(work.decoder.parameters) / devices,
        devices_per_node=pool.devices_per_node,
        node_failures_per_day=np.array(rates),
        spares=_spares(pool),
        search="first order",
    )


def _spares(pool: Pool) -> float | None:
    """None: as many as suffice."""
    return float(pool.spares) if pool.spares else None


def _running(found: Effective, nodes: Array | float) -> Array:
    """Share of the time that the job has all its nodes."""
    owned = np.add(nodes, found.spares)
    running: Array = np.minimum(found.availability * found.scheduling * owned / nodes, 1.0)
    return running


def effective_of(candidate: Candidate, work: Work) -> tuple[EffectiveCompute, float]:
    """Its factors, and the share of time that becomes kept steps."""
    pools = _pools(candidate)
    devices = float(candidate.devices)
    nodes = sum(number / pool.devices_per_node for pool, number in pools.values())
    given = sum(pool.spares for pool, _ in pools.values())
    found = effective_compute(
        devices=devices,
        step_s=candidate.step_s,
        state_bytes=_state_bytes(candidate, work),
        mfu=work.step_flops / candidate.step_s / sum(group.job_peak_flops_per_s for group in candidate.groups),
        devices_per_node=devices / nodes,
        node_failures_per_day=failures_per_node_day(pools),
        spares=float(given) if given else None,
        groups=float(len(candidate.groups)),
        repair_s=longest_repair_s(pools),
    )
    saves = []
    for index, tier in enumerate(found.tiers):
        counts = found.pattern.counts
        used = index >= len(counts) or float(counts[index]) > 0
        if used:
            saves.append(Saves(tier=tier, every_s=float(found.pattern.interval_of_s(index))))
    factors = {
        name: float(getattr(found, name))
        for name in ("availability", "scheduling", "fault_handling", "compute", "effective", "mtbf_s", "recover_s")
    }
    answer = EffectiveCompute(**factors, spare_nodes=math.ceil(float(found.spares) - 1e-9), saves=tuple(saves))
    return answer, float(found.fault_handling) * float(_running(found, nodes))


def _pools(candidate: Candidate) -> dict[str, tuple[Pool, float]]:
    found: dict[str, tuple[Pool, float]] = {}
    for group in candidate.groups:
        for pool, number in zip(group.pools, group.used, strict=True):
            found[pool.name] = (pool, found.get(pool.name, (pool, 0.0))[1] + number)
    return found


def _state_bytes(candidate: Candidate, work: Work) -> float:
    """Of the device that holds most: its part of what a snapshot has to bring back."""
    held = [float(stage.optimizer_bytes) for group in candidate.groups for stage in group.stages]
    if held:
        return max(held)
    return max(STATE_BYTES * float(work.decoder.parameters) / group.devices for group in candidate.groups)


def bill_of(candidate: Candidate, work: Work, *, kept: float, spare_nodes: int) -> Bill:
    """Days, joules, money and carbon of a plan of which `kept` of the time becomes kept steps."""
    run_s = candidate.step_s * work.steps / kept
    joules: list[float | None] = []
    paid: list[money.Amount] = []
    carbon: list[float | None] = []
    notes: list[str] = []
    nodes = sum(number / pool.devices_per_node for pool, number in _pools(candidate).values())
    for group in candidate.groups:
        for pool, number in zip(group.pools, group.used, strict=True):
            spares = spare_nodes * (number / pool.devices_per_node / nodes) * pool.devices_per_node
            drawn = _joules(group, pool, number, spares=spares, run_s=run_s, work=work)
            joules.append(drawn)
            site = work.fleet.site_of(pool)
            known_currencies = work.fleet.currencies
            currency = pool.currency or (known_currencies[0] if len(known_currencies) == 1 else "")
            if pool.price_per_device_hour is not None:
                price = pool.price_per_device_hour
                paid.append(
                    money.rent(devices=number + spares, run_s=run_s, price_per_device_hour=price, currency=currency)
                )
            if site is not None and site.tariff is not None and drawn is not None:
                paid.append(money.energy_price(drawn, tariff=site.tariff, run_s=run_s))
            if pool.price_per_device_hour is None and (site is None or site.tariff is None):
                notes.append(
                    f"no price is known for pool `{pool.name}`: give `price_per_device_hour` or its site's tariff"
                )
            factor = work.fleet.carbon_kg_per_kwh_of(pool)
            known = drawn is not None and factor is not None
            carbon.append(float(energy.carbon_kg(drawn, kg_per_kwh=factor)) if known else None)  # type: ignore[arg-type]
            if drawn is None:
                notes.append(f"the power of a device of pool `{pool.name}` is unknown: give `power_w` of its chip")
    return Bill(
        run_s=run_s,
        device_hours=(candidate.devices + spare_nodes * candidate.devices / nodes) * run_s / 3600.0,
        energy_kwh=_sum(joules, energy.JOULES_PER_KWH),
        money=tuple(
            Paid(amount=float(amount.value), currency=amount.currency, what="devices and energy")
            for amount in money.Money.of(paid).parts
        ),
        carbon_kg=_sum(carbon, 1.0),
        notes=tuple(dict.fromkeys(notes)),
    )


def power_of(pool: Pool) -> tuple[float | None, energy.Power]:
    """Board watts of a device and how its states share them; a file's all-in figure stands for everything."""
    if pool.power_per_device_w is not None:
        return pool.power_per_device_w, dataclasses.replace(energy.AIR, rest=0.0, supply=1.0)
    return chip_of(pool).power_w, energy.AIR


def pue_of(fleet: Fleet, pool: Pool) -> float:
    """The site's own, else the usual."""
    site = fleet.site_of(pool)
    return energy.DEFAULT_PUE if site is None or site.pue is None else site.pue


def _joules(group: Worked, pool: Pool, number: int, *, spares: float, run_s: float, work: Work) -> float | None:
    board_w, power = power_of(pool)
    if board_w is None:
        return None
    pue = pue_of(work.fleet, pool)
    if group.step is None:  # a pipeline over two pools: all of it as if computing, which is not too little
        spent = energy.held_energy(
            run_s, state="computing", devices=number, board_w=board_w, power=power, pue=pue
        ) + energy.held_energy(run_s, state="idle", devices=spares, board_w=board_w, power=power, pue=pue)
    else:
        spent = energy.run_energy(
            group.step,
            steps=work.steps,
            run_s=run_s,
            devices=number,
            board_w=board_w,
            spares=spares,
            power=power,
            pue=pue,
        )
    return float(spent.total_j)


def _sum(parts: list[float | None], unit: float) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) / unit if len(known) == len(parts) and known else None


def repeated_flops(group: Worked, work: Work) -> float:
    """FLOPs of a group's share of a step that are done a second time: a third of the layers recomputed in full, the
    forward pass's share (Chowdhery et al., PaLM, appendix B)."""
    share = group.sequences / work.batch
    return work.step_flops * share * float(group.split.recompute) / 3.0
