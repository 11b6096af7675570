"""Who drew how much energy, when, and what it cost: from the stints of jobs on pools."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from myriarch.schedule.decision import Decision, Preempt, Resize, Start
from myriarch.simulate.cluster_outcome import ClusterOutcome
from myriarch.simulate.queueing import Task
from myriarch.simulate.scenario_answer import Bill
from myriarch.simulate.scenario_power import Floats, Meter, drawn

Ints = NDArray[np.int64]
Chosen = NDArray[np.bool_]


class Stints:
    """Watches decisions: which job held how many devices of which pool, from when to when.

    Invariant: `_open` has the stint that each running job is in, and of ended jobs the last.
    """

    def __init__(self, tasks: Sequence[Task], *, pools: Sequence[str]) -> None:
        """`pools`: all names; decisions of a machine that only counts are the first's."""
        self._index = {task.job.id: index for index, task in enumerate(tasks)}
        self._tasks = tasks
        self._codes = {"": 0} | {name: code for code, name in enumerate(pools)}
        self._open: dict[int, int] = {}
        self.job, self.pool, self.devices = array("q"), array("q"), array("q")
        self.start_s, self.end_s = array("d"), array("d")

    def observe(self, decision: Decision) -> None:
        """A decision was carried out."""
        if not isinstance(decision, (Start, Preempt, Resize)):
            return
        job = self._index[decision.job]
        if not isinstance(decision, Start):
            self.end_s[self._open.pop(job)] = decision.at_s
        if not isinstance(decision, Preempt):
            placement = decision.placement
            self._open[job] = len(self.job)
            self.job.append(job)
            self.pool.append(self._codes[placement.pool])
            self.devices.append(placement.devices or self._tasks[job].job.devices)
            self.start_s.append(decision.at_s)
            self.end_s.append(np.nan)

    def close(self, outcome: ClusterOutcome) -> None:
        """The simulation is over: what is open ended with its job, or goes on."""
        ended_s = outcome.ended_s
        for job, stint in self._open.items():
            end_s = float(ended_s[job])
            self.end_s[stint] = outcome.end_s if np.isnan(end_s) else end_s


class Bills:
    """Energy, carbon and money of every stint, to be summed over any of the jobs."""

    def __init__(self, stints: Stints, *, meters: Mapping[str, Meter]) -> None:
        """`meters`: of all pools, in the order that the stints know."""
        self.job: Ints = np.asarray(stints.job)
        self.pool: Ints = np.asarray(stints.pool)
        self.start_s, self.end_s = np.asarray(stints.start_s), np.asarray(stints.end_s)
        self.devices: Ints = np.asarray(stints.devices)
        self._meters = list(meters.values())
        count = len(self.job)
        self._kwh, self._carbon_kg = np.zeros(count), np.zeros(count)
        self._money: dict[str, Floats] = {}
        self._dark, self._unknown_grid = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        for code, meter in enumerate(self._meters):
            self._add(self.pool == code, meter)

    def _add(self, here: Chosen, meter: Meter) -> None:
        found = drawn(meter, devices=self.devices[here], start_s=self.start_s[here], end_s=self.end_s[here])
        if found.energy_kwh is None:
            self._dark[here] = True
        else:
            self._kwh[here] = found.energy_kwh
        if found.carbon_kg is None:
            self._unknown_grid[here] = True
        else:
            self._carbon_kg[here] = found.carbon_kg
        for currency, amount in ((meter.energy_currency, found.energy_price), (meter.rent_currency, found.rent)):
            if amount is not None:
                self._money.setdefault(currency, np.zeros(len(self.job)))[here] += amount

    def of(self, jobs: Chosen) -> Bill:
        """Of the devices that these jobs held. jobs: which, by index of the workload."""
        return self.over(jobs[self.job])

    def over(self, stints: Chosen) -> Bill:
        """Of these stints. What is unknown for one of them is unknown for all."""
        return Bill(
            energy_kwh=None if self._dark[stints].any() else float(self._kwh[stints].sum()),
            carbon_kg=None if self._unknown_grid[stints].any() else float(self._carbon_kg[stints].sum()),
            money={currency: float(amount[stints].sum()) for currency, amount in sorted(self._money.items())},
        )

    def power_w_most(self, owned: Mapping[str, int]) -> float | None:
        """What all devices together drew at most; at one instant, who leaves does so first."""
        idle_w, added_w = 0.0, np.zeros(len(self.job))
        for code, (devices, meter) in enumerate(zip(owned.values(), self._meters, strict=True)):
            if meter.busy_w is None or meter.idle_w is None:
                return None
            idle_w += devices * meter.idle_w
            here = self.pool == code
            added_w[here] = self.devices[here] * (meter.busy_w - meter.idle_w)
        held = self.end_s > self.start_s
        instants_s = np.concatenate((self.end_s[held], self.start_s[held]))
        changes_w = np.concatenate((-added_w[held], added_w[held]))
        order = np.lexsort((np.arange(len(instants_s)), instants_s))
        return float(idle_w + np.cumsum(changes_w[order]).max(initial=0.0))

    def fleet(self, *, owned: Mapping[str, int], begin_s: float, end_s: float) -> Bill:
        """Of all devices, those that no job held idling. owned: devices by pool, spares counted."""
        busy = self.over(np.ones(len(self.job), dtype=bool))
        energy_kwh, carbon_kg, money = busy.energy_kwh, busy.carbon_kg, dict(busy.money)
        for code, (devices, meter) in enumerate(zip(owned.values(), self._meters, strict=True)):
            here = self.pool == code
            # All devices all the time, less those that jobs held while they did.
            whole = drawn(
                meter, devices=np.array([devices]), start_s=np.array([begin_s]), end_s=np.array([end_s]), busy=False
            )
            held = drawn(
                meter, devices=self.devices[here], start_s=self.start_s[here], end_s=self.end_s[here], busy=False
            )
            energy_kwh = _added(energy_kwh, whole.energy_kwh, held.energy_kwh)
            carbon_kg = _added(carbon_kg, whole.carbon_kg, held.carbon_kg)
            for currency, all_of_it, taken in (
                (meter.energy_currency, whole.energy_price, held.energy_price),
                (meter.rent_currency, whole.rent, held.rent),
            ):
                if all_of_it is not None and taken is not None:
                    money[currency] = money.get(currency, 0.0) + float(all_of_it.sum() - taken.sum())
        return Bill(energy_kwh=energy_kwh, carbon_kg=carbon_kg, money=dict(sorted(money.items())))


def _added(so_far: float | None, whole: Floats | None, held: Floats | None) -> float | None:
    if so_far is None or whole is None or held is None:
        return None
    return so_far + float(whole.sum() - held.sum())
