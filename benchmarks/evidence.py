"""Writes `src/myriarch/cost/data/evidence.csv`: the published runs that predictions are graded by.

    PYTHONPATH=src python benchmarks/evidence.py tests/data/published_configs.yaml > src/myriarch/cost/data/evidence.csv

Runs after `benchmarks/calibrate.py`, whose constants the errors are those of. Deterministic.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import yaml

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.evidence import Run, described
from myriarch.plan.calibration import Table
from myriarch.plan.completion import completed, sample
from myriarch.plan.published import PublishedRun, read_published
from myriarch.plan.validation import unseen_constants

HEAD = """\
# Published, measured runs: what the evidence for a prediction rests on. Written by benchmarks/evidence.py.
# Facts out of the sources that tests/data/published_configs.yaml names; `error` is predicted / measured - 1 by
# constants that had not seen the run's source.
"""


def main(path: str) -> None:
    runs = [completed(run) for run in read_published(yaml.safe_load(Path(path).read_text("utf-8")))]
    sys.stdout.write(HEAD)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = Run.__struct_fields__
    writer.writerow(names)
    for run in runs:
        known = run.split is not None and run.split_known and run.batch_known
        if run.measured_step_s and known and not run.pipelines:
            row = _row(run)
            writer.writerow([_written(getattr(row, name)) for name in names])


def _row(run: PublishedRun) -> Run:
    assert run.decoder is not None
    assert run.split is not None
    assert run.chip is not None
    one = sample(run)
    predicted = float(Table.of([one]).predicted_s(CALIBRATED[unseen_constants(run.source)])[0])
    shape = described(run.decoder, chip=run.chip.id, split=run.split)
    values = {name: getattr(shape, name) for name in Run.__struct_fields__}
    own = {"id": run.id, "source": run.source, "measured_s": one.measured_s, "error": predicted / one.measured_s - 1.0}
    return Run(**{**values, **own})


def _written(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main(sys.argv[1])
