"""What two unlike pools make together, over the sum of what each makes alone.

    python benchmarks/aggregate.py [--steps 40] [--repeats 3] [--json]

The same model, sequences per device-time and quotas; three runs a repeat, interleaved: fast alone, slow alone, both
with measured shares and the every-step bridge. Tokens per second come from the journal (median step, after the
warm-up), tokens per CPU-second from the workers' own CPU time over the same steps, so that a noisy neighbour cannot
spoil it.

    A1 = T(both) / (T(fast) + T(slow))

stdout is a table, or JSON:

    {"machine", "emulation", "fast": {"tokens_per_s", "tokens_per_cpu_s"}, "slow": {...}, "both": {...},
     "ratio_wall", "ratio_cpu", "repeats": [...]}
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from myriarch.event.actions import StartSteps
from myriarch.event.events import StepCompleted, WorkerForked
from myriarch.event.journal import actions_of, events_of, scan

MODEL = {
    "name": "demo", "layers": 5, "width": 128, "heads": 4, "kv_heads": 2, "context_tokens": 128,
}  # fmt: skip
POOLS = {"fast": {"cpu_fraction": 0.65}, "slow": {"cpu_fraction": 0.22}}
"""Two nodes each: 1.74 of this machine's two cores."""
WARM_UP_STEPS = 4
RUN_LIMIT_S = 600.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: set[int]) -> float:
    """User and system time of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def train(folder: Path, *, pools: list[str], sequences: int, steps: int) -> dict[str, float]:
    """One run; its tokens per second and per CPU-second between the warm-up and the last step but one."""
    name = "-".join(pools)
    files = {
        "fleet.yaml": {
            "name": "bench",
            "pools": [{"name": pool, "chip": {"id": "cpu-core"}, "nodes": 2, "emulate": POOLS[pool]} for pool in pools],
        },
        "model.yaml": MODEL,
        "run.yaml": {
            "name": name, "fleet": "fleet.yaml", "model": "model.yaml", "steps": steps, "seed": 1,
            "batch": {"sequences": sequences, "micro_sequences": 2}, "shares": "measured",
            "checkpoint": {"memory_every_steps": 10, "disk_every_steps": 1000},
        },
    }  # fmt: skip
    for file, content in files.items():
        (folder / file).write_text(yaml.safe_dump(content))
    process = subprocess.Popen(
        [sys.executable, "-m", "myriarch.cli", "train", "run.yaml", "--fresh"], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = _Journal(folder / "runs" / name / "attempts")
    marks: dict[int, float] = {}
    end = time.monotonic() + RUN_LIMIT_S
    while process.poll() is None and time.monotonic() < end:
        step, pids = journal.look()
        if step > WARM_UP_STEPS and step < steps and pids and step not in marks:
            marks[step] = cpu_s(pids)
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"{name}: {process.stderr.read() if process.stderr else ''}")
    return _rates(journal.records(), marks)


class _Journal:
    """Reads a growing journal."""

    def __init__(self, attempts: Path) -> None:
        self._attempts = attempts

    def records(self) -> Any:
        newest = sorted(self._attempts.glob("*/journal.jsonl"))
        return scan(newest[-1].read_bytes()).records if newest else ()

    def look(self) -> tuple[int, set[int]]:
        """Newest step and the workers' process ids."""
        step, pids = 0, set()
        for _, event in events_of(self.records()):
            if isinstance(event, StepCompleted):
                step = max(step, event.step)
            elif isinstance(event, WorkerForked):
                pids.add(event.pid)
        return step, pids


def _rates(records: Any, marks: dict[int, float]) -> dict[str, float]:
    groups = len([action for _, action in actions_of(records) if isinstance(action, StartSteps)][-1].shares)
    done: dict[int, list[int]] = {}
    tokens = 0
    for at_ns, event in events_of(records):
        if isinstance(event, StepCompleted):
            done.setdefault(event.step, []).append(at_ns)
            tokens = event.tokens
    finished = {step: max(times) for step, times in done.items() if len(times) == groups}
    steps = sorted(step for step in finished if step > WARM_UP_STEPS)
    durations = [(finished[b] - finished[a]) / 1e9 for a, b in itertools.pairwise(steps)]
    first, last = min(marks), max(marks)
    return {
        "tokens_per_s": tokens / statistics.median(durations),
        "tokens_per_cpu_s": tokens * (last - first) / (marks[last] - marks[first]),
    }


def measure(steps: int, repeats: int) -> dict[str, Any]:
    """All runs, interleaved."""
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="myriarch-bench-") as name:
        folder = Path(name)
        rounds.extend(
            {
                "fast": train(folder, pools=["fast"], sequences=24, steps=steps),
                "slow": train(folder, pools=["slow"], sequences=8, steps=steps),
                "both": train(folder, pools=["fast", "slow"], sequences=32, steps=steps),
            }
            for _ in range(repeats)
        )
    median = {
        who: {rate: statistics.median(round_[who][rate] for round_ in rounds) for rate in rounds[0][who]}
        for who in ("fast", "slow", "both")
    }
    ratios = [_ratios(round_) for round_ in rounds]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release().partition('-')[0]}",
        "emulation": POOLS,
        **median,
        "ratio_wall": statistics.median(ratio["wall"] for ratio in ratios),
        "ratio_cpu": statistics.median(ratio["cpu"] for ratio in ratios),
        "repeats": [{**round_, "ratio": ratio} for round_, ratio in zip(rounds, ratios, strict=True)],
    }


def _ratios(round_: dict[str, dict[str, float]]) -> dict[str, float]:
    """Wall: tokens per second add up. CPU: against the pools' CPU-seconds for the same mix of tokens."""
    fast, slow, both = (round_[who] for who in ("fast", "slow", "both"))
    share = fast["tokens_per_s"] / (fast["tokens_per_s"] + slow["tokens_per_s"])
    alone = 1 / (share / fast["tokens_per_cpu_s"] + (1 - share) / slow["tokens_per_cpu_s"])
    return {
        "wall": both["tokens_per_s"] / (fast["tokens_per_s"] + slow["tokens_per_s"]),
        "cpu": both["tokens_per_cpu_s"] / alone,
    }


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [result["machine"], f"{'':8}{'tokens/s':>12}{'tokens/CPU-s':>15}"]
    lines += [
        f"{who:8}{result[who]['tokens_per_s']:12.0f}{result[who]['tokens_per_cpu_s']:15.0f}"
        for who in ("fast", "slow", "both")
    ]
    lines.append(f"both / (fast + slow): {result['ratio_wall']:.3f} wall, {result['ratio_cpu']:.3f} CPU-seconds")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.steps, arguments.repeats)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


if __name__ == "__main__":
    main()
