"""Step times and learning of Sia's applications, fitted to the profiles of its artefact.

    git clone https://github.com/siasosp23/artifacts
    python benchmarks/fit_sia.py artifacts/sia-simulator > src/myriarch/simulate/data/sia_profiles.yaml

Reads, of five applications on three kinds of GPU, `placements-*.csv` and `scalability-*.csv` (seconds of a step and of
its synchronisation by local batch and placement) and `validation-*.csv` (progress and gradient noise by batch and
epoch); writes the parameters of `schedule.goodput` with the error of each fit. Only placements with equally used nodes
of the size that the simulated cluster has are fitted: those that a packed gang gets.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar

Floats = NDArray[np.float64]

COMMIT: Final = "aaf7a0de7b6cb5eab06ea020467ede5d2fd18e70"
KINDS: Final[dict[str, dict[str, Any]]] = {
    "t4": {"profile": "aws", "nodes": 6, "devices_per_node": 4},
    "rtx2080ti": {"profile": "rtx", "nodes": 3, "devices_per_node": 8},
    "a100": {"profile": "dgx-ext", "nodes": 2, "devices_per_node": 8},
}
"""The cluster of Sia's Table 3: `simulator_config.py`."""
APPLICATIONS: Final = {
    "bert": {"restart_s": 120.0, "slowdown": 1.2},
    "cifar10": {"restart_s": 50.0, "slowdown": 1.8},
    "deepspeech2": {"restart_s": 25.0, "slowdown": 1.2},
    "imagenet": {"restart_s": 250.0, "slowdown": 1.2},
    "yolov3": {"restart_s": 80.0, "slowdown": 1.2},
}
"""`rescale_time` of `applications.py`; `SLOWDOWNS` of `simulator_config.py`: what real runs took over the profile."""
DEEPSPEECH2_RTX_MOST: Final = 57
"""An exception that `applications.py` makes."""
NAMES: Final = ("alpha_grad_s", "beta_grad_s", "alpha_local_s", "beta_local_s", "alpha_node_s", "beta_node_s", "gamma")


class Sample(NamedTuple):
    """A measured step."""

    nodes: int
    devices: int
    samples: float
    step_s: float
    grad_s: float


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def samples(folder: Path, profile: str, *, nodes: int, devices_per_node: int) -> Iterator[Sample]:
    """Steps on equally used nodes."""
    for row in rows(folder / f"placements-{profile}.csv"):
        used = [int(digit) for digit in row["placement"]]
        if len(set(used)) == 1 and len(used) <= nodes and used[0] <= devices_per_node:
            yield sample(row, nodes=len(used), devices=sum(used))
    for row in rows(folder / f"scalability-{profile}.csv"):
        many, devices = int(float(row["num_nodes"])), int(float(row["num_replicas"]))
        if devices % many == 0 and many <= nodes and devices <= many * devices_per_node:
            yield sample(row, nodes=many, devices=devices)


def sample(row: dict[str, str], *, nodes: int, devices: int) -> Sample:
    step_s, sync_s = float(row["step_time"]), float(row["sync_time"])
    return Sample(nodes, devices, float(row["local_bsz"]), step_s, max(step_s - sync_s, 1e-6))


def predicted(parameters: Sequence[float], table: Floats) -> tuple[Floats, Floats]:
    """Logarithms of the micro-step and of the step: the formulas of `schedule.goodput`, on arrays."""
    a, b, la, lb, na, nb, gamma = parameters
    nodes, devices, size = table[:, 0], table[:, 1], table[:, 2]
    grad = a + b * size
    past = np.maximum(devices - 2, 0.0)
    sync = np.where(devices == 1, 1e-12, np.where(nodes == 1, la + lb * past, na + nb * past)) + 1e-12
    longer, shorter = np.maximum(grad, sync), np.minimum(grad, sync)
    both = np.log(longer) + np.log1p((shorter / longer) ** gamma) / gamma
    return np.log(grad), both


