"""Many jobs under a policy: the scenario becomes a scheduler, tasks and breakdowns, the outcome an answer."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from myriarch.account.factors import Factors, Peak, integrals
from myriarch.account.ledger import Ledger
from myriarch.errors import SpecError
from myriarch.event.ids import PoolId
from myriarch.event.spans import LEAVES
from myriarch.schedule.layout import PoolLayout, layout_of
from myriarch.schedule.speed import Speeds
from myriarch.schedule.stream import Recorder, read
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.cluster_outcome import Group
from myriarch.simulate.queueing import Task
from myriarch.simulate.scenario import Scenario, Workload
from myriarch.simulate.scenario_answer import REFUSED_SHOWN, Answer, JobsOf, JobsPart, LentPart, PoolPart, Refused
from myriarch.simulate.scenario_around import Surroundings, preference
from myriarch.simulate.scenario_bill import Bills, Stints
from myriarch.simulate.scenario_digest import digest_of
from myriarch.simulate.scenario_faults import Faulty, breakdowns_of
from myriarch.simulate.scenario_jobs import tasks_for
from myriarch.simulate.scenario_policy import Setting, surrounded
from myriarch.simulate.scenario_power import hours_of, meter_of
from myriarch.simulate.scenario_speed import peak_of, speeds_of
from myriarch.simulate.scenario_waits import WaitsPart, waits_part
from myriarch.spec.fleet import Fleet, Pool

JOB_COLUMNS = (
    "job", "tenant", "kind", "pool", "devices", "submit_s", "start_s", "end_s", "run_s", "held_device_s", "lost_s",
    "preemptions", "restarts", "resizes", "deadline_s", "refused", "told_p50_s", "told_p90_s",
)  # fmt: skip


class ClusterRun:
    """What came of the jobs. Constructing it simulates."""

    def __init__(self, scenario: Scenario) -> None:
        workload, fleet = scenario.workload, _fleet(scenario)
        if workload is None:
            raise SpecError("a scenario of jobs has a workload", source=scenario.name, path="workload")
        self.scenario, self.workload, self.fleet = scenario, workload, fleet
        self.by_number = scenario.placement == "numbers"
        self.taken = tasks_for(workload, devices=sum(pool.devices for pool in fleet.pools), seed=scenario.seed)
        tasks = self.taken.tasks
        setting = setting_for(scenario, tasks, speeds=self.taken.speeds)
        stints = Stints(tasks, pools=[pool.name for pool in fleet.pools])
        self.faulty = faults_for(scenario, tasks)
        made = surrounded(scenario.policy, setting)
        self.lending = made.lending
        self.stream = bytearray()
        """All that the scheduler heard and said, where forecasts are asked for."""
        scheduler = made.scheduler
        if scenario.forecasts:
            scheduler = Recorder(made.scheduler, self.stream.extend, name=scenario.policy.name)
        self.outcome = simulate_cluster(
            tasks,
            scheduler,
            breakdowns=() if self.faulty is None else self.faulty.breakdowns,
            speeds=setting.speeds,
            until_s=scenario.until_s,
            detect_s=0.0 if scenario.faults is None else scenario.faults.detect_s,
            observe=stints.observe,
        )
        stints.close(self.outcome)
        self.waits: WaitsPart | None = None
        if isinstance(scheduler, Recorder):
            scheduler.close()
            end_s = self.outcome.end_s
            self.waits = waits_part(read(bytes(self.stream)), estimates=setting.asked, end_s=end_s)
        hours = hours_of(scenario.power)
        self.bills = Bills(
            stints,
            meters={pool.name: meter_of(pool, fleet=fleet, grid=scenario.power, hours=hours) for pool in fleet.pools},
        )

    @property
    def ledger(self) -> Ledger:
        """By the fleet's names of its pools."""
        ledger = self.outcome.ledger
        if not self.by_number:
            return ledger
        (account,) = ledger.pools.values()
        return msgspec.structs.replace(ledger, pools={PoolId(self.fleet.pools[0].name): account})

    def answer(self) -> Answer:
        """For programs and tables."""
        outcome, ledger, scenario = self.outcome, self.ledger, self.scenario
        factors, effective = effective_of(ledger, self.fleet, mfu=self.workload.mfu)
        return Answer(
            scenario=scenario.name,
            kind="jobs",
            seed=scenario.seed,
            digest=digest_of(scenario),
            duration_s=outcome.end_s - outcome.start_s,
            capacity_device_ns=ledger.total.capacity_device_ns,
            leaves={leaf: ledger.total.leaves.get(leaf, 0) for leaf in LEAVES},
            factors=factors,
            effective=effective,
            pools={
                pool.name: PoolPart(
                    chip=pool.chip if isinstance(pool.chip, str) else pool.chip.id,
                    devices=owned_devices(pool),
                    capacity_device_ns=ledger.pools[PoolId(pool.name)].capacity_device_ns,
                    leaves=ledger.pools[PoolId(pool.name)].leaves,
                )
                for pool in self.fleet.pools
            },
            bill=self.bills.fleet(
                owned={pool.name: owned_devices(pool) for pool in self.fleet.pools},
                begin_s=outcome.start_s,
                end_s=outcome.end_s,
            ),
            jobs=self._jobs(),
            intake=self.taken.intake,
            faults=None if self.faulty is None else self.faulty.intake,
            notes=tuple(self._notes(effective)),
        )

    def _jobs(self) -> JobsPart:
        outcome, everybody = self.outcome, np.ones(len(self.outcome.columns.ids), dtype=bool)
        rho = outcome.finish_time_fairness
        duration_s = outcome.end_s - outcome.start_s
        return JobsPart(
            policy=self.scenario.policy.name,
            placement=self.scenario.placement,
            all=self._of(everybody),
            tenants=self._by("tenant"),
            kinds=self._by("kind"),
            pools=self._by("pool"),
            refused=tuple(Refused(job=job, reason=why) for job, why in list(outcome.refused.items())[:REFUSED_SHOWN]),
            utilisation=outcome.utilisation,
            fragmented=outcome.fragmented,
            fairness=outcome.jain_index,
            finish_time_fairness_p95=float(np.nanquantile(rho, 0.95)) if not np.isnan(rho).all() else None,
            waiting_mean=outcome.waiting_job_s / duration_s if duration_s else 0.0,
            waiting_most=outcome.waiting_most,
            events=outcome.events,
            decisions_digest=outcome.digest,
            power_w_most=self.bills.power_w_most({pool.name: owned_devices(pool) for pool in self.fleet.pools}),
            lending=self._lent(),
            waits=self.waits,
        )

    def _lent(self) -> dict[str, LentPart]:
        """By pool: what its services had, and what jobs had of it."""
        if self.lending is None or self.scenario.policy.lending is None:
            return {}
        owned = {pool.name: pool for pool in self.fleet.pools}
        held = self._by("pool")
        found: dict[str, LentPart] = {}
        for name in dict.fromkeys(one.pool for one in self.scenario.policy.lending.services):
            lent, each = self.lending.lent(name), owned[name].devices_per_node / 3600.0
            found[name] = LentPart(
                kept_device_hours=lent.kept_node_s * each,
                lent_device_hours=held[name].held_device_hours if name in held else 0.0,
                short_device_hours=lent.short_node_s * each,
                asked_back_nodes=lent.asked_back,
                stopped=lent.stopped,
                shrunk=lent.shrunk,
            )
        return found

    def _by(self, group: Group) -> dict[str, JobsOf]:
        """By tenant, kind, or the pool where a job ran last; in alphabetical order."""
        columns = self.outcome.columns
        codes, words = np.asarray(getattr(columns, group)), columns.names.words
        named = sorted((words[code], code) for code in set(codes.tolist()) if code >= 0)
        if group == "pool" and self.by_number:
            return {self.fleet.pools[0].name: self._of(codes >= 0)}
        return {name or "(none)": self._of(codes == code) for name, code in named}

    def _of(self, chosen: NDArray[np.bool_]) -> JobsOf:
        outcome = self.outcome
        refused = list(outcome.columns.refused)
        return JobsOf(
            jobs=int(chosen.sum()),
            ended=int((chosen & outcome.completed).sum()),
            refused=int(chosen[refused].sum()) if refused else 0,
            held_device_hours=float(np.asarray(outcome.columns.held_device_s)[chosen].sum()) / 3600.0,
            summary=outcome.summary(chosen),
            bill=self.bills.of(chosen),
        )

    def _notes(self, effective: float | None) -> Iterator[str]:
        outcome = self.outcome
        if outcome.columns.refused:
            yield f"jobs refused: {len(outcome.columns.refused):,}; no pool can ever run them, see `refused`"
        if outcome.unfinished:
            yield f"jobs that had not ended when the scenario did: {outcome.unfinished:,}; they are in no mean"
        if effective is None and self.workload.mfu is None:
            yield "effective compute is unknown: say what share of the peak kept time becomes, with `workload.mfu`"

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Of `jobs.csv`, in the order of submission; what did not happen is empty."""
        columns = self.outcome.columns
        words = columns.names.words
        told = {} if self.waits is None else {one.job: (one.p50_s, one.p90_s) for one in self.waits.jobs}
        for at, job in enumerate(columns.ids):
            pool = columns.pool[at]
            numbers = (columns.start_s[at], columns.end_s[at])
            yield (
                job, words[columns.tenant[at]], words[columns.kind[at]], words[pool] if pool >= 0 else "",
                columns.devices[at], columns.submit_s[at], *map(_known, numbers), columns.run_s[at],
                columns.held_device_s[at], columns.lost_s[at], columns.preemptions[at], columns.restarts[at],
                columns.resizes[at], _known(columns.deadline_s[at]), columns.refused.get(at, ""),
                *told.get(job, ("", "")),
            )  # fmt: skip

    def write_jobs(self, path: Path) -> None:
        """Every job, a line each."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(JOB_COLUMNS)
            writer.writerows(self.rows())


