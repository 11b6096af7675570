"""Seconds to the best split, and how many plans were considered on the way. One core, nothing but this machine.

    python benchmarks/plan.py [--case NAME ...] [--repeats 3] [--json]

| case | what is searched |
| --- | --- |
| gpt175b_1024 | GPT-3 175B on 1,024 A100 80GB, batch 1,536 of 2,048 tokens: Calculon's showcase |
| gpt1t_3072 | the 1T GPT of Narayanan et al. (SC'21, table 1) on 3,072 A100, batch 3,072 |
| gpt1t_16384 | a dense 1T with grouped queries on 16,384 H100, 8,192 tokens: CP, bf16 and FP8, FSDP and HSDP |
| moe1t_16384 | Kimi K2, 1.03T, on the same: EP and expert TP too |
| three_kinds_100k | a 10T mixture over 100,000 devices of three kinds |

A *plan* is a distinct split of the space that fits into memory (`plan.space` says what is tried). Every plan's memory
is worked out, and its step is either timed or proved to be slower than the best ones known. `seconds` is the whole
search so done; `answer_s` the search that does not count what it can rule out, with the same answer. Of three kinds,
the plans are the ways of each pool, before shares of the batch are weighed. Best of the repeats. The three that
Calculon's space has, too, are searched with offload to the host.

stdout is a table, or JSON:

    {"machine", "command", "cases": {NAME: {"seconds", "plans", "plans_per_s", ...}}, "peers": [...]}
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before numpy is imported

from myriarch.cost.calibrated import CALIBRATED  # noqa: E402
from myriarch.cost.decoder import Decoder  # noqa: E402
from myriarch.cost.silicon import machine  # noqa: E402
from myriarch.cost.software import level  # noqa: E402
from myriarch.plan.search import Found, search  # noqa: E402
from myriarch.plan.space import Space  # noqa: E402
from myriarch.plan.unlike_fleet import Task, fleet_plans  # noqa: E402
from myriarch.plan.unlike_offers import pool_entrant  # noqa: E402
from myriarch.spec.catalogue import lookup  # noqa: E402
from myriarch.spec.fleet import Fleet, Pool, PoolLink  # noqa: E402
from myriarch.spec.models import lookup_model  # noqa: E402

CONSTANTS = CALIBRATED["all"]
OFFLOADING = Space(offload_optimizer=(0.0, 1.0), offload_activations=(0.0, 1.0))
"""Also what is tried over coherent links only, unless asked for: Calculon's space has offload, too."""
PEERS: list[dict[str, Any]] = [
    {
        "tool": "Calculon (calculon-ai/calculon@caa4b11, SC'23)",
        "case": case,
        "configurations": configurations,
        "plans_per_s": 1.0 / 0.0134,
        "seconds_unpruned": configurations * 0.0134,
        "measured": "elsewhere: on a shared 2-core machine, 13.4 CPU-ms each; its configurations count switches that a "
        "level of software sets here. Its pruned search of 175B had not ended after 31.8 CPU-minutes",
    }
    for case, configurations in (
        ("gpt175b_1024", 11_698_528),
        ("gpt1t_3072", 7_002_336),
        ("gpt1t_16384", 7_359_840),
    )
]
TEN_TRILLION = Decoder(
    layers=96.0,
    width=14336.0,
    heads=112.0,
    kv_heads=8.0,
    head_width=128.0,
    feed_forward=57344.0,
    gated=1.0,
    vocabulary=160_000.0,
    experts=512.0,
    top_k=8.0,
    expert_feed_forward=4864.0,
    shared_experts=1.0,
    dense_layers=2.0,
)
POOLS = (("h100", "h100-sxm", 5000, 8), ("mi300x", "mi300x", 3750, 8), ("gb200", "gb200", 7500, 4))
"""Name, chip, nodes, devices of a node: 40,000, 30,000 and 30,000 devices."""


def single(
    model: str,
    chip: str,
    *,
    devices: int,
    batch: int,
    sequence: int,
    precisions: tuple[str, ...],
    software: str,
    space: Space = OFFLOADING,
) -> dict[str, Any]:
    """One model on devices of one kind: a census, and the plain search."""
    decoder, kind = Decoder.of(lookup_model(model)), lookup(chip)

    def found(*, census: bool) -> Found:
        return search(
            decoder,
            machines={precision: machine(kind, precision=precision) for precision in precisions},
            devices=devices,
            batch=batch,
            sequence=sequence,
            software=level(software),
            parameters=CONSTANTS,
            space=space,
            census=census,
        )

    seconds, cpu_s, counted = timed(lambda: found(census=True))
    answer_s, _, answered = timed(lambda: found(census=False))
    best, same = counted.plans[0], answered.plans[0]
    assert best.split == same.split
    counts = counted.counts
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "answer_s": answer_s,
        "plans": counts.feasible,
        "space": counts.plans,
        "meshes": counts.meshes,
        "timed": counts.timed,
        "infeasible": counts.infeasible,
        "slower": counts.slower,
        "best_step_s": best.step_s,
    }