def fitted(found: Sequence[Sample]) -> tuple[list[float], float]:
    """Parameters, and the root mean square of the logarithmic error of whole steps."""
    table = np.array(found, dtype=np.float64)

    def errors(parameters: Floats) -> Floats:
        values = [*np.exp(parameters[:-1]), 1.0 + 9.0 / (1.0 + math.exp(-parameters[-1]))]
        grad, step = predicted(values, table)
        return np.concatenate((grad - np.log(table[:, 4]), step - np.log(table[:, 3])))

    best = min(
        (
            least_squares(errors, np.array([*np.log([0.05, 0.002, 0.05, 0.005, 0.1, 0.005]), start]), loss="soft_l1")
            for start in (-2.0, 0.0, 2.0)
        ),
        key=lambda result: float(result.cost),
    )
    values = [*np.exp(best.x[:-1]).tolist(), 1.0 + 9.0 / (1.0 + math.exp(-best.x[-1]))]
    step = predicted(values, table)[1]
    return values, float(np.sqrt(np.mean((step - np.log(table[:, 3])) ** 2)))


def learning(folder: Path) -> dict[str, Any]:
    """Iterations at the smallest batch until the end, and the noise scale that explains those at larger ones.

    With batch M, progress p needs the sum of dp / gain(M, p) iterations; a constant noise scale phi makes a gain of
    s (phi + M0) / (phi + s M0) with s = M / M0. phi is fitted to the whole training at each validated batch, since it
    is whole trainings whose length matters.
    """
    runs = {int(path.stem.split("-")[1]): rows(path) for path in folder.glob("validation-*.csv")}
    least = min(runs)
    epochs = min(len(run) for run in runs.values())
    ends = np.array([min(float(run[epoch]["progress"]) for run in runs.values()) for epoch in range(epochs)])
    parts = np.diff(ends, prepend=0.0)
    batches = np.array(sorted(runs), dtype=np.float64)
    needed = []
    for batch in sorted(runs):
        square = np.array([float(row["grad_sqr"]) for row in runs[batch][:epochs]])
        variance = np.array([float(row["grad_var"]) for row in runs[batch][:epochs]])
        gain = (variance + square) / (variance * least / batch + square)
        needed.append(float((parts / gain).sum()))
    logs = np.log(np.array(needed) / needed[0])

    def error(log_phi: float) -> float:
        phi = math.exp(log_phi)
        return float(np.sum((np.log((phi + batches) * least / (batches * (phi + least))) - logs) ** 2))

    found = minimize_scalar(error, bounds=(math.log(least / 100), math.log(least * 1e4)), method="bounded")
    return {
        "batch": least,
        "batch_most": max(runs),
        "iterations": round(float(ends[-1]), 1),
        "noise_scale": significant(math.exp(found.x)),
        "noise_scale_error": significant(math.sqrt(found.fun / len(runs))),
    }


def significant(value: float) -> float:
    return float(f"{value:.4g}")


def application(folder: Path, name: str) -> dict[str, Any]:
    about: dict[str, Any] = {**learning(folder), **APPLICATIONS[name], "steps": {}}
    for kind, cluster in KINDS.items():
        found = list(
            samples(folder, cluster["profile"], nodes=cluster["nodes"], devices_per_node=cluster["devices_per_node"])
        )
        values, error = fitted(found)
        sizes = [float(row["local_bsz"]) for row in rows(folder / f"placements-{cluster['profile']}.csv")]
        most = DEEPSPEECH2_RTX_MOST if (name, kind) == ("deepspeech2", "rtx2080ti") else max(sizes)
        about["steps"][kind] = {
            **{key: significant(value) for key, value in zip(NAMES, values, strict=True)},
            "samples_least": min(sizes),
            "samples_most": float(most),
            "measured": len(found),
            "error": significant(error),
        }
    return about


def main() -> None:
    folder = Path(sys.argv[1])
    profiles = {
        "source": f"siasosp23/artifacts, commit {COMMIT}, sia-simulator/traces; fitted by benchmarks/fit_sia.py",
        "licence": "Apache-2.0, of AdaptDL, which the artefact is built on",
        "kinds": KINDS,
        "applications": {name: application(folder / "traces" / name, name) for name in APPLICATIONS},
    }
    print("# Jayaram Subramanya et al., Sia, SOSP 2023. Seconds; samples; errors are root mean squares of logarithms.")
    print(yaml.safe_dump(profiles, sort_keys=False, width=120), end="")


if __name__ == "__main__":
    main()