def _known(value: float) -> float | str:
    return "" if math.isnan(value) else value


def owned_devices(pool: Pool) -> int:
    return (pool.nodes + pool.spares) * pool.devices_per_node


def setting_for(scenario: Scenario, tasks: Sequence[Task], *, speeds: Speeds | None = None) -> Setting:
    """What a scheduler is made for. speeds: of these very jobs; None: by the workload's `scaling`."""
    fleet = _fleet(scenario)
    speeds = speeds or speeds_of(None if scenario.workload is None else scenario.workload.scaling, fleet)
    return Setting(
        pools=[layout_with_spares(pool) for pool in fleet.pools],
        by_number=scenario.placement == "numbers",
        accounts=tuple(sorted({task.job.tenant for task in tasks if task.job.tenant})),
        spares={pool.name: pool.spares for pool in fleet.pools if pool.spares},
        speeds=speeds,
        asked=_asked(scenario.workload, tasks),
        prices=_prices(fleet),
        prefer=preference(scenario.policy, fleet),
        around=Surroundings(
            fleet=fleet,
            faults=scenario.faults,
            grid=scenario.power,
            until_s=scenario.until_s or _horizon_s(tasks, sum(pool.devices for pool in fleet.pools)),
            speeds=speeds,
        ),
    )


def faults_for(scenario: Scenario, tasks: Sequence[Task]) -> Faulty | None:
    """What goes wrong while these jobs are there; None: nothing."""
    if scenario.faults is None:
        return None
    fleet = _fleet(scenario)
    until_s = scenario.until_s or _horizon_s(tasks, sum(pool.devices for pool in fleet.pools))
    layouts = [layout_with_spares(pool) for pool in fleet.pools]
    return breakdowns_of(scenario.faults, fleet.pools, layouts, until_s=until_s, seed=scenario.seed)