def three_kinds() -> dict[str, Any]:
    """A 10T mixture over 100,000 devices of three kinds."""
    task = Task(
        decoder=TEN_TRILLION,
        batch=16384,
        sequence=8192,
        software=level("megatron-bridge"),
        parameters=CONSTANTS,
        precision="bf16",
    )
    fleet = Fleet(
        name="three-kinds",
        pools=tuple(
            Pool(name=name, chip=chip, nodes=nodes, devices_per_node=each) for name, chip, nodes, each in POOLS
        ),
        links=tuple(
            PoolLink(between=(one, other), bandwidth_bytes_per_s=400e9, latency_s=1e-3)
            for one, other in (("h100", "mi300x"), ("h100", "gb200"), ("mi300x", "gb200"))
        ),
    )
    seconds, cpu_s, plans = timed(lambda: fleet_plans(task, fleet))
    ways = sum(
        len(
            pool_entrant(
                name,
                TEN_TRILLION,
                machine=machine(lookup(chip)),
                devices=nodes * each,
                batch=task.batch,
                sequence=task.sequence,
                software=task.software,
                parameters=CONSTANTS,
            ).offers
        )
        for name, chip, nodes, each in POOLS
    )
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "plans": ways,
        "best_step_s": plans[0].step_s,
        "groups": len(plans[0].groups),
    }


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "gpt175b_1024": lambda: single(
        "gpt3-175b",
        "a100-sxm-80",
        devices=1024,
        batch=1536,
        sequence=2048,
        precisions=("bf16",),
        software="megatron-core",
    ),
    "gpt1t_3072": lambda: single(
        "megatron-1t",
        "a100-sxm-80",
        devices=3072,
        batch=3072,
        sequence=2048,
        precisions=("bf16",),
        software="megatron-core",
    ),
    "gpt1t_16384": lambda: single(
        "dense-1t",
        "h100-sxm",
        devices=16384,
        batch=4096,
        sequence=8192,
        precisions=("bf16", "fp8"),
        software="megatron-bridge",
    ),
    "moe1t_16384": lambda: single(
        "kimi-k2",
        "h100-sxm",
        devices=16384,
        batch=4096,
        sequence=8192,
        precisions=("bf16", "fp8"),
        software="megatron-bridge",
        space=Space(),
    ),
    "three_kinds_100k": three_kinds,
}


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock, and of this process alone; the answer."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - begin, time.process_time() - begin_cpu, result


def measure(names: list[str], repeats: int) -> dict[str, Any]:
    cases = {}
    for name in names:
        best = min((CASES[name]() for _ in range(repeats)), key=lambda each: float(each["seconds"]))
        cases[name] = {
            "seconds": best["seconds"],
            "plans": best["plans"],
            "plans_per_s": best["plans"] / best["seconds"],
            **best,
        }
    return {"machine": described_machine(), "command": " ".join(["python", *sys.argv]), "cases": cases, "peers": PEERS}


def described_machine() -> str:
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{processor}, one of {os.cpu_count()} cores, Python {platform.python_version()}"


def table(result: dict[str, Any]) -> str:
    """For people."""
    peers = {peer["case"]: peer for peer in result["peers"]}
    lines = [
        result["machine"],
        f"{'case':18}{'seconds':>9}{'CPU-s':>8}{'answer':>8}{'plans':>11}{'plans/s':>11}  Calculon, measured elsewhere",
    ]
    for name, case in result["cases"].items():
        peer = peers.get(name)
        beside = (
            f"{peer['configurations']:,} at {peer['plans_per_s']:.0f}/s: {peer['seconds_unpruned'] / 3600:.0f} CPU-h"
            if peer
            else "-"
        )
        answer = f"{case['answer_s']:8.2f}" if "answer_s" in case else f"{'-':>8}"
        lines.append(
            f"{name:18}{case['seconds']:9.2f}{case['cpu_s']:8.2f}{answer}"
            f"{case['plans']:11,}{case['plans_per_s']:11,.0f}  {beside}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these; all if none is named")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.case or list(CASES), arguments.repeats)
    print(json.dumps(result, indent=2) if arguments.json else table(result))


if __name__ == "__main__":
    main()
