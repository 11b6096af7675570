"""One big job on a fleet that breaks: its effective training time beside published ones and beside the exact formula.

    python benchmarks/simulate_fleet.py [--days 30] [--seeds 3] [--json]

* Llama 3: 54 days on 16,384 devices at its own rates; 419 unexpected and 47 planned interruptions, above 90 % effective
  (arXiv:2407.21783).
* Fault-tolerant HSDP: 98,304 devices, a failure every 18 minutes; 44 % when the whole job stalls 15 minutes, 80 % when
  healthy replicas stall 3 (arXiv:2602.00277). With their figures.
* The formula: `cost.interval.expected_efficiency`, from 1,024 to 131,072 devices.
* 98,304 devices at 18 minutes under three policies, at the rates and causes of the same paper: the whole job starts
  anew from the object store; `Control` as it is (memory tier, spares, all groups begin anew from the newest snapshot);
  and healthy groups going on (`live`). Then what single assumptions are worth.

`effective` is the share of allocated device time in kept steps; `owned` the same of all devices owned, spares and nodes
in repair included; `progress` kept steps over those of an undisturbed job; `faults` and `planned` stop the job, or its
next steps. stdout is a table, or JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from myriarch.control.pace import Pace
from myriarch.cost.interval import expected_efficiency
from myriarch.event.ids import GroupId, PoolId
from myriarch.event.layout import GroupLayout
from myriarch.simulate.fleet_cases import DEVICES_PER_NODE, big_job, others, ours, played, terms
from myriarch.simulate.fleet_outcome import FleetOutcome
from myriarch.simulate.fleet_terms import FleetTerms
from myriarch.simulate.rates import FAIL_SLOW, FaultRates, plain
from myriarch.simulate.rates_published import published
from myriarch.spec.run import ResolvedRun
from myriarch.units import S_PER_DAY

AT_98K: Final = 98_304
AT_100K: Final = 100_352
MTBF_S: Final = 18 * 60.0
COLD_STALL_S: Final = 15 * 60.0
LIVE_STALL_S: Final = 3 * 60.0
LLAMA_DAYS: Final = 54
LLAMA_DEVICES: Final = 16_384
LLAMA_STORE_BYTES_PER_S: Final = 2e12 / LLAMA_DEVICES
"""2 TB/s sustained (The Llama 3 Herd of Models, section 3.3.1)."""
ONE_CORE_BYTES_PER_S: Final = 1.2e9
"""At which `train.snapshot` copies, hashes and digests bf16 weights with fp32 moments, on one core of a 2-core Xeon."""
SIZES: Final = (1_024, 8_192, 32_768, 65_536, 98_304, 131_072)
FAILURES: Final = {"control": 1_000, "whole job": 5_000}
"""So many for each size. The formula takes those that were drawn, so that what differs is no luck of theirs. A whole
job of 131,072 gets as far as a save once in a dozen failures, and only saves count: 1,000 failures leave a standard
error of more than half a point."""

Case = tuple[ResolvedRun, FleetTerms]


def summary(outcomes: list[FleetOutcome]) -> dict[str, Any]:
    """Means over seeds."""

    def mean(value: Callable[[FleetOutcome], float]) -> float:
        return statistics.fmean(value(one) for one in outcomes)

    spread = statistics.stdev(one.effective for one in outcomes) if len(outcomes) > 1 else math.nan
    leaves: dict[str, float] = {}
    for one in outcomes:
        for leaf, share in one.waterfall():
            leaves[leaf] = leaves.get(leaf, 0.0) + share / len(outcomes)
    return {
        "effective": mean(lambda one: one.effective),
        "standard_error": spread / math.sqrt(len(outcomes)),
        "owned": mean(lambda one: one.owned_effective),
        "progress": mean(lambda one: one.progress),
        "availability": mean(lambda one: one.factors.availability or 0.0),
        "scheduling": mean(lambda one: one.factors.scheduling or 0.0),
        "mtbf_min": mean(lambda one: (one.mtbf_s or math.inf) / 60.0),
        "interruptions": mean(lambda one: one.counts.interruptions),
        "planned": mean(lambda one: one.counts.planned),
        "waterfall": leaves,
    }


def over(case: Case, model: FaultRates, *, days: float, seeds: int) -> dict[str, Any]:
    return summary([played(case, model, until_s=days * S_PER_DAY, seed=seed) for seed in range(1, seeds + 1)])


def per_node_day(devices: int, mtbf_s: float) -> float:
    return S_PER_DAY / mtbf_s / (devices / DEVICES_PER_NODE)


def llama(seeds: int) -> dict[str, Any]:
    """One copy of the model on all devices, started anew from the file system."""
    case = others(LLAMA_DEVICES, group_devices=LLAMA_DEVICES, store_bytes_per_s=LLAMA_STORE_BYTES_PER_S)
    return over(case, published("llama3_405b"), days=LLAMA_DAYS, seeds=seeds)


def ft_hsdp(*, days: float, seeds: int) -> dict[str, dict[str, Any]]:
    """Their stalls, whatever they consist of; saves as good as free."""
    model = plain(per_node_day(AT_98K, MTBF_S), name="every 18 minutes")
    given: dict[str, Any] = {"detect_s": {}, "detect_other_s": 0.0, "comm_init": (), "store_bytes_per_s": math.inf}
    whole = others(AT_98K, **given, restart_s=COLD_STALL_S, restart_s_per_device=0.0)
    found = {"whole job, 15 min": over(whole, model, days=days, seeds=seeds)}
    for replicas in (6, 48):
        # Half of their stall when a replica leaves, half when it is back; it is away as long as a cold start takes.
        live = ours(
            AT_98K,
            model,
            group_devices=AT_98K // replicas,
            **given,
            restart_s=COLD_STALL_S,
            regroup_s=LIVE_STALL_S / 2,
            peer_bytes_per_s=math.inf,
        )
        found[f"{replicas} replicas, 3 min"] = over(live, model, days=days, seeds=seeds)
    return found


def formula(devices: int, *, policy: str, seed: int = 1) -> dict[str, Any]:
    """One level, exponential failures of processes: the simulated share beside the exact one, at the failures drawn."""
    job, chosen = (big_job(devices, spares=0), terms()) if policy == "control" else others(devices, spares=0)
    rate = published("llama3_405b").per_node_day(devices=devices)
    until_s = FAILURES[policy] * S_PER_DAY / (rate * devices / DEVICES_PER_NODE)
    outcome = played((job, chosen), plain(rate, repair_share=0.0), until_s=until_s, seed=seed)
    mtbf_s = until_s / outcome.counts.strikes
    group = job.run.groups[0].mesh.devices
    started = devices if chosen.whole_job else group
    stop_s = chosen.save_stop_s + chosen.contention_s
    restart_s = (
        chosen.detection_s("process")
        + chosen.begin_s(started=started, largest_group=group)
        + chosen.restore_s(tier="memory" if chosen.memory else "disk", remote=False)
        + chosen.copy_s
    )
    every = saving_every(job, chosen)
    exact = expected_efficiency(every * outcome.step_s, save_s=stop_s, restart_s=restart_s, mtbf_s=mtbf_s)
    return {"policy": policy, "devices": devices, "mtbf_s": mtbf_s, "simulated": outcome.effective, "formula": exact}


def saving_every(job: ResolvedRun, chosen: FleetTerms) -> int:
    """Steps from save to save, as `Control` computes them."""
    groups = {GroupId(group.name): group for group in job.run.groups}
    layouts = {
        name: GroupLayout(
            group=name, pool=PoolId(group.pool), mesh=group.mesh, devices_per_node=DEVICES_PER_NODE, nodes=()
        )
        for name, group in groups.items()
    }
    pace = Pace(
        device_speed={name: chosen.device_speed[PoolId(group.pool)] for name, group in groups.items()},
        snapshot_s=chosen.save_stop_s + chosen.contention_s,
    )
    pace.set_intervals(job, pace.shares(job, layouts))
    assert pace.memory_every_steps is not None
    return pace.memory_every_steps


def at_98k(*, days: float, seeds: int) -> dict[str, dict[str, Any]]:
    """Three policies, then single assumptions of `live`."""
    model = published("meta_ft_hsdp")
    live = ours(AT_98K, model)
    found = {
        "whole job": over(others(AT_98K), model, days=days, seeds=seeds),
        "control": over((big_job(AT_98K), terms()), model, days=days, seeds=seeds),
        "live": over(live, model, days=days, seeds=seeds),
    }
    variants: Mapping[str, tuple[Case, FaultRates]] = {
        "live, detection as measured here": (ours(AT_98K, model, detect_s={}, detect_other_s=0.051), model),
        "live, detection as others (60 s)": (ours(AT_98K, model, detect_s={}, detect_other_s=60.0), model),
        "live, corruption noticed after 10 min": (live, published("meta_ft_hsdp", noticed_s=600.0)),
        "live, slow nodes as published": (live, model.with_causes(FAIL_SLOW)),
        "live, 60 spares instead of 82": (ours(AT_98K, model, spares=60), model),
        "live, saves as fast as one core here": (ours(AT_98K, model, host_bytes_per_s=ONE_CORE_BYTES_PER_S), model),
        "live, groups go over in 3 s": (ours(AT_98K, model, regroup_s=3.0), model),
    }
    for name, (case, rates) in variants.items():
        found[name] = over(case, rates, days=days, seeds=1)
    return found


def effective_at_98k(*, days: float = 30.0, seeds: int = 3) -> dict[str, Any]:
    """What `benchmarks/simulate.py` shows."""
    model = published("meta_ft_hsdp")
    return {
        "live": over(ours(AT_98K, model), model, days=days, seeds=seeds),
        "control": over((big_job(AT_98K), terms()), model, days=days, seeds=1),
    }


def devices_100k_90d() -> dict[str, Any]:
    """The case of `benchmarks/simulate.py`: `Control`'s policy, 90 days; CPU time of everything."""
    begin = time.process_time()
    model = published("meta_ft_hsdp")
    outcome = played((big_job(AT_100K), terms()), model, until_s=90 * S_PER_DAY, seed=1)
    cpu_s = time.process_time() - begin
    return {
        "cpu_s": cpu_s,
        "events_per_s": outcome.counts.events / cpu_s,
        "jobs": 1,
        "events": outcome.counts.events,
        "generated": True,
        "interruptions": outcome.counts.interruptions,
        "steps": outcome.steps,
        "effective": outcome.effective,
        "owned": outcome.owned_effective,
        "digest": outcome.digest,
    }