def _asked(workload: Workload | None, tasks: Sequence[Task]) -> bool:
    """Whether estimates are users' own: a trace without them has the run times in their place."""
    if workload is None or workload.generator is not None or workload.estimates not in (None, "asked"):
        return False
    return any(task.job.estimate_s != task.run_s for task in tasks)


def _prices(fleet: Fleet) -> dict[str, float]:
    """Of a device-hour, where they can be compared."""
    priced = [pool for pool in fleet.pools if pool.price_per_device_hour is not None]
    if len({pool.currency for pool in priced}) > 1:
        return {}
    return {pool.name: pool.price_per_device_hour for pool in priced if pool.price_per_device_hour is not None}


def _fleet(scenario: Scenario) -> Fleet:
    if not isinstance(scenario.fleet, Fleet):
        raise SpecError("a scenario of jobs has a fleet", source=scenario.name, path="fleet")
    return scenario.fleet


def layout_with_spares(pool: Pool) -> PoolLayout:
    """With its spares, which the machine keeps back."""
    return msgspec.structs.replace(layout_of(pool), nodes=pool.nodes + pool.spares)


def _horizon_s(tasks: Sequence[Task], devices: int) -> float:
    """Until when faults are drawn where no end was said: three times what a busy fleet would need for all jobs."""
    work = math.fsum(task.job.devices * task.run_s for task in tasks)
    return 3.0 * (tasks[-1].job.submit_s + max(task.job.estimate_s for task in tasks) + work / devices)


def effective_of(ledger: Ledger, fleet: Fleet, *, mfu: float | None) -> tuple[Factors, float | None]:
    """By the code that accounts for real runs; the scenario says what share of the peak kept time becomes."""
    peaks = {PoolId(pool.name): _peak(pool) for pool in fleet.pools}
    known = integrals(ledger, peaks, model_flops=None)
    if known is None:
        return Factors(), None
    if mfu is None or not known.weighted:
        return known.factors(), None
    whole = msgspec.structs.replace(known, model_flops=Fraction(mfu) * known.kept)
    return whole.factors(), whole.effective()


def _peak(pool: Pool) -> Peak:
    rate = peak_of(pool)
    return Peak() if rate is None else Peak(rate_flops_per_s=rate, source="declared")
