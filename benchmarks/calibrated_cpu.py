"""Calibrates this CPU, predicts a training step on it from the profile, and times the step.

    OMP_NUM_THREADS=1 python benchmarks/calibrated_cpu.py [--profile FILE] [--seconds 40] [--steps 6] [--json]

The models are the reference trainer's decoder with its AdamW, in fp32. Nothing of the prediction was taken from a timed
step: rates come from the profile, what the trainer does to memory is counted from its source below. With one thread
steps are timed in CPU time, as the calibration is, so that a busy neighbour costs neither.

stdout is a table, or JSON: {"machine", "date", "shape_error", "models": [{"name", "parameters", "tokens",
"measured_s", "measured_p10_s", "measured_p90_s", "predicted_s", "ratio", "parts": {kind: seconds}}]}
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder as Shape
from myriarch.cost.profiled import COPY_SHARE, machine_from, streaming
from myriarch.cost.software import level
from myriarch.cost.split import Split
from myriarch.cost.step import OPTIMIZER_BYTES, step_time
from myriarch.spec.model import Model
from myriarch.spec.profile import Profile, parse_profile
from myriarch.spec.run import Optimizer
from myriarch.train.model import Decoder, loss_sum_of
from myriarch.train.optimizer import AdamW

MODELS = {
    "12m": (Model(name="m12", layers=6, width=384, heads=6, vocabulary=4096, context_tokens=256), 2),
    "26m": (Model(name="m26", layers=8, width=512, heads=8, vocabulary=256, context_tokens=256), 2),
    "46m": (Model(name="m46", layers=6, width=768, heads=12, vocabulary=4096, context_tokens=512), 1),
}
"""Model, sequences of a step."""
ADAMW_BYTES = 4.0 * (2 + 2 + 2 + 3 + 2 + 2 + 2 + 3 + 2 + 2 + 2 + 3 + 2 + 3)
"""Moved per parameter by `train.optimizer.AdamW.update`: its fourteen operations, each reading one or two fp32 tensors
and writing one."""


def calibrate(seconds: float) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        verb = ["doctor", "--calibrate", "--seconds", str(seconds), "--output", str(path)]
        subprocess.run([sys.executable, "-m", "myriarch.cli", *verb], check=True, stdout=subprocess.DEVNULL)
        return parse_profile(path.read_text("utf-8"), format="json", source=str(path))


def predict(profile: Profile, model: Model, sequences: int) -> tuple[dict[str, float], float | None]:
    """Seconds of one step by kind, and how far the profile's products are beside the model's shapes."""
    tokens = sequences * model.context_tokens
    found = machine_from(profile, precision="fp32", array_bytes=4.0 * tokens * model.width)
    # Values of four bytes where the formulas have two: memory is half as fast to them.
    machine = dataclasses.replace(
        found.machine, memory_bandwidth_bytes_per_s=found.machine.memory_bandwidth_bytes_per_s / 2.0
    )
    # The optimizer's bytes are counted in full; it works in place, on tensors as large as the weights.
    weight_bytes = 4.0 * model.width * model.feed_forward_resolved
    in_place = streaming(profile.memory, array_bytes=weight_bytes, in_place=True)
    assert in_place is not None
    slower = np.multiply(machine.memory_bandwidth_bytes_per_s, COPY_SHARE) / in_place[0]
    passes = float(ADAMW_BYTES / OPTIMIZER_BYTES * slower)
    parameters = dataclasses.replace(CALIBRATED["all"], optimizer_passes=passes, step_s=0.0)
    # A CPU launches in line with its work: `kernel_s` has it.
    software = dataclasses.replace(level("fsdp-2023"), host_seconds=0.0)
    split = Split(batch=sequences, sequence=model.context_tokens, micro_batch=sequences, tp=1, pp=1, dp=1)
    step = step_time(Shape.of(model), machine=machine, split=split, software=software, parameters=parameters)
    return {field.name: float(getattr(step, field.name)) for field in dataclasses.fields(step)}, found.shape_error


class Training:
    """Steps of the reference decoder on random tokens."""

    def __init__(self, model: Model, sequences: int) -> None:
        torch.manual_seed(0)
        self._decoder = Decoder(model)
        self._decoder.fill_tables()
        self._shape = (sequences, model.context_tokens + 1)
        self._vocabulary = model.vocabulary
        weights = [parameter.detach() for parameter in self._decoder.parameters()]
        moments = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
        self._optimizer = AdamW(weights, *moments, spec=Optimizer())
        self._count = 0

    def step(self) -> None:
        windows = torch.randint(self._vocabulary, self._shape)
        (loss_sum_of(self._decoder(windows[:, :-1]), windows[:, 1:]) / windows[:, 1:].numel()).backward()
        gradients = [parameter.grad for parameter in self._decoder.parameters() if parameter.grad is not None]
        self._optimizer.update(gradients, step=self._count, learning_rate=1e-4)
        for parameter in self._decoder.parameters():
            parameter.grad = None
        self._count += 1


def timed(training: Training, steps: int, clock: Callable[[], float]) -> list[float]:
    training.step()
    seconds = []
    for _ in range(steps):
        start = clock()
        training.step()
        seconds.append(clock() - start)
    return sorted(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", help="take this one instead of calibrating")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    profile = (
        parse_profile(Path(options.profile).read_text("utf-8"), source=options.profile)
        if options.profile
        else calibrate(options.seconds)
    )
    rows: list[dict[str, Any]] = []
    shape_error: float | None = None
    for name, (model, sequences) in MODELS.items():
        parts, shape_error = predict(profile, model, sequences)
        seconds = timed(Training(model, sequences), options.steps, clock)
        measured, predicted = statistics.median(seconds), sum(parts.values())
        rows.append(
            {
                "name": name,
                "parameters": model.parameters,
                "tokens": sequences * model.context_tokens,
                "measured_s": measured,
                "measured_p10_s": seconds[round(0.1 * (len(seconds) - 1))],
                "measured_p90_s": seconds[round(0.9 * (len(seconds) - 1))],
                "predicted_s": predicted,
                "ratio": predicted / measured,
                "parts": {kind: part for kind, part in parts.items() if part},
            }
        )
    result = {"machine": profile.device.name, "date": profile.date, "shape_error": shape_error, "models": rows}
    print(json.dumps(result, indent=1) if options.json else "\n".join(map(line, rows)))


def line(row: dict[str, Any]) -> str:
    parts = ", ".join(f"{kind.removesuffix('_s')} {1e3 * part:.0f}" for kind, part in row["parts"].items())
    spread = f"{1e3 * row['measured_p10_s']:.0f} to {1e3 * row['measured_p90_s']:.0f}"
    measured = f"measured {1e3 * row['measured_s']:.0f} ms ({spread})"
    return f"{row['name']}: {measured}, predicted {1e3 * row['predicted_s']:.0f} ms: {row['ratio']:.2f}\n  {parts}"


if __name__ == "__main__":
    main()
