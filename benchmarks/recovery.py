"""From SIGKILL to the next completed step, on real processes, beside what torchrun needs on the same machine.

    python benchmarks/recovery.py [--trials 10] [--peer-trials 5] [--json]

A fleet of two pools trains the demo's model without CPU quotas. A worker is killed `trials` times, then, in further
fleets, the node in the same place `trials` times (each time a spare takes it over). Each recovery is split as the
report splits incidents. Then torchrun's elastic agent restarts a worker of a program with a state of the same size
(`torchrun_peer.py`).

Then the same two with `recovery.healthy_groups: go_on`: time until the next step of the group that was not hit, which
goes on without the other; and until the other steps with it again.

stdout is a table, or JSON:

    {"machine", "state_bytes_per_worker", "worker": {"median_s", "times_s", "split_s": {phase: median}},
     "node": {the same}, "worker_go_on": {the same, "rejoined_median_s", "rejoined_times_s"}, "node_go_on": {the same},
     "torchrun": {"median_s", "times_s"}, "ratio": {"worker", "node"}}

`ratio` is torchrun's median over ours. A recovery that did not happen is null and counted, never left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

import torchrun_peer

MODEL = {
    "name": "demo", "layers": 5, "width": 128, "heads": 4, "kv_heads": 2, "context_tokens": 128,
}  # fmt: skip
STEPS_BETWEEN = 12
"""Long enough for the fleet to be steady and for copies of the newest snapshot to be safe."""
STEPS_BETWEEN_GOING_ON = 60
"""The healthy group steps while the other starts: it is to be back before the next kill."""
SPARES_PER_FLEET = 5
RUN_LIMIT_S = 600.0
KINDS = ("", "_go_on")
"""All begin anew from the newest snapshot; or the healthy group goes on."""
PHASES = ("detect_s", "decide_s", "fork_s", "rendezvous_s", "restore_s", "other_s", "first_step_s")
"""As `report` splits an incident; `other` is building the model, attaching and the go of the controller."""


def fleet(
    folder: Path, *, name: str, spares: int, targets: list[str], going_on: bool = False
) -> list[dict[str, Any]]:  # fmt: skip
    """Train with a kill every so many steps; the report's incidents."""
    every = STEPS_BETWEEN_GOING_ON if going_on else STEPS_BETWEEN
    pool = {"chip": {"id": "cpu-core"}, "nodes": 2}
    files = {
        "fleet.yaml": {
            "name": "bench",
            "pools": [{"name": "fast", "spares": spares, **pool}, {"name": "slow", **pool}],
        },
        "model.yaml": MODEL,
        "run.yaml": {
            "name": name, "fleet": "fleet.yaml", "model": "model.yaml",
            "steps": every * (len(targets) + 2), "seed": 1,
            "batch": {"sequences": 8, "micro_sequences": 2}, "shares": {"fast": 4, "slow": 4},
            "checkpoint": {"memory_every_steps": 2, "disk_every_steps": 1000},
            "chaos": [
                {"at_step": every * (index + 1), "action": "kill", "target": target}
                for index, target in enumerate(targets)
            ],
            "recovery": {"healthy_groups": "go_on" if going_on else "wait"},
        },
    }  # fmt: skip
    for file, content in files.items():
        (folder / file).write_text(yaml.safe_dump(content))
    cli = [sys.executable, "-m", "myriarch.cli"]
    subprocess.run([*cli, "train", "run.yaml", "--fresh"], cwd=folder, check=True, capture_output=True,
                   timeout=RUN_LIMIT_S)  # fmt: skip
    done = subprocess.run([*cli, "report", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    incidents: list[dict[str, Any]] = json.loads(done.stdout)["incidents"]
    return incidents


def summary(incidents: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of the whole and of each part, in seconds."""
    times = [incident["first_step_s"] for incident in incidents]
    known = [time for time in times if time is not None]
    split = {}
    for phase in PHASES:
        parts = [incident["split"][phase] for incident in incidents if incident["split"][phase] is not None]
        split[phase.removesuffix("_s")] = statistics.median(parts) if parts else None
    found = {"median_s": statistics.median(known), "times_s": times, "split_s": split}
    if any(incident["left_out"] for incident in incidents):
        back = [incident["rejoined_s"] for incident in incidents]
        found |= {"rejoined_median_s": statistics.median([t for t in back if t is not None]), "rejoined_times_s": back}
    return found


def state_bytes() -> int:
    """Parameters and two AdamW moments in fp32, sharded over the two workers of a group."""
    from myriarch.spec.model import Model

    return Model(**MODEL).parameters * 12 // 2  # type: ignore[arg-type]


def workers(folder: Path, trials: int, *, going_on: bool) -> dict[str, Any]:
    """A worker is killed so often; where others go on, once in each of so many fleets: nodes that fail again rest."""
    if not going_on:
        return summary(fleet(folder, name="worker", spares=0, targets=["fast/1"] * trials))
    found: list[dict[str, Any]] = []
    for index in range(trials):
        found += fleet(folder, name=f"worker-go-on-{index}", spares=0, targets=["fast/1"], going_on=True)
    return summary(found)


def nodes(folder: Path, trials: int, *, going_on: bool) -> dict[str, Any]:
    """A node is killed so often, in several fleets."""
    found: list[dict[str, Any]] = []
    while len(found) < trials:
        kills = min(SPARES_PER_FLEET, trials - len(found))
        targets = [f"fast-{index + 1}" for index in range(kills)]
        name = f"node-go-on-{len(found)}" if going_on else f"node-{len(found)}"
        found += fleet(folder, name=name, spares=kills, targets=targets, going_on=going_on)
    return summary(found)


def measure(trials: int, peer_trials: int) -> dict[str, Any]:
    """All measurements, in this order, on this machine."""
    with tempfile.TemporaryDirectory(prefix="myriarch-bench-") as name:
        folder = Path(name)
        ours = {f"worker{kind}": workers(folder, trials, going_on=bool(kind)) for kind in KINDS}
        ours |= {f"node{kind}": nodes(folder, trials, going_on=bool(kind)) for kind in KINDS}
    peer = torchrun_peer.measure(peer_trials, state_bytes=state_bytes(), step_s=0.05, port=29731)
    known = [time for time in peer if time is not None]
    median = statistics.median(known) if known else None
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release().partition('-')[0]}",
        "state_bytes_per_worker": state_bytes(),
        **ours,
        "torchrun": {"median_s": median, "times_s": peer},
        "ratio": {kind: None if median is None else median / ours[kind]["median_s"] for kind in ("worker", "node")},
    }


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [
        result["machine"],
        f"{'':18}{'median':>9}{'worst':>9}  " + "".join(f"{phase[:-2]:>12}" for phase in PHASES),
    ]
    for kind in (f"{hit}{kind}" for kind in KINDS for hit in ("worker", "node")):
        part = result[kind]
        worst = max(time for time in part["times_s"] if time is not None)
        lines.append(
            f"{_said(kind):18}{part['median_s']:8.2f}s{worst:8.2f}s  "
            + "".join(f"{part['split_s'][phase.removesuffix('_s')] or 0.0:11.3f}s" for phase in PHASES)
        )
    back = " and ".join(f"{result[kind + '_go_on']['rejoined_median_s']:.2f} s" for kind in ("worker", "node"))
    lines.append(f"go on: the group that was hit steps with the others again after {back} (medians)")
    peer = result["torchrun"]
    failed = sum(time is None for time in peer["times_s"])
    median = "none" if peer["median_s"] is None else f"{peer['median_s']:.2f} s"
    lines.append(f"torchrun, a worker lost: median {median} of {len(peer['times_s'])}, {failed} did not come back")
    lines.append(f"torchrun takes {result['ratio']['worker']:.1f} times as long" if peer["median_s"] else "")
    return "\n".join(lines)


def _said(kind: str) -> str:
    hit, _, going_on = kind.partition("_")
    return f"{hit} lost{', go on' if going_on else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--peer-trials", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.trials, arguments.peer_trials)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


if __name__ == "__main__":
    main()