def everything(*, days: float, seeds: int) -> dict[str, Any]:
    return {
        "llama3": llama(seeds),
        "ft_hsdp": ft_hsdp(days=min(days, 10.0), seeds=1),
        "formula": [formula(size, policy=policy) for policy in ("control", "whole job") for size in SIZES],
        "at_98k": at_98k(days=days, seeds=seeds),
    }


def table(result: Mapping[str, Any]) -> str:
    """For people."""

    def row(name: str, one: Mapping[str, Any]) -> str:
        return (
            f"{name:42}{one['effective']:10.2%}{one['owned']:9.2%}{one['progress']:10.2%}"
            f"{one['mtbf_min']:9.1f}{one['interruptions'] - one['planned']:8.0f}{one['planned']:8.0f}"
        )

    lines = [f"{'':42}{'effective':>10}{'owned':>9}{'progress':>10}{'MTBF min':>9}{'faults':>8}{'planned':>8}"]
    lines.append(row("Llama 3 (> 90 %; 419 + 47 in 54 days)", result["llama3"]))
    lines += [row(f"FT-HSDP: {name}", one) for name, one in result["ft_hsdp"].items()]
    lines += [row(f"98,304: {name}", one) for name, one in result["at_98k"].items()]
    lines.append(f"{'policy':11}{'devices':>10}{'MTBF min':>10}{'simulated':>11}{'formula':>9}{'points':>8}")
    for one in result["formula"]:
        gap, mtbf_min = 100 * (one["simulated"] - one["formula"]), one["mtbf_s"] / 60
        lines.append(
            f"{one['policy']:11}{one['devices']:10,}{mtbf_min:10.1f}{one['simulated']:11.2%}{one['formula']:9.2%}"
            f"{gap:+8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = everything(days=options.days, seeds=options.seeds)
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
