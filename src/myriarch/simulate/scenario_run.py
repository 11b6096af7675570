"""A run file in virtual time: the real control decides; journal and ledger are those that a real run leaves."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from myriarch.account import History, Report, build_report
from myriarch.errors import SpecError
from myriarch.event.ids import PoolId
from myriarch.simulate.scenario import FaultModel, Grid, RunTiming, Scenario
from myriarch.simulate.scenario_answer import Answer, Bill, PoolPart, RunPart
from myriarch.simulate.scenario_cluster import layout_with_spares
from myriarch.simulate.scenario_digest import digest_of
from myriarch.simulate.scenario_faults import Faulty, breakdowns_of, faults_in_run
from myriarch.simulate.scenario_power import drawn, hours_of, meter_of
from myriarch.simulate.timing import Timing
from myriarch.simulate.world import Simulation, simulate
from myriarch.spec.fleet import Fleet
from myriarch.spec.run import ResolvedRun


class RunPlayed:
    """What came of the run. Constructing it simulates."""

    def __init__(self, scenario: Scenario) -> None:
        if not isinstance(scenario.run, ResolvedRun):
            raise SpecError("a scenario of a run has one", source=scenario.name, path="run")
        self.scenario = scenario
        self.resolved = _seeded(scenario.run, scenario.seed)
        self.faulty = run_faults(scenario.faults, self.resolved)
        self.simulation: Simulation = simulate(
            self.resolved,
            faults=() if self.faulty is None else tuple(faults_in_run(self.faulty.breakdowns)),
            timing=timing_of(scenario.timing),
        )
        self.report: Report = build_report(History.from_records(self.simulation.records, self.simulation.spans))

    def answer(self) -> Answer:
        """For programs and tables."""
        report, scenario = self.report, self.scenario
        return Answer(
            scenario=scenario.name,
            kind="run",
            seed=scenario.seed,
            digest=digest_of(scenario),
            duration_s=report.run.duration_s,
            capacity_device_ns=report.capacity_device_ns,
            leaves=report.leaves,
            factors=report.factors,
            effective=report.effective,
            pools={
                pool: PoolPart(
                    chip=part.chip,
                    devices=part.devices,
                    capacity_device_ns=part.capacity_device_ns,
                    leaves=part.leaves,
                )
                for pool, part in report.pools.items()
            },
            bill=bill_of(self.resolved.fleet, scenario.power, duration_s=report.run.duration_s),
            faults=None if self.faulty is None else self.faulty.intake,
            run=_part(report, self.simulation),
            notes=report.notes,
        )


def _part(report: Report, simulation: Simulation) -> RunPart:
    recovered_s = [incident.first_step_s for incident in report.incidents if incident.first_step_s is not None]
    return RunPart(
        outcome=report.run.outcome,
        detail=report.run.detail,
        steps_done=report.run.steps_done,
        steps_wanted=report.run.steps_wanted,
        steps_lost=report.work.steps_lost,
        tokens=report.work.tokens,
        incidents=len(report.incidents),
        recovery_s_mean=math.fsum(recovered_s) / len(recovered_s) if recovered_s else None,
        control_digest=simulation.digest,
    )


def run_faults(faults: FaultModel | None, resolved: ResolvedRun) -> Faulty | None:
    """Those that the scenario has beside the run's own `chaos`."""
    if faults is None:
        return None
    pools = resolved.fleet.pools
    layouts = [layout_with_spares(pool) for pool in pools]
    return breakdowns_of(faults, pools, layouts, until_s=math.inf, seed=resolved.run.seed)


def _seeded(resolved: ResolvedRun, seed: int) -> ResolvedRun:
    return msgspec.structs.replace(resolved, run=msgspec.structs.replace(resolved.run, seed=seed))


def bill_of(fleet: Fleet, grid: Grid | None, *, duration_s: float) -> Bill:
    """All devices are the run's for as long as it lasts; spares idle."""
    energy_kwh: float | None = 0.0
    carbon_kg: float | None = 0.0
    money: dict[str, float] = {}
    hours = hours_of(grid)
    for pool in fleet.pools:
        meter = meter_of(pool, fleet=fleet, grid=grid, hours=hours)
        for nodes, busy in ((pool.nodes, True), (pool.spares, False)):
            found = drawn(
                meter,
                devices=np.array([nodes * pool.devices_per_node]),
                start_s=np.zeros(1),
                end_s=np.array([duration_s]),
                busy=busy,
            )
            energy_kwh = _sum(energy_kwh, found.energy_kwh)
            carbon_kg = _sum(carbon_kg, found.carbon_kg)
            for currency, amount in ((meter.energy_currency, found.energy_price), (meter.rent_currency, found.rent)):
                if amount is not None:
                    money[currency] = money.get(currency, 0.0) + float(amount.sum())
    return Bill(energy_kwh=energy_kwh, carbon_kg=carbon_kg, money=dict(sorted(money.items())))


def _sum(so_far: float | None, more: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None) -> float | None:
    return None if so_far is None or more is None else so_far + float(more.sum())


def timing_of(said: RunTiming | None) -> Timing:
    """What was said, and what was measured for the rest."""
    if said is None:
        return Timing()
    rates = {
        "memory_bytes_per_s": said.memory_bandwidth_bytes_per_s,
        "network_bytes_per_s": said.network_bandwidth_bytes_per_s,
        "disk_bytes_per_s": said.disk_bandwidth_bytes_per_s,
        "join_s": said.join_s,
    }
    known = {name: rate for name, rate in rates.items() if rate is not None}
    sequence_s = {PoolId(pool): seconds for pool, seconds in said.sequence_s.items()}
    return msgspec.structs.replace(Timing(), sequence_s=sequence_s, **known)
