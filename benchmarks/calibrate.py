"""Writes `src/myriarch/cost/calibrated.py`: constants calibrated on each half of the sources, and on all.

    PYTHONPATH=src python benchmarks/calibrate.py tests/data/published_configs.yaml > src/myriarch/cost/calibrated.py

Deterministic: the same file gives the same bytes. The halves are every other source in the order of the alphabet.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import yaml

from myriarch.cost.parameters import BOUNDS, Parameters
from myriarch.plan.calibration import Table, calibrate
from myriarch.plan.completion import samples
from myriarch.plan.published import read_published

HEAD = '''"""Constants of the performance model as calibrated: written by `benchmarks/calibrate.py`, never by hand.

    PYTHONPATH=src python benchmarks/calibrate.py tests/data/published_configs.yaml > src/myriarch/cost/calibrated.py

`first` and `second` were calibrated on a half of the sources each (every other one, in the order of the alphabet) and
predict the other half when the model is validated; `all` is what plans use. `INTERVALS` holds how far 80 % of
log(measured / predicted) reach when sources are predicted by constants that have not seen them: of a half, over its own
sources, so that an interval is never measured on the runs that it is tested on; of `all`, over both halves.
"""

from __future__ import annotations

from typing import Final

from myriarch.cost.parameters import Parameters
'''


def main(path: str) -> None:
    found = samples(read_published(yaml.safe_load(Path(path).read_text("utf-8"))))
    names = sorted({sample.source for sample in found})
    halves = {"first": tuple(names[0::2]), "second": tuple(names[1::2])}
    sets = {half: [each for each in found if each.source in inside] for half, inside in halves.items()}
    fitted = {half: calibrate(inside) for half, inside in sets.items()}
    fitted["all"] = calibrate(found)
    other = {"first": "second", "second": "first"}
    logs = {}
    for half, unseen in sets.items():
        table = Table.of(unseen)
        logs[half] = np.log(table.measured_s / table.predicted_s(fitted[other[half]]))
    logs["all"] = np.concatenate([logs["first"], logs["second"]])
    print(HEAD)
    print("HALVES: Final[dict[str, tuple[str, ...]]] = {")
    for half, inside in halves.items():
        print(f'    "{half}": ({", ".join(f"{chr(34)}{name}{chr(34)}" for name in inside)}),')
    print("}\n")
    print("CALIBRATED: Final[dict[str, Parameters]] = {")
    for name, parameters in fitted.items():
        print(f'    "{name}": Parameters(')
        for field in dataclasses.fields(Parameters):
            value = getattr(parameters, field.name)
            print(f"        {field.name}={_written(value)},{_at_bound(field.name, value)}")
        print("    ),")
    print("}\n")
    print("INTERVALS: Final[dict[str, tuple[float, float]]] = {")
    for name, values in logs.items():
        reach = np.quantile(np.abs(values), 0.8)
        print(f'    "{name}": ({-reach:.4f}, {reach:.4f}),')
    print("}")


def _written(value: float) -> str:
    text = f"{value:.4g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _at_bound(name: str, value: float) -> str:
    low, high = BOUNDS[name]
    return "  # at its bound" if min(value - low, high - value) < 1e-3 * (high - low) else ""


if __name__ == "__main__":
    main(sys.argv[1])
