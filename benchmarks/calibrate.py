"""Writes `src/myriarch/cost/calibrated.py`: constants calibrated on each half of the sources, and on all.

    PYTHONPATH=src python benchmarks/calibrate.py tests/data/published_configs.yaml > src/myriarch/cost/calibrated.py

Deterministic: the same file gives the same bytes. The halves are every other source in the order of the alphabet.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import yaml

from myriarch.cost.parameters import BOUNDS, Parameters
from myriarch.cost.uncertainty import Widths
from myriarch.plan.calibration import Table, calibrate, calibrate_widths
from myriarch.plan.completion import samples
from myriarch.plan.published import read_published

HEAD = '''"""Constants of the performance model as calibrated: written by `benchmarks/calibrate.py`, never by hand.

    PYTHONPATH=src python benchmarks/calibrate.py tests/data/published_configs.yaml > src/myriarch/cost/calibrated.py

`first` and `second` were calibrated on a half of the sources each (every other one, in the order of the alphabet) and
predict the other half when the model is validated; `all` is what plans use. `WIDTHS` are those of the 80 % intervals,
from sources that are predicted by constants that have not seen them: of a half, over its own sources, so that an
interval is never measured on the runs that it is tested on; of `all`, over both halves.
"""

from __future__ import annotations

from typing import Final

from myriarch.cost.parameters import Parameters
from myriarch.cost.uncertainty import Widths
'''


def main(path: str) -> None:
    found = samples(read_published(yaml.safe_load(Path(path).read_text("utf-8"))))
    names = sorted({sample.source for sample in found})
    halves = {"first": tuple(names[0::2]), "second": tuple(names[1::2])}
    sets = {half: [each for each in found if each.source in inside] for half, inside in halves.items()}
    fitted = {half: calibrate(inside) for half, inside in sets.items()}
    fitted["all"] = calibrate(found)
    other = {"first": "second", "second": "first"}
    constants = {half: [fitted[other[half]]] * len(unseen) for half, unseen in sets.items()}
    sets["all"], constants["all"] = sets["first"] + sets["second"], constants["first"] + constants["second"]
    widths = {name: calibrate_widths(Table.of(each), constants[name]) for name, each in sets.items()}
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
    print("WIDTHS: Final[dict[str, Widths]] = {")
    for name, each in widths.items():
        fields = ", ".join(
            f"{field.name}={_written(getattr(each, field.name))}" for field in dataclasses.fields(Widths)
        )
        print(f'    "{name}": Widths({fields}),')
    print("}")


def _written(value: float) -> str:
    text = f"{value:.4g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _at_bound(name: str, value: float) -> str:
    low, high = BOUNDS[name]
    return "  # at its bound" if min(value - low, high - value) < 1e-3 * (high - low) else ""


if __name__ == "__main__":
    main(sys.argv[1])
